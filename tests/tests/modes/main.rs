//! Every forwarding mode with real programs at both ends, and every packet's
//! checksum judged on the way.
//!
//! One table, [`every_mode`], has a row for each mode and pair of families; a
//! new mode is one more row and goes through all of it: large transfers and
//! load over HTTP, throughput and datagrams, DNS, QUIC, connections that outlive
//! changes and daemons, and probes by the VIP. Needs root; `BALANCER_BIN` names another binary than that
//! of `cargo xtask build`. One test at a time: `--test-threads=1`.

mod by_vip;
mod datagrams;
mod fixture;
mod pmtu;
mod quic;
mod restarts;
mod survival;
mod tags;
mod transfers;

use std::time::Duration;

/// How long a condition may take that nothing is measured by.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Makes a test of each row: a function that is handed the [`fixture::Mode`].
macro_rules! every_mode {
    ($run:path) => {
        $crate::every_mode! { @rows $run,
            l2_ipv4: L2 V4 V4,
            l2_ipv6: L2 V6 V6,
            fullnat_ipv4: Fullnat V4 V4,
            fullnat_ipv6: Fullnat V6 V6,
        }
        $crate::every_routed_mode!($run);
    };
    (@rows $run:path, $($name:ident: $forward:ident $vip:ident $backends:ident,)+) => {
        $(
            #[test]
            fn $name() -> anyhow::Result<()> {
                use $crate::fixture::{Family, Forward, Mode};
                $run(Mode {
                    forward: Forward::$forward,
                    vip: Family::$vip,
                    backends: Family::$backends,
                })
            }
        )+
    };
}
pub(crate) use every_mode;

/// As [`every_mode`], for those whose backends may be behind a router.
macro_rules! every_routed_mode {
    ($run:path) => {
        $crate::every_mode! { @rows $run,
            nat_ipv4: Nat V4 V4,
            nat_ipv6: Nat V6 V6,
        }
        $crate::every_tunnel!($run);
    };
}
pub(crate) use every_routed_mode;

/// As [`every_mode`], for tunnels.
macro_rules! every_tunnel {
    ($run:path) => {
        $crate::every_mode! { @rows $run,
            ipip_ipv4_in_ipv4: Ipip V4 V4,
            ipip_ipv4_in_ipv6: Ipip V4 V6,
            ipip_ipv6_in_ipv4: Ipip V6 V4,
            ipip_ipv6_in_ipv6: Ipip V6 V6,
            gue_ipv4_in_ipv4: Gue V4 V4,
            gue_ipv4_in_ipv6: Gue V4 V6,
            gue_ipv6_in_ipv4: Gue V6 V4,
            gue_ipv6_in_ipv6: Gue V6 V6,
        }
    };
}
pub(crate) use every_tunnel;
