//! Every test that tests/traps.md names is there, in the files that it names.

use crate::File;

/// One finding for each name that leads nowhere.
pub fn check(files: &[File]) -> Vec<String> {
    let Some(table) = files.iter().find(|file| file.path == TABLE) else { return Vec::new() };
    let rows = table.text.lines().enumerate().filter(|(_, row)| row.starts_with("| "));
    rows.flat_map(|(at, row)| missing(row, files).map(move |what| format!("{TABLE}:{}: {what}", at + 1))).collect()
}

/// A cell has tests as `name` (file, file); between them a semicolon.
fn missing<'a>(row: &'a str, files: &'a [File]) -> impl Iterator<Item = String> + 'a {
    let cells = row.trim_matches('|').rsplit('|').next().unwrap_or_default();
    cells.split("; ").filter_map(move |cell| {
        let (name, places) = cell.trim().strip_prefix('`')?.split_once("` (")?;
        let mut places = places.trim_end_matches(')').split(", ");
        let has_it = |path: &str| {
            let file = files.iter().find(|file| file.path == path);
            file.is_some_and(|file| file.text.contains(&format!("fn {name}()")))
        };
        let lost = places.find(|path| !has_it(path))?;
        Some(format!("no test `{name}` in {lost}"))
    })
}

const TABLE: &str = "tests/traps.md";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_is_not_there_is_named() {
        let table = "| | trap | tests |\n|---|---|---|\n| 1 | a trap | `there` (a.rs, b.rs); `gone` (a.rs) |\n";
        let files = [
            File::new(TABLE, table.into()),
            File::new("a.rs", "fn there() {}".into()),
            File::new("b.rs", "fn there() {}".into()),
        ];
        assert_eq!(check(&files), ["tests/traps.md:3: no test `gone` in a.rs"]);
        assert_eq!(
            check(&files[..2]),
            ["tests/traps.md:3: no test `there` in b.rs", "tests/traps.md:3: no test `gone` in a.rs"]
        );
        assert_eq!(check(&files[1..]), [""; 0]);
    }
}
