//! The command probe: a program of the operator's, which passes by ending
//! with status 0.
//!
//! It runs with as little as it needs: as a user that owns nothing, without
//! groups, without our environment, files or input, in `/`, in a process group
//! of its own that is killed when the probe is over, however it is over. What
//! it writes is read up to a limit, for the message of a failure.

use std::io;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, User};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::Semaphore;

use super::{Deadline, PrepareError, TargetId};
use crate::config::model::CommandProbe;
use crate::health::{Failure, Phase, shortened};

/// The most that a command may write.
const OUTPUT_LIMIT: usize = 64 * 1024;
/// Commands that run at a time; each is a process, and takes a slice of CPU.
const MAX_RUNNING: usize = 64;
/// A path for programs that look for others.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

static RUNNING: Semaphore = Semaphore::const_new(MAX_RUNNING);

/// A command, ready to be run for any backend.
#[derive(Debug)]
pub(super) struct Client {
    command: Vec<String>,
    user: (u32, u32),
}

impl Client {
    pub(super) fn new(probe: &CommandProbe) -> Result<Self, PrepareError> {
        let unknown = || PrepareError::User(probe.user.clone());
        let user = User::from_name(&probe.user).ok().flatten();
        let user = user.ok_or_else(unknown)?;
        Ok(Self {
            command: probe.command.clone(),
            user: (user.uid.as_raw(), user.gid.as_raw()),
        })
    }

    pub(super) async fn run(
        &self,
        id: &TargetId,
        address: SocketAddr,
        deadline: &Deadline,
    ) -> Result<(), Failure> {
        let Ok(turn) = deadline.within(Phase::Command, RUNNING.acquire()).await else {
            let text = format!("{MAX_RUNNING} commands already run; raise the interval");
            return Err(Failure::Local(text));
        };
        let mut running = self.start(id, address, deadline)?;
        let judged = running.watch(deadline).await;
        drop((running, turn));
        judged
    }

    fn start(
        &self,
        id: &TargetId,
        address: SocketAddr,
        deadline: &Deadline,
    ) -> Result<Running, Failure> {
        let local = |text: String| Failure::Local(text);
        let Some((program, arguments)) = self.command.split_first() else {
            return Err(local("the command is empty".into()));
        };
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("BALANCER_SERVICE", &id.service)
            .env("BALANCER_BACKEND", &id.backend)
            .env("BALANCER_ADDRESS", address.ip().to_string())
            .env("BALANCER_PORT", address.port().to_string())
            .env(
                "BALANCER_TIMEOUT_MS",
                deadline.limit.as_millis().to_string(),
            )
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let (uid, gid) = self.user;
        // Setting the user also drops all groups, where root does it. Who is
        // that user already may not set it.
        if uid != nix::unistd::geteuid().as_raw() {
            command.gid(gid).uid(uid);
        }
        match command.spawn() {
            Ok(child) => Ok(Running {
                group: child.id().and_then(|id| i32::try_from(id).ok()),
                child,
            }),
            Err(error) => Err(local(format!("command {program} cannot be run: {error}"))),
        }
    }
}

/// A command that runs. Dropping it kills all of its processes.
struct Running {
    child: Child,
    group: Option<i32>,
}

impl Running {
    async fn watch(&mut self, deadline: &Deadline) -> Result<(), Failure> {
        let (mut out, mut err) = (self.child.stdout.take(), self.child.stderr.take());
        let mut output = Vec::new();
        let status = loop {
            let mut piece = [0; 4096];
            let mut other = [0; 4096];
            let step = async {
                tokio::select! {
                    // What was written last is read before the end is seen.
                    biased;
                    len = read(&mut out, &mut piece) => Step::Wrote(len.map(|len| piece[..len].to_vec())),
                    len = read(&mut err, &mut other) => Step::Wrote(len.map(|len| other[..len].to_vec())),
                    status = self.child.wait() => Step::Ended(status),
                }
            };
            match deadline.within(Phase::Command, step).await? {
                Step::Wrote(written) => output.extend(written.unwrap_or_default()),
                Step::Ended(status) => break status,
            }
            if output.len() > OUTPUT_LIMIT {
                let limit = OUTPUT_LIMIT;
                return Err(Failure::OutputTooLarge { limit });
            }
        };
        let status = status.map_err(|error| Failure::Local(error.to_string()))?;
        match status.success() {
            true => Ok(()),
            false => Err(Failure::CommandFailed {
                status: describe(status),
                output: shortened(output.trim_ascii()),
            }),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Also after its end: what it left behind is in the same group, whose
        // number is not given away while it has members.
        if let Some(group) = self.group {
            // None is left: the usual case.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

enum Step {
    Wrote(io::Result<Vec<u8>>),
    Ended(io::Result<ExitStatus>),
}

/// Reads a pipe; never comes back once it has ended.
async fn read(pipe: &mut Option<impl AsyncRead + Unpin>, buffer: &mut [u8]) -> io::Result<usize> {
    if let Some(open) = pipe {
        match open.read(buffer).await {
            Ok(0) | Err(_) => *pipe = None,
            read => return read,
        }
    }
    std::future::pending().await
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("status {code}"),
        (None, Some(signal)) => match Signal::try_from(signal) {
            Ok(signal) => format!("signal {signal}"),
            Err(_) => format!("signal {signal}"),
        },
        (None, None) => "no status".to_owned(),
    }
}

#[cfg(test)]
mod tests;
