//! The real `balancer` in a lab: started, asked, stopped and killed.

use std::ffi::OsString;
use std::fs;
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use balancer_common::verdict::{Disposition, Reason};
use balancer_user::api::types::{BackendStatus, ServiceStatus, Status};
use nix::sys::signal::Signal;

use crate::lab::cleanup::Scratch;
use crate::lab::{Namespace, Process, SmallDisk, wait_for};

/// How long a daemon may take to be forwarding, or to end.
const LIMIT: Duration = Duration::from_secs(20);

/// The binary under test: `BALANCER_BIN`, or what `cargo xtask build` made.
pub fn binary() -> PathBuf {
    std::env::var_os("BALANCER_BIN").map_or_else(
        || {
            let crate_dir = Path::new(env!("CARGO_MANIFEST_DIR"));
            let workspace = crate_dir.parent().unwrap_or(crate_dir);
            workspace.join("target/release/balancer")
        },
        PathBuf::from,
    )
}

/// A `balancer run` in a namespace; dropping it kills the daemon and removes
/// what it left attached.
pub struct Balancer<'a> {
    namespace: &'a Namespace,
    process: Process,
    directory: Scratch,
    pins: Scratch,
    program: PathBuf,
    environment: Vec<(String, OsString)>,
}

impl<'a> Balancer<'a> {
    /// Starts a daemon and waits until it forwards. `interfaces` are those
    /// of the namespace, `services` is the rest of the file, which may begin
    /// with more keys of `[node]`.
    pub fn start(namespace: &'a Namespace, interfaces: &[&str], services: &str) -> Result<Self> {
        let directory = Scratch::create("balancer")?;
        let pins = Scratch::for_pins("balancer");
        let config = directory.path().join("balancer.toml");
        fs::write(
            &config,
            format!(
                "{}\n{services}",
                node(directory.path(), pins.path(), interfaces)
            ),
        )?;
        let program = binary();
        let process = spawn(&program, &[], namespace, directory.path())?;
        let mut balancer = Self {
            namespace,
            process,
            directory,
            pins,
            program,
            environment: Vec::new(),
        };
        balancer.wait_ready()?;
        Ok(balancer)
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("balancer.toml")
    }

    /// The control socket.
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("balancer.sock")
    }

    /// Where its links are pinned.
    pub fn pin_dir(&self) -> &Path {
        self.pins.path()
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// What it has written to its log.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Replaces the services of the file; nobody reads it yet.
    pub fn write_services(&self, interfaces: &[&str], services: &str) -> Result<()> {
        let node = node(self.directory.path(), self.pins.path(), interfaces);
        fs::write(self.config(), format!("{node}\n{services}"))?;
        Ok(())
    }

    /// Runs `balancer` with these arguments against this daemon.
    pub fn command(&self, arguments: &[&str]) -> Result<Output> {
        Command::new(binary())
            .arg("--socket")
            .arg(self.socket())
            .args(arguments)
            .output()
            .context("cannot run balancer")
    }

    /// As [`Balancer::command`]; anything but success is an error.
    pub fn succeed(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command(arguments)?;
        ensure!(
            output.status.success(),
            "balancer {} ended with {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// What `balancer status --json` says.
    pub fn status(&self) -> Result<Status> {
        let text = self.succeed(&["status", "--json"])?;
        serde_json::from_str(&text).with_context(|| format!("not a status: {text}"))
    }

    /// Insists that its program dropped nothing.
    pub fn insist_on_no_drop(&self) -> Result<()> {
        let mut counted = self.status()?.reasons;
        let drops = Reason::ALL
            .iter()
            .filter(|it| it.disposition() == Disposition::Drop);
        let names: Vec<&str> = drops.map(|it| it.name()).collect();
        counted.retain(|name, _| names.contains(&name.as_str()));
        ensure!(counted.is_empty(), "dropped: {counted:?}");
        Ok(())
    }

    /// Waits until the status gives a value.
    pub fn wait_status<T>(
        &self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut(&Status) -> Option<T>,
    ) -> Result<T> {
        wait_for(what, deadline, || {
            self.status().ok().and_then(|status| condition(&status))
        })
        .with_context(|| format!("log of the balancer:\n{}", self.process.log()))
    }

    /// Waits until a backend is in a state.
    pub fn wait_backend(&self, service: &str, backend: &str, state: &str) -> Result<()> {
        let what = format!("service {service}: backend {backend} to be {state}");
        self.wait_status(&what, LIMIT, |status| {
            let backend = backend_of(status, service, backend)?;
            (backend.state == state).then_some(())
        })
    }

    /// Ends the daemon as an operator does.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.process.stop(LIMIT)?;
        ensure!(
            status.success(),
            "the balancer ended with {status}:\n{}",
            self.process.log()
        );
        Ok(())
    }

    /// Ends the daemon without a warning.
    pub fn kill(&mut self) -> Result<()> {
        self.process.kill()?;
        Ok(())
    }

    /// Starts a daemon again, with the file as it now is.
    pub fn restart(&mut self) -> Result<()> {
        self.spawn()?;
        self.wait_ready()
    }

    /// Starts a daemon that is to refuse; gives what it said.
    pub fn refuse_to_start(&mut self) -> Result<String> {
        let before = self.log().len();
        self.spawn()?;
        let status = self.process.wait(LIMIT)?;
        let said = self.log().split_off(before);
        ensure!(status.code() == Some(1), "it ended with {status}:\n{said}");
        Ok(said)
    }

    /// Has another program run as the daemon from the next restart on, with
    /// this in its environment.
    pub fn become_program(&mut self, program: &Path, environment: &[(&str, &Path)]) {
        let own = |(name, value): &(&str, &Path)| (name.to_string(), value.into());
        self.program = program.to_owned();
        self.environment = environment.iter().map(own).collect();
    }

    fn spawn(&mut self) -> Result<()> {
        let directory = self.directory.path();
        self.process = spawn(&self.program, &self.environment, self.namespace, directory)?;
        Ok(())
    }

    /// The state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.directory.path().join("state")
    }

    /// Puts the state directory on a disk of its own of so many bytes, by a
    /// restart.
    pub fn move_state_to_disk(&mut self, size: u64) -> Result<SmallDisk> {
        self.kill()?;
        let state = self.state_dir();
        let aside = state.with_file_name("aside");
        fs::rename(&state, &aside)?;
        fs::create_dir(&state)?;
        let disk = SmallDisk::mount(&state, size)?;
        copy(&aside, &state)?;
        self.restart()?;
        Ok(disk)
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    fn wait_ready(&mut self) -> Result<()> {
        let socket = self.socket();
        self.process.wait_until("forwarding", LIMIT, || {
            // A daemon that proves its backends takes the connection and
            // answers once it forwards. One that was killed leaves the file.
            UnixStream::connect(&socket).ok()
        })?;
        self.status()
            .map(drop)
            .with_context(|| format!("log of the balancer:\n{}", self.process.log()))
    }
}

impl Drop for Balancer<'_> {
    fn drop(&mut self) {
        // Before its pins go: a daemon that lives would pin anew.
        let _ = self.process.kill();
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir(&to)?;
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// A service of a status.
pub fn service_of<'s>(status: &'s Status, service: &str) -> Option<&'s ServiceStatus> {
    status.services.iter().find(|other| other.name == service)
}

/// A backend of a status.
pub fn backend_of<'s>(
    status: &'s Status,
    service: &str,
    backend: &str,
) -> Option<&'s BackendStatus> {
    service_of(status, service)?
        .backends
        .iter()
        .find(|other| other.name == backend)
}

/// A `balancer decap` on a backend; dropping it ends it.
pub struct Decap {
    process: Process,
    _pins: Scratch,
    _directory: Scratch,
}

impl Decap {
    /// Starts it and waits until it is attached.
    pub fn start(namespace: &Namespace, interface: &str, sources: &[IpAddr]) -> Result<Self> {
        let sources: Vec<String> = sources.iter().map(ToString::to_string).collect();
        let options = sources.iter().flat_map(|source| ["--source", source]);
        Self::start_with(namespace, interface, &options.collect::<Vec<_>>())
    }

    /// As [`Decap::start`], with options of the caller's choice.
    pub fn start_with(namespace: &Namespace, interface: &str, options: &[&str]) -> Result<Self> {
        let directory = Scratch::create("decap")?;
        let pins = Scratch::for_pins("decap");
        let mut command = namespace.command(&binary().to_string_lossy());
        command
            .args(["decap", "--interface", interface, "--pin-dir"])
            .arg(pins.path())
            .args(options);
        let mut process = Process::spawn("decap", command, &directory.path().join("log"))?;
        let pin = pins.path().join(format!("link-{interface}"));
        process.wait_until("attached", LIMIT, || pin.exists().then_some(()))?;
        Ok(Self {
            process,
            _pins: pins,
            _directory: directory,
        })
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

impl Drop for Decap {
    fn drop(&mut self) {
        // Before its pins go: a daemon that lives would pin anew.
        let _ = self.process.kill();
    }
}

fn spawn(
    program: &Path,
    environment: &[(String, OsString)],
    namespace: &Namespace,
    directory: &Path,
) -> Result<Process> {
    let mut command = namespace.command(&program.to_string_lossy());
    command
        // Its log has times then, whoever runs the tests.
        .env_remove("JOURNAL_STREAM")
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .args(["run", "--config"])
        .arg(directory.join("balancer.toml"))
        .arg0("balancer");
    Process::spawn("balancer", command, &directory.join("log"))
}

fn node(directory: &Path, pin_dir: &Path, interfaces: &[&str]) -> String {
    format!(
        "[apply]\nhold = \"0s\"\n\n[node]\ninterfaces = {interfaces:?}\nseed = \"000102030405060708090a0b0c0d0e0f\"\n\
         socket = {:?}\nstate_dir = {:?}\npin_dir = {:?}\n",
        directory.join("balancer.sock"),
        directory.join("state"),
        pin_dir
    )
}
