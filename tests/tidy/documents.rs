//! Documents: links lead to files and headings that exist, and the first page stays short.

use crate::{File, extension};
use std::fs;
use std::path::Path;

/// Links of a document in Markdown: to files of the repository, and to headings in them.
pub fn check(file: &File) -> Vec<String> {
    let path = &file.path;
    if extension(path) != Some("md") {
        return Vec::new();
    }
    let lines = file.text.lines().count();
    let long = path == "README.md" && lines > FIRST_PAGE_LINES_MAX;
    let mut findings: Vec<String> = long
        .then(|| {
            format!("{path}:1: {lines} lines, over {FIRST_PAGE_LINES_MAX}; reference lies beside what it describes")
        })
        .into_iter()
        .collect();
    for (number, target) in links(&file.text) {
        if let Some(what) = fault(file, target) {
            findings.push(format!("{path}:{number}: the link {target} {what}"));
        }
    }
    findings
}

/// Line and target of each link and picture; what stands in code is none.
fn links(text: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_code = false;
    for (number, line) in (1..).zip(text.lines()) {
        in_code ^= line.starts_with("```");
        if in_code || line.starts_with("    ") {
            continue;
        }
        for (opening, closing) in [("](", ')'), ("src=\"", '"'), ("srcset=\"", '"')] {
            let targets = line.match_indices(opening).filter_map(|(at, _)| {
                let is_code = line[..at].matches('`').count() % 2 == 1;
                let rest = &line[at + opening.len()..];
                (!is_code).then(|| rest.split_once(closing))?.map(|(target, _)| target)
            });
            found.extend(targets.map(|target| (number, target)));
        }
    }
    found
}

fn fault(file: &File, target: &str) -> Option<String> {
    if target.starts_with("http://") || target.starts_with("https://") {
        return None;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (to, heading) = target.split_once('#').map_or((target, None), |(to, heading)| (to, Some(heading)));
    let to = match to {
        "" => root.join(&file.path),
        to => root.join(&file.path).parent().expect("a file lies in a folder").join(to),
    };
    if !to.exists() {
        return Some("leads to no file".into());
    }
    let heading = heading?;
    let text = if target.starts_with('#') { file.text.clone() } else { fs::read_to_string(&to).unwrap_or_default() };
    let titles = text.lines().filter(|line| line.starts_with('#'));
    let has_it = titles.map(|title| anchor(title.trim_start_matches('#').trim())).any(|found| found == heading);
    (!has_it).then(|| "names no heading there".into())
}

/// As the pages of repositories make it of a heading.
fn anchor(title: &str) -> String {
    let characters = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    characters.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect()
}

const FIRST_PAGE_LINES_MAX: usize = 300;

#[cfg(test)]
mod tests {
    use super::{FIRST_PAGE_LINES_MAX, anchor};
    use crate::planted::{caught, clean, findings};

    #[test]
    fn a_link_that_leads_nowhere_is_caught() {
        caught("README.md", "[a](no/such/file.md)", "leads to no file");
        caught("README.md", "![a](no.png)", "leads to no file");
        caught("README.md", "<img src=\"no.png\">", "leads to no file");
        caught("src/store/README.md", "[a](src/lib.rs)", "leads to no file");
        caught("README.md", "[a](tests/README.md#no-such-heading)", "names no heading there");
        caught("README.md", "[a](#nowhere)", "names no heading there");
        clean("src/store/README.md", "[a](../lib.rs), [b](https://example.org/none), `[c](none)`");
        clean("README.md", "[a](tests/README.md#tests)\n## How fast, and why?\n[b](#how-fast-and-why)");
        clean("README.md", "```\n[a](none)\n```");
        assert_eq!(anchor("The business server"), "the-business-server");
    }

    #[test]
    fn a_long_first_page_is_caught() {
        let long = "a line\n".repeat(FIRST_PAGE_LINES_MAX);
        assert!(findings("README.md", &long).is_empty());
        assert!(findings("README.md", &format!("{long}one more\n"))[0].contains("over 300"));
        assert!(findings("src/config/README.md", &long.repeat(2)).is_empty());
    }
}
