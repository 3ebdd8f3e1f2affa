//! Sets up the log of the process.

use std::io::IsTerminal;
use std::str::FromStr;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::{Format, Settings, access, span};

/// Why the log cannot be set up or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The levels cannot be read.
    #[error("cannot read log levels {levels:?}; expected something like \"info,strait::peer=debug\"")]
    Levels {
        /// What was given.
        levels: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The process has a logger already, or it is gone.
    #[error("the log of this process cannot be changed")]
    Unavailable,
}

/// Changes the levels of the running log.
#[derive(Clone)]
pub struct LogHandle(Option<reload::Handle<EnvFilter, Registry>>);

impl LogHandle {
    /// A handle that only checks; for tests and for processes whose log is set up by someone else.
    pub fn detached() -> Self {
        Self(None)
    }

    /// Replaces the levels of all modules, in the form of `log.level`.
    ///
    /// # Errors
    /// [`LogError::Levels`] if they cannot be read; then nothing changes.
    pub fn set_levels(&self, levels: &str) -> Result<(), LogError> {
        let filter = parse_levels(levels)?;
        match &self.0 {
            Some(handle) => handle.reload(filter).map_err(|_| LogError::Unavailable),
            None => Ok(()),
        }
    }
}

/// Sets up the log of the process: once, first of all.
///
/// # Errors
/// [`LogError`] if the levels cannot be read or there is a logger already.
pub fn init(settings: &Settings) -> Result<LogHandle, LogError> {
    access::set_share(settings.access);
    span::set_enabled(settings.spans);
    let (filter, handle) = reload::Layer::new(parse_levels(&settings.level)?);
    let terminal = std::io::stderr().is_terminal();
    let human = match settings.format {
        Format::Auto => terminal,
        Format::Human => true,
        Format::Json => false,
    };
    let lines = fmt::layer().with_writer(std::io::stderr);
    let lines = if human {
        let colour = terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        lines.with_ansi(colour).boxed()
    } else {
        lines.json().flatten_event(true).with_current_span(true).boxed()
    };
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|_| LogError::Unavailable)?;
    Ok(LogHandle(Some(handle)))
}

fn parse_levels(levels: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::from_str(levels).map_err(|source| LogError::Levels {
        levels: levels.to_owned(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_that_cannot_be_read_are_named() {
        // O-M4
        let handle = LogHandle::detached();
        handle.set_levels("info,strait::peer=debug").unwrap();
        let error = handle.set_levels("strait::peer=loud").unwrap_err();
        assert!(error.to_string().contains("strait::peer=loud"), "{error}");
    }
}
