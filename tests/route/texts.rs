//! What people see, word for word: `tests/golden/cli/`. `STRAIT_BLESS=1` writes the files.

use std::fs;
use std::path::Path;

use serde_json::json;
use strait::control::operator::Answer;

use crate::fake::{Relay, Scripted, err, out};

/// 2026-11-25T10:00:00Z
const MOMENT: u64 = 1_795_600_800;

#[track_caller]
pub fn check(name: &str, line: &str, answer: serde_json::Value) {
    let answer: Answer = serde_json::from_value(answer).unwrap();
    let relay = Relay::start(Some(Scripted::new(move |_| answer.clone())));
    let ran = relay.strait(line);
    assert!(ran.stderr.is_empty(), "{line}: {}", err(&ran));
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/cli/{name}.txt"));
    if std::env::var_os("STRAIT_BLESS").is_some() {
        fs::write(&file, out(&ran)).unwrap();
    }
    assert_eq!(out(&ran), fs::read_to_string(&file).unwrap(), "strait {line}");
}

fn key(text: &str) -> serde_json::Value {
    json!({"key": {"dimension": "im.conversation", "key": text}})
}

fn node(id: &serde_json::Value, unit: &str, state: &serde_json::Value) -> serde_json::Value {
    json!({"id": id, "target": {"unit": unit}, "state": state, "rev": 17, "previous": "a", "reason": "ann: hall 3 closes"})
}

fn migrating() -> serde_json::Value {
    json!({"migrating": {"to": "c", "by": "00000000000000ff"}})
}

#[test]
fn the_status_says_whether_the_relay_may_write() {
    let status = |is_stale: bool| {
        json!({"status": {
            "store": "embedded at a/a-1", "epoch": 1_234, "is_stale": is_stale, "session": 12, "overrides": 12_345,
            "moves": ["00000000000000ff"], "under_way": 8,
            "dimensions": [
                {"dimension": "im.conversation", "lease": "infinite", "admits": true},
                {"dimension": "im.user", "lease": "20s", "admits": !is_stale},
            ],
        }})
    };
    check("route_status", "route status", status(false));
    check("route_status_stale", "route status", status(true));
    let nothing = json!({"status": {
        "store": "etcd", "epoch": null, "is_stale": true, "session": null, "overrides": 0, "moves": [], "under_way": 0,
        "dimensions": [],
    }});
    check("route_status_nothing", "route status", nothing);
}

#[test]
fn a_key_is_shown_with_the_way_to_its_owner() {
    let explanation = json!({
        "table_version": 18, "owner": "b", "epoch": 17, "frozen": null, "rule": "what was decided about the key",
        "error": null,
        "steps": [
            {"looked_at": "strait-unit", "matched": false, "why": "the call names no unit"},
            {"looked_at": "key", "matched": true, "why": "unit b owns it, since revision 17"},
        ],
    });
    let claim = json!({"target": {"unit": "a"}, "by": "a", "base": 3});
    let row = json!({"key": {
        "dimension": "im.conversation", "key": "cid:1", "node": node(&key("cid:1"), "b", &migrating()), "claim": claim,
        "explanation": explanation,
    }});
    let mut reads = row.clone();
    reads["key"]["explanation"]["routed_by"] = json!(["im.conversation"]);
    reads["key"]["explanation"]["only_reads"] = json!(true);
    check("route_get", "route get --key im.conversation=cid:1", row);
    check(
        "route_get_reads",
        "route get --key im.conversation=cid:1 --service im.Chat --method History",
        reads,
    );
    let history = json!({"history": {"nodes": [node(&key("cid:1"), "b", &json!("active"))], "claim": claim}});
    check("route_history", "route history --key im.conversation=cid:1", history);
    let nothing = json!({"history": {"nodes": [], "claim": null}});
    check(
        "route_history_none",
        "route history --key im.conversation=cid:1",
        nothing,
    );
}

//
#[test]
fn keys_that_were_placed_without_the_store_are_listed_conflicts_first() {
    let conflict = json!({
        "dimension": "im.conversation", "key": "cid:1", "chosen": {"unit": "b"}, "at": MOMENT, "claimed": {"unit": "c"},
        "found_at": MOMENT + 90,
    });
    let pending = json!({
        "dimension": "im.conversation", "key": "cid:2", "chosen": {"follow": "im.org"}, "at": MOMENT + 7, "claimed": null,
        "found_at": null,
    });
    let all = |in_force: bool| json!({"provisional": {"in_force": in_force, "pending": 1_234, "conflicts": 1, "rows": [conflict, pending]}});
    check("route_provisional", "route provisional", all(true));
    check("route_provisional_back", "route provisional", all(false));
    let none = json!({"provisional": {"in_force": false, "pending": 0, "conflicts": 0, "rows": []}});
    check("route_provisional_none", "route provisional", none);
}

#[test]
fn an_export_is_a_table_for_programs() {
    let follows = json!({
        "id": key("cid:2, \"x\""), "target": {"group": {"dimension": "im.org", "key": "acme"}}, "state": "active", "rev": 3,
        "previous": null, "reason": "",
    });
    let nodes = json!({"nodes": [
        node(&key("cid:1"), "b", &migrating()), follows,
        node(&json!({"bucket": {"dimension": "im.user", "bucket": 7}}), "c", &json!("active")),
        node(&json!({"rule": {"dimension": "im.user", "rule": 3}}), "c", &json!("tombstone")),
        node(&json!({"unit": "b"}), "b", &json!({"evacuated": {"takeover": [["c", 1]]}})),
    ]});
    check("route_export", "route export", nodes);
}

#[test]
fn the_book_shows_ids_and_who_has_the_keys_now() {
    let book = json!({"book": {
        "rev": 9,
        "book": {
            "units": ["a", "b", "c"],
            "dimensions": [
                {"name": "im.conversation", "placement": {"claim": []}, "owner_lease": "infinite", "hooks": {"service": "im.OwnerControl"}}, {"name": "im.user"},
            ],
            "rules": [
                [1, {"dimension": "im.user", "unit": "b", "prefix": "15"}],
                [2, {"dimension": "im.user", "unit": "a", "hash": [0, 50]}],
                [4, {"dimension": "im.user", "unit": "a", "default": true}],
            ],
        },
        "moved": [node(&json!({"rule": {"dimension": "im.user", "rule": 1}}), "c", &json!("active"))],
    }});
    check("route_book", "route book", book);
}

#[test]
fn a_move_says_what_it_does_and_how_far_it_is() {
    let planned: Vec<_> = (0..23)
        .map(|n| json!({"id": key(&format!("cid:{n}")), "from": "a"}))
        .collect();
    let plan = |id: Option<&str>| json!({"plan": {"id": id, "to": "b", "nodes": planned, "there_already": 2}});
    check(
        "route_move_dry",
        "route move --key im.conversation=cid:0 --to b --dry-run",
        plan(None),
    );
    check(
        "route_move",
        "route move --key im.conversation=cid:0 --to b",
        plan(Some("00000000000000ff")),
    );
    let asked = json!({"plan": {
        "id": "00000000000000ff", "to": "b", "nodes": [{"id": key("cid:1"), "from": "a"}], "there_already": 0,
        "hooks": ["im.OwnerControl"],
    }});
    check(
        "route_move_hooks",
        "route move --key im.conversation=cid:1 --to b",
        asked,
    );
    let none = json!({"plan": {"id": null, "to": "b", "nodes": [], "there_already": 1}});
    check(
        "route_move_none",
        "route move --key im.conversation=cid:0 --to b --wait",
        none,
    );
    let row = |id: &str, state: &str, left: usize, eta: Option<u64>| {
        json!({
            "id": id, "to": "b", "state": state, "nodes": 2048, "moved": 500, "aborted": 12, "left": left,
            "eta_seconds": eta, "under_way": [[key("cid:1"), migrating()]], "driver": {"unit": "a", "relay": "a-1"},
            "asked_at": MOMENT, "reason": "ann: hall 3 closes",
        })
    };
    let mut over = row("00000000000000fe", "finished", 0, None);
    over["under_way"] = json!([]);
    over["stayed"] = json!([
        [key("cid:2"), "frozen for too long"],
        [key("cid:3"), "refused: disk full"]
    ]);
    let moves = json!({"moves": [row("00000000000000ff", "running", 1536, Some(180)), over]});
    check("route_moves", "route moves", moves);
    let told = |hook: &str, said: &str| json!({"node": key("cid:1"), "hook": hook, "unit": "b", "said": said});
    let mut copying = row("00000000000000ff", "running", 1536, None);
    copying["note"] = told("lag", "");
    copying["note"]["lag"] = json!({"changes": 1200, "bytes": 34_000, "time": "1s 500ms"});
    let mut refused = row("00000000000000fe", "finished", 0, None);
    refused["under_way"] = json!([]);
    refused["note"] = told("prepare", "refused: FailedPrecondition: disk full");
    let moves = json!({"moves": [copying, refused]});
    check("route_moves_hooks", "route moves", moves);
    let mut waiting = row("00000000000000ff", "running", 1536, None);
    waiting["waits_for"] = json!({"unit": "a", "relay": "a-2"});
    check("route_moves_waits", "route moves", json!({"moves": [waiting]}));
    let mut whole = row("00000000000000ff", "running", 1536, None);
    whole["mirror"] = json!(true);
    let mut missed = row("00000000000000fe", "trailing", 0, None);
    missed["under_way"] = json!([]);
    missed["mirror"] = json!(true);
    missed["shadow_incomplete"] = json!(true);
    check("route_moves_mirror", "route moves", json!({"moves": [whole, missed]}));
    check("route_moves_none", "route moves", json!({"moves": []}));
}

#[test]
fn taking_a_move_back_says_what_goes_where() {
    let plan = |id: Option<&str>, to: &str, from: usize| {
        let nodes: Vec<_> = (from..from + 2)
            .map(|n| json!({"id": key(&format!("cid:{n}")), "from": "c"}))
            .collect();
        json!({"id": id, "to": to, "nodes": nodes, "there_already": 0})
    };
    let plans = [
        plan(Some("00000000000000f0"), "a", 0),
        plan(Some("00000000000000f1"), "b", 2),
    ];
    check(
        "route_undo",
        "route undo ff",
        json!({"undone": {"plans": plans, "stay": 3}}),
    );
    let plans = [plan(None, "a", 0)];
    check(
        "route_undo_dry",
        "route undo ff --dry-run",
        json!({"undone": {"plans": plans, "stay": 0}}),
    );
    check(
        "route_undo_none",
        "route undo ff --wait",
        json!({"undone": {"plans": [], "stay": 0}}),
    );
}

#[test]
fn relays_and_what_is_published() {
    let relay = |name: &str, silent: Option<&str>| json!({"relay": {"unit": "b", "relay": name}, "session": 12, "silent_for": silent, "frozen": 1});
    check(
        "route_relays",
        "route relays",
        json!({"relays": [relay("b-1", Some("800ms")), relay("b-2", None)]}),
    );
    let changes = [
        "unit d is added as number 4",
        "rule 5 of im.user (prefix \"16\", unit d) is added",
    ];
    let published = |rev: Option<u64>, changes: &[&str]| json!({"published": {"rev": rev, "changes": changes, "dry_run": rev.is_none()}});
    check(
        "route_publish_dry",
        "route publish --dry-run",
        published(None, &changes),
    );
    check("route_publish", "route publish", published(Some(18), &changes));
    check("route_publish_none", "route publish", published(None, &[]));
    let mut unread = published(None, &[]);
    unread["published"]["unread"] = json!("this relay has refused it (log.level: expected a text)");
    check("route_publish_unread", "route publish", unread);
}

#[test]
fn a_key_that_is_given_says_how() {
    let given = |how: &str, dry_run: bool| json!({"given": {"how": how, "dry_run": dry_run}});
    let line = "route set --key im.conversation=cid:1 --unit b";
    check("route_set_claimed", line, given("claimed", false));
    check("route_set_there", line, given("there", false));
    check("route_set_dry", &format!("{line} --dry-run"), given("pinned", true));
}
