use std::net::IpAddr;
use std::sync::Arc;

use balancer_common::layout::{Member, NatSettings, ServiceOptions, ServiceV4, Slot, Target};
use bytemuck::Zeroable;

use super::super::super::capacity::Capacity;
use super::super::super::fake::PlainMemory;
use super::super::super::{ServiceState, State, Table, plan};
use super::*;

const WEB: ServiceId = 3;
const QUIC: ServiceId = 7;

fn key(address: &str, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        address: address.parse::<IpAddr>().unwrap(),
        port,
        protocol,
    }
}

fn member(number: u8) -> Member {
    Member {
        kind: Member::L2,
        flags: Member::ALIVE | Member::RESOLVED,
        counter: number.into(),
        egress: 10 + u32::from(number),
        mtu: 1500,
        ethernet: [number; 12],
        ..Member::zeroed()
    }
}

fn state() -> State {
    let mut state = State::empty();
    state.flow_keys = [9; 10];
    state.settings.answer_echo = true;
    let slots: Vec<Slot> = (0..211).map(|at| Slot::settled(at % 3)).collect();
    let members = vec![member(0), member(1), member(2)];
    let keys = vec![key("192.0.2.1", 80, 6), key("2001:db8::1", 0, 6)];
    let mut web = ServiceState::new(keys, members.clone(), Table::new(slots.clone().into()));
    web.flags = Target::FILTER;
    let denied = [("203.0.113.0/24".parse().unwrap(), false)];
    web.sources = Arc::new(denied.into_iter().collect());
    state.services.insert(WEB, web);
    let keys = vec![key("192.0.2.2", 443, 17)];
    let mut quic = ServiceState::new(keys, members, Table::new(slots.into()));
    quic.flags = Target::QUIC;
    quic.options = ServiceOptions {
        server_id_len: 2,
        ..ServiceOptions::default()
    };
    quic.server_ids.insert([1, 2, 0, 0, 0, 0, 0, 0], 2);
    state.services.insert(QUIC, quic);
    state
}

fn tables() -> Tables<PlainMemory> {
    let state = state();
    let mut tables = Tables::new(PlainMemory::new(Capacity::for_state(&state)));
    tables.apply(&plan(&state, &State::empty())).unwrap();
    tables
}

/// Where the table of a service begins.
fn first_block(tables: &Tables<PlainMemory>, id: ServiceId) -> usize {
    tables.regions[&id].first as usize
}

#[test]
fn what_was_written_is_right_also_after_changes_and_for_the_next_controller() {
    let mut tables = tables();
    for change in 0..5 {
        let audit = tables.audit(None);
        assert_eq!(audit.drifts, [], "after {change} changes");
        assert_eq!((audit.services, audit.slots), (2, 422));
        let mut next = tables.state().clone();
        let web = next.services.get_mut(&WEB).unwrap();
        web.members[1].mtu += 1;
        web.table = Table::new(vec![Slot::settled(change % 3); 211].into());
        let change = plan(&next, tables.state());
        tables.apply(&change).unwrap();
    }
    let state = tables.state().clone();
    let mut adopted = Tables::adopt(tables.into_memory(), 1 << 17).unwrap();
    assert_eq!(adopted.audit(None).drifts, []);
    assert_eq!(adopted.read(), state);
}

type Break = fn(&mut Tables<PlainMemory>);

/// Everything that packets read, made wrong in one place each.
fn breaks() -> Vec<(&'static str, Break)> {
    vec![
        ("active", |it| it.memory.node().active ^= 1),
        ("active beyond", |it| it.memory.node().active = 6),
        ("version", |it| it.memory.node().layout_version += 1),
        ("keys", |it| {
            let generation = it.generation as usize;
            it.memory.node().generations[generation].flow_keys[3] ^= 1;
        }),
        ("seed", |it| {
            let generation = it.generation as usize;
            it.memory.node().generations[generation].lookup_seed ^= 1 << 60 | 0xffff;
        }),
        ("flags", |it| {
            let generation = it.generation as usize;
            it.memory.node().generations[generation].flags = 0;
        }),
        ("nat", |it| {
            let generation = it.generation as usize;
            it.memory.nat_settings()[generation] = NatSettings {
                idle_ns: 1,
                ..NatSettings::default()
            };
        }),
        ("bucket", |it| {
            for entry in it.memory.services_v4() {
                if entry.port == 443_u16.to_be_bytes() {
                    *entry = ServiceV4::zeroed();
                }
            }
        }),
        ("target", |it| {
            for entry in it.memory.services_v6() {
                entry.target.table_len = entry.target.table_len.saturating_sub(1);
            }
        }),
        ("foreign bucket", |it| {
            let (generation, half) = (it.generation as usize, it.memory.services_v4().len() / 2);
            let entries = &mut it.memory.services_v4()[generation * half..][..half];
            let free = entries.iter_mut().find(|it| it.target.service == 0);
            free.unwrap().target.service = 99;
        }),
        ("options", |it| {
            for options in it.memory.options() {
                options.server_id_len ^= 1;
            }
        }),
        ("member", |it| {
            for member in it.memory.members() {
                member.ethernet[0] ^= 1;
            }
        }),
        ("slot", |it| {
            let first = first_block(it, QUIC);
            it.memory.slots()[first + 13].slots[2] = Slot::settled(1);
        }),
        ("egress", |it| it.memory.set_interface(1, 99).unwrap()),
        ("missing prefix", |it| {
            let entry = it.memory.sources()[0];
            it.memory.remove_source(&entry);
        }),
        ("foreign prefix", |it| {
            let mut entry = it.memory.sources()[0];
            entry.prefix_len = 9;
            it.memory.add_source(&entry).unwrap();
        }),
    ]
}

#[test]
fn every_place_that_is_wrong_is_found_and_put_right() {
    for (name, damage) in breaks() {
        let mut tables = tables();
        damage(&mut tables);
        let audit = tables.audit(Some(usize::MAX));
        assert!(!audit.drifts.is_empty(), "{name} was not found");
        tables.repair(&audit.drifts).unwrap();
        assert_eq!(tables.audit(None).drifts, [], "{name} was not repaired");
        assert_eq!(tables.read(), state(), "{name}");
    }
}

#[test]
fn slots_are_told_in_runs_of_the_same_owners() {
    let mut tables = tables();
    let first = first_block(&tables, WEB);
    for at in 100..103 {
        let slot = &mut tables.memory.slots()[first + at / 16].slots[at % 16];
        *slot = Slot::settled(7);
    }
    let slots: &mut [Slot] = bytemuck::cast_slice_mut(&mut tables.memory.slots()[first..]);
    slots[200] = Slot::unsettled(200 % 3, 1);
    let told = |at: u32, seen: Slot| Drift::Slots {
        service: WEB,
        first: at,
        last: at,
        expected: Slot::settled((at % 3) as u16),
        seen,
    };
    assert_eq!(
        tables.audit(None).drifts,
        [
            told(100, Slot::settled(7)),
            told(101, Slot::settled(7)),
            told(102, Slot::settled(7)),
            told(200, Slot::unsettled(2, 1)),
        ]
    );
    let all: Vec<Slot> = vec![Slot::settled(1); 211];
    let none = vec![Slot::settled(0); 211];
    let [run] = runs(WEB, &all, &none).try_into().unwrap();
    assert!(
        matches!(
            run,
            Drift::Slots {
                first: 0,
                last: 210,
                ..
            }
        ),
        "{run:?}"
    );
    let striped: Vec<Slot> = (0..211).map(|at| Slot::settled(at % 2)).collect();
    let runs = runs(WEB, &striped, &vec![Slot::settled(9); 211]);
    assert_eq!(runs.len(), MOST_RUNS);
    assert!(matches!(
        runs[MOST_RUNS - 1],
        Drift::Slots {
            first: 15,
            last: 210,
            ..
        }
    ));
}

#[test]
fn round_over_large_tables_is_spread_and_finds_what_lies_at_its_end() {
    let mut tables = tables();
    let first = first_block(&tables, QUIC);
    tables.memory.slots()[first].slots[0] = Slot::settled(2);
    // The keys are all that a byte buys.
    let audit = tables.audit(Some(1));
    assert_eq!((audit.services, audit.is_round_over), (0, false));
    let mut rounds = Vec::new();
    for _ in 0..6 {
        let audit = tables.audit(Some(1));
        rounds.push((audit.services, audit.drifts.len(), audit.is_round_over));
    }
    assert!(
        rounds.iter().all(|(services, _, _)| *services <= 1),
        "{rounds:?}"
    );
    // With room for one service at a time, two calls are a round.
    let mut tables = super::tests::tables();
    let first = first_block(&tables, QUIC);
    tables.memory.slots()[first].slots[0] = Slot::settled(2);
    let keys =
        32 * tables.memory.services_v4().len() / 2 + 48 * tables.memory.services_v6().len() / 2;
    let one = tables.audit(Some(keys + 1));
    assert_eq!(
        (one.services, one.drifts.len(), one.is_round_over),
        (1, 0, false)
    );
    let two = tables.audit(Some(keys + 1));
    assert_eq!(
        (two.services, two.drifts.len(), two.is_round_over),
        (1, 1, true)
    );
    let again = tables.audit(Some(keys + 1));
    assert_eq!((again.services, again.is_round_over), (1, false));
}
