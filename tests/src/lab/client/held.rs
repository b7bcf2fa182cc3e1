//! Connections that stay: idle ones that are asked again, and downloads that
//! take long. Each knows the backend that it began with, so a change that moves
//! one shows, also when the other backend would have answered as well.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::http::Head;
use crate::lab::namespace::Namespace;
use crate::lab::server::download_pattern;
use crate::lab::wait::wait_for;

/// How long a connection, or an answer on one that is idle, may take.
const LIMIT: Duration = Duration::from_secs(10);

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
    downloads: Vec<Arc<Download>>,
    _runtime: Runtime,
}

/// What is known of one.
#[derive(Debug, Default)]
struct Download {
    /// Bytes that came and were right.
    taken: AtomicUsize,
    /// Set with the head of the answer.
    backend: OnceLock<String>,
    /// Set at the end.
    outcome: OnceLock<Result<(), String>>,
}

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
        let pattern: Arc<[u8]> = download_pattern(len).into();
        let start = |turn| {
            let (target, path) = (target.clone(), path.to_owned());
            let (pattern, download) = (Arc::clone(&pattern), Arc::<Download>::default());
            let shared = Arc::clone(&download);
            runtime.spawn(async move {
                let outcome = shared.fetch(&target, turn, &path, &pattern).await;
                let outcome = outcome.map_err(|error| format!("{error:#}"));
                shared.outcome.get_or_init(|| outcome);
            });
            download
        };
        let downloads = Self {
            downloads: (0..count).map(start).collect(),
            _runtime: runtime,
        };
        downloads.advance(1, 4 * LIMIT)?;
        let broken = downloads.broken();
        ensure!(broken.is_empty(), "downloads do not begin: {broken:?}");
        Ok(downloads)
    }

    /// Waits until so many more bytes have come in each that has not ended.
    ///
    /// # Errors
    /// When that takes longer.
    pub fn advance(&self, len: usize, deadline: Duration) -> Result<()> {
        let all = self.downloads.iter();
        let wanted: Vec<_> = all.map(|it| (it, it.taken() + len)).collect();
        let is_late = |(download, wanted): &&(&Arc<Download>, usize)| {
            download.outcome.get().is_none() && download.taken() < *wanted
        };
        let what = format!("{len} more bytes in each download");
        wait_for(&what, deadline, || {
            wanted.iter().find(is_late).is_none().then_some(())
        })
    }

    /// How many are still under way.
    pub fn running(&self) -> usize {
        let outcomes = self.downloads.iter().map(|it| it.outcome.get());
        outcomes.filter(Option::is_none).count()
    }

    /// Those that went wrong so far.
    pub fn broken(&self) -> Vec<Broken> {
        let broken = self.downloads.iter().filter_map(|download| {
            let outcome = download.outcome.get()?;
            Some(Broken {
                backend: download.backend.get().cloned().unwrap_or_default(),
                error: outcome.as_ref().err()?.clone(),
            })
        });
        broken.collect()
    }

    /// How many each backend sends, or has sent whole.
    pub fn by_backend(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for download in &self.downloads {
            if let (Some(backend), None | Some(Ok(()))) =
                (download.backend.get(), download.outcome.get())
            {
                *counts.entry(backend.clone()).or_default() += 1;
            }
        }
        counts
    }
}

impl Download {
    fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    async fn fetch(&self, target: &Target, turn: usize, path: &str, pattern: &[u8]) -> Result<()> {
        let mut stream = target.connect(turn).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let (head, mut received) = timeout(LIMIT, read_head(&mut stream))
            .await
            .context("no answer in time")??;
        self.backend.get_or_init(|| head.backend);
        ensure!(head.status == 200, "status {}", head.status);
        ensure!(
            head.body_len == Some(pattern.len()),
            "{:?} bytes are announced, not {}",
            head.body_len,
            pattern.len()
        );
        received.drain(..head.len);
        let mut taken = 0;
        loop {
            let expected = pattern.get(taken..taken + received.len());
            ensure!(
                expected == Some(received.as_slice()),
                "damaged after byte {taken}"
            );
            taken += received.len();
            received.clear();
            self.taken.store(taken, Ordering::Relaxed);
            if taken == pattern.len() {
                return Ok(());
            }
            timeout(LIMIT, read_more(&mut stream, &mut received))
                .await
                .with_context(|| format!("stands still at byte {taken}"))?
                .with_context(|| format!("cut at byte {taken}"))?;
        }
    }
}
