//! What can be wrong with a configuration, in words that the operator can act on: where, which key, what, what to do.
//! All faults of all sources are collected and reported at once. The value of a secret never gets into a fault.

use std::fmt;
use std::path::PathBuf;

use thiserror::Error;

use super::store_url::StoreUrlError;
use super::url::UrlError;
use crate::wire::sign::SignError;

/// Everything that is wrong, in the order of the sources: file, environment, command line. Never empty.
#[derive(Debug)]
pub struct ConfigErrors(pub Vec<Fault>);

/// One thing that is wrong. Prints as `file:line:column: key: problem. Hint.`
#[derive(Debug)]
pub struct Fault {
    pub place: Place,
    /// As it was written; `None` where the fault concerns no key.
    pub key: Option<String>,
    pub problem: Problem,
}

/// Where a value, or a fault, comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    Default,
    /// Line and column count from 1; the column counts characters.
    Line {
        file: PathBuf,
        line: usize,
        column: usize,
    },
    File(PathBuf),
    /// The name of an environment variable.
    Variable(String),
    /// The name of a command line option.
    Option(&'static str),
}

/// What is wrong. Values are quoted only where they are no secrets.
#[derive(Debug, Error)]
pub enum Problem {
    #[error("cannot be read: {0}")]
    Unreadable(std::io::Error),
    #[error("is larger than {max} bytes")]
    FileTooLarge { max: u64 },
    #[error("this byte is not UTF-8")]
    NotUtf8,
    #[error("syntax error: {what}")]
    Toml { what: String },
    #[error("neither a [section] nor a line `key = value`")]
    IniLine,
    #[error("unknown key")]
    UnknownKey { nearest: Nearest },
    #[error("unknown section")]
    UnknownSection { nearest: Nearest },
    #[error("unknown variable")]
    UnknownVariable { nearest: Nearest },
    #[error("set a second time, first in line {first}")]
    Twice { first: usize },
    #[error("{expected} is expected here, not {found}")]
    WrongType { expected: &'static str, found: &'static str },
    #[error("{text:?} is not {expected}")]
    Unparsable { text: String, expected: &'static str, hint: String },
    #[error("{value} is less than {min}")]
    TooSmall { value: String, min: String },
    #[error("{value} is more than {max}")]
    TooLarge { value: String, max: String },
    #[error("{value} is less than {other} ({other_value})")]
    BelowOther { value: String, other: &'static str, other_value: String },
    #[error("{value} is more than {other} ({other_value})")]
    AboveOther { value: String, other: &'static str, other_value: String },
    #[error("{url:?}: {why}")]
    Url { url: String, why: UrlError },
    #[error("{why}")]
    StoreUrl { why: StoreUrlError },
    #[error("{url:?}: {placeholder} stands for nothing here")]
    Placeholder { url: String, placeholder: String, known: &'static str },
    #[error("{origin:?} is no origin: {why}")]
    Origin { origin: String, why: &'static str, hint: &'static str },
    #[error("{text:?} is no address and no network")]
    Network { text: String },
    #[error("proxy_protocol without trusted_proxies lets nobody in")]
    ProxyProtocolWithoutProxies,
    #[error("the {nth} one: {why}")]
    Secret { nth: &'static str, why: SignError },
    #[error("{count} secrets, but at most {max} are in use at a time")]
    TooManySecrets { count: usize, max: usize },
    #[error("{what}")]
    Text { what: &'static str, hint: &'static str },
    #[error("\"webhook\" without webhook_secrets lets no call in")]
    RequireWithoutSecrets,
    #[error("\"redis\" without store.url leads nowhere")]
    RedisWithoutUrl,
    #[error("port {port} may be {other}'s, too")]
    SamePort { port: u16, key: &'static str, other: &'static str },
}

/// The known name that is most like an unknown one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nearest {
    pub name: String,
    /// Near enough that it was probably meant.
    pub likely: bool,
}

impl Nearest {
    /// The one of `known` that is most like `unknown`. `known` must not be empty.
    pub fn of<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Nearest {
        let unknown: String = unknown.to_lowercase().chars().take(NAME_CHARS_MAX).collect();
        let likeness = |name: &str| {
            let name = name.to_lowercase();
            // A part of a name (`port` for `http_port`) is farther in letters than in meaning.
            let part = unknown.len() >= 4 && (name.contains(&unknown) || unknown.contains(&name));
            strsim::normalized_damerau_levenshtein(&unknown, &name).max(if part { 0.7 } else { 0.0 })
        };
        let (name, likeness) = known
            .into_iter()
            .map(|name| (name, likeness(name)))
            .reduce(|best, next| if next.1 > best.1 { next } else { best })
            .expect("there are known names");
        Nearest { name: name.to_owned(), likely: likeness >= 0.6 }
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.likely {
            true => write!(f, "Did you mean {}?", self.name),
            false => {
                write!(f, "The nearest known one is {}; `rainbow-server config default` lists them all.", self.name)
            }
        }
    }
}

impl Problem {
    /// What to do about it, as a sentence.
    pub fn hint(&self) -> String {
        match self {
            Problem::Unreadable(_) => "Name a file that exists and that this user may read.".into(),
            Problem::FileTooLarge { .. } => "Name a configuration file.".into(),
            Problem::NotUtf8 => "Save the file as UTF-8.".into(),
            Problem::Toml { .. } => {
                "A TOML line is `key = value`; texts stand in \"quotes\", lists in [brackets].".into()
            }
            Problem::IniLine => "Complete the line, or begin it with ; to make it a comment.".into(),
            Problem::UnknownKey { nearest }
            | Problem::UnknownSection { nearest }
            | Problem::UnknownVariable { nearest } => nearest.to_string(),
            Problem::Twice { .. } => "Remove one of the two.".into(),
            Problem::WrongType { found: "a number", expected: "a text" } => "Put it in \"quotes\".".into(),
            Problem::WrongType { expected, .. } => format!("Write {expected}."),
            Problem::Unparsable { hint, .. } => hint.clone(),
            Problem::TooSmall { min, .. } => format!("Set it to {min} or more."),
            Problem::TooLarge { max, .. } => format!("Set it to {max} or less."),
            Problem::BelowOther { other, .. } => format!("Raise it, or lower {other}."),
            Problem::AboveOther { other, .. } => format!("Lower it, or raise {other}."),
            Problem::Url { why, .. } => why.hint().into(),
            Problem::StoreUrl { why } => why.hint().into(),
            Problem::Placeholder { known, .. } => (*known).into(),
            Problem::Origin { hint, .. } | Problem::Text { hint, .. } => (*hint).into(),
            Problem::Network { .. } => "Write e.g. 10.0.0.0/8, 192.0.2.7 or fd00::/8.".into(),
            Problem::ProxyProtocolWithoutProxies => "Name the proxies in trusted_proxies.".into(),
            Problem::Secret { .. } => {
                "Make one with `echo whsec_$(head -c 32 /dev/urandom | base64)` and give it to the backend as well."
                    .into()
            }
            Problem::TooManySecrets { .. } => "Keep the new one and the one it replaces.".into(),
            Problem::RequireWithoutSecrets => "Set webhook_secrets, or signature_require = \"any\".".into(),
            Problem::RedisWithoutUrl => {
                "Set store.url, e.g. redis://localhost:6379, or store.kind = \"sqlite\".".into()
            }
            Problem::SamePort { key, other: "http_port", .. } => {
                format!("Give {key} another port, or set http_port.")
            }
            Problem::SamePort { key, .. } => format!("Give {key} another port."),
        }
    }
}

impl Place {
    /// The line of a file, for ordering and for "first in line …"; 0 for all other places.
    pub fn line(&self) -> usize {
        match self {
            Place::Line { line, .. } => *line,
            _ => 0,
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Default => f.write_str("default"),
            Place::Line { file, line, column } => write!(f, "{}:{line}:{column}", file.display()),
            Place::File(file) => write!(f, "{}", file.display()),
            Place::Variable(name) => f.write_str(&printable(name)),
            Place::Option(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{}: ", printable(key))?;
        }
        write!(f, "{}. {}", self.problem, self.problem.hint())
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.0.iter().take(FAULTS_SHOWN_MAX).enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{fault}")?;
        }
        match self.0.len().saturating_sub(FAULTS_SHOWN_MAX) {
            0 => Ok(()),
            more => write!(f, "\n… and {more} more. Is this a configuration file?"),
        }
    }
}

impl std::error::Error for ConfigErrors {}

/// A foreign text, shortened, for quoting in a message.
pub fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// Keys and variables come from outside: a terminal must not obey what stands in them.
fn printable(name: &str) -> String {
    excerpt(name).chars().map(|c| if c.is_control() { '\u{FFFD}' } else { c }).collect()
}

/// Twice as many as there are keys: more faults than that come from a file that was meant for something else.
const FAULTS_SHOWN_MAX: usize = 100;

/// Longer than any URL a person would type; keeps one message on a few lines.
const EXCERPT_CHARS: usize = 120;

/// The comparison is quadratic; no known name is half as long.
const NAME_CHARS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_wins_and_says_how_near_it_is() {
        let known = ["http_port", "connect_url", "connect_timeout"];
        let nearest = |unknown| Nearest::of(unknown, known);
        assert_eq!(nearest("conect_url"), Nearest { name: "connect_url".into(), likely: true });
        assert_eq!(nearest("port"), Nearest { name: "http_port".into(), likely: true });
        assert_eq!(nearest("CONNECT_URL"), Nearest { name: "connect_url".into(), likely: true });
        assert!(!nearest("zzz").likely);
        assert!(!nearest(&"é".repeat(100_000)).likely);
    }

    #[test]
    fn a_file_of_another_kind_does_not_flood_the_screen() {
        let fault = || Fault { place: Place::Default, key: None, problem: Problem::IniLine };
        let lines = |count| ConfigErrors((0..count).map(|_| fault()).collect()).to_string().lines().count();
        assert_eq!((lines(1), lines(100), lines(101), lines(5000)), (1, 100, 101, 101));
    }

    #[test]
    fn a_hostile_key_cannot_drive_the_terminal() {
        let nearest = Nearest { name: "log".into(), likely: false };
        let key = Some("\u{1b}[2J\nlog".to_owned());
        let fault = Fault { place: Place::Default, key, problem: Problem::UnknownKey { nearest } };
        assert!(!fault.to_string().contains(['\u{1b}', '\n']));
    }
}
