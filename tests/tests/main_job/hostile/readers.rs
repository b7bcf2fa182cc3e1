//! Clients that do not take what they asked for, or a byte at a time.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::interval;

use super::LONG;
use super::bed::{Bed, Ground, MOST_MEMORY, Taken, run};
use super::wire::{Address, Stream};

const READERS: usize = 20;
/// Requests that each of them sends, so that no buffer holds the answers.
const REQUESTS: usize = 400;
/// Backends whose figures make a scrape long.
const MANY: usize = 150;

/// A service with many backends that nobody probes.
fn many() -> String {
    let mut text = "[[service]]\nname = \"many\"\naddress = \"198.18.7.7\"\nport = 80\n\
                    protocol = \"tcp\"\nforward = \"ipip\"\nallow = [\"no-health-check\"]\n\
                    allow_reason = \"figures alone are wanted\"\n"
        .to_owned();
    for at in 0..MANY {
        let _ = write!(
            text,
            "[[service.backend]]\nname = \"server-with-a-long-name-{at}\"\naddress = \
             \"198.18.8.{}\"\n",
            at + 1
        );
    }
    text
}

/// Asks again and again and takes nothing, until the daemon has enough: then
/// what is sent fails.
async fn ask_deafly(mut stream: Stream, request: &'static str) -> Result<()> {
    let all = request.repeat(REQUESTS);
    let _ = stream.write_all(all.as_bytes()).await;
    let mut ticks = interval(Duration::from_millis(200));
    while stream.write_all(request.as_bytes()).await.is_ok() {
        ticks.tick().await;
    }
    Ok(())
}

/// Takes a byte now and then.
async fn sip(mut stream: Stream, request: &'static str) -> Result<()> {
    stream.write_all(request.repeat(2).as_bytes()).await?;
    let mut ticks = interval(Duration::from_millis(100));
    loop {
        ticks.tick().await;
        if stream.read_u8().await.is_err() {
            return Ok(());
        }
    }
}

/// All kinds at once; gives up when it is told that it is over.
async fn all([socket, http]: [Address; 2], mut over: oneshot::Receiver<()>) -> Result<()> {
    let mut clients = JoinSet::new();
    let scrape = "GET /metrics?detail=histogram HTTP/1.1\r\nHost: b\r\n\r\n";
    let file = "GET /app.js HTTP/1.1\r\nHost: b\r\n\r\n";
    let config = "GET /v1/config HTTP/1.1\r\nHost: b\r\n\r\n";
    let follow = "GET /v1/events?follow=true HTTP/1.1\r\nHost: b\r\n\r\n";
    let page = "GET /live HTTP/1.1\r\nHost: b\r\n\r\n";
    for _ in 0..READERS {
        clients.spawn(ask_deafly(http.connect_narrowly().await?, file));
        clients.spawn(ask_deafly(http.connect_narrowly().await?, scrape));
        clients.spawn(ask_deafly(http.connect_narrowly().await?, page));
        clients.spawn(ask_deafly(socket.connect().await?, config));
        clients.spawn(ask_deafly(socket.connect().await?, follow));
        clients.spawn(sip(http.connect_narrowly().await?, scrape));
    }
    loop {
        tokio::select! {
            ended = clients.join_next() => match ended {
                Some(ended) => ended??,
                None => return Ok(()),
            },
            _ = &mut over => return Ok(()),
        }
    }
}

#[test]
fn clients_that_do_not_read_are_left_and_hold_up_nobody() -> Result<()> {
    let ground = Ground::new()?;
    let bed = Bed::start(&ground, &many())?;
    let (let_go, over) = oneshot::channel();
    let addresses = [bed.socket(), bed.http()];
    std::thread::scope(|scope| -> Result<()> {
        let lab = bed.lab;
        let clients = scope.spawn(move || run(lab, || all(addresses, over)));
        let mut most = 0;
        let served = wait_for("clients that do not read to be left", LONG, || {
            let look = (|| -> Result<bool> {
                bed.balancer.succeed(&["status"])?;
                most = most.max(Taken::of(bed.pid)?.memory);
                Ok(bed.cut("http", "untaken")? >= READERS as u64 / 2
                    && bed.cut("socket", "untaken")? >= READERS as u64 / 2)
            })();
            match look {
                Ok(true) => Some(Ok(())),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            }
        });
        println!("memory {} and at most {most} bytes", bed.before.memory);
        let _ = let_go.send(());
        clients
            .join()
            .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        served?.context("served meanwhile")?;
        ensure!(most < bed.before.memory + MOST_MEMORY, "{most} bytes");
        Ok(())
    })?;
    wait_for("their connections to be gone", LONG, || {
        (bed.open("http").ok()? <= 2 && bed.open("socket").ok()? <= 2).then_some(())
    })?;
    bed.end()
}
