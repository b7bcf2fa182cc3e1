//! The backend's side: the program that takes the tunnel's headers off.

use std::net::IpAddr;
use std::path::PathBuf;

use aya::EbpfLoader;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, PerCpuArray};
use aya::programs::Xdp;
use balancer_common::decap::{Count, Form, Refusal};
use ipnet::IpNet;

use super::attach::{self, Attached};
use super::trial::Action;
use super::{Error, embedded, maps, object, runner};
use crate::config::model::XdpMode;

/// Which tunnel packets are unwrapped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unwrapping {
    /// Outer sources that are trusted.
    pub sources: Sources,
    /// UDP port of GUE.
    pub gue_port: u16,
}

/// Outer sources that are trusted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sources {
    /// Every one.
    Any,
    /// Those in these prefixes; an address is a prefix of full length.
    In(Vec<IpNet>),
}

/// What is unwrapped, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DecapOptions {
    /// Interface tunnel packets arrive on.
    pub interface: String,
    /// How the program is attached.
    pub mode: XdpMode,
    /// Which of them are unwrapped.
    pub unwrapping: Unwrapping,
    /// Where the link is pinned.
    pub pin_dir: PathBuf,
}

/// What was unwrapped and refused since the start, summed over all CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// Each form, in the order of its number.
    pub forms: Vec<(Form, Count)>,
    /// Each refusal, in the order of its number, and its packets.
    pub refusals: Vec<(Refusal, u64)>,
}

/// The program with its sources entered, attached or not.
struct Loaded {
    ebpf: aya::Ebpf,
    forms: PerCpuArray<MapData, [u64; 2]>,
    refusals: PerCpuArray<MapData, u64>,
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
        let mut loaded = Loaded::load(&options.unwrapping)?;
        let DecapOptions {
            interface,
            mode,
            pin_dir,
            ..
        } = &options;
        let attached = attach::attach(loaded.program()?, interface, *mode, pin_dir)?;
        Ok((Self { loaded, options }, attached))
    }

    /// What was unwrapped and refused since the start.
    pub fn counts(&self) -> Result<Counts, Error> {
        self.loaded.counts()
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
    /// Loads a copy.
    pub fn load(unwrapping: &Unwrapping) -> Result<Self, Error> {
        let loaded = Loaded::load(unwrapping)?;
        Ok(Self { loaded })
    }

    /// Runs one frame; gives the verdict and the frame as the program left it.
    pub fn run(&mut self, frame: &[u8]) -> Result<(Action, Vec<u8>), Error> {
        let mut out = runner::buffer();
        let (action, len) = runner::run(self.loaded.program()?, frame, &mut out)?;
        out.truncate(len);
        Ok((action, out))
    }

    /// What was unwrapped and refused since the start.
    pub fn counts(&self) -> Result<Counts, Error> {
        self.loaded.counts()
    }

    /// The program.
    pub(super) fn program(&mut self) -> Result<&mut Xdp, Error> {
        self.loaded.program()
    }
}

impl Counts {
    /// All forms together.
    pub fn unwrapped(&self) -> Count {
        let mut sum = Count::default();
        for (_, count) in &self.forms {
            sum.packets += count.packets;
            sum.bytes += count.bytes;
        }
        sum
    }
}

impl Loaded {
    fn load(unwrapping: &Unwrapping) -> Result<Self, Error> {
        let (any_source, networks) = match &unwrapping.sources {
            Sources::Any => (1_u8, &[][..]),
            Sources::In(networks) => (0, networks.as_slice()),
        };
        let v4 = networks.iter().filter(|net| net.addr().is_ipv4()).count();
        let v6 = networks.len() - v4;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("SOURCES_V4", v4.max(1) as u32)
            .map_max_entries("SOURCES_V6", v6.max(1) as u32)
            .override_global("ANY_SOURCE", &any_source, true)
            .override_global("GUE_PORT", &unwrapping.gue_port, true)
            .load(embedded::DECAP.bytes()?)
            .map_err(|error| Error::kernel("creating the maps", error))?;
        let forms = maps::typed(&mut ebpf, "FORMS")?;
        let refusals = maps::typed(&mut ebpf, "REFUSALS")?;
        object::xdp(&mut ebpf, "decap")?
            .load()
            .map_err(|error| Error::kernel("loading the kernel program", error))?;
        // Taken out and closed again: the program keeps its maps from here on.
        enter_sources(&mut ebpf, networks)?;
        Ok(Self {
            ebpf,
            forms,
            refusals,
        })
    }

    fn program(&mut self) -> Result<&mut Xdp, Error> {
        object::xdp(&mut self.ebpf, "decap")
    }

    fn counts(&self) -> Result<Counts, Error> {
        let unreadable = |error| Error::kernel("reading the counters", error);
        let mut counts = Counts {
            forms: Vec::new(),
            refusals: Vec::new(),
        };
        for form in Form::ALL {
            let values = self.forms.get(&(*form as u32), 0).map_err(unreadable)?;
            let mut sum = Count::default();
            for [packets, bytes] in values.iter() {
                sum.packets += packets;
                sum.bytes += bytes;
            }
            counts.forms.push((*form, sum));
        }
        for refusal in Refusal::ALL {
            let values = self
                .refusals
                .get(&(*refusal as u32), 0)
                .map_err(unreadable)?;
            counts.refusals.push((*refusal, values.iter().sum()));
        }
        Ok(counts)
    }
}

fn enter_sources(ebpf: &mut aya::Ebpf, networks: &[IpNet]) -> Result<(), Error> {
    let mut v4: LpmTrie<MapData, [u8; 4], u8> = maps::typed(ebpf, "SOURCES_V4")?;
    let mut v6: LpmTrie<MapData, [u8; 16], u8> = maps::typed(ebpf, "SOURCES_V6")?;
    for network in networks {
        let len = u32::from(network.prefix_len());
        match network.addr() {
            IpAddr::V4(address) => v4.insert(&Key::new(len, address.octets()), 1, 0),
            IpAddr::V6(address) => v6.insert(&Key::new(len, address.octets()), 1, 0),
        }
        .map_err(|error| Error::kernel(format!("entering source {network}"), error))?;
    }
    Ok(())
}
