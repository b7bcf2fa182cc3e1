//! Random configurations, and random changes between them.
//!
//! Each step draws a change of what runs and how it ends: committed, rolled
//! back in a stage, not confirmed, found to do harm, made by command, or cut
//! off by SIGKILL. After it the kernel's slots, read from the pinned maps, are
//! compared one by one with the plan, with the configuration and, after an
//! undo, with what was there before. Flows go through the attached program
//! itself: whoever's backend lives keeps it, unless the plan said otherwise.
//!
//! `BALANCER_TEST_SEED` and `BALANCER_TEST_CHANGES` choose the stream and its
//! length. A failure says both, and every step up to it.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail, ensure};
use balancer_tests::balancer::{Balancer, service_of};
use balancer_tests::frames::Rng;
use balancer_tests::kernel::{Held, HeldService, configuration, held, wanted};
use balancer_tests::lab::{Lab, wait_for};
use balancer_tests::live::{LiveProgram, Segment, segment};
use balancer_user::api::progress::Progress;
use balancer_user::api::types::{ApplyRequest, Change, How, PlanRequest, RollbackRequest};
use balancer_user::plan::{Fate, Plan, ServicePlan};
use balancer_user::revision::{Outcome, Revision};

use crate::LIMIT;
use crate::fixture::{Api, balancer, l2};

/// Steps of a run, and the backends of the lab.
const STEPS: u64 = 30;
const NODES: u8 = 6;
/// Flows that each service of TCP is followed by.
const FLOWS: u16 = 24;
/// SYNs by which the daemon sees who gets them.
const FLOOD: u16 = 600;
/// The service that only a harmful change touches: its backends share alike.
const STEADY: &str = "steady";
/// What these changes are not judged by.
const ALLOWED: [&str; 7] = [
    "blast-radius",
    "churn",
    "dominant-backend",
    "no-health-check",
    "single-backend",
    "table-share",
    "undrains",
];

#[derive(Debug, Clone, PartialEq)]
struct Member {
    node: usize,
    weight: u16,
    drain: bool,
}

#[derive(Debug, Clone, PartialEq)]
struct Service {
    name: String,
    address: IpAddr,
    ports: Vec<u16>,
    protocol: &'static str,
    forward: &'static str,
    members: Vec<Member>,
}

/// A configuration that is drawn.
#[derive(Debug, Clone, PartialEq)]
struct Model(Vec<Service>);

impl Service {
    fn draw(rng: &mut Rng, lab: &Lab, number: usize) -> Self {
        let is_v6 = rng.chance(25);
        let vips = lab.vips();
        let mut vips = vips.iter().filter(|vip| vip.is_ipv6() == is_v6);
        let first = rng.below(lab.backends().len());
        let members = (0..2 + rng.below(4)).map(|at| Member {
            node: (first + at) % lab.backends().len(),
            weight: rng.pick(&[1, 10, 50, 100, 100, 100, 250]),
            drain: at > 1 && rng.chance(20),
        });
        Self {
            name: format!("s{number}"),
            members: members.collect(),
            address: *vips.nth(rng.below(2)).unwrap_or(&lab.vips()[0]),
            ports: (0..1 + rng.below(3))
                .map(|at| 1000 * number as u16 + 1000 + at as u16)
                .collect(),
            protocol: rng.pick(&["tcp", "tcp", "udp"]),
            forward: if is_v6 {
                "l2"
            } else {
                rng.pick(&["l2", "ipip", "gue", "nat"])
            },
        }
    }

    fn toml(&self, lab: &Lab) -> String {
        let Self {
            name,
            address,
            ports,
            protocol,
            forward,
            members,
        } = self;
        let mut text = format!(
            "[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {ports:?}\n\
             protocol = \"{protocol}\"\nforward = \"{forward}\"\nfail_open_below = 0.0\n"
        );
        for Member {
            node,
            weight,
            drain,
        } in members
        {
            let node = lab.backend(*node);
            let server: IpAddr = match address {
                IpAddr::V4(_) => node.v4().into(),
                IpAddr::V6(_) => node.v6().into(),
            };
            let _ = write!(
                text,
                "\n[[service.backend]]\nname = \"{}\"\naddress = \"{server}\"\nweight = {weight}\n\
                 drain = {drain}\n",
                node.name()
            );
        }
        text
    }

    fn takes_traffic(&self) -> usize {
        let takes = |member: &&Member| !member.drain && member.weight > 0;
        self.members.iter().filter(takes).count()
    }

    /// Changes something of it; says what.
    fn change(&mut self, rng: &mut Rng, nodes: usize) -> String {
        let at = rng.below(self.members.len());
        let last = self.takes_traffic() <= 1;
        let name = &self.name;
        match rng.below(8) {
            0 | 1 => {
                let used: BTreeSet<usize> = self.members.iter().map(|it| it.node).collect();
                let Some(node) = (0..nodes).find(|node| !used.contains(node)) else {
                    return format!("{name} has all");
                };
                let weight = rng.pick(&[1, 50, 100, 250]);
                self.members.insert(
                    at,
                    Member {
                        node,
                        weight,
                        drain: false,
                    },
                );
                format!("{name}: backend{node} is added with {weight}")
            }
            2 if !last => {
                let gone = self.members.remove(at);
                format!("{name}: backend{} is removed", gone.node)
            }
            3 | 4 => {
                let member = &mut self.members[at];
                member.weight = rng.pick(&[1, 10, 50, 100, 250, 1000]);
                format!("{name}: backend{} weighs {}", member.node, member.weight)
            }
            5 if !last || self.members[at].drain => {
                let member = &mut self.members[at];
                member.drain = !member.drain;
                format!("{name}: backend{} drains: {}", member.node, member.drain)
            }
            6 if self.ports.len() > 1 => {
                let gone = self.ports.pop();
                format!("{name}: port {gone:?} goes")
            }
            6 => {
                let port = self.ports[0] + 10 + rng.below(5) as u16;
                self.ports.push(port);
                format!("{name}: port {port} comes")
            }
            _ if self.address.is_ipv4() => {
                self.forward = rng.pick(&["l2", "ipip", "gue", "nat"]);
                format!("{name} is forwarded by {}", self.forward)
            }
            _ => {
                self.members.rotate_left(1);
                format!("{name}: another order")
            }
        }
    }
}

impl Model {
    fn draw(rng: &mut Rng, lab: &Lab) -> Self {
        let members = (0..4).map(|node| Member {
            node,
            weight: 100,
            drain: false,
        });
        let steady = Service {
            name: STEADY.to_owned(),
            address: lab.vip_v4().into(),
            ports: vec![9000],
            protocol: "tcp",
            forward: rng.pick(&["l2", "ipip", "gue", "nat"]),
            members: members.collect(),
        };
        let drawn = (0..3).map(|at| Service::draw(rng, lab, at));
        Self(std::iter::once(steady).chain(drawn).collect())
    }

    /// Another one, some changes away; what they are.
    fn next(&self, rng: &mut Rng, lab: &Lab) -> (Self, Vec<String>) {
        let mut next = self.clone();
        let mut said = Vec::new();
        for _ in 0..1 + rng.below(3) {
            let at = 1 + rng.below(next.0.len() - 1);
            match rng.below(10) {
                0 if next.0.len() < 7 => {
                    let free = |it: &usize| next.0.iter().all(|s| s.name != format!("s{it}"));
                    let number = (0..7).find(free).unwrap_or(7);
                    next.0.push(Service::draw(rng, lab, number));
                    said.push(format!("s{number} comes"));
                }
                1 if next.0.len() > 3 => {
                    let gone = next.0.remove(at);
                    said.push(format!("{} goes", gone.name));
                }
                _ => said.push(next.0[at].change(rng, lab.backends().len())),
            }
        }
        (next, said)
    }

    fn service(&self, name: &str) -> Option<&Service> {
        self.0.iter().find(|it| it.name == name)
    }
}

/// How a change ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    Committed,
    Command,
    RolledBack,
    Unconfirmed,
    Harmful,
    Killed,
}

/// A flow that was opened, and who has it.
#[derive(Debug, Clone)]
struct Flow {
    service: String,
    source: SocketAddr,
    destination: SocketAddr,
    backend: String,
}

struct Bed<'a> {
    lab: &'a Lab,
    balancer: Balancer<'a>,
    api: Api,
    node: String,
    running: Model,
    flows: Vec<Flow>,
    /// Ports of clients, each of one flow until all had one.
    next_port: Cell<u16>,
    /// Flows that were found where they belong.
    kept: Cell<usize>,
}

impl<'a> Bed<'a> {
    fn start(lab: &'a Lab, rng: &mut Rng) -> Result<Self> {
        let running = Model::draw(rng, lab);
        let services: Vec<String> = running.0.iter().map(|it| it.toml(lab)).collect();
        let text = format!("table_size = 1009\n{}", services.join("\n"));
        let balancer = balancer(lab, &text)?;
        let file = fs::read_to_string(balancer.config())?;
        let node = file.split("[[service]]").next().unwrap_or_default();
        Ok(Self {
            lab,
            api: Api::new(&balancer)?,
            balancer,
            node: node.to_owned(),
            running,
            flows: Vec::new(),
            next_port: Cell::new(2_000),
            kept: Cell::new(0),
        })
    }
}

impl Bed<'_> {
    fn text(&self, model: &Model) -> String {
        let services: Vec<String> = model.0.iter().map(|it| it.toml(self.lab)).collect();
        format!("{}\n{}", self.node, services.join("\n"))
    }

    fn request(&self, model: &Model, how: How) -> ApplyRequest {
        ApplyRequest {
            name: "drawn.toml".to_owned(),
            text: self.text(model),
            how: How {
                allow: ALLOWED.map(ToOwned::to_owned).to_vec(),
                ..how
            },
        }
    }

    fn plan(&self, model: &Model) -> Result<Plan> {
        let planned = self.api.plan(&PlanRequest {
            text: self.text(model),
            name: "drawn.toml".to_owned(),
            allow: ALLOWED.map(ToOwned::to_owned).to_vec(),
            color: false,
            flows: false,
            frames: Vec::new(),
        })?;
        ensure!(planned.errors == 0, "{}", planned.text);
        planned.plan.context("no plan")
    }

    /// The kernel holds what a configuration asks for, and the daemon knows.
    fn is_as_configured(&self) -> Result<Held> {
        let config = configuration(&self.text(&self.running))?;
        let found = held(&self.balancer)?;
        let wanted = wanted(&config);
        ensure!(found.keys().eq(wanted.keys()), "{:?}", found.keys());
        let status = self.api.status()?;
        for service in &config.services {
            let held = &found[&service.name];
            let name = &service.name;
            ensure!(held.owners == wanted[name], "service {name}: other slots");
            let ports: BTreeSet<u16> = held.keys.iter().map(|key| key.port).collect();
            ensure!(
                ports == service.ports.iter().collect(),
                "service {name}: ports {ports:?}"
            );
            ensure!(held.keys.iter().all(|key| key.address == service.address));
            let counts = held.counts();
            let told = service_of(&status, name).context("no status")?;
            for backend in &told.backends {
                let has = counts.get(backend.name.as_str()).copied();
                ensure!(
                    backend.slot_count == has.unwrap_or(0),
                    "{name}: {backend:?}"
                );
            }
        }
        let verification = self.api.verify()?;
        ensure!(verification.is_right, "{:?}", verification.findings);
        Ok(found)
    }

    /// Opens flows to every service of TCP.
    fn open_flows(&mut self) -> Result<()> {
        let program = self.program()?;
        let mut flows = Vec::new();
        for service in self.running.0.iter().filter(|it| it.protocol == "tcp") {
            for at in 0..FLOWS {
                let port = service.ports[usize::from(at) % service.ports.len()];
                let destination = SocketAddr::new(service.address, port);
                let source = self.client(destination);
                let pass = |kind| {
                    let packet = segment(source, destination, kind)?;
                    let backend = program.backend(self.lab, service.forward, &packet)?;
                    backend.context("a flow is not forwarded")
                };
                let (first, then) = (pass(Segment::Syn)?, pass(Segment::Ack)?);
                ensure!(first == then, "{source}: {first}, then {then}");
                flows.push(Flow {
                    service: service.name.clone(),
                    source,
                    destination,
                    backend: then.to_owned(),
                });
            }
        }
        self.flows = flows;
        Ok(())
    }

    /// The program that is attached, once there is only one.
    fn program(&self) -> Result<LiveProgram> {
        wait_for("one program", LIMIT, || {
            LiveProgram::of(&self.balancer).ok()
        })
    }

    /// A client of that family from which no packet came lately.
    fn client(&self, of: SocketAddr) -> SocketAddr {
        let port = self.next_port.get().checked_add(1).unwrap_or(2_000);
        self.next_port.set(port);
        let client = self.lab.client(0);
        let address: IpAddr = match of {
            SocketAddr::V4(_) => client.v4().into(),
            SocketAddr::V6(_) => client.v6().into(),
        };
        SocketAddr::new(address, port)
    }

    /// Flows are where they were, but for those that may break; `model` says
    /// how they are forwarded.
    fn flows_stay(&self, model: &Model, may_break: impl Fn(&Flow) -> bool) -> Result<()> {
        let program = self.program()?;
        for flow in self.flows.iter().filter(|flow| !may_break(flow)) {
            let service = model.service(&flow.service).context("no service")?;
            let packet = segment(flow.source, flow.destination, Segment::Ack)?;
            let backend = program.backend(self.lab, service.forward, &packet)?;
            ensure!(
                backend == Some(flow.backend.as_str()),
                "{flow:?} now goes to {backend:?}"
            );
            self.kept.set(self.kept.get() + 1);
        }
        Ok(())
    }

    /// Makes a change and gives how it ended; acts as each stage begins, and
    /// each second in it.
    fn make(
        &self,
        request: &ApplyRequest,
        mut act: impl FnMut() -> Result<()>,
    ) -> Result<Box<Revision>> {
        let (sender, events) = mpsc::channel();
        let socket = self.balancer.socket();
        std::thread::scope(|scope| {
            let applying = scope.spawn(move || {
                let api = Api::at(socket)?;
                // Who hears nothing any more has failed and said so.
                api.apply(request, &mut |event| drop(sender.send(event.clone())))
            });
            for event in events {
                if matches!(event, Progress::Stage { .. } | Progress::Figures { .. }) {
                    act()?;
                }
            }
            match applying.join().map_err(|_| anyhow!("it panicked"))?? {
                Progress::Over { revision } => Ok(revision),
                other => bail!("it ended with {other:?}"),
            }
        })
    }

    /// SYNs to a service, of flows that nobody has seen.
    fn flood(&self, service: &Service) -> Result<()> {
        let program = self.program()?;
        let destination = SocketAddr::new(service.address, service.ports[0]);
        for _ in 0..FLOOD {
            let source = self.client(destination);
            for kind in [Segment::Syn, Segment::Ack] {
                let packet = segment(source, destination, kind)?;
                program.backend(self.lab, service.forward, &packet)?;
            }
        }
        Ok(())
    }

    /// One change, to its end.
    fn step(&mut self, rng: &mut Rng, end: End, next: Model) -> Result<()> {
        let before = self.is_as_configured()?;
        self.open_flows()?;
        let plan = self.plan(&next)?;
        match end {
            End::Committed => {
                let stages = rng.pick(&[&[100][..], &[50, 100], &[1, 10, 50, 100]]);
                let request = self.request(&next, how(stages, 0));
                let revision = self.make(&request, || self.flows_stay_meanwhile(&plan, &next))?;
                ensure!(revision.is_committed(), "{:?}", revision.outcome);
                self.is_made(&plan, next, &before)
            }
            End::Command => {
                let is_changed = |it: &&Service| self.running.service(&it.name) != Some(*it);
                let service = next.0.iter().find(is_changed).context("no change")?;
                let member = &service.members[0];
                self.api.change(Change::BackendWeight {
                    service: service.name.clone(),
                    backend: self.lab.backend(member.node).name().to_owned(),
                    weight: member.weight,
                })?;
                self.is_made(&plan, next, &before)
            }
            End::RolledBack => {
                let request = self.request(&next, how(&[rng.pick(&[1, 10, 50, 90]), 100], 60_000));
                let undo = RollbackRequest::default();
                let mut is_begun = false;
                let revision = self.make(&request, || {
                    self.flows_stay_meanwhile(&plan, &next)?;
                    // With nothing under way it would lead further back.
                    if !std::mem::replace(&mut is_begun, true) {
                        self.api.roll_back(&undo)?;
                    }
                    Ok(())
                })?;
                self.is_undone(&plan, &revision, "wanted it", &before)
            }
            End::Unconfirmed => {
                let mut request = self.request(&next, how(&[50, 100], 0));
                request.how.confirm_within_millis = Some(50);
                let revision = self.make(&request, || Ok(()))?;
                self.is_undone(&plan, &revision, "nobody confirmed it", &before)
            }
            End::Harmful => {
                let heavy = next.service(STEADY).context("no service")?;
                let request = self.request(&next, how(&[100], 60_000));
                let revision = self.make(&request, || self.flood(heavy))?;
                self.is_undone(&plan, &revision, "of the traffic by this change", &before)
            }
            End::Killed => {
                self.cut_off(&next)?;
                ensure!(
                    held(&self.balancer)? == before,
                    "the kernel has other slots"
                );
                self.is_as_configured()?;
                self.flows_stay(&self.running, |flow| cuts_off(&plan, flow))
            }
        }
    }

    /// Flows in the middle of a change: where the service is the same to its
    /// clients, all of them stay.
    fn flows_stay_meanwhile(&self, plan: &Plan, next: &Model) -> Result<()> {
        self.flows_stay(&self.running, |flow| {
            let forward = |model: &Model| model.service(&flow.service).map(|it| it.forward);
            breaks(plan, flow) || forward(next) != forward(&self.running)
        })
    }

    /// Begins a change and kills the daemon in its first stage.
    fn cut_off(&mut self, next: &Model) -> Result<()> {
        let request = self.request(next, how(&[50, 100], 60_000));
        let socket = self.balancer.socket();
        let applying = std::thread::spawn(move || Api::at(socket)?.apply(&request, &mut |_| {}));
        wait_for("the first stage", LIMIT, || {
            let change = self.api.status().ok()?.change_under_way?;
            change.contains("stage 1 of 2").then_some(())
        })?;
        self.balancer.kill()?;
        let ended = applying.join().map_err(|_| anyhow!("it panicked"))?;
        ensure!(ended.is_err(), "{ended:?}");
        self.balancer.restart()?;
        let newest = self.api.history()?.revisions.pop();
        let outcome = newest.context("no revision")?.outcome;
        ensure!(
            matches!(outcome, Outcome::Interrupted { .. }),
            "{outcome:?}"
        );
        Ok(())
    }

    /// The change is in force, as planned.
    fn is_made(&mut self, plan: &Plan, next: Model, before: &Held) -> Result<()> {
        self.running = next;
        let after = self.is_as_configured()?;
        as_planned(plan, before, &after)?;
        self.flows_stay(&self.running, |flow| breaks(plan, flow))
    }

    /// All is as before, and the revision says why.
    fn is_undone(&self, plan: &Plan, made: &Revision, part: &str, before: &Held) -> Result<()> {
        match &made.outcome {
            Outcome::Undone { why, .. } if why.contains(part) => {}
            other => bail!("{part:?} was expected: {other:?}"),
        }
        ensure!(
            self.is_as_configured()? == *before,
            "the kernel has other slots"
        );
        // Whoever was to go kept its seat; a service that was begun anew did not.
        self.flows_stay(&self.running, |flow| cuts_off(plan, flow))
    }
}

fn how(stages: &[u8], hold_millis: u64) -> How {
    How {
        stages: Some(stages.to_vec()),
        hold_millis: Some(hold_millis),
        ..How::default()
    }
}

fn plan_of<'p>(plan: &'p Plan, flow: &Flow) -> Option<&'p ServicePlan> {
    plan.services.iter().find(|it| it.name == flow.service)
}

/// Whether the plan says that the flow breaks.
fn breaks(plan: &Plan, flow: &Flow) -> bool {
    let mut breaks = plan_of(plan, flow)
        .into_iter()
        .flat_map(|it| &it.established.breaks);
    breaks.any(|it| {
        it.backend
            .as_ref()
            .is_none_or(|backend| *backend == flow.backend)
    })
}

/// Whether the plan says that all flows of its service break.
fn cuts_off(plan: &Plan, flow: &Flow) -> bool {
    let mut breaks = plan_of(plan, flow)
        .into_iter()
        .flat_map(|it| &it.established.breaks);
    breaks.any(|it| it.backend.is_none())
}

/// What the kernel held and holds is what the plan said.
fn as_planned(plan: &Plan, before: &Held, after: &Held) -> Result<()> {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for name in names {
        let (was, is) = (before.get(name), after.get(name));
        let Some(planned) = plan.services.iter().find(|it| it.name == *name) else {
            ensure!(was == is, "service {name} changed and is not in the plan");
            continue;
        };
        let owners = |of: Option<&HeldService>| of.map_or_else(Vec::new, |it| it.owners.clone());
        let (was_owners, is_owners) = (owners(was), owners(is));
        ensure!(
            planned.slots_now as usize == was_owners.len(),
            "{planned:?}"
        );
        ensure!(
            planned.slots_after as usize == is_owners.len(),
            "{planned:?}"
        );
        for backend in &planned.backends {
            let count =
                |owners: &[String]| owners.iter().filter(|it| **it == backend.name).count() as u32;
            let (now, then) = (count(&was_owners), count(&is_owners));
            ensure!(
                backend.slots_now.unwrap_or(0) == now && backend.slots_after.unwrap_or(0) == then,
                "service {name}: {now} slots and then {then}: {backend:?}"
            );
        }
        // At another address it is another service of that name.
        let is_another = planned.settings.iter().any(|it| it.key == "address");
        if planned.fate != Fate::Changed || is_another {
            continue;
        }
        let mut moves: BTreeMap<(&String, &String), u32> = BTreeMap::new();
        for (from, to) in was_owners.iter().zip(&is_owners).filter(|(a, b)| a != b) {
            *moves.entry((from, to)).or_default() += 1;
        }
        ensure!(
            planned.slots_moved == moves.values().sum::<u32>(),
            "{planned:?}"
        );
        let said: BTreeMap<(&String, &String), u32> = planned
            .moves
            .iter()
            .filter_map(|it| Some(((it.from.as_ref()?, it.to.as_ref()?), it.slots)))
            .collect();
        ensure!(said == moves, "service {name}: {moves:?}, planned {said:?}");
    }
    Ok(())
}

/// How the steps of a run end, again and again.
const ENDS: [End; 10] = [
    End::Committed,
    End::RolledBack,
    End::Committed,
    End::Command,
    End::Unconfirmed,
    End::Committed,
    End::Harmful,
    End::Committed,
    End::Killed,
    End::Committed,
];

/// A change for such an end.
fn draw(rng: &mut Rng, lab: &Lab, end: End, running: &Model) -> (Model, Vec<String>) {
    let mut next = running.clone();
    match end {
        End::Command => {
            let at = 1 + rng.below(next.0.len() - 1);
            let service = &mut next.0[at];
            let member = &mut service.members[0];
            member.weight = if member.weight == 100 { 30 } else { 100 };
            let Member { node, weight, .. } = *member;
            let said = format!("{}: backend{node} weighs {weight}", service.name);
            (next, vec![said])
        }
        End::Harmful => {
            let heavy = rng.below(4);
            for (at, member) in next.0[0].members.iter_mut().enumerate() {
                member.weight = if at == heavy { 1000 } else { 1 };
            }
            (next, vec![format!("{STEADY}: backend{heavy} gets all")])
        }
        _ => loop {
            // Some draws come back to where they began.
            let (next, said) = running.next(rng, lab);
            if next != *running {
                break (next, said);
            }
        },
    }
}

#[test]
fn after_any_change_the_kernel_is_as_planned_and_after_any_undo_as_before() -> Result<()> {
    let seed = number("BALANCER_TEST_SEED", 1)?;
    let steps = number("BALANCER_TEST_CHANGES", STEPS)?;
    let lab = l2(NODES)?;
    let mut rng = Rng::new(seed);
    let mut bed = Bed::start(&lab, &mut rng)?;
    let mut story = format!("seed {seed}, begins with\n{}\n", bed.text(&bed.running));
    let began = Instant::now();
    for (step, end) in (1..=steps).zip(ENDS.into_iter().cycle()) {
        let (next, said) = draw(&mut rng, &lab, end, &bed.running);
        let line = format!("step {step}, {end:?}: {}", said.join("; "));
        let _ = writeln!(story, "{line}");
        bed.step(&mut rng, end, next)
            .with_context(|| format!("{story}log:\n{}", bed.balancer.log()))?;
        println!("{line} ({:.1?})", began.elapsed());
    }
    println!(
        "seed {seed}: {steps} changes, {} times a flow was where it belongs",
        bed.kept.get()
    );
    ensure!(bed.kept.get() > 0, "no flow was followed");
    Ok(())
}

fn number(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}")),
        Err(_) => Ok(default),
    }
}
