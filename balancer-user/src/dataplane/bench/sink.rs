//! Where frames sent over a wire end.

use aya::maps::{MapData, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};

use crate::dataplane::{Error, embedded, maps, object};

/// An XDP program that counts and drops; attached until it is dropped.
pub struct Sink {
    received: PerCpuArray<MapData, u64>,
    // The link ends with it.
    _ebpf: Ebpf,
}

impl Sink {
    /// Attaches to an interface of the namespace this thread is in, in native
    /// mode.
    pub fn attach(interface: u32) -> Result<Self, Error> {
        let mut ebpf = EbpfLoader::new()
            .load(embedded::BENCH.bytes()?)
            .map_err(|error| Error::kernel("creating the sink's maps", error))?;
        let received = maps::typed(&mut ebpf, "RECEIVED")?;
        let program = object::xdp(&mut ebpf, "sink")?;
        program
            .load()
            .map_err(|error| Error::kernel("loading the sink", error))?;
        program
            .attach_to_if_index(interface, XdpMode::Driver)
            .map_err(|error| Error::kernel("attaching the sink", error))?;
        Ok(Self {
            received,
            _ebpf: ebpf,
        })
    }

    /// Frames that have arrived.
    pub fn received(&self) -> Result<u64, Error> {
        let values = self
            .received
            .get(&0, 0)
            .map_err(|error| Error::kernel("reading the sink's counter", error))?;
        Ok(values.iter().sum())
    }
}
