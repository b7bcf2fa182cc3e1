//! What is said of one packet. The JSON keys are a contract.

use anyhow::Context;
use serde::Serialize;

use super::frames::hex;
use super::tables::Tables;
use crate::dataplane::trial::{Action, Outcome};

/// What the program did with a frame.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Record<'a> {
    index: u64,
    verdict: &'static str,
    reason: &'static str,
    service: Option<&'a str>,
    backend: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    slot: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    out: Option<String>,
}

/// Why a frame could not be run.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Fault {
    pub(super) index: u64,
    pub(super) error: String,
}

impl<'a> Record<'a> {
    pub(super) fn new(index: u64, outcome: &Outcome, tables: &'a Tables) -> Self {
        let service = outcome.service.and_then(|id| tables.service(id));
        let seat = outcome.service.zip(outcome.member);
        let backend = seat.and_then(|(id, member)| tables.backend(id, member));
        let leaves = !matches!(outcome.action, Action::Drop | Action::Aborted);
        Self {
            index,
            verdict: outcome.action.name(),
            reason: outcome.reason.name(),
            service,
            backend,
            slot: outcome.slot,
            hash: outcome.hash.map(|hash| format!("{hash:016x}")),
            out: leaves.then(|| hex(&outcome.frame)),
        }
    }

    pub(super) fn to_json(&self) -> anyhow::Result<String> {
        json_line(self)
    }

    /// `0 tx forwarded service web backend web-1 slot 7 hash 01… out 02…`.
    pub(super) fn to_text(&self) -> String {
        let mut text = format!("{} {} {}", self.index, self.verdict, self.reason);
        let parts = [
            ("service", self.service.map(str::to_owned)),
            ("backend", self.backend.map(str::to_owned)),
            ("slot", self.slot.map(|slot| slot.to_string())),
            ("hash", self.hash.clone()),
            ("out", self.out.clone()),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                text.push_str(&format!(" {name} {value}"));
            }
        }
        text.push('\n');
        text
    }
}

impl Fault {
    pub(super) fn to_json(&self) -> anyhow::Result<String> {
        json_line(self)
    }

    pub(super) fn to_text(&self) -> String {
        format!("{} error {}\n", self.index, self.error)
    }
}

fn json_line(value: &impl Serialize) -> anyhow::Result<String> {
    let text = serde_json::to_string(value).context("writing JSON")?;
    Ok(format!("{text}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record<'static> {
        Record {
            index: 3,
            verdict: "tx",
            reason: "forwarded",
            service: Some("web"),
            backend: Some("web-1"),
            slot: Some(7),
            hash: Some("00000000000000ff".to_owned()),
            out: Some("0200".to_owned()),
        }
    }

    #[test]
    fn record_of_a_forwarded_packet() {
        assert_eq!(
            record().to_json().unwrap(),
            "{\"index\":3,\"verdict\":\"tx\",\"reason\":\"forwarded\",\"service\":\"web\",\
             \"backend\":\"web-1\",\"slot\":7,\"hash\":\"00000000000000ff\",\"out\":\"0200\"}\n"
        );
        assert_eq!(
            record().to_text(),
            "3 tx forwarded service web backend web-1 slot 7 hash 00000000000000ff out 0200\n"
        );
    }

    #[test]
    fn record_of_a_drop_has_null_for_what_it_has_not() {
        let record = Record {
            verdict: "drop",
            reason: "no_backend",
            backend: None,
            slot: None,
            hash: None,
            out: None,
            ..record()
        };
        assert_eq!(
            record.to_json().unwrap(),
            "{\"index\":3,\"verdict\":\"drop\",\"reason\":\"no_backend\",\"service\":\"web\",\
             \"backend\":null,\"out\":null}\n"
        );
        assert_eq!(record.to_text(), "3 drop no_backend service web\n");
    }

    #[test]
    fn record_of_a_fault() {
        let fault = Fault {
            index: 0,
            error: "why".to_owned(),
        };
        assert_eq!(
            fault.to_json().unwrap(),
            "{\"index\":0,\"error\":\"why\"}\n"
        );
        assert_eq!(fault.to_text(), "0 error why\n");
    }
}
