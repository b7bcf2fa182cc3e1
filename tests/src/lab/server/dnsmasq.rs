//! dnsmasq as the DNS server of a backend.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;

use super::{Server, describe};
use crate::lab::cleanup::Scratch;
use crate::lab::namespace::Namespace;
use crate::lab::sockets;

/// What a dnsmasq is to be.
#[derive(Clone, Debug)]
pub struct DnsmasqConfig {
    /// What it answers to `TXT whoami.lab`.
    pub name: String,
    /// Where it listens.
    pub listen: Vec<IpAddr>,
    /// The port, the same on all addresses.
    pub port: u16,
    /// Names with their addresses, one pair each.
    pub records: Vec<(String, IpAddr)>,
    /// Names with texts of up to 255 bytes, one pair each. A name may have
    /// many, which makes a large answer.
    pub texts: Vec<(String, String)>,
}

/// A running dnsmasq. It knows its records and asks nobody.
#[derive(Debug)]
pub struct Dnsmasq {
    /// Stop, crash, hang and restart.
    pub server: Server,
}

impl Dnsmasq {
    /// Starts dnsmasq in a namespace.
    ///
    /// # Errors
    /// When it is not installed or cannot listen.
    pub fn start(namespace: &Namespace, config: &DnsmasqConfig) -> Result<Self> {
        let scratch = Scratch::create(&format!("dnsmasq-{}", config.name))?;
        let mut arguments = vec![
            "--keep-in-foreground".to_owned(),
            "--conf-file=/dev/null".to_owned(),
            "--no-resolv".to_owned(),
            "--no-hosts".to_owned(),
            "--user=root".to_owned(),
            "--group=root".to_owned(),
            "--bind-interfaces".to_owned(),
            "--cache-size=0".to_owned(),
            // Large answers over UDP, to whoever asks for them.
            "--edns-packet-max=4096".to_owned(),
            "--log-queries".to_owned(),
            // Standard error, which goes to the server's log.
            "--log-facility=-".to_owned(),
            format!(
                "--pid-file={}",
                scratch.path().join("dnsmasq.pid").display()
            ),
            format!("--port={}", config.port),
            format!("--txt-record=whoami.lab,{}", config.name),
        ];
        arguments.extend(
            config
                .listen
                .iter()
                .map(|ip| format!("--listen-address={ip}")),
        );
        arguments.extend(
            config
                .records
                .iter()
                .map(|(name, ip)| format!("--host-record={name},{ip}")),
        );
        let texts = config.texts.iter();
        arguments.extend(texts.map(|(name, text)| format!("--txt-record={name},{text}")));
        let inside = namespace.clone();
        let make_command = move || {
            let mut command = inside.command("dnsmasq");
            command.args(&arguments);
            command
        };
        let inside = namespace.clone();
        let (listen, port) = (config.listen.clone(), config.port);
        let is_ready = move || {
            let all = |found: Vec<SocketAddr>| {
                listen
                    .iter()
                    .all(|ip| sockets::covers(&found, SocketAddr::new(*ip, port)))
            };
            sockets::tcp_listeners(&inside).is_ok_and(all)
                && sockets::udp_listeners(&inside).is_ok_and(all)
        };
        let what = describe("dnsmasq", namespace);
        let server = Server::start(what, scratch, Box::new(make_command), Box::new(is_ready))?;
        Ok(Self { server })
    }
}
