//! The group: what this balancer tells its peers, and what they are found to
//! have otherwise. Beside the loop, which never waits for a peer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::controller::Controller;
use crate::api::public::{Running, Runs};
use crate::live::peers;

/// How often the peers are asked.
const INTERVAL: Duration = Duration::from_secs(5);

/// What is known of the group.
pub(super) struct Group {
    running: watch::Sender<Arc<Running>>,
    /// The revision that the peers were told of.
    told: Option<u64>,
    differing: Differing,
}

/// What peers have otherwise, or why that is not known, in a sentence each.
type Differing = Arc<Mutex<BTreeMap<SocketAddr, String>>>;

impl Group {
    pub(super) fn new(running: Running, revision: Option<u64>) -> Self {
        Self {
            running: watch::Sender::new(Arc::new(running)),
            told: revision,
            differing: Differing::default(),
        }
    }

    /// What runs, as it changes.
    pub(super) fn runs(&self) -> Runs {
        self.running.subscribe()
    }

    /// Asks the peers again and again, until the future is dropped.
    pub(super) fn watch(&self) -> impl Future<Output = ()> + use<> {
        let (runs, differing) = (self.runs(), Arc::clone(&self.differing));
        async move {
            let mut tick = tokio::time::interval(INTERVAL);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tick.tick().await;
                look(&runs, &differing).await;
            }
        }
    }

    /// What is wrong with the group, for the status.
    pub(super) fn problems(&self) -> Vec<String> {
        let differing = self.differing.lock();
        let differing = differing.unwrap_or_else(PoisonError::into_inner);
        differing.values().cloned().collect()
    }
}

async fn look(runs: &Runs, differing: &Mutex<BTreeMap<SocketAddr, String>>) {
    let running = Arc::clone(&runs.borrow());
    let answers = peers::ask(running.peers()).await;
    let compared = tokio::task::spawn_blocking(move || {
        let found = answers.into_iter().filter_map(|(peer, answer)| {
            let what = match answer {
                Ok(there) => match running.digest().differences(&there) {
                    differences if differences.is_empty() => return None,
                    differences => format!("peer {peer} {}", differences.join("; ")),
                },
                Err(why) => format!("peer {peer} cannot be asked what it holds: {why}"),
            };
            Some((peer, what))
        });
        found.collect::<BTreeMap<_, _>>()
    });
    // Fails only when the daemon ends.
    let Ok(found) = compared.await else {
        return;
    };
    let mut known = differing.lock().unwrap_or_else(PoisonError::into_inner);
    for (peer, what) in &found {
        if known.get(peer) != Some(what) {
            tracing::error!(rule = "peer-digest", "{what}");
        }
    }
    for peer in known.keys().filter(|peer| !found.contains_key(peer)) {
        tracing::info!(%peer, "agrees");
    }
    *known = found;
}

impl Controller {
    /// Tells the peers what runs, once a change is over.
    pub(super) fn tell_peers(&mut self) {
        if self.group.told == self.number || self.busy().is_err() {
            return;
        }
        self.group.told = self.number;
        // Nobody asks a balancer without a group.
        if self.config.node.listen.is_some() || !self.config.node.peers.is_empty() {
            let running = Running::new(self.config.clone(), self.seed, self.number);
            self.group.running.send_replace(Arc::new(running));
        }
    }
}
