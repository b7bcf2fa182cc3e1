//! Requests larger than any may be.

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::LONG;
use super::bed::{Bed, Ground, MOST_MEMORY, Taken};
use super::wire::{Address, answers, insist_on_proper};

const MIB: usize = 1 << 20;

/// Sends a head and then pieces, until all is sent or the daemon takes no more;
/// the statuses it answered with.
async fn send(address: &Address, head: &str, piece: &[u8], count: usize) -> Result<Vec<u16>> {
    let (mut reader, mut writer) = tokio::io::split(address.connect().await?);
    let send = async move {
        let mut sent = writer.write_all(head.as_bytes()).await;
        for _ in 0..count {
            if sent.is_err() {
                break;
            }
            sent = writer.write_all(piece).await;
        }
        writer
    };
    let receive = async {
        let mut answer = Vec::new();
        // A reset ends it, too: what came before counts.
        let _ = reader.read_to_end(&mut answer).await;
        answer
    };
    let both = timeout(LONG, async { tokio::join!(receive, send) }).await;
    let (answer, _writer) = both.context("the daemon neither answers nor hangs up")?;
    let answers = answers(&answer)?;
    let is_socket = matches!(address, Address::Socket(_));
    for answer in &answers {
        insist_on_proper(answer, is_socket)?;
    }
    Ok(answers.iter().map(|it| it.status).collect())
}

#[test]
fn what_is_too_large_is_refused_and_not_read_into_memory() -> Result<()> {
    let ground = Ground::new()?;
    let bed = Bed::start(&ground, "")?;
    let mib = vec![b'a'; MIB];
    let chunk = [b"100000\r\n", mib.as_slice(), b"\r\n"].concat();
    let fields = "X: y\r\n".repeat(1000);
    let post = |path: &str, framing: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: b\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
        )
    };
    let announced = format!("Content-Length: {}", 100 * MIB);
    let chunked = "Transfer-Encoding: chunked";
    let zipped = format!("{announced}\r\nContent-Encoding: gzip");
    let get = "GET /v1/status HTTP/1.1\r\nHost: b\r\n";
    let start = format!("{get}X: ");
    let line = "GET /".to_owned();
    let both = [bed.socket(), bed.http()];
    for address in &both {
        // Who is cut off while it sends may not see the answer.
        let heads = [
            ("a header of a mebibyte", &start, mib.as_slice(), 1, 431),
            (
                "100,000 header fields",
                &get.to_owned(),
                fields.as_bytes(),
                100,
                431,
            ),
            ("a path of a mebibyte", &line, mib.as_slice(), 1, 414),
            ("a header without an end", &start, mib.as_slice(), 2000, 431),
        ];
        for (what, head, piece, count, status) in heads {
            let told = bed.run(|| send(address, head, piece, count))?;
            println!("{address:?}: {what}: {told:?}");
            let is_refused = matches!(told.as_slice(), [] | [431 | 414]);
            ensure!(is_refused, "{what}: {told:?}, not {status}");
        }
    }
    let [socket, http] = &both;
    let bodies = [
        ("/v1/changes", &announced, mib.as_slice(), 413),
        ("/v1/plan", &announced, mib.as_slice(), 413),
        ("/v1/plan", &zipped, mib.as_slice(), 413),
        ("/v1/changes", &chunked.to_owned(), chunk.as_slice(), 413),
        ("/v1/apply", &chunked.to_owned(), chunk.as_slice(), 413),
        ("/v1/confirm", &announced, mib.as_slice(), 413),
        ("/v1/elsewhere", &announced, mib.as_slice(), 404),
    ];
    for (path, framing, piece, status) in bodies {
        let head = post(path, framing);
        let told = bed.run(|| send(socket, &head, piece, 100))?;
        println!("{path}, {framing:?}: {told:?}");
        ensure!(told == [status], "{path}, {framing:?}: {told:?}");
        let memory = Taken::of(bed.pid)?.memory;
        let most = bed.before.memory + MOST_MEMORY;
        ensure!(memory < most, "{path}: {memory} bytes");
    }
    let head = post("/metrics", &announced);
    let told = bed.run(|| send(http, &head, &mib, 100))?;
    ensure!(matches!(told.as_slice(), [] | [405]), "{told:?}");
    bed.end()
}
