//! Whom the daemon asks by itself, and is answered by without an end or not at
//! all: the other balancers of its group, and receivers of incidents.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use balancer_tests::lab::{Node, wait_for};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use super::LONG;
use super::bed::{Bed, Ground, MOST_MEMORY, Taken};

/// Begins of answers, and what follows them for as long as it is read; nothing
/// of one is nothing at all.
const ANSWERS: &[(&str, &str)] = &[
    ("", ""),
    (
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "5\r\nhello\r\n",
    ),
    ("HTTP/1.1 200 OK\r\n", "x-header: abcdefghijklmnop\r\n"),
    ("", "220 welcome\r\n"),
    (
        "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 9999999\r\n\r\n",
        "",
    ),
];
const FIRST_PORT: u16 = 9000;

async fn answer(mut stream: TcpStream, begin: &str, piece: &str) {
    let mut request = [0; 4096];
    if stream.read(&mut request).await.is_err() || stream.write_all(begin.as_bytes()).await.is_err()
    {
        return;
    }
    let many = piece.repeat(100);
    while !piece.is_empty() && stream.write_all(many.as_bytes()).await.is_ok() {}
    while matches!(stream.read(&mut request).await, Ok(1..)) {}
}

fn serve(node: &Node) -> Result<(Runtime, Vec<SocketAddr>)> {
    let runtime = node.namespace().runtime("lab-hostile")?;
    let mut addresses = Vec::new();
    for ((begin, piece), port) in ANSWERS.iter().zip(FIRST_PORT..) {
        let at = SocketAddr::new(node.v4().into(), port);
        let bound = runtime.spawn(TcpListener::bind(at));
        let listener = runtime.block_on(bound)?.context("bind")?;
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, begin, piece));
            }
        });
        addresses.push(at);
    }
    Ok((runtime, addresses))
}

#[test]
fn peers_and_receivers_that_answer_without_an_end_are_left() -> Result<()> {
    let ground = Ground::new()?;
    let (_runtime, addresses) = serve(ground.lab.client(0))?;
    let peers: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    // An incident from the start: nobody answers the probes of this one.
    let mut more = "[[service]]\nname = \"dead\"\naddress = \"198.18.7.7\"\nport = 80\n\
        protocol = \"tcp\"\nforward = \"ipip\"\n[service.health]\nkind = \"tcp\"\n\
        port = 1\n[[service.backend]]\nname = \"d0\"\naddress = \"198.18.8.8\"\n"
        .to_owned();
    for (number, at) in addresses.iter().enumerate() {
        more.push_str(&format!(
            "[[node.webhook]]\nname = \"w{number}\"\nurl = \"http://{at}/\"\nkind = \"json\"\n\
             timeout = \"500ms\"\n"
        ));
    }
    let node = format!("peers = {peers:?}\n");
    let bed = Bed::start_with(&ground, &node, &more)?;
    let failed =
        |number: usize| format!("balancer_webhook_failed_tries_total{{webhook=\"w{number}\"}}");
    let mut most = 0;
    wait_for("every receiver and every peer to fail", LONG, || {
        most = most.max(Taken::of(bed.pid).ok()?.memory);
        let samples = bed.scrape().ok()?;
        let differing = samples.get("balancer_peers_differing")?;
        // One takes what it is sent, whatever it goes on to say; one refuses it.
        let receivers = [0, 2, 3].iter();
        let tries = receivers.filter_map(|it| samples.get(&failed(*it)));
        let is_all = tries.filter(|it| *it >= 3.0).count() == 3;
        (is_all && differing == addresses.len() as f64).then_some(())
    })?;
    println!("memory {} and at most {most} bytes", bed.before.memory);
    ensure!(most < bed.before.memory + MOST_MEMORY, "{most} bytes");
    for at in &peers {
        let status = bed.api.status()?;
        let said = status.problems.iter().any(|it| it.contains(at.as_str()));
        ensure!(said, "{at}: {:?}", status.problems);
    }
    bed.end()
}
