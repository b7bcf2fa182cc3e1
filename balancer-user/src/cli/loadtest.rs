//! `balancer loadtest`: flows at a set rate, and a verdict.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use clap::error::ErrorKind;
use hyper::header::{HeaderName, HeaderValue};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use self::source::Source;
use super::{Exit, bad_usage, output};
use crate::api::client::Client;
use crate::config::model::TlsProbe;
use crate::loadtest::allow::AllowList;
use crate::loadtest::client::{self, Ask};
use crate::loadtest::html;
use crate::loadtest::report::Report;
use crate::loadtest::run::{self, Made, Pace};
use crate::loadtest::shares::Shares;
use crate::loadtest::target::{Scheme, Target};
use crate::loadtest::verdict::Thresholds;

mod progress;
mod source;
mod text;

/// Who may be tested, unless another file is named.
const ALLOW_FILE: &str = "/etc/balancer/loadtest.allow";
/// Descriptors besides those of flows.
const SPARE_FILES: u64 = 256;

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
/// Run it on a client's host: packets of the balancer's own host do not pass
/// its program. Where the balancer's socket is at hand, or with `--metrics`,
/// each backend's flows are held against its slots.
///
/// Exit code 0 means that all was within its limits, 1 that something was not.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// `http://HOST[:PORT][/PATH]`, the same with `https`, or `tcp://HOST:PORT`
    target: String,

    /// Requests, or connections of `tcp`, a second
    #[arg(long, short, value_name = "NUMBER", default_value_t = 100.0)]
    rate: f64,

    /// How long they are made, such as 30s or 5m
    #[arg(long, short, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "10s")]
    duration: Duration,

    /// Requests a connection, one after the other
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,

    /// How long a connection, and then each request, may take
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration, default_value = "5s")]
    timeout: Duration,

    /// Flows under way at a time; what is due beyond is not made, and counted
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    most_under_way: u32,

    /// Addresses of this host that flows come from in turn
    ///
    /// Each has some 28,000 ports.
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',')]
    source: Vec<IpAddr>,

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

    /// Most requests that may fail, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    max_failures: f64,

    /// Least of the requests due that have to be made, in percent
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
    let report = runtime.block_on(test(args, &target, &allowed, client))?;
    if let Some(path) = &args.html {
        fs::write(path, html::render(&report))
            .with_context(|| format!("writing the report to {}", path.display()))?;
    }
    if args.json {
        output::print_json(&report)?;
    } else {
        output::print(&text::render(&report))?;
    }
    Ok(match report.passed() {
        true => Exit::Done,
        false => Exit::Findings,
    })
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
        percent("max-failures", self.max_failures).or_else(|| percent("min-made", self.min_made))
    }

    /// What would be taken and do nothing.
    fn useless(&self, scheme: Scheme) -> Option<String> {
        let (is_tcp, is_tls) = (scheme == Scheme::Tcp, scheme == Scheme::Https);
        let of_requests = [
            ("--requests", self.requests != 1),
            ("--host", self.host.is_some()),
            ("--header", !self.header.is_empty()),
            ("--expect-status", !self.expect_status.is_empty()),
            ("--server-header", self.server_header.is_some()),
        ];
        let of_tls = [
            ("--ca-file", self.ca_file.is_some()),
            ("--server-name", self.server_name.is_some()),
        ];
        let given = |of: &[(&'static str, bool)]| of.iter().find(|it| it.1).map(|it| it.0);
        if let Some(name) = given(&of_requests).filter(|_| is_tcp) {
            return Some(format!("{name} is of requests, and tcp:// makes none"));
        }
        let name = given(&of_tls).filter(|_| !is_tls)?;
        Some(format!("{name} is of TLS, which only https:// has"))
    }

    fn ask(&self) -> Ask {
        Ask {
            host: self.host.clone(),
            headers: self.header.clone(),
            statuses: self.expect_status.clone(),
            answered_by: self.server_header.clone(),
            tls: TlsProbe {
                ca_file: self.ca_file.clone(),
                server_name: self.server_name.clone(),
            },
            timeout: self.timeout,
            requests: self.requests,
            sources: self.source.clone(),
        }
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            failures: self.max_failures / 100.0,
            made: self.min_made / 100.0,
            p99: self.max_p99,
            skew: self.max_skew,
        }
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

async fn test(
    args: &Args,
    target: &Target,
    allowed: &AllowList,
    client: &Client,
) -> anyhow::Result<Report> {
    let address = address_of(target, allowed, &args.allow_file).await?;
    let flows = client::Client::new(target, address, args.ask()).map_err(anyhow::Error::msg)?;
    raise_files(u64::from(args.most_under_way));
    let source = Source::find(args, client, address).await?;
    let mut shares = Shares::default();
    source.look(&mut shares).await;
    let pace = Pace {
        rate: args.rate,
        duration: args.duration,
        most_under_way: args.most_under_way as usize,
        patience: args.timeout * 3,
    };
    let began = SystemTime::now().duration_since(UNIX_EPOCH);
    let bar = progress::bar();
    let stop = async {
        // Without a handler it ends at once, as by any signal.
        let _ = tokio::signal::ctrl_c().await;
    };
    let flows = Arc::new(flows);
    let all = run::run(Arc::clone(&flows), pace, stop, |glance| {
        bar.set_message(progress::live(&glance));
        bar.tick();
    });
    let made = {
        let mut all = std::pin::pin!(all);
        let mut each = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                made = &mut all => break made?,
                _ = each.tick() => source.look(&mut shares).await,
            }
        }
    };
    bar.finish_and_clear();
    source.look_last(&mut shares).await;
    let mut report = report(args, target, address, &made);
    report.began = began.unwrap_or_default().as_secs();
    report.requests_per_connection = flows.requests();
    report.service = source.service().map(str::to_owned);
    report.shares = shares.result();
    report.verdict = args.thresholds().judge(&report);
    Ok(report)
}

fn report(args: &Args, target: &Target, address: SocketAddr, made: &Made) -> Report {
    let tally = &made.tally;
    Report {
        target: target.to_string(),
        address: address.to_string(),
        began: 0,
        rate_wanted: args.rate,
        requests_per_connection: args.requests,
        seconds_wanted: args.duration.as_secs_f64(),
        seconds_taken: made.taken.as_secs_f64(),
        interrupted: made.interrupted,
        answered: tally.answered(),
        failed: tally.failed(),
        skipped: tally.skipped(),
        failures: tally.failures().clone(),
        times: tally.times(),
        connect_times: tally.connect_times(),
        seconds: tally.seconds(),
        service: None,
        shares: Vec::new(),
        answered_by: tally.answered_by().clone(),
        verdict: Vec::new(),
    }
}

/// Has descriptors for all flows, as far as this may be.
fn raise_files(flows: u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return;
    };
    let wanted = flows + SPARE_FILES;
    if soft >= wanted {
        return;
    }
    let most = if nix::unistd::geteuid().is_root() {
        hard.max(wanted)
    } else {
        hard
    };
    if setrlimit(Resource::RLIMIT_NOFILE, wanted.min(most), most).is_err() || most < wanted {
        output::note(format_args!(
            "warning: {soft} descriptors are few for {flows} flows under way; \
             `ulimit -n {wanted}` has more"
        ));
    }
}
