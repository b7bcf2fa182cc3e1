//! Who is at the other end of the control socket, by the kernel's word.

use std::fmt;
use std::future::Future;
use std::io;

use axum::serve::Listener;
use nix::unistd::{Uid, User};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{UnixListener, UnixStream};

use super::connections::{Client, Who};
use crate::revision::Author;

/// `loginuid` of a process that nobody logged in for.
const NOBODY_LOGGED_IN: u32 = u32::MAX;

/// The process that opened a connection (`SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Its user.
    pub uid: u32,
    /// The group it ran with.
    pub gid: u32,
    /// Its number, where it has one here.
    pub pid: Option<i32>,
}

impl Peer {
    /// Who that is, for the history.
    pub fn author(self) -> Author {
        let login = self.pid.and_then(login_of);
        Author {
            user: name(self.uid),
            login: login.filter(|login| *login != self.uid).map(name),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.author())
    }
}

fn name(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("uid {uid}"), |user| user.name)
}

/// The user who logged in, whatever became of him since (`sudo`, `su`).
fn login_of(pid: i32) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    let uid = text.trim().parse().ok()?;
    (uid != NOBODY_LOGGED_IN).then_some(uid)
}

/// Where connections come from, with who is at their other end.
pub trait Accept: Send + 'static {
    /// A connection.
    type Io: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next connection.
    fn accept(&mut self) -> impl Future<Output = (Self::Io, Peer)> + Send;
}

impl Accept for UnixListener {
    type Io = UnixStream;

    async fn accept(&mut self) -> (UnixStream, Peer) {
        loop {
            let (stream, _) = Listener::accept(self).await;
            match stream.peer_cred() {
                Ok(credentials) => {
                    let peer = Peer {
                        uid: credentials.uid(),
                        gid: credentials.gid(),
                        pid: credentials.pid(),
                    };
                    return (stream, peer);
                }
                Err(error) => tracing::warn!(%error, "a client cannot be told who it is"),
            }
        }
    }
}

/// The control socket, which knows who comes.
#[derive(Debug)]
pub struct Control<A>(pub A);

impl<A: Accept> Listener for Control<A> {
    type Io = A::Io;
    type Addr = Peer;

    async fn accept(&mut self) -> (A::Io, Peer) {
        self.0.accept().await
    }

    fn local_addr(&self) -> io::Result<Peer> {
        Ok(Peer {
            uid: nix::unistd::geteuid().as_raw(),
            gid: nix::unistd::getegid().as_raw(),
            pid: i32::try_from(std::process::id()).ok(),
        })
    }
}

impl Client for Peer {
    fn who(&self) -> Who {
        Who::User(self.uid)
    }
}
