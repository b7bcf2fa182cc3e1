//! Random frames for the services of a state.
//!
//! Most are for a service, from a small pool of clients, so that flows come
//! back, as SYNs and as later packets. The others are each near to that: a
//! field wrong, a header too many, a truncation, a neighbour's address; and
//! some are nothing at all.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use balancer_common::layout::NatSettings;
use balancer_user::dataplane::trial::MIN_FRAME;
use balancer_user::dataplane::{ServiceKey, State};

use super::chains;
use super::ends;
use super::errors;
use super::mutate::mutate;
use super::packet::{ACK, FIN, MORE_FRAGMENTS, NOISE, Packet, RST, SYN};
use super::packet::{fragment_v6, options};
use super::quic;
use super::rng::Rng;

/// Longest frame that is drawn.
pub const MOST_LEN: usize = 1600;

/// Client addresses of a family, and ports of each: few, so that the flows
/// recorded in a run stay well below what the flow table holds.
const CLIENTS: usize = 16;
const CLIENT_PORTS: usize = 48;
/// How many frames are kept that went to backends.
const SENT: usize = 64;

/// Ports of the pool that replies come to.
const FIRST_PORTS: usize = 100;

/// Draws frames.
#[derive(Debug, Clone)]
pub struct Generator {
    rng: Rng,
    keys: Vec<ServiceKey>,
    /// Where replies come from that have to be rewritten: backend, port (0 is
    /// any) and protocol; and whether they come to the pool.
    backends: Vec<(ServiceKey, bool)>,
    pool: NatSettings,
    mtus: Vec<usize>,
    /// Frames that went to backends lately.
    sent: Vec<Vec<u8>>,
    server_ids: Vec<[u8; 8]>,
}

impl Generator {
    /// Frames for the services of `state`.
    ///
    /// # Panics
    /// When the state has no service with a member.
    pub fn new(seed: u64, state: &State) -> Self {
        let services = || state.services.values();
        let keys = services()
            .flat_map(|service| service.keys.clone())
            .collect();
        let mut mtus: Vec<usize> = services()
            .flat_map(|service| &service.members)
            .map(|member| usize::from(member.mtu))
            .collect();
        mtus.sort_unstable();
        mtus.dedup();
        assert!(!mtus.is_empty(), "a state without members");
        Self {
            rng: Rng::new(seed),
            keys,
            backends: services().flat_map(ends::backends).collect(),
            pool: state.settings.nat,
            mtus,
            sent: Vec::new(),
            server_ids: services()
                .flat_map(|service| service.server_ids.keys().copied())
                .collect(),
        }
    }

    /// Takes a frame that went to a backend: some error may be about it.
    pub fn note_sent(&mut self, frame: &[u8]) {
        let place = self.rng.below(SENT);
        match self.sent.get_mut(place) {
            Some(old) => *old = frame.to_vec(),
            None => self.sent.push(frame.to_vec()),
        }
    }

    /// The next frame: [`MIN_FRAME`] to [`MOST_LEN`] bytes.
    pub fn frame(&mut self) -> Vec<u8> {
        let mut frame = match self.rng.below(100) {
            0..42 => self.packet().build(),
            42..46 => self.error(),
            46..54 => self.fragment(),
            54..74 => self.wrong_packet().build(),
            74..80 => self.truncated(),
            80..95 => {
                let mut frame = self.packet().build();
                mutate(&mut self.rng, &mut frame, MIN_FRAME, MOST_LEN);
                frame
            }
            95..97 => self.echo(),
            97..99 => self.foreign(),
            _ => self.garbage(),
        };
        frame.truncate(MOST_LEN);
        frame
    }

    /// A packet for a service, or near it, or for a client of one, with
    /// nothing wrong.
    fn packet(&mut self) -> Packet {
        let is_reply = !self.backends.is_empty() && self.rng.chance(10);
        let (key, is_pooled) = if is_reply {
            self.rng.pick(&self.backends)
        } else {
            (self.rng.pick(&self.keys), false)
        };
        let (address, port) = self.near(key);
        let server = SocketAddr::new(address, port);
        let client = if is_pooled {
            self.pooled(address.is_ipv4())
        } else {
            self.client(address.is_ipv4())
        };
        let (source, destination) = if is_reply {
            (server, client)
        } else {
            (client, server)
        };
        let is_tcp = (key.protocol == 6) ^ self.rng.chance(3);
        let mut packet = if is_tcp {
            Packet::tcp(source, destination)
        } else {
            Packet::udp(source, destination)
        };
        let flags = [
            SYN,
            ACK,
            ACK,
            SYN | ACK,
            FIN | ACK,
            RST,
            0,
            0xff,
            SYN | 0xc0,
        ];
        packet.flags = self.rng.pick(&flags);
        packet.initial_sequence = self.rng.pick(&[7, 7, u32::MAX]);
        packet.traffic_class = self.rng.pick(&[0, 0, 1, 2, 3, 0xb8, 0xff]);
        packet.ttl = self.rng.pick(&[1, 2, 63, 64, 128, 255]);
        packet.fragment = self.rng.pick(&[0, 0, 0x4000]);
        if address.is_ipv4() && self.rng.chance(15) {
            packet.options = vec![1; 4 * (1 + self.rng.below(10))];
        }
        packet.transport_checksum = self.rng.pick(&[0, 1, 0x1234, 0xfffe, 0xffff]);
        if address.is_ipv6() && self.rng.chance(15) {
            packet.extensions = chains::extensions(&mut self.rng);
        }
        if packet.protocol == 6 && self.rng.chance(30) {
            packet.tcp_options = chains::tcp_options(&mut self.rng);
        }
        packet.payload_len = self.payload_len(&packet);
        if !is_tcp && self.rng.chance(50) {
            packet.payload = quic::header(&mut self.rng, &self.server_ids);
        }
        if self.rng.chance(20) {
            packet.padding_len = 1 + self.rng.below(20);
        }
        packet
    }

    /// A fragment: first ones and later ones of few packets, so that they
    /// find each other.
    fn fragment(&mut self) -> Vec<u8> {
        let mut packet = self.packet();
        let identification = self.rng.below(2) as u16;
        let offset = self.rng.pick(&[0, 0, 0, 1, 185]);
        packet.identification = identification;
        packet.source.set_port(40_000);
        if self.rng.chance(10) {
            let elsewhere = ends::neighbour(packet.destination.ip());
            packet.destination.set_ip(elsewhere);
        }
        packet.headless = offset != 0;
        let more = offset == 0 || self.rng.chance(50);
        if packet.destination.is_ipv4() {
            packet.fragment = offset | if more { MORE_FRAGMENTS } else { 0 };
        } else {
            let place = offset << 3 | u16::from(more);
            let header = fragment_v6(place, u32::from(identification));
            packet.extensions.truncate(2);
            let at = self.rng.below(packet.extensions.len() + 1);
            packet.extensions.insert(at, header);
        }
        packet.payload_len = match self.rng.below(8) {
            0 => 0,
            1 => self.rng.pick(&[8, 16, 1400]),
            _ => packet.payload_len,
        };
        if offset == 0 && self.rng.chance(20) {
            // Too short for its header, or just not.
            let header_len = if packet.protocol == 6 { 20 } else { 8 };
            let before = if packet.destination.is_ipv4() {
                20 + packet.options.len()
            } else {
                packet
                    .extensions
                    .iter()
                    .map(|(_, rest)| 1 + rest.len())
                    .sum()
            };
            let cut = 1 + self.rng.below(header_len);
            packet.ip_len = Some((before + header_len - cut) as u16);
        }
        packet.build()
    }

    /// An echo request, mostly a right one to a service's address.
    fn echo(&mut self) -> Vec<u8> {
        let key = self.rng.pick(&self.keys);
        let (address, port) = self.near(key);
        let source = self.client(address.is_ipv4());
        let mut packet = Packet::udp(source, SocketAddr::new(address, port));
        packet.protocol = if address.is_ipv4() { 1 } else { 58 };
        packet.ttl = self.rng.pick(&[1, 64, 255]);
        packet.payload_len = self.rng.below(80);
        packet.vlans = vec![100; self.rng.pick(&[0, 0, 0, 1, 2])];
        if self.rng.chance(10) {
            packet.fragment = self.rng.pick(&[0x4000, MORE_FRAGMENTS, 185]);
        }
        let mut frame = packet.build();
        // A UDP header is as long as an echo's: type and code stand where the
        // source port did, and the checksum is any.
        let at = frame.len() - packet.payload_len - 8;
        let request = if address.is_ipv4() { 8 } else { 128 };
        let kind = self.rng.pick(&[request, request, request, request, 0, 3]);
        frame[at..at + 2].copy_from_slice(&[kind, u8::from(self.rng.chance(5))]);
        if self.rng.chance(10) {
            mutate(&mut self.rng, &mut frame, MIN_FRAME, MOST_LEN);
        }
        frame
    }

    /// An error about what a backend sent, or about what was sent to one.
    fn error(&mut self) -> Vec<u8> {
        let quoted = if self.sent.is_empty() || self.rng.chance(40) {
            let mut packet = self.packet();
            (packet.source, packet.destination) = (packet.destination, packet.source);
            packet.build()
        } else {
            let place = self.rng.below(self.sent.len());
            self.sent[place].clone()
        };
        let Some(error) = errors::about(&mut self.rng, errors::ip_packet(&quoted)) else {
            return self.garbage();
        };
        let mut frame = error.build();
        if self.rng.chance(10) {
            mutate(&mut self.rng, &mut frame, MIN_FRAME, MOST_LEN);
        }
        frame
    }

    /// Mostly the service itself; else another port or a neighbour.
    fn near(&mut self, key: ServiceKey) -> (IpAddr, u16) {
        let port = match key.port {
            0 if self.rng.chance(95) => self.rng.pick(&[1, 22, 80, 443, 65_535]),
            0 => self.rng.next() as u16,
            port => port,
        };
        match self.rng.below(40) {
            0 => (key.address, port.wrapping_add(1)),
            1 => (key.address, 0),
            2 => (ends::neighbour(key.address), port),
            3 => (self.rng.pick(&self.keys).address, port),
            _ => (key.address, port),
        }
    }

    fn client(&mut self, is_v4: bool) -> SocketAddr {
        let number = self.rng.below(CLIENTS) as u16;
        let port = 40_000 + 7 * self.rng.below(CLIENT_PORTS) as u16;
        let address = if is_v4 {
            IpAddr::from([203, 0, 113, number as u8])
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, 0xc, number, 0, 0, number, 1).into()
        };
        SocketAddr::new(address, port)
    }

    /// An end of the pool that a flow may be sent from.
    fn pooled(&mut self, is_v4: bool) -> SocketAddr {
        let family = usize::from(!is_v4);
        let number = self.rng.below(self.pool.source_counts[family] as usize);
        let octets = self.pool.sources[family][number];
        let address = match octets.first_chunk::<4>() {
            Some(first) if is_v4 => IpAddr::from(*first),
            _ => IpAddr::from(octets),
        };
        let port = self.pool.first_port as usize + self.rng.below(FIRST_PORTS);
        SocketAddr::new(address, port as u16)
    }

    /// Mostly short; else one that makes the packet, wrapped or not, as long
    /// as some member's MTU or a few bytes off it.
    fn payload_len(&mut self, packet: &Packet) -> usize {
        if self.rng.chance(70) {
            return self.rng.below(64);
        }
        if self.rng.chance(30) {
            return self.rng.below(1400);
        }
        let header_len = if packet.destination.is_ipv4() { 20 } else { 40 }
            + packet.options.len()
            + packet
                .extensions
                .iter()
                .map(|(_, rest)| 1 + rest.len())
                .sum::<usize>()
            + if packet.protocol == 6 {
                20 + packet.tcp_options.len()
            } else {
                8
            };
        let limit = self.rng.pick(&self.mtus) + self.rng.below(5);
        let overhead = header_len + self.rng.pick(&[0, 20, 40]) + 2;
        limit.saturating_sub(overhead).min(MOST_LEN)
    }

    /// A packet with one fault that has a name.
    fn wrong_packet(&mut self) -> Packet {
        let mut packet = self.packet();
        let rng = &mut self.rng;
        match rng.below(11) {
            0 => packet.ttl = 0,
            1 => packet.fragment = MORE_FRAGMENTS,
            2 => packet.fragment = rng.pick(&[1, 185, 0x1fff, MORE_FRAGMENTS | 185]),
            3 => packet.version = Some(rng.below(16) as u8),
            4 => packet.header_words = Some(rng.below(16) as u8),
            5 => packet.ip_len = Some(rng.pick(&[0, 1, 19, 20, 27, 28, 39, 40, 41, 60, 0xffff])),
            6 => packet.ip_len = Some(rng.below(MOST_LEN) as u16),
            7 => {
                packet.udp_len = Some(rng.pick(&[0, 7, 8, 9, 0xffff]));
                packet.data_offset = Some(rng.below(16) as u8);
            }
            8 => packet.vlans = vec![100; 1 + rng.below(3)],
            9 => packet.extensions = vec![options(60, 1); 3 + rng.below(4)],
            _ => packet.protocol = rng.pick(&[0, 1, 2, 4, 41, 47, 50, 58, 59, 132, 255]),
        }
        packet
    }

    /// A frame that ends anywhere in its headers or just after.
    fn truncated(&mut self) -> Vec<u8> {
        let mut frame = self.packet().build();
        let limit = frame.len().min(120) - MIN_FRAME;
        frame.truncate(MIN_FRAME + self.rng.below(limit + 1));
        frame
    }

    /// What else is on a network: ARP, ICMP, spanning tree, other types.
    fn foreign(&mut self) -> Vec<u8> {
        let mut packet = self.packet();
        if self.rng.chance(40) {
            packet.protocol = if packet.destination.is_ipv4() { 1 } else { 58 };
            return packet.build();
        }
        let mut frame = packet.build();
        let ethertype = self
            .rng
            .pick(&[0x0806_u16, 0x0026, 0x8847, 0x88cc, 0x8864, 0x86dc, 0x0801]);
        frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        frame
    }

    /// Noise, half of it behind an EtherType that makes it look like IP.
    fn garbage(&mut self) -> Vec<u8> {
        let len = MIN_FRAME + self.rng.below(200);
        let from = self.rng.below(NOISE.len() - len);
        let mut frame = NOISE[from..from + len].to_vec();
        match self.rng.below(4) {
            0 => frame[12..14].copy_from_slice(&[0x08, 0x00]),
            1 => frame[12..14].copy_from_slice(&[0x86, 0xdd]),
            _ => {}
        }
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::build::{TCP, flow_keys, key, l2, service};
    use balancer_common::layout::Slot;

    fn generator(seed: u64) -> Generator {
        let mut state = State::empty();
        state.flow_keys = flow_keys(1);
        let keys = vec![key("192.0.2.1", 80, TCP)];
        let service = service(keys, vec![l2(0)], vec![Slot::settled(0)]);
        state.services.insert(1, service);
        Generator::new(seed, &state)
    }

    #[test]
    fn same_seed_draws_the_same_frames() {
        let (mut one, mut same, mut other) = (generator(7), generator(7), generator(8));
        let differ = (0..1000)
            .filter(|_| {
                let frame = one.frame();
                assert_eq!(frame, same.frame());
                frame != other.frame()
            })
            .count();
        assert!(differ > 900, "{differ}");
    }

    #[test]
    fn frames_have_the_lengths_the_kernel_takes() {
        let mut generator = generator(1);
        for _ in 0..20_000 {
            let len = generator.frame().len();
            assert!((MIN_FRAME..=MOST_LEN).contains(&len), "{len}");
        }
    }
}
