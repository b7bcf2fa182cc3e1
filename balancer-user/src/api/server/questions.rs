//! Questions to the kernel: what becomes of a flow, and what it holds.
//!
//! What takes long, loading a private copy of the program, is done here and
//! not in the controller's loop; the copy is asked there, so that what it
//! says and what the controller knows are of one moment.

use axum::Json;
use axum::extract::State;
use axum::response::Response;

use super::{Command, Commands, Route, answer, ask};
use crate::api::types::{ExplainRequest, Explanation, Problem};
use crate::explain;

/// How often a copy is loaded anew when the tables have gone meanwhile.
const TRIES: usize = 3;

pub(super) fn routes() -> [Route; 3] {
    [
        Route::post("/v1/explain", explain),
        Route::post("/v1/verify", verify),
        Route::post("/v1/repair", repair),
    ]
}

async fn verify(State(commands): State<Commands>) -> Response {
    answer(ask(&commands, Command::Verify).await.map(Json))
}

async fn repair(State(commands): State<Commands>) -> Response {
    answer(ask(&commands, Command::Repair).await.map(Json))
}

async fn explain(
    State(commands): State<Commands>,
    request: Result<Json<ExplainRequest>, axum::extract::rejection::JsonRejection>,
) -> Response {
    answer(explanation(&commands, request).await.map(Json))
}

async fn explanation(
    commands: &Commands,
    request: Result<Json<ExplainRequest>, axum::extract::rejection::JsonRejection>,
) -> Result<Explanation, Problem> {
    let Json(request) = request.map_err(|rejection| Problem {
        title: "bad request".to_owned(),
        status: rejection.status().as_u16(),
        detail: rejection.body_text(),
    })?;
    explain::check(&request).map_err(|detail| Problem {
        title: "bad request".to_owned(),
        status: 400,
        detail,
    })?;
    let mut result = Err(unavailable("the balancer's tables keep being replaced"));
    for _ in 0..TRIES {
        let blueprint = ask(commands, Command::Blueprint)
            .await?
            .ok_or_else(|| unavailable("no kernel program runs"))?;
        let loaded = tokio::task::spawn_blocking(move || blueprint.load()).await;
        let shadow = match loaded {
            Ok(Ok(shadow)) => Box::new(shadow),
            Ok(Err(error)) => {
                result = Err(unavailable(error));
                continue;
            }
            Err(error) => return Err(unavailable(error)),
        };
        match ask(commands, |reply| Command::Explain(request, shadow, reply)).await? {
            Some(explained) => return explained,
            None => continue,
        }
    }
    result
}

fn unavailable(cause: impl std::fmt::Display) -> Problem {
    Problem {
        title: "not available".to_owned(),
        status: 503,
        detail: format!("the kernel program could not be asked: {cause}"),
    }
}
