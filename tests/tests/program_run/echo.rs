//! Echo requests: answered for a service's address, for no other, with right
//! checksums. The frames are written out by hand.

use balancer_common::verdict::Reason;
use balancer_tests::frames::{hex, unhex};
use balancer_tests::model::build::l2;
use balancer_user::dataplane::trial::Action;
use balancer_user::dataplane::{Settings, State};

use crate::fixture::{Fixture, Moved, only};

const REQUEST_V4: &str = "02aa00000001 02cc00000009 0800
    45000024 12340000 0701a3a2 cb007101 c0000201
    0800 5435 1234 0001 6162636465666768";
const ANSWER_V4: &str = "02cc00000009 02aa00000001 0800
    45000024 12340000 40016aa2 c0000201 cb007101
    0000 5c35 1234 0001 6162636465666768";
const REQUEST_V6: &str = "02aa00000001 02cc00000009 86dd
    60000000 00083a07 20010db8000c00000000000000000001 20010db8000000000000000000000001
    8000 1208 1234 0001";
const ANSWER_V6: &str = "02cc00000009 02aa00000001 86dd
    60000000 00083a40 20010db8000000000000000000000001 20010db8000c00000000000000000001
    8100 1108 1234 0001";

fn frame(text: &str) -> Vec<u8> {
    unhex(&text.split_whitespace().collect::<String>()).unwrap()
}

fn answering() -> State {
    State {
        settings: Settings {
            answer_echo: true,
            ..Settings::default()
        },
        ..only(l2(7))
    }
}

#[test]
fn echo_to_a_services_address_is_answered_in_the_kernel() {
    for (request, answer) in [(REQUEST_V4, ANSWER_V4), (REQUEST_V6, ANSWER_V6)] {
        let (outcome, moved) = Fixture::new(&answering()).run(&frame(request));
        assert_eq!(outcome.action, Action::Tx);
        assert_eq!(hex(&outcome.frame), hex(&frame(answer)));
        assert_eq!(moved, Moved::only(Reason::EchoAnswered));
    }
}

/// Where identifier, number and data are zero, all of the answer is, and its
/// checksum is right only as all ones (RFC 1071).
#[test]
fn answer_that_is_zero_but_for_its_checksum_has_a_right_one() {
    let zero = |text: &str, from: &str, to: &str| {
        let text = text.replace("1234 0001 6162636465666768", "0000 0000 0000000000000000");
        assert!(text.contains(from));
        frame(&text.replace(from, to))
    };
    let request = zero(REQUEST_V4, "0800 5435", "0800 f7ff");
    let (outcome, _) = Fixture::new(&answering()).run(&request);
    let answer = zero(ANSWER_V4, "0000 5c35", "0000 ffff");
    assert_eq!(hex(&outcome.frame), hex(&answer));
}

#[test]
fn echo_to_another_address_passes_untouched() {
    for (request, last) in [(REQUEST_V4, 33), (REQUEST_V6, 53)] {
        let mut request = frame(request);
        request[last] ^= 2;
        let (outcome, moved) = Fixture::new(&answering()).run(&request);
        assert_eq!((outcome.action, outcome.frame), (Action::Pass, request));
        assert_eq!(moved, Moved::only(Reason::NotTcpUdp));
    }
}

#[test]
fn echo_is_left_to_the_stack_where_the_file_says_so() {
    for request in [REQUEST_V4, REQUEST_V6] {
        let (outcome, _) = Fixture::new(&only(l2(7))).run(&frame(request));
        assert_eq!(outcome.action, Action::Pass);
    }
}

#[test]
fn tags_stay_on_the_answer() {
    let tagged = |text| {
        let mut frame = frame(text);
        frame.splice(12..12, [0x81, 0, 0, 100]);
        frame
    };
    let (outcome, _) = Fixture::new(&answering()).run(&tagged(REQUEST_V4));
    assert_eq!(hex(&outcome.frame), hex(&tagged(ANSWER_V4)));
}
