//! Against a real receiver: one that fails, is slow, refuses, and comes back.

use std::collections::VecDeque;
use std::net::SocketAddr;

use axum::Router;
use axum::extract::State;
use axum::routing::post;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::super::payload::testing::incident;
use super::*;

/// How long anything may take that nothing is measured by.
const LIMIT: Duration = Duration::from_secs(30);

/// What the receiver answers to one request after the other, 200 to the rest.
type Script = Arc<Mutex<VecDeque<Answer>>>;

#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    /// Nothing, ever.
    Silence,
}

/// What came: path and body.
type Came = mpsc::UnboundedReceiver<(String, serde_json::Value)>;
type Told = mpsc::UnboundedSender<(String, serde_json::Value)>;

async fn answer(
    State((script, told)): State<(Script, Told)>,
    uri: axum::http::Uri,
    body: String,
) -> StatusCode {
    let body = serde_json::from_str(&body).unwrap();
    let _ = told.send((uri.path().to_owned(), body));
    let next = script.lock().unwrap().pop_front();
    match next {
        Some(Answer::Silence) => std::future::pending().await,
        Some(Answer::Status(status)) => StatusCode::from_u16(status).unwrap(),
        None => StatusCode::OK,
    }
}

async fn serve(listener: TcpListener, answers: &[Answer]) -> (JoinHandle<()>, Came) {
    let script: Script = Arc::new(Mutex::new(answers.iter().copied().collect()));
    let (told, came) = mpsc::unbounded_channel();
    let state = (script, told);
    let router = Router::new()
        .route("/hook", post(answer))
        .route("/api/v2/alerts", post(answer))
        .with_state(state);
    let serving = tokio::spawn(async move { drop(axum::serve(listener, router).await) });
    (serving, came)
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

fn sender(at: SocketAddr, kind: WebhookKind, open: Vec<Incident>) -> Sender {
    let path = match kind {
        WebhookKind::Json => "/hook",
        WebhookKind::Alertmanager => "/",
    };
    let webhook = Webhook {
        name: "receiver".to_owned(),
        url: format!("http://{at}{path}"),
        kind,
        timeout: Duration::from_millis(300),
        ca_file: None,
    };
    let (_, open) = watch::channel(Arc::new(open));
    Sender::start(webhook, "lb-1".to_owned(), open)
}

fn opened(number: u64) -> Event {
    Event::Opened {
        incident: incident(number),
    }
}

async fn next(came: &mut Came) -> (String, serde_json::Value) {
    timeout(LIMIT, came.recv()).await.unwrap().unwrap()
}

async fn counted(sender: &Sender, wanted: impl Fn(&Counts) -> bool) -> Counts {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (counts, _) = sender.counts();
        if wanted(&counts) {
            return counts;
        }
        assert!(Instant::now() < deadline, "{counts:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn receiver_that_fails_and_is_slow_is_told_in_the_end_and_in_order() {
    let (listener, at) = listener().await;
    let answers = [Answer::Status(503), Answer::Silence];
    let (_serving, mut came) = serve(listener, &answers).await;
    let sender = sender(at, WebhookKind::Json, Vec::new());
    sender.tell(&opened(1));
    sender.tell(&opened(2));
    for number in [1, 1, 1, 2] {
        let (path, body) = next(&mut came).await;
        assert_eq!(path, "/hook");
        assert_eq!(body["incident"]["number"], number, "{body}");
        assert_eq!(body["event"], "opened");
    }
    let counts = counted(&sender, |it| it.sent == 2).await;
    assert_eq!((counts.lost, counts.failed_tries), (0, 2));
}

#[tokio::test]
async fn receiver_that_comes_back_gets_what_waited() {
    let (first, at) = listener().await;
    drop(first);
    let sender = sender(at, WebhookKind::Json, Vec::new());
    sender.tell(&opened(1));
    // Nobody listens: the connection is refused.
    counted(&sender, |it| it.failed_tries > 0).await;
    let mut closed = incident(1);
    closed.closed_at = Some(1_000_000_009);
    sender.tell(&Event::Closed { incident: closed });
    let listener = TcpListener::bind(at).await.unwrap();
    let (_serving, mut came) = serve(listener, &[]).await;
    assert_eq!(next(&mut came).await.1["event"], "opened");
    assert_eq!(next(&mut came).await.1["event"], "closed");
    assert_eq!(counted(&sender, |it| it.sent == 2).await.lost, 0);
}

#[tokio::test]
async fn what_is_refused_is_lost_and_the_next_is_told() {
    let (listener, at) = listener().await;
    let (_serving, mut came) = serve(listener, &[Answer::Status(400)]).await;
    let sender = sender(at, WebhookKind::Json, Vec::new());
    sender.tell(&opened(1));
    assert_eq!(next(&mut came).await.1["incident"]["number"], 1);
    counted(&sender, |it| it.lost == 1).await;
    sender.tell(&opened(2));
    assert_eq!(next(&mut came).await.1["incident"]["number"], 2);
    counted(&sender, |it| it.sent == 1).await;
}

#[tokio::test]
async fn alerts_go_together_and_are_sent_again_while_open() {
    let (listener, at) = listener().await;
    let (_serving, mut came) = serve(listener, &[]).await;
    let open = vec![incident(1), incident(2)];
    let sender = sender(at, WebhookKind::Alertmanager, open);
    sender.tell(&opened(1));
    let (path, body) = next(&mut came).await;
    assert_eq!(path, "/api/v2/alerts");
    assert_eq!(body[0]["annotations"]["author"], "alice as root");
    counted(&sender, |it| it.sent == 1).await;
    // A minute later, which takes none here.
    tokio::time::pause();
    tokio::time::advance(AGAIN + Duration::from_millis(1)).await;
    tokio::time::resume();
    let mut numbers = Vec::new();
    while numbers.len() < 2 {
        let (_, body) = next(&mut came).await;
        let all = body.as_array().unwrap().clone();
        numbers.extend(
            all.into_iter()
                .map(|it| it["annotations"]["incident"].clone()),
        );
    }
    assert_eq!(numbers, ["1", "2"]);
}
