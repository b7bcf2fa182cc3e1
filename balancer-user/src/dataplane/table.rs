//! A service's table: who owns which slot.
//!
//! Tables are compared by their digests. There may be a thousand of them, of a
//! quarter of a megabyte each, and the kernel has them too: so a table that
//! was made from names and weights is kept as these. Who asks for its slots
//! gets them from the [`Shelf`] on which they stand, if these are still the
//! slots, or made once more. Any other table is kept packed. Pure.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use balancer_common::layout::Slot;

use super::packed::Packed;

/// What a table was made from.
pub trait Recipe: std::fmt::Debug + Send + Sync {
    /// The owner of each slot: the same each time.
    fn owners(&self) -> Vec<u16>;
}

/// Where slots that were written can be read again, in a tenth of the time
/// that making them takes.
pub trait Shelf: std::fmt::Debug + Send + Sync {
    /// Reads as many slots as there is room for, from the beginning of a block
    /// of 16 on; `false` where they cannot be read. Somebody may write there
    /// meanwhile.
    fn read(&self, first_block: u32, into: &mut [Slot]) -> bool;
}

/// A shelf that may be gone, and the block that a table begins with.
type Place = (Weak<dyn Shelf>, u32);

/// A service's table, compared by its digest. One that was read back from
/// the kernel has no slots, only their digest: tables are large.
#[derive(Debug, Clone)]
pub struct Table {
    len: u32,
    digest: u64,
    slots: Slots,
}

#[derive(Debug, Clone)]
enum Slots {
    /// Nobody knows but the kernel.
    Elsewhere,
    Packed(Arc<Packed>),
    Made(Arc<Made>),
}

/// Slots that are those of a recipe, settled and never in change, but for
/// some.
#[derive(Debug)]
struct Made {
    recipe: Arc<dyn Recipe>,
    /// The others with their places, ascending: in change, or once were.
    odd: Box<[(u32, Slot)]>,
    /// Slots of each member.
    counts: Box<[u32]>,
    /// Digest of the table without `odd`.
    digest: u64,
    /// Where it was put.
    place: Mutex<Option<Place>>,
}

impl Table {
    /// A table of these slots; none means that no backend gets traffic.
    pub fn new(slots: Arc<[Slot]>) -> Self {
        Self::of(&slots)
    }

    /// As [`Table::new`], of slots that somebody else keeps.
    pub fn of(slots: &[Slot]) -> Self {
        Self {
            len: slots.len() as u32,
            digest: digest(slots),
            slots: Slots::Packed(Arc::new(Packed::of(slots))),
        }
    }

    /// As [`Table::of`], of slots whose present owners are those of the recipe.
    pub fn made(recipe: Arc<dyn Recipe>, slots: &[Slot]) -> Self {
        let fresh = |slot: &Slot| Slot::settled(slot.current());
        let is_odd = |slot: &Slot| *slot != fresh(slot);
        let odd_count = slots.iter().filter(|slot| is_odd(slot)).count();
        // Then packed slots are no larger, and found faster.
        if odd_count * size_of::<(u32, Slot)>() > slots.len() {
            return Self::of(slots);
        }
        let places = (0..).zip(slots);
        let odd = places.filter(|(_, slot)| is_odd(slot));
        let odd: Box<[(u32, Slot)]> = odd.map(|(at, slot)| (at, *slot)).collect();
        let mut counts = Vec::new();
        for slot in slots {
            let member = usize::from(slot.current());
            if counts.len() <= member {
                counts.resize(member + 1, 0);
            }
            counts[member] += 1;
        }
        let as_they_are = digest(slots);
        let made = Made {
            recipe,
            digest: match odd.len() {
                0 => as_they_are,
                _ => digest(&slots.iter().map(fresh).collect::<Vec<Slot>>()),
            },
            odd,
            counts: counts.into(),
            place: Mutex::default(),
        };
        Self {
            len: slots.len() as u32,
            digest: as_they_are,
            slots: Slots::Made(Arc::new(made)),
        }
    }

    /// A table that is known by its digest only.
    pub fn read_back(slots: &[Slot]) -> Self {
        Self {
            len: slots.len() as u32,
            digest: digest(slots),
            slots: Slots::Elsewhere,
        }
    }

    /// The same table with other slots, whose present owners are the same.
    pub fn with_same_owners(&self, slots: &[Slot]) -> Self {
        match &self.slots {
            Slots::Made(made) => Self::made(Arc::clone(&made.recipe), slots),
            _ => Self::of(slots),
        }
    }

    /// The table as it was made, were none of its slots ever in change; none
    /// where it is not known what it was made from.
    pub fn fresh(&self) -> Option<Self> {
        let Slots::Made(made) = &self.slots else {
            return self.is_pristine().then(|| self.clone());
        };
        if made.odd.is_empty() {
            return Some(self.clone());
        }
        let fresh = Made {
            recipe: Arc::clone(&made.recipe),
            odd: Box::default(),
            counts: made.counts.clone(),
            digest: made.digest,
            place: Mutex::default(),
        };
        Some(Self {
            len: self.len,
            digest: made.digest,
            slots: Slots::Made(Arc::new(fresh)),
        })
    }

    /// Whether both are known to have the same owners, and no slot in change:
    /// `false` does not say that they differ.
    pub fn is_settled_like(&self, other: &Self) -> bool {
        let owners = |table: &Self| match &table.slots {
            Slots::Made(made) if !made.odd.iter().any(|(_, slot)| slot.is_unsettled()) => {
                Some((table.len, made.digest))
            }
            _ => None,
        };
        owners(self).is_some_and(|it| Some(it) == owners(other))
    }

    /// How many slots it has.
    pub fn slot_count(&self) -> u32 {
        self.len
    }

    /// The slots, unless the table was read back. They are read, made or
    /// unpacked for it, which takes up to a millisecond: who wants many asks
    /// once.
    pub fn slots(&self) -> Option<Vec<Slot>> {
        match &self.slots {
            Slots::Elsewhere => None,
            Slots::Packed(slots) => Some(slots.unpack()),
            Slots::Made(made) => {
                let mut slots = vec![Slot(0); self.len as usize];
                self.write_made(made, &mut slots);
                Some(slots)
            }
        }
    }

    /// Notes where the slots stand from now on; whoever has this table, or a
    /// copy of it, reads them there.
    pub(super) fn stands_at(&self, shelf: &Weak<dyn Shelf>, first_block: u32) {
        if let Slots::Made(made) = &self.slots {
            made.set_place(Some((Weak::clone(shelf), first_block)));
        }
    }

    fn write_made(&self, made: &Made, into: &mut [Slot]) {
        let into = &mut into[..self.len as usize];
        let Some((shelf, first_block)) = made.place() else {
            return made.write_to(into);
        };
        let shelf = shelf.upgrade();
        let is_read = shelf.is_some_and(|shelf| shelf.read(first_block, into));
        // Another table may stand there by now, or be on its way there.
        if !is_read || digest(into) != self.digest {
            made.set_place(None);
            made.write_to(into);
        }
    }

    /// One slot, unless the table was read back or has no such. It may take as
    /// long as [`Table::slots`].
    pub fn slot(&self, index: u32) -> Option<Slot> {
        match &self.slots {
            Slots::Packed(slots) => slots.at(index as usize),
            _ => self.slots()?.get(index as usize).copied(),
        }
    }

    /// How many slots each member gets new flows of, by its index; members
    /// beyond have none, as have all of a table that was read back.
    pub fn counts(&self) -> Vec<u32> {
        match &self.slots {
            Slots::Elsewhere => Vec::new(),
            Slots::Packed(slots) => slots.counts(),
            Slots::Made(made) => made.counts.to_vec(),
        }
    }

    /// Whether it has its slots and none was ever in change.
    pub fn is_pristine(&self) -> bool {
        match &self.slots {
            Slots::Elsewhere => false,
            Slots::Packed(slots) => slots.is_pristine(),
            Slots::Made(made) => made.odd.is_empty(),
        }
    }

    /// Whether it has its slots.
    pub fn has_slots(&self) -> bool {
        !matches!(self.slots, Slots::Elsewhere)
    }

    /// Writes the slots to the beginning of `into`; `false` if the table was
    /// read back or does not fit.
    pub(super) fn write_to(&self, into: &mut [Slot]) -> bool {
        if self.len as usize > into.len() {
            return false;
        }
        match &self.slots {
            Slots::Elsewhere => return false,
            Slots::Packed(slots) => slots.unpack_into(into),
            Slots::Made(made) => self.write_made(made, into),
        }
        true
    }

    /// Whether these are the slots, by their digest; a table that was read
    /// back is like none.
    pub(super) fn is(&self, slots: &[Slot]) -> bool {
        self.has_slots() && slots.len() == self.len as usize && digest(slots) == self.digest
    }
}

impl Made {
    fn place(&self) -> Option<Place> {
        let place = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        place.clone()
    }

    fn set_place(&self, place: Option<Place>) {
        *self.place.lock().unwrap_or_else(PoisonError::into_inner) = place;
    }

    fn write_to(&self, into: &mut [Slot]) {
        for (place, owner) in into.iter_mut().zip(self.recipe.owners()) {
            *place = Slot::settled(owner);
        }
        for (at, slot) in &self.odd {
            into[*at as usize] = *slot;
        }
    }
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        (self.len, self.digest) == (other.len, other.digest)
    }
}

impl Eq for Table {}

impl std::hash::Hash for Table {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.len, self.digest).hash(state);
    }
}

fn digest(slots: &[Slot]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytemuck::cast_slice(slots))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u16 = 1009;

    /// Every slot belongs to its index modulo a number.
    #[derive(Debug)]
    struct InTurn(u16);

    impl Recipe for InTurn {
        fn owners(&self) -> Vec<u16> {
            (0..LEN).map(|at| at % self.0).collect()
        }
    }

    fn settled(members: u16) -> Vec<Slot> {
        let owners = InTurn(members).owners();
        owners.into_iter().map(Slot::settled).collect()
    }

    fn made(slots: &[Slot]) -> Table {
        Table::made(Arc::new(InTurn(7)), slots)
    }

    #[test]
    fn table_that_is_made_once_more_is_the_one_that_was_packed() {
        let mut slots = settled(7);
        for change in 0..3 {
            let (made, packed) = (made(&slots), Table::of(&slots));
            assert!(matches!(made.slots, Slots::Made(_)));
            assert_eq!(made, packed);
            assert_eq!(made.slots(), Some(slots.clone()));
            assert_eq!(made.counts(), packed.counts());
            assert_eq!(made.is_pristine(), change == 0);
            assert_eq!(made.slot(40), packed.slot(40));
            assert_eq!(made.slot(u32::from(LEN)), None);
            assert!(made.is(&slots) && packed.is(&slots));
            let mut room = vec![Slot(9); slots.len() + 2];
            assert!(made.write_to(&mut room));
            assert_eq!(room[..slots.len()], slots);
            assert_eq!(room[slots.len()..], [Slot(9); 2]);
            assert!(!made.write_to(&mut room[..slots.len() - 1]));
            assert_eq!(made.fresh().unwrap(), Table::of(&settled(7)));
            // To somebody else and back: in change, then with a past.
            for at in [0, 40, 1008] {
                let owner = slots[at].current();
                slots[at] = match change {
                    0 => slots[at].change_to(owner + 1).change_to(owner),
                    _ => slots[at].settle(),
                };
            }
            assert_eq!(made.is(&slots), change == 2);
        }
    }

    /// A block is what stands there, or cannot be read.
    #[derive(Debug)]
    struct Blocks(Vec<Option<Vec<Slot>>>);

    impl Shelf for Blocks {
        fn read(&self, first_block: u32, into: &mut [Slot]) -> bool {
            let block = self.0.get(first_block as usize).and_then(Option::as_ref);
            block.is_some_and(|slots| {
                into.copy_from_slice(slots);
                true
            })
        }
    }

    /// Nobody can make it: who has its slots has read them.
    #[derive(Debug)]
    struct Lost;

    impl Recipe for Lost {
        fn owners(&self) -> Vec<u16> {
            panic!("it is made once more");
        }
    }

    #[test]
    fn slots_are_read_where_they_stand() {
        let mut slots = settled(7);
        slots[3] = slots[3].change_to(5);
        slots[3] = slots[3].change_to(3);
        let table = Table::made(Arc::new(Lost), &slots);
        let shelf: Arc<dyn Shelf> = Arc::new(Blocks(vec![None, Some(slots.clone())]));
        let copy = table.clone();
        table.stands_at(&Arc::downgrade(&shelf), 1);
        for table in [table, copy] {
            assert_eq!(table.slots(), Some(slots.clone()));
            assert_eq!(table.slot(3), Some(slots[3]));
            let mut room = vec![Slot(9); slots.len() + 2];
            assert!(table.write_to(&mut room));
            assert_eq!(room[..slots.len()], slots);
            assert_eq!(room[slots.len()..], [Slot(9); 2]);
        }
    }

    #[test]
    fn where_other_slots_stand_or_none_they_are_made() {
        let slots = settled(7);
        let shelf: Arc<dyn Shelf> = Arc::new(Blocks(vec![None, Some(settled(6))]));
        for block in 0..3 {
            let table = made(&slots);
            table.stands_at(&Arc::downgrade(&shelf), block);
            assert_eq!(table.slots(), Some(slots.clone()));
            let mut room = vec![Slot(9); slots.len()];
            table.stands_at(&Arc::downgrade(&shelf), block);
            assert!(table.write_to(&mut room));
            assert_eq!(room, slots);
        }
        let table = made(&slots);
        table.stands_at(&Arc::downgrade(&shelf), 1);
        drop(shelf);
        assert_eq!(table.slots(), Some(slots));
    }

    #[test]
    fn where_many_slots_are_in_change_the_table_is_packed() {
        let mut slots = settled(7);
        for slot in &mut slots[..200] {
            let owner = slot.current();
            *slot = slot.change_to(owner + 1).change_to(owner);
        }
        let table = made(&slots);
        assert!(matches!(table.slots, Slots::Packed(_)));
        assert_eq!(table.slots(), Some(slots));
        assert_eq!(table.fresh(), None);
    }

    #[test]
    fn tables_of_the_same_owners_are_alike_whatever_their_past() {
        let mut slots = settled(7);
        let pristine = made(&slots);
        slots[3] = slots[3].change_to(5).change_to(3);
        let in_change = made(&slots);
        slots[3] = slots[3].settle();
        let over = in_change.with_same_owners(&slots);
        assert_ne!(over, pristine);
        assert!(over.is_settled_like(&pristine) && pristine.is_settled_like(&over));
        assert!(!in_change.is_settled_like(&pristine));
        let other = Table::made(Arc::new(InTurn(6)), &settled(6));
        assert!(!over.is_settled_like(&other));
    }
}
