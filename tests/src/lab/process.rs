//! Child processes that never outlive the lab.
//!
//! A child from `Namespace::command` dies with the thread that spawned it,
//! because that is what PR_SET_PDEATHSIG follows: the thread, not the process.
//! So all children are spawned by one thread that stays. Each is a process
//! group of its own (Ctrl-C reaches the lab, which ends them in order), is
//! registered for clean-up, and is always waited for.

use std::fs::{self, File};
use std::io::{self, Read, Seek};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{OnceLock, mpsc};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::signal::{self, Signal};

use super::cleanup;
use super::wait::wait_for;

/// How long a killed process may take to be gone. SIGKILL cannot be refused, so
/// only a stalled machine gets near it.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// A running program; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    log: Option<PathBuf>,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a program whose output goes to the file `log`, appended, so that a
    /// restart keeps what was said before.
    ///
    /// `what` names it in messages.
    ///
    /// # Errors
    /// When the log cannot be opened or the program cannot be started.
    pub fn spawn(what: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open {}", log.display()))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let mut process = Self::spawn_piped(what, command)?;
        process.log = Some(log.to_owned());
        Ok(process)
    }

    /// Starts a program with the standard streams as `command` has them.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn_piped(what: &str, command: Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn(command)
            .with_context(|| format!("cannot start {what} ({program}); is it installed?"))?;
        Ok(Self {
            what: what.to_owned(),
            child,
            log: None,
            status: None,
        })
    }

    /// The process id. It stays taken until the end has been noticed.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// What the program has written so far; empty for one started with pipes.
    pub fn log(&self) -> String {
        let bytes = self.log.as_deref().map(fs::read);
        let bytes = bytes.and_then(io::Result::ok).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How it ended, or `None` while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            // Reaped and struck off in one go: see the registry's invariant.
            let mut registry = cleanup::registry();
            if let Ok(Some(status)) = self.child.try_wait() {
                registry.forget_process(self.child.id());
                self.status = Some(status);
            }
        }
        self.status
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.exit_status().is_none()
    }

    /// Sends a signal. SIGSTOP makes a server that accepts connections and never
    /// answers; SIGCONT wakes it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.exit_status() {
            bail!(
                "cannot send {signal} to {}: {}",
                self.what,
                describe(status)
            );
        }
        signal::kill(cleanup::to_pid(self.pid()), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.what))
    }

    /// Waits for it to end by itself.
    ///
    /// # Errors
    /// When it still runs at the deadline.
    pub fn wait(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let what = format!("{} (pid {}) to end", self.what, self.pid());
        wait_for(&what, deadline, || self.exit_status())
    }

    /// Asks it to end with SIGTERM and waits; one that has ended is fine.
    ///
    /// # Errors
    /// When it does not end in time; it is killed then.
    pub fn stop(&mut self, deadline: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status() {
            return Ok(status);
        }
        self.signal(Signal::SIGTERM)?;
        // A process stopped by SIGSTOP sees SIGTERM only when it is woken. One
        // that was not may have ended by now, which is what is wanted.
        let _ = self.signal(Signal::SIGCONT);
        let ended = self.wait(deadline);
        if ended.is_err() {
            self.kill()?;
        }
        ended
    }

    /// Ends it with SIGKILL: no goodbye to its peers, as in a crash.
    ///
    /// # Errors
    /// When it is not gone in time.
    pub fn kill(&mut self) -> Result<ExitStatus> {
        if let Some(status) = self.exit_status() {
            return Ok(status);
        }
        self.signal(Signal::SIGKILL)?;
        self.wait(KILL_LIMIT)
    }

    /// Waits for a condition, but not beyond the process's end.
    ///
    /// # Errors
    /// When the process ends first or the deadline passes; both carry its log.
    pub fn wait_until<T>(
        &mut self,
        what: &str,
        deadline: Duration,
        mut condition: impl FnMut() -> Option<T>,
    ) -> Result<T> {
        let reached = wait_for(what, deadline, || match condition() {
            Some(value) => Some(Ok(value)),
            None => self.exit_status().map(Err),
        });
        match reached {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(status)) => Err(anyhow!("{} ended: {}", self.what, describe(status))),
            Err(late) => Err(late),
        }
        .with_context(|| format!("{what}; log of {}:\n{}", self.what, self.log()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.kill() {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Runs a program to its end and collects what it wrote.
///
/// # Errors
/// When it cannot be started, or is not done at the deadline (it is killed
/// then). How it ended is the caller's to judge.
pub fn run(mut command: Command, deadline: Duration) -> Result<Output> {
    // Files, not pipes: a full pipe would block the program, and reading two
    // pipes would take two more threads.
    let mut stdout = tempfile::tempfile()?;
    let mut stderr = tempfile::tempfile()?;
    command
        .stdin(Stdio::null())
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);
    let what = command.get_program().to_string_lossy().into_owned();
    let mut process = Process::spawn_piped(&what, command)?;
    let ended = process.wait(deadline);
    let (out, err) = (contents(&mut stdout)?, contents(&mut stderr)?);
    let status = ended.with_context(|| {
        let written = [out.as_slice(), err.as_slice()].concat();
        format!("it wrote:\n{}", String::from_utf8_lossy(&written))
    })?;
    Ok(Output {
        status,
        stdout: out,
        stderr: err,
    })
}

fn contents(file: &mut File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What `/proc/PID/status` says of a process's memory: `RssAnon` is its own,
/// `VmRSS` that, its code and what it has mapped. In KiB.
///
/// # Errors
/// When the process is gone, or has no such field.
pub fn status_kib(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let value = status.lines().find_map(|line| {
        let value = line.strip_prefix(name)?.strip_prefix(':')?;
        value.trim().strip_suffix(" kB")?.parse().ok()
    });
    value.with_context(|| format!("no {name} in {status}"))
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with exit code {code}"),
        (None, Some(number)) => format!("it was ended by signal {number}"),
        (None, None) => status.to_string(),
    }
}

/// A command to start and where to send the child.
type Order = (Command, mpsc::Sender<io::Result<Child>>);

/// Spawns on the thread that stays.
fn spawn(mut command: Command) -> io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    let spawner = SPAWNER.get_or_init(|| {
        let (orders, inbox) = mpsc::channel::<Order>();
        // If the thread cannot start, `inbox` is dropped and sending fails below.
        let _ = thread::Builder::new()
            .name("lab-spawner".into())
            .spawn(move || {
                for (command, reply) in inbox {
                    // A caller that is gone has dropped the receiver; the child is
                    // registered and ends with the process.
                    let _ = reply.send(spawn_registered(command));
                }
            });
        orders
    });
    command.process_group(0);
    let (reply, child) = mpsc::channel();
    let gone = || io::Error::other("the lab's spawner thread is gone");
    spawner.send((command, reply)).map_err(|_| gone())?;
    child.recv().map_err(|_| gone())?
}

fn spawn_registered(mut command: Command) -> io::Result<Child> {
    let mut registry = cleanup::registry();
    let child = command.spawn()?;
    registry.add_process(child.id());
    Ok(child)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn sleeper() -> Process {
        let mut command = Command::new("sleep");
        command.arg("1000");
        Process::spawn_piped("sleep", command).unwrap()
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let mut process = thread::spawn(sleeper).join().unwrap();
        assert!(process.is_running());
        assert_eq!(process.stop(LIMIT).unwrap().signal(), Some(libc::SIGTERM));
        assert!(!process.is_running());
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let process = sleeper();
        let path = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(path.exists());
        drop(process);
        assert!(!path.exists());
    }

    #[test]
    fn an_overdue_command_is_killed_and_its_output_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo half; exec sleep 1000"]);
        let error = run(command, Duration::from_millis(300)).unwrap_err();
        assert!(format!("{error:#}").contains("half"), "{error:#}");
    }

    #[test]
    fn a_condition_is_not_awaited_beyond_the_end_of_the_process() {
        let mut process = Process::spawn_piped("true", Command::new("true")).unwrap();
        let error = process
            .wait_until("a miracle", LIMIT, || None::<()>)
            .unwrap_err();
        assert!(format!("{error:#}").contains("exit code 0"), "{error:#}");
    }
}
