//! Servers that do their probes every harm: each is a failure with a name, and
//! an hour of them costs the daemon neither descriptors nor memory.

use std::fs;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::process::status_kib;
use balancer_tests::lab::{Lab, Node, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::fixture::{Api, l2};
use crate::metrics::{samples, serving};

/// Addresses at which each server answers, as a backend each.
const BACKENDS: u64 = 12;
/// An hour of probes, of one backend each second.
const HOUR: u64 = 3600;
/// Until all have been asked that often: ten times a second at best.
const LIMIT: Duration = Duration::from_secs(240);
/// Descriptors come and go with the probes under way: one of each backend.
const MOST_FILES: usize = 100;
/// What an allocator may take for itself, in bytes.
const MOST_MEMORY: u64 = 4 << 20;

type Handled = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is done with each connection.
struct Kind {
    name: &'static str,
    probe: &'static str,
    serve: fn(TcpStream) -> Handled,
    /// A word of the failure.
    says: &'static str,
}

/// A service at whose port nobody is.
const CLOSED: &str = "closed";
const HTTP: &str = "kind = \"http\"\npath = \"/\"\n";
/// Reads what comes after the head.
const BODY: &str = "kind = \"http\"\npath = \"/\"\nidentity = { body = \"the shop\" }\n";
const HTTPS: &str = "kind = \"https\"\npath = \"/\"\n";

static KINDS: [Kind; 6] = [
    Kind {
        name: "hangs",
        probe: HTTP,
        serve: |mut stream| Box::pin(async move { drain(&mut stream).await }),
        says: "timed out",
    },
    Kind {
        name: "drips",
        probe: HTTP,
        serve: |stream| Box::pin(drip(stream, b'H')),
        says: "",
    },
    Kind {
        name: "never-ends",
        probe: BODY,
        serve: |mut stream| {
            Box::pin(async move {
                let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                if stream.write_all(head).await.is_ok() {
                    flood(stream, b"5\r\nhello\r\n").await;
                }
            })
        },
        says: "",
    },
    Kind {
        name: "giant-header",
        probe: HTTP,
        serve: |mut stream| {
            Box::pin(async move {
                if stream.write_all(b"HTTP/1.1 200 OK\r\n").await.is_ok() {
                    flood(stream, b"X-Header: abcdefghijklmnop\r\n").await;
                }
            })
        },
        says: "",
    },
    Kind {
        name: "resets",
        probe: HTTP,
        serve: |stream| {
            Box::pin(async move {
                // Closed with zero linger and data unread: RST.
                let _ = stream.set_zero_linger();
            })
        },
        says: "reset",
    },
    Kind {
        name: "no-tls",
        probe: HTTPS,
        serve: |mut stream| {
            Box::pin(async move {
                let _ = stream.write_all(b"220 welcome\r\n").await;
                drain(&mut stream).await;
            })
        },
        says: "TLS",
    },
];

/// Reads until the other side ends.
async fn drain(stream: &mut TcpStream) {
    let mut buffer = [0; 4096];
    while matches!(stream.read(&mut buffer).await, Ok(1..)) {}
}

/// Writes the same again and again, until the other side has enough.
async fn flood(mut stream: TcpStream, piece: &[u8]) {
    while stream.write_all(piece).await.is_ok() {}
}

/// The same a byte at a time, with time in between.
async fn drip(mut stream: TcpStream, byte: u8) {
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    while stream.write_all(&[byte]).await.is_ok() {
        ticks.tick().await;
    }
}

/// One server of each kind, on ports of their own, at all addresses.
fn serve(node: &Node) -> Result<Runtime> {
    let output = node
        .namespace()
        .command("ip")
        .args(["route", "add", "local", "10.20.0.0/16", "dev", "lo"])
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let runtime = node.namespace().runtime("lab-bad-servers")?;
    for (kind, port) in KINDS.iter().zip(9000..) {
        let at = SocketAddr::from(([0, 0, 0, 0], port));
        let bound = runtime.spawn(TcpListener::bind(at));
        let listener = runtime.block_on(bound)?.context("bind")?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn((kind.serve)(stream));
            }
        });
    }
    Ok(runtime)
}

fn file(node: &Node) -> String {
    let mut text = String::new();
    let probes = KINDS.iter().map(|kind| (kind.name, kind.probe));
    for (at, (name, probe)) in probes.chain([(CLOSED, HTTP)]).enumerate() {
        text.push_str(&format!(
            "[[service]]\nname = \"{}\"\naddress = \"198.18.0.{}\"\nport = 80\n\
             protocol = \"tcp\"\nforward = \"l2\"\n[service.health]\n{}port = {}\n\
             interval = \"100ms\"\ntimeout = \"90ms\"\n",
            name,
            at + 1,
            probe,
            9000 + at
        ));
        for backend in 0..BACKENDS {
            text.push_str(&format!(
                "[[service.backend]]\nname = \"b{backend}\"\naddress = \"10.20.{at}.{}\"\n\
                 mac = \"{}\"\n",
                backend + 1,
                node.mac()
            ));
        }
    }
    text
}

/// Descriptors, and memory of its own in bytes.
fn taken(pid: u32) -> Result<(usize, u64)> {
    let files = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok((files, status_kib(pid, "RssAnon")? * 1024))
}

/// Probes of each kind that failed, those of the kind that had fewest.
fn fewest(lab: &Lab) -> Result<u64> {
    let samples = samples(lab)?;
    let failed = |name: &str| {
        let sample =
            format!("balancer_service_probes_total{{service=\"{name}\",result=\"failed\"}}");
        samples.of(&sample)
    };
    let counts: Vec<f64> = names().map(failed).collect::<Result<_>>()?;
    Ok(counts.into_iter().fold(f64::INFINITY, f64::min) as u64)
}

fn names() -> impl Iterator<Item = &'static str> {
    KINDS.iter().map(|kind| kind.name).chain([CLOSED])
}

#[test]
fn an_hour_of_bad_answers_costs_no_descriptor_and_no_memory() -> Result<()> {
    let lab = l2(1)?;
    let node = lab.backend(0);
    let _servers = serve(node)?;
    let via = node.v4().to_string();
    let route = ["route", "add", "10.20.0.0/16", "via", &via];
    let output = lab
        .balancer()
        .namespace()
        .command("ip")
        .args(route)
        .output()?;
    ensure!(output.status.success(), "{output:?}");
    let mut balancer = serving(&lab, &file(node))?;
    let pid = balancer.process().pid();
    let wait = |count: u64| {
        wait_for(&format!("{count} probes of each kind"), LIMIT, || {
            (fewest(&lab).ok()? >= count).then_some(())
        })
        .with_context(|| balancer.log())
    };
    // Until what is made once is made.
    wait(HOUR / 6)?;
    let before = taken(pid)?;
    wait(HOUR / 6 + HOUR)?;
    let after = taken(pid)?;
    println!(
        "descriptors {} and {}, memory {} and {} bytes",
        before.0, after.0, before.1, after.1
    );
    ensure!(after.0 <= before.0 + MOST_FILES, "{before:?}, {after:?}");
    ensure!(after.1 <= before.1 + MOST_MEMORY, "{before:?}, {after:?}");
    let api = Api::new(&balancer)?;
    for (name, word) in KINDS
        .iter()
        .map(|it| (it.name, it.says))
        .chain([(CLOSED, "refused")])
    {
        // On a busy machine a probe may time out before it gets that far.
        let what = format!("a failure of {name} that says {word:?}");
        let failure = wait_for(&what, LIMIT, || {
            let backend = api.backend(name, "b0").ok()?;
            let failure = backend.last_failure.filter(|it| it.contains(word))?;
            (backend.state == "unproven" && !failure.is_empty()).then_some(failure)
        })
        .with_context(|| balancer.log())?;
        println!("{name}: {failure}");
    }
    let samples = samples(&lab)?;
    let passed = samples
        .iter()
        .filter(|it| it.0.contains("result=\"passed\""));
    ensure!(passed.map(|it| it.1).sum::<f64>() == 0.0, "{samples:#?}");
    Ok(())
}
