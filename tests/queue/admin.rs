//! `/queue` of the admin address: what needs which permission, and how long work is told.

use serde_json::Value;
use strait::admin::Access;
use strait::queue::operator::{Answer, Command};

use crate::fake::{Relay, token};

const PEEK: &str = r#"{"do":"peek","line":{"line":"dead"},"limit":3,"bodies":true}"#;
const PURGE: &str = r#"{"do":"purge","line":{"line":"dead"},"all":true,"who":"ann"}"#;
const READ: &str = "read-secret-0123456789";
const CHANGE: &str = "change-secret-0123456789";

fn done(_: &Command) -> Vec<Answer> {
    vec![Answer::Done { messages: 1 }]
}

fn get(command: &str) -> String {
    let escaped: Vec<_> = command.bytes().map(|byte| format!("%{byte:02x}")).collect();
    format!("/queue?command={}", escaped.concat())
}

// O-S3, O-S5: who may read sees no bodies and changes nothing, whatever he sends.
#[test]
fn reading_and_changing_are_two_permissions() {
    let access = Access {
        read: Some(token("queue-read", READ).1),
        change: Some(token("queue-change", CHANGE).1),
    };
    let relay = Relay::start_with(access, done);
    let without_bodies = PEEK.replace("true", "false");
    let dry = PURGE.replace("\"all\"", "\"dry_run\":true,\"all\"");
    for (path, token, expected) in [
        ("/queue".to_owned(), None, 401),
        ("/queue".to_owned(), Some(READ), 200),
        (get(&without_bodies), Some(READ), 200),
        (get(&dry), Some(READ), 200),
        (get(PEEK), Some(READ), 405),
        (get(PEEK), Some(CHANGE), 405),
        (get(PURGE), Some(READ), 405),
        (get("{\"do\":\"pause\"}"), Some(READ), 400),
    ] {
        assert_eq!(relay.http("GET", &path, token, "").0, expected, "{path} with {token:?}");
    }
    for (body, token, expected) in [
        (PURGE, None, 401),
        (PURGE, Some(READ), 401),
        (PEEK, Some(READ), 401),
        (PEEK, Some(CHANGE), 200),
        (PURGE, Some(CHANGE), 200),
        ("{\"do\":\"burn\"}", Some(CHANGE), 400),
    ] {
        assert_eq!(
            relay.http("POST", "/queue", token, body).0,
            expected,
            "{body} with {token:?}"
        );
    }
    let asked: Vec<_> = relay.seen().iter().map(|command| command.name().to_owned()).collect();
    assert_eq!(asked, ["status", "peek", "purge", "peek", "purge"]);
}

// M-H4
#[test]
fn what_the_queue_refuses_is_a_conflict_with_its_reason() {
    let relay = Relay::start(|_| {
        vec![Answer::Refused {
            detail: "unit x is not configured".to_owned(),
        }]
    });
    let (status, body) = relay.http("POST", "/queue", None, PURGE);
    assert!(
        status == 409 && body.contains("unit x is not configured"),
        "{status} {body}"
    );
}

#[test]
fn long_work_tells_how_far_it_is_line_by_line() {
    let relay = Relay::start(|_| vec![Answer::Progress { done: 1, of: 3 }, Answer::Done { messages: 3 }]);
    let (status, body) = relay.http("POST", "/queue", None, PURGE);
    let lines: Vec<Value> = body.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(status, 200);
    assert_eq!(lines.last().unwrap()["answer"], "done", "{body}");
    // Progress that nobody has read gives way to what comes after it (D2).
    assert!(lines.len() <= 2, "{body}");
}

#[test]
fn answers_go_to_whoever_asked() {
    let mut number = 0;
    let relay = Relay::start(move |_| {
        number += 1;
        vec![Answer::Done { messages: number }]
    });
    for expected in 1..=20 {
        let (_, body) = relay.http("POST", "/queue", None, PURGE);
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["messages"], expected);
    }
}
