//! The daemon killed at every moment of a change that it passes.
//!
//! The program is `balancer` with a listener that ends the process by SIGKILL
//! ([`balancer_user::moment`]). Each script is run once to the end, which says
//! what it passes; then it is begun again and again, and killed at one of
//! these. Whatever the moment, the next daemon has one revision in force,
//! whole, down to the kernel's slots, and says what became of the other.
//!
//! `BALANCER_TEST_EVERY_CRASH=1` kills at every single pass of every script.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use balancer_tests::balancer::Balancer;
use balancer_tests::kernel::{configuration, held, wanted};
use balancer_tests::lab::Lab;
use balancer_user::api::types::{ApplyRequest, Change, How};
use balancer_user::config::model::Config;
use balancer_user::moment::Moment;
use balancer_user::revision::Outcome;

use crate::LIMIT;
use crate::fixture::{
    Api, Service, balancer, l2, load, stop_unharmed, v4, wait_answers, web_servers,
};

/// How a change is made.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Script {
    /// In stages, to the commit.
    Staged,
    /// In one stage, and nobody confirms it.
    Unconfirmed,
    /// By command, at once.
    Command,
}

/// Both configurations that the scripts go between. New flows come to `web`,
/// whose backends stay; in `pool` one backend goes and one is proven; a
/// service goes and one comes, which takes another program.
struct Sides([String; 2]);

impl Sides {
    fn of(lab: &Lab, file: &str) -> Result<Self> {
        let node = file.split("[[service]]").next().context("no file")?;
        let node = node.replacen("hold = \"0s\"", "hold = \"0s\"\nkeep_revisions = 3", 1);
        let side = |weight: u16, skipped: usize, forward: &'static str, name: &'static str| {
            let named = "name = \"backend0\"\n";
            let web = Service::web_l2(lab).toml();
            let web = web.replacen(named, &format!("{named}weight = {weight}\n"), 1);
            let mut backends = v4(lab.backends());
            backends.remove(skipped);
            let pool = Service {
                name: "pool",
                ..Service::web(lab.vips()[2], "l2", backends.clone())
            };
            let extra = Service {
                name,
                port: 53,
                protocol: "udp",
                forward,
                health: "",
                ..Service::web(lab.vips()[2], forward, backends)
            };
            format!("{node}{web}\n{}\n{}", pool.toml(), extra.toml())
        };
        Ok(Self([
            side(100, 0, "ipip", "old"),
            side(130, 1, "gue", "new"),
        ]))
    }
}

struct Bed<'a> {
    balancer: Balancer<'a>,
    sides: Sides,
    orders: PathBuf,
}

impl<'a> Bed<'a> {
    fn start(lab: &'a Lab) -> Result<Self> {
        let mut balancer = balancer(lab, &format!("table_size = 1009\n{}", text(lab)?))?;
        let sides = Sides::of(lab, &fs::read_to_string(balancer.config())?)?;
        let orders = balancer.config().with_file_name("orders");
        let program = Path::new(env!("CARGO_BIN_EXE_mortal"));
        balancer.become_program(program, &[("MORTAL_ORDERS", &orders)]);
        balancer.kill()?;
        balancer.restart()?;
        let bed = Self {
            balancer,
            sides,
            orders,
        };
        // From here on both sides are known.
        let first = bed.request(&bed.sides.0[0], &[100]);
        Api::new(&bed.balancer)?.apply(&first, &mut |_| {})?;
        Ok(bed)
    }

    fn request(&self, text: &str, stages: &[u8]) -> ApplyRequest {
        ApplyRequest {
            name: "side.toml".to_owned(),
            text: text.to_owned(),
            how: How {
                allow: ["blast-radius", "churn", "no-health-check"]
                    .map(ToOwned::to_owned)
                    .to_vec(),
                stages: Some(stages.to_vec()),
                hold_millis: Some(0),
                ..How::default()
            },
        }
    }

    /// What is in force.
    fn running(&self) -> Result<Config> {
        configuration(&Api::new(&self.balancer)?.config()?)
    }

    /// Where a script leads to from here.
    fn target(&self, script: Script, running: &Config) -> Result<(Config, String)> {
        let mut other = None;
        for text in &self.sides.0 {
            let config = configuration(text)?;
            let is_this = config.service("new").is_some() == running.service("new").is_some();
            if !is_this {
                other = Some((config, text.clone()));
            }
        }
        let (mut config, text) = other.context("no other side")?;
        if script == Script::Command {
            config = running.clone();
            let web = config.service_mut("web").context("no service")?;
            let backend = web.backend_mut("backend2").context("no backend")?;
            backend.weight = if backend.weight == 100 { 120 } else { 100 };
        }
        Ok((config, text))
    }

    /// Makes the change; the daemon may end meanwhile.
    fn play(&self, script: Script, target: &(Config, String)) -> Result<()> {
        let api = Api::new(&self.balancer)?;
        let mut request = self.request(&target.1, &[10, 100]);
        match script {
            Script::Staged => {
                request.how.hold_millis = Some(20);
                api.apply(&request, &mut |_| {})?;
            }
            Script::Unconfirmed => {
                request.how.stages = Some(vec![100]);
                request.how.confirm_within_millis = Some(20);
                api.apply(&request, &mut |_| {})?;
            }
            Script::Command => {
                let web = target.0.service("web").context("no service")?;
                api.change(Change::BackendWeight {
                    service: "web".to_owned(),
                    backend: "backend2".to_owned(),
                    weight: web.backend("backend2").context("no backend")?.weight,
                })?;
            }
        }
        Ok(())
    }

    /// The moments that a whole script passes.
    fn moments_of(&self, script: Script) -> Result<Vec<String>> {
        let target = self.target(script, &self.running()?)?;
        fs::write(&self.orders, "note\n")?;
        self.play(script, &target)?;
        fs::remove_file(&self.orders)?;
        let passed = self.orders.with_extension("passed");
        let moments = fs::read_to_string(&passed)?;
        fs::remove_file(passed)?;
        Ok(moments.lines().map(ToOwned::to_owned).collect())
    }

    /// Begins a script, kills the daemon at that moment, starts the next one
    /// and looks; false if the moment did not come.
    fn die_at(&mut self, script: Script, moment: &str) -> Result<bool> {
        let before = self.running()?;
        let target = self.target(script, &before)?;
        fs::write(&self.orders, moment)?;
        let played = self.play(script, &target);
        fs::remove_file(&self.orders)?;
        let died = played.is_err();
        let _ = fs::remove_file(self.orders.with_extension("passed"));
        if died {
            self.balancer.process().wait(LIMIT)?;
        }
        self.balancer.kill()?;
        let said = self.balancer.log().len();
        self.balancer.restart()?;
        let said = self.balancer.log().split_off(said);
        self.is_whole(&before, &target.0)
            .and_then(|()| self.is_said(&said))
            .with_context(|| format!("{script:?} killed at {moment}, then it said\n{said}"))?;
        Ok(died)
    }

    fn is_whole(&self, before: &Config, after: &Config) -> Result<()> {
        let api = Api::new(&self.balancer)?;
        let history = api.history()?;
        ensure!(history.damaged.is_empty(), "{:?}", history.damaged);
        ensure!(history.change_under_way.is_none());
        let in_force = history.in_force.context("no revision is in force")?;
        let stored = api.revision(in_force)?;
        ensure!(stored.revision.is_committed(), "{:?}", stored.revision);
        let config = configuration(&stored.config)?;
        ensure!(
            config == *before || config == *after,
            "revision {in_force} is a mixture:\n{}",
            stored.config
        );
        ensure!(configuration(&api.config()?)? == config, "another runs");
        for revision in &history.revisions {
            let number = revision.number;
            match &revision.outcome {
                Outcome::Pending => bail!("revision {number} is pending"),
                Outcome::Committed { .. } => {
                    ensure!(number <= in_force, "{number} is newer and committed");
                }
                Outcome::Undone { .. } | Outcome::Interrupted { .. } => {}
            }
        }
        let verification = api.verify()?;
        ensure!(verification.is_right, "{:?}", verification.findings);
        let held = held(&self.balancer)?;
        let owners: BTreeMap<String, Vec<String>> = held
            .into_iter()
            .map(|(name, service)| (name, service.owners))
            .collect();
        let wanted = wanted(&config);
        ensure!(
            owners.keys().eq(wanted.keys()),
            "the kernel has {:?}",
            owners.keys()
        );
        for (name, wanted) in wanted {
            let differ = wanted.iter().zip(&owners[&name]).filter(|(a, b)| a != b);
            ensure!(
                wanted.len() == owners[&name].len() && differ.count() == 0,
                "service {name}: the slots are not those of revision {in_force}"
            );
        }
        Ok(())
    }
}

impl Bed<'_> {
    /// The log has the revision in force, and the one that was cut off.
    fn is_said(&self, said: &str) -> Result<()> {
        let history = Api::new(&self.balancer)?.history()?;
        let in_force = history.in_force.unwrap_or_default();
        ensure!(
            said.contains(&format!("forwarding revision={in_force} ")),
            "it is not said that revision {in_force} is in force"
        );
        let newest = history.revisions.last().context("no revision")?;
        if let Outcome::Interrupted { .. } = newest.outcome {
            let part = format!("not in force revision={} ", newest.number);
            // One of an earlier round was told then.
            let told = self.balancer.log().matches(&part).count();
            ensure!(told == 1, "{part:?} is said {told} times");
        }
        Ok(())
    }
}

fn text(lab: &Lab) -> Result<String> {
    Ok(Service::web_l2(lab).toml())
}

/// At which passes of a script the daemon is killed: at the first one of each
/// moment and at the last flip of a whole change, on the way back for an
/// undoing, and where disk and kernel differ for a command.
fn chosen(script: Script, moments: &[String]) -> Vec<String> {
    let mut passes: BTreeMap<&str, usize> = BTreeMap::new();
    let mut numbered: Vec<(&str, usize)> = Vec::new();
    for moment in moments {
        let pass = passes.entry(moment).or_default();
        *pass += 1;
        numbered.push((moment, *pass));
    }
    if std::env::var_os("BALANCER_TEST_EVERY_CRASH").is_none() {
        let mut seen = BTreeSet::new();
        match script {
            Script::Staged => numbered.retain(|(moment, pass)| {
                *pass == 1 || *moment == "Flipped" && *pass == passes["Flipped"]
            }),
            Script::Unconfirmed => {
                let way_back = numbered
                    .iter()
                    .position(|(moment, _)| *moment == "UndoBegan");
                numbered.drain(..way_back.unwrap_or_default());
                numbered.retain(|(moment, _)| seen.insert(*moment));
            }
            Script::Command => {
                let apart = ["RevisionStored", "HalfPruned", "SeatsStored", "Flipped"];
                numbered.retain(|(moment, pass)| *pass == 1 && apart.contains(moment));
            }
        }
    }
    let orders = numbered.into_iter();
    orders
        .map(|(moment, pass)| format!("{moment} {pass}"))
        .collect()
}

#[test]
fn daemon_killed_at_each_moment_of_a_change_comes_back_with_one_revision_whole() -> Result<()> {
    let lab = l2(4)?;
    let _servers = web_servers(&lab)?;
    let mut bed = Bed::start(&lab)?;
    let load = load(&lab, Service::web_l2(&lab).dial())?;
    wait_answers(&load, 200)?;
    let mut killed = BTreeSet::new();
    let began = Instant::now();
    for script in [Script::Staged, Script::Unconfirmed, Script::Command] {
        // A daemon that has just started, as it is each time after this.
        bed.balancer.kill()?;
        bed.balancer.restart()?;
        let moments = bed.moments_of(script)?;
        println!("{script:?} passes {}", moments.join(", "));
        for moment in chosen(script, &moments) {
            // Who is seated where may ask for another copy or not.
            let mut tries = 0..3;
            while tries.next().is_some() {
                if bed.die_at(script, &moment)? {
                    println!("{script:?} killed at {moment}, {:?}", began.elapsed());
                    killed.extend(moment.split(' ').next().map(ToOwned::to_owned));
                    break;
                }
            }
        }
    }
    for moment in Moment::ALL {
        let name = format!("{moment:?}");
        ensure!(killed.contains(&name), "never killed at {name}");
    }
    wait_answers(&load, 200)?;
    let answered = stop_unharmed(load)?;
    println!("{answered} requests answered, 0 failed");
    Ok(())
}
