//! The wall clock is set, by hours, under the running daemon.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of, binary};
use balancer_tests::lab::wait_for;
use balancer_user::watch::Kind;
use balancer_user::watch::incident::Event;

use super::{insist_on_right, wait_problem};
use crate::LIMIT;
use crate::apply::history;
use crate::fixture::{Service, balancer, l2, load, stop_unharmed, wait_answers, web_server};
use crate::incidents::{closed, events, opened};
use crate::revisions::{begin_apply, write_weight};

/// The wall clock of one daemon; those that nobody sets are left alone.
struct FakeClock {
    file: PathBuf,
}

impl FakeClock {
    /// Starts the daemon anew under a clock that is right for now.
    fn give(balancer: &mut Balancer<'_>) -> Result<Self> {
        // Says itself where its library is.
        let output = Command::new("faketime")
            .args(["-m", "-f", "+0", "env"])
            .output();
        let output = output.context("no faketime: `cargo xtask setup` installs it")?;
        let text = String::from_utf8(output.stdout)?;
        let library = text
            .lines()
            .find_map(|line| line.strip_prefix("LD_PRELOAD="));
        let library = library.context("faketime names no library")?.trim();
        let clock = Self {
            file: balancer.config().with_file_name("clock"),
        };
        clock.set("+0")?;
        balancer.stop()?;
        balancer.become_program(
            &binary(),
            &[
                ("LD_PRELOAD", Path::new(library)),
                ("FAKETIME_TIMESTAMP_FILE", &clock.file),
                ("FAKETIME_NO_CACHE", Path::new("1")),
                ("FAKETIME_DONT_FAKE_MONOTONIC", Path::new("1")),
                ("DONT_FAKE_MONOTONIC", Path::new("1")),
            ],
        );
        balancer.restart()?;
        Ok(clock)
    }

    /// By how much it is wrong: `+2h`.
    fn set(&self, wrong: &str) -> Result<()> {
        // In one step: it is read at every call.
        let next = self.file.with_extension("next");
        fs::write(&next, format!("{wrong}\n"))?;
        Ok(fs::rename(next, &self.file)?)
    }
}

#[test]
fn clock_that_is_set_changes_nothing_but_what_people_read() -> Result<()> {
    let lab = l2(3)?;
    let mut servers = lab
        .backends()
        .iter()
        .map(web_server)
        .collect::<Result<Vec<_>>>()?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let clock = FakeClock::give(&mut balancer)?;
    drop(servers.pop());
    let down = opened(&balancer, Kind::BackendDown, Some("backend2"))?;
    // Nobody is sent there now.
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 300)?;
    balancer.succeed(&["backend", "drain", "web", "backend1"])?;
    let file = balancer.config().with_file_name("next.toml");
    write_weight(&balancer, &service, 150)?;
    fs::rename(balancer.config(), &file)?;

    // In the hold of a change.
    let _change = begin_apply(&balancer, &file, &["--hold", "3s"])?;
    balancer.wait_status("the change", LIMIT, |status| {
        status.change_under_way.as_ref().map(drop)
    })?;
    clock.set("+30h")?;
    wait_problem(&balancer, "the clock was set forward by 1day 6h")?;
    let told = opened(&balancer, Kind::Clock, None)?.to_string();
    println!("said: {told}");
    wait_for("the change to be good", LIMIT, || {
        let status = balancer.status().ok()?;
        let backend = backend_of(&status, "web", "backend0")?;
        (backend.weight == 150 && status.change_under_way.is_none()).then_some(())
    })?;
    wait_answers(&load, 300)?;
    // An incident is as long as it was, and no drain is old by it.
    servers.push(web_server(lab.backend(2))?);
    closed(&balancer, down.number)?;
    let ended = events(&balancer)?.into_iter().find_map(|it| match it {
        Event::Closed { incident } if incident.number == down.number => incident.seconds(),
        _ => None,
    });
    ensure!(ended.is_some_and(|it| it < 600), "{ended:?}");
    let old = |it: &Event| it.incident().kind == Kind::OldDrain;
    ensure!(
        !events(&balancer)?.iter().any(old),
        "{:?}",
        events(&balancer)?
    );

    clock.set("-5h")?;
    wait_problem(&balancer, "the clock was set back by 1day 11h")?;
    balancer.succeed(&["backend", "undrain", "web", "backend1"])?;
    balancer.wait_backend("web", "backend2", "up")?;
    wait_answers(&load, 300)?;
    let status = balancer.status()?;
    ensure!(
        status.services[0]
            .backends
            .iter()
            .all(|it| it.state == "up"),
        "{status:?}"
    );
    let rate: f64 = status.services[0]
        .backends
        .iter()
        .map(|it| it.flows_per_second)
        .sum();
    ensure!(rate > 0.0 && rate < 1e6, "{rate} flows a second");
    // In the order in which they came into force.
    let revisions = history(&balancer)?.revisions;
    ensure!(revisions.is_sorted_by_key(|it| it.number), "{revisions:?}");
    let newest = revisions.last().context("no revision")?;
    ensure!(newest.summary.contains("drains no more"), "{newest:?}");
    let answered = stop_unharmed(load)?;
    println!("clock set forward and back: {answered} requests answered, 0 failed");
    insist_on_right(&balancer)
}
