//! A load test with packets by the kernel's generator.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use ipnet::IpNet;
use tokio::time::interval;

use super::source::Source;
use super::{Args, address_of, progress};
use crate::api::client::Client;
use crate::config::model::Mac;
use crate::dataplane::generator::{Generator, Template};
use crate::live::drivers::Drivers;
use crate::loadtest::allow::AllowList;
use crate::loadtest::packets::pace::Pace;
use crate::loadtest::packets::report::{Report, Thresholds};
use crate::loadtest::packets::run::{self, Ended, Shared};
use crate::loadtest::packets::template::{ETHERNET_LEN, Kind, Packets, SHORTEST, Sources};
use crate::loadtest::scrape::Counted;
use crate::loadtest::shares::Shares;
use crate::loadtest::target::{Scheme, Target};
use crate::netlink::{AttachedMode, Netlink, NextHop};

/// The kernel asks a neighbour three times, a second apart.
const NEIGHBOUR_PATIENCE: Duration = Duration::from_millis(3500);
/// Between two looks at what it answered.
const NEIGHBOUR_PAUSE: Duration = Duration::from_millis(100);
/// How often whoever watches is told.
const TELL: Duration = Duration::from_millis(250);
/// How often a balancer is asked again that has not counted all packets yet.
const LAST_LOOKS: u32 = 3;

/// Sends packets and counts them; nothing is loaded before all is allowed.
pub(super) async fn test(
    args: &Args,
    target: &Target,
    allowed: &AllowList,
    client: &Client,
) -> anyhow::Result<Report> {
    let (address, prefix) = allowed_ends(args, target, allowed).await?;
    let (kind, counted) = match target.scheme {
        Scheme::Syn => (Kind::Syn, Counted::Flows),
        _ => (Kind::Udp, Counted::Packets),
    };
    let (netlink, _changes) = Netlink::connect()?;
    let (hop, mac) = way(&netlink, address.ip()).await?;
    let sources = match (prefix, hop.source) {
        (Some(prefix), _) => Sources::of(prefix),
        (None, Some(own)) => Sources::one(own),
        (None, None) => bail!("this host has no address to send from; name one by --source"),
    };
    let packets = Packets {
        kind,
        destination: address,
        sources,
        flows: args.flows.unwrap_or(sources.flows()),
        size: args.size.unwrap_or(SHORTEST),
        macs: [hop.source_mac, mac],
    };
    let template = template(&packets, &hop)?;
    let source = Source::find(args, client, address, counted).await?;
    let mut shares = Shares::default();
    source.look(&mut shares).await;
    let began = SystemTime::now().duration_since(UNIX_EPOCH);
    let generator = open(&netlink, &template, &hop).await?;
    let shared = Arc::new(Shared::default());
    let ended = send(args, generator, &shared, &source, &mut shares).await?;
    let seconds = shared.seconds();
    let sent = seconds.iter().map(|it| it.sent).sum();
    source.look_last(&mut shares).await;
    for _ in 0..LAST_LOOKS {
        if shares.flows() < sent {
            source.look_last(&mut shares).await;
        }
    }
    let mut report = Report {
        target: target.to_string(),
        address: address.to_string(),
        began: began.unwrap_or_default().as_secs(),
        rate_wanted: args.rate,
        seconds_wanted: args.duration.as_secs_f64(),
        seconds_taken: ended.taken.as_secs_f64(),
        interrupted: ended.interrupted,
        flows: template.generate.flows,
        source: sources.first.to_string(),
        sources: sources.count,
        frame_bytes: template.frame.len(),
        interface: hop.interface.clone(),
        next_hop: mac.to_string(),
        sent,
        missed: seconds.iter().map(|it| it.missed).sum(),
        seconds,
        service: source.service().map(str::to_owned),
        counted: None,
        lost: None,
        shares: Vec::new(),
        verdict: Vec::new(),
    };
    if source.service().is_some() {
        report.count(&shares.result());
    }
    let thresholds = Thresholds {
        lost: args.max_lost.map(|it| it / 100.0),
        made: args.min_made / 100.0,
        skew: args.max_skew,
    };
    report.verdict = thresholds.judge(&report);
    Ok(report)
}

/// Where packets go and, if it is not this host, where they come from; refused
/// unless both are in the list, and to who may not send any.
async fn allowed_ends(
    args: &Args,
    target: &Target,
    allowed: &AllowList,
) -> anyhow::Result<(SocketAddr, Option<IpNet>)> {
    let address = address_of(target, allowed, &args.allow_file).await?;
    let prefix = args.source.first().map(IpNet::trunc);
    if let Some(prefix) = prefix.filter(|it| !allowed.allows_source(*it)) {
        bail!(
            "no packets may come from {prefix}: it is not in {} as a whole and without ports, \
             and answers go there",
            args.allow_file.display()
        );
    }
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "{}:// packets are made and sent by the kernel, for root only; run it as root, or \
             test connections by tcp://",
            target.scheme.name()
        );
    }
    Ok((address, prefix))
}

/// Where packets leave, and the Ethernet address of who gets them.
async fn way(netlink: &Netlink, address: IpAddr) -> anyhow::Result<(NextHop, Mac)> {
    let deadline = Instant::now() + NEIGHBOUR_PATIENCE;
    let mut is_asked = false;
    loop {
        let hop = netlink.next_hop(address).await?;
        if let Some(mac) = hop.mac {
            return Ok((hop, mac));
        }
        if Instant::now() >= deadline {
            bail!(
                "neighbour {} on {} does not answer, so nothing can be sent to {address}",
                hop.neighbour,
                hop.interface
            );
        }
        if !is_asked {
            netlink.solicit(&hop).await?;
            is_asked = true;
        }
        tokio::time::sleep(NEIGHBOUR_PAUSE).await;
    }
}

fn template(packets: &Packets, hop: &NextHop) -> anyhow::Result<Template> {
    let template = packets.template().with_context(|| {
        let (from, to) = (packets.sources.first, packets.destination.ip());
        format!("no packet can go from {from} to {to}")
    })?;
    let most = hop.mtu as usize + ETHERNET_LEN;
    if template.frame.len() > most {
        bail!(
            "frames of {} bytes are too long for the way by {}, which takes {most}",
            template.frame.len(),
            hop.interface
        );
    }
    Ok(template)
}

/// Loads the generator, and sees that the driver sends its frames.
async fn open(netlink: &Netlink, template: &Template, hop: &NextHop) -> anyhow::Result<Generator> {
    let link = netlink.link_by_index(hop.egress).await?;
    let name = &hop.interface;
    let xdp = link.with_context(|| format!("{name} has gone"))?.xdp;
    if let Some(xdp) = xdp.filter(|it| it.mode != AttachedMode::Native) {
        bail!(
            "{name} has XDP program {} that is not in native mode, so its driver sends no frames \
             of the kernel's generator; detach it first",
            xdp.program_id
        );
    }
    let generator = Generator::open(template, hop.egress, xdp.is_none())
        .with_context(|| format!("the kernel's generator cannot send by {name}"))?;
    let mut drivers = Drivers::connect()?;
    if drivers.sends_xdp_frames(hop.egress).await == Some(false) {
        bail!(
            "the driver of {name} sends no frames of XDP programs (`ip -d link show {name}` names \
             the kind of interface); test connections by tcp://"
        );
    }
    Ok(generator)
}

/// Sends all packets while the balancer is looked at.
async fn send(
    args: &Args,
    mut generator: Generator,
    shared: &Arc<Shared>,
    source: &Source,
    shares: &mut Shares,
) -> anyhow::Result<Ended> {
    let pace = Pace {
        rate: args.rate,
        duration: args.duration,
    };
    let sender = Arc::clone(shared);
    let sending = tokio::task::spawn_blocking(move || {
        let ended = run::run(pace, &sender, |count| generator.send(count));
        // What is attached goes as soon as nothing is sent.
        drop(generator);
        ended
    });
    let mut sending = std::pin::pin!(sending);
    let mut stop = std::pin::pin!(tokio::signal::ctrl_c());
    let mut is_stopped = false;
    let (mut looking, mut telling) = (interval(Duration::from_secs(1)), interval(TELL));
    let bar = progress::bar();
    let ended = loop {
        tokio::select! {
            ended = &mut sending => break ended?,
            _ = &mut stop, if !is_stopped => {
                is_stopped = true;
                shared.stop();
            }
            _ = looking.tick() => source.look(shares).await,
            _ = telling.tick() => {
                bar.set_message(progress::packets(&shared.seconds()));
                bar.tick();
            }
        }
    };
    bar.finish_and_clear();
    ended.context("the kernel's generator (Linux 5.18 and later)")
}
