//! Connections that stay: idle ones that are asked again, and downloads that
//! take long. Each knows the backend that it began with, so a change that moves
//! one shows, also when the other backend would have answered as well.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use super::http::Head;
use crate::lab::namespace::Namespace;
use crate::lab::server::download_pattern;
use crate::lab::wait::wait_for;

/// How long a connection, or an answer on one that is idle, may take.
const LIMIT: Duration = Duration::from_secs(5);

/// Connections that are opened, or asked, at a time.
const CONCURRENCY: usize = 50;

/// Who is asked, and from where.
#[derive(Clone, Debug)]
pub struct Target {
    /// The server.
    pub server: SocketAddr,
    /// Addresses to ask from, in turn; the kernel's choice if empty.
    pub sources: Vec<IpAddr>,
}

impl Target {
    async fn connect(&self, turn: usize) -> Result<TcpStream> {
        let socket = if self.server.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        if let Some(at) = turn.checked_rem(self.sources.len()) {
            socket.bind(SocketAddr::new(self.sources[at], 0))?;
        }
        timeout(LIMIT, socket.connect(self.server))
            .await
            .context("no connection in time")?
            .context("cannot connect")
    }
}

/// Idle connections; dropping them closes them.
#[derive(Debug)]
pub struct HeldConnections {
    held: Vec<Held>,
    runtime: Runtime,
}

#[derive(Debug)]
struct Held {
    stream: TcpStream,
    /// Who answered first.
    backend: String,
    /// What became of it, once something did.
    broken: Option<String>,
}

/// A connection or download that went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// Who had it.
    pub backend: String,
    /// What went wrong.
    pub error: String,
}

impl HeldConnections {
    /// Opens them, asks for `/` once on each and leaves them idle.
    ///
    /// # Errors
    /// When one cannot be opened or is not answered.
    pub fn open(namespace: &Namespace, target: &Target, count: usize) -> Result<Self> {
        let runtime = namespace.runtime("lab-held")?;
        let target = target.clone();
        let opening = runtime.spawn(async move {
            let mut held = Vec::new();
            let turns: Vec<usize> = (0..count).collect();
            for turns in turns.chunks(CONCURRENCY) {
                let mut opening = JoinSet::new();
                for turn in turns.iter().copied() {
                    let target = target.clone();
                    opening.spawn(async move { Held::open(&target, turn).await });
                }
                for opened in opening.join_all().await {
                    held.push(opened.with_context(|| format!("after {}", held.len()))?);
                }
            }
            anyhow::Ok(held)
        });
        let held = runtime.block_on(opening)??;
        Ok(Self { held, runtime })
    }

    /// How many each backend has.
    pub fn by_backend(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for held in &self.held {
            *counts.entry(held.backend.clone()).or_default() += 1;
        }
        counts
    }

    /// Asks once more on all that are whole, and gives those that are not: cut,
    /// silent, or answered by somebody else.
    ///
    /// # Errors
    /// When the asking itself goes wrong.
    pub fn ask_again(&mut self) -> Result<Vec<Broken>> {
        let held = std::mem::take(&mut self.held);
        let asking = self.runtime.spawn(async move {
            let mut asked = Vec::with_capacity(held.len());
            let mut rest = held.into_iter().peekable();
            while rest.peek().is_some() {
                let mut asking = JoinSet::new();
                for held in rest.by_ref().take(CONCURRENCY) {
                    asking.spawn(held.ask_again());
                }
                asked.extend(asking.join_all().await);
            }
            asked
        });
        self.held = self.runtime.block_on(asking)?;
        let broken = self.held.iter().filter_map(|held| {
            Some(Broken {
                backend: held.backend.clone(),
                error: held.broken.clone()?,
            })
        });
        Ok(broken.collect())
    }
}

impl Held {
    async fn open(target: &Target, turn: usize) -> Result<Self> {
        let mut stream = target.connect(turn).await?;
        let backend = ask(&mut stream).await?;
        Ok(Self {
            stream,
            backend,
            broken: None,
        })
    }

    async fn ask_again(mut self) -> Self {
        if self.broken.is_none() {
            self.broken = match ask(&mut self.stream).await {
                Ok(backend) if backend == self.backend => None,
                Ok(other) => Some(format!("{other} answered")),
                Err(error) => Some(format!("{error:#}")),
            };
        }
        self
    }
}

/// Asks for `/` and leaves the connection open; who answered.
async fn ask(stream: &mut TcpStream) -> Result<String> {
    let asking = async {
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
            .await?;
        let (head, mut received) = read_head(stream).await?;
        let len = head.len + head.body_len.context("no length is announced")?;
        while received.len() < len {
            read_more(stream, &mut received).await?;
        }
        ensure!(head.status == 200, "status {}", head.status);
        Ok(head.backend)
    };
    timeout(LIMIT, asking).await.context("no answer in time")?
}

/// The head of an answer, and all that has come with it.
async fn read_head(stream: &mut TcpStream) -> Result<(Head, Vec<u8>)> {
    let mut received = Vec::new();
    loop {
        read_more(stream, &mut received).await?;
        if let Some(head) = Head::read(&received)? {
            return Ok((head, received));
        }
    }
}

async fn read_more(stream: &mut TcpStream, received: &mut Vec<u8>) -> Result<()> {
    let count = stream.read_buf(received).await?;
    ensure!(count > 0, "closed after {} bytes", received.len());
    Ok(())
}

/// Downloads under way, each on a connection of its own; dropping them breaks
/// them off.
#[derive(Debug)]
pub struct Downloads {
    progress: Arc<Progress>,
    count: u64,
    tasks: Vec<JoinHandle<Ended>>,
    runtime: Runtime,
}

#[derive(Debug, Default)]
struct Progress {
    begun: AtomicU64,
    ended: AtomicU64,
}

/// The backend, if one answered, and what went wrong, if something did.
type Ended = (String, Result<()>);

impl Downloads {
    /// Starts them and waits until bytes of each have come. What is served has
    /// to be the first `len` bytes of [`download_pattern`], and slow enough to
    /// last.
    ///
    /// # Errors
    /// When one of them does not begin in time.
    pub fn start(
        namespace: &Namespace,
        target: &Target,
        path: &str,
        len: usize,
        count: usize,
    ) -> Result<Self> {
        let runtime = namespace.runtime("lab-downloads")?;
        let progress = Arc::<Progress>::default();
        let pattern: Arc<[u8]> = download_pattern(len).into();
        let tasks = (0..count).map(|turn| {
            let (target, path) = (target.clone(), path.to_owned());
            let (pattern, progress) = (Arc::clone(&pattern), Arc::clone(&progress));
            runtime.spawn(async move {
                let mut backend = String::new();
                let fetching = fetch(&target, turn, &path, &pattern, &progress, &mut backend);
                let outcome = fetching.await;
                progress.ended.fetch_add(1, Ordering::Relaxed);
                (backend, outcome)
            })
        });
        let downloads = Self {
            tasks: tasks.collect(),
            progress,
            count: count as u64,
            runtime,
        };
        wait_for("all downloads to begin", 4 * LIMIT, || {
            let begun = downloads.progress.begun.load(Ordering::Relaxed);
            (begun == downloads.count).then_some(())
        })?;
        Ok(downloads)
    }

    /// How many are still under way.
    pub fn running(&self) -> u64 {
        self.count - self.progress.ended.load(Ordering::Relaxed)
    }

    /// Waits until all have ended: how many came whole from each backend, and
    /// which did not.
    ///
    /// # Errors
    /// When they have not ended by then.
    pub fn finish(self, deadline: Duration) -> Result<(BTreeMap<String, usize>, Vec<Broken>)> {
        wait_for("all downloads to end", deadline, || {
            (self.running() == 0).then_some(())
        })?;
        let (mut whole, mut broken) = (BTreeMap::new(), Vec::new());
        for task in self.tasks {
            match self.runtime.block_on(task)? {
                (backend, Ok(())) => *whole.entry(backend).or_default() += 1,
                (backend, Err(error)) => broken.push(Broken {
                    backend,
                    error: format!("{error:#}"),
                }),
            }
        }
        Ok((whole, broken))
    }
}

async fn fetch(
    target: &Target,
    turn: usize,
    path: &str,
    pattern: &[u8],
    progress: &Progress,
    backend: &mut String,
) -> Result<()> {
    let mut stream = target.connect(turn).await?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let (head, mut received) = read_head(&mut stream).await?;
    *backend = head.backend;
    ensure!(head.status == 200, "status {}", head.status);
    ensure!(
        head.body_len == Some(pattern.len()),
        "{:?} bytes are announced, not {}",
        head.body_len,
        pattern.len()
    );
    received.drain(..head.len);
    progress.begun.fetch_add(1, Ordering::Relaxed);
    let mut taken = 0;
    loop {
        let expected = pattern.get(taken..taken + received.len());
        ensure!(
            expected == Some(received.as_slice()),
            "damaged after byte {taken}"
        );
        taken += received.len();
        received.clear();
        if taken == pattern.len() {
            return Ok(());
        }
        timeout(LIMIT, read_more(&mut stream, &mut received))
            .await
            .with_context(|| format!("stands still at byte {taken}"))??;
    }
}
