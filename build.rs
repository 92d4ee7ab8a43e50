//! Names the commit that the server is built from: `RAINBOW_COMMIT` if the builder sets it, else git's word in a
//! checkout when a release is built. A debug build is not built anew for every commit.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-env-changed=RAINBOW_COMMIT");
    let from_env = std::env::var("RAINBOW_COMMIT").ok().filter(|commit| !commit.is_empty());
    let is_release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let commit = from_env.or_else(|| if is_release && Path::new(".git").exists() { commit() } else { None });
    let version = std::env::var("CARGO_PKG_VERSION").expect("cargo sets it");
    match commit {
        Some(commit) => {
            println!("cargo::rustc-env=BUILD_COMMIT={commit}");
            println!("cargo::rustc-env=BUILD_VERSION={version} ({commit})");
        }
        None => println!("cargo::rustc-env=BUILD_VERSION={version}"),
    }
    println!("cargo::rerun-if-changed=build.rs");
}

fn commit() -> Option<String> {
    // The log of HEAD grows with each commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]).filter(|log| Path::new(log).exists()) {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
