//! The model's lists of sources and its limit of new flows.
//!
//! Of the prefixes of a service that hold a source, the longest one says
//! whether it is allowed; a service that allows some allows no others. A
//! limit is a token bucket: it holds a burst, and gains a token an interval.
//! The model's clock stands still, so a state for it has intervals that are
//! longer than any test.

use std::collections::HashMap;
use std::net::IpAddr;

use balancer_common::layout::Target;
use balancer_common::verdict::Reason;
use balancer_user::dataplane::{ServiceId, ServiceState};

/// Flows that each prefix has opened, by service.
#[derive(Debug, Clone, Default)]
pub struct Opened(HashMap<(ServiceId, Vec<u8>), u64>);

/// Whether the lists let a source in.
///
/// # Errors
/// A reason to drop its packet.
pub fn filter(service: &ServiceState, source: IpAddr) -> Result<(), Reason> {
    let matching = service
        .sources
        .iter()
        .filter(|(prefix, _)| prefix.contains(&source));
    match matching.max_by_key(|(prefix, _)| prefix.prefix_len()) {
        Some((_, true)) => Ok(()),
        Some((_, false)) => Err(Reason::SourceDenied),
        None if service.flags & Target::FILTER_ALLOWS != 0 => Err(Reason::SourceNotAllowed),
        None => Ok(()),
    }
}

/// Takes a token for a new flow.
///
/// # Errors
/// A reason to drop its first packet.
pub fn limit(
    opened: &mut Opened,
    id: ServiceId,
    service: &ServiceState,
    source: IpAddr,
) -> Result<(), Reason> {
    if service.flags & Target::LIMIT == 0 {
        return Ok(());
    }
    let options = &service.options;
    let octets = match source {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let prefix = octets
        .iter()
        .zip(options.limit_mask)
        .map(|(byte, mask)| byte & mask);
    let flows = opened.0.entry((id, prefix.collect())).or_default();
    let burst = options.limit_burst_ns / options.limit_interval_ns + 1;
    if *flows >= burst {
        return Err(Reason::SourceLimited);
    }
    *flows += 1;
    Ok(())
}
