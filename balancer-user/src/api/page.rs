//! The status page over TCP: its files, and the one stream that keeps it
//! alive.
//!
//! All is in the binary, and nothing is fetched from elsewhere: a strict
//! policy forbids it to the browser. A stream has a place of few; who cannot
//! follow loses it, and nobody makes the daemon's loop wait: the boards are
//! made and written beside it, of what it publishes anyway.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderName, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::public::Runs;
use crate::metrics::scrape::Published;
use crate::page::board::{Board, Keeper};
use crate::page::view::{Viewer, Wanted};

/// Open pages at a time.
pub const MAX_VIEWERS: usize = 32;
/// Who takes no news for that long loses its place.
const PATIENCE: Duration = Duration::from_secs(10);
/// Nothing from elsewhere, nothing in the markup, in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";
const FULL: &str = "too many status pages are open; close one, or ask again\n";

/// A file of the page.
#[derive(Debug)]
pub struct Asset {
    /// Where it is served.
    pub path: &'static str,
    /// Its media type.
    pub media_type: &'static str,
    /// What is in it.
    pub text: &'static str,
}

/// All that a browser loads before the stream.
pub const ASSETS: &[Asset] = &[
    Asset {
        path: "/",
        media_type: "text/html; charset=utf-8",
        text: include_str!("../page/assets/index.html"),
    },
    Asset {
        path: "/style.css",
        media_type: "text/css; charset=utf-8",
        text: include_str!("../page/assets/style.css"),
    },
    Asset {
        path: "/app.js",
        media_type: "text/javascript; charset=utf-8",
        text: include_str!("../page/assets/app.js"),
    },
    Asset {
        path: "/icon.svg",
        media_type: "image/svg+xml",
        text: include_str!("../page/assets/icon.svg"),
    },
];

/// The newest board; none until the first second is over.
pub(super) type Boards = watch::Receiver<Option<Arc<Board>>>;

/// Answered to everything of the page where `node.page` is false.
const OFF: &str = "there is no status page here: node.page is false\n";

/// What the stream is served from.
#[derive(Debug, Clone)]
struct Desk {
    boards: Boards,
    runs: Runs,
    places: Arc<Semaphore>,
}

/// Makes a board of each second that is published, until the future is dropped;
/// none while the page is off, nor is a past kept for it.
pub(super) async fn keep(
    mut published: watch::Receiver<Published>,
    runs: Runs,
    boards: watch::Sender<Option<Arc<Board>>>,
) {
    let mut keeper = Keeper::default();
    while published.changed().await.is_ok() {
        let observed = Arc::clone(&published.borrow_and_update().observed);
        let running = Arc::clone(&runs.borrow());
        if !running.config().node.page {
            keeper = Keeper::default();
            boards.send_replace(None);
            continue;
        }
        let made = tokio::task::spawn_blocking(move || {
            let board = keeper.take(observed, running.config());
            (keeper, board)
        });
        match made.await {
            Ok((kept, board)) => {
                keeper = kept;
                boards.send_replace(Some(Arc::new(board)));
            }
            Err(error) => {
                tracing::error!(%error, "the status page begins anew");
                keeper = Keeper::default();
            }
        }
    }
}

/// The page and its stream, as long as the configuration in force wants it.
pub(super) fn routes(boards: Boards, runs: Runs) -> Router {
    let desk = Desk {
        boards,
        runs: runs.clone(),
        places: Arc::new(Semaphore::new(MAX_VIEWERS)),
    };
    let mut router = Router::new().route("/live", get(live)).with_state(desk);
    for asset in ASSETS {
        router = router.route(asset.path, get(async move || file(asset)));
    }
    router.route_layer(from_fn_with_state(runs, refuse_if_off))
}

async fn refuse_if_off(State(runs): State<Runs>, request: Request, next: Next) -> Response {
    if is_on(&runs) {
        return next.run(request).await;
    }
    (StatusCode::NOT_FOUND, OFF).into_response()
}

fn is_on(runs: &Runs) -> bool {
    runs.borrow().config().node.page
}

fn file(asset: &'static Asset) -> Response {
    (guards(asset.media_type), asset.text).into_response()
}

fn guards(media_type: &'static str) -> [(HeaderName, &'static str); 5] {
    [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-cache"),
    ]
}

async fn live(State(desk): State<Desk>, wanted: Result<Query<Wanted>, QueryRejection>) -> Response {
    let Query(wanted) = match wanted {
        Ok(wanted) => wanted,
        Err(rejection) => return rejection.into_response(),
    };
    let Ok(place) = desk.places.try_acquire_owned() else {
        let headers = [(header::RETRY_AFTER, "5")];
        return (StatusCode::SERVICE_UNAVAILABLE, headers, FULL).into_response();
    };
    let (sender, pieces) = mpsc::channel(1);
    tokio::spawn(tell(
        desk.boards,
        desk.runs,
        Viewer::new(wanted),
        sender,
        place,
    ));
    let pieces = stream::unfold(pieces, async |mut pieces| {
        let piece = pieces.recv().await?;
        Some((Ok::<_, Infallible>(piece), pieces))
    });
    (guards("text/event-stream"), Body::from_stream(pieces)).into_response()
}

/// Tells one page of each second, until the page is turned off. Seconds that it
/// was too slow for are left out; its place is free when it is gone.
async fn tell(
    mut boards: Boards,
    runs: Runs,
    mut viewer: Viewer,
    sender: mpsc::Sender<Bytes>,
    place: OwnedSemaphorePermit,
) {
    while is_on(&runs) {
        let board = boards.borrow_and_update().clone();
        if let Some(board) = board {
            let written = tokio::task::spawn_blocking(move || {
                let event = event(&viewer.show(&board));
                (viewer, event)
            });
            let Ok((shown, Ok(event))) = written.await else {
                break;
            };
            viewer = shown;
            if sender.send_timeout(event, PATIENCE).await.is_err() {
                break;
            }
        }
        tokio::select! {
            changed = boards.changed() => if changed.is_err() {
                break;
            },
            () = sender.closed() => break,
        }
    }
    drop(place);
}

/// An event as HTML has it ("Server-sent events"): JSON has no line ends.
fn event(shown: &crate::page::view::Shown) -> serde_json::Result<Bytes> {
    let mut event = b"event: second\ndata: ".to_vec();
    serde_json::to_writer(&mut event, shown)?;
    event.extend_from_slice(b"\n\n");
    Ok(event.into())
}

#[cfg(test)]
mod tests;
