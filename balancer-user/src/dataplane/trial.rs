//! A private copy of the kernel program, asked packet by packet.
//!
//! Nothing is attached: the kernel runs the program over bytes that are
//! handed to it (`BPF_PROG_TEST_RUN`) and returns the verdict and the bytes
//! as the program left them. `trace`, the rehearsal and the program-run
//! tests are this.

use std::path::Path;

use balancer_common::features::Features;
use balancer_common::layout::TraceRecord;
use balancer_common::verdict::Reason;

use super::capacity::Capacity;
use super::capture::{Tap, Wish};
use super::mapping::Mapped;
use super::maps;
use super::memory::KernelMemory;
use super::object::{Object, Purpose};
use super::set::{self, MapSet};
use super::tables::Tables;
use super::{Counters, Error, ServiceId, State, attach, features, plan, runner};

pub use super::runner::{MAX_FRAME, MIN_FRAME, Runner};

/// What happens to a packet, in XDP's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Up the host's stack.
    Pass,
    /// Dropped.
    Drop,
    /// Out of the interface it came in on.
    Tx,
    /// Out of another interface.
    Redirect,
    /// The program failed: never, if the verifier and we are right.
    Aborted,
}

impl Action {
    /// Name in `trace`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Tx => "tx",
            Self::Redirect => "redirect",
            Self::Aborted => "aborted",
        }
    }
}

/// What the program did with one frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The service it is for.
    pub service: Option<ServiceId>,
    /// Index of the member it goes to.
    pub member: Option<u16>,
    /// The slot its flow falls into, where a member was picked.
    pub slot: Option<u32>,
    /// Hash of its flow, likewise.
    pub hash: Option<u64>,
    /// The frame as the program left it.
    pub frame: Vec<u8>,
}

impl Outcome {
    /// What the program's record says of the packet that left as `frame`.
    pub(super) fn read(record: TraceRecord, action: Action, frame: Vec<u8>) -> Result<Self, Error> {
        let picked = (record.member != TraceRecord::NO_MEMBER).then_some(record);
        Ok(Self {
            action,
            reason: Reason::from_number(record.reason).ok_or_else(|| {
                Error::Foreign(format!(
                    "the kernel program gave reason number {}",
                    record.reason
                ))
            })?,
            service: (record.service != 0).then_some(record.service),
            member: picked.map(|record| record.member as u16),
            slot: picked.map(|record| record.slot),
            hash: picked.map(|record| record.hash),
            frame,
        })
    }
}

/// A loaded copy that holds a state.
pub struct Trial {
    object: Object,
    tables: Tables<KernelMemory>,
    record: Mapped<TraceRecord>,
    features: Features,
    state: State,
    buffer: Vec<u8>,
    logger: Option<aya_log::EbpfLogger<&'static dyn log::Log>>,
}

impl Trial {
    /// Loads a copy that can do what the state needs, and writes the state
    /// into it.
    pub fn load(state: &State) -> Result<Self, Error> {
        Self::with(Capacity::for_state(state), features::needed(state), state)
    }

    /// As [`Trial::load`], ready for every [`Trial::change`] that fits.
    pub fn load_all(state: &State) -> Result<Self, Error> {
        Self::with(Capacity::for_state(state), Features::ALL, state)
    }

    /// As [`Trial::load`], with maps of a given size and a program that can
    /// do what is given.
    pub fn with(capacity: Capacity, features: Features, state: &State) -> Result<Self, Error> {
        let sizes = maps::sizes(&capacity);
        let mut object = Object::load(&sizes, features, Purpose::Trace, None)?;
        let mut tables = Tables::new(object.map_memory()?);
        tables.apply(&plan(state, &State::empty()))?;
        Self::of(object, tables, features, state.clone())
    }

    /// As [`Trial::with`], of the program that is attached for a capture.
    /// Nothing is told before that is granted. What [`Trial::run`] says of a
    /// packet means nothing here, but for the verdict and the frame.
    pub fn capturing(state: &State, features: Features, wish: &Wish) -> Result<(Self, Tap), Error> {
        let sizes = maps::sizes(&Capacity::for_state(state));
        let mut object = Object::load(&sizes, features, Purpose::Capture, None)?;
        let mut tables = Tables::new(object.map_memory()?);
        tables.apply(&plan(state, &State::empty()))?;
        let tap = Tap::open(object.ebpf(), wish)?;
        Ok((Self::of(object, tables, features, state.clone())?, tap))
    }

    /// As [`Trial::with`], its maps pinned under `pin_dir` like those of a
    /// running balancer, for [`Trial::after_restart`] to go on with.
    pub fn pinned(
        pin_dir: &Path,
        capacity: Capacity,
        features: Features,
        state: &State,
    ) -> Result<Self, Error> {
        attach::prepare_pin_dir(pin_dir)?;
        let set = MapSet::create(pin_dir, 0)?;
        let mut object = Object::load(
            &maps::sizes(&capacity),
            features,
            Purpose::Trace,
            Some(&set),
        )?;
        let mut tables = Tables::new(object.map_memory()?);
        tables.apply(&plan(state, &State::empty()))?;
        Self::of(object, tables, features, state.clone())
    }

    /// What a balancer goes on with that finds `pin_dir` as another one left
    /// it: a fresh copy of the program over the same maps. Nothing is known
    /// but what is in them.
    pub fn after_restart(pin_dir: &Path) -> Result<Self, Error> {
        let mut old = set::newest(pin_dir)?.ok_or_else(|| {
            Error::Foreign(format!("{}: no maps are pinned there", pin_dir.display()))
        })?;
        let sizes = old.sizes()?;
        let tables = Tables::adopt(KernelMemory::open(&mut old)?, sizes["FLOWS"])?;
        let state = tables.state().clone();
        let features = features::needed(&state);
        let (sizes, kept) = maps::succession(&sizes, &Capacity::for_state(&state), false);
        let set = old.next()?;
        old.hand_on(&set, &kept)?;
        let mut object = Object::load(&sizes, features, Purpose::Trace, Some(&set))?;
        object.succeed(&old)?;
        old.remove()?;
        Self::of(object, tables, features, state)
    }

    fn of(
        mut object: Object,
        tables: Tables<KernelMemory>,
        features: Features,
        state: State,
    ) -> Result<Self, Error> {
        Ok(Self {
            record: object.map_trace()?,
            object,
            tables,
            features,
            state,
            buffer: runner::buffer(),
            logger: None,
        })
    }

    /// What is in force, with slots.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Changes the state, as a change of the running balancer would.
    pub fn change(&mut self, state: &State) -> Result<(), Error> {
        self.split()?.1.change(state)
    }

    /// Waits until no packet sees the state before the last change.
    pub fn settle(&mut self) -> Result<(), Error> {
        self.tables.settle()
    }

    /// Which blocks of a service's table were marked since this was last
    /// asked, as the running balancer asks.
    pub fn take_marks(&mut self, service: ServiceId) -> Result<Vec<bool>, Error> {
        self.tables.take_marks(service)
    }

    /// Two halves for two threads: one runs frames while the other changes
    /// the state.
    pub fn split(&mut self) -> Result<(Runner<'_>, Changer<'_>), Error> {
        let changer = Changer {
            tables: &mut self.tables,
            features: self.features,
            state: &mut self.state,
        };
        Ok((Runner::new(self.object.program()?), changer))
    }

    /// The state as the maps hold it.
    pub fn read_state(&mut self) -> State {
        self.tables.read()
    }

    /// Counters of these members and all reasons.
    pub fn counters(&mut self, members: &[u32]) -> Result<Counters, Error> {
        self.object.counters(members)
    }

    /// Forgets what flows are rewritten to, as if all were long over.
    pub fn forget_translations(&mut self) -> Result<(), Error> {
        self.object.clear_translations()
    }

    /// From now on the program's own log line of each packet goes to the
    /// `log` facade, at level debug.
    pub fn attach_log(&mut self) -> Result<(), Error> {
        let logger = aya_log::EbpfLogger::init(self.object.ebpf())
            .map_err(|error| Error::kernel("opening the kernel program's log", error))?;
        self.logger = Some(logger);
        Ok(())
    }

    /// Runs one frame of [`MIN_FRAME`] to [`MAX_FRAME`] bytes.
    pub fn run(&mut self, frame: &[u8]) -> Result<Outcome, Error> {
        let program = self.object.program()?;
        let (action, len) = runner::run(program, frame, &mut self.buffer)?;
        self.outcome(action, len)
    }

    /// As [`Trial::run`], for a frame that comes in on an interface of the
    /// caller's network namespace, by its number.
    pub fn run_from(&mut self, interface: u32, frame: &[u8]) -> Result<Outcome, Error> {
        let program = self.object.program()?;
        let (action, len) = runner::run_from(program, interface, frame, &mut self.buffer)?;
        self.outcome(action, len)
    }

    fn outcome(&mut self, action: Action, len: usize) -> Result<Outcome, Error> {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
        let record = self.record.elements()[0];
        Outcome::read(record, action, self.buffer[..len].to_vec())
    }
}

/// Changes the state of a trial whose [`Runner`] may be at work.
pub struct Changer<'a> {
    tables: &'a mut Tables<KernelMemory>,
    features: Features,
    state: &'a mut State,
}

impl Changer<'_> {
    /// Changes the state, as a change of the running balancer would.
    pub fn change(&mut self, state: &State) -> Result<(), Error> {
        features::check(self.features, state)?;
        self.tables.apply(&plan(state, self.state))?;
        *self.state = state.clone();
        Ok(())
    }
}
