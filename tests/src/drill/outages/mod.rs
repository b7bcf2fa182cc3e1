//! The five outages, each called after what went wrong.

mod improper_routing;
mod one_server_overwhelmed;
mod routine_update;
mod uneven_distribution;
mod wrong_servers;

use super::script::Script;

/// All of them, in the order of their postmortems.
pub const ALL: [&Script; 5] = [
    &uneven_distribution::SCRIPT,
    &improper_routing::SCRIPT,
    &one_server_overwhelmed::SCRIPT,
    &routine_update::SCRIPT,
    &wrong_servers::SCRIPT,
];
