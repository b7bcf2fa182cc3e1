//! Maps that are pinned together with the program that uses them.
//!
//! A set is a directory `<pin_dir>/maps-v<layout version>-<instance>-<number>`. A program
//! that takes another one's place gets a set of its own, in which the maps
//! that it goes on with are pinned once more; then the links are swapped, and
//! then the old set goes. So the links say, by the program in them, which set
//! is in force, wherever a controller was killed in between. A set of another
//! layout version is replaced as a whole, never read.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData};
use aya::programs::{ProgramInfo, Xdp};
use balancer_common::layout::LAYOUT_VERSION;

use super::maps::{self, Life, MAPS, Row, Sizes, Source};
use super::{Error, attach, capture};

const PREFIX: &str = "maps-v";
const PROGRAM: &str = "program";
/// Before the name of a map whose counts a larger one goes on with.
const RETIRED: &str = "RETIRED_";

/// One directory of pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MapSet {
    path: PathBuf,
    version: u32,
    /// Drawn when the tables were begun; what a controller keeps elsewhere
    /// of them goes by it.
    instance: u64,
    number: u64,
}

/// What an earlier controller left attached.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing that is pinned with its maps.
    Nothing,
    /// The program of this set.
    Set(MapSet),
    /// That of a set of another layout version.
    OtherVersion(u32),
}

impl MapSet {
    /// A new one, empty.
    pub(super) fn create(pin_dir: &Path, instance: u64) -> Result<Self, Error> {
        if !attach::is_on_bpffs(pin_dir) {
            return Err(Error::Foreign(format!(
                "{} is on no bpffs any more, so another program and its maps cannot be pinned; \
                 mount one: `mount -t bpf bpf /sys/fs/bpf`",
                pin_dir.display()
            )));
        }
        let last = all(pin_dir)?.iter().map(|set| set.number).max();
        let number = last.unwrap_or_default() + 1;
        let path = pin_dir.join(format!(
            "{PREFIX}{LAYOUT_VERSION}-{instance:016x}-{number:x}"
        ));
        fs::create_dir(&path)
            .map_err(|error| Error::kernel(format!("making {}", path.display()), error))?;
        Ok(Self {
            path,
            version: LAYOUT_VERSION,
            instance,
            number,
        })
    }

    /// A new one beside this one, empty.
    pub(super) fn next(&self) -> Result<Self, Error> {
        Self::create(self.path.parent().unwrap_or(&self.path), self.instance)
    }

    /// What the tables go by.
    pub(super) fn instance(&self) -> u64 {
        self.instance
    }

    /// Where a map is pinned.
    pub(super) fn pin(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where all its maps are pinned, and the program.
    pub(super) fn pins(&self) -> impl Iterator<Item = PathBuf> {
        let names = MAPS.iter().map(|row| row.name).chain([PROGRAM]);
        names.map(|name| self.pin(name))
    }

    /// Pins the program of the maps.
    pub(super) fn pin_program(&self, program: &mut Xdp) -> Result<(), Error> {
        let pin = self.pin(PROGRAM);
        program
            .pin(&pin)
            .map_err(|error| Error::kernel(format!("pinning {}", pin.display()), error))
    }

    fn program(&self) -> Option<u32> {
        let info = ProgramInfo::from_pin(self.pin(PROGRAM)).ok()?;
        Some(info.id())
    }

    /// Entries of each map, all of which are what this build means by them.
    pub(super) fn sizes(&self) -> Result<Sizes, Error> {
        let size = |row: &'static Row| {
            let info = maps::info(row.name, &self.open(row.name)?)?;
            row.check(&info)?;
            Ok((row.name, info.max_entries()))
        };
        MAPS.iter().map(size).collect()
    }

    /// Pins what `next` goes on with: the maps in `kept`, and of the others
    /// that count, what they have counted.
    pub(super) fn hand_on(&self, next: &Self, kept: &BTreeSet<&str>) -> Result<(), Error> {
        for row in MAPS {
            let is_kept = kept.contains(row.name);
            if is_kept {
                next.take(row.name, &self.open(row.name)?)?;
            }
            if row.life != Life::Counts {
                continue;
            }
            let retired = format!("{RETIRED}{}", row.name);
            if !is_kept {
                next.take(&retired, &self.open(row.name)?)?;
            } else if self.pin(&retired).exists() {
                next.take(&retired, &self.open(&retired)?)?;
            }
        }
        Ok(())
    }

    /// Pins the maps of a capture that `next` goes on with; whatever there is.
    pub(super) fn hand_on_capture(&self, next: &Self) -> Result<(), Error> {
        for name in capture::MAPS {
            if self.pin(name).exists() {
                next.take(name, &self.open(name)?)?;
            }
        }
        Ok(())
    }

    /// The map that counted before the one of this name, if there is one.
    pub(super) fn retired(&self, name: &str) -> Result<Option<Map>, Error> {
        let name = format!("{RETIRED}{name}");
        match self.pin(&name).exists() {
            true => self.clone().map(&name).map(Some),
            false => Ok(None),
        }
    }

    fn open(&self, name: &str) -> Result<MapData, Error> {
        let pin = self.pin(name);
        MapData::from_pin(&pin)
            .map_err(|error| Error::kernel(format!("opening {}", pin.display()), error))
    }

    fn take(&self, name: &str, map: &MapData) -> Result<(), Error> {
        let pin = self.pin(name);
        map.pin(&pin)
            .map_err(|error| Error::kernel(format!("pinning {}", pin.display()), error))
    }

    /// Removes the pins; what no program uses is freed.
    pub(super) fn remove(&self) -> Result<(), Error> {
        fs::remove_dir_all(&self.path)
            .map_err(|error| Error::kernel(format!("removing {}", self.path.display()), error))
    }
}

impl Source for MapSet {
    fn map(&mut self, name: &str) -> Result<Map, Error> {
        Map::from_map_data(self.open(name)?)
            .map_err(|error| Error::kernel(format!("map {name}"), error))
    }
}

/// Looks at what is pinned, and attached.
pub(super) fn left(pin_dir: &Path) -> Result<Left, Error> {
    let attached = attach::programs(pin_dir)?;
    let is_attached = |set: &MapSet| set.program().is_some_and(|id| attached.contains(&id));
    // Two are attached where a controller was killed between two links: the
    // newer one has what the change was for.
    let sets = all(pin_dir)?;
    let newest = match &sets[..] {
        // A copy that took another's place while no interface was there is in
        // no link: these are of interfaces that are gone.
        [only] if !attached.is_empty() => Some(only.clone()),
        _ => sets
            .into_iter()
            .filter(is_attached)
            .max_by_key(|set| set.number),
    };
    Ok(match newest {
        None => Left::Nothing,
        Some(set) if set.version == LAYOUT_VERSION => Left::Set(set),
        Some(set) => Left::OtherVersion(set.version),
    })
}

/// The set that was made last, attached or not.
pub(super) fn newest(pin_dir: &Path) -> Result<Option<MapSet>, Error> {
    Ok(all(pin_dir)?.into_iter().max_by_key(|set| set.number))
}

/// Removes all sets but this one; whether there were any.
pub(super) fn remove_others(pin_dir: &Path, but: Option<&MapSet>) -> Result<bool, Error> {
    let mut removed = false;
    for set in all(pin_dir)? {
        if Some(&set) != but {
            set.remove()?;
            removed = true;
        }
    }
    Ok(removed)
}

fn all(pin_dir: &Path) -> Result<Vec<MapSet>, Error> {
    let set = |name: &String| {
        let mut parts = name.strip_prefix(PREFIX)?.splitn(3, '-');
        let version = parts.next()?.parse().ok()?;
        // Other versions may have other names.
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        Some(MapSet {
            path: pin_dir.join(name),
            version,
            instance: number().unwrap_or_default(),
            number: number().unwrap_or_default(),
        })
    };
    Ok(attach::names(pin_dir)?.iter().filter_map(set).collect())
}
