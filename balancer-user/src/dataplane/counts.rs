//! Counts that never go back, though the map that holds them may grow.
//!
//! The program counts into an entry a CPU, without locks, so nobody can add
//! to a map that is in use. A larger one therefore begins with what is sure
//! not to change any more, and the one before it stays beside it as `retired`
//! with what it had when the last program left it: a count is the sum of
//! both. The next larger one begins with what was retired.

use aya::Pod;
use aya::maps::{MapData, PerCpuArray};

use super::Error;
use super::maps::{self, Source};
use super::set::MapSet;

/// The counts of one map, an entry an index and CPU.
pub(super) struct Counts<V: Pod> {
    name: &'static str,
    current: PerCpuArray<MapData, V>,
    retired: Option<PerCpuArray<MapData, V>>,
}

impl<V: Pod + Default + PartialEq> Counts<V> {
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
        Ok(Self {
            name,
            current: maps::typed(source, name)?,
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
        let cpus =
            aya::util::nr_cpus().map_err(|(_, error)| Error::kernel("counting CPUs", error))?;
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

fn read<V: Pod>(
    name: &str,
    map: &PerCpuArray<MapData, V>,
    index: u32,
) -> Result<aya::maps::PerCpuValues<V>, Error> {
    map.get(&index, 0)
        .map_err(|error| Error::kernel(format!("reading {name}[{index}]"), error))
}
