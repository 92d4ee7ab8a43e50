//! Form: white space, headers, names of files that say nothing, unfinished code, tests that sleep, dependencies.

use crate::source::Rust;
use crate::{File, extension};

/// Rules for any text of ours: white space, the names of files and folders.
pub fn check_text(file: &File, findings: &mut Vec<String>) {
    let path = &file.path;
    for (number, line) in (1..).zip(file.text.lines()) {
        // A recipe of make begins with one.
        if line.contains('\t') && !path.ends_with("Makefile") {
            findings.push(format!("{path}:{number}: a tab; indent with spaces"));
        }
        if line.ends_with([' ', '\r']) {
            findings.push(format!("{path}:{number}: a blank at the end of the line; remove it"));
        }
    }
    let is_code = extension(path).is_some_and(|extension| OUR_CODE.contains(&extension));
    for part in path.split('/') {
        let stem = part.split('.').next().unwrap_or(part);
        if is_code && EMPTY_NAMES.contains(&stem) {
            findings.push(format!("{path}:1: `{stem}` says nothing; name it for the one idea it holds"));
        }
    }
}

pub fn check_columns(file: &File) -> Vec<String> {
    let path = &file.path;
    let long = (1..).zip(file.text.lines()).filter(|(_, line)| line.chars().count() > COLUMNS_MAX);
    let found = long.filter(|_| path.starts_with("src/") && path.ends_with(".rs"));
    found.map(|(number, _)| format!("{path}:{number}: over {COLUMNS_MAX} columns; break the line")).collect()
}

pub fn check_form(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let path = &file.path;
    if !file.text.starts_with("//!") {
        findings.push(format!("{path}:1: begin with `//!`: what it owns, what it must never do, who calls it"));
    }
    for (number, comment) in (1..).zip(&rust.comments) {
        if let Some(word) = comment.split(|c: char| !c.is_alphanumeric()).find(|word| MARKS.contains(word)) {
            findings.push(format!("{path}:{number}: {word}; do it now or write down why it is so"));
        }
    }
    for pair in rust.tokens.windows(2) {
        if pair[0].text == "mod" && EMPTY_NAMES.contains(&&*pair[1].text) {
            let (number, name) = (pair[1].line, &pair[1].text);
            findings.push(format!("{path}:{number}: `mod {name}` says nothing; name it for the one idea it holds"));
        }
    }
}

/// Words that must not stand anywhere, or not in that folder.
pub fn check_unfinished(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let path = &file.path;
    for (index, token) in rust.tokens.iter().enumerate() {
        let (number, word) = (token.line, &*token.text);
        let next = |n: usize| rust.tokens.get(index + n).map_or("", |token| &*token.text);
        if UNFINISHED.contains(&word) && next(1) == "!" {
            findings.push(format!("{path}:{number}: {word}!; finish it or leave it out"));
        }
        if word == "ignore" && next(1) == "]" && index >= 2 && rust.tokens[index - 1].text == "[" {
            findings.push(format!("{path}:{number}: #[ignore] without a reason; write #[ignore = \"why\"]"));
        }
        if word == "sleep" && path.starts_with("tests/it/") && !path.starts_with(HARNESS) {
            findings.push(format!("{path}:{number}: a sleep in a test; wait for the event itself, with a deadline"));
        }
    }
}

/// Each dependency says on its own line what it is for.
pub fn check_dependencies(file: &File, findings: &mut Vec<String>) {
    let (mut inside, mut open) = (false, 0);
    for (number, line) in (1..).zip(file.text.lines()) {
        let (code, reason) = split_toml_comment(line);
        if open == 0 && code.trim_start().starts_with('[') {
            inside = code.trim_end().ends_with("dependencies]");
            if code.contains("dependencies.") && !inside {
                findings.push(format!("{}:{number}: write it as `name = {{ … }} # reason`", file.path));
            }
            continue;
        }
        let starts = open == 0 && code.contains('=');
        open += code.matches(['[', '{']).count();
        open -= code.matches([']', '}']).count().min(open);
        if inside && starts && reason.trim().is_empty() {
            findings.push(format!("{}:{number}: a dependency without a reason; add `# what it is for`", file.path));
        }
    }
}

fn split_toml_comment(line: &str) -> (&str, &str) {
    let mut quoted = false;
    for (at, c) in line.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '#' if !quoted => return (&line[..at], &line[at + 1..]),
            _ => {}
        }
    }
    (line, "")
}

const COLUMNS_MAX: usize = 120;

/// Where the tests look again and again for what another process does; nothing tells them of it.
const HARNESS: &str = "tests/it/harness/";

const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

const MARKS: &[&str] = &["FIXME", "XXX", "TODO", "HACK"];

const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "types", "manager", "managers", "misc"];

const OUR_CODE: &[&str] = &["rs", "js", "mjs", "py", "sh", "html", "css"];

#[cfg(test)]
mod tests {
    use crate::planted::{caught, clean, findings};

    #[test]
    fn bad_form_is_caught() {
        assert!(findings("src/io/socket.rs", "use std::io;\n")[0].contains("begin with `//!`"));
        caught("src/io/socket.rs", "\tfn f() {}", "a tab");
        caught("README.md", "two blanks  ", "a blank at the end");
        caught("src/io/socket.rs", &format!("// {}", "é".repeat(118)), "over 120 columns");
        clean("src/io/socket.rs", &format!("// {}", "é".repeat(117)));
        assert!(findings("src/io/utils.rs", "//! Planted.\n")[0].contains("`utils` says nothing"));
        assert!(findings("tests/it/common/mod.rs", "//! Planted.\n")[0].contains("`common` says nothing"));
        caught("src/io/socket.rs", "mod helpers {}", "`mod helpers` says nothing");
    }

    #[test]
    fn unfinished_code_is_caught() {
        caught("src/io/socket.rs", "fn f() { todo!() }", "todo!");
        caught("bench/load/main.rs", "fn f() { dbg!(1); }", "dbg!");
        caught("src/io/socket.rs", "// FIXME later", "FIXME");
        caught("src/io/socket.rs", "/* a */ /* XXX */", "XXX");
    }

    #[test]
    fn tests_that_sleep_or_are_skipped_are_caught() {
        caught("tests/it/send.rs", "fn f() { std::thread::sleep(d); }", "wait for the event");
        caught("tests/it/send.rs", "use std::thread::{self, sleep};", "wait for the event");
        clean("tests/it/harness/mod.rs", "fn eventually() { std::thread::sleep(d); }");
        caught("tests/sim/main.rs", "#[ignore] fn f() {}", "without a reason");
        clean("tests/sim/main.rs", "#[ignore = \"takes an hour\"] fn f() {}");
    }

    #[test]
    fn a_dependency_without_a_reason_is_caught() {
        let manifest =
            |line: &str| findings("Cargo.toml", &format!("[target.x.dependencies]\n{line}\n[profile]\na = 1\n"));
        assert!(manifest("slab = \"0.4\"")[0].starts_with("Cargo.toml:2: a dependency without a reason"));
        assert!(manifest("slab = { git = \"https://x/#y\" }")[0].starts_with("Cargo.toml:2: "));
        assert!(manifest("[dependencies.slab]")[0].starts_with("Cargo.toml:2: write it as"));
        assert_eq!(manifest("slab = \"0.4\" # per-core tables"), [""; 0]);
        assert_eq!(manifest("clap = { version = \"4\", features = [ # command line\n\"derive\",\n] }"), [""; 0]);
    }
}
