//! What the admin address answers.

use std::fmt::Write;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Parts;
use crate::control::access::{AccessError, Listed, Point};
use crate::control::tokens::{TokenKeys, unix_now};
use crate::model::{Key, Name, RouteHints, Sighting};
use crate::routing::record::{Epoch, KeyBytes};
use crate::routing::token::{Brought, With};
use crate::routing::{Explanation, Observed};
use crate::telemetry::{Chain, OPENMETRICS};

type Shared = State<Arc<Parts>>;

const INDEX: &str = "\
strait relay
GET  /metrics                                    series, as Prometheus text or OpenMetrics
GET  /livez                                      200 while the process runs
GET  /readyz[?verbose]                           200 if the relay may get work, else 503 and why
GET  /explain?dimension=D&key=K[&service=S]      which unit owns a key, and why; also method=M, unit=U, token=D;T
GET  /access?user=KEY                            where the client of a user connects, and where the user is at home
GET  /status                                     units, links and services, as JSON
GET  /certificates                               certificates of this relay and its links, as JSON
POST /drain                                      finish running calls, then end
PUT  /log?level=info,strait::peer=debug          log levels
GET  /queue[?command=JSON]                       messages: status, or what a command that only reads finds
POST /queue                                      a command as JSON: purge, pause, redrive ... (see strait queue --help)
GET  /routes[?command=JSON]                      routes: how the store stands, or what a command that only reads finds
POST /routes                                     a command as JSON: move, claim, publish ... (see strait route --help)
";

const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(super) async fn index() -> &'static str {
    INDEX
}

pub(super) async fn livez() -> &'static str {
    "alive\n"
}

pub(super) async fn metrics(State(parts): Shared, headers: HeaderMap) -> Response {
    // Who asks for OpenMetrics at all, as Prometheus does, prefers it.
    let accepted = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    let (format, text) = if accepted.is_some_and(|accepted| accepted.contains("application/openmetrics-text")) {
        (OPENMETRICS, parts.registry.to_openmetrics())
    } else {
        (TEXT, parts.registry.to_text())
    };
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, format)], text).into_response(),
        Err(error) => {
            tracing::error!(error = %Chain(&error), "series cannot be written as text");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

#[derive(Deserialize)]
pub(super) struct Verbose {
    verbose: Option<String>,
}

pub(super) async fn readyz(State(parts): Shared, Query(query): Query<Verbose>) -> Response {
    let conditions = parts.health.conditions();
    let ready = conditions.values().all(|condition| condition.ready);
    let mut text = String::from(if ready { "ready\n" } else { "not ready\n" });
    for (name, condition) in &conditions {
        if query.verbose.is_some() || !condition.ready {
            let mark = if condition.ready { '+' } else { '-' };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "[{mark}] {name}: {}", condition.reason);
        }
    }
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, text).into_response()
}

#[derive(Deserialize)]
pub(super) struct Explain {
    dimension: Option<String>,
    key: Option<String>,
    service: Option<String>,
    method: Option<String>,
    unit: Option<String>,
    /// A route token for the key.
    token: Option<String>,
}

pub(super) async fn explain(State(parts): Shared, Query(query): Query<Explain>) -> Response {
    let key = match (query.dimension, query.key) {
        (Some(dimension), Some(key)) => Some(Key {
            dimension: dimension.into(),
            key: key.into(),
        }),
        (None, None) => None,
        _ => return bad_request("dimension and key belong together"),
    };
    let unit = match query.unit.as_deref().map(Name::new).transpose() {
        Ok(unit) => unit,
        Err(error) => return bad_request(&format!("unit: {error}")),
    };
    let hints = RouteHints {
        keys: key.into_iter().collect(),
        unit,
        ..RouteHints::default()
    };
    if query
        .method
        .as_deref()
        .is_some_and(|method| method.is_empty() || method.contains('/'))
    {
        return bad_request("method: expected its name alone, as behind the last slash of /package.Service/Method");
    }
    let policy = (parts.route_policy)(query.service.as_deref(), query.method.as_deref());
    let table = parts.routing.table();
    let ring = parts.tokens.as_ref().map(TokenKeys::ring);
    let field = query.token.as_deref().map(str::as_bytes);
    let with = ring.as_deref().zip(table.routes()).zip(field);
    let with = with.map(|((ring, routes), field)| With {
        ring,
        routes,
        field,
        now: unix_now(),
        lost: Epoch::default(),
    });
    let brought = Brought::new(&parts.claims, with);
    let mut explanation = table.explain(&hints, &policy, &parts.place.unit, &brought);
    if let Some(key) = hints.keys.first().filter(|_| query.token.is_some()) {
        if let Some(dimension) = std::str::from_utf8(&key.dimension)
            .ok()
            .and_then(|name| Name::new(name).ok())
        {
            brought.look_at(&dimension, &key.key);
        }
        let outcome = brought
            .checked()
            .map_or("none for the key", |check| check.outcome.as_str());
        explanation.token = Some(outcome.to_owned());
    }
    note_away(&parts, &mut explanation);
    Json(explanation).into_response()
}

/// What an operator says of the owner, and other units.
pub(super) fn note_away(parts: &Parts, explanation: &mut Explanation) {
    let owner = explanation.owner.as_deref().and_then(|owner| Name::new(owner).ok());
    let own = owner.as_ref().map(|owner| parts.observers.own(owner));
    let others = owner.as_ref().filter(|_| own == Some(Sighting::Away));
    explanation.observers = others.map(|owner| {
        let others = parts.observers.others(owner);
        Observed {
            away: others.away + 1,
            of: others.away + 1 + others.reach,
        }
    });
    let pause = owner.and_then(|owner| parts.away.of(&owner));
    explanation.counts_as_away = pause.map(|pause| {
        let until = Duration::from_millis(pause.until.unwrap_or_default());
        let until = humantime::format_rfc3339_seconds(SystemTime::UNIX_EPOCH + until);
        format!("until {until}: {}", pause.reason)
    });
}

#[derive(Deserialize)]
pub(super) struct Of {
    user: Option<String>,
}

pub(super) async fn access(State(parts): Shared, Query(query): Query<Of>) -> Response {
    let Some(user) = query.user else {
        return bad_request("user is missing, such as /access?user=1001");
    };
    let user = match KeyBytes::try_from(user) {
        Ok(user) => user,
        Err(error) => return bad_request(&format!("user: {error}")),
    };
    let listed = match &parts.users {
        Some(desk) => desk.list(user).await,
        None => Err(AccessError::Off),
    };
    match listed {
        Ok(Listed {
            user,
            home,
            epoch,
            is_moving,
            points,
            detail,
        }) => {
            let point = |point: &Point| json!({ "unit": point.unit, "address": &*point.address });
            let points: Vec<_> = points.iter().map(point).collect();
            Json(json!({
                "user": user, "home": home, "epoch": epoch, "moving": is_moving, "points": points, "detail": detail,
            }))
            .into_response()
        }
        Err(error @ AccessError::Off) => (StatusCode::CONFLICT, format!("{error}\n")).into_response(),
        Err(error) => bad_request(&error.to_string()),
    }
}

pub(super) async fn status(State(parts): Shared) -> Json<Map<String, Value>> {
    let mut status = parts.status.status();
    status.insert("unit".to_owned(), json!(parts.place.unit));
    status.insert("relay".to_owned(), json!(parts.place.relay));
    status.insert("version".to_owned(), json!(env!("CARGO_PKG_VERSION")));
    status.insert("route_table_version".to_owned(), json!(parts.routing.table().version()));
    status.insert("ready".to_owned(), json!(parts.health.is_ready()));
    status.insert("conditions".to_owned(), json!(parts.health.conditions()));
    Json(status)
}

pub(super) async fn certificates(State(parts): Shared) -> Json<Map<String, Value>> {
    Json(parts.status.certificates())
}

pub(super) async fn drain(State(parts): Shared) -> Response {
    tracing::info!("drain asked for at the admin address");
    parts.drain.cancel();
    (StatusCode::ACCEPTED, "draining\n").into_response()
}

#[derive(Deserialize)]
pub(super) struct Levels {
    level: Option<String>,
}

pub(super) async fn log(State(parts): Shared, Query(query): Query<Levels>) -> Response {
    let Some(level) = query.level else {
        return bad_request("level is missing, such as /log?level=info,strait::peer=debug");
    };
    match parts.log.set_levels(&level) {
        Ok(()) => {
            tracing::info!(level, "log levels changed");
            format!("{level}\n").into_response()
        }
        Err(error) => bad_request(&Chain(&error).to_string()),
    }
}

fn bad_request(text: &str) -> Response {
    (StatusCode::BAD_REQUEST, format!("{text}\n")).into_response()
}
