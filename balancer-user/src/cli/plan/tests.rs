use serde_json::json;

use super::*;
use crate::plan::{
    BackendPlan, Break, CapacityPlan, Established, Fate, Loss, Move, Plan, ServicePlan,
    SettingChange,
};

fn setting(key: &str, before: Option<&str>, after: Option<&str>) -> SettingChange {
    SettingChange {
        key: key.to_owned(),
        before: before.map(ToOwned::to_owned),
        after: after.map(ToOwned::to_owned),
    }
}

fn backend(name: &str, fate: Fate, now: Option<u32>, after: Option<u32>) -> BackendPlan {
    let share = |slots: u32| f64::from(slots) / 100.0;
    BackendPlan {
        name: name.to_owned(),
        address: "10.0.0.1".parse().unwrap(),
        fate,
        settings: Vec::new(),
        must_prove: fate == Fate::Added,
        state_now: now.map(|_| "up".to_owned()),
        state_after: after.map(|_| "up".to_owned()),
        slots_now: now,
        slots_after: after,
        slots_all_up: after,
        share_now: now.map(share),
        share_after: after.map(share),
        share_all_up: after.map(share),
        flows_per_second_now: now.map(f64::from),
        flows_per_second_after: after.map(f64::from),
        peak_flows_per_second: None,
        capacity_flows_per_second: None,
    }
}

fn web() -> ServicePlan {
    let mut lighter = backend("web-1", Fate::Changed, Some(50), Some(25));
    lighter.settings = vec![setting("weight", Some("100"), Some("50"))];
    let mut down = backend("web-2", Fate::Kept, Some(0), Some(0));
    down.state_now = Some("down".to_owned());
    down.state_after = Some("down".to_owned());
    down.share_all_up = Some(0.2);
    down.slots_all_up = Some(20);
    ServicePlan {
        name: "web".to_owned(),
        fate: Fate::Changed,
        settings: vec![setting("fail_open_below", Some("0.3"), None)],
        slots_now: 100,
        slots_after: 100,
        slots_moved: 75,
        slots_required: Some(75),
        share_moved: 0.75,
        flows_per_second_moved: Some(75.0),
        moves: vec![Move {
            from: Some("web-3".to_owned()),
            to: Some("web-4".to_owned()),
            slots: 50,
            share: 0.5,
            flows_per_second: Some(50.0),
        }],
        moves_left_out: 2,
        established: Established {
            share_kept: 0.25,
            kept_seconds: Some(300),
            drained: vec!["web-5".to_owned()],
            share_breaking: 0.5,
            breaks: vec![Break {
                backend: Some("web-3".to_owned()),
                share: Some(0.5),
                why: "it is removed".to_owned(),
            }],
        },
        backends: vec![
            lighter,
            down,
            backend("web-4", Fate::Added, None, Some(75)),
            backend("web-3", Fate::Removed, Some(50), None),
        ],
        capacity: Some(CapacityPlan {
            peak_flows_per_second: 1000,
            overloaded: vec!["web-4".to_owned()],
            without_backend: Some(Loss {
                lost: "web-4".to_owned(),
                survivor: Some("web-1".to_owned()),
                load: 1000,
                limit: 1500,
                exceeds: false,
            }),
            without_zone: Some(Loss {
                lost: "a".to_owned(),
                survivor: None,
                load: 0,
                limit: 0,
                exceeds: true,
            }),
        }),
    }
}

fn planned() -> Planned {
    Planned {
        plan: Some(Plan {
            summary: "1 service changes; and so on".to_owned(),
            has_changes: true,
            revision: Some(41),
            node: vec![setting("answer_echo", Some("true"), Some("false"))],
            needs_restart: Vec::new(),
            apply: vec![setting("hold", Some("\"10s\""), Some("\"20s\""))],
            drains_on: Vec::new(),
            services: vec![web()],
            unchanged_services: 1,
        }),
        errors: 0,
        warnings: 1,
        allowed: 0,
        report: json!({}),
        text: "warning[churn]: ...\n\n".to_owned(),
        recorded: None,
        captured: None,
    }
}

#[test]
fn plan_is_a_table_a_service_the_findings_and_one_line() {
    assert_eq!(
        render::render(&planned()),
        "\
node
  answer_echo true -> false

apply
  hold \"10s\" -> \"20s\"

service web changes
  fail_open_below 0.3 -> unset
  75.0 % of its new flows move (75 a second now): web-3 -> web-4 50.0 % and 2 more
  established flows in what moves stay where they are until silent for 5m00s
  web-5: established flows are kept for 5m00s, then break
  established flows break: those of web-3, 50.0 %: it is removed
  at its peak of 1000 new flows a second too much for web-4
  without backend web-4 at its peak of 1000: web-1 gets 1000 of 1500 new flows a second
  without zone a nobody is left
  backend  state       share now  share after  flows/s now  flows/s after  change
  web-1    up             50.0 %       25.0 %           50             25  weight 100 -> 50
  web-2    down            0.0 %        0.0 %            0              0  20.0 % were all up
  web-4    new -> up           -       75.0 %            -             75  added at 10.0.0.1
  web-3    up -> gone     50.0 %            -           50              -  removed

warning[churn]: ...

1 service changes; and so on; 1 warning
"
    );
}

#[test]
fn file_that_is_refused_has_findings_and_no_plan() {
    let refused = Planned {
        plan: None,
        errors: 2,
        warnings: 0,
        text: "error[x]: y\n\n".to_owned(),
        ..planned()
    };
    assert_eq!(
        render::render(&refused),
        "error[x]: y\n\nnot planned, as the file is refused; 2 errors\n"
    );
    assert_eq!(exit(&refused, false), Exit::Findings);
}

#[test]
fn exit_tells_changes_from_none_and_from_what_cannot_be_made() {
    let with = |adjust: fn(&mut Planned, &mut Plan)| {
        let mut planned = planned();
        let mut plan = planned.plan.take().unwrap();
        adjust(&mut planned, &mut plan);
        planned.plan = Some(plan);
        planned
    };
    assert_eq!(exit(&planned(), false), Exit::Changes);
    assert_eq!(exit(&planned(), true), Exit::Findings);
    let none = with(|_, plan| plan.has_changes = false);
    assert_eq!(exit(&none, false), Exit::Done);
    let wrong = with(|planned, _| planned.errors = 1);
    assert_eq!(exit(&wrong, false), Exit::Findings);
    let restart = with(|_, plan| plan.needs_restart = vec!["interfaces".to_owned()]);
    assert_eq!(exit(&restart, false), Exit::Findings);
}
