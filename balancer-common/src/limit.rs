//! Limits the new flows of a source prefix: the generic cell rate algorithm
//! (ITU-T I.371), which is a token bucket kept in one number, the time at
//! which the bucket would be full again.

use crate::hash::Address;
use crate::layout::{LimitKey, ServiceOptions};

/// The key of a source's prefix.
#[inline(always)]
pub fn key<A: Address>(service: u32, source: A, options: &ServiceOptions) -> LimitKey {
    let prefix = u128::from_ne_bytes(source.padded()) & u128::from_ne_bytes(options.limit_mask);
    LimitKey {
        prefix: prefix.to_ne_bytes(),
        service,
        reserved: 0,
    }
}

/// When the bucket is full again after one more flow at `now_ns`, or `None`
/// if it has no token left. `full_ns` is what was kept, 0 for a new prefix.
#[inline(always)]
pub const fn admit(full_ns: u64, now_ns: u64, options: &ServiceOptions) -> Option<u64> {
    let full_ns = if full_ns > now_ns { full_ns } else { now_ns };
    if full_ns - now_ns > options.limit_burst_ns {
        return None;
    }
    Some(full_ns + options.limit_interval_ns)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: ServiceOptions = ServiceOptions {
        flow_idle_ns: 0,
        limit_interval_ns: 100,
        limit_burst_ns: 200,
        limit_mask: [255, 255, 255, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        sources: 0,
        mss: 0,
        server_id_offset: 0,
        server_id_len: 0,
    };

    #[test]
    fn burst_passes_at_once_and_then_one_flow_an_interval() {
        let mut full = 0;
        for now in [1000, 1000, 1000, 1100, 1200] {
            full = admit(full, now, &OPTIONS).unwrap();
        }
        assert_eq!(admit(full, 1200, &OPTIONS), None);
        assert_eq!(admit(full, 1299, &OPTIONS), None);
        assert!(admit(full, 1300, &OPTIONS).is_some());
    }

    #[test]
    fn silence_gives_back_the_burst_and_no_more() {
        let mut full = 0;
        for (now, admitted) in [
            (10, true),
            (9000, true),
            (9000, true),
            (9000, true),
            (9000, false),
        ] {
            let next = admit(full, now, &OPTIONS);
            assert_eq!(next.is_some(), admitted);
            full = next.unwrap_or(full);
        }
    }

    #[test]
    fn sources_of_a_prefix_share_a_key() {
        let key = |source: [u8; 4]| key(7, source, &OPTIONS);
        assert_eq!(key([10, 1, 2, 3]), key([10, 1, 2, 250]));
        assert_ne!(key([10, 1, 2, 3]), key([10, 1, 3, 3]));
    }
}
