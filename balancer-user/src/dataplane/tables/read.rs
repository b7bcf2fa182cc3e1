//! Reading back what is in force, from where packets read it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use balancer_common::layout::{
    GENERATIONS, GenerationHead, LAYOUT_VERSION, Member, SLOTS_PER_BLOCK, ServiceOptions, Slot,
    Target,
};

use ipnet::IpNet;

use super::super::blocks::{Blocks, Region};
use super::super::{
    Error, ServiceId, ServiceKey, ServiceState, Settings, SourceRules, State, Table,
};
use super::sources::Sets;
use super::{Memory, SourceEntry, Tables};

impl<M: Memory> Tables<M> {
    /// Tables in memory that another process wrote, which has
    /// `flow_records` entries in each flow table. Whatever does not fit
    /// together is refused, nothing is written.
    pub fn adopt(mut memory: M, flow_records: u32) -> Result<Self, Error> {
        let node = *memory.node();
        if node.layout_version != LAYOUT_VERSION || node.active >= GENERATIONS {
            return Err(Error::Foreign(format!(
                "NODE is of layout version {} with generation {} in force; this build has version \
                 {LAYOUT_VERSION}",
                node.layout_version, node.active
            )));
        }
        let mut tables = Self {
            blocks: Blocks::new(memory.slots().len() as u32),
            memory,
            regions: BTreeMap::new(),
            state: State::empty(),
            sets: Sets::default(),
            retired: Vec::new(),
            // Packets that saw the generation before may be under way.
            unsettled: true,
            generation: node.active & 1,
            audited: None,
            shelf: None,
        };
        tables.state.settings.flow_records = flow_records;
        let decoded = tables.decode(true);
        tables.regions = tables.regions_of(&decoded)?;
        tables.sets = Sets::adopt(&decoded.state, &decoded.sets, tables.memory.sources());
        tables.state = decoded.state;
        for (id, region) in &tables.regions {
            if !tables.blocks.reserve(*region) {
                return Err(Error::Foreign(format!(
                    "the table of service number {id} lies where another one does"
                )));
            }
        }
        Ok(tables)
    }

    /// Keeps the tables of a state that says the same in its memory: those
    /// that were read back take more of it.
    pub fn share(&mut self, state: &State) {
        for (id, service) in &mut self.state.services {
            let same = state.services.get(id);
            if let Some(same) = same.filter(|it| it.table == service.table) {
                service.table = same.table.clone();
            }
        }
    }

    /// What is in force, decoded from the memory. Tables come without slots.
    pub fn read(&mut self) -> State {
        self.decode(false).state
    }

    /// Where each table lies; an error if anything of what was read does not
    /// fit together.
    fn regions_of(&mut self, decoded: &Decoded) -> Result<BTreeMap<ServiceId, Region>, Error> {
        let mut regions = BTreeMap::new();
        for (id, target) in &decoded.targets {
            let service = decoded.state.services.get(id);
            let fits = service.is_some_and(|service| {
                let count = service.members.len() as u16;
                let in_range = |slot: &Slot| slot.current().max(slot.previous()) < count;
                count == target.member_count
                    && (target.options as usize) < self.memory.options().len()
                    && service.table.slot_count() == target.table_len
                    && service
                        .table
                        .slots()
                        .is_some_and(|slots| slots.iter().all(in_range))
            });
            if !fits || decoded.torn.contains(id) {
                return Err(Error::Foreign(format!(
                    "what the tables hold of service number {id} does not fit together"
                )));
            }
            let region = Region {
                first: target.table,
                count: target.table_len.div_ceil(SLOTS_PER_BLOCK),
            };
            regions.insert(*id, region);
        }
        Ok(regions)
    }

    fn decode(&mut self, with_slots: bool) -> Decoded {
        let node = *self.memory.node();
        let generation = (node.active & 1) as usize;
        let mut found = Found {
            with_slots,
            ..Found::default()
        };
        let mut server_ids = Vec::new();
        let half = self.memory.services_v4().len() / 2;
        let buckets = self.memory.services_v4()[generation * half..][..half].to_vec();
        for bucket in buckets {
            let address = IpAddr::from(bucket.address);
            self.read_bucket(
                &mut found,
                address,
                bucket.port,
                bucket.protocol,
                bucket.target,
            );
        }
        let half = self.memory.services_v6().len() / 2;
        let buckets = self.memory.services_v6()[generation * half..][..half].to_vec();
        for bucket in buckets {
            if bucket.protocol == Target::SERVER_ID_PROTOCOL {
                server_ids.push(bucket);
                continue;
            }
            let address = IpAddr::from(bucket.address);
            self.read_bucket(
                &mut found,
                address,
                bucket.port,
                bucket.protocol,
                bucket.target,
            );
        }
        for bucket in server_ids {
            if let Some(service) = found.services.get_mut(&bucket.target.service) {
                let mut id = [0; 8];
                id.copy_from_slice(&bucket.address[..8]);
                service.server_ids.insert(id, bucket.target.members as u16);
            }
        }
        let sources = self.memory.sources();
        let mut sets = BTreeMap::new();
        for (id, service) in &mut found.services {
            let number = std::mem::take(&mut service.options.sources);
            service.sources = Arc::new(rules(service, number, &sources));
            sets.insert(*id, number);
            service.keys.sort_unstable();
        }
        let head = node.generations[generation];
        let state = State {
            flow_keys: head.flow_keys,
            settings: Settings {
                answer_echo: head.flags & GenerationHead::ANSWER_ECHO != 0,
                handshake_sample: head.handshake_sample,
                // The size of a map is not in it: what was asked for.
                flow_records: self.state.settings.flow_records,
                nat: self.memory.nat_settings()[generation],
            },
            services: found.services,
        };
        Decoded {
            state,
            sets,
            targets: found.targets,
            torn: found.torn,
        }
    }

    fn read_bucket(
        &mut self,
        found: &mut Found,
        address: IpAddr,
        port: [u8; 2],
        protocol: u8,
        target: Target,
    ) {
        if target.service == 0 || target.service == Target::ADDRESS {
            return;
        }
        let key = ServiceKey {
            address,
            port: u16::from_be_bytes(port),
            protocol,
        };
        if let Some(service) = found.services.get_mut(&target.service) {
            service.keys.push(key);
            if found.targets.get(&target.service) != Some(&target) {
                found.torn.insert(target.service);
            }
            return;
        }
        let service = ServiceState {
            keys: vec![key],
            members: self.read_members(target),
            table: self.read_table(target, found.with_slots),
            flags: target.flags,
            options: self.read_options(target),
            server_ids: BTreeMap::new(),
            sources: Arc::default(),
        };
        found.targets.insert(target.service, target);
        found.services.insert(target.service, service);
    }

    /// Whatever stands there; an index out of range reads as nothing, and so
    /// differs from every state that was ever written.
    fn read_members(&mut self, target: Target) -> Vec<Member> {
        let first = target.members as usize;
        let members = self.memory.members();
        members
            .get(first..first + target.member_count as usize)
            .unwrap_or_default()
            .iter()
            .map(|member| Member {
                egress_port: 0,
                ..*member
            })
            .collect()
    }

    fn read_options(&mut self, target: Target) -> ServiceOptions {
        let options = self.memory.options();
        options
            .get(target.options as usize)
            .copied()
            .unwrap_or_default()
    }

    fn read_table(&mut self, target: Target, with_slots: bool) -> Table {
        let first = target.table as usize;
        let count = target.table_len.div_ceil(SLOTS_PER_BLOCK) as usize;
        let blocks = self.memory.slots().get(first..first + count);
        let slots: &[Slot] = bytemuck::cast_slice(blocks.unwrap_or_default());
        let slots = slots.get(..target.table_len as usize).unwrap_or_default();
        if with_slots {
            Table::of(slots)
        } else {
            Table::read_back(slots)
        }
    }
}

/// What stands in the memory.
struct Decoded {
    state: State,
    /// Number of each service's set of prefixes.
    sets: BTreeMap<ServiceId, u32>,
    /// What each service's keys lead to.
    targets: BTreeMap<ServiceId, Target>,
    /// Services of which two keys lead to different things.
    torn: BTreeSet<ServiceId>,
}

/// What was found so far.
#[derive(Default)]
struct Found {
    with_slots: bool,
    services: BTreeMap<ServiceId, ServiceState>,
    targets: BTreeMap<ServiceId, Target>,
    torn: BTreeSet<ServiceId>,
}

/// The prefixes of the set that a service's options name, as the
/// configuration has them.
fn rules(service: &ServiceState, set: u32, sources: &[SourceEntry]) -> SourceRules {
    let is_v4 = service.keys.iter().any(|key| key.address.is_ipv4());
    let of_set = sources.iter().filter(|entry| entry.key.set == set);
    of_set.filter_map(|entry| rule(entry, is_v4)).collect()
}

/// A prefix as the configuration has it; none if it is no prefix of the
/// family.
fn rule(entry: &SourceEntry, is_v4: bool) -> Option<(IpNet, bool)> {
    let [a, b, c, d, ..] = entry.key.source;
    let address = if is_v4 {
        IpAddr::from([a, b, c, d])
    } else {
        IpAddr::from(entry.key.source)
    };
    let prefix = IpNet::new(address, u8::try_from(entry.prefix_len).ok()?).ok()?;
    Some((prefix, entry.is_allowed))
}
