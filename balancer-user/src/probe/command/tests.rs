//! The probe with real programs, good ones and bad ones.

use std::path::Path;
use std::time::Duration;

use super::*;
use crate::config::model::ProbeKind;
use crate::health::Outcome;
use crate::probe::Prober;
use crate::probe::testing::{PATIENT, SHORT, failure, outcome};

/// A shell script, as this user where that is not root.
fn script(text: &str) -> ProbeKind {
    let user = match nix::unistd::geteuid().is_root() {
        true => "nobody".to_owned(),
        false => {
            User::from_uid(nix::unistd::geteuid())
                .unwrap()
                .unwrap()
                .name
        }
    };
    let command = ["/bin/sh", "-c", text].map(str::to_owned).into();
    ProbeKind::Command(CommandProbe { command, user })
}

fn address() -> SocketAddr {
    "192.0.2.1:8080".parse().unwrap()
}

#[tokio::test]
async fn status_0_passes_and_any_other_end_is_named_with_what_was_written() {
    let found = outcome(&script("exit 0"), address(), PATIENT).await;
    assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
    for (text, status, output) in [
        ("exit 3", "status 3", ""),
        ("echo no database; exit 1", "status 1", "no database"),
        ("echo no database >&2; exit 2", "status 2", "no database"),
        ("kill -TERM $$", "signal SIGTERM", ""),
    ] {
        assert_eq!(
            failure(&script(text), address(), PATIENT).await,
            Failure::CommandFailed {
                status: status.into(),
                output: output.into()
            },
            "{text}"
        );
    }
}

#[tokio::test]
async fn environment_is_about_the_backend_and_nothing_else() {
    let found = failure(
        &script("env | sort | head -c 600; exit 1"),
        address(),
        PATIENT,
    )
    .await;
    let Failure::CommandFailed { output, .. } = &found else {
        panic!("{found:?}");
    };
    assert!(
        output.starts_with("BALANCER_ADDRESS=192.0.2.1\\nBALANCER_BACKEND=web-1"),
        "{output}"
    );
    let right = r#"
        test "$BALANCER_SERVICE $BALANCER_BACKEND" = "web web-1" &&
        test "$BALANCER_ADDRESS $BALANCER_PORT" = "192.0.2.1 8080" &&
        test "$BALANCER_TIMEOUT_MS" = 20000 &&
        test -z "$HOME$CARGO" && test "$(pwd)" = / && ! read -r line"#;
    let found = outcome(&script(right), address(), PATIENT).await;
    assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
}

#[tokio::test]
async fn command_has_the_rights_of_its_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can run a command as somebody else");
        return;
    }
    let right = r#"
        test "$(id -un)" = nobody && test "$(id -u)" = "$(id -ru)" &&
        test "$(id -G)" = "$(id -g)" &&
        grep -q '^CapEff:.0000000000000000$' /proc/self/status"#;
    let found = outcome(&script(right), address(), PATIENT).await;
    assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
}

/// Waits until no process of a group is left.
async fn assert_gone(group: &Path) {
    let deadline = tokio::time::Instant::now() + PATIENT;
    let group: i32 = std::fs::read_to_string(group)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let mut pace = tokio::time::interval(Duration::from_millis(5));
    while killpg(Pid::from_raw(group), None).is_ok() {
        assert!(
            tokio::time::Instant::now() < deadline,
            "group {group} lives"
        );
        pace.tick().await;
    }
}

/// A file that any user may write.
fn note() -> tempfile::TempPath {
    use std::os::unix::fs::PermissionsExt;
    let note = tempfile::NamedTempFile::new_in("/tmp")
        .unwrap()
        .into_temp_path();
    std::fs::set_permissions(&note, std::fs::Permissions::from_mode(0o666)).unwrap();
    note
}

#[tokio::test]
async fn command_that_hangs_ends_at_the_timeout_with_all_its_children() {
    let note = note();
    let text = format!("echo $$ > {}; sleep 1000 & sleep 1000", note.display());
    // Long enough for the note on a busy machine.
    let limit = Duration::from_secs(3);
    assert_eq!(
        failure(&script(&text), address(), limit).await,
        Failure::Timeout {
            phase: Phase::Command,
            limit
        }
    );
    assert_gone(&note).await;
}

#[tokio::test]
async fn child_that_outlives_the_command_is_ended_and_not_waited_for() {
    let note = note();
    let text = format!("echo $$ > {}; sleep 1000 & exit 0", note.display());
    let found = outcome(&script(&text), address(), PATIENT).await;
    assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
    assert_gone(&note).await;
}

#[tokio::test]
async fn endless_output_is_cut_and_a_drip_ends_at_the_timeout() {
    assert_eq!(
        failure(&script("yes"), address(), PATIENT).await,
        Failure::OutputTooLarge {
            limit: OUTPUT_LIMIT
        }
    );
    let drip = "while :; do echo x; sleep 0.01; done";
    assert_eq!(
        failure(&script(drip), address(), SHORT).await,
        Failure::Timeout {
            phase: Phase::Command,
            limit: SHORT
        }
    );
}

#[tokio::test]
async fn command_that_cannot_be_run_is_no_fault_of_the_backend() {
    let ProbeKind::Command(probe) = script("") else {
        unreachable!();
    };
    let command = vec!["/nonexistent/check".to_owned()];
    let kind = ProbeKind::Command(CommandProbe { command, ..probe });
    let found = failure(&kind, address(), PATIENT).await;
    assert!(found.is_local(), "{found:?}");
    assert!(found.to_string().contains("/nonexistent/check"), "{found}");
}

#[test]
fn unknown_user_is_an_error_when_it_is_prepared() {
    let kind = ProbeKind::Command(CommandProbe {
        command: vec!["/bin/true".to_owned()],
        user: "no-such-user".to_owned(),
    });
    let error = Prober::new(&kind).unwrap_err().to_string();
    assert!(error.contains("\"no-such-user\" is no user"), "{error}");
}
