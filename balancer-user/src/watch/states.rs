//! What the states of a service's backends say by themselves.

use super::{BackendLook, Kind, ServiceLook, Sign};
use crate::desired::BackendState;
use crate::health::WRONG_SERVER;

/// Adds what they say.
pub(super) fn signs(service: &ServiceLook, signs: &mut Vec<Sign>) {
    let of = |state: BackendState| service.backends.iter().filter(move |it| it.state == state);
    // One that was dead before this daemon came has not gone down since.
    let unproven = of(BackendState::Unproven).filter(|it| it.last_failure.is_some());
    let (up, down) = (
        of(BackendState::Up).count(),
        of(BackendState::Down).count() + unproven.clone().count(),
    );
    let mut add = |kind, backend: Option<&BackendLook>, what: String, cause: String| {
        signs.push(Sign {
            kind,
            service: service.name.clone(),
            backend: backend.map(|it| it.name.to_string()),
            what,
            cause,
        });
    };
    for backend in of(BackendState::Down) {
        let why = backend.last_failure.as_deref().unwrap_or("no probe passes");
        add(
            Kind::BackendDown,
            Some(backend),
            format!("is down: {why}"),
            cause(why).to_owned(),
        );
    }
    for backend in unproven {
        let why = backend.last_failure.as_deref().unwrap_or_default();
        add(
            Kind::BackendDown,
            Some(backend),
            format!("has passed no probe since the daemon knows it: {why}"),
            cause(why).to_owned(),
        );
    }
    for backend in of(BackendState::Held) {
        let why = backend.last_failure.as_deref().unwrap_or("it fell");
        let held = match service.uses_held {
            true => "is held, and used nevertheless, as too few others are up",
            false => "is held",
        };
        add(
            Kind::BackendHeld,
            Some(backend),
            format!("{held}: {why}"),
            "the server goes up and down".to_owned(),
        );
    }
    if service.uses_backups {
        let what = format!("backups get traffic, {down} backends are down");
        let cause = "fewer of the primary pool are healthy than backup_below asks for".to_owned();
        add(Kind::BackupsUsed, None, what, cause);
    }
    let out = of(BackendState::Draining).count() + of(BackendState::Disabled).count();
    if up == 0 && down == 0 && out > 0 && out == service.backends.len() {
        let what = format!("no backend gets new flows: all {out} are drained or of weight 0");
        let cause = "the configuration takes every backend out; no server need be wrong";
        add(Kind::ServiceDown, None, what, cause.to_owned());
    }
    if up == 0 && down > 0 && !service.fails_open && !service.uses_held {
        let what = format!("no backend is up, {down} are down: its packets are dropped");
        let cause = "the servers, or the way to them: all probes fail".to_owned();
        add(Kind::ServiceDown, None, what, cause);
    }
    if service.fails_open {
        let all = service.backends.len();
        let what = format!("{up} of {all} backends are healthy, so all of them get traffic");
        let cause = "fewer are up than fail_open_below asks for".to_owned();
        add(Kind::FailOpen, None, what, cause);
    }
}

/// What is most likely behind probes that fail like that.
fn cause(failure: &str) -> &'static str {
    if failure.contains(WRONG_SERVER) {
        return "another server answers there: the address in the file, what is deployed there, or \
                the way to it is wrong";
    }
    "the server does not answer its probe as the file asks"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::watch::{Clients, PROBES};

    fn service(backends: &[(BackendState, Option<&str>)]) -> ServiceLook {
        let backend =
            |(at, (state, failure)): (usize, &(BackendState, Option<&str>))| BackendLook {
                name: format!("web-{at}").into(),
                share: 0.0,
                state: *state,
                last_failure: failure.map(str::to_owned),
                probes: [None; PROBES],
                flows: 0,
                bytes: 0,
                resets: 0,
                handshakes: None,
            };
        ServiceLook {
            name: "web".to_owned(),
            backends: backends.iter().enumerate().map(backend).collect(),
            is_even: true,
            fails_open: false,
            uses_backups: false,
            uses_held: false,
            moves: 0,
            clients: Clients::default(),
        }
    }

    fn told(backends: &[(BackendState, Option<&str>)]) -> Vec<(Kind, Option<String>, String)> {
        let mut found = Vec::new();
        signs(&service(backends), &mut found);
        let sign = |it: Sign| (it.kind, it.backend, it.what);
        found.into_iter().map(sign).collect()
    }

    #[test]
    fn backend_that_was_dead_before_the_daemon_came_is_down_and_a_new_one_is_not() {
        use BackendState::{Unproven, Up};
        assert_eq!(told(&[(Up, None), (Unproven, None)]), []);
        let found = told(&[(Up, None), (Unproven, Some("connection refused"))]);
        let what = "has passed no probe since the daemon knows it: connection refused";
        let expected = (Kind::BackendDown, Some("web-1".to_owned()), what.to_owned());
        assert_eq!(found, [expected]);
    }

    #[test]
    fn service_without_a_backend_that_is_up_is_down_whenever_they_died() {
        use BackendState::{Down, Unproven};
        let found = told(&[(Down, Some("reset")), (Unproven, Some("refused"))]);
        let kinds: Vec<Kind> = found.iter().map(|it| it.0).collect();
        let expected = [Kind::BackendDown, Kind::BackendDown, Kind::ServiceDown];
        assert_eq!(kinds, expected);
        let what = "no backend is up, 2 are down: its packets are dropped";
        assert_eq!(found[2].2, what);
        // Nothing is known of one that has not been asked often enough.
        assert_eq!(told(&[(Unproven, None)]), []);
    }

    #[test]
    fn wrong_server_is_told_from_one_that_is_ill() {
        let cause_of = |failure: &str| {
            let down = service(&[(BackendState::Down, Some(failure))]);
            let mut found = Vec::new();
            signs(&down, &mut found);
            found.swap_remove(0).cause
        };
        let failure = crate::health::Failure::IdentityMismatch {
            expected: "web-0".to_owned(),
            got: "web-9".to_owned(),
        };
        let wrong = cause_of(&failure.to_string());
        assert!(wrong.starts_with("another server answers there"), "{wrong}");
        let ill = cause_of("connection refused");
        assert!(ill.starts_with("the server does not answer"), "{ill}");
    }
}
