//! Configuration: what the operator decides, checked as a whole before anything starts.
//!
//! `values` has the configuration itself and its defaults; `keys` is the one table that drives reading, printing,
//! hiding and reloading; `kind` knows how values of each kind are written; `source` reads files (TOML, and the INI of
//! 2014) into places and inputs; `load` puts file, environment and command line together; `rules` has the relations
//! between keys; `fault` says what is wrong. No clock, no socket; the file is read in `load` and nowhere else. Called
//! by `main`, by the reload, and by what shows the configuration.

mod fault;
mod keys;
mod kind;
mod load;
mod reload;
mod rules;
mod show;
mod source;
pub mod store_url;
pub mod url;
mod values;

pub use fault::{ConfigErrors, Fault, Nearest, Place, Problem};
pub use keys::{Group, Key, groups, keys};
pub use kind::log_targets;
pub use load::{Loaded, load, process_env};
pub use reload::{Change, Reload, changes};
pub use show::{default_toml, differing, markdown_table, shown};
pub use url::{HttpUrl, UrlError};
pub use values::{
    CloseEvents, ClusterChoice, ClusterConfig, Config, DriverChoice, Durability, LogFormat, Secrets, SignatureRequire,
    StoreConfig, StoreKind,
};
