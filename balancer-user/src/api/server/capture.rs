//! Live packets over the control socket: a line each, until the capture is
//! over or the client goes.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use futures_util::stream;

use super::{Command, Commands, Route, answer, ask, body};
use crate::api::capture::{CaptureRequest, CaptureStopRequest};
use crate::api::lines;
use crate::api::peer::Peer;

pub(super) fn routes() -> [Route; 2] {
    [
        Route::post("/v1/capture", capture),
        Route::post("/v1/capture/stop", stop),
    ]
}

async fn capture(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Result<Json<CaptureRequest>, JsonRejection>,
) -> Response {
    let begun = async {
        let request = body(request)?;
        ask(&commands, |reply| {
            Command::Capture(request, peer.author(), reply)
        })
        .await?
    };
    let packets = match begun.await {
        Ok(packets) => packets,
        Err(problem) => return answer::<()>(Err(problem)),
    };
    lines::answer(stream::unfold(packets, |mut packets| async {
        Some((packets.recv().await?, packets))
    }))
}

async fn stop(
    State(commands): State<Commands>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    request: Result<Json<CaptureStopRequest>, JsonRejection>,
) -> Response {
    let said = async {
        let request = body(request)?;
        ask(&commands, |reply| {
            Command::CaptureStop(request, peer.author(), reply)
        })
        .await?
    };
    answer(said.await.map(Json))
}
