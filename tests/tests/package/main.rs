//! The Debian package on a Debian machine: built by `cargo xtask package`,
//! judged by lintian and systemd-analyze, installed, upgraded, removed and
//! purged by the real dpkg, with the real systemd as the first process, while
//! clients dial the service. Needs root, and what `cargo xtask setup` installs.

mod fixture;
mod life;
mod linted;
mod service;

use std::time::Duration;

/// How long a condition may take that nothing is measured by.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
