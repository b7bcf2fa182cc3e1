//! As many questions a second as the machine gives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use balancer_tests::lab::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::LONG;
use super::bed::{Bed, Ground, run};
use super::wire::{Address, Stream, answers};
use crate::random_changes::number;

/// Questions without `BALANCER_TEST_HOSTILE`.
const QUESTIONS: u64 = 20_000;
const CONNECTIONS: usize = 8;
/// Sent at once.
const TOGETHER: u64 = 16;

/// Asks until there is nothing left to ask; each answer is whole and good.
async fn ask(address: Address, request: &'static str, left: &AtomicU64) -> Result<u64> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(address.connect().await?);
    }
    let asked = AtomicU64::new(0);
    let asking = streams
        .into_iter()
        .map(|stream| drive(stream, request, left, &asked));
    futures_util::future::try_join_all(asking).await?;
    Ok(asked.into_inner())
}

async fn drive(
    mut stream: Stream,
    request: &'static str,
    left: &AtomicU64,
    asked: &AtomicU64,
) -> Result<()> {
    let mut heard = Vec::new();
    loop {
        let take = |left: u64| left.checked_sub(TOGETHER);
        if left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
            .is_err()
        {
            return Ok(());
        }
        let all = request.repeat(TOGETHER as usize);
        stream.write_all(all.as_bytes()).await?;
        heard.clear();
        loop {
            if stream.read_buf(&mut heard).await? == 0 {
                bail!("cut off after {}", String::from_utf8_lossy(&heard));
            }
            // Whole if as much is there as the head says.
            let found = answers(&heard)?;
            let is_whole = found.iter().all(|it| {
                let len = it
                    .head
                    .lines()
                    .find_map(|it| it.strip_prefix("content-length: "));
                len.and_then(|it| it.parse().ok()) == Some(it.body.len())
            });
            if found.len() == TOGETHER as usize && is_whole {
                ensure!(found.iter().all(|it| it.status == 200), "{found:?}");
                break;
            }
        }
        asked.fetch_add(TOGETHER, Ordering::Relaxed);
    }
}

#[test]
fn questions_without_a_pause_hold_up_neither_changes_nor_probes() -> Result<()> {
    let questions = number("BALANCER_TEST_HOSTILE", QUESTIONS)?;
    let ground = Ground::new()?;
    let mut bed = Bed::start(&ground, "")?;
    let left = AtomicU64::new(questions);
    let status = "GET /v1/status HTTP/1.1\r\nHost: b\r\n\r\n";
    let digest = "GET /v1/digest HTTP/1.1\r\nHost: b\r\n\r\n";
    let clients = [(bed.socket(), status), (bed.http(), digest)];
    let began = Instant::now();
    let asked = thread::scope(|scope| -> Result<u64> {
        let (lab, left) = (bed.lab, &left);
        let asking: Vec<_> = clients
            .into_iter()
            .map(|(address, request)| scope.spawn(move || run(lab, || ask(address, request, left))))
            .collect();
        // Changes get through meanwhile, and so does a scrape.
        let mut changes = 0;
        let changed = (|| -> Result<()> {
            for weight in ["80", "100"].iter().cycle() {
                bed.balancer
                    .succeed(&["backend", "weight", "web", "backend1", weight])?;
                bed.scrape()?;
                changes += 1;
                let is_over = asking.iter().any(thread::ScopedJoinHandle::is_finished);
                if is_over && *weight == "100" {
                    break;
                }
            }
            Ok(())
        })();
        // Whoever asks has an end, whatever became of the changes.
        if changed.is_err() {
            left.store(0, Ordering::Relaxed);
        }
        let mut asked = 0;
        for asking in asking {
            asked += asking.join().map_err(|_| anyhow!("a client panicked"))??;
        }
        changed.context("a change meanwhile")?;
        println!("{changes} changes by command meanwhile");
        Ok(asked)
    })?;
    let took = began.elapsed();
    println!(
        "{asked} questions in {took:.1?}: {:.0} a second",
        asked as f64 / took.as_secs_f64()
    );
    ensure!(
        asked + TOGETHER > questions - questions % TOGETHER,
        "{asked}"
    );
    wait_for("the weight to be as before", LONG, || {
        let backend = bed.api.backend("web", "backend1").ok()?;
        (backend.weight == 100).then_some(())
    })?;
    bed.expect_changes()?;
    bed.end()
}
