//! The DNS probe: one question over UDP (RFC 1035), and its answer.
//!
//! Datagrams that do not answer this question are passed over, as a late one
//! to an earlier probe cannot come: each probe has a port of its own.

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::vip::Way;
use super::{Deadline, PrepareError, udp};
use crate::config::model::{DnsProbe, DnsRecord};
use crate::health::{Failure, shortened};

/// The most of an answer that is read, which is all of it.
const MAX_DATAGRAM: usize = 65_535;
/// Answers that a message repeats.
const SHOWN: usize = 8;

/// A question and its right answers, ready to be asked of any address.
#[derive(Debug)]
pub(super) struct Client {
    query: Query,
    expect: Vec<String>,
}

impl Client {
    pub(super) fn new(probe: &DnsProbe) -> Result<Self, PrepareError> {
        let bad_name = |_| PrepareError::QueryName(probe.name.clone());
        let mut name = Name::from_ascii(&probe.name).map_err(bad_name)?;
        name.set_fqdn(true);
        Ok(Self {
            query: Query::query(name, record_type(probe.record)),
            expect: probe.expect.iter().map(|text| plain(text)).collect(),
        })
    }

    pub(super) async fn exchange(&self, way: &Way, deadline: &Deadline) -> Result<(), Failure> {
        let local = |error: &dyn std::fmt::Display| Failure::Local(error.to_string());
        let id = getrandom::u32().map_err(|error| local(&error))? as u16;
        let mut question = Message::new(id, MessageType::Query, OpCode::Query);
        // A resolver is asked to resolve; others do not mind.
        question.metadata.recursion_desired = true;
        question.add_query(self.query.clone());
        let question = question.to_vec().map_err(|error| local(&error))?;
        let (socket, _ticket) = udp::connect(way, deadline).await?;
        udp::send(&socket, &question, deadline).await?;
        let mut buffer = vec![0; MAX_DATAGRAM];
        loop {
            let datagram = udp::receive(&socket, &mut buffer, deadline).await?;
            let answer = Message::from_vec(datagram)
                .map_err(|error| Failure::BadDns(shortened(error.to_string().as_bytes())))?;
            let metadata = &answer.metadata;
            if metadata.id == id && metadata.message_type == MessageType::Response {
                return self.judge(&answer);
            }
        }
    }

    fn judge(&self, answer: &Message) -> Result<(), Failure> {
        let code = answer.metadata.response_code;
        // An error may come without the question (RFC 1035, 4.1.1).
        if code != ResponseCode::NoError {
            return Err(Failure::DnsError(format!("{code:?}")));
        }
        let asks_this = |query: &Query| {
            query.name() == self.query.name() && query.query_type() == self.query.query_type()
        };
        if !answer.queries.iter().any(asks_this) {
            let text = "it repeats another question than was asked";
            return Err(Failure::BadDns(text.into()));
        }
        let is_wanted = |record: &&Record| record.record_type() == self.query.query_type();
        let found = answer.answers.iter().filter(is_wanted);
        let found: Vec<String> = found.map(|record| data(&record.data)).collect();
        let passes = match self.expect.is_empty() {
            true => !found.is_empty(),
            false => found.iter().any(|one| self.expect.contains(one)),
        };
        if passes {
            return Ok(());
        }
        let kind = self.query.query_type();
        Err(Failure::UnexpectedAnswer {
            expected: match self.expect.as_slice() {
                [] => format!("a record of type {kind}"),
                some => format!("{kind} {}", shortened(some.join(" or ").as_bytes())),
            },
            got: match found.as_slice() {
                [] if answer.metadata.truncation => "an answer cut off before it".to_owned(),
                [] => "none".to_owned(),
                some => shortened(some[..some.len().min(SHOWN)].join(", ").as_bytes()),
            },
        })
    }
}

/// A record's data as it is compared and shown.
fn data(data: &RData) -> String {
    match data {
        // Its parts are one text (RFC 7208, 3.3); quotes are only notation.
        RData::TXT(text) => {
            let bytes: Vec<u8> = text.txt_data.iter().flatten().copied().collect();
            String::from_utf8_lossy(&bytes).into_owned()
        }
        other => plain(&other.to_string()),
    }
}

/// Names are the same in any case, with a final dot and without.
fn plain(text: &str) -> String {
    match text.parse::<std::net::IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => text.trim_end_matches('.').to_ascii_lowercase(),
    }
}

fn record_type(record: DnsRecord) -> RecordType {
    match record {
        DnsRecord::A => RecordType::A,
        DnsRecord::Aaaa => RecordType::AAAA,
        DnsRecord::Cname => RecordType::CNAME,
        DnsRecord::Mx => RecordType::MX,
        DnsRecord::Ns => RecordType::NS,
        DnsRecord::Ptr => RecordType::PTR,
        DnsRecord::Soa => RecordType::SOA,
        DnsRecord::Srv => RecordType::SRV,
        DnsRecord::Txt => RecordType::TXT,
    }
}

#[cfg(test)]
mod tests;
