//! The lab proves itself before anything is proved with it.
//!
//! No balancer takes part: clients reach backends by their own addresses, the
//! service addresses answer to nobody, and where frames have to be forwarded a
//! few XDP instructions do it.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod frames;
mod leftovers;
mod network;
mod quic;
mod servers;
mod xdp;

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use balancer_tests::lab::server::{Nginx, NginxConfig};
use balancer_tests::lab::{Lab, LabConfig};

pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// A web server on all addresses of a backend, the service's included.
pub(crate) fn web(lab: &Lab, index: usize) -> Nginx {
    let backend = lab.backend(index);
    let addresses = [lab.vips(), backend.addresses().to_vec()].concat();
    let config = NginxConfig::new(backend.name(), &addresses, 80);
    Nginx::start(backend.namespace(), &config).unwrap()
}

pub(crate) fn url(address: IpAddr, path: &str) -> String {
    format!("http://{}{path}", SocketAddr::new(address, 80))
}

pub(crate) fn labs(config: &LabConfig) -> [Lab; 2] {
    [
        Lab::l2(config.clone()).unwrap(),
        Lab::routed(config.clone()).unwrap(),
    ]
}
