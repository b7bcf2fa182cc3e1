//! The tables of a loaded copy, mapped.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Weak};

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{DevMap, Map, MapData, MapError};
use balancer_common::layout::{
    Marks, Member, NatSettings, Node, ServiceOptions, ServiceV4, ServiceV6, Slot, SlotBlock,
    SourceKey,
};
use bytemuck::Pod;

use super::Error;
use super::mapping::{Mapped, read_words, wait_for_readers};
use super::maps::{self, Source};
use super::table::Shelf;
use super::tables::{Memory, SourceEntry};

/// The tables of one loaded copy.
pub(super) struct KernelMemory {
    node: Mapped<Node>,
    services_v4: Mapped<ServiceV4>,
    services_v6: Mapped<ServiceV6>,
    options: Mapped<ServiceOptions>,
    nat_settings: Mapped<NatSettings>,
    slots: Mapped<SlotBlock>,
    shelf: Arc<KernelSlots>,
    touched: Mapped<Marks>,
    members: Mapped<Member>,
    sources: LpmTrie<MapData, [u8; size_of::<SourceKey>()], u32>,
    egress: DevMap<MapData>,
    /// Interface at each index of the device map; 0 where it has gone.
    ports: Vec<u32>,
}

/// `SLOTS`, to be read by other threads than the one that writes it.
#[derive(Debug)]
struct KernelSlots(OwnedFd);

impl Shelf for KernelSlots {
    fn read(&self, first_block: u32, into: &mut [Slot]) -> bool {
        let offset = u64::from(first_block) * size_of::<SlotBlock>() as u64;
        read_words(&self.0, offset, bytemuck::cast_slice_mut(into))
    }
}

impl KernelMemory {
    /// Maps what a copy or a set has.
    pub(super) fn open(source: &mut impl Source) -> Result<Self, Error> {
        let egress: DevMap<MapData> = maps::typed(source, "EGRESS")?;
        let ports = ports(&egress)?;
        let (slots, handle) = map_and_keep(source, "SLOTS")?;
        Ok(Self {
            node: map(source, "NODE")?,
            services_v4: map(source, "SERVICES_V4")?,
            services_v6: map(source, "SERVICES_V6")?,
            options: map(source, "OPTIONS")?,
            nat_settings: map(source, "NAT_SETTINGS")?,
            slots,
            shelf: Arc::new(KernelSlots(handle)),
            touched: map(source, "TOUCHED")?,
            members: map(source, "MEMBERS")?,
            sources: maps::typed(source, "SOURCES")?,
            egress,
            ports,
        })
    }
}

impl Memory for KernelMemory {
    fn node(&mut self) -> &mut Node {
        &mut self.node.elements()[0]
    }

    fn services_v4(&mut self) -> &mut [ServiceV4] {
        self.services_v4.elements()
    }

    fn services_v6(&mut self) -> &mut [ServiceV6] {
        self.services_v6.elements()
    }

    fn options(&mut self) -> &mut [ServiceOptions] {
        self.options.elements()
    }

    fn nat_settings(&mut self) -> &mut [NatSettings] {
        self.nat_settings.elements()
    }

    fn slots(&mut self) -> &mut [SlotBlock] {
        self.slots.elements()
    }

    fn shelf(&self) -> Option<Weak<dyn Shelf>> {
        let shelf: Weak<KernelSlots> = Arc::downgrade(&self.shelf);
        Some(shelf)
    }

    fn marks(&mut self) -> &[AtomicU8] {
        self.touched.atomics()
    }

    fn members(&mut self) -> &mut [Member] {
        self.members.elements()
    }

    fn flip(&mut self, generation: u32) {
        self.node
            .store(std::mem::offset_of!(Node, active), generation);
    }

    fn wait_for_readers(&mut self) -> Result<(), Error> {
        wait_for_readers()
    }

    fn add_source(&mut self, entry: &SourceEntry) -> Result<(), Error> {
        let value = match entry.is_allowed {
            true => SourceKey::ALLOW,
            false => SourceKey::DENY,
        };
        self.sources
            .insert(&trie_key(entry), value, 0)
            .map_err(|error| match &error {
                MapError::SyscallError(cause) if is_full(&cause.io_error) => Error::Full {
                    map: "SOURCES",
                    needed: self.sources.iter().count() + 1,
                    limit: self.sources.iter().count(),
                },
                _ => Error::kernel(format!("entering {entry:?}"), error),
            })
    }

    fn remove_source(&mut self, entry: &SourceEntry) {
        if let Err(error) = self.sources.remove(&trie_key(entry)) {
            tracing::debug!(%error, "a source prefix was gone already");
        }
    }

    fn sources(&mut self) -> Vec<SourceEntry> {
        let entries = self.sources.iter().filter_map(Result::ok);
        let entry = |(key, value): (Key<_>, u32)| SourceEntry {
            key: bytemuck::cast(key.data()),
            prefix_len: key.prefix_len().saturating_sub(SourceKey::SET_BITS),
            is_allowed: value == SourceKey::ALLOW,
        };
        entries.map(entry).collect()
    }

    fn interface_at(&mut self, port: u8) -> Option<u32> {
        let entry = self.egress.get(port.into(), 0).ok()?;
        Some(entry.if_index)
    }

    fn set_interface(&mut self, port: u8, interface: u32) -> Result<(), Error> {
        self.egress
            .set(port.into(), interface, None, 0)
            .map_err(|error| Error::kernel(format!("entering interface {interface}"), error))
    }

    fn egress_port(&mut self, interface: u32) -> Result<u8, Error> {
        if let Some(port) = self.ports.iter().position(|known| *known == interface) {
            return Ok(port as u8);
        }
        let port = self.free_port()?;
        self.set_interface(port, interface)?;
        let at = usize::from(port);
        if at == self.ports.len() {
            self.ports.push(interface);
        } else {
            self.ports[at] = interface;
        }
        Ok(port)
    }
}

impl KernelMemory {
    /// A port that no interface has. One that a gone interface had is taken
    /// only where no other is left: what names it in the tables is from before
    /// it went.
    fn free_port(&mut self) -> Result<u8, Error> {
        let limit = self.egress.len() as usize;
        if self.ports.len() < limit {
            return Ok(self.ports.len() as u8);
        }
        let gone = (0..limit as u8).find(|port| self.interface_at(*port).is_none());
        gone.ok_or(Error::Full {
            map: "EGRESS",
            needed: limit + 1,
            limit,
        })
    }
}

fn trie_key(entry: &SourceEntry) -> Key<[u8; size_of::<SourceKey>()]> {
    let bits = SourceKey::SET_BITS + entry.prefix_len;
    Key::new(bits, bytemuck::cast(entry.key))
}

fn is_full(error: &std::io::Error) -> bool {
    error.raw_os_error() == Some(libc::ENOSPC)
}

/// Maps all of an array.
pub(super) fn map<T: Pod>(source: &mut impl Source, name: &str) -> Result<Mapped<T>, Error> {
    map_and_keep(source, name).map(|(mapped, _)| mapped)
}

/// Maps all of an array, and keeps a descriptor of it.
fn map_and_keep<T: Pod>(
    source: &mut impl Source,
    name: &str,
) -> Result<(Mapped<T>, OwnedFd), Error> {
    let Map::Array(data) = source.map(name)? else {
        return Err(Error::Foreign(format!("map {name} is no array")));
    };
    let len = maps::info(name, &data)?.max_entries();
    let handle = data.fd().as_fd().try_clone_to_owned();
    let handle = handle.map_err(|error| Error::kernel(format!("map {name}"), error))?;
    Ok((Mapped::new(name, handle.as_fd(), len as usize)?, handle))
}

/// The kernel empties the entry of an interface that goes.
fn ports(egress: &DevMap<MapData>) -> Result<Vec<u32>, Error> {
    let mut ports = Vec::new();
    for port in 0..egress.len() {
        match egress.get(port, 0) {
            Ok(entry) => {
                ports.resize(port as usize, 0);
                ports.push(entry.if_index);
            }
            Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(Error::kernel(format!("reading EGRESS[{port}]"), error)),
        }
    }
    Ok(ports)
}
