//! Asks the other balancers of the group what they hold.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::group::GroupDigest;

/// A peer that has not answered by then is not there.
const TIMEOUT: Duration = Duration::from_secs(2);
/// 4,096 services with the longest names take less.
const MAX_ANSWER_LEN: usize = 1 << 20;
/// Where each balancer serves its digest.
pub const PATH: &str = "/v1/digest";

/// What each peer holds, or why that is not known.
pub type Answers = BTreeMap<SocketAddr, Result<GroupDigest, String>>;

/// Asks them all at the same time; takes two seconds at most.
pub async fn ask(peers: &[SocketAddr]) -> Answers {
    let asked = peers.iter().map(|peer| async {
        let answer = timeout(TIMEOUT, ask_one(*peer)).await;
        let late = || format!("no answer within {} s", TIMEOUT.as_secs());
        (*peer, answer.unwrap_or_else(|_| Err(late())))
    });
    join_all(asked).await.into_iter().collect()
}

async fn ask_one(peer: SocketAddr) -> Result<GroupDigest, String> {
    let stream = TcpStream::connect(peer).await.map_err(said)?;
    let client = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = client.await.map_err(said)?;
    let request = Request::get(PATH).header(HOST, peer.to_string());
    let request = request.body(Empty::<Bytes>::new()).map_err(said)?;
    let answer = async {
        let answer = sender.send_request(request).await.map_err(said)?;
        if answer.status() != StatusCode::OK {
            return Err(format!("it answers {PATH} with {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_ANSWER_LEN);
        let body = body.collect().await.map_err(said)?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| format!("its digest cannot be read: {error}"))
    };
    // No task outlives the question.
    tokio::select! {
        answer = answer => answer,
        ended = connection => Err(match ended {
            Ok(()) => "it closed the connection".to_owned(),
            Err(error) => error.to_string(),
        }),
    }
}

fn said(error: impl std::fmt::Display) -> String {
    error.to_string()
}
