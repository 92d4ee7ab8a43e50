//! What does not pass yet: for each rule, the parts of the tree in which its findings are held back.
//!
//! The table shrinks and ends empty. `RAINBOW_TIDY=all cargo test --test tidy the_house` shows all that it hides.

/// The findings without those that lie below a path that is exempt from `rule`.
pub fn hold_back(rule: &str, findings: Vec<String>) -> Vec<String> {
    findings.into_iter().filter(|finding| !is_exempt(rule, finding)).collect()
}

pub fn is_exempt(rule: &str, path: &str) -> bool {
    let shows_all = std::env::var("RAINBOW_TIDY").is_ok_and(|value| value == "all");
    let listed =
        |(of, prefixes): &(&str, &[&str])| *of == rule && prefixes.iter().any(|prefix| path.starts_with(prefix));
    !shows_all && NOT_YET.iter().any(listed)
}

/// Per rule, the beginnings of paths.
const NOT_YET: &[(&str, &[&str])] = &[
    ("columns", &["src/shard/"]),
    ("words", &["src/shard/"]),
    ("length", &["src/shard/"]),
    ("layout", &["src/shard/"]),
    ("circles", &["src/shard/"]),
    ("twins", &["src/shard/"]),
];
