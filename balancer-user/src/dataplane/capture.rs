//! Packets as a capturing program tells of them.
//!
//! Such a program is attached in the place of the one that only forwards, and
//! goes on with its maps. It has four of its own (`MAPS`): what is wanted,
//! which a [`Filter`] writes, and what is told, which a [`Ring`] reads. It
//! takes no more packets than it is granted, so that one whose controller has
//! died soon takes none.

use std::collections::BTreeSet;
use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use aya::maps::{HashMap, MapData, RingBuf};
use balancer_common::capture::{Control, Header, MAX_SNAPLEN, Work, wanted_member, wanted_service};
use balancer_common::verdict::Reason;
use tokio::io::unix::AsyncFd;

use super::mapping::Mapped;
use super::maps::{self, Source};
use super::memory;
use super::trial::Action;
use super::{Error, ServiceId};

/// The maps of a capturing program alone.
pub(super) const MAPS: [&str; 4] = [CONTROL, WANTED, WORK, RING];
const CONTROL: &str = "CAPTURE";
const WANTED: &str = "CAPTURE_WANTED";
const WORK: &str = "CAPTURE_WORK";
const RING: &str = "CAPTURED";

/// Services and members that a filter may name.
pub const MAX_WANTED: usize = 1 << 16;
/// Bytes of packets that may wait to be read.
const RING_LEN: u32 = 4 << 20;

/// Entries of the maps that differ from what the object says.
pub(super) fn sizes(cpus: u32) -> [(&'static str, u32); 3] {
    [(WANTED, MAX_WANTED as u32), (WORK, cpus), (RING, RING_LEN)]
}

/// What is to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wish {
    /// Of what.
    pub wanted: Wanted,
    /// With these verdicts; any if empty.
    pub actions: Vec<Action>,
    /// For these reasons; any if empty.
    pub reasons: Vec<Reason>,
    /// One packet in so many, by chance; 1 is every one.
    pub one_in: u32,
    /// Bytes of a frame, at most [`MAX_SNAPLEN`].
    pub snaplen: u32,
    /// How many packets may be taken before more are granted.
    pub at_once: u64,
}

/// Packets of what are told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Of any service, and of none.
    All,
    /// Of these services.
    Services(BTreeSet<ServiceId>),
    /// Of these members: service, index and incarnation.
    Members(BTreeSet<(ServiceId, u16, u16)>),
}

impl Wanted {
    fn by(&self) -> u32 {
        match self {
            Self::All => Control::ALL,
            Self::Services(_) => Control::BY_SERVICE,
            Self::Members(_) => Control::BY_MEMBER,
        }
    }

    fn keys(&self) -> BTreeSet<u64> {
        match self {
            Self::All => BTreeSet::new(),
            Self::Services(services) => services.iter().map(|id| wanted_service(*id)).collect(),
            Self::Members(members) => {
                let services = members.iter().map(|(id, ..)| wanted_service(*id));
                let members = members
                    .iter()
                    .map(|(id, index, incarnation)| wanted_member(*id, *index, *incarnation));
                services.chain(members).collect()
            }
        }
    }
}

/// Both ends of a capture that has begun.
pub struct Tap {
    /// What is told.
    pub ring: Ring,
    /// Of whom it is.
    pub filter: Filter,
}

impl Tap {
    /// Opens those of a loaded program, and says what is wanted.
    pub(super) fn open(source: &mut impl Source, wish: &Wish) -> Result<Self, Error> {
        let mut control: Mapped<Control> = memory::map(source, CONTROL)?;
        control.elements()[0] = Control {
            reasons: bits(wish.reasons.iter().map(|reason| *reason as u32)),
            actions: bits(wish.actions.iter().map(|action| number(*action))) as u32,
            by: wish.wanted.by(),
            snaplen: wish.snaplen.min(MAX_SNAPLEN as u32),
            sample: u32::MAX / wish.one_in.max(1),
            granted: wish.at_once,
            taken: 0,
        };
        let mut filter = Filter {
            wanted: maps::typed(source, WANTED)?,
            known: BTreeSet::new(),
        };
        filter.extend(&wish.wanted)?;
        let ring = Ring {
            told: maps::typed(source, RING)?,
            control,
            work: memory::map(source, WORK)?,
        };
        Ok(Self { ring, filter })
    }
}

/// All bits where there are none: whoever names nothing wants everything.
fn bits(numbers: impl Iterator<Item = u32>) -> u64 {
    match numbers.fold(0, |bits, number| bits | 1 << number) {
        0 => u64::MAX,
        bits => bits,
    }
}

/// XDP action, as `linux/bpf.h` has it.
fn number(action: Action) -> u32 {
    match action {
        Action::Aborted => 0,
        Action::Drop => 1,
        Action::Pass => 2,
        Action::Tx => 3,
        Action::Redirect => 4,
    }
}

/// Whose packets are told.
pub struct Filter {
    wanted: HashMap<MapData, u64, u32>,
    known: BTreeSet<u64>,
}

impl Filter {
    /// Adds what is wanted too. Nothing is ever taken out: service, index and
    /// incarnation together are never given twice.
    ///
    /// # Errors
    /// There are more than [`MAX_WANTED`], or the kernel refuses.
    pub fn extend(&mut self, wanted: &Wanted) -> Result<(), Error> {
        for key in wanted.keys() {
            if self.known.contains(&key) {
                continue;
            }
            if self.known.len() >= MAX_WANTED {
                return Err(Error::Full {
                    map: WANTED,
                    needed: self.known.len() + 1,
                    limit: MAX_WANTED,
                });
            }
            self.wanted
                .insert(key, 0, 0)
                .map_err(|error| Error::kernel("saying what is to be captured", error))?;
            self.known.insert(key);
        }
        Ok(())
    }
}

/// A packet that was told of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// When, in nanoseconds of `CLOCK_MONOTONIC`.
    pub time_ns: u64,
    /// Number of the interface it came in on.
    pub interface: u32,
    /// The receive queue there.
    pub queue: u32,
    /// The verdict.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// The service it is for.
    pub service: Option<ServiceId>,
    /// Index and incarnation of the member it goes to, or comes from.
    pub member: Option<(u16, u16)>,
    /// The slot its flow falls into, where one was looked up.
    pub slot: Option<u32>,
    /// Hash of its flow, likewise.
    pub hash: Option<u64>,
    /// Number of the interface it left by, where that is not its member's.
    pub egress: Option<u32>,
    /// The frame as it came.
    pub before: Frame,
    /// The frame as it left, if it did so by an interface.
    pub after: Option<Frame>,
}

/// What is kept of a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its bytes, from the Ethernet header on.
    pub bytes: Vec<u8>,
    /// How many it had.
    pub len: u32,
}

/// What was counted since the capture began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Packets that were looked at.
    pub looked: u64,
    /// Packets that were taken.
    pub taken: u64,
    /// Packets among these for which the ring had no room.
    pub lost: u64,
    /// Packets that were wanted beyond what was granted.
    pub limited: u64,
}

/// What is told, and how much may be.
pub struct Ring {
    told: RingBuf<MapData>,
    control: Mapped<Control>,
    work: Mapped<Work>,
}

impl Ring {
    /// The next packet, if there is one.
    ///
    /// # Errors
    /// The program told something that this build does not know.
    pub fn take(&mut self) -> Result<Option<Told>, Error> {
        self.told.next().map(|item| Told::read(&item)).transpose()
    }

    /// The same, to be waited for in the runtime that this is called in.
    ///
    /// # Errors
    /// The runtime takes no more.
    pub fn awaited(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is the map's, which lives as long as we do and
        // always gives the same one.
        unsafe { AsyncFd::register(self) }.map_err(|error| error.into_parts().1)
    }

    /// How many more packets may be taken from now on.
    pub fn grant(&mut self, more: u64) {
        let taken: u64 = self.control.part_of(0, offset_of!(Control, taken));
        self.control
            .store_long(offset_of!(Control, granted), taken + more);
    }

    /// What was counted.
    pub fn figures(&self) -> Figures {
        let mut figures = Figures::default();
        for cpu in 0..self.work.len() {
            let [looked, taken, lost, limited]: [u64; 4] = self.work.part_of(cpu, 0);
            figures.looked += looked;
            figures.taken += taken;
            figures.lost += lost;
            figures.limited += limited;
        }
        figures
    }
}

impl AsFd for Ring {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.told.as_fd()
    }
}

impl AsRawFd for Ring {
    fn as_raw_fd(&self) -> RawFd {
        self.told.as_raw_fd()
    }
}

impl Told {
    fn read(bytes: &[u8]) -> Result<Self, Error> {
        let foreign = || Error::Foreign(format!("a capture told {} bytes", bytes.len()));
        let (header, frames) = bytes
            .split_at_checked(size_of::<Header>())
            .ok_or_else(foreign)?;
        let header: Header = bytemuck::pod_read_unaligned(header);
        let (before, rest) = frames
            .split_at_checked(header.before_kept as usize)
            .ok_or_else(foreign)?;
        let after = rest.get(..header.after_kept as usize).ok_or_else(foreign)?;
        let reason = Reason::from_number(header.reason).ok_or_else(|| {
            Error::Foreign(format!("a capture told reason number {}", header.reason))
        })?;
        let frame = |bytes: &[u8], len| Frame {
            bytes: bytes.to_vec(),
            len,
        };
        let has_member = header.member != Header::NO_MEMBER;
        let has_slot = header.slot != Header::NO_SLOT;
        Ok(Self {
            time_ns: header.time_ns,
            interface: header.interface,
            queue: header.queue,
            action: super::runner::action(header.action),
            reason,
            service: (header.service != 0).then_some(header.service),
            member: has_member.then_some((header.member as u16, header.incarnation as u16)),
            slot: has_slot.then_some(header.slot),
            hash: has_slot.then_some(header.hash),
            egress: (header.egress != 0).then_some(header.egress),
            before: frame(before, header.before_len),
            after: (header.after_len != 0).then(|| frame(after, header.after_len)),
        })
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable;

    use super::*;

    fn told(header: Header, frames: &[u8]) -> Vec<u8> {
        [bytemuck::bytes_of(&header), frames].concat()
    }

    #[test]
    fn record_is_read_with_both_frames_and_what_is_cut_off_is_refused() {
        let header = Header {
            action: 3,
            reason: Reason::Forwarded as u32,
            service: 7,
            member: 2,
            incarnation: 9,
            slot: 5,
            hash: 11,
            before_len: 60,
            before_kept: 3,
            after_len: 80,
            after_kept: 2,
            egress: 6,
            ..Header::zeroed()
        };
        // The ring pads to eight bytes.
        let bytes = told(header, &[1, 2, 3, 4, 5, 0, 0, 0]);
        let packet = Told::read(&bytes).unwrap();
        assert_eq!(packet.before.bytes, [1, 2, 3]);
        assert_eq!(packet.before.len, 60);
        assert_eq!(packet.after.unwrap().bytes, [4, 5]);
        assert_eq!(packet.member, Some((2, 9)));
        assert_eq!((packet.slot, packet.hash), (Some(5), Some(11)));
        assert_eq!(packet.egress, Some(6));
        for len in 0..size_of::<Header>() + 5 {
            assert!(Told::read(&bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn record_without_member_has_neither_slot_nor_second_frame() {
        let header = Header {
            action: 1,
            member: Header::NO_MEMBER,
            slot: Header::NO_SLOT,
            ..Header::zeroed()
        };
        let packet = Told::read(&told(header, &[])).unwrap();
        assert_eq!(packet.action, Action::Drop);
        assert_eq!(
            (packet.service, packet.member, packet.slot, packet.hash),
            (None, None, None, None)
        );
        assert_eq!((packet.after, packet.egress), (None, None));
        let unknown = Header {
            reason: u32::MAX,
            ..header
        };
        assert!(Told::read(&told(unknown, &[])).is_err());
    }

    #[test]
    fn members_are_found_by_their_service_first() {
        let members = Wanted::Members(BTreeSet::from([(7, 1, 2), (7, 3, 4)]));
        let keys = members.keys();
        assert_eq!(keys.len(), 3);
        assert!(keys.contains(&wanted_service(7)));
        assert!(keys.contains(&wanted_member(7, 3, 4)));
        assert_eq!(bits(std::iter::empty()), u64::MAX);
        assert_eq!(bits([1, 3].into_iter()), 0b1010);
    }
}
