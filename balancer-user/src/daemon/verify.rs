//! What the kernel really holds, against what was written there.
//!
//! A little every second: small tables whole, large ones in rounds of
//! [`BYTES_A_SECOND`]. Whatever differs is named in the log and in `status`,
//! and written anew where the file lets it (`node.repair_drift`), or somebody
//! asks for it (`balancer verify --repair`). A program
//! of somebody else is never taken off an interface.

mod wording;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::controller::Controller;
use crate::api::types::{DriftFinding, RepairedDrift, Verification};
use crate::dataplane::tables::{Audit, Drift};
use crate::rehearsal::Names;
use wording::{finding, in_words};

/// How much of the tables is compared each second: the tables of 64 services
/// of 65,537 slots. A round over a thousand of these takes 16 seconds.
const BYTES_A_SECOND: usize = 16 << 20;
/// How long a difference that was put right stays among the problems.
const REMEMBERED: Duration = Duration::from_secs(600);
/// Differences that are remembered at most.
const MOST_REMEMBERED: usize = 32;
/// Differences of one look that are logged one by one.
const MOST_LOGGED: usize = 16;

/// What is known of differences.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    /// Those of the last whole round that are still there.
    open: Vec<DriftFinding>,
    /// Those of the present round.
    round: Vec<DriftFinding>,
    repaired: VecDeque<(Instant, DriftFinding)>,
    round_began: Option<Instant>,
    last_round: Option<Duration>,
    /// Interfaces that the program was on, by the number they had; it was
    /// taken off one only by somebody else.
    attached: BTreeMap<String, u32>,
    /// Ports and interfaces that the device map lacked at an earlier look.
    missing: BTreeSet<(u8, u32)>,
    /// Those that run it now.
    running: BTreeSet<String>,
}

impl Verifier {
    /// A sentence for each difference that is there, or was a while ago.
    pub(super) fn problems(&self, now: Instant) -> Vec<String> {
        let there = self.present().map(|it| format!("kernel-drift: {it}"));
        let lately = self
            .repaired
            .iter()
            .filter(|(at, _)| now.saturating_duration_since(*at) < REMEMBERED)
            .map(|(at, it)| {
                let ago = now.saturating_duration_since(*at).as_secs();
                format!("kernel-drift: {it} {ago} s ago; something else writes to the kernel")
            });
        there.chain(lately).collect()
    }

    /// How many differences are there.
    pub(super) fn drifts(&self) -> usize {
        self.present().count()
    }

    /// What differs, or was put right that lately, by service.
    pub(super) fn lately(
        &self,
        now: Instant,
        lately: Duration,
    ) -> BTreeMap<Option<&str>, Vec<&DriftFinding>> {
        let is_late = |at: &Instant| now.saturating_duration_since(*at) < lately;
        let repaired = self.repaired.iter().filter(|(at, _)| is_late(at));
        let all = self.present().chain(repaired.map(|(_, finding)| finding));
        let mut by_service: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for finding in all {
            let service = finding.service.as_deref();
            by_service.entry(service).or_default().push(finding);
        }
        by_service
    }

    fn present(&self) -> impl Iterator<Item = &DriftFinding> {
        let earlier = self.open.iter().filter(|it| !self.round.contains(it));
        self.round.iter().chain(earlier)
    }

    /// Notes where the program is; whether it may be put there again though
    /// nothing is to be repaired: the interface was made anew.
    pub(super) fn is_new_interface(&self, interface: &str, index: u32) -> bool {
        self.attached.get(interface) != Some(&index)
    }

    /// Notes that the program is on an interface.
    pub(super) fn note_attached(&mut self, interface: &str, index: u32) {
        self.attached.insert(interface.to_owned(), index);
        self.running.insert(interface.to_owned());
    }

    /// An interface that goes takes its entry of the device map along, and has
    /// its name a moment longer: what is missing has to be so at two looks.
    fn leave_out_gone(&mut self, drifts: &mut Vec<Drift>) {
        let missing = |drift: &Drift| match drift {
            Drift::Egress {
                port,
                expected,
                seen: None,
            } => Some((*port, *expected)),
            _ => None,
        };
        let is_gone = |index| nix::net::if_::if_indextoname(index).is_err();
        self.missing.retain(|(_, index)| !is_gone(*index));
        drifts.retain(|drift| match missing(drift) {
            Some((_, index)) if is_gone(index) => false,
            Some(entry) => !self.missing.insert(entry),
            None => true,
        });
    }

    fn take(&mut self, finding: DriftFinding, now: Instant) {
        if finding.is_repaired {
            self.repaired.push_back((now, finding));
            if self.repaired.len() > MOST_REMEMBERED {
                self.repaired.pop_front();
            }
        } else if !self.round.contains(&finding) {
            self.round.push(finding);
        }
    }

    fn end_round(&mut self, now: Instant) {
        self.open = std::mem::take(&mut self.round);
        self.last_round = self.round_began.map(|began| now - began);
        self.round_began = None;
    }

    /// Says what nobody has said yet.
    fn log(&self, findings: &[DriftFinding]) {
        let is_new = |it: &&DriftFinding| it.is_repaired || !self.present().any(|old| old == *it);
        let new: Vec<&DriftFinding> = findings.iter().filter(is_new).collect();
        for finding in new.iter().take(MOST_LOGGED) {
            tracing::warn!(rule = "kernel-drift", "{finding}");
        }
        if new.len() > MOST_LOGGED {
            let more = new.len() - MOST_LOGGED;
            tracing::warn!(rule = "kernel-drift", more, "further differences");
        }
    }
}

impl Controller {
    /// Looks at a part of the tables, and at the interfaces.
    pub(super) async fn verify_some(&mut self) {
        let repairs = self.config.node.repair_drift;
        let audit = self.audit(Some(BYTES_A_SECOND), repairs).await;
        if audit.is_round_over {
            self.verifier.end_round(Instant::now());
        }
        self.look_for_drift();
    }

    /// Looks at all at once.
    pub(super) async fn verify(&mut self) -> Verification {
        self.verify_all(self.config.node.repair_drift).await
    }

    /// The same for somebody who wants it put right, whatever the file says.
    pub(super) async fn verify_and_repair(&mut self) -> Verification {
        let verification = self.verify_all(true).await;
        self.look_for_drift();
        verification
    }

    async fn verify_all(&mut self, repairs: bool) -> Verification {
        let began = Instant::now();
        // A round of its own: what was under way begins again.
        self.verifier.round.clear();
        let audit = self.audit(None, repairs).await;
        let last_round = self.verifier.last_round;
        self.verifier.end_round(Instant::now());
        self.verifier.last_round = last_round;
        let now = Instant::now();
        let repaired_now = self.verifier.repaired.iter().filter(|(at, _)| *at >= began);
        let mut findings: Vec<DriftFinding> = self.verifier.open.clone();
        findings.extend(repaired_now.map(|(_, finding)| finding.clone()));
        let earlier = self.verifier.repaired.iter().filter(|(at, _)| *at < began);
        Verification {
            is_right: findings.is_empty(),
            repaired: earlier
                .map(|(at, finding)| RepairedDrift {
                    ago_seconds: now.saturating_duration_since(*at).as_secs(),
                    finding: finding.clone(),
                })
                .collect(),
            repairs,
            services: audit.services,
            slots: audit.slots,
            program_id: self.dataplane.program_id(),
            interfaces: self.verifier.running.iter().cloned().collect(),
            duration_micros: began.elapsed().as_micros() as u64,
            round_seconds: last_round.map(|it| it.as_secs_f64()),
            findings,
        }
    }

    async fn audit(&mut self, budget: Option<usize>, repairs: bool) -> Audit {
        let now = Instant::now();
        self.verifier.round_began.get_or_insert(now);
        let mut audit = tokio::task::block_in_place(|| self.dataplane.audit(budget));
        self.verifier.leave_out_gone(&mut audit.drifts);
        let mut findings = Vec::new();
        if !audit.drifts.is_empty() {
            let is_repaired = repairs && self.repair(&audit);
            let state = self.dataplane.written();
            let names = Names::of(&self.builder, state);
            findings.extend(audit.drifts.iter().map(|drift| in_words(drift, &names)));
            for finding in &mut findings {
                finding.is_repaired = is_repaired;
            }
        }
        findings.extend(self.verify_interfaces(repairs).await);
        // Where all of them are away, that is said once.
        if self.follow_pins() {
            let lost = self.dataplane.lost_pins().into_iter();
            findings.extend(lost.map(|pin| finding("pin", pin, "nothing".to_owned())));
        }
        self.verifier.log(&findings);
        for finding in findings {
            self.verifier.take(finding, now);
        }
        audit
    }

    /// Writes anew what differs, and looks whether that helped.
    fn repair(&mut self, audit: &Audit) -> bool {
        tokio::task::block_in_place(|| {
            if let Err(error) = self.dataplane.repair(&audit.drifts) {
                tracing::error!(%error, "what differs in the kernel cannot be written anew");
                return false;
            }
            let is_right = self.dataplane.audit(None).drifts.is_empty();
            if !is_right {
                tracing::error!("what differs in the kernel was written anew, and differs still");
                return false;
            }
            self.incidents.watch.forget_shares();
            true
        })
    }

    /// The program on each interface, which has to be the one in force.
    async fn verify_interfaces(&mut self, repairs: bool) -> Vec<DriftFinding> {
        let Some(ours) = self.dataplane.program_id() else {
            return Vec::new();
        };
        let mut findings = Vec::new();
        let mut is_one_new = false;
        for name in self.config.node.interfaces.clone() {
            // One that is missing is said elsewhere.
            let Ok(Some(link)) = self.netlink.link(&name).await else {
                self.verifier.running.remove(&name);
                continue;
            };
            let seen = link.xdp.map(|xdp| xdp.program_id);
            if seen == Some(ours) {
                self.verifier.note_attached(&name, link.index);
                continue;
            }
            if seen.is_none() && self.verifier.is_new_interface(&name, link.index) {
                // Nobody took the program off: that interface never had it.
                self.verifier.running.remove(&name);
                is_one_new = true;
                continue;
            }
            let seen = seen.map_or_else(|| "none".to_owned(), |id| format!("program {id}"));
            let mut finding = finding("program", format!("program {ours}"), seen);
            finding.interface = Some(name.clone());
            finding.is_repaired = repairs && self.put_back(&name);
            if finding.is_repaired {
                self.verifier.note_attached(&name, link.index);
            } else {
                self.verifier.running.remove(&name);
            }
            findings.push(finding);
        }
        if is_one_new {
            self.look_up_interfaces().await;
        }
        findings
    }

    /// Attaches the program again; one of somebody else stays where it is.
    fn put_back(&mut self, interface: &str) -> bool {
        let attached = tokio::task::block_in_place(|| self.dataplane.attach(interface));
        if let Err(error) = &attached {
            tracing::error!(%interface, %error, "the program cannot be put back");
        }
        attached.is_ok()
    }

    /// Notes that the program was gone from an interface and is back.
    pub(super) fn note_put_back(&mut self, interface: &str, index: u32) {
        let was_there = !self.verifier.is_new_interface(interface, index);
        self.verifier.note_attached(interface, index);
        if !was_there {
            return;
        }
        let ours = self.dataplane.program_id();
        let ours = ours.map_or_else(String::new, |id| format!("program {id}"));
        let mut finding = finding("program", ours, "none".to_owned());
        finding.interface = Some(interface.to_owned());
        finding.is_repaired = true;
        self.verifier.log(std::slice::from_ref(&finding));
        self.verifier.take(finding, Instant::now());
    }
}
