//! What the kernel holds for a balancer, by name, and what it should.
//!
//! Read from the pinned maps, by the numbers' meaning in the state directory,
//! beside the daemon: nothing that it says of itself comes into it. What
//! should be there comes from the configuration alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::{Context, Result};
use balancer_user::config::model::{Config, Service};
use balancer_user::config::parse::parse;
use balancer_user::dataplane::ServiceKey;
use balancer_user::dataplane::aya::Adopted;
use balancer_user::desired::{Builder, Seating};
use balancer_user::maglev::{self, Entry};
use balancer_user::rehearsal::Names;
use serde::Deserialize;

use crate::balancer::Balancer;

/// The services of a state by name.
pub type Held = BTreeMap<String, HeldService>;

/// A service that the kernel holds, or should.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldService {
    /// Where clients dial.
    pub keys: BTreeSet<ServiceKey>,
    /// Who gets new flows, slot by slot; empty if nobody does.
    pub owners: Vec<String>,
}

impl HeldService {
    /// Slots of each owner.
    pub fn counts(&self) -> BTreeMap<&str, u32> {
        let mut counts = BTreeMap::new();
        for owner in &self.owners {
            *counts.entry(owner.as_str()).or_default() += 1;
        }
        counts
    }
}

/// `seats.json`, as far as it is of use here.
#[derive(Deserialize)]
struct Seated {
    seating: Seating,
}

/// What the kernel holds.
///
/// # Errors
/// When it cannot be read, or does not fit together.
pub fn held(balancer: &Balancer<'_>) -> Result<Held> {
    let adopted = Adopted::find(balancer.pin_dir())?.context("nothing is attached")?;
    let state = adopted.state();
    let seats = fs::read(balancer.state_dir().join("seats.json"))?;
    let seated: Seated = serde_json::from_slice(&seats)?;
    let builder = Builder::adopt(&seated.seating, state).map_err(anyhow::Error::msg)?;
    let names = Names::of(&builder, state);
    let mut held = Held::new();
    for (id, service) in &state.services {
        let name = names.service(*id).context("a service without a name")?;
        let slots = service.table.slots().context("a table without slots")?;
        let owner = |member| Some(names.backend(*id, member)?.to_owned());
        let owners: Option<Vec<String>> = slots.iter().map(|slot| owner(slot.current())).collect();
        let owners = owners.with_context(|| format!("service {name}: a slot without a member"))?;
        let keys = service.keys.iter().copied().collect();
        held.insert(name.to_owned(), HeldService { keys, owners });
    }
    Ok(held)
}

/// The services and slots that a configuration asks for, were all backends up.
pub fn wanted(config: &Config) -> BTreeMap<String, Vec<String>> {
    let owners = |service: &Service| {
        let entries: Vec<Entry<'_>> = (0..)
            .zip(&service.backends)
            .filter(|(_, backend)| !backend.drain)
            .map(|(index, backend)| Entry {
                identity: &backend.name,
                index,
                weight: backend.weight,
            })
            .collect();
        let slots = maglev::build(&entries, config.node.table_size);
        let name = |index: u16| service.backends[usize::from(index)].name.clone();
        slots.into_iter().map(name).collect()
    };
    let services = config.services.iter();
    services
        .map(|service| (service.name.clone(), owners(service)))
        .collect()
}

/// A file's text, which has to be a whole configuration.
///
/// # Errors
/// When it is none.
pub fn configuration(text: &str) -> Result<Config> {
    let parsed = parse(text);
    parsed
        .config
        .with_context(|| format!("no configuration: {:?}\n{text}", parsed.findings))
}
