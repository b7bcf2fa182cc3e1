//! The demo of the README, as a newcomer sees it.

use std::time::Duration;

use balancer_tests::demo::{self, Play};

#[test]
fn every_step_of_the_demo_does_what_it_should() {
    // A busy machine may be late with a probe; how late is for the demo itself.
    let play = Play {
        patience: Duration::from_secs(5),
        ..Play::default()
    };
    let steps = demo::run(play).unwrap();
    assert_eq!(steps.len(), 5);
    let failed: Vec<_> = steps.iter().filter(|step| !step.passed).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}
