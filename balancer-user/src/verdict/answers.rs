//! Whether a backend that a change gives traffic answers worse than its
//! siblings.
//!
//! With direct server return the kernel sees no answers, so backends are asked
//! for some ([`crate::probe::compare`]); what they said is judged here, by
//! path, and only against what siblings said at the same time. Errors count
//! wherever they are new to the siblings. Slowness does not count at a server
//! that was as slow before: one in a farther zone stays what it is. Pure.

use std::collections::VecDeque;
use std::time::Duration;

use statrs::distribution::{DiscreteCDF, Hypergeometric};

use super::{Harm, SIGNIFICANCE};
use crate::revision::Answers;

/// Answers of each backend to each path that prove it before it gets traffic.
/// With one sibling only, two samples of twelve that do not overlap are chance
/// once in 2.7 million.
pub const PROOF: usize = 12;
/// The newest answers that are judged: a quarter of a minute of them.
const NEWEST: usize = 60;
/// Answers of a server that already had traffic that say how it was before.
const PAST: usize = 4;
/// Fewer bad answers never decide.
const LEAST_BAD: usize = 3;
/// Slow is what takes this much longer than 95 % of the siblings' answers,
const SLOW_FACTOR: f64 = 1.5;
/// and this much at least.
const SLOW_FLOOR: Duration = Duration::from_millis(100);

/// What came of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status, or why there was no answer.
    pub said: Result<u16, String>,
    /// Until its end.
    pub took: Duration,
}

impl Answer {
    fn is_error(&self) -> bool {
        match self.said {
            Ok(status) => status >= 500,
            Err(_) => true,
        }
    }
}

/// What one backend answered to one path since the stage began.
#[derive(Debug, Clone, Default)]
struct Heard {
    asked: u64,
    errors: u64,
    newest: VecDeque<Answer>,
    /// How long it took before the change gave it more traffic.
    past: Vec<Duration>,
}

impl Heard {
    fn times(&self) -> impl Iterator<Item = Duration> {
        let good = self.newest.iter().filter(|it| !it.is_error());
        good.map(|it| it.took)
    }

    fn errors(&self) -> usize {
        self.newest.iter().filter(|it| it.is_error()).count()
    }
}

/// What a backend is in a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The change gives it traffic, and it had none.
    New,
    /// The change gives it more than it had.
    Raised,
    /// The change is not about it.
    Sibling,
}

/// A backend that is asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Its name.
    pub backend: String,
    role: Role,
    by_path: Vec<Heard>,
}

/// The backends of a service that are asked the same.
#[derive(Debug, Clone)]
pub struct Comparison {
    /// The service's name.
    pub service: String,
    /// What they are asked for.
    pub paths: Vec<String>,
    /// Subjects and siblings.
    pub asked: Vec<Asked>,
    /// Whether the change has given nobody anything yet.
    is_before: bool,
}

impl Comparison {
    /// Nothing was asked yet; `is_before` says that nothing has moved yet,
    /// either.
    pub fn new(
        service: &str,
        paths: &[String],
        backends: impl Iterator<Item = (String, Role)>,
        is_before: bool,
    ) -> Self {
        let asked = backends.map(|(backend, role)| Asked {
            backend,
            role,
            by_path: vec![Heard::default(); paths.len()],
        });
        Self {
            service: service.to_owned(),
            paths: paths.to_vec(),
            asked: asked.collect(),
            is_before,
        }
    }

    /// Takes an answer of the backend at that place to the path at that one.
    pub fn add(&mut self, backend: usize, path: usize, answer: Answer) {
        let is_before = self.is_before;
        let Some(asked) = self.asked.get_mut(backend) else {
            return;
        };
        let Some(heard) = asked.by_path.get_mut(path) else {
            return;
        };
        // Where nothing was asked before, the first answers have to do.
        if asked.role == Role::Raised && !is_before && heard.past.len() < PAST {
            heard.past.push(answer.took);
            return;
        }
        heard.asked += 1;
        heard.errors += u64::from(answer.is_error());
        heard.newest.push_back(answer);
        let limit = if is_before { PROOF } else { NEWEST };
        while heard.newest.len() > limit {
            heard.newest.pop_front();
        }
    }

    /// Whether enough was heard to prove the subjects.
    pub fn is_proven(&self) -> bool {
        (0..self.paths.len()).all(|path| {
            let heard = |asked: &Asked| asked.by_path[path].newest.len();
            let subjects = self.subjects().all(|it| heard(it) >= PROOF);
            subjects && self.siblings().map(heard).sum::<usize>() >= PROOF
        })
    }

    /// From here on a new stage is judged; before the first, what was heard
    /// is how it was before.
    pub fn begin_stage(&mut self) {
        for heard in self.asked.iter_mut().flat_map(|it| &mut it.by_path) {
            let past = match self.is_before {
                true => heard.times().collect(),
                false => std::mem::take(&mut heard.past),
            };
            *heard = Heard {
                past,
                ..Heard::default()
            };
        }
        self.is_before = false;
    }

    /// Forgets what a backend said that is not up: its probes tell of that.
    pub fn forget(&mut self, backend: &str) {
        let asked = self.asked.iter_mut().filter(|it| it.backend == backend);
        for heard in asked.flat_map(|it| &mut it.by_path) {
            *heard = Heard {
                past: std::mem::take(&mut heard.past),
                ..Heard::default()
            };
        }
    }

    /// What is written down of a backend; none of one that is not asked.
    pub fn answers(&self, backend: &str) -> Option<Answers> {
        let asked = self.asked.iter().find(|it| it.backend == backend)?;
        let times = asked.by_path.iter().flat_map(Heard::times);
        Some(Answers {
            asked: asked.by_path.iter().map(|it| it.asked).sum(),
            errors: asked.by_path.iter().map(|it| it.errors).sum(),
            median_micros: quantile(&sorted(times), 0.5).map(micros),
        })
    }

    fn subjects(&self) -> impl Iterator<Item = &Asked> {
        self.asked.iter().filter(|it| it.role != Role::Sibling)
    }

    fn siblings(&self) -> impl Iterator<Item = &Asked> {
        self.asked.iter().filter(|it| it.role == Role::Sibling)
    }

    /// Each subject's answers to each path, and those of the siblings.
    fn looks(&self) -> impl Iterator<Item = Look<'_>> {
        self.subjects().flat_map(|subject| {
            self.paths.iter().enumerate().map(|(at, path)| Look {
                comparison: self,
                subject,
                path,
                heard: &subject.by_path[at],
                siblings: self.siblings().map(|it| &it.by_path[at]).collect(),
            })
        })
    }
}

/// All the harm that is seen. The chance of a false alarm is shared out
/// between all that is looked at.
pub fn judge(comparisons: &[Comparison]) -> Vec<Harm> {
    let looks: Vec<Look<'_>> = comparisons.iter().flat_map(Comparison::looks).collect();
    let significance = SIGNIFICANCE / looks.len().max(1) as f64;
    let harms = looks.iter().filter_map(|look| {
        let what = look.errors(significance);
        let what = what.or_else(|| look.slowness(significance))?;
        Some(look.harm(what))
    });
    harms.collect()
}

/// Answers that are of another kind than all of the siblings', without being
/// harm: a page that is missing may not be there yet, on purpose.
pub fn notes(comparisons: &[Comparison]) -> Vec<String> {
    let looks = comparisons.iter().flat_map(Comparison::looks);
    let notes = looks.filter_map(|look| {
        let (own, usual) = (look.only_class()?, look.siblings_class()?);
        let is_told = own.0 != usual.0 && own.0 < 5 && usual.0 < 5;
        is_told.then(|| {
            let what = format!(
                "answers GET {} with {}, its siblings with {}",
                look.path, own.1, usual.1
            );
            look.harm(what).to_string()
        })
    });
    notes.collect()
}

struct Look<'a> {
    comparison: &'a Comparison,
    subject: &'a Asked,
    path: &'a str,
    heard: &'a Heard,
    siblings: Vec<&'a Heard>,
}

impl Look<'_> {
    fn harm(&self, what: String) -> Harm {
        Harm {
            service: self.comparison.service.clone(),
            backend: self.subject.backend.clone(),
            what,
        }
    }

    /// Errors far more often than at the siblings.
    fn errors(&self, significance: f64) -> Option<String> {
        let (bad, all) = (self.heard.errors(), self.heard.newest.len());
        let sibling_bad: usize = self.siblings.iter().map(|it| it.errors()).sum();
        let sibling_all: usize = self.siblings.iter().map(|it| it.newest.len()).sum();
        // Twice as often at least; without an answer of a sibling, never.
        let is_far_more = bad * sibling_all > 2 * sibling_bad * all;
        if bad < LEAST_BAD || !is_far_more {
            return None;
        }
        // Were all from one lot, so many of its errors would be ours by chance
        // (Fisher's exact test): few answers of siblings say little.
        let chance = at_least(bad, all, bad + sibling_bad, all + sibling_all)?;
        if chance >= significance {
            return None;
        }
        let errors = self.heard.newest.iter().filter(|it| it.is_error());
        let path = self.path;
        let what = match &most_common(errors.map(|it| &it.said))? {
            Ok(status) => format!("answers GET {path} with {status} ({bad} of {all})"),
            Err(why) => format!("does not answer GET {path}: {why} ({bad} of {all})"),
        };
        let usual = self.siblings.iter().flat_map(|it| &it.newest);
        let usual = match most_common(usual.map(|it| &it.said))? {
            Ok(status) => format!(" with {status}"),
            Err(why) => format!(": {why}"),
        };
        Some(format!(
            "{what}, its siblings{usual} ({sibling_bad} of {sibling_all} errors)"
        ))
    }

    /// Most answers slower than 95 % of the siblings', by far, and than what
    /// they were before. By ranks: that holds for times of any distribution.
    fn slowness(&self, significance: f64) -> Option<String> {
        let times = sorted(self.heard.times());
        let usual = sorted(self.siblings.iter().flat_map(|it| it.times()));
        let rank = rank(usual.len(), 0.95)?;
        let mut slow = far_above(usual[rank]);
        if self.subject.role == Role::Raised {
            slow = slow.max(far_above(quantile(
                &sorted(self.heard.past.iter().copied()),
                0.95,
            )?));
        }
        let above = times.iter().filter(|it| **it > slow).count();
        if above < LEAST_BAD || above * 2 <= times.len() {
            return None;
        }
        // Were all from one distribution, as many of ours as this would stand
        // among the greatest of all.
        let greatest = usual.len() - 1 - rank + above;
        let all = times.len() + usual.len();
        if at_least(above, times.len(), greatest, all)? >= significance {
            return None;
        }
        Some(format!(
            "answers GET {} slowly: in {} in the median of {}, 95 % of its siblings' {} in {} or \
             less",
            self.path,
            super::ailments::millis(micros(quantile(&times, 0.5)?)),
            times.len(),
            usual.len(),
            super::ailments::millis(micros(usual[rank])),
        ))
    }

    /// The first digit that all answers have, and the status most have.
    fn only_class(&self) -> Option<(u16, u16)> {
        class(std::slice::from_ref(&self.heard))
    }

    fn siblings_class(&self) -> Option<(u16, u16)> {
        class(&self.siblings)
    }
}

fn class(heard: &[&Heard]) -> Option<(u16, u16)> {
    let answers = || heard.iter().flat_map(|it| &it.newest);
    if answers().count() < PROOF {
        return None;
    }
    let common = most_common(answers().map(|it| &it.said))?.ok()?;
    let is_same = |it: &Answer| it.said.as_ref().is_ok_and(|it| it / 100 == common / 100);
    answers().all(is_same).then_some((common / 100, common))
}

fn most_common<'a>(
    said: impl Iterator<Item = &'a Result<u16, String>>,
) -> Option<Result<u16, String>> {
    let mut counts = std::collections::BTreeMap::new();
    for said in said {
        *counts.entry(said).or_insert(0) += 1;
    }
    let most = counts.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(said, _)| said.clone())
}

/// How likely at least `hits` of our `own` are among so many that are chosen
/// of all.
fn at_least(hits: usize, own: usize, chosen: usize, all: usize) -> Option<f64> {
    let drawn = Hypergeometric::new(all as u64, own as u64, chosen as u64).ok()?;
    Some(drawn.sf((hits as u64).saturating_sub(1)))
}

fn far_above(usual: Duration) -> Duration {
    usual.mul_f64(SLOW_FACTOR).max(usual + SLOW_FLOOR)
}

fn sorted(times: impl Iterator<Item = Duration>) -> Vec<Duration> {
    let mut times: Vec<Duration> = times.collect();
    times.sort_unstable();
    times
}

/// The place of the value that this share of so many does not exceed.
fn rank(len: usize, share: f64) -> Option<usize> {
    let last = len.checked_sub(1)?;
    let wanted = (len as f64 * share).ceil() as usize;
    Some(wanted.saturating_sub(1).min(last))
}

fn quantile(sorted: &[Duration], share: f64) -> Option<Duration> {
    sorted.get(rank(sorted.len(), share)?).copied()
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
