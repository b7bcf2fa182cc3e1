//! The daemon's side of the control socket.
//!
//! Handlers hold no state: each turns a request into a [`Command`] for the
//! controller and waits for its answer.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{self, ConnectInfo, DefaultBodyLimit, State};
use axum::handler::Handler;
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use super::access::{self, Doors};
use super::apply::check_name;
use super::capture::{CaptureRequest, CaptureStopRequest, Captured};
use super::connections::{self, Entrance, SMALL_BODY_LEN};
use super::events::{self, Heard};
use super::lines;
use super::openapi;
use super::peer::{Accept, Control, Peer};
use super::progress::Progress;
use super::types::{
    ApplyRequest, ChangeRequest, Changed, ExplainRequest, Explanation, History, PlanRequest,
    Planned, Problem, RollbackRequest, Said, Status, StoredRevision, TypedProblem, Verification,
};
use crate::api::types::MAX_FRAMES_LEN;
use crate::config;
use crate::dataplane::shadow::{Blueprint, Shadow};
use crate::revision::Author;

mod binding;
mod capture;
mod fallback;
mod questions;

pub use binding::bind;

/// Longest body with a whole file in it, each byte of which may take two, and
/// the packets of a capture.
const MAX_FILE_BODY_LEN: usize =
    SMALL_BODY_LEN + 2 * config::MAX_FILE_LEN as usize + 2 * MAX_FRAMES_LEN;

/// What the controller is asked.
#[derive(Debug)]
pub enum Command {
    /// What is going on.
    Status(oneshot::Sender<Status>),
    /// Make a change.
    Change(
        ChangeRequest,
        Author,
        oneshot::Sender<Result<Changed, Problem>>,
    ),
    /// Say what a file would do.
    Plan(PlanRequest, oneshot::Sender<Result<Planned, Problem>>),
    /// Bring a file into force.
    Apply(ApplyRequest, Author, oneshot::Sender<Begun>),
    /// Read the daemon's own file again.
    Reload(Author, oneshot::Sender<Begun>),
    /// Bring an earlier configuration into force again.
    Rollback(RollbackRequest, Author, oneshot::Sender<Begun>),
    /// The change under way is good.
    Confirm(Author, oneshot::Sender<Result<Said, Problem>>),
    /// All revisions.
    History(oneshot::Sender<History>),
    /// One revision.
    Revision(u64, oneshot::Sender<Result<StoredRevision, Problem>>),
    /// The running configuration as TOML text.
    Config(oneshot::Sender<String>),
    /// Compare what the kernel holds with what was written there.
    Verify(oneshot::Sender<Verification>),
    /// The same, and write anew what differs, whatever the file says.
    Repair(oneshot::Sender<Verification>),
    /// What happened, and what happens.
    Events(oneshot::Sender<Heard>),
    /// Tell of live packets.
    Capture(CaptureRequest, Author, oneshot::Sender<Capturing>),
    /// End a capture.
    CaptureStop(
        CaptureStopRequest,
        Author,
        oneshot::Sender<Result<Said, Problem>>,
    ),
    /// What a private copy of the kernel program is loaded from.
    Blueprint(oneshot::Sender<Option<Blueprint>>),
    /// Which backend a flow gets; nothing if the copy is of tables that have
    /// gone.
    Explain(
        ExplainRequest,
        Box<Shadow>,
        oneshot::Sender<Option<Result<Explanation, Problem>>>,
    ),
}

/// A change that has begun, and what becomes of it.
pub type Begun = Result<mpsc::Receiver<Progress>, Problem>;

/// A capture that has begun, and its packets.
pub type Capturing = Result<mpsc::Receiver<Captured>, Problem>;

pub(super) type Commands = mpsc::Sender<Command>;

/// Serves until the future is dropped. Generic, as tests and fuzzers bring
/// connections that are in memory.
pub async fn serve<A: Accept>(
    listener: A,
    commands: Commands,
    doors: Doors,
    entrance: Arc<Entrance>,
) -> Infallible {
    let router = routes()
        .into_iter()
        .fold(Router::new(), |router, route| {
            let most = from_fn_with_state(route.max_body_len, connections::whole);
            router.route(route.path, route.handler.layer(most))
        })
        .fallback(fallback::unknown)
        .method_not_allowed_fallback(fallback::wrong_method)
        // Each route has its own.
        .layer(DefaultBodyLimit::disable())
        .layer(from_fn_with_state(doors, access::guard))
        .with_state(commands);
    connections::serve(Control(listener), router, entrance).await
}

/// A way in.
pub(super) struct Route {
    pub(super) method: &'static str,
    pub(super) path: &'static str,
    handler: MethodRouter<Commands>,
    max_body_len: usize,
}

impl Route {
    pub(super) fn get<H, T>(path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Commands>,
        T: 'static,
    {
        Self {
            method: "get",
            path,
            handler: get(handler),
            max_body_len: SMALL_BODY_LEN,
        }
    }

    pub(super) fn post<H, T>(path: &'static str, handler: H) -> Self
    where
        H: Handler<T, Commands>,
        T: 'static,
    {
        Self {
            method: "post",
            path,
            handler: post(handler),
            max_body_len: SMALL_BODY_LEN,
        }
    }

    /// With room for a whole file in the body.
    fn with_file(mut self) -> Self {
        self.max_body_len = MAX_FILE_BODY_LEN;
        self
    }
}

/// All of them; what each takes and gives is in [`super::openapi`].
pub(super) fn routes() -> Vec<Route> {
    let mut routes = vec![
        Route::get("/v1/status", status),
        Route::post("/v1/changes", change),
        Route::post("/v1/plan", plan).with_file(),
        Route::post("/v1/apply", apply).with_file(),
        Route::post("/v1/reload", reload),
        Route::post("/v1/rollback", rollback),
        Route::post("/v1/confirm", confirm),
        Route::get("/v1/revisions", history),
        Route::get("/v1/revisions/{number}", revision),
        Route::get("/v1/config", config),
        Route::get("/v1/openapi.json", openapi::serve),
    ];
    routes.extend(questions::routes());
    routes.extend(capture::routes());
    routes.extend(events::routes());
    routes
}

async fn status(State(commands): State<Commands>) -> Response {
    answer(ask(&commands, Command::Status).await.map(Json))
}

async fn change(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Result<Json<ChangeRequest>, JsonRejection>,
) -> Response {
    let changed = async {
        let request = body(request)?;
        ask(&commands, |reply| {
            Command::Change(request, peer.author(), reply)
        })
        .await?
    };
    answer(changed.await.map(Json))
}

async fn plan(
    State(commands): State<Commands>,
    request: Result<Json<PlanRequest>, JsonRejection>,
) -> Response {
    let planned = async {
        let request = body(request)?;
        check_name(&request.name)?;
        let planned = ask(&commands, |reply| Command::Plan(request, reply)).await??;
        large(planned).await
    };
    answer(planned.await)
}

async fn apply(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Result<Json<ApplyRequest>, JsonRejection>,
) -> Response {
    let begun = async {
        let request = body(request)?;
        check_name(&request.name)?;
        ask(&commands, |reply| {
            Command::Apply(request, peer.author(), reply)
        })
        .await?
    };
    follow(begun.await)
}

async fn reload(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Response {
    let begun = ask(&commands, |reply| Command::Reload(peer.author(), reply)).await;
    follow(begun.and_then(|begun| begun))
}

async fn rollback(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Result<Json<RollbackRequest>, JsonRejection>,
) -> Response {
    let begun = async {
        let request = body(request)?;
        ask(&commands, |reply| {
            Command::Rollback(request, peer.author(), reply)
        })
        .await?
    };
    follow(begun.await)
}

async fn confirm(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
) -> Response {
    let said = ask(&commands, |reply| Command::Confirm(peer.author(), reply)).await;
    answer(said.and_then(|said| said).map(Json))
}

async fn history(State(commands): State<Commands>) -> Response {
    answer(ask(&commands, Command::History).await.map(Json))
}

async fn revision(
    State(commands): State<Commands>,
    number: Result<extract::Path<u64>, PathRejection>,
) -> Response {
    let found = async {
        let extract::Path(number) = number.map_err(|rejection| {
            Problem::new(
                "bad request",
                rejection.status().as_u16(),
                rejection.body_text(),
            )
        })?;
        ask(&commands, |reply| Command::Revision(number, reply)).await?
    };
    answer(found.await.map(Json))
}

/// The events of a change, a line each, until it is over or the client goes.
fn follow(begun: Begun) -> Response {
    let events = match begun {
        Ok(events) => events,
        Err(problem) => return answer::<()>(Err(problem)),
    };
    lines::answer(stream::unfold(events, |mut events| async {
        Some((events.recv().await?, events))
    }))
}

/// An answer of tens of megabytes, written where nobody waits for the thread.
async fn large<T: Serialize + Send + 'static>(answer: T) -> Result<Response, Problem> {
    let written = tokio::task::spawn_blocking(move || serde_json::to_vec(&answer)).await;
    let fault = |fault: &dyn std::fmt::Display| {
        let detail = format!("the answer could not be written: {fault}");
        Problem::new(
            "no answer",
            StatusCode::INTERNAL_SERVER_ERROR.as_u16(),
            detail,
        )
    };
    let text = written
        .map_err(|error| fault(&error))?
        .map_err(|error| fault(&error))?;
    let headers = [(header::CONTENT_TYPE, "application/json")];
    Ok((headers, text).into_response())
}

fn body<T>(request: Result<Json<T>, JsonRejection>) -> Result<T, Problem> {
    let Json(request) = request.map_err(|rejection| {
        let status = rejection.status().as_u16();
        Problem::new("bad request", status, rejection.body_text())
    })?;
    Ok(request)
}

async fn config(State(commands): State<Commands>) -> Response {
    answer(ask(&commands, Command::Config).await)
}

pub(super) async fn ask<T>(
    commands: &Commands,
    command: impl FnOnce(oneshot::Sender<T>) -> Command,
) -> Result<T, Problem> {
    let stopping = || Problem {
        title: "stopping".to_owned(),
        status: StatusCode::SERVICE_UNAVAILABLE.as_u16(),
        detail: "the balancer is stopping".to_owned(),
    };
    let (reply, answer) = oneshot::channel();
    commands
        .send(command(reply))
        .await
        .map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())
}

pub(super) fn answer<T: IntoResponse>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(body) => body.into_response(),
        Err(problem) => {
            let status =
                StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let headers = [(header::CONTENT_TYPE, "application/problem+json")];
            (status, headers, Json(TypedProblem::from(problem))).into_response()
        }
    }
}
