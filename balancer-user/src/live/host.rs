//! What the live rules know of the host and the network: plain data.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::model::Mac;
use crate::daemon::hops::Found;
use crate::live::peers::Answers;
use crate::netlink::AttachedMode;

/// A snapshot of the host, as far as a configuration asks for it.
#[derive(Debug, Clone, Default)]
pub struct Host {
    /// The interfaces of `node.interfaces` by name; one that is not there
    /// does not exist.
    pub interfaces: BTreeMap<String, Interface>,
    /// The ways to the backends.
    pub hops: Found,
    /// Whether neighbours were asked for, so that one without a MAC is one
    /// that does not answer.
    pub solicited: bool,
    /// The layout version of tables that forward now under `node.pin_dir`, where
    /// this build reads another one.
    pub other_layout: Option<u32>,
    /// This host's addresses, each with the name of its interface.
    pub addresses: BTreeMap<IpAddr, String>,
    /// Interfaces on which the kernel drops packets whose source it would not
    /// send to by the same interface.
    pub strict_reverse_path: Vec<String>,
    /// Who else answered for a service's address.
    pub claims: Vec<Claim>,
    /// What backends answered that were asked for their service's address, by
    /// the places of service and backend in the file.
    pub vips: BTreeMap<(usize, usize), VipAnswer>,
    /// What the kernel says of the way to each VIP that is probed by, were it
    /// to send there itself: the way from which it expects answers.
    pub vip_ways: Found,
    /// Why the device of probes by the VIP cannot be made, where they are
    /// asked for.
    pub no_tun: Option<String>,
    /// Bytes of a page of memory, into which native XDP wants a frame to fit.
    pub page_len: u32,
    /// What the other balancers of the group hold; empty where they were not
    /// asked.
    pub peers: Answers,
    /// What could not be looked at, and why; a sentence each.
    pub unseen: Vec<String>,
}

/// Somebody on a segment who says that an address is his.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Claim {
    /// The service's address.
    pub address: IpAddr,
    /// Where he was heard.
    pub interface: String,
    /// His Ethernet address.
    pub mac: Mac,
}

/// What came of a packet to a service's address, sent to one backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VipAnswer {
    /// An answer from the service's address.
    Taken {
        /// The largest segment that a TCP server announces.
        mss: Option<u16>,
    },
    /// A reset of a TCP connection.
    Refused,
    /// Nothing.
    Silent,
}

/// An interface that the program is, or would be, attached to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// An operator has brought it up.
    pub up: bool,
    /// Bytes of the longest network packet.
    pub mtu: u32,
    /// The XDP program on it.
    pub program: Option<Program>,
    /// Whether the driver runs XDP programs itself; `None` where it does not
    /// say.
    pub native_xdp: Option<bool>,
    /// Large receive offload is on.
    pub lro: bool,
    /// Generic receive offload is on.
    pub gro: bool,
    /// The card takes VLAN tags out of frames.
    pub vlan_stripping: bool,
    /// VLAN interfaces that stand on it.
    pub vlans: Vec<String>,
    /// The bond, or the team, that it is a port of.
    pub bond: Option<String>,
}

/// An XDP program on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Program {
    /// Its number, as `bpftool prog` shows it.
    pub id: u32,
    /// Where it runs.
    pub mode: AttachedMode,
    /// Whether it is in a link of ours, under `node.pin_dir`; `None` where
    /// that cannot be read.
    pub ours: Option<bool>,
}
