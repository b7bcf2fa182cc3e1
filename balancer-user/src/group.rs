//! What the balancers of a group have to have in common, in short.
//!
//! Two of them agree on every flow if seed, table size and services are the
//! same. A digest says so without giving the seed away; it leaves out what is
//! each host's own. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::model::{Config, Seed};
use crate::config::render;
use crate::revision::digest;

/// Services that are named where two differ; more are counted.
const MAX_NAMED: usize = 5;

/// What a balancer holds, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupDigest {
    /// The running revision, by this balancer's own count.
    pub revision: Option<u64>,
    /// SHA-256 that stands for the seed, which nobody finds from it.
    pub seed: String,
    /// Slots of each service's table.
    pub table_size: u32,
    /// SHA-256 of each service by name.
    pub services: BTreeMap<String, String>,
}

impl GroupDigest {
    /// Of a configuration that runs with that seed.
    pub fn of(config: &Config, seed: &Seed, revision: Option<u64>) -> Self {
        let seed = seed.0.map(|byte| format!("{byte:02x}")).concat();
        let services = config.services.iter();
        Self {
            revision,
            seed: digest(&format!("balancer seed {seed}")),
            table_size: config.node.table_size,
            services: services
                .map(|it| (it.name.clone(), digest(&render::render_for_group(it))))
                .collect(),
        }
    }

    /// What a peer has otherwise, a sentence each; nothing if the two agree.
    pub fn differences(&self, peer: &Self) -> Vec<String> {
        let mut found = Vec::new();
        if self.seed != peer.seed {
            found.push("has another seed".to_owned());
        }
        if self.table_size != peer.table_size {
            let (here, there) = (self.table_size, peer.table_size);
            found.push(format!("has table_size {there}, here it is {here}"));
        }
        let names = |of: &Self, keep: &dyn Fn(&String, &String) -> bool| -> Vec<String> {
            let services = of.services.iter();
            let kept = services.filter(|(name, digest)| keep(name, digest));
            kept.map(|(name, _)| name.clone()).collect()
        };
        let other = |name: &String, digest: &String| {
            let theirs = peer.services.get(name);
            theirs.is_some_and(|theirs| theirs != digest)
        };
        for (what, services) in [
            ("has otherwise", names(self, &other)),
            (
                "lacks",
                names(self, &|name, _| !peer.services.contains_key(name)),
            ),
            (
                "alone has",
                names(peer, &|name, _| !self.services.contains_key(name)),
            ),
        ] {
            if !services.is_empty() {
                found.push(format!("{what} {}", listed(&services)));
            }
        }
        found
    }
}

fn listed(services: &[String]) -> String {
    let named = services.iter().take(MAX_NAMED).cloned();
    let named = named.collect::<Vec<_>>().join(", ");
    let noun = if services.len() == 1 {
        "service"
    } else {
        "services"
    };
    match services.len().saturating_sub(MAX_NAMED) {
        0 => format!("{noun} {named}"),
        more => format!("{noun} {named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::Mac;
    use crate::config::testing::{SAMPLE, examined};

    fn config(text: &str) -> Config {
        examined(text).config.unwrap()
    }

    #[test]
    fn balancers_with_the_same_services_agree_whatever_their_hosts_are() {
        let seed = Seed([7; 16]);
        let here = GroupDigest::of(&config(SAMPLE), &seed, Some(3));
        let mut other = config(SAMPLE);
        other.node.interfaces = vec!["bond0".to_owned()];
        other.services.reverse();
        other.services[0].backends[0].mac = Some(Mac([2, 0, 0, 0, 0, 1]));
        let there = GroupDigest::of(&other, &seed, Some(41));
        assert_eq!(here.differences(&there), Vec::<String>::new());
        let text = serde_json::to_string(&here).unwrap();
        assert!(!text.contains("0707"), "{text}");
    }

    #[test]
    fn each_difference_is_named() {
        let here = GroupDigest::of(&config(SAMPLE), &Seed([7; 16]), Some(3));
        let mut other = config(SAMPLE);
        other.node.table_size = 4099;
        other.services[0].backends[0].weight += 1;
        let mut gone = other.services.remove(1);
        let lacks = format!("lacks service {}", gone.name);
        gone.name = "mail".to_owned();
        other.services.push(gone);
        let there = GroupDigest::of(&other, &Seed([8; 16]), Some(3));
        let size = config(SAMPLE).node.table_size;
        assert_eq!(
            here.differences(&there),
            [
                "has another seed".to_owned(),
                format!("has table_size 4099, here it is {size}"),
                format!("has otherwise service {}", other.services[0].name),
                lacks,
                "alone has service mail".to_owned(),
            ]
        );
    }
}
