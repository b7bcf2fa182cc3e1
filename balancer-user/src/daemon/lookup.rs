//! What the network says of the ways to the backends.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::controller::Controller;
use super::hops::{self, Found, Solicit};
use super::planning;
use crate::config::model::Config;

/// Whether a look-up of next hops is under way, and another one wanted.
pub(super) struct Lookup {
    answers: mpsc::Sender<Found>,
    under_way: bool,
    wanted: bool,
}

impl Lookup {
    pub(super) fn new(answers: mpsc::Sender<Found>) -> Self {
        Self {
            answers,
            under_way: false,
            wanted: false,
        }
    }

    /// Whether the caller is to start one; if one is under way, it is to be
    /// followed by another, as it may have missed what is asked for now.
    fn begin(&mut self) -> bool {
        self.wanted = self.under_way;
        !std::mem::replace(&mut self.under_way, true)
    }

    /// Notes the end; whether another one is wanted.
    fn finish(&mut self) -> bool {
        self.under_way = false;
        std::mem::take(&mut self.wanted)
    }
}

impl Controller {
    pub(super) async fn on_network(&mut self) {
        self.look_up_interfaces().await;
        self.start_lookup(Solicit::Missing);
    }

    pub(super) async fn on_found(&mut self, found: Found) {
        let began = Instant::now();
        // Addresses that came while the look-up went on were asked for apart.
        let known = Arc::make_mut(&mut self.found);
        known.extend(found);
        let wanted = hops::addresses(&self.config);
        known.retain(|address, _| wanted.contains_key(address));
        let ways = self.found.values().flatten();
        self.interfaces.note_ways(ways, began);
        self.world.hops = hops::for_members(&self.config, &self.found);
        self.lead_probes().await;
        let _ = self.reconcile("routes or neighbours changed", began);
        planning::note_waste();
        self.go_on_if_proven().await;
        if self.lookup.finish() {
            self.start_lookup(Solicit::Missing);
        }
    }

    /// Looks all next hops up beside the loop: ten thousand backends take a
    /// second, and nobody may wait for that.
    pub(super) fn start_lookup(&mut self, solicit: Solicit) {
        if !self.lookup.begin() {
            return;
        }
        let netlink = self.netlink.clone();
        let addresses = hops::addresses(&self.config);
        let answers = self.lookup.answers.clone();
        tokio::spawn(async move {
            let found = hops::ask(&netlink, addresses, solicit).await;
            // Nobody is left to tell when the daemon ends.
            let _ = answers.send(found).await;
        });
    }

    /// Looks up the next hops of addresses that are new.
    pub(super) async fn look_up_new(&mut self) {
        let mut new = hops::addresses(&self.config);
        new.retain(|address, _| !self.found.contains_key(address));
        if !new.is_empty() {
            let found = hops::ask(&self.netlink, new, Solicit::Missing).await;
            Arc::make_mut(&mut self.found).extend(found);
        }
        self.world.hops = hops::for_members(&self.config, &self.found);
        self.lead_probes().await;
    }

    /// Has probes by VIPs go where packets go.
    pub(super) async fn lead_probes(&self) {
        self.lane.lead(&self.config, &self.found).await;
    }
}

/// Whether the same servers are reached and probed in the same way.
pub(super) fn same_backends(old: &Config, new: &Config) -> bool {
    old.services.len() == new.services.len()
        && old.services.iter().zip(&new.services).all(|(old, new)| {
            old.name == new.name
                && old.ports == new.ports
                && old.health == new.health
                && old.backends.len() == new.backends.len()
                && old.backends.iter().zip(&new.backends).all(|(old, new)| {
                    old.name == new.name
                        && old.address == new.address
                        && old.port == new.port
                        && old.mac == new.mac
                })
        })
}
