//! Shares as bars, drawn again and again in place on a terminal, and once at
//! the end of each step elsewhere. Readable without colour.

use std::io::{IsTerminal, Write, stdout};
use std::time::{Duration, Instant};

use balancer_user::api::types::{BackendStatus, Status};

/// Columns of a bar: a whole row fits a terminal of 80.
const BAR: usize = 25;
/// Between two drawings.
const FRAME: Duration = Duration::from_millis(250);

/// Where the bars are drawn.
pub(super) struct Screen {
    terminal: bool,
    drawn: Option<Instant>,
    lines: usize,
    last: Option<String>,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            terminal: stdout().is_terminal(),
            drawn: None,
            lines: 0,
            last: None,
        }
    }

    /// Draws the status, not more often than a person can read.
    pub(super) fn show(&mut self, status: &Status, answered: u64, failed: u64) {
        self.last = Some(draw(status, answered, failed));
        let due = self.drawn.is_none_or(|drawn| drawn.elapsed() >= FRAME);
        if self.terminal && due {
            self.put();
        }
    }

    /// Leaves the last drawing standing.
    pub(super) fn finish(&mut self) {
        if self.last.is_some() {
            self.put();
        }
        self.last = None;
        self.lines = 0;
        self.drawn = None;
    }

    fn put(&mut self) {
        let Some(text) = &self.last else { return };
        if self.terminal && self.lines > 0 {
            print!("\x1b[{}A\x1b[J", self.lines);
        }
        print!("{text}");
        // Nobody to tell where the terminal is gone.
        let _ = stdout().flush();
        self.lines = text.lines().count();
        self.drawn = Some(Instant::now());
    }
}

/// Waits a little; the demo's only pause, so that people can follow.
pub(super) fn pause(time: Duration) {
    std::thread::park_timeout(time);
}

fn draw(status: &Status, answered: u64, failed: u64) -> String {
    let mut text = String::new();
    for service in &status.services {
        text.push_str(&format!(
            "   {:<7}{:<10}{:>9}{:>9}   {:<BAR$}   new flows/s\n",
            "", "state", "expected", "seen", "# seen, | expected"
        ));
        for backend in &service.backends {
            text.push_str(&row(backend));
        }
    }
    text.push_str(&format!(
        "   {answered} requests answered, {failed} failed\n"
    ));
    text
}

fn row(backend: &BackendStatus) -> String {
    let seen = backend
        .share_seen
        .map_or("-".to_owned(), |share| format!("{:.1} %", share * 100.0));
    format!(
        "   {:<7}{:<10}{:>9}{:>9}   {:<BAR$}   {:>8.0}\n",
        backend.name,
        backend.state,
        format!("{:.1} %", backend.share_expected * 100.0),
        seen,
        bar(backend),
        backend.flows_per_second
    )
}

fn bar(backend: &BackendStatus) -> String {
    let position = |share: f64| ((share * BAR as f64).round() as usize).min(BAR - 1);
    let filled = position(backend.share_seen.unwrap_or_default());
    let mark = position(backend.share_expected);
    (0..BAR)
        .map(|at| match at {
            _ if at == mark => '|',
            _ if at < filled => '#',
            _ => ' ',
        })
        .collect()
}
