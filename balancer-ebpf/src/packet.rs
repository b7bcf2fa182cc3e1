//! Bounds-checked access to the frame: the only raw packet pointers.

use aya_ebpf::helpers::generated::bpf_csum_diff;
use aya_ebpf::programs::XdpContext;
use balancer_common::checksum;
use balancer_common::parse::{Frame, field};
use bytemuck::NoUninit;

/// Bytes that `bpf_csum_diff` takes in one call.
const CHUNK: usize = 512;
/// Chunks of one sum. The verifier tracks offsets into a packet up to 16 bits;
/// a length of 15 bits leaves room for where the sum begins.
const MAX_CHUNKS: usize = 63;
/// Most bytes that [`XdpFrame::sum`] adds up.
pub const MAX_SUM_LEN: usize = CHUNK * MAX_CHUNKS;

/// Values one behind the other in the frame.
#[derive(Clone, Copy)]
#[repr(C, packed)]
pub struct Packed<A, B>(pub A, pub B);

// SAFETY: packed, so there is no padding between two that have none.
unsafe impl<A: NoUninit, B: NoUninit> NoUninit for Packed<A, B> {}

/// The words of two Ethernet addresses, in memory order: what is kept in bytes
/// is moved byte by byte.
#[inline(always)]
pub fn words(addresses: &[u8; 12]) -> [u32; 3] {
    let word = |at| u32::from_ne_bytes(field(addresses, at));
    [word(0), word(4), word(8)]
}

/// The halves of an IPv6 address, likewise.
#[inline(always)]
pub fn halves(address: &[u8; 16]) -> [u64; 2] {
    let half = |at| u64::from_ne_bytes(field(address, at));
    [half(0), half(8)]
}

/// The frame of a context. Each access reads the bounds afresh, because
/// moving the head changes them.
#[repr(transparent)]
pub struct XdpFrame(XdpContext);

impl XdpFrame {
    /// The frame of this context.
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> &Self {
        // SAFETY: `XdpFrame` is a transparent wrapper of `XdpContext`.
        unsafe { &*core::ptr::from_ref(ctx).cast::<Self>() }
    }

    /// Writes at `offset`; `None` if the frame ends before the last byte.
    #[inline(always)]
    pub fn write<T: NoUninit>(&self, offset: usize, value: T) -> Option<()> {
        let at = self.checked(offset, size_of::<T>())?;
        // SAFETY: `checked` holds all bytes of the value from `at` against the
        // frame's end; packet memory has no alignment, so the write is
        // unaligned.
        unsafe { core::ptr::write_unaligned(at as *mut T, value) };
        Some(())
    }

    /// Folded sum of `len` bytes from `at` as big-endian words, an odd last
    /// one the high half of its word; `None` if the frame ends before the last
    /// byte or `len` is more than [`MAX_SUM_LEN`].
    ///
    /// Each offset is worked out from `len` anew. One that grew from step to
    /// step would have a range of its own on every path, and the verifier
    /// could not see that the paths are alike.
    #[inline(always)]
    pub fn sum(&self, at: usize, len: usize) -> Option<u16> {
        // What the verifier learns of one register it does not know of what
        // was made of it before; all below has to be made of this one.
        let len = core::hint::black_box(len);
        if len > MAX_SUM_LEN {
            return None;
        }
        let mut sum = 0;
        for chunk in 0..MAX_CHUNKS {
            if chunk >= len / CHUNK {
                break;
            }
            sum = self.add::<CHUNK>(at + chunk * CHUNK, sum)?;
        }
        // The rest by the bits of its length: the helper's sizes are constants.
        macro_rules! rest {
            ($($size:literal)*) => {
                $(if len & $size != 0 {
                    sum = self.add::<$size>(at + (len & !(2 * $size - 1)), sum)?;
                })*
            };
        }
        rest!(256 128 64 32 16 8 4);
        let mut words = u32::from(checksum::fold(sum));
        if len & 2 != 0 {
            words += u32::from(u16::from_ne_bytes(self.bytes(at + (len & !3))?));
        }
        if len & 1 != 0 {
            // With the byte before it, as the check for one byte alone becomes
            // a comparison that tells the verifier of no byte. And with its
            // offset in one number, as it takes no step back from a pointer.
            let before = (at + (len & !1)).wrapping_sub(1);
            let [_, last] = self.bytes(core::hint::black_box(before))?;
            words += u32::from(u16::from_ne_bytes([last, 0]));
        }
        // The helper adds words as they lie in memory. The sum of swapped
        // words is the swapped sum (RFC 1071, 2B).
        Some(u16::from_be(checksum::fold(words)))
    }

    #[inline(always)]
    fn add<const N: usize>(&self, at: usize, sum: u32) -> Option<u32> {
        let at = self.checked(at, N)?;
        // SAFETY: `checked` holds `N` bytes from `at` against the frame's end;
        // the helper only reads, and nothing at all of its first argument.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, at as *mut u32, N as u32, sum) };
        u32::try_from(sum).ok()
    }

    #[inline(always)]
    fn checked(&self, offset: usize, len: usize) -> Option<usize> {
        let at = self.0.data() + offset;
        (at + len <= self.0.data_end()).then_some(at)
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let at = self.checked(offset, N)?;
        // SAFETY: `checked` holds `N` bytes from `at` against the frame's
        // end; who asks for a view writes nothing while it is in use.
        Some(unsafe { &*(at as *const [u8; N]) })
    }
}

/// As [`XdpFrame`], for functions that are called. What is left of a shared
/// read of the bounds there is a cut to 32 bits, after which the verifier no
/// longer takes them for pointers; so each access reads them for itself.
#[repr(transparent)]
pub struct FreshFrame(XdpContext);

impl FreshFrame {
    /// The frame of this context.
    #[inline(always)]
    pub fn of(ctx: &XdpContext) -> &Self {
        // SAFETY: `FreshFrame` is a transparent wrapper of `XdpContext`.
        unsafe { &*core::ptr::from_ref(ctx).cast::<Self>() }
    }

    #[inline(always)]
    fn bounds(&self) -> (usize, usize) {
        // SAFETY: the kernel's context, which outlives the program.
        unsafe {
            let data = core::ptr::read_volatile(&raw const (*self.0.ctx).data);
            let end = core::ptr::read_volatile(&raw const (*self.0.ctx).data_end);
            (data as usize, end as usize)
        }
    }

    /// Writes at `offset`; `None` if the frame ends before the last byte.
    #[inline(always)]
    pub fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let at = self.checked::<N>(offset)?;
        // SAFETY: `N` bytes from `at` were held against the frame's end.
        unsafe { core::ptr::write_unaligned(at as *mut [u8; N], bytes) };
        Some(())
    }

    /// Writes words as they lie in memory, one after the other.
    #[inline(always)]
    pub fn write_words<const N: usize>(&self, offset: usize, words: [u32; N]) -> Option<()> {
        for (index, word) in words.into_iter().enumerate() {
            self.write(offset + 4 * index, word.to_ne_bytes())?;
        }
        Some(())
    }

    /// Adds the `N` bytes at `at`, a multiple of four and at most 512, to a
    /// sum of words as they lie in memory, not folded; `None` if the frame
    /// ends before them.
    #[inline(always)]
    pub fn add<const N: usize>(&self, at: usize, sum: u32) -> Option<u32> {
        let at = self.checked::<N>(at)?;
        // SAFETY: `N` bytes from `at` were held against the frame's end; the
        // helper only reads, and nothing at all of its first argument.
        let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, at as *mut u32, N as u32, sum) };
        u32::try_from(sum).ok()
    }

    #[inline(always)]
    fn checked<const N: usize>(&self, offset: usize) -> Option<usize> {
        let (data, end) = self.bounds();
        let at = data + offset;
        (at + N <= end).then_some(at)
    }
}

impl Frame for FreshFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        let (data, end) = self.bounds();
        end - data
    }

    #[inline(always)]
    fn view<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let at = self.checked::<N>(offset)?;
        // SAFETY: `N` bytes from `at` were held against the frame's end; who
        // asks for a view writes nothing while it is in use.
        Some(unsafe { &*(at as *const [u8; N]) })
    }
}
