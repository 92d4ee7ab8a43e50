//! No circles: no two files of `src` import each other, directly or through others, and no two siblings in a folder.
//!
//! An import counts where it leads to: a path through a `mod.rs` that re-exports leads to the file that defines the
//! item. A module that only declares and re-exports is no party to a circle; neither are tests.

use crate::modules::{Modules, Target};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

/// One finding per knot of files or siblings, with its shortest circle.
pub fn check(modules: &Modules<'_>) -> Vec<String> {
    let imports = imports(modules);
    let mut findings = Vec::new();
    let files = imports.iter().map(|(edge, line)| (edge.clone(), format!("{}:{line}", edge.0))).collect();
    for knot in knots(&files) {
        findings.push(report("files", &knot, &files));
    }
    let folders: BTreeSet<&str> = modules.files.iter().flat_map(|file| folders_of(file.path)).collect();
    for &folder in &folders {
        let siblings = siblings(folder, &folders, &imports);
        for knot in knots(&siblings).iter().filter(|knot| knot.iter().any(|node| node.ends_with('/'))) {
            findings.push(report("parts", knot, &siblings));
        }
    }
    findings
}

type Graph = BTreeMap<(String, String), String>;

/// (importing file, defining file) → the first line on which that is so.
fn imports(modules: &Modules<'_>) -> BTreeMap<(String, String), usize> {
    let mut found = BTreeMap::new();
    for (index, file) in modules.files.iter().enumerate().filter(|(_, file)| file.has_code) {
        for named in file.rust.paths.iter().filter(|named| !named.in_test) {
            if let Some(Target::Item(target)) = modules.resolve(index, named)
                && target != index
            {
                let edge = (file.path.to_owned(), modules.files[target].path.to_owned());
                found.entry(edge).or_insert(named.line);
            }
        }
    }
    found
}

/// `src/io/http/serve.rs` → `src`, `src/io`, `src/io/http`.
fn folders_of(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(end, _)| &path[..end])
}

/// Imports between the children of a folder.
fn siblings(folder: &str, folders: &BTreeSet<&str>, imports: &BTreeMap<(String, String), usize>) -> Graph {
    let mut graph = Graph::new();
    for ((from, to), line) in imports {
        if let (Some(here), Some(there)) = (child_of(folder, folders, from), child_of(folder, folders, to))
            && here != there
        {
            graph.entry((here, there)).or_insert(format!("{from}:{line}"));
        }
    }
    graph
}

/// The child of `folder` that `path` belongs to: a file, or a subfolder together with the file of its name. The
/// folder's own file, `folder.rs` or `mod.rs`, is a child like the others.
fn child_of(folder: &str, folders: &BTreeSet<&str>, path: &str) -> Option<String> {
    if path.strip_suffix(".rs") == Some(folder) {
        return Some(path.into());
    }
    let below = path.strip_prefix(folder)?.strip_prefix('/')?;
    let stem = below.split(['/', '.']).next().unwrap_or(below);
    let subfolder = format!("{folder}/{stem}");
    Some(if folders.contains(&*subfolder) { subfolder + "/" } else { path.into() })
}

/// Strongly connected components of more than one node.
fn knots(graph: &Graph) -> Vec<BTreeSet<String>> {
    let mut next: HashMap<&str, Vec<&str>> = HashMap::new();
    for (from, to) in graph.keys() {
        next.entry(from).or_default().push(to);
    }
    let nodes: BTreeSet<&str> = next.keys().copied().collect();
    let reach: HashMap<&str, BTreeSet<&str>> = nodes.iter().map(|node| (*node, reachable(node, &next))).collect();
    let mut found: Vec<BTreeSet<String>> = Vec::new();
    for node in nodes.iter().filter(|node| reach[*node].contains(*node)) {
        if !found.iter().any(|knot| knot.contains(*node)) {
            let mutual = |other: &&&str| reach.get(*other).is_some_and(|back| back.contains(node));
            found.push(reach[node].iter().filter(mutual).map(|other| other.to_string()).collect());
        }
    }
    found
}

fn reachable<'g>(from: &str, next: &HashMap<&'g str, Vec<&'g str>>) -> BTreeSet<&'g str> {
    let mut seen = BTreeSet::new();
    let mut open: Vec<&str> = next.get(from).into_iter().flatten().copied().collect();
    while let Some(node) = open.pop() {
        if let Some((node, _)) = next.get_key_value(node)
            && seen.insert(*node)
        {
            open.extend(&next[node]);
        }
    }
    seen
}

/// The shortest circle in a knot, from `start` back to it.
fn circle<'g>(start: &'g str, knot: &BTreeSet<String>, graph: &'g Graph) -> Option<Vec<&'g str>> {
    let mut came_from: HashMap<&str, &str> = HashMap::new();
    let mut open = VecDeque::from([start]);
    while let Some(node) = open.pop_front() {
        for (from, to) in graph.keys().filter(|(from, to)| from == node && knot.contains(to)) {
            if to == start {
                let mut path = vec![to.as_str()];
                let mut back = from.as_str();
                while back != start {
                    path.push(back);
                    back = came_from[back];
                }
                path.push(start);
                path.reverse();
                return Some(path);
            }
            if !came_from.contains_key(to.as_str()) {
                came_from.insert(to, from);
                open.push_back(to);
            }
        }
    }
    None
}

fn report(kind: &str, knot: &BTreeSet<String>, graph: &Graph) -> String {
    let starts = graph.keys().map(|(from, _)| from).filter(|from| knot.contains(*from));
    let shortest = starts.filter_map(|start| circle(start, knot, graph)).min_by_key(Vec::len).expect("a knot has one");
    let places: Vec<&str> =
        shortest.windows(2).map(|pair| &*graph[&(pair[0].to_owned(), pair[1].to_owned())]).collect();
    format!(
        "{}: a circle of imports: {} ({}); {} {kind} hang together; put what both need below both",
        places[0],
        shortest.join(" -> "),
        places.join(", "),
        knot.len(),
    )
}

#[cfg(test)]
mod tests {
    use super::check;
    use crate::File;
    use crate::modules::Modules;

    /// Each text, under a proper header.
    fn findings(files: &[(&str, &str)]) -> Vec<String> {
        let planted = |(path, text): &(&str, &str)| File::new(path, format!("//! Planted.\n{text}\n"));
        let files: Vec<File> = files.iter().map(planted).collect();
        check(&Modules::read(&files))
    }

    #[track_caller]
    fn caught(files: &[(&str, &str)], expected: &str) {
        let found = findings(files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains(expected), "{found:?}");
    }

    #[test]
    fn two_files_that_import_each_other_are_caught() {
        let b = ("src/io/b.rs", "use crate::io::a::{self, A};\npub struct B;");
        caught(&[("src/io/a.rs", "pub struct A;\nuse super::b::B;"), b], "src/io/a.rs -> src/io/b.rs -> src/io/a.rs");
        caught(&[("src/io/a.rs", "pub struct A;\nfn f() -> crate::io::b::B {}"), b], "src/io/a.rs:3, src/io/b.rs:2");
        caught(&[("src/io/a.rs", "pub struct A;\nuse super::b;\nfn f() { b::B::new() }"), b], "src/io/a.rs:4");
        caught(&[("src/io/a.rs", "pub struct A;\nmod deep { use super::super::b::B; }"), b], "src/io/a.rs:3");
        caught(&[("src/io/a.rs", "pub struct A;\nuse super::b::*;\nfn f(b: B) {}"), b], "src/io/a.rs:4");
    }

    #[test]
    fn a_longer_circle_is_named_by_its_shortest_way_round() {
        let files = [
            ("src/io/a.rs", "use super::b::B;\npub struct A;"),
            ("src/io/b.rs", "use super::c::C;\npub struct B;"),
            ("src/io/c.rs", "use super::{a::A, d::D};\npub struct C;"),
            ("src/io/d.rs", "use super::e::E;\npub struct D;"),
            ("src/io/e.rs", "use super::a::A;\npub struct E;"),
        ];
        caught(&files, "src/io/a.rs -> src/io/b.rs -> src/io/c.rs -> src/io/a.rs");
        caught(&files, "5 files hang together");
    }

    #[test]
    fn a_re_export_leads_to_the_file_that_defines_the_item() {
        let module = ("src/io/mod.rs", "pub mod a;\npub mod b;\npub use a::{A as First};\npub use b::*;");
        let a = ("src/io/a.rs", "use crate::io::B;\npub struct A;");
        caught(&[module, a, ("src/io/b.rs", "use super::First;\npub struct B;")], "src/io/a.rs -> src/io/b.rs");
        // Declaring and re-exporting is no party: b is used by a, and both by mod.rs.
        assert_eq!(findings(&[module, a, ("src/io/b.rs", "pub struct B;")]), [""; 0]);
        let outside = ("src/server.rs", "use crate::io::{self, First};\npub struct Server;");
        assert_eq!(findings(&[module, a, ("src/io/b.rs", "pub struct B;"), outside]), [""; 0]);
    }

    #[test]
    fn a_module_with_code_of_its_own_is_a_party() {
        let module = ("src/io/mod.rs", "mod a;\nuse a::A;\npub struct Io(A);");
        caught(&[module, ("src/io/a.rs", "use super::Io;\npub struct A;")], "src/io/a.rs -> src/io/mod.rs");
        assert_eq!(findings(&[module, ("src/io/a.rs", "pub struct A;")]), [""; 0]);
    }

    #[test]
    fn folders_that_import_each_other_are_caught() {
        let files = [
            ("src/shard/call/a.rs", "use crate::shard::session::b::B;\npub struct A;"),
            ("src/shard/session/b.rs", "pub struct B;"),
            ("src/shard/session/c.rs", "use super::super::call::d::D;\npub struct C;"),
            ("src/shard/call/d.rs", "pub struct D;"),
        ];
        caught(&files, "src/shard/call/ -> src/shard/session/ -> src/shard/call/");
        assert_eq!(findings(&files[..2]), [""; 0]);
        // A file and the folder of its name are one child of their folder.
        let kind = [
            ("src/config/kind.rs", "pub struct Kind;\nuse super::keys::Key;"),
            ("src/config/kind/text.rs", "pub struct Text;"),
            ("src/config/keys.rs", "use super::kind::text::Text;\npub struct Key;"),
        ];
        caught(&kind, "src/config/keys.rs -> src/config/kind/ -> src/config/keys.rs");
    }

    #[test]
    fn tests_and_names_that_are_alike_make_no_circle() {
        let b = ("src/io/b.rs", "use super::a::A;\npub struct B;");
        let clean = |a: &str| assert_eq!(findings(&[("src/io/a.rs", a), b]), [""; 0], "{a}");
        clean("pub struct A;\n#[cfg(test)]\nuse super::b::B;");
        clean("pub struct A;\n#[cfg(test)]\nmod tests {\n    use super::super::b::B;\n}");
        clean("pub struct A;\n#[cfg(test)]\nfn f(b: super::b::B) {}");
        clean("pub struct A;\nfn f(b: u8) { b.x(); std::b::B::new(); }");
        clean("pub struct A;\npub struct B;\nfn f(b: B) {}");
        clean("pub struct A;\n// use super::b::B;\nconst TEXT: &str = \"super::b::B\";");
        assert_eq!(
            findings(&[("src/io/a.rs", "pub struct A;"), b, ("src/io/a/tests.rs", "use crate::io::b::B;")]),
            [""; 0]
        );
        let declared = ("src/io/a.rs", "#[cfg(test)]\nmod model;\npub struct A;");
        assert_eq!(findings(&[declared, b, ("src/io/a/model.rs", "use crate::io::b::B;")]), [""; 0]);
    }

    #[test]
    fn the_binary_is_a_crate_of_its_own() {
        let main =
            ("src/main.rs", "use rainbow::server::run;\nmod x {}\nfn main() { crate::server() }\nfn server() {}");
        assert_eq!(
            findings(&[main, ("src/server.rs", "pub fn run() {}\nfn main() {}"), ("src/lib.rs", "mod server;")]),
            [""; 0]
        );
    }
}
