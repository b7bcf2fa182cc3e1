//! How many handshakes are timed: at least the share that the file asks for,
//! and more where few flows come, so that a service with little traffic is
//! watched as well as one with much. Pure.

/// Handshakes a second that are timed if there are so many.
const WANTED: f64 = 1000.0;
/// The share follows the traffic when it is off by this factor: each change
/// of it is a write to the kernel.
const OFF: f64 = 4.0;

/// The share of flows whose handshake is timed.
#[derive(Debug)]
pub(super) struct Sampling {
    share: f64,
}

impl Default for Sampling {
    /// All, as long as nobody knows how many come.
    fn default() -> Self {
        Self { share: 1.0 }
    }
}

impl Sampling {
    /// Takes the new TCP flows of a second, and the least share; whether
    /// another share is to be written.
    pub(super) fn follow(&mut self, flows: f64, least: f64) -> bool {
        let before = self.share(least);
        if flows >= 1.0 {
            let wanted = (WANTED / flows).min(1.0);
            if wanted * OFF <= self.share || wanted >= self.share * OFF || wanted == 1.0 {
                self.share = wanted;
            }
        }
        self.share(least) != before
    }

    /// The share now; none where the file asks for none.
    pub(super) fn share(&self, least: f64) -> f64 {
        if least > 0.0 {
            self.share.max(least)
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_follows_the_traffic_and_not_its_every_turn() {
        let mut sampling = Sampling::default();
        assert_eq!(sampling.share(0.01), 1.0);
        assert!(!sampling.follow(0.0, 0.01) && !sampling.follow(900.0, 0.01));
        assert!(!sampling.follow(3000.0, 0.01), "not yet");
        assert!(sampling.follow(10_000.0, 0.01));
        assert_eq!(sampling.share(0.01), 0.1);
        assert!(!sampling.follow(5000.0, 0.01) && !sampling.follow(20_000.0, 0.01));
        assert!(sampling.follow(1e6, 0.01));
        assert_eq!(sampling.share(0.01), 0.01, "never less than the file says");
        assert!(!sampling.follow(0.0, 0.01), "silence tells nothing");
        assert!(sampling.follow(100.0, 0.01));
        assert_eq!(sampling.share(0.01), 1.0);
    }

    #[test]
    fn file_may_ask_for_none_and_for_all() {
        let mut sampling = Sampling::default();
        assert!(!sampling.follow(1e6, 0.0));
        assert_eq!(sampling.share(0.0), 0.0);
        assert_eq!(sampling.share(1.0), 1.0);
    }
}
