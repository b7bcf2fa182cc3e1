//! Ethernet frames for tests: built, generated, damaged, shrunk, printed.
//!
//! [`Packet`] builds one frame as a test describes it. [`Generator`] draws
//! frames that are mostly for the services of a state, valid ones and every
//! kind of invalid one, and the same ones again for the same seed. [`Tunnel`]
//! builds what a backend gets.
//! [`shrink`] makes a frame that shows a fault smaller, [`hex`] prints it for
//! `balancer trace --hex`.

mod chains;
mod ends;
mod errors;
pub mod generate;
pub mod hex;
pub mod icmp_error;
pub mod mutate;
pub mod packet;
mod quic;
pub mod rng;
pub mod shrink;
pub mod tunnel;

pub use generate::Generator;
pub use hex::{hex, unhex};
pub use icmp_error::IcmpError;
pub use packet::Packet;
pub use rng::Rng;
pub use shrink::shrink;
pub use tunnel::{Checksum, Gue, Tunnel};
