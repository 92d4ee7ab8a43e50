//! What a server must be before anything is promised.

use super::*;

#[track_caller]
fn refused(server: &Server, options: Options) -> String {
    match Redis::open(&Options { url: server.url().into(), ..options }) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("it opened"),
    }
}

fn memory() -> Options {
    Options { durability: Durability::Memory, ..options("", "test") }
}

#[test]
fn a_server_that_evicts_is_refused() {
    let server = Server::start();
    server.query("CONFIG SET maxmemory-policy allkeys-lru");
    let text = refused(&server, memory());
    assert!(text.contains("maxmemory-policy is allkeys-lru") && text.contains("set it to noeviction"), "{text}");
}

#[test]
fn a_server_without_fsync_is_refused_unless_memory_is_enough() {
    let server = Server::with(&["--appendonly", "no"]);
    let text = refused(&server, options("", "test"));
    assert!(text.contains("appendonly yes") && text.contains("store.durability = \"memory\""), "{text}");
    Rig::with(Options { url: server.url().into(), ..memory() }).expect_done(vec![put_session(1)]);
}

#[test]
fn a_server_that_syncs_later_is_refused_where_it_cannot_be_waited_for() {
    let server = Server::with(&["--appendonly", "yes", "--appendfsync", "everysec"]);
    let has_waitaof = matches!(server.query("COMMAND INFO WAITAOF"), Value::Array(found) if found != [Value::Nil]);
    if has_waitaof {
        Rig::new(&server.url()).expect_done(vec![put_session(1)]);
    } else {
        let text = refused(&server, options("", "test"));
        assert!(text.contains("appendfsync is everysec") && text.contains("appendfsync always"), "{text}");
        server.query("CONFIG SET appendfsync always no-appendfsync-on-rewrite yes");
        assert!(refused(&server, options("", "test")).contains("no-appendfsync-on-rewrite no"));
    }
}

#[test]
fn a_password_is_used_and_a_wrong_one_is_reported() {
    let server = Server::with(&["--appendonly", "yes", "--appendfsync", "always", "--requirepass", "secret"]);
    let text = refused(&server, options("", "test"));
    assert!(text.contains("NOAUTH"), "{text}");
    let wrong = Redis::open(&options(&format!("redis://:wrong@127.0.0.1:{}", server.port), "test"));
    let text = wrong.err().expect("refused").to_string();
    assert!(text.contains("authentication failed") && !text.contains("wrong@"), "{text}");
    Rig::new(&format!("redis://:secret@127.0.0.1:{}/3", server.port)).expect_done(vec![put_session(1)]);
}

#[test]
fn a_format_of_a_later_version_is_refused() {
    let server = Server::start();
    Rig::new(&server.url()).expect_done(vec![put_session(1)]);
    server.query("SET rainbow:test:{0}:format \u{9}");
    let text = refused(&server, options("", "test"));
    assert!(text.contains("format 9, this version reads 2"), "{text}");
}

#[test]
fn a_url_that_is_none_of_ours_says_what_it_could_be() {
    for (url, expected) in [
        ("http://localhost", "redis-cluster://"),
        ("redis-sentinel://localhost:1", "/master-name"),
        ("redis-sentinel:///main", "/master-name"),
        ("redis-cluster://", "names no host"),
    ] {
        let text = Redis::open(&options(url, "test")).err().expect("refused").to_string();
        assert!(text.contains(expected), "{url}: {text}");
    }
}

#[test]
fn stores_of_two_clusters_do_not_meet() {
    let server = Server::start();
    let mut one = Rig::new(&server.url());
    let mut other = Rig::with(options(&server.url(), "other"));
    one.expect_done(vec![put_session(1), put_message(1, 0)]);
    other.expect_done(vec![put_session(1)]);
    assert_eq!(other.offsets(SessionId(1)), [0; 0]);
    assert_eq!(one.offsets(SessionId(1)), [0]);
}

#[test]
fn an_unused_second_session_of_a_name_is_dropped_at_the_start() {
    let server = Server::start();
    let mut rig = Rig::new(&server.url());
    rig.expect_done(vec![put_session(1), put_message(1, 3)]);
    // As where the answer to a Put was lost and the server died: another session of that name is there as well.
    rig.store.owned.clear();
    rig.expect_done(vec![Mutation::PutSession(Box::new(SessionRow { name: "name-1".into(), ..row(2) }))]);
    let found = rig.reopen();
    assert_eq!((found.len(), found[0].row.session), (1, SessionId(1)));
    assert_eq!(rig.reopen().len(), 1, "it is gone");
}
