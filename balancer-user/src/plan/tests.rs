use std::time::Instant;

use proptest::prelude::*;

use super::testing::*;
use super::*;
use crate::config::model::Seed;
use crate::health::State;

fn service<'a>(plan: &'a Plan, name: &str) -> &'a ServicePlan {
    let found = plan.services.iter().find(|service| service.name == name);
    found.expect("the service is in the plan")
}

fn backend<'a>(plan: &'a Plan, name: &str) -> &'a BackendPlan {
    let backends = plan.services.iter().flat_map(|service| &service.backends);
    let mut found = backends.filter(|backend| backend.name == name);
    found.next().expect("the backend is in the plan")
}

fn near(share: Option<f64>, expected: f64) -> bool {
    share.is_some_and(|share| (share - expected).abs() < 0.001)
}

#[test]
fn the_running_file_changes_nothing_in_whatever_order() {
    let (head, tail) = FILE
        .split_once("[[service.backend]]\nname = \"web-2\"")
        .unwrap();
    let (two, tail) = tail
        .split_once("[[service.backend]]\nname = \"web-3\"")
        .unwrap();
    let reordered = format!(
        "{head}[[service.backend]]\nname = \"web-3\"{}",
        tail.replacen(
            "[[service]]",
            &format!("[[service.backend]]\nname = \"web-2\"{two}\n[[service]]"),
            1
        )
    );
    for text in [FILE, &format!("based_on = 7\n{FILE}"), &reordered] {
        let plan = plan_to(text);
        assert!(!plan.has_changes, "{plan:#?}");
        assert_eq!(plan.summary, "nothing changes");
        assert_eq!((plan.services.len(), plan.unchanged_services), (0, 2));
    }
}

#[test]
fn record_of_a_huge_plan_names_every_service_and_the_first_ones_backends() {
    let text = with("name = \"web-3\"\n", "name = \"web-3\"\nweight = 50\n");
    let mut plan = plan_to(&text);
    assert_eq!(plan.clone().for_record(), plan, "a small one is kept whole");
    let web = service(&plan, "web").clone();
    let each = web.backends.len();
    plan.services = vec![web; MAX_RECORDED / each + 5];
    let before = plan.clone();
    let kept = plan.for_record();
    assert_eq!(plan, before);
    assert_eq!(kept.services.len(), plan.services.len());
    let named = kept.services.iter().map(|it| it.backends.len());
    let expected = (0..plan.services.len()).map(|at| match at < MAX_RECORDED / each {
        true => each,
        false => 0,
    });
    assert!(named.eq(expected));
}

#[test]
fn weight_moves_new_flows_and_keeps_established_ones() {
    let text = with("name = \"web-3\"\n", "name = \"web-3\"\nweight = 50\n");
    let plan = plan_to(&text);
    let web = service(&plan, "web");
    assert_eq!(web.fate, Fate::Changed);
    assert_eq!(web.settings, []);
    let three = backend(&plan, "web-3");
    let setting = &three.settings[0];
    assert_eq!(
        (
            setting.key.as_str(),
            setting.before.as_deref(),
            setting.after.as_deref()
        ),
        ("weight", Some("100"), Some("50"))
    );
    assert!(near(three.share_now, 0.25) && near(three.share_after, 1.0 / 7.0));
    assert!(near(backend(&plan, "web-1").share_after, 2.0 / 7.0));
    assert_eq!(backend(&plan, "web-1").fate, Fate::Kept);
    // 3/28 of the slots have to move, and few others do.
    let required = f64::from(web.slots_required.unwrap()) / 65_537.0;
    assert!((required - 3.0 / 28.0).abs() < 0.001, "{required}");
    assert!(web.share_moved >= required && web.share_moved < 2.0 * required);
    let moved: u32 = web.moves.iter().map(|it| it.slots).sum();
    assert_eq!((moved, web.moves_left_out), (web.slots_moved, 0));
    assert_eq!(web.moves[0].from.as_deref(), Some("web-3"));
    // 400 new flows a second, evenly spread over the slots.
    let rate = web.flows_per_second_moved.unwrap();
    assert!((rate - 400.0 * web.share_moved).abs() < 1.0, "{rate}");
    let established = &web.established;
    assert_eq!(established.breaks, []);
    assert_eq!(established.share_kept, web.share_moved);
    assert_eq!(established.kept_seconds, Some(300));
    assert_eq!(plan.unchanged_services, 1);
    let (moving, rest) = plan.summary.split_once(" % ").unwrap();
    assert!(moving.starts_with("1 service changes; 1"), "{moving}");
    // Who gains the most is a matter of a slot.
    let parts = [
        "of its new flows move from web-3 to ",
        "; 0 established flows break",
    ];
    for part in [&parts[..], &["web-1", "web-2", "web-4"]].concat() {
        assert!(rest.contains(part), "{part} in {rest}");
    }
}

#[test]
fn removed_backends_flows_break_and_a_drained_ones_are_kept_for_a_time() {
    let gone = with(
        "[[service.backend]]\nname = \"web-4\"\naddress = \"10.0.0.14\"\n",
        "",
    );
    let plan = plan_to(&gone);
    let four = backend(&plan, "web-4");
    assert_eq!(
        (four.fate, four.slots_after, four.state_after.clone()),
        (Fate::Removed, None, None)
    );
    assert!(near(four.share_now, 0.25));
    let found = &service(&plan, "web").established;
    assert_eq!(found.breaks.len(), 1);
    assert_eq!(found.breaks[0].backend.as_deref(), Some("web-4"));
    assert_eq!(found.breaks[0].why, "it is removed");
    assert!(near(Some(found.share_breaking), 0.25));
    assert!(
        plan.summary
            .ends_with("; 25.0 % of the established flows of service web break, those of web-4"),
        "{}",
        plan.summary
    );

    let drained = with("name = \"web-4\"\n", "name = \"web-4\"\ndrain = true\n");
    let plan = plan_to(&drained);
    let four = backend(&plan, "web-4");
    assert_eq!(four.state_now.as_deref(), Some("up"));
    assert_eq!(four.state_after.as_deref(), Some("draining"));
    let found = &service(&plan, "web").established;
    assert_eq!(
        (found.drained.as_slice(), found.kept_seconds),
        (&["web-4".to_owned()][..], Some(300))
    );
    assert_eq!(found.breaks, []);
    assert!(
        plan.summary.ends_with(
            "0 established flows break; web-4 of service web drains: its flows are kept for 5m"
        ),
        "{}",
        plan.summary
    );
    let at_once = drained.replacen(
        "fail_open_below = 0",
        "fail_open_below = 0\ndrain_timeout = \"0s\"",
        1,
    );
    let found = service(&plan_to(&at_once), "web").established.clone();
    assert_eq!(found.breaks[0].why, "it is drained, and drain_timeout is 0");
    assert_eq!(found.share_kept, 0.0);
}

#[test]
fn server_at_another_address_is_another_server() {
    let plan = plan_to(&with("10.0.0.14", "10.0.0.24"));
    let four = backend(&plan, "web-4");
    assert_eq!(four.fate, Fate::Replaced);
    assert!(four.must_prove && !backend(&plan, "web-3").must_prove);
    let web = service(&plan, "web");
    assert_eq!(web.moves.len(), 1, "{:?}", web.moves);
    assert_eq!(web.moves[0].from.as_deref(), Some("web-4 at 10.0.0.14"));
    assert_eq!(web.moves[0].to.as_deref(), Some("web-4 at 10.0.0.24"));
    assert_eq!(web.slots_required, Some(web.slots_moved));
    assert_eq!(
        web.established.breaks[0].why,
        "another server gets its name"
    );
}

#[test]
fn services_come_and_go_whole() {
    let (web, dns) = FILE.split_at(FILE.rfind("[[service]]").unwrap());
    let plan = plan_to(web);
    let gone = service(&plan, "dns");
    assert_eq!(gone.fate, Fate::Removed);
    assert_eq!((gone.slots_now, gone.slots_after), (65_537, 0));
    assert_eq!(gone.established.share_breaking, 1.0);
    assert_eq!(gone.flows_per_second_moved, None, "UDP has no new flows");
    assert_eq!(
        plan.summary,
        "1 service is removed; no new flows move; 100.0 % of the established flows of service \
         dns break"
    );
    let more = dns
        .replace("\"dns\"", "\"more\"")
        .replace("192.0.2.11", "192.0.2.12");
    let plan = plan_to(&format!("{FILE}\n{more}"));
    let new = service(&plan, "more");
    assert_eq!((new.fate, new.slots_moved), (Fate::Added, 0));
    assert!(
        new.backends
            .iter()
            .all(|it| it.must_prove && it.fate == Fate::Added)
    );
    assert_eq!(
        plan.summary,
        "1 service is added; no new flows move; 0 established flows break"
    );
}

#[test]
fn health_that_is_known_decides_and_a_failed_proof_too() {
    let running = base(FILE, &["web-2"]);
    let text = FILE.replacen(
        "\n[[service]]\nname = \"dns\"",
        &format!("\n{FIFTH}\n[[service]]\nname = \"dns\""),
        1,
    );
    let candidate = config(&text);
    let tables = TableMemo::default();
    let to_prove = to_prove(&running, &candidate);
    assert_eq!(to_prove.len(), 1);
    let id = to_prove[0].id.clone();
    assert_eq!(id.backend, "web-5");
    let hopeful = make(&running, &candidate, &Proofs::new(), &tables);
    let two = backend(&hopeful, "web-2");
    assert_eq!((two.slots_now, two.slots_after), (Some(0), Some(0)));
    assert!(near(two.share_all_up, 0.2));
    assert!(near(backend(&hopeful, "web-5").share_after, 0.25));
    let proofs = Proofs::from([(id, Err("refused".to_owned()))]);
    let failed = make(&running, &candidate, &proofs, &tables);
    let five = backend(&failed, "web-5");
    assert_eq!(
        (five.state_after.as_deref(), five.slots_after),
        (Some("unproven"), Some(0))
    );
    assert_eq!(service(&failed, "web").slots_moved, 0);
    assert!(failed.has_changes);
}

#[test]
fn another_probe_or_identity_has_to_be_proven_by_all() {
    let candidate = config(&with("body = \"web\"", "body = \"shop\""));
    assert_eq!(to_prove(&base(FILE, &[]), &candidate).len(), 4);
    let slower = config(&with(
        "kind = \"http\"",
        "kind = \"http\"\ninterval = \"2s\"",
    ));
    assert_eq!(to_prove(&base(FILE, &[]), &slower), []);
    let idle = with(
        "name = \"web-4\"\naddress = \"10.0.0.14\"",
        "name = \"web-9\"\naddress = \"10.0.0.19\"\nweight = 0",
    );
    assert_eq!(to_prove(&base(FILE, &[]), &config(&idle)), []);
}

#[test]
fn flows_that_cannot_go_on_are_named() {
    for (from, to, why, share) in [
        (
            "address = \"192.0.2.10\"",
            "address = \"192.0.2.20\"",
            "the service leaves 192.0.2.10",
            Some(1.0),
        ),
        (
            "forward = \"ipip\"",
            "forward = \"nat\"",
            "packets reach the servers by nat and no longer by ipip",
            Some(1.0),
        ),
        (
            "port = 80\n",
            "port = 81\n",
            "the service leaves some of its ports",
            None,
        ),
        (
            "port = 80\n",
            "port = 80\ndeny_sources = [\"203.0.113.0/24\"]\n",
            "other clients are let in",
            None,
        ),
    ] {
        let plan = plan_to(&with(from, to));
        let found = &service(&plan, "web").established;
        assert_eq!(
            (found.breaks[0].why.as_str(), found.breaks[0].share),
            (why, share)
        );
        assert!(!plan.summary.contains("0 established"), "{}", plan.summary);
    }
    let harmless = plan_to(&with("port = 80\n", "port = [80, 443]\n"));
    assert_eq!(service(&harmless, "web").established.breaks, []);
    // By another hash, three of four flows meet another of four equal servers.
    let plan = plan_to(&with("port = 80\n", "port = 80\naffinity = \"source\"\n"));
    assert!(near(Some(service(&plan, "web").share_moved), 0.75));
    let udp = plan_to(&with(
        "name = \"dns-2\"\n",
        "name = \"dns-2\"\nweight = 50\n",
    ));
    let found = &service(&udp, "dns").established;
    assert!(found.breaks[0].why.contains("UDP by hash"), "{found:?}");
}

#[test]
fn tables_of_two_sizes_are_compared_by_the_flows_in_them() {
    let plan = plan_to(&with("[\"eth0\"]\n", "[\"eth0\"]\ntable_size = 10007\n"));
    assert_eq!(plan.services.len(), 2, "all tables are made anew");
    let web = service(&plan, "web");
    assert_eq!(
        (web.slots_now, web.slots_after, web.slots_required),
        (65_537, 10_007, None)
    );
    // Slots of two sizes agree by chance only: one in four.
    assert!((web.share_moved - 0.75).abs() < 0.02, "{}", web.share_moved);
    assert!(web.slots_moved < 10_007);
    assert!(web.established.breaks[0].why.contains("table_size"));
    assert_eq!(plan.node[0].key, "table_size");
    assert_eq!(plan.needs_restart, Vec::<String>::new());
}

#[test]
fn node_settings_and_those_that_need_a_restart_are_told() {
    let text = with(
        "[\"eth0\"]\n",
        "[\"eth0\", \"eth1\"]\nanswer_echo = false\n",
    );
    let plan = plan_to(&text);
    assert_eq!(plan.needs_restart, ["interfaces"]);
    assert_eq!(
        plan.summary,
        "node.answer_echo, node.interfaces change; only a restart takes node.interfaces"
    );
}

#[test]
fn way_of_later_changes_is_a_change_too() {
    let plan = plan_to(&format!("[apply]\nhold = \"33s\"\n{FILE}"));
    assert!(plan.has_changes && plan.services.is_empty());
    assert_eq!(plan.apply[0].after.as_deref(), Some("\"33s\""));
    assert_eq!(plan.summary, "apply.hold changes");
}

#[test]
fn capacity_is_told_as_it_is_and_after_a_loss() {
    let mut text = with("port = 80\n", "port = 80\npeak_flows_per_second = 1000\n");
    for (n, zone) in [(1, "a"), (2, "a"), (3, "b"), (4, "b")] {
        let address = format!("address = \"10.0.0.1{n}\"\n");
        let more = format!("{address}zone = \"{zone}\"\ncapacity_flows_per_second = 400\n");
        text = text.replacen(&address, &more, 1);
    }
    let plan = plan_to(&text);
    let web = service(&plan, "web");
    assert_eq!(backend(&plan, "web-1").peak_flows_per_second, Some(250));
    let capacity = web.capacity.clone().unwrap();
    assert_eq!(capacity.overloaded, Vec::<String>::new());
    let loss = capacity.without_backend.unwrap();
    assert_eq!((loss.load, loss.limit, loss.exceeds), (334, 400, false));
    let loss = capacity.without_zone.unwrap();
    assert_eq!(
        (loss.lost.as_str(), loss.load, loss.exceeds),
        ("a", 500, true)
    );
}

/// What the kernel would be told after a change, by who gets which slot.
fn owners_after(
    builder: &mut Builder,
    config: &Config,
    world: &World,
) -> HashMap<(String, String), u32> {
    builder.build(config, &Seed([7; 16]), world, Instant::now());
    let services = config.services.iter();
    services
        .flat_map(|service| {
            builder
                .seats(&service.name)
                .into_iter()
                .flatten()
                .map(|seat| {
                    (
                        (service.name.clone(), seat.backend.to_string()),
                        seat.slot_count,
                    )
                })
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// For any weights, drains and health, what the plan says a backend will
    /// have is what it has once the change is made.
    #[test]
    fn after_the_change_the_tables_are_what_the_plan_said(
        before in prop::collection::vec((0_u16..4, any::<bool>(), any::<bool>()), 6),
        after in prop::collection::vec((0_u16..4, any::<bool>(), any::<bool>()), 6),
    ) {
        let file = |backends: &[(u16, bool, bool)]| {
            let mut text = FILE.split("[[service.backend]]").next().unwrap().to_owned();
            text = text.replace("[\"eth0\"]", "[\"eth0\"]\ntable_size = 1009");
            for (n, (weight, drain, exists)) in backends.iter().enumerate() {
                if *exists {
                    text.push_str(&format!(
                        "[[service.backend]]\nname = \"b{n}\"\naddress = \"10.0.0.{n}\"\n\
                         weight = {weight}\ndrain = {drain}\n"
                    ));
                }
            }
            config(&text)
        };
        let (running, candidate) = (file(&before), file(&after));
        let state = |n: usize| if n % 3 == 2 { State::Down } else { State::Up };
        let health: BTreeMap<TargetId, State> = (0..6)
            .map(|n| (TargetId { service: "web".to_owned(), backend: format!("b{n}") }, state(n)))
            .collect();
        let mut builder = Builder::default();
        let known = |config: &Config| World {
            health: health
                .iter()
                .filter(|(id, _)| config.services[0].backend(&id.backend).is_some())
                .map(|(id, state)| (id.clone(), *state))
                .collect(),
            ..World::default()
        };
        owners_after(&mut builder, &running, &known(&running));
        let held = Held::of(&builder, &running.services[0], |_| 1.0);
        let base = Base {
            config: Some(running.clone()),
            health: known(&running).health,
            held: held.into_iter().map(|held| ("web".to_owned(), held)).collect(),
            ..Base::default()
        };
        let plan = make(&base, &candidate, &Proofs::new(), &TableMemo::default());
        // A new backend is taken to prove itself.
        let mut world = known(&candidate);
        for spec in to_prove(&base, &candidate) {
            world.health.insert(spec.id, State::Up);
        }
        let same = candidate.services == running.services;
        let after = owners_after(&mut builder, &candidate, &world);
        prop_assert_eq!(plan.services.is_empty(), same);
        for planned in plan.services.iter().flat_map(|service| &service.backends) {
            let has = after.get(&("web".to_owned(), planned.name.clone())).copied();
            prop_assert_eq!(planned.slots_after, has, "{}", planned.name);
        }
    }
}
