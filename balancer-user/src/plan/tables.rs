//! Two tables of one service, slot by slot: who has what, and what moves.

use std::collections::HashMap;
use std::net::IpAddr;

use balancer_common::hash;

use super::{Held, HeldSeat};
use crate::config::model::{Backend, Service};

/// Stands for nobody in a table.
const NOBODY: u16 = u16::MAX;
/// Flows by which tables of two sizes are compared, spread evenly over all
/// hashes: slots of different tables have nothing in common but these.
const SAMPLES: u32 = 1 << 16;

/// A server by its name in the service. One name at two addresses is two.
#[derive(Debug)]
pub(super) struct Owner<'a> {
    pub(super) name: &'a str,
    pub(super) address: IpAddr,
    /// Its seat in the running table.
    pub(super) seat: Option<&'a HeldSeat>,
    /// Its position in the new configuration.
    pub(super) position: Option<usize>,
    pub(super) slots_now: u32,
    pub(super) slots_after: u32,
}

/// Slots that go from one owner to another; an owner by its place, none for
/// nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) from: Option<usize>,
    pub(super) to: Option<usize>,
    /// Of `Comparison::compared`.
    pub(super) count: u32,
}

/// What differs between two tables.
#[derive(Debug)]
pub(super) struct Comparison<'a> {
    pub(super) owners: Vec<Owner<'a>>,
    pub(super) len_now: u32,
    pub(super) len_after: u32,
    /// What was gone through: the slots, or flows where the sizes differ.
    pub(super) compared: u32,
    pub(super) pairs: Vec<Pair>,
}

impl Comparison<'_> {
    /// Of what was compared, what somebody has and another one gets.
    pub(super) fn moved(&self) -> u32 {
        let taken = self.pairs.iter().filter(|pair| pair.from.is_some());
        taken.map(|pair| pair.count).sum()
    }

    /// A count as a share of what was compared.
    pub(super) fn share(&self, count: u32) -> f64 {
        part(count, self.compared)
    }

    /// The fewest slots that can move for these shares of the servers; a
    /// server under another name has its share as before.
    pub(super) fn required(&self) -> Option<u32> {
        if self.len_now != self.len_after && self.len_after != 0 {
            return None;
        }
        let mut servers: HashMap<IpAddr, (u32, u32)> = HashMap::new();
        for owner in &self.owners {
            let (now, after) = servers.entry(owner.address).or_default();
            *now += owner.slots_now;
            *after += owner.slots_after;
        }
        let lost = |(now, after): &(u32, u32)| now.saturating_sub(*after);
        Some(servers.values().map(lost).sum())
    }
}

/// A part as a share of a whole; 0 of nothing.
pub(super) fn part(count: u32, all: u32) -> f64 {
    match all {
        0 => 0.0,
        all => f64::from(count) / f64::from(all),
    }
}

/// Compares the running table with one whose slots name backends of `after`
/// by their positions.
pub(super) fn compare<'a>(
    held: Option<&'a Held>,
    after: Option<&'a Service>,
    slots_after: &[u16],
) -> Comparison<'a> {
    let (owners, to_owner) = owners(held, after);
    let now = slots_now(held);
    let next: Vec<u16> = slots_after
        .iter()
        .map(|position| to_owner[usize::from(*position)])
        .collect();
    let mut comparison = Comparison {
        owners,
        len_now: now.len() as u32,
        len_after: next.len() as u32,
        compared: 0,
        pairs: Vec::new(),
    };
    for (slots, of) in [
        (&now, (|owner| &mut owner.slots_now) as Count<'_>),
        (&next, |owner| &mut owner.slots_after),
    ] {
        let mut counts = vec![0; comparison.owners.len()];
        for owner in slots {
            // All but nobody are there.
            if let Some(count) = counts.get_mut(usize::from(*owner)) {
                *count += 1;
            }
        }
        for (owner, count) in comparison.owners.iter_mut().zip(counts) {
            *of(owner) = count;
        }
    }
    comparison.go_through(&now, &next);
    comparison
}

/// Where a count of an owner stands.
type Count<'a> = for<'o> fn(&'o mut Owner<'a>) -> &'o mut u32;

impl Comparison<'_> {
    fn go_through(&mut self, now: &[u16], next: &[u16]) {
        let mut moves: Vec<u32> = Vec::new();
        let mut look = |from: u16, to: u16| {
            if from != to {
                moves.push(u32::from(from) << 16 | u32::from(to));
            }
        };
        match (now.len(), next.len()) {
            (len, 0) => {
                self.compared = len as u32;
                now.iter().for_each(|from| look(*from, NOBODY));
            }
            (0, len) => {
                self.compared = len as u32;
                next.iter().for_each(|to| look(NOBODY, *to));
            }
            (len, other) if len == other => {
                self.compared = len as u32;
                now.iter().zip(next).for_each(|(from, to)| look(*from, *to));
            }
            _ => {
                self.compared = SAMPLES;
                let owner = |slots: &[u16], sample: u32| {
                    let flow = u64::from(sample) << 48;
                    slots[hash::slot(flow, slots.len() as u32) as usize]
                };
                (0..SAMPLES).for_each(|sample| look(owner(now, sample), owner(next, sample)));
            }
        }
        moves.sort_unstable();
        let somebody = |owner: u16| (owner != NOBODY).then_some(usize::from(owner));
        self.pairs = moves
            .chunk_by(|a, b| a == b)
            .map(|same| Pair {
                from: somebody((same[0] >> 16) as u16),
                to: somebody(same[0] as u16),
                count: same.len() as u32,
            })
            .collect();
        // Equal ones stay in the order of the seats.
        self.pairs.sort_by_key(|pair| std::cmp::Reverse(pair.count));
    }
}

/// Owners now by their seats, then those that are new; and which owner each
/// position of the new configuration is.
fn owners<'a>(held: Option<&'a Held>, after: Option<&'a Service>) -> (Vec<Owner<'a>>, Vec<u16>) {
    // A seat that nobody has keeps its place, so that slots are indexes.
    let nobody = IpAddr::from([0; 4]);
    let seats = held.map_or(&[][..], |held| &held.seats);
    let mut owners: Vec<Owner<'a>> = seats
        .iter()
        .map(|seat| Owner {
            name: seat.as_ref().map_or("", |seat| &*seat.backend),
            address: seat.as_ref().map_or(nobody, |seat| seat.address),
            seat: seat.as_ref(),
            position: None,
            slots_now: 0,
            slots_after: 0,
        })
        .collect();
    let known: HashMap<(&'a str, IpAddr), usize> = owners
        .iter()
        .enumerate()
        .filter(|(_, owner)| owner.seat.is_some())
        .map(|(at, owner)| ((owner.name, owner.address), at))
        .collect();
    let backends: &'a [Backend] = after.map_or(&[], |service| &service.backends);
    let mut to_owner = Vec::with_capacity(backends.len());
    for (position, backend) in backends.iter().enumerate() {
        let at = known.get(&(backend.name.as_str(), backend.address));
        let at = at.copied().unwrap_or_else(|| {
            owners.push(Owner {
                name: &backend.name,
                address: backend.address,
                seat: None,
                position: None,
                slots_now: 0,
                slots_after: 0,
            });
            owners.len() - 1
        });
        owners[at].position = Some(position);
        to_owner.push(at as u16);
    }
    (owners, to_owner)
}

/// Who has each slot in the kernel; none where nobody gets new flows: the
/// slots then still name who had them.
fn slots_now(held: Option<&Held>) -> Vec<u16> {
    let Some(held) = held.filter(|held| held.seats.iter().flatten().any(|seat| seat.has_slots))
    else {
        return Vec::new();
    };
    let slots = held.table.slots().unwrap_or_default();
    let owner = |(index, seat): (u16, &Option<HeldSeat>)| match seat {
        Some(_) => index,
        None => NOBODY,
    };
    let owners: Vec<u16> = (0..).zip(&held.seats).map(owner).collect();
    let owner = |index: u16| owners.get(usize::from(index)).copied();
    slots
        .iter()
        .map(|slot| owner(slot.current()).unwrap_or(NOBODY))
        .collect()
}
