//! What an everyday change did, in one sentence, and what many of them come to.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::probe::scheduler::TargetId;

/// One everyday change to a configuration. Its sentence says all of it, so
/// that it is stored and told as that.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Edit {
    /// Services of these names were added.
    ServicesAdded(Vec<String>),
    /// The service of that name was removed, with all its backends.
    ServiceRemoved(String),
    /// A backend was added.
    BackendAdded(TargetId),
    /// A backend was removed.
    BackendRemoved(TargetId),
    /// A backend gets no new flows.
    Drained(TargetId),
    /// A backend's drain ended.
    Undrained(TargetId),
    /// A backend's weight was set.
    Weight {
        /// Whose.
        of: TargetId,
        /// What it was.
        before: u16,
        /// What it is.
        after: u16,
    },
    /// The whole is another one: a file was applied, or a revision rolled
    /// back to.
    Whole(String),
}

impl Edit {
    /// Adds itself to those that were made since the file was read, and leaves
    /// what they come to: a weight that was set twice is one edit, one that is
    /// what it was is none, as is what was added and removed. So there are no
    /// more of them than there are services and backends, however many
    /// commands came.
    pub fn join(self, edits: &mut Vec<Self>) {
        match self {
            Self::Weight { of, before, after } => {
                let mut first = before;
                edits.retain(|it| match it {
                    Self::Weight {
                        of: other, before, ..
                    } if *other == of => {
                        first = *before;
                        false
                    }
                    _ => true,
                });
                if first != after {
                    let before = first;
                    edits.push(Self::Weight { of, before, after });
                }
            }
            Self::BackendRemoved(id) => {
                edits.retain(|it| !it.is_state_of(&id));
                let known = edits.len();
                edits.retain(|it| *it != Self::BackendAdded(id.clone()));
                if edits.len() == known {
                    Self::BackendRemoved(id).put_last(edits);
                }
            }
            Self::ServiceRemoved(service) => {
                edits.retain(|it| it.backend().is_none_or(|it| it.service != service));
                if !take_added(edits, &service) {
                    Self::ServiceRemoved(service).put_last(edits);
                }
            }
            Self::ServicesAdded(names) => {
                for service in &names {
                    take_added(edits, service);
                }
                edits.push(Self::ServicesAdded(names));
            }
            edit => edit.put_last(edits),
        }
    }

    fn put_last(self, edits: &mut Vec<Self>) {
        edits.retain(|it| *it != self);
        edits.push(self);
    }

    /// The backend that it is about.
    fn backend(&self) -> Option<&TargetId> {
        match self {
            Self::BackendAdded(id)
            | Self::BackendRemoved(id)
            | Self::Drained(id)
            | Self::Undrained(id)
            | Self::Weight { of: id, .. } => Some(id),
            Self::ServicesAdded(_) | Self::ServiceRemoved(_) | Self::Whole(_) => None,
        }
    }

    /// Whether it is nothing once that backend is gone.
    fn is_state_of(&self, id: &TargetId) -> bool {
        matches!(self, Self::Drained(of) | Self::Undrained(of) | Self::Weight { of, .. } if of == id)
    }

    /// Reads its sentence. Names have no spaces in them.
    fn parse(sentence: &str) -> Option<Self> {
        let id = |service: &str, backend: &str| TargetId {
            service: service.to_owned(),
            backend: backend.to_owned(),
        };
        if let Some(rest) = sentence.strip_prefix("backend ") {
            if let Some((backend, service)) = rest.split_once(" added to service ") {
                return Some(Self::BackendAdded(id(service, backend)));
            }
            let (backend, service) = rest.split_once(" removed from service ")?;
            return Some(Self::BackendRemoved(id(service, backend)));
        }
        let rest = sentence.strip_prefix("service ")?;
        if let Some((service, rest)) = rest.split_once(": ") {
            if let Some(rest) = rest.strip_prefix("weight of ") {
                let (backend, rest) = rest.split_once(' ')?;
                let (before, after) = rest.split_once(" -> ")?;
                return Some(Self::Weight {
                    of: id(service, backend),
                    before: before.parse().ok()?,
                    after: after.parse().ok()?,
                });
            }
            if let Some(rest) = rest.strip_prefix("backend ") {
                let undrained = rest.strip_suffix(" drains no more");
                let undrained = undrained.map(|backend| Self::Undrained(id(service, backend)));
                let drained = || Some(Self::Drained(id(service, rest.strip_suffix(" drains")?)));
                return undrained.or_else(drained);
            }
            // A name may end with a colon.
        }
        if let Some(service) = rest.strip_suffix(" removed") {
            return Some(Self::ServiceRemoved(service.to_owned()));
        }
        let names = rest.strip_suffix(" added")?.split(", ");
        Some(Self::ServicesAdded(names.map(str::to_owned).collect()))
    }
}

/// Takes a service out of those that were added; whether it was one of them.
fn take_added(edits: &mut Vec<Edit>, service: &str) -> bool {
    let mut was_added = false;
    edits.retain_mut(|edit| {
        let Edit::ServicesAdded(names) = edit else {
            return true;
        };
        let known = names.len();
        names.retain(|it| it != service);
        was_added |= names.len() < known;
        !names.is_empty()
    });
    was_added
}

impl fmt::Display for Edit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ServicesAdded(names) => write!(f, "service {} added", names.join(", ")),
            Self::ServiceRemoved(service) => write!(f, "service {service} removed"),
            Self::BackendAdded(TargetId { service, backend }) => {
                write!(f, "backend {backend} added to service {service}")
            }
            Self::BackendRemoved(TargetId { service, backend }) => {
                write!(f, "backend {backend} removed from service {service}")
            }
            Self::Drained(TargetId { service, backend }) => {
                write!(f, "service {service}: backend {backend} drains")
            }
            Self::Undrained(TargetId { service, backend }) => {
                write!(f, "service {service}: backend {backend} drains no more")
            }
            Self::Weight { of, before, after } => {
                let TargetId { service, backend } = of;
                write!(
                    f,
                    "service {service}: weight of {backend} {before} -> {after}"
                )
            }
            Self::Whole(sentence) => f.write_str(sentence),
        }
    }
}

impl From<Edit> for String {
    fn from(edit: Edit) -> Self {
        edit.to_string()
    }
}

/// Every sentence is one: what cannot be read as another is about the whole.
impl From<String> for Edit {
    fn from(sentence: String) -> Self {
        let read = Self::parse(&sentence).filter(|it| it.to_string() == sentence);
        read.unwrap_or(Self::Whole(sentence))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn joined(sentences: &[&str]) -> Vec<String> {
        let mut edits = Vec::new();
        for sentence in sentences {
            Edit::from((*sentence).to_owned()).join(&mut edits);
        }
        edits.iter().map(Edit::to_string).collect()
    }

    #[test]
    fn weight_set_again_is_one_edit_and_none_once_it_is_what_it_was() {
        let up = "service web: weight of a 100 -> 150";
        let other = "service web: weight of b 100 -> 10";
        let on = "service web: weight of a 150 -> 200";
        let back = "service web: weight of a 200 -> 100";
        let sum = "service web: weight of a 100 -> 200";
        assert_eq!(joined(&[up, other, on]), [other, sum]);
        assert_eq!(joined(&[up, other, on, back]), [other]);
    }

    #[test]
    fn what_was_added_and_removed_is_nothing() {
        let added = "backend c added to service web";
        let removed = "backend c removed from service web";
        let weight = "service web: weight of c 100 -> 150";
        assert!(joined(&[added, weight, removed]).is_empty());
        // One of the file's may be another one now.
        assert_eq!(joined(&[removed, added]), [removed, added]);
        assert_eq!(joined(&[removed, added, weight, removed]), [removed]);
        assert_eq!(
            joined(&["service x, y added", "service x removed", added]),
            ["service y added", added]
        );
    }

    #[test]
    fn service_takes_edits_of_its_backends_along() {
        let edits = [
            "service web: weight of a 100 -> 150",
            "backend c added to service web",
            "backend a removed from service web",
            "service web: backend b drains no more",
            "service api: weight of a 1 -> 2",
            "service web removed",
        ];
        assert_eq!(
            joined(&edits),
            ["service api: weight of a 1 -> 2", "service web removed"]
        );
    }

    #[test]
    fn another_whole_stays_what_it_says() {
        for sentence in [
            "the file service x removed was applied",
            "service web: weight of a 100 -> 070",
            "backend of nothing",
            "service",
        ] {
            let whole = Edit::Whole(sentence.to_owned());
            assert_eq!(Edit::from(sentence.to_owned()), whole);
            assert_eq!(joined(&[sentence, "service y added"])[0], sentence);
        }
    }

    fn edit() -> impl Strategy<Value = Edit> {
        let name = || "[a-c:@._-]{1,2}";
        let id = (name(), name()).prop_map(|(service, backend)| TargetId { service, backend });
        (
            0..7,
            id,
            proptest::collection::vec(name(), 1..3),
            0..3u16,
            0..3u16,
        )
            .prop_map(|(kind, of, names, before, after)| match kind {
                0 => Edit::ServicesAdded(names),
                1 => Edit::ServiceRemoved(of.service),
                2 => Edit::BackendAdded(of),
                3 => Edit::BackendRemoved(of),
                4 => Edit::Drained(of),
                5 => Edit::Undrained(of),
                _ => Edit::Weight { of, before, after },
            })
    }

    proptest! {
        #[test]
        fn sentence_says_all_of_it(edit in edit()) {
            prop_assert_eq!(Edit::from(edit.to_string()), edit);
        }

        #[test]
        fn no_edit_stands_twice(edits in proptest::collection::vec(edit(), 0..200)) {
            let mut sum = Vec::new();
            for edit in edits {
                edit.join(&mut sum);
            }
            for (at, edit) in sum.iter().enumerate() {
                let is_same = |it: &Edit| match (it, edit) {
                    (Edit::Weight { of, .. }, Edit::Weight { of: other, .. }) => of == other,
                    _ => it == edit,
                };
                prop_assert!(!sum[at + 1..].iter().any(is_same), "{:?}", sum);
            }
        }
    }
}
