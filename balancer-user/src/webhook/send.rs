//! Posts what waits in an outbox: a task a receiver, for as long as it is held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Method, Request, StatusCode};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::{ClientConfig, RootCertStore};
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::outbox::{Counts, Delivery, MAX_TOGETHER, Message, Outbox, What};
use super::payload::{self, AGAIN};
use crate::config::model::{Webhook, WebhookKind};
use crate::probe::authorities;
use crate::watch::incident::{Event, Incident};

/// The incidents that are open.
pub type Open = watch::Receiver<Arc<Vec<Incident>>>;

/// A receiver and what it is told. Dropping it ends that.
#[derive(Debug)]
pub struct Sender {
    webhook: Webhook,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Debug, Default)]
struct Shared {
    outbox: Mutex<Outbox>,
    news: Notify,
}

impl Shared {
    fn outbox(&self) -> MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, name: &str, message: Message) {
        let lost = self.outbox().push(message);
        if let Some(lost) = lost {
            let incident = lost.incident.number;
            tracing::error!(webhook = %name, incident, "too much waits: a message is lost");
        }
        self.news.notify_one();
    }
}

impl Sender {
    /// Begins to tell a receiver; must be called within a tokio runtime.
    pub fn start(webhook: Webhook, host: String, open: Open) -> Self {
        let shared = Arc::new(Shared::default());
        let task = Task {
            webhook: webhook.clone(),
            shared: Arc::clone(&shared),
            host,
            open,
            told: BTreeMap::new(),
            began: Instant::now(),
            client: None,
        };
        Self {
            webhook,
            shared,
            task: tokio::spawn(task.run()).abort_handle(),
        }
    }

    /// The receiver.
    pub fn webhook(&self) -> &Webhook {
        &self.webhook
    }

    /// Puts what happened into the outbox; never waits.
    pub fn tell(&self, event: &Event) {
        let what = match event {
            Event::Opened { .. } => What::Opened,
            Event::Closed { .. } => What::Closed,
            // The task tells all that are open again by itself.
            Event::Updated { .. } => return,
        };
        let incident = event.incident().clone();
        self.shared
            .push(&self.webhook.name, Message { what, incident });
    }

    /// How many messages went which way, and how many wait.
    pub fn counts(&self) -> (Counts, usize) {
        let outbox = self.shared.outbox();
        (outbox.counts(), outbox.len())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type HttpClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

struct Task {
    webhook: Webhook,
    shared: Arc<Shared>,
    host: String,
    open: Open,
    /// What was said last of each open incident.
    told: BTreeMap<u64, String>,
    began: Instant,
    /// None until certificates can be read.
    client: Option<HttpClient>,
}

impl Task {
    async fn run(mut self) {
        let mut again = interval_at(Instant::now() + AGAIN, AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = self.shared.outbox().due();
            let due = due.map(|due| self.began + due);
            tokio::select! {
                () = until(due) => self.deliver().await,
                () = self.shared.news.notified() => {}
                _ = again.tick() => self.tell_again(),
            }
        }
    }

    /// Tells of open incidents again: Alertmanager of all, as an alert that is
    /// not sent again ends, others of those whose figures changed.
    fn tell_again(&mut self) {
        let open = Arc::clone(&self.open.borrow());
        self.told
            .retain(|number, _| open.iter().any(|it| it.number == *number));
        for incident in open.iter() {
            let before = self.told.insert(incident.number, incident.what.clone());
            let is_news = before.is_some_and(|before| before != incident.what);
            if is_news || self.webhook.kind == WebhookKind::Alertmanager {
                let message = Message {
                    what: What::Updated,
                    incident: incident.clone(),
                };
                self.shared.push(&self.webhook.name, message);
            }
        }
    }

    async fn deliver(&mut self) {
        let most = match self.webhook.kind {
            WebhookKind::Alertmanager => MAX_TOGETHER,
            WebhookKind::Json => 1,
        };
        let messages = self.shared.outbox().begin(most);
        let Some(first) = messages.first() else {
            return;
        };
        let body = match self.webhook.kind {
            WebhookKind::Alertmanager => payload::alerts(&messages, &self.host, unix_now()),
            WebhookKind::Json => payload::plain(first, &self.host),
        };
        let delivery = match timeout(self.webhook.timeout, self.post(body)).await {
            Ok(delivery) => delivery,
            Err(_) => {
                let limit = humantime::format_duration(self.webhook.timeout);
                Delivery::Failed(format!("no answer within {limit}"))
            }
        };
        self.note(&delivery);
    }

    fn note(&self, delivery: &Delivery) {
        let random = f64::from(getrandom::u32().unwrap_or(0)) / f64::from(u32::MAX);
        let mut outbox = self.shared.outbox();
        let failures_before = outbox.failures();
        let lost = outbox.end(self.began.elapsed(), delivery, random);
        let (failures, waiting) = (outbox.failures(), outbox.len());
        drop(outbox);
        let webhook = &self.webhook.name;
        match delivery {
            Delivery::Taken if failures_before > 0 => {
                tracing::info!(%webhook, "takes incidents again");
            }
            Delivery::Taken => {}
            // A receiver that is down for a day is not told of every minute.
            Delivery::Failed(why) if failures.is_power_of_two() => {
                tracing::warn!(%webhook, %why, failures, waiting, "incidents not delivered; tried again");
            }
            Delivery::Failed(_) => {}
            Delivery::Refused(why) => {
                tracing::error!(%webhook, %why, lost, "the receiver refuses incidents; they are lost");
            }
        }
    }

    async fn post(&mut self, body: String) -> Delivery {
        let client = match &self.client {
            Some(client) => client.clone(),
            None => match client(&self.webhook) {
                Ok(client) => self.client.insert(client).clone(),
                Err(why) => return Delivery::Failed(why),
            },
        };
        let url = match self.webhook.kind {
            WebhookKind::Alertmanager => {
                format!("{}/api/v2/alerts", self.webhook.url.trim_end_matches('/'))
            }
            WebhookKind::Json => self.webhook.url.clone(),
        };
        let request = Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(CONTENT_TYPE, "application/json")
            .body(Full::from(body));
        let request = match request {
            Ok(request) => request,
            Err(error) => return Delivery::Refused(error.to_string()),
        };
        match client.request(request).await {
            Ok(response) => judged(response.status()),
            Err(error) => Delivery::Failed(with_causes(&error)),
        }
    }
}

/// What a status says. Redirects are not followed: who answers with one is not
/// who the file names.
fn judged(status: StatusCode) -> Delivery {
    let may_pass = status.is_server_error()
        || matches!(
            status,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
        );
    match status {
        _ if status.is_success() => Delivery::Taken,
        _ if may_pass => Delivery::Failed(format!("status {status}")),
        _ => Delivery::Refused(format!("status {status}")),
    }
}

fn client(webhook: &Webhook) -> Result<HttpClient, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let config = match &webhook.ca_file {
        Some(path) => {
            let roots = authorities(path).map_err(|error| error.to_string())?;
            config.with_root_certificates(roots)
        }
        None if webhook.url.starts_with("https:") => config
            .with_native_roots()
            .map_err(|error| format!("the system's certificates cannot be read: {error}"))?,
        None => config.with_root_certificates(RootCertStore::empty()),
    };
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(config.with_no_client_auth())
        .https_or_http()
        .enable_http1()
        .build();
    Ok(Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build(connector))
}

/// A client's error hides what happened behind it.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;
