//! The house rules as a test: who may import whom, where `unsafe` and the clock may stand, how a file begins and ends.
//!
//! It reads the tree as text and knows only as much Rust as it needs: comments and strings are set apart, the rest is cut
//! into tokens, and every path (`use` groups unfolded) is compared with the tables at the end of this file. A finding
//! names file and line and says what to do. Each rule has a planted violation below: a checker that catches nothing
//! proves nothing.

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
    let findings: Vec<String> = files.iter().flat_map(check).collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

struct File {
    /// From the repository's root, with `/`.
    path: String,
    text: String,
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
        files.push(File { path: relative, text });
    }
}

fn extension(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next().unwrap_or(path);
    name.rsplit_once('.').filter(|(stem, _)| !stem.is_empty()).map(|(_, extension)| extension)
}

/// Every rule that applies to a file of that name; each finding is one line.
fn check(file: &File) -> Vec<String> {
    let mut findings = Vec::new();
    check_text(file, &mut findings);
    if extension(&file.path) == Some("rs") {
        let rust = Rust::parse(file);
        check_form(file, &rust, &mut findings);
        check_unsafe(file, &rust, &mut findings);
        check_words(file, &rust, &mut findings);
        if file.path.starts_with("src/") {
            check_imports(file, &rust, &mut findings);
            check_names(file, &rust, &mut findings);
        }
    }
    if file.path == "Cargo.toml" {
        check_dependencies(file, &mut findings);
    }
    findings.dedup();
    findings
}

/// Rules for any text of ours: white space, length, the names of files and folders.
fn check_text(file: &File, findings: &mut Vec<String>) {
    let path = &file.path;
    for (number, line) in (1..).zip(file.text.lines()) {
        if line.contains('\t') {
            findings.push(format!("{path}:{number}: a tab; indent with spaces"));
        }
        if line.ends_with([' ', '\r']) {
            findings.push(format!("{path}:{number}: a blank at the end of the line; remove it"));
        }
        if path.starts_with("src/") && path.ends_with(".rs") && line.chars().count() > COLUMNS_MAX {
            findings.push(format!("{path}:{number}: over {COLUMNS_MAX} columns; break the line"));
        }
    }
    let lines = file.text.lines().count();
    let measured = extension(path).is_some_and(|extension| OUR_CODE.contains(&extension));
    if measured && lines > LINES_MAX {
        findings.push(format!("{path}:{lines}: over {LINES_MAX} lines; a second noun is hiding in it, split it off"));
    }
    for part in path.split('/') {
        let stem = part.split('.').next().unwrap_or(part);
        if measured && EMPTY_NAMES.contains(&stem) {
            findings.push(format!("{path}:1: `{stem}` says nothing; name it for the one idea it holds"));
        }
    }
}

fn check_form(file: &File, rust: &Rust, findings: &mut Vec<String>) {
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

/// `unsafe` stands where the design allows it, and each has its reason above or beside it.
fn check_unsafe(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let path = &file.path;
    let mut last = 0;
    for token in rust.tokens.iter().filter(|token| token.text == "unsafe") {
        let number = token.line;
        if std::mem::replace(&mut last, number) == number {
            continue;
        }
        if !UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
            findings.push(format!("{path}:{number}: unsafe; only {} may", UNSAFE_ALLOWED.join(", ")));
        } else if !rust.has_safety_comment(number) {
            findings.push(format!("{path}:{number}: unsafe without `// SAFETY:`; say above it why it holds"));
        }
    }
}

/// Words that must not stand anywhere, or not in that folder.
fn check_words(file: &File, rust: &Rust, findings: &mut Vec<String>) {
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

/// Imports run one way: a module names only what `HOUSE` lists for it.
fn check_imports(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let (path, home) = (&file.path, module_path(&file.path));
    let Some(owner) = home.first() else { return };
    let Some((_, allowed)) = HOUSE.iter().find(|(module, _)| module == owner) else {
        findings
            .push(format!("{path}:1: `{owner}` has no place in the house; give it one in tests/tidy.rs and DESIGN.md"));
        return;
    };
    for named in &rust.paths {
        let Some(target) = named.top_level(&home) else { continue };
        if target != owner && !allowed.contains(&target) {
            let number = named.line;
            findings.push(format!(
                "{path}:{number}: {owner} names `{target}`, which lies above or beside it; pass the value in, or move the code"
            ));
        }
    }
}

/// Runtime, sockets, clock and chance are named where the design puts them.
fn check_names(file: &File, rust: &Rust, findings: &mut Vec<String>) {
    let (path, home) = (&file.path, module_path(&file.path));
    let owner = home.first().map_or("lib", |owner| owner.as_str());
    if matches!(owner, "io" | "lib") {
        return;
    }
    let plain = PLAIN.contains(&owner);
    for named in &rust.paths {
        let (number, words) = (named.line, named.segments.iter().map(String::as_str).collect::<Vec<_>>());
        if IO_ONLY.iter().any(|name| words[0] == *name || words[0].starts_with(&format!("{name}_"))) {
            findings.push(format!("{path}:{number}: `{}` is named in io/ only; call io instead", words[0]));
        }
        if OUTSIDERS.contains(&owner) {
            continue;
        }
        let clock = words.windows(2).any(|pair| pair[0] == "time" && CLOCKS.contains(&pair[1]));
        if clock && plain
            || !named.in_test && words.windows(2).any(|pair| CLOCKS.contains(&pair[0]) && pair[1] == "now")
        {
            findings.push(format!("{path}:{number}: the clock is read in io/ only; take `now: Tick` as a parameter"));
        }
        if !plain {
            continue;
        }
        if let Some(name) = words.iter().find(|word| CHANCE.contains(*word)) {
            findings.push(format!("{path}:{number}: `{name}`; take a seeded `Rng` as a parameter"));
        }
        let std = words.iter().position(|word| *word == "net").filter(|at| *at == 0 || words[at - 1] == "std");
        if std.is_some_and(|at| words.get(at + 1).is_none_or(|word| !ADDRESSES.contains(word))) {
            findings.push(format!("{path}:{number}: `{}`; {owner} knows addresses but no sockets", words.join("::")));
        }
        let outside = words.len() > 1 && words[0] == "std" && OUTSIDE.contains(&words[1]);
        if !named.in_test && (outside || words[0] == "tracing" && owner != "policy") {
            findings
                .push(format!("{path}:{number}: `{}`; {owner} is plain data, its caller does that", words.join("::")));
        }
    }
    for token in rust.tokens.iter().filter(|token| plain && matches!(&*token.text, "async" | "await")) {
        findings.push(format!("{path}:{}: {}; {owner} never waits, its caller does", token.line, token.text));
    }
}

/// Each dependency says on its own line what it is for.
fn check_dependencies(file: &File, findings: &mut Vec<String>) {
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

/// `src/wire/ws/frame.rs` → wire, ws, frame; `src/lib.rs` → nothing.
fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(String::from).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// One file, as far as the rules need to understand it.
struct Rust {
    /// Per line: what stands outside comments, strings emptied.
    code: Vec<String>,
    comments: Vec<String>,
    tokens: Vec<Token>,
    paths: Vec<Named>,
}

struct Token {
    text: String,
    line: usize,
    in_test: bool,
    /// How many inline modules are open around it.
    nested: usize,
}

/// A path as written, `use` groups unfolded.
struct Named {
    segments: Vec<String>,
    line: usize,
    in_test: bool,
    nested: usize,
}

impl Named {
    /// The module below the crate's root that the path leads to, seen from the file whose module path is `home`.
    fn top_level(&self, home: &[String]) -> Option<&str> {
        let supers = self.segments.iter().take_while(|segment| *segment == "super").count();
        let at_root = match self.segments[0].as_str() {
            "crate" | "rainbow" => Some(1),
            "super" => (home.len() + self.nested == supers).then_some(supers),
            _ => None,
        };
        self.segments.get(at_root?).map(String::as_str)
    }
}

impl Rust {
    fn parse(file: &File) -> Rust {
        let (code, comments) = set_comments_apart(&file.text);
        let mut tokens = tokenize(&code);
        let whole_file = file.path.ends_with("/tests.rs") || !file.path.starts_with("src/");
        mark_modules(&mut tokens, whole_file);
        let paths = unfold_paths(&tokens);
        Rust { code, comments, tokens, paths }
    }

    /// A comment on line `number`, or above the statement that it is part of, gives the reason.
    fn has_safety_comment(&self, number: usize) -> bool {
        let says = |line: usize| self.comments[line].contains("SAFETY:") || self.comments[line].contains("# Safety");
        let line = number - 1;
        let same_statement = |line: &usize| {
            let (code, comment) = (self.code[*line].trim_end(), &self.comments[*line]);
            let blank = code.is_empty() && comment.is_empty();
            code.ends_with(']') || code.ends_with("=> {") || !blank && !code.ends_with([';', '{', '}', ','])
        };
        let before = (0..line).rev().take(SAFETY_REACH).take_while(same_statement);
        says(line) || before.into_iter().any(says)
    }
}

/// Two texts of as many lines as the source: its code with emptied strings, and its comments.
fn set_comments_apart(text: &str) -> (Vec<String>, Vec<String>) {
    let (mut code, mut comments) = (String::new(), String::new());
    let chars: Vec<char> = text.chars().collect();
    let at = |index: usize| chars.get(index).copied().unwrap_or('\0');
    let mut index = 0;
    while index < chars.len() {
        let end = match (at(index), at(index + 1)) {
            ('/', '/') => end_of(&chars, index, |i| at(i) == '\n'),
            ('/', '*') => end_of_block_comment(&chars, index),
            ('"', _) => end_of_string(&chars, index),
            ('r', '"' | '#') if !starts_mid_word(&chars, index) => end_of_raw_string(&chars, index),
            ('\'', '\\') => end_of(&chars, index + 3, |i| at(i) == '\'') + 1,
            ('\'', _) if at(index + 2) == '\'' => index + 3,
            _ => index,
        };
        let is_comment = matches!((at(index), at(index + 1)), ('/', '/' | '*'));
        if end == index {
            code.push(at(index));
            if at(index) == '\n' {
                comments.push('\n');
            }
            index += 1;
            continue;
        }
        for c in &chars[index..end.min(chars.len())] {
            match c {
                '\n' => (code.push('\n'), comments.push('\n')).0,
                c if is_comment => comments.push(*c),
                _ => {}
            }
        }
        if !is_comment {
            code.push_str("\"\"");
        }
        index = end;
    }
    let lines = |text: &str| text.split('\n').map(String::from).collect::<Vec<_>>();
    (lines(&code), lines(&comments))
}

fn end_of(chars: &[char], from: usize, done: impl Fn(usize) -> bool) -> usize {
    (from..chars.len()).find(|index| done(*index)).unwrap_or(chars.len())
}

fn end_of_block_comment(chars: &[char], from: usize) -> usize {
    let (mut depth, mut index) = (0, from);
    while index + 1 < chars.len() {
        match (chars[index], chars[index + 1]) {
            ('/', '*') => (depth, index) = (depth + 1, index + 2),
            ('*', '/') => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            return index;
        }
    }
    chars.len()
}

fn end_of_string(chars: &[char], from: usize) -> usize {
    let mut index = from + 1;
    while index < chars.len() && chars[index] != '"' {
        index += if chars[index] == '\\' { 2 } else { 1 };
    }
    index + 1
}

/// Past the closing quote of `r"…"` or `r#"…"#`; `from` itself when it is a raw identifier.
fn end_of_raw_string(chars: &[char], from: usize) -> usize {
    let open = end_of(chars, from + 1, |index| chars[index] != '#');
    let hashes = open - from - 1;
    if chars.get(open) != Some(&'"') {
        return from;
    }
    let closes = |index: usize| chars[index] == '"' && chars[index + 1..].iter().take(hashes).all(|c| *c == '#');
    end_of(chars, open + 1, closes) + 1 + hashes
}

/// Whether the `r` at `index` belongs to a word that began before it (`b` and `c` may prefix a raw string).
fn starts_mid_word(chars: &[char], index: usize) -> bool {
    let word = |back: usize| index >= back && (chars[index - back].is_alphanumeric() || chars[index - back] == '_');
    word(1) && (word(2) || !matches!(chars[index - 1], 'b' | 'c'))
}

/// Words, `::`, and every other mark on its own.
fn tokenize(code: &[String]) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (line, text) in (1..).zip(code) {
        let mut rest = text.as_str();
        while let Some(first) = rest.chars().next() {
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let length = if rest.starts_with("::") { 2 } else { word.max(first.len_utf8()) };
            let (token, after) = rest.split_at(length);
            if !first.is_whitespace() {
                tokens.push(Token { text: token.into(), line, in_test: false, nested: 0 });
            }
            rest = after;
        }
    }
    tokens
}

/// Notes for each token whether it lies in test code and how many inline modules are open around it.
fn mark_modules(tokens: &mut [Token], whole_file_is_test: bool) {
    // (brace depth at which the module closes, whether it is test code)
    let mut open: Vec<(usize, bool)> = Vec::new();
    let (mut depth, mut for_test) = (0, false);
    for index in 0..tokens.len() {
        let before = |n: usize| if index >= n { tokens[index - n].text.as_str() } else { "" };
        match tokens[index].text.as_str() {
            "test" if matches!(before(2), "cfg" | "all") => for_test = true,
            ";" => for_test = false,
            "{" => {
                if before(2) == "mod" {
                    open.push((depth, for_test));
                }
                (depth, for_test) = (depth + 1, false);
            }
            "}" => {
                depth = depth.saturating_sub(1);
                open.pop_if(|(closes, _)| *closes == depth);
            }
            _ => {}
        }
        tokens[index].in_test = whole_file_is_test || open.iter().any(|(_, test)| *test);
        tokens[index].nested = open.len();
    }
}

fn unfold_paths(tokens: &[Token]) -> Vec<Named> {
    let (mut paths, mut index) = (Vec::new(), 0);
    while index < tokens.len() {
        index = if is_word(&tokens[index].text) { unfold(tokens, index, &[], &mut paths) } else { index + 1 };
    }
    paths
}

/// Reads one path at `index`, each branch of its groups behind `prefix`; returns where it ended.
fn unfold(tokens: &[Token], mut index: usize, prefix: &[String], paths: &mut Vec<Named>) -> usize {
    let mut segments = prefix.to_vec();
    let Token { line, in_test, nested, .. } = tokens[index];
    let text = |index: usize| tokens.get(index).map_or("", |token: &Token| &*token.text);
    loop {
        if text(index) != "self" || segments.is_empty() {
            segments.push(text(index).to_string());
        }
        index += 1;
        if text(index) != "::" || !(is_word(text(index + 1)) || matches!(text(index + 1), "*" | "{")) {
            break;
        }
        index += 1;
        if text(index) == "{" {
            index += 1;
            while !matches!(text(index), "}" | "") {
                let branch = is_word(text(index)) || text(index) == "*";
                index = if branch { unfold(tokens, index, &segments, paths) } else { index + 1 };
            }
            return index + 1;
        }
    }
    if text(index) == "as" && !prefix.is_empty() {
        index += 2;
    }
    paths.push(Named { segments, line, in_test, nested });
    index
}

fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

const COLUMNS_MAX: usize = 120;
const LINES_MAX: usize = 800;
/// Lines above an `unsafe` in which its reason is looked for: one long comment and one wrapped statement.
const SAFETY_REACH: usize = 16;

/// Per module, what it may name beside itself. Imports run base ← wire ← shard ← {policy, store, cluster} ← io ← worker
/// ← server ← main; `config` and `metrics` are for policy and above, the shard has a config struct of its own.
const HOUSE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("wire", &["base"]),
    ("shard", &["base", "wire", "metrics"]),
    ("config", &["base", "wire", "shard"]),
    ("metrics", &["base"]),
    ("policy", &["base", "wire", "shard", "config", "metrics"]),
    ("store", &["base", "wire", "shard", "config", "metrics"]),
    ("cluster", &["base", "wire", "shard", "config", "metrics"]),
    ("io", &["base", "wire", "shard", "config", "metrics", "policy", "store", "cluster"]),
    ("worker", &["base", "wire", "shard", "config", "metrics", "policy", "store", "cluster", "io"]),
    ("server", &["base", "wire", "shard", "config", "metrics", "policy", "store", "cluster", "io", "worker"]),
    ("demo", &["base", "wire", "config"]),
    ("audit", &["base", "wire", "config"]),
    ("main", &["audit", "base", "config", "demo", "io", "metrics", "server"]),
];

/// Modules without runtime, sockets, clock, chance and waiting.
const PLAIN: &[&str] = &["base", "wire", "shard", "policy"];
/// Users of Rainbow that live in its binary: they talk to it over sockets, with threads and a clock of their own.
const OUTSIDERS: &[&str] = &["demo", "audit"];
const IO_ONLY: &[&str] = &["monoio", "libc", "crossbeam"];
const CLOCKS: &[&str] = &["Instant", "SystemTime", "UNIX_EPOCH", "*"];
const CHANCE: &[&str] = &["rand", "getrandom", "fastrand", "RandomState"];
const ADDRESSES: &[&str] =
    &["IpAddr", "Ipv4Addr", "Ipv6Addr", "SocketAddr", "SocketAddrV4", "SocketAddrV6", "AddrParseError"];
/// Parts of `std` that reach outside the process, or to another thread.
const OUTSIDE: &[&str] = &["fs", "thread", "process", "env", "os"];
const UNSAFE_ALLOWED: &[&str] = &["src/io/", "src/wire/ws/mask.rs", "bench/", "tests/it/harness/sys.rs"];
/// Where the tests look again and again for what another process does; nothing tells them of it.
const HARNESS: &str = "tests/it/harness/";

const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];
const MARKS: &[&str] = &["FIXME", "XXX", "TODO", "HACK"];
const EMPTY_NAMES: &[&str] = &["utils", "util", "helpers", "helper", "common", "types", "manager", "managers", "misc"];

const OUR_CODE: &[&str] = &["rs", "js", "mjs", "py", "sh", "html", "css"];
const OUR_TEXTS: &[&str] =
    &["rs", "js", "mjs", "py", "sh", "html", "css", "toml", "md", "json", "ini", "yml", "conf", "gitignore"];
const FOREIGN_FOLDERS: &[&str] = &["target", "node_modules", "out", "corpus", "artifacts", "data", "baseline"];

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&File { path: path.into(), text: text.into() })
    }

    /// The text, under a proper header, has exactly one finding, on line 2, which contains `expected`.
    #[track_caller]
    fn caught(path: &str, text: &str, expected: &str) {
        let found = findings(path, &format!("//! Planted.\n{text}\n"));
        assert_eq!(found.len(), 1, "{text:?} gave {found:?}");
        assert!(found[0].starts_with(&format!("{path}:2: ")) && found[0].contains(expected), "{found:?}");
    }

    #[track_caller]
    fn clean(path: &str, text: &str) {
        assert_eq!(findings(path, &format!("//! Planted.\n{text}\n")), [""; 0], "{text:?}");
    }

    #[test]
    fn an_upward_import_is_caught() {
        caught("src/shard/conn.rs", "use crate::io::Socket;", "names `io`");
        caught("src/shard/conn.rs", "use crate::{base::id::ShardId, config::Config};", "names `config`");
        caught("src/shard/conn.rs", "fn f() -> crate::policy::Verdict { g() }", "names `policy`");
        caught("src/wire/ws/frame.rs", "use super::super::super::shard::Shard;", "names `shard`");
        caught("src/wire/ws/frame.rs", "mod inner { use super::super::super::super::shard::Shard; }", "names `shard`");
        caught("src/policy/api.rs", "pub use crate::{store::{self, Store as Kept}};", "names `store`");
        caught("src/worker.rs", "use super::server::run;", "names `server`");
        caught("src/demo/page.rs", "use crate::server::run;", "names `server`");
        caught("src/audit/client.rs", "use crate::shard::Shard;", "names `shard`");
        caught("src/main.rs", "use rainbow::shard::Shard;", "names `shard`");
        assert!(findings("src/attic/mod.rs", "//! Planted.\n")[0].contains("no place in the house"));
    }

    #[test]
    fn a_downward_import_is_allowed() {
        clean("src/shard/conn.rs", "use crate::{base::time::Tick, wire::ws::frame::{self, Frame}};");
        clean("src/wire/ws/frame.rs", "use super::mask::unmask;\nuse super::super::packet::Packet;");
        clean("src/wire/ws/frame.rs", "#[cfg(test)]\nmod tests {\n    use super::super::mask;\n}");
        clean("src/io/mod.rs", "pub(crate) use crate::policy::api::Call;");
        clean("src/shard/conn.rs", "// crate::io owns the socket\nconst WHERE: &str = \"crate::io\";");
    }

    #[test]
    fn runtime_clock_sockets_and_chance_are_caught() {
        caught("src/wire/packet.rs", "use monoio::net::TcpStream;", "io/ only");
        caught("src/worker.rs", "fn f() { libc::getpid(); }", "io/ only");
        caught("src/server.rs", "use crossbeam_channel::Sender;", "io/ only");
        caught("src/shard/wheel.rs", "use std::time::{Duration, Instant};", "now: Tick");
        caught("src/policy/backend.rs", "fn f() { std::time::SystemTime::now(); }", "now: Tick");
        caught("src/worker.rs", "fn f() { Instant::now(); }", "now: Tick");
        caught("src/shard/conn.rs", "use std::net::{IpAddr, TcpStream};", "no sockets");
        caught("src/shard/conn.rs", "use std::net;", "no sockets");
        caught("src/policy/backend.rs", "async fn f() {}", "never waits");
        caught("src/policy/backend.rs", "use rand::random;", "Rng");
        caught("src/shard/channels.rs", "use std::collections::hash_map::RandomState;", "Rng");
        caught("src/wire/packet.rs", "use tracing::debug;", "plain data");
        caught("src/shard/conn.rs", "use std::{fmt, thread};", "plain data");
    }

    #[test]
    fn their_proper_places_are_left_alone() {
        clean("src/io/socket.rs", "use libc::c_int;\nuse std::time::Instant;\nasync fn f() {}");
        clean("src/shard/conn.rs", "use std::net::{IpAddr, SocketAddr};\nuse std::time::Duration;");
        clean("src/demo/mod.rs", "use std::net::TcpListener;\nuse std::time::Instant;");
        clean("src/audit/client.rs", "fn f() { std::time::Instant::now(); }");
        clean("src/wire/packet.rs", "#[cfg(test)]\nmod tests {\n    use std::fs;\n}");
    }

    #[test]
    fn unsafe_out_of_place_or_without_a_reason_is_caught() {
        caught("src/shard/conn.rs", "fn f() { unsafe { g() } }", "only src/io/");
        caught("src/io/socket.rs", "fn f() { unsafe { g() } }", "SAFETY");
        caught("src/wire/ws/mask.rs", "unsafe impl Send for A {}", "SAFETY");
        clean("src/io/socket.rs", "fn f() {\n    // SAFETY: it holds.\n    let n =\n        unsafe { g() };\n}");
        clean("src/io/socket.rs", "/// # Safety\n/// The caller holds it.\n#[inline]\npub unsafe fn f() {}");
        clean(
            "src/io/socket.rs",
            "fn f() {\n    // SAFETY: it holds.\n    Some(n) => {\n        unsafe { g() }\n    }\n}",
        );
        let reason_of_another = "//! Planted.\n// SAFETY: of a.\nlet a = unsafe { g() };\nlet b = unsafe { g() };\n";
        assert!(findings("src/io/socket.rs", reason_of_another)[0].starts_with("src/io/socket.rs:4: "));
    }

    #[test]
    fn bad_form_is_caught() {
        assert!(findings("src/io/socket.rs", "use std::io;\n")[0].contains("begin with `//!`"));
        caught("src/io/socket.rs", "\tfn f() {}", "a tab");
        caught("README.md", "two blanks  ", "a blank at the end");
        caught("src/io/socket.rs", &format!("// {}", "é".repeat(118)), "over 120 columns");
        clean("src/io/socket.rs", &format!("// {}", "é".repeat(117)));
        assert!(findings("tests/it/x.rs", &"//! Planted.\n".repeat(801))[0].contains("over 800 lines"));
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

    #[test]
    fn strings_and_comments_are_not_code() {
        let text = "const A: &str = r#\"todo!() \" unsafe\"#;\n/* unsafe /* todo!() */ dbg!() */\nconst B: char = '\"';\n\
                    fn f<'a>(x: &'a str) { let c = '\\''; let d = \"\\\"unsafe\"; }\n// \"\nconst C: &[u8] = br\"unsafe\";";
        clean("src/shard/conn.rs", text);
        caught("src/shard/conn.rs", "const A: &str = \"\\\\\"; fn f() { todo!() }", "todo!");
    }
}
