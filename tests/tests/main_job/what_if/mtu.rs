//! The MTU of an interface changes: packets are held against the new one, and
//! who sends longer ones is told. Nothing else notices.

use anyhow::{Result, ensure};
use balancer_tests::lab::{Lab, LabConfig, link};

use super::{closed, insist_on_right, wait_incident, wait_problem, wait_well};
use crate::fixture::{Service, balancer, l2, load, stop_unharmed, v4, wait_answers, web_servers};
use crate::forwarding::{decaps, upload_arrives_whole};
use crate::programs::attached_id;

const NARROW: u32 = 1400;

#[test]
fn interface_that_takes_less_is_named_until_it_takes_as_much_as_before() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let namespace = lab.balancer().namespace();
    let wide = lab.balancer().interface().mtu;
    let program = attached_id(namespace)?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 300)?;
    // More than native XDP takes is refused by the kernel, and changes nothing.
    ensure!(link::set_mtu(namespace, "eth0", 9000).is_err());

    link::set_mtu(namespace, "eth0", NARROW)?;
    let said = format!("interface eth0: its MTU has fallen from {wide} to {NARROW}");
    wait_problem(&balancer, &said)?;
    let incident = wait_incident(&balancer, &[&said, "may be lost", "somebody changed it"])?;
    wait_answers(&load, 300)?;
    link::set_mtu(namespace, "eth0", wide)?;
    closed(&balancer, incident)?;
    wait_answers(&load, 300)?;
    let answered = stop_unharmed(load)?;
    println!("MTU down and up: {answered} requests answered, 0 failed");
    ensure!(attached_id(namespace)? == program);
    wait_well(&balancer)?;
    insist_on_right(&balancer)
}

#[test]
fn tunnel_by_a_way_that_takes_less_tells_clients_what_fits() -> Result<()> {
    let lab = Lab::routed(LabConfig {
        addresses_per_client: 20,
        ..LabConfig::backends(2)
    })?;
    let servers = web_servers(&lab)?;
    let _decaps = decaps(&lab)?;
    let service = Service::web(lab.vip_v4(), "ipip", v4(lab.backends()));
    let balancer = balancer(&lab, &service.toml())?;
    let (namespace, client) = (lab.balancer().namespace(), lab.client(0).namespace());
    let wide = lab.balancer().interfaces()[1].mtu;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 300)?;
    upload_arrives_whole(&lab, &service, &servers)?;
    let vip = service.address;
    ensure!(link::learnt_mtu(client, vip)?.is_none());

    link::set_mtu(namespace, "eth1", NARROW)?;
    let said = format!("by interface eth1 takes packets of {NARROW} bytes, and took {wide}");
    wait_problem(&balancer, &said)?;
    let incident = wait_incident(&balancer, &[&said, "is told what fits"])?;
    upload_arrives_whole(&lab, &service, &servers)?;
    // The outer header takes 20 bytes.
    let learnt = link::learnt_mtu(client, vip)?;
    ensure!(learnt == Some(NARROW - 20), "{learnt:?}");
    link::set_mtu(namespace, "eth1", wide)?;
    closed(&balancer, incident)?;
    upload_arrives_whole(&lab, &service, &servers)?;
    let answered = stop_unharmed(load)?;
    println!("MTU of a tunnel's way down and up: {answered} requests answered, 0 failed");
    wait_well(&balancer)?;
    insist_on_right(&balancer)
}
