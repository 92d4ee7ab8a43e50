//! What loads, what is refused, and in which words.

use super::*;
use crate::config::show::full_toml;
use crate::config::values::Secrets;
use crate::config::{ClusterConfig, SignatureRequire, groups, log_targets};
use proptest::prelude::*;
use std::net::Ipv6Addr;
use std::time::Duration;
use tracing::Level;

/// Reads `text` as if it stood in a file of that name.
fn load(name: &str, text: &str, env: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let mut load = Load::new(keys().collect());
    load.read_text(&Lines::new(Path::new(name), text));
    load.read_variables(env.iter().map(|(name, value)| (name.to_string(), value.to_string())));
    load.finish().map_err(|errors| errors.to_string().lines().map(str::to_owned).collect())
}

fn toml(text: &str) -> Config {
    load("t.toml", text, &[]).unwrap_or_else(|errors| panic!("{errors:#?}")).config
}

fn refused(text: &str) -> Vec<String> {
    load("t.toml", text, &[]).expect_err(text)
}

fn data(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/config").join(name)
}

#[test]
fn the_2014_file_loads_as_it_is() {
    let loaded = super::load(Some(&data("2014.ini")), std::iter::empty(), None).unwrap();
    let expected = Config {
        connect_url: vec!["http://localhost:8000/rainbow/connect/".into()],
        secrets: Secrets { security_token: "testtoken".into(), ..Secrets::default() },
        forward_url: vec!["http://localhost:8000/rainbow/message/{message_type}/".into()],
        close_url: vec!["http://localhost:8000/rainbow/close/".into()],
        http_port: Some(1984),
        cluster: ClusterConfig { name: "demo".into(), ..ClusterConfig::default() },
        file: Some(data("2014.ini")),
        allowed_origins: vec!["*".into()],
        ..Config::default()
    };
    assert_eq!(loaded.config, expected);
    assert_eq!(loaded.notices.len(), 1);
    assert!(loaded.notices[0].contains("2014.ini:8:1: udp_ports is ignored"), "{:?}", loaded.notices);
}

#[test]
fn the_2014_form_is_recognized_by_its_text_where_the_ending_says_nothing() {
    let text = std::fs::read_to_string(data("2014.ini")).unwrap();
    assert_eq!(load("rainbow.conf", &text, &[]).unwrap().config.cluster.name, "demo");
    assert_eq!(
        load("rainbow", "[main]\r\nconnect_url=http://h/ ; x\r\n", &[]).unwrap().config.connect_url,
        ["http://h/"]
    );
    assert_eq!(
        load("rainbow.conf", "[main]\nconnect_url = 'http://h/'", &[]).unwrap().config.connect_url,
        ["http://h/"]
    );
    let errors = load("rainbow.conf", "[main]\nconnect_url = 'http://h/", &[]).unwrap_err();
    assert!(errors[0].contains("TOML"), "{errors:?}");
}

#[test]
fn the_2014_parser_is_followed_in_small_things() {
    let ini = |text: &str| load("t.ini", text, &[]).unwrap();
    assert_eq!(ini("[main]\nSecurity_Token: a;b\\n'c' ;d").config.secrets.security_token.expose(), "a;b\\n'c'");
    assert_eq!(ini("[main]\nsecurity_token = \"\"").config.secrets.security_token.expose(), "");
    assert_eq!(ini("\u{FEFF}[main]\n  # remark\n\n\thttp_port=80").config.http_port, Some(80));
    assert_eq!(ini("[main]\nconnect_url = http://h/?a=1,2").config.connect_url, ["http://h/?a=1,2"]);
    let twice = ini("[main]\nhttp_port = 80\nhttp_port = 81");
    assert_eq!(twice.config.http_port, Some(81));
    assert_eq!(twice.notices, ["t.ini:3:1: http_port is set again, line 2 is ignored."]);
}

#[test]
fn toml_takes_values_in_several_forms() {
    let expected = Config { connect_url: vec!["http://h/".into()], ..Config::default() };
    assert_eq!(toml("connect_url = 'http://h/'"), expected);
    assert_eq!(toml("connect_url = ['http://h/']"), expected);
    assert_eq!(toml("[main]\nconnect_url = 'http://h/'"), expected);
    assert_eq!(toml("main.connect_url = 'http://h/'"), expected);
    assert_eq!(toml("\u{FEFF}connect_url = 'http://h/'"), expected);
    let timeout = |value: &str| toml(&format!("connect_timeout = {value}")).connect_timeout;
    assert_eq!(timeout("3"), Duration::from_secs(3));
    assert_eq!(timeout("0.25"), Duration::from_millis(250));
    assert_eq!(timeout("'250ms'"), Duration::from_millis(250));
    assert_eq!(timeout("'1.5s'"), Duration::from_millis(1500));
    assert_eq!(timeout("'5 m'"), Duration::from_secs(300));
    assert_eq!(timeout("'2h'"), Duration::from_secs(7200));
    assert_eq!(toml("api_body_max = '64KiB'").api_body_max, 65_536);
    assert_eq!(toml("api_body_max = 1_000").api_body_max, 1000);
    let cores = |value: &str| toml(&format!("cores = {value}")).cores.into_iter().collect::<Vec<_>>();
    assert_eq!(cores("'0-3,6'"), [0, 1, 2, 3, 6]);
    assert_eq!(cores("[0, 2, '4-5']"), [0, 2, 4, 5]);
    assert_eq!(cores("'all'"), [0; 0]);
    assert_eq!(toml("http_port = 'auto'").http_port, None);
    assert_eq!(toml("listen = '::'").listen, Ipv6Addr::UNSPECIFIED);
    assert_eq!(toml("idle_timeout = 0").idle_timeout, Duration::ZERO);
}

#[test]
fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
    let env = [
        ("RAINBOW_CONNECT_URL", "http://a/, http://b/?x=1,2"),
        ("RAINBOW_PING_INTERVAL", "30"),
        ("RAINBOW_WEBHOOK_SECRETS", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw,whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
        ("RAINBOW_SIGNATURE_REQUIRE", "webhook"),
        ("RAINBOW_CORES", "0-1"),
        ("RAINBOW_CLOSE_URL", ""),
        ("RAINBOW_TEST_ANYTHING", "x"),
        ("RAINBOW_PORT", "tcp://10.0.0.1:1984"),
        ("RAINBOW_PORT_1984_TCP_ADDR", "10.0.0.1"),
        ("RAINBOW_SERVICE_HOST", "10.0.0.1"),
        ("PATH", "/bin"),
    ];
    let config = load("t.toml", "connect_url = 'http://file/'\nclose_url = 'http://file/'", &env).unwrap().config;
    assert_eq!(config.connect_url, ["http://a/", "http://b/?x=1,2"]);
    assert_eq!(config.close_url, [""; 0]);
    assert_eq!(config.ping_interval, Duration::from_secs(30));
    assert_eq!(config.secrets.webhook_secrets.len(), 2);
    assert_eq!(config.signature_require, SignatureRequire::Webhook);
    assert_eq!(config.cores.len(), 2);
    let env = [("RAINBOW_HTTP_PORT".to_owned(), "81".to_owned())];
    let config = super::load(Some(&data("2014.ini")), env.clone().into_iter(), None).unwrap().config;
    assert_eq!(config.http_port, Some(81));
    let config = super::load(Some(&data("2014.ini")), env.into_iter(), Some(82)).unwrap().config;
    assert_eq!(config.http_port, Some(82));
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    let full = toml(&full_toml());
    let value = |key: &Key| match (key.value)(&full) {
        ::toml::Value::Array(items) => items.iter().map(|item| item.as_str().unwrap()).collect::<Vec<_>>().join(","),
        ::toml::Value::String(text) => text,
        other => other.to_string(),
    };
    let env: Vec<(String, String)> = keys().map(|key| (key.variable(), value(key))).collect();
    let config = super::load(None, env.into_iter(), None).unwrap_or_else(|errors| panic!("{errors}")).config;
    // A shell cannot keep blanks at a value's ends as reliably as a file can: they are taken off.
    let security_token = full.secrets.security_token.expose().trim().into();
    assert_eq!(config, Config { secrets: Secrets { security_token, ..full.secrets.clone() }, ..full });
}

#[test]
fn faults_of_the_environment_name_the_variable() {
    let env = [("RAINBOW_HTTP_PORT", "x"), ("RAINBOW_SECURITY_TOKEN", "\u{FFFD}")];
    assert_eq!(
        load("t.toml", "", &env).unwrap_err(),
        [
            "RAINBOW_HTTP_PORT: http_port: \"x\" is not a whole number. Write digits only, without quotes or a sign.",
            "RAINBOW_SECURITY_TOKEN: security_token: the value is not UTF-8. Set it in UTF-8.",
        ]
    );
}

#[test]
fn a_foreign_variable_is_a_notice_with_the_nearest_key() {
    let env = [
        ("RAINBOW_BIN", "/opt/rainbow"),
        ("RAINBOW_CONECT_URL", "http://h/"),
        ("RAINBOW_PORT", "1984"),
        ("RAINBOW_HTTP_PORT", "tcp://10.0.0.1:80"),
        ("RAINBOW_HTTP_PORT_80_TCP_PROTO", "tcp"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let loaded = super::load(None, env.into_iter(), None).unwrap_or_else(|errors| panic!("{errors}"));
    assert_eq!(loaded.config, Config::default());
    assert_eq!(loaded.notices.len(), 4, "{:?}", loaded.notices);
    assert!(loaded.notices[0].starts_with("RAINBOW_BIN: unknown variable. The nearest known one is RAINBOW_"));
    assert_eq!(loaded.notices[1], "RAINBOW_CONECT_URL: unknown variable. Did you mean RAINBOW_CONNECT_URL?");
    assert_eq!(loaded.notices[3], "RAINBOW_PORT: unknown variable. Did you mean RAINBOW_HTTP_PORT?");
}

#[test]
fn a_collector_needs_a_url_and_a_build_that_can_send() {
    let why = refused("otlp_endpoint = \"localhost:4318\"");
    assert!(why[0].starts_with("t.toml:1:17: otlp_endpoint: \"localhost:4318\": http:// is missing."), "{why:?}");
    assert_eq!(refused("otlp_ratio = 1.5"), ["t.toml:1:14: otlp_ratio: 1.5 is more than 1. Set it to 1 or less."]);
    for url in ["http://localhost:4318", "https://collector.example/otlp"] {
        let text = format!("workers = 2\notlp_endpoint = \"{url}\"");
        if cfg!(feature = "otlp") {
            assert_eq!(toml(&text).traces.otlp_endpoint, url);
        } else {
            let why = refused(&text);
            let expected = "t.toml:2:17: otlp_endpoint: this server was built without OpenTelemetry. Take one of the ";
            assert!(why.len() == 1 && why[0].starts_with(expected), "{why:?}");
        }
    }
}

#[test]
fn a_log_level_that_does_not_exist_is_refused() {
    for filter in ["warning", "inof", "info,verbose", "rainbow[{worker}]=debug", "info,[turn]=debug"] {
        let errors = load("t.toml", &format!("log = \"{filter}\""), &[]).unwrap_err();
        assert!(errors[0].contains("is not a log filter"), "{errors:?}");
    }
    for filter in ["WARN", "info,rainbow=debug", "off", "rainbow::audit", "info,monoio=error"] {
        load("t.toml", &format!("log = \"{filter}\""), &[]).unwrap_or_else(|errors| panic!("{errors:?}"));
    }
}

#[test]
fn a_log_filter_says_which_lines_are_logged() {
    let logs = |filter: &str, target: &str, level| log_targets(filter).expect(filter).would_enable(target, &level);
    assert!(logs("info,rainbow::io=debug", "rainbow::io::api", Level::DEBUG), "a target and what is below it");
    assert!(!logs("info,rainbow::io=debug", "rainbow::shard", Level::DEBUG));
    assert!(logs("info, rainbow::io=debug", "rainbow::shard", Level::INFO));
    assert!(!logs("off", "rainbow", Level::ERROR));
    assert!(logs("", "rainbow", Level::ERROR) && !logs("", "rainbow", Level::WARN), "an empty filter: errors");
}

#[test]
fn all_faults_of_a_file_are_reported_at_once() {
    let text = std::fs::read_to_string(data("broken.toml")).unwrap();
    let report = load("broken.toml", &text, &[]).unwrap_err().join("\n");
    let expected = std::fs::read_to_string(data("broken.toml.errors")).unwrap();
    assert_eq!(report, expected.trim_end());
}

#[test]
fn all_faults_of_a_2014_file_are_reported_at_once() {
    let text = std::fs::read_to_string(data("broken.ini")).unwrap();
    let report = load("broken.ini", &text, &[]).unwrap_err().join("\n");
    let expected = std::fs::read_to_string(data("broken.ini.errors")).unwrap();
    assert_eq!(report, expected.trim_end());
}

#[test]
fn a_syntax_error_does_not_hide_the_faults_around_it() {
    let errors = refused("conect_url = 'http://h/'\nlog = info\nworkers = 9999\n");
    assert_eq!(errors.len(), 3, "{errors:#?}");
    assert!(errors[0].starts_with("t.toml:1:1: conect_url: unknown key."), "{errors:#?}");
    assert!(errors[1].starts_with("t.toml:2:7: syntax error: "), "{errors:#?}");
    assert!(errors[2].starts_with("t.toml:3:11: workers: 9999 is more than 1024."), "{errors:#?}");
}

#[test]
fn relations_blame_the_key_that_was_set() {
    assert_eq!(
        refused("\nmessage_bytes_max = '20MiB'"),
        ["t.toml:2:21: message_bytes_max: 20MiB is more than outbox_bytes_max (8MiB). \
                Lower it, or raise outbox_bytes_max."]
    );
    assert_eq!(
        refused("outbox_bytes_max = '64KiB'"),
        ["t.toml:1:20: outbox_bytes_max: 64KiB is less than message_bytes_max (1MiB). \
                Raise it, or lower message_bytes_max."]
    );
    assert!(refused("pong_timeout = '2m'")[0].contains("more than ping_interval (1m)"));
    assert!(refused("retry_backoff_min = 6")[0].contains("more than retry_backoff_max (5s)"));
    assert!(refused("send_timeout_max = 5")[0].contains("less than send_timeout (10s)"));
    assert!(refused("forward_queue_bytes = 5")[0].contains("less than message_bytes_max"));
    assert!(refused("signature_require = 'webhook'")[0].contains("t.toml:1:21: signature_require"));
    assert!(refused("http_port = 80\nadmin_listen = '127.0.0.1:80'")[0].contains("t.toml:2:16: admin_listen: port 80"));
    let same = refused("http_port = 80\ncluster_listen = '127.0.0.1:80'");
    assert!(same[0].contains("t.toml:2:18: cluster_listen: port 80 may be http_port's, too"), "{same:?}");
    let same = refused("admin_listen = '127.0.0.1:85'\ncluster_listen = '0.0.0.0:85'");
    assert!(same[0].contains("t.toml:2:18: cluster_listen: port 85 may be admin_listen's, too"), "{same:?}");
    let env = load("t.toml", "", &[("RAINBOW_PONG_TIMEOUT", "5m")]).unwrap_err();
    assert!(env[0].starts_with("RAINBOW_PONG_TIMEOUT: pong_timeout: 5m is more than"), "{env:?}");
    // A value that was refused already is not blamed again.
    assert_eq!(refused("message_bytes_max = '2MB'").len(), 1);
}

#[test]
fn what_is_unwise_is_taken_and_told() {
    let loaded = load("t.toml", "api_body_max = '20MiB'", &[]).unwrap();
    assert_eq!(
        loaded.notices,
        ["t.toml:1:16: api_body_max: 20MiB is more than outbox_bytes_max (8MiB): what is larger will be refused."]
    );
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let fault = |path: &Path| super::load(Some(path), std::iter::empty(), None).unwrap_err().to_string();
    let missing = data("no-such-file.toml");
    assert!(fault(&missing).starts_with(&format!("{}: cannot be read: ", missing.display())));
    assert!(fault(&data("")).contains("cannot be read"));
    let bytes = std::env::temp_dir().join(format!("rainbow-load-{}.toml", std::process::id()));
    std::fs::write(&bytes, b"log = 'info'\nlog\xFF").unwrap();
    let not_utf8 = fault(&bytes);
    std::fs::write(&bytes, vec![b'#'; FILE_BYTES_MAX as usize + 1]).unwrap();
    let large = fault(&bytes);
    std::fs::remove_file(&bytes).unwrap();
    assert!(not_utf8.contains(":2:4: this byte is not UTF-8"), "{not_utf8}");
    assert!(large.contains("is larger than 262144 bytes"), "{large}");
}

#[test]
fn no_fault_quotes_a_secret() {
    let values = [
        "'s3cret\\u0007'",
        "\"s3cret\\u0007\"",
        "['s3cret']",
        "['s3cret', 's3cret', 's3cret']",
        "s3cret",
        "'s3cret",
        "{ s3cret = 1 }",
        "[['s3cret']]",
        "'whsec_s3cret'",
        "'whsec_s3cret-'",
        "1979-05-27",
        "true",
        "0x53c",
        "1.5",
    ];
    for key in keys().filter(|key| key.secret) {
        for value in values {
            let text = format!("{} = {value}", key.path);
            let report = match load("t.toml", &text, &[]) {
                Ok(loaded) => format!("{:?}{:?}", crate::config::shown(&loaded.config), loaded.notices),
                Err(errors) => errors.join("\n"),
            };
            assert!(!report.contains("s3cret"), "{text}: {report}");
        }
    }
    for url in ["http://u:s3cret@h/", "http://s3cret@h/"] {
        assert!(!refused(&format!("connect_url = '{url}'")).join("\n").contains("s3cret"));
    }
}

/// A key of a table, beside the real ones.
static WITH_TABLE: Key = crate::config::keys::test_key();

#[test]
fn a_key_of_a_table_has_its_section_and_its_variable() {
    let with = |text: &str, env: &[(&str, &str)]| {
        let mut load = Load::new(keys().chain([&WITH_TABLE]).collect());
        load.read_text(&Lines::new(Path::new("t.toml"), text));
        load.read_variables(env.iter().map(|(name, value)| (name.to_string(), value.to_string())));
        load.finish().map(|loaded| loaded.config.cluster.name).map_err(|errors| errors.to_string())
    };
    assert_eq!(with("[attic]\nkind = 'sqlite'", &[]).unwrap(), "sqlite");
    assert_eq!(with("attic.kind = 'sqlite'", &[]).unwrap(), "sqlite");
    assert_eq!(with("", &[("RAINBOW_ATTIC_KIND", "redis")]).unwrap(), "redis");
    assert_eq!(with("kind = 'x'", &[]).unwrap_err(), "t.toml:1:1: kind: unknown key. Did you mean store.kind?");
    assert_eq!(
        with("[attic]\nknd = 'x'\n[attci]\nkind = 'x'", &[]).unwrap_err(),
        "t.toml:2:1: attic.knd: unknown key. Did you mean attic.kind?\n\
             t.toml:3:2: [attci]: unknown section. Did you mean attic?"
    );
    assert_eq!(with("", &[("RAINBOW_ATTIC_KNID", "x")]).unwrap(), Config::default().cluster.name);
}

/// Lines that are nearly right reach deeper than random ones.
fn nearly_right_line() -> impl Strategy<Value = String> {
    let paths: Vec<&str> = groups().iter().flat_map(|group| group.keys).map(|key| key.path).collect();
    let value = prop_oneof![
        "[0-9]{1,25}(ms|s|m|h|KiB|MiB|GiB|,|-)?",
        "['\"\\[]?http://[a-z\\[\\]:0-9.é@{}]{0,12}/?['\"\\],]{0,2}",
        "['\"\\[]?whsec_[A-Za-z+/=]{0,40}['\"\\]]?",
        "-?[0-9]{0,5}\\.[0-9]{0,320}(e[0-9]+)?",
        "(nan|inf|-inf|true|1979-05-27|\\{a=1\\}|\\[\\[1\\]\\])",
        "\\PC{0,20}",
    ];
    (prop::sample::select(paths), value).prop_map(|(path, value)| format!("{path} = {value}\n"))
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(text in "[\\PC\\n\\r\\t\\x00]{0,200}", ending in "(toml|ini|conf)") {
        let _ = load(&format!("t.{ending}"), &text, &[]);
    }

    #[test]
    fn nearly_right_text_never_panics(
            lines in prop::collection::vec(nearly_right_line(), 0..6),
            ending in "(toml|ini|conf)",
        ) {
        let text: String = lines.concat();
        if let Err(errors) = load(&format!("t.{ending}"), &format!("[main]\n{text}"), &[]) {
            prop_assert!(!errors.is_empty());
        }
    }

    #[test]
    fn any_variable_never_panics(index in 0..60usize, value in "[\\PC\\n]{0,40}") {
        let keys: Vec<String> = keys().map(Key::variable).collect();
        let _ = load("t.toml", "", &[(&keys[index % keys.len()], &value)]);
    }
}
