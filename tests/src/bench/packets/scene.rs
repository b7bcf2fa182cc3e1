//! The tables of a case: real ones, as the controller makes them.

use std::net::IpAddr;
use std::sync::Arc;

use balancer_common::layout::{MAX_NAT_SOURCES, Member, NatSettings, Slot};
use balancer_user::dataplane::object::possible_cpus;
use balancer_user::dataplane::{ServiceKey, ServiceState, State, Table};
use balancer_user::maglev::{self, Entry};
use nix::sched::sched_getcpu;

use crate::model::build::{flow_keys, ipip_v4, service};

/// Backends of a service, unless a scene says otherwise.
pub(super) const BACKENDS: u16 = 16;
/// Longer than any case takes, in nanoseconds.
pub(super) const LONG_NS: u64 = 3_600_000_000_000;
/// First port of `fullnat`, of the first CPU.
const FIRST_PORT: u32 = 32_768;
/// Slots of a service.
const TABLE_SIZE: u32 = 65_537;

/// Who owns the slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slots {
    /// All backends, and no change is under way.
    Settled,
    /// A change that moves every slot: the second half of the backends had
    /// them, the first half gets them.
    InChange,
}

/// One way in and the backends behind it, as often as wanted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scene {
    /// Address of the first service; further ones count its last two bytes up.
    pub(super) address: IpAddr,
    /// Port; 0 is any.
    pub(super) port: u16,
    /// IP protocol number.
    pub(super) protocol: u8,
    /// Services of this kind.
    pub(super) services: u32,
    /// Backends of each.
    pub(super) backends: u16,
    /// Backend of a number.
    pub(super) member: fn(u16) -> Member,
    pub(super) slots: Slots,
    /// Answer echo requests.
    pub(super) answer_echo: bool,
    /// `fullnat`: ports of each CPU, of each of [`MAX_NAT_SOURCES`] addresses.
    pub(super) ports: u32,
    /// Share of flows whose handshake is timed, of 2^32.
    pub(super) handshake_sample: u32,
    /// What the services ask for beyond their members.
    pub(super) asks: fn(&mut ServiceState),
}

impl Scene {
    /// One service of [`BACKENDS`] behind IPv4 tunnels.
    pub(super) fn new(address: impl Into<IpAddr>, port: u16, protocol: u8) -> Self {
        Self {
            address: address.into(),
            port,
            protocol,
            services: 1,
            backends: BACKENDS,
            member: ipip_v4,
            slots: Slots::Settled,
            answer_echo: false,
            ports: 4096,
            handshake_sample: 0,
            asks: |_| (),
        }
    }

    pub(super) fn to(self, member: fn(u16) -> Member) -> Self {
        Self { member, ..self }
    }

    pub(super) fn asking(self, asks: fn(&mut ServiceState)) -> Self {
        Self { asks, ..self }
    }

    pub(super) fn in_change(self) -> Self {
        Self {
            slots: Slots::InChange,
            ..self
        }
    }

    pub(super) fn many(self, services: u32, backends: u16) -> Self {
        Self {
            services,
            backends,
            ..self
        }
    }

    pub(super) fn answering_echo(self) -> Self {
        Self {
            answer_echo: true,
            ..self
        }
    }

    pub(super) fn with_ports(self, ports: u32) -> Self {
        Self { ports, ..self }
    }

    pub(super) fn timing(self, handshake_sample: u32) -> Self {
        Self {
            handshake_sample,
            ..self
        }
    }

    /// Counters of all members are below this.
    pub(super) fn counters(&self) -> u32 {
        self.services * u32::from(self.backends)
    }

    /// What the kernel is to hold.
    pub(super) fn state(&self) -> State {
        let mut state = State {
            flow_keys: flow_keys(1),
            ..State::empty()
        };
        state.settings.answer_echo = self.answer_echo;
        state.settings.handshake_sample = self.handshake_sample;
        state.settings.nat = NatSettings {
            idle_ns: LONG_NS,
            closed_ns: LONG_NS,
            ..pool(self.ports)
        };
        let table = Table::new(Arc::from(self.table()));
        for number in 0..self.services {
            let first = number * u32::from(self.backends);
            state
                .services
                .insert(number + 1, self.service(number, first, &table));
        }
        state
    }

    fn service(&self, number: u32, first: u32, table: &Table) -> ServiceState {
        let key = ServiceKey {
            address: nth(self.address, number),
            port: self.port,
            protocol: self.protocol,
        };
        let members = (0..self.backends)
            .map(|index| {
                let number = first + u32::from(index);
                Member {
                    counter: number,
                    ..(self.member)(number as u16)
                }
            })
            .collect();
        let mut service = ServiceState {
            table: table.clone(),
            ..service(vec![key], members, Vec::new())
        };
        (self.asks)(&mut service);
        service
    }

    fn table(&self) -> Vec<Slot> {
        let half = self.backends / 2;
        let owners = match self.slots {
            Slots::Settled => self.backends,
            Slots::InChange => half,
        };
        let names: Vec<String> = (0..owners).map(|n| format!("backend-{n}")).collect();
        let entries: Vec<Entry<'_>> = (0..)
            .zip(&names)
            .map(|(index, identity)| Entry {
                identity,
                index,
                weight: 100,
            })
            .collect();
        let slot = |owner| match self.slots {
            Slots::Settled => Slot::settled(owner),
            Slots::InChange => Slot::unsettled(owner, owner + half),
        };
        maglev::build(&entries, TABLE_SIZE)
            .into_iter()
            .map(slot)
            .collect()
    }
}

/// What `fullnat` sends from: `10.8.0.0`, `fd08::` and what follows.
fn pool(ports: u32) -> NatSettings {
    let mut pool = NatSettings {
        first_port: FIRST_PORT,
        port_count: ports * possible_cpus().unwrap_or(1),
        source_counts: [MAX_NAT_SOURCES as u32; 2],
        ..NatSettings::default()
    };
    for (number, source) in (0..).zip(&mut pool.sources[NatSettings::V4]) {
        source[..4].copy_from_slice(&[10, 8, 0, number]);
    }
    for (number, source) in (0..).zip(&mut pool.sources[NatSettings::V6]) {
        source[..2].copy_from_slice(&[0xfd, 0x08]);
        source[15] = number;
    }
    pool
}

/// The first of so many ports of `fullnat` that this thread's CPU has.
pub(super) fn first_port(ports: u32) -> u16 {
    let cpu = sched_getcpu().unwrap_or(0);
    (FIRST_PORT + cpu as u32 * ports) as u16
}

/// The address `number` after this one; its last two bytes are a number, and
/// they do not overflow in a scene.
fn nth(address: IpAddr, number: u32) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::from((u32::from(address) + number).to_be_bytes()),
        IpAddr::V6(address) => {
            IpAddr::from((u128::from(address) + u128::from(number)).to_be_bytes())
        }
    }
}
