use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::api::public::Running;
use crate::config::model::Seed;
use crate::config::testing::{SAMPLE, examined};
use crate::metrics::Observed;

fn board() -> Arc<Board> {
    let observed = Observed {
        at: 1_790_000_000.0,
        ..Observed::default()
    };
    Arc::new(Keeper::default().take(
        Arc::new(observed),
        &Arc::new(examined(SAMPLE).config.unwrap()),
    ))
}

/// A configuration in force, with a page or without one.
fn running(page: bool) -> Arc<Running> {
    let mut config = examined(SAMPLE).config.unwrap();
    config.node.page = page;
    Arc::new(Running::new(config, Seed([0; 16]), None))
}

/// Asks for a path; gives the answer as far as it has come.
async fn ask(address: std::net::SocketAddr, path: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: here\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    let mut buffer = [0; 16 << 10];
    while !text.contains("\r\n\r\n") {
        let count = stream.read(&mut buffer).await.unwrap();
        assert!(count > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&buffer[..count]));
    }
    (stream, text)
}

#[tokio::test]
async fn pages_are_few_and_a_closed_one_makes_room() {
    let (boards, shown) = watch::channel(Some(board()));
    let (_runs, runs) = watch::channel(running(true));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async { axum::serve(listener, routes(shown, runs)).await });
    let (_, page) = ask(address, "/").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    assert!(
        page.contains("content-security-policy: default-src 'none';"),
        "{page}"
    );
    let (_, refused) = ask(address, "/live?colour=red").await;
    assert!(refused.starts_with("HTTP/1.1 400"), "{refused}");
    let mut open = Vec::new();
    for _ in 0..MAX_VIEWERS {
        let (stream, said) = ask(address, "/live").await;
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        assert!(said.contains("text/event-stream"), "{said}");
        open.push(stream);
    }
    let (_, full) = ask(address, "/live").await;
    assert!(full.starts_with("HTTP/1.1 503"), "{full}");
    assert!(full.contains("retry-after: 5"), "{full}");
    open.pop();
    let room = async {
        loop {
            let (stream, said) = ask(address, "/live").await;
            if said.starts_with("HTTP/1.1 200") {
                return stream;
            }
            // Who left is noticed at the latest when there is news.
            boards.send_replace(Some(board()));
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), room).await;
    assert!(waited.is_ok(), "a closed page keeps its place");
    served.abort();
}

#[tokio::test(start_paused = true)]
async fn who_takes_nothing_loses_its_place() {
    let (boards, shown) = watch::channel(Some(board()));
    let places = Arc::new(Semaphore::new(1));
    let place = Arc::clone(&places).try_acquire_owned().unwrap();
    let (sender, mut pieces) = mpsc::channel(1);
    let (_runs, runs) = watch::channel(running(true));
    let viewer = Viewer::new(Wanted::default());
    let told = tokio::spawn(tell(shown, runs, viewer, sender, place));
    let piece = pieces.recv().await.unwrap();
    assert!(piece.starts_with(b"event: second\ndata: {\"at\":1790000000.0,"));
    assert!(piece.ends_with(b"}\n\n") && !piece[..piece.len() - 2].ends_with(b"\n"));
    // One piece may wait; the one after it has nowhere to go.
    while !told.is_finished() {
        boards.send_replace(Some(board()));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(places.available_permits(), 1);
}

#[tokio::test]
async fn page_that_is_turned_off_is_gone_and_open_ones_end() {
    let (boards, shown) = watch::channel(Some(board()));
    let (run, runs) = watch::channel(running(true));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async { axum::serve(listener, routes(shown, runs)).await });
    let (mut open, said) = ask(address, "/live").await;
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    run.send_replace(running(false));
    // As the loop that makes them does.
    boards.send_replace(None);
    // The last chunk of a body has no bytes.
    let ended = async {
        let (mut rest, mut buffer) = (said, [0; 16 << 10]);
        while !rest.ends_with("\r\n0\r\n\r\n") {
            let count = open.read(&mut buffer).await.unwrap();
            assert!(count > 0, "{rest}");
            rest.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(20), ended).await;
    assert!(waited.is_ok(), "an open page goes on");
    for path in ["/", "/app.js", "/live"] {
        let (_, refused) = ask(address, path).await;
        assert!(refused.starts_with("HTTP/1.1 404"), "{path}: {refused}");
    }
    run.send_replace(running(true));
    let (_, page) = ask(address, "/").await;
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    served.abort();
}
