//! Reads what a capturing program tells, gives it names and hands it on.

use std::collections::{HashMap, VecDeque};
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use nix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::api::capture::{
    CaptureFigures, CaptureRequest, Captured, CapturedFrame, CapturedPacket,
};
use crate::capture::{Allowance, Names};
use crate::dataplane::Error;
use crate::dataplane::capture::{Frame, Ring, Told};
use crate::dataplane::trial::Action;

/// How often it is said how many packets may be taken.
const GRANT: Duration = Duration::from_millis(50);
/// Packets that are read at once.
const BATCH: usize = 64;
/// How long what was told before the end may take to be handed on.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A capture under way.
pub(super) struct Reader {
    ring: AsyncFd<Ring>,
    names: watch::Receiver<Arc<Names>>,
    figures: watch::Sender<CaptureFigures>,
    stop: Arc<Notify>,
    count: Option<u64>,
    deadline: Option<Instant>,
    allowance: Allowance,
    granted: Instant,
    /// Read, and not yet handed on.
    waiting: VecDeque<Told>,
    handed_on: u64,
    interfaces: HashMap<u32, String>,
}

impl Reader {
    /// One that has told nothing yet. What may be taken at once is granted.
    pub(super) fn new(
        ring: AsyncFd<Ring>,
        names: watch::Receiver<Arc<Names>>,
        figures: watch::Sender<CaptureFigures>,
        stop: Arc<Notify>,
        request: &CaptureRequest,
    ) -> Self {
        let now = Instant::now();
        let time = request.for_millis.map(Duration::from_millis);
        Self {
            ring,
            names,
            figures,
            stop,
            count: request.count,
            deadline: time.map(|time| now + time),
            allowance: Allowance::new(request.limit),
            granted: now,
            waiting: VecDeque::new(),
            handed_on: 0,
            interfaces: HashMap::new(),
        }
    }

    /// Hands on packets until the capture is over; gives why, and what was
    /// counted.
    pub(super) async fn run(mut self, events: &mpsc::Sender<Captured>) -> (String, CaptureFigures) {
        let why = self.hand_on(events).await;
        // From now on everything is above the limit.
        self.count();
        self.ring.get_mut().grant(0);
        if !events.is_closed() && !self.is_enough() {
            let last = self.last_words(events);
            // What a client does not take by then it does not get.
            let _ = tokio::time::timeout(LAST_WORDS, last).await;
        }
        let figures = CaptureFigures {
            captured: self.handed_on,
            ..*self.figures.borrow()
        };
        (why, figures)
    }

    async fn hand_on(&mut self, events: &mpsc::Sender<Captured>) -> String {
        let mut tick = tokio::time::interval(GRANT);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = events.closed() => return "the client has gone".to_owned(),
                () = self.stop.notified() => return "it was ended by command".to_owned(),
                () = until(self.deadline) => return "its time is over".to_owned(),
                _ = tick.tick() => self.grant(),
                read = read(&mut self.ring), if self.waiting.is_empty() => match read {
                    Ok(told) => self.waiting.extend(told),
                    Err(error) => return format!("packets cannot be read: {error}"),
                },
                room = events.reserve(), if !self.waiting.is_empty() => {
                    let Ok(room) = room else { continue };
                    if let Some(told) = self.waiting.pop_front() {
                        room.send(self.named(told));
                    }
                    if self.is_enough() {
                        return "all that were asked for are captured".to_owned();
                    }
                }
            }
        }
    }

    /// What was told before the end.
    async fn last_words(&mut self, events: &mpsc::Sender<Captured>) {
        loop {
            if self.waiting.is_empty() {
                match take(self.ring.get_mut()) {
                    Ok(told) if !told.is_empty() => self.waiting.extend(told),
                    _ => return,
                }
            }
            while let Some(told) = self.waiting.pop_front() {
                let packet = self.named(told);
                if events.send(packet).await.is_err() || self.is_enough() {
                    return;
                }
            }
        }
    }

    fn is_enough(&self) -> bool {
        self.count.is_some_and(|count| self.handed_on >= count)
    }

    fn grant(&mut self) {
        let now = Instant::now();
        let gone_by = now - self.granted;
        self.granted = now;
        let taken = self.count();
        let more = self.allowance.grant(taken, gone_by);
        self.ring.get_mut().grant(more);
    }

    /// Notes what was counted; gives how many packets were taken.
    fn count(&mut self) -> u64 {
        let counted = self.ring.get_ref().figures();
        self.figures.send_replace(CaptureFigures {
            captured: self.handed_on,
            lost: counted.lost,
            limited: counted.limited,
            looked_at: counted.looked,
        });
        counted.taken
    }

    /// A packet with names instead of numbers.
    fn named(&mut self, told: Told) -> Captured {
        self.handed_on += 1;
        let time = since_1970(told.time_ns);
        let interface = self.interface(told.interface);
        let names = Arc::clone(&self.names.borrow());
        let service = told.service.map(|id| match names.service(id) {
            Some(name) => name.to_string(),
            None => format!("#{id}"),
        });
        let seat = told.service.zip(told.member);
        let seat = seat.and_then(|(id, (index, incarnation))| names.member(id, index, incarnation));
        let is_reply = told.slot.is_none();
        let out_interface = match (told.action, told.egress, seat) {
            (Action::Tx, ..) => Some(interface.clone()),
            // A reply goes back the way its client came.
            (Action::Redirect, Some(egress), _) => Some(self.interface(egress)),
            (Action::Redirect, None, Some(seat)) if !is_reply => Some(self.interface(seat.egress)),
            _ => None,
        };
        Captured::Packet(Box::new(CapturedPacket {
            number: self.handed_on,
            seconds: time.as_secs(),
            nanos: time.subsec_nanos(),
            interface,
            queue: told.queue,
            verdict: told.action.name().to_owned(),
            reason: told.reason.name().to_owned(),
            service,
            backend: seat.map(|seat| seat.backend.to_string()),
            slot: told.slot,
            hash: told.hash.map(|hash| format!("{hash:016x}")),
            frame: frame(&told.before),
            out_interface,
            out: told.after.as_ref().map(frame),
        }))
    }

    fn interface(&mut self, number: u32) -> String {
        let name = self.interfaces.entry(number).or_insert_with(|| {
            let name = nix::net::if_::if_indextoname(number).ok();
            let name = name.and_then(|name| name.into_string().ok());
            name.unwrap_or_else(|| format!("#{number}"))
        });
        name.clone()
    }
}

fn frame(frame: &Frame) -> CapturedFrame {
    CapturedFrame {
        len: frame.len,
        bytes: STANDARD.encode(&frame.bytes),
    }
}

/// The packets that are there; waits where there are none.
async fn read(ring: &mut AsyncFd<Ring>) -> Result<Vec<Told>, Error> {
    let failed = |error| Error::kernel("waiting for packets", error);
    loop {
        let mut ready = ring.readable_mut().await.map_err(failed)?;
        let told = take(ready.get_inner_mut())?;
        if told.len() < BATCH {
            ready.clear_ready();
        }
        if !told.is_empty() {
            return Ok(told);
        }
    }
}

fn take(ring: &mut Ring) -> Result<Vec<Told>, Error> {
    let mut all = Vec::new();
    while all.len() < BATCH {
        match ring.take()? {
            Some(told) => all.push(told),
            None => break,
        }
    }
    Ok(all)
}

/// The time of a moment of `CLOCK_MONOTONIC`.
fn since_1970(monotonic_ns: u64) -> Duration {
    let at = Duration::from_nanos(monotonic_ns);
    let now = |clock| clock_gettime(clock).map(Duration::from).unwrap_or_default();
    let ago = now(ClockId::CLOCK_MONOTONIC).saturating_sub(at);
    now(ClockId::CLOCK_REALTIME).saturating_sub(ago)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => pending().await,
    }
}
