//! The backend's side: the program that takes the outer header off.

use std::net::IpAddr;
use std::path::PathBuf;

use aya::EbpfLoader;
use aya::maps::{HashMap, MapData, PerCpuArray};
use aya::programs::Xdp;
use balancer_common::layout::DecapCounters;

use super::attach::{self, Attached};
use super::trial::Action;
use super::{Error, embedded, object, runner};
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

/// The program with its sources entered, attached or not.
struct Loaded {
    ebpf: aya::Ebpf,
    counters: PerCpuArray<MapData, [u64; 2]>,
}

/// The attached program.
pub struct Decap {
    loaded: Loaded,
    options: DecapOptions,
}

impl Decap {
    /// Loads and attaches the program.
    pub fn start(options: DecapOptions) -> Result<(Self, Attached), Error> {
        attach::prepare_pin_dir(&options.pin_dir)?;
        let mut loaded = Loaded::load(&options.sources)?;
        let DecapOptions {
            interface,
            mode,
            pin_dir,
            ..
        } = &options;
        let attached = attach::attach(loaded.program()?, interface, *mode, pin_dir)?;
        Ok((Self { loaded, options }, attached))
    }

    /// Packets and bytes unwrapped since the start.
    pub fn counters(&self) -> Result<DecapCounters, Error> {
        self.loaded.counters()
    }

    /// Detaches the program.
    pub fn stop(self) -> Result<(), Error> {
        attach::detach(&self.options.pin_dir, &self.options.interface)?;
        Ok(())
    }
}

/// A private copy of the program, attached to nothing and asked frame by
/// frame; see [`super::trial`].
pub struct DecapTrial {
    loaded: Loaded,
}

impl DecapTrial {
    /// Loads a copy that trusts these sources; none means every one.
    pub fn load(sources: &[IpAddr]) -> Result<Self, Error> {
        let loaded = Loaded::load(sources)?;
        Ok(Self { loaded })
    }

    /// Runs one frame; gives the verdict and the frame as the program left it.
    pub fn run(&mut self, frame: &[u8]) -> Result<(Action, Vec<u8>), Error> {
        let mut out = runner::buffer();
        let (action, len) = runner::run(self.loaded.program()?, frame, &mut out)?;
        out.truncate(len);
        Ok((action, out))
    }

    /// Packets and bytes unwrapped since the start.
    pub fn counters(&self) -> Result<DecapCounters, Error> {
        self.loaded.counters()
    }
}

impl Loaded {
    fn load(trusted: &[IpAddr]) -> Result<Self, Error> {
        let any_source = u8::from(trusted.is_empty());
        let mut ebpf = EbpfLoader::new()
            .override_global("DECAP_ANY_SOURCE", &any_source, true)
            .load(embedded::DECAP.bytes()?)
            .map_err(|error| Error::kernel("creating the maps", error))?;
        let mut sources: HashMap<MapData, [u8; 16], u8> = object::take(&mut ebpf, "DECAP_SOURCES")?;
        for source in trusted {
            let key = match source {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            sources
                .insert(key, 1, 0)
                .map_err(|error| Error::kernel(format!("entering source {source}"), error))?;
        }
        let counters = object::take(&mut ebpf, "DECAP_COUNTERS")?;
        object::xdp(&mut ebpf, "decap")?
            .load()
            .map_err(|error| Error::kernel("loading the kernel program", error))?;
        Ok(Self { ebpf, counters })
    }

    fn program(&mut self) -> Result<&mut Xdp, Error> {
        object::xdp(&mut self.ebpf, "decap")
    }

    fn counters(&self) -> Result<DecapCounters, Error> {
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
}
