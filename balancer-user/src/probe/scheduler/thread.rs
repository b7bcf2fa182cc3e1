//! Where the tasks of probes run: on a thread of their own.
//!
//! A plan of a thousand services or a scrape that takes its time must not
//! make a probe late; and probes that wake each other on one thread cost half
//! of what they do when several threads pass them around. Two thousand a
//! second over HTTP keep it busy for a fifth of the time (docs/benchmark.md).

use std::future::Future;
use std::io;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

/// How long its end may take.
const ENDING: Duration = Duration::from_secs(1);

/// Runs tasks until it is dropped. They are gone then, and with them the
/// processes of commands.
#[derive(Debug)]
pub(super) struct Home {
    handle: Handle,
    /// None where whoever asked runs them.
    thread: Option<Thread>,
}

#[derive(Debug)]
struct Thread {
    /// It ends when this is dropped.
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Home {
    /// Starts the thread.
    pub(super) fn own() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new()
            .name("probes".to_owned())
            .spawn(move || {
                // Nobody sends: the sender is dropped.
                let _ = runtime.block_on(stopped);
                runtime.shutdown_timeout(ENDING);
            })?;
        Ok(Self {
            handle,
            thread: Some(Thread { stop, thread }),
        })
    }

    /// Where this is called from, whose clock a test can turn.
    #[cfg(test)]
    pub(super) fn callers() -> Self {
        Self {
            handle: Handle::current(),
            thread: None,
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(task).abort_handle()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(Thread { stop, thread }) = self.thread.take() {
            drop(stop);
            // A panic of the thread itself was said by itself.
            let _ = thread.join();
        }
    }
}
