//! What `/queue` and `/routes` share: questions as JSON, and the line of each change in the audit log.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// The query of a `GET`.
#[derive(Deserialize)]
pub(super) struct Asking {
    /// A command as JSON.
    command: Option<String>,
}

impl Asking {
    /// The command; `default` if there is none.
    pub(super) fn read<C: DeserializeOwned>(&self, default: C, area: &str) -> Result<C, Box<Response>> {
        match self.command.as_deref().map(serde_json::from_str) {
            None => Ok(default),
            Some(Ok(command)) => Ok(command),
            Some(Err(error)) => Err(Box::new(bad_command(&error, area))),
        }
    }
}

/// The line of a change in the audit log. Written when it has ended, or the asker has gone.
pub(super) struct Act {
    area: &'static str,
    /// Who, what, and about what; `None` if there is nothing to be written, or it was.
    said: Option<(String, &'static str, String)>,
}

impl Act {
    /// About the `queue` or the `routes`.
    pub(super) fn new(area: &'static str, said: Option<(String, &'static str, String)>) -> Self {
        Self { area, said }
    }

    /// It has ended.
    pub(super) fn write(&mut self, outcome: &str, messages: Option<u64>) {
        if let Some((who, act, on)) = self.said.take() {
            let area = self.area;
            tracing::info!(target: "strait::audit", who, act, on, outcome, messages, "operator acted on the {area}");
        }
    }
}

impl Drop for Act {
    fn drop(&mut self) {
        self.write("not awaited", None);
    }
}

/// A question that is none.
pub(super) fn bad_command(error: &serde_json::Error, area: &str) -> Response {
    let text = format!("not a command for the {area}: {error}\n");
    (StatusCode::BAD_REQUEST, text).into_response()
}
