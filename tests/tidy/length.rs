//! No file and no function that is too long to be read in one go.

use crate::source::{Rust, Token};
use crate::{File, extension};

pub fn check(file: &File) -> Vec<String> {
    let path = &file.path;
    let mut findings = Vec::new();
    let lines = file.text.lines().count();
    let measured = extension(path).is_some_and(|extension| OUR_CODE.contains(&extension));
    if measured && !WHOLE.iter().any(|(whole, _)| whole == path) && lines > FILE_LINES_MAX {
        findings
            .push(format!("{path}:{lines}: over {FILE_LINES_MAX} lines; a second noun is hiding in it, split it off"));
    }
    for function in file.rust.iter().flat_map(functions).chain(script_functions(file)) {
        if function.lines > FUNCTION_LINES_MAX {
            let Function { name, line, lines } = function;
            findings.push(format!("{path}:{line}: `{name}` has {lines} lines, over {FUNCTION_LINES_MAX}; split it"));
        }
    }
    findings
}

struct Function {
    name: String,
    line: usize,
    lines: usize,
}

fn functions(rust: &Rust) -> Vec<Function> {
    let tokens = &rust.tokens;
    let named =
        |index: &usize| tokens[*index].text == "fn" && tokens.get(index + 1).is_some_and(|next| next.text != "(");
    let found = (0..tokens.len()).filter(named).filter_map(|index| {
        let (name, line) = (tokens[index + 1].text.clone(), tokens[index].line);
        Some(Function { name, line, lines: last_line(tokens, index)? + 1 - line })
    });
    found.collect()
}

/// The line of the brace that closes the function at `from`; nothing for one without a body.
fn last_line(tokens: &[Token], from: usize) -> Option<usize> {
    let (mut brackets, mut braces) = (0usize, 0usize);
    for token in &tokens[from..] {
        match &*token.text {
            "(" | "[" => brackets += 1,
            ")" | "]" => brackets = brackets.saturating_sub(1),
            ";" if brackets == 0 && braces == 0 => return None,
            "{" => braces += 1,
            "}" if braces <= 1 => return Some(token.line),
            "}" => braces -= 1,
            _ => {}
        }
    }
    None
}

/// Functions and methods of JavaScript, by their indentation: the code is formatted.
fn script_functions(file: &File) -> Vec<Function> {
    if !matches!(extension(&file.path), Some("js" | "mjs")) {
        return Vec::new();
    }
    let lines: Vec<&str> = file.text.lines().collect();
    let indent = |line: &str| line.len() - line.trim_start().len();
    let mut found = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let Some(name) = script_function(line.trim()) else { continue };
        let closes = |other: &str| other.trim_start().starts_with('}') && indent(other) == indent(line);
        let length = lines[index + 1..].iter().position(|other| closes(other)).map_or(0, |length| length + 2);
        found.push(Function { name: name.into(), line: index + 1, lines: length });
    }
    found
}

/// The name in `async function f(a) {` or `f(a) {`.
fn script_function(line: &str) -> Option<&str> {
    let head = line.strip_suffix('{')?.trim_end();
    let plain = ["export ", "default ", "static ", "async "]
        .iter()
        .fold(head, |head, word| head.strip_prefix(word).unwrap_or(head));
    let (name, _) = plain.split_once('(')?;
    let name = match name.strip_prefix("function") {
        Some(name) => name.trim(),
        None if head.ends_with(')') => name.trim(),
        None => return None,
    };
    let is_name = name.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '#' | '$' | '*'));
    (is_name && !SCRIPT_BRANCHES.contains(&name)).then_some(name)
}

const FILE_LINES_MAX: usize = 700;
/// Files that cannot be split, and why.
const WHOLE: &[(&str, &str)] = &[("clients/js/rainbow.js", "a page loads the client as one file")];
const FUNCTION_LINES_MAX: usize = 70;
const OUR_CODE: &[&str] = &["rs", "js", "mjs", "py", "sh", "html", "css"];
const SCRIPT_BRANCHES: &[&str] = &["if", "for", "while", "switch", "catch", "with"];

#[cfg(test)]
mod tests {
    use super::check;
    use crate::File;

    fn findings(path: &str, text: &str) -> Vec<String> {
        check(&File::new(path, text.into()))
    }

    #[test]
    fn a_file_that_is_too_long_is_caught() {
        assert_eq!(findings("tests/it/x.rs", &"//! Planted.\n".repeat(700)), [""; 0]);
        assert!(findings("tests/it/x.rs", &"//! Planted.\n".repeat(701))[0].starts_with("tests/it/x.rs:701: over 700"));
        assert!(findings("clients/js/x.js", &"// Planted.\n".repeat(701))[0].contains("over 700 lines"));
        assert_eq!(findings("perf/x.json", &"1\n".repeat(701)), [""; 0]);
    }

    #[test]
    fn a_function_that_is_too_long_is_caught() {
        let function = |lines: usize| {
            format!(
                "fn g() {{}}\nfn f(a: [u8; 2])\nwhere\n    A: B,\n{{\n{}}}\nfn h() {{}}\n",
                "    x({});\n".repeat(lines)
            )
        };
        assert_eq!(findings("src/wire/x.rs", &function(65)), [""; 0]);
        assert_eq!(findings("src/wire/x.rs", &function(66)), ["src/wire/x.rs:2: `f` has 71 lines, over 70; split it"]);
        let many = "    fn f();\n".repeat(80);
        assert_eq!(findings("src/wire/x.rs", &format!("trait A {{\n{many}}}\n")), [""; 0]);
    }

    #[test]
    fn a_long_function_of_a_script_is_caught() {
        let script = |lines: usize| {
            format!(
                "class A {{\n  async f(a) {{\n{}  }}\n\n  g() {{\n  }}\n}}\n",
                "    if (a) {\n    }\n".repeat(lines / 2)
            )
        };
        assert_eq!(findings("clients/js/x.js", &script(68)), [""; 0]);
        assert!(findings("clients/js/x.js", &script(70))[0].starts_with("clients/js/x.js:2: `f` has 72 lines"));
        let function = format!("export function h(a) {{\n{}}}\n", "  x();\n".repeat(69));
        assert!(findings("tests/x.mjs", &function)[0].starts_with("tests/x.mjs:1: `h` has 71 lines"));
    }
}
