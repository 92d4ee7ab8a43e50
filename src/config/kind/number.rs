//! Durations, sizes, counts and sets of CPUs: read in every form a person may write, printed in the shortest that reads
//! back as the same.

use std::collections::BTreeSet;
use std::time::Duration;

use super::input::{Bounds, Input, Wrong, unparsable, wrong_type};
use crate::config::fault::{Problem, excerpt};

pub fn read_duration(input: &Input, bounds: Bounds) -> Result<Duration, Wrong> {
    const EXPECTED: &str = "a duration";
    const HINT: &str = "Write a number of seconds, or a text like \"250ms\", \"3s\", \"5m\" or \"2h\".";
    let (quoted, ms) = match input {
        Input::Integer(seconds) => (seconds.to_string(), *seconds as f64 * 1000.0),
        Input::Float(seconds) => (seconds.to_string(), *seconds * 1000.0),
        Input::Loose(text) | Input::Text(text) => {
            let text = text.trim();
            let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
            let unit_ms = match text[digits..].trim() {
                "ms" => 1.0,
                "" | "s" => 1e3,
                "m" | "min" => 60e3,
                "h" => 3600e3,
                _ => return Err(unparsable(text, EXPECTED, HINT)),
            };
            let number: f64 = text[..digits].parse().map_err(|_| unparsable(text, EXPECTED, HINT))?;
            (text.to_owned(), number * unit_ms)
        }
        _ => return Err(wrong_type("a number of seconds or a text like \"3s\"", input)),
    };
    // What is too large is caught by the bounds: `as` saturates.
    match ms {
        ms if ms.is_nan() || ms < 0.0 => Err(unparsable(&quoted, EXPECTED, HINT)),
        ms if ms > 0.0 && ms < 0.5 => Err(Problem::TooSmall { value: excerpt(&quoted), min: "1ms".into() }.into()),
        ms => Ok(Duration::from_millis(bounds.check(ms.round() as u64)?)),
    }
}

pub fn read_size(input: &Input) -> Result<u64, Wrong> {
    let (Input::Loose(text) | Input::Text(text)) = input else {
        return read_number(input, "a number of bytes or a text like \"64KiB\"");
    };
    let text = text.trim();
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').len();
    let shift = match text[digits..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kib" => 10,
        "mib" => 20,
        "gib" => 30,
        unit => {
            let hint = match unit {
                "k" | "kb" => "Write KiB (1024 bytes).",
                "m" | "mb" => "Write MiB (1024 KiB).",
                "g" | "gb" => "Write GiB (1024 MiB).",
                _ => "Write a number of bytes, or a text like \"64KiB\" or \"1MiB\".",
            };
            return Err(unparsable(text, "a size", hint));
        }
    };
    let number = parse_digits(&text[..digits])
        .ok_or_else(|| unparsable(text, "a size", "Write a number of bytes, or a text like \"64KiB\" or \"1MiB\"."))?;
    Ok(number.saturating_mul(1 << shift))
}

pub fn read_whole(input: &Input) -> Result<u64, Wrong> {
    match input {
        Input::Loose(text) => parse_digits(text.trim())
            .ok_or_else(|| unparsable(text, "a whole number", "Write digits only, without quotes or a sign.")),
        _ => read_number(input, "a whole number"),
    }
}

/// A TOML integer; too large ones saturate, so that the bounds refuse them.
pub fn read_number(input: &Input, expected: &'static str) -> Result<u64, Wrong> {
    match input {
        Input::Integer(number) if *number < 0 => {
            Err(Problem::TooSmall { value: number.to_string(), min: "0".into() }.into())
        }
        Input::Integer(number) => Ok(u64::try_from(*number).unwrap_or(u64::MAX)),
        _ => Err(wrong_type(expected, input)),
    }
}

/// Underscores may separate digits, as in TOML; too many digits saturate.
pub fn parse_digits(text: &str) -> Option<u64> {
    let digits = text.replace('_', "");
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

pub fn read_factor(input: &Input, bounds: Bounds) -> Result<f64, Wrong> {
    let factor = match input {
        Input::Integer(number) => *number as f64,
        Input::Float(number) => *number,
        Input::Loose(text) => text.trim().parse().map_err(|_| unparsable(text, "a number", "Write e.g. 1.5."))?,
        _ => return Err(wrong_type("a number", input)),
    };
    match factor {
        _ if factor.is_nan() || factor < bounds.min as f64 => {
            Err(Problem::TooSmall { value: factor.to_string(), min: bounds.min.to_string() }.into())
        }
        _ if factor > bounds.max as f64 => {
            Err(Problem::TooLarge { value: factor.to_string(), max: bounds.max.to_string() }.into())
        }
        _ => Ok(factor),
    }
}

pub fn read_cores(input: &Input, bounds: Bounds, cores: &mut BTreeSet<usize>) -> Result<(), Wrong> {
    const HINT: &str = "Write e.g. \"0-3,6\", or \"all\".";
    let text = match input {
        Input::Integer(_) => {
            cores.insert(bounds.check(read_whole(input)?)? as usize);
            return Ok(());
        }
        Input::Loose(text) | Input::Text(text) => text.trim(),
        _ => return Err(wrong_type("a text like \"0-3,6\" or a list of numbers", input)),
    };
    if matches!(text, "" | "all") {
        return Ok(());
    }
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |digits: &str| {
            parse_digits(digits.trim()).ok_or_else(|| unparsable(part, "a CPU or a range of CPUs", HINT))
        };
        let (first, last) = (bounds.check(number(first)?)?, bounds.check(number(last)?)?);
        if first > last {
            return Err(unparsable(part, "a range of CPUs", "Write the lower number first."));
        }
        cores.extend(first as usize..=last as usize);
    }
    Ok(())
}

pub fn print_ms(ms: u64) -> String {
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}

pub fn print_size(bytes: u64) -> String {
    match bytes {
        0 => "0".into(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => bytes.to_string(),
    }
}

pub fn print_cores(cores: &BTreeSet<usize>) -> String {
    if cores.is_empty() {
        return "all".into();
    }
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &core in cores {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == core => *last = core,
            _ => runs.push((core, core)),
        }
    }
    let print = |&(first, last): &(usize, usize)| match first == last {
        true => first.to_string(),
        false => format!("{first}-{last}"),
    };
    runs.iter().map(print).collect::<Vec<_>>().join(",")
}
