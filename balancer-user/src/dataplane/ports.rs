//! Where `fullnat` begins to look for ports.
//!
//! Programs that follow each other go on where the one before was: `NAT_CURSORS`
//! is handed on. Fresh tables begin anywhere: whatever forwarded here before them
//! most likely began elsewhere, and backends may still hold its connections in
//! TIME-WAIT.

use aya::maps::{PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use balancer_common::layout::{NatCursors, NatQueue};

use super::Error;
use super::maps::{NAT_CURSORS, Source};
use super::set::MapSet;

/// [`NatCursors`] as aya takes it.
type Cursors = [u32; size_of::<NatCursors>() / size_of::<u32>()];

/// Has every CPU begin at a place that the number of the tables gives.
///
/// # Errors
/// When the map cannot be opened or written.
pub(super) fn begin(set: &MapSet, instance: u64) -> Result<(), Error> {
    let doing = || format!("writing {NAT_CURSORS}");
    let map = set.clone().map(NAT_CURSORS)?;
    let mut cursors =
        PerCpuArray::<_, Cursors>::try_from(map).map_err(|error| Error::kernel(doing(), error))?;
    let cpus = nr_cpus().map_err(|(_, error)| Error::kernel("counting CPUs", error))?;
    // Any number will do: the program takes it as one below its count of ports.
    let start = NatCursors {
        ports: [instance as u32, (instance >> 32) as u32],
        queue: NatQueue { first: 0, count: 0 },
    };
    let values = PerCpuValues::try_from(vec![bytemuck::cast::<_, Cursors>(start); cpus])
        .map_err(|error| Error::kernel(doing(), error))?;
    cursors
        .set(0, values, 0)
        .map_err(|error| Error::kernel(doing(), error))
}
