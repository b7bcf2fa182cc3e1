//! What is seen of a change under way, and what follows from it.

use std::time::Instant;

use super::{Controller, Progress, Step, millis};
use crate::daemon::preparing::Done;
use crate::health::State;
use crate::probe::compare::Comparing;
use crate::probe::scheduler::TargetId;
use crate::verdict::panel;

impl Controller {
    /// Begins to compare the answers of those who get traffic by the change
    /// with their siblings', unless it is not watched; `is_before` says that
    /// nothing has moved yet.
    pub(super) fn begin_comparing(&mut self, is_before: bool) {
        let health = &self.world.health;
        let is_up = |id: &TargetId| health.get(id) == Some(&State::Up);
        let Some(change) = self.under_way.as_mut().filter(|it| it.is_watched()) else {
            return;
        };
        let chosen = panel::choose(change.staging.before(), change.staging.after(), is_up);
        if chosen.left_out > 0 {
            tracing::warn!(
                revision = change.revision.number,
                left_out = chosen.left_out,
                limit = panel::MAX_SUBJECTS,
                "not all backends that get traffic have their answers compared"
            );
        }
        if chosen.panels.is_empty() {
            return;
        }
        let comparing = Comparing::begin(chosen.panels, is_before, self.lane.clone());
        if is_before {
            let (proven, done) = (comparing.proven(), self.done.clone());
            tokio::spawn(async move {
                proven.await;
                // Nobody is left to tell when the daemon ends.
                let _ = done.send(Done::Compared).await;
            });
        }
        change.watched.compare(comparing);
    }

    /// Looks, once a second, whether the change does harm.
    pub(in crate::daemon) async fn look_at_change(&mut self) {
        let Some(change) = &self.under_way else {
            return;
        };
        if matches!(change.step, Step::Proving { .. }) {
            self.tell_figures();
            self.tell_who_is_worse();
            self.go_on_if_proven().await;
        } else {
            self.does_no_harm().await;
        }
    }

    /// Whether no harm is seen; where some is, the change is undone.
    pub(super) async fn does_no_harm(&mut self) -> bool {
        let Some(mut change) = self.under_way.take() else {
            return false;
        };
        self.count_watched(&mut change.watched);
        let harms = change.watched.harms();
        self.under_way = Some(change);
        self.tell_figures();
        self.tell_notes();
        if harms.is_empty() {
            return true;
        }
        let why: Vec<String> = harms.iter().map(ToString::to_string).collect();
        self.undo(&why.join("; ")).await;
        false
    }

    fn tell_figures(&self) {
        if let Some(change) = &self.under_way {
            let left = change.until().saturating_duration_since(Instant::now());
            change.tell(Progress::Figures {
                figures: change.watched.figures(),
                remaining_millis: millis(left),
            });
        }
    }

    /// Tells, before the first stage, who answers worse than its siblings: the
    /// change waits for that to end.
    fn tell_who_is_worse(&mut self) {
        let Some(change) = &mut self.under_way else {
            return;
        };
        let harms = change.watched.comparison_harms();
        // Its figures change from look to look; what is told is who.
        let mut names = harms
            .iter()
            .map(|it| format!("{}: {}", it.service, it.backend));
        if names.any(|name| change.watched.is_news(name)) {
            self.tell_who_is_missing();
        }
    }

    /// Tells once what is remarkable and no harm.
    pub(super) fn tell_notes(&mut self) {
        let Some(change) = &mut self.under_way else {
            return;
        };
        for text in change.watched.new_notes() {
            tracing::warn!(revision = change.revision.number, %text, "seen");
            change.tell(Progress::Note { text });
        }
    }

    /// From here on figures are of the present stage.
    pub(super) fn begin_counting(&mut self) {
        if let Some(mut change) = self.under_way.take() {
            self.count_watched(&mut change.watched);
            change.watched.begin_stage();
            self.under_way = Some(change);
        }
    }
}
