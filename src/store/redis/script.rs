//! The Lua scripts in `lua/`, one per kind of request, and how a call of one looks on the wire. They are loaded once
//! per connection and called by their digests. A server that has lost them answers NOSCRIPT, and the batch is tried
//! again.

use redis::{Cmd, ToRedisArgs};
use sha1::{Digest, Sha1};
use std::fmt::Write;
use std::sync::LazyLock;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Script {
    PutSession,
    JoinChannel,
    LeaveChannel,
    PutMessage,
    ReleaseMessage,
    RemoveMessage,
    PutReceived,
    RemoveReceived,
    DropSession,
    LoadPage,
    Purge,
    AdoptSession,
    ClaimCall,
    SettleCall,
    CheckNode,
    Register,
    Migrated,
    Renew,
    Bury,
    ForgetNode,
    ClaimSession,
    PassSession,
    VerifySession,
    PutConnection,
    TakeConnections,
}

struct Loaded {
    text: String,
    digest: String,
}

impl Script {
    pub const ALL: [Script; 25] = [
        Script::PutSession,
        Script::JoinChannel,
        Script::LeaveChannel,
        Script::PutMessage,
        Script::ReleaseMessage,
        Script::RemoveMessage,
        Script::PutReceived,
        Script::RemoveReceived,
        Script::DropSession,
        Script::LoadPage,
        Script::Purge,
        Script::AdoptSession,
        Script::ClaimCall,
        Script::SettleCall,
        Script::CheckNode,
        Script::Register,
        Script::Migrated,
        Script::Renew,
        Script::Bury,
        Script::ForgetNode,
        Script::ClaimSession,
        Script::PassSession,
        Script::VerifySession,
        Script::PutConnection,
        Script::TakeConnections,
    ];

    /// What `SCRIPT LOAD` is given.
    pub fn text(self) -> &'static str {
        &LOADED[self as usize].text
    }

    /// Appends a call: one EVALSHA.
    pub fn call<A: ToRedisArgs>(self, keys: &[&[u8]], args: A, out: &mut Vec<u8>) {
        let mut call = Cmd::new();
        call.arg("EVALSHA").arg(&LOADED[self as usize].digest).arg(keys.len());
        call.arg(keys).arg(args).write_packed_command(out);
    }

    fn body(self) -> &'static str {
        match self {
            Script::PutSession => include_str!("lua/put_session.lua"),
            Script::JoinChannel => include_str!("lua/join_channel.lua"),
            Script::LeaveChannel => include_str!("lua/leave_channel.lua"),
            Script::PutMessage => include_str!("lua/put_message.lua"),
            Script::ReleaseMessage => include_str!("lua/release_message.lua"),
            Script::RemoveMessage => include_str!("lua/remove_message.lua"),
            Script::PutReceived => include_str!("lua/put_received.lua"),
            Script::RemoveReceived => include_str!("lua/remove_received.lua"),
            Script::DropSession => include_str!("lua/drop_session.lua"),
            Script::LoadPage => include_str!("lua/load_page.lua"),
            Script::Purge => include_str!("lua/purge.lua"),
            Script::AdoptSession => include_str!("lua/adopt_session.lua"),
            Script::ClaimCall => include_str!("lua/claim_call.lua"),
            Script::SettleCall => include_str!("lua/settle_call.lua"),
            Script::CheckNode => include_str!("lua/check_node.lua"),
            Script::Register => include_str!("lua/register.lua"),
            Script::Migrated => include_str!("lua/migrated.lua"),
            Script::Renew => include_str!("lua/renew.lua"),
            Script::Bury => include_str!("lua/bury.lua"),
            Script::ForgetNode => include_str!("lua/forget_node.lua"),
            Script::ClaimSession => include_str!("lua/claim_session.lua"),
            Script::PassSession => include_str!("lua/pass_session.lua"),
            Script::VerifySession => include_str!("lua/verify_session.lua"),
            Script::PutConnection => include_str!("lua/put_connection.lua"),
            Script::TakeConnections => include_str!("lua/take_connections.lua"),
        }
    }
}

impl Loaded {
    /// The line with the flags, where there is one, must stand before the prelude.
    fn new(script: Script) -> Loaded {
        let body = script.body();
        let flags = body.starts_with("#!").then(|| body.split_inclusive('\n').next().unwrap_or_default());
        let flags = flags.unwrap_or_default();
        let text = [flags, include_str!("lua/prelude.lua"), &body[flags.len()..]].concat();
        let digest = Sha1::digest(&text).iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        Loaded { text, digest }
    }
}

static LOADED: LazyLock<Vec<Loaded>> = LazyLock::new(|| {
    debug_assert!(
        Script::ALL.iter().enumerate().all(|(position, script)| *script as usize == position),
        "in their order"
    );
    Script::ALL.map(Loaded::new).into()
});
