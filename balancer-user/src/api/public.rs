//! What is served over TCP to whoever can reach it: nothing here changes
//! anything or shows a secret, and nothing waits for the controller.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::model::{Config, Seed};
use crate::group::GroupDigest;
use crate::live::peers;

/// What runs, as the public side knows it. The digest is made when somebody
/// first asks, as that reads all services.
#[derive(Debug)]
pub struct Running {
    config: Config,
    seed: Seed,
    revision: Option<u64>,
    digest: OnceLock<GroupDigest>,
}

impl Running {
    /// A configuration in force.
    pub fn new(config: Config, seed: Seed, revision: Option<u64>) -> Self {
        Self {
            config,
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

    /// The other balancers of its group.
    pub fn peers(&self) -> &[SocketAddr] {
        &self.config.node.peers
    }
}

/// What runs, as it changes.
pub type Runs = watch::Receiver<Arc<Running>>;

/// Serves until the future is dropped.
///
/// # Errors
/// The listener fails.
pub async fn serve(listener: TcpListener, runs: Runs) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route(peers::PATH, get(digest))
        .with_state(runs);
    axum::serve(listener, router).await
}

async fn digest(State(runs): State<Runs>) -> Response {
    let running = Arc::clone(&runs.borrow());
    let made = tokio::task::spawn_blocking(move || running.digest().clone()).await;
    match made {
        Ok(digest) => Json(digest).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
