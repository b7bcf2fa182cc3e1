//! Packets as pcapng (draft-ietf-opsawg-pcapng): two interfaces for each of the
//! host's, one for frames as they came and one for frames as they left.
//!
//! Both frames of a packet bear the same `epb_packetid` and the XDP verdict in
//! `epb_verdict`; the comment says what no other option can.

use std::borrow::Cow;
use std::io::{ErrorKind, Write};
use std::time::Duration;

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::blocks::interface_statistics::{
    InterfaceStatisticsBlock, InterfaceStatisticsOption,
};
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgWriter, RawBlock};
use pcap_file::{DataLink, PcapError};

use super::super::output::Closed;
use crate::api::capture::{CaptureFigures, Captured, CapturedFrame, CapturedPacket};

/// Type of a block with a packet, and the bytes of its type and lengths.
const ENHANCED_PACKET: u32 = 6;
const BLOCK_FRAME: u32 = 12;
/// Options of such a block.
const OPT_COMMENT: u16 = 1;
const EPB_FLAGS: u16 = 2;
const EPB_PACKETID: u16 = 5;
const EPB_QUEUE: u16 = 6;
const EPB_VERDICT: u16 = 7;
/// Kind of an `epb_verdict`: eight bytes of an XDP action follow.
const VERDICT_XDP: u8 = 2;
/// `epb_flags`: the direction.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;
/// `if_tsresol`: nanoseconds.
const NANOSECONDS: u8 = 9;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    In,
    Out,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::In => "in",
            Self::Out => "out",
        }
    }
}

/// A file that is being written.
pub(super) struct PcapNg<W: Write> {
    writer: PcapNgWriter<W>,
    /// Their place is their number.
    interfaces: Vec<(String, Way)>,
    snaplen: u32,
    filter: String,
    last: Duration,
}

impl<W: Write> PcapNg<W> {
    /// Begins one for a capture that has begun.
    pub(super) fn begin(output: W, begun: &Captured) -> anyhow::Result<Self> {
        let mut section = SectionHeaderBlock::default();
        let application = format!("balancer {}", env!("CARGO_PKG_VERSION"));
        section.options = vec![SectionHeaderOption::UserApplication(application.into())];
        let writer = PcapNgWriter::with_section_header(output, section);
        let mut file = Self {
            writer: writer.map_err(told_apart)?,
            interfaces: Vec::new(),
            snaplen: 0,
            filter: String::new(),
            last: Duration::ZERO,
        };
        if let Captured::Begun {
            what,
            interfaces,
            snaplen,
            ..
        } = begun
        {
            file.snaplen = *snaplen;
            file.filter.clone_from(what);
            for interface in interfaces {
                file.interface(interface, Way::In)?;
                file.interface(interface, Way::Out)?;
            }
        }
        file.flush()?;
        Ok(file)
    }

    /// Adds a packet: a frame, or two.
    pub(super) fn packet(&mut self, packet: &CapturedPacket) -> anyhow::Result<()> {
        let interface = self.interface(&packet.interface, Way::In)?;
        self.frame(packet, interface, Way::In, &packet.frame)?;
        if let Some(frame) = &packet.out {
            let name = packet.out_interface.as_deref().unwrap_or("unknown");
            let interface = self.interface(name, Way::Out)?;
            self.frame(packet, interface, Way::Out, frame)?;
        }
        self.flush()
    }

    /// Ends the file with what was counted.
    pub(super) fn finish(&mut self, figures: &CaptureFigures) -> anyhow::Result<()> {
        let since_1970 = u64::try_from(self.last.as_nanos()).unwrap_or(u64::MAX);
        let block = InterfaceStatisticsBlock {
            interface_id: 0,
            timestamp: since_1970,
            options: vec![
                InterfaceStatisticsOption::Comment(Cow::Owned(format!(
                    "captured={} limited={} lost={} looked_at={}",
                    figures.captured, figures.limited, figures.lost, figures.looked_at
                ))),
                InterfaceStatisticsOption::IsbOsDrop(figures.lost + figures.limited),
                InterfaceStatisticsOption::IsbUsrDeliv(figures.captured),
            ],
        };
        // Without an interface there is nothing to count.
        if !self.interfaces.is_empty() {
            self.writer.write_pcapng_block(block).map_err(told_apart)?;
        }
        self.flush()
    }

    fn frame(
        &mut self,
        packet: &CapturedPacket,
        interface: u32,
        way: Way,
        frame: &CapturedFrame,
    ) -> anyhow::Result<()> {
        let bytes = STANDARD
            .decode(&frame.bytes)
            .with_context(|| format!("packet {} is not what it should be", packet.number))?;
        let direction = match way {
            Way::In => INBOUND,
            Way::Out => OUTBOUND,
        };
        let mut options = Options::default();
        options.add(OPT_COMMENT, comment(packet, way).as_bytes());
        options.add(EPB_FLAGS, &direction.to_be_bytes());
        options.add(EPB_PACKETID, &packet.number.to_be_bytes());
        if way == Way::In {
            options.add(EPB_QUEUE, &packet.queue.to_be_bytes());
        }
        options.add(EPB_VERDICT, &verdict(&packet.verdict));
        self.last = Duration::new(packet.seconds, packet.nanos);
        let nanos = u64::try_from(self.last.as_nanos()).unwrap_or(u64::MAX);
        let mut body = interface.to_be_bytes().to_vec();
        body.extend(nanos.to_be_bytes());
        body.extend((bytes.len() as u32).to_be_bytes());
        body.extend(frame.len.to_be_bytes());
        body.extend(padded(&bytes));
        body.extend(options.ended());
        let len = body.len() as u32 + BLOCK_FRAME;
        let block = RawBlock {
            type_: ENHANCED_PACKET,
            initial_len: len,
            body: body.into(),
            trailer_len: len,
        };
        self.writer.write_raw_block(&block).map_err(told_apart)?;
        Ok(())
    }

    /// The number of an interface, which is described first where it is new.
    fn interface(&mut self, name: &str, way: Way) -> anyhow::Result<u32> {
        let known = |(known, its): &(String, Way)| known == name && *its == way;
        if let Some(number) = self.interfaces.iter().position(known) {
            return Ok(number as u32);
        }
        let described = match way {
            Way::In => "frames as they came in",
            Way::Out => "frames as the balancer sent them",
        };
        // The first byte says that the filter is a text.
        let filter = [b"\0", self.filter.as_bytes()].concat();
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: self.snaplen,
            options: vec![
                InterfaceDescriptionOption::IfName(format!("{name} {}", way.name()).into()),
                InterfaceDescriptionOption::IfDescription(described.into()),
                InterfaceDescriptionOption::IfTsResol(NANOSECONDS),
                InterfaceDescriptionOption::IfFilter(filter.into()),
            ],
        };
        self.writer.write_pcapng_block(block).map_err(told_apart)?;
        self.interfaces.push((name.to_owned(), way));
        Ok(self.interfaces.len() as u32 - 1)
    }

    /// Whoever looks on sees each packet at once.
    fn flush(&mut self) -> anyhow::Result<()> {
        let flushed = self.writer.get_mut().flush();
        flushed.map_err(|error| told_apart(PcapError::IoError(error)))
    }
}

/// Options of a packet. The library has names for some only, and writes no
/// others.
#[derive(Default)]
struct Options(Vec<u8>);

impl Options {
    fn add(&mut self, code: u16, value: &[u8]) {
        self.0.extend(code.to_be_bytes());
        self.0.extend((value.len() as u16).to_be_bytes());
        self.0.extend(padded(value));
    }

    fn ended(mut self) -> Vec<u8> {
        self.0.extend([0; 4]);
        self.0
    }
}

/// With zeros up to a multiple of four bytes.
fn padded(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let missing = bytes.len().next_multiple_of(4) - bytes.len();
    bytes.iter().copied().chain(std::iter::repeat_n(0, missing))
}

fn verdict(name: &str) -> [u8; 9] {
    let action: u64 = match name {
        "drop" => 1,
        "pass" => 2,
        "tx" => 3,
        "redirect" => 4,
        _ => 0,
    };
    let mut verdict = [VERDICT_XDP; 9];
    verdict[1..].copy_from_slice(&action.to_be_bytes());
    verdict
}

/// `in verdict=tx reason=forwarded service=web backend=web-1 slot=7 hash=…`.
fn comment(packet: &CapturedPacket, way: Way) -> String {
    let mut text = format!(
        "{} verdict={} reason={}",
        way.name(),
        packet.verdict,
        packet.reason
    );
    let parts = [
        ("service", packet.service.clone()),
        ("backend", packet.backend.clone()),
        ("slot", packet.slot.map(|slot| slot.to_string())),
        ("hash", packet.hash.clone()),
    ];
    for (name, value) in parts {
        if let Some(value) = value {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    text
}

fn told_apart(error: PcapError) -> anyhow::Error {
    match error {
        PcapError::IoError(error) if error.kind() == ErrorKind::BrokenPipe => Closed.into(),
        error => anyhow::Error::from(error).context("writing packets"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption;
    use pcap_file::pcapng::{Block, PcapNgReader};

    use super::*;

    fn frame(bytes: &[u8], len: u32) -> CapturedFrame {
        CapturedFrame {
            len,
            bytes: STANDARD.encode(bytes),
        }
    }

    pub(in super::super) fn packet() -> CapturedPacket {
        CapturedPacket {
            number: 7,
            seconds: 1_779_006_600,
            nanos: 123_456_789,
            interface: "eth0".to_owned(),
            queue: 3,
            verdict: "tx".to_owned(),
            reason: "forwarded".to_owned(),
            service: Some("web".to_owned()),
            backend: Some("web-1".to_owned()),
            slot: Some(9),
            hash: Some("00000000000000ff".to_owned()),
            frame: frame(&[1; 14], 60),
            out_interface: Some("eth0".to_owned()),
            out: Some(frame(&[2; 15], 80)),
        }
    }

    fn begun() -> Captured {
        Captured::Begun {
            capture: 1,
            what: "service web".to_owned(),
            interfaces: vec!["eth0".to_owned()],
            snaplen: 15,
        }
    }

    #[test]
    fn both_frames_are_there_with_all_that_is_known() {
        let mut bytes = Vec::new();
        let mut file = PcapNg::begin(&mut bytes, &begun()).unwrap();
        file.packet(&packet()).unwrap();
        let dropped = CapturedPacket {
            number: 8,
            verdict: "drop".to_owned(),
            reason: "no_backend".to_owned(),
            backend: None,
            slot: None,
            hash: None,
            out_interface: None,
            out: None,
            ..packet()
        };
        file.packet(&dropped).unwrap();
        file.finish(&CaptureFigures {
            captured: 2,
            lost: 1,
            limited: 3,
            looked_at: 9,
        })
        .unwrap();
        let mut reader = PcapNgReader::new(&bytes[..]).unwrap();
        let (mut names, mut packets, mut counted) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(block) = reader.next_block() {
            match block.unwrap().into_owned() {
                Block::InterfaceDescription(it) => names.push(it.options[0].clone()),
                Block::EnhancedPacket(it) => packets.push(it),
                Block::InterfaceStatistics(it) => counted.push(it),
                other => panic!("{other:?}"),
            }
        }
        let name = |name: &str| InterfaceDescriptionOption::IfName(name.to_owned().into());
        assert_eq!(names, [name("eth0 in"), name("eth0 out")]);
        let seen: Vec<_> = packets
            .iter()
            .map(|it| (it.interface_id, it.data.len(), it.original_len))
            .collect();
        assert_eq!(seen, [(0, 14, 60), (1, 15, 80), (0, 14, 60)]);
        let nanos = packets[0].timestamp.as_nanos();
        assert_eq!(nanos, 1_779_006_600_123_456_789);
        let comment = |at: usize| match &packets[at].options[0] {
            EnhancedPacketOption::Comment(text) => text.to_string(),
            other => panic!("{other:?}"),
        };
        let common = "reason=forwarded service=web backend=web-1 slot=9 hash=00000000000000ff";
        assert_eq!(comment(0), format!("in verdict=tx {common}"));
        assert_eq!(comment(1), format!("out verdict=tx {common}"));
        assert_eq!(comment(2), "in verdict=drop reason=no_backend service=web");
        let has = |at: usize, code, value: &[u8]| {
            packets[at].options.iter().any(|option| match option {
                EnhancedPacketOption::Unknown(it) => it.code == code && *it.value == *value,
                _ => false,
            })
        };
        let directions = [INBOUND, OUTBOUND, INBOUND].map(EnhancedPacketOption::Flags);
        for (packet, direction) in packets.iter().zip(&directions) {
            assert!(packet.options.contains(direction), "{packet:?}");
        }
        for at in [0, 1] {
            assert!(has(at, EPB_PACKETID, &[0, 0, 0, 0, 0, 0, 0, 7]));
            assert!(has(at, EPB_VERDICT, &[2, 0, 0, 0, 0, 0, 0, 0, 3]));
        }
        assert!(has(0, EPB_QUEUE, &[0, 0, 0, 3]));
        assert!(has(2, EPB_VERDICT, &[2, 0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(counted.len(), 1);
        assert!(
            counted[0]
                .options
                .contains(&InterfaceStatisticsOption::IsbOsDrop(4))
        );
    }

    #[test]
    fn interface_that_was_not_announced_is_described_when_it_is_needed() {
        let mut bytes = Vec::new();
        let mut file = PcapNg::begin(&mut bytes, &begun()).unwrap();
        let elsewhere = CapturedPacket {
            verdict: "redirect".to_owned(),
            out_interface: Some("eth1".to_owned()),
            ..packet()
        };
        file.packet(&elsewhere).unwrap();
        file.packet(&elsewhere).unwrap();
        let names: Vec<_> = file
            .interfaces
            .iter()
            .map(|(name, way)| (&**name, *way))
            .collect();
        assert_eq!(
            names,
            [("eth0", Way::In), ("eth0", Way::Out), ("eth1", Way::Out)]
        );
    }
}
