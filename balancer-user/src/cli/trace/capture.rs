//! Captures: pcap and pcapng in, pcap out.
//!
//! Lengths of a packet are taken as they come: a capture that was cut to a
//! snap length is read, and its packets say how long they were on the wire.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufWriter, Cursor, ErrorKind, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use pcap_file::pcap::{PcapHeader, PcapReader, PcapWriter, RawPcapPacket};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption,
};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, PcapError, TsResolution};

use super::frames::Frame;

/// First four bytes of a pcapng file, the same in both byte orders.
const PCAPNG_MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];
/// First four bytes of pcap files, in both byte orders and resolutions.
const PCAP_MAGICS: [[u8; 4]; 4] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0x4d, 0x3c, 0xb2, 0xa1],
];
/// Longest frame that is written: one of [`super::MAX_FRAME`] and a header.
const SNAP_LEN: u32 = 65_535;

type Input = Box<dyn Read>;

/// A capture that is being read.
pub(in crate::cli) struct CaptureReader {
    path: PathBuf,
    /// Packets read so far.
    count: u64,
    format: Format,
}

enum Format {
    Pcap(PcapReader<Input>),
    PcapNg(PcapNgReader<Input>),
}

impl CaptureReader {
    /// Opens a capture of Ethernet frames; `-` is stdin.
    pub(in crate::cli) fn open(path: &Path) -> anyhow::Result<Self> {
        let context = || format!("cannot read {}", path.display());
        let mut input: Input = if path.as_os_str() == "-" {
            Box::new(io::stdin())
        } else {
            Box::new(File::open(path).with_context(context)?)
        };
        let mut magic = Vec::new();
        (&mut input)
            .take(4)
            .read_to_end(&mut magic)
            .with_context(context)?;
        let whole: Input = Box::new(Cursor::new(magic.clone()).chain(input));
        let name = path.display();
        let cut = |error| describe(error).context(format!("{name}: the header cannot be read"));
        let format = match <[u8; 4]>::try_from(magic.as_slice()) {
            Ok(PCAPNG_MAGIC) => Format::PcapNg(PcapNgReader::new(whole).map_err(cut)?),
            Ok(magic) if PCAP_MAGICS.contains(&magic) => {
                let reader = PcapReader::new(whole).map_err(cut)?;
                require_ethernet(reader.header().datalink).with_context(|| name.to_string())?;
                Format::Pcap(reader)
            }
            _ => bail!("{name} is neither pcap nor pcapng"),
        };
        Ok(Self {
            path: path.to_owned(),
            count: 0,
            format,
        })
    }

    /// The next frame, if there is one.
    pub(in crate::cli) fn next_frame(&mut self) -> anyhow::Result<Option<Frame>> {
        let frame = match &mut self.format {
            Format::Pcap(reader) => next_of_pcap(reader),
            Format::PcapNg(reader) => next_of_pcapng(reader),
        };
        let frame =
            frame.with_context(|| format!("{}: packet {}", self.path.display(), self.count))?;
        self.count += u64::from(frame.is_some());
        Ok(frame)
    }
}

fn next_of_pcap(reader: &mut PcapReader<Input>) -> anyhow::Result<Option<Frame>> {
    let nanoseconds = match reader.header().ts_resolution {
        TsResolution::MicroSecond => 1_000,
        TsResolution::NanoSecond => 1,
    };
    // The raw reader: the other one refuses packets longer than the snap
    // length, which is what every cut packet is.
    let Some(packet) = reader.next_raw_packet() else {
        return Ok(None);
    };
    let packet = packet.map_err(describe)?;
    let seconds = Duration::from_secs(packet.ts_sec.into());
    let fraction = Duration::from_nanos(u64::from(packet.ts_frac) * nanoseconds);
    Ok(Some(Frame {
        original_len: packet.orig_len as usize,
        timestamp: seconds + fraction,
        bytes: packet.data.into_owned(),
    }))
}

/// What a packet block says, whatever its kind.
struct PacketBlock {
    interface: usize,
    ticks: Option<u64>,
    original_len: u32,
    bytes: Vec<u8>,
}

fn next_of_pcapng(reader: &mut PcapNgReader<Input>) -> anyhow::Result<Option<Frame>> {
    while let Some(block) = reader.next_block() {
        let Some(mut packet) = packet_block(block.map_err(describe)?) else {
            continue;
        };
        let interface = reader.interfaces().get(packet.interface).ok_or_else(|| {
            anyhow!(
                "it names interface {}, which the file does not describe",
                packet.interface
            )
        })?;
        require_ethernet(interface.linktype)?;
        let Some(ticks) = packet.ticks else {
            // A simple block does not say how much of the packet is padding.
            let snap_len = match interface.snaplen {
                0 => u32::MAX,
                len => len,
            };
            let len = packet.original_len.min(snap_len) as usize;
            packet.bytes.truncate(len);
            return Ok(Some(packet.into_frame(Duration::ZERO)));
        };
        let timestamp = since_1970(interface, ticks);
        return Ok(Some(packet.into_frame(timestamp)));
    }
    Ok(None)
}

fn packet_block(block: Block<'_>) -> Option<PacketBlock> {
    match block {
        Block::EnhancedPacket(packet) => Some(PacketBlock {
            interface: packet.interface_id as usize,
            // The library calls every tick a nanosecond.
            ticks: Some(u64::try_from(packet.timestamp.as_nanos()).unwrap_or(u64::MAX)),
            original_len: packet.original_len,
            bytes: packet.data.into_owned(),
        }),
        Block::Packet(packet) => Some(PacketBlock {
            interface: packet.interface_id.into(),
            ticks: Some(packet.timestamp),
            original_len: packet.original_len,
            bytes: packet.data.into_owned(),
        }),
        Block::SimplePacket(packet) => Some(PacketBlock {
            interface: 0,
            ticks: None,
            original_len: packet.original_len,
            bytes: packet.data.into_owned(),
        }),
        _ => None,
    }
}

impl PacketBlock {
    fn into_frame(self, timestamp: Duration) -> Frame {
        Frame {
            bytes: self.bytes,
            original_len: self.original_len as usize,
            timestamp,
        }
    }
}

/// The time that ticks of an interface stand for; `if_tsresol` says how long
/// one is (draft-ietf-opsawg-pcapng, 4.2), a microsecond where it is absent.
fn since_1970(interface: &InterfaceDescriptionBlock<'_>, ticks: u64) -> Duration {
    let resolution = interface.options.iter().find_map(|option| match option {
        InterfaceDescriptionOption::IfTsResol(resolution) => Some(*resolution),
        _ => None,
    });
    let resolution = resolution.unwrap_or(6);
    let (base, exponent) = match resolution & 0x80 {
        0 => (10_u128, u32::from(resolution)),
        _ => (2, u32::from(resolution & 0x7f)),
    };
    let Some(ticks_a_second) = base.checked_pow(exponent) else {
        return Duration::ZERO;
    };
    let seconds = u128::from(ticks) / ticks_a_second;
    let rest = u128::from(ticks) % ticks_a_second;
    // `rest` has 64 bits and a thousand millions 30, so this fits.
    let nanoseconds = rest * 1_000_000_000 / ticks_a_second;
    Duration::from_secs(seconds as u64) + Duration::from_nanos(nanoseconds as u64)
}

/// The upper half of the link type of a pcap may hold the length of a frame
/// check sequence.
fn require_ethernet(link: DataLink) -> anyhow::Result<()> {
    let number = u32::from(link) & 0xffff;
    if number != u32::from(DataLink::ETHERNET) {
        bail!(
            "link type {number}, and only Ethernet (1) can be traced; capture on an Ethernet \
             interface and not on `any` or a tunnel"
        );
    }
    Ok(())
}

fn describe(error: PcapError) -> anyhow::Error {
    match error {
        PcapError::IoError(error) if error.kind() == ErrorKind::UnexpectedEof => {
            anyhow!("the file is cut off in the middle of it")
        }
        PcapError::IoError(error) => error.into(),
        error => anyhow!("the file is damaged: {error}"),
    }
}

/// Whether both paths lead to one file.
pub(super) fn are_the_same(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}

/// A pcap that is being written.
pub(super) struct CaptureWriter<W: Write> {
    path: PathBuf,
    writer: PcapWriter<W>,
}

impl CaptureWriter<Box<dyn Write>> {
    /// Creates the file, or empties it.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let doing = || format!("writing {}", path.display());
        let file = File::create(path).with_context(doing)?;
        let header = PcapHeader {
            snaplen: SNAP_LEN,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::MicroSecond,
            endianness: pcap_file::Endianness::Little,
            ..PcapHeader::default()
        };
        let output: Box<dyn Write> = Box::new(BufWriter::new(file));
        let writer = PcapWriter::with_header(output, header)
            .map_err(describe)
            .with_context(doing)?;
        Ok(Self {
            path: path.to_owned(),
            writer,
        })
    }
}

impl<W: Write> CaptureWriter<W> {
    /// Adds a frame; a time that the format cannot hold becomes its last one.
    pub(super) fn write(&mut self, timestamp: Duration, frame: &[u8]) -> anyhow::Result<()> {
        let len = frame.len() as u32;
        let packet = RawPcapPacket {
            ts_sec: u32::try_from(timestamp.as_secs()).unwrap_or(u32::MAX),
            ts_frac: timestamp.subsec_micros(),
            incl_len: len,
            orig_len: len,
            data: Cow::Borrowed(frame),
        };
        self.writer
            .write_raw_packet(&packet)
            .map_err(describe)
            .with_context(|| format!("writing {}", self.path.display()))?;
        Ok(())
    }

    /// Hands everything to the system.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        self.writer
            .into_writer()
            .flush()
            .with_context(|| format!("writing {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests;
