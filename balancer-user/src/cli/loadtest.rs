//! `balancer loadtest`: flows at a set rate, and a verdict.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use hyper::header::{HeaderName, HeaderValue};
use ipnet::IpNet;
use serde::Serialize;

use super::{Exit, bad_usage, output};
use crate::api::client::Client;
use crate::loadtest::allow::AllowList;
use crate::loadtest::html;
use crate::loadtest::packets::html as packets_html;
use crate::loadtest::packets::template::Sources;
use crate::loadtest::target::{Scheme, Target};

mod flows;
mod packets;
mod progress;
mod source;
mod text;

/// Who may be tested, unless another file is named.
const ALLOW_FILE: &str = "/etc/balancer/loadtest.allow";
/// How long a connection or a request may take, unless something else is said.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Flows under way at a time, likewise.
const MOST_UNDER_WAY: u32 = 10_000;
/// An Ethernet frame of the usual MTU.
const MOST_BYTES: i64 = 1514;

/// Load a service with flows at a set rate, and judge what comes of it
///
/// For a lab or a staging network: a target has to stand in the list of those
/// that may be tested (/etc/balancer/loadtest.allow: a prefix a line, and its
/// ports where not all are meant, as `192.0.2.0/24 80,443`).
///
/// Each request has its moment, and its time is counted from that moment on,
/// also where it could not be made then: a service that stalls shows in all
/// that was to come meanwhile. By default each request has a connection of
/// its own, as it is flows that a balancer spreads.
///
/// `udp://` and `syn://` send packets alone, made and sent by the kernel (Linux
/// 5.18): each of the next flow, first packets of connections that nobody goes
/// on with. They leave by the interface of the route to the target, which is
/// given an XDP program meanwhile where it has none, and are held against what
/// the balancer counts. This needs root.
///
/// Run it on a client's host: packets of the balancer's own host do not pass
/// its program. Where the balancer's socket is at hand, or with `--metrics`,
/// each backend's flows are held against its slots.
///
/// Exit code 0 means that all was within its limits, 1 that something was not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `http://HOST[:PORT][/PATH]`, the same with `https`, or `tcp://HOST:PORT`,
    /// the same with `udp` and `syn`
    target: String,

    /// Requests, connections of `tcp`, or packets of `udp` and `syn`, a second
    #[arg(long, short, value_name = "NUMBER", default_value_t = 100.0)]
    rate: f64,

    /// How long they are made, such as 30s or 5m
    #[arg(long, short, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    duration: Duration,

    /// Requests a connection, one after the other; 1 if not given
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    requests: Option<u32>,

    /// How long a connection, and then each request, may take; 5s if not given
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,

    /// Flows under way at a time; what is due beyond is not made, and counted;
    /// 10000 if not given
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    most_under_way: Option<u32>,

    /// Addresses of this host that flows come from in turn; of packets, a prefix
    ///
    /// Each address of this host has some 28,000 ports. Packets come from the
    /// hosts of the prefix in turn, 64,512 ports each, and these need not be
    /// this host's; it has to be in the list of who may be tested, without
    /// ports.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', value_parser = prefix)]
    source: Vec<IpNet>,

    /// Flows that packets are of in turn; as many as there are if not given
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    flows: Option<u32>,

    /// Bytes of a frame of `udp`, without its check sequence; 64 if not given
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(64..=MOST_BYTES))]
    size: Option<u32>,

    /// Another `Host` field than the target's
    #[arg(long, value_name = "NAME")]
    host: Option<String>,

    /// A further field of requests, as `Name: value`
    #[arg(long, value_name = "FIELD", value_parser = field)]
    header: Vec<(HeaderName, HeaderValue)>,

    /// Statuses that are no failure; 200 to 399 where none are named
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    expect_status: Vec<u16>,

    /// Field of answers that says which server gave them, to be counted
    #[arg(long, value_name = "NAME")]
    server_header: Option<HeaderName>,

    /// Authorities that a certificate has to lead to; without, any is taken
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,

    /// Name for SNI, that has to stand in the certificate
    #[arg(long, value_name = "NAME")]
    server_name: Option<String>,

    /// The list of targets that may be tested
    #[arg(long, value_name = "FILE", default_value = ALLOW_FILE)]
    allow_file: PathBuf,

    /// Where the balancer's metrics are, if its socket is not at hand; as
    /// `http://10.0.0.5:9180/metrics`
    #[arg(long, value_name = "URL", requires = "service")]
    metrics: Option<hyper::Uri>,

    /// The service whose backends are looked at; else that of the address
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,

    /// Most requests that may fail, in percent; 0 if not given
    #[arg(long, value_name = "PERCENT")]
    max_failures: Option<f64>,

    /// Most packets sent that the balancer may not have counted, in percent; 0
    /// if not given and the balancer can be asked
    #[arg(long, value_name = "PERCENT")]
    max_lost: Option<f64>,

    /// Least of the requests or packets due that have to be made, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 95.0)]
    min_made: f64,

    /// Most that 99 of 100 requests may take, such as 50ms
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_p99: Option<Duration>,

    /// Most by which a backend's share may be off, as a factor
    #[arg(long, value_name = "FACTOR", default_value_t = 1.25)]
    max_skew: f64,

    /// Write the report as a page for browsers, too
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,

    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

fn field(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = || format!("`{text}` is no field, as `Name: value`");
    let (name, value) = text.split_once(':').ok_or_else(wrong)?;
    let name = name.trim().parse().map_err(|_| wrong())?;
    let value = HeaderValue::from_str(value.trim()).map_err(|_| wrong())?;
    Ok((name, value))
}

fn prefix(text: &str) -> Result<IpNet, String> {
    let address = text.parse().map(|it: IpAddr| IpNet::from(it));
    let prefix = address.or_else(|_| text.parse());
    prefix.map_err(|_| format!("`{text}` is neither an address nor a prefix"))
}

pub(super) fn run(args: &Args, client: &Client) -> anyhow::Result<Exit> {
    let target = match Target::parse(&args.target) {
        Ok(target) => target,
        Err(fault) => return Ok(bad_usage(ErrorKind::InvalidValue, fault)),
    };
    if let Some(fault) = args.fault().or_else(|| args.useless(target.scheme)) {
        return Ok(bad_usage(ErrorKind::InvalidValue, fault));
    }
    let allowed = allowed(&args.allow_file)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("starting the runtime")?;
    if target.scheme.is_packets() {
        let report = runtime.block_on(packets::test(args, &target, &allowed, client))?;
        let texts = (text::of_packets(&report), packets_html::render(&report));
        tell(args, &report, texts)?;
        return Ok(exit(report.passed()));
    }
    let report = runtime.block_on(flows::test(args, &target, &allowed, client))?;
    tell(
        args,
        &report,
        (text::render(&report), html::render(&report)),
    )?;
    Ok(exit(report.passed()))
}

/// Hands out a report, for people as text and as a page.
fn tell(
    args: &Args,
    report: &impl Serialize,
    (text, page): (String, String),
) -> anyhow::Result<()> {
    if let Some(path) = &args.html {
        fs::write(path, page)
            .with_context(|| format!("writing the report to {}", path.display()))?;
    }
    match args.json {
        true => output::print_json(report),
        false => output::print(&text),
    }
}

fn exit(passed: bool) -> Exit {
    match passed {
        true => Exit::Done,
        false => Exit::Findings,
    }
}

impl Args {
    /// What clap cannot see.
    fn fault(&self) -> Option<String> {
        let percent = |name: &str, value: f64| {
            let is_good = (0.0..=100.0).contains(&value);
            (!is_good).then(|| format!("--{name} is {value}; it is a percentage, 0 to 100"))
        };
        if !(self.rate.is_finite() && self.rate > 0.0 && self.rate <= 1e6) {
            return Some(format!(
                "--rate is {}; it is above 0 and at most 1000000 a second",
                self.rate
            ));
        }
        if self.duration.is_zero() || self.duration > Duration::from_secs(86_400) {
            return Some("--duration is above 0 and at most a day".to_owned());
        }
        if !(self.max_skew.is_finite() && self.max_skew >= 1.0) {
            return Some(format!(
                "--max-skew is {}; it is a factor, 1 or more",
                self.max_skew
            ));
        }
        let failures = self.max_failures.unwrap_or(0.0);
        percent("max-failures", failures)
            .or_else(|| percent("max-lost", self.max_lost.unwrap_or(0.0)))
            .or_else(|| percent("min-made", self.min_made))
    }

    /// What would be taken and do nothing.
    fn useless(&self, scheme: Scheme) -> Option<String> {
        let of_requests = [
            ("--requests", self.requests.is_some_and(|it| it != 1)),
            ("--host", self.host.is_some()),
            ("--header", !self.header.is_empty()),
            ("--expect-status", !self.expect_status.is_empty()),
            ("--server-header", self.server_header.is_some()),
        ];
        let of_tls = [
            ("--ca-file", self.ca_file.is_some()),
            ("--server-name", self.server_name.is_some()),
        ];
        let of_answers = [
            ("--requests", self.requests.is_some()),
            ("--timeout", self.timeout.is_some()),
            ("--most-under-way", self.most_under_way.is_some()),
            ("--max-failures", self.max_failures.is_some()),
            ("--max-p99", self.max_p99.is_some()),
        ];
        let of_packets = [
            ("--flows", self.flows.is_some()),
            ("--size", self.size.is_some()),
            ("--max-lost", self.max_lost.is_some()),
        ];
        let given = |of: &[(&'static str, bool)]| of.iter().find(|it| it.1).map(|it| it.0);
        let has_requests = matches!(scheme, Scheme::Http | Scheme::Https);
        if let Some(name) = given(&of_requests).filter(|_| !has_requests) {
            return Some(format!(
                "{name} is of requests, which only http:// and https:// make"
            ));
        }
        if let Some(name) = given(&of_tls).filter(|_| scheme != Scheme::Https) {
            return Some(format!("{name} is of TLS, which only https:// has"));
        }
        if scheme.is_packets() {
            let name = given(&of_answers);
            return name
                .map(|name| format!("{name} is of answers, and packets are sent without any"))
                .or_else(|| self.useless_of_packets(scheme));
        }
        if let Some(name) = given(&of_packets) {
            return Some(format!(
                "{name} is of packets, which udp:// and syn:// send"
            ));
        }
        let mut sources = self.source.iter();
        let wide = sources.find(|it| it.prefix_len() != it.max_prefix_len())?;
        Some(format!(
            "--source {wide} is a prefix: flows come from addresses of this host"
        ))
    }

    fn useless_of_packets(&self, scheme: Scheme) -> Option<String> {
        if scheme == Scheme::Syn && self.size.is_some() {
            return Some("--size is of udp://: a SYN carries nothing".to_owned());
        }
        if self.source.len() > 1 {
            return Some("--source has several values: packets come from one prefix".to_owned());
        }
        let (flows, most) = (self.flows?, Sources::ports(self.source.first().copied()));
        (flows > most).then(|| {
            format!(
                "--flows is {flows}, and the source addresses have {most} ports; a wider --source \
                 has more"
            )
        })
    }

    fn requests(&self) -> u32 {
        self.requests.unwrap_or(1)
    }

    fn timeout(&self) -> Duration {
        self.timeout.unwrap_or(TIMEOUT)
    }

    fn most_under_way(&self) -> u32 {
        self.most_under_way.unwrap_or(MOST_UNDER_WAY)
    }
}

/// Reads the list.
fn allowed(path: &Path) -> anyhow::Result<AllowList> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => bail!(
            "{} is not there, so nothing may be tested: name what may be, as \
             `192.0.2.0/24 80,443`, a prefix a line, there or in another --allow-file",
            path.display()
        ),
        Err(error) => {
            return Err(error).with_context(|| format!("reading {}", path.display()));
        }
    };
    AllowList::parse(&text)
        .map_err(|faults| anyhow::anyhow!("{}: {}", path.display(), faults.join("; ")))
}

/// The address that is tested, which has to be allowed.
async fn address_of(
    target: &Target,
    allowed: &AllowList,
    path: &Path,
) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host((target.host.as_str(), target.port)).await;
    let mut found = found.with_context(|| format!("looking up {}", target.host))?;
    let address = found.next();
    let address = address.with_context(|| format!("{} has no address", target.host))?;
    if !allowed.allows(address) {
        bail!(
            "{address} may not be tested: it is not in {}, which names who may be",
            path.display()
        );
    }
    Ok(address)
}
