use std::time::Duration;

use super::*;
use crate::revision::{Author, Cause, Origin};

const DAY: u64 = 24 * 3600;

fn stored(number: u64, outcome: Outcome) -> Stored {
    let config = format!("# revision {number}\n");
    Stored {
        revision: Revision {
            version: revision::VERSION,
            number,
            parent: number.checked_sub(1).filter(|parent| *parent > 0),
            made_at: number * DAY,
            author: Author::daemon(),
            cause: Cause::Apply,
            summary: "a change".to_owned(),
            reason: None,
            allowed: Vec::new(),
            plan: Some(serde_json::json!({ "share": 0.1 + 0.2 })),
            origin: Origin::default(),
            stages: Vec::new(),
            outcome,
            config_digest: digest(&config),
        },
        config,
    }
}

const COMMITTED: Outcome = Outcome::Committed { at: 7 };

fn written(outcomes: &[Outcome]) -> tempfile::TempDir {
    let state = tempfile::tempdir().unwrap();
    let mut revisions = Revisions::open(state.path(), 0).unwrap();
    for outcome in outcomes {
        let stored = stored(revisions.next_number(), outcome.clone());
        revisions.add(&stored).unwrap();
    }
    state
}

#[test]
fn what_was_added_is_there_for_the_next_daemon() {
    let state = written(&[COMMITTED, COMMITTED]);
    let revisions = Revisions::open(state.path(), 9).unwrap();
    assert_eq!(revisions.in_force(), Some(stored(2, COMMITTED)));
    assert_eq!(revisions.next_number(), 3);
    assert_eq!(revisions.last_good_before(2).map(|it| it.number), Some(1));
    let plain = fs::read_to_string(state.path().join("revisions/00000001.toml")).unwrap();
    assert_eq!(plain, "# revision 1\n");
}

#[test]
fn pending_one_is_interrupted_and_the_one_before_it_in_force() {
    let state = written(&[COMMITTED, Outcome::Pending]);
    let revisions = Revisions::open(state.path(), 9).unwrap();
    assert_eq!(revisions.in_force(), Some(stored(1, COMMITTED)));
    let again = Revisions::open(state.path(), 10).unwrap();
    let outcome = &again.load(2).unwrap().revision.outcome;
    assert_eq!(*outcome, Outcome::Interrupted { at: 9 });
}

#[test]
fn list_is_brief_and_what_is_loaded_is_whole() {
    let figures = crate::revision::Figures::default();
    let mut whole = stored(1, Outcome::Pending);
    whole.revision.stages = vec![crate::revision::Stage {
        percent: 50.0,
        began_at: 3,
        good: Some(true),
        figures: vec![figures],
    }];
    let state = written(&[]);
    let mut revisions = Revisions::open(state.path(), 0).unwrap();
    revisions.add(&whole).unwrap();
    let told = |revisions: &Revisions| revisions.all().0;
    let listed = told(&revisions);
    assert_eq!(listed, [whole.revision.clone().in_brief()]);
    assert!(listed[0].plan.is_none() && listed[0].stages[0].figures.is_empty());
    assert_eq!(revisions.load(1).unwrap(), whole);
    // A disk that does not take it yet has the last word on nothing.
    whole.revision.outcome = COMMITTED;
    revisions.remember(&whole.revision);
    assert_eq!(revisions.load(1).unwrap(), whole);
    // What the last daemon left pending stays whole.
    let again = Revisions::open(state.path(), 9).unwrap();
    whole.revision.outcome = Outcome::Interrupted { at: 9 };
    assert_eq!(again.load(1).unwrap(), whole);
    assert_eq!(told(&again), [whole.revision.in_brief()]);
}

#[test]
fn edited_or_torn_revision_is_named_and_never_used() {
    let path = |state: &tempfile::TempDir, name: &str| state.path().join("revisions").join(name);
    let cut = |text: String| text[..text.len() / 2].to_owned();
    let author = |text: String| text.replace("\"user\": \"balancer\"", "\"user\": \"other\"");
    type Edit = dyn Fn(String) -> String;
    let edits: [(&str, &Edit, &str); 3] = [
        ("00000002.json", &cut, "torn or no revision"),
        ("00000002.json", &author, "was edited"),
        ("00000002.toml", &cut, "was edited or is torn"),
    ];
    for (name, edit, expected) in edits {
        let state = written(&[COMMITTED, COMMITTED]);
        let text = fs::read_to_string(path(&state, name)).unwrap();
        fs::write(path(&state, name), edit(text)).unwrap();
        let revisions = Revisions::open(state.path(), 0).unwrap();
        assert_eq!(revisions.in_force(), None, "{name}");
        let error = format!("{:#}", revisions.load(2).unwrap_err());
        assert!(error.contains(expected), "{error}");
        assert_eq!(revisions.next_number(), 3);
    }
}

#[test]
fn revision_of_another_version_is_refused_with_both_versions() {
    let state = written(&[]);
    let mut revisions = Revisions::open(state.path(), 0).unwrap();
    let mut other = stored(1, COMMITTED);
    other.revision.version = 2;
    revisions.add(&other).unwrap();
    let again = Revisions::open(state.path(), 0).unwrap();
    let error = format!("{:#}", again.load(1).unwrap_err());
    assert!(
        error.contains("is of version 2, this balancer reads version 1"),
        "{error}"
    );
}

#[test]
fn old_ones_go_but_for_what_a_rollback_needs() {
    let undone = || Outcome::Undone {
        at: 1,
        why: "figures".to_owned(),
    };
    let outcomes = [
        COMMITTED,
        COMMITTED,
        COMMITTED,
        undone(),
        undone(),
        undone(),
    ];
    let state = written(&outcomes);
    let numbers = |revisions: &Revisions| revisions.known.keys().copied().collect::<Vec<_>>();
    let keep = |revisions, days| Keep {
        revisions,
        age: Duration::from_secs(days * DAY),
    };
    let mut revisions = Revisions::open(state.path(), 0).unwrap();
    revisions.prune(keep(5, 100), 6 * DAY);
    assert_eq!(numbers(&revisions), [2, 3, 4, 5, 6]);
    revisions.prune(keep(100, 1), 6 * DAY);
    assert_eq!(numbers(&revisions), [2, 3, 5, 6]);
    revisions.prune(keep(2, 100), 6 * DAY);
    assert_eq!(numbers(&revisions), [2, 3, 5, 6]);
    let left = fs::read_dir(state.path().join("revisions"))
        .unwrap()
        .count();
    assert_eq!(left, 2 * numbers(&revisions).len());
}
