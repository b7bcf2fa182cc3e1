//! Who is told of incidents by webhook.
//!
//! The loop only hands over what happened; who waits for a receiver is a task
//! of its own.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::model::Webhook;
use crate::metrics::WebhookObserved;
use crate::watch::incident::{Event, Incident};
use crate::webhook::send::Sender;

/// The receivers.
#[derive(Debug, Default)]
pub(super) struct Notifier {
    senders: Vec<Sender>,
    open: watch::Sender<Arc<Vec<Incident>>>,
}

impl Notifier {
    /// Tells these receivers from now on; one that stays keeps what waits.
    pub(super) fn follow(&mut self, webhooks: &[Webhook]) {
        let known = self.senders.iter().map(Sender::webhook);
        if known.eq(webhooks) {
            return;
        }
        let mut before = std::mem::take(&mut self.senders);
        let host = nix::unistd::gethostname().unwrap_or_default();
        for webhook in webhooks {
            let same = before.iter().position(|it| it.webhook() == webhook);
            let start = || {
                let host = host.to_string_lossy().into_owned();
                Sender::start(webhook.clone(), host, self.open.subscribe())
            };
            let sender = same.map_or_else(start, |at| before.swap_remove(at));
            self.senders.push(sender);
        }
    }

    /// Notes which incidents are open; before their ends are told, so that none
    /// that is over is told again.
    pub(super) fn set_open<'a>(&self, open: impl Iterator<Item = &'a Incident>) {
        if !self.senders.is_empty() {
            self.open.send_replace(Arc::new(open.cloned().collect()));
        }
    }

    /// Tells all of them.
    pub(super) fn tell(&self, event: &Event) {
        for sender in &self.senders {
            sender.tell(event);
        }
    }

    /// What became of what was told.
    pub(super) fn observed(&self) -> Vec<WebhookObserved> {
        let senders = self.senders.iter();
        senders
            .map(|sender| {
                let (counts, waiting) = sender.counts();
                WebhookObserved {
                    name: sender.webhook().name.clone(),
                    counts,
                    waiting,
                }
            })
            .collect()
    }
}
