//! Which member of a slot a flow belongs to.
//!
//! While a slot is settled there is no flow state at all. During a change the
//! slot names two owners, and a flow is told old from new by its packets: a
//! SYN opens a new flow, which goes to `current` and is noted in the table of
//! flows on probation; the packet that follows promotes it to the protected
//! table, so that a flood of SYNs evicts nobody. Any other TCP packet without
//! a record is of an old flow and goes to `previous`, for which nothing has
//! to be written. A record counts while its member is alive in the same
//! incarnation, and in the era of the slot in which it was written.
//!
//! ```text
//! slot       packet      FLOWS  PROBATION  goes to              written
//! settled    any         -      -          current              -
//! unsettled  UDP         -      -          current              -
//! unsettled  SYN         its    -          the record's         -
//! unsettled  SYN         no     its        the record's         -
//! unsettled  SYN         no     no         current              PROBATION
//! unsettled  other TCP   alive  -          the record's         -
//! unsettled  other TCP   no     alive      the record's         FLOWS
//! unsettled  other TCP   no     no         previous, if alive   -
//! unsettled  other TCP   no     no         current otherwise    PROBATION
//! ```
//!
//! A record is a SYN's own if it is alive and was made of a SYN with the same
//! sequence number: a SYN that comes again has it, while one that opens
//! another flow of the same addresses and ports has another (RFC 9293, 3.4.1).
//!
//! A record of this era that does not count is written over where it lies: a
//! flow does not go back when a member that died recovers, and what follows a
//! SYN goes where that went. Old flows whose owner died are noted for the same
//! reason. A `current` that is dead gets
//! nothing either: the packet path drops what would go there.
//!
//! A UDP service may ask that every flow has a record, also of settled slots
//! ([`recorded`]): there idle time takes the place of eras.

use crate::layout::{FlowRecord, Slot};

/// The little of a packet that affinity looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Opening {
    /// UDP: every packet stands for itself.
    None = 0,
    /// TCP with SYN and without ACK: the first of its flow.
    Syn = 1,
    /// Any other TCP packet.
    Established = 2,
}

impl Opening {
    /// The opening of a number; any other is [`Opening::Established`].
    #[inline(always)]
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::None,
            1 => Self::Syn,
            _ => Self::Established,
        }
    }
}

/// What has to be written of a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// A record in `PROBATION`.
    Probation,
    /// A record in `FLOWS`.
    Flows,
    /// The time in the record that lies in `FLOWS`.
    Time,
}

/// The member a packet goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index of the member in its service.
    pub member: u16,
    /// What has to be written.
    pub keep: Keep,
    /// Whether no record of the flow counted, in a service where every flow
    /// has one: it is a new flow.
    pub is_new: bool,
}

impl Choice {
    /// This member; nothing is written.
    pub const fn of(member: u16) -> Self {
        Self {
            member,
            keep: Keep::Nothing,
            is_new: false,
        }
    }

    /// As a number, for functions that give back no more: the member, and
    /// above it what is kept and whether the flow is new.
    #[inline(always)]
    pub const fn number(self) -> u32 {
        self.member as u32 | (self.keep as u32) << 16 | (self.is_new as u32) << 24
    }

    const fn keeping(self, keep: Keep) -> Self {
        Self { keep, ..self }
    }
}

/// Nanoseconds after which the time in a record is written anew: one store a
/// second and flow, not one a packet. With a shorter idle time, that.
pub const REFRESH_NS: u64 = 1_000_000_000;

/// Chooses the member for a slot in change; `sequence` is what
/// [`opened_with`](crate::parse::opened_with) says of the packet, `flows` and
/// `probation` ask the two tables, `incarnation` gives the incarnation of a
/// member that is alive. A settled slot needs none of them: its member is
/// `current`.
#[inline(always)]
pub fn in_change(
    slot: Slot,
    opening: Opening,
    sequence: u32,
    flows: impl FnOnce() -> Option<FlowRecord>,
    probation: impl FnOnce() -> Option<FlowRecord>,
    incarnation: impl Fn(u16) -> Option<u16>,
) -> Choice {
    if matches!(opening, Opening::None) {
        return Choice::of(slot.current());
    }
    let of_this_era = |record: &FlowRecord| record.era == u32::from(slot.era());
    let counts = |record: &FlowRecord| {
        (matches!(opening, Opening::Established) || record.stamp == u64::from(sequence))
            && incarnation(record.member) == Some(record.incarnation)
    };
    let known = flows().filter(of_this_era);
    if let Some(record) = known
        && counts(&record)
    {
        return Choice::of(record.member);
    }
    let tried = probation().filter(of_this_era);
    if let Some(record) = tried
        && counts(&record)
    {
        let choice = Choice::of(record.member);
        return match opening {
            Opening::Syn if known.is_none() => choice,
            _ => choice.keeping(Keep::Flows),
        };
    }
    let is_old = matches!(opening, Opening::Established) && incarnation(slot.previous()).is_some();
    let choice = Choice::of(if is_old {
        slot.previous()
    } else {
        slot.current()
    });
    if known.is_some() {
        choice.keeping(Keep::Flows)
    } else if tried.is_some() || !is_old {
        choice.keeping(Keep::Probation)
    } else {
        choice
    }
}

/// Chooses the member for a service in which every flow has a record. A
/// record outlasts a silence of `idle_ns` before `now_ns`; as its time may lag
/// by [`REFRESH_NS`], it is given up that much later.
#[inline(always)]
pub fn recorded(
    slot: Slot,
    flows: impl FnOnce() -> Option<FlowRecord>,
    probation: impl FnOnce() -> Option<FlowRecord>,
    incarnation: impl Fn(u16) -> Option<u16>,
    now_ns: u64,
    idle_ns: u64,
) -> Choice {
    let lag_ns = if idle_ns < REFRESH_NS {
        idle_ns
    } else {
        REFRESH_NS
    };
    let counts = |record: &FlowRecord| {
        now_ns.saturating_sub(record.stamp) < idle_ns.saturating_add(lag_ns)
            && incarnation(record.member) == Some(record.incarnation)
    };
    let known = flows();
    if let Some(record) = known
        && counts(&record)
    {
        let choice = Choice::of(record.member);
        return if now_ns.saturating_sub(record.stamp) < lag_ns {
            choice
        } else {
            choice.keeping(Keep::Time)
        };
    }
    if let Some(record) = probation()
        && counts(&record)
    {
        return Choice::of(record.member).keeping(Keep::Flows);
    }
    Choice {
        member: slot.current(),
        keep: if known.is_some() {
            Keep::Flows
        } else {
            Keep::Probation
        },
        is_new: true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERA: u8 = 5;
    const SEQUENCE: u32 = 0xffff_fff0;
    const IN_CHANGE: Slot = Slot::unsettled(1, 2).in_era(ERA);
    /// Index and incarnation of who is alive.
    const ALL: &[(u16, u16)] = &[(1, 10), (2, 20), (3, 30), (4, 40)];
    const WITHOUT_3: &[(u16, u16)] = &[(1, 10), (2, 20), (4, 40)];
    const WITHOUT_PREVIOUS: &[(u16, u16)] = &[(1, 10), (3, 30)];

    fn alive(members: &[(u16, u16)]) -> impl Fn(u16) -> Option<u16> + '_ {
        |member| {
            members
                .iter()
                .find(|(index, _)| *index == member)
                .map(|(_, incarnation)| *incarnation)
        }
    }

    fn record(member: u16, incarnation: u16) -> Option<FlowRecord> {
        Some(FlowRecord {
            member,
            incarnation,
            era: ERA.into(),
            stamp: SEQUENCE.into(),
        })
    }

    fn choose(
        opening: Opening,
        flows: Option<FlowRecord>,
        probation: Option<FlowRecord>,
        members: &[(u16, u16)],
    ) -> (u16, Keep) {
        let choice = in_change(
            IN_CHANGE,
            opening,
            SEQUENCE,
            || flows,
            || probation,
            alive(members),
        );
        assert!(!choice.is_new);
        (choice.member, choice.keep)
    }

    #[test]
    fn table_of_the_module_documentation_holds() {
        use Keep::{Flows, Nothing, Probation};
        use Opening::{Established, None as Udp, Syn};
        let three = record(3, 30);
        let four = record(4, 40);
        let cases = [
            (Udp, three, three, ALL, (1, Nothing)),
            (Syn, three, four, ALL, (3, Nothing)),
            (Syn, None, three, ALL, (3, Nothing)),
            (Syn, None, None, ALL, (1, Probation)),
            (Established, three, four, ALL, (3, Nothing)),
            (Established, None, three, ALL, (3, Flows)),
            (Established, None, None, ALL, (2, Nothing)),
            (Established, None, None, WITHOUT_PREVIOUS, (1, Probation)),
        ];
        for (opening, flows, probation, members, expected) in cases {
            assert_eq!(
                choose(opening, flows, probation, members),
                expected,
                "{opening:?} {flows:?} {probation:?}"
            );
        }
    }

    #[test]
    fn record_of_a_dead_member_is_written_over_where_it_lies() {
        use Opening::{Established, Syn};
        let dead = record(3, 30);
        for (opening, member) in [(Syn, 1), (Established, 2)] {
            let chosen = choose(opening, dead, None, WITHOUT_3);
            assert_eq!(chosen, (member, Keep::Flows), "{opening:?}");
            let chosen = choose(opening, None, dead, WITHOUT_3);
            assert_eq!(chosen, (member, Keep::Probation), "{opening:?}");
            let chosen = choose(opening, dead, record(4, 40), WITHOUT_3);
            assert_eq!(chosen.0, 4, "{opening:?}");
        }
    }

    #[test]
    fn syn_of_another_sequence_number_opens_a_flow_and_takes_the_record_over() {
        let earlier = record(3, 30).map(|record| FlowRecord {
            stamp: u64::from(SEQUENCE) + 1,
            ..record
        });
        let chosen = choose(Opening::Syn, earlier, None, ALL);
        assert_eq!(chosen, (1, Keep::Flows));
        let chosen = choose(Opening::Syn, None, earlier, ALL);
        assert_eq!(chosen, (1, Keep::Probation));
        let chosen = choose(Opening::Syn, earlier, record(4, 40), ALL);
        assert_eq!(chosen, (4, Keep::Flows));
        let chosen = choose(Opening::Established, earlier, None, ALL);
        assert_eq!(chosen, (3, Keep::Nothing));
    }

    #[test]
    fn record_of_an_earlier_owner_of_the_index_is_not_followed() {
        let chosen = choose(Opening::Established, record(3, 29), None, ALL);
        assert_eq!(chosen.0, 2);
    }

    #[test]
    fn record_of_another_era_is_as_good_as_none() {
        let stale = record(3, 30).map(|record| FlowRecord {
            era: u32::from(ERA) - 1,
            ..record
        });
        for opening in [Opening::Syn, Opening::Established] {
            let with = choose(opening, stale, stale, ALL);
            assert_eq!(with, choose(opening, None, None, ALL), "{opening:?}");
        }
    }

    #[test]
    fn slot_that_came_back_to_its_first_owner_still_asks_the_records() {
        let slot = Slot::unsettled(2, 2).in_era(ERA);
        let choice = in_change(
            slot,
            Opening::Established,
            SEQUENCE,
            || record(1, 10),
            || None,
            alive(ALL),
        );
        assert_eq!(choice.member, 1);
    }

    #[test]
    fn service_with_records_follows_them_until_they_are_idle() {
        const IDLE: u64 = 10 * REFRESH_NS;
        let seen = |member, incarnation, seen_ns| {
            record(member, incarnation).map(|record| FlowRecord {
                stamp: seen_ns,
                era: 77,
                ..record
            })
        };
        let now = 100 * REFRESH_NS;
        let fresh = seen(3, 30, now - 1);
        let older = seen(3, 30, now - IDLE - REFRESH_NS + 1);
        let idle = seen(3, 30, now - IDLE - REFRESH_NS);
        let dead = seen(3, 29, now);
        let cases = [
            (fresh, None, (3, Keep::Nothing, false)),
            (older, None, (3, Keep::Time, false)),
            (None, older, (3, Keep::Flows, false)),
            (idle, fresh, (3, Keep::Flows, false)),
            (idle, None, (1, Keep::Flows, true)),
            (dead, None, (1, Keep::Flows, true)),
            (None, idle, (1, Keep::Probation, true)),
            (None, None, (1, Keep::Probation, true)),
        ];
        for (flows, probation, expected) in cases {
            let choice = recorded(
                Slot::settled(1),
                || flows,
                || probation,
                alive(ALL),
                now,
                IDLE,
            );
            let chosen = (choice.member, choice.keep, choice.is_new);
            assert_eq!(chosen, expected, "{flows:?} {probation:?}");
        }
    }
}
