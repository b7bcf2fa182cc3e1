//! Translations of more flows than their table has room for: what is over
//! goes, and who only says nothing stays.

use std::time::{Duration, Instant};

use balancer_common::layout::NatSettings;
use balancer_common::verdict::Reason;
use balancer_tests::frames::Packet;
use balancer_tests::frames::packet::{ACK, FIN, SYN};
use balancer_tests::model::build::pool;
use balancer_user::dataplane::State;
use balancer_user::dataplane::object::possible_cpus;
use balancer_user::dataplane::trial::Outcome;

use crate::fixture::{Fixture, SERVICE_V4, SERVICE_V6};
use crate::random::{on_cpu, on_first_cpu};
use crate::translation::tcp;
use crate::{fullnat, nat};

/// Flows that the table has room for, by CPU.
const ROOM: u32 = 512;
/// Open ones that say nothing.
const SILENT: u32 = 100;
const HOUR_NS: u64 = 3_600_000_000_000;

/// Ports enough that none is used twice.
fn crowded(mut state: State, nat: NatSettings) -> Fixture {
    on_first_cpu();
    state.settings.flow_records = ROOM * possible_cpus().unwrap();
    state.settings.nat = nat;
    Fixture::new(&state)
}

fn settings(closed_ns: u64) -> NatSettings {
    NatSettings {
        idle_ns: u64::MAX >> 1,
        closed_ns,
        ..pool([64, 64], 300)
    }
}

/// Without a look at the counters, of which a test here would take minutes.
fn run(fixture: &mut Fixture, packet: &Packet) -> Outcome {
    fixture.trial.run(&packet.build()).unwrap()
}

/// A client of its own for each number.
fn client(number: u32, is_v4: bool) -> String {
    let (host, port) = (number / 50_000, 10_000 + number % 50_000);
    match is_v4 {
        true => format!("203.0.113.{host}:{port}"),
        false => format!("[2001:db8:c::{host}]:{port}"),
    }
}

/// Where the IPv4 or IPv6 frame came from, as the backend sees it.
fn source_of(frame: &[u8], is_v4: bool) -> String {
    let (address, ports) = if is_v4 { (26, 34) } else { (22, 54) };
    let port = u16::from_be_bytes([frame[ports], frame[ports + 1]]);
    if is_v4 {
        let address: [u8; 4] = frame[address..address + 4].try_into().unwrap();
        return format!("{}:{port}", std::net::Ipv4Addr::from(address));
    }
    let address: [u8; 16] = frame[address..address + 16].try_into().unwrap();
    format!("[{}]:{port}", std::net::Ipv6Addr::from(address))
}

/// Both ends of a flow, as the balancer sees their packets come.
struct Flow {
    client: String,
    service: &'static str,
    backend: &'static str,
    /// Where the backend has it from.
    source: String,
}

impl Flow {
    fn open(fixture: &mut Fixture, number: u32, is_v4: bool) -> Self {
        let client = client(number, is_v4);
        let (service, backend) = match is_v4 {
            true => (SERVICE_V4, "10.1.0.7:8080"),
            false => (SERVICE_V6, "[fd00::7]:80"),
        };
        let outcome = run(fixture, &tcp(&client, service, SYN));
        assert_eq!(outcome.reason, Reason::Forwarded);
        Self {
            client,
            service,
            backend,
            source: source_of(&outcome.frame, is_v4),
        }
    }

    fn request(&self, fixture: &mut Fixture, flags: u8) -> String {
        let outcome = run(fixture, &tcp(&self.client, self.service, flags));
        assert_eq!(outcome.reason, Reason::Forwarded);
        source_of(&outcome.frame, self.service == SERVICE_V4)
    }

    fn reply(&self, fixture: &mut Fixture, flags: u8) -> Reason {
        run(fixture, &tcp(self.backend, &self.source, flags)).reason
    }

    fn close(&self, fixture: &mut Fixture) {
        assert_eq!(self.reply(fixture, FIN | ACK), Reason::ReplyForwarded);
        self.request(fixture, FIN | ACK);
    }
}

/// Several times as many closed flows as there is room for, of both families,
/// a half of it at a time, on all CPUs.
fn assert_silent_flows_outlive(state: State, closed_ns: u64) {
    let mut fixture = crowded(state, settings(closed_ns));
    let mut number = 0..;
    let mut next = |fixture: &mut Fixture| {
        let number = number.next().unwrap();
        Flow::open(fixture, number, number % 2 == 0)
    };
    let silent: Vec<_> = (0..SILENT).map(|_| next(&mut fixture)).collect();
    let online = std::thread::available_parallelism().unwrap().get();
    for _ in 0..6 {
        let began = Instant::now();
        for cpu in 0..online {
            on_cpu(cpu);
            for _ in 0..ROOM / 2 {
                next(&mut fixture).close(&mut fixture);
            }
        }
        // No place is looked at sooner; the kernel's coarse clock is a tick
        // behind.
        while began.elapsed() < Duration::from_millis(1100) {
            std::thread::yield_now();
        }
    }
    // Backends speak first after that silence, then clients.
    for flow in silent {
        assert_eq!(flow.reply(&mut fixture, ACK), Reason::ReplyForwarded);
        assert_eq!(flow.request(&mut fixture, ACK), flow.source);
    }
}

#[test]
fn silent_flows_of_fullnat_outlive_closed_ones() {
    assert_silent_flows_outlive(fullnat::state(settings(0)), 0);
}

/// However long closed ones may stay where they are few.
#[test]
fn silent_flows_of_fullnat_outlive_flows_that_closed_a_second_ago() {
    assert_silent_flows_outlive(fullnat::state(settings(0)), HOUR_NS);
}

#[test]
fn silent_flows_of_nat_outlive_closed_ones() {
    assert_silent_flows_outlive(nat::state(), 0);
}

#[test]
fn silent_flows_of_nat_outlive_flows_that_closed_a_second_ago() {
    assert_silent_flows_outlive(nat::state(), HOUR_NS);
}
