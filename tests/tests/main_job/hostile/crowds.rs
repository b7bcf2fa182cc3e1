//! Thousands of connections that do nothing, and hundreds that do it slowly.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use balancer_tests::lab::wait_for;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{interval, timeout};

use super::LONG;
use super::bed::{Bed, Ground, run};
use super::wire::{Address, Stream, answers, insist_on_proper};
use crate::LIMIT;

/// Idle ones, of HTTP and of the socket.
const IDLE: [usize; 2] = [5_000, 2_000];

/// Sends what it has, then a byte now and then, until it is cut off; gives what
/// it was told.
async fn dawdle(mut stream: Stream, start: &str, piece: &str) -> Vec<u8> {
    let mut told = Vec::new();
    let mut ticks = interval(Duration::from_millis(200));
    let mut pieces = piece.bytes().cycle();
    if stream.write_all(start.as_bytes()).await.is_err() {
        return told;
    }
    loop {
        tokio::select! {
            read = stream.read_buf(&mut told) => match read {
                Ok(1..) => {}
                Ok(0) | Err(_) => return told,
            },
            _ = ticks.tick() => {
                let byte = [pieces.next().unwrap_or(b'x')];
                // Its end is seen by reading: the last answer may be there.
                let _ = stream.write_all(&byte).await;
            }
        }
    }
}

/// What many slow ones were told.
async fn dawdle_all(
    address: Address,
    count: usize,
    start: &str,
    piece: &str,
) -> Result<Vec<Vec<u8>>> {
    let mut slow = JoinSet::new();
    for _ in 0..count {
        let stream = address.connect().await?;
        let (start, piece) = (start.to_owned(), piece.to_owned());
        slow.spawn(async move { dawdle(stream, &start, &piece).await });
    }
    timeout(LONG, slow.join_all())
        .await
        .context("slow senders are not cut off")
}

#[test]
fn slow_senders_are_cut_off_and_nobody_waits_for_them() -> Result<()> {
    let ground = Ground::new()?;
    let bed = Bed::start(&ground, "")?;
    let (socket, http) = (bed.socket(), bed.http());
    let head = "GET /v1/status HTTP/1.1\r\nHost: b\r\nX-Slow: ";
    let body = "POST /v1/plan HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n\
                Content-Length: 100000\r\n\r\n{\"text\": \"";
    let chunks = "POST /v1/changes HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n\
                  Transfer-Encoding: chunked\r\n\r\n";
    // As many as there are places for, and a few less.
    let kinds = [
        ("a head by HTTP", &http, 120, head, "x"),
        ("a head", &socket, 40, head, "x"),
        ("a body", &socket, 40, body, "x"),
        ("a body in chunks", &socket, 40, chunks, "1\r\n \r\n"),
    ];
    let told = thread::scope(|scope| -> Result<Vec<_>> {
        let slow = kinds.map(|(what, address, count, start, piece)| {
            let (lab, address) = (bed.lab, address.clone());
            let slow = scope.spawn(move || run(lab, || dawdle_all(address, count, start, piece)));
            (what, slow)
        });
        let mut served = 0;
        while slow.iter().any(|(_, slow)| !slow.is_finished()) {
            bed.balancer.succeed(&["status"])?;
            bed.scrape()?;
            served += 1;
        }
        println!("{served} times served meanwhile");
        let told = slow.into_iter().map(|(what, slow)| {
            let told = slow.join().map_err(|_| anyhow!("a thread panicked"))?;
            Ok((what, told.context(what)?))
        });
        told.collect()
    })?;
    for (what, told) in told {
        let mut late = 0;
        for told in &told {
            for answer in answers(told)? {
                insist_on_proper(&answer, true)?;
                ensure!(answer.status == 408, "{answer:?}");
                late += 1;
            }
        }
        println!("{what}: {late} of {} were told 408", told.len());
        // Some gave way to those that were served meanwhile.
        ensure!(late > 0, "{what}");
    }
    for (entrance, reason) in [
        ("http", "slow-head"),
        ("socket", "slow-head"),
        ("socket", "slow-body"),
    ] {
        ensure!(bed.cut(entrance, reason)? > 0, "{entrance} {reason}");
    }
    bed.end()
}

/// Connects so many times and keeps what it got, until it is told to let go.
async fn hold(
    addresses: [(Address, usize); 2],
    all_there: std::sync::mpsc::Sender<()>,
    over: oneshot::Receiver<()>,
) -> Result<()> {
    let mut held = Vec::new();
    for (address, count) in addresses {
        for _ in 0..count {
            held.push(address.connect().await?);
        }
    }
    all_there.send(())?;
    let _ = over.await;
    Ok(())
}

/// As many files as the host allows; how many those are.
fn raise_file_limit() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(usize::try_from(hard).unwrap_or(usize::MAX))
}

fn probes(bed: &Bed<'_>) -> Result<(f64, f64)> {
    let samples = bed.scrape()?;
    let with = |result| samples.sum_where("balancer_backend_probes_total", "result", result);
    Ok((with("passed"), with("local")))
}

#[test]
fn thousands_of_idle_connections_take_no_place_from_anybody() -> Result<()> {
    let room = raise_file_limit()? / 4;
    let [http, socket] = IDLE.map(|count| count.min(room));
    let ground = Ground::new()?;
    let bed = Bed::start(&ground, "")?;
    let lines = bed.balancer.log().lines().count();
    let (there, all_there) = std::sync::mpsc::channel();
    let (let_go, over) = oneshot::channel();
    let addresses = [(bed.http(), http), (bed.socket(), socket)];
    thread::scope(|scope| -> Result<()> {
        let lab = bed.lab;
        let crowd = scope.spawn(move || run(lab, || hold(addresses, there, over)));
        let served = (|| -> Result<()> {
            let mut problems = Vec::new();
            let is_there =
                |what: &str, problems: &[String]| problems.iter().any(|it| it.starts_with(what));
            bed.balancer
                .wait_status("both crowds to be said", LONG, |status| {
                    problems.extend(status.problems.iter().cloned());
                    let both = ["node.listen: more", "the control socket: more"];
                    both.iter().all(|it| is_there(it, &problems)).then_some(())
                })?;
            all_there.recv_timeout(LONG)?;
            let (passed, _) = probes(&bed)?;
            wait_for("probes of all backends", LIMIT, || {
                (probes(&bed).ok()?.0 >= passed + 6.0).then_some(())
            })?;
            for (entrance, most) in [("http", 256), ("socket", 128)] {
                let open = bed.open(entrance)?;
                println!("{entrance}: {open} connections are open");
                ensure!(open <= most, "{entrance}: {open}");
                ensure!(bed.cut(entrance, "displaced")? > 0);
            }
            bed.balancer
                .succeed(&["backend", "drain", "web", "backend2", "--dry-run"])?;
            ensure!(probes(&bed)?.1 == 0.0, "probes without a descriptor");
            Ok(())
        })();
        let _ = let_go.send(());
        crowd.join().map_err(|_| anyhow!("the crowd panicked"))??;
        served
    })?;
    bed.balancer.wait_status("no crowd", LONG, |status| {
        let is_over = !status.problems.iter().any(|it| it.contains("more connect"));
        is_over.then_some(())
    })?;
    let log = bed.balancer.log();
    let said = log.lines().count() - lines;
    println!("{said} lines in the log");
    ensure!(said < 40, "{said} lines:\n{log}");
    ensure!(
        log.contains("there are places for connections again"),
        "{log}"
    );
    bed.end()
}
