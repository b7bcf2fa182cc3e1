//! Answers without an end: a JSON object a line, for as long as there is
//! something to tell.
//!
//! Where nothing is told for a while, an empty line is. A client that went is
//! seen by what is written to it alone: hyper reads nothing while an answer is
//! under way and another request waits behind it.

use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, Stream, StreamExt};
use serde::Serialize;
use tokio::time::timeout;

/// Nothing was told for that long: an empty line is.
pub const BEAT: Duration = Duration::from_secs(10);

/// An answer of these.
pub(super) fn answer<T: Serialize>(items: impl Stream<Item = T> + Send + 'static) -> Response {
    let items = Box::pin(items);
    let lines = stream::unfold(items, |mut items| async {
        let line = match timeout(BEAT, items.next()).await {
            Ok(item) => serde_json::to_vec(&item?),
            Err(_) => Ok(Vec::new()),
        };
        let line = line.map(|mut line| {
            line.push(b'\n');
            line
        });
        Some((line, items))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (headers, Body::from_stream(lines)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn empty_line_is_told_while_there_is_nothing_else() {
        let items = stream::once(async { 7 }).chain(stream::once(async {
            tokio::time::sleep(BEAT * 5 / 2).await;
            8
        }));
        let body = axum::body::to_bytes(answer(items).into_body(), 100);
        let text = body.await.unwrap();
        assert_eq!(&text[..], b"7\n\n\n8\n");
    }
}
