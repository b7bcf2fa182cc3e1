//! Real clients: programs run in a namespace, their output read into numbers,
//! and an HTTP load of our own for what none of them tells.
//!
//! A client that is refused, times out or gets nonsense gives a report that says
//! so. An error means that the measurement itself did not happen.

mod curl;
mod dig;
mod http;
mod iperf3;
mod wrk;

pub use curl::{Curl, Response, fetch};
pub use dig::{Answer, Dig};
pub use http::{Failure, HttpLoad, LoadReport, RunningLoad};
pub use iperf3::{Iperf3Run, Throughput};
pub use wrk::{WrkReport, WrkRun};
