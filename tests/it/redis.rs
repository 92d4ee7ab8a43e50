//! The same promises with the store in Redis: a real redis-server that is killed, emptied, and set to evict.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::call::call_get;
use crate::harness::ports::{Port, free_port};
use crate::harness::process::Process;
use crate::harness::{
    Backend, Client, Command as Packets, Reply, Server, Setup, TIMEOUT, Upgrade, call, eventually, http, send,
};

/// A redis-server that syncs before it answers.
pub struct Redis {
    process: Process,
    port: Port,
    dir: PathBuf,
}

impl Redis {
    /// One that speaks TLS alone, with the certificate `tls.crt` beside its data.
    fn start_with_tls() -> Redis {
        let mut redis = Redis::start();
        let file = |name: &str| redis.dir.join(name).display().to_string();
        let (key, certificate) = (file("tls.key"), file("tls.crt"));
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"])
            .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout", &key, "-out", &certificate])
            .output()
            .expect("openssl is there");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let port = redis.port.number.to_string();
        redis.restart(&[
            "--port",
            "0",
            "--tls-port",
            &port,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-auth-clients",
            "no",
        ]);
        redis
    }

    pub fn start() -> Redis {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("rainbow-it-redis-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).expect("a directory for Redis");
        let port = free_port();
        Redis { process: run(&port, &dir, &[]), port, dir }
    }

    pub fn restart(&mut self, more: &[&str]) {
        self.process.kill();
        self.process = run(&self.port, &self.dir, more);
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn forget_everything(&mut self) {
        self.process.kill();
        std::fs::remove_dir_all(self.dir.join("appendonlydir")).expect("its data");
        self.restart(&[]);
    }

    pub fn setup(&self, backend: &Backend) -> Setup {
        let url = format!("redis://127.0.0.1:{}", self.port.number);
        Setup::of(backend)
            .text("store.kind", "redis")
            .text("store.url", &url)
            .set("workers", "2")
            .set("shutdown_timeout", "3")
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.process.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn run(port: &Port, dir: &PathBuf, more: &[&str]) -> Process {
    let there = Command::new("redis-server").arg("--version").output().is_ok();
    assert!(there, "redis-server is needed for these tests: apt-get install redis-server");
    let mut command = Command::new("redis-server");
    command.args(["--port", &port.number.to_string(), "--bind", "127.0.0.1", "--save", "", "--logfile", ""]);
    command.args(["--appendonly", "yes", "--appendfsync", "always"]).arg("--dir").arg(dir).args(more);
    let process = Process::start(command, &[]);
    process.log.wait_for("Redis is ready", TIMEOUT, |line| line.contains("Ready to accept connections"));
    process
}

struct World {
    backend: Backend,
    server: Server,
    redis: Redis,
}

/// Every device is a session of that name, in the channel `all`.
fn world() -> World {
    let (backend, redis) = (Backend::start(), Redis::start());
    backend.on_connect(|request| {
        let device = request.header("X-DEVICEID").expect("a device");
        Reply::welcome().header("RAINBOWCLIENTSESSION", device).header("RAINBOWCLIENTCHANNEL", "all")
    });
    let server = redis.setup(&backend).start();
    World { backend, server, redis }
}

impl World {
    fn open(&self, name: &str) -> (Client, Value) {
        let speaking = Upgrade::of(name).header("Sec-WebSocket-Protocol", "rainbow.2");
        let mut client = speaking.open(self.server.addr());
        let greeting = client.expect_send();
        (client, serde_json::from_slice(&greeting.body).expect("JSON"))
    }

    /// A session that is absent from here on.
    fn absent(&self, name: &str) {
        let (client, _) = self.open(name);
        client.leave();
        let shown = || call_get(self.server.addr(), "/session/", &[("session", name)]).json();
        eventually("the session is absent", || (shown()["online"] == false).then_some(()));
    }

    fn send(&self, body: &str) -> Value {
        send(self.server.addr(), "all", &[("qos", "2")], body)
    }

    fn readiness(&self, status: u16) -> String {
        let look = || Some(http::get(self.server.addr(), "/readyz")).filter(|answer| answer.status == status);
        eventually("/readyz has changed", look).text()
    }
}

/// What waits for the client, taken to its end, each once.
pub fn take(client: &mut Client, count: usize) -> Vec<String> {
    let (mut bodies, mut ended) = (Vec::new(), 0);
    while ended < count {
        let packet = client.next_packet();
        match packet.command {
            Packets::Send => {
                client.answer(Packets::Rec, packet.id, "");
                bodies.push(packet.text());
            }
            Packets::Rel => {
                client.answer(Packets::Com, packet.id, "");
                ended += 1;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    bodies
}

#[test]
fn what_is_stored_in_redis_outlives_both_servers_killed() {
    let mut world = world();
    world.absent("ann");
    let expected: Vec<String> = (0..20).map(|n| format!("message {n}")).collect();
    for body in &expected {
        assert_eq!(world.send(body)["stored"], 1);
    }
    world.server.process.kill();
    world.redis.restart(&[]);
    world.server = world.redis.setup(&world.backend).start();
    let (mut client, greeting) = world.open("ann");
    assert_eq!((&greeting["session"], &greeting["resumed"]), (&json!("ann"), &json!(true)));
    assert_eq!(greeting["waiting"], 20);
    assert_eq!(take(&mut client, 20), expected);
    client.assert_open();
}

#[test]
fn a_restart_of_redis_costs_no_promise() {
    let mut world = world();
    world.absent("ann");
    assert_eq!(world.send("before")["stored"], 1);
    world.redis.restart(&[]);
    assert_eq!(world.send("after")["stored"], 1);
    let (mut client, greeting) = world.open("ann");
    assert_eq!(greeting["waiting"], 2);
    assert_eq!(take(&mut client, 2), ["before", "after"]);
}

#[test]
fn without_redis_nothing_is_promised_and_it_is_said() {
    let mut world = world();
    world.absent("ann");
    world.redis.process.kill();
    let refused = world.send("nobody keeps it");
    assert_eq!((&refused["status"], &refused["stored"]), (&json!(1), &json!(0)), "{refused}");
    assert!(world.readiness(503).contains("does not answer"));
    assert_eq!(call(world.server.addr(), "/send/", &[("channel", "all"), ("qos", "0")], "").json()["status"], 0);
    world.redis.restart(&[]);
    world.readiness(200);
    assert_eq!(world.send("kept")["stored"], 1);
    let (mut client, _) = world.open("ann");
    assert_eq!(take(&mut client, 1), ["kept"]);
}

#[test]
fn a_redis_that_comes_back_empty_is_noticed() {
    let mut world = world();
    world.absent("ann");
    assert_eq!(world.send("promised")["stored"], 1);
    world.redis.forget_everything();
    let refused = world.send("not promised");
    assert_eq!((&refused["status"], &refused["stored"]), (&json!(1), &json!(0)), "{refused}");
    world.readiness(503);
    let info = call_get(world.server.addr(), "/info/", &[]).text();
    assert!(info.contains("has lost its data"), "{info}");
    world.server.process.kill();
    world.server = world.redis.setup(&world.backend).start();
    assert_eq!(world.open("ann").1["resumed"], false, "a new start goes on with what is there");
}

#[test]
fn a_redis_that_evicts_is_refused_at_the_start() {
    let mut redis = Redis::start();
    redis.restart(&["--maxmemory-policy", "allkeys-lru"]);
    let refused = redis.setup(&Backend::start()).refused();
    assert!(!refused.status.success());
    assert!(refused.text.contains("maxmemory-policy is allkeys-lru"), "{}", refused.text);
}

#[test]
fn a_redis_that_hangs_holds_up_neither_readiness_nor_a_call_nor_the_end() {
    let mut world = world();
    world.absent("ann");
    world.redis.process.signal("STOP");
    let begun = Instant::now();
    let once = [("channel", "all"), ("qos", "1"), ("timeout", "2"), ("message_id", "m")];
    let answer = call(world.server.addr(), "/send/", &once, "x").json();
    assert_eq!(answer["status"], 1, "{answer}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?} with a timeout of 2 s", begun.elapsed());
    let plain = [("channel", "all"), ("qos", "1"), ("timeout", "1")];
    let answer = call(world.server.addr(), "/send/", &plain, "y").json();
    assert_eq!((&answer["status"], &answer["undecided"]), (&json!(1), &json!(1)), "what is on its way is not success");
    assert!(world.readiness(503).contains("does not answer"));
    assert!(begun.elapsed() < Duration::from_secs(12), "{:?}", begun.elapsed());
    let ending = Instant::now();
    world.server.terminate();
    let status = world.server.exited_within(Duration::from_secs(10));
    assert!(ending.elapsed() < Duration::from_secs(6), "{:?} with shutdown_timeout 3 s", ending.elapsed());
    assert_ne!(status.code(), Some(0), "something was given up");
    assert!(world.server.log().contains("shutdown_timeout is over"), "{}", world.server.log());
    world.redis.process.signal("CONT");
    // A repeat of the call after that is a call like any other.
    world.server = world.redis.setup(&world.backend).start();
    let answer = eventually("it is stored", || {
        let answer = call(world.server.addr(), "/send/", &once, "x").json();
        (answer["status"] == 0).then_some(answer)
    });
    assert_eq!(answer["stored"], 1, "{answer}");
}

#[test]
fn a_redis_that_speaks_tls_is_believed_by_its_certificate() {
    let (backend, redis) = (Backend::start(), Redis::start_with_tls());
    let url = format!("rediss://127.0.0.1:{}", redis.port.number);
    let setup = || redis.setup(&backend).set("store.url", &format!("\"{url}\""));
    let refused = setup().refused();
    assert!(refused.text.contains("certificate") && refused.text.contains("SSL_CERT_FILE"), "{}", refused.text);
    let ca = redis.dir.join("tls.crt").display().to_string();
    backend
        .on_connect(|_| Reply::welcome().header("RAINBOWCLIENTSESSION", "ann").header("RAINBOWCLIENTCHANNEL", "all"));
    let mut server = setup().env("SSL_CERT_FILE", &ca).start();
    Client::open(server.addr(), "phone").leave();
    let sent = || send(server.addr(), "all", &[("qos", "1")], "over TLS");
    eventually("it is stored", || (sent()["stored"] == 1).then_some(()));
    server.process.kill();
    server = setup().env("SSL_CERT_FILE", &ca).start();
    let stored = call_get(server.addr(), "/session/", &[("session", "ann")]).json();
    assert!(stored["waiting"].as_u64() >= Some(1), "{stored}");
}
