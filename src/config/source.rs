//! Reads a file's text into entries: which key, at which place, with which input. Two formats: TOML, and the INI that
//! the first implementation had. No key is known here, and no value is understood; any text yields entries and faults.

use std::path::Path;

use ini::{Ini, ParseOption};
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Place, Problem};
use super::kind::Input;

/// The content of a file.
pub struct Source {
    pub entries: Vec<Entry>,
    pub faults: Vec<Fault>,
    pub format: Format,
}

/// One `key = value`, or an empty section.
pub struct Entry {
    /// The table or section; empty for the top level and for `[main]`.
    pub section: String,
    /// `None`: the section's own heading.
    pub name: Option<String>,
    pub input: Input,
    /// The bytes at which the name and the value begin.
    pub name_offset: usize,
    pub value_offset: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Toml,
    /// The 2014 file.
    Ini,
}

/// Turns bytes of a text into places of a file.
pub struct Lines<'a> {
    file: &'a Path,
    text: &'a str,
    /// Where each line begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub fn new(file: &'a Path, text: &'a str) -> Lines<'a> {
        let newlines = text.match_indices('\n').map(|(newline, _)| newline + 1);
        Lines { file, text, starts: std::iter::once(0).chain(newlines).collect() }
    }

    pub fn place(&self, offset: usize) -> Place {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let line = self.starts.partition_point(|start| *start <= offset);
        let column = self.text[self.starts[line - 1]..offset].chars().count() + 1;
        Place::Line { file: self.file.to_owned(), line, column }
    }
}

impl Source {
    /// The file's ending decides the format; where it does not, the text does.
    pub fn read(lines: &Lines) -> Source {
        match Format::of(lines.file, lines.text) {
            Format::Toml => read_toml(lines),
            Format::Ini => read_ini(lines),
        }
    }
}

impl Format {
    fn of(file: &Path, text: &str) -> Format {
        match file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase).as_deref() {
            Some("toml") => return Format::Toml,
            Some("ini") => return Format::Ini,
            _ => {}
        }
        // An INI has its [main], and never a quote before a value: in 2014 it would have become part of the value.
        let main = text.lines().any(|line| line.trim_start().starts_with("[main]"));
        let quoted = text
            .lines()
            .any(|line| line.split_once('=').is_some_and(|(_, value)| value.trim_start().starts_with(['"', '\''])));
        match main && !quoted && DeTable::parse(text).is_err() {
            true => Format::Ini,
            false => Format::Toml,
        }
    }
}

fn read_toml(lines: &Lines) -> Source {
    let (table, errors) = DeTable::parse_recoverable(lines.text);
    let mut source = Source { entries: Vec::new(), faults: Vec::new(), format: Format::Toml };
    for error in errors {
        let place = lines.place(error.span().map_or(0, |span| span.start));
        // What follows on the same line is mostly an echo of the first error.
        if source.faults.iter().all(|fault: &Fault| fault.place.line() != place.line()) {
            let problem = Problem::Toml { what: error.message().to_owned() };
            source.faults.push(Fault { place, key: None, problem });
        }
    }
    source.faults.sort_by_key(|fault| fault.place.line());
    for (name, value) in table.get_ref() {
        match value.get_ref() {
            DeValue::Table(section) => {
                let section_name = if name.get_ref() == "main" { "" } else { name.get_ref().as_ref() };
                source.entries.push(entry(section_name, None, name.span().start, value));
                for (name, value) in section {
                    source.entries.push(entry(section_name, Some(name.get_ref()), name.span().start, value));
                }
            }
            _ => source.entries.push(entry("", Some(name.get_ref()), name.span().start, value)),
        }
    }
    source.entries.sort_by_key(|entry| entry.name_offset);
    source
}

fn entry(section: &str, name: Option<&str>, name_offset: usize, value: &toml::Spanned<DeValue>) -> Entry {
    Entry {
        section: section.to_owned(),
        name: name.map(str::to_owned),
        input: toml_input(value.get_ref(), 0),
        name_offset,
        value_offset: value.span().start,
    }
}

fn toml_input(value: &DeValue, depth: usize) -> Input {
    match value {
        DeValue::String(text) => Input::Text(text.to_string()),
        DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Input::Integer(number),
            Err(_) => Input::Other("a number with too many digits"),
        },
        DeValue::Float(number) => number.as_str().parse().map_or(Input::Other("a number"), Input::Float),
        DeValue::Boolean(switch) => Input::Boolean(*switch),
        DeValue::Datetime(_) => Input::Other("a date or a time"),
        DeValue::Table(_) => Input::Other("a table"),
        // No key takes lists of lists; what lies deeper is not copied.
        DeValue::Array(_) if depth > 0 => Input::Other("a list"),
        DeValue::Array(items) => {
            Input::List(items.iter().map(|item| (item.span().start, toml_input(item.get_ref(), depth + 1))).collect())
        }
    }
}

/// Line by line through rust-ini, which by itself stops at the first error and keeps no line numbers.
///
/// As Python 2's ConfigParser read it: keys compare without case, `;` after white space begins a comment, `#` and `;`
/// do so at the start of a line, quotes and backslashes mean nothing.
fn read_ini(lines: &Lines) -> Source {
    let mut source = Source { entries: Vec::new(), faults: Vec::new(), format: Format::Ini };
    let mut section = String::new();
    let mut line_offset = 0;
    for line in lines.text.split_inclusive('\n') {
        let (line_start, text) = (line_offset, without_comment(line));
        line_offset += line.len();
        let offset = line_start + (line.len() - line.trim_start_matches(BLANK).len());
        if text.is_empty() {
            continue;
        }
        match parse_ini_line(text) {
            Some(IniLine::Section(name)) => {
                section = if name == "main" { String::new() } else { name };
                let entry = Entry {
                    section: section.clone(),
                    name: None,
                    input: Input::Other("a section"),
                    name_offset: offset,
                    value_offset: offset,
                };
                source.entries.push(entry);
            }
            Some(IniLine::Pair(name, value)) => source.entries.push(Entry {
                section: section.clone(),
                name: Some(name.to_lowercase()),
                value_offset: line_start + value_start(line),
                input: Input::Loose(value),
                name_offset: offset,
            }),
            None => source.faults.push(Fault { place: lines.place(offset), key: None, problem: Problem::IniLine }),
        }
    }
    source
}

enum IniLine {
    Section(String),
    Pair(String, String),
}

/// `None` for what is neither.
fn parse_ini_line(text: &str) -> Option<IniLine> {
    let option = ParseOption { enabled_quote: false, enabled_escape: false, ..ParseOption::default() };
    let parsed = Ini::load_from_str_opt(text, option).ok()?;
    let mut found = parsed.iter().flat_map(|(section, pairs)| {
        let heading = section.map(|name| IniLine::Section(name.to_owned()));
        let pairs = pairs.iter().map(|(name, value)| match value {
            // How an empty value was written in 2014.
            "\"\"" => IniLine::Pair(name.to_owned(), String::new()),
            _ => IniLine::Pair(name.to_owned(), value.to_owned()),
        });
        heading.into_iter().chain(pairs)
    });
    let first = found.next()?;
    found.next().is_none().then_some(first)
}

/// The line without what is around it: blanks, and a comment.
fn without_comment(line: &str) -> &str {
    let line = line.trim_matches(BLANK);
    if line.starts_with([';', '#']) {
        return "";
    }
    let comment = line.match_indices(';').find(|(start, _)| line[..*start].ends_with(char::is_whitespace));
    line[..comment.map_or(line.len(), |(start, _)| start)].trim_end_matches(BLANK)
}

/// The byte of the line at which the value begins; the line's end when it is empty.
fn value_start(line: &str) -> usize {
    let after = line.find(['=', ':']).map_or(line.len(), |separator| separator + 1);
    let value = line[after..].trim_start_matches(BLANK);
    if value.is_empty() { after } else { line.len() - value.len() }
}

/// White space, line ends, and the mark that some editors put at a file's start.
const BLANK: fn(char) -> bool = |c| c.is_whitespace() || c == '\u{FEFF}';
