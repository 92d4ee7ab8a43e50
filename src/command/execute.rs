//! Carries a subcommand out: to a request, to an answer, to an exit code.

use super::client::call;
use super::exit::{CommandError, Exit};
use super::options::{CallCommand, ClusterCommand, Defaults, SignOptions, TokenOptions};
use super::output::{Format, Output, Shape};
use super::request::Request;
use super::server::Server;
use super::tail::tail;
use super::top::watch;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use std::fs::File;
use std::io::{self, Read, Write};

/// Makes the call and prints its answer to stdout, or why there is none to stderr.
pub fn execute(command: CallCommand, defaults: &Defaults) -> Exit {
    carry_out(command, defaults).unwrap_or_else(|error| {
        let _ = writeln!(io::stderr(), "rainbow-server: {error}");
        error.exit()
    })
}

fn carry_out(command: CallCommand, defaults: &Defaults) -> Result<Exit, CommandError> {
    let (request, options, shape) = match command {
        CallCommand::Send(on) => (Request::send(&on.what)?, on.server, Shape::Sent),
        CallCommand::Broadcast(on) => (Request::broadcast(&on.what)?, on.server, Shape::Sent),
        CallCommand::Kick(on) => (Request::kick(&on.what), on.server, Shape::Kicked),
        CallCommand::Sub(on) => (Request::subscribe(&on.what), on.server, Shape::Done),
        CallCommand::Unsub(on) => (Request::unsubscribe(&on.what), on.server, Shape::Done),
        CallCommand::Channels(on) => (Request::channels(&on.what), on.server, Shape::Channels),
        CallCommand::Members(on) => (Request::members(&on.what), on.server, Shape::Members),
        CallCommand::Sessions(on) => (Request::sessions(&on.what), on.server, Shape::Sessions),
        CallCommand::Session(on) => (Request::session(&on.what), on.server, Shape::Session),
        CallCommand::Drop(on) => (Request::drop_session(&on.what), on.server, Shape::Done),
        CallCommand::Info(on) => (Request::get("/info/"), on.server, Shape::Info),
        CallCommand::Top(on) => return watch(&on.what, &Server::find(&on.server, defaults)?, &defaults.terminal),
        CallCommand::Tail(on) => {
            return tail(&on.what, Format::of(&on.server), &Server::find(&on.server, defaults)?);
        }
        CallCommand::Cluster(ClusterCommand::Status(on)) => (Request::get("/info/"), on.server, Shape::Cluster),
        CallCommand::Cluster(ClusterCommand::Forget(on)) => (Request::forget_node(&on.what), on.server, Shape::Done),
        CallCommand::Reload(on) => (Request::reload(), on.server, Shape::Done),
        CallCommand::Drain(on) => (Request::drain(), on.server, Shape::Done),
        CallCommand::Health(on) => (Request::health(&on.what), on.server, Shape::Plain),
        CallCommand::Sign(on) => return sign(&on.what, &Server::find(&on.server, defaults)?),
        CallCommand::Token(options) => return token(&options),
    };
    let server = Server::find(&options, defaults)?;
    let answer = call(&server, &request)?;
    Ok(Output::new(Format::of(&options), shape).print(&answer))
}

fn sign(options: &SignOptions, server: &Server) -> Result<Exit, CommandError> {
    let url = server.signed_url(&options.path)?;
    let _ = writeln!(io::stdout(), "{url}");
    Ok(Exit::Done)
}

fn token(options: &TokenOptions) -> Result<Exit, CommandError> {
    let mut secret = [0; SECRET_BYTES];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut secret)).map_err(CommandError::Random)?;
    let text = match options.webhook {
        true => format!("whsec_{}", STANDARD.encode(secret)),
        false => URL_SAFE_NO_PAD.encode(secret),
    };
    let _ = writeln!(io::stdout(), "{text}");
    Ok(Exit::Done)
}

/// 192 bits and more cannot be guessed; it is in the middle of what Standard Webhooks takes.
const SECRET_BYTES: usize = 32;
