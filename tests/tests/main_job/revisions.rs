//! Revisions over crashes, damage and a change of mind.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of, binary};
use balancer_tests::lab::{Process, wait_for};
use balancer_user::revision::{Outcome, Revision};

use crate::LIMIT;
use crate::apply::history;
use crate::fixture::{
    Service, balancer, get_well, l2, load, stop_unharmed, wait_answers, web_servers,
};

pub(crate) fn weight(balancer: &Balancer<'_>, backend: &str) -> Result<Option<u16>> {
    let status = balancer.status()?;
    Ok(backend_of(&status, "web", backend).map(|it| it.weight))
}

pub(crate) fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// Another weight for the first backend, in the daemon's file.
pub(crate) fn write_weight(balancer: &Balancer<'_>, service: &Service, weight: u16) -> Result<()> {
    let next = service.toml().replacen(
        "name = \"backend0\"\n",
        &format!("name = \"backend0\"\nweight = {weight}\n"),
        1,
    );
    balancer.write_services(&["eth0"], &next)
}

/// An `apply` of a file that goes on in the background.
pub(crate) fn begin_apply(
    balancer: &Balancer<'_>,
    file: &Path,
    options: &[&str],
) -> Result<Process> {
    begin_apply_to(balancer, file, options, &file.with_extension("log"))
}

/// The same; what it says goes to a file.
pub(crate) fn begin_apply_to(
    balancer: &Balancer<'_>,
    file: &Path,
    options: &[&str],
    log: &Path,
) -> Result<Process> {
    let mut command = Command::new(binary());
    command
        .args(["apply", "--yes"])
        .args(options)
        .arg(file)
        .env("BALANCER_SOCKET", balancer.socket());
    Process::spawn("apply", command, log)
}

pub(crate) fn wait_stage(balancer: &Balancer<'_>, part: &str) -> Result<()> {
    balancer.wait_status(&format!("a change at {part:?}"), LIMIT, |status| {
        let change = status.change_under_way.as_ref()?;
        change.contains(part).then_some(())
    })
}

#[test]
fn rollback_leads_to_the_last_good_revision_and_is_one_itself() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 200)?;
    balancer.succeed(&["backend", "weight", "web", "backend0", "150"])?;
    let file = balancer.config();
    write_weight(&balancer, &service, 180)?;
    balancer.succeed(&["apply", "--yes", text(&file)?])?;
    let differences = balancer.command(&["diff", "2", "3"])?;
    ensure!(differences.status.code() == Some(3), "{differences:?}");
    let said = String::from_utf8_lossy(&differences.stdout);
    ensure!(
        said.contains("~ service web, backend backend0, weight = 150 -> 180"),
        "{said}"
    );
    balancer.succeed(&["rollback", "--yes"])?;
    ensure!(weight(&balancer, "backend0")? == Some(150));
    balancer.succeed(&["rollback", "--yes", "--now", "1"])?;
    ensure!(weight(&balancer, "backend0")? == Some(100));
    let known = history(&balancer)?;
    ensure!(known.in_force == Some(5), "{known:?}");
    ensure!(
        known.revisions.iter().all(Revision::is_committed),
        "{known:?}"
    );
    let refused = balancer.command(&["rollback", "--yes", "77"])?;
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        said.contains("there is no revision 77; there are 1 to 5"),
        "{said}"
    );
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}

#[test]
fn unconfirmed_change_is_undone_also_when_nobody_is_there_any_more() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    write_weight(&balancer, &service, 150)?;
    let mut command = begin_apply(&balancer, &balancer.config(), &["--confirm-within", "3s"])?;
    wait_stage(&balancer, "waits for `balancer confirm`")?;
    ensure!(weight(&balancer, "backend0")? == Some(150));
    command.kill()?;
    wait_for("the change to be undone", LIMIT, || {
        (weight(&balancer, "backend0").ok()? == Some(100)).then_some(())
    })?;
    let undone = history(&balancer)?.revisions.pop().context("a revision")?;
    let Outcome::Undone { why, .. } = &undone.outcome else {
        anyhow::bail!("{undone:?}");
    };
    ensure!(why == "nobody confirmed it within 3s", "{why}");

    let _command = begin_apply(&balancer, &balancer.config(), &["--confirm-within", "1m"])?;
    wait_stage(&balancer, "waits for `balancer confirm`")?;
    let second = balancer.command(&["apply", "--yes", text(&balancer.config())?])?;
    let said = String::from_utf8_lossy(&second.stderr);
    let expected = "one change at a time: revision 3 by root";
    ensure!(
        said.contains(expected) && second.status.code() == Some(1),
        "{said}"
    );
    let weight_change = balancer.command(&["backend", "weight", "web", "backend0", "7"])?;
    ensure!(weight_change.status.code() == Some(1), "{weight_change:?}");
    balancer.succeed(&["confirm"])?;
    let known = history(&balancer)?;
    ensure!(known.in_force == Some(3), "{known:?}");
    ensure!(balancer.command(&["confirm"])?.status.code() == Some(1));
    Ok(())
}

#[test]
fn rollback_undoes_the_change_under_way() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    write_weight(&balancer, &service, 150)?;
    let _command = begin_apply(&balancer, &balancer.config(), &["--hold", "1m"])?;
    wait_stage(&balancer, "stage 1 of 4")?;
    balancer.succeed(&["rollback", "--yes"])?;
    ensure!(weight(&balancer, "backend0")? == Some(100));
    let known = history(&balancer)?;
    ensure!(
        known.in_force == Some(1) && known.change_under_way.is_none(),
        "{known:?}"
    );
    // Who types it once more does not end two revisions back.
    let again = balancer.command(&["rollback", "--yes"])?;
    let said = String::from_utf8_lossy(&again.stderr);
    ensure!(
        again.status.code() == Some(1)
            && said.contains("revision 2 is undone already, and 1 is in force"),
        "{said}"
    );
    ensure!(history(&balancer)?.in_force == Some(1));
    Ok(())
}

#[test]
fn daemon_killed_in_the_middle_of_a_change_comes_back_with_the_old_revision() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 200)?;
    // From a file of its own: the daemon's does not change.
    let file = balancer.config().with_file_name("next.toml");
    let own = fs::read_to_string(balancer.config())?;
    let next = own.replacen(
        "name = \"backend0\"\n",
        "name = \"backend0\"\nweight = 150\n",
        1,
    );
    ensure!(next != own);
    fs::write(&file, next)?;
    let options = ["--stages", "50,100", "--hold", "1m"];
    let _command = begin_apply(&balancer, &file, &options)?;
    wait_stage(&balancer, "stage 1 of 2")?;
    balancer.kill()?;
    balancer.restart()?;
    ensure!(weight(&balancer, "backend0")? == Some(100));
    let known = history(&balancer)?;
    ensure!(known.in_force == Some(1), "{known:?}");
    let outcome = &known.revisions[1].outcome;
    ensure!(
        matches!(outcome, Outcome::Interrupted { .. }),
        "{outcome:?}"
    );
    balancer.succeed(&["verify"])?;
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;

    // Once it is committed, another file's configuration outlives a restart.
    balancer.succeed(&["apply", "--yes", text(&file)?])?;
    balancer.kill()?;
    balancer.restart()?;
    ensure!(weight(&balancer, "backend0")? == Some(150));
    ensure!(history(&balancer)?.in_force == Some(3));
    Ok(())
}

#[test]
fn damaged_revision_is_named_and_the_file_holds() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    balancer.succeed(&["backend", "weight", "web", "backend0", "150"])?;
    balancer.kill()?;
    let revisions = balancer.config().with_file_name("state").join("revisions");
    let newest = revisions.join("00000002.json");
    let edited = fs::read_to_string(&newest)?.replace("\"user\": \"root\"", "\"user\": \"nobody\"");
    fs::write(&newest, edited)?;
    balancer.restart()?;
    ensure!(weight(&balancer, "backend0")? == Some(100));
    let known = history(&balancer)?;
    ensure!(known.damaged.contains_key(&2), "{known:?}");
    let log = balancer.log();
    ensure!(log.contains("00000002.json was edited"), "{log}");
    let refused = balancer.command(&["rollback", "--yes", "2"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    ensure!(
        said.contains("revision 2 is damaged and cannot be used"),
        "{said}"
    );
    get_well(&lab, service.dial())?;
    Ok(())
}

/// What is in force after a crash is one revision, whole, and `history` says
/// which; the kernel holds just that.
fn is_whole(balancer: &Balancer<'_>, old: (u64, u16), new: u16) -> Result<u64> {
    let known = history(balancer)?;
    let in_force = known.in_force.context("no revision is in force")?;
    let expected = if in_force == old.0 { old.1 } else { new };
    let found = weight(balancer, "backend0")?;
    ensure!(found == Some(expected), "revision {in_force}: {found:?}");
    for revision in known.revisions.iter().filter(|it| it.number > in_force) {
        let outcome = &revision.outcome;
        let is_over = matches!(
            outcome,
            Outcome::Interrupted { .. } | Outcome::Undone { .. }
        );
        ensure!(is_over, "revision {}: {outcome:?}", revision.number);
    }
    balancer.succeed(&["verify"])?;
    Ok(in_force)
}

#[test]
fn daemon_killed_at_any_moment_of_a_change_comes_back_with_one_revision_whole() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    let file = balancer.config().with_file_name("next.toml");
    let own = fs::read_to_string(balancer.config())?;
    let named = "name = \"backend0\"\n";
    let (mut number, mut was) = (1, 100);
    for (at, moment) in (0..).zip([0, 150, 300, 450, 600, 750, 900, 1050, 1200, 1350]) {
        let next = 120 + 20 * at;
        fs::write(
            &file,
            own.replacen(named, &format!("{named}weight = {next}\n"), 1),
        )?;
        let options = ["--stages", "10,50,100", "--hold", "100ms"];
        let began = Instant::now();
        let _command = begin_apply(&balancer, &file, &options)?;
        let moment = Duration::from_millis(moment);
        wait_for("the moment", LIMIT, || {
            (began.elapsed() >= moment).then_some(())
        })?;
        balancer.kill()?;
        balancer.restart()?;
        number = is_whole(&balancer, (number, was), next)?;
        was = weight(&balancer, "backend0")?.context("a weight")?;
        println!("killed after {moment:?}: revision {number} is in force, weight {was}");
    }
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}

#[test]
fn change_that_cannot_be_stored_is_not_made_and_forwarding_goes_on() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    let revisions = balancer.config().with_file_name("state").join("revisions");
    let away = revisions.with_file_name("away");
    // A file in the directory's place: every write in it fails.
    let spoil = || -> Result<()> {
        fs::rename(&revisions, &away)?;
        Ok(fs::write(&revisions, "")?)
    };
    let mend = || -> Result<()> {
        fs::remove_file(&revisions)?;
        Ok(fs::rename(&away, &revisions)?)
    };
    let file = balancer.config();
    write_weight(&balancer, &service, 150)?;
    spoil()?;
    for arguments in [
        &["apply", "--yes", text(&file)?][..],
        &["backend", "weight", "web", "backend0", "170"],
        &["reload"],
    ] {
        let refused = balancer.command(arguments)?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(1), "{refused:?}");
        ensure!(
            said.contains("cannot be stored, so it was not made"),
            "{said}"
        );
    }
    ensure!(weight(&balancer, "backend0")? == Some(100));
    mend()?;

    // One that cannot be said to be good is not left in force.
    let _command = begin_apply(&balancer, &file, &["--hold", "2s", "--stages", "50,100"])?;
    wait_stage(&balancer, "stage 1 of 2")?;
    spoil()?;
    wait_for("the change to be undone", LIMIT, || {
        (weight(&balancer, "backend0").ok()? == Some(100)).then_some(())
    })?;
    mend()?;
    wait_for("its outcome to be stored", LIMIT, || {
        let stored = fs::read_to_string(revisions.join("00000002.json")).ok()?;
        stored
            .contains("that it is good cannot be stored")
            .then_some(())
    })?;
    balancer.succeed(&["apply", "--yes", text(&file)?])?;
    ensure!(weight(&balancer, "backend0")? == Some(150));
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}
