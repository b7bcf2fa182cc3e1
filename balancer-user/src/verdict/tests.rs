use super::*;

/// Handshakes in the bucket of half a millisecond.
fn handshakes(good: u64, repeated: u64, abandoned: u64) -> HandshakeCounters {
    let mut histogram = [0; HANDSHAKE_BUCKETS];
    histogram[9] = good;
    HandshakeCounters {
        started: good + repeated.max(abandoned),
        repeated,
        finished: good,
        abandoned,
        histogram,
        ..HandshakeCounters::default()
    }
}

fn counted(flows: u64, handshakes: HandshakeCounters) -> Counted {
    Counted {
        flows,
        resets: 0,
        handshakes,
    }
}

/// Three good backends, and one that is new.
fn patient(new: Counted) -> Patient {
    let old = |name: &str| Subject {
        name: name.to_owned(),
        share: 0.33,
        share_before: 1.0 / 3.0,
        share_after: 0.25,
        stage: counted(330, self::handshakes(330, 0, 0)),
        before: counted(9000, self::handshakes(9000, 10, 9)),
        ..Subject::default()
    };
    Patient {
        service: "web".to_owned(),
        backends: vec![
            old("a"),
            old("b"),
            old("c"),
            Subject {
                name: "d".to_owned(),
                share: 0.01,
                share_after: 0.25,
                stage: new,
                ..Subject::default()
            },
        ],
        is_even: true,
        may_dominate: false,
    }
}

fn harms(patient: &Patient) -> Vec<String> {
    judge(patient).iter().map(ToString::to_string).collect()
}

#[test]
fn backend_as_good_as_its_siblings_does_no_harm() {
    for flows in [0, 1, 5, 10, 20] {
        let new = counted(flows, handshakes(flows, 0, 0));
        assert_eq!(harms(&patient(new)), Vec::<String>::new(), "{flows} flows");
    }
}

#[test]
fn blackhole_is_found_by_a_few_flows() {
    let new = counted(4, handshakes(0, 4, 0));
    assert_eq!(
        harms(&patient(new)),
        [
            "service web: backend d does not finish handshakes: 4 of 4 failed or needed a second \
             SYN, 0 of 990 at its siblings"
        ]
    );
    let lost_one = counted(4, handshakes(3, 1, 0));
    assert_eq!(harms(&patient(lost_one)), Vec::<String>::new());
}

#[test]
fn what_is_as_bad_everywhere_is_not_the_changes_doing() {
    let mut patient = patient(counted(10, handshakes(5, 5, 5)));
    for sibling in &mut patient.backends[..3] {
        sibling.stage = counted(330, handshakes(165, 165, 165));
    }
    assert_eq!(harms(&patient), Vec::<String>::new());
}

#[test]
fn slow_backend_is_found_by_the_time_of_its_handshakes() {
    let mut slow = handshakes(6, 0, 0);
    slow.histogram.swap(9, 17);
    assert_eq!(
        harms(&patient(counted(6, slow))),
        [
            "service web: backend d is slow: 6 of 6 handshakes took 4.1 ms or more, 95 % of the \
             usual ones less than 1.0 ms"
        ]
    );
    // Four times half a millisecond is nobody's trouble.
    let mut fair = handshakes(6, 0, 0);
    fair.histogram.swap(9, 11);
    assert_eq!(harms(&patient(counted(6, fair))), Vec::<String>::new());
}

#[test]
fn backend_that_its_clients_reset_is_found() {
    let mut new = counted(10, handshakes(10, 0, 0));
    new.resets = 8;
    assert_eq!(
        harms(&patient(new)),
        [
            "service web: backend d is reset by its clients: 8 resets in 10 new flows, 0 in 990 \
             at its siblings"
        ]
    );
}

#[test]
fn only_who_gains_by_the_change_is_held_against_it() {
    let mut patient = patient(counted(10, handshakes(10, 0, 0)));
    patient.backends[0].stage = counted(330, handshakes(0, 330, 330));
    patient.backends[0].went_down = Some("timeout".to_owned());
    assert_eq!(harms(&patient), Vec::<String>::new());
    patient.backends[3].went_down = Some("connection refused".to_owned());
    assert_eq!(
        harms(&patient),
        ["service web: backend d is down since it gets traffic: connection refused"]
    );
}

#[test]
fn traffic_that_goes_to_one_backend_is_found_unless_the_file_allows_it() {
    let mut patient = patient(counted(10, handshakes(10, 0, 0)));
    for (subject, share) in patient
        .backends
        .iter_mut()
        .zip([0.997, 0.001, 0.001, 0.001])
    {
        subject.share_after = share;
    }
    let found = harms(&patient);
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("service web: backend a gets 99.7 % of the traffic by this change"),
        "{found:?}"
    );
    patient.may_dominate = true;
    assert_eq!(harms(&patient), Vec::<String>::new());
}

#[test]
fn share_that_is_not_that_of_the_slots_is_found() {
    let mut patient = patient(counted(10, handshakes(10, 0, 0)));
    patient.backends[0].stage.flows = 700;
    assert_eq!(
        harms(&patient),
        ["service web: backend a got 51.1 % of 1370 new flows, its slots are 33.0 %"]
    );
    patient.is_even = false;
    assert_eq!(harms(&patient), Vec::<String>::new());
}

/// Draws by a generator of our own: the chances above are what is tested.
#[test]
fn chance_alone_is_no_harm() {
    let mut state = 0x1234_5678_9abc_def1_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as f64 / u64::MAX as f64
    };
    for round in 0..2_000 {
        let flows = [3, 10, 30, 100][round % 4];
        let loss = [0.0, 0.01, 0.05][round % 3];
        let mut patient = patient(Counted::default());
        for subject in &mut patient.backends {
            let flows = match subject.name.as_str() {
                "d" => flows,
                _ => flows * 33,
            };
            let bad = (0..flows).filter(|_| random() < loss).count() as u64;
            subject.stage = counted(flows, handshakes(flows - bad, bad, bad / 2));
            subject.stage.resets = bad;
        }
        patient.is_even = false;
        assert_eq!(harms(&patient), Vec::<String>::new(), "round {round}");
    }
}
