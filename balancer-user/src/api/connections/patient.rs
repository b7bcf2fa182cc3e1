//! A stream whose peer takes what is written to it, or loses it.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::places::{Cut, Place};

/// While something waits to be taken, so much is taken in that time.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// What a client on a slow line takes in a fraction of it.
const LEAST_TAKEN: usize = 64 << 10;

pub(super) struct Patient<I> {
    io: I,
    place: Arc<Place>,
    /// From the first write that had to wait, until all is written.
    waiting: Option<Waiting>,
}

struct Waiting {
    end: Pin<Box<Sleep>>,
    taken: usize,
}

impl<I> Patient<I> {
    pub(super) fn new(io: I, place: Arc<Place>) -> Self {
        Self {
            io,
            place,
            waiting: None,
        }
    }

    pub(super) fn into_inner(self) -> I {
        self.io
    }

    /// What a write came to, in time.
    fn judge(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(len)) => {
                if let Some(waiting) = &mut self.waiting {
                    waiting.taken += len;
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let waiting = self.waiting.get_or_insert_with(|| Waiting {
                    end: Box::pin(sleep(PATIENCE)),
                    taken: 0,
                });
                while waiting.end.as_mut().poll(context).is_ready() {
                    if waiting.taken < LEAST_TAKEN {
                        self.place.count(Cut::Untaken);
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                    *waiting = Waiting {
                        end: Box::pin(sleep(PATIENCE)),
                        taken: 0,
                    };
                }
            }
        }
        written
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(context, bytes);
        self.judge(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.judge(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    /// Asked when all has been written.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.waiting = None;
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}
