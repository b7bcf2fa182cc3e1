//! Maps that only a program uses which was loaded for a capture. In all others
//! they are as small as the kernel takes them.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, RingBuf};
use balancer_common::capture::{Control, Header, MAX_SNAPLEN, Work};

use super::MMAPABLE;

/// One entry; `taken` is written by the program, the rest by the controller.
#[map]
static CAPTURE: Array<Control> = Array::with_max_entries(1, MMAPABLE);
/// Which services and members a capture is of; written by the controller.
#[map]
static CAPTURE_WANTED: HashMap<u64, u32> = HashMap::with_max_entries(1, BPF_F_NO_PREALLOC);
/// One entry a CPU; written by the program. Not a per-CPU map, which would
/// take memory for every CPU in every program.
#[map]
static CAPTURE_WORK: Array<Work> = Array::with_max_entries(1, MMAPABLE);
/// What is told; written by the program, read by the controller.
#[map]
static CAPTURED: RingBuf = RingBuf::with_byte_size(4096, 0);

#[inline(always)]
pub(crate) fn control() -> Option<*const Control> {
    CAPTURE.get_ptr(0)
}

/// This CPU's entry.
#[inline(always)]
pub(crate) fn work() -> Option<*mut Work> {
    // SAFETY: a helper call without arguments.
    CAPTURE_WORK.get_ptr_mut(unsafe { bpf_get_smp_processor_id() })
}

/// Whether a capture is of this service or member.
#[inline(always)]
pub(crate) fn is_wanted(key: u64) -> bool {
    CAPTURE_WANTED.get_ptr(key).is_some()
}

/// One more packet is taken, by some CPU.
#[inline(always)]
pub(crate) fn count_taken() {
    let Some(control) = CAPTURE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: aligned, in a live map value. This target has no atomic sum: CPUs
    // that count at the same time may count one packet only, which the
    // controller makes up for by what each has counted for itself.
    unsafe {
        let taken = &raw mut (*control).taken;
        taken.write_volatile(taken.read_volatile() + 1);
    }
}

/// Tells of a packet of which so many bytes are kept; `false` if there is no
/// room.
#[inline(always)]
pub(crate) fn tell(work: &Work, kept: usize) -> bool {
    let len = core::hint::black_box(size_of::<Header>() + kept);
    if len > size_of::<Header>() + 2 * MAX_SNAPLEN {
        return false;
    }
    // SAFETY: the frames lie behind the header, and `len` bytes are no more
    // than both have.
    let told = unsafe {
        let first = (&raw const *work).cast::<u8>();
        core::slice::from_raw_parts(first.add(core::mem::offset_of!(Work, header)), len)
    };
    CAPTURED.output::<[u8]>(told, 0).is_ok()
}
