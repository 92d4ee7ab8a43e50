//! The kinds of values: how each is read from a file or an environment variable, which bounds it has, and how it is
//! printed so that it reads back as the same value. Nothing here knows a key by name.

mod input;
mod number;
mod text;

pub use input::{Input, Wrong};

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::Value;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

use self::input::{Bounds, unparsable, wrong_type};
use self::number::*;
use self::text::*;

use super::fault::{Nearest, Problem};
use super::store_url::StoreUrl;
use super::url::HttpUrl;
use super::values::{CloseEvents, ClusterChoice, DriverChoice, Durability, LogFormat, SignatureRequire, StoreKind};
use crate::base::network::Network;
use crate::base::secret::Secret;

/// One kind of value.
pub struct Kind<T> {
    read: fn(&Input, Bounds) -> Result<T, Wrong>,
    /// Reads back as the same value.
    pub print: fn(&T) -> Value,
    bounds: Bounds,
}

impl<T> Kind<T> {
    const fn new(
        read: fn(&Input, Bounds) -> Result<T, Wrong>,
        print: fn(&T) -> Value,
        unit: fn(u64) -> String,
    ) -> Self {
        Kind { read, print, bounds: Bounds { min: 0, max: u64::MAX, has_max: false, unit } }
    }

    /// Both ends included; milliseconds, bytes or a plain number, as the kind counts.
    pub const fn within(self, min: u64, max: u64) -> Self {
        Kind { bounds: Bounds { min, max, has_max: true, ..self.bounds }, ..self }
    }

    /// Another lower end; the upper one stays the kind's.
    pub const fn at_least(self, min: u64) -> Self {
        Kind { bounds: Bounds { min, ..self.bounds }, ..self }
    }

    /// More than this is a typing error.
    const fn capped(self, max: u64) -> Self {
        Kind { bounds: Bounds { max, ..self.bounds }, ..self }
    }

    pub fn read(&self, input: &Input) -> Result<T, Wrong> {
        (self.read)(input, self.bounds)
    }

    /// `1–16384`, `≥ 1ms`; `None` when anything goes.
    pub fn allowed(&self) -> Option<String> {
        let Bounds { min, max, has_max, unit } = self.bounds;
        match has_max {
            true => Some(format!("{}–{}", unit(min), unit(max))),
            false => (min > 0).then(|| format!("≥ {}", unit(min))),
        }
    }
}

// Numbers

/// Bounds in milliseconds. A number is seconds.
pub const DURATION: Kind<Duration> =
    Kind::new(read_duration, |d| Value::String(print_ms(d.as_millis() as u64)), print_ms)
        .at_least(1)
        .capped(DURATION_MAX_MS);

/// Bounds in bytes.
pub const SIZE: Kind<usize> = Kind::new(
    |input, bounds| Ok(bounds.check(read_size(input)?)? as usize),
    |size| match print_size(*size as u64) {
        text if text.ends_with('B') => Value::String(text),
        _ => Value::Integer(*size as i64),
    },
    print_size,
)
.at_least(1)
.capped(SIZE_MAX);

/// Of what one connection, session or message may take: counted in 32 bits, with room for one that goes beyond it.
pub const PART_SIZE: Kind<usize> = SIZE.within(1, 1 << 30);

pub const COUNT: Kind<usize> = Kind::new(
    |input, bounds| Ok(bounds.check(read_whole(input)?)? as usize),
    |count| Value::Integer(*count as i64),
    |count| count.to_string(),
)
.at_least(1)
.capped(COUNT_MAX);

pub const COUNT32: Kind<u32> = Kind::new(
    |input, bounds| Ok(bounds.check(read_whole(input)?)? as u32),
    |count| Value::Integer(i64::from(*count)),
    |count| count.to_string(),
)
.at_least(1)
.capped(COUNT_MAX);

/// A factor, with fractions.
pub const FACTOR: Kind<f64> =
    Kind::new(read_factor, |factor| Value::Float(*factor), |factor| factor.to_string()).within(1, 100);

// Texts

/// Any text without control characters. Nothing of it is ever quoted.
pub const SECRET: Kind<Secret> = Kind::new(
    |input, bounds| read_text(input, bounds).map(Secret::from),
    |secret| Value::String(secret.expose().to_owned()),
    no_unit,
);

/// Where Redis is, which a password may be part of. May be empty.
pub const STORE_URL: Kind<Secret> = Kind::new(
    |input, bounds| {
        let text = read_text(input, bounds)?;
        match StoreUrl::parse(&text) {
            Err(why) if !text.is_empty() => Err(Problem::StoreUrl { why }.into()),
            _ => Ok(Secret::from(text)),
        }
    },
    |url| Value::String(url.expose().to_owned()),
    no_unit,
);

/// Where a collector is, by http:// or https://. May be empty.
pub const COLLECTOR_URL: Kind<String> = Kind::new(
    |input, bounds| {
        let text = read_text(input, bounds)?;
        let plain = text.strip_prefix("https://").map(|rest| format!("http://{rest}"));
        match HttpUrl::parse(plain.as_deref().unwrap_or(&text)) {
            Err(why) if !text.is_empty() => Err(Problem::Url { url: text, why }.into()),
            _ => Ok(text),
        }
    },
    |url| Value::String(url.clone()),
    no_unit,
);

/// A name of 1 to 128 characters.
pub const NAME: Kind<String> = Kind::new(
    |input, bounds| {
        let name = read_text(input, bounds)?;
        match name.chars().count() {
            1..=128 => Ok(name),
            _ => {
                Err(Problem::Text { what: "the name has not 1 to 128 characters", hint: "Choose a short name." }.into())
            }
        }
    },
    |name| Value::String(name.clone()),
    no_unit,
);

/// What tracing-subscriber's `Targets` take.
pub const FILTER: Kind<String> = Kind::new(
    |input, bounds| {
        let text = read_text(input, bounds)?;
        if log_targets(&text).is_some() {
            return Ok(text);
        }
        let hint = "Write a level (error, warn, info, debug, trace) or e.g. info,rainbow=debug.";
        Err(unparsable(&text, "a log filter", hint))
    },
    |filter| Value::String(filter.clone()),
    no_unit,
);

/// URLs without placeholders.
pub const URLS: Kind<Vec<String>> = Kind::new(
    |input, _| read_list(input, split_urls, |url| check_url(url, None)),
    |urls| texts(urls.iter().map(String::as_str)),
    no_unit,
);

/// URLs in which `{message_type}` may stand.
pub const FORWARD_URLS: Kind<Vec<String>> = Kind::new(
    |input, _| read_list(input, split_urls, |url| check_url(url, Some("{message_type}"))),
    |urls| texts(urls.iter().map(String::as_str)),
    no_unit,
);

/// What a browser puts into its `Origin` header.
pub const ORIGINS: Kind<Vec<String>> = Kind::new(
    |input, _| read_list(input, split_commas, check_origin),
    |origins| texts(origins.iter().map(String::as_str)),
    no_unit,
);

/// Names of machines, without ports.
pub const HOSTS: Kind<Vec<String>> = Kind::new(
    |input, _| read_list(input, split_commas, check_host),
    |hosts| texts(hosts.iter().map(String::as_str)),
    no_unit,
);

/// Addresses and networks.
pub const NETWORKS: Kind<Vec<Network>> = Kind::new(
    |input, _| {
        let texts = read_list(input, split_commas, check_network)?;
        Ok(texts.iter().map(|text| text.parse().expect("it was checked")).collect())
    },
    |networks| texts(networks.iter().map(Network::to_string)),
    no_unit,
);

pub const SWITCH: Kind<bool> = Kind::new(
    |input, _| match input {
        Input::Boolean(switch) => Ok(*switch),
        Input::Loose(_) => read_choice(input, SWITCHES, "true or false"),
        _ => Err(wrong_type("true or false", input)),
    },
    |switch| Value::Boolean(*switch),
    no_unit,
);

/// Standard Webhooks secrets, at most two: the one in use and the one it replaces.
pub const SECRETS: Kind<Vec<Secret>> = Kind::new(
    |input, _| {
        let mut nth = 0;
        let secrets = read_list(input, split_commas, |secret| {
            nth += 1;
            check_secret(secret, nth)
        })?;
        match secrets.len() {
            0..=SECRETS_MAX => Ok(secrets.into_iter().map(Secret::from).collect()),
            count => Err(Problem::TooManySecrets { count, max: SECRETS_MAX }.into()),
        }
    },
    |secrets| texts(secrets.iter().map(Secret::expose)),
    no_unit,
);

pub const REQUIRE: Kind<SignatureRequire> = Kind::new(
    |input, _| read_choice(input, REQUIRES, "\"any\" or \"webhook\""),
    |require| print_choice(*require, REQUIRES),
    no_unit,
);

pub const DRIVER: Kind<DriverChoice> = Kind::new(
    |input, _| read_choice(input, DRIVERS, "\"auto\", \"io_uring\" or \"epoll\""),
    |driver| print_choice(*driver, DRIVERS),
    no_unit,
);

pub const CLUSTER_CHOICE: Kind<ClusterChoice> = Kind::new(
    |input, _| read_choice(input, CLUSTER_CHOICES, "\"auto\" or \"off\""),
    |choice| print_choice(*choice, CLUSTER_CHOICES),
    no_unit,
);

/// Hosts with their ports.
pub const SEEDS: Kind<Vec<String>> = Kind::new(
    |input, _| read_list(input, split_commas, check_seed),
    |seeds| texts(seeds.iter().map(String::as_str)),
    no_unit,
);

pub const LOG_FORMAT: Kind<LogFormat> = Kind::new(
    |input, _| read_choice(input, LOG_FORMATS, "\"text\" or \"json\""),
    |format| print_choice(*format, LOG_FORMATS),
    no_unit,
);

pub const STORE_KIND: Kind<StoreKind> = Kind::new(
    |input, _| read_choice(input, STORE_KINDS, "\"none\", \"sqlite\" or \"redis\""),
    |kind| print_choice(*kind, STORE_KINDS),
    no_unit,
);

pub const CLOSE_EVENTS: Kind<CloseEvents> = Kind::new(
    |input, _| read_choice(input, CLOSE_EVENT_CHOICES, "\"durable\" or \"best-effort\""),
    |events| print_choice(*events, CLOSE_EVENT_CHOICES),
    no_unit,
);

pub const DURABILITY: Kind<Durability> = Kind::new(
    |input, _| read_choice(input, DURABILITIES, "\"fsync\" or \"memory\""),
    |durability| print_choice(*durability, DURABILITIES),
    no_unit,
);

/// A file or directory; a relative one is below the directory the server was started in.
pub const PATH: Kind<PathBuf> = Kind::new(
    |input, bounds| match read_text(input, bounds)? {
        path if path.is_empty() => {
            Err(Problem::Text { what: "the path is empty", hint: "Name a file or directory." }.into())
        }
        path => Ok(path.into()),
    },
    // It was read from text.
    |path| Value::String(path.to_string_lossy().into_owned()),
    no_unit,
);

// Addresses and CPUs

/// `"auto"` is `None`; 0 lets the system choose.
pub const PORT: Kind<Option<u16>> = Kind::new(
    |input, bounds| match input {
        Input::Loose(text) | Input::Text(text) if matches!(text.trim(), "" | "auto") => Ok(None),
        _ => Ok(Some(bounds.check(read_whole(input)?)? as u16)),
    },
    |port| port.map_or_else(|| Value::String("auto".into()), |port| Value::Integer(i64::from(port))),
    |port| port.to_string(),
)
.within(0, 65_535);

pub const IP: Kind<IpAddr> = Kind::new(
    |input, _| {
        let text = text_of(input, "an IP address in quotes")?;
        let hint =
            "Write e.g. 0.0.0.0 or :: for every interface, 127.0.0.1 for this machine only; the port is http_port.";
        text.parse().map_err(|_| unparsable(text, "an IP address", hint))
    },
    |ip| Value::String(ip.to_string()),
    no_unit,
);

/// An empty text is `None`.
pub const SOCKET: Kind<Option<SocketAddr>> = Kind::new(
    |input, _| match text_of(input, "an address with a port, in quotes")? {
        "" => Ok(None),
        text => match text.parse() {
            Ok(address) => Ok(Some(address)),
            Err(_) => Err(unparsable(text, "an IP address with a port", "Write e.g. 127.0.0.1:1985 or [::1]:1985.")),
        },
    },
    |address| Value::String(address.map_or_else(String::new, |address| address.to_string())),
    no_unit,
);

/// `"0-3,6"`, an array of numbers and such texts, or `"all"` for the empty set.
pub const CORES: Kind<BTreeSet<usize>> = Kind::new(
    |input, bounds| {
        let mut cores = BTreeSet::new();
        match input {
            Input::List(items) => {
                for (offset, item) in items {
                    read_cores(item, bounds, &mut cores).map_err(|wrong| Wrong { offset: Some(*offset), ..wrong })?;
                }
            }
            _ => read_cores(input, bounds, &mut cores)?,
        }
        Ok(cores)
    },
    |cores| Value::String(print_cores(cores)),
    |core| core.to_string(),
)
.within(0, 1023);

fn read_choice<T: Copy>(input: &Input, choices: &[(&str, T)], expected: &'static str) -> Result<T, Wrong> {
    let text = text_of(input, expected)?.to_ascii_lowercase();
    match choices.iter().find(|(name, _)| *name == text) {
        Some((_, choice)) => Ok(*choice),
        None => {
            let nearest = Nearest::of(&text, choices.iter().map(|(name, _)| *name));
            Err(unparsable(&text, expected, &nearest.to_string()))
        }
    }
}

fn print_choice<T: PartialEq>(choice: T, choices: &[(&str, T)]) -> Value {
    let (name, _) = choices.iter().find(|(_, other)| *other == choice).expect("every choice has a name");
    Value::String((*name).into())
}

/// The levels of a log filter, for the log; none where it is not one.
pub fn log_targets(filter: &str) -> Option<Targets> {
    let directives: Vec<&str> = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty()).collect();
    if directives.is_empty() {
        return Some(Targets::new().with_default(LevelFilter::ERROR));
    }
    directives.iter().all(|directive| is_directive(directive)).then(|| directives.join(",").parse().ok())?
}

/// `Targets` take a word that is no level for a target, whose lines they then show, and no others: `warning` and
/// `inof` would silence the log. Fields of lines (`[{name}]`) are no part of our filters.
fn is_directive(text: &str) -> bool {
    let is_target = text.contains(['=', ':']) || text.starts_with("rainbow");
    (is_target && !text.contains('[')) || text.parse::<LevelFilter>().is_ok()
}

fn no_unit(_: u64) -> String {
    String::new()
}

const SWITCHES: &[(&str, bool)] = &[("true", true), ("false", false)];
const DRIVERS: &[(&str, DriverChoice)] =
    &[("auto", DriverChoice::Auto), ("io_uring", DriverChoice::IoUring), ("epoll", DriverChoice::Epoll)];
const CLUSTER_CHOICES: &[(&str, ClusterChoice)] = &[("auto", ClusterChoice::Auto), ("off", ClusterChoice::Off)];
const LOG_FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
const REQUIRES: &[(&str, SignatureRequire)] = &[("any", SignatureRequire::Any), ("webhook", SignatureRequire::Webhook)];
const STORE_KINDS: &[(&str, StoreKind)] =
    &[("none", StoreKind::None), ("sqlite", StoreKind::Sqlite), ("redis", StoreKind::Redis)];
const CLOSE_EVENT_CHOICES: &[(&str, CloseEvents)] =
    &[("durable", CloseEvents::Durable), ("best-effort", CloseEvents::BestEffort)];
const DURABILITIES: &[(&str, Durability)] = &[("fsync", Durability::Fsync), ("memory", Durability::Memory)];

/// A year. The timing wheel's horizon is 2³⁶ ms (two years); a longer wait is a typing error.
const DURATION_MAX_MS: u64 = 365 * 24 * 3_600_000;

/// 1 TiB: no machine has so much for one buffer; more is a typing error.
const SIZE_MAX: u64 = 1 << 40;

/// Ids of connections and messages are 32 bits and less.
const COUNT_MAX: u64 = u32::MAX as u64;

/// Standard Webhooks rotates with two keys; each one costs an HMAC per call.
const SECRETS_MAX: usize = 2;

const _: () = assert!(DURATION_MAX_MS < 1 << 36, "the wheel refuses what lies beyond its horizon");
