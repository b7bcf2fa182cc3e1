//! The maps of `decap`, and safe access.

use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use aya_ebpf::maps::lpm_trie::{Key, LpmTrie};
use balancer_common::decap::{Count, Form, Refusal};

/// Prefixes of outer sources that are trusted, the value unused; written by
/// the command, which also sets the size.
#[map]
static SOURCES_V4: LpmTrie<[u8; 4], u8> = LpmTrie::with_max_entries(1, 0);
/// As `SOURCES_V4`.
#[map]
static SOURCES_V6: LpmTrie<[u8; 16], u8> = LpmTrie::with_max_entries(1, 0);
/// One entry a form; written by the program.
#[map]
static FORMS: PerCpuArray<Count> = PerCpuArray::with_max_entries(Form::COUNT as u32, 0);
/// One entry a refusal; written by the program.
#[map]
static REFUSALS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Refusal::COUNT as u32, 0);

#[inline(always)]
pub(crate) fn trusts_v4(source: [u8; 4]) -> bool {
    SOURCES_V4.get(Key::new(32, source)).is_some()
}

#[inline(always)]
pub(crate) fn trusts_v6(source: [u8; 16]) -> bool {
    SOURCES_V6.get(Key::new(128, source)).is_some()
}

#[inline(always)]
pub(crate) fn count(form: Form, bytes: usize) {
    if let Some(count) = FORMS.get_ptr_mut(form as u32) {
        // SAFETY: the entry of this CPU in a live map; nobody else writes it.
        let count = unsafe { &mut *count };
        count.packets += 1;
        count.bytes += bytes as u64;
    }
}

#[inline(always)]
pub(crate) fn count_refusal(refusal: Refusal) {
    if let Some(count) = REFUSALS.get_ptr_mut(refusal as u32) {
        // SAFETY: as in `count`.
        unsafe { *count += 1 };
    }
}
