//! One slot of a table: its owners, and the change it is in.

use bytemuck::{Pod, Zeroable};

/// Who owns a slot, and who owned it before the change that is still
/// settling, in 32 bits: 12 bits `current`, 12 bits `previous`, 7 bits era,
/// and the mark of a slot in change on top.
///
/// The era is counted up whenever a settled slot comes into change, and flow
/// records carry it: a record of an earlier change says nothing in a later
/// one. After 128 changes of a slot it begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub struct Slot(pub u32);

impl Slot {
    /// Set while flows of the slot may belong to somebody but `current`.
    pub const UNSETTLED: u32 = 1 << 31;
    const INDEX_BITS: u32 = 12;
    const INDEX: u32 = (1 << Self::INDEX_BITS) - 1;
    const ERA_AT: u32 = 24;
    const ERA: u32 = 0x7f;

    const fn of(current: u16, previous: u16, era: u8) -> Self {
        let owners =
            current as u32 & Self::INDEX | (previous as u32 & Self::INDEX) << Self::INDEX_BITS;
        Self(owners | (era as u32 & Self::ERA) << Self::ERA_AT)
    }

    /// A slot that owes nothing to the past, and was never in change.
    pub const fn settled(current: u16) -> Self {
        Self::of(current, current, 0)
    }

    /// A slot in its first change: flows without a record belong to
    /// `previous`.
    pub const fn unsettled(current: u16, previous: u16) -> Self {
        Self(Self::of(current, previous, 0).0 | Self::UNSETTLED)
    }

    /// The slot in that era.
    pub const fn in_era(self, era: u8) -> Self {
        let mark = self.0 & Self::UNSETTLED;
        Self(Self::of(self.current(), self.previous(), era).0 | mark)
    }

    /// The slot once its past is over.
    pub const fn settle(self) -> Self {
        Self::of(self.current(), self.current(), self.era())
    }

    /// The slot once its past owner is gone for good: flows without a record
    /// are `current`'s.
    pub const fn without_previous(self) -> Self {
        let mark = self.0 & Self::UNSETTLED;
        Self(self.settle().0 | mark)
    }

    /// The slot with a new owner. The owner it had when it was last settled
    /// stays its `previous`.
    pub const fn change_to(self, current: u16) -> Self {
        if self.is_unsettled() {
            return Self(Self::of(current, self.previous(), self.era()).0 | Self::UNSETTLED);
        }
        if current == self.current() {
            return self;
        }
        let era = self.era().wrapping_add(1);
        Self(Self::of(current, self.current(), era).0 | Self::UNSETTLED)
    }

    /// Index of the member that new flows go to.
    pub const fn current(self) -> u16 {
        (self.0 & Self::INDEX) as u16
    }

    /// Index of the member that had the slot before the change.
    pub const fn previous(self) -> u16 {
        (self.0 >> Self::INDEX_BITS & Self::INDEX) as u16
    }

    /// Number of the change that the slot is in, or was in last.
    pub const fn era(self) -> u8 {
        (self.0 >> Self::ERA_AT & Self::ERA) as u8
    }

    /// Whether flow records have to be asked.
    pub const fn is_unsettled(self) -> bool {
        self.0 & Self::UNSETTLED != 0
    }
}

const _: () = {
    assert!(size_of::<Slot>() == 4);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_keeps_both_owners_the_era_and_the_mark() {
        let slot = Slot::unsettled(4095, 17).in_era(127);
        let parts = (slot.current(), slot.previous(), slot.era());
        assert_eq!(parts, (4095, 17, 127));
        assert!(slot.is_unsettled());
        let slot = slot.settle();
        let parts = (slot.current(), slot.previous(), slot.era());
        assert_eq!(parts, (4095, 4095, 127));
        assert!(!slot.is_unsettled());
    }

    #[test]
    fn slot_remembers_who_had_it_when_it_was_last_settled() {
        let first = Slot::settled(1).change_to(2);
        assert_eq!(first, Slot::unsettled(2, 1).in_era(1));
        assert_eq!(first.change_to(3), Slot::unsettled(3, 1).in_era(1));
        assert_eq!(first.change_to(1), Slot::unsettled(1, 1).in_era(1));
        let again = first.settle().change_to(5);
        assert_eq!(again, Slot::unsettled(5, 2).in_era(2));
        assert_eq!(again.settle().change_to(5), again.settle());
        let gone = first.without_previous();
        assert_eq!(gone, Slot::unsettled(2, 2).in_era(1));
        assert_eq!(gone.change_to(3), Slot::unsettled(3, 2).in_era(1));
        assert_eq!(again.settle().without_previous(), again.settle());
    }
}
