//! The rules over snapshots: what no lab can have, and what every rule needs
//! to keep silent.

use super::super::host::{Host, Interface, Program};
use super::check;
use crate::config::diagnostic::{Finding, Level};
use crate::config::{Examined, examine};
use crate::netlink::AttachedMode;

const FILE: &str = r#"[node]
interfaces = ["eth0"]

[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
forward = "l2"
"#;

fn interface() -> Interface {
    Interface {
        up: true,
        mtu: 1500,
        program: None,
        native_xdp: Some(true),
        lro: false,
        gro: true,
        vlan_stripping: true,
        vlans: Vec::new(),
        bond: None,
    }
}

fn findings(text: &str, interface: Interface) -> Vec<Finding> {
    let Examined { config, spans, .. } = examine("test", text, None);
    let host = Host {
        interfaces: [("eth0".to_owned(), interface)].into(),
        solicited: true,
        page_len: 4096,
        ..Host::default()
    };
    check(&config.unwrap(), &spans, &host)
}

/// The one finding; its rule, its level, and the text that it points at.
#[track_caller]
fn only(text: &'static str, interface: Interface) -> (&'static str, Level, &'static str) {
    let found = findings(text, interface);
    let [finding] = &found[..] else {
        panic!("{found:#?}");
    };
    assert!(finding.help.is_some(), "{finding:?}");
    (
        finding.rule,
        finding.level,
        &text[finding.span.clone().unwrap()],
    )
}

const VALUE: &str = "[\"eth0\"]";

#[test]
fn an_ordinary_interface_has_no_finding() {
    assert_eq!(findings(FILE, interface()), []);
}

#[test]
fn lro_is_an_error() {
    let lro = Interface {
        lro: true,
        ..interface()
    };
    assert_eq!(only(FILE, lro), ("offloads", Level::Error, VALUE));
}

#[test]
fn vlan_stripping_is_a_warning_where_a_vlan_stands_on_the_interface() {
    let vlan = Interface {
        vlans: vec!["eth0.5".to_owned()],
        ..interface()
    };
    let unstripped = Interface {
        vlan_stripping: false,
        ..vlan.clone()
    };
    assert_eq!(only(FILE, vlan), ("offloads", Level::Warning, VALUE));
    assert_eq!(findings(FILE, unstripped), []);
}

#[test]
fn port_of_a_bond_is_an_error() {
    let port = Interface {
        bond: Some("bond0".to_owned()),
        ..interface()
    };
    assert_eq!(only(FILE, port), ("bond-port", Level::Error, VALUE));
}

#[test]
fn driver_that_cannot_be_asked_is_not_accused() {
    let old_kernel = Interface {
        native_xdp: None,
        mtu: 9000,
        ..interface()
    };
    assert_eq!(findings(FILE, old_kernel), []);
}

#[test]
fn program_whose_link_cannot_be_read_is_not_called_foreign() {
    let program = |ours| Interface {
        program: Some(Program {
            id: 7,
            mode: AttachedMode::Native,
            ours,
        }),
        ..interface()
    };
    assert_eq!(findings(FILE, program(None)), []);
    assert_eq!(findings(FILE, program(Some(true))), []);
    let foreign = ("foreign-xdp", Level::Error, VALUE);
    assert_eq!(only(FILE, program(Some(false))), foreign);
}

#[test]
fn native_mode_that_the_driver_lacks_is_an_error_at_its_key() {
    const NATIVE: &str = "[node]\ninterfaces = [\"eth0\"]\nxdp_mode = \"native\"\n";
    let without = Interface {
        native_xdp: Some(false),
        gro: false,
        ..interface()
    };
    let error = ("xdp-mode", Level::Error, "\"native\"");
    assert_eq!(only(NATIVE, without.clone()), error);
    assert_eq!(only(FILE, without), ("xdp-mode", Level::Warning, VALUE));
}
