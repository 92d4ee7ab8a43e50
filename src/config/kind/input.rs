//! Values as their sources give them, the bounds that they are checked against, and why one is refused.

use crate::config::fault::{Problem, excerpt};

/// A value as its source gave it.
#[derive(Clone, Debug)]
pub enum Input {
    /// From an environment variable or a 2014 file: its type is whatever the key wants.
    Loose(String),
    /// A TOML string.
    Text(String),
    Boolean(bool),
    Integer(i128),
    Float(f64),
    /// Each element with the byte it begins at.
    List(Vec<(usize, Input)>),
    /// A value that no key takes, with a name for it.
    Other(&'static str),
}

/// Why an input was refused. `offset` is set when one element of a list is wrong.
#[derive(Debug)]
pub struct Wrong {
    pub problem: Problem,
    pub offset: Option<usize>,
}

impl From<Problem> for Wrong {
    fn from(problem: Problem) -> Wrong {
        Wrong { problem, offset: None }
    }
}

/// The lowest and highest value that a key takes.
#[derive(Clone, Copy)]
pub struct Bounds {
    pub min: u64,
    pub max: u64,
    /// `max` is the key's own, not one that only catches typing errors.
    pub has_max: bool,
    /// How a bound of this kind is written.
    pub unit: fn(u64) -> String,
}

impl Bounds {
    pub fn check(self, value: u64) -> Result<u64, Problem> {
        let text = self.unit;
        match value {
            _ if value < self.min => Err(Problem::TooSmall { value: text(value), min: text(self.min) }),
            _ if value > self.max => Err(Problem::TooLarge { value: text(value), max: text(self.max) }),
            _ => Ok(value),
        }
    }
}

pub fn wrong_type(expected: &'static str, found: &Input) -> Wrong {
    let found = match found {
        Input::Loose(_) | Input::Text(_) => "a text",
        Input::Boolean(_) => "true or false",
        Input::Integer(_) => "a number",
        Input::Float(_) => "a number with a fraction",
        Input::List(_) => "a list",
        Input::Other(name) => name,
    };
    Problem::WrongType { expected, found }.into()
}

pub fn unparsable(text: &str, expected: &'static str, hint: &str) -> Wrong {
    Problem::Unparsable { text: excerpt(text), expected, hint: hint.to_owned() }.into()
}
