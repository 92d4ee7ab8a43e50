//! Durable sessions as a client and a business server meet them: the greeting of `rainbow.2`, resuming, takeover, what a
//! call says of those who are away, `/session/`, and calls repeated with a `message_id`.

use crate::harness::{Backend, Client, Setup, Upgrade};

const SUBPROTOCOL: &str = "rainbow.2";
/// Rainbow's own message type.
const GREETING: u16 = 65_535;

fn speaking(device: &str) -> Upgrade {
    Upgrade::of(device).header("Sec-WebSocket-Protocol", "chat, rainbow.2")
}

#[test]
fn a_client_that_speaks_the_subprotocol_is_greeted_first() {
    let backend = Backend::start();
    let server = Setup::of(&backend).start();
    let mut client = speaking("phone").open(server.addr());
    assert_eq!(client.response.header("sec-websocket-protocol"), Some(SUBPROTOCOL));
    let greeting = client.expect_send();
    assert_eq!((greeting.qos, greeting.kind), (0, GREETING));
    let said: serde_json::Value = serde_json::from_slice(&greeting.body).expect("JSON");
    assert_eq!(said, serde_json::json!({"session": null, "resumed": false, "waiting": 0}));
    client.assert_open();
}

#[test]
fn a_client_that_does_not_speak_it_gets_no_packet_of_its_own_accord() {
    let server = Setup::new().start();
    let mut client = Client::open(server.addr(), "of 2014");
    assert_eq!(client.response.header("sec-websocket-protocol"), None);
    client.assert_open();
    let mut other = Upgrade::of("other").header("Sec-WebSocket-Protocol", "rainbow, chat").open(server.addr());
    assert_eq!(other.response.header("sec-websocket-protocol"), None);
    other.assert_open();
}
