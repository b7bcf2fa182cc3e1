//! What is served over TCP to whoever can reach it, the status page among it:
//! nothing here changes anything or shows a secret, and nothing waits for the
//! controller.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use futures_util::stream;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpUserTimeout;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::connections::{self, Client, Entrance, Who};
use super::page;
use crate::config::model::{Config, Seed};
use crate::group::GroupDigest;
use crate::live::peers;
use crate::metrics::Detail;
use crate::metrics::scrape::{Published, Refusal, Scraper};
use crate::metrics::text::Format;

/// What runs, as the public side knows it. The digest is made when somebody
/// first asks, as that reads all services.
#[derive(Debug)]
pub struct Running {
    config: Arc<Config>,
    seed: Seed,
    revision: Option<u64>,
    digest: OnceLock<GroupDigest>,
}

impl Running {
    /// A configuration in force.
    pub fn new(config: Config, seed: Seed, revision: Option<u64>) -> Self {
        Self {
            config: Arc::new(config),
            seed,
            revision,
            digest: OnceLock::new(),
        }
    }

    /// It, in short.
    pub fn digest(&self) -> &GroupDigest {
        let make = || GroupDigest::of(&self.config, &self.seed, self.revision);
        self.digest.get_or_init(make)
    }

    /// What is in force.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// The other balancers of its group.
    pub fn peers(&self) -> &[SocketAddr] {
        &self.config.node.peers
    }
}

/// Data that a peer takes none of for that long end its connection.
const UNTAKEN: Duration = Duration::from_secs(30);

/// Answered to what is not served.
const ELSEWHERE: &str = "served here: / (the status page), /metrics, /healthz, /v1/digest\n";
/// Answered while too many ask, so that they come again.
const BUSY: &str = "too many scrapes at a time; ask again\n";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    /// How much is told of single backends.
    detail: Option<Detail>,
}

/// What runs, as it changes.
pub type Runs = watch::Receiver<Arc<Running>>;

/// What is told, and of what.
#[derive(Debug)]
pub struct Sources {
    /// For the digest, and the page's addresses.
    pub runs: Runs,
    /// For metrics.
    pub scraper: Arc<Scraper>,
    /// For the page.
    pub published: watch::Receiver<Published>,
}

impl Client for SocketAddr {
    fn who(&self) -> Who {
        Who::at(self.ip())
    }
}

/// Serves until the future is dropped; nothing where nobody asked for that.
pub async fn serve(
    listener: Option<TcpListener>,
    sources: Sources,
    entrance: Arc<Entrance>,
) -> Infallible {
    let Some(listener) = listener else {
        return std::future::pending().await;
    };
    let Sources {
        runs,
        scraper,
        published,
    } = sources;
    let (boards, shown) = watch::channel(None);
    let kept = page::keep(published, runs.clone(), boards);
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(
            "/metrics",
            get(async move |client, asked, headers| {
                metrics(&scraper, client, asked, headers).await
            }),
        )
        .route(peers::PATH, get(digest))
        .with_state(runs.clone())
        .merge(page::routes(shown, runs))
        .fallback(async || (StatusCode::NOT_FOUND, ELSEWHERE));
    let listener = listener.tap_io(|stream| {
        // Who takes nothing for that long is gone, whatever it says.
        let millis = u32::try_from(UNTAKEN.as_millis()).unwrap_or(u32::MAX);
        if let Err(error) = setsockopt(stream, TcpUserTimeout, &millis) {
            tracing::debug!(%error, "a connection without a time limit");
        }
    });
    tokio::select! {
        never = connections::serve(listener, router, entrance) => never,
        // It ends with the loop that publishes.
        () = kept => std::future::pending().await,
    }
}

async fn metrics(
    scraper: &Arc<Scraper>,
    ConnectInfo(client): ConnectInfo<SocketAddr>,
    Query(asked): Query<Asked>,
    headers: HeaderMap,
) -> Response {
    let accepted = headers.get(header::ACCEPT);
    let format = Format::accepted(accepted.and_then(|field| field.to_str().ok()));
    match scraper.scrape(client.ip(), asked.detail, format).await {
        Ok(pieces) => {
            let pieces = stream::unfold(pieces, async |mut pieces| {
                let piece = match pieces.recv().await {
                    Some(piece) => Ok(piece?),
                    // Half of it is not to be taken for all of it.
                    None => Err(io::Error::from(io::ErrorKind::TimedOut)),
                };
                Some((piece, pieces))
            });
            let headers = [(header::CONTENT_TYPE, format.media_type())];
            (headers, Body::from_stream(pieces)).into_response()
        }
        Err(Refusal::Busy) => (StatusCode::SERVICE_UNAVAILABLE, BUSY).into_response(),
        Err(Refusal::Unreadable(why)) => {
            tracing::warn!(%why, "metrics cannot be told: counters cannot be read");
            let said = format!("the counters cannot be read: {why}\n");
            (StatusCode::SERVICE_UNAVAILABLE, said).into_response()
        }
    }
}

async fn digest(State(runs): State<Runs>) -> Response {
    let running = Arc::clone(&runs.borrow());
    let made = tokio::task::spawn_blocking(move || running.digest().clone()).await;
    match made {
        Ok(digest) => Json(digest).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
