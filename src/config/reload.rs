//! Takes over what a new configuration may change while the server runs, and reports what needs a restart. The new one
//! was loaded and checked as a whole, so that either all of it that can be taken is taken, or (it did not load) none.

use super::keys::keys;
use super::show::shown_value;
use super::values::Config;

/// What a reload comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Reload {
    /// The old configuration with everything taken over that can be.
    pub config: Config,
    /// Keys that have a new value now.
    pub changed: Vec<&'static str>,
    /// Keys that would have one, but keep the old until a restart.
    pub needs_restart: Vec<&'static str>,
}

/// A key whose value in the file is not the one in force, for people: secrets are hidden.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: &'static str,
    pub from: String,
    pub to: String,
    pub needs_restart: bool,
}

/// What differs between the configuration in force and one that has been loaded afresh.
pub fn changes(old: &Config, new: &Config) -> Vec<Change> {
    let change = |key: &super::keys::Key| Change {
        key: key.path,
        from: shown_value(key, old),
        to: shown_value(key, new),
        needs_restart: !key.reloads,
    };
    keys().filter(|key| !(key.same)(old, new)).map(change).collect()
}

impl Reload {
    /// `old` is in force, `new` has been loaded afresh (with the same command line).
    pub fn of(old: &Config, new: Config) -> Reload {
        let mut reload = Reload { config: old.clone(), changed: Vec::new(), needs_restart: Vec::new() };
        for key in keys().filter(|key| !(key.same)(old, &new)) {
            match key.reloads {
                true => {
                    (key.copy)(&mut reload.config, &new);
                    reload.changed.push(key.path);
                }
                false => reload.needs_restart.push(key.path),
            }
        }
        reload.config.file = new.file;
        reload
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::Secrets;
    use std::time::Duration;

    fn token(token: &str) -> Secrets {
        Secrets { security_token: token.into(), ..Secrets::default() }
    }

    #[test]
    fn what_can_be_taken_is_taken_and_the_rest_is_named() {
        let old = Config { secrets: token("old"), ..Config::default() };
        let new = Config {
            connect_url: vec!["http://h/".into()],
            secrets: token("new"),
            ping_interval: Duration::from_secs(30),
            http_port: Some(80),
            workers: 3,
            ..Config::default()
        };
        let reload = Reload::of(&old, new.clone());
        assert_eq!(reload.changed, ["connect_url", "security_token", "ping_interval"]);
        assert_eq!(reload.needs_restart, ["http_port", "workers"]);
        assert_eq!(reload.config, Config { http_port: None, workers: 0, ..new });
    }

    #[test]
    fn changes_are_shown_without_secrets() {
        let old = Config { secrets: token("old"), ..Config::default() };
        let new = Config { secrets: token("new"), workers: 3, ..Config::default() };
        let change =
            |key, from: &str, to: &str, needs_restart| Change { key, from: from.into(), to: to.into(), needs_restart };
        let expected = [change("security_token", "(hidden)", "(hidden)", false), change("workers", "0", "3", true)];
        assert_eq!(changes(&old, &new), expected);
        assert_eq!(changes(&old, &old), []);
    }

    #[test]
    fn the_same_again_changes_nothing() {
        let old = Config { http_port: Some(80), ..Config::default() };
        let reload = Reload::of(&old, old.clone());
        assert_eq!(reload, Reload { config: old, changed: vec![], needs_restart: vec![] });
    }

    #[test]
    fn what_belongs_to_listeners_and_threads_needs_a_restart() {
        let fixed: Vec<&str> = keys().filter(|key| !key.reloads).map(|key| key.path).collect();
        assert_eq!(
            fixed,
            [
                "listen",
                "http_port",
                "admin_listen",
                "cluster",
                "cluster_name",
                "cluster_secret",
                "cluster_seeds",
                "cluster_address",
                "cluster_listen",
                "connections_max",
                "cores",
                "workers",
                "driver",
                "log_format",
                "otlp_endpoint",
                "store.kind",
                "store.data_dir",
                "store.url",
                "store.durability",
            ]
        );
    }
}
