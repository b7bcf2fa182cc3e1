//! What a user would put in the middle.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;

use super::place::{BACKENDS, PORT, Place, Replies, VIP, backend};
use crate::balancer::Balancer;
use crate::lab::cleanup::Scratch;
use crate::lab::pass::{self, Action, Attached};
use crate::lab::{Process, link, process, sockets};

const LIMIT: Duration = Duration::from_secs(20);

/// Who is in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Nobody: the client asks a backend itself.
    Nobody,
    /// An XDP program of a few instructions that hands frames on by their
    /// source port: what a hop of the lab costs.
    Wire,
    /// The balancer, by `l2` with direct server return.
    Balancer,
    /// DNAT by nftables.
    Nftables,
    /// HAProxy in TCP mode.
    Haproxy,
    /// nginx's stream proxy.
    Nginx,
}

/// One of them at work.
pub(super) enum Contender<'a> {
    Nobody,
    Wire(#[expect(dead_code, reason = "kept for as long as it shall run")] Vec<Attached>),
    Balancer {
        daemon: Balancer<'a>,
        _passes: Vec<Attached>,
    },
    Nftables,
    /// The process and what it reads.
    Proxy(Proxy),
}

/// A proxy's main process; its workers are its children.
pub(super) struct Proxy {
    process: Process,
    _files: Scratch,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // A killed main process would leave its workers behind.
        let _ = self.process.signal(Signal::SIGTERM);
        let _ = self.process.wait(LIMIT);
    }
}

impl Kind {
    pub(super) fn replies(self) -> Replies {
        match self {
            Self::Nobody | Self::Wire | Self::Balancer => Replies::Direct,
            Self::Nftables | Self::Haproxy | Self::Nginx => Replies::ThroughTheMiddle,
        }
    }

    pub(super) fn start(self, place: &Place) -> Result<Contender<'_>> {
        match self {
            Self::Nobody => Ok(Contender::Nobody),
            Self::Wire => wire(place),
            Self::Balancer => balancer(place),
            Self::Nftables => nftables(place),
            Self::Haproxy => haproxy(place),
            Self::Nginx => nginx(place),
        }
    }
}

impl Contender<'_> {
    /// The main process, where there is one whose CPU time tells.
    pub(super) fn pid(&mut self) -> Option<u32> {
        match self {
            Self::Nobody | Self::Wire(_) | Self::Nftables => None,
            Self::Balancer { daemon, .. } => Some(daemon.process().pid()),
            Self::Proxy(proxy) => Some(proxy.process.pid()),
        }
    }
}

fn wire(place: &Place) -> Result<Contender<'_>> {
    place.give_vip_to_backends()?;
    let out = |index| link::index(&place.middle, &format!("out{index}"));
    let mut programs = to_backends(place)?;
    let program = by_port(out(0)?, out(1)?);
    programs.push(pass::attach_instructions(&place.middle, "in", &program)?);
    Ok(Contender::Wire(programs))
}

/// Lets the backends take frames that are redirected to them: into a veth
/// without a program they get lost.
fn to_backends(place: &Place) -> Result<Vec<Attached>> {
    let backends = place.backends.iter().zip(0..BACKENDS);
    backends
        .map(|(namespace, index)| pass::attach(namespace, &format!("s{index}"), Action::Pass))
        .collect()
}

/// Redirects a frame to one of two interfaces by the second bit of its TCP
/// source port: the first is the same in all ports that Linux gives away.
fn by_port(even: u32, odd: u32) -> [u64; 14] {
    let code = |code: u64, to: u64, from: u64, offset: u64, value: u32| {
        code | to << 8 | from << 12 | offset << 16 | u64::from(value) << 32
    };
    [
        // Data and its end; does the frame reach behind the source port?
        code(0x61, 2, 1, 0, 0),
        code(0x61, 3, 1, 4, 0),
        code(0xbf, 4, 2, 0, 0),
        code(0x07, 4, 0, 0, 36),
        code(0x2d, 4, 3, 3, 0),
        code(0x71, 5, 2, 35, 0),
        code(0x57, 5, 0, 0, 2),
        code(0x55, 5, 0, 2, 0),
        code(0xb7, 1, 0, 0, even),
        code(0x05, 0, 0, 1, 0),
        code(0xb7, 1, 0, 0, odd),
        // bpf_redirect, whose verdict is the program's.
        code(0xb7, 2, 0, 0, 0),
        code(0x85, 0, 0, 0, 23),
        code(0x95, 0, 0, 0, 0),
    ]
}

fn balancer(place: &Place) -> Result<Contender<'_>> {
    place.give_vip_to_backends()?;
    let passes = to_backends(place)?;
    let mut services = format!(
        "[[service]]\nname = \"web\"\naddress = \"{VIP}\"\nport = {PORT}\n\
         protocol = \"tcp\"\nforward = \"l2\"\n"
    );
    for index in 0..BACKENDS {
        services.push_str(&format!(
            "[[service.backend]]\nname = \"web-{index}\"\naddress = \"{}\"\n",
            backend(index).ip()
        ));
    }
    Ok(Contender::Balancer {
        daemon: Balancer::start(&place.middle, &["in"], &services)?,
        _passes: passes,
    })
}

fn nftables(place: &Place) -> Result<Contender<'_>> {
    let map: Vec<String> = (0..BACKENDS)
        .map(|index| format!("{index} : {}", backend(index).ip()))
        .collect();
    let rules = format!(
        "table ip nat {{ chain prerouting {{ type nat hook prerouting priority dstnat; \
         ip daddr {VIP} tcp dport {PORT} dnat to numgen inc mod {BACKENDS} map {{ {} }}; }}; }}",
        map.join(", ")
    );
    let mut command = place.middle.command("nft");
    command.arg(rules);
    let output = process::run(command, LIMIT).context("is nftables installed?")?;
    ensure!(
        output.status.success(),
        "nft: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(Contender::Nftables)
}

fn haproxy(place: &Place) -> Result<Contender<'_>> {
    let servers: String = (0..BACKENDS)
        .map(|index| format!("  server web-{index} {}\n", backend(index)))
        .collect();
    let text = format!(
        "global\n  maxconn 4000\n\
         defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen web\n  bind {VIP}:{PORT}\n  balance roundrobin\n{servers}"
    );
    proxy(place, "haproxy", &text, |command, file| {
        command.arg("-db").arg("-f").arg(file);
    })
}

fn nginx(place: &Place) -> Result<Contender<'_>> {
    let servers: String = (0..BACKENDS)
        .map(|index| format!("server {}; ", backend(index)))
        .collect();
    let module = match stream_module()? {
        Some(path) => format!("load_module {};\n", path.display()),
        None => String::new(),
    };
    let text = format!(
        "{module}daemon off;\nworker_processes auto;\nworker_rlimit_nofile 65536;\npid nginx.pid;\n\
         events {{ worker_connections 8192; }}\n\
         stream {{ upstream web {{ {servers}}}\n\
         server {{ listen {VIP}:{PORT}; proxy_pass web; }} }}\n"
    );
    proxy(place, "nginx", &text, |command, file| {
        let directory = file.parent().unwrap_or(file);
        command.arg("-p").arg(directory).arg("-e").arg("stderr");
        command.arg("-c").arg(file);
    })
}

/// Where nginx keeps the stream module; `None` if it is built in.
fn stream_module() -> Result<Option<PathBuf>> {
    const MODULE: &str = "ngx_stream_module.so";
    let output = Command::new("nginx")
        .arg("-V")
        .stderr(Stdio::piped())
        .output()
        .context("cannot run nginx")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let mut words = text.split_whitespace();
    if words.clone().any(|word| word == "--with-stream") {
        return Ok(None);
    }
    let path = words
        .find_map(|word| word.strip_prefix("--modules-path="))
        .map(|path| PathBuf::from(path).join(MODULE));
    match path {
        Some(path) if path.exists() => Ok(Some(path)),
        _ => bail!(
            "this nginx has no {MODULE}; on Debian it is in libnginx-mod-stream, on Fedora in \
             nginx-mod-stream"
        ),
    }
}

fn proxy<'a>(
    place: &'a Place,
    program: &str,
    text: &str,
    arguments: impl FnOnce(&mut Command, &std::path::Path),
) -> Result<Contender<'a>> {
    place.give_vip_to_middle()?;
    let files = Scratch::create(program)?;
    let file = files.path().join("proxy.conf");
    fs::write(&file, text)?;
    let mut command = place.middle.command(program);
    arguments(&mut command, &file);
    let log = files.path().join("log");
    let process = Process::spawn(program, command, &log)?;
    let mut proxy = Proxy {
        process,
        _files: files,
    };
    let wanted = (VIP, PORT).into();
    proxy.process.wait_until("a listener", LIMIT, || {
        let listeners = sockets::tcp_listeners(&place.middle).ok()?;
        sockets::covers(&listeners, wanted).then_some(())
    })?;
    Ok(Contender::Proxy(proxy))
}
