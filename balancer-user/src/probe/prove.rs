//! Proves servers before they get traffic: as often in a row as their service
//! asks for, with its own probe and identity, beside the probes that go on.
//!
//! Bounded in time: `rise` probes have to pass in a row, and one more is made
//! at most, so that a failure is forgiven where it is the first. That takes
//! `rise` x `interval` + `timeout` at most, as a probe's timeout is below its
//! interval (rule `probe-timing`); the pauses are of a second at most.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::{Instant, sleep_until};

use super::scheduler::{TargetId, TargetSpec};
use super::vip::Lane;
use super::{PrepareError, Prober};
use crate::config::model::Config;
/// The longest pause between two probes: who asks is waiting.
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Proofs under way at a time. Each holds a file descriptor.
const MAX_CONCURRENT: usize = 1024;

/// What came of proving backends; the error says why one failed. One that is
/// not in it was not probed.
pub type Proofs = BTreeMap<TargetId, Result<(), String>>;

/// As [`prove`], for targets of a configuration that is not in force: those
/// that are probed by the VIP are given a way first.
pub async fn prove_by(lane: &Lane, config: &Config, targets: Vec<TargetSpec>) -> Proofs {
    if targets.iter().any(|target| target.via.is_some()) {
        lane.lead_candidate(config).await;
    }
    prove(targets, lane).await
}

/// Probes each of them until it is proven, or cannot be in time.
pub async fn prove(targets: Vec<TargetSpec>, lane: &Lane) -> Proofs {
    let mut probers: HashMap<String, Result<Arc<Prober>, PrepareError>> = HashMap::new();
    let proofs = targets.into_iter().map(|target| {
        // Targets of a service have the same probe.
        let prober = probers
            .entry(target.id.service.clone())
            .or_insert_with(|| Prober::new(&target.health.kind).map(Arc::new))
            .clone();
        async move {
            let proof = match prober {
                Ok(prober) => prove_one(&prober, &target, lane).await,
                Err(error) => Err(error.to_string()),
            };
            (target.id, proof)
        }
    });
    // Collected first: a stream of borrowing futures is not `Send`.
    let proofs: Vec<_> = proofs.collect();
    stream::iter(proofs)
        .buffer_unordered(MAX_CONCURRENT)
        .collect()
        .await
}

async fn prove_one(prober: &Prober, target: &TargetSpec, lane: &Lane) -> Result<(), String> {
    let health = &target.health;
    let (pause, rise) = (health.interval.min(MAX_PAUSE), health.rise.max(1));
    // One more than it takes.
    let mut left = rise.saturating_add(1);
    let mut passed = 0;
    let way = || lane.way(target.address, target.via.as_ref());
    loop {
        let start = Instant::now();
        let outcome = prober.probe(&target.id, way(), health.timeout).await;
        left -= 1;
        match outcome.failure() {
            None => passed += 1,
            Some(reason) if left < rise => return Err(reason.to_string()),
            Some(_) => {}
        }
        if passed == rise {
            return Ok(());
        }
        sleep_until(start + pause).await;
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::super::testing::{PATIENT, Server, closed_port, serve};
    use super::*;
    use crate::config::model::{Health, HttpProbe, Identity, ProbeKind};
    use crate::config::parse::defaults;
    use crate::health::State;

    fn target(name: &str, address: SocketAddr, rise: u32) -> TargetSpec {
        let probe = HttpProbe {
            path: "/".to_owned(),
            host: None,
            expect_status: vec![200],
            identity: Some(Identity::Body("shop".to_owned())),
        };
        TargetSpec {
            id: TargetId {
                service: "web".to_owned(),
                backend: name.to_owned(),
            },
            address,
            via: None,
            health: Health {
                interval: Duration::from_millis(10),
                jitter: 0.0,
                timeout: PATIENT,
                rise,
                ..defaults::health(ProbeKind::Http(probe))
            },
            initial: State::Unproven,
        }
    }

    /// Says what its `bodies` are, one after the other, the last one for ever.
    async fn speaks(bodies: &'static [&'static str]) -> (Server, Arc<AtomicU32>) {
        let count = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&count);
        let server = serve(move |mut stream| {
            let at = counter.fetch_add(1, Ordering::Relaxed) as usize;
            let body = bodies[at.min(bodies.len() - 1)];
            async move {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            }
        });
        (server.await, count)
    }

    #[tokio::test]
    async fn right_server_is_proven_by_as_many_probes_as_its_service_asks_for() {
        let (right, count) = speaks(&["the shop"]).await;
        let (wrong, _) = speaks(&["a test page"]).await;
        let (_held, closed) = closed_port();
        let proofs = prove(
            vec![
                target("right", right.address, 3),
                target("wrong", wrong.address, 2),
                target("closed", closed, 2),
            ],
            &Lane::none(),
        )
        .await;
        let of = |name: &str| {
            let mut found = proofs.iter().filter(|(id, _)| id.backend == name);
            found.next().map(|(_, proof)| proof.clone())
        };
        assert_eq!(of("right"), Some(Ok(())));
        assert_eq!(count.load(Ordering::Relaxed), 3);
        let wrong = of("wrong").unwrap().unwrap_err();
        assert!(wrong.contains("shop"), "{wrong}");
        assert!(of("closed").unwrap().is_err());
    }

    #[tokio::test]
    async fn first_failure_is_forgiven_and_no_other() {
        let (late, count) = speaks(&["starting", "the shop"]).await;
        let proofs = prove(vec![target("late", late.address, 2)], &Lane::none()).await;
        assert!(proofs.values().all(Result::is_ok), "{proofs:?}");
        assert_eq!(count.load(Ordering::Relaxed), 3);
        let (flapping, count) = speaks(&["the shop", "starting", "the shop"]).await;
        let proofs = prove(vec![target("flapping", flapping.address, 2)], &Lane::none()).await;
        assert!(proofs.values().all(Result::is_err), "{proofs:?}");
        assert_eq!(count.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn probe_that_cannot_be_made_proves_nothing() {
        let mut target = target("a", "127.0.0.1:1".parse().unwrap(), 1);
        target.health.kind = ProbeKind::Http(HttpProbe {
            path: "no path".to_owned(),
            host: None,
            expect_status: Vec::new(),
            identity: None,
        });
        let proofs = prove(vec![target], &Lane::none()).await;
        let error = proofs.values().next().unwrap().clone().unwrap_err();
        assert!(error.contains("no request target"), "{error}");
    }
}
