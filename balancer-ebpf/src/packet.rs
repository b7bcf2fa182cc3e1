//! Bounds-checked access to the frame: the only raw packet pointers.

use aya_ebpf::programs::XdpContext;
use balancer_common::parse::Frame;

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
    pub fn write<const N: usize>(&self, offset: usize, bytes: [u8; N]) -> Option<()> {
        let at = self.checked::<N>(offset)?;
        // SAFETY: `checked` holds `N` bytes from `at` against the frame's
        // end; packet memory has no alignment, so the write is unaligned.
        unsafe { core::ptr::write_unaligned(at as *mut [u8; N], bytes) };
        Some(())
    }

    #[inline(always)]
    fn checked<const N: usize>(&self, offset: usize) -> Option<usize> {
        let at = self.0.data() + offset;
        (at + N <= self.0.data_end()).then_some(at)
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn len(&self) -> usize {
        self.0.data_end() - self.0.data()
    }

    #[inline(always)]
    fn bytes<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        let at = self.checked::<N>(offset)?;
        // SAFETY: as in `write`.
        Some(unsafe { core::ptr::read_unaligned(at as *const [u8; N]) })
    }
}
