//! What the live rules say of the host, in the log at a start and a reload.
//!
//! Beside the loop, as neighbours may be silent for seconds, and after the
//! configuration is in force: what it finds stops nothing. The network is not
//! asked, which is for `balancer check --live`.

use std::sync::Arc;

use tokio::task::JoinHandle;

use super::controller::Controller;
use super::hops::Found;
use crate::config::diagnostic::{Finding, Level};
use crate::config::model::Config;
use crate::config::spans::Spans;
use crate::live::{self, Reach};

/// At most one look at a time; a new one ends that before it.
#[derive(Debug, Default)]
pub(super) struct Looks {
    under_way: Option<JoinHandle<()>>,
}

impl Looks {
    /// Looks at the host for that configuration, of which these ways to
    /// backends are known, and says what it finds.
    fn begin(&mut self, config: &Config, ways: &Arc<Found>) {
        let (config, ways) = (config.clone(), Arc::clone(ways));
        let look = tokio::spawn(async move {
            match live::look_beyond(&config, Reach::Host, ways).await {
                Ok(host) => {
                    for what in &host.unseen {
                        tracing::info!(%what, "check of the host: not looked at");
                    }
                    let findings = live::check(&config, &Spans::default(), &host);
                    findings.iter().for_each(say);
                }
                Err(error) => tracing::warn!(%error, "the host cannot be checked"),
            }
        });
        if let Some(before) = self.under_way.replace(look) {
            before.abort();
        }
    }
}

impl Controller {
    /// Looks at the host for the configuration that is in force.
    pub(super) fn look_at_host(&mut self) {
        self.looks.begin(&self.config, &self.found);
    }
}

fn say(finding: &Finding) {
    let (rule, message) = (&finding.rule, &finding.message);
    let help = finding.help.as_deref().unwrap_or_default();
    match (&finding.allowed, finding.level) {
        (Some(reason), _) => {
            tracing::info!(%rule, %message, allowed = %reason, "check of the host");
        }
        (None, Level::Error) => tracing::error!(%rule, %message, %help, "check of the host"),
        (None, Level::Warning) => tracing::warn!(%rule, %message, %help, "check of the host"),
    }
}
