//! XDP programs of a few instructions; mostly two, which give every frame the
//! same verdict.
//!
//! A frame that XDP_TX or a redirect sends into a veth vanishes unless the end
//! that receives it has an XDP program in native mode; [`Action::Pass`] on that
//! end is enough. The other actions make simple faults: a host that swallows
//! everything, or one that throws everything back.
//!
//! Written straight to the bpf system call, so that the lab works without the
//! balancer's object, and so that a fault in the loader is not mistaken for one
//! in the lab.

use std::ffi::{c_int, c_long};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result};

use super::link;
use super::namespace::Namespace;

const BPF_PROG_LOAD: c_int = 5;
const BPF_LINK_CREATE: c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_ATTACH_TYPE_XDP: u32 = 37;
/// In the driver, the only mode in which a veth hands on frames sent by XDP.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// What is done to every frame; the numbers are those of `enum xdp_action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Swallowed without a trace.
    Drop = 1,
    /// Handed up the stack, as without a program.
    Pass = 2,
    /// Sent back unchanged.
    Tx = 3,
}

/// An attached program; dropping it detaches.
#[derive(Debug)]
pub struct Attached {
    /// A link that is pinned nowhere ends with its descriptor.
    _link: OwnedFd,
}

/// The part of `union bpf_attr` that loading a program uses; the kernel takes
/// what lies beyond as zero.
#[repr(C)]
#[derive(Default)]
struct LoadAttributes {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// The part of `union bpf_attr` that creating an XDP link uses.
#[repr(C)]
struct LinkAttributes {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Attaches a program in native mode that does `action` to every frame the
/// interface receives.
///
/// # Errors
/// When the interface does not exist, has a program, or its driver cannot run
/// one.
pub fn attach(namespace: &Namespace, interface: &str, action: Action) -> Result<Attached> {
    const MOV64_R0_IMM: u64 = 0xb7;
    const EXIT: u64 = 0x95;
    let program = [MOV64_R0_IMM | ((action as u64) << 32), EXIT];
    attach_instructions(namespace, interface, &program)
}

/// Attaches a program given as its instructions, in native mode.
///
/// An instruction is `struct bpf_insn` as a little endian number; from the low
/// end: code (8 bits), destination and source register (4 each), offset (16),
/// immediate (32).
///
/// # Errors
/// As for [`attach`], and when the verifier refuses the program.
pub fn attach_instructions(
    namespace: &Namespace,
    interface: &str,
    instructions: &[u64],
) -> Result<Attached> {
    let index = link::index(namespace, interface)?;
    let program = load(instructions).context("cannot load an XDP program")?;
    // The kernel looks for the interface in the namespace of the caller.
    let link = namespace
        .run(|| create_link(&program, index))?
        .with_context(|| format!("cannot attach to {interface} in {}", namespace.name()))?;
    Ok(Attached { _link: link })
}

fn load(instructions: &[u64]) -> io::Result<OwnedFd> {
    let little_endian: Vec<[u8; 8]> = instructions.iter().map(|word| word.to_le_bytes()).collect();
    let license = c"MIT";
    let attributes = LoadAttributes {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: u32::try_from(instructions.len()).map_err(io::Error::other)?,
        insns: little_endian.as_ptr() as u64,
        license: license.as_ptr() as u64,
        ..LoadAttributes::default()
    };
    // SAFETY: the attributes are those of BPF_PROG_LOAD; both pointers in them
    // lead to locals that outlive the call, the first to `insn_cnt` times eight
    // bytes.
    unsafe { bpf(BPF_PROG_LOAD, &attributes) }
}

fn create_link(program: &OwnedFd, index: u32) -> io::Result<OwnedFd> {
    let attributes = LinkAttributes {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_ifindex: index,
        attach_type: BPF_ATTACH_TYPE_XDP,
        flags: XDP_FLAGS_DRV_MODE,
    };
    // SAFETY: the attributes are those of BPF_LINK_CREATE and hold no pointer.
    unsafe { bpf(BPF_LINK_CREATE, &attributes) }
}

/// The bpf system call, for the commands that give a new descriptor.
///
/// # Safety
/// `attributes` must be what `command` expects, with pointers that are valid
/// until the call returns, and `command` must be one that gives a descriptor.
unsafe fn bpf<T>(command: c_int, attributes: &T) -> io::Result<OwnedFd> {
    // SAFETY: the kernel reads `size` bytes, which is what `attributes` has; the
    // rest is promised by the caller.
    let result: c_long = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            &raw const *attributes,
            size_of::<T>(),
        )
    };
    let descriptor = c_int::try_from(result).map_err(io::Error::other)?;
    if descriptor < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a descriptor the kernel has just given to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
