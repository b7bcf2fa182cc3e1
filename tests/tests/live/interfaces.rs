//! Rules about the interfaces: missing-interface, xdp-mode, foreign-xdp and
//! offloads.

use anyhow::Result;
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::pass::{self, Action};
use balancer_tests::lab::{Lab, LabConfig, link};

use crate::fixture::{Expected, File, expect_without_servers as expect, run};

const INTERFACES: &str = "[\"eth0\"]";

#[test]
fn interface_that_is_missing_or_down_is_found() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    let mut file = File::v4(&lab, "l2");
    expect(namespace, &file, &[])?;

    file.interfaces.push("eth9".to_owned());
    let missing = Expected {
        rule: "missing-interface",
        level: "error",
        at: "[\"eth0\", \"eth9\"]",
        says: "interface eth9 does not exist",
    };
    expect(namespace, &file, &[missing])?;

    run(namespace, "ip", "link add eth9 type veth peer name eth8")?;
    let down = Expected {
        level: "warning",
        says: "interface eth9 is down",
        ..missing
    };
    expect(namespace, &file, &[down])?;
    link::up(namespace, "eth9")?;
    expect(namespace, &file, &[])
}

#[test]
fn driver_without_native_xdp_is_found() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    run(namespace, "ip", "link add br0 up type bridge")?;
    run(namespace, "ethtool", "-K br0 gro off")?;
    let mut file = File::v4(&lab, "l2");
    file.interfaces.push("br0".to_owned());
    let slow = Expected {
        rule: "xdp-mode",
        level: "warning",
        at: "[\"eth0\", \"br0\"]",
        says: "interface br0: its driver has no native XDP, so the generic hook is used",
    };
    expect(namespace, &file, &[slow])?;
    file.node = "xdp_mode = \"native\"\n".to_owned();
    let refused = Expected {
        level: "error",
        at: "\"native\"",
        says: "so xdp_mode = \"native\" refuses to start",
        ..slow
    };
    expect(namespace, &file, &[refused])?;
    file.node = "xdp_mode = \"generic\"\n".to_owned();
    expect(namespace, &file, &[])
}

#[test]
fn mtu_above_what_native_xdp_takes_is_found() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    // The lab's own links have a program at the other end, with which a veth
    // takes no such MTU to begin with.
    run(
        namespace,
        "ip",
        "link add eth9 mtu 3507 type veth peer name eth8",
    )?;
    link::up(namespace, "eth9")?;
    let mut file = File::v4(&lab, "l2");
    file.interfaces.push("eth9".to_owned());
    let jumbo = Expected {
        rule: "xdp-mode",
        level: "warning",
        at: "[\"eth0\", \"eth9\"]",
        says: "interface eth9: its MTU is 3507, and native XDP takes 3506 at most, so the generic",
    };
    // Clients on eth9 send longer packets than eth0 takes, too.
    let costly = |mtu: &'static str| Expected {
        rule: "mtu",
        level: "warning",
        at: "\"10.1.2.1\"",
        says: mtu,
    };
    expect(
        namespace,
        &file,
        &[jumbo, costly("3507 of clients from eth9 need as much")],
    )?;
    file.node = "xdp_mode = \"native\"\n".to_owned();
    let refused = Expected {
        level: "error",
        at: "\"native\"",
        says: "so xdp_mode = \"native\" refuses to start",
        ..jumbo
    };
    expect(
        namespace,
        &file,
        &[refused, costly("3507 of clients from eth9 need as much")],
    )?;
    link::set_mtu(namespace, "eth9", 3506)?;
    expect(
        namespace,
        &file,
        &[costly("3506 of clients from eth9 need as much")],
    )
}

#[test]
fn program_of_somebody_else_is_told_from_our_own() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    let mut file = File::v4(&lab, "l2");
    let foreign = Expected {
        rule: "foreign-xdp",
        level: "error",
        at: INTERFACES,
        says: "interface eth0 runs another XDP program (id ",
    };
    let other = pass::attach(namespace, "eth0", Action::Pass)?;
    expect(namespace, &file, &[foreign])?;
    drop(other);
    expect(namespace, &file, &[])?;

    let balancer = Balancer::start(namespace, &["eth0"], "xdp_mode = \"generic\"\n")?;
    expect(namespace, &file, &[foreign])?;
    file.node = format!(
        "pin_dir = {:?}\nxdp_mode = \"generic\"\n",
        balancer.pin_dir()
    );
    expect(namespace, &file, &[])?;
    // Ours, and not where the file would have it.
    file.node = file.node.replace("generic", "auto");
    let slow = Expected {
        rule: "xdp-mode",
        level: "warning",
        at: "\"auto\"",
        says: "interface eth0: this balancer's program runs in the generic hook",
    };
    expect(namespace, &file, &[slow])
}

#[test]
fn offloads_that_hide_packets_are_found() -> Result<()> {
    let lab = Lab::l2(LabConfig::backends(2))?;
    let namespace = lab.balancer().namespace();
    let mut file = File::v4(&lab, "l2");
    run(namespace, "ethtool", "-K eth0 gro on")?;
    // Native XDP comes before GRO.
    expect(namespace, &file, &[])?;

    file.node = "xdp_mode = \"generic\"\n".to_owned();
    let merged = Expected {
        rule: "offloads",
        level: "error",
        at: INTERFACES,
        says: "interface eth0: GRO is on, and in generic mode",
    };
    expect(namespace, &file, &[merged])?;
    run(namespace, "ethtool", "-K eth0 gro off")?;
    expect(namespace, &file, &[])
}
