//! The balancer that is changed, with flows through it.

use super::*;

/// A flow that was opened, and who has it.
#[derive(Debug, Clone)]
pub(super) struct Flow {
    pub(super) service: String,
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
    pub(super) backend: String,
}

pub(super) struct Bed<'a> {
    pub(super) lab: &'a Lab,
    pub(super) balancer: Balancer<'a>,
    pub(super) api: Api,
    pub(super) node: String,
    pub(super) running: Model,
    pub(super) flows: Vec<Flow>,
    /// Ports of clients, each of one flow until all had one.
    pub(super) next_port: Cell<u16>,
    /// Flows that were found where they belong.
    pub(super) kept: Cell<usize>,
}

impl<'a> Bed<'a> {
    pub(super) fn start(lab: &'a Lab, rng: &mut Rng) -> Result<Self> {
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
    pub(super) fn text(&self, model: &Model) -> String {
        let services: Vec<String> = model.0.iter().map(|it| it.toml(self.lab)).collect();
        format!("{}\n{}", self.node, services.join("\n"))
    }

    pub(super) fn request(&self, model: &Model, how: How) -> ApplyRequest {
        ApplyRequest {
            name: "drawn.toml".to_owned(),
            text: self.text(model),
            how: How {
                allow: ALLOWED.map(ToOwned::to_owned).to_vec(),
                ..how
            },
        }
    }

    pub(super) fn plan(&self, model: &Model) -> Result<Plan> {
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
    pub(super) fn is_as_configured(&self) -> Result<Held> {
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
    pub(super) fn open_flows(&mut self) -> Result<()> {
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
    pub(super) fn program(&self) -> Result<LiveProgram> {
        wait_for("one program", LIMIT, || {
            LiveProgram::of(&self.balancer).ok()
        })
    }

    /// A client of that family from which no packet came lately.
    pub(super) fn client(&self, of: SocketAddr) -> SocketAddr {
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
    pub(super) fn flows_stay(
        &self,
        model: &Model,
        may_break: impl Fn(&Flow) -> bool,
    ) -> Result<()> {
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
    pub(super) fn make(
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
    pub(super) fn flood(&self, service: &Service) -> Result<()> {
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
    pub(super) fn step(&mut self, rng: &mut Rng, end: End, next: Model) -> Result<()> {
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
    pub(super) fn flows_stay_meanwhile(&self, plan: &Plan, next: &Model) -> Result<()> {
        self.flows_stay(&self.running, |flow| {
            let forward = |model: &Model| model.service(&flow.service).map(|it| it.forward);
            breaks(plan, flow) || forward(next) != forward(&self.running)
        })
    }

    /// Begins a change and kills the daemon in its first stage.
    pub(super) fn cut_off(&mut self, next: &Model) -> Result<()> {
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
    pub(super) fn is_made(&mut self, plan: &Plan, next: Model, before: &Held) -> Result<()> {
        self.running = next;
        let after = self.is_as_configured()?;
        as_planned(plan, before, &after)?;
        self.flows_stay(&self.running, |flow| breaks(plan, flow))
    }

    /// All is as before, and the revision says why.
    pub(super) fn is_undone(
        &self,
        plan: &Plan,
        made: &Revision,
        part: &str,
        before: &Held,
    ) -> Result<()> {
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

pub(super) fn how(stages: &[u8], hold_millis: u64) -> How {
    How {
        stages: Some(stages.to_vec()),
        hold_millis: Some(hold_millis),
        ..How::default()
    }
}
