//! Bad input to the real daemon: one clear message, a code, nothing changed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use balancer_tests::balancer::{Balancer, binary};
use balancer_tests::lab::cleanup::Scratch;
use balancer_tests::lab::pass::{self, Action};
use balancer_tests::lab::{Lab, Namespace, process};

use crate::fixture::{Service, balancer, get_well, l2, web_servers};
use crate::programs::{attached, attached_id};

/// A file for a second daemon, with directories of its own.
struct Second {
    directory: Scratch,
    pin_dir: PathBuf,
}

impl Second {
    fn new() -> Result<Self> {
        let directory = Scratch::create("second")?;
        let label = directory.path().file_name().unwrap_or_default();
        let pin_dir = Path::new("/sys/fs/bpf").join(label);
        Ok(Self { directory, pin_dir })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes the file; `node` may name another value for a key.
    fn write(&self, interface: &str, node: &[(&str, &Path)], services: &str) -> Result<()> {
        let mut text = format!("[node]\ninterfaces = [\"{interface}\"]\n");
        let own = [
            ("socket", self.path("socket")),
            ("state_dir", self.path("state")),
            ("pin_dir", self.pin_dir.clone()),
        ];
        for (key, path) in own {
            let other = node.iter().find(|(name, _)| *name == key);
            let path = other.map_or(path.as_path(), |(_, path)| path);
            text.push_str(&format!("{key} = {path:?}\n"));
        }
        fs::write(self.path("file.toml"), text + services)?;
        Ok(())
    }

    fn run(&self, namespace: &Namespace) -> Result<Output> {
        run(
            namespace.command(&binary().to_string_lossy()),
            &self.path("file.toml"),
        )
    }
}

impl Drop for Second {
    fn drop(&mut self) {
        // Not there where it was refused early.
        let _ = fs::remove_dir(&self.pin_dir);
    }
}

fn run(mut command: Command, file: &Path) -> Result<Output> {
    command.args(["run", "--config"]).arg(file);
    process::run(command, Duration::from_secs(20))
}

/// Insists on exit code 1 and, besides what the check found in the file, one
/// line on stderr that holds all `parts`.
fn one_line(output: &Output, parts: &[&str]) -> Result<()> {
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{}: {said}", output.status);
    let lines: Vec<&str> = said
        .lines()
        .filter(|line| !line.contains("WARN check rule="))
        .collect();
    let [line] = lines[..] else {
        bail!("not one line: {said}");
    };
    println!("{line}");
    ensure!(line.starts_with("error: "), "{line}");
    for part in parts {
        ensure!(line.contains(part), "{part:?} is not in: {line}");
    }
    Ok(())
}

struct Stage<'a> {
    lab: &'a Lab,
    first: Balancer<'a>,
    service: Service,
    program: u32,
}

impl<'a> Stage<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let service = Service::web_l2(lab);
        Ok(Self {
            lab,
            first: balancer(lab, &service.toml())?,
            service,
            program: attached_id(lab.balancer().namespace())?,
        })
    }

    fn namespace(&self) -> &Namespace {
        self.lab.balancer().namespace()
    }

    /// The first daemon has noticed nothing.
    fn assert_untouched(&self) -> Result<()> {
        ensure!(attached_id(self.namespace())? == self.program);
        get_well(self.lab, self.service.dial())?;
        let status = self.first.status()?;
        ensure!(status.problems.is_empty(), "{:?}", status.problems);
        Ok(())
    }
}

#[test]
fn second_daemon_is_refused_whatever_it_shares_with_the_first() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let stage = Stage::new(&lab)?;
    let pid = format!("process {}", stage.first.status()?.pid);

    let same = run(
        stage.namespace().command(&binary().to_string_lossy()),
        &stage.first.config(),
    )?;
    one_line(&same, &["uses the state directory", &pid])?;
    stage.assert_untouched()?;

    let services = stage.service.toml();
    let second = Second::new()?;
    second.write("eth0", &[("pin_dir", stage.first.pin_dir())], &services)?;
    one_line(
        &second.run(stage.namespace())?,
        &["another balancer", "pin_dir"],
    )?;
    stage.assert_untouched()?;

    second.write("eth0", &[], &services)?;
    let id = stage.program.to_string();
    one_line(
        &second.run(stage.namespace())?,
        &["eth0 already has an XDP program", &id, "not replaced"],
    )?;
    stage.assert_untouched()?;

    // Another network, but the socket is one machine's.
    let socket = stage.first.socket();
    second.write("eth0", &[("socket", &socket)], &services)?;
    one_line(
        &second.run(lab.client(0).namespace())?,
        &["control socket", "another balancer answers there"],
    )?;
    ensure!(attached(lab.client(0).namespace(), "eth0")?.is_none());
    stage.assert_untouched()
}

#[test]
fn bad_files_are_refused_while_the_first_daemon_forwards() -> Result<()> {
    let lab = l2(2)?;
    let _servers = web_servers(&lab)?;
    let stage = Stage::new(&lab)?;
    let services = stage.service.toml();
    let second = Second::new()?;

    second.write("eth9", &[], &services)?;
    let output = second.run(stage.namespace())?;
    one_line(&output, &["interface eth9 does not exist"])?;

    fs::remove_file(second.path("file.toml"))?;
    one_line(
        &second.run(stage.namespace())?,
        &["file.toml", "No such file"],
    )?;
    fs::create_dir(second.path("file.toml"))?;
    one_line(&second.run(stage.namespace())?, &["file.toml", "irectory"])?;
    fs::remove_dir(second.path("file.toml"))?;

    let wrong = services.replace("forward = \"l2\"", "forward = \"l3\"");
    second.write("eth0", &[], &wrong)?;
    let output = second.run(stage.namespace())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{said}");
    for part in [
        "error[bad-value]",
        "file.toml:",
        "forward = \"l3\"",
        "1 error",
    ] {
        ensure!(said.contains(part), "{part:?} is not in: {said}");
    }
    ensure!(
        !second.path("state").exists(),
        "a refused file left a state"
    );
    stage.assert_untouched()
}

#[test]
fn socket_path_that_is_a_file_is_left_alone() -> Result<()> {
    let lab = l2(2)?;
    let second = Second::new()?;
    let precious = second.path("precious");
    fs::write(&precious, "do not lose this")?;
    let services = Service::web_l2(&lab).toml();
    second.write("eth0", &[("socket", &precious)], &services)?;
    let output = second.run(lab.balancer().namespace())?;
    one_line(&output, &["precious", "is no socket", "left alone"])?;
    ensure!(fs::read_to_string(&precious)? == "do not lose this");
    ensure!(attached(lab.balancer().namespace(), "eth0")?.is_none());
    Ok(())
}

#[test]
fn program_of_somebody_else_stays_in_place() -> Result<()> {
    let lab = l2(2)?;
    let namespace = lab.balancer().namespace();
    let _foreign = pass::attach(namespace, "eth0", Action::Pass)?;
    let before = attached_id(namespace)?;
    let second = Second::new()?;
    second.write("eth0", &[], &Service::web_l2(&lab).toml())?;
    let id = format!("id {before}");
    one_line(
        &second.run(namespace)?,
        &["eth0 already has an XDP program", &id, "not replaced"],
    )?;
    ensure!(attached_id(namespace)? == before);
    Ok(())
}

#[test]
fn daemon_without_root_says_so() -> Result<()> {
    let lab = l2(2)?;
    let second = Second::new()?;
    second.write("eth0", &[], &Service::web_l2(&lab).toml())?;
    // Where a user may not go, the file would be what is missed.
    let copy = second.path("balancer");
    fs::copy(binary(), &copy).context("copying the binary")?;
    let mut command = lab.balancer().namespace().command("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
    command.arg("--").arg(&copy);
    let output = run(command, &second.path("file.toml"))?;
    one_line(&output, &["`balancer run` needs root"])?;
    ensure!(attached(lab.balancer().namespace(), "eth0")?.is_none());
    Ok(())
}
