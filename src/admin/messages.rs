//! `/queue`: what operators ask of the queue.
//!
//! # Invariants
//! - M1. `GET` takes only what changes nothing and shows no body; all else needs `POST`, and with it the permission to
//!   change (O-S3). So who may read sees keys and attributes of messages, but no bodies (O-S5).
//! - M2. Each change is in the log, under `strait::audit`: who, what, and how it ended; without keys and attributes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;

use super::acts::{Act, Asking, bad_command};
use super::desk::{Asked, Desk};
use super::server::Parts;
use crate::queue::operator::{Answer, Command};

type Shared = State<Arc<Parts>>;

/// Reads; without a command, the status.
pub(super) async fn read(State(parts): Shared, Query(query): Query<Asking>) -> Response {
    let command = match query.read(Command::Status, AREA) {
        Ok(command) => command,
        Err(response) => return *response,
    };
    if command.changes() || command.shows_bodies() {
        let text = "this changes something or shows bodies of messages; send it with POST\n";
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
    let Some(desk) = &parts.queue else {
        let text = "this relay has no queue\n";
        return (StatusCode::NOT_FOUND, text).into_response();
    };
    let mut act = act(&command);
    let asked = Desk::ask(desk, command);
    let Some(first) = asked.next().await else {
        act.write("no answer", None);
        let text = "the queue does not answer; it may be busy with its disk, see strait_queue_sync_duration_seconds\n";
        return (StatusCode::GATEWAY_TIMEOUT, text).into_response();
    };
    if !first.is_last() {
        return follow(asked, first, act);
    }
    act.write(first.outcome(), first.messages());
    let status = match first {
        Answer::Refused { .. } => StatusCode::CONFLICT,
        _ => StatusCode::OK,
    };
    (status, Json(first)).into_response()
}

/// One answer a line, as they come.
fn follow(asked: Asked, first: Answer, act: Act) -> Response {
    let lines = Lines {
        next: Some(Box::pin(async { (asked, Some(first)) })),
        act,
    };
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (kind, Body::new(lines)).into_response()
}

type Next = Pin<Box<dyn Future<Output = (Asked, Option<Answer>)> + Send>>;

/// Answers as the body of a response.
struct Lines {
    next: Option<Next>,
    act: Act,
}

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(next) = self.next.as_mut() else {
            return Poll::Ready(None);
        };
        let (asked, answer) = ready!(next.as_mut().poll(cx));
        let answer = answer.unwrap_or_else(|| Answer::Refused {
            detail: "the queue says nothing any more; look at its status, the work may go on".to_owned(),
        });
        self.next = None;
        if answer.is_last() {
            self.act.write(answer.outcome(), answer.messages());
        } else {
            self.next = Some(Box::pin(async {
                let answer = asked.next().await;
                (asked, answer)
            }));
        }
        let mut line = serde_json::to_vec(&answer).unwrap_or_default();
        line.push(b'\n');
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }
}

/// The line of a change in the audit log (M2).
fn act(command: &Command) -> Act {
    let shown = command.changes() || command.shows_bodies();
    Act::new(
        AREA,
        shown.then(|| (command.who().to_owned(), command.name(), command.target())),
    )
}

const AREA: &str = "queue";
