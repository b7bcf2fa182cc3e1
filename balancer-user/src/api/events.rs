//! Incidents over the control socket: what happened and, for who waits, what
//! happens, an [`Event`] a line.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use futures_util::stream::{self, StreamExt};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::lines;
use super::server::{Command, Commands, Route, answer, ask};
use super::types::Problem;
use crate::watch::incident::Event;

/// What is told to one who asks.
#[derive(Debug)]
pub struct Heard {
    /// What happened, the oldest first.
    pub past: Vec<Event>,
    /// What happens from then on.
    pub live: broadcast::Receiver<Event>,
}

/// Clients that follow at a time: each has its place for as long as it likes.
pub const MAX_FOLLOWERS: usize = 64;

static FOLLOWERS: Semaphore = Semaphore::const_new(MAX_FOLLOWERS);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Go on with what happens.
    #[serde(default)]
    follow: bool,
}

pub(super) fn routes() -> [Route; 1] {
    [Route::get("/v1/events", events)]
}

async fn events(
    State(commands): State<Commands>,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Response {
    let Query(wanted) = match wanted {
        Ok(wanted) => wanted,
        Err(rejection) => {
            let (status, detail) = (rejection.status().as_u16(), rejection.body_text());
            return answer::<()>(Err(Problem::new("bad request", status, detail)));
        }
    };
    let place = wanted.follow.then(|| FOLLOWERS.try_acquire());
    let Ok(place) = place.transpose() else {
        let detail = format!(
            "{MAX_FOLLOWERS} clients follow, which is as many as may; end one, or ask without \
             follow=true"
        );
        return answer::<()>(Err(Problem::new("too many followers", 503, detail)));
    };
    let heard = match ask(&commands, Command::Events).await {
        Ok(heard) => heard,
        Err(problem) => return answer::<()>(Err(problem)),
    };
    let past = stream::iter(heard.past);
    let live = stream::unfold(heard.live, |mut live| async {
        loop {
            match live.recv().await {
                Ok(event) => return Some((event, live)),
                // A slow listener misses some, and hears the rest.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let live = wanted.follow.then_some(live);
    let all = past.chain(stream::iter(live).flatten());
    lines::answer(all.map(move |event| {
        let _place = &place;
        event
    }))
}
