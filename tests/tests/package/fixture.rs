//! Packages of two versions, a machine to install them on, and a load.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use balancer_tests::balancer::binary;
use balancer_tests::lab::client::{HttpLoad, RunningLoad};
use balancer_tests::lab::machine::SHARED;
use balancer_tests::lab::server::{Nginx, NginxConfig};
use balancer_tests::lab::{Lab, LabConfig, Machine, wait_for};
use balancer_user::api::types::Status;
use balancer_user::netlink::Netlink;

use crate::LIMIT;

pub(crate) const UNIT: &str = "balancer.service";
pub(crate) const FILE: &str = "/etc/balancer/balancer.toml";

/// The package in an earlier and a later version.
#[derive(Debug)]
pub(crate) struct Packages {
    pub(crate) old: PathBuf,
    pub(crate) new: PathBuf,
}

pub(crate) const OLD: &str = "0.0.1-1";
pub(crate) const NEW: &str = "0.0.2-1";

/// Made once for all tests of this process, by the command that people use.
pub(crate) fn packages() -> Result<&'static Packages> {
    static PACKAGES: OnceLock<Result<Packages, String>> = OnceLock::new();
    let made = PACKAGES.get_or_init(|| make().map_err(|error| format!("{error:#}")));
    made.as_ref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn output() -> PathBuf {
    workspace().join("target/package-test")
}

fn make() -> Result<Packages> {
    let workspace = workspace();
    let output = output();
    fs::create_dir_all(&output)?;
    let program = output.join("balancer");
    // One that is built for debugging is four times as large.
    run(Command::new("strip")
        .arg("--strip-debug")
        .arg("-o")
        .arg(&program)
        .arg(binary()))?;
    let build = |version: &str, compression: &str| -> Result<PathBuf> {
        let mut command = match std::env::var_os("BALANCER_XTASK") {
            Some(xtask) => Command::new(xtask),
            None => {
                let mut cargo = Command::new(env!("CARGO"));
                cargo.args(["run", "--quiet", "--package", "xtask", "--"]);
                cargo
            }
        };
        command.current_dir(&workspace).arg("package");
        command.args(["--version", version, "--compression", compression]);
        command
            .arg("--binary")
            .arg(&program)
            .arg("--output")
            .arg(&output);
        command.env("DEBFULLNAME", "The balancer authors");
        command.env("DEBEMAIL", "maintainers@balancer.invalid");
        let said = run(&mut command)?;
        let line = said.lines().last().context("no package is named")?;
        Ok(workspace.join(line).canonicalize()?)
    };
    Ok(Packages {
        // What lintian sees is compressed as a package is to be.
        old: build(OLD, "gzip")?,
        new: build(NEW, "none")?,
    })
}

pub(crate) fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?} ended with {}: {said}{stderr}",
        output.status
    );
    Ok(said)
}

/// Three web servers behind a machine.
pub(crate) struct Site {
    pub(crate) machine: Machine,
    pub(crate) lab: Lab,
    _servers: Vec<Nginx>,
}

impl Site {
    /// None, with a line that says why, where there can be no such machine.
    pub(crate) fn build() -> Result<Option<Self>> {
        if let Some(why) = Machine::impossible() {
            println!("skipped: {why}");
            return Ok(None);
        }
        let lab = Lab::l2(LabConfig {
            addresses_per_client: 20,
            ..LabConfig::backends(3)
        })?;
        let server = |node: &balancer_tests::lab::Node| {
            let mut config = NginxConfig::new(node.name(), &[], 80);
            config.listen = vec![SocketAddr::from(([0, 0, 0, 0], 80))];
            Nginx::start(node.namespace(), &config)
        };
        let servers = lab.backends().iter().map(server).collect::<Result<_>>()?;
        let machine = Machine::boot(lab.balancer().namespace(), &output())?;
        Ok(Some(Self {
            machine,
            lab,
            _servers: servers,
        }))
    }

    /// Writes the configuration; `node` are further keys of `[node]`.
    pub(crate) fn write_file(&self, node: &str, weight: u16) -> Result<()> {
        let mut text = format!(
            "[apply]\nhold = \"0s\"\n\n[node]\ninterfaces = [\"eth0\"]\n{node}\n\n[[service]]\n\
             name = \"web\"\naddress = \"{}\"\nport = 80\nprotocol = \"tcp\"\nforward = \"l2\"\n\n\
             [service.health]\nkind = \"http\"\npath = \"/healthz\"\nport = 80\ninterval = \"1s\"\n\
             timeout = \"900ms\"\nrise = 1\nfall = 10\n",
            self.lab.vip_v4()
        );
        for backend in self.lab.backends() {
            let (name, address) = (backend.name(), backend.v4());
            text += &format!("\n[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
            text += &format!("weight = {weight}\n");
        }
        self.write(FILE, &text)
    }

    /// Writes a file of the machine, for root alone.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.machine.file(path);
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        fs::write(&path, text).with_context(|| path.display().to_string())
    }

    pub(crate) fn dpkg(&self, action: &str, what: &str) -> Result<String> {
        let said = self
            .machine
            .succeed(&["dpkg", "--force-unsafe-io", action, what]);
        said.with_context(|| self.machine.journal(UNIT))
    }

    pub(crate) fn install(&self, package: &Path) -> Result<String> {
        let name = package.file_name().context("no package")?;
        let inside = Path::new(SHARED).join(name);
        self.dpkg("--install", &inside.to_string_lossy())
    }

    pub(crate) fn systemctl(&self, verb: &str) -> Result<String> {
        let said = self.machine.succeed(&["systemctl", verb, UNIT]);
        said.with_context(|| self.machine.journal(UNIT))
    }

    /// What the daemon says of itself.
    pub(crate) fn status(&self) -> Result<Status> {
        let said = self.machine.succeed(&["balancer", "status", "--json"])?;
        serde_json::from_str(&said).with_context(|| said)
    }

    /// The process of the service; 0 if there is none.
    pub(crate) fn main_pid(&self) -> Result<u32> {
        Ok(self.machine.property(UNIT, "MainPID")?.parse()?)
    }

    /// Waits until the service has another process than `before`, and is up.
    pub(crate) fn wait_other(&self, before: u32) -> Result<u32> {
        let other = wait_for("another daemon", LIMIT, || {
            let state = self.machine.property(UNIT, "ActiveState").ok()?;
            let pid = self.main_pid().ok()?;
            (state == "active" && pid != before && pid != 0).then_some(pid)
        });
        other.with_context(|| self.machine.journal(UNIT))
    }

    /// The program on the interface; none if there is none.
    pub(crate) fn program(&self) -> Result<Option<u32>> {
        self.lab.balancer().namespace().run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                let (netlink, _changes) = Netlink::connect()?;
                let link = netlink.link("eth0").await?.context("no eth0")?;
                Ok(link.xdp.map(|xdp| xdp.program_id))
            })
        })?
    }

    /// New connections without an end.
    pub(crate) fn load(&self) -> Result<RunningLoad> {
        let client = self.lab.client(0);
        let load = HttpLoad {
            concurrency: 8,
            // Who waits that long is not answered: the machine may be busy.
            timeout: LIMIT,
            sources: client
                .interface()
                .v4
                .iter()
                .map(|ip| (*ip).into())
                .collect(),
            ..HttpLoad::new(SocketAddr::new(self.lab.vip_v4().into(), 80), "/")
        };
        load.start(client.namespace())
    }
}

/// Waits until a load has got so many more answers.
pub(crate) fn wait_answers(load: &RunningLoad, more: u64) -> Result<()> {
    let wanted = load.answered() + more;
    wait_for(&format!("{more} more answers"), LIMIT, || {
        (load.answered() >= wanted).then_some(())
    })
}

/// Ends a load and insists that nothing failed.
pub(crate) fn stop_unharmed(load: RunningLoad, what: &str) -> Result<()> {
    let report = load.stop()?;
    ensure!(
        report.failed == 0,
        "{what}: {} failed: {:?}",
        report.failed,
        report.failures
    );
    println!("{what}: {} requests answered, 0 failed", report.answered);
    Ok(())
}
