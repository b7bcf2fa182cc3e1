//! An HTTP load of our own: many requests, each on a new connection, with a
//! record of who answered and of what failed when.
//!
//! Benchmarks tell rates; this tells whether a change lost a request. It counts
//! an answer only when it is whole: a body shorter than announced is a failure.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;

use crate::lab::namespace::Namespace;

/// Failures kept in full; more are only counted.
const MAX_FAILURES: usize = 1000;

/// What to ask and how hard.
#[derive(Clone, Debug)]
pub struct HttpLoad {
    /// Who is asked.
    pub server: SocketAddr,
    /// The path asked for.
    pub path: String,
    /// How many requests; `None` goes on until [`RunningLoad::stop`].
    pub requests: Option<u64>,
    /// How many at a time.
    pub concurrency: usize,
    /// How long a request may take.
    pub timeout: Duration,
    /// Pause of each of the concurrent askers after a request.
    pub pause: Duration,
    /// Addresses to ask from, in turn; the kernel's choice if empty.
    pub sources: Vec<IpAddr>,
}

/// A request that got no whole answer.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began, from the start of the load.
    pub at: Duration,
    /// How long it took to fail.
    pub took: Duration,
    /// The client's end, if there was a connection.
    pub local: Option<SocketAddr>,
    /// What went wrong.
    pub error: String,
}

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Whole answers, of whatever status.
    pub answered: u64,
    /// Answers by the `X-Backend` header; those without one under "".
    pub by_backend: BTreeMap<String, u64>,
    /// Answers by status.
    pub by_status: BTreeMap<u16, u64>,
    /// Requests without a whole answer.
    pub failed: u64,
    /// The first of those, in order.
    pub failures: Vec<Failure>,
    /// How long it went on.
    pub elapsed: Duration,
    /// Times of the answers, shortest first.
    latencies: Vec<Duration>,
}

impl LoadReport {
    /// The time that this share of the answers did not exceed; 0.5 for the
    /// median. Zero without answers.
    pub fn latency(&self, share: f64) -> Duration {
        let last = self.latencies.len().saturating_sub(1);
        let index = (last as f64 * share.clamp(0.0, 1.0)).round() as usize;
        self.latencies.get(index).copied().unwrap_or_default()
    }

    /// Answers a backend gave.
    pub fn from_backend(&self, name: &str) -> u64 {
        self.by_backend.get(name).copied().unwrap_or_default()
    }

    /// Answers that took longer than that.
    pub fn slower_than(&self, limit: Duration) -> u64 {
        let in_time = self.latencies.partition_point(|took| *took <= limit);
        (self.latencies.len() - in_time) as u64
    }

    /// Requests made, however they went.
    pub fn requests(&self) -> u64 {
        self.answered + self.failed
    }

    fn count(&mut self, answer: Answer, took: Duration) {
        self.answered += 1;
        *self.by_backend.entry(answer.backend).or_default() += 1;
        *self.by_status.entry(answer.status).or_default() += 1;
        self.latencies.push(took);
    }

    fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.latencies.extend(other.latencies);
        for (backend, count) in other.by_backend {
            *self.by_backend.entry(backend).or_default() += count;
        }
        for (status, count) in other.by_status {
            *self.by_status.entry(status).or_default() += count;
        }
    }
}

/// A load that is going on; dropping it stops it and discards the report.
#[derive(Debug)]
pub struct RunningLoad {
    progress: Arc<Progress>,
    thread: Option<JoinHandle<Result<LoadReport>>>,
}

/// What the askers and their owner share.
#[derive(Debug, Default)]
struct Progress {
    stop: AtomicBool,
    begun: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    next_source: AtomicUsize,
}

struct Answer {
    status: u16,
    backend: String,
}

impl HttpLoad {
    /// Requests for a path, ten at a time, two seconds each at most, without an
    /// end.
    pub fn new(server: SocketAddr, path: &str) -> Self {
        Self {
            server,
            path: path.to_owned(),
            requests: None,
            concurrency: 10,
            timeout: Duration::from_secs(2),
            pause: Duration::ZERO,
            sources: Vec::new(),
        }
    }

    /// So many requests for a path, so many at a time.
    pub fn burst(server: SocketAddr, path: &str, requests: u64, concurrency: usize) -> Self {
        Self {
            requests: Some(requests),
            concurrency,
            ..Self::new(server, path)
        }
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it has no end, or the namespace cannot be entered.
    pub fn run(&self, namespace: &Namespace) -> Result<LoadReport> {
        ensure!(
            self.requests.is_some(),
            "a load without a number of requests never ends"
        );
        self.drive(namespace, &Arc::default())
    }

    /// Starts it in the background.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(&self, namespace: &Namespace) -> Result<RunningLoad> {
        let progress = Arc::<Progress>::default();
        let (load, inside, shared) = (self.clone(), namespace.clone(), Arc::clone(&progress));
        let thread = thread::Builder::new()
            .name("lab-http-load".into())
            .spawn(move || load.drive(&inside, &shared))?;
        Ok(RunningLoad {
            progress,
            thread: Some(thread),
        })
    }

    /// One thread is enough, and keeps every socket in the namespace.
    fn drive(&self, namespace: &Namespace, progress: &Arc<Progress>) -> Result<LoadReport> {
        namespace.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(self.ask_all(progress))
        })?
    }

    async fn ask_all(&self, progress: &Arc<Progress>) -> Result<LoadReport> {
        let start = Instant::now();
        let mut askers = JoinSet::new();
        for _ in 0..self.concurrency {
            let (load, shared) = (self.clone(), Arc::clone(progress));
            askers.spawn(async move { load.ask_repeatedly(&shared, start).await });
        }
        let mut report = LoadReport::default();
        while let Some(part) = askers.join_next().await {
            report.merge(part?);
        }
        report.elapsed = start.elapsed();
        report.latencies.sort_unstable();
        report.failures.sort_by_key(|failure| failure.at);
        report.failures.truncate(MAX_FAILURES);
        Ok(report)
    }

    async fn ask_repeatedly(&self, progress: &Progress, start: Instant) -> LoadReport {
        let mut report = LoadReport::default();
        while !progress.stop.load(Ordering::Relaxed) {
            let number = progress.begun.fetch_add(1, Ordering::Relaxed);
            if self.requests.is_some_and(|most| number >= most) {
                break;
            }
            let (begun, mut local) = (Instant::now(), None);
            let source = self.source(progress);
            let asked = tokio::time::timeout(self.timeout, self.ask(source, &mut local)).await;
            let took = begun.elapsed();
            match asked.unwrap_or_else(|_| Err(anyhow!("no answer in time"))) {
                Ok(answer) => {
                    report.count(answer, took);
                    progress.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    report.failed += 1;
                    if report.failures.len() < MAX_FAILURES {
                        let (at, error) = (begun - start, format!("{error:#}"));
                        report.failures.push(Failure {
                            at,
                            took,
                            local,
                            error,
                        });
                    }
                    progress.failed.fetch_add(1, Ordering::Relaxed);
                }
            }
            if !self.pause.is_zero() {
                tokio::time::sleep(self.pause).await;
            }
        }
        report
    }

    fn source(&self, progress: &Progress) -> Option<IpAddr> {
        let turn = progress.next_source.fetch_add(1, Ordering::Relaxed);
        self.sources
            .get(turn.checked_rem(self.sources.len())?)
            .copied()
    }

    async fn ask(&self, source: Option<IpAddr>, local: &mut Option<SocketAddr>) -> Result<Answer> {
        let socket = if self.server.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(source) = source {
            socket.bind(SocketAddr::new(source, 0)).context("bind")?;
        }
        let mut stream = socket.connect(self.server).await.context("connect")?;
        *local = stream.local_addr().ok();
        let Self { path, server, .. } = self;
        let request = format!("GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.context("send")?;
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.context("receive")?;
        answer(&received)
    }
}

impl RunningLoad {
    /// Whole answers so far.
    pub fn answered(&self) -> u64 {
        self.progress.answered.load(Ordering::Relaxed)
    }

    /// Failures so far.
    pub fn failed(&self) -> u64 {
        self.progress.failed.load(Ordering::Relaxed)
    }

    /// Lets the requests under way end, and reports.
    ///
    /// # Errors
    /// When the load could not be run.
    pub fn stop(mut self) -> Result<LoadReport> {
        self.progress.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("the load has been stopped")?;
        thread.join().map_err(|_| anyhow!("the load panicked"))?
    }
}

impl Drop for RunningLoad {
    fn drop(&mut self) {
        self.progress.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Its report is not wanted; its namespace must be free, though.
            let _ = thread.join();
        }
    }
}

/// Reads a whole HTTP/1.1 answer of a connection that was closed after it.
fn answer(received: &[u8]) -> Result<Answer> {
    ensure!(!received.is_empty(), "closed without an answer");
    let head = Head::read(received)?.context("the head of the answer is cut off")?;
    let got = received.len() - head.len;
    if let Some(announced) = head.body_len {
        ensure!(announced == got, "the body has {got} of {announced} bytes");
    }
    Ok(Answer {
        status: head.status,
        backend: head.backend,
    })
}

/// What comes before the body of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// Its own length, the empty line included.
    pub(super) len: usize,
    pub(super) status: u16,
    /// As `X-Backend` has it, empty without.
    pub(super) backend: String,
    /// As announced.
    pub(super) body_len: Option<usize>,
}

impl Head {
    /// Reads the head that `received` begins with; `None` if more has to come.
    pub(super) fn read(received: &[u8]) -> Result<Option<Self>> {
        let Some(end) = received.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let text = std::str::from_utf8(&received[..end]).context("the head is no text")?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let status = status.context("no status line")?;
        let mut head = Self {
            len: end + 4,
            status: status.parse().context("no status")?,
            backend: String::new(),
            body_len: None,
        };
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("x-backend") {
                value.clone_into(&mut head.backend);
            } else if name.eq_ignore_ascii_case("content-length") {
                head.body_len = Some(value.parse()?);
            }
        }
        Ok(Some(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_answers_count() {
        let whole = b"HTTP/1.1 503 Gone\r\nX-Backend: b1\r\nContent-Length: 2\r\n\r\nok";
        let read = answer(whole).unwrap();
        assert_eq!((read.status, read.backend.as_str()), (503, "b1"));
        for len in 0..whole.len() {
            assert!(answer(&whole[..len]).is_err(), "{len} bytes");
        }
    }

    #[test]
    fn latency_is_taken_from_the_sorted_times() {
        let latencies = (0..=100).map(Duration::from_millis).collect();
        let report = LoadReport {
            latencies,
            ..LoadReport::default()
        };
        assert_eq!(report.latency(0.99), Duration::from_millis(99));
        assert_eq!(report.latency(1.0), Duration::from_millis(100));
        assert_eq!(report.slower_than(Duration::from_millis(98)), 2);
        assert_eq!(LoadReport::default().latency(0.5), Duration::ZERO);
    }
}
