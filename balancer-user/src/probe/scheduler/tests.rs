//! Scripted probes on a paused clock, and one run over real sockets.

use std::collections::HashMap;
use std::net::SocketAddr;

use tokio::sync::oneshot;

use super::*;
use crate::config::model::{self, Health};
use crate::config::parse::defaults;
use crate::health::STEPS;
use crate::health::{Evidence, Failure, State};
use crate::probe::testing;

const SECOND: Duration = Duration::from_secs(1);

/// What scripted probes do and when they were made.
#[derive(Default)]
struct Script {
    behaviour: Mutex<HashMap<SocketAddr, Behaviour>>,
    starts: Mutex<Vec<(SocketAddr, Instant)>>,
    under_way: AtomicU64,
    most_under_way: AtomicU64,
    unprepared: Mutex<bool>,
}

#[derive(Clone, Copy, PartialEq)]
enum Behaviour {
    Refuse,
    Hang,
    Panic,
}

impl Script {
    fn set(&self, address: SocketAddr, behaviour: Option<Behaviour>) {
        let mut behaviours = self.behaviour.lock().unwrap();
        match behaviour {
            Some(behaviour) => behaviours.insert(address, behaviour),
            None => behaviours.remove(&address),
        };
    }

    fn starts(&self, address: SocketAddr) -> Vec<Instant> {
        let starts = self.starts.lock().unwrap();
        starts
            .iter()
            .filter(|(one, _)| *one == address)
            .map(|(_, at)| *at)
            .collect()
    }

    async fn probe(&self, address: SocketAddr, timeout: Duration) -> Outcome {
        self.starts.lock().unwrap().push((address, Instant::now()));
        let under_way = self.under_way.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_under_way.fetch_max(under_way, Ordering::SeqCst);
        let behaviour = self.behaviour.lock().unwrap().get(&address).copied();
        let failed = |reason, duration| Outcome::Failed { reason, duration };
        let outcome = match behaviour {
            None => Outcome::Passed {
                duration: Duration::ZERO,
                certificate_ends: None,
            },
            Some(Behaviour::Refuse) => failed(Failure::Refused, Duration::ZERO),
            Some(Behaviour::Hang) => {
                tokio::time::sleep(timeout).await;
                let phase = crate::health::Phase::Connect;
                let limit = timeout;
                failed(Failure::Timeout { phase, limit }, timeout)
            }
            Some(Behaviour::Panic) => panic!("scripted"),
        };
        self.under_way.fetch_sub(1, Ordering::SeqCst);
        outcome
    }
}

fn scripted(max_concurrent: usize) -> (Scheduler, Events, Arc<Script>) {
    let script = Arc::new(Script::default());
    let prepare: Prepare = Box::new({
        let script = Arc::clone(&script);
        move |_| {
            if *script.unprepared.lock().unwrap() {
                return Err(PrepareError::Tls("scripted".into()));
            }
            let script = Arc::clone(&script);
            Ok(Arc::new(move |_, way: Way, timeout| {
                let script = Arc::clone(&script);
                async move { script.probe(way.address(), timeout).await }.boxed()
            }))
        }
    });
    let (scheduler, events) =
        Scheduler::with(prepare, max_concurrent, Lane::none(), Home::callers());
    (scheduler, events, script)
}

fn health() -> Health {
    Health {
        interval: SECOND,
        jitter: 0.2,
        timeout: SECOND / 2,
        ..defaults::health(ProbeKind::Tcp)
    }
}

fn id(backend: &str) -> TargetId {
    TargetId {
        service: "web".into(),
        backend: backend.into(),
    }
}

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

fn spec(backend: &str, last: u8) -> TargetSpec {
    TargetSpec {
        id: id(backend),
        address: address(last),
        via: None,
        health: health(),
        initial: State::Unproven,
    }
}

fn set(scheduler: &mut Scheduler, specs: Vec<TargetSpec>) {
    assert_eq!(scheduler.set_targets(specs), []);
}

fn state(scheduler: &Scheduler, backend: &str) -> State {
    scheduler
        .states()
        .one(&id(backend))
        .unwrap()
        .monitor
        .state()
}

/// The first transition of the next events with one.
async fn transition(events: &mut Events) -> (String, State) {
    loop {
        let batch = events.recv().await.unwrap();
        let mut moved = batch.into_iter().filter_map(|event| {
            let transition = event.transition?;
            Some((event.id.backend, transition.to))
        });
        if let Some(transition) = moved.next() {
            return transition;
        }
    }
}

/// Receives events for some (paused) time.
async fn receive_for(events: &mut Events, time: Duration) -> Vec<Event> {
    let until = Instant::now() + time;
    let mut received = Vec::new();
    while let Ok(event) = tokio::time::timeout_at(until, events.recv()).await {
        received.extend(event.unwrap());
    }
    received
}

fn late_by_100_ms(lateness: &Durations) -> u64 {
    let at = STEPS.partition_point(|end| *end < SECOND / 10);
    lateness.steps[at + 1..].iter().sum()
}

#[tokio::test(start_paused = true)]
async fn first_probes_are_spread_and_later_ones_never_later_than_the_interval() {
    let (mut scheduler, mut events, script) = scripted(64);
    let begun = Instant::now();
    let names: Vec<_> = (0..50).map(|number| format!("web-{number:02}")).collect();
    let specs = names.iter().zip(0u8..).map(|(name, last)| spec(name, last));
    set(&mut scheduler, specs.collect());
    receive_for(&mut events, 10 * SECOND).await;
    let tick = Duration::from_millis(2);
    let mut firsts = Vec::new();
    for last in 0..50 {
        let starts = script.starts(address(last));
        assert!(starts.len() >= 9, "{}", starts.len());
        firsts.push(starts[0] - begun);
        for pair in starts.windows(2) {
            let gap = pair[1] - pair[0];
            assert!(gap >= SECOND * 8 / 10 && gap <= SECOND + tick, "{gap:?}");
        }
    }
    assert!(firsts.iter().all(|first| *first <= SECOND + tick));
    let late = firsts.iter().filter(|first| **first > SECOND / 2).count();
    assert!((5..=45).contains(&late), "{late} of 50 in the later half");
    let lateness = scheduler.states().lateness();
    let begun = names
        .iter()
        .zip(0..)
        .map(|(_, last)| script.starts(address(last)).len());
    assert_eq!(
        lateness.steps.iter().sum::<u64>(),
        begun.sum::<usize>() as u64
    );
    assert_eq!(late_by_100_ms(&lateness), 0);
}

#[tokio::test(start_paused = true)]
async fn new_backend_is_proven_before_it_is_up() {
    let (mut scheduler, mut events, script) = scripted(64);
    script.set(address(2), Some(Behaviour::Refuse));
    set(&mut scheduler, vec![spec("web-1", 1), spec("web-2", 2)]);
    assert_eq!(state(&scheduler, "web-1"), State::Unproven);
    assert_eq!(transition(&mut events).await, ("web-1".into(), State::Up));
    assert_eq!(script.starts(address(1)).len(), 2);
    receive_for(&mut events, 10 * SECOND).await;
    assert_eq!(state(&scheduler, "web-2"), State::Unproven);
}

#[tokio::test(start_paused = true)]
async fn dead_server_is_down_within_the_bound() {
    for (behaviour, bound) in [
        (Behaviour::Refuse, 3 * SECOND),
        (Behaviour::Hang, 3 * SECOND + SECOND / 2),
    ] {
        let (mut scheduler, mut events, script) = scripted(64);
        set(&mut scheduler, vec![spec("web-1", 1)]);
        assert_eq!(transition(&mut events).await, ("web-1".into(), State::Up));
        // The worst moment: just after a probe.
        let death = Instant::now();
        script.set(address(1), Some(behaviour));
        assert_eq!(transition(&mut events).await, ("web-1".into(), State::Down));
        let taken = death.elapsed();
        assert!(taken <= bound + Duration::from_millis(100), "{taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn unchanged_target_is_not_disturbed_by_others() {
    let (mut scheduler, mut events, script) = scripted(64);
    set(&mut scheduler, vec![spec("web-1", 1)]);
    transition(&mut events).await;
    let before = scheduler.states().one(&id("web-1")).unwrap();
    set(&mut scheduler, vec![spec("web-2", 2), spec("web-1", 1)]);
    assert_eq!(scheduler.states().one(&id("web-1")).unwrap(), before);
    set(&mut scheduler, vec![spec("web-1", 1)]);
    assert_eq!(scheduler.states().all(), [before]);
    receive_for(&mut events, 5 * SECOND).await;
    for pair in script.starts(address(1)).windows(2) {
        assert!(pair[1] - pair[0] >= SECOND * 8 / 10);
    }
}

#[tokio::test(start_paused = true)]
async fn removed_target_is_no_longer_probed_nor_heard_of() {
    let (mut scheduler, mut events, script) = scripted(64);
    set(&mut scheduler, vec![spec("web-1", 1), spec("web-2", 2)]);
    // Events of both wait unread when the first target goes.
    tokio::time::sleep(3 * SECOND).await;
    set(&mut scheduler, vec![spec("web-2", 2)]);
    let probes = script.starts(address(1)).len();
    let received = receive_for(&mut events, 5 * SECOND).await;
    assert!(received.len() >= 7);
    assert!(received.iter().all(|event| event.id == id("web-2")));
    assert_eq!(script.starts(address(1)).len(), probes);
    assert_eq!(scheduler.states().one(&id("web-1")), None);
}

#[tokio::test(start_paused = true)]
async fn other_address_or_probe_must_be_proven_anew_and_old_events_do_not_count() {
    let (mut scheduler, mut events, script) = scripted(64);
    script.set(address(2), Some(Behaviour::Refuse));
    set(&mut scheduler, vec![spec("web-1", 1)]);
    // The transition to up waits unread when the address changes.
    tokio::time::sleep(3 * SECOND).await;
    assert_eq!(state(&scheduler, "web-1"), State::Up);
    set(&mut scheduler, vec![spec("web-1", 2)]);
    assert_eq!(state(&scheduler, "web-1"), State::Unproven);
    let received = receive_for(&mut events, 3 * SECOND).await;
    assert!(!received.is_empty());
    for event in received {
        assert_eq!(event.outcome.evidence(), Evidence::Bad);
        assert_eq!(event.transition, None);
    }
    set(&mut scheduler, vec![spec("web-1", 1)]);
    assert_eq!(transition(&mut events).await, ("web-1".into(), State::Up));
    let mut other = spec("web-1", 1);
    other.health.kind = ProbeKind::Http(model::HttpProbe {
        path: "/".into(),
        host: None,
        expect_status: vec![200],
        identity: None,
    });
    set(&mut scheduler, vec![other]);
    assert_eq!(state(&scheduler, "web-1"), State::Unproven);
}

#[tokio::test(start_paused = true)]
async fn other_timing_keeps_the_state_and_counts_at_once() {
    let (mut scheduler, mut events, script) = scripted(64);
    let mut slow = spec("web-1", 1);
    slow.health.interval = 1000 * SECOND;
    slow.initial = State::Up;
    set(&mut scheduler, vec![slow]);
    events.recv().await.unwrap();
    assert_eq!(state(&scheduler, "web-1"), State::Up);
    set(&mut scheduler, vec![spec("web-1", 1)]);
    assert_eq!(state(&scheduler, "web-1"), State::Up);
    receive_for(&mut events, 2 * SECOND).await;
    assert!(script.starts(address(1)).len() >= 2);
    // A new timeout is used without a new start.
    script.set(address(1), Some(Behaviour::Hang));
    let mut hasty = spec("web-1", 1);
    hasty.health.timeout = SECOND / 10;
    set(&mut scheduler, vec![hasty]);
    let received = receive_for(&mut events, 2 * SECOND).await;
    assert_eq!(received.last().unwrap().outcome.duration(), SECOND / 10);
}

#[tokio::test(start_paused = true)]
async fn adopted_backend_stays_up_until_its_probes_fail() {
    let (mut scheduler, mut events, script) = scripted(64);
    script.set(address(1), Some(Behaviour::Refuse));
    let mut adopted = spec("web-1", 1);
    adopted.initial = State::Up;
    set(&mut scheduler, vec![adopted]);
    assert_eq!(state(&scheduler, "web-1"), State::Up);
    assert_eq!(transition(&mut events).await, ("web-1".into(), State::Down));
    assert_eq!(script.starts(address(1)).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn probes_under_way_are_bounded_and_delays_counted() {
    let (mut scheduler, mut events, script) = scripted(3);
    for last in 0..20 {
        script.set(address(last), Some(Behaviour::Hang));
    }
    let names: Vec<_> = (0..20).map(|number| format!("web-{number:02}")).collect();
    let specs = names.iter().zip(0u8..).map(|(name, last)| spec(name, last));
    set(&mut scheduler, specs.collect());
    receive_for(&mut events, 10 * SECOND).await;
    assert_eq!(script.most_under_way.load(Ordering::SeqCst), 3);
    let states = scheduler.states();
    assert!(states.delayed_probes() > 0);
    assert!(late_by_100_ms(&states.lateness()) > 0);
}

#[tokio::test(start_paused = true)]
async fn probe_that_panics_is_local_and_probing_goes_on() {
    let (mut scheduler, mut events, script) = scripted(64);
    script.set(address(1), Some(Behaviour::Panic));
    let mut adopted = spec("web-1", 1);
    adopted.initial = State::Up;
    set(&mut scheduler, vec![adopted]);
    for event in receive_for(&mut events, 5 * SECOND).await {
        assert_eq!(event.outcome.evidence(), Evidence::None);
    }
    assert_eq!(state(&scheduler, "web-1"), State::Up);
    script.set(address(1), Some(Behaviour::Refuse));
    assert_eq!(transition(&mut events).await, ("web-1".into(), State::Down));
}

#[tokio::test(start_paused = true)]
async fn target_that_cannot_be_prepared_is_reported_and_tried_again() {
    let (mut scheduler, mut events, script) = scripted(64);
    *script.unprepared.lock().unwrap() = true;
    let errors = scheduler.set_targets(vec![spec("web-1", 1)]);
    let told: Vec<_> = errors.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        ["service web: backend web-1: TLS cannot be set up: scripted"]
    );
    for event in receive_for(&mut events, 3 * SECOND).await {
        assert_eq!(event.outcome.evidence(), Evidence::None);
    }
    *script.unprepared.lock().unwrap() = false;
    assert_eq!(transition(&mut events).await, ("web-1".into(), State::Up));
}

#[tokio::test(start_paused = true)]
async fn dropped_scheduler_ends_its_events() {
    let (mut scheduler, mut events, _script) = scripted(64);
    set(&mut scheduler, vec![spec("web-1", 1)]);
    events.recv().await.unwrap();
    drop(scheduler);
    assert_eq!(events.recv().await, None);
}

#[test]
fn targets_come_from_the_configuration() {
    let backend = |name: &str, last| model::Backend {
        name: name.into(),
        address: address(last).ip(),
        port: None,
        weight: 100,
        zone: None,
        capacity_flows_per_second: None,
        mac: None,
        server_id: None,
        pool: model::Pool::Primary,
        drain: false,
    };
    let service = |name: &str, ports, health| model::Service {
        name: name.into(),
        address: std::net::Ipv4Addr::new(192, 0, 2, 10).into(),
        ports,
        protocol: model::Protocol::Tcp,
        forward: model::Forward::Ipip,
        allowed_backends: Vec::new(),
        fail_open_below: None,
        backup_below: 0.0,
        slow_start: Duration::ZERO,
        unfinished_handshakes: crate::config::model::Unfinished::Named,
        drain_timeout: SECOND,
        peak_flows_per_second: None,
        affinity: model::Affinity::Hash,
        mss_clamp: None,
        allow_sources: Vec::new(),
        deny_sources: Vec::new(),
        source_limit: None,
        quic: None,
        allow: Vec::new(),
        allow_reason: None,
        health,
        backends: vec![backend("one", 1), backend("two", 2)].into(),
    };
    let own_port = Health {
        port: Some(8080),
        ..health()
    };
    let services = vec![
        service("web", model::Ports::one(80), Some(health())),
        service("admin", model::Ports::Any, Some(own_port)),
        service("silent", model::Ports::one(80), None),
    ];
    let targets: Vec<_> = TargetSpec::from_services(&services)
        .into_iter()
        .map(|target| format!("{} at {}", target.id, target.address))
        .collect();
    assert_eq!(
        targets,
        [
            "service web: backend one at 10.0.0.1:80",
            "service web: backend two at 10.0.0.2:80",
            "service admin: backend one at 10.0.0.1:8080",
            "service admin: backend two at 10.0.0.2:8080",
        ]
    );
}

#[tokio::test]
async fn real_server_comes_up_and_its_death_is_noticed() {
    let (listener, real) = testing::listener().await;
    let (stop, stopped) = oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let serve = async {
            while let Ok((stream, _)) = listener.accept().await {
                drop(stream);
            }
        };
        tokio::select! {
            () = serve => {}
            _ = stopped => {}
        }
    });
    let (mut scheduler, mut events) = Scheduler::new(Lane::none()).unwrap();
    let mut target = spec("web-1", 1);
    target.address = real;
    target.health.interval = Duration::from_millis(20);
    target.health.timeout = Duration::from_millis(15);
    set(&mut scheduler, vec![target]);
    assert_eq!(transition(&mut events).await, ("web-1".into(), State::Up));
    stop.send(()).unwrap();
    server.await.unwrap();
    // A busy machine may take it down and up again before the end.
    let down = async {
        while state(&scheduler, "web-1") != State::Down {
            events.recv().await.unwrap();
        }
    };
    tokio::time::timeout(testing::PATIENT, down).await.unwrap();
}
