//! Which member of a slot a flow belongs to.
//!
//! While a slot is settled there is no flow state at all. During a change the
//! slot names two owners, and a flow is told old from new by its packet: a
//! SYN is a new flow and goes to `current`; any other TCP packet follows its
//! record, or, without one, is an old flow and goes to `previous`. What was
//! decided is recorded, so that a later change cannot tear the flow away. A
//! dead earlier owner is never used; that `current` lives is the controller's
//! care, who builds no table with a dead one. UDP has no SYN: it goes by the
//! hash to `current`.
//!
//! ```text
//! slot       packet          record      goes to               recorded
//! settled    any             -           current               no
//! unsettled  UDP             -           current               no
//! unsettled  SYN             -           current               yes
//! unsettled  other TCP       alive       the record's member   no
//! unsettled  other TCP       none, dead  previous, if alive    yes
//! unsettled  other TCP       none, dead  current otherwise     yes
//! ```

use crate::layout::{FlowRecord, Slot};

/// The little of a packet that affinity looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// UDP: every packet stands for itself.
    None,
    /// TCP with SYN and without ACK: the first of its flow.
    Syn,
    /// Any other TCP packet.
    Established,
}

/// The member a packet goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// Index of the member in its service.
    pub member: u16,
    /// Whether the choice has to be written to the flow table.
    pub record: bool,
}

/// Chooses the member; `record` asks the flow table, `incarnation` gives the
/// incarnation of a member that is alive. Neither is called for a settled slot.
#[inline(always)]
pub fn choose(
    slot: Slot,
    opening: Opening,
    record: impl FnOnce() -> Option<FlowRecord>,
    incarnation: impl Fn(u16) -> Option<u16>,
) -> Choice {
    let current = Choice {
        member: slot.current(),
        record: slot.is_unsettled() && !matches!(opening, Opening::None),
    };
    if !slot.is_unsettled() || !matches!(opening, Opening::Established) {
        return current;
    }
    if let Some(record) = record()
        && incarnation(record.member) == Some(record.incarnation)
    {
        return Choice {
            member: record.member,
            record: false,
        };
    }
    if incarnation(slot.previous()).is_some() {
        return Choice {
            member: slot.previous(),
            record: true,
        };
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alive(members: &[(u16, u16)]) -> impl Fn(u16) -> Option<u16> + '_ {
        |member| {
            members
                .iter()
                .find(|(index, _)| *index == member)
                .map(|(_, incarnation)| *incarnation)
        }
    }

    const IN_CHANGE: Slot = Slot::unsettled(1, 2);
    const ALL: &[(u16, u16)] = &[(1, 10), (2, 20), (3, 30)];

    fn record(member: u16, incarnation: u16) -> Option<FlowRecord> {
        Some(FlowRecord {
            member,
            incarnation,
            ..FlowRecord::default()
        })
    }

    #[test]
    fn table_of_the_module_documentation_holds() {
        use Opening::{Established, None as Udp, Syn};
        let cases = [
            (
                Slot::settled(1),
                Established,
                record(3, 30),
                ALL,
                (1, false),
            ),
            (IN_CHANGE, Udp, record(3, 30), ALL, (1, false)),
            (IN_CHANGE, Syn, record(3, 30), ALL, (1, true)),
            (IN_CHANGE, Established, record(3, 30), ALL, (3, false)),
            (IN_CHANGE, Established, None, ALL, (2, true)),
            (IN_CHANGE, Established, None, &[(1, 10)], (1, true)),
        ];
        for (slot, opening, found, members, (member, written)) in cases {
            let choice = choose(slot, opening, || found, alive(members));
            assert_eq!(
                choice,
                Choice {
                    member,
                    record: written
                },
                "{slot:?} {opening:?}"
            );
        }
    }

    #[test]
    fn record_of_an_earlier_owner_of_the_index_is_not_followed() {
        let choice = choose(
            IN_CHANGE,
            Opening::Established,
            || record(3, 29),
            alive(ALL),
        );
        assert_eq!(choice.member, 2);
    }

    #[test]
    fn slot_that_came_back_to_its_first_owner_still_asks_the_records() {
        let slot = Slot::unsettled(2, 2);
        let choice = choose(slot, Opening::Established, || record(1, 10), alive(ALL));
        assert_eq!(choice.member, 1);
    }
}
