//! Whether one client address opens most of the flows of a service that used
//! to have many clients.
//!
//! A service that always had one (a proxy in front of it, say) is as it was.

use super::{Clients, Kind, ServiceLook, Sign};

/// Sampled flows below which nobody dominates.
const LEAST: u64 = 30;
/// Sampled flows that teach what is usual.
const LEAST_TAUGHT: u64 = 10;
/// The share of one address that is an incident,
const SHARE: f64 = 0.6;
/// and how many times what is usual.
const TIMES: f64 = 1.5;
/// It is over below that share.
const CALM: f64 = 0.45;
/// Seconds that the past has to have.
const LEAST_PAST: u32 = 10;
/// What one second counts in the past: half of it is of the last seven
/// minutes, so that an incident ends when it has become usual.
const WEIGHT: f64 = 1.0 / 600.0;

/// The share of the busiest client, now and usually.
#[derive(Debug, Default)]
pub(super) struct Sources {
    now: Clients,
    usual: f64,
    seconds: u32,
    is_open: bool,
}

impl Sources {
    /// Takes the sample of a second.
    pub(super) fn take(&mut self, clients: &Clients) {
        self.now = *clients;
        let Some(share) = self.share().filter(|_| clients.sampled >= LEAST_TAUGHT) else {
            return;
        };
        self.seconds = self.seconds.saturating_add(1);
        let weight = WEIGHT.max(1.0 / f64::from(self.seconds));
        self.usual += (share - self.usual) * weight;
    }

    fn share(&self) -> Option<f64> {
        let (_, flows) = self.now.busiest?;
        Some(flows as f64 / self.now.sampled.max(1) as f64)
    }

    /// Who dominates.
    pub(super) fn sign(&mut self, service: &ServiceLook) -> Option<Sign> {
        let share = self.share().filter(|_| self.now.sampled >= LEAST);
        let (least, times) = match self.is_open {
            true => (CALM, 1.1),
            false => (SHARE, TIMES),
        };
        let dominates = |share: &f64| *share >= least && *share >= times * self.usual;
        let share = share.filter(|it| self.seconds >= LEAST_PAST && dominates(it));
        self.is_open = share.is_some();
        let ((address, _), share) = (self.now.busiest?, share?);
        let spread = if service.is_even {
            "its flows are spread over the backends as the table says"
        } else {
            "with affinity \"source\" all of them go to one backend"
        };
        Some(Sign {
            kind: Kind::OneSource,
            service: service.name.clone(),
            backend: None,
            what: format!(
                "{address} opens {:.0} % of the new flows; the busiest client had {:.0} % before",
                share * 100.0,
                self.usual * 100.0
            ),
            cause: format!(
                "one client address dominates, the table is right: {spread}; deny_sources or \
                 source_limit keeps it off"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(sources: &mut Sources, share: f64, count: u32) -> Option<Sign> {
        let service = ServiceLook {
            name: "web".to_owned(),
            is_even: true,
            ..ServiceLook::default()
        };
        let clients = Clients {
            sampled: 100,
            busiest: Some(([10, 0, 0, 9].into(), (share * 100.0) as u64)),
        };
        let mut sign = None;
        for _ in 0..count {
            sources.take(&clients);
            sign = sources.sign(&service);
        }
        sign
    }

    #[test]
    fn client_that_comes_to_dominate_is_named_until_it_has_gone() {
        let mut sources = Sources::default();
        assert_eq!(seconds(&mut sources, 0.05, 60), None);
        let sign = seconds(&mut sources, 0.9, 1).unwrap();
        assert!(
            sign.what.starts_with("10.0.0.9 opens 90 %"),
            "{}",
            sign.what
        );
        assert!(seconds(&mut sources, 0.5, 10).is_some());
        assert_eq!(seconds(&mut sources, 0.1, 1), None);
    }

    #[test]
    fn service_that_always_had_one_client_is_as_it_was() {
        let mut sources = Sources::default();
        assert_eq!(seconds(&mut sources, 1.0, 600), None);
    }

    #[test]
    fn what_goes_on_for_long_becomes_usual() {
        let mut sources = Sources::default();
        seconds(&mut sources, 0.05, 60);
        assert!(seconds(&mut sources, 0.9, 60).is_some());
        assert_eq!(seconds(&mut sources, 0.9, 7200), None);
    }
}
