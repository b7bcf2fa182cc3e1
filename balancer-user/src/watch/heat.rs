//! Whether one backend gets most of the bytes, though its flows are as many
//! as its slots say: a few large flows, which no table can share out.

use super::{Kind, ServiceLook, Sign};

/// What one second counts: half of it is of the last 14 seconds.
const WEIGHT: f64 = 1.0 / 20.0;
/// Seconds that are looked at before anything is said.
const LEAST_SECONDS: u32 = 20;
/// Bytes a second of all, below which nobody is hot.
const LEAST_BYTES: f64 = 5e6;
/// Hot is who has this share of the bytes,
const SHARE: f64 = 0.5;
/// and so many times its share of the slots,
const TIMES: f64 = 2.5;
/// until it has less than so many.
const CALM: f64 = 1.5;

/// Bytes a second of each backend.
#[derive(Debug, Default)]
pub(super) struct Heat {
    bytes: Vec<f64>,
    seconds: u32,
    hot: Option<usize>,
}

impl Heat {
    /// Forgets everything: the backends are others.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Takes the bytes of a second.
    pub(super) fn take(&mut self, bytes: &[u64]) {
        if self.bytes.is_empty() && bytes.iter().all(|it| *it == 0) {
            return;
        }
        self.seconds = self.seconds.saturating_add(1);
        self.bytes.resize(bytes.len(), 0.0);
        let weight = WEIGHT.max(1.0 / f64::from(self.seconds));
        for (level, bytes) in self.bytes.iter_mut().zip(bytes) {
            *level += (*bytes as f64 - *level) * weight;
        }
    }

    /// Who is hot.
    pub(super) fn sign(&mut self, service: &ServiceLook) -> Option<Sign> {
        let all: f64 = self.bytes.iter().sum();
        if self.seconds < LEAST_SECONDS || all < LEAST_BYTES {
            self.hot = None;
            return None;
        }
        let backends = service.backends.iter().zip(&self.bytes);
        let heat = |(at, (backend, bytes)): (usize, (&super::BackendLook, &f64))| {
            let share = bytes / all;
            let times = if self.hot == Some(at) { CALM } else { TIMES };
            (share >= SHARE && share >= times * backend.share && backend.share > 0.0).then_some(at)
        };
        self.hot = backends.enumerate().find_map(heat);
        let hot = self.hot?;
        let backend = &service.backends[hot];
        Some(Sign {
            kind: Kind::HotByBytes,
            service: service.name.clone(),
            backend: Some(backend.name.to_string()),
            what: format!(
                "gets {:.0} % of the bytes, {:.0} Mbit/s, with {:.1} % of the slots",
                self.bytes[hot] / all * 100.0,
                self.bytes[hot] * 8.0 / 1e6,
                backend.share * 100.0
            ),
            cause: "a few large flows; new flows are spread as the table says".to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::desired::BackendState;
    use crate::watch::{BackendLook, PROBES};

    fn service() -> ServiceLook {
        let backend = |at: usize| BackendLook {
            name: format!("web-{at}").into(),
            share: 0.25,
            state: BackendState::Up,
            last_failure: None,
            probes: [None; PROBES],
            flows: 0,
            bytes: 0,
            resets: 0,
            handshakes: None,
        };
        ServiceLook {
            name: "web".to_owned(),
            backends: (0..4).map(backend).collect(),
            ..ServiceLook::default()
        }
    }

    fn after(heat: &mut Heat, bytes: &[u64], seconds: usize) -> Option<Sign> {
        let service = service();
        let mut sign = None;
        for _ in 0..seconds {
            heat.take(bytes);
            sign = heat.sign(&service);
        }
        sign
    }

    #[test]
    fn backend_of_a_few_large_flows_is_named_until_they_end() {
        let mut heat = Heat::default();
        let even = [10_000_000; 4];
        let hot = [10_000_000, 100_000_000, 10_000_000, 10_000_000];
        assert_eq!(after(&mut heat, &even, 100), None);
        assert_eq!(after(&mut heat, &hot, 2), None, "too short");
        let sign = after(&mut heat, &hot, 30).unwrap();
        assert_eq!(sign.backend.as_deref(), Some("web-1"));
        assert!(sign.what.contains("% of the bytes"), "{}", sign.what);
        assert_eq!(after(&mut heat, &even, 60), None);
    }

    #[test]
    fn little_traffic_is_never_hot() {
        let mut heat = Heat::default();
        assert_eq!(after(&mut heat, &[0, 1_000_000, 0, 0], 100), None);
    }
}
