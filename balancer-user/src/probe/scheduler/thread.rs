//! Where the tasks of probes run: on a thread of their own.
//!
//! A plan of a thousand services or a scrape that takes its time must not
//! make a probe late; and probes that wake each other on one thread cost half
//! of what they do when several threads pass them around.

use std::future::Future;
use std::io;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::AbortHandle;

/// Threads that make probes. Two thousand a second over HTTP keep one busy for
/// a fifth of the time (docs/benchmark.md).
const THREADS: usize = 1;

/// Runs tasks until it is dropped.
#[derive(Debug)]
pub(super) struct Home {
    handle: Handle,
    /// The thread; none where whoever asked runs them.
    runtime: Option<Runtime>,
}

impl Home {
    /// Starts the thread.
    pub(super) fn own() -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("probes")
            .enable_all()
            .build()?;
        Ok(Self {
            handle: runtime.handle().clone(),
            runtime: Some(runtime),
        })
    }

    /// Where this is called from, whose clock a test can turn.
    #[cfg(test)]
    pub(super) fn callers() -> Self {
        Self {
            handle: Handle::current(),
            runtime: None,
        }
    }

    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        self.handle.spawn(task).abort_handle()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // A runtime that waits for its threads may not be dropped by a task.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
