//! `/routes`: what operators ask of the routes.
//!
//! # Invariants
//! - M3. `GET` takes only what changes nothing; all else needs `POST`, and with it the permission to change (O-S3). Who may read
//!   sees keys (O-S5).
//! - M4. Each change is in the log, under `strait::audit`: who, what, and how it ended; without keys.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};

use super::acts::{Act, Asking, bad_command};
use super::pages::note_away;
use super::server::Parts;
use crate::control::operator::{Answer, Command, Operator};
use crate::peer::credentials::wall_clock;

type Shared = State<Arc<Parts>>;

/// Answers about routes: an [`Operator`], or a script in tests.
pub trait RouteDesk: Send + Sync {
    /// Answers, with [`Answer::Refused`] or [`Answer::Failed`] if it cannot.
    fn ask(&self, command: Command) -> Pin<Box<dyn Future<Output = Answer> + Send + '_>>;
}

impl RouteDesk for Operator {
    fn ask(&self, command: Command) -> Pin<Box<dyn Future<Output = Answer> + Send + '_>> {
        let now = wall_clock().as_secs();
        let dice = fastrand::u128(..);
        Box::pin(async move {
            match self.answer(command, now, dice).await {
                Ok(answer) => answer,
                Err(error) => error.into(),
            }
        })
    }
}

/// Reads; without a command, the status.
pub(super) async fn read(State(parts): Shared, Query(query): Query<Asking>) -> Response {
    let command = match query.read(Command::Status, AREA) {
        Ok(command) => command,
        Err(response) => return *response,
    };
    if command.changes() {
        let text = "this changes something; send it with POST\n";
        return (StatusCode::METHOD_NOT_ALLOWED, text).into_response();
    }
    answer(&parts, command).await
}

/// Reads or changes.
pub(super) async fn change(State(parts): Shared, body: Bytes) -> Response {
    match serde_json::from_slice(&body) {
        Ok(command) => answer(&parts, command).await,
        Err(error) => bad_command(&error, AREA),
    }
}

async fn answer(parts: &Parts, command: Command) -> Response {
    let said = (command.who().to_owned(), command.name(), command.target());
    let mut act = Act::new(AREA, command.changes().then_some(said));
    let mut answer = match &parts.routes {
        Some(desk) => desk.ask(command).await,
        None => Answer::Refused {
            detail: NO_STORE.to_owned(),
        },
    };
    act.write(answer.outcome(), None);
    if let Answer::Key(row) = &mut answer {
        note_away(parts, &mut row.explanation);
    }
    let status = match answer {
        Answer::Refused { .. } => StatusCode::CONFLICT,
        Answer::Failed { .. } => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::OK,
    };
    (status, Json(answer)).into_response()
}

const AREA: &str = "routes";
const NO_STORE: &str = "this relay has no route store: the rules of [routing] decide alone, and nothing can be moved. To get \
                        one, set store = \"embedded\" or \"etcd\" in [routes] at all relays of the Geo and start them anew; see \
                        \"Moving keys\" in the README";
/// Longest body: many keys in one move.
pub(super) const BODY_BYTES_MAX: usize = 8 << 20;
