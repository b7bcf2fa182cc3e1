//! A dataplane in plain memory: the controller's tests run on it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU8;

use balancer_common::features::Features;
use balancer_common::layout::{
    Member, NatSettings, Node, ServiceOptions, ServiceV4, ServiceV6, SlotBlock,
};
use bytemuck::Zeroable;

use super::attach::Attached;
use super::capacity::Capacity;
use super::shadow::Blueprint;
use super::tables::{Audit, Drift, Memory, SourceEntry, Tables};
use super::{Counters, Dataplane, Error, Plan, ServiceId, State, plan};

/// The maps as vectors.
pub struct PlainMemory {
    node: Node,
    services_v4: Vec<ServiceV4>,
    services_v6: Vec<ServiceV6>,
    options: Vec<ServiceOptions>,
    nat_settings: [NatSettings; 2],
    slots: Vec<SlotBlock>,
    marks: Vec<AtomicU8>,
    members: Vec<Member>,
    sources: Vec<SourceEntry>,
    egress: Vec<u32>,
}

impl PlainMemory {
    /// Zeroed memory of this capacity.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            node: Node::zeroed(),
            services_v4: vec![ServiceV4::zeroed(); capacity.buckets_v4 as usize * 2],
            services_v6: vec![ServiceV6::zeroed(); capacity.buckets_v6 as usize * 2],
            options: vec![ServiceOptions::zeroed(); capacity.services as usize * 2],
            nat_settings: [NatSettings::default(); 2],
            slots: vec![SlotBlock::zeroed(); capacity.blocks as usize],
            marks: (0..capacity.blocks).map(|_| AtomicU8::new(0)).collect(),
            members: vec![Member::zeroed(); capacity.members as usize * 2],
            sources: Vec::new(),
            egress: Vec::new(),
        }
    }
}

impl Memory for PlainMemory {
    fn node(&mut self) -> &mut Node {
        &mut self.node
    }

    fn services_v4(&mut self) -> &mut [ServiceV4] {
        &mut self.services_v4
    }

    fn services_v6(&mut self) -> &mut [ServiceV6] {
        &mut self.services_v6
    }

    fn options(&mut self) -> &mut [ServiceOptions] {
        &mut self.options
    }

    fn nat_settings(&mut self) -> &mut [NatSettings] {
        &mut self.nat_settings
    }

    fn slots(&mut self) -> &mut [SlotBlock] {
        &mut self.slots
    }

    fn marks(&mut self) -> &[AtomicU8] {
        &self.marks
    }

    fn members(&mut self) -> &mut [Member] {
        &mut self.members
    }

    fn flip(&mut self, generation: u32) {
        self.node.active = generation;
    }

    fn wait_for_readers(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn add_source(&mut self, entry: &SourceEntry) -> Result<(), Error> {
        self.sources.push(*entry);
        Ok(())
    }

    fn remove_source(&mut self, entry: &SourceEntry) {
        self.sources.retain(|known| known != entry);
    }

    fn sources(&mut self) -> Vec<SourceEntry> {
        self.sources.clone()
    }

    fn interface_at(&mut self, port: u8) -> Option<u32> {
        self.egress.get(usize::from(port)).copied()
    }

    fn set_interface(&mut self, port: u8, interface: u32) -> Result<(), Error> {
        if let Some(entry) = self.egress.get_mut(usize::from(port)) {
            *entry = interface;
        }
        Ok(())
    }

    fn egress_port(&mut self, interface: u32) -> Result<u8, Error> {
        let known = self.egress.iter().position(|known| *known == interface);
        Ok(known.unwrap_or_else(|| {
            self.egress.push(interface);
            self.egress.len() - 1
        }) as u8)
    }
}

/// A dataplane that forwards nothing.
pub struct FakeDataplane {
    tables: Tables<PlainMemory>,
}

impl FakeDataplane {
    /// An empty one.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            tables: Tables::new(PlainMemory::new(capacity)),
        }
    }

    /// What the next controller finds in the same memory.
    pub fn adopted(self) -> Result<Self, Error> {
        let flow_records = self.tables.state().settings.flow_records;
        let tables = Tables::adopt(self.tables.into_memory(), flow_records)?;
        Ok(Self { tables })
    }

    /// What is in force, with slots.
    pub fn state(&self) -> &State {
        self.tables.state()
    }

    /// The memory, for tests that alter it behind the controller's back.
    pub fn memory(&mut self) -> &mut PlainMemory {
        self.tables.memory()
    }
}

impl Dataplane for FakeDataplane {
    fn read_state(&mut self) -> Result<State, Error> {
        Ok(self.tables.read())
    }

    fn written(&self) -> &State {
        self.tables.state()
    }

    fn blueprint(&self) -> Option<Blueprint> {
        None
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        self.tables.apply(plan)
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.tables.settle()
    }

    fn take_marks(&mut self, service: ServiceId) -> Result<Vec<bool>, Error> {
        self.tables.take_marks(service)
    }

    fn replace(&mut self, capacity: Capacity, state: &State) -> Result<(), Error> {
        let mut tables = Tables::new(PlainMemory::new(capacity));
        tables.apply(&plan(state, &State::empty()))?;
        tables.mark_all();
        self.tables = tables;
        Ok(())
    }

    fn audit(&mut self, budget: Option<usize>) -> Audit {
        self.tables.audit(budget)
    }

    fn repair(&mut self, drifts: &[Drift]) -> Result<(), Error> {
        self.tables.repair(drifts)
    }

    fn program_id(&mut self) -> Option<u32> {
        None
    }

    fn lost_pins(&self) -> Vec<String> {
        Vec::new()
    }

    fn extend(&mut self, _state: &State) -> Result<(), Error> {
        Ok(())
    }

    fn features(&self) -> Features {
        Features::ALL
    }

    fn counters(&mut self, members: &[u32]) -> Result<Counters, Error> {
        Ok(Counters {
            members: members
                .iter()
                .map(|at| (*at, Default::default()))
                .collect::<BTreeMap<_, _>>(),
            ..Counters::default()
        })
    }

    fn reset_counters(&mut self, _members: &[u32]) -> Result<(), Error> {
        Ok(())
    }

    fn attach(&mut self, _interface: &str) -> Result<Attached, Error> {
        Ok(Attached::Native)
    }

    fn detach(&mut self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use balancer_common::layout::{Slot, Target};
    use ipnet::IpNet;
    use proptest::prelude::*;

    use super::super::{ServiceKey, ServiceState, Settings, SourceRules, Table};
    use super::*;

    fn service() -> impl Strategy<Value = ServiceState> {
        (
            prop::collection::btree_set((any::<u32>(), 0u16..3, any::<bool>()), 1..4),
            1u16..6,
            0usize..70,
        )
            .prop_map(|(keys, members, slots)| {
                let quic = slots % 2 == 0;
                let keys: Vec<ServiceKey> = keys
                    .into_iter()
                    .map(|(address, port, v6)| ServiceKey {
                        address: if v6 {
                            std::net::Ipv6Addr::from(u128::from(address)).into()
                        } else {
                            std::net::Ipv4Addr::from(address).into()
                        },
                        port,
                        protocol: 6,
                    })
                    .collect::<std::collections::BTreeSet<_>>()
                    .into_iter()
                    .collect();
                let seats = (0..members)
                    .map(|counter| Member {
                        kind: Member::L2,
                        counter: u32::from(counter),
                        egress: u32::from(counter % 3),
                        ..Member::zeroed()
                    })
                    .collect();
                let table = Table::new(Arc::from(vec![Slot::settled(members - 1); slots]));
                let ids = (0..members).map(|member| ([7, member as u8, 0, 0, 0, 0, 0, 0], member));
                ServiceState {
                    flags: u16::from(quic) * Target::QUIC,
                    options: ServiceOptions {
                        server_id_len: u8::from(quic) * 2,
                        ..ServiceOptions::default()
                    },
                    server_ids: ids.filter(|_| quic).collect(),
                    sources: Arc::new(rules(&keys, slots)),
                    ..ServiceState::new(keys, seats, table)
                }
            })
    }

    /// As many prefixes of the keys' family as the number says.
    fn rules(keys: &[ServiceKey], count: usize) -> SourceRules {
        let is_v4 = keys.iter().any(|key| key.address.is_ipv4());
        let prefix = |at: usize| {
            let bits = (at as u32) << 8;
            if is_v4 {
                IpNet::new(std::net::Ipv4Addr::from(bits).into(), 24)
            } else {
                let address = std::net::Ipv6Addr::from(u128::from(bits) << 64);
                IpNet::new(address.into(), 56)
            }
        };
        (0..count % 5)
            .map(|at| (prefix(at).unwrap(), at % 2 == 0))
            .collect()
    }

    fn state() -> impl Strategy<Value = State> {
        (
            prop::collection::btree_map(1u32..8, service(), 0..6),
            any::<u64>(),
        )
            .prop_map(|(services, key)| {
                // A key may belong to one service only; checks see to that.
                let mut seen = std::collections::BTreeSet::new();
                let services = services
                    .into_iter()
                    .filter(|(_, service)| service.keys.iter().all(|key| seen.insert(*key)))
                    .collect();
                State {
                    flow_keys: [key; 10],
                    settings: Settings {
                        answer_echo: key % 2 == 0,
                        handshake_sample: key as u32,
                        ..Settings::default()
                    },
                    services,
                }
            })
    }

    fn capacity() -> Capacity {
        Capacity {
            blocks: 200,
            // For all keys that a state may have, and marks of their addresses.
            buckets_v4: 256,
            buckets_v6: 256,
            ..Capacity::for_state(&State::empty())
        }
    }

    proptest! {
        #[test]
        fn applying_the_plan_makes_the_desired_state(
            states in prop::collection::vec(state(), 1..6)
        ) {
            let mut dataplane = FakeDataplane::new(capacity());
            for desired in states {
                let actual = dataplane.read_state().unwrap();
                dataplane.apply(&plan(&desired, &actual)).unwrap();
                let after = dataplane.read_state().unwrap();
                prop_assert_eq!(&after, &desired);
                prop_assert!(plan(&desired, &after).is_empty());
            }
        }

        #[test]
        fn next_controller_finds_what_was_applied_and_goes_on(
            states in prop::collection::vec(state(), 1..6)
        ) {
            let mut dataplane = FakeDataplane::new(capacity());
            for desired in states {
                let actual = dataplane.state().clone();
                dataplane.apply(&plan(&desired, &actual)).unwrap();
                dataplane = dataplane.adopted().unwrap();
                let found = dataplane.state().clone();
                prop_assert_eq!(&found, &desired);
                let slots = |state: &State| -> Vec<Vec<Slot>> {
                    let tables = state.services.values().map(|service| &service.table);
                    tables.map(|table| table.slots().unwrap().to_vec()).collect()
                };
                prop_assert_eq!(slots(&found), slots(&desired));
            }
        }

        #[test]
        fn plan_of_a_state_with_itself_is_empty(state in state()) {
            prop_assert!(plan(&state, &state).is_empty());
        }
    }

    #[test]
    fn slots_altered_behind_our_back_are_seen_and_repaired() {
        let mut dataplane = FakeDataplane::new(capacity());
        let mut state = State::empty();
        let key = ServiceKey {
            address: [192, 0, 2, 1].into(),
            port: 80,
            protocol: 6,
        };
        let table = Table::new(Arc::from(vec![Slot::settled(1); 40]));
        let service = ServiceState::new(vec![key], vec![Member::zeroed(); 2], table);
        state.services.insert(1, service);
        dataplane.apply(&plan(&state, &State::empty())).unwrap();
        dataplane.memory().slots()[1].slots[3] = Slot::settled(0);
        let altered = dataplane.read_state().unwrap();
        let repair = plan(&state, &altered);
        assert_eq!(repair.upsert.keys().collect::<Vec<_>>(), [&1]);
        dataplane.apply(&repair).unwrap();
        assert_eq!(dataplane.read_state().unwrap(), state);
    }

    #[test]
    fn memory_that_does_not_fit_together_is_not_adopted() {
        let key = ServiceKey {
            address: [192, 0, 2, 1].into(),
            port: 80,
            protocol: 6,
        };
        let table = Table::new(Arc::from(vec![Slot::settled(1); 40]));
        let service = ServiceState::new(vec![key], vec![Member::zeroed(); 2], table);
        let mut state = State::empty();
        state.services.insert(1, service);
        let damages: [fn(&mut PlainMemory); 4] = [
            |memory| memory.node.layout_version += 1,
            |memory| memory.node.active = 2,
            |memory| memory.slots()[0].slots[3] = Slot::settled(2),
            |memory| {
                for service in memory.services_v4() {
                    service.target.table += 1 << 20;
                }
            },
        ];
        for damage in damages {
            let mut dataplane = FakeDataplane::new(capacity());
            dataplane.apply(&plan(&state, &State::empty())).unwrap();
            damage(dataplane.memory());
            assert!(dataplane.adopted().is_err());
        }
    }

    #[test]
    fn sets_that_another_controller_left_stay_or_go_and_no_number_comes_twice() {
        let mut dataplane = FakeDataplane::new(capacity());
        let with = |count: usize| {
            let key = ServiceKey {
                address: [192, 0, 2, 1].into(),
                port: 80,
                protocol: 6,
            };
            let table = Table::new(Arc::from(vec![Slot::settled(0); 4]));
            let mut state = State::empty();
            let service = ServiceState {
                sources: Arc::new(rules(&[key], count)),
                ..ServiceState::new(vec![key], vec![Member::zeroed()], table)
            };
            state.services.insert(1, service);
            state
        };
        let numbers = |dataplane: &mut FakeDataplane| -> Vec<u32> {
            let sources = dataplane.memory().sources();
            sources.iter().map(|entry| entry.key.set).collect()
        };
        dataplane.apply(&plan(&with(2), &State::empty())).unwrap();
        dataplane.apply(&plan(&with(3), &with(2))).unwrap();
        // Killed before the next change: both sets are there.
        assert_eq!(numbers(&mut dataplane), [1, 1, 2, 2, 2]);
        let mut next = dataplane.adopted().unwrap();
        assert_eq!(next.read_state().unwrap(), with(3));
        next.settle().unwrap();
        assert_eq!(numbers(&mut next), [2, 2, 2]);
        // The same lists keep their set; others get one of another number.
        next.apply(&plan(&with(3), &State::empty())).unwrap();
        assert_eq!(numbers(&mut next), [2, 2, 2]);
        next.apply(&plan(&with(1), &with(3))).unwrap();
        next.settle().unwrap();
        assert_eq!(numbers(&mut next), [3]);
        assert_eq!(next.read_state().unwrap(), with(1));
    }

    #[test]
    fn change_that_does_not_fit_changes_nothing() {
        let mut dataplane = FakeDataplane::new(Capacity {
            blocks: 2,
            ..capacity()
        });
        let key = |last: u8| ServiceKey {
            address: [192, 0, 2, last].into(),
            port: 80,
            protocol: 6,
        };
        let service = |last, slots| {
            let table = Table::new(Arc::from(vec![Slot::settled(0); slots]));
            ServiceState::new(vec![key(last)], vec![Member::zeroed()], table)
        };
        let mut first = State::empty();
        first.services.insert(1, service(1, 16));
        dataplane.apply(&plan(&first, &State::empty())).unwrap();
        let mut second = first.clone();
        second.services.insert(2, service(2, 32));
        let error = dataplane.apply(&plan(&second, &first)).unwrap_err();
        assert!(matches!(error, Error::Full { map: "SLOTS", .. }), "{error}");
        assert_eq!(dataplane.read_state().unwrap(), first);
        dataplane
            .replace(Capacity::grown_for(&second), &second)
            .unwrap();
        assert_eq!(dataplane.read_state().unwrap(), second);
    }
}
