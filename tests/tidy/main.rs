//! The house rules as a test: who may import whom, where `unsafe` and the clock may stand, how a file begins and ends.
//!
//! It reads the tree as text and knows only as much Rust as it needs: comments and strings are set apart, the rest is
//! cut into tokens, and every path (`use` groups unfolded) is compared with the tables at the end of this file. A
//! finding names file and line and says what to do. Each rule has a planted violation below: a checker that catches
//! nothing proves nothing.

mod circles;
mod documents;
mod form;
mod imports;
mod layout;
mod length;
mod modules;
mod ownership;
mod source;
mod traps;
mod vocabulary;

use modules::Modules;
use source::Rust;
use std::fs;
use std::path::Path;

#[test]
fn the_house_is_tidy() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for top in ["src", "bench", "perf", "tests", "clients", ".ci"] {
        collect(root, &root.join(top), &mut files);
    }
    for entry in fs::read_dir(root).expect("the repository's root is readable").flatten() {
        if entry.path().is_file() {
            read(root, &entry.path(), &mut files);
        }
    }
    assert!(files.iter().any(|file| file.path == "src/lib.rs"), "src/lib.rs was not found below {}", root.display());
    let findings: Vec<String> = check_tree(&files);
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

/// Every rule.
fn check_tree(files: &[File]) -> Vec<String> {
    let each = |rule: fn(&File) -> Vec<String>| files.iter().flat_map(rule).collect::<Vec<String>>();
    let modules = Modules::read(files);
    let mut findings = each(check);
    findings.extend(each(form::check_columns));
    findings.extend(each(documents::check));
    findings.extend(each(vocabulary::check));
    findings.extend(each(length::check));
    findings.extend(layout::check(files));
    findings.extend(circles::check(&modules));
    findings.extend(ownership::check_impls(&modules));
    findings.extend(ownership::check_twins(&modules));
    findings.extend(ownership::check_fields(&modules));
    findings.extend(traps::check(files));
    findings
}

struct File {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
    /// Of a file that ends in `.rs`.
    rust: Option<Rust>,
}

impl File {
    fn new(path: &str, text: String) -> File {
        let rust = (extension(path) == Some("rs")).then(|| Rust::parse(path, &text));
        File { path: path.into(), text, rust }
    }
}

fn collect(root: &Path, dir: &Path, files: &mut Vec<File>) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        if !path.is_dir() {
            read(root, &path, files);
        } else if !FOREIGN_FOLDERS.iter().any(|foreign| name == **foreign) {
            collect(root, &path, files);
        }
    }
}

fn read(root: &Path, path: &Path, files: &mut Vec<File>) {
    let relative = path.strip_prefix(root).expect("below the root").to_string_lossy().replace('\\', "/");
    let ours = extension(&relative).is_none_or(|extension| OUR_TEXTS.contains(&extension));
    if let (true, Ok(text)) = (ours, fs::read_to_string(path)) {
        files.push(File::new(&relative, text));
    }
}

fn extension(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, extension)| extension)
}

/// Every rule that looks at one file alone; each finding is one line.
fn check(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    form::check_text(file, &mut findings);
    if let Some(rust) = &file.rust {
        form::check_form(file, rust, &mut findings);
        form::check_unfinished(file, rust, &mut findings);
        imports::check_unsafe(file, rust, &mut findings);
        if file.path.starts_with("src/") {
            imports::check_imports(file, rust, &mut findings);
            imports::check_names(file, rust, &mut findings);
            imports::check_hashes(file, rust, &mut findings);
        }
    }
    if file.path == "Cargo.toml" {
        form::check_dependencies(file, &mut findings);
    }
    findings.dedup();
    findings
}

const OUR_TEXTS: &[&str] =
    &["rs", "js", "mjs", "py", "sh", "html", "css", "toml", "md", "json", "ini", "yml", "conf", "gitignore"];
const FOREIGN_FOLDERS: &[&str] = &["target", "node_modules", "out", "corpus", "artifacts", "data", "baseline"];

/// Planted violations, for the tests of the rules.
#[cfg(test)]
mod planted {
    use super::{File, check, documents, form};

    pub fn findings(path: &str, text: &str) -> Vec<String> {
        let file = File::new(path, text.into());
        [check(&file), form::check_columns(&file), documents::check(&file)].concat()
    }

    /// The text, under a proper header, has exactly one finding, on line 2, which contains `expected`.
    #[track_caller]
    pub fn caught(path: &str, text: &str, expected: &str) {
        let found = findings(path, &format!("//! Planted.\n{text}\n"));
        assert_eq!(found.len(), 1, "{text:?} gave {found:?}");
        assert!(found[0].starts_with(&format!("{path}:2: ")) && found[0].contains(expected), "{found:?}");
    }

    #[track_caller]
    pub fn clean(path: &str, text: &str) {
        assert_eq!(findings(path, &format!("//! Planted.\n{text}\n")), [""; 0], "{text:?}");
    }
}
