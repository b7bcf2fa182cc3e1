//! Frames that XDP programs send, drop and pass.
//!
//! Without the lab's pass programs and with offloads on, the two tests that
//! forward requests time out.

use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;

use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::client::{Curl, fetch};
use balancer_tests::lab::pass::{self, Action};
use balancer_tests::lab::server::download_pattern;
use balancer_tests::lab::{BackendXdp, Lab, LabConfig, Mac, link};

use crate::{url, web};

/// A forwarder in a dozen lines of C, as XDP instructions: IPv4 to `vip` gets the
/// Ethernet addresses and goes out of `interface`, or back where it came from.
fn forwarder(vip: Ipv4Addr, from: Mac, to: Mac, interface: Option<u32>) -> Vec<u64> {
    let op = |code: u64, to: u64, from: u64, offset: u64, immediate: u32| {
        code | to << 8 | from << 12 | offset << 16 | u64::from(immediate) << 32
    };
    let half = |bytes: &[u8]| u32::from(u16::from_le_bytes(bytes.try_into().unwrap()));
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
    let send = match interface {
        None => vec![op(0xb7, 0, 0, 0, Action::Tx as u32)],
        // return bpf_redirect(interface, 0)
        Some(index) => vec![
            op(0xb7, 1, 0, 0, index),
            op(0xb7, 2, 0, 0, 0),
            op(0x85, 0, 0, 0, 23),
        ],
    };
    let sending = send.len() as u64;
    let head = [
        op(0x61, 2, 1, 0, 0),                             // r2 = data
        op(0x61, 3, 1, 4, 0),                             // r3 = data_end
        op(0xbf, 4, 2, 0, 0),                             // r4 = r2
        op(0x07, 4, 0, 0, 34),                            // r4 += Ethernet and IPv4 header
        op(0x2d, 4, 3, 9 + sending, 0),                   // if r4 > r3 goto pass
        op(0x69, 5, 2, 12, 0),                            // r5 = EtherType
        op(0x55, 5, 0, 7 + sending, 0x0008),              // if r5 != IPv4 goto pass
        op(0x61, 5, 2, 30, 0),                            // r5 = destination
        op(0x56, 5, 0, 5 + sending, word(&vip.octets())), // if r5 != vip goto pass
        op(0x62, 2, 0, 0, word(&to.0[..4])),              // Ethernet destination
        op(0x6a, 2, 0, 4, half(&to.0[4..])),
        op(0x6a, 2, 0, 6, half(&from.0[..2])), // Ethernet source
        op(0x62, 2, 0, 8, word(&from.0[2..])),
    ];
    let pass = op(0xb7, 0, 0, 0, Action::Pass as u32);
    let exit = op(0x95, 0, 0, 0, 0);
    [head.to_vec(), send, vec![exit, pass, exit]].concat()
}

/// Transfers in both directions through a service address, and proves that what
/// the backend sent went past the balancer.
fn assert_direct_return(lab: &Lab) {
    let (client, vip) = (lab.client(0), lab.vip_v4());
    let response = fetch(client.namespace(), url(vip.into(), "/download")).unwrap();
    assert_eq!(
        (response.status, response.backend()),
        (200, Some("backend1"))
    );
    assert_eq!(response.remote.unwrap().ip(), vip);
    assert_eq!(
        response.header("x-client"),
        Some(client.v4().to_string().as_str())
    );
    assert!(
        response.body == download_pattern(4 << 20),
        "the download is damaged"
    );
    for interface in lab.balancer().interfaces() {
        let crossed = link::counters(lab.balancer().namespace(), &interface.name).unwrap();
        assert!(
            crossed.rx_bytes < 1 << 20,
            "the reply crossed the balancer: {crossed:?}"
        );
    }
    // Now full-sized frames are forwarded by XDP.
    let scratch = Scratch::create("upload").unwrap();
    let path = scratch.path().join("file");
    fs::write(&path, download_pattern(1 << 20)).unwrap();
    let upload = Curl::new(url(vip.into(), "/upload/file"));
    let upload = upload.args(["--upload-file", path.to_str().unwrap()]);
    assert_eq!(upload.run(client.namespace()).unwrap().status, 201);
}

#[test]
fn requests_sent_back_by_xdp_are_answered_past_the_balancer() {
    for backend_xdp in [BackendXdp::None, BackendXdp::Pass] {
        let lab = Lab::l2(LabConfig {
            backend_xdp,
            ..LabConfig::default()
        })
        .unwrap();
        let _server = web(&lab, 1);
        let balancer = lab.balancer();
        let program = forwarder(lab.vip_v4(), balancer.mac(), lab.backend(1).mac(), None);
        let _program = pass::attach_instructions(balancer.namespace(), "eth0", &program).unwrap();
        assert_direct_return(&lab);
    }
}

#[test]
fn requests_redirected_by_xdp_are_answered_past_the_balancer() {
    let lab = Lab::routed(LabConfig::default()).unwrap();
    let _server = web(&lab, 1);
    let (balancer, router) = (lab.balancer(), lab.router().unwrap());
    // Stands in for the outer header, which would name the backend.
    let route = link::Route {
        to: lab.vip_v4().into(),
        prefix_len: 32,
        via: Some(lab.backend(1).v4().into()),
        interface: None,
        mtu: None,
    };
    link::add_route(router.namespace(), &route).unwrap();
    let [_, near] = balancer.interfaces() else {
        panic!("two interfaces")
    };
    let far = router
        .interfaces()
        .iter()
        .find(|interface| interface.name == "back")
        .unwrap();
    let out = link::index(balancer.namespace(), &near.name).unwrap();
    let program = forwarder(lab.vip_v4(), near.mac, far.mac, Some(out));
    let _program = pass::attach_instructions(balancer.namespace(), "eth0", &program).unwrap();
    assert_direct_return(&lab);
}

#[test]
fn a_backend_that_drops_everything_is_silent_until_the_program_goes() {
    let lab = Lab::l2(LabConfig::backends(1)).unwrap();
    let _server = web(&lab, 0);
    let (client, backend) = (lab.client(0).namespace(), lab.backend(0));
    let ask = |limit| {
        let request = Curl::new(url(backend.v4().into(), "/"));
        request.limit(limit).run(client).unwrap().exit_code
    };
    let hole = pass::attach(backend.namespace(), "eth0", Action::Drop).unwrap();
    assert_eq!(ask(Duration::from_millis(500)), 28);
    drop(hole);
    // The client may have given up the neighbour, too, and asks again but once
    // a second.
    assert_eq!(ask(Duration::from_secs(10)), 0);
}

#[test]
fn an_interface_has_one_program_and_is_free_after_drop() {
    let lab = Lab::l2(LabConfig::default()).unwrap();
    let backend = lab.backend(0);
    let attach = || pass::attach(backend.namespace(), "eth0", Action::Pass);
    let first = attach().unwrap();
    attach().unwrap_err();
    drop(first);
    attach().unwrap();
}
