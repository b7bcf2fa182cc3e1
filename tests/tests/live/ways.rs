//! Rules about the ways to the backends: neighbour, mtu and rp-filter.

use anyhow::Result;
use balancer_tests::lab::{Lab, LabConfig};

use crate::fixture::{Expected, File, PROBE, expect_without_servers as expect, run};

#[test]
fn backend_that_no_frame_reaches_is_found() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    let mut file = File::v4(&lab, "l2");
    expect(namespace, &file, &[])?;
    file.backends[1].0 = "10.1.2.99".parse()?;
    let silent = Expected {
        rule: "neighbour",
        level: "error",
        at: "\"10.1.2.99\"",
        says: "service web: backend b1: neighbour 10.1.2.99 on eth0 does not answer",
    };
    expect(namespace, &file, &[silent])?;
    // Nobody misses it, but what it still has of flows is lost.
    file.backends[1].1 = "drain = true\n";
    let drained = Expected {
        level: "warning",
        ..silent
    };
    expect(namespace, &file, &[drained])?;
    file.backends[1] = ("203.0.113.7".parse()?, "");
    let unrouted = Expected {
        at: "\"203.0.113.7\"",
        says: "service web: backend b1: no route to 203.0.113.7",
        ..silent
    };
    expect(namespace, &file, &[unrouted])?;
    // Who states the MAC needs no answer.
    file.backends[1] = ("10.1.2.99".parse()?, "mac = \"02:00:00:00:00:99\"\n");
    expect(namespace, &file, &[])
}

#[test]
fn l2_backend_behind_a_router_is_found() -> Result<()> {
    let lab = Lab::routed(LabConfig::backends(1))?;
    let namespace = lab.balancer().namespace();
    let address = format!("\"{}\"", lab.backend(0).v4());
    let behind = Expected {
        rule: "neighbour",
        level: "error",
        at: &address,
        says: "behind the gateway 10.3.0.1 on eth1, and l2 needs it on the link",
    };
    expect(namespace, &File::v4(&lab, "l2"), &[behind])?;
    expect(namespace, &File::v4(&lab, "gue"), &[])
}

#[test]
fn way_too_narrow_for_the_outer_headers_is_found() -> Result<()> {
    for (forward, overhead, overhead_v6) in [("ipip", 20, 40), ("gue", 28, 48)] {
        let wide = Lab::routed(LabConfig {
            back_mtu: Some(1500 + overhead),
            ..LabConfig::backends(2)
        })?;
        let namespace = wide.balancer().namespace();
        expect(namespace, &File::v4(&wide, forward), &[])?;

        let narrow = Lab::routed(LabConfig {
            back_mtu: Some(1500 + overhead - 1),
            ..LabConfig::backends(2)
        })?;
        let namespace = narrow.balancer().namespace();
        let first = format!("\"{}\"", narrow.backend(0).v4());
        let says = format!(
            "service web: backend b0 and 1 more: the way takes packets of {} bytes, and 1500 of \
             clients from eth0 with {overhead} of headers need {}: longer packets than 1499 bytes",
            1500 + overhead - 1,
            1500 + overhead
        );
        let costly = Expected {
            rule: "mtu",
            level: "warning",
            at: &first,
            says: &says,
        };
        expect(namespace, &File::v4(&narrow, forward), &[costly])?;

        // No IPv6 client sends less than 1280 bytes: nothing helps it.
        let hopeless = Lab::routed(LabConfig {
            back_mtu: Some(1280 + overhead_v6 - 1),
            ..LabConfig::backends(1)
        })?;
        let namespace = hopeless.balancer().namespace();
        let first = format!("\"{}\"", hopeless.backend(0).v6());
        let lost = Expected {
            level: "error",
            at: &first,
            says: "that leaves 1279 bytes, and IPv6 clients send no less than 1280",
            ..costly
        };
        expect(namespace, &File::v6(&hopeless, forward), &[lost])?;
    }
    Ok(())
}

#[test]
fn link_shared_with_the_backends_may_have_room_for_the_headers() -> Result<()> {
    let shared = |mtu| {
        Lab::l2(LabConfig {
            backend_mtu: mtu,
            ..LabConfig::backends(1)
        })
    };
    let wide = shared(1520)?;
    expect(wide.balancer().namespace(), &File::v4(&wide, "ipip"), &[])?;
    let narrow = shared(1519)?;
    let address = format!("\"{}\"", narrow.backend(0).v4());
    let costly = Expected {
        rule: "mtu",
        level: "warning",
        at: &address,
        says: "packets of 1519 bytes, and 1500 of clients with 20 of headers need 1520",
    };
    let namespace = narrow.balancer().namespace();
    expect(namespace, &File::v4(&narrow, "ipip"), &[costly])
}

#[test]
fn answers_that_strict_filtering_drops_are_found() -> Result<()> {
    let lab = Lab::routed(LabConfig::backends(1))?;
    let namespace = lab.balancer().namespace();
    let mut file = File::v4(&lab, "ipip");
    file.tables = PROBE.to_owned();
    namespace.set_sysctl("net/ipv4/conf/eth0/rp_filter", "1")?;
    // Strict, but what comes in there left there.
    expect(namespace, &file, &[])?;

    let other = lab.balancer().v4();
    let route = format!("route replace 10.4.0.0/16 via 10.3.0.1 src {other}");
    run(namespace, "ip", &route)?;
    let address = format!("\"{}\"", lab.backend(0).v4());
    let says =
        format!("backend b0: probes leave by eth1 from {other}, and their answers come in on eth0");
    let dropped = Expected {
        rule: "rp-filter",
        level: "error",
        at: &address,
        says: &says,
    };
    expect(namespace, &file, &[dropped])?;
    // Loose for all is the larger number, and wins.
    namespace.set_sysctl("net/ipv4/conf/all/rp_filter", "2")?;
    expect(namespace, &file, &[])
}
