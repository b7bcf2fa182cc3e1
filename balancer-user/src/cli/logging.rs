//! The log on stderr.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;

use anyhow::Context;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::FmtContext;
use tracing_subscriber::fmt::format::{self, Format, FormatEvent, FormatFields, Full, Writer};
use tracing_subscriber::registry::LookupSpan;

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
    let result = match is_journal(std::env::var("JOURNAL_STREAM").ok(), "/proc/self/fd/2") {
        true => builder.event_format(ForJournal::new()).try_init(),
        false => builder.try_init(),
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

/// Whether what is written there goes to the journal: systemd names the stream
/// that it has given, by device and inode, and stderr may be another one since
/// (systemd.exec(5)).
fn is_journal(named: Option<String>, stderr: &str) -> bool {
    let Ok(file) = std::fs::metadata(stderr) else {
        return false;
    };
    named.is_some_and(|named| named == format!("{}:{}", file.dev(), file.ino()))
}

/// Lines as the journal reads them: with a priority in front (sd-daemon(3)), so
/// that `journalctl -p err` finds incidents, and without the time, which it
/// notes by itself.
struct ForJournal(Format<Full, ()>);

impl ForJournal {
    fn new() -> Self {
        Self(format::format().without_time().with_target(false))
    }
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

/// As syslog(3) has them.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_gets_a_priority_with_each_line_and_no_time() {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .event_format(ForJournal::new())
            .with_writer(move || writer.clone())
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(service = "web", "is down");
            tracing::info!("over");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        assert_eq!(text, "<3>ERROR is down service=\"web\"\n<6> INFO over\n");
    }

    #[test]
    fn stream_of_the_journal_is_known_by_device_and_inode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let here = file.as_file().metadata().unwrap();
        let named = format!("{}:{}", here.dev(), here.ino());
        assert!(is_journal(Some(named), path));
        // Inherited from a service whose stderr was sent elsewhere.
        assert!(!is_journal(Some("8:12345".to_owned()), path));
        assert!(!is_journal(None, path));
    }
}
