//! The rules about the host and the network.
//!
//! [`look()`] takes a snapshot, a [`Host`]; [`check`] is pure and judges it
//! beside a configuration. A look at the host sends nothing but neighbour
//! solicitations; one at the network also asks who has the services'
//! addresses, and each backend whether it takes packets for them. Neither
//! attaches or changes anything. What could not be looked at is named in
//! [`Host::unseen`], and the rules that need it are silent.

pub(crate) mod drivers;
mod host;
mod look;
pub mod peers;
mod probe;
mod rules;

pub use host::{Claim, Host, Interface, Program, VipAnswer};
pub use look::{Reach, look, look_beyond};
pub use rules::check;
