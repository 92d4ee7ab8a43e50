//! Texts and lists of texts: tokens, URLs, origins, secrets. Nothing of a secret is ever quoted.

use toml::Value;

use super::input::{Bounds, Input, Wrong, wrong_type};
use crate::base::network::Network;
use crate::config::fault::{Problem, excerpt};
use crate::config::url::HttpUrl;
use crate::wire::sign::WebhookKey;

/// Unlike `text_of`, keeps what a TOML string has at its ends: it may be a token.
pub fn read_text(input: &Input, _: Bounds) -> Result<String, Wrong> {
    let text = match input {
        Input::Loose(text) => text.trim(),
        Input::Text(text) => text,
        _ => return Err(wrong_type("a text", input)),
    };
    match text.chars().any(char::is_control) {
        true => Err(Problem::Text { what: "the text holds a control character", hint: "Remove it." }.into()),
        false => Ok(text.to_owned()),
    }
}

pub fn text_of<'a>(input: &'a Input, expected: &'static str) -> Result<&'a str, Wrong> {
    match input {
        Input::Loose(text) | Input::Text(text) => Ok(text.trim()),
        _ => Err(wrong_type(expected, input)),
    }
}

/// A list: an array of strings, one string, or a loose text that `split` takes apart. Every element is checked.
pub fn read_list(
    input: &Input,
    split: fn(&str) -> Vec<&str>,
    mut check: impl FnMut(&str) -> Result<String, Problem>,
) -> Result<Vec<String>, Wrong> {
    match input {
        Input::Loose(text) => split(text).into_iter().map(|item| Ok(check(item)?)).collect(),
        Input::Text(text) if text.trim().is_empty() => Ok(Vec::new()),
        Input::Text(text) => Ok(vec![check(text.trim())?]),
        Input::List(items) => items
            .iter()
            .map(|(offset, item)| {
                let checked = match item {
                    Input::Text(text) => check(text.trim()),
                    other => Err(wrong_type("a text", other).problem),
                };
                checked.map_err(|problem| Wrong { problem, offset: Some(*offset) })
            })
            .collect(),
        _ => Err(wrong_type("a text or a list of texts", input)),
    }
}

pub fn split_commas(text: &str) -> Vec<&str> {
    text.split(',').map(str::trim).filter(|item| !item.is_empty()).collect()
}

/// Commas may stand in a URL; one that separates URLs has a scheme after it.
pub fn split_urls(text: &str) -> Vec<&str> {
    let mut urls = Vec::new();
    let mut start = 0;
    for (comma, _) in text.match_indices(',') {
        let after = text[comma + 1..].trim_start();
        let letters = after.len() - after.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        if letters > 0 && after[letters..].starts_with("://") {
            urls.push(&text[start..comma]);
            start = comma + 1;
        }
    }
    urls.push(&text[start..]);
    urls.into_iter().map(str::trim).filter(|url| !url.is_empty()).collect()
}

pub fn check_url(url: &str, placeholder: Option<&'static str>) -> Result<String, Problem> {
    let parsed = match HttpUrl::parse(url) {
        Ok(parsed) => parsed,
        Err(why) => return Err(Problem::Url { url: quotable(url), why }),
    };
    let rest = match placeholder {
        Some(known) => parsed.path_and_query.replace(known, ""),
        None => parsed.path_and_query,
    };
    match rest.find(['{', '}']) {
        None => Ok(url.to_owned()),
        Some(start) => {
            let end = rest[start..].find('}').map_or(rest.len(), |end| start + end + 1);
            let known = match placeholder {
                Some(_) => "Did you mean {message_type}? Other braces must be percent-encoded (%7B, %7D).",
                None => "Only forward_url knows {message_type}; other braces must be percent-encoded (%7B, %7D).",
            };
            let is_in_query = rest[..start].contains('?');
            let placeholder = if is_in_query { "{…}".into() } else { excerpt(&rest[start..end]) };
            Err(Problem::Placeholder { url: quotable(url), placeholder, known })
        }
    }
}

/// `host:port`, with the brackets of an IPv6 address.
pub fn check_seed(seed: &str) -> Result<String, Problem> {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    let is_host = |host: &str| !host.is_empty() && !host.contains(['/', ' ', '@']);
    match seed.rsplit_once(':') {
        Some((host, port)) if is_port(port) && is_host(host) && (!host.contains(':') || host.ends_with(']')) => {
            Ok(seed.to_owned())
        }
        _ => Err(Problem::Unparsable {
            text: excerpt(seed),
            expected: "a host with a port",
            hint: "Write e.g. 10.0.0.2:1984, node2.example.com:1984 or [fd00::2]:1984.".into(),
        }),
    }
}

/// A URL as far as it may be shown: its account and its query may hold a password.
fn quotable(url: &str) -> String {
    match url.find(['?', '#']) {
        _ if url.contains('@') => "http://…@…".into(),
        Some(end) => excerpt(&format!("{}…", &url[..=end])),
        None => excerpt(url),
    }
}

/// RFC 6454 section 6.2: `scheme://host[:port]`, lower case, without a scheme's own port; or `null`.
pub fn check_origin(origin: &str) -> Result<String, Problem> {
    let no = |why, hint| Err(Problem::Origin { origin: excerpt(origin), why, hint });
    let lower = origin.to_ascii_lowercase();
    if lower == "null" {
        return Ok(lower);
    }
    if lower == "*" {
        return Ok(lower);
    }
    let Some((scheme, rest)) = lower.split_once("://").filter(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
    else {
        return no("a scheme and a host are needed", "Write it like https://chat.example.com.");
    };
    if rest.contains(['/', '?', '#', '@', '*', ' ']) || !rest.is_ascii() {
        return no(
            "only scheme, host and port belong here",
            "Write it like https://chat.example.com, without a / at the end.",
        );
    }
    if (scheme == "https" && rest.ends_with(":443")) || (scheme == "http" && rest.ends_with(":80")) {
        return no("browsers leave the scheme's own port out", "Remove the port.");
    }
    Ok(lower)
}

pub fn check_host(text: &str) -> Result<String, Problem> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.is_empty() || !text.chars().all(is_name) {
        let hint = "Write it like ops.example.com, without a scheme and a port.";
        return Err(Problem::Unparsable { text: excerpt(text), expected: "a host's name", hint: hint.into() });
    }
    Ok(text.to_ascii_lowercase())
}

pub fn check_network(text: &str) -> Result<String, Problem> {
    match text.parse::<Network>() {
        Ok(network) => Ok(network.to_string()),
        Err(_) => Err(Problem::Network { text: excerpt(text) }),
    }
}

/// Secrets are parsed here only to be refused early; the signing code parses them itself.
pub fn check_secret(secret: &str, nth: usize) -> Result<String, Problem> {
    let nth = ["first", "second", "third"].get(nth - 1).copied().unwrap_or("next");
    match WebhookKey::parse(secret) {
        Ok(_) => Ok(secret.to_owned()),
        Err(why) => Err(Problem::Secret { nth, why }),
    }
}

pub fn texts(texts: impl Iterator<Item = impl Into<String>>) -> Value {
    Value::Array(texts.map(|text| Value::String(text.into())).collect())
}
