//! Real servers, compared by real requests.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::super::testing::{PATIENT, Server, closed_port, listener};
use super::*;
use crate::verdict::answers::{PROOF, Role, judge};
use crate::verdict::panel::Seat;

/// What a server does with a request.
#[derive(Clone, Copy)]
enum Manner {
    Good,
    /// Good at the probe's path only.
    Failing,
    Slow,
    /// Says that more will come, and goes.
    CutOff,
}

async fn answer(mut stream: TcpStream, manner: Manner) {
    let mut request = [0; 1024];
    let len = stream.read(&mut request).await.unwrap_or_default();
    let is_probe = request[..len].starts_with(b"GET /healthz ");
    let text = match manner {
        Manner::Failing if !is_probe => "HTTP/1.1 500 No\r\nContent-Length: 0\r\n\r\n",
        Manner::CutOff => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf",
        _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    };
    if matches!(manner, Manner::Slow) && !is_probe {
        // The pause is the fault that is to be found.
        tokio::time::timeout(Duration::from_millis(300), std::future::pending::<()>())
            .await
            .unwrap_err();
    }
    let _ = stream.write_all(text.as_bytes()).await;
}

/// A server that answers its clients side by side; counts them.
async fn server(manner: Manner) -> (Server, Arc<AtomicUsize>) {
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let server = super::super::testing::serve(move |stream| {
        counter.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(answer(stream, manner));
        std::future::ready(())
    });
    (server.await, count)
}

fn health() -> Health {
    let text = "[node]\ninterfaces = [\"a\"]\n[[service]]\nname = \"web\"\naddress = \"192.0.2.1\"\n\
                port = 80\nprotocol = \"tcp\"\nforward = \"l2\"\nfail_open_below = 0\n\
                [service.health]\nkind = \"http\"\npath = \"/healthz\"\n\
                [[service.backend]]\naddress = \"10.0.0.1\"\n";
    let examined = crate::config::examine("a.toml", text, None);
    let mut config = examined.config.unwrap();
    config.services.remove(0).health.unwrap()
}

fn seat(backend: &str, address: SocketAddr, role: Role) -> Seat {
    Seat {
        backend: backend.to_owned(),
        address,
        via: None,
        role,
    }
}

fn panel(seats: Vec<Seat>) -> Panel {
    Panel {
        service: "web".to_owned(),
        health: health(),
        seats,
    }
}

/// A server of that manner beside two good ones, until it is proven or not.
async fn compared(manner: Manner) -> Vec<String> {
    let (first, second) = (server(Manner::Good).await, server(Manner::Good).await);
    let subject = server(manner).await;
    let seats = vec![
        seat("a", first.0.address, Role::Sibling),
        seat("b", second.0.address, Role::Sibling),
        seat("new", subject.0.address, Role::New),
    ];
    let comparing = Comparing::begin(vec![panel(seats)], true, Lane::none());
    tokio::time::timeout(PATIENT, comparing.proven())
        .await
        .unwrap();
    assert!(comparing.is_proven());
    let harms = comparing.heard(|heard| judge(heard));
    harms.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn good_server_is_proven() {
    assert_eq!(compared(Manner::Good).await, [""; 0]);
}

#[tokio::test]
async fn server_that_fails_but_for_its_probe_is_found() {
    let found = compared(Manner::Failing).await;
    assert_eq!(found.len(), 1, "{found:?}");
    let expected = format!("service web: backend new answers GET / with 500 ({PROOF} of {PROOF})");
    assert!(found[0].starts_with(&expected), "{found:?}");
}

#[tokio::test]
async fn server_that_is_slow_but_for_its_probe_is_found() {
    let found = compared(Manner::Slow).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("service web: backend new answers GET / slowly: in "),
        "{found:?}"
    );
}

#[tokio::test]
async fn answer_without_its_end_is_none() {
    let found = compared(Manner::CutOff).await;
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("service web: backend new does not answer GET /:"),
        "{found:?}"
    );
}

#[tokio::test]
async fn closed_port_is_an_error_and_no_fault_of_ours() {
    let (_held, closed) = closed_port();
    let sibling = server(Manner::Good).await;
    let seats = vec![
        seat("a", sibling.0.address, Role::Sibling),
        seat("new", closed, Role::New),
    ];
    let comparing = Comparing::begin(vec![panel(seats)], true, Lane::none());
    tokio::time::timeout(PATIENT, comparing.proven())
        .await
        .unwrap();
    let harms = comparing.heard(|heard| judge(heard));
    assert_eq!(harms.len(), 1, "{harms:?}");
    assert_eq!(harms[0].backend, "new");
}

#[tokio::test]
async fn nothing_is_asked_once_it_is_dropped() {
    let (asked, count) = server(Manner::Good).await;
    let (sibling, _) = server(Manner::Good).await;
    let seats = vec![
        seat("a", sibling.address, Role::Sibling),
        seat("new", asked.address, Role::New),
    ];
    let comparing = Comparing::begin(vec![panel(seats)], true, Lane::none());
    let proven = comparing.proven();
    let waiting = comparing.proven();
    tokio::time::timeout(PATIENT, proven).await.unwrap();
    assert!(count.load(Ordering::Relaxed) >= PROOF);
    drop(comparing);
    // Who waits is told, too.
    tokio::time::timeout(PATIENT, waiting).await.unwrap();
    tokio::task::yield_now().await;
    // Only what was under way may still come: one of each.
    let before = count.load(Ordering::Relaxed);
    let quiet = Duration::from_millis(500);
    let pause = tokio::time::timeout(quiet, std::future::pending::<()>());
    pause.await.unwrap_err();
    assert!(count.load(Ordering::Relaxed) <= before + 1);
}

#[tokio::test]
async fn service_that_cannot_be_asked_does_not_stop_the_others() {
    let (good, _) = server(Manner::Good).await;
    let (other, count) = server(Manner::Good).await;
    let mut broken = panel(vec![seat("a", good.address, Role::Sibling)]);
    broken.health.kind = ProbeKind::Https(
        HttpProbe {
            path: "/".to_owned(),
            host: None,
            expect_status: Vec::new(),
            identity: None,
        },
        TlsProbe {
            server_name: None,
            ca_file: Some("/nonexistent/ca.pem".into()),
        },
    );
    let whole = panel(vec![
        seat("a", good.address, Role::Sibling),
        seat("b", other.address, Role::New),
    ]);
    let comparing = Comparing::begin(vec![broken, whole], false, Lane::none());
    let asked = async {
        while count.load(Ordering::Relaxed) < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENT, asked).await.unwrap();
    let answers = comparing.heard(|heard| heard[1].answers("b"));
    assert!(answers.is_some_and(|it| it.asked >= 1), "{answers:?}");
}

/// A listener's queue takes connections that nobody answers.
#[tokio::test]
async fn server_that_never_answers_is_an_error_after_the_timeout() {
    let (silent, address) = listener().await;
    let asker = Asker::new(&health()).unwrap().unwrap();
    assert_eq!(asker.timeout, LEAST_TIMEOUT);
    let said = asker.ask(&address.into(), 0).await;
    assert!(matches!(said, Err(Failure::Timeout { .. })), "{said:?}");
    drop(silent);
}
