//! Who owns what: methods stand where their type is defined, a name means one type among neighbours, and a struct of
//! `io` that has behaviour has no open fields.

use crate::modules::{Modules, Source};
use std::collections::BTreeMap;

/// An inherent `impl` stands in the file that defines its type.
pub fn check_impls(modules: &Modules<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, file) in modules.files.iter().enumerate() {
        for block in &file.impls {
            if let Some(owner) = modules.owner_of(index, block).filter(|owner| *owner != index) {
                findings.push(format!(
                    "{}:{}: impl {} away from its type, which {} defines; give this part a type of its own",
                    file.path,
                    block.line,
                    block.of.join("::"),
                    modules.files[owner].path,
                ));
            }
        }
    }
    findings
}

/// No type name is defined twice in one folder, or in a folder and the one above it. The binary is a crate of its own,
/// and `src` itself is above everything.
pub fn check_twins(modules: &Modules<'_>) -> Vec<String> {
    let mut by_name: BTreeMap<&str, Vec<(&Source<'_>, usize)>> = BTreeMap::new();
    for file in modules.files.iter().filter(|file| file.path != "src/main.rs") {
        for item in &file.types {
            by_name.entry(&item.name).or_default().push((file, item.line));
        }
    }
    let mut findings = Vec::new();
    for (name, places) in by_name {
        for (index, (file, line)) in places.iter().enumerate() {
            if let Some((other, _)) = places[..index].iter().find(|(other, _)| are_neighbours(file.path, other.path)) {
                findings.push(format!(
                    "{}:{line}: `{name}` is a type of {} too; one name, one meaning among neighbours",
                    file.path, other.path,
                ));
            }
        }
    }
    findings
}

fn are_neighbours(one: &str, other: &str) -> bool {
    let folder = |path: &str| path.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let parent = |folder: &str| folder.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
    let (one, other) = (folder(one), folder(other));
    one == other || one != "src" && other != "src" && (parent(&one) == other || parent(&other) == one)
}

/// In `io`, whoever has methods keeps its fields to itself.
pub fn check_fields(modules: &Modules<'_>) -> Vec<String> {
    let mut findings = Vec::new();
    for (index, file) in modules.files.iter().enumerate().filter(|(_, file)| file.path.starts_with("src/io/")) {
        for item in file.types.iter().filter(|item| item.is_struct) {
            let behaves = |(from, other): (usize, &Source<'_>)| {
                let mut blocks =
                    other.impls.iter().filter(|block| block.takes_self && block.of.last() == Some(&item.name));
                blocks.any(|block| modules.owner_of(from, block) == Some(index))
            };
            if let Some(line) = item.open_field
                && modules.files.iter().enumerate().any(behaves)
            {
                let (path, name) = (file.path, &item.name);
                findings.push(format!(
                    "{path}:{line}: an open field of `{name}`, which has methods; change it through one"
                ));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{check_fields, check_impls, check_twins};
    use crate::File;
    use crate::modules::Modules;

    fn findings(rule: fn(&Modules<'_>) -> Vec<String>, files: &[(&str, &str)]) -> Vec<String> {
        let planted = |(path, text): &(&str, &str)| File::new(path, format!("//! Planted.\n{text}\n"));
        let files: Vec<File> = files.iter().map(planted).collect();
        rule(&Modules::read(&files))
    }

    #[track_caller]
    fn caught(rule: fn(&Modules<'_>) -> Vec<String>, files: &[(&str, &str)], expected: &str) {
        let found = findings(rule, files);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with(expected), "{found:?}");
    }

    #[test]
    fn an_impl_away_from_its_type_is_caught() {
        let shard = ("src/shard/mod.rs", "mod a;\npub struct Shard<T>(T);\nimpl<T> Shard<T> {}");
        let expected = "src/shard/a.rs:3: impl Shard away from its type, which src/shard/mod.rs defines";
        caught(check_impls, &[shard, ("src/shard/a.rs", "use super::Shard;\nimpl Shard<u8> {}")], expected);
        caught(
            check_impls,
            &[shard, ("src/shard/a.rs", "\nimpl<F: for<'a> Fn(&'a u8) -> u8> super::Shard<F> {}")],
            "src/shard/a.rs:3: impl super::Shard",
        );
        let fine = "use super::Shard;\nstruct Own;\nimpl Own {}\nimpl<T> Drop for Shard<T> {}\n#[cfg(test)]\nimpl<T> Shard<T> {}";
        assert_eq!(findings(check_impls, &[shard, ("src/shard/a.rs", fine)]), [""; 0]);
        assert_eq!(
            findings(check_impls, &[shard, ("src/shard/a/tests.rs", "impl crate::shard::Shard<u8> {}")]),
            [""; 0]
        );
    }

    #[test]
    fn one_name_for_two_types_among_neighbours_is_caught() {
        let line = ("src/io/http/a.rs", "pub(crate) struct Line;");
        caught(
            check_twins,
            &[line, ("src/io/http/b.rs", "enum Line { A }")],
            "src/io/http/b.rs:2: `Line` is a type of src/io/http/a.rs too",
        );
        caught(check_twins, &[("src/io/b.rs", "trait Line {}"), line], "src/io/http/a.rs:2: `Line`");
        assert_eq!(findings(check_twins, &[line, ("src/io/api/b.rs", "struct Line;")]), [""; 0]);
        assert_eq!(
            findings(check_twins, &[line, ("src/io/http/b.rs", "#[cfg(test)]\nmod tests { struct Line; }")]),
            [""; 0]
        );
    }

    #[test]
    fn an_open_field_of_a_struct_with_methods_is_caught() {
        let open = "pub struct Pool {\n    pub size: usize,\n}\nimpl Pool {\n    fn grow(&mut self) {}\n}";
        caught(check_fields, &[("src/io/pool.rs", open)], "src/io/pool.rs:3: an open field of `Pool`");
        caught(
            check_fields,
            &[("src/io/pool.rs", "struct Fd(pub(crate) i32);\nimpl Fd { fn close<'a>(&'a self) {} }")],
            "src/io/pool.rs:2: ",
        );
        let fine = "struct Plain { pub a: u8 }\nimpl Plain { pub fn new(a: u8) -> Plain { Plain { a } } }\nimpl Clone for Plain { fn clone(&self) -> Plain {} }\n\
                    struct Closed { a: u8 }\nimpl Closed { pub fn get(&self) -> u8 { self.a } }";
        assert_eq!(findings(check_fields, &[("src/io/pool.rs", fine)]), [""; 0]);
        assert_eq!(findings(check_fields, &[("src/shard/pool.rs", open)]), [""; 0]);
    }
}
