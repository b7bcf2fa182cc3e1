//! The daemon's side of the control socket.
//!
//! Handlers hold no state: each turns a request into a [`Command`] for the
//! controller and waits for its answer.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use axum::extract::{DefaultBodyLimit, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use super::types::{
    ChangeRequest, Changed, ExplainRequest, Explanation, PlanRequest, Planned, Problem, Status,
};
use crate::config;
use crate::dataplane::shadow::{Blueprint, Shadow};

mod questions;

/// Largest request body.
const MAX_BODY_LEN: usize = 1 << 20;
/// The same with a whole file in it, each byte of which may take two.
const MAX_FILE_BODY_LEN: usize = MAX_BODY_LEN + 2 * config::MAX_FILE_LEN as usize;

/// What the controller is asked.
#[derive(Debug)]
pub enum Command {
    /// What is going on.
    Status(oneshot::Sender<Status>),
    /// Make a change.
    Change(ChangeRequest, oneshot::Sender<Result<Changed, Problem>>),
    /// Say what a file would do.
    Plan(PlanRequest, oneshot::Sender<Result<Planned, Problem>>),
    /// Read the file again.
    Reload(oneshot::Sender<Result<Changed, Problem>>),
    /// The running configuration as TOML text.
    Config(oneshot::Sender<String>),
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

type Commands = mpsc::Sender<Command>;

/// Takes the socket; one that a dead daemon left is replaced, one that is
/// answered is not.
pub async fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if tokio::net::UnixStream::connect(path).await.is_ok() {
        return Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            "another balancer answers there; stop it, or set another node.socket",
        ));
    }
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => {
            use std::os::unix::fs::FileTypeExt;
            if !metadata.file_type().is_socket() {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "it exists and is no socket; it is left alone",
                ));
            }
            std::fs::remove_file(path)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    // Who may open the socket may change everything.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until the future is dropped. Generic, as tests and fuzzers bring
/// connections that are in memory.
pub async fn serve<L>(listener: L, commands: Commands) -> io::Result<()>
where
    L: Listener<Addr: fmt::Debug>,
{
    let router = Router::new()
        .route("/v1/status", get(status))
        .route("/v1/changes", post(change))
        .route(
            "/v1/plan",
            post(plan).layer(DefaultBodyLimit::max(MAX_FILE_BODY_LEN)),
        )
        .route("/v1/reload", post(reload))
        .route("/v1/config", get(config))
        .merge(questions::routes())
        .fallback(unknown)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_LEN))
        .with_state(commands);
    axum::serve(listener, router).await
}

async fn status(State(commands): State<Commands>) -> Response {
    answer(ask(&commands, Command::Status).await.map(Json))
}

async fn change(State(commands): State<Commands>, request: Body<ChangeRequest>) -> Response {
    let request = match body(request) {
        Ok(request) => request,
        Err(problem) => return answer::<()>(Err(problem)),
    };
    let changed = ask(&commands, |reply| Command::Change(request, reply)).await;
    answer(changed.and_then(|changed| changed).map(Json))
}

async fn plan(State(commands): State<Commands>, request: Body<PlanRequest>) -> Response {
    let request = match body(request) {
        Ok(request) => request,
        Err(problem) => return answer::<()>(Err(problem)),
    };
    let planned = ask(&commands, |reply| Command::Plan(request, reply)).await;
    answer(planned.and_then(|planned| planned).map(Json))
}

/// What a request brings, or why it is none.
type Body<T> = Result<Json<T>, axum::extract::rejection::JsonRejection>;

fn body<T>(request: Body<T>) -> Result<T, Problem> {
    let Json(request) = request.map_err(|rejection| Problem {
        title: "bad request".to_owned(),
        status: rejection.status().as_u16(),
        detail: rejection.body_text(),
    })?;
    Ok(request)
}

async fn reload(State(commands): State<Commands>) -> Response {
    let changed = ask(&commands, Command::Reload).await;
    answer(changed.and_then(|changed| changed).map(Json))
}

async fn config(State(commands): State<Commands>) -> Response {
    answer(ask(&commands, Command::Config).await)
}

async fn unknown() -> Response {
    answer::<()>(Err(Problem {
        title: "not found".to_owned(),
        status: StatusCode::NOT_FOUND.as_u16(),
        detail:
            "this version serves /v1/status, /v1/changes, /v1/plan, /v1/reload, /v1/config and \
                 /v1/explain"
                .to_owned(),
    }))
}

async fn wrong_method(method: Method) -> Response {
    answer::<()>(Err(Problem {
        title: "method not allowed".to_owned(),
        status: StatusCode::METHOD_NOT_ALLOWED.as_u16(),
        detail: format!(
            "{method} is not served here; GET /v1/status and /v1/config, POST /v1/changes, \
             /v1/plan, /v1/reload and /v1/explain"
        ),
    }))
}

async fn ask<T>(
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

fn answer<T: IntoResponse>(result: Result<T, Problem>) -> Response {
    match result {
        Ok(body) => body.into_response(),
        Err(problem) => {
            let status =
                StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
            let headers = [(axum::http::header::CONTENT_TYPE, "application/problem+json")];
            (status, headers, Json(problem)).into_response()
        }
    }
}
