//! The backends of a service, shared between configurations.
//!
//! A change goes through many copies of a configuration: what runs, what is
//! wanted, each stage between the two, and those that a plan and a rehearsal
//! look at. Most services of it are the same in all, and their backends are
//! then in memory once. Who changes one gets a list of its own.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use super::Backend;

/// A list of backends; a clone of it costs nothing.
#[derive(Clone, Default)]
pub struct Backends(Arc<Vec<Backend>>);

impl Backends {
    /// Whether both are the same memory.
    pub fn is_shared_with(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Takes the memory of a list that says the same.
    pub(super) fn share(&mut self, other: &Self) {
        if self == other {
            self.0 = Arc::clone(&other.0);
        }
    }
}

impl PartialEq for Backends {
    fn eq(&self, other: &Self) -> bool {
        self.is_shared_with(other) || self.0 == other.0
    }
}

impl Deref for Backends {
    type Target = Vec<Backend>;

    fn deref(&self) -> &Vec<Backend> {
        &self.0
    }
}

impl DerefMut for Backends {
    fn deref_mut(&mut self) -> &mut Vec<Backend> {
        Arc::make_mut(&mut self.0)
    }
}

impl std::fmt::Debug for Backends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<Vec<Backend>> for Backends {
    fn from(backends: Vec<Backend>) -> Self {
        Self(Arc::new(backends))
    }
}

impl FromIterator<Backend> for Backends {
    fn from_iter<I: IntoIterator<Item = Backend>>(backends: I) -> Self {
        Self(Arc::new(backends.into_iter().collect()))
    }
}

impl<'a> IntoIterator for &'a Backends {
    type Item = &'a Backend;
    type IntoIter = std::slice::Iter<'a, Backend>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a> IntoIterator for &'a mut Backends {
    type Item = &'a mut Backend;
    type IntoIter = std::slice::IterMut<'a, Backend>;

    fn into_iter(self) -> Self::IntoIter {
        Arc::make_mut(&mut self.0).iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use crate::config;

    #[test]
    fn same_backends_are_in_memory_once_and_changed_apart() {
        let text = config::testing::SAMPLE;
        let read = || {
            config::examine("test", text.to_owned(), None)
                .config
                .unwrap()
        };
        let running = read();
        let mut next = read();
        let address = |config: &config::model::Config| config.services[0].backends.as_ptr();
        assert_ne!(address(&next), address(&running));
        next.share(&running);
        assert_eq!(address(&next), address(&running));
        assert_eq!(next, running);
        next.services[0].backends[0].weight += 1;
        assert_ne!(next, running);
        assert_ne!(address(&next), address(&running));
        next.share(&running);
        assert_ne!(address(&next), address(&running), "they say another thing");
    }
}
