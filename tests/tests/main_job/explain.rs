//! `balancer explain` says who gets a flow, and the flow proves it.

use anyhow::{Result, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::lab::Lab;
use balancer_tests::lab::client::Curl;
use balancer_user::api::types::Status;
use balancer_user::api::types::{ExplainRequest, Explanation, Transport};

use crate::fixture::{Api, Service, balancer, l2, web_servers};

/// Source ports of the flows that are asked about.
const PORTS: std::ops::Range<u16> = 21_000..21_024;

fn explain(
    lab: &Lab,
    balancer: &Balancer<'_>,
    service: &Service,
    port: u16,
) -> Result<Explanation> {
    let source = format!("{}:{port}", lab.client(0).v4());
    let destination = service.dial().to_string();
    let text = balancer.succeed(&[
        "explain",
        "--src",
        &source,
        "--dst",
        &destination,
        "--proto",
        "tcp",
        "--json",
    ])?;
    Ok(serde_json::from_str(&text)?)
}

/// Who answers a connection from that port.
fn dial(lab: &Lab, service: &Service, port: u16) -> Result<String> {
    let curl = Curl::get(service.dial(), "/").args([
        "--local-port".to_owned(),
        port.to_string(),
        "--interface".to_owned(),
        lab.client(0).v4().to_string(),
    ]);
    let response = curl.run(lab.client(0).namespace())?;
    ensure!(response.status == 200, "{response:?}");
    Ok(response.backend().unwrap_or_default().to_owned())
}

/// What only packets move.
fn counted(status: &Status) -> Vec<u64> {
    let backends = status.services.iter().flat_map(|it| &it.backends);
    let mut counts: Vec<u64> = backends.map(|it| it.packets).collect();
    counts.push(status.reasons.get("forwarded").copied().unwrap_or_default());
    counts
}

#[test]
fn flow_gets_the_backend_that_was_explained_before() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let api = Api::new(&balancer)?;
    let mut backends = std::collections::BTreeSet::new();
    // All are asked before the first packet, so that nothing else is counted.
    let before = counted(&api.status()?);
    let explained: Vec<Explanation> = PORTS
        .map(|port| explain(&lab, &balancer, &service, port))
        .collect::<Result<_>>()?;
    ensure!(counted(&api.status()?) == before, "it was counted");
    for (port, explanation) in PORTS.zip(explained) {
        ensure!(
            explanation.service.as_deref() == Some("web"),
            "{explanation:?}"
        );
        ensure!(explanation.packets.len() == 2, "{explanation:?}");
        let [syn, segment] = explanation.packets.as_slice() else {
            anyhow::bail!("{explanation:?}");
        };
        ensure!(
            syn.backend == segment.backend && syn.verdict == "tx",
            "{explanation:?}"
        );
        let answered = dial(&lab, &service, port)?;
        ensure!(
            syn.backend.as_deref() == Some(answered.as_str()),
            "{answered}: {explanation:?}"
        );
        ensure!(explanation.backends.len() == 1, "{explanation:?}");
        let backend = &explanation.backends[0];
        ensure!(
            backend.state == "up" && backend.next_hop == "resolved",
            "{backend:?}"
        );
        ensure!(
            (backend.share_expected - 1.0 / 3.0).abs() < 0.01,
            "{backend:?}"
        );
        backends.insert(answered);
    }
    ensure!(backends.len() == 3, "{backends:?}");
    in_change(&lab, &balancer, &service)?;
    nobodys(&lab, &balancer)
}

/// While a slot is in change, what is new and what is old go two ways.
fn in_change(lab: &Lab, balancer: &Balancer<'_>, service: &Service) -> Result<()> {
    let port = PORTS.end;
    let now = explain(lab, balancer, service, port)?;
    let drained = now.packets[0].backend.clone().unwrap_or_default();
    balancer.succeed(&["backend", "drain", "web", &drained])?;
    let explanation = explain(lab, balancer, service, port)?;
    let [syn, segment] = explanation.packets.as_slice() else {
        anyhow::bail!("{explanation:?}");
    };
    ensure!(
        segment.backend.as_ref() == Some(&drained),
        "{explanation:?}"
    );
    ensure!(
        syn.backend.is_some() && syn.backend != segment.backend,
        "{explanation:?}"
    );
    let slot = explanation.slot.as_ref();
    ensure!(slot.is_some_and(|slot| slot.in_change), "{explanation:?}");
    ensure!(explanation.records.is_empty(), "{explanation:?}");
    // A connection of that port leaves a record, by which it goes.
    let answered = dial(lab, service, port)?;
    ensure!(
        Some(&answered) == syn.backend.as_ref(),
        "{answered}: {explanation:?}"
    );
    let explanation = explain(lab, balancer, service, port)?;
    let [record, ..] = explanation.records.as_slice() else {
        anyhow::bail!("no record: {explanation:?}");
    };
    ensure!(
        record.counts && record.backend.as_ref() == Some(&answered),
        "{explanation:?}"
    );
    ensure!(
        explanation
            .packets
            .iter()
            .all(|it| it.backend.as_ref() == Some(&answered)),
        "{explanation:?}"
    );
    let text = balancer.succeed(&[
        "explain",
        "--src",
        &format!("{}:{}", lab.client(0).v4(), port + 1),
        "--dst",
        &service.dial().to_string(),
        "--proto",
        "tcp",
    ])?;
    ensure!(
        text.contains(" is service web, which forwards by l2"),
        "{text}"
    );
    Ok(())
}

fn nobodys(lab: &Lab, balancer: &Balancer<'_>) -> Result<()> {
    let client = lab.client(0).v4();
    let text = balancer.succeed(&[
        "explain",
        "--src",
        &format!("{client}:1234"),
        "--dst",
        "192.0.2.77:53",
        "--proto",
        "udp",
    ])?;
    ensure!(text.contains("passes up the host's stack"), "{text}");
    ensure!(
        text.contains("no service takes 192.0.2.77:53/udp"),
        "{text}"
    );
    let api = Api::new(balancer)?;
    let mixed = api.explain(&ExplainRequest {
        source: "[2001:db8::1]:1".parse()?,
        destination: "192.0.2.77:53".parse()?,
        protocol: Transport::Udp,
    });
    ensure!(mixed.is_err_and(|error| error.to_string().contains("two families")));
    Ok(())
}
