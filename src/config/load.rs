//! Puts file, environment and command line together, in this order, later ones win; then checks the whole. Nothing
//! stops at the first fault: the operator gets all of them at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::fault::{ConfigErrors, Fault, Nearest, Place, Problem};
use super::keys::{Key, VARIABLE_PREFIX, keys};
use super::kind::{Input, Wrong};
use super::rules::{ADVICE, RULES};
use super::source::{Entry, Format, Lines, Source};
use super::values::Config;

/// A valid configuration, and notices for the operator.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    /// Whole lines: what was ignored, what is unwise.
    pub notices: Vec<String>,
}

/// Reads `file`, then `RAINBOW_*` out of `env` (see `process_env`), then the port of the command line.
pub fn load(
    file: Option<&Path>,
    env: impl Iterator<Item = (String, String)>,
    port: Option<u16>,
) -> Result<Loaded, ConfigErrors> {
    let mut load = Load::new(keys().collect());
    if let Some(path) = file {
        load.read_file(path);
    }
    load.read_variables(env);
    if let Some(port) = port {
        load.config.http_port = Some(port);
        load.origins.insert("http_port", Place::Option("-p"));
    }
    load.finish()
}

/// The process's own environment, as far as it is ours. Unlike `std::env::vars` it does not panic on foreign bytes;
/// they become U+FFFD, which `load` refuses.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(VARIABLE_PREFIX))
}

struct Load {
    keys: Vec<&'static Key>,
    config: Config,
    faults: Vec<Fault>,
    notices: Vec<String>,
    /// Where each key was set last, whether or not the value was taken.
    origins: BTreeMap<&'static str, Place>,
    /// Keys whose values were refused: rules about them are not checked.
    refused: BTreeSet<&'static str>,
    /// The file has a syntax error, so it may contain keys that seem to be missing.
    torn: bool,
}

impl Load {
    fn new(keys: Vec<&'static Key>) -> Load {
        Load {
            keys,
            config: Config::default(),
            faults: Vec::new(),
            notices: Vec::new(),
            origins: BTreeMap::new(),
            refused: BTreeSet::new(),
            torn: false,
        }
    }

    fn read_file(&mut self, path: &Path) {
        self.config.file = Some(path.to_owned());
        match read_bounded(path) {
            Err(problem) => {
                self.torn = true;
                self.faults.push(Fault { place: Place::File(path.to_owned()), key: None, problem });
            }
            Ok(bytes) => match std::str::from_utf8(&bytes) {
                Ok(text) => self.read_text(&Lines::new(path, text)),
                Err(error) => {
                    self.torn = true;
                    let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
                    let place = Lines::new(path, &valid).place(valid.len());
                    self.faults.push(Fault { place, key: None, problem: Problem::NotUtf8 });
                }
            },
        }
    }

    fn read_text(&mut self, lines: &Lines) {
        let Source { entries, faults, format } = Source::read(lines);
        if format == Format::Ini {
            // As it was.
            self.config.allowed_origins = vec!["*".into()];
        }
        let torn_lines: BTreeSet<usize> = faults.iter().map(|fault| fault.place.line()).collect();
        self.torn |= !faults.is_empty();
        let first = self.faults.len();
        self.faults.extend(faults);
        for entry in &entries {
            let is_torn = |offset| torn_lines.contains(&lines.place(offset).line());
            if !is_torn(entry.name_offset) && !is_torn(entry.value_offset) {
                self.read_entry(lines, entry, format);
            }
        }
        self.faults[first..].sort_by_key(|fault| fault.place.line());
    }

    fn read_entry(&mut self, lines: &Lines, entry: &Entry, format: Format) {
        let Entry { section, name, input, .. } = entry;
        let known_section = section.is_empty() || self.keys.iter().any(|key| key.section() == section);
        let Some(name) = name else {
            if !known_section {
                self.unknown_section(lines, entry);
            }
            return;
        };
        if !known_section {
            return;
        }
        let path = if section.is_empty() { name.clone() } else { format!("{section}.{name}") };
        let place = lines.place(entry.name_offset);
        match self.key(|key| key.path == path) {
            Some(key) => {
                if let Some(Place::Line { line, .. }) = self.origins.get(key.path) {
                    self.set_twice(key, *line, place, format);
                }
                let place_of = |offset: Option<usize>| lines.place(offset.unwrap_or(entry.value_offset));
                self.set(key, input, place_of);
            }
            None => match IGNORED.iter().find(|(ignored, _)| *ignored == path) {
                Some((_, reason)) => self.notices.push(format!("{place}: {path} is ignored: {reason}.")),
                None => {
                    let nearest = Nearest::of(&path, self.keys.iter().map(|key| key.path));
                    self.faults.push(Fault { place, key: Some(path), problem: Problem::UnknownKey { nearest } });
                }
            },
        }
    }

    fn unknown_section(&mut self, lines: &Lines, entry: &Entry) {
        let place = lines.place(entry.name_offset);
        // `connect_url.x = 1`, `[connect_url]`: it is known, but no table.
        if let Some(key) = self.key(|key| key.path == entry.section) {
            return self.set(key, &Input::Other("a table"), |_| place.clone());
        }
        let nearest = Nearest::of(&entry.section, self.sections());
        let key = Some(format!("[{}]", entry.section));
        self.faults.push(Fault { place, key, problem: Problem::UnknownSection { nearest } });
    }

    fn sections(&self) -> BTreeSet<&'static str> {
        self.keys.iter().map(|key| key.section()).filter(|section| !section.is_empty()).chain(["main"]).collect()
    }

    /// 2014's files were read by a parser that let the last one win.
    fn set_twice(&mut self, key: &Key, first: usize, place: Place, format: Format) {
        match format {
            Format::Ini => self.notices.push(format!("{place}: {} is set again, line {first} is ignored.", key.path)),
            Format::Toml => {
                self.faults.push(Fault { place, key: Some(key.path.into()), problem: Problem::Twice { first } });
            }
        }
    }

    fn read_variables(&mut self, env: impl Iterator<Item = (String, String)>) {
        let mut variables: Vec<(String, String)> =
            env.filter(|(name, value)| name.starts_with(VARIABLE_PREFIX) && !is_link(name, value)).collect();
        variables.sort();
        for (name, value) in variables {
            let place = Place::Variable(name.clone());
            let Some(key) = self.key(|key| key.variable() == name) else {
                // Without the prefix, which makes all of them alike.
                let known: Vec<String> = self.keys.iter().map(|key| key.path.replace('.', "_")).collect();
                let mut nearest = Nearest::of(&name[VARIABLE_PREFIX.len()..], known.iter().map(String::as_str));
                nearest.name = format!("{VARIABLE_PREFIX}{}", nearest.name.to_ascii_uppercase());
                // Others name theirs like ours: service links of Kubernetes, scripts of the operator.
                let fault = Fault { place, key: None, problem: Problem::UnknownVariable { nearest } };
                self.notices.push(fault.to_string());
                continue;
            };
            if value.contains(char::REPLACEMENT_CHARACTER) {
                let problem = Problem::Text { what: "the value is not UTF-8", hint: "Set it in UTF-8." };
                self.refuse(key, place, problem);
            } else {
                self.set(key, &Input::Loose(value), |_| place.clone());
            }
        }
    }

    fn key(&self, matches: impl Fn(&Key) -> bool) -> Option<&'static Key> {
        self.keys.iter().copied().find(|key| matches(key))
    }

    fn set(&mut self, key: &'static Key, input: &Input, place_of: impl Fn(Option<usize>) -> Place) {
        match (key.set)(&mut self.config, input) {
            Ok(()) => {
                self.refused.remove(key.path);
                self.origins.insert(key.path, place_of(None));
            }
            Err(Wrong { problem, offset }) => self.refuse(key, place_of(offset), problem),
        }
    }

    fn refuse(&mut self, key: &'static Key, place: Place, problem: Problem) {
        self.refused.insert(key.path);
        self.origins.insert(key.path, place.clone());
        self.faults.push(Fault { place, key: Some(key.path.into()), problem });
    }

    fn finish(mut self) -> Result<Loaded, ConfigErrors> {
        if !self.torn {
            for rule in RULES {
                if let Some((blamed, place)) = self.blame(rule.keys).filter(|_| !(rule.holds)(&self.config)) {
                    let problem = rule.problem(&self.config, blamed);
                    self.faults.push(Fault { place, key: Some(blamed.into()), problem });
                }
            }
        }
        if !self.faults.is_empty() {
            return Err(ConfigErrors(self.faults));
        }
        for rule in ADVICE.iter().filter(|rule| !(rule.holds)(&self.config)) {
            if let Some((blamed, place)) = self.blame(rule.keys) {
                let problem = rule.problem(&self.config, blamed);
                self.notices.push(format!("{place}: {blamed}: {problem}: what is larger will be refused."));
            }
        }
        Ok(Loaded { config: self.config, notices: self.notices })
    }

    /// The first of the keys that was set; `None` when the value of one was refused already.
    fn blame(&self, keys: &'static [&'static str]) -> Option<(&'static str, Place)> {
        if keys.iter().any(|path| self.refused.contains(path)) {
            return None;
        }
        let set = keys.iter().find_map(|path| Some((*path, self.origins.get(path)?.clone())));
        Some(set.unwrap_or((keys[0], Place::Default)))
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes));
    match read {
        Err(error) => Err(Problem::Unreadable(error)),
        Ok(len) if len as u64 > FILE_BYTES_MAX => Err(Problem::FileTooLarge { max: FILE_BYTES_MAX }),
        Ok(_) => Ok(bytes),
    }
}

/// Variables that are known not to be ours: our tests' own, and those that Kubernetes puts into every container when a
/// service is called `rainbow` (`RAINBOW_PORT=tcp://10.0.0.1:1984`, `RAINBOW_SERVICE_HOST`,
/// `RAINBOW_PORT_1984_TCP_ADDR`). Of a service `rainbow-http`, `RAINBOW_HTTP_PORT=tcp://…` has even the name of a key.
fn is_link(name: &str, value: &str) -> bool {
    let rest = &name[VARIABLE_PREFIX.len()..];
    let is_address = rest.ends_with("PORT") && (value.starts_with("tcp://") || value.starts_with("udp://"));
    let service = rest == "SERVICE_HOST" || rest.starts_with("SERVICE_PORT");
    let port = rest.strip_prefix("PORT_").is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()));
    rest.starts_with("TEST_") || is_address || service || port
}

/// Keys of old files that are ignored, and why.
const IGNORED: &[(&str, &str)] = &[("udp_ports", "it stands in 2014's files and was never used")];

/// Twenty times what a full configuration with all its comments needs.
const FILE_BYTES_MAX: u64 = 256 << 10;

#[cfg(test)]
mod tests;
