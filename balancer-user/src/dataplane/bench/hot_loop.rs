//! One frame through a program a great many times: `BPF_PROG_TEST_RUN` with
//! a repeat count.
//!
//! The kernel does not restore the frame between runs, so a program of ours
//! (the object `bench`) does, varies the flow and then calls the one that is
//! measured. The same loop calls a program that does nothing: that floor is
//! the cost of the loop.

use std::time::Duration;

use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use balancer_common::bench::{self, Cursor, Loop, MAX_WORDS, WORD_LEN, word_at};
use nix::time::{ClockId, clock_gettime};

use super::Subject;
use crate::dataplane::trial::Action;
use crate::dataplane::{Error, embedded, mapping::Mapped, maps, memory, object, runner};

/// Frames sent at once: what a driver takes out of its ring in one go.
const BATCH: u32 = 64;

/// A frame, and how its flow varies from run to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stimulus {
    /// The frame every run starts from.
    pub frame: Vec<u8>,
    /// Leading bytes to restore before each run: all that the program may
    /// change, and no more than the frame has.
    pub restored: usize,
    /// Distinct flows, a power of two; [`Stimulus::EVER_NEW`] repeats none.
    pub flows: u64,
    /// Whether the addresses that vary are IPv6.
    pub is_v6: bool,
    /// Where an address is whose last three bytes vary with the flow; 0 is
    /// nowhere.
    pub address_at: usize,
    /// Where the two ports are, one of which varies with the flow in its
    /// second byte; 0 is nowhere.
    pub ports_at: usize,
    /// Whether that is the second one.
    pub is_second_port: bool,
    /// Where an address is whose last two bytes are the number of the flow's
    /// service.
    pub service_at: usize,
    /// Services the flows are spread over; 1 leaves those bytes alone.
    pub services: u32,
    /// Where the frame has an IPv4 identification of 0xffff, which then makes
    /// up for the address in the header's checksum; 0 leaves both alone.
    pub identification_at: usize,
}

impl Stimulus {
    /// [`Stimulus::flows`]: all flows a counter of 32 bits gives.
    pub const EVER_NEW: u64 = 1 << 32;

    /// The same with that many flows.
    pub fn with_flows(self, flows: u64) -> Self {
        Self { flows, ..self }
    }

    fn parameters(&self) -> Result<Loop, Error> {
        let words = words(self.restored);
        if words > MAX_WORDS || words > 0 && word_at(words - 1) + WORD_LEN > self.frame.len() {
            return Err(Error::Foreign(format!(
                "restoring {} bytes of a frame of {}: at most {} can be, in words that lie in the frame",
                self.restored,
                self.frame.len(),
                word_at(MAX_WORDS)
            )));
        }
        if !self.flows.is_power_of_two() || self.flows > Self::EVER_NEW {
            return Err(Error::Foreign(format!(
                "{} flows: the loop wants a power of two up to {}",
                self.flows,
                Self::EVER_NEW
            )));
        }
        // An IPv6 address is read in halves.
        let half = if self.is_v6 { 8 } else { 0 };
        let ports = u32::from_le_bytes(self.field(self.ports_at)?);
        let varied = if self.is_second_port { 24 } else { 8 };
        Ok(Loop {
            frame_len: self.frame.len() as u32,
            words: words as u32,
            flow_mask: (self.flows - 1) as u32,
            services: self.services,
            address_at: moved(self.address_at, half),
            ports_at: self.ports_at as u32,
            service_at: moved(self.service_at, half),
            identification_at: self.identification_at as u32,
            address: self.word(self.address_at, 3)?,
            service: self.word(self.service_at, 2)?,
            ports: ports & !(0xff << varied),
            is_second_port: u32::from(self.is_second_port),
            is_v6: u32::from(self.is_v6),
            padding: 0,
        })
    }

    /// The last word of an address, zeros in the place of its last bytes.
    fn word(&self, at: usize, varied: usize) -> Result<u64, Error> {
        if self.is_v6 {
            let mut word: [u8; 8] = self.field(at + 8)?;
            word[8 - varied..].fill(0);
            return Ok(u64::from_le_bytes(word));
        }
        let mut word: [u8; 4] = self.field(at)?;
        word[4 - varied..].fill(0);
        Ok(u64::from(u32::from_le_bytes(word)))
    }

    fn field<const N: usize>(&self, at: usize) -> Result<[u8; N], Error> {
        let field = self
            .frame
            .get(at..at + N)
            .and_then(|field| field.try_into().ok());
        field.ok_or_else(|| {
            Error::Foreign(format!(
                "{N} bytes at {at} of a frame of {}",
                self.frame.len()
            ))
        })
    }
}

/// A place in the frame further on; 0 stays what it is.
fn moved(at: usize, by: usize) -> u32 {
    if at == 0 { 0 } else { (at + by) as u32 }
}

/// What a loop calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chosen {
    /// A program that does nothing.
    Floor,
    /// A program that moves the head by 20 bytes.
    FloorMove,
    /// What is measured.
    Subject,
}

/// What a number of runs took, and how the last of them ended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Run {
    /// Of the last frame.
    pub action: Action,
    /// Bytes of the last frame as the program left it.
    pub frame_len: usize,
    /// Time of this thread on its CPU, for each run: what others did on the
    /// machine meanwhile is not in it.
    pub nanos: f64,
    /// The kernel's own figure of elapsed time, for each run.
    pub elapsed: Duration,
}

/// A loaded loop.
pub struct HotLoop {
    ebpf: Ebpf,
    cursor: Mapped<Cursor>,
    frame: Vec<u8>,
    out: Vec<u8>,
    // The kernel lets go of the programs in it when this is closed.
    programs: ProgramArray<MapData>,
}

impl HotLoop {
    /// Loads a loop around a program.
    pub fn load(subject: &mut Subject, stimulus: &Stimulus) -> Result<Self, Error> {
        let mut empty = Self::generator(stimulus)?;
        enter(&mut empty.programs, bench::SUBJECT, subject.fd()?)?;
        Ok(empty)
    }

    /// Loads a loop around nothing, to send frames with.
    pub fn generator(stimulus: &Stimulus) -> Result<Self, Error> {
        let parameters = stimulus.parameters()?;
        let mut ebpf = EbpfLoader::new()
            .override_global("LOOP", bytemuck::bytes_of(&parameters), true)
            .load(embedded::BENCH.bytes()?)
            .map_err(|error| Error::kernel("creating the loop's maps", error))?;
        for name in ["step", "floor", "floor_move"] {
            object::xdp(&mut ebpf, name)?
                .load()
                .map_err(|error| Error::kernel(format!("loading {name}"), error))?;
        }
        let mut programs: ProgramArray<MapData> = maps::typed(&mut ebpf, "PROGRAMS")?;
        for (index, name) in [(bench::FLOOR, "floor"), (bench::FLOOR_MOVE, "floor_move")] {
            let fd = object::xdp(&mut ebpf, name)?.fd();
            let fd = fd.map_err(|error| Error::kernel(name, error))?;
            enter(&mut programs, index, fd)?;
        }
        fill_template(&mut ebpf, &stimulus.frame)?;
        Ok(Self {
            cursor: memory::map(&mut ebpf, "CURSOR")?,
            ebpf,
            frame: stimulus.frame.clone(),
            out: runner::buffer(),
            programs,
        })
    }

    /// Makes the packet of that number the next one.
    pub fn seek(&mut self, number: u32) {
        self.cursor.elements()[0].next = number;
    }

    /// Runs the next `count` frames of the stimulus.
    pub fn run(&mut self, chosen: Chosen, count: u32) -> Result<Run, Error> {
        self.cursor.elements()[0].target = match chosen {
            Chosen::Floor => bench::FLOOR,
            Chosen::FloorMove => bench::FLOOR_MOVE,
            Chosen::Subject => bench::SUBJECT,
        };
        let program: &Xdp = object::xdp(&mut self.ebpf, "step")?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.frame);
        options.data_out = Some(&mut self.out);
        options.repeat = count;
        let began = thread_time()?;
        let result = program
            .test_run(options)
            .map_err(|error| Error::kernel(format!("running {count} frames"), error))?;
        let took = thread_time()? - began;
        Ok(Run {
            action: runner::action(result.return_value),
            frame_len: result.data_size_out as usize,
            nanos: took.as_secs_f64() * 1e9 / f64::from(count),
            elapsed: result.duration,
        })
    }

    /// Sends the next `count` frames of the stimulus out of an interface of
    /// the namespace this thread is in, as its driver would send them; no
    /// program is called. They are lost unless the other end has an XDP
    /// program in native mode, and this end one of any kind.
    pub fn send(&mut self, interface: u32, count: u32) -> Result<(), Error> {
        self.cursor.elements()[0].target = bench::FLOOR;
        // The floor's XDP_TX goes back to the ingress.
        let program: &Xdp = object::xdp(&mut self.ebpf, "step")?;
        runner::send(program, interface, &self.frame, count, BATCH)
    }

    /// The last frame as the program left it.
    pub fn frame_of(&self, run: &Run) -> &[u8] {
        &self.out[..run.frame_len.min(self.out.len())]
    }
}

/// Words of the template that so many bytes lie in.
pub(in crate::dataplane) fn words(len: usize) -> usize {
    let words = (0..).find(|index| word_at(*index) >= len);
    words.unwrap_or(usize::MAX)
}

fn enter(
    programs: &mut ProgramArray<MapData>,
    index: u32,
    fd: &aya::programs::ProgramFd,
) -> Result<(), Error> {
    programs
        .set(index, fd, 0)
        .map_err(|error| Error::kernel("entering a program into the loop", error))
}

/// The frame's first bytes, as far as the template reaches.
pub(in crate::dataplane) fn fill_template(ebpf: &mut Ebpf, frame: &[u8]) -> Result<(), Error> {
    let mut template = [0u64; MAX_WORDS];
    for (index, word) in template.iter_mut().enumerate() {
        if let Some(bytes) = frame[word_at(index).min(frame.len())..].first_chunk() {
            *word = u64::from_ne_bytes(*bytes);
        }
    }
    let mut map: Array<MapData, [u64; MAX_WORDS]> = maps::typed(ebpf, "TEMPLATE")?;
    map.set(0, template, 0)
        .map_err(|error| Error::kernel("writing the template", error))
}

/// Time this thread has spent on a CPU.
fn thread_time() -> Result<Duration, Error> {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)
        .map(Duration::from)
        .map_err(|error| Error::kernel("reading the thread's clock", error))
}
