//! The rules about the host and the network.
//!
//! [`look()`] takes a snapshot, a [`Host`]; [`check`] is pure and judges it
//! beside a configuration. A look sends nothing to the backends or to the
//! segment but neighbour solicitations, attaches nothing and changes nothing.
//! What could not be looked at is named in [`Host::unseen`], and the rules
//! that need it are silent.

mod drivers;
mod host;
mod look;
mod rules;

pub use host::{Host, Interface, Program};
pub use look::look;
pub use rules::check;
