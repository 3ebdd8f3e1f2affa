//! `/routes` of the admin address: what needs which permission, and what errors say.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;
use strait::admin::Access;
use strait::control::operator::Answer;
use strait::token::TokenFile;

use crate::fake::{Relay, Scripted};

const MOVE: &str = r#"{"ask":"move","what":[{"node":{"key":{"dimension":"uid","key":"1"}}}],"to":"b","who":"ann"}"#;
const READ: &str = "read-secret-0123456789";
const CHANGE: &str = "change-secret-0123456789";

fn token(name: &str, secret: &str) -> Arc<TokenFile> {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, secret).unwrap();
    Arc::new(TokenFile::open(&file).unwrap())
}

fn get(command: &str) -> String {
    let escaped: Vec<_> = command.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("/routes?command={}", escaped.concat())
}

// O-S3, M3: who may read changes nothing, whatever he sends.
#[test]
fn reading_and_changing_are_two_permissions() {
    let access = Access {
        read: Some(token("route-read", READ)),
        change: Some(token("route-change", CHANGE)),
    };
    let desk = Scripted::new(|_| Answer::Done);
    let relay = Relay::start_with(access, Some(desk.clone()));
    let dry = MOVE.replace("\"who\"", "\"dry_run\":true,\"who\"");
    for (path, token, expected) in [
        ("/routes".to_owned(), None, 401),
        ("/routes".to_owned(), Some(READ), 200),
        (get(&dry), Some(READ), 200),
        (get(MOVE), Some(READ), 405),
        (get(MOVE), Some(CHANGE), 405),
        (get("{\"ask\":\"abort\"}"), Some(READ), 400),
    ] {
        assert_eq!(relay.http("GET", &path, token, "").0, expected, "{path} with {token:?}");
    }
    for (body, token, expected) in [
        (MOVE, None, 401),
        (MOVE, Some(READ), 401),
        (MOVE, Some(CHANGE), 200),
        ("{\"ask\":\"burn\"}", Some(CHANGE), 400),
    ] {
        assert_eq!(
            relay.http("POST", "/routes", token, body).0,
            expected,
            "{body} with {token:?}"
        );
    }
    let asked: Vec<_> = desk
        .seen()
        .iter()
        .map(|command| (command.name(), command.changes()))
        .collect();
    assert_eq!(asked, [("status", false), ("move", false), ("move", true)]);
}

#[test]
fn a_relay_without_a_store_says_how_to_get_one() {
    let relay = Relay::start(None);
    let (status, body) = relay.http("GET", "/routes", None, "");
    assert!(
        status == 409 && body.contains("store = \\\"embedded\\\""),
        "{status} {body}"
    );
    assert_eq!(relay.http("POST", "/routes", None, MOVE).0, 409);
}

// A refusal is a matter of what was asked for, a failure one of the store.
#[test]
fn refusals_and_failures_have_their_own_status() {
    let detail = || "because".to_owned();
    for (answer, expected, word) in [
        (Answer::Refused { detail: detail() }, 409, "refused"),
        (Answer::Failed { detail: detail() }, 503, "failed"),
    ] {
        let relay = Relay::start(Some(Scripted::new(move |_| answer.clone())));
        let (status, body) = relay.http("POST", "/routes", None, MOVE);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!((status, &body[word]["detail"]), (expected, &Value::from("because")));
    }
}

// Ten thousand keys of a move, each as long as it may be.
#[test]
fn a_large_move_is_taken() {
    let key = "k".repeat(256);
    let which = format!(r#"{{"node":{{"key":{{"dimension":"uid","key":"{key}"}}}}}}"#);
    let body = format!(
        r#"{{"ask":"move","what":[{}],"to":"b"}}"#,
        vec![which; 10_000].join(",")
    );
    let relay = Relay::start(Some(Scripted::new(|_| Answer::Done)));
    assert_eq!(relay.http("POST", "/routes", None, &body).0, 200);
}
