//! Very many requests that were drawn, over connections that stay.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, ensure};
use balancer_tests::frames::Rng;

use super::bed::{Bed, Ground, run};
use super::cases::{Case, draw};
use super::wire::{Address, answers, insist_on_proper, talk};
use crate::random_changes::number;

/// Requests without `BALANCER_TEST_HOSTILE`.
const CASES: u64 = 30_000;
/// Of one connection, one after another without waiting for answers.
const PIPELINED: usize = 40;
const WORKERS: u64 = 4;

/// What each connection ends with, if it gets so far.
const LAST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: b\r\nConnection: close\r\n\r\n";

type Counts = BTreeMap<u16, u64>;

/// Draws connections full of requests until there are no more to draw.
async fn work(address: Address, mut rng: Rng, left: &AtomicU64) -> Result<Counts> {
    let of_socket = matches!(address, Address::Socket(_));
    let mut counts = Counts::new();
    loop {
        let wanted = 1 + rng.below(PIPELINED) as u64;
        let take = |left: u64| Some(left.saturating_sub(wanted));
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let cases = before.unwrap_or(0).min(wanted);
        if cases == 0 {
            return Ok(counts);
        }
        let mut bytes = Vec::new();
        let mut drawn = 0;
        let mut is_open = false;
        // Nothing comes behind one that may take it for its own.
        while drawn < cases && !is_open {
            let Case {
                bytes: case,
                is_open: open,
            } = draw(&mut rng, of_socket);
            bytes.extend_from_slice(&case);
            (drawn, is_open) = (drawn + 1, open);
        }
        left.fetch_add(cases - drawn, Ordering::Relaxed);
        if !is_open {
            bytes.extend_from_slice(LAST);
        }
        let shown = || String::from_utf8_lossy(&bytes).into_owned();
        let answer = talk(address.connect().await?, &bytes, is_open).await;
        let answer = answer.with_context(shown)?;
        for answer in answers(&answer).with_context(shown)? {
            insist_on_proper(&answer, of_socket).with_context(shown)?;
            *counts.entry(answer.status).or_default() += 1;
        }
    }
}

#[test]
fn requests_that_were_drawn_change_nothing_and_cost_nothing() -> Result<()> {
    let seed = number("BALANCER_TEST_SEED", 1)?;
    let cases = number("BALANCER_TEST_HOSTILE", CASES)?;
    println!("seed {seed}, {cases} requests");
    let ground = Ground::new()?;
    let bed = Bed::start(&ground, "")?;
    let addresses = [bed.socket(), bed.http()];
    // Two thirds are for the socket, which does more.
    let left = [AtomicU64::new(cases - cases / 3), AtomicU64::new(cases / 3)];
    let began = Instant::now();
    let counted = thread::scope(|scope| {
        let mut workers = Vec::new();
        for worker in 0..WORKERS {
            let at = (worker % 2) as usize;
            let (address, left) = (addresses[at].clone(), &left[at]);
            let rng = Rng::new(seed.wrapping_mul(1000) + worker);
            let lab = bed.lab;
            workers.push(scope.spawn(move || run(lab, || work(address, rng, left))));
        }
        let join = |worker: thread::ScopedJoinHandle<'_, _>| {
            worker
                .join()
                .unwrap_or_else(|_| Err(anyhow!("a worker panicked")))
        };
        workers.into_iter().map(join).collect::<Result<Vec<_>>>()
    });
    let counted = counted.with_context(|| format!("seed {seed}\n{}", bed.balancer.log()))?;
    let mut counts = Counts::new();
    for (status, count) in counted.into_iter().flatten() {
        *counts.entry(status).or_default() += count;
    }
    let answered: u64 = counts.values().sum();
    println!(
        "{cases} requests in {:.1?}, {answered} answers: {counts:?}",
        began.elapsed()
    );
    // Most of what was drawn was heard, both what is good and what is not.
    ensure!(answered > cases / 2, "{counts:?}");
    for status in [200, 400, 404, 405, 409] {
        ensure!(counts.contains_key(&status), "no {status}: {counts:?}");
    }
    bed.end()
}
