//! A lab on one machine: namespaces joined by veth pairs, with real servers
//! and real clients in them.
//!
//! [`Lab::l2`] and [`Lab::routed`] build a network with clients, a balancer
//! and backends; `server` starts nginx, iperf3, dnsmasq, gRPC and QUIC servers in it;
//! `client` runs curl, wrk, iperf3, dig, QUIC clients and HTTP loads of our own;
//! `raw` sends frames made by hand, `capture` sees what crosses an interface and
//! judges every checksum; `diagnosis` tells where packets were lost. The lab attaches
//! nothing of the balancer: who builds a lab decides what runs in the balancer's
//! namespace. All traffic stays inside the namespaces, and everything is removed
//! again: on drop, after a panic, on Ctrl-C (see [`cleanup`]). It needs root.
//!
//! Everything here blocks the calling thread; nothing needs an async runtime.

pub mod capture;
pub mod certificate;
pub mod cgroup;
pub mod checksums;
pub mod cleanup;
pub mod client;
pub mod diagnosis;
pub mod link;
pub mod machine;
pub mod mount;
pub mod namespace;
pub mod offload;
pub mod pass;
pub mod process;
pub mod quic;
pub mod raw;
pub mod server;
pub mod slow_way;
pub mod sockets;
pub mod terminal;
pub mod test_run;
pub mod topology;
pub mod wait;

pub use link::Mac;
pub use machine::Machine;
pub use mount::SmallDisk;
pub use namespace::Namespace;
pub use process::Process;
pub use topology::{BackendXdp, Interface, Lab, LabConfig, Node, Replies, Subnet};
pub use wait::wait_for;
