//! What whoever started the daemon is told: systemd, by sd_notify(3).
//!
//! It is ready when the tables are in the kernel and the program is attached,
//! and it is alive as long as the controller's own loop goes round: a loop that
//! hangs is found by the watchdog, even though other threads still answer.
//! Without `NOTIFY_SOCKET` in the environment nothing of this does anything.

use sd_notify::NotifyState;
use tokio::sync::oneshot;

use super::controller::Controller;
use crate::page::headline::standing;
use crate::revision::Author;
use crate::watch::Look;

/// Whoever started the daemon, and what he knows.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    /// Whether he takes the daemon for hung if it is silent.
    is_watching: bool,
    /// Whether he waits for the end of a reload.
    is_reloading: bool,
    /// Backends that take traffic, and those that are wanted to.
    standing: Option<(usize, usize)>,
    /// The line that he was told last.
    status: String,
    /// Why he could not be told, so that it is logged once.
    failure: Option<String>,
}

impl Supervisor {
    /// The one that the environment names, if it names one; he is told what a
    /// start waits for.
    pub(super) fn starting(status: &str) -> Self {
        let mut supervisor = Self {
            is_watching: sd_notify::watchdog_enabled().is_some(),
            ..Self::default()
        };
        supervisor.say(&[], status);
        supervisor
    }

    fn ready(&mut self, status: &str) {
        self.say(&[NotifyState::Ready], status);
    }

    /// Tells that the end has begun.
    pub(super) fn stopping(&mut self, status: &str) {
        self.say(&[NotifyState::Stopping], status);
    }

    fn reloading(&mut self) {
        self.is_reloading = true;
        let mut states = vec![NotifyState::Reloading];
        // Which signal it answers is told by the time (sd_notify(3)).
        states.extend(NotifyState::monotonic_usec_now().ok());
        self.say(&states, "reading the file again");
    }

    fn alive(&mut self, status: &str) {
        let states: &[NotifyState<'_>] = match self.is_watching {
            true => &[NotifyState::Watchdog],
            false => &[],
        };
        self.say(states, status);
    }

    fn say(&mut self, states: &[NotifyState<'_>], status: &str) {
        let mut states = states.to_vec();
        if self.status != status {
            status.clone_into(&mut self.status);
            states.push(NotifyState::Status(status));
        }
        if states.is_empty() {
            return;
        }
        let failure = sd_notify::notify(&states).err().map(|it| it.to_string());
        if let Some(error) = &failure
            && self.failure != failure
        {
            tracing::warn!(%error, "NOTIFY_SOCKET: whoever started this cannot be told how it goes");
        }
        self.failure = failure;
    }
}

impl Controller {
    /// SIGHUP: reads the file again, and tells when it is judged.
    pub(super) fn on_hangup(&mut self) {
        self.supervisor.reloading();
        self.reload(Author::daemon(), oneshot::channel().0);
        self.reload_over();
    }

    /// Ends a reload for whoever asked for it, once the file is refused or the
    /// change to it has begun: its stages may take longer than he waits.
    pub(super) fn reload_over(&mut self) {
        if self.supervisor.is_reloading && self.preparing.is_none() {
            self.supervisor.is_reloading = false;
            let status = self.in_a_line();
            self.supervisor.ready(&status);
        }
    }

    /// Tells once a second that the loop goes round.
    pub(super) fn tell_supervisor(&mut self) {
        let status = match self.supervisor.is_reloading {
            true => self.supervisor.status.clone(),
            false => self.in_a_line(),
        };
        self.supervisor.alive(&status);
    }

    /// Tells that packets are forwarded by what the file says.
    pub(super) fn tell_ready(&mut self) {
        let services = self.config.services.len();
        tracing::info!(revision = self.number, services, "forwarding");
        let status = self.in_a_line();
        self.supervisor.ready(&status);
    }

    /// Notes who takes traffic, for the next line.
    pub(super) fn note_standing(&mut self, look: &Look) {
        let backends = look.services.iter().flat_map(|it| &it.backends);
        self.supervisor.standing = Some(standing(backends.map(|it| &it.state)));
    }

    /// How things are, in one line: what `systemctl status` shows.
    fn in_a_line(&self) -> String {
        let mut line = match &self.under_way {
            Some(change) => change.describe(),
            None => format!("revision {} in force", self.number.unwrap_or_default()),
        };
        match self.config.services.len() {
            1 => line.push_str(": 1 service"),
            count => line.push_str(&format!(": {count} services")),
        }
        if let Some((up, wanted)) = self.supervisor.standing {
            line.push_str(&format!(", {up} of {wanted} backends take traffic"));
        }
        let mut open = self.incidents.open().into_iter();
        if let Some(first) = open.next() {
            let count = 1 + open.count();
            line.push_str(&format!(
                "; {count} open incidents, first: {}: ",
                first.kind.name()
            ));
            line.push_str(&first.to_string());
        }
        if let Some(reload) = self.last_reload.as_ref().filter(|it| !it.succeeded) {
            line.push_str(&format!("; the last reload failed: {}", reload.summary));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_not_told_again() {
        let mut supervisor = Supervisor::default();
        supervisor.ready("well");
        assert_eq!(supervisor.status, "well");
        assert_eq!(supervisor.failure, None);
        supervisor.alive("well");
        supervisor.stopping("detaching");
        assert_eq!(supervisor.status, "detaching");
    }
}
