//! The body of a request: all of it, within its length and its time.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::Next;
use axum::response::Response;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::BODY_TIME;
use super::places::{Cut, Place};
use crate::api::server::answer;
use crate::api::types::Problem;

/// Longest body of a request that has no file in it.
pub(in crate::api) const SMALL_BODY_LEN: usize = 1 << 20;
/// Longer ones at a time: each takes its length several times over while it is
/// worked on.
pub(in crate::api) const LARGE_BODIES: usize = 4;

/// A large body waits for its turn for that long.
const TURN_TIME: Duration = Duration::from_secs(10);

static LARGE: Semaphore = Semaphore::const_new(LARGE_BODIES);

/// Reads the body before anything else is done; the state is its longest.
pub(in crate::api) async fn whole(
    State(most): State<usize>,
    place: Option<Extension<Arc<Place>>>,
    request: Request,
    next: Next,
) -> Response {
    let (head, body) = request.into_parts();
    let reading = place.as_ref().map(|Extension(place)| place.reading());
    let read = timeout(BODY_TIME, read(body, most)).await;
    drop(reading);
    let (bytes, _large) = match read {
        Ok(Ok(read)) => read,
        Ok(Err(problem)) => return answer::<()>(Err(problem)),
        Err(_) => {
            if let Some(Extension(place)) = place {
                place.count(Cut::SlowBody);
            }
            let detail = format!(
                "the body of the request did not come within {} s",
                BODY_TIME.as_secs()
            );
            let status = StatusCode::REQUEST_TIMEOUT.as_u16();
            return answer::<()>(Err(Problem::new("request too slow", status, detail)));
        }
    };
    next.run(Request::from_parts(head, bytes.into())).await
}

/// A turn for a large body.
async fn turn() -> Result<SemaphorePermit<'static>, Problem> {
    let turn = timeout(TURN_TIME, LARGE.acquire()).await;
    turn.ok().and_then(Result::ok).ok_or_else(|| {
        let detail = format!(
            "{LARGE_BODIES} requests of more than {SMALL_BODY_LEN} bytes are worked on, which is \
             as many as may be; ask again in a while"
        );
        let status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
        Problem::new("too many large requests", status, detail)
    })
}

type Large = Option<SemaphorePermit<'static>>;

async fn read(mut body: Body, most: usize) -> Result<(Vec<u8>, Large), Problem> {
    let too_long = || {
        let detail = format!(
            "the body is longer than the {most} bytes that this request may have; with a whole \
             file in it, it is `POST /v1/plan` or `POST /v1/apply`"
        );
        Problem::new(
            "body too long",
            StatusCode::PAYLOAD_TOO_LARGE.as_u16(),
            detail,
        )
    };
    let announced = body.size_hint().lower();
    if announced > most as u64 {
        return Err(too_long());
    }
    let mut large = None;
    let mut whole = Vec::new();
    loop {
        let needed = announced.max(whole.len() as u64);
        if large.is_none() && needed > SMALL_BODY_LEN as u64 {
            large = Some(turn().await?);
        }
        let Some(frame) = body.frame().await else {
            return Ok((whole, large));
        };
        let frame = frame.map_err(|error| {
            let detail = format!("the body could not be read: {error}");
            Problem::new("bad request", StatusCode::BAD_REQUEST.as_u16(), detail)
        })?;
        let data: &[u8] = frame.data_ref().map_or(&[], Bytes::as_ref);
        if whole.len() + data.len() > most {
            return Err(too_long());
        }
        whole.extend_from_slice(data);
    }
}
