//! The probes of a start, which are waited for before anything is attached.

use std::time::Duration;

use super::hops::{self, Solicit};
use crate::config::model::{Config, Service};
use crate::netlink::Netlink;
use crate::probe::scheduler::{Events, Scheduler};
use crate::probe::vip::{self, Lane};

/// Longest time that the first probes are waited for, whatever the file says.
const MAX_PROVING: Duration = Duration::from_secs(60);
/// Time for probes of a start to be late.
const PROVING_SLACK: Duration = Duration::from_secs(3);

/// Has probes by VIPs go where packets will go, before the first is made;
/// gives the ways to the backends, too.
pub(super) async fn open_lane(config: &Config, netlink: &Netlink) -> (Lane, hops::Found) {
    let lane = Lane::new(netlink.clone(), vip::Names::of(&config.node.pin_dir));
    lane.clear().await;
    let found = hops::ask(netlink, hops::addresses(config), Solicit::Missing).await;
    lane.lead(config, &found).await;
    (lane, found)
}

/// Waits until every backend that is probed was found good or bad, and its
/// next hop, or until it has taken too long; the loop goes on from there.
pub(super) async fn prove(
    config: &Config,
    (netlink, lane, mut found): (&Netlink, &Lane, hops::Found),
    (scheduler, probes): (&Scheduler, &mut Events),
) -> hops::Found {
    let deadline = tokio::time::Instant::now() + proving_limit(config);
    loop {
        let missing = hops::is_missing(config, &found);
        let states = scheduler.states().all();
        let unknown = states.iter().any(|target| {
            !target.monitor.state().is_eligible() && target.monitor.bad_in_row() == 0
        });
        if !unknown && !missing {
            return found;
        }
        let pause = tokio::time::Instant::now() + Duration::from_millis(100);
        tokio::select! {
            _ = probes.recv() => {}
            () = tokio::time::sleep_until(pause) => {}
            () = tokio::time::sleep_until(deadline) => return found,
        }
        let before = found;
        found = hops::ask(netlink, hops::addresses(config), Solicit::Missing).await;
        if found != before {
            lane.lead(config, &found).await;
        }
    }
}

/// Time in which a healthy backend of any service passes its probes.
pub(super) fn proving_limit(config: &Config) -> Duration {
    let limit = |service: &Service| {
        let health = service.health.as_ref()?;
        Some(health.interval * health.rise + health.timeout)
    };
    let longest = config.services.iter().filter_map(limit).max();
    (longest.unwrap_or_default() + PROVING_SLACK).min(MAX_PROVING)
}
