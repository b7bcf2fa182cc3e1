//! Differences in names: of services, backends and the fields of their entries.

use std::fmt::Write as _;

use balancer_common::layout::{Member, Slot};

use crate::api::types::DriftFinding;
use crate::dataplane::tables::Drift;
use crate::dataplane::{ServiceId, ServiceKey};
use crate::rehearsal::Names;

/// A difference that is about nothing but itself.
pub(super) fn finding(what: &str, expected: String, seen: String) -> DriftFinding {
    DriftFinding {
        rule: "kernel-drift".to_owned(),
        what: what.to_owned(),
        service: None,
        backend: None,
        slots: None,
        interface: None,
        expected,
        seen,
        is_repaired: false,
    }
}

/// A difference by names.
pub(super) fn in_words(drift: &Drift, names: &Names) -> DriftFinding {
    let of_service = |id: ServiceId, finding: DriftFinding| DriftFinding {
        service: Some(
            names
                .service(id)
                .map_or_else(|| format!("number {id}"), str::to_owned),
        ),
        ..finding
    };
    match drift {
        Drift::Head {
            what,
            expected,
            seen,
        } => finding("head", format!("{what}: {expected}"), seen.clone()),
        Drift::Key { service, key, seen } => {
            let leads = |id: &ServiceId| match names.service(*id) {
                Some(name) => format!("what leads to service {name}, otherwise than written"),
                None => format!("what leads to number {id}"),
            };
            let seen = seen.as_ref().map_or_else(|| "nothing".to_owned(), leads);
            of_service(*service, finding("key", describe_key(key), seen))
        }
        Drift::ForeignKeys { count } => finding(
            "key",
            "no further key".to_owned(),
            format!("{count} that nobody wrote"),
        ),
        Drift::Member {
            service,
            member,
            expected,
            seen,
        } => {
            let (expected, seen) = fields(expected, seen);
            let finding = finding("member", expected, seen);
            let backend = names.backend(*service, *member);
            of_service(
                *service,
                DriftFinding {
                    backend: Some(backend.map_or_else(|| format!("{member}"), str::to_owned)),
                    ..finding
                },
            )
        }
        Drift::Options { service } => of_service(
            *service,
            finding("options", "the file's".to_owned(), "others".to_owned()),
        ),
        Drift::Slots {
            service,
            first,
            last,
            expected,
            seen,
        } => {
            let run = slots(*service, (*first, *last), (*expected, *seen), names);
            of_service(*service, run)
        }
        Drift::Sources { missing, foreign } => finding(
            "sources",
            "the prefixes of the file".to_owned(),
            format!("{missing} of them missing and {foreign} that nobody wrote"),
        ),
        Drift::Egress {
            port,
            expected,
            seen,
        } => finding(
            "egress",
            format!("interface number {expected} at port {port}"),
            seen.map_or_else(|| "none".to_owned(), |seen| format!("number {seen}")),
        ),
    }
}

/// A run of slots, with the owners that were written and those that are there.
fn slots(
    service: ServiceId,
    run: (u32, u32),
    (expected, seen): (Slot, Slot),
    names: &Names,
) -> DriftFinding {
    let owner = names.backend(service, expected.current());
    DriftFinding {
        backend: owner.map(str::to_owned),
        slots: Some(run),
        ..finding(
            "slots",
            owners(service, expected, names),
            owners(service, seen, names),
        )
    }
}

fn describe_key(key: &ServiceKey) -> String {
    match (key.port, key.protocol) {
        (_, 6) => format!("{} port {}/tcp", key.address, key.port),
        (_, 17) => format!("{} port {}/udp", key.address, key.port),
        (0, 0) => format!("the mark of address {}", key.address),
        _ => format!("a server id ({})", key.address),
    }
}

fn owners(service: ServiceId, slot: Slot, names: &Names) -> String {
    let name = |index: u16| match names.backend(service, index) {
        Some(name) => name.to_owned(),
        None => format!("member {index}, which is nobody's"),
    };
    if !slot.is_unsettled() {
        return name(slot.current());
    }
    let (current, previous) = (name(slot.current()), name(slot.previous()));
    format!("{current} (in change, from {previous})")
}

/// The fields that differ, as expected and as seen.
fn fields(expected: &Member, seen: &Member) -> (String, String) {
    let all = |member: &Member| {
        let [ethernet, outer] = [&member.ethernet[..], &member.outer_destination[..]].map(hex);
        [
            ("kind", member.kind.to_string()),
            ("flags", member.flags.to_string()),
            ("incarnation", member.incarnation.to_string()),
            ("counter", member.counter.to_string()),
            ("egress", member.egress.to_string()),
            ("mtu", member.mtu.to_string()),
            ("spread bits", member.spread_bits.to_string()),
            ("Ethernet addresses", ethernet),
            ("outer sum", member.outer_sum.to_string()),
            ("port", u16::from_be_bytes(member.port).to_string()),
            ("outer source", hex(&member.outer_source)),
            ("destination", outer),
        ]
    };
    let (mut was, mut is) = (Vec::new(), Vec::new());
    for ((name, expected), (_, seen)) in all(expected).into_iter().zip(all(seen)) {
        if expected != seen {
            was.push(format!("{name} {expected}"));
            is.push(format!("{name} {seen}"));
        }
    }
    (was.join(", "), is.join(", "))
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}
