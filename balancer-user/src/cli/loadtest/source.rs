//! Where a load test has the balancer's counters from.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::Args;
use crate::api::client::Client;
use crate::cli::output;
use crate::loadtest::scrape::{self, Counted};
use crate::loadtest::shares::{Seen, Shares};

/// Longest that an answer may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Most of an answer that is read, in bytes: more than a balancer of this
/// project has to say.
const MOST: usize = 512 << 20;
/// The daemon reads its counters each second.
const SETTLING: Duration = Duration::from_millis(2500);

/// A service of a balancer, or nothing.
pub(super) struct Source {
    from: From,
    counted: Counted,
}

enum From {
    /// By its control socket.
    Socket(Client, String),
    /// By its metrics.
    Metrics(Box<HttpClient<HttpConnector, Empty<Bytes>>>, Uri, String),
    /// Nobody to ask.
    None,
}

impl Source {
    /// Finds the service that is tested. That there is no balancer here is no
    /// error; that one which was named knows no such service is.
    pub(super) async fn find(
        args: &Args,
        client: &Client,
        address: SocketAddr,
        counted: Counted,
    ) -> anyhow::Result<Self> {
        let of = |from| Self { from, counted };
        if let (Some(uri), Some(service)) = (&args.metrics, &args.service) {
            let client = HttpClient::builder(TokioExecutor::new()).build_http();
            let source = of(From::Metrics(
                Box::new(client),
                uri.clone(),
                service.clone(),
            ));
            if source.backends().await?.is_empty() {
                bail!("{uri} has no backends of a service {service}");
            }
            return Ok(source);
        }
        let status = match client.status().await {
            Ok(status) => status,
            Err(_) if args.service.is_none() => return Ok(of(From::None)),
            Err(error) => return Err(error.into()),
        };
        let service = match &args.service {
            Some(name) => status.services.iter().find(|it| it.name == *name),
            None => scrape::service_at(&status, address, counted),
        };
        match (service, &args.service) {
            (Some(service), _) => {
                let socket = Client::new(client.socket());
                Ok(of(From::Socket(socket, service.name.clone())))
            }
            (None, Some(name)) => bail!("the balancer has no service {name}"),
            (None, None) => Ok(of(From::None)),
        }
    }

    /// Which service.
    pub(super) fn service(&self) -> Option<&str> {
        match &self.from {
            From::Socket(_, service) | From::Metrics(_, _, service) => Some(service),
            From::None => None,
        }
    }

    async fn backends(&self) -> anyhow::Result<Vec<Seen>> {
        match &self.from {
            From::None => Ok(Vec::new()),
            From::Socket(client, name) => {
                let status = client.status().await?;
                let service = status.services.iter().find(|it| it.name == *name);
                Ok(service.map_or_else(Vec::new, |it| scrape::of_status(it, self.counted)))
            }
            From::Metrics(client, uri, service) => {
                let text = tokio::time::timeout(PATIENCE, fetch(client, uri))
                    .await
                    .with_context(|| format!("{uri} takes more than 5 s"))??;
                scrape::of_metrics(&text, service, self.counted)
                    .map_err(|fault| anyhow::anyhow!("{uri} has no metrics: {fault}"))
            }
        }
    }

    /// Looks; a balancer that does not answer just then is asked again later.
    pub(super) async fn look(&self, shares: &mut Shares) {
        if self.service().is_none() {
            return;
        }
        match self.backends().await {
            Ok(seen) => shares.take(seen),
            Err(error) => output::note(format_args!("warning: no counters: {error:#}")),
        }
    }

    /// Looks when all that was counted has been read.
    pub(super) async fn look_last(&self, shares: &mut Shares) {
        if self.service().is_some() {
            tokio::time::sleep(SETTLING).await;
            self.look(shares).await;
        }
    }
}

async fn fetch(
    client: &HttpClient<HttpConnector, Empty<Bytes>>,
    uri: &Uri,
) -> anyhow::Result<String> {
    let answer = client.get(uri.clone()).await;
    let answer = answer.with_context(|| format!("asking {uri}"))?;
    if !answer.status().is_success() {
        bail!("{uri} answers {}", answer.status());
    }
    let body = Limited::new(answer.into_body(), MOST).collect().await;
    let body = body.map_err(|error| anyhow::anyhow!("reading {uri}: {error}"))?;
    String::from_utf8(body.to_bytes().to_vec()).with_context(|| format!("{uri} is no text"))
}
