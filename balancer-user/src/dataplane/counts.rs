//! Counts that never go back, though the map that holds them may grow.
//!
//! The program counts into an entry a CPU, without locks, so nobody can add
//! to a map that is in use. A larger one therefore begins with what is sure
//! not to change any more, and the one before it stays beside it as `retired`
//! with what it had when the last program left it: a count is the sum of
//! both. The next larger one begins with what was retired.

use std::os::fd::{AsFd, OwnedFd};

use aya::Pod;
use aya::maps::{Map, MapData, PerCpuArray};
use bytemuck::AnyBitPattern;

use super::maps::Source;
use super::set::MapSet;
use super::{Error, batch};

/// From so many on, entries are read together.
const MANY: usize = 64;
/// Entries that are read with one system call.
const AT_ONCE: u32 = 4096;

/// The counts of one map, an entry an index and CPU.
pub(super) struct Counts<V: Pod> {
    name: &'static str,
    current: PerCpuArray<MapData, V>,
    /// The same, for reading much of it at once.
    handle: OwnedFd,
    retired: Option<PerCpuArray<MapData, V>>,
}

impl<V: Pod + AnyBitPattern + Default + PartialEq> Counts<V> {
    /// Takes the map from a loaded copy, and from its set what was retired.
    pub(super) fn open(
        source: &mut impl Source,
        set: Option<&MapSet>,
        name: &'static str,
    ) -> Result<Self, Error> {
        let retired = match set {
            Some(set) => set.retired(name)?,
            None => None,
        };
        let retired = retired
            .map(PerCpuArray::try_from)
            .transpose()
            .map_err(|error| Error::kernel(format!("retired map {name}"), error))?;
        let failed = |error: &dyn std::fmt::Display| Error::kernel(format!("map {name}"), error);
        let map = source.map(name)?;
        let Map::PerCpuArray(data) = &map else {
            return Err(Error::Foreign(format!("map {name} is no per-CPU array")));
        };
        let handle = data.fd().as_fd().try_clone_to_owned();
        Ok(Self {
            name,
            handle: handle.map_err(|error| failed(&error))?,
            current: map.try_into().map_err(|error| failed(&error))?,
            retired,
        })
    }

    /// Where `older` grew into this one, begins with what `older` had
    /// retired; to be called before a program counts here.
    pub(super) fn succeed(&mut self, older: &Self) -> Result<(), Error> {
        let (Some(retired), true) = (&older.retired, self.current.len() > older.current.len())
        else {
            return Ok(());
        };
        for index in 0..retired.len() {
            let values = read(self.name, retired, index)?;
            if values.iter().any(|value| *value != V::default()) {
                self.current
                    .set(index, values, 0)
                    .map_err(|error| self.writing(index, error))?;
            }
        }
        Ok(())
    }

    /// Hands over what each CPU counted at each of these indexes, which are
    /// [`ascending`]; nothing for those beyond the end.
    pub(super) fn for_each(
        &self,
        indexes: &[u32],
        mut take: impl FnMut(u32, &V),
    ) -> Result<(), Error> {
        let is_many = indexes.len() >= MANY && self.retired.is_none();
        if is_many && self.for_each_at_once(indexes, &mut take)? {
            return Ok(());
        }
        for index in indexes {
            for value in self.values(*index)? {
                take(*index, &value);
            }
        }
        Ok(())
    }

    /// `false`, and nothing was handed over, where the kernel cannot.
    fn for_each_at_once(
        &self,
        indexes: &[u32],
        take: &mut impl FnMut(u32, &V),
    ) -> Result<bool, Error> {
        let cpus = cpus()?;
        let mut keys = vec![0_u32; AT_ONCE as usize];
        let mut values = vec![V::default(); AT_ONCE as usize * cpus];
        let mut rest = indexes;
        while let Some(first) = rest.first().copied().filter(|it| *it < self.current.len()) {
            // An array gives the entries after the one that is named.
            let after = first.checked_sub(1);
            let read = batch::lookup(&self.handle, after, &mut keys, &mut values, cpus);
            let count = match read.map(|read| read.count) {
                Ok(count) if count > 0 => count,
                Err(error) if rest.len() < indexes.len() => {
                    return Err(Error::kernel(format!("reading {}", self.name), error));
                }
                _ => return Ok(false),
            };
            let end = first.saturating_add(count as u32);
            let (here, beyond) = rest.split_at(rest.partition_point(|it| *it < end));
            for index in here {
                let at = (index - first) as usize * cpus;
                for value in &values[at..at + cpus] {
                    take(*index, value);
                }
            }
            rest = beyond;
        }
        Ok(true)
    }

    /// What each CPU counted at an index, in no order; nothing beyond the end.
    pub(super) fn values(&self, index: u32) -> Result<Vec<V>, Error> {
        let mut values = Vec::new();
        for map in [Some(&self.current), self.retired.as_ref()] {
            if let Some(map) = map
                && index < map.len()
            {
                values.extend_from_slice(&read(self.name, map, index)?);
            }
        }
        Ok(values)
    }

    /// Sets an index, which nobody counts at, to zero.
    pub(super) fn clear(&mut self, index: u32) -> Result<(), Error> {
        let cpus = cpus()?;
        for map in [Some(&mut self.current), self.retired.as_mut()] {
            if let Some(map) = map
                && index < map.len()
            {
                let name = self.name;
                let failed = |error| Error::kernel(format!("writing {name}[{index}]"), error);
                let zeros = aya::maps::PerCpuValues::try_from(vec![V::default(); cpus])
                    .map_err(|error| Error::kernel(format!("writing {name}[{index}]"), error))?;
                map.set(index, zeros, 0).map_err(failed)?;
            }
        }
        Ok(())
    }

    fn writing(&self, index: u32, error: aya::maps::MapError) -> Error {
        Error::kernel(format!("writing {}[{index}]", self.name), error)
    }
}

/// Indexes as [`Counts::for_each`] wants them: two members may count at one,
/// which is not to be summed twice.
pub(super) fn ascending(indexes: &[u32]) -> Vec<u32> {
    let mut ascending = indexes.to_vec();
    ascending.sort_unstable();
    ascending.dedup();
    ascending
}

fn cpus() -> Result<usize, Error> {
    aya::util::nr_cpus().map_err(|(_, error)| Error::kernel("counting CPUs", error))
}

fn read<V: Pod>(
    name: &str,
    map: &PerCpuArray<MapData, V>,
    index: u32,
) -> Result<aya::maps::PerCpuValues<V>, Error> {
    map.get(&index, 0)
        .map_err(|error| Error::kernel(format!("reading {name}[{index}]"), error))
}
