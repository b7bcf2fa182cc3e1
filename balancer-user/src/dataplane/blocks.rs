//! Hands out runs of blocks in `SLOTS`.
//!
//! First fit over a list of free runs that is kept sorted and merged. Pure.

use std::collections::BTreeMap;

/// A run of blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// First block.
    pub first: u32,
    /// How many; 0 for a table without slots.
    pub count: u32,
}

impl Region {
    /// Its blocks.
    pub fn blocks(self) -> std::ops::Range<usize> {
        self.first as usize..(self.first + self.count) as usize
    }
}

/// The free blocks of a map.
#[derive(Debug, Clone)]
pub struct Blocks {
    /// First block of each free run, and its count.
    free: BTreeMap<u32, u32>,
}

impl Blocks {
    /// All of `count` blocks are free.
    pub fn new(count: u32) -> Self {
        Self {
            free: BTreeMap::from([(0, count)]),
        }
    }

    /// Blocks in all free runs together.
    pub fn free_count(&self) -> u32 {
        self.free.values().sum()
    }

    /// Takes a run; `None` if no free run is long enough.
    pub fn take(&mut self, count: u32) -> Option<Region> {
        if count == 0 {
            return Some(Region { first: 0, count });
        }
        let (first, len) = self
            .free
            .iter()
            .find(|(_, len)| **len >= count)
            .map(|(first, len)| (*first, *len))?;
        self.free.remove(&first);
        if len > count {
            self.free.insert(first + count, len - count);
        }
        Some(Region { first, count })
    }

    /// Takes exactly this run; `false`, and nothing is taken, if not all of
    /// it is free.
    pub fn reserve(&mut self, region: Region) -> bool {
        let Region { first, count } = region;
        if count == 0 {
            return true;
        }
        let run = self.free.range(..=first).next_back();
        let Some((begin, len)) = run.map(|(begin, len)| (*begin, *len)) else {
            return false;
        };
        let (Some(end), run_end) = (first.checked_add(count), begin + len) else {
            return false;
        };
        if end > run_end {
            return false;
        }
        self.free.remove(&begin);
        if begin < first {
            self.free.insert(begin, first - begin);
        }
        if end < run_end {
            self.free.insert(end, run_end - end);
        }
        true
    }

    /// Gives a run back and merges it with its neighbours.
    pub fn give(&mut self, region: Region) {
        if region.count == 0 {
            return;
        }
        let Region {
            mut first,
            mut count,
        } = region;
        if let Some((before, len)) = self.free.range(..first).next_back()
            && before + len == first
        {
            let before = *before;
            count += len;
            first = before;
            self.free.remove(&before);
        }
        if let Some(len) = self.free.remove(&(first + count)) {
            count += len;
        }
        self.free.insert(first, count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn runs_never_overlap_and_all_come_back(
            steps in prop::collection::vec((any::<bool>(), 1u32..20), 1..200)
        ) {
            let mut blocks = Blocks::new(200);
            let mut taken: Vec<Region> = Vec::new();
            for (take, count) in steps {
                if take {
                    if let Some(region) = blocks.take(count) {
                        for other in &taken {
                            prop_assert!(region.first + region.count <= other.first
                                || other.first + other.count <= region.first);
                        }
                        taken.push(region);
                    }
                } else if !taken.is_empty() {
                    blocks.give(taken.swap_remove(count as usize % taken.len()));
                }
            }
            let mut again = Blocks::new(200);
            for region in &taken {
                prop_assert!(again.reserve(*region));
                prop_assert!(!again.reserve(*region));
            }
            prop_assert_eq!(&again.free, &blocks.free);
            for region in taken {
                blocks.give(region);
            }
            prop_assert_eq!(blocks.free, BTreeMap::from([(0, 200)]));
        }
    }
}
