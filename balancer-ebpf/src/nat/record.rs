//! Records of `NAT` where they lie.
//!
//! Requests and replies of a flow may be on two CPUs, so what changes in a
//! record is read and written field by field, and each side's flags are a
//! field of their own. An entry that the kernel gives to another flow in the
//! meantime is the least recently used one, which one just looked up is not.

use balancer_common::layout::{NatKey, NatRecord, NatSettings};

use super::Scratch;
use crate::trace;

/// How late the time of a flow's last packet may be written.
const SECOND_NS: u64 = 1_000_000_000;

/// A record in the map.
#[derive(Clone, Copy)]
pub(crate) struct Record(*mut NatRecord);

impl Record {
    /// `record` is a value of a live map.
    #[inline(always)]
    pub(crate) fn new(record: *mut NatRecord) -> Self {
        Self(record)
    }

    #[inline(always)]
    fn get(&self) -> &NatRecord {
        // SAFETY: a value of a live map. What others write in it meanwhile
        // are whole fields, and no reader keeps more than one of them.
        unsafe { &*self.0 }
    }

    #[inline(always)]
    pub(crate) fn kind(self) -> u16 {
        self.get().kind
    }

    #[inline(always)]
    pub(crate) fn service(self) -> u32 {
        self.get().service
    }

    /// Copies what becomes of a reply; `false` if the record is of none.
    #[inline(always)]
    pub(crate) fn write_reply(&self, scratch: &mut Scratch) -> bool {
        let record = self.get();
        if record.kind != NatRecord::REPLY {
            return false;
        }
        scratch.source = record.source;
        scratch.destination = record.destination;
        scratch.ports = record.ports;
        scratch.record.service = record.service;
        scratch.record.egress = record.egress;
        scratch.record.ethernet = record.ethernet;
        if trace::is_capturing() {
            scratch.record.member = record.member;
            scratch.record.incarnation = record.incarnation;
        }
        true
    }

    /// The interface and the Ethernet addresses of replies.
    #[inline(always)]
    fn way(&self) -> (u32, &[u8; 12]) {
        let record = self.get();
        (record.egress, &record.ethernet)
    }

    #[inline(always)]
    pub(crate) fn is_over(self, now: u64, settings: &NatSettings) -> bool {
        self.get().is_over(now, settings)
    }

    #[inline(always)]
    pub(crate) fn is_over_in_a_crowd(self, now: u64, settings: &NatSettings) -> bool {
        self.get().is_over_in_a_crowd(now, settings)
    }

    /// Whether replies become what `other` says: it is of the same flow.
    #[inline(always)]
    pub(crate) fn is_of(self, other: &NatRecord) -> bool {
        let record = self.get();
        word(&record.source) == word(&other.source)
            && word(&record.destination) == word(&other.destination)
            && u32::from_ne_bytes(record.ports) == u32::from_ne_bytes(other.ports)
            && record.kind == other.kind
    }

    /// A client's packet of the flow. A SYN starts it anew. The packets may
    /// come another way than before, as after a router's failure, and replies
    /// follow them.
    #[inline(always)]
    pub(crate) fn note_request(self, request: &NatRecord, is_syn: bool) {
        let (was_client, was_backend) = (self.get().client, self.get().backend);
        let (client, backend) = if is_syn {
            (request.client, 0)
        } else {
            (was_client | request.client, was_backend)
        };
        let is_news = client != was_client || backend != was_backend;
        if is_news || self.is_late(request.seen_ns) {
            // SAFETY: as in `get`.
            unsafe {
                (&raw mut (*self.0).client).write_volatile(client);
                (&raw mut (*self.0).backend).write_volatile(backend);
                (&raw mut (*self.0).seen_ns).write_volatile(request.seen_ns);
            }
        }
        let (egress, ethernet) = self.way();
        if request.egress != egress || request.ethernet != *ethernet {
            // SAFETY: as in `get`.
            unsafe {
                (&raw mut (*self.0).egress).write_volatile(request.egress);
                (&raw mut (*self.0).ethernet).write_volatile(request.ethernet);
            }
        }
    }

    /// The key of the packets that answer what leaves by this record: of a
    /// request's replies, of a reply's requests.
    #[inline(always)]
    pub(crate) fn write_answer_key(&self, protocol: u32, key: &mut NatKey) {
        let record = self.get();
        let [a, b, c, d] = record.ports;
        key.source = record.destination;
        key.destination = record.source;
        key.ports = [c, d, a, b];
        key.protocol = protocol;
    }

    /// Index and incarnation of the member that a request record names.
    #[inline(always)]
    pub(crate) fn seat(&self) -> (u16, u16) {
        (self.get().member, self.get().incarnation)
    }

    #[inline(always)]
    pub(crate) fn is_closed(&self) -> bool {
        self.get().is_closed()
    }

    /// A backend's packet of the flow; gives whether none was noted for long.
    #[inline(always)]
    pub(crate) fn note_reply(self, closing: u8, now: u64) -> bool {
        let is_late = self.is_late(now);
        let backend = self.get().backend | closing;
        if backend != self.get().backend || is_late {
            // SAFETY: as in `get`.
            unsafe {
                (&raw mut (*self.0).backend).write_volatile(backend);
                (&raw mut (*self.0).seen_ns).write_volatile(now);
            }
        }
        is_late
    }

    #[inline(always)]
    fn is_late(self, now: u64) -> bool {
        now.saturating_sub(self.get().seen_ns) >= SECOND_NS
    }
}

#[inline(always)]
fn word(address: &[u8; 16]) -> u128 {
    u128::from_ne_bytes(*address)
}
