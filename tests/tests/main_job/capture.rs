//! `balancer capture` on live packets: what it shows, who may not, and that the
//! packet path is as it was before when it is over.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow, ensure};
use aya::programs::loaded_programs;
use balancer_tests::balancer::{Balancer, binary};
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::process::{self, Process};
use balancer_tests::lab::server::Nginx;
use balancer_tests::lab::{Lab, LabConfig, Namespace, Replies, wait_for};
use balancer_user::api::types::Change;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::LIMIT;
use crate::fixture::{
    Api, Service, balancer, burst, get, get_well, l2, load, stop_unharmed, v4, v6, wait_answers,
    web_servers,
};
use crate::metrics::{serving, wait_sample};
use crate::programs::attached_id;
use crate::programs_swapped::packets;

/// Whether one is on, for Prometheus.
const ACTIVE: &str = "balancer_captures_active";

/// A capture that runs beside the test.
struct Running {
    process: Process,
    directory: Scratch,
}

impl Running {
    /// Starts one and waits until it has begun.
    fn start(balancer: &Balancer<'_>, arguments: &[&str]) -> Result<Self> {
        let directory = Scratch::create("packets")?;
        let mut command = Command::new(binary());
        command.current_dir(directory.path());
        command.arg("--socket").arg(balancer.socket());
        command.arg("capture").args(arguments);
        let mut process = Process::spawn("capture", command, &directory.path().join("log"))?;
        let log = directory.path().join("log");
        process.wait_until("the capture to begin", LIMIT, || {
            let text = std::fs::read_to_string(&log).ok()?;
            text.contains("Ctrl-C ends it").then_some(())
        })?;
        Ok(Self { process, directory })
    }

    fn log(&self) -> String {
        self.process.log()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Waits for its end, which has to be a good one.
    fn end(&mut self) -> Result<()> {
        let status = self.process.wait(LIMIT)?;
        ensure!(status.success(), "it ended with {status}:\n{}", self.log());
        Ok(())
    }
}

/// A packet of a file, as tshark reads it.
#[derive(Debug, PartialEq)]
struct Frame {
    comment: String,
    interface: String,
    destination: String,
}

fn read(file: &Path) -> Result<Vec<Frame>> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-r"]).arg(file).args(["-T", "fields"]);
    for field in ["frame.comment", "frame.interface_name", "eth.dst"] {
        command.args(["-e", field]);
    }
    let Output {
        status,
        stdout,
        stderr,
    } = process::run(command, LIMIT)?;
    let said = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "tshark ended with {status}: {said}");
    let text = String::from_utf8(stdout)?;
    let frame = |line: &str| {
        let mut fields = line.split('\t').map(ToOwned::to_owned);
        Some(Frame {
            comment: fields.next()?,
            interface: fields.next()?,
            destination: fields.next()?,
        })
    };
    let frames: Option<Vec<_>> = text.lines().map(frame).collect();
    frames.with_context(|| format!("tshark said:\n{text}"))
}

/// Bytes of machine code of the program on `eth0`: the capturing one has more.
fn code_len(namespace: &Namespace) -> Result<u32> {
    let id = attached_id(namespace)?;
    let mut programs = loaded_programs().filter_map(Result::ok);
    let program = programs.find(|program| program.id() == id);
    Ok(program.context("the program has gone")?.size_jitted())
}

/// Insists that a capture is refused with these words.
fn refused(balancer: &Balancer<'_>, arguments: &[&str], wanted: &str) -> Result<()> {
    let output = balancer.command(&[&["capture"], arguments].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(1),
        "{:?}: {said}",
        output.status
    );
    ensure!(said.contains(wanted), "{said}");
    Ok(())
}

fn is_on(balancer: &Balancer<'_>) -> Result<bool> {
    Ok(balancer.status()?.capture.is_some())
}

fn wait_off(balancer: &Balancer<'_>) -> Result<()> {
    balancer.wait_status("the capture to be over", LIMIT, |status| {
        status.capture.is_none().then_some(())
    })
}

fn lab_of(backends: u8) -> Result<(Lab, Vec<Nginx>, Service)> {
    let lab = l2(backends)?;
    let servers = web_servers(&lab)?;
    let service = Service::web_l2(&lab);
    Ok((lab, servers, service))
}

#[test]
fn capture_of_one_backend_has_each_packet_as_it_came_and_as_it_left() -> Result<()> {
    let (lab, _servers, service) = lab_of(3)?;
    let balancer = balancer(&lab, &service.toml())?;
    let namespace = lab.balancer().namespace();
    let plain = code_len(namespace)?;
    let arguments = ["--backend", "backend1", "-c", "60", "-w", "packets.pcapng"];
    let mut capture = Running::start(&balancer, &arguments)?;
    let capturing = code_len(namespace)?;
    ensure!(
        capturing > plain,
        "{capturing} bytes of code against {plain}"
    );
    let load = load(&lab, service.dial())?;
    capture.end()?;
    stop_unharmed(load)?;
    ensure!(
        code_len(namespace)? == plain,
        "the plain program is not back"
    );
    let said = capture.log();
    ensure!(said.contains("60 packets captured"), "{said}");

    let frames = read(&capture.file("packets.pcapng"))?;
    ensure!(frames.len() == 120, "{} frames", frames.len());
    let stations = [
        lab.balancer().interface().mac.to_string(),
        lab.backend(1).interface().mac.to_string(),
    ];
    println!("{:#?}", &frames[..2]);
    for (number, frame) in frames.iter().enumerate() {
        let way = ["in", "out"][number % 2];
        let begins =
            format!("{way} verdict=tx reason=forwarded service=web backend=backend1 slot=");
        ensure!(
            frame.comment.starts_with(&begins),
            "frame {number}: {frame:?}"
        );
        ensure!(
            frame.interface == format!("eth0 {way}"),
            "frame {number}: {frame:?}"
        );
        ensure!(
            frame.destination == stations[number % 2],
            "frame {number}: {frame:?}"
        );
    }
    let log = balancer.log();
    ensure!(log.contains("a capture of live packets begins"), "{log}");
    ensure!(log.contains("author=root"), "{log}");
    Ok(())
}

#[test]
fn captures_that_begin_and_end_under_load_fail_no_request_and_lose_no_count() -> Result<()> {
    let (lab, _servers, service) = lab_of(3)?;
    let balancer = balancer(&lab, &service.toml())?;
    let plain = code_len(lab.balancer().namespace())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 100)?;
    let mut before = packets(&balancer)?;
    for round in 0..20 {
        let mut capture = Running::start(&balancer, &["--service", "web", "-c", "5", "--text"])?;
        capture.end()?;
        let lines = capture.log();
        let packets_of_it = lines
            .lines()
            .filter(|line| line.contains(" eth0 tx forwarded web/"));
        ensure!(packets_of_it.count() == 5, "round {round}:\n{lines}");
        let now = packets(&balancer)?;
        for (backend, count) in &now {
            ensure!(*count >= before[backend], "{backend} went back to {count}");
        }
        before = now;
        if round == 0 {
            println!("{lines}");
        }
    }
    wait_answers(&load, 100)?;
    let answered = stop_unharmed(load)?;
    ensure!(
        code_len(lab.balancer().namespace())? == plain,
        "not the plain program"
    );
    let status = balancer.status()?;
    let counted: u64 = packets(&balancer)?.values().sum();
    ensure!(
        status.reasons.get("forwarded") == Some(&counted),
        "backends got {counted} packets, and the reasons are {:?}",
        status.reasons
    );
    let flows: u64 = status.services[0].backends.iter().map(|it| it.flows).sum();
    ensure!(flows >= answered, "{flows} flows for {answered} requests");
    println!("{answered} requests answered, 0 failed, under 20 captures");
    Ok(())
}

/// A pager whose reader looks away: what it has no room for is lost, and the
/// capture goes on.
#[test]
fn capture_whose_reader_takes_nothing_goes_on_and_says_what_was_lost() -> Result<()> {
    const PACKETS: u64 = 30_000;
    let (lab, _servers, service) = lab_of(2)?;
    let balancer = balancer(&lab, &service.toml())?;
    let load = load(&lab, service.dial())?;
    wait_answers(&load, 100)?;
    let scratch = Scratch::create("reader")?;
    let [pipe, file] = ["pipe", "file"].map(|name| scratch.path().join(name));
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let pipe_name = pipe.to_string_lossy();
    let arguments = ["--verdict", "tx", "--limit", "100000", "-w", &pipe_name];
    let (look_back, away) = mpsc::channel::<()>();
    let reader = thread::spawn({
        let (pipe, file) = (pipe.clone(), file.clone());
        move || {
            let mut pipe = File::open(pipe)?;
            // It ends with the test, well or not.
            let _ = away.recv();
            io::copy(&mut pipe, &mut File::create(file)?)
        }
    });
    let mut capture = Running::start(&balancer, &arguments)?;
    balancer.wait_status("many packets", LIMIT, |status| {
        (status.capture.as_ref()?.figures.captured > PACKETS).then_some(())
    })?;
    stop_unharmed(load)?;
    balancer.succeed(&["capture", "--stop"])?;
    drop(look_back);
    capture.end()?;
    let bytes = reader
        .join()
        .map_err(|_| anyhow!("the reader panicked"))??;
    let said = capture.log();
    println!("{said}{bytes} bytes written");
    let lost = said.lines().find(|it| it.contains("lost: no room"));
    ensure!(lost.is_some_and(|it| !it.starts_with("0 ")), "{said}");
    // Each came and left, and not all of them waited.
    let frames = read(&file)?.len() as u64;
    let waited = 1..PACKETS;
    ensure!(
        frames.is_multiple_of(2) && waited.contains(&(frames / 2)),
        "{frames} frames"
    );
    Ok(())
}

#[test]
fn daemon_killed_in_a_capture_is_followed_by_one_that_only_forwards() -> Result<()> {
    let (lab, _servers, service) = lab_of(2)?;
    let mut balancer = balancer(&lab, &service.toml())?;
    let namespace = lab.balancer().namespace();
    let plain = code_len(namespace)?;
    let mut capture = Running::start(&balancer, &["-w", "packets.pcapng"])?;
    get_well(&lab, service.dial())?;
    let file = capture.file("packets.pcapng");
    wait_for("packets in the file", LIMIT, || {
        read(&file).ok().filter(|frames| !frames.is_empty())
    })?;
    let before = packets(&balancer)?;
    balancer.kill()?;
    let status = capture.process.wait(LIMIT)?;
    ensure!(status.code() == Some(1), "{status}:\n{}", capture.log());
    ensure!(
        !read(&capture.file("packets.pcapng"))?.is_empty(),
        "nothing is left"
    );
    // Nobody reads, and forwarding goes on.
    ensure!(
        code_len(namespace)? > plain,
        "the capturing program has gone"
    );
    burst(&lab, service.dial(), 200)?;
    balancer.restart()?;
    ensure!(
        code_len(namespace)? == plain,
        "the plain program is not back"
    );
    ensure!(!is_on(&balancer)?, "a capture is on");
    burst(&lab, service.dial(), 200)?;
    for (backend, count) in packets(&balancer)? {
        ensure!(count > before[&backend], "{backend} went back to {count}");
    }
    Ok(())
}

#[test]
fn daemon_that_is_stopped_in_a_capture_leaves_the_plain_program() -> Result<()> {
    let (lab, _servers, service) = lab_of(2)?;
    let text = format!("keep_forwarding = true\n{}", service.toml());
    let mut balancer = balancer(&lab, &text)?;
    let namespace = lab.balancer().namespace();
    let plain = code_len(namespace)?;
    let _capture = Running::start(&balancer, &["--text"])?;
    balancer.stop()?;
    ensure!(
        code_len(namespace)? == plain,
        "the plain program is not back"
    );
    burst(&lab, service.dial(), 50)
}

#[test]
fn capture_goes_on_through_a_change_that_takes_another_program() -> Result<()> {
    let (lab, _servers, service) = lab_of(2)?;
    let balancer = balancer(&lab, &service.toml())?;
    let mut capture = Running::start(&balancer, &["--text", "--verdict", "tx"])?;
    let second = Service {
        name: "web6",
        ..Service::web(lab.vip_v6(), "l2", v6(lab.backends()))
    };
    Api::new(&balancer)?.change(Change::ServiceAdd {
        toml: second.toml(),
    })?;
    balancer.wait_backend("web6", "backend0", "up")?;
    balancer.wait_backend("web6", "backend1", "up")?;
    balancer.succeed(&["verify"])?;
    get_well(&lab, second.dial())?;
    get_well(&lab, service.dial())?;
    let log = capture.directory.path().join("log");
    capture
        .process
        .wait_until("packets of both services", LIMIT, || {
            let text = std::fs::read_to_string(&log).ok()?;
            (text.contains("forwarded web6/backend") && text.contains("forwarded web/backend"))
                .then_some(())
        })?;
    capture.process.signal(Signal::SIGINT)?;
    capture.end()
}

#[test]
fn reply_that_leaves_by_another_interface_is_seen_on_both() -> Result<()> {
    let lab = Lab::routed(LabConfig {
        replies: Replies::ViaBalancer,
        vips_on_backends: false,
        ..LabConfig::backends(1)
    })?;
    let _servers = web_servers(&lab)?;
    let service = Service::web(lab.vip_v4(), "nat", v4(lab.backends()));
    let namespace = lab.balancer().namespace();
    let balancer = Balancer::start(namespace, &["eth0", "eth1"], &service.toml())?;
    balancer.wait_backend("web", "backend0", "up")?;
    let arguments = ["--service", "web", "--verdict", "redirect", "-c", "4"];
    let file = [&arguments[..], &["-w", "packets.pcapng"]].concat();
    let mut capture = Running::start(&balancer, &file)?;
    get_well(&lab, service.dial())?;
    capture.end()?;
    let frames = read(&capture.file("packets.pcapng"))?;
    ensure!(frames.len() == 8, "{frames:#?}");
    let mut seen = BTreeSet::new();
    for pair in frames.chunks(2) {
        let is_reply = pair[0].comment.contains("reason=reply_forwarded");
        let ways = [&*pair[0].interface, &*pair[1].interface];
        let expected = match is_reply {
            true => ["eth1 in", "eth0 out"],
            false => ["eth0 in", "eth1 out"],
        };
        ensure!(ways == expected, "{pair:#?}");
        seen.insert(is_reply);
    }
    ensure!(seen.len() == 2, "{frames:#?}");

    let lines = [&arguments[..], &["--text"]].concat();
    let mut capture = Running::start(&balancer, &lines)?;
    get_well(&lab, service.dial())?;
    capture.end()?;
    let said = capture.log();
    println!("{said}");
    let mut replies = said.lines().filter(|it| it.contains("reply_forwarded"));
    let named = |it: &str| it.contains(" eth1 redirect ") && it.contains(" => eth0 ");
    ensure!(replies.clone().count() > 0 && replies.all(named), "{said}");
    Ok(())
}

#[test]
fn dropped_packets_are_seen_with_their_reason() -> Result<()> {
    let (lab, servers, service) = lab_of(1)?;
    let balancer = balancer(&lab, &service.toml())?;
    let arguments = ["--verdict", "drop", "-c", "1", "--text", "--service", "web"];
    let mut capture = Running::start(&balancer, &arguments)?;
    get_well(&lab, service.dial())?;
    drop(servers);
    balancer.wait_backend("web", "backend0", "down")?;
    // Nobody answers: the client's SYN is what is wanted.
    let unanswered = get(&lab, service.dial())?;
    ensure!(unanswered.status == 0, "{unanswered:?}");
    capture.end()?;
    let said = capture.log();
    println!("{said}");
    ensure!(said.contains(" eth0 drop no_backend web "), "{said}");
    Ok(())
}

#[test]
fn capture_is_refused_beside_another_and_ends_with_its_client_or_by_command() -> Result<()> {
    let (lab, _servers, service) = lab_of(1)?;
    let mut balancer = serving(&lab, &service.toml())?;
    refused(
        &balancer,
        &["--service", "shop"],
        "there is no service shop; there are web",
    )?;
    refused(
        &balancer,
        &["--backend", "backend9"],
        "there is no backend backend9; there are web/backend0",
    )?;
    refused(&balancer, &["--stop"], "no capture is on")?;
    ensure!(!is_on(&balancer)?, "a refused capture is on");
    wait_sample(&lab, ACTIVE, |it| it == Some(0.0))?;

    let mut first = Running::start(&balancer, &["--text", "--service", "web"])?;
    refused(&balancer, &[], "capture 1 is on, by root")?;
    wait_sample(&lab, ACTIVE, |it| it == Some(1.0))?;
    let status = balancer.succeed(&["status"])?;
    ensure!(status.contains("capture 1 of live packets"), "{status}");
    let said = balancer.succeed(&["capture", "--stop"])?;
    ensure!(said == "capture 1, by root, ends\n", "{said}");
    first.end()?;
    ensure!(!is_on(&balancer)?, "capture 1 is on after its end");
    wait_sample(&lab, ACTIVE, |it| it == Some(0.0))?;
    let log = balancer.log();
    for part in [
        "a capture of live packets begins capture=1 author=root what=service web",
        "a capture is to end capture=1 author=root",
        "a capture is over capture=1 author=root why=it was ended by command",
    ] {
        ensure!(log.contains(part), "no {part:?} in {log}");
    }

    // Its client goes without a word.
    let mut second = Running::start(&balancer, &["--text"])?;
    second.process.kill()?;
    wait_off(&balancer)?;

    let mut third = Running::start(&balancer, &["--for", "200ms", "-w", "packets.pcapng"])?;
    third.end()?;
    let said = third.log();
    ensure!(said.contains("packets captured"), "{said}");
    read(&third.file("packets.pcapng"))?;
    let ids: BTreeSet<u32> = [attached_id(lab.balancer().namespace())?].into();
    ensure!(
        crate::programs::held_by(balancer.process().pid())? == ids,
        "a program is left"
    );
    Ok(())
}
