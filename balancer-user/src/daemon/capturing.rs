//! Captures of live packets.
//!
//! One at a time: each swaps the program in the packet path twice, and what
//! two may take together would be nobody's limit. While one is on, a program
//! that also tells of packets is attached; [`reader`] hands on what it tells,
//! in a task of its own, and ends when the client goes, when enough was told,
//! when the time is over or when somebody says so. Then the program that only
//! forwards is put back, which is tried again each second until it succeeds.

mod reader;

use std::sync::Arc;
use std::time::{Duration, Instant};

use balancer_common::capture::MAX_SNAPLEN;
use balancer_common::verdict::Reason;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::controller::Controller;
use super::preparing::Done;
use crate::api::capture::{
    CaptureFigures, CaptureRequest, CaptureStatus, CaptureStopRequest, Captured, MAX_LIMIT,
};
use crate::api::server::Capturing;
use crate::api::types::{Problem, Said};
use crate::capture::{Filter, Names};
use crate::dataplane::State;
use crate::dataplane::capture::{self, Tap, Wish};
use crate::dataplane::trial::Action;
use crate::revision::Author;

use reader::Reader;

/// Events that may wait for the client.
const MAX_WAITING: usize = 256;
/// Longest time that may be asked for.
const MAX_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// What the controller keeps of captures.
#[derive(Default)]
pub(super) struct Captures {
    /// The number that was given last.
    last: u64,
    on: Option<Capture>,
}

impl Captures {
    /// Whether the capturing program is attached.
    pub(super) fn is_on(&self) -> bool {
        self.on.is_some()
    }
}

/// The one that is on.
struct Capture {
    number: u64,
    author: Author,
    began: Instant,
    what: String,
    by_name: Filter,
    by_number: capture::Filter,
    names: watch::Sender<Arc<Names>>,
    figures: watch::Receiver<CaptureFigures>,
    stop: Arc<Notify>,
    /// It is over, and the program that only forwards is to be put back.
    over: Option<Over>,
}

/// How a capture ended.
pub(super) struct Over {
    number: u64,
    why: String,
    figures: CaptureFigures,
    /// Who is told once all is as before.
    events: mpsc::Sender<Captured>,
}

impl Controller {
    /// Begins a capture.
    pub(super) fn capture(
        &mut self,
        request: &CaptureRequest,
        author: Author,
        reply: oneshot::Sender<Capturing>,
    ) {
        let begun = self.begin_capture(request, author);
        // A client that has gone meanwhile leaves the reader without anybody
        // to tell, which ends it.
        drop(reply.send(begun));
    }

    fn begin_capture(&mut self, request: &CaptureRequest, author: Author) -> Capturing {
        if let Some(on) = &self.captures.on {
            let (what, by, number) = (&on.what, &on.author, on.number);
            let detail = format!(
                "capture {number} is on, by {by} for {} s: {what}; there is one at a time: wait \
                 for its end, or end it with `balancer capture --stop`",
                on.began.elapsed().as_secs()
            );
            return Err(Problem::new("a capture is on", 409, detail));
        }
        let refused = |detail| Problem::new("not captured", 422, detail);
        check(request).map_err(refused)?;
        let by_name =
            Filter::new(&request.services, &request.backends, &self.config).map_err(refused)?;
        let mut names = Names::default();
        names.extend(&self.builder, self.dataplane.written());
        let wish = Wish {
            wanted: by_name.wanted(&names),
            actions: actions(request).map_err(refused)?,
            reasons: reasons(request).map_err(refused)?,
            one_in: request.sample,
            snaplen: snaplen(request),
            at_once: u64::from(request.limit),
        };
        let failed = |error: &dyn std::fmt::Display| {
            let detail = format!("the capture cannot begin, and all is as before: {error}");
            Problem::new("not captured", 500, detail)
        };
        let tap = tokio::task::block_in_place(|| self.dataplane.capture(&wish));
        let Tap { ring, filter } = tap.map_err(|error| failed(&error))?;
        let ring = match ring.awaited() {
            Ok(ring) => ring,
            Err(error) => {
                let _ = tokio::task::block_in_place(|| self.dataplane.end_capture());
                return Err(failed(&error));
            }
        };
        let number = self.captures.last + 1;
        self.captures.last = number;
        let what = what(request, &by_name);
        tracing::info!(capture = number, %author, %what, "a capture of live packets begins");
        let (events, packets) = mpsc::channel(MAX_WAITING);
        let begun = Captured::Begun {
            capture: number,
            what: what.clone(),
            interfaces: self.config.node.interfaces.clone(),
            snaplen: wish.snaplen,
        };
        // There is room for it.
        let _ = events.try_send(begun);
        let (names, names_seen) = watch::channel(Arc::new(names));
        let (figures, figures_seen) = watch::channel(CaptureFigures::default());
        let stop = Arc::new(Notify::new());
        let reader = Reader::new(ring, names_seen, figures, Arc::clone(&stop), request);
        let done = self.done.clone();
        tokio::spawn(async move {
            let (why, figures) = reader.run(&events).await;
            let over = Over {
                number,
                why,
                figures,
                events,
            };
            let _ = done.send(Done::Captured(Box::new(over))).await;
        });
        self.captures.on = Some(Capture {
            number,
            author,
            began: Instant::now(),
            what,
            by_name,
            by_number: filter,
            names,
            figures: figures_seen,
            stop,
            over: None,
        });
        Ok(packets)
    }

    /// Ends a capture at somebody's word.
    pub(super) fn stop_capture(
        &mut self,
        request: &CaptureStopRequest,
        author: &Author,
    ) -> Result<Said, Problem> {
        let on = self.captures.on.as_ref();
        let Some(on) = on.filter(|on| request.capture.is_none_or(|it| it == on.number)) else {
            let detail = match request.capture {
                Some(number) => format!("capture {number} is not on"),
                None => "no capture is on".to_owned(),
            };
            return Err(Problem::new("no capture", 404, detail));
        };
        on.stop.notify_one();
        let (number, began_by) = (on.number, &on.author);
        tracing::info!(capture = number, %author, "a capture is to end");
        Ok(Said {
            summary: format!("capture {number}, by {began_by}, ends"),
        })
    }

    /// Goes on when the reader has ended.
    pub(super) fn on_captured(&mut self, over: Over) {
        if let Some(on) = &mut self.captures.on
            && on.number == over.number
        {
            on.over = Some(over);
        }
        self.end_capture();
    }

    /// Puts the program that only forwards back, if a capture is over.
    pub(super) fn end_capture(&mut self) {
        let Some(on) = self.captures.on.take_if(|on| on.over.is_some()) else {
            return;
        };
        if let Err(error) = tokio::task::block_in_place(|| self.dataplane.end_capture()) {
            let capture = on.number;
            tracing::error!(capture, %error, "the capturing program is still attached");
            self.captures.on = Some(on);
            return;
        }
        let Some(over) = on.over else { return };
        let (capture, author) = (over.number, &on.author);
        let (why, captured) = (&over.why, over.figures.captured);
        let seconds = on.began.elapsed().as_secs();
        tracing::info!(capture, %author, %why, captured, seconds, "a capture is over");
        tokio::spawn(async move {
            let (why, figures) = (over.why, over.figures);
            let _ = over.events.send(Captured::Over { why, figures }).await;
        });
    }

    /// Before the daemon ends: what it leaves attached only forwards.
    pub(super) fn leave_capture(&mut self) {
        if self.captures.on.take().is_none() {
            return;
        }
        match self.dataplane.end_capture() {
            Ok(()) => tracing::info!("the capture ends with the daemon"),
            Err(error) => tracing::error!(%error, "the capturing program is still attached"),
        }
    }

    /// Has a capture follow a change, before that comes into force.
    pub(super) fn follow_capture(&mut self, state: &State) {
        let Some(on) = &mut self.captures.on else {
            return;
        };
        let builder = &self.builder;
        on.names
            .send_modify(|names| Arc::make_mut(names).extend(builder, state));
        let wanted = on.by_name.wanted(&on.names.borrow());
        if let Err(error) = on.by_number.extend(&wanted) {
            tracing::warn!(capture = on.number, %error, "a capture does not follow a change");
        }
    }

    /// The capture that is on.
    pub(super) fn capture_status(&self) -> Option<CaptureStatus> {
        let on = self.captures.on.as_ref()?;
        Some(CaptureStatus {
            capture: on.number,
            author: on.author.to_string(),
            seconds: on.began.elapsed().as_secs(),
            what: on.what.clone(),
            figures: *on.figures.borrow(),
        })
    }
}

fn check(request: &CaptureRequest) -> Result<(), String> {
    let CaptureRequest {
        limit,
        sample,
        snaplen,
        count,
        for_millis,
        ..
    } = request;
    if !(1..=MAX_LIMIT).contains(limit) {
        return Err(format!(
            "limit {limit}: packets a second at most, 1 to {MAX_LIMIT}"
        ));
    }
    if *sample == 0 {
        return Err("sample 0: one packet in so many; 1 is every packet".to_owned());
    }
    if let Some(snaplen @ 0) = snaplen {
        return Err(format!(
            "snaplen {snaplen}: bytes of a frame that are kept, 1 to {MAX_SNAPLEN}; leave it out \
             for all"
        ));
    }
    if count == &Some(0) {
        return Err("count 0: packets after which it ends, from 1; leave it out for no end".into());
    }
    let longest = MAX_TIME.as_millis() as u64;
    if for_millis.is_some_and(|millis| millis == 0 || millis > longest) {
        return Err("for_millis: 1 millisecond to 7 days; leave it out for no end".to_owned());
    }
    Ok(())
}

fn snaplen(request: &CaptureRequest) -> u32 {
    let most = MAX_SNAPLEN as u32;
    request.snaplen.unwrap_or(most).min(most)
}

/// Verdicts a packet can have.
const VERDICTS: [Action; 4] = [Action::Pass, Action::Drop, Action::Tx, Action::Redirect];

fn actions(request: &CaptureRequest) -> Result<Vec<Action>, String> {
    let known = |name: &String| {
        let found = VERDICTS.into_iter().find(|action| action.name() == name);
        found.ok_or_else(|| {
            format!("there is no verdict {name}; there are pass, drop, tx, redirect")
        })
    };
    request.verdicts.iter().map(known).collect()
}

fn reasons(request: &CaptureRequest) -> Result<Vec<Reason>, String> {
    let known = |name: &String| {
        let mut all = Reason::ALL.iter();
        let found = all.find(|reason| reason.name() == name).copied();
        found.ok_or_else(|| {
            let all: Vec<&str> = Reason::ALL.iter().map(|reason| reason.name()).collect();
            format!("there is no reason {name}; there are {}", all.join(", "))
        })
    };
    request.reasons.iter().map(known).collect()
}

/// All that was asked for, in a sentence.
fn what(request: &CaptureRequest, filter: &Filter) -> String {
    let mut parts = vec![filter.to_string()];
    if !request.verdicts.is_empty() {
        parts.push(format!("verdict {}", request.verdicts.join(" or ")));
    }
    if !request.reasons.is_empty() {
        parts.push(format!("reason {}", request.reasons.join(" or ")));
    }
    if request.sample > 1 {
        parts.push(format!("1 packet in {}", request.sample));
    }
    parts.retain(|part| !part.is_empty());
    if parts.is_empty() {
        parts.push("every packet".to_owned());
    }
    format!("{}, at most {} a second", parts.join(", "), request.limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_no_sense_is_refused_with_the_limits() {
        let refused = |change: fn(&mut CaptureRequest)| {
            let mut request = CaptureRequest::default();
            change(&mut request);
            check(&request)
                .and_then(|()| actions(&request).map(drop))
                .and_then(|()| reasons(&request).map(drop))
                .unwrap_err()
        };
        assert!(check(&CaptureRequest::default()).is_ok());
        assert!(refused(|it| it.limit = 0).contains("1 to 1000000"));
        assert!(refused(|it| it.limit = 1_000_001).contains("limit 1000001"));
        assert!(refused(|it| it.sample = 0).contains("1 is every packet"));
        assert!(refused(|it| it.snaplen = Some(0)).contains("1 to 4096"));
        assert!(refused(|it| it.count = Some(0)).contains("count 0"));
        assert!(refused(|it| it.for_millis = Some(0)).contains("for_millis"));
        assert!(refused(|it| it.verdicts = vec!["tcp".into()]).contains("no verdict tcp"));
        let detail = refused(|it| it.reasons = vec!["bad".into()]);
        assert!(detail.contains("no reason bad; there are"), "{detail}");
        assert!(detail.contains("no_backend"), "{detail}");
    }

    #[test]
    fn whole_frames_are_kept_unless_less_is_asked_for() {
        let with = |snaplen| {
            snaplen_of(CaptureRequest {
                snaplen,
                ..CaptureRequest::default()
            })
        };
        assert_eq!(with(None), 4096);
        assert_eq!(with(Some(64)), 64);
        assert_eq!(with(Some(262_144)), 4096);
    }

    fn snaplen_of(request: CaptureRequest) -> u32 {
        snaplen(&request)
    }

    #[test]
    fn request_is_told_in_a_sentence() {
        let request = CaptureRequest::default();
        let told = what(&request, &Filter::default());
        assert_eq!(told, "every packet, at most 1000 a second");
        let request = CaptureRequest {
            verdicts: vec!["drop".into(), "pass".into()],
            reasons: vec!["no_backend".into()],
            sample: 100,
            limit: 5,
            ..request
        };
        assert_eq!(
            what(&request, &Filter::default()),
            "verdict drop or pass, reason no_backend, 1 packet in 100, at most 5 a second"
        );
    }
}
