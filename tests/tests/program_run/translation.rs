//! Packets of flows that are translated, and how they should leave.

use balancer_tests::frames::{Packet, hex};
use balancer_tests::lab::checksums::judge;
use balancer_user::dataplane::trial::Outcome;

use crate::fixture::{Fixture, Moved, at};

pub(crate) fn tcp(source: &str, destination: &str, flags: u8) -> Packet {
    let packet = Packet::tcp(at(source), at(destination));
    Packet { flags, ..packet }.with_checksum()
}

pub(crate) fn udp(source: &str, destination: &str, payload_len: usize) -> Packet {
    let packet = Packet::udp(at(source), at(destination));
    Packet {
        payload_len,
        ..packet
    }
    .with_checksum()
}

/// The packet between other ends, its checksums summed anew.
pub(crate) fn between(packet: &Packet, source: &str, destination: &str) -> Packet {
    Packet {
        source: at(source),
        destination: at(destination),
        ..packet.clone()
    }
    .with_checksum()
}

/// The packet as it should leave: other ends and Ethernet addresses, and one
/// hop less.
pub(crate) fn translated(
    packet: &Packet,
    ethernet: &str,
    source: &str,
    destination: &str,
) -> String {
    let packet = Packet {
        ttl: packet.ttl - 1,
        ..between(packet, source, destination)
    };
    let ethernet: String = ethernet.split_whitespace().collect();
    ethernet + &hex(&packet.build()[12..])
}

/// What becomes of the packet; all checksums are right before and after.
pub(crate) fn sent(fixture: &mut Fixture, packet: &Packet) -> (Outcome, Moved) {
    let frame = packet.build();
    judge(&frame).unwrap();
    let (outcome, moved) = fixture.run(&frame);
    judge(&outcome.frame).unwrap();
    (outcome, moved)
}
