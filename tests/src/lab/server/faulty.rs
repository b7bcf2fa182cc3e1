//! A web server that passes its probe and serves its clients badly, on demand.
//!
//! It is a real nginx. Errors are its own; a slow answer comes from an upstream
//! behind it that takes its time, as a starved database would make one.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;

use super::{Nginx, NginxConfig};
use crate::lab::cleanup::Scratch;
use crate::lab::namespace::Namespace;

/// Where the upstream listens, inside of the backend.
const UPSTREAM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8099);
/// Request bytes that the upstream reads at most.
const MAX_REQUEST: usize = 8192;

/// What is wrong with all answers but those to `/healthz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// They have status 500.
    Errors,
    /// They come [`Fault::DELAY`] later.
    Slow,
}

impl Fault {
    /// How much later slow answers come.
    pub const DELAY: Duration = Duration::from_millis(300);

    fn file(self) -> &'static str {
        match self {
            Self::Errors => "errors",
            Self::Slow => "slow",
        }
    }
}

/// A running nginx that can be made to misbehave.
#[derive(Debug)]
pub struct FaultyNginx {
    /// Its access log, and how to stop it.
    pub nginx: Nginx,
    faults: Scratch,
    _upstream: Runtime,
}

impl FaultyNginx {
    /// Starts one that is good.
    ///
    /// # Errors
    /// When nginx does not come up, or the upstream cannot listen.
    pub fn start(namespace: &Namespace, mut config: NginxConfig) -> Result<Self> {
        let faults = Scratch::create("faults")?;
        config.directives.push_str(&directives(&faults));
        let listener = namespace.run(|| TcpListener::bind(UPSTREAM))?;
        let listener = listener.with_context(|| format!("cannot listen on {UPSTREAM}"))?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let listener = {
            let _inside = runtime.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer_late(stream));
            }
        });
        Ok(Self {
            nginx: Nginx::start(namespace, &config)?,
            faults,
            _upstream: runtime,
        })
    }

    /// Has this fault from the next request on, or none.
    ///
    /// # Errors
    /// When the file that tells nginx cannot be written or removed.
    pub fn set(&self, fault: Option<Fault>) -> Result<()> {
        for each in [Fault::Errors, Fault::Slow] {
            let file = self.faults.path().join(each.file());
            match fault == Some(each) {
                true => fs::write(&file, ""),
                false if file.exists() => fs::remove_file(&file),
                false => Ok(()),
            }
            .with_context(|| format!("cannot change {}", file.display()))?;
        }
        Ok(())
    }
}

fn directives(faults: &Scratch) -> String {
    let path = |fault: Fault| faults.path().join(fault.file());
    format!(
        r#"
    set $fault "";
    if (-f {errors}) {{ set $fault errors; }}
    if (-f {slow}) {{ set $fault slow; }}
    if ($uri = /healthz) {{ set $fault ""; }}
    if ($fault = errors) {{ return 500 "out of order\n"; }}
    if ($fault = slow) {{ rewrite ^ /upstream last; }}
    location = /upstream {{ internal; proxy_pass http://{UPSTREAM}; }}
"#,
        errors = path(Fault::Errors).display(),
        slow = path(Fault::Slow).display(),
    )
}

async fn answer_late(mut stream: TcpStream) {
    let mut request = vec![0; MAX_REQUEST];
    if stream.read(&mut request).await.is_err() {
        return;
    }
    // Nothing more comes: only the time passes, or the client goes.
    if timeout(Fault::DELAY, stream.read(&mut request))
        .await
        .is_err()
    {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nlate\n";
        // A client that went away needs no answer.
        let _ = stream.write_all(answer).await;
    }
}
