use std::fmt::Write as _;
use std::time::Duration;

use super::super::testing::*;
use super::super::{Base, OperatorDrain, Proofs, to_prove};
use super::*;
use crate::config::diagnostic::Report;

/// The findings as `rule line:column`.
fn said(report: &Report) -> Vec<String> {
    let findings = report.findings().iter();
    findings
        .map(|finding| {
            assert!(finding.help.is_some(), "{}", finding.message);
            match report.position(finding) {
                Some((line, column)) => format!("{} {line}:{column}", finding.rule),
                None => format!("{} {}", finding.rule, finding.path),
            }
        })
        .collect()
}

/// What is found about a step to a text in which all is proven; the place of
/// `§` is where `rule` has to be found, and nothing else.
fn assert_finds(base: &Base, marked: &str, rule: &str) -> String {
    let at = marked.find('§').expect("a mark");
    let line = marked[..at].matches('\n').count() + 1;
    let column = at - marked[..at].rfind('\n').map_or(0, |newline| newline + 1) + 1;
    let report = proven(base, &marked.replace('§', ""));
    assert_eq!(
        said(&report),
        [format!("{rule} {line}:{column}")],
        "{}",
        report.render(false)
    );
    report.findings()[0].message.clone()
}

fn proven(base: &Base, text: &str) -> Report {
    let proofs = to_prove(base, &config(text));
    let proofs = proofs.into_iter().map(|spec| (spec.id, Ok(()))).collect();
    found(base, text, &proofs)
}

fn assert_clean(base: &Base, text: &str) {
    let report = proven(base, text);
    assert_eq!(said(&report), Vec::<String>::new());
}

fn running() -> Base {
    base(FILE, &[])
}

const FOURTH: &str = "[[service.backend]]\nname = \"web-4\"\naddress = \"10.0.0.14\"\n";

/// [`FILE`] with so many more services of one backend each.
fn many(count: usize, weight: u16) -> String {
    let mut text = FILE.to_owned();
    for n in 0..count {
        let _ = write!(
            text,
            "[[service]]\nname = \"s{n}\"\naddress = \"192.0.2.{}\"\nport = 80\n\
             protocol = \"tcp\"\nforward = \"l2\"\n[[service.backend]]\n\
             address = \"10.0.2.1\"\nweight = {weight}\n[[service.backend]]\n\
             address = \"10.0.2.2\"\n",
            n + 20
        );
    }
    text
}

#[test]
fn a_file_for_another_revision_is_stale() {
    let message = assert_finds(&running(), &format!("based_on = §40\n{FILE}"), "stale-base");
    assert_eq!(
        message,
        "the file is based on revision 40, and 41 is running"
    );
    assert_clean(&running(), &format!("based_on = 41\n{FILE}"));
    let unknown = Base {
        revision: None,
        ..running()
    };
    assert_clean(&unknown, &format!("based_on = 40\n{FILE}"));
}

#[test]
fn taking_out_more_than_a_quarter_is_found_at_the_service() {
    let marked = |text: String| {
        text.replacen(
            "[[service]]\nname = \"web\"",
            "§[[service]]\nname = \"web\"",
            1,
        )
    };
    let two_of_five = base(&FILE.replacen(FOURTH, &format!("{FOURTH}{FIFTH}"), 1), &[]);
    let three_left = with(FOURTH, "");
    let message = assert_finds(&two_of_five, &marked(three_left.clone()), "blast-radius");
    assert_eq!(
        message,
        "service web: 2 of its 5 backends are removed, limit 25 %"
    );
    // One of four is just allowed, and so is its drain.
    assert_clean(&running(), &three_left);
    assert_clean(
        &running(),
        &with("name = \"web-4\"\n", "name = \"web-4\"\ndrain = true\n"),
    );
    assert_clean(
        &running(),
        &with("name = \"web-4\"\n", "name = \"web-4\"\nweight = 0\n"),
    );

    let heavy = with("name = \"web-4\"\n", "name = \"web-4\"\nweight = 101\n");
    let drained = heavy.replacen("weight = 101", "weight = 101\ndrain = true", 1);
    let message = assert_finds(&base(&heavy, &[]), &marked(drained), "blast-radius");
    assert!(message.contains("25.2 % of its traffic"), "{message}");
}

#[test]
fn lower_weights_that_take_more_than_a_quarter_are_found() {
    let weighted = |weights: [u16; 4]| {
        let mut text = FILE.to_owned();
        for (at, weight) in (1..).zip(weights) {
            let name = format!("name = \"web-{at}\"\n");
            text = text.replacen(&name, &format!("{name}weight = {weight}\n"), 1);
        }
        text.replacen(
            "[[service]]\nname = \"web\"",
            "§[[service]]\nname = \"web\"",
            1,
        )
    };
    let message = assert_finds(&running(), &weighted([1000, 1, 1, 1]), "blast-radius");
    assert_eq!(
        message,
        "service web: 74.7 % of its traffic is taken from backends, limit 25 %"
    );
    // Nobody loses where all are halved, or where one is raised.
    for weights in [[50, 50, 50, 50], [200, 100, 100, 100]] {
        assert_clean(&running(), &weighted(weights).replace('§', ""));
    }
}

#[test]
fn a_service_that_goes_or_leaves_its_place_is_found() {
    let without = FILE.split_at(FILE.rfind("[[service]]").unwrap()).0;
    let report = proven(&running(), without);
    assert_eq!(said(&report), ["blast-radius service.dns"]);
    for (from, to) in [
        ("\"192.0.2.10\"", "§\"192.0.2.9\""),
        ("port = 80", "port = §81"),
        ("\"tcp\"\nforward", "§\"udp\"\nforward"),
    ] {
        assert_finds(&running(), &with(from, to), "blast-radius");
    }
    assert_clean(&running(), &with("port = 80", "port = [80, 443]"));
}

#[test]
fn more_than_ten_services_at_once_are_too_many() {
    let marked = many(11, 101).replacen(
        "[[service]]\nname = \"s0\"",
        "§[[service]]\nname = \"s0\"",
        1,
    );
    let message = assert_finds(&base(&many(11, 100), &[]), &marked, "blast-radius");
    assert!(
        message.contains("touches 11 services, limit 10"),
        "{message}"
    );
    assert_clean(&base(&many(10, 100), &[]), &many(10, 101));
    // Nobody uses what is not there yet.
    assert_clean(&running(), &many(30, 100));
}

#[test]
fn backend_that_a_command_drained_is_given_traffic() {
    let id = TargetId {
        service: "web".to_owned(),
        backend: "web-2".to_owned(),
    };
    let drain = |age| OperatorDrain {
        id: id.clone(),
        age: Some(Duration::from_secs(age)),
    };
    let drained = with("name = \"web-2\"\n", "name = \"web-2\"\ndrain = true\n");
    let running = |age| Base {
        drains: vec![drain(age)],
        ..base(&drained, &[])
    };
    let marked = with(
        "[[service.backend]]\nname = \"web-2\"",
        "§[[service.backend]]\nname = \"web-2\"",
    );
    assert_finds(&running(60), &marked, "undrains");
    assert_clean(&running(24 * 3600), &drained);
    let message = assert_finds(
        &running(25 * 3600),
        &drained.replacen("drain = true", "drain = §true", 1),
        "old-drain",
    );
    assert!(
        message.contains("drained for 25 hours, limit 24"),
        "{message}"
    );
    let removed = with(
        "[[service.backend]]\nname = \"web-2\"\naddress = \"10.0.0.12\"\n",
        "",
    );
    assert_clean(&running(25 * 3600), &removed);
}

#[test]
fn a_new_backend_is_found_until_it_is_proven() {
    let text = FILE.replacen(FOURTH, &format!("{FOURTH}{FIFTH}"), 1);
    assert_clean(&running(), &text);
    let marked = text.replacen("\"10.0.0.15\"", "§\"10.0.0.15\"", 1);
    let (line, column) = (
        marked[..marked.find('§').unwrap()].matches('\n').count() + 1,
        11,
    );
    let id = to_prove(&running(), &config(&text))[0].id.clone();
    for (proofs, why) in [
        (Proofs::new(), "it was not probed"),
        (Proofs::from([(id, Err("refused".to_owned()))]), "refused"),
    ] {
        let report = found(&running(), &text, &proofs);
        assert_eq!(said(&report), [format!("unproven-backend {line}:{column}")]);
        let message = &report.findings()[0].message;
        assert_eq!(
            *message,
            format!("service web: backend web-5 at 10.0.0.15:80 is not proven: {why}")
        );
    }
}

#[test]
fn change_that_moves_far_more_slots_than_the_weights_ask_for_is_churn() {
    let web = "[[service]]\nname = \"web\"";
    let renamed = with("name = \"web-4\"", "name = \"web-four\"");
    let marked = renamed.replacen(web, &format!("§{web}"), 1);
    let message = assert_finds(&running(), &marked, "churn");
    assert!(
        message.ends_with("limit 0: twice what the weights ask for"),
        "{message}"
    );
    assert_clean(
        &running(),
        &with("name = \"web-4\"\n", "name = \"web-4\"\nweight = 200\n"),
    );
    // More than twice, and next to nothing: 8 slots for 3.
    let small = FILE.replacen("[\"eth0\"]", "[\"eth0\"]\ntable_size = 2003", 1);
    let nudged = small.replacen("name = \"web-4\"\n", "name = \"web-4\"\nweight = 101\n", 1);
    let plan = super::super::make(
        &base(&small, &[]),
        &config(&nudged),
        &Proofs::new(),
        &crate::change::TableMemo::default(),
    );
    let web = &plan.services[0];
    assert!(web.slots_moved > 2 * web.slots_required.unwrap(), "{web:?}");
    assert_clean(&base(&small, &[]), &nudged);
}

#[test]
fn a_service_may_allow_what_it_knows() {
    let allowing = with(
        "fail_open_below = 0\n\n[service.health]\nkind = \"http\"",
        "fail_open_below = 0\nallow = [\"blast-radius\"]\nallow_reason = \"moved\"\n\n\
         [service.health]\nkind = \"http\"",
    );
    let report = proven(
        &running(),
        &allowing.replacen("\"192.0.2.10\"", "\"192.0.2.9\"", 1),
    );
    assert_eq!((report.errors(), report.allowed()), (0, 1));
}

#[test]
fn a_file_goes_on_with_drains_made_by_command() {
    let id = TargetId {
        service: "web".to_owned(),
        backend: "web-2".to_owned(),
    };
    let running = Base {
        drains: vec![OperatorDrain { id, age: None }],
        ..base(
            &with("name = \"web-2\"\n", "name = \"web-2\"\ndrain = true\n"),
            &[],
        )
    };
    let mut file = config(FILE);
    let carried = super::super::carry_drains(&running, &mut file);
    assert_eq!(carried, [("web".to_owned(), "web-2".to_owned())]);
    let tables = crate::change::TableMemo::default();
    let plan = super::super::make(&running, &file, &Proofs::new(), &tables);
    assert_eq!(
        plan.with_drains_on(carried).summary,
        "nothing changes; drained by command and still so: web-2 of service web"
    );
    assert_eq!(super::super::carry_drains(&running, &mut file), []);
}
