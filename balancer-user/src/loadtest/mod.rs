//! A load test: flows at a set rate to a service, and a verdict on what came
//! of them. [`packets`] are the kernel's, not of flows that anybody answers.
//!
//! The load is open-loop: each flow has its moment, and how long it took is
//! counted from that moment on, also where the machine or the service was too
//! busy to begin it then. So a service that stalls for a second shows in every
//! request that was to come in that second, and not in the one that waited
//! (Tene's "coordinated omission"). [`target`] and [`verdict`] say what may be
//! asked and what is good enough, [`tally`] and [`shares`] count, [`report`]
//! and [`html`] tell; these are pure. [`client`] makes a flow and [`run`] all
//! of them. [`packets`] are the kernel's, not of flows that anybody answers.

pub mod allow;
pub mod client;
pub mod html;
pub mod packets;
pub mod report;
pub mod run;
pub mod scrape;
pub mod shares;
pub mod tally;
pub mod target;
pub mod verdict;
