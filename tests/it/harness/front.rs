//! A real proxy in front of a server under test: Debian's nginx or haproxy, with a configuration of its own, in the
//! foreground. Each has an address of its own, from which it also speaks to the server, so that it can be told from
//! its clients.

use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::process::Command;

use super::eventually;
use super::ports::{Port, free_port};
use super::process::Process;
use super::server::Dir;

/// A running proxy; ends when it is dropped.
pub struct Front {
    pub addr: SocketAddr,
    _process: Process,
    _port: Port,
    _dir: Dir,
}

/// How haproxy speaks to the server.
#[derive(Clone, Copy, Debug)]
pub enum Haproxy {
    /// HTTP, with X-Forwarded-For.
    ForwardFor,
    /// Bytes as they come, behind a PROXY header of version 1 or 2.
    SendProxy,
    SendProxyV2,
    /// Bytes as they come, and nothing says so.
    Bytes,
}

impl Front {
    /// What nginx's address is to the server.
    pub const NGINX: &'static str = "127.0.0.2";
    pub const HAPROXY: &'static str = "127.0.0.3";

    /// The recipe of nginx's manual for WebSockets, with the client's address.
    pub fn nginx(to: SocketAddr) -> Front {
        let (port, dir) = (free_port(), Dir::new());
        let (path, addr) = (dir.path.display(), address(Front::NGINX, &port));
        let from = Front::NGINX;
        let contents = format!(
            "daemon off; master_process off; pid {path}/pid; error_log stderr;
            events {{ worker_connections 256; }}
            http {{
                access_log off;
                client_body_temp_path {path}/body; proxy_temp_path {path}/proxy; fastcgi_temp_path {path}/fastcgi;
                uwsgi_temp_path {path}/uwsgi; scgi_temp_path {path}/scgi;
                map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
                server {{
                    listen {addr};
                    location / {{
                        proxy_pass http://{to};
                        proxy_bind {from};
                        proxy_http_version 1.1;
                        proxy_set_header Upgrade $http_upgrade;
                        proxy_set_header Connection $connection_upgrade;
                        proxy_set_header Host $host;
                        proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
                        proxy_set_header X-Forwarded-Proto $scheme;
                    }}
                }}
            }}"
        );
        let file = dir.write("nginx.conf", &contents);
        // Its log until it has read its configuration.
        let args = ["-e", "stderr", "-p", &path.to_string(), "-c", &file];
        let process = start("nginx", "nginx-light", &args);
        Front::listening(addr, process, port, dir)
    }

    pub fn haproxy(to: SocketAddr, how: Haproxy) -> Front {
        let (port, dir) = (free_port(), Dir::new());
        let addr = address(Front::HAPROXY, &port);
        let from = Front::HAPROXY;
        let (mode, option) = match how {
            Haproxy::ForwardFor => ("http", ""),
            Haproxy::SendProxy => ("tcp", "send-proxy"),
            Haproxy::SendProxyV2 => ("tcp", "send-proxy-v2"),
            Haproxy::Bytes => ("tcp", ""),
        };
        let forward = if mode == "http" { "option forwardfor" } else { "" };
        let contents = format!(
            "global\n  maxconn 256\n  hard-stop-after 1s\n\
             defaults\n  mode {mode}\n  {forward}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
             listen front\n  bind {addr}\n  server rainbow {to} source {from} {option}\n"
        );
        let file = dir.write("haproxy.cfg", &contents);
        let process = start("haproxy", "haproxy", &["-db", "-f", &file]);
        Front::listening(addr, process, port, dir)
    }

    fn listening(addr: SocketAddr, process: Process, port: Port, dir: Dir) -> Front {
        let mut process = process;
        eventually("the proxy listens", || {
            assert!(process.exited().is_none(), "the proxy has ended:\n{}", process.log.text());
            TcpStream::connect(addr).ok()
        });
        Front { addr, _process: process, _port: port, _dir: dir }
    }
}

fn address(ip: &str, port: &Port) -> SocketAddr {
    SocketAddr::from((ip.parse::<Ipv4Addr>().expect("an address"), port.number))
}

fn start(program: &str, package: &str, args: &[&str]) -> Process {
    // The second is in root's path only.
    let places = [program.to_owned(), format!("/usr/sbin/{program}")];
    let found = places.into_iter().find(|place| Command::new(place).arg("-v").output().is_ok());
    let found = found.unwrap_or_else(|| panic!("{program} is needed for these tests: apt-get install {package}"));
    let mut command = Command::new(found);
    command.args(args);
    Process::start(command, &[])
}
