//! A load test of flows that are answered: requests, or connections.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::source::Source;
use super::{Args, address_of, output, progress};
use crate::api::client::Client;
use crate::config::model::TlsProbe;
use crate::loadtest::allow::AllowList;
use crate::loadtest::client::{self, Ask};
use crate::loadtest::report::Report;
use crate::loadtest::run::{self, Made, Pace};
use crate::loadtest::scrape::Counted;
use crate::loadtest::shares::Shares;
use crate::loadtest::target::Target;
use crate::loadtest::verdict::Thresholds;

/// Descriptors besides those of flows.
const SPARE_FILES: u64 = 256;

impl Args {
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
            timeout: self.timeout(),
            requests: self.requests(),
            sources: self.source.iter().map(ipnet::IpNet::addr).collect(),
        }
    }

    fn thresholds(&self) -> Thresholds {
        Thresholds {
            failures: self.max_failures.unwrap_or(0.0) / 100.0,
            made: self.min_made / 100.0,
            p99: self.max_p99,
            skew: self.max_skew,
        }
    }
}

pub(super) async fn test(
    args: &Args,
    target: &Target,
    allowed: &AllowList,
    client: &Client,
) -> anyhow::Result<Report> {
    let address = address_of(target, allowed, &args.allow_file).await?;
    let flows = client::Client::new(target, address, args.ask()).map_err(anyhow::Error::msg)?;
    raise_files(u64::from(args.most_under_way()));
    let source = Source::find(args, client, address, Counted::Flows).await?;
    let mut shares = Shares::default();
    source.look(&mut shares).await;
    let pace = Pace {
        rate: args.rate,
        duration: args.duration,
        most_under_way: args.most_under_way() as usize,
        patience: args.timeout() * 3,
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
        requests_per_connection: args.requests(),
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
