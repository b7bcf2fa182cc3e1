//! Makes of a probe's packet the frame that forwarding would make of it, and
//! sends it.
//!
//! The kernel's own program makes it: a private copy, run over the packet
//! (`BPF_PROG_TEST_RUN`). Its tables have a service for each passage, with one
//! backend, whose entry is what the running tables would hold. Passages of one
//! VIP are told apart by the destination port, which is the passage's number
//! while the program runs and is put back before the frame leaves: the program
//! looks services up by it and changes nothing else for it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use balancer_common::layout::Slot;
use balancer_common::parse::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, PROTOCOL_TCP, PROTOCOL_UDP,
};
use balancer_common::verdict::Reason;

use super::road::{Passage, Road};
use crate::config::model::Protocol;
use crate::dataplane::trial::{Action, Trial};
use crate::dataplane::{Error, ServiceKey, ServiceState, Settings, State, Table};
use crate::packet_socket::Sender;

/// Slots of a table in which all are one backend's: one block.
const SLOTS: usize = 16;
/// No flow is ever recorded, and a map has to have some entries.
const FLOW_RECORDS: u32 = 1 << 10;

/// What packets can be sent through, by number; 0 is nobody's.
pub(super) type Ways = BTreeMap<u16, (Passage, Arc<Road>)>;

/// The private copy, and the sockets that frames leave by.
pub(super) struct Forge {
    trial: Trial,
    ways: Ways,
    senders: HashMap<u32, Sender>,
    frame: Vec<u8>,
}

impl Forge {
    /// Loads a copy. It takes the time that the kernel takes to verify the
    /// program.
    ///
    /// # Errors
    /// The kernel refuses.
    pub(super) fn load(ways: Ways) -> Result<Self, Error> {
        Ok(Self {
            trial: Trial::load(&state(&ways))?,
            ways,
            senders: HashMap::new(),
            frame: Vec::new(),
        })
    }

    /// Goes over to other ways, if they are others.
    ///
    /// # Errors
    /// The kernel refuses; the old ways stay then.
    pub(super) fn change(&mut self, ways: Ways) -> Result<(), Error> {
        if self.ways == ways {
            return Ok(());
        }
        let state = state(&ways);
        let changed = match self.trial.split()?.1.change(&state) {
            // Another form of packet, or more of them than there was room for.
            Err(Error::Lacks(_) | Error::Full { .. }) => {
                self.trial = Trial::load(&state)?;
                Ok(())
            }
            changed => changed,
        };
        changed?;
        // An interface may have been made anew under its name.
        self.senders.clear();
        self.ways = ways;
        Ok(())
    }

    /// Sends an IP packet of a probe on its way; its transport header begins
    /// at `transport_at`.
    ///
    /// # Errors
    /// A sentence about why not.
    pub(super) fn send(
        &mut self,
        number: u16,
        packet: &[u8],
        transport_at: usize,
    ) -> Result<(), String> {
        let Some((_, road)) = self.ways.get(&number) else {
            return Err("its way is gone".to_owned());
        };
        let ethertype = match packet.first().map(|first| first >> 4) {
            Some(6) => ETHERTYPE_IPV6,
            _ => ETHERTYPE_IPV4,
        };
        // Nothing reads the Ethernet addresses of what comes in.
        self.frame.clear();
        self.frame.resize(ETHERNET_LEN - ethertype.len(), 0);
        self.frame.extend(ethertype);
        self.frame.extend(packet);
        let port_at = ETHERNET_LEN + transport_at + 2;
        let Some(port) = self.frame.get_mut(port_at..port_at + 2) else {
            return Err("it ends before its ports".to_owned());
        };
        let asked = [port[0], port[1]];
        port.copy_from_slice(&number.to_be_bytes());
        let outcome = self.trial.run(&self.frame).map_err(|it| it.to_string())?;
        let is_sent = matches!(outcome.action, Action::Tx | Action::Redirect);
        if !is_sent || outcome.reason != Reason::Forwarded {
            return Err(format!("the packet path says {}", outcome.reason.name()));
        }
        let mut frame = outcome.frame;
        // The packet is the end of the frame, whatever stands before it.
        let port_at = frame
            .len()
            .checked_sub(packet.len())
            .map(|start| start + transport_at + 2);
        let port = port_at.and_then(|at| frame.get_mut(at..at + 2));
        let Some(port) = port.filter(|port| **port == number.to_be_bytes()) else {
            return Err("the packet path changed what it should not".to_owned());
        };
        port.copy_from_slice(&asked);
        let egress = road.member.egress;
        let failed = |error| format!("cannot be sent by {}: {error}", road.interface);
        let sender = match self.senders.remove(&egress) {
            Some(sender) => sender,
            None => Sender::open(&road.interface).map_err(failed)?,
        };
        // One that failed is opened anew for the next packet.
        sender.send(&frame).map_err(failed)?;
        self.senders.insert(egress, sender);
        Ok(())
    }
}

/// Tables in which each passage's number leads to its backend.
fn state(ways: &Ways) -> State {
    let mut state = State::empty();
    state.settings = Settings {
        flow_records: FLOW_RECORDS,
        ..Settings::default()
    };
    for (number, (passage, road)) in ways {
        let key = ServiceKey {
            address: passage.vip,
            port: *number,
            protocol: match passage.protocol {
                Protocol::Tcp => PROTOCOL_TCP,
                Protocol::Udp => PROTOCOL_UDP,
            },
        };
        let table = Table::of(&[Slot::settled(0); SLOTS]);
        let service = ServiceState::new(vec![key], vec![road.member], table);
        state.services.insert(u32::from(*number), service);
    }
    state
}
