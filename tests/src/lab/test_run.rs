//! One frame through a program that is pinned: `BPF_PROG_TEST_RUN`.
//!
//! The balancer runs programs that it loaded; here it is one that another
//! process has attached, over that one's maps.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use anyhow::{Context, Result};
use aya::programs::ProgramFd;
use aya::programs::ProgramInfo;

/// The command's number in `linux/bpf.h`.
const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// `union bpf_attr` of the command, as far as it goes.
#[repr(C)]
#[derive(Default)]
struct Attributes {
    program: u32,
    verdict: u32,
    data_in_len: u32,
    data_out_len: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    context_in_len: u32,
    context_out_len: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    padding: u32,
}

/// A program that somebody pinned.
#[derive(Debug)]
pub struct PinnedProgram {
    fd: ProgramFd,
}

impl PinnedProgram {
    /// The one at a path.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(path: &Path) -> Result<Self> {
        let info = ProgramInfo::from_pin(path);
        let info = info.with_context(|| format!("no program at {}", path.display()))?;
        Ok(Self { fd: info.fd()? })
    }

    /// Runs a frame; gives the verdict's number, and `out` has the frame as
    /// the program left it.
    ///
    /// # Errors
    /// When the kernel refuses, as for a frame that `out` has no room for.
    pub fn run(&self, frame: &[u8], out: &mut Vec<u8>) -> Result<u32> {
        let mut attributes = Attributes {
            program: self.fd.as_fd().as_raw_fd() as u32,
            data_in_len: frame.len() as u32,
            data_in: frame.as_ptr() as u64,
            data_out_len: out.len() as u32,
            data_out: out.as_mut_ptr() as u64,
            ..Attributes::default()
        };
        // SAFETY: both buffers live until the call is over and are as long as
        // their lengths say; the kernel reads and writes no more than its size
        // of the attributes.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                BPF_PROG_TEST_RUN,
                &raw mut attributes,
                size_of::<Attributes>(),
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error()).context("running a frame");
        }
        out.truncate(attributes.data_out_len as usize);
        Ok(attributes.verdict)
    }
}
