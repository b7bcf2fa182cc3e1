//! The lab, the reference model, and what stands on them: the demo, the
//! drills, the soak and the benchmark. The suites are in `tests/`: `lab_self` proves the lab,
//! `program_run` the kernel program frame by frame, `netlink` the way to next
//! hops, `main_job` the whole balancer on real traffic, and `modes` each
//! forwarding mode with every kind of real peer.
pub mod balancer;
pub mod bench;
pub mod chart;
pub mod demo;
pub mod drill;
pub mod frames;
pub mod kernel;
pub mod lab;
pub mod live;
pub mod metrics;
pub mod model;
pub mod soak;
pub mod tamper;
