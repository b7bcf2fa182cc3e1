//! A state directory that is full, read-only, somebody else's or of another
//! version: a change that cannot be written is not made, what failed is said
//! with its way out, and forwarding does not notice.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::{Balancer, backend_of, binary};
use balancer_tests::lab::{Lab, Process, wait_for};
use balancer_user::revision::Outcome;

use crate::LIMIT;
use crate::apply::history;
use crate::fixture::{
    Api, Service, balancer, l2, load, stop_unharmed, wait_answers, web_server, web_servers,
};
use crate::revisions::{begin_apply, begin_apply_to, text, wait_stage, weight, write_weight};

/// Room for some revisions, and soon full.
const DISK: u64 = 256 << 10;

/// Every way to a change is refused with these words, and nothing changes.
fn all_refused(balancer: &Balancer<'_>, parts: &[&str]) -> Result<()> {
    let before = weight(balancer, "backend0")?;
    let revision = history(balancer)?.in_force;
    let file = balancer.config();
    for arguments in [
        &["apply", "--yes", text(&file)?][..],
        &["backend", "weight", "web", "backend0", "170"],
        &["backend", "drain", "web", "backend1"],
        &["reload"],
        &["rollback", "--yes", "--now"],
    ] {
        let refused = balancer.command(arguments)?;
        let said = String::from_utf8_lossy(&refused.stderr);
        ensure!(refused.status.code() == Some(1), "{refused:?}");
        for part in ["cannot be stored, so it was not made"].iter().chain(parts) {
            ensure!(said.contains(part), "{arguments:?}: no {part:?} in\n{said}");
        }
    }
    ensure!(weight(balancer, "backend0")? == before);
    ensure!(history(balancer)?.in_force == revision);
    balancer.succeed(&["verify"])?;
    Ok(())
}

fn problem(balancer: &Balancer<'_>, part: &str) -> Result<()> {
    balancer.wait_status(&format!("the problem {part:?}"), LIMIT, |status| {
        let mut problems = status.problems.iter();
        problems.any(|it| it.contains(part)).then_some(())
    })
}

fn no_problem(balancer: &Balancer<'_>) -> Result<()> {
    balancer.wait_status("no problem", LIMIT, |status| {
        status.problems.is_empty().then_some(())
    })
}

/// What is known of the newest revision.
fn newest_outcome(balancer: &Balancer<'_>) -> Result<Outcome> {
    let newest = history(balancer)?.revisions.pop();
    Ok(newest.context("no revision")?.outcome)
}

#[test]
fn full_disk_stops_changes_at_any_point_and_nothing_else() -> Result<()> {
    let lab = l2(3)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    balancer.succeed(&["backend", "weight", "web", "backend0", "110"])?;
    balancer.succeed(&["backend", "weight", "web", "backend0", "100"])?;
    let load = load(&lab, service.dial())?;
    let disk = balancer.move_state_to_disk(DISK)?;
    let own = fs::read_to_string(balancer.config())?;
    write_weight(&balancer, &service, 150)?;

    // At the start of a change.
    disk.fill()?;
    let parts = [
        "writing ",
        "state/revisions/00000004.toml",
        "No space left on device",
        "make room there",
    ];
    all_refused(&balancer, &parts)?;
    disk.make_room()?;
    // The daemon's own file is as it was: a start would take a new one for
    // a change.
    let file = balancer.config().with_file_name("next.toml");
    fs::rename(balancer.config(), &file)?;
    fs::write(balancer.config(), own)?;

    // In a stage: it cannot be said to be good, so it is undone.
    let options = ["--hold", "2s", "--stages", "50,100"];
    let _first = begin_apply(&balancer, &file, &options)?;
    wait_stage(&balancer, "stage 1 of 2")?;
    disk.fill()?;
    problem(&balancer, "what became of revision 4 cannot be written")?;
    ensure!(weight(&balancer, "backend0")? == Some(100));
    let outcome = newest_outcome(&balancer)?;
    ensure!(
        matches!(&outcome, Outcome::Undone { why, .. } if why.contains("No space left")),
        "{outcome:?}"
    );
    disk.make_room()?;
    no_problem(&balancer)?;
    let stored = fs::read_to_string(balancer.state_dir().join("revisions/00000004.json"))?;
    ensure!(stored.contains("that it is good cannot be stored"));

    // At the commit, when a person says so.
    let _second = begin_apply(&balancer, &file, &["--confirm-within", "1m"])?;
    wait_stage(&balancer, "waits for `balancer confirm`")?;
    disk.fill()?;
    balancer.command(&["confirm"])?;
    problem(&balancer, "what became of revision 5 cannot be written")?;
    ensure!(weight(&balancer, "backend0")? == Some(100));

    // A daemon that dies now comes back, knows which one is in force, and
    // writes down what became of the other one when it can.
    balancer.kill()?;
    balancer.restart()?;
    ensure!(history(&balancer)?.in_force == Some(3));
    ensure!(weight(&balancer, "backend0")? == Some(100));
    problem(&balancer, "what became of revision 5 cannot be written")?;
    balancer.succeed(&["verify"])?;
    disk.make_room()?;
    no_problem(&balancer)?;
    let stored = fs::read_to_string(balancer.state_dir().join("revisions/00000005.json"))?;
    ensure!(stored.contains("\"interrupted\""), "{stored}");

    balancer.succeed(&["apply", "--yes", text(&file)?])?;
    ensure!(weight(&balancer, "backend0")? == Some(150));
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}

#[test]
fn dead_backend_is_taken_out_while_the_disk_is_full() -> Result<()> {
    let lab = l2(3)?;
    let mut servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    let disk = balancer.move_state_to_disk(DISK)?;
    disk.fill()?;
    drop(servers.pop());
    balancer.wait_backend("web", "backend2", "down")?;
    let shares = |wanted: u32| {
        balancer.wait_status("its slots to go", LIMIT, |status| {
            let backend = backend_of(status, "web", "backend2")?;
            ((backend.slot_count > 0) == (wanted > 0)).then_some(())
        })
    };
    shares(0)?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 200)?;
    servers.push(web_server(lab.backend(2))?);
    balancer.wait_backend("web", "backend2", "up")?;
    shares(1)?;
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}

#[test]
fn disk_that_turns_read_only_stops_changes_and_a_start_and_nothing_else() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    balancer.succeed(&["backend", "weight", "web", "backend0", "110"])?;
    let load = load(&lab, service.dial())?;
    let disk = balancer.move_state_to_disk(DISK)?;
    write_weight(&balancer, &service, 150)?;
    disk.set_read_only(true)?;
    let parts = ["Read-only file system", "mount it writable"];
    all_refused(&balancer, &parts)?;
    balancer.kill()?;
    let said = balancer.refuse_to_start()?;
    for part in [
        "opening ",
        "state/lock",
        "Read-only file system",
        "mount it writable, or set another node.state_dir",
    ] {
        ensure!(said.contains(part), "{said}");
    }
    wait_answers(&load, 200)?;
    disk.set_read_only(false)?;
    balancer.restart()?;
    balancer.wait_status("the file to be in force", LIMIT, |status| {
        let backend = backend_of(status, "web", "backend0")?;
        (backend.weight == 150).then_some(())
    })?;
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}

#[test]
fn state_directory_that_is_not_its_own_is_refused_and_forwarding_goes_on() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    balancer.succeed(&["backend", "weight", "web", "backend0", "110"])?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 200)?;
    let state = balancer.state_dir();
    balancer.kill()?;
    let mut refused = |parts: &[&str]| -> Result<()> {
        let said = balancer.refuse_to_start()?;
        for part in parts {
            ensure!(said.contains(part), "no {part:?} in\n{said}");
        }
        wait_answers(&load, 200)
    };

    fs::set_permissions(&state, Permissions::from_mode(0o775))?;
    refused(&["has mode 0775", "`chmod go-w` it"])?;
    fs::set_permissions(&state, Permissions::from_mode(0o755))?;

    chown(&state, Some(4711), None)?;
    refused(&["belongs to user 4711", "`chown` it to user 0"])?;
    chown(&state, Some(0), None)?;

    let layout = state.join("layout");
    ensure!(fs::read_to_string(&layout)? == "1\n");
    fs::write(&layout, "2\n")?;
    refused(&[
        "has layout \"2\", and this balancer knows layout 1",
        "start the balancer that wrote it, or set another node.state_dir",
    ])?;
    fs::write(&layout, "1\n")?;

    // A file where a directory should be: nobody can enter it.
    let aside = state.with_file_name("aside");
    fs::rename(&state, &aside)?;
    fs::write(&state, "")?;
    refused(&["making ", "state: ", "set another node.state_dir"])?;
    fs::remove_file(&state)?;
    fs::rename(&aside, &state)?;

    balancer.restart()?;
    ensure!(weight(&balancer, "backend0")? == Some(110));
    ensure!(history(&balancer)?.in_force == Some(2));
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}

/// Ways to spoil a revision's files, and what is said of each.
const SPOILT: [(u64, &str); 4] = [
    (1, "is torn or no revision"),
    (2, "was edited: its digest"),
    (3, "is of version 99, this balancer reads version 1"),
    (4, "holds revision 5"),
];

fn spoil(revisions: &Path) -> Result<()> {
    let json = |number: u64| revisions.join(format!("{number:08}.json"));
    let whole = fs::read_to_string(json(1))?;
    fs::write(json(1), &whole[..whole.len() / 2])?;
    let edited =
        fs::read_to_string(json(2))?.replace("\"cause\": \"command\"", "\"cause\": \"start\"");
    fs::write(json(2), edited)?;
    let mut sealed: serde_json::Value = serde_json::from_slice(&fs::read(json(3))?)?;
    sealed["revision"]["version"] = 99.into();
    let compact = sealed["revision"].to_string();
    sealed["digest"] = balancer_user::revision::digest(&compact).into();
    fs::write(json(3), sealed.to_string())?;
    fs::copy(json(5), json(4))?;
    Ok(())
}

#[test]
fn damaged_revisions_are_named_and_kept_and_the_whole_one_holds() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let mut balancer = balancer(&lab, &service.toml())?;
    for weight in ["110", "120", "130", "140", "150", "160"] {
        balancer.succeed(&["backend", "weight", "web", "backend0", weight])?;
    }
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 200)?;
    let revisions = balancer.state_dir().join("revisions");
    balancer.kill()?;
    spoil(&revisions)?;
    // A torn write of a crash is no revision, and in nobody's way.
    fs::write(revisions.join("00000008.toml.new"), "[no")?;
    // The configuration of the sixth, another weight for somebody.
    let toml = revisions.join("00000006.toml");
    let edited = fs::read_to_string(&toml)?.replace("150", "151");
    fs::write(&toml, edited)?;
    let before: Vec<Vec<u8>> = files(&revisions)?;
    balancer.restart()?;
    let known = history(&balancer)?;
    ensure!(known.in_force == Some(7), "{known:?}");
    ensure!(weight(&balancer, "backend0")? == Some(160));
    let log = balancer.log();
    for (number, part) in SPOILT {
        let why = known.damaged.get(&number);
        ensure!(why.is_some_and(|it| it.contains(part)), "{number}: {why:?}");
        ensure!(log.contains(part), "{log}");
        let refused = balancer.command(&["rollback", "--yes", &number.to_string()])?;
        let said = String::from_utf8_lossy(&refused.stderr);
        let named = format!("revision {number} is damaged and cannot be used");
        ensure!(said.contains(&named) && said.contains(part), "{said}");
    }
    let refused = balancer.command(&["rollback", "--yes", "6"])?;
    let said = String::from_utf8_lossy(&refused.stderr);
    let part = "00000006.toml was edited or is torn: its digest is not that of revision 6";
    ensure!(said.contains(part), "{said}");
    ensure!(files(&revisions)? == before, "a file was changed");
    balancer.succeed(&["rollback", "--yes", "5"])?;
    ensure!(weight(&balancer, "backend0")? == Some(140));
    ensure!(history(&balancer)?.in_force == Some(8));
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}

fn files(directory: &Path) -> Result<Vec<Vec<u8>>> {
    let mut paths: Vec<_> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.sort();
    paths.iter().map(|path| Ok(fs::read(path)?)).collect()
}

#[test]
fn applied_is_what_was_read_asked_about_and_planned_whatever_becomes_of_the_file() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    write_weight(&balancer, &service, 150)?;
    let asked = fs::read_to_string(balancer.config())?;
    let mut terminal = Terminal::apply(&lab, &balancer)?;
    terminal.wait("bring it into force? [y/N]")?;
    ensure!(
        terminal.said().contains("weight 100 -> 150"),
        "{}",
        terminal.said()
    );
    // Between the question and the answer.
    write_weight(&balancer, &service, 190)?;
    terminal.answer("y\n")?;
    wait_stage(&balancer, "waits for `balancer confirm`")?;
    // And in the middle of the change.
    write_weight(&balancer, &service, 200)?;
    balancer.succeed(&["confirm"])?;
    ensure!(weight(&balancer, "backend0")? == Some(150));
    let shown = balancer.succeed(&["show", "2"])?;
    ensure!(shown.contains("weight = 150"), "{shown}");
    let known = history(&balancer)?;
    ensure!(known.in_force == Some(2), "{known:?}");
    let second = Api::new(&balancer)?.revision(2)?;
    let plan = serde_json::to_string(&second.revision.plan)?;
    ensure!(plan.contains("150") && !plan.contains("190"), "{plan}");
    // What the file says now is another change, and plan shows it.
    let planned = balancer.command(&["plan", text(&balancer.config())?])?;
    ensure!(planned.status.code() == Some(3), "{planned:?}");
    fs::write(balancer.config(), asked)?;
    let planned = balancer.command(&["plan", text(&balancer.config())?])?;
    ensure!(planned.status.code() == Some(0), "{planned:?}");
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}

/// `balancer apply` on a terminal, which `script` makes.
struct Terminal {
    process: Process,
    input: File,
}

impl Terminal {
    fn apply(lab: &Lab, balancer: &Balancer<'_>) -> Result<Self> {
        let fifo = balancer.config().with_file_name("keyboard");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
        // Open for both, so that nobody waits for the other end.
        let input = File::options().read(true).write(true).open(&fifo)?;
        let log = balancer.config().with_file_name("terminal.log");
        let line = format!(
            "exec script -qefc '{} --socket {} apply --confirm-within 1m {}' /dev/null < {}",
            binary().display(),
            balancer.socket().display(),
            balancer.config().display(),
            fifo.display()
        );
        let mut command = lab.balancer().namespace().command("sh");
        command.args(["-c", &line]);
        let process = Process::spawn("script", command, &log)?;
        Ok(Self { process, input })
    }

    fn said(&self) -> String {
        self.process.log()
    }

    fn wait(&self, part: &str) -> Result<()> {
        wait_for(&format!("{part:?} on the terminal"), LIMIT, || {
            self.said().contains(part).then_some(())
        })
        .with_context(|| self.said())
    }

    fn answer(&mut self, line: &str) -> Result<()> {
        self.input.write_all(line.as_bytes())?;
        Ok(())
    }
}

#[test]
fn of_changes_at_the_same_time_one_is_made_and_the_others_are_told() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    let balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    let own = fs::read_to_string(balancer.config())?;
    let named = "name = \"backend0\"\n";
    for (round, number) in (0..3).zip(2_u64..) {
        let weights = [110, 120, 130, 140].map(|weight| weight + round);
        let mut files = Vec::new();
        for weight in weights {
            let file = balancer.config().with_file_name(format!("{weight}.toml"));
            let text = own.replacen(named, &format!("{named}weight = {weight}\n"), 1);
            fs::write(&file, text)?;
            files.push(file);
        }
        let options = ["--hold", "200ms", "--stages", "50,100"];
        let mut running = Vec::new();
        for file in &files {
            let log = file.with_extension("log");
            running.push((begin_apply_to(&balancer, file, &options, &log)?, log));
        }
        let mut made = Vec::new();
        for ((mut process, log), weight) in running.into_iter().zip(weights) {
            let status = process.wait(LIMIT)?;
            let said = fs::read_to_string(log)?;
            if status.success() {
                made.push(weight);
            } else {
                ensure!(said.contains("one change at a time: "), "{said}");
                ensure!(said.contains("by root"), "{said}");
            }
        }
        ensure!(!made.is_empty(), "nobody's change was made");
        // Who came when the first was over was next.
        let known = history(&balancer)?;
        let last = weight(&balancer, "backend0")?.context("a weight")?;
        ensure!(made.contains(&last), "{last} of {made:?}");
        ensure!(known.in_force >= Some(number), "{known:?}");
        balancer.succeed(&["verify"])?;
    }
    wait_answers(&load, 200)?;
    stop_unharmed(load)?;
    Ok(())
}
