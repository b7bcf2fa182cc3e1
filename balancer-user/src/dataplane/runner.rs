//! One frame through a loaded program: `BPF_PROG_TEST_RUN`.
//!
//! `run` is the call itself. [`Runner`] is what a thread holds that runs
//! frames of a trial while another thread changes its state.

use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};

use super::Error;
use super::trial::Action;

/// Longest frame the kernel takes in a test run, with room for its own
/// structures in a page.
pub const MAX_FRAME: usize = 3_500;
/// Shortest frame the kernel takes.
pub const MIN_FRAME: usize = 14;
/// Bytes in front of a frame before which a program may put headers and
/// metadata.
const HEADROOM: usize = 256;

/// A buffer for what [`run`] hands back of any frame.
pub(super) fn buffer() -> Vec<u8> {
    vec![0; MAX_FRAME + HEADROOM]
}

/// Runs one frame; gives the verdict and how many bytes of `out` it left.
pub(super) fn run(program: &Xdp, frame: &[u8], out: &mut [u8]) -> Result<(Action, usize), Error> {
    run_with(program, frame, None, out)
}

/// As [`run`], for a frame that comes in on that interface of the caller's
/// network namespace; without one it is the loopback's.
pub(super) fn run_from(
    program: &Xdp,
    interface: u32,
    frame: &[u8],
    out: &mut [u8],
) -> Result<(Action, usize), Error> {
    run_with(program, frame, Some(&context(interface, frame)), out)
}

/// `struct xdp_md`: data, data_end, data_meta, ingress_ifindex and two fields
/// that stay zero.
fn context(interface: u32, frame: &[u8]) -> [u8; 24] {
    let mut context = [0; 24];
    context[4..8].copy_from_slice(&(frame.len() as u32).to_ne_bytes());
    context[12..16].copy_from_slice(&interface.to_ne_bytes());
    context
}

/// Runs a program over `count` frames that came in by an interface of the
/// caller's network namespace, and has the kernel do what it says with them,
/// `batch` at a time: what is XDP_TX leaves by the interface (Linux 5.18).
pub(super) fn send(
    program: &Xdp,
    interface: u32,
    frame: &[u8],
    count: u32,
    batch: u32,
) -> Result<(), Error> {
    let context = context(interface, frame);
    let mut options = TestRunOptions::new();
    options.data_in = Some(frame);
    options.ctx_in = Some(&context);
    options.repeat = count;
    options.attrs = TestRunAttrs::new().xdp_live_frames(batch);
    program
        .test_run(options)
        .map_err(|error| Error::kernel(format!("sending {count} frames"), error))?;
    Ok(())
}

fn run_with(
    program: &Xdp,
    data: &[u8],
    context: Option<&[u8]>,
    out: &mut [u8],
) -> Result<(Action, usize), Error> {
    let mut options = TestRunOptions::new();
    options.data_in = Some(data);
    options.data_out = Some(out);
    options.ctx_in = context;
    let result = program.test_run(options).map_err(|error| {
        Error::kernel(format!("running a frame of {} bytes", data.len()), error)
    })?;
    Ok((action(result.return_value), result.data_size_out as usize))
}

/// The verdict by its number in `linux/bpf.h`.
pub(super) fn action(number: u32) -> Action {
    match number {
        1 => Action::Drop,
        2 => Action::Pass,
        3 => Action::Tx,
        4 => Action::Redirect,
        _ => Action::Aborted,
    }
}

/// Runs frames, and looks at nothing but what came out: the record of a
/// trial would tell of whichever thread ran last.
#[derive(Clone, Copy)]
pub struct Runner<'a> {
    program: &'a Xdp,
}

impl<'a> Runner<'a> {
    pub(super) fn new(program: &'a Xdp) -> Self {
        Self { program }
    }

    /// Runs one frame of [`MIN_FRAME`] to [`MAX_FRAME`] bytes; `out` becomes
    /// the frame as the program left it.
    pub fn run(&self, frame: &[u8], out: &mut Vec<u8>) -> Result<Action, Error> {
        out.resize(MAX_FRAME + HEADROOM, 0);
        let (action, len) = run(self.program, frame, out)?;
        out.truncate(len);
        Ok(action)
    }

    /// As [`Runner::run`], into a buffer that has room for the frame as it
    /// leaves: filled from the front, and nothing else is done to it.
    pub fn run_into(&self, frame: &[u8], out: &mut [u8]) -> Result<Action, Error> {
        let (action, _) = run(self.program, frame, out)?;
        Ok(action)
    }

    /// As [`Runner::run`], for a frame that came with `metadata_len` bytes of
    /// metadata (a multiple of four): they lie before the frame and so leave
    /// less room for headers.
    pub fn run_behind_metadata(
        &self,
        metadata_len: usize,
        frame: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Action, Error> {
        let data = [&vec![0; metadata_len], frame].concat();
        // `struct xdp_md`: data, data_end and four fields that stay zero.
        let mut context = [0; 24];
        context[..4].copy_from_slice(&(metadata_len as u32).to_ne_bytes());
        context[4..8].copy_from_slice(&(data.len() as u32).to_ne_bytes());
        out.resize(MAX_FRAME + HEADROOM, 0);
        let (action, len) = run_with(self.program, &data, Some(&context), out)?;
        out.truncate(len);
        out.drain(..metadata_len);
        Ok(action)
    }
}
