//! The keys of all services, looked up the way that the program does.

use std::collections::BTreeMap;
use std::net::IpAddr;

use balancer_common::hash;
use balancer_common::layout::{GenerationHead, Target};
use balancer_common::parse::{PROTOCOL_TCP, PROTOCOL_UDP};

use super::super::super::{ServiceId, ServiceKey};
use super::super::keys::{all_keys, target_of};
use super::super::{Memory, Tables};
use super::Drift;

impl<M: Memory> Tables<M> {
    /// What the keys of each service lead to, as it was written.
    pub(super) fn targets_in_force(&mut self) -> BTreeMap<ServiceId, Target> {
        let members = self.generation * (self.memory.members().len() / 2) as u32;
        let options = self.first_options(self.generation);
        let mut first_member = members;
        let mut targets = BTreeMap::new();
        for ((id, service), options) in self.state.services.iter().zip(options..) {
            let count = service.members.len() as u32;
            if let Some(region) = self.regions.get(id) {
                let target = Target {
                    service: *id,
                    table: region.first,
                    table_len: service.table.slot_count(),
                    members: first_member,
                    options,
                    member_count: count as u16,
                    flags: service.flags,
                };
                targets.insert(*id, target);
            }
            first_member += count;
        }
        targets
    }

    /// Looks every key up the way that the program does; gives the bytes of
    /// the buckets.
    pub(super) fn audit_keys(
        &mut self,
        targets: &BTreeMap<ServiceId, Target>,
        drifts: &mut Vec<Drift>,
    ) -> usize {
        let generation = self.generation;
        let first_options = self.first_options(generation);
        let keys = all_keys(&self.state, first_options);
        let takes_any = keys
            .iter()
            .any(|(key, _)| key.port == 0 && matches!(key.protocol, PROTOCOL_TCP | PROTOCOL_UDP));
        let head = self.memory.node().generations[generation as usize];
        let is_said = head.flags & GenerationHead::ANY_PORT != 0;
        if is_said != takes_any {
            drifts.push(Drift::Head {
                what: "whether a service takes every port",
                expected: takes_any.to_string(),
                seen: is_said.to_string(),
            });
        }
        for (key, leads) in &keys {
            let expected = target_of(*leads, targets);
            let seen = self.look_up(&head, key);
            if seen != Some(expected) {
                drifts.push(Drift::Key {
                    service: expected.service,
                    key: *key,
                    seen: seen.map(|target| target.service),
                });
            }
        }
        let (half_v4, half_v6) = (
            self.memory.services_v4().len() / 2,
            self.memory.services_v6().len() / 2,
        );
        let at = generation as usize;
        let used_v4 = self.memory.services_v4()[at * half_v4..][..half_v4]
            .iter()
            .filter(|bucket| bucket.target.service != 0)
            .count();
        let used_v6 = self.memory.services_v6()[at * half_v6..][..half_v6]
            .iter()
            .filter(|bucket| bucket.target.service != 0)
            .count();
        let count = (used_v4 + used_v6).saturating_sub(keys.len());
        if count > 0 {
            drifts.push(Drift::ForeignKeys { count });
        }
        32 * half_v4 + 48 * half_v6
    }

    /// What a key leads to, by the seed and the masks that stand there.
    fn look_up(&mut self, head: &GenerationHead, key: &ServiceKey) -> Option<Target> {
        let port = key.port.to_be_bytes();
        let (seed, protocol) = (head.lookup_seed, key.protocol);
        match key.address {
            IpAddr::V4(address) => {
                let address = address.octets();
                let buckets = hash::buckets(seed, head.mask_v4, address, port, protocol);
                let first = self.generation * head.mask_v4.wrapping_add(1);
                let services = self.memory.services_v4();
                [buckets.0, buckets.1].iter().find_map(|bucket| {
                    let entry = services.get(first.wrapping_add(*bucket) as usize)?;
                    let found = entry.target.service != 0
                        && (entry.address, entry.port, entry.protocol) == (address, port, protocol);
                    found.then_some(entry.target)
                })
            }
            IpAddr::V6(address) => {
                let address = address.octets();
                let buckets = hash::buckets(seed, head.mask_v6, address, port, protocol);
                let first = self.generation * head.mask_v6.wrapping_add(1);
                let services = self.memory.services_v6();
                [buckets.0, buckets.1].iter().find_map(|bucket| {
                    let entry = services.get(first.wrapping_add(*bucket) as usize)?;
                    let found = entry.target.service != 0
                        && (entry.address, entry.port, entry.protocol) == (address, port, protocol);
                    found.then_some(entry.target)
                })
            }
        }
    }
}
