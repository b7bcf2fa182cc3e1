//! The kernel's generator of packets: frames that a small program makes of a
//! template, sent by the driver of an interface (`BPF_PROG_TEST_RUN` with live
//! frames, Linux 5.18). No packet is copied from user space, and none passes
//! the host's stack.
//!
//! Drivers send such frames only while their interface has an XDP program in
//! native mode. Where there is none, one that passes every frame is attached as
//! long as a [`Generator`] lives; its link ends with the process, however that
//! ends. Nothing is pinned.

use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use balancer_common::bench::{MAX_WORDS, WORD_LEN, word_at};
use balancer_common::generate::Generate;

use super::{Error, attach, bench, embedded, object, runner};

/// Frames sent at once: what a driver takes out of its ring in one go.
const BATCH: u32 = 64;

/// A frame, and what of it is another in each flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    /// The frame, from the Ethernet header on and without its check sequence.
    pub frame: Vec<u8>,
    /// Bytes of its headers.
    pub headers: usize,
    /// What varies; `words` is filled in from `headers`.
    pub generate: Generate,
}

/// A loaded program that makes packets, and the interface that they leave by.
pub struct Generator {
    ebpf: Ebpf,
    frame: Vec<u8>,
    interface: u32,
}

impl Generator {
    /// Loads the program. The interface is of the namespace this thread is in;
    /// one that is bare, without a program, is given one that passes every
    /// frame.
    ///
    /// # Errors
    /// The template is too short for its headers, or the kernel refuses.
    pub fn open(template: &Template, interface: u32, is_bare: bool) -> Result<Self, Error> {
        let words = bench::words(template.headers);
        let end = word_at(words.clamp(1, MAX_WORDS) - 1) + WORD_LEN;
        if words > MAX_WORDS || end > template.frame.len() {
            return Err(Error::Foreign(format!(
                "headers of {} bytes in a frame of {}: at most {} can be, in a frame of {end} at least",
                template.headers,
                template.frame.len(),
                word_at(MAX_WORDS)
            )));
        }
        let generate = Generate {
            words: words as u32,
            ..template.generate
        };
        let mut ebpf = EbpfLoader::new()
            .override_global("GENERATE", bytemuck::bytes_of(&generate), true)
            .load(embedded::BENCH.bytes()?)
            .map_err(|error| Error::kernel("creating the generator's maps", error))?;
        object::xdp(&mut ebpf, "generate")?
            .load()
            .map_err(|error| Error::kernel("loading the generator", error))?;
        // After the program is loaded: this closes the map.
        bench::fill_template(&mut ebpf, &template.frame)?;
        if is_bare {
            let pass = object::xdp(&mut ebpf, "pass")?;
            pass.load()
                .map_err(|error| Error::kernel("loading the program that passes", error))?;
            pass.attach_to_if_index(interface, XdpMode::Driver)
                .map_err(|error| {
                    Error::kernel(
                        format!(
                            "attaching to interface {interface} in native mode, which its driver \
                             has to be able to"
                        ),
                        attach::chain(&error),
                    )
                })?;
        }
        Ok(Self {
            ebpf,
            frame: template.frame.clone(),
            interface,
        })
    }

    /// Sends the next `count` packets; the first ever is of flow 0. It returns
    /// when the driver has taken or dropped them.
    ///
    /// # Errors
    /// The kernel is older than 5.18, or the interface has gone.
    pub fn send(&mut self, count: u32) -> Result<(), Error> {
        let program: &Xdp = object::xdp(&mut self.ebpf, "generate")?;
        runner::send(program, self.interface, &self.frame, count, BATCH)
    }
}
