//! `strait unit`: what each command line asks, how it ends, and what people see (`tests/golden/cli/`).

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use strait::control::operator::{Answer, Command};

use crate::fake::{Relay, Scripted, err, out};
use crate::texts::check;

/// What a command line sends.
#[track_caller]
fn sends(line: &str, expected: &Value) {
    let desk = Scripted::new(|_| Answer::Done);
    let relay = Relay::start(Some(desk.clone()));
    let ran = relay.strait(line);
    let sent = desk.seen();
    assert_eq!(sent.len(), 1, "{line}: {}", err(&ran));
    assert_eq!(&serde_json::to_value(&sent[0]).unwrap(), expected, "{line}");
}

#[track_caller]
fn refuses(line: &str, expected: &str) {
    let relay = Relay::start(Some(Scripted::new(|_| Answer::Done)));
    let ran = relay.strait(line);
    assert!(
        ran.status.code() == Some(64) && err(&ran).contains(expected),
        "{line}: {}",
        err(&ran)
    );
}

#[test]
fn each_verb_is_one_question() {
    let options = json!({
        "hooks": true, "parallel": 4, "freeze_budget": "1s", "copy_limit": "1h", "trail": "1h",
    });
    sends("unit status", &json!({"ask": "units", "unit": null}));
    sends("unit status a", &json!({"ask": "units", "unit": "a"}));
    sends(
        "unit drain a --to b=2,c --reason hall_3_closes --parallel 4 --freeze-budget 1s --dry-run",
        &json!({
            "ask": "drain", "unit": "a", "to": [["b", 2], ["c", 1]], "options": options, "after": null, "dry_run": true,
            "reason": "hall 3 closes", "who": "ann",
        }),
    );
    sends(
        "unit evacuate a --to b=2 --accept-loss --accept-dual --reason fire",
        &json!({
            "ask": "evacuate", "unit": "a", "to": [["b", 2]], "accept_loss": true, "accept_dual": true, "dry_run": false,
            "reason": "fire", "who": "ann",
        }),
    );
    sends(
        "unit return a --parallel 4 --freeze-budget 1s",
        &json!({"ask": "return", "unit": "a", "options": options, "dry_run": false, "reason": "", "who": "ann"}),
    );
}

#[test]
fn wrong_command_lines_say_what_was_expected() {
    refuses("unit drain a", "--to");
    refuses("unit drain a --to b=two", "expected UNIT=WEIGHT");
    refuses("unit drain a --to b=2 --dry-run --wait", "cannot be used with");
    // Who signs for two owners says why.
    refuses("unit evacuate a --to b --accept-loss --accept-dual", "--reason");
}

// O-S3, M3: a dry run only reads; all else takes the permission to change.
#[test]
fn a_dry_run_needs_no_permission_to_change() {
    for (line, changes) in [
        ("unit status", false),
        ("unit drain a --to b --dry-run", false),
        ("unit drain a --to b", true),
        ("unit evacuate a --to b --dry-run", false),
        ("unit evacuate a --to b", true),
        ("unit return a", true),
    ] {
        let desk = Scripted::new(|_| Answer::Done);
        Relay::start(Some(desk.clone())).strait(line);
        assert_eq!(desk.seen()[0].changes(), changes, "{line}");
    }
}

fn counts(buckets: u32, rules: u32, keys: u32, claims: u32) -> Value {
    json!({"buckets": buckets, "rules": rules, "keys": keys, "claims": claims})
}

fn plan(act: &str, change: impl FnOnce(&mut Value)) -> Value {
    let mut plan = json!({
        "unit": "a", "act": act, "shares": [], "key_by_key": counts(0, 0, 0, 0), "notes": [], "refusal": null, "moves": [],
        "next": null, "dry_run": true,
    });
    change(&mut plan);
    json!({"unit_plan": plan})
}

fn row(unit: &str, state: &Value, change: impl FnOnce(&mut Value)) -> Value {
    let mut row = json!({
        "unit": unit, "state": state, "rev": 17, "reason": "ann: hall 3 closes", "has": counts(2048, 1, 12, 0),
        "has_more": false, "moves": [], "fence": null,
        "relays": [{"relay": {"unit": unit, "relay": format!("{unit}-1")}, "session": 12, "silent_for": "800ms", "frozen": 0}],
    });
    change(&mut row);
    row
}

fn work(left: u32, eta: Option<u64>) -> Value {
    json!({
        "id": "00000000000000ff", "to": "b", "state": if left > 0 { "running" } else { "trailing" }, "nodes": 2048,
        "moved": 500, "aborted": 2, "left": left, "eta_seconds": eta, "under_way": [],
        "driver": {"unit": "a", "relay": "a-1"}, "asked_at": 1_795_600_800, "reason": "ann: hall 3 closes",
    })
}

#[test]
fn a_plan_says_who_gets_what_and_what_to_know() {
    let shares = json!([
        {"unit": "b", "weight": 2, "gets": counts(1365, 1, 8, 12_345)}, {"unit": "c", "weight": 1, "gets": counts(683, 0, 4, 6_170)},
    ]);
    let drained = |dry_run: bool| {
        let shares = shares.clone();
        plan("drain", |plan| {
            plan["shares"] = shares;
            plan["notes"] = json!(["Strait knows no capacities: see that these units have room for what they get"]);
            plan["dry_run"] = dry_run.into();
        })
    };
    check("unit_drain_dry", "unit drain a --to b=2,c=1 --dry-run", drained(true));
    check("unit_drain", "unit drain a --to b=2,c=1", drained(false));
    let evacuated = plan("evacuate", |plan| {
        plan["shares"] = json!([{"unit": "b", "weight": 1, "gets": counts(0, 0, 12, 18_515)}]);
        plan["key_by_key"] = counts(2048, 1, 0, 0);
        plan["notes"] =
            json!(["relay a/a-1 is silent: others take over when its lease and what it had admitted are over, in 18s"]);
    });
    check("unit_evacuate_dry", "unit evacuate a --to b --dry-run", evacuated);
    let returned = plan("return", |plan| {
        plan["shares"] = json!([{"unit": "a", "weight": 1, "gets": counts(2048, 1, 12, 0)}]);
        plan["dry_run"] = false.into();
    });
    check("unit_return", "unit return a", returned);
}

// What would be refused is a no, also of a dry run.
#[test]
fn a_dry_run_that_would_be_refused_says_no() {
    let answer = plan("evacuate", |plan| plan["refusal"] = "say --accept-loss".into());
    let answer: Answer = serde_json::from_value(answer).unwrap();
    let relay = Relay::start(Some(Scripted::new(move |_| answer.clone())));
    let ran = relay.strait("unit evacuate a --to b --dry-run");
    assert_eq!(ran.status.code(), Some(2));
    assert!(
        out(&ran).contains("would be refused as it stands: say --accept-loss"),
        "{}",
        out(&ran)
    );
}

#[test]
fn a_unit_is_shown_with_what_to_do_next() {
    let active = json!("active");
    let evacuated = json!({"evacuated": {"takeover": [["b", 2], ["c", 1]]}});
    let all = json!({"units": [
        row("a", &evacuated, |row| row["has"] = counts(0, 0, 0, 0)), row("b", &active, |_| ()),
        row("c", &json!("draining"), |row| row["relays"] = json!([])),
    ]});
    check("unit_status", "unit status", all);
    let one = |state: &Value, change: fn(&mut Value)| json!({"units": [row("a", state, change)]});
    check(
        "unit_status_active",
        "unit status a",
        one(&active, |row| {
            row["rev"] = 0.into();
            row["reason"] = "".into();
            row["has"] = counts(2048, 1, 12, 12_345);
            row["has_more"] = true.into();
        }),
    );
    check(
        "unit_status_draining",
        "unit status a",
        one(&json!("draining"), |row| {
            row["moves"] = json!([work(1546, Some(180)), work(0, None)]);
        }),
    );
    check(
        "unit_status_drained",
        "unit status a",
        one(&json!("draining"), |row| row["has"] = counts(0, 0, 0, 0)),
    );
    check("unit_status_left", "unit status a", one(&json!("draining"), |_| ()));
    check(
        "unit_status_evacuated",
        "unit status a",
        one(&evacuated, |row| {
            row["has"] = counts(0, 0, 0, 0);
            row["relays"] = json!([]);
        }),
    );
    let waits = |left: Option<&str>| json!({"relay": {"unit": "a", "relay": "a-1"}, "silent_for": "12s", "left": left});
    let fencing = json!({"fencing": {"by": "00000000000000ff"}});
    let fence = |needed: Option<&str>, waits: Value| {
        let row = row("a", &fencing, |row| {
            row["fence"] = json!({"needed": needed, "waits_for": [waits]});
        });
        json!({"units": [row]})
    };
    check(
        "unit_status_fencing",
        "unit status a",
        fence(Some("30s"), waits(Some("18s"))),
    );
    check("unit_status_fencing_endless", "unit status a", fence(None, waits(None)));
}

/// `strait unit drain a --to b --wait` before a script that has some left in the end; how it ran, and whether each drain went on
/// after a claim.
fn drain_and_wait(left: u32) -> (std::process::Output, Vec<bool>) {
    let drains = AtomicUsize::new(0);
    let desk = Scripted::new(move |command| {
        let answer = match command {
            Command::Drain(_) => {
                let round = drains.fetch_add(1, Ordering::SeqCst);
                plan("drain", |plan| {
                    plan["dry_run"] = false.into();
                    if round < 3 {
                        plan["moves"] = json!([format!("{:016x}", 255 - round)]);
                    }
                    if round == 0 {
                        plan["next"] = json!(["cid", "k9"]);
                    }
                })
            }
            Command::Moves { .. } => json!({"moves": [work(0, None)]}),
            _ => json!({"units": [row("a", &json!("draining"), |row| row["has"] = counts(0, 0, left, 0))]}),
        };
        serde_json::from_value(answer).unwrap()
    });
    let relay = Relay::start(Some(desk.clone()));
    let ran = relay.strait("unit drain a --to b --wait");
    let drains = desk.seen().into_iter().filter_map(|command| match command {
        Command::Drain(ask) => Some(ask.after.is_some()),
        _ => None,
    });
    (ran, drains.collect())
}

// Claims come in parts, and keys that were claimed meanwhile are taken by another round; what is left then is a no.
#[test]
fn waiting_takes_what_came_meanwhile() {
    let (ran, drains) = drain_and_wait(0);
    assert_eq!(drains, [false, true, false, false]);
    assert_eq!(ran.status.code(), Some(0), "{}", err(&ran));
    assert!(out(&ran).contains("state      drained"), "{}", out(&ran));
    let (ran, _) = drain_and_wait(2);
    assert_eq!(ran.status.code(), Some(2), "{}", err(&ran));
    assert!(
        err(&ran).contains("2 of its keys, buckets and rules stayed"),
        "{}",
        err(&ran)
    );
}
