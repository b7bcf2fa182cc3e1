//! The question against servers that answer rightly and wrongly.

use std::net::Ipv4Addr;

use hickory_proto::rr::rdata;

use super::*;
use crate::config::model::ProbeKind;
use crate::health::{Outcome, Phase};
use crate::probe::testing::{PATIENT, SHORT, Server, answering_udp, failure, outcome};

fn probe(record: DnsRecord, expect: &[&str]) -> ProbeKind {
    ProbeKind::Dns(DnsProbe {
        name: "www.example.com".into(),
        record,
        expect: expect.iter().map(ToString::to_string).collect(),
    })
}

/// Answers questions after these have been made of the right answer.
async fn server(spoil: impl Fn(&mut Message) + Send + 'static) -> Server {
    answering_udp(move |datagram| {
        let question = Message::from_vec(datagram).unwrap();
        assert!(question.metadata.recursion_desired);
        let mut answer = Message::response(question.metadata.id, OpCode::Query);
        let query = question.queries[0].clone();
        let name = query.name().clone();
        assert_eq!(name.to_ascii(), "www.example.com.");
        let datas = match query.query_type() {
            RecordType::A => vec![
                RData::A(Ipv4Addr::new(192, 0, 2, 1).into()),
                RData::A(Ipv4Addr::new(192, 0, 2, 2).into()),
            ],
            RecordType::TXT => vec![RData::TXT(rdata::TXT::new(vec![
                "v=one ".to_owned(),
                "two".to_owned(),
            ]))],
            RecordType::CNAME => {
                vec![RData::CNAME(rdata::CNAME(
                    Name::from_ascii("Web.Example.com.").unwrap(),
                ))]
            }
            RecordType::MX => vec![RData::MX(rdata::MX::new(
                10,
                Name::from_ascii("mail.example.com.").unwrap(),
            ))],
            _ => Vec::new(),
        };
        answer.add_query(query);
        for data in datas {
            answer.add_answer(Record::from_rdata(name.clone(), 60, data));
        }
        spoil(&mut answer);
        Some(answer.to_vec().unwrap())
    })
    .await
}

#[tokio::test]
async fn one_of_the_expected_answers_is_enough() {
    let server = server(|_| {}).await;
    for (record, expect) in [
        (DnsRecord::A, &[][..]),
        (DnsRecord::A, &["192.0.2.2"]),
        (DnsRecord::A, &["192.0.2.9", "192.0.2.1"]),
        (DnsRecord::Txt, &["v=one two"]),
        (DnsRecord::Cname, &["web.example.com"]),
        (DnsRecord::Mx, &["10 mail.example.com."]),
    ] {
        let found = outcome(&probe(record, expect), server.address, PATIENT).await;
        assert!(matches!(found, Outcome::Passed { .. }), "{found:?}");
    }
}

#[tokio::test]
async fn other_answers_and_none_are_named() {
    let server = server(|_| {}).await;
    for (record, expect, expected, got) in [
        (
            DnsRecord::A,
            &["192.0.2.9"][..],
            "A 192.0.2.9",
            "192.0.2.1, 192.0.2.2",
        ),
        (DnsRecord::Txt, &["v=two"], "TXT v=two", "v=one two"),
        (DnsRecord::Aaaa, &[], "a record of type AAAA", "none"),
    ] {
        assert_eq!(
            failure(&probe(record, expect), server.address, PATIENT).await,
            Failure::UnexpectedAnswer {
                expected: expected.into(),
                got: got.into()
            }
        );
    }
}

#[tokio::test]
async fn errors_of_the_server_are_named() {
    for (code, text) in [
        (ResponseCode::NXDomain, "NXDomain"),
        (ResponseCode::ServFail, "ServFail"),
        (ResponseCode::Refused, "Refused"),
    ] {
        let server = server(move |answer| {
            answer.metadata.response_code = code;
            answer.answers.clear();
        })
        .await;
        assert_eq!(
            failure(&probe(DnsRecord::A, &[]), server.address, PATIENT).await,
            Failure::DnsError(text.into())
        );
    }
}

#[tokio::test]
async fn answer_to_another_question_is_no_answer() {
    let kind = probe(DnsRecord::A, &[]);
    let timeout = Failure::Timeout {
        phase: Phase::Datagram,
        limit: SHORT,
    };
    let other_id = server(|answer| answer.metadata.id ^= 1).await;
    assert_eq!(failure(&kind, other_id.address, SHORT).await, timeout);
    let question = server(|answer| answer.metadata.message_type = MessageType::Query).await;
    assert_eq!(failure(&kind, question.address, SHORT).await, timeout);
    let silent = answering_udp(|_| None).await;
    assert_eq!(failure(&kind, silent.address, SHORT).await, timeout);
    let other_name = server(|answer| {
        answer.queries[0].set_name(Name::from_ascii("other.example.com.").unwrap());
    })
    .await;
    let found = failure(&kind, other_name.address, PATIENT).await;
    assert!(matches!(found, Failure::BadDns(_)), "{found:?}");
}

#[tokio::test]
async fn what_is_not_dns_and_what_was_cut_off_is_named() {
    let garbage = answering_udp(|_| Some(b"HTTP/1.1 400 Bad Request".to_vec())).await;
    let found = failure(&probe(DnsRecord::A, &[]), garbage.address, PATIENT).await;
    assert!(matches!(found, Failure::BadDns(_)), "{found:?}");
    let cut = server(|answer| {
        answer.metadata.truncation = true;
        answer.answers.clear();
    })
    .await;
    let found = failure(&probe(DnsRecord::A, &[]), cut.address, PATIENT).await;
    let Failure::UnexpectedAnswer { got, .. } = &found else {
        panic!("{found:?}");
    };
    assert_eq!(got, "an answer cut off before it");
}
