//! How full the tables are that the program fills, counted a little every
//! second (rule `map-capacity`).
//!
//! Both are of the least-recently-used kind: one that is full forgets the flow
//! that was silent longest, also where that is alive.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use balancer_common::layout::{FlowKey, FlowRecord, NatKey, NatRecord};
use nix::time::{ClockId, clock_gettime};

use super::controller::Controller;
use crate::config::model::{Affinity, Forward};
use crate::dataplane::ServiceId;
use crate::dataplane::census::{Census, Occupancy};

/// Above that a table is nearly full.
const NEARLY_FULL: f64 = 0.9;

/// What is known of the tables.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    census: Option<Census>,
    /// What is too full, by the name of the table.
    full: BTreeMap<&'static str, String>,
}

impl Pressure {
    /// A sentence for each table that is nearly full.
    pub(super) fn problems(&self) -> impl Iterator<Item = String> + '_ {
        self.full.values().map(|it| format!("map-capacity: {it}"))
    }

    /// Records in use of the flow table and of the table of translations.
    pub(super) fn records(&self) -> (Option<u64>, Option<u64>) {
        let census = self.census.as_ref();
        let flows = census.and_then(Census::flows).map(|it| it.used);
        let translations = census.and_then(Census::translations);
        (flows, translations.map(|it| it.used))
    }

    fn judge(&mut self, table: &'static str, occupancy: Option<Occupancy>) {
        let is_full = |it: &Occupancy| it.share() > NEARLY_FULL;
        let Some(found) = occupancy.filter(is_full) else {
            if self.full.remove(table).is_some() {
                tracing::info!(rule = "map-capacity", "{table} has room again");
            }
            return;
        };
        let text = format!(
            "{table} holds {} flows in use of {} that it has room for: live flows are forgotten \
             beyond that; raise node.flow_table_size, which a restart takes, or shorten how long \
             silent flows are kept",
            found.used, found.capacity
        );
        if self.full.insert(table, text.clone()).is_none() {
            tracing::error!(rule = "map-capacity", "{text}");
        }
    }
}

impl Controller {
    /// Counts a part of the tables; says so when one is nearly full.
    pub(super) fn count_records(&mut self) {
        if let Err(error) = tokio::task::block_in_place(|| self.count_some()) {
            tracing::warn!(%error, "records cannot be counted");
            self.pressure.census = None;
        }
    }

    fn count_some(&mut self) -> Result<(), crate::dataplane::Error> {
        let Some(blueprint) = self.dataplane.blueprint() else {
            return Ok(());
        };
        let mut census = match self.pressure.census.take() {
            Some(census) if census.is_of(&blueprint) => census,
            _ => Census::open(&blueprint)?,
        };
        let now = monotonic_ns();
        // By the number of the service; none where records say nothing of time.
        let idle: BTreeMap<ServiceId, Option<u64>> = self
            .config
            .services
            .iter()
            .filter_map(|service| {
                let idle = match service.affinity {
                    Affinity::Flow { idle_timeout } => Some(nanos(idle_timeout)),
                    _ => None,
                };
                Some((self.builder.service_id(&service.name)?, idle))
            })
            .collect();
        // Records of TCP say nothing of time, and are asked for only while
        // slots settle.
        let is_settling = self.builder.next_settling().is_some();
        let nat_idle = nanos(self.config.node.nat_idle_timeout);
        let fullnat: BTreeSet<ServiceId> = self
            .config
            .services
            .iter()
            .filter(|service| service.forward == Forward::Fullnat)
            .filter_map(|service| self.builder.service_id(&service.name))
            .collect();
        let flows = |key: &FlowKey, record: &FlowRecord| {
            let is_used = match idle.get(&key.service) {
                Some(Some(idle)) => now.saturating_sub(record.stamp) < *idle,
                Some(None) => is_settling,
                None => false,
            };
            u64::from(is_used)
        };
        let translations = |_: &NatKey, record: &NatRecord| {
            let is_used = record.kind == NatRecord::REPLY
                && !record.is_closed()
                && now.saturating_sub(record.seen_ns) < nat_idle;
            match is_used {
                // The record of requests stands with that of replies, and
                // outlives it without being of use.
                true if fullnat.contains(&record.service) => 2,
                used => u64::from(used),
            }
        };
        census.look(flows, translations)?;
        self.pressure.judge("the flow table", census.flows());
        self.pressure
            .judge("the table of translations", census.translations());
        self.pressure.census = Some(census);
        Ok(())
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC);
    now.map_or(0, |now| nanos(Duration::from(now)))
}
