//! The log on stderr.

use std::io;

use anyhow::Context;
use tracing_subscriber::EnvFilter;

use super::output;

/// Begins to write what `filter` lets through.
pub(super) fn start(filter: &str) -> anyhow::Result<()> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_new(filter).context("the log level")?)
        .with_ansi(output::stderr_has_color())
        .with_target(false)
        // There is nobody to tell when stderr is closed.
        .log_internal_errors(false)
        .with_writer(io::stderr);
    // The journal notes the time by itself.
    let result = match std::env::var_os("JOURNAL_STREAM") {
        Some(_) => builder.without_time().try_init(),
        None => builder.try_init(),
    };
    result.map_err(|error| anyhow::anyhow!("starting the log: {error}"))
}

/// A filter as `RUST_LOG` has it, for clap.
pub(super) fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; write error, warn, info, debug or trace, or `info,balancer_user::probe=debug`"
        )),
    }
}
