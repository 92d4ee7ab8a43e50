//! Rust as text: comments and strings set apart, the rest cut into tokens, every path unfolded.
//!
//! It knows only as much of the language as the rules need. Every rule file reads a `Rust`; nothing here knows a rule.

/// One file, as far as the rules need to understand it.
pub struct Rust {
    /// Per line: what stands outside comments, strings emptied.
    pub code: Vec<String>,
    pub comments: Vec<String>,
    pub tokens: Vec<Token>,
    pub paths: Vec<Named>,
}

pub struct Token {
    pub text: String,
    pub line: usize,
    pub in_test: bool,
    /// How many inline modules are open around it.
    pub nested: usize,
}

/// A path as written, `use` groups unfolded.
pub struct Named {
    pub segments: Vec<String>,
    /// Of its first token.
    pub index: usize,
    pub line: usize,
    pub in_test: bool,
    pub nested: usize,
}

impl Named {
    /// The module below the crate's root that the path leads to, seen from the file whose module path is `module`.
    pub fn top_level(&self, module: &[String]) -> Option<&str> {
        let supers = self.segments.iter().take_while(|segment| *segment == "super").count();
        let at_root = match self.segments[0].as_str() {
            "crate" | "rainbow" => Some(1),
            "super" => (module.len() + self.nested == supers).then_some(supers),
            _ => None,
        };
        self.segments.get(at_root?).map(String::as_str)
    }
}

impl Rust {
    pub fn parse(path: &str, text: &str) -> Rust {
        let (code, comments) = set_comments_apart(text);
        let mut tokens = tokenize(&code);
        let whole_file = path.ends_with("/tests.rs") || path.contains("/tests/") || !path.starts_with("src/");
        mark_modules(&mut tokens, whole_file);
        let paths = unfold_paths(&tokens);
        Rust { code, comments, tokens, paths }
    }

    /// A comment on line `number`, or above the statement that it is part of, gives the reason.
    pub fn has_safety_comment(&self, number: usize) -> bool {
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
    // The brace depths at which the open modules close.
    let mut open: Vec<usize> = Vec::new();
    let (mut depth, mut test_until) = (0, 0);
    for index in 0..tokens.len() {
        match tokens[index].text.as_str() {
            "#" if index >= test_until && is_test_attribute(tokens, index) => test_until = end_of_item(tokens, index),
            "{" => {
                if index >= 2 && tokens[index - 2].text == "mod" {
                    open.push(depth);
                }
                depth += 1;
            }
            "}" => {
                depth = depth.saturating_sub(1);
                open.pop_if(|closes| *closes == depth);
            }
            _ => {}
        }
        tokens[index].in_test = whole_file_is_test || index < test_until;
        tokens[index].nested = open.len();
    }
}

/// `#[test]`, `#[cfg(test)]` and `#[cfg(all(…, test))]`; what holds in other builds too is no test.
fn is_test_attribute(tokens: &[Token], from: usize) -> bool {
    let words: Vec<&str> = tokens[from..end_of_attribute(tokens, from)].iter().map(|token| &*token.text).collect();
    let for_tests = matches!(words.get(2), Some(&("test" | "cfg")));
    for_tests && words.contains(&"test") && !words.contains(&"any") && !words.contains(&"not")
}

/// Past the `]` of the attribute that begins at `from`; `from + 1` when there is none.
pub fn end_of_attribute(tokens: &[Token], from: usize) -> usize {
    let bracket = from + 1 + usize::from(tokens.get(from + 1).is_some_and(|token| token.text == "!"));
    if tokens.get(bracket).is_none_or(|token| token.text != "[") {
        return from + 1;
    }
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(bracket) {
        match &*token.text {
            "[" => depth += 1,
            "]" if depth == 1 => return index + 1,
            "]" => depth -= 1,
            _ => {}
        }
    }
    tokens.len()
}

/// `fn` for `pub const unsafe fn f`; nothing for what is no item.
pub fn item_kind(tokens: &[Token], from: usize) -> Option<&str> {
    let mut words = tokens[from..].iter().map(|token| &*token.text).take(ITEM_REACH).peekable();
    if words.peek() == Some(&"pub") {
        words.next();
        if words.peek() == Some(&"(") {
            words.by_ref().find(|word| *word == ")");
        }
    }
    while let Some(word) = words.next() {
        match word {
            "const" if matches!(words.peek(), Some(&("fn" | "unsafe" | "async" | "extern"))) => {}
            "unsafe" | "async" | "\"" => {}
            "extern" if words.peek() != Some(&"crate") => {}
            _ => return ITEMS.contains(&word).then_some(word).or((word == "macro_rules").then_some("macro_rules")),
        }
    }
    None
}

/// Past the item, field, arm or statement at `from`, its attributes included.
pub fn end_of_item(tokens: &[Token], mut from: usize) -> usize {
    while tokens.get(from).is_some_and(|token| token.text == "#") {
        from = end_of_attribute(tokens, from);
    }
    let kind = item_kind(tokens, from);
    let ends_with_semicolon = kind.is_some_and(|kind| UNBRACED.contains(&kind));
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(from) {
        match &*token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth == 0 => return index,
            "}" if depth == 1 && !ends_with_semicolon => return index + 1,
            ")" | "]" | "}" => depth -= 1,
            ";" if depth == 0 => return index + 1,
            "," if depth == 0 && kind.is_none() => return index + 1,
            _ => {}
        }
    }
    tokens.len()
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
    let first = index;
    let Token { line, in_test, nested, .. } = tokens[first];
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
    paths.push(Named { segments, index: first, line, in_test, nested });
    index
}

pub fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// `src/wire/ws/frame.rs` → wire, ws, frame; `src/lib.rs` → nothing.
pub fn module_path(path: &str) -> Vec<String> {
    let path = path.trim_start_matches("src/").trim_end_matches(".rs");
    let mut parts: Vec<String> = path.split('/').map(String::from).collect();
    if parts.last().is_some_and(|last| last == "mod" || last == "lib") {
        parts.pop();
    }
    parts
}

/// Lines above an `unsafe` in which its reason is looked for: one long comment and one wrapped statement.
const SAFETY_REACH: usize = 16;
/// Tokens in which an item's kind is found: `pub(in a::b) unsafe extern "C" fn`.
const ITEM_REACH: usize = 10;
const ITEMS: &[&str] =
    &["fn", "impl", "mod", "struct", "enum", "union", "trait", "use", "const", "static", "type", "extern"];
/// Those that end with `;`, whatever braces they have.
const UNBRACED: &[&str] = &["use", "const", "static", "type"];

#[cfg(test)]
mod tests {
    use crate::planted::{caught, clean};

    #[test]
    fn strings_and_comments_are_not_code() {
        let text = "const A: &str = r#\"todo!() \" unsafe\"#;\n/* unsafe /* todo!() */ dbg!() */\nconst B: char = '\"';\n\
                    fn f<'a>(x: &'a str) { let c = '\\''; let d = \"\\\"unsafe\"; }\n// \"\nconst C: &[u8] = br\"unsafe\";";
        clean("src/shard/conn.rs", text);
        caught("src/shard/conn.rs", "const A: &str = \"\\\\\"; fn f() { todo!() }", "todo!");
    }
}
