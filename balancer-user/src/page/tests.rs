use std::sync::Arc;

use super::board::{Board, HISTORY, Keeper};
use super::headline::headline;
use super::view::{MAX_BACKENDS, MAX_UNFOLDED, ROWS, Shown, Sort, Viewer, Wanted};
use crate::api::page::ASSETS;
use crate::config::model::Config;
use crate::config::testing::{SAMPLE, examined};
use crate::desired::BackendState;
use crate::metrics::{
    BackendObserved, Observed, RateObserved, RevisionObserved, ServiceObserved, Shape,
};
use crate::watch::Kind;
use crate::watch::incident::Incident;

fn backend(share: f64, recent: f64) -> BackendObserved {
    BackendObserved {
        state: BackendState::Up,
        is_ramping: false,
        share,
        recent,
        rate: RateObserved {
            flows: recent as f32 / 20.0,
            packets: recent as f32,
            bits: recent as f32 * 8000.0,
        },
        probe_micros: Some(850),
        handshake_micros: Some(512),
        failure: None,
    }
}

/// A service whose backends got so many flows of late, each with one share.
fn service(name: &str, flows: &[f64]) -> ServiceObserved {
    let share = 1.0 / flows.len() as f64;
    let shape = Shape {
        service: name.into(),
        backends: (0..flows.len())
            .map(|it| (format!("{name}-{it:03}").into(), 100))
            .collect(),
        counters: Vec::new(),
    };
    ServiceObserved {
        shape: Arc::new(shape),
        state: "up",
        slot_count: 65_537,
        is_even: true,
        backends: flows.iter().map(|it| backend(share, *it)).collect(),
    }
}

fn observed(services: Vec<ServiceObserved>) -> Observed {
    Observed {
        at: 1_790_000_000.5,
        started_at: 1_789_990_000.0,
        services,
        ..Observed::default()
    }
}

fn incident(number: u64, kind: Kind, service: &str, backend: Option<&str>) -> Incident {
    Incident {
        number,
        kind,
        service: service.to_owned(),
        backend: backend.map(str::to_owned),
        what: "got 70.0 % of 1,000 new flows, its slots are 25.0 %".to_owned(),
        cause: "the kernel's table is not the one that was written".to_owned(),
        command: "balancer verify".to_owned(),
        opened_at: 1_790_000_000,
        closed_at: None,
        since: None,
    }
}

fn with_incidents(mut observed: Observed, incidents: Vec<Incident>) -> Observed {
    for incident in &incidents {
        let kinds = &mut observed.open_incidents;
        *kinds.entry(incident.kind.name()).or_default() += 1;
    }
    observed.incidents = incidents;
    observed
}

fn sample() -> Arc<Config> {
    Arc::new(examined(SAMPLE).config.unwrap())
}

fn board(observed: Observed) -> Board {
    Keeper::default().take(Arc::new(observed), &sample())
}

fn show(board: &Board, wanted: Wanted) -> Shown {
    Viewer::new(wanted).show(board)
}

fn names(shown: &Shown) -> Vec<&str> {
    shown.services.iter().map(|it| &*it.name).collect()
}

fn bytes(shown: &Shown) -> usize {
    serde_json::to_vec(shown).unwrap().len()
}

#[test]
fn first_paint_is_far_below_a_hundred_kilobytes() {
    let files: usize = ASSETS.iter().map(|it| it.text.len()).sum();
    // And the first event of a usual node, with three minutes of history.
    let services: Vec<ServiceObserved> = (0..3)
        .map(|it| service(&format!("service-{it}"), &[1234.5; 10]))
        .collect();
    let mut observed = with_incidents(
        observed(services.clone()),
        vec![incident(1, Kind::Skew, "service-1", Some("service-1-002"))],
    );
    observed.revisions = vec![RevisionObserved::default(); 10];
    let (mut keeper, config, observed) = (Keeper::default(), sample(), Arc::new(observed));
    let mut board = Board::default();
    for _ in 0..HISTORY {
        board = keeper.take(Arc::clone(&observed), &config);
    }
    let wanted = Wanted {
        unfolded: "service-0,service-1,service-2".to_owned(),
        ..Wanted::default()
    };
    let first = bytes(&show(&board, wanted));
    println!("{files} bytes of files, {first} of the first event");
    assert!(files + first < 100_000, "{files} + {first}");
}

#[test]
fn what_a_page_is_sent_is_bounded_however_many_services_there_are() {
    let services: Vec<ServiceObserved> = (0..1000)
        .map(|it| service(&format!("service-{it:04}"), &[1234.5; 100]))
        .collect();
    let incidents = (0..100).map(|it| incident(it, Kind::Skew, &format!("service-{it:04}"), None));
    let observed = Arc::new(with_incidents(observed(services), incidents.collect()));
    let (mut keeper, config) = (Keeper::default(), sample());
    let mut board = keeper.take(Arc::clone(&observed), &config);
    for _ in 0..2 * HISTORY {
        board = keeper.take(Arc::clone(&observed), &config);
    }
    assert_eq!(board.seconds.len(), HISTORY);
    let mut folded = Viewer::new(Wanted::default());
    let (first, later) = (bytes(&folded.show(&board)), bytes(&folded.show(&board)));
    let unfolded: Vec<String> = (0..1000).map(|it| format!("service-{it:04}")).collect();
    let mut viewer = Viewer::new(Wanted {
        unfolded: unfolded.join(","),
        ..Wanted::default()
    });
    let shown = viewer.show(&board);
    assert_eq!(shown.services.len(), ROWS);
    assert_eq!(shown.page, (1, 1000 / ROWS));
    assert_eq!(shown.unfolded.len(), MAX_UNFOLDED);
    assert!(shown.unfolded.iter().all(|it| it.backends.len() == 100));
    let most = bytes(&viewer.show(&board));
    println!("first {first}, each second {later}, with all that may be unfolded {most} bytes");
    assert!(first < 100_000, "{first}");
    assert!(later < 25_000, "{later}");
    assert!(most < 200_000, "{most}");
}

#[test]
fn headline_names_what_is_gravest() {
    let three = || vec![service("a", &[10.0; 2]), service("b", &[10.0; 2])];
    let well = headline(&observed(three()));
    assert_eq!(well.tone, "good");
    assert!(
        well.text.starts_with("all 2 services are up, 4 of 4 back"),
        "{}",
        well.text
    );
    let mut unwell = three();
    unwell[0].state = "degraded";
    assert_eq!(headline(&observed(unwell.clone())).tone, "warn");
    unwell[1].state = "down";
    let line = headline(&observed(unwell.clone()));
    assert_eq!(line.tone, "bad");
    assert_eq!(
        line.text,
        "service b is down, and 1 more are not as they should be"
    );
    let one = vec![incident(1, Kind::Skew, "a", Some("a-000"))];
    let line = headline(&with_incidents(observed(unwell), one));
    assert!(
        line.text.starts_with("skew: service a: a-000 got 70.0 %"),
        "{}",
        line.text
    );
    let mut broken = observed(three());
    broken.problems = vec!["interface eth0: the program is detached".to_owned()];
    assert_eq!(headline(&broken).tone, "warn");
    assert!(
        headline(&observed(Vec::new()))
            .text
            .starts_with("no service")
    );
}

#[test]
fn services_that_need_attention_come_first_and_can_be_shown_alone() {
    let mut services: Vec<ServiceObserved> =
        ["a", "b", "c", "d"].map(|it| service(it, &[5.0])).to_vec();
    services[1].state = "degraded";
    services[2].state = "down";
    let skewed = vec![incident(1, Kind::Skew, "d", None)];
    let board = board(with_incidents(observed(services), skewed));
    let shown = show(&board, Wanted::default());
    assert_eq!(names(&shown), ["d", "c", "b", "a"]);
    assert_eq!(
        (shown.services[0].incidents, shown.totals.services),
        (1, (4, 2))
    );
    let trouble = Wanted {
        trouble: true,
        ..Wanted::default()
    };
    let shown = show(&board, trouble);
    assert_eq!((names(&shown), shown.found), (vec!["d", "c", "b"], 3));
}

#[test]
fn rows_go_by_the_order_that_is_asked_for() {
    let services = vec![
        service("b", &[10.0, 10.0]),
        service("c", &[400.0, 0.0]),
        service("a", &[300.0, 300.0]),
    ];
    let board = board(observed(services));
    for (sort, expected) in [
        (Sort::Attention, ["b", "c", "a"]),
        (Sort::Name, ["a", "b", "c"]),
        (Sort::Flows, ["a", "c", "b"]),
        (Sort::Bits, ["a", "c", "b"]),
        (Sort::Skew, ["c", "b", "a"]),
    ] {
        let wanted = Wanted {
            sort,
            ..Wanted::default()
        };
        assert_eq!(names(&show(&board, wanted)), expected, "{sort:?}");
    }
}

#[test]
fn service_is_found_by_its_backend_s_name_or_address() {
    let config = sample();
    let known = &config.services[0];
    let names_of = known.backends.iter().map(|it| (it.name.as_str().into(), 1));
    let mut there = service(&known.name, &vec![1.0; known.backends.len()]);
    there.shape = Arc::new(Shape {
        service: known.name.as_str().into(),
        backends: names_of.collect(),
        counters: Vec::new(),
    });
    let services = observed(vec![there, service("other", &[1.0])]);
    let board = Keeper::default().take(Arc::new(services), &config);
    let address = known.backends[0].address.to_string();
    for filter in [&known.backends[0].name.to_uppercase(), &address] {
        let wanted = Wanted {
            filter: format!(" {filter} "),
            unfolded: known.name.clone(),
            ..Wanted::default()
        };
        let shown = show(&board, wanted);
        assert_eq!(names(&shown), [known.name.as_str()], "{filter}");
        assert!(
            shown.services[0]
                .endpoint
                .starts_with(&known.address.to_string())
        );
        let endpoint = &shown.unfolded[0].backends[0].endpoint;
        assert!(endpoint.starts_with(&address), "{endpoint}");
    }
    let wanted = Wanted {
        filter: "nobody".to_owned(),
        page: 7,
        ..Wanted::default()
    };
    let shown = show(&board, wanted);
    assert_eq!((shown.found, shown.page), (0, (1, 1)));
}

#[test]
fn history_is_sent_when_a_row_comes_into_view() {
    let (mut keeper, config) = (Keeper::default(), sample());
    let one = service("a", &[200.0]);
    let mut second = |services: Vec<ServiceObserved>| {
        let observed = Arc::new(observed(services));
        keeper.take(observed, &config)
    };
    let first = second(vec![one.clone()]);
    let mut viewer = Viewer::new(Wanted::default());
    assert_eq!(
        viewer.show(&first).services[0].history,
        Some(vec![Some(10.0)])
    );
    let other = service("b", &[20.0, 20.0]);
    let later = second(vec![one, other.clone()]);
    let shown = viewer.show(&later);
    assert_eq!(shown.services[0].history, None);
    // It was not there before.
    assert_eq!(shown.services[1].history, Some(vec![None, Some(2.0)]));
    let gone = second(vec![other.clone()]);
    assert_eq!(viewer.show(&gone).services.len(), 1);
    let back = second(vec![other, service("a", &[100.0])]);
    let history = viewer.show(&back).services[1].history.clone();
    assert_eq!(history, Some(vec![Some(10.0), Some(10.0), None, Some(5.0)]));
}

#[test]
fn backend_is_marked_only_where_chance_cannot_be_behind_it() {
    let marks = |flows: &[f64]| -> Vec<bool> {
        let board = board(observed(vec![service("a", flows)]));
        let wanted = Wanted {
            unfolded: "a".to_owned(),
            ..Wanted::default()
        };
        let full = show(&board, wanted).unfolded.remove(0);
        full.backends.iter().map(|it| it.is_off).collect()
    };
    assert_eq!(marks(&[700.0, 100.0, 100.0, 100.0]), [true; 4]);
    // Few flows, or a difference that is noise or does not matter.
    assert_eq!(marks(&[60.0, 10.0, 10.0, 10.0]), [false; 4]);
    assert_eq!(marks(&[32.0, 24.0, 24.0, 24.0]), [false; 4]);
    assert_eq!(marks(&[27_000.0, 25_000.0, 24_000.0, 24_000.0]), [false; 4]);
    assert_eq!(marks(&[0.0, 0.0]), [false; 2]);
}

#[test]
fn of_too_many_backends_those_that_need_attention_are_shown() {
    let mut many = service("a", &vec![1.0; MAX_BACKENDS + 5]);
    many.backends[MAX_BACKENDS + 3].state = BackendState::Down;
    many.backends[MAX_BACKENDS + 3].failure = Some("connection refused".into());
    let board = board(observed(vec![many]));
    let wanted = Wanted {
        unfolded: "a".to_owned(),
        ..Wanted::default()
    };
    let full = show(&board, wanted).unfolded.remove(0);
    assert_eq!((full.backends.len(), full.more), (MAX_BACKENDS, 5));
    assert_eq!(full.backends[0].state, "down");
}

#[test]
fn what_does_not_change_is_sent_once() {
    let mut observed = observed(vec![service("a", &[1.0])]);
    observed.revisions = vec![RevisionObserved {
        number: 41,
        outcome: "undone",
        why: Some("backend a-000 answers 500".to_owned()),
        ..RevisionObserved::default()
    }];
    let board = board(observed);
    let mut viewer = Viewer::new(Wanted::default());
    let first = viewer.show(&board);
    assert_eq!(first.revisions.unwrap()[0].number, 41);
    assert!(first.totals.history.is_some() && first.closed.is_some());
    let later = viewer.show(&board);
    assert!(later.revisions.is_none() && later.closed.is_none());
    assert!(later.totals.history.is_none());
}

#[test]
fn page_s_files_obey_its_own_policy() {
    for asset in ASSETS {
        let text = asset.text;
        for elsewhere in [
            "https://",
            "@import",
            "url(",
            "<style",
            "style=",
            "javascript:",
        ] {
            assert!(!text.contains(elsewhere), "{}: {elsewhere}", asset.path);
        }
        let scripts = text.matches("<script").count();
        assert_eq!(scripts, text.matches("<script src=\"app.js\"").count());
        // What comes from the configuration or a server is never markup.
        for unsafe_way in [
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
        ] {
            assert!(!text.contains(unsafe_way), "{}: {unsafe_way}", asset.path);
        }
    }
}
