//! What crosses an interface, as tcpdump saw it.
//!
//! A capture is a pcap file that grows; frames are read from it while it does.
//! tcpdump sees a frame where the stack does: after an XDP program on the way
//! in, and never what such a program sent. So watch the ends that receive.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use pcap_file::pcap::PcapReader;

use super::checksums;
use super::cleanup::Scratch;
use super::namespace::Namespace;
use super::process::{self, Process};
use super::wait::wait_for;

/// How long tcpdump may take to start, to end, or to judge a file.
const LIMIT: Duration = Duration::from_secs(60);

/// Kibibytes of frames that wait for tcpdump.
const BUFFER_KIB: u32 = 32 << 10;

/// What tcpdump says of a packet whose checksum is wrong; in the words of its
/// printers for IPv4, TCP, UDP, and both kinds of ICMP.
const TCPDUMP_COMPLAINTS: [&str; 5] = [
    "bad cksum",
    "bad udp cksum",
    "(incorrect",
    "wrong icmp cksum",
    "[bad icmp6 cksum",
];

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: PathBuf,
    what: String,
    _directory: Scratch,
}

/// What a finished capture holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Frames whose checksums were found right.
    pub frames: u64,
    /// Frames that tcpdump was too slow for.
    pub missed: u64,
}

impl Capture {
    /// Starts it on an interface, with a filter in tcpdump's words or none.
    ///
    /// # Errors
    /// When tcpdump is not there or refuses.
    pub fn start(namespace: &Namespace, interface: &str, filter: &str) -> Result<Self> {
        let directory = Scratch::create("capture")?;
        let file = directory.path().join("frames.pcap");
        let mut command = namespace.command("tcpdump");
        command.args(["-i", interface, "-n", "-s", "0", "-Z", "root"]);
        // At once into the file, which is read while it grows.
        command.args(["--immediate-mode", "--packet-buffered"]);
        command
            .args(["-B", &BUFFER_KIB.to_string(), "-w"])
            .arg(&file);
        command.args(filter.split_whitespace());
        let what = format!("{interface} in {}", namespace.name());
        let log = directory.path().join("log");
        let mut process = Process::spawn("tcpdump", command, &log)?;
        let ready = log.clone();
        process.wait_until(&format!("tcpdump to listen on {what}"), LIMIT, || {
            let text = std::fs::read_to_string(&ready).ok()?;
            text.contains("listening on").then_some(())
        })?;
        Ok(Self {
            process,
            file,
            what,
            _directory: directory,
        })
    }

    /// The file, in pcap's format, which grows.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The frames so far.
    ///
    /// # Errors
    /// When the file is damaged.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        frames(&self.file)
    }

    /// Waits for a frame.
    ///
    /// # Errors
    /// When none comes in time; it says how many others came.
    pub fn wait_frame<T>(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<T> {
        wait_for(&format!("{what} on {}", self.what), deadline, || {
            let frames = self.frames().ok()?;
            frames.iter().find_map(|frame| condition(frame))
        })
        .with_context(|| match self.frames() {
            Ok(frames) => format!("{} other frames were captured", frames.len()),
            Err(error) => format!("{error:#}"),
        })
    }

    /// The lines in which tcpdump finds a checksum wrong. It does not know that
    /// a tunnel over IPv6 may do without one (RFC 6935).
    ///
    /// # Errors
    /// When it cannot read the file.
    pub fn tcpdump_complaints(&self) -> Result<Vec<String>> {
        let mut command = Command::new("tcpdump");
        command
            .args(["-n", "-vv", "-Z", "root", "-r"])
            .arg(&self.file);
        let output = process::run(command, LIMIT)?;
        ensure!(
            output.status.success(),
            "tcpdump: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let text = String::from_utf8_lossy(&output.stdout);
        let is_complaint = |line: &&str| {
            let bare_tunnel = line.contains(".6080: [bad udp cksum 0x0000 ->");
            !bare_tunnel && TCPDUMP_COMPLAINTS.iter().any(|it| line.contains(it))
        };
        let lines = text.lines().filter(is_complaint);
        Ok(lines.map(str::to_owned).collect())
    }

    /// Ends it, and has every checksum judged: by tcpdump and, as tcpdump knows
    /// no GUE, by [`checksums`] as well.
    ///
    /// # Errors
    /// When one is wrong, or nothing was captured.
    pub fn judge(mut self) -> Result<Judged> {
        self.process.stop(LIMIT)?;
        let frames = self.frames()?;
        for (number, frame) in (1..).zip(&frames) {
            checksums::judge(frame).map_err(|fault| {
                anyhow!(
                    "frame {number} on {}: {fault}: {}",
                    self.what,
                    crate::frames::hex(frame)
                )
            })?;
        }
        let complaints = self.tcpdump_complaints()?;
        ensure!(
            complaints.is_empty(),
            "tcpdump on {}: {} of {} frames are damaged, such as {}",
            self.what,
            complaints.len(),
            frames.len(),
            complaints[0]
        );
        ensure!(!frames.is_empty(), "nothing was captured on {}", self.what);
        Ok(Judged {
            frames: frames.len() as u64,
            missed: missed(&self.process.log())?,
        })
    }
}

/// Reads a pcap file that may still be growing: a frame that is not whole yet
/// is left for later.
fn frames(file: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut frames = Vec::new();
    // tcpdump has not written the file's header yet.
    let Ok(mut reader) = PcapReader::new(bytes.as_slice()) else {
        return Ok(frames);
    };
    while let Some(packet) = reader.next_packet() {
        match packet {
            Ok(packet) => frames.push(packet.data.into_owned()),
            Err(pcap_file::PcapError::IncompleteBuffer) => break,
            Err(pcap_file::PcapError::IoError(error))
                if error.kind() == ErrorKind::UnexpectedEof =>
            {
                break;
            }
            Err(error) => bail!("{} is damaged: {error}", file.display()),
        }
    }
    Ok(frames)
}

/// Reads "12 packets dropped by kernel" from tcpdump's last words.
fn missed(log: &str) -> Result<u64> {
    let line = log
        .lines()
        .find_map(|line| line.strip_suffix(" dropped by kernel"));
    let count = line.and_then(|line| line.split(' ').next());
    let count = count.with_context(|| format!("tcpdump does not say what it missed: {log}"))?;
    Ok(count.parse()?)
}
