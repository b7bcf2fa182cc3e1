use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
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
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = tokio::spawn(async { axum::serve(listener, routes(shown)).await });
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
    let told = tokio::spawn(tell(shown, Viewer::new(Wanted::default()), sender, place));
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
