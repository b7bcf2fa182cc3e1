//! Live packets over the control socket: a line each, until the capture is
//! over or the client goes.

use axum::Json;
use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{ConnectInfo, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;

use super::{Command, Commands, Route, answer, ask, body};
use crate::api::capture::{CaptureRequest, CaptureStopRequest};
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
    let lines = stream::unfold(packets, |mut packets| async {
        let packet = packets.recv().await?;
        let line = serde_json::to_vec(&packet).map(|mut line| {
            line.push(b'\n');
            line
        });
        Some((line, packets))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (headers, Body::from_stream(lines)).into_response()
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
