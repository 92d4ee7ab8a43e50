//! The Lua scripts, one per kind of step, and how a call of one looks on the wire. They are loaded once per connection
//! and called by their digest; a server that has lost them says NOSCRIPT, and the batch is tried again.

use redis::{Cmd, ToRedisArgs};
use sha1::{Digest, Sha1};
use std::fmt::Write;
use std::sync::LazyLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    Put,
    Join,
    Leave,
    Keep,
    Release,
    Remove,
    Receive,
    Forget,
    Drop,
    Load,
    Purge,
    Found,
    Claim,
    Settle,
    Writer,
    Begin,
}

struct Loaded {
    text: String,
    digest: String,
}

impl Script {
    pub const ALL: [Script; 16] = [
        Script::Put,
        Script::Join,
        Script::Leave,
        Script::Keep,
        Script::Release,
        Script::Remove,
        Script::Receive,
        Script::Forget,
        Script::Drop,
        Script::Load,
        Script::Purge,
        Script::Found,
        Script::Claim,
        Script::Settle,
        Script::Writer,
        Script::Begin,
    ];

    /// What `SCRIPT LOAD` is given.
    pub fn text(self) -> &'static str {
        &LOADED[self as usize].text
    }

    /// Adds a call to a pipeline: one EVALSHA.
    pub fn call<A: ToRedisArgs>(self, keys: &[&[u8]], args: A, out: &mut Vec<u8>) {
        let mut call = Cmd::new();
        call.arg("EVALSHA").arg(&LOADED[self as usize].digest).arg(keys.len());
        call.arg(keys).arg(args).write_packed_command(out);
    }

    fn body(self) -> &'static str {
        match self {
            Script::Put => include_str!("put.lua"),
            Script::Join => include_str!("join.lua"),
            Script::Leave => include_str!("leave.lua"),
            Script::Keep => include_str!("keep.lua"),
            Script::Release => include_str!("release.lua"),
            Script::Remove => include_str!("remove.lua"),
            Script::Receive => include_str!("receive.lua"),
            Script::Forget => include_str!("forget.lua"),
            Script::Drop => include_str!("drop.lua"),
            Script::Load => include_str!("load.lua"),
            Script::Purge => include_str!("purge.lua"),
            Script::Found => include_str!("found.lua"),
            Script::Claim => include_str!("claim.lua"),
            Script::Settle => include_str!("settle.lua"),
            Script::Writer => include_str!("writer.lua"),
            Script::Begin => include_str!("begin.lua"),
        }
    }
}

impl Loaded {
    /// The line with the flags, where there is one, must come first.
    fn new(script: Script) -> Loaded {
        let body = script.body();
        let flags = body.starts_with("#!").then(|| body.split_inclusive('\n').next().unwrap_or_default());
        let flags = flags.unwrap_or_default();
        let text = [flags, include_str!("session.lua"), &body[flags.len()..]].concat();
        let digest = Sha1::digest(&text).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Loaded { text, digest }
    }
}

static LOADED: LazyLock<Vec<Loaded>> = LazyLock::new(|| {
    debug_assert!(Script::ALL.iter().enumerate().all(|(at, script)| *script as usize == at), "in their order");
    Script::ALL.map(Loaded::new).into()
});
