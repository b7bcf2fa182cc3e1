//! The backend's side: the program that takes the outer header off.

use std::net::IpAddr;
use std::path::PathBuf;

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData, PerCpuArray};
use balancer_common::layout::DecapCounters;

use super::attach::{self, Attached};
use super::{Error, object};
use crate::config::model::XdpMode;

/// What is unwrapped, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecapOptions {
    /// Interface tunnel packets arrive on.
    pub interface: String,
    /// How the program is attached.
    pub mode: XdpMode,
    /// Outer sources that are trusted; empty trusts every one.
    pub sources: Vec<IpAddr>,
    /// Where the link is pinned.
    pub pin_dir: PathBuf,
}

/// The attached program.
pub struct Decap {
    counters: PerCpuArray<MapData, [u64; 2]>,
    options: DecapOptions,
    _ebpf: aya::Ebpf,
}

impl Decap {
    /// Loads and attaches the program.
    pub fn start(options: DecapOptions) -> Result<(Self, Attached), Error> {
        attach::prepare_pin_dir(&options.pin_dir)?;
        let any_source = u8::from(options.sources.is_empty());
        let mut ebpf = EbpfLoader::new()
            .override_global("DECAP_ANY_SOURCE", &any_source, true)
            .load(object::bytes()?)
            .map_err(|error| Error::kernel("creating the maps", error))?;
        let mut sources: HashMap<MapData, [u8; 16], u8> = object::take(&mut ebpf, "DECAP_SOURCES")?;
        for source in &options.sources {
            let key = match source {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            sources
                .insert(key, 1, 0)
                .map_err(|error| Error::kernel(format!("entering source {source}"), error))?;
        }
        let counters = object::take(&mut ebpf, "DECAP_COUNTERS")?;
        let program = object::xdp(&mut ebpf, "decap")?;
        program
            .load()
            .map_err(|error| Error::kernel("loading the kernel program", error))?;
        let DecapOptions {
            interface,
            mode,
            pin_dir,
            ..
        } = &options;
        let attached = attach::attach(program, interface, *mode, pin_dir)?;
        let decap = Self {
            counters,
            options,
            _ebpf: ebpf,
        };
        Ok((decap, attached))
    }

    /// Packets and bytes unwrapped since the start.
    pub fn counters(&self) -> Result<DecapCounters, Error> {
        let values = self
            .counters
            .get(&0, 0)
            .map_err(|error| Error::kernel("reading the counters", error))?;
        let mut sum = DecapCounters::default();
        for [packets, bytes] in values.iter() {
            sum.packets += packets;
            sum.bytes += bytes;
        }
        Ok(sum)
    }

    /// Detaches the program.
    pub fn stop(self) -> Result<(), Error> {
        attach::detach(&self.options.pin_dir, &self.options.interface)?;
        Ok(())
    }
}
