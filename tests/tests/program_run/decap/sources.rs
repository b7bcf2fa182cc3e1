//! Which outer sources are trusted: addresses and prefixes, each family apart.

use balancer_common::decap::{Form, Refusal};
use balancer_tests::frames::{Gue, Tunnel};
use balancer_user::dataplane::decap::Sources;

use super::{Backend, inner, ip, tunnel};
use crate::fixture::{tcp_v4, tcp_v6};

fn trusting(sources: &[&str]) -> Backend {
    let networks = sources.iter().map(|source| source.parse().unwrap());
    Backend::trusting(Sources::In(networks.collect()))
}

/// From this source, IP in IP and GUE.
fn from(source: &str) -> [(Tunnel, Form); 2] {
    let source = ip(source);
    let is_v4 = source.is_ipv4();
    let ipip = Tunnel {
        source,
        ..tunnel(is_v4, inner(&tcp_v4()))
    };
    let gue = Tunnel {
        gue: Some(Gue::direct()),
        inner: inner(&tcp_v6()),
        ..ipip.clone()
    };
    if is_v4 {
        [(ipip, Form::Ipip4in4), (gue, Form::Gue6in4)]
    } else {
        [(ipip, Form::Ipip4in6), (gue, Form::Gue6in6)]
    }
}

fn assert_trusts(backend: &mut Backend, source: &str) {
    for (tunnel, form) in from(source) {
        backend.assert_opens(&tunnel, form);
    }
}

fn assert_distrusts(backend: &mut Backend, source: &str) {
    for (tunnel, _) in from(source) {
        backend.assert_refuses(&tunnel.build(), Refusal::UntrustedSource);
    }
}

#[test]
fn prefixes_end_where_they_say() {
    let mut backend = trusting(&[
        "10.0.0.0/24",
        "10.0.8.0/22",
        "192.0.2.7/32",
        "fd00:1::/64",
        "fd00:2::8/125",
        "fd00:3::7/128",
    ]);
    for source in [
        "10.0.0.0",
        "10.0.0.255",
        "10.0.8.0",
        "10.0.11.255",
        "192.0.2.7",
        "fd00:1::",
        "fd00:1::ffff:ffff:ffff:ffff",
        "fd00:2::8",
        "fd00:2::f",
        "fd00:3::7",
    ] {
        assert_trusts(&mut backend, source);
    }
    for source in [
        "9.255.255.255",
        "10.0.1.0",
        "10.0.7.255",
        "10.0.12.0",
        "192.0.2.6",
        "192.0.2.8",
        "fd00:0:ffff:ffff:ffff:ffff:ffff:ffff",
        "fd00:1:0:1::",
        "fd00:2::7",
        "fd00:2::10",
        "fd00:3::6",
    ] {
        assert_distrusts(&mut backend, source);
    }
}

#[test]
fn prefixes_may_lie_inside_of_each_other_and_come_twice() {
    let mut backend = trusting(&["10.0.0.0/8", "10.0.0.1/32", "10.0.0.0/8", "10.0.0.1/32"]);
    for source in ["10.0.0.1", "10.0.0.2", "10.255.0.0"] {
        assert_trusts(&mut backend, source);
    }
    assert_distrusts(&mut backend, "11.0.0.1");
}

#[test]
fn a_family_says_nothing_about_the_other() {
    let mut backend = trusting(&["0.0.0.0/0"]);
    assert_trusts(&mut backend, "203.0.113.1");
    assert_distrusts(&mut backend, "fd00::1");
    // Not by way of an IPv6 address that spells one of IPv4 either.
    assert_distrusts(&mut backend, "::ffff:203.0.113.1");
    assert_distrusts(&mut backend, "::");
    let mut backend = trusting(&["::/0"]);
    assert_trusts(&mut backend, "fd00::1");
    assert_trusts(&mut backend, "::ffff:203.0.113.1");
    assert_distrusts(&mut backend, "203.0.113.1");
}

#[test]
fn any_source_is_every_one() {
    let mut backend = Backend::open();
    for source in ["203.0.113.1", "0.0.0.0", "fd00::1", "::"] {
        assert_trusts(&mut backend, source);
    }
}

#[test]
fn no_source_is_none() {
    let mut backend = trusting(&[]);
    for source in ["203.0.113.1", "0.0.0.0", "fd00::1", "::"] {
        assert_distrusts(&mut backend, source);
    }
}

#[test]
fn a_thousand_sources_all_count() {
    let sources: Vec<String> = (0..1000)
        .flat_map(|n| {
            let (high, low) = (n / 250, n % 250);
            [format!("10.{high}.{low}.1/32"), format!("fd00:{n}::/32")]
        })
        .collect();
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    let mut backend = trusting(&sources);
    for n in [0, 1, 499, 999] {
        assert_trusts(&mut backend, &format!("10.{}.{}.1", n / 250, n % 250));
        assert_distrusts(&mut backend, &format!("10.{}.{}.2", n / 250, n % 250));
        assert_trusts(&mut backend, &format!("fd00:{n}::5"));
    }
    assert_distrusts(&mut backend, "fd00:1000::5");
}
