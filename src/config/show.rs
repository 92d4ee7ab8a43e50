//! The configuration for people: the default file, the values in force with secrets hidden, README.md's table. All of
//! it comes from the table of keys.

use std::fmt::Write;

use toml::Value;

use super::keys::{Key, groups, keys};
use super::values::Config;

/// What `rainbow-server config default` prints: every key, explained and commented out, with its default.
pub fn default_toml() -> String {
    let config = Config::default();
    let mut file = String::from(DEFAULT_HEAD);
    let mut section = "";
    for group in groups() {
        let _ = write!(file, "\n# {} {}\n", group.title, "-".repeat(RULER.saturating_sub(group.title.len())));
        for key in group.keys {
            if key.section() != section {
                section = key.section();
                let _ = write!(file, "\n[{section}]\n");
            }
            let _ = write!(file, "\n# {}\n#{} = {}\n", key.doc, key.name(), key.literal(&config));
        }
    }
    file
}

/// Every key with its value in force, for people; secrets that are set read `(hidden)`.
pub fn shown(config: &Config) -> Vec<(&'static str, String)> {
    keys().map(|key| (key.path, shown_value(key, config))).collect()
}

/// Every key whose value is not its default, with its default for people.
pub fn differing(config: &Config) -> Vec<(&'static str, String)> {
    let default = Config::default();
    keys().filter(|key| !(key.same)(config, &default)).map(|key| (key.path, shown_value(key, &default))).collect()
}

/// README.md's table of keys.
pub fn markdown_table() -> String {
    let config = Config::default();
    let mut table = String::from("| key | default | allowed | what it does | reload |\n|---|---|---|---|---|\n");
    for key in keys() {
        let reload = if key.reloads { "yes" } else { "restart" };
        let allowed = key.allowed().unwrap_or_default();
        // A bar would end the cell.
        let doc = key.doc.replace('|', "\\|");
        let _ = writeln!(table, "| `{}` | `{}` | {allowed} | {doc} | {reload} |", key.path, key.literal(&config));
    }
    table
}

/// The value as a person reads it: texts without quotes, lists with commas, secrets hidden.
pub fn shown_value(key: &Key, config: &Config) -> String {
    let mut value = (key.value)(config);
    if key.path.ends_with("_url") {
        hide_queries(&mut value);
    }
    let text = plain(&value);
    match key.secret && !text.is_empty() {
        true => "(hidden)".into(),
        false => text,
    }
}

/// A URL's query may hold a password of the business server's.
fn hide_queries(urls: &mut Value) {
    for url in urls.as_array_mut().into_iter().flatten() {
        if let Value::String(url) = url
            && let Some(query) = url.find('?')
        {
            url.replace_range(query + 1.., "(hidden)");
        }
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

const DEFAULT_HEAD: &str = "\
# Rainbow's configuration: every key, with its default. Remove the # before a key to change it.
#
# Durations are seconds or texts like \"250ms\", \"3s\", \"5m\", \"2h\".
# Sizes are bytes or texts like \"64KiB\", \"1MiB\".
# URLs are one text, or a list of texts: [\"http://a/\", \"http://b/\"].
# The environment overrides this file: RAINBOW_ and the key in capitals, RAINBOW_CONNECT_URL; lists with commas.
# `rainbow-server config check -f FILE` checks a file; SIGHUP makes a running server read it again.
";

/// Headings are drawn out to this width.
const RULER: usize = 100;

/// A file that leaves no key at its default, as far as this build takes it.
#[cfg(test)]
pub(super) fn full_toml() -> String {
    let all = include_str!("../../tests/data/config/full.toml");
    all.lines().filter(|line| !is_of_another_build(line)).map(|line| format!("{line}\n")).collect()
}

/// The key may be set in builds with other features alone.
#[cfg(test)]
fn is_of_another_build(key: &str) -> bool {
    !cfg!(feature = "otlp") && key.starts_with("otlp_endpoint")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load::load as load_config;
    use std::path::Path;

    fn load(name: &str, text: &str) -> Config {
        let file = std::env::temp_dir().join(format!("rainbow-show-{}-{name}.toml", std::process::id()));
        std::fs::write(&file, text).unwrap();
        let loaded = load_config(Some(&file), std::iter::empty(), None);
        std::fs::remove_file(&file).unwrap();
        let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.notices, Vec::<String>::new());
        Config { file: None, ..loaded.config }
    }

    #[test]
    fn the_default_file_is_the_default_with_and_without_its_comment_marks() {
        let text = default_toml();
        assert_eq!(load("commented", &text), Config::default());
        let (mut keys_seen, mut live) = (0, String::new());
        for line in text.lines() {
            let key = line.strip_prefix('#').filter(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
            keys_seen += usize::from(key.is_some());
            live += key.unwrap_or(line);
            live.push('\n');
        }
        assert_eq!(keys_seen, keys().count());
        assert_eq!(load("live", &live), Config::default());
    }

    #[test]
    fn every_value_prints_so_that_it_reads_back() {
        let mut config = load("odd", &full_toml());
        let defaults = Config::default();
        for key in keys().filter(|key| !is_of_another_build(key.path)) {
            assert!(!(key.same)(&config, &defaults), "full.toml leaves {} at its default", key.path);
        }
        let printed: String = keys().map(|key| format!("{} = {}\n", key.path, key.literal(&config))).collect();
        config.file = None;
        assert_eq!(load("printed", &printed), config);
    }

    #[test]
    fn secrets_are_hidden_and_everything_else_is_shown() {
        let config = load("secrets", &full_toml());
        let shown = super::shown(&config);
        let value = |path| &shown.iter().find(|(key, _)| *key == path).unwrap().1;
        assert_eq!(value("security_token"), "(hidden)");
        assert_eq!(value("webhook_secrets"), "(hidden)");
        assert_eq!(value("admin_token"), "(hidden)");
        assert_eq!(value("connect_url"), "http://a.example:8000/connect/, http://[::1]:8001/connect/");
        assert_eq!(value("forward_url"), "http://localhost:8000/message/{message_type}/?(hidden)");
        assert_eq!(value("cores"), "0-3,6");
        assert_eq!(shown.len(), keys().count());
        let printed = format!("{config:#?}");
        for secret in keys().filter(|key| key.secret) {
            let texts = (secret.value)(&config);
            let texts = texts.as_array().map_or(vec![texts.clone()], Clone::clone);
            assert!(texts.iter().all(|text| !printed.contains(text.as_str().unwrap())), "Debug shows {}", secret.path);
        }
        let ours = keys().filter(|key| !is_of_another_build(key.path));
        assert_eq!(differing(&config).len(), ours.count(), "full.toml leaves nothing at its default");
        assert_eq!(differing(&Config::default()), []);
        let unset = super::shown(&Config::default());
        assert_eq!(unset.iter().find(|(key, _)| *key == "admin_token").unwrap().1, "");
    }

    #[test]
    fn the_readme_has_this_table() {
        let readme =
            std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/README.md")).unwrap();
        let (_, rest) = readme.split_once("<!-- config -->").expect("the README has the table");
        let (table, _) = rest.split_once("<!-- /config -->").expect("<!-- config --> is closed");
        assert_eq!(table.trim(), markdown_table().trim(), "what `config::markdown_table()` gives belongs there");
    }
}
