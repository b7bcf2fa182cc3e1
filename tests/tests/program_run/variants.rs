//! A program made for one state does with that state's packets what the
//! program that can do everything does, and what it leaves out is gone.

use balancer_common::features::Features;
use balancer_common::verdict::Reason;
use balancer_tests::frames::Generator;
use balancer_user::dataplane::bench::{Footprint, Subject};
use balancer_user::dataplane::trial::{Action, Trial};
use balancer_user::dataplane::{State, features};

use crate::random::with_egress;
use crate::scenario::everything;

/// Frames through each variant.
const FRAMES: u64 = 3000;

/// The state with this service alone, and what holds for all.
fn alone(state: &State, id: u32) -> State {
    let mut alone = state.clone();
    alone.services.retain(|other, _| *other == id);
    alone
}

/// What reading the frame's IP header takes; nothing if it has none.
fn family(frame: &[u8]) -> Features {
    let mut types = frame[12..].chunks(4).map(|word| word.get(..2));
    let tagged = |kind: &Option<&[u8]>| matches!(kind, Some([0x81, 0x00] | [0x88, 0xa8]));
    // Two tags at most are stepped over.
    let kind = match types.by_ref().take(2).find(|kind| !tagged(kind)) {
        Some(kind) => kind,
        None => types.next().flatten(),
    };
    match kind {
        Some([0x08, 0x00]) => Features::IPV4,
        Some([0x86, 0xdd]) => Features::IPV6,
        _ => Features::default(),
    }
}

#[test]
fn variant_agrees_with_the_program_that_can_do_everything() {
    with_egress("variants", |egress| {
        let all = everything(1, egress);
        let services = all.services.iter();
        // Frames are made for members.
        for (id, _) in services.filter(|(_, service)| !service.members.is_empty()) {
            let state = alone(&all, *id);
            let mut whole = Trial::load_all(&state).unwrap();
            let mut variant = Trial::load(&state).unwrap();
            let able = features::needed(&state);
            let mut generator = Generator::new(u64::from(*id), &state);
            for number in 0..FRAMES {
                let frame = generator.frame();
                let mut expected = whole.run(&frame).unwrap();
                // No header of a family that no service has is read.
                if expected.action == Action::Pass && !able.contains(family(&frame)) {
                    expected.reason = Reason::NoService;
                }
                let outcome = variant.run(&frame).unwrap();
                assert_eq!(outcome, expected, "service {id}, frame {number}");
            }
            let counters: Vec<u32> = state.services[id]
                .members
                .iter()
                .map(|member| member.counter)
                .collect();
            assert_eq!(
                variant.counters(&counters).unwrap().members,
                whole.counters(&counters).unwrap().members,
                "service {id}"
            );
        }
    });
}

#[test]
fn every_feature_that_is_left_out_makes_the_program_smaller() {
    with_egress("features", |egress| {
        let state = everything(1, egress);
        let needed = features::needed(&state);
        let footprint = |features| -> Footprint {
            let mut subject = Subject::balancer_with(&state, features).unwrap();
            subject.footprint().unwrap()
        };
        let whole = footprint(needed);
        for bit in (0..u32::BITS).filter(|bit| needed.0 >> bit & 1 == 1) {
            let feature = Features(1 << bit);
            let name: Vec<_> = feature.names().collect();
            let without = footprint(Features(needed.0 & !feature.0));
            println!(
                "without {name:?}: {} bytes of machine code of {}, {} verified instructions of {}",
                without.machine_code_len,
                whole.machine_code_len,
                without.verified_instructions,
                whole.verified_instructions
            );
            // By either: what is left out may share its code with others, and
            // where it is no longer, the verifier may meet more states.
            assert!(
                without.machine_code_len < whole.machine_code_len
                    || without.verified_instructions < whole.verified_instructions,
                "{name:?} is still there"
            );
        }
    });
}
