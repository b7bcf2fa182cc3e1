//! Packets through the very program that a balancer has attached.
//!
//! A test run in the kernel, over the running maps: flows are recorded and
//! counted as those of clients are, and nothing leaves the machine. What came
//! out says which backend it would have gone to.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result, bail, ensure};

use crate::balancer::Balancer;
use crate::frames::Packet;
use crate::lab::test_run::PinnedProgram;
use crate::lab::{Lab, Node};

/// Room for any frame of ours and the headers put before it.
const ROOM: usize = 2048;
/// `XDP_TX` and `XDP_REDIRECT`.
const FORWARDED: [u32; 2] = [3, 4];

/// The program that a balancer has attached.
#[derive(Debug)]
pub struct LiveProgram {
    program: PinnedProgram,
}

impl LiveProgram {
    /// That of a balancer at rest: a change may bring another one.
    ///
    /// # Errors
    /// When there is not just one.
    pub fn of(balancer: &Balancer<'_>) -> Result<Self> {
        let mut found = None;
        for entry in fs::read_dir(balancer.pin_dir())? {
            let pin = entry?.path().join("program");
            if pin.exists() && found.replace(pin).is_some() {
                bail!("two programs are pinned");
            }
        }
        let pin = found.context("no program is pinned")?;
        Ok(Self {
            program: PinnedProgram::open(&pin)?,
        })
    }

    /// Runs a packet; gives the server it goes to by a mode of forwarding, if
    /// it goes to one.
    ///
    /// # Errors
    /// When the kernel does not run it, or it goes to nobody of the lab.
    pub fn backend<'l>(
        &self,
        lab: &'l Lab,
        forward: &str,
        packet: &Packet,
    ) -> Result<Option<&'l str>> {
        let frame = packet.build();
        let mut out = vec![0; ROOM];
        let verdict = self.program.run(&frame, &mut out)?;
        if !FORWARDED.contains(&verdict) {
            return Ok(None);
        }
        let is_its = |node: &&Node| match forward {
            "l2" => out[..6] == node.mac().0,
            // The destination of the outer header, or of the rewritten one.
            _ => IpAddr::V4(Ipv4Addr::new(out[30], out[31], out[32], out[33])) == node.v4(),
        };
        let node = lab.backends().iter().find(is_its);
        let node = node.with_context(|| format!("{packet:?} goes to nobody: {out:02x?}"))?;
        Ok(Some(node.name()))
    }
}

/// The flags of a TCP segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Segment {
    /// The first one.
    Syn,
    /// Any later one.
    Ack,
}

/// A client's packet.
///
/// # Errors
/// When the addresses are of two families.
pub fn segment(source: SocketAddr, destination: SocketAddr, kind: Segment) -> Result<Packet> {
    ensure!(source.is_ipv4() == destination.is_ipv4());
    let flags = match kind {
        Segment::Syn => crate::frames::packet::SYN,
        Segment::Ack => crate::frames::packet::ACK,
    };
    Ok(Packet {
        flags,
        ..Packet::tcp(source, destination)
    })
}
