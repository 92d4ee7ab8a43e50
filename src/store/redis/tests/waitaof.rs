//! A Redis that can say how far it has synced (7.2 and newer), whichever one the machine has: a real one behind a
//! double that answers WAITAOF itself. WAITAOF returns on time-out too, and then with a smaller number than was wanted.

use super::server::Server;
use super::*;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::thread;

struct Double {
    port: u16,
    state: Arc<State>,
}

struct State {
    /// How many have synced, as WAITAOF says.
    synced: AtomicI64,
    heard: AtomicU32,
}

impl Double {
    fn of(server: &Server) -> Double {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let (port, to) = (listener.local_addr().expect("its address").port(), server.port);
        let state = Arc::new(State { synced: AtomicI64::new(1), heard: AtomicU32::new(0) });
        let shared = state.clone();
        // It ends with the process, as `Proxy` does.
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { continue };
                let state = shared.clone();
                thread::spawn(move || state.serve(client, server));
            }
        });
        Double { port, state }
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn set_synced(&self, servers: i64) {
        self.state.synced.store(servers, Ordering::SeqCst);
    }

    fn heard(&self) -> u32 {
        self.state.heard.load(Ordering::SeqCst)
    }
}

impl State {
    /// One command after the other, until a side ends.
    fn serve(&self, client: TcpStream, server: TcpStream) -> io::Result<()> {
        let (mut to_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
        let (mut from_client, mut from_server) = (BufReader::new(client), BufReader::new(server));
        loop {
            let (mut command, mut reply) = (Vec::new(), Vec::new());
            copy_value(&mut from_client, &mut command)?;
            if contains(&command, b"\r\nWAITAOF\r\n") {
                self.heard.fetch_add(1, Ordering::SeqCst);
                write!(reply, "*2\r\n:{}\r\n:0\r\n", self.synced.load(Ordering::SeqCst))?;
            } else {
                to_server.write_all(&command)?;
                copy_value(&mut from_server, &mut reply)?;
            }
            if let Some(at) = position(&reply, b"redis_version:7.0") {
                reply[at..][..17].copy_from_slice(b"redis_version:7.2");
            }
            to_client.write_all(&reply)?;
        }
    }
}

/// A value of Redis's protocol, as it stands.
fn copy_value(from: &mut impl BufRead, to: &mut Vec<u8>) -> io::Result<()> {
    let start = to.len();
    if from.read_until(b'\n', to)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let head = String::from_utf8_lossy(&to[start..]).into_owned();
    let len = head[1..].trim_end().parse::<i64>();
    match (head.as_bytes()[0], len) {
        (b'$', Ok(len @ 0..)) => from.take(len as u64 + 2).read_to_end(to).map(drop),
        (b'*', Ok(count @ 0..)) => (0..count).try_for_each(|_| copy_value(from, to)),
        _ => Ok(()),
    }
}

fn position(text: &[u8], of: &[u8]) -> Option<usize> {
    text.windows(of.len()).position(|window| window == of)
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    position(text, part).is_some()
}

#[test]
fn what_is_not_synced_in_time_is_not_acknowledged() {
    let server = Server::start();
    let double = Double::of(&server);
    let mut rig = Rig::new(&double.url());
    rig.store.backoff_ms = &[1, 5, 10];
    rig.expect_done(vec![put_session(1), put_message(1, 0)]);
    assert!(double.heard() > 0, "each batch that writes asks");
    double.set_synced(0);
    let mutations = vec![put_message(1, 1), Mutation::RemoveMessage { session: SessionId(1), offset: Offset(0) }];
    let answers = rig.mutate(mutations);
    assert_eq!(answers, [(); 2].map(|()| Completion::Refused(StoreError::Unreachable)));
    assert_eq!(rig.claim("call", 60_000), ClaimOutcome::Refused(StoreError::Unreachable));
    assert!(matches!(rig.store.health(), Health::Refusing { reason: StoreError::Unreachable, .. }));
    // What was done without a promise is done once.
    double.set_synced(1);
    rig.expect_done(vec![put_message(1, 1)]);
    assert_eq!((rig.offsets(SessionId(1)), rig.store.health()), (vec![1], Health::Ready));
}
