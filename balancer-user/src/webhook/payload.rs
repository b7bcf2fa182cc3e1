//! The bodies of messages. Pure.
//!
//! Alertmanager finds an alert again by its labels, so these say what is wrong
//! and nothing that changes while it lasts; the rest are annotations. One that
//! is not sent again in time ends by itself, also where the balancer died.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use humantime::format_rfc3339_seconds;
use serde::Serialize;

use super::outbox::{Message, What};
use crate::revision::UnixSeconds;
use crate::watch::incident::Incident;

/// How often an open incident is told again.
pub const AGAIN: Duration = Duration::from_secs(60);
/// For how long an alert holds that is not told again.
const VALID: u64 = 300;

/// An alert of Alertmanager's API, version 2.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert<'a> {
    labels: BTreeMap<&'static str, &'a str>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: String,
    ends_at: String,
}

/// An incident for a receiver of plain JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Plain<'a> {
    /// `opened`, `updated` or `closed`.
    event: &'static str,
    /// The host that tells it.
    host: &'a str,
    /// In one sentence.
    text: String,
    incident: &'a Incident,
}

/// For Alertmanager: all of these in one body.
pub fn alerts(messages: &[Message], host: &str, now: UnixSeconds) -> String {
    let alerts: Vec<Alert<'_>> = messages
        .iter()
        .map(|message| alert(message, host, now))
        .collect();
    serialized(&alerts)
}

/// For a receiver of plain JSON.
pub fn plain(message: &Message, host: &str) -> String {
    serialized(&Plain {
        event: message.what.name(),
        host,
        text: message.incident.to_string(),
        incident: &message.incident,
    })
}

fn alert<'a>(message: &'a Message, host: &'a str, now: UnixSeconds) -> Alert<'a> {
    let incident = &message.incident;
    let mut labels = BTreeMap::from([
        ("alertname", "BalancerIncident"),
        ("kind", incident.kind.name()),
        ("service", incident.service.as_str()),
        ("host", host),
    ]);
    if let Some(backend) = &incident.backend {
        labels.insert("backend", backend);
    }
    let mut annotations = BTreeMap::from([
        ("summary", incident.to_string()),
        ("seen", incident.what.clone()),
        ("cause", incident.cause.clone()),
        ("command", incident.command.clone()),
        ("incident", incident.number.to_string()),
    ]);
    if let Some(since) = &incident.since {
        annotations.insert("revision", since.revision.to_string());
        annotations.insert("author", since.author.clone());
        annotations.insert("change", since.summary.clone());
        annotations.insert("seconds_before", since.seconds_before.to_string());
    }
    let end = match (message.what, incident.closed_at) {
        (What::Closed, closed) => closed.unwrap_or(now),
        _ => now.saturating_add(VALID),
    };
    Alert {
        labels,
        annotations,
        starts_at: rfc3339(incident.opened_at),
        ends_at: rfc3339(end),
    }
}

fn rfc3339(at: UnixSeconds) -> String {
    // A clock that is wrong by ages must not bring the daemon down.
    let at = at.min(253_402_300_799);
    let at: SystemTime = UNIX_EPOCH + Duration::from_secs(at);
    format_rfc3339_seconds(at).to_string()
}

fn serialized(value: &impl Serialize) -> String {
    // Strings and numbers: nothing in it cannot be written.
    serde_json::to_string(value).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;
    use crate::watch::Kind;
    use crate::watch::incident::Since;

    pub(crate) fn incident(number: u64) -> Incident {
        Incident {
            number,
            kind: Kind::Skew,
            service: "web".to_owned(),
            backend: Some("web-1".to_owned()),
            what: "got 70.0 % of the new flows, its slots are 25.0 %".to_owned(),
            cause: "the kernel's table is not the one".to_owned(),
            command: "balancer verify".to_owned(),
            opened_at: 1_000_000_000,
            closed_at: None,
            since: Some(Since {
                revision: 41,
                author: "alice as root".to_owned(),
                summary: "weights".to_owned(),
                seconds_before: 35,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::incident;
    use super::*;

    #[test]
    fn alert_has_labels_that_stay_and_says_who_changed_what() {
        let mut incident = incident(7);
        let open = alerts(
            &[Message {
                what: What::Updated,
                incident: incident.clone(),
            }],
            "lb-1",
            1_000_000_100,
        );
        let open: serde_json::Value = serde_json::from_str(&open).unwrap();
        let expected = serde_json::json!([{
            "labels": {
                "alertname": "BalancerIncident", "kind": "skew", "service": "web",
                "backend": "web-1", "host": "lb-1"
            },
            "annotations": {
                "summary": "service web: backend web-1 got 70.0 % of the new flows, its slots are \
                            25.0 %; the kernel's table is not the one",
                "seen": "got 70.0 % of the new flows, its slots are 25.0 %",
                "cause": "the kernel's table is not the one",
                "command": "balancer verify", "incident": "7", "revision": "41",
                "author": "alice as root", "change": "weights", "seconds_before": "35"
            },
            "startsAt": "2001-09-09T01:46:40Z",
            "endsAt": "2001-09-09T01:53:20Z"
        }]);
        assert_eq!(open, expected);
        incident.closed_at = Some(1_000_000_200);
        incident.what = "other figures".to_owned();
        let what = What::Closed;
        let closed = alerts(&[Message { what, incident }], "lb-1", 1_000_000_300);
        let closed: serde_json::Value = serde_json::from_str(&closed).unwrap();
        assert_eq!(closed[0]["labels"], expected[0]["labels"]);
        assert_eq!(closed[0]["endsAt"], "2001-09-09T01:50:00Z");
    }

    #[test]
    fn plain_message_has_the_incident_and_a_sentence() {
        let message = Message {
            what: What::Opened,
            incident: incident(7),
        };
        let told: serde_json::Value = serde_json::from_str(&plain(&message, "lb-1")).unwrap();
        assert_eq!(told["event"], "opened");
        assert_eq!(told["incident"]["since"]["author"], "alice as root");
        assert!(
            told["text"]
                .as_str()
                .unwrap()
                .starts_with("service web: backend web-1")
        );
    }

    #[test]
    fn clock_that_is_wrong_by_ages_is_written_nevertheless() {
        let mut incident = incident(1);
        incident.opened_at = u64::MAX;
        let what = What::Opened;
        let told = alerts(&[Message { what, incident }], "lb-1", u64::MAX);
        assert!(told.contains("9999-12-31T23:59:59Z"), "{told}");
    }
}
