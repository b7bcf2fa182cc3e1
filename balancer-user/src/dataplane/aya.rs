//! The dataplane in the kernel.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use balancer_common::features::Features;
use balancer_common::layout::{HandshakeCounters, LAYOUT_VERSION};

use super::attach::{self, Attached};
use super::capacity::Capacity;
use super::capture::{Tap, Wish};
use super::loaded::{Loaded, undoing};
use super::maps::{self, Sizes};
use super::memory::KernelMemory;
use super::object::Purpose;
use super::set::{self, Left, MapSet};
use super::shadow::Blueprint;
use super::tables::{Audit, Drift, Tables};
use super::{Counters, Dataplane, Error, Opened, Plan, ServiceId, State, features, plan, ports};
use crate::config::model::XdpMode;
use crate::moment::{self, Moment};

/// Where the program is attached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Interfaces by name.
    pub interfaces: Vec<String>,
    /// How.
    pub mode: XdpMode,
    /// Where links and maps are pinned.
    pub pin_dir: PathBuf,
}

/// The program in force and its tables.
pub struct KernelDataplane {
    loaded: Loaded,
    tables: Tables<KernelMemory>,
    placement: Placement,
}

/// What an earlier controller left in force, for this one to go on with.
pub struct Adopted {
    set: MapSet,
    sizes: Sizes,
    tables: Tables<KernelMemory>,
}

impl Adopted {
    /// Looks under `pin_dir`; none where nothing is attached, or only what
    /// another layout version left, which is said. Nothing is changed.
    pub fn find(pin_dir: &Path) -> Result<Option<Self>, Error> {
        let mut set = match set::left(pin_dir)? {
            Left::Set(set) => set,
            Left::Nothing => return Ok(None),
            Left::OtherVersion(version) => {
                tracing::warn!(
                    version,
                    this_version = LAYOUT_VERSION,
                    "what is attached has tables of another layout version: it is replaced, as was \
                     asked for, and flow records and counters begin anew"
                );
                return Ok(None);
            }
        };
        let sizes = set.sizes()?;
        let memory = KernelMemory::open(&mut set)?;
        let tables = Tables::adopt(memory, sizes["FLOWS"])?;
        Ok(Some(Self { set, sizes, tables }))
    }

    /// The layout version of what forwards now, where this build reads another
    /// one. Nothing is changed.
    pub fn other_layout(pin_dir: &Path) -> Result<Option<u32>, Error> {
        Ok(match set::left(pin_dir)? {
            Left::OtherVersion(version) => Some(version),
            Left::Set(_) | Left::Nothing => None,
        })
    }

    /// What the tables go by: drawn when they were begun.
    pub fn instance(&self) -> u64 {
        self.set.instance()
    }

    /// What is in force, with slots.
    pub fn state(&self) -> &State {
        self.tables.state()
    }
}

impl KernelDataplane {
    /// Loads the program with this state and attaches it; one that an
    /// earlier controller left under the same `pin_dir` is replaced while it
    /// forwards, and its maps are not read. On failure nothing new stays
    /// attached or pinned. `instance` is what the tables will go by.
    pub fn start(
        placement: Placement,
        instance: u64,
        state: &State,
    ) -> Result<(Self, Vec<(String, Attached)>), Error> {
        attach::prepare_pin_dir(&placement.pin_dir)?;
        let sizes = maps::sizes(&Capacity::for_state(state));
        let set = MapSet::create(&placement.pin_dir, instance)?;
        let (loaded, tables) = undoing(&set, || {
            let mut loaded = Loaded::new(
                set.clone(),
                sizes,
                features::needed(state),
                Purpose::Forward,
            )?;
            let tables = fill(&mut loaded, state)?;
            ports::begin(&loaded.set, instance)?;
            Ok((loaded, tables))
        })?;
        let mut dataplane = Self {
            loaded,
            tables,
            placement,
        };
        let attached = undoing(&set, || dataplane.attach_all())?;
        dataplane.detach_others()?;
        set::remove_others(&dataplane.placement.pin_dir, Some(&set))?;
        Ok((dataplane, attached))
    }

    /// Goes on with what an earlier controller left, and brings `state` into
    /// force: a program of this build takes its program's place, over the
    /// same tables, records and counters. Those of `fresh_counters` are set
    /// to zero, as others had them.
    pub fn take_over(
        placement: Placement,
        adopted: Adopted,
        state: &State,
        fresh_counters: &[u32],
    ) -> Result<(Self, Vec<(String, Attached)>), Error> {
        let Adopted { set, sizes, tables } = adopted;
        let features = features::needed(tables.state()).with(features::needed(state));
        let capacity = Capacity::for_state(state);
        // A capture of the earlier controller's ends with it.
        let succession = maps::succession(&sizes, &capacity, false);
        let loaded = Loaded::after(&set, succession, features, Purpose::Forward)?;
        let plan = plan(state, tables.state());
        let mut dataplane = Self {
            loaded,
            tables,
            placement,
        };
        let new = dataplane.loaded.set.clone();
        let attached = undoing(&new, || dataplane.attach_all())?;
        dataplane.detach_others()?;
        set::remove_others(&dataplane.placement.pin_dir, Some(&new))?;
        dataplane.reset_counters(fresh_counters)?;
        dataplane.bring(&plan, state)?;
        dataplane.tables.share(state);
        dataplane.tables.lend_slots();
        Ok((dataplane, attached))
    }

    /// Attaches, or replaces, on all interfaces that there are. One that is
    /// gone gets the program when it is back, and holds up nobody.
    fn attach_all(&mut self) -> Result<Vec<(String, Attached)>, Error> {
        let Placement {
            interfaces,
            mode,
            pin_dir,
        } = &self.placement;
        let mut done: Vec<(String, Attached)> = Vec::new();
        for interface in interfaces.iter().filter(|it| attach::is_there(it)) {
            let attached = self
                .loaded
                .object
                .program()
                .and_then(|program| attach::attach(program, interface, *mode, pin_dir));
            match attached {
                Ok(attached) => done.push((interface.clone(), attached)),
                Err(error) => {
                    for (interface, attached) in done {
                        if attached != Attached::Replaced {
                            attach::detach(pin_dir, &interface)?;
                        }
                    }
                    return Err(error);
                }
            }
        }
        Ok(done)
    }

    /// Interfaces that an earlier configuration named and this one does not.
    fn detach_others(&self) -> Result<(), Error> {
        let Placement {
            interfaces,
            pin_dir,
            ..
        } = &self.placement;
        for interface in attach::pinned(pin_dir)? {
            if !interfaces.contains(&interface) {
                attach::detach(pin_dir, &interface)?;
                tracing::warn!(%interface, "detached: the configuration names it no more");
            }
        }
        Ok(())
    }

    /// Puts another copy in the place of the one there is, in the same links;
    /// where that fails, the old one is back.
    fn swap(&mut self, next: Loaded, tables: Option<Tables<KernelMemory>>) -> Result<(), Error> {
        moment::passed(Moment::CopyLoaded);
        let old = std::mem::replace(&mut self.loaded, next);
        let old_tables = tables.map(|tables| std::mem::replace(&mut self.tables, tables));
        if let Err(error) = self.attach_all() {
            let next = std::mem::replace(&mut self.loaded, old);
            if let Some(tables) = old_tables {
                self.tables = tables;
            }
            self.attach_all()?;
            next.set.remove()?;
            return Err(error);
        }
        moment::passed(Moment::CopyAttached);
        old.set.remove()?;
        // Packets under way count in the old maps: they are asked again only
        // after that.
        super::mapping::wait_for_readers()
    }
}

impl Dataplane for KernelDataplane {
    fn read_state(&mut self) -> Result<State, Error> {
        Ok(self.tables.read())
    }

    fn written(&self) -> &State {
        self.tables.state()
    }

    fn blueprint(&self) -> Option<Blueprint> {
        let Loaded {
            set,
            sizes,
            features,
            ..
        } = &self.loaded;
        Some(Blueprint::new(set, sizes, *features))
    }

    fn audit(&mut self, budget: Option<usize>) -> Audit {
        self.tables.audit(budget)
    }

    fn repair(&mut self, drifts: &[Drift]) -> Result<(), Error> {
        self.tables.repair(drifts)
    }

    fn program_id(&mut self) -> Option<u32> {
        let program = self.loaded.object.program().ok()?;
        Some(program.info().ok()?.id())
    }

    fn lost_pins(&self) -> Vec<String> {
        let links = self.placement.interfaces.iter();
        let links = links.map(|it| attach::pin_path(&self.placement.pin_dir, it));
        let lost = links
            .chain(self.loaded.set.pins())
            .filter(|it| !it.exists());
        lost.map(|pin| pin.display().to_string()).collect()
    }

    fn apply(&mut self, plan: &Plan) -> Result<(), Error> {
        features::check(self.loaded.features, &self.tables.after(plan)?)?;
        self.tables.apply(plan)
    }

    fn settle(&mut self) -> Result<(), Error> {
        self.tables.settle()
    }

    fn take_marks(&mut self, service: ServiceId) -> Result<Vec<bool>, Error> {
        self.tables.take_marks(service)
    }

    fn replace(&mut self, capacity: Capacity, state: &State) -> Result<(), Error> {
        let features = features::needed(state);
        let mut next = self.loaded.successor(&capacity, features, true)?;
        let set = next.set.clone();
        let mut tables = undoing(&set, || fill(&mut next, state))?;
        // What the old tables' marks say of old flows is lost with them.
        tables.mark_all();
        self.swap(next, Some(tables))
    }

    fn extend(&mut self, state: &State) -> Result<(), Error> {
        let features = features::needed(self.tables.state()).with(features::needed(state));
        let capacity = Capacity::for_state(state);
        let next = self.loaded.successor(&capacity, features, false)?;
        self.swap(next, None)
    }

    fn features(&self) -> Features {
        self.loaded.features
    }

    fn counters(&mut self, members: &[u32]) -> Result<Counters, Error> {
        self.loaded.object.counters(members)
    }

    fn handshakes(&mut self, members: &[u32]) -> Result<BTreeMap<u32, HandshakeCounters>, Error> {
        self.loaded.object.handshakes(members)
    }

    fn openings(&mut self, lately: Duration) -> Result<Vec<Opened>, Error> {
        self.loaded.object.openings(lately)
    }

    fn loads(&mut self, count: u32) -> Result<Vec<balancer_common::layout::MemberCounters>, Error> {
        self.loaded.object.loads(count)
    }

    fn reset_counters(&mut self, members: &[u32]) -> Result<(), Error> {
        for index in members {
            self.loaded.object.clear_counters(*index)?;
        }
        Ok(())
    }

    fn capture(&mut self, wish: &Wish) -> Result<Tap, Error> {
        let mut next = self.loaded.again(Purpose::Capture)?;
        let set = next.set.clone();
        let tap = undoing(&set, || Tap::open(next.object.ebpf(), wish))?;
        self.swap(next, None)?;
        Ok(tap)
    }

    fn end_capture(&mut self) -> Result<(), Error> {
        if self.loaded.purpose != Purpose::Capture {
            return Ok(());
        }
        let next = self.loaded.again(Purpose::Forward)?;
        self.swap(next, None)
    }

    fn attach(&mut self, interface: &str) -> Result<Attached, Error> {
        let Placement { mode, pin_dir, .. } = &self.placement;
        attach::attach(self.loaded.object.program()?, interface, *mode, pin_dir)
    }

    fn detach(&mut self) -> Result<(), Error> {
        for interface in &self.placement.interfaces {
            attach::detach(&self.placement.pin_dir, interface)?;
        }
        set::remove_others(&self.placement.pin_dir, None)?;
        Ok(())
    }
}

fn fill(loaded: &mut Loaded, state: &State) -> Result<Tables<KernelMemory>, Error> {
    let mut tables = Tables::new(loaded.object.map_memory()?);
    tables.apply(&plan(state, &State::empty()))?;
    tables.lend_slots();
    Ok(tables)
}
