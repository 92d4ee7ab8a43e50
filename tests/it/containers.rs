//! Where io_uring and `unshare` are forbidden and the user is nobody, as in a container, the server serves all the same,
//! and says what it does without.

use crate::harness::call::{call_get, send_later};
use crate::harness::{Backend, Client, Command, Reply, Setup};

#[test]
fn it_serves_under_dockers_seccomp_filter_and_says_what_it_lacks() {
    let backend = Backend::start();
    backend.on_connect(|_| Reply::welcome().header("RAINBOWCLIENTCHANNEL", "news"));
    backend.on_message(|_| Reply::ok("heard"));
    let server =
        Setup::of(&backend).set("store.kind", "\"sqlite\"").env("RAINBOW_DRIVER", "auto").in_a_container().start();
    let mut clients: Vec<_> = (0..8).map(|n| Client::open(server.addr(), &format!("phone{n}"))).collect();
    for client in &mut clients {
        client.send(1, 7, 1, "up");
        assert_eq!(client.expect(Command::Ack, 1).body, b"heard");
    }
    let sending = send_later(server.addr(), "news", &[("qos", "1")], "down");
    for client in &mut clients {
        let packet = client.expect_send();
        assert_eq!(packet.body, b"down");
        client.answer(Command::Ack, packet.id, "");
    }
    assert_eq!(sending.join().expect("no panic")["connections"], 8);
    assert_eq!(call_get(server.addr(), "/metrics", &[]).status, 200);
    let log = server.log();
    for words in ["epoll is used, since there is no io_uring here", "seccomp", "unshare is forbidden here"] {
        assert!(log.contains(words), "{words:?} is not in the log:\n{log}");
    }
}

#[test]
fn a_driver_that_is_named_and_forbidden_is_refused_with_what_to_do() {
    let refused = Setup::new().env("RAINBOW_DRIVER", "io_uring").in_a_container().refused();
    assert!(!refused.status.success());
    for words in ["driver = \"io_uring\"", "io_uring_setup"] {
        assert!(refused.text.contains(words), "{words:?} is not in:\n{}", refused.text);
    }
}

#[test]
fn a_low_port_that_is_not_allowed_has_its_sentence() {
    let first_allowed = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").expect("Linux");
    if first_allowed.trim().parse::<u32>().expect("a number") < 2 {
        return println!("every port is allowed to everybody here");
    }
    let refused = Setup::new().no_port().set("http_port", "1").in_a_container().refused();
    assert!(!refused.status.success());
    assert!(refused.text.contains("CAP_NET_BIND_SERVICE"), "{}", refused.text);
}
