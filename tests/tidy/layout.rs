//! Where a file may lie: the folders of `src` as DESIGN.md has them, and few enough files in each to be taken in at once.

use crate::File;
use std::collections::{BTreeMap, BTreeSet};

pub fn check(files: &[File]) -> Vec<String> {
    let mut by_folder: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let mut findings = Vec::new();
    for file in files.iter().filter(|file| file.path.starts_with("src/") && file.rust.is_some()) {
        let (folder, name) = file.path.rsplit_once('/').expect("below src");
        if is_test(&file.path) {
            continue;
        }
        if name != "mod.rs" {
            by_folder.entry(folder).or_default().insert(name);
        }
        if folder == "src" && !ROOT_FILES.contains(&name) {
            findings.push(format!("{}:1: only {} lie beside the folders of src", file.path, ROOT_FILES.join(", ")));
        }
        findings.extend(check_folder(&file.path, folder));
    }
    for (folder, names) in by_folder.iter().filter(|(_, names)| names.len() > FILES_MAX) {
        let count = names.len();
        findings.push(format!(
            "{folder}/: {count} files, over {FILES_MAX}; a second idea is hiding in it, give it a folder"
        ));
    }
    findings.dedup();
    findings
}

fn is_test(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

/// Each folder on the way is one that its parent may have.
fn check_folder(path: &str, folder: &str) -> Option<String> {
    let ends = folder.match_indices('/').map(|(end, _)| end).chain([folder.len()]);
    for (parent, child) in ends.filter_map(|end| folder[..end].rsplit_once('/')) {
        let allowed = FOLDERS.iter().find(|(of, _)| *of == parent);
        if let Some((_, allowed)) = allowed.filter(|(_, allowed)| !allowed.contains(&child)) {
            let allowed = allowed.join(", ");
            return Some(format!(
                "{path}:1: {parent} has no room `{child}`; it has {allowed} (tests/tidy/layout.rs, DESIGN.md)"
            ));
        }
    }
    None
}

/// Files of one folder; its `mod.rs` and tests do not count.
const FILES_MAX: usize = 12;
const ROOT_FILES: &[&str] = &["lib.rs", "main.rs", "server.rs", "worker.rs"];

/// The folders that a folder may have; one that is not named here may have any.
const FOLDERS: &[(&str, &[&str])] = &[
    (
        "src",
        &["audit", "base", "cluster", "command", "config", "demo", "io", "metrics", "policy", "shard", "store", "wire"],
    ),
    ("src/wire", &["http1", "peer", "tls", "ws"]),
    // `fanout` delivers to connections and to sessions, so it stands above both, and not in `channel`.
    ("src/shard", &["call", "channel", "command", "connection", "fanout", "session"]),
    // `hooks`: what the business server is called for, above `backend`, which only carries requests.
    // `worker`: the turn and the parts that it joins, and what workers share; `client`, `http` and `api` build on it.
    // `spans`: what is done for a trace; each room that calls or is called records there.
    // `service`: what a worker's ring serves, above all the others: it starts the tasks, which use every room.
    (
        "src/io",
        &[
            "api", "backend", "client", "cluster", "handover", "hooks", "http", "log", "runtime", "service", "spans",
            "store", "worker",
        ],
    ),
];

#[cfg(test)]
mod tests {
    use super::check;
    use crate::File;

    fn findings(paths: &[&str]) -> Vec<String> {
        let files: Vec<File> = paths.iter().map(|path| File::new(path, "//! Planted.\n".into())).collect();
        check(&files)
    }

    #[test]
    fn a_folder_or_file_out_of_place_is_caught() {
        assert!(findings(&["src/attic/a.rs"])[0].starts_with("src/attic/a.rs:1: src has no room `attic`"));
        assert!(findings(&["src/io/calls/a.rs"])[0].contains("src/io has no room `calls`"));
        assert!(findings(&["src/shard/uplink/deep/a.rs"])[0].contains("src/shard has no room `uplink`"));
        assert!(findings(&["src/tasks.rs"])[0].starts_with("src/tasks.rs:1: only lib.rs"));
        let fine = ["src/io/http/serve.rs", "src/shard/arena/tests.rs", "src/config/kind/text.rs", "src/worker.rs"];
        assert_eq!(findings(&fine), [""; 0]);
    }

    #[test]
    fn a_crowded_folder_is_caught() {
        let names: Vec<String> = (0..13).map(|n| format!("src/io/http/f{n}.rs")).collect();
        let mut paths: Vec<&str> = names.iter().map(String::as_str).collect();
        assert!(findings(&paths)[0].starts_with("src/io/http/: 13 files, over 12"));
        paths[12] = "src/io/http/mod.rs";
        paths.extend(["src/io/http/tests.rs", "src/io/http/tests/a.rs", "src/io/http/deep/a.rs"]);
        assert_eq!(findings(&paths), [""; 0]);
    }
}
