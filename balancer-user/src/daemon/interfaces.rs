//! The interfaces of the file: whether each is there and up, and how the
//! program is on it.
//!
//! An interface that goes takes the program along, and one that comes back
//! under its name is another to the kernel: the program is attached to it anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::controller::Controller;
use crate::api::types::InterfaceStatus;
use crate::dataplane::attach::Attached;
use crate::netlink::{AttachedMode, Link, NextHop};

/// How long an MTU that has fallen is told of.
const REMEMBERED: Duration = Duration::from_secs(600);

/// What is known of them, by name.
#[derive(Debug, Default)]
pub(super) struct Interfaces {
    seen: BTreeMap<String, Seen>,
    /// The MTU of each, as last seen.
    mtus: BTreeMap<String, u32>,
    /// Bytes of the longest packet that every way to a backend by an interface
    /// takes, where there is one.
    ways: BTreeMap<String, u32>,
    /// MTUs that have fallen, by what they are of.
    fallen: BTreeMap<Of, Fall>,
}

/// What an MTU is of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Of {
    /// An interface of the file, where packets come in.
    Interface(String),
    /// The ways to backends by an interface.
    Ways(String),
}

/// An MTU that has fallen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fall {
    at: Instant,
    from: u32,
    to: u32,
}

/// What is known of one.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// How the program is on it: `native`, `generic`, `offloaded`, `detached`,
    /// `missing` where there is no interface, or `unknown`.
    mode: &'static str,
    /// Why the program is not on it, or nothing is known.
    why: Option<String>,
    state: State,
    mtu: Option<u32>,
}

/// What an interface does with packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Up,
    Down,
    NoCarrier,
    Missing,
    Unknown,
}

impl State {
    fn of(link: &Link) -> Self {
        match (link.up, link.carrier) {
            (false, _) => Self::Down,
            (true, false) => Self::NoCarrier,
            (true, true) => Self::Up,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::NoCarrier => "no-carrier",
            Self::Missing => "missing",
            Self::Unknown => "unknown",
        }
    }

    /// What is wrong, and what to do about it.
    fn fault(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Up | Self::Unknown => None,
            Self::Down => Some((
                "is down",
                "somebody took it down, and its routes went with it: see `ip link`",
            )),
            Self::NoCarrier => Some((
                "has no carrier",
                "its cable, or the interface at the other end, is down",
            )),
            Self::Missing => Some((
                "does not exist",
                "it was deleted or renamed; the program is attached when one of that name is \
                 there again",
            )),
        }
    }
}

impl Seen {
    fn missing() -> Self {
        Self {
            mode: "missing",
            why: None,
            state: State::Missing,
            mtu: None,
        }
    }

    fn unknown(why: String) -> Self {
        Self {
            mode: "unknown",
            why: Some(why),
            state: State::Unknown,
            mtu: None,
        }
    }

    fn of(link: &Link, mode: &'static str, why: Option<String>) -> Self {
        Self {
            mode,
            why,
            state: State::of(link),
            mtu: Some(link.mtu),
        }
    }

    /// What is wrong with it, in a sentence without its name.
    fn problem(&self) -> Option<String> {
        if let Some((what, _)) = self.state.fault() {
            return Some(what.to_owned());
        }
        let is_on = matches!(self.mode, "native" | "generic" | "offloaded");
        match &self.why {
            _ if is_on => None,
            Some(why) => Some(format!("the program is {}: {why}", self.mode)),
            None => Some(format!("the program is {}", self.mode)),
        }
    }
}

impl Interfaces {
    /// How the program is on each.
    pub(super) fn modes(&self) -> Vec<(String, String)> {
        let modes = self.seen.iter();
        modes
            .map(|(name, seen)| (name.clone(), seen.mode.to_owned()))
            .collect()
    }

    pub(super) fn status(&self) -> Vec<InterfaceStatus> {
        let status = |(name, seen): (&String, &Seen)| InterfaceStatus {
            name: name.clone(),
            mode: seen.mode.to_owned(),
            state: seen.state.name().to_owned(),
        };
        self.seen.iter().map(status).collect()
    }

    /// A sentence for each fault.
    pub(super) fn problems(&self, now: Instant) -> Vec<String> {
        let problems = self.seen.iter().filter_map(|(name, seen)| {
            let problem = seen.problem()?;
            let is_absent = seen.state.fault().is_some();
            let sep = if is_absent { "" } else { ":" };
            Some(format!("interface {name}{sep} {problem}"))
        });
        problems.chain(self.narrow(now)).collect()
    }

    /// What no packet comes by, and the likely cause; nothing where all is well.
    pub(super) fn fault(&self, now: Instant) -> Option<(String, String)> {
        let (mut what, mut causes) = (Vec::new(), Vec::new());
        for (name, seen) in &self.seen {
            if let Some((fault, cause)) = seen.state.fault() {
                what.push(format!(
                    "interface {name} {fault}, so nothing is forwarded there"
                ));
                causes.push(cause);
            }
        }
        let narrow: Vec<String> = self.narrow(now).collect();
        if !narrow.is_empty() {
            what.extend(narrow);
            causes.push("somebody changed it: see `ip link`");
        }
        causes.dedup();
        (!what.is_empty()).then(|| (what.join("; "), causes.join("; ")))
    }

    fn narrow(&self, now: Instant) -> impl Iterator<Item = String> {
        let lately = self
            .fallen
            .iter()
            .filter(move |(_, fall)| now.saturating_duration_since(fall.at) < REMEMBERED);
        lately.filter_map(|(of, Fall { from, to, .. })| match of {
            Of::Interface(name) => Some(format!(
                "interface {name}: its MTU has fallen from {from} to {to}, and longer packets \
                 that come in there may be lost before the balancer sees them"
            )),
            Of::Ways(name) if self.fallen.contains_key(&Of::Interface(name.clone())) => None,
            Of::Ways(name) => Some(format!(
                "the way to backends by interface {name} takes packets of {to} bytes, and took \
                 {from}: who sends longer ones is told what fits"
            )),
        })
    }

    /// Takes what was seen of one; whether that is news.
    fn note(&mut self, name: &str, seen: Seen, now: Instant) -> bool {
        let before = self.seen.insert(name.to_owned(), seen.clone());
        if let Some(is) = seen.mtu {
            // Of one that was gone in between it is known still.
            let was = self.mtus.insert(name.to_owned(), is).unwrap_or(is);
            self.note_mtu(Of::Interface(name.to_owned()), (was, is), now);
        }
        before.as_ref() != Some(&seen)
    }

    /// Takes what is known of the ways to backends.
    pub(super) fn note_ways<'a>(&mut self, hops: impl Iterator<Item = &'a NextHop>, now: Instant) {
        let mut least: BTreeMap<&str, u32> = BTreeMap::new();
        for hop in hops {
            let entry = least.entry(&hop.interface).or_insert(hop.mtu);
            *entry = hop.mtu.min(*entry);
        }
        for (name, is) in least {
            // Of an interface that was gone in between it is known still.
            let was = self.ways.insert(name.to_owned(), is).unwrap_or(is);
            self.note_mtu(Of::Ways(name.to_owned()), (was, is), now);
        }
    }

    fn note_mtu(&mut self, of: Of, (was, is): (u32, u32), now: Instant) {
        let from = self.fallen.get(&of).map_or(was, |fall| fall.from);
        if is >= from {
            self.fallen.remove(&of);
        } else if is != was {
            let fall = Fall {
                at: now,
                from,
                to: is,
            };
            self.fallen.insert(of, fall);
        }
    }
}

impl Controller {
    /// Notes where the program is, and attaches it to an interface that was
    /// made anew.
    pub(super) async fn look_up_interfaces(&mut self) {
        let now = Instant::now();
        let mut is_other = false;
        let names = self.config.node.interfaces.clone();
        self.interfaces.seen.retain(|name, _| names.contains(name));
        for name in names {
            let seen = match self.netlink.link(&name).await {
                Ok(Some(link)) => self.look_up_interface(&name, &link),
                Ok(None) => Seen::missing(),
                Err(error) => Seen::unknown(error.to_string()),
            };
            let (mode, state) = (seen.mode, seen.state.name());
            let (mtu, why) = (seen.mtu, seen.why.clone());
            let is_known = self.interfaces.seen.contains_key(&name);
            if self.interfaces.note(&name, seen, now) {
                tracing::info!(interface = %name, %mode, %state, mtu, why, "interface");
                is_other |= is_known;
            }
        }
        if is_other {
            // Its MTU, its driver or its neighbours may be others.
            self.look_at_host();
        }
    }

    fn look_up_interface(&mut self, name: &str, link: &Link) -> Seen {
        let Some(xdp) = link.xdp else {
            let (mode, why) = self.reattach(name, link.index);
            return Seen::of(link, mode, why);
        };
        if self.dataplane.program_id() == Some(xdp.program_id) {
            self.verifier.note_attached(name, link.index);
        }
        let mode = match xdp.mode {
            AttachedMode::Native => "native",
            AttachedMode::Generic => "generic",
            AttachedMode::Offloaded => "offloaded",
        };
        Seen::of(link, mode, None)
    }

    /// Attaches to an interface that was made anew; to one that has lost the
    /// program only where that is to be repaired.
    fn reattach(&mut self, interface: &str, index: u32) -> (&'static str, Option<String>) {
        let is_new = self.verifier.is_new_interface(interface, index);
        if !is_new && !self.config.node.repair_drift {
            return ("detached", None);
        }
        match tokio::task::block_in_place(|| self.dataplane.attach(interface)) {
            Ok(attached) => {
                let mode = match attached {
                    Attached::Generic => "generic",
                    Attached::Native | Attached::Replaced => "native",
                };
                tracing::warn!(%interface, %mode, "the program was gone; attached again");
                self.note_put_back(interface, index);
                (mode, None)
            }
            Err(error) => {
                let why = error.to_string();
                let known = self.interfaces.seen.get(interface);
                // It is tried again each second.
                if known.is_none_or(|it| it.why.as_ref() != Some(&why)) {
                    tracing::error!(%interface, %error, "the program is gone");
                }
                ("detached", Some(why))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(up: bool, carrier: bool, mtu: u32) -> Link {
        Link {
            index: 7,
            name: "eth0".to_owned(),
            mtu,
            mac: None,
            up,
            carrier,
            loopback: false,
            xdp: None,
            vlan_of: None,
            bond: None,
        }
    }

    fn noted(seen: &[Seen]) -> Interfaces {
        let mut interfaces = Interfaces::default();
        for seen in seen {
            interfaces.note("eth0", seen.clone(), Instant::now());
        }
        interfaces
    }

    #[test]
    fn each_state_in_which_nothing_comes_in_is_a_fault_with_its_cause() {
        let on = |up, carrier| Seen::of(&link(up, carrier, 1500), "native", None);
        let now = Instant::now();
        for (seen, problem, cause) in [
            (on(false, false), "interface eth0 is down", "`ip link`"),
            (on(true, false), "interface eth0 has no carrier", "cable"),
            (Seen::missing(), "interface eth0 does not exist", "deleted"),
        ] {
            let interfaces = noted(&[on(true, true), seen]);
            assert_eq!(interfaces.problems(now), [problem]);
            let (what, causes) = interfaces.fault(now).unwrap();
            assert_eq!(what, format!("{problem}, so nothing is forwarded there"));
            assert!(causes.contains(cause), "{causes}");
        }
        let well = noted(&[on(true, true)]);
        assert_eq!(well.problems(now), [""; 0]);
        assert_eq!(well.fault(now), None);
    }

    #[test]
    fn program_that_cannot_be_attached_is_a_problem_with_its_reason() {
        let refused = Some("EINVAL".to_owned());
        let interfaces = noted(&[Seen::of(&link(true, true, 1500), "detached", refused)]);
        let problems = interfaces.problems(Instant::now());
        assert_eq!(
            problems,
            ["interface eth0: the program is detached: EINVAL"]
        );
    }

    #[test]
    fn mtu_that_falls_is_told_for_a_while_or_until_it_is_back() {
        let of = |mtu| Seen::of(&link(true, true, mtu), "native", None);
        let now = Instant::now();
        let told = |mtus: &[u32]| {
            let seen: Vec<Seen> = mtus.iter().map(|mtu| of(*mtu)).collect();
            noted(&seen)
        };
        assert_eq!(told(&[1400, 1500]).problems(now), [""; 0]);
        let fallen = told(&[1500, 1450, 1400]);
        let [problem] = &fallen.problems(now)[..] else {
            panic!("{fallen:?}");
        };
        assert!(problem.contains("from 1500 to 1400"), "{problem}");
        assert!(fallen.fault(now).is_some());
        let later = now + REMEMBERED + Duration::from_secs(1);
        assert_eq!(fallen.fault(later), None);
        // One that is made anew is held against the old one.
        let again = noted(&[of(1500), Seen::missing(), of(1400)]);
        assert_eq!(again.problems(now).len(), 1, "{again:?}");
        assert_eq!(told(&[1500, 1400, 1500]).problems(now), [""; 0]);
    }
}
