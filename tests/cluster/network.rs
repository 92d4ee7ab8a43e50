//! Network namespaces, and bridges between them.
//!
//! ```text
//!   host 1 ─ eth0 ─┐                 ┌─ eth0 ─ host 2
//!                port1 ─ bridge ─ port2          (the bridge is in a namespace of its own)
//! ```

use std::cell::Cell;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::panic::resume_unwind;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Lives as long as a process in it.
pub struct Namespace {
    file: File,
    /// Ends when its stdin does: at the latest when this process ends.
    holder: Child,
    keeper: Sender<Box<dyn FnOnce() + Send>>,
}

/// Enters a namespace.
pub struct Handle(File);

/// One Ethernet; the networks of different LANs have different addresses.
pub struct Lan {
    bridge: Namespace,
    number: u8,
    ports: Cell<u8>,
}

/// One host's end of a LAN.
#[derive(Clone, Copy)]
pub struct Port {
    lan: u8,
    host: u8,
}

/// Addresses that a host gets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Namespace {
    pub fn new() -> Namespace {
        let mut holder = Command::new("unshare")
            .args(["--net", "--", "sh", "-c", "echo; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("util-linux is essential");
        let mut sign = [0];
        let has_begun = holder.stdout.as_mut().expect("piped").read_exact(&mut sign).is_ok();
        assert!(has_begun, "no network namespace: these tests need root (CAP_SYS_ADMIN and CAP_NET_ADMIN)");
        let file = File::open(format!("/proc/{}/ns/net", holder.id())).expect("it is there");
        let (keeper, tasks) = channel::<Box<dyn FnOnce() + Send>>();
        let own = file.try_clone().expect("a descriptor");
        std::thread::spawn(move || {
            enter(&own);
            tasks.into_iter().for_each(|task| task());
        });
        let namespace = Namespace { file, holder, keeper };
        namespace.run("ip link set lo up");
        namespace
    }

    /// Sockets that `act` opens are of this namespace for ever, and so are processes and threads that it starts.
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        enter_for(&self.file, act)
    }

    /// For another thread, while `self` is changed.
    pub fn handle(&self) -> Handle {
        Handle(self.file.try_clone().expect("a descriptor"))
    }

    /// As `enter`, on a thread that lives as long as the namespace.
    pub fn enter_to_stay<T: Send + 'static>(&self, act: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = channel();
        let task = move || {
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(act));
            let _ = done.send(outcome);
        };
        self.keeper.send(Box::new(task)).expect("it lives");
        result.recv().expect("it answers").unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A command of words; what it prints.
    pub fn run(&self, command: &str) -> String {
        let mut words = command.split(' ');
        let program = words.next().expect("a word");
        let output = self.enter(|| Command::new(program).args(words).output());
        let output = output.unwrap_or_else(|e| panic!("{command}: {e}"));
        assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Puts these rules in place of all others. A rule names its chain first: `in` or `out`.
    pub fn filter(&self, rules: &[&str]) {
        let mut script = String::from("flush ruleset\ntable inet t {\n");
        for chain in ["in", "out"] {
            script += &format!("chain {chain} {{ type filter hook {chain}put priority 0; policy accept;\n");
            let own = rules.iter().filter_map(|rule| rule.strip_prefix(chain)?.strip_prefix(' '));
            own.for_each(|rule| script += &format!("{rule}\n"));
            script += "}\n";
        }
        script += "}\n";
        let nft = || {
            let mut nft = Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn()?;
            std::io::Write::write_all(&mut nft.stdin.take().expect("piped"), script.as_bytes())?;
            nft.wait()
        };
        let status = self.enter(nft).expect("nft is there: apt-get install nftables");
        assert!(status.success(), "{script}: {status}");
    }
}

impl Handle {
    pub fn enter<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        enter_for(&self.0, act)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        drop(self.holder.stdin.take());
        let _ = self.holder.wait();
    }
}

impl Lan {
    /// `10.0.{number}.0/24` and `fd00:{number}::/64`.
    pub fn new(number: u8) -> Lan {
        let bridge = Namespace::new();
        bridge.run("ip link add bridge0 type bridge");
        bridge.run("ip link set bridge0 up");
        Lan { bridge, number, ports: Cell::new(0) }
    }

    /// Gives a host an interface of that name, and an address.
    pub fn connect(&self, host: &Namespace, interface: &str, family: Family) -> Port {
        let port = self.plug(host, interface);
        give_address(host, interface, family, port);
        port
    }

    /// With the address of another host, as the clone of a virtual machine has it.
    pub fn connect_clone(&self, host: &Namespace, interface: &str, family: Family, of: Port) -> Port {
        let port = self.plug(host, interface);
        give_address(host, interface, family, of);
        port
    }

    fn plug(&self, host: &Namespace, interface: &str) -> Port {
        let number = self.ports.get() + 1;
        self.ports.set(number);
        let peer = format!("peer name {interface} netns {}", host.holder.id());
        self.bridge.run(&format!("ip link add port{number} type veth {peer}"));
        self.bridge.run(&format!("ip link set port{number} master bridge0 up"));
        Port { lan: self.number, host: number }
    }

    pub fn pull_cable(&self, port: Port) {
        self.bridge.run(&format!("ip link set port{} down", port.host));
    }

    pub fn plug_in(&self, port: Port) {
        self.bridge.run(&format!("ip link set port{} up", port.host));
    }
}

impl Port {
    /// Of the host.
    pub fn number(self) -> u8 {
        self.host
    }

    pub fn v4(self) -> String {
        format!("10.0.{}.{}", self.lan, self.host)
    }

    pub fn v6(self) -> String {
        format!("fd00:{}::{}", self.lan, self.host)
    }
}

fn give_address(host: &Namespace, interface: &str, family: Family, port: Port) {
    match family {
        Family::V4 => host.run(&format!("ip addr add {}/24 broadcast + dev {interface}", port.v4())),
        Family::V6 => host.run(&format!("ip addr add {}/64 dev {interface} nodad", port.v6())),
    };
    host.run(&format!("ip link set {interface} up"));
}

fn enter_for<T: Send>(namespace: &File, act: impl FnOnce() -> T + Send) -> T {
    let entered = || {
        enter(namespace);
        act()
    };
    std::thread::scope(|scope| scope.spawn(entered).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

fn enter(namespace: &File) {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
}
