//! What something else on the host may do: write to the running program's
//! maps behind the daemon's back.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, Map, MapData};
use balancer_common::layout::{Member, ServiceV4, Slot, SlotBlock};
use bytemuck::Zeroable;

use crate::balancer::Balancer;

/// The maps of the running program.
pub struct Kernel {
    set: PathBuf,
}

impl Kernel {
    /// Those of a daemon.
    ///
    /// # Errors
    /// When none are pinned, or two sets.
    pub fn of(balancer: &Balancer<'_>) -> Result<Self> {
        let entries = fs::read_dir(balancer.pin_dir())?;
        let mut sets = entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.join("SLOTS").exists());
        let set = sets.next().context("no maps are pinned")?;
        ensure!(sets.next().is_none(), "two sets of maps are pinned");
        Ok(Self { set })
    }

    /// Changes every element of an array.
    fn change<const N: usize>(&self, name: &str, change: impl Fn(&mut [u8; N])) -> Result<()> {
        let map = Map::from_map_data(MapData::from_pin(self.set.join(name))?)?;
        let mut map = Array::<_, [u8; N]>::try_from(map)?;
        for index in 0..map.len() {
            let mut element = map.get(&index, 0)?;
            change(&mut element);
            map.set(index, element, 0)?;
        }
        Ok(())
    }

    /// All slots are the third member's.
    pub fn change_slots(&self) -> Result<()> {
        self.change_slots_of(10)
    }

    /// Of ten slots so many are the third member's.
    pub fn change_slots_of(&self, ten: usize) -> Result<()> {
        self.change("SLOTS", |block: &mut [u8; size_of::<SlotBlock>()]| {
            let slots: &mut [Slot] = bytemuck::cast_slice_mut(block);
            for (at, slot) in slots.iter_mut().enumerate() {
                if at % 10 < ten {
                    *slot = Slot::settled(2);
                }
            }
        })
    }

    /// As [`Kernel::change_slots_of`], in tables that name more than two members.
    pub fn change_slots_of_many(&self, ten: usize) -> Result<()> {
        self.change("SLOTS", |block: &mut [u8; size_of::<SlotBlock>()]| {
            let slots: &mut [Slot] = bytemuck::cast_slice_mut(block);
            if slots.iter().all(|slot| slot.current() < 2) {
                return;
            }
            for (at, slot) in slots.iter_mut().enumerate() {
                if at % 10 < ten {
                    *slot = Slot::settled(2);
                }
            }
        })
    }

    /// Everybody is at another Ethernet address.
    pub fn change_members(&self) -> Result<()> {
        self.change("MEMBERS", |member: &mut [u8; size_of::<Member>()]| {
            if member[0] != Member::NONE {
                member[16 + 5] ^= 0x40;
            }
        })
    }

    /// No address has a service.
    pub fn remove_services(&self) -> Result<()> {
        self.change(
            "SERVICES_V4",
            |bucket: &mut [u8; size_of::<ServiceV4>()]| {
                *bucket = bytemuck::cast(ServiceV4::zeroed());
            },
        )
    }
}
