//! Real clients: programs run in a namespace, their output read into numbers,
//! and an HTTP load of our own for what none of them tells.
//!
//! A client that is refused, times out or gets nonsense gives a report that says
//! so. An error means that the measurement itself did not happen.

mod browser;
mod curl;
mod dig;
mod held;
mod http;
mod iperf3;
mod ngtcp2;
mod quic;
mod wrk;

pub use browser::{Browser, Scheme};
pub use curl::{Curl, Response, fetch};
pub use dig::{Answer, Dig};
pub use held::{Broken, Downloads, HeldConnections, Target};
pub use http::{Failure, HttpLoad, LoadReport, RunningLoad};
pub use iperf3::{Iperf3Run, Throughput};
pub use ngtcp2::Ngtcp2Run;
pub use quic::QuicClient;
pub use wrk::{WrkReport, WrkRun};
