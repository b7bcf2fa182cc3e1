//! The slots of a table, packed: a palette of the slots that differ, and for
//! each place which of them stands there.
//!
//! A settled table of a hundred backends has a hundred different slots, so it
//! takes a byte a slot and not four: beside the kernel's own copy of a
//! thousand tables the controller's would be as large again. Unpacked it is
//! what was packed, bit by bit. Pure.

use std::collections::HashMap;

use balancer_common::layout::Slot;

/// Slots, packed.
#[derive(Debug)]
pub(super) struct Packed {
    palette: Box<[Slot]>,
    places: Places,
}

/// For each slot, which of the palette it is.
#[derive(Debug)]
enum Places {
    /// Of a palette of up to 256.
    Bytes(Box<[u8]>),
    /// Of one of up to 65,536.
    Words(Box<[u16]>),
    /// There are too many: the slots themselves.
    Plain(Box<[Slot]>),
}

impl Packed {
    /// Packs.
    pub(super) fn of(slots: &[Slot]) -> Self {
        let mut palette = Palette::default();
        let mut words: Vec<u16> = Vec::with_capacity(slots.len());
        for slot in slots {
            let Some(place) = palette.place(*slot) else {
                return Self {
                    palette: Box::default(),
                    places: Places::Plain(slots.into()),
                };
            };
            words.push(place);
        }
        let places = if palette.slots.len() <= usize::from(u8::MAX) + 1 {
            Places::Bytes(words.iter().map(|place| *place as u8).collect())
        } else {
            Places::Words(words.into())
        };
        Self {
            palette: palette.slots.into(),
            places,
        }
    }

    /// How many slots there are.
    pub(super) fn len(&self) -> usize {
        match &self.places {
            Places::Bytes(places) => places.len(),
            Places::Words(places) => places.len(),
            Places::Plain(slots) => slots.len(),
        }
    }

    /// The slot at an index.
    pub(super) fn at(&self, index: usize) -> Option<Slot> {
        let place = match &self.places {
            Places::Bytes(places) => usize::from(*places.get(index)?),
            Places::Words(places) => usize::from(*places.get(index)?),
            Places::Plain(slots) => return slots.get(index).copied(),
        };
        self.palette.get(place).copied()
    }

    /// How many slots each member gets new flows of, by its index.
    pub(super) fn counts(&self) -> Vec<u32> {
        let mut of_palette = vec![0_u32; self.palette.len()];
        match &self.places {
            Places::Bytes(places) => {
                for place in places {
                    of_palette[usize::from(*place)] += 1;
                }
            }
            Places::Words(places) => {
                for place in places {
                    of_palette[usize::from(*place)] += 1;
                }
            }
            Places::Plain(_) => {}
        }
        let plain: &[Slot] = match &self.places {
            Places::Plain(slots) => slots,
            _ => &[],
        };
        let packed = self.palette.iter().zip(of_palette);
        let mut counts = Vec::new();
        for (slot, count) in packed.chain(plain.iter().map(|slot| (slot, 1))) {
            let member = usize::from(slot.current());
            if counts.len() <= member {
                counts.resize(member + 1, 0);
            }
            counts[member] += count;
        }
        counts
    }

    /// Whether no slot was ever in change.
    pub(super) fn is_pristine(&self) -> bool {
        let slots = match &self.places {
            Places::Plain(slots) => slots,
            _ => &self.palette,
        };
        slots.iter().all(|it| *it == Slot::settled(it.current()))
    }

    /// Unpacks into the beginning of `into`, which has room for all.
    pub(super) fn unpack_into(&self, into: &mut [Slot]) {
        match &self.places {
            Places::Bytes(places) => {
                for (slot, place) in into.iter_mut().zip(places) {
                    *slot = self.palette[usize::from(*place)];
                }
            }
            Places::Words(places) => {
                for (slot, place) in into.iter_mut().zip(places) {
                    *slot = self.palette[usize::from(*place)];
                }
            }
            Places::Plain(slots) => into[..slots.len()].copy_from_slice(slots),
        }
    }

    /// Unpacks.
    pub(super) fn unpack(&self) -> Vec<Slot> {
        let mut slots = vec![Slot(0); self.len()];
        self.unpack_into(&mut slots);
        slots
    }

    /// Bytes it takes.
    #[cfg(test)]
    fn bytes(&self) -> usize {
        size_of_val(&*self.palette)
            + match &self.places {
                Places::Bytes(places) => size_of_val(&**places),
                Places::Words(places) => size_of_val(&**places),
                Places::Plain(slots) => size_of_val(&**slots),
            }
    }
}

/// Slots that were seen, each once.
struct Palette {
    slots: Vec<Slot>,
    known: HashMap<u32, u16>,
    /// Those that were asked for last, by a hash of them: asking the map for
    /// every slot would take longer than building the table.
    recent: Box<[Option<(Slot, u16)>]>,
}

/// Of the hash in [`Palette::recent`].
const RECENT_BITS: u32 = 12;

impl Default for Palette {
    fn default() -> Self {
        Self {
            slots: Vec::new(),
            known: HashMap::new(),
            recent: vec![None; 1 << RECENT_BITS].into(),
        }
    }
}

impl Palette {
    /// Where a slot stands; none where there is no room for another one.
    fn place(&mut self, slot: Slot) -> Option<u16> {
        let at = (slot.0.wrapping_mul(0x9e37_79b9) >> (u32::BITS - RECENT_BITS)) as usize;
        if let Some((recent, place)) = self.recent[at]
            && recent == slot
        {
            return Some(place);
        }
        let place = match self.known.get(&slot.0) {
            Some(place) => *place,
            None => {
                let place = u16::try_from(self.slots.len()).ok()?;
                self.slots.push(slot);
                self.known.insert(slot.0, place);
                place
            }
        };
        self.recent[at] = Some((slot, place));
        Some(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many different slots as that, over and over.
    fn slots(len: u32, different: u32) -> Vec<Slot> {
        (0..len)
            .map(|at| Slot((at % different).wrapping_mul(0x0100_1001)))
            .collect()
    }

    #[test]
    fn what_is_unpacked_is_what_was_packed_whatever_differs() {
        for (len, different) in [
            (0, 1),
            (1, 1),
            (65_537, 100),
            (65_537, 256),
            (65_537, 257),
            (65_537, 65_536),
            (65_537, 65_537),
        ] {
            let slots = slots(len, different);
            let packed = Packed::of(&slots);
            assert_eq!(packed.unpack(), slots, "{different}");
            assert_eq!(packed.len(), slots.len());
            let mut counts = vec![0; packed.counts().len()];
            for slot in &slots {
                counts[usize::from(slot.current())] += 1;
            }
            assert_eq!(packed.counts(), counts, "{different}");
            for at in [0, 17, 65_536, 65_537] {
                assert_eq!(packed.at(at), slots.get(at).copied(), "{different}: {at}");
            }
            let mut room = vec![Slot(7); slots.len() + 3];
            packed.unpack_into(&mut room);
            assert_eq!(room[slots.len()..], [Slot(7); 3]);
        }
    }

    #[test]
    fn table_of_a_hundred_backends_takes_a_byte_a_slot() {
        let bytes = Packed::of(&slots(65_537, 100)).bytes();
        assert!(bytes < 66_000, "{bytes}");
    }
}
