//! What each command line asks of the queue, and with which exit code it ends.

use serde_json::{Value, json};
use strait::admin::Access;
use strait::queue::operator::{Answer, AuditRow, Command};

use crate::fake::{Relay, task, token};

fn done(command: &Command) -> Vec<Answer> {
    match command {
        Command::Redrive { .. } | Command::Redrives => vec![task("done", 7, 0)],
        _ => vec![Answer::Done { messages: 7 }],
    }
}

/// What a command line sends, without its times.
#[track_caller]
fn check(line: &str, expected: &Value) {
    let relay = Relay::start(done);
    let ran = relay.strait(line);
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert_eq!(ran.status.code(), Some(0), "{line}: {error}");
    let sent = serde_json::to_value(relay.seen().last().unwrap()).unwrap();
    assert_eq!(&sent, expected, "{line}");
}

#[track_caller]
fn refuses(line: &str, code: i32, expected: &str) {
    let relay = Relay::start(done);
    let ran = relay.strait(line);
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(
        ran.status.code() == Some(code) && error.contains(expected),
        "{line}: {:?} {error}",
        ran.status.code()
    );
    assert!(relay.seen().iter().all(|command| !command.changes()), "{line}");
}

fn filter(with: &Value) -> Value {
    let mut filter = json!({
        "topic": null, "key": null, "attribute": null, "from_seq": null, "to_seq": null,
        "since": null, "before": null, "reason": null, "place": null, "id": null,
    });
    for (name, value) in with.as_object().unwrap() {
        filter[name] = value.clone();
    }
    filter
}

// M-H2
#[test]
fn purge_names_where_and_which() {
    check(
        "queue purge --unit b --topic chat --key uid=1 --yes",
        &json!({
            "do": "purge", "line": {"line": "outbox", "unit": "b"}, "all": false, "dry_run": false, "who": "ann",
            "filter": filter(&json!({"topic": "chat", "key": "uid=1"})),
        }),
    );
    check(
        "queue purge --topic chat --group g --all --yes",
        &json!({
            "do": "purge", "line": {"line": "inbox", "topic": "chat", "group": "g"}, "all": true, "dry_run": false,
            "who": "ann", "filter": filter(&json!({})),
        }),
    );
    check(
        "dlq purge --before 1970-01-02T00:00:00Z --dry-run",
        &json!({
            "do": "purge", "line": {"line": "dead"}, "all": false, "dry_run": true, "who": "ann",
            "filter": filter(&json!({"before": 86_400_000})),
        }),
    );
}

// M-H2: neither everything by mistake, nor anything without a yes.
#[test]
fn purge_needs_a_filter_or_all_and_a_yes() {
    refuses(
        "queue purge --unit b --yes",
        64,
        "give a filter such as --before 24h or --key, or --all",
    );
    refuses("dlq purge --yes", 64, "or --all");
    refuses("queue purge --all --yes", 64, "--unit");
    refuses(
        "queue purge --unit b --all",
        64,
        "this would remove 7 messages from unit b for good; say so with --yes",
    );
}

// M-H1
#[test]
fn peek_asks_for_messages_anywhere() {
    check(
        "queue peek --topic chat --mirror --seq 10-20 --limit 3",
        &json!({
            "do": "peek", "line": {"line": "mirror", "topic": "chat"}, "limit": 3, "bodies": false,
            "filter": filter(&json!({"from_seq": 10, "to_seq": 20})),
        }),
    );
    check(
        "dlq list --reason attempts --place delivery --attribute type=x --id a/a-1/00000000000000ff/17",
        &json!({
            "do": "peek", "line": {"line": "dead"}, "limit": 20, "bodies": false,
            "filter": filter(&json!({
                "reason": "attempts", "place": "delivery", "attribute": "type=x", "id": "a/a-1/00000000000000ff/17",
            })),
        }),
    );
}

// M-H3, M-C3, M-D2
#[test]
fn pauses_limits_and_unblocking_are_sent_with_who_and_why() {
    check(
        "queue pause --topic chat --group g --reason 'archive is full'",
        &json!({
            "do": "pause", "what": {"kind": "group", "topic": "chat", "group": "g"}, "who": "ann",
            "pause": {"reason": "archive is full", "until": null},
        }),
    );
    check(
        "replay resume --unit b",
        &json!({"do": "resume", "what": {"kind": "unit", "unit": "b"}, "who": "ann"}),
    );
    check(
        "queue resume --topic t",
        &json!({"do": "resume", "what": {"kind": "topic", "topic": "t"}, "who": "ann"}),
    );
    check(
        "dlq resume 3",
        &json!({"do": "resume", "what": {"kind": "redrive", "task": 3}, "who": "ann"}),
    );
    check(
        "dlq cancel 3",
        &json!({"do": "cancel_redrive", "task": 3, "who": "ann"}),
    );
    check(
        "queue group-remove --topic chat --group g --reason 'a typing error' --yes",
        &json!({
            "do": "remove_group", "topic": "chat", "group": "g", "reason": "a typing error", "dry_run": false, "who": "ann",
        }),
    );
    check(
        "queue unblock --topic chat --group g --key uid=1",
        &json!({"do": "unblock", "topic": "chat", "group": "g", "key": "uid=1", "who": "ann"}),
    );
    check(
        "replay limit --unit b --topic t --rate 0.5 --bytes 1MiB --burst 9",
        &json!({
            "do": "limits", "unit": "b", "topic": "t", "who": "ann",
            "limits": {"messages_per_second": 0.5, "bytes_per_second": 1_048_576, "burst": 9},
        }),
    );
    check(
        "replay limit --unit b --clear",
        &json!({"do": "limits", "unit": "b", "topic": null, "limits": null, "who": "ann"}),
    );
    refuses(
        "replay limit --unit b",
        64,
        "give --rate, --bytes or --burst, or --clear",
    );
    refuses("queue group-remove --topic t --group g", 64, "--reason");
    refuses(
        "queue group-remove --topic t --group g --reason x",
        64,
        "say so with --yes",
    );
    refuses("queue pause --unit b", 64, "--reason");
    refuses("queue pause --unit b --topic t --reason x", 64, "cannot be used with");
}

// M-H3
#[test]
fn a_pause_for_a_time_has_an_end() {
    let relay = Relay::start(done);
    relay.strait("replay pause --unit b --reason x --for 1h");
    let [Command::Pause { pause, .. }] = &relay.seen()[..] else {
        panic!("one pause");
    };
    let now = u64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap();
    let left = pause.until.unwrap() - now;
    assert!((3_500_000..=3_600_000).contains(&left), "{left}");
}

#[test]
fn a_dry_run_changes_nothing() {
    let relay = Relay::start(done);
    let lines = [
        "queue pause --unit b --reason x --dry-run",
        "queue resume --unit b --dry-run",
        "queue group-remove --topic t --group g --reason x --dry-run",
        "queue unblock --topic t --group g --dry-run",
        "replay limit --unit b --rate 1 --dry-run",
        "replay pause --unit b --reason x --dry-run",
        "replay resume --unit b --dry-run",
        "dlq pause 1 --reason x --dry-run",
        "dlq resume 1 --dry-run",
        "dlq cancel 1 --dry-run",
        "dlq redrive --dry-run",
        "queue purge --unit b --all --dry-run",
    ];
    for line in lines {
        let ran = relay.strait(line);
        assert_eq!(
            ran.status.code(),
            Some(0),
            "{line}: {}",
            String::from_utf8_lossy(&ran.stderr)
        );
    }
    // What programs read is the command as it would be sent.
    for (line, word) in [
        ("replay resume --unit b --dry-run", "resume"),
        ("dlq resume 1 --dry-run", "resume"),
        ("dlq cancel 1 --dry-run", "cancel_redrive"),
    ] {
        let ran = relay.strait(&format!("{line} --output json"));
        let told: Value = serde_json::from_slice(&ran.stdout).expect(line);
        assert_eq!(told["do"], word, "{line}");
    }
    assert!(
        relay.seen().iter().all(|command| !command.changes()),
        "{:?}",
        relay.seen()
    );
}

// M-F1
#[test]
fn redrive_sends_rate_ramp_filter_and_limit() {
    check(
        "dlq redrive --topic chat --reason attempts --rate 50 --ramp 1m --limit 1000 --extend-ttl 1h --allow-reorder",
        &json!({
            "do": "redrive", "who": "ann",
            "request": {
                "filter": filter(&json!({"topic": "chat", "reason": "attempts"})),
                "rate": 50.0, "ramp_seconds": 60, "limit": 1000, "dry_run": false, "extend_ttl_seconds": 3600,
                "allow_reorder": true,
            },
        }),
    );
    refuses("dlq redrive --rate=-1", 64, "messages per second");
}

/// Runs a redrive that is so far at each look, the last one for ever; says how often it was looked at too.
fn redrive(line: &str, states: &'static [(&str, u64)]) -> (std::process::Output, usize) {
    let mut looks = 0;
    let relay = Relay::start(move |_| {
        let (state, moved) = states.get(looks).or(states.last()).unwrap();
        looks += 1;
        vec![task(state, *moved, 9)]
    });
    (relay.strait(line), relay.seen().len())
}

// M-F2
#[test]
fn redrive_waits_for_the_end_and_its_exit_code_says_how_it_ended() {
    for (end, code) in [("done", 0), ("cancelled", 2)] {
        let states: &[(&str, u64)] = if end == "done" {
            &[("running", 0), ("running", 5), ("paused", 5), ("done", 9)]
        } else {
            &[("running", 0), ("cancelled", 9)]
        };
        let (ran, looks) = redrive("dlq redrive --wait", states);
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert_eq!((ran.status.code(), looks), (Some(code), states.len()), "{text}");
        assert!(text.contains(end) && !text.contains("running"), "{text}");
    }
}

// M-F1, M-C4: what cannot be done is known before the command ends.
#[test]
fn redrive_looks_until_it_moves_or_has_failed() {
    let (ran, looks) = redrive("dlq redrive", &[("running", 0), ("running", 1), ("done", 9)]);
    assert_eq!((ran.status.code(), looks), (Some(0), 2));
    let (ran, _) = redrive("dlq redrive", &[("running", 0), ("failed", 0)]);
    assert_eq!(ran.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&ran.stderr).starts_with("redrive 4: "));
    let (ran, looks) = redrive("dlq redrive --dry-run", &[("running", 0), ("running", 0), ("done", 0)]);
    assert_eq!((ran.status.code(), looks), (Some(0), 3));
    assert_eq!(ran.stdout, b"9 messages would be taken back; nothing was changed\n");
}

// M-G8
#[test]
fn an_audit_that_does_not_balance_is_a_no() {
    for (difference, code) in [(0, 0), (-1, 2)] {
        let row = AuditRow {
            difference,
            ..AuditRow::default()
        };
        let relay = Relay::start(move |_| {
            vec![Answer::Audit {
                rows: vec![row.clone()],
            }]
        });
        for line in ["audit", "queue audit", "audit --output json"] {
            assert_eq!(relay.strait(line).status.code(), Some(code), "{line}");
        }
    }
}

#[test]
fn what_goes_wrong_says_what_to_do() {
    let refusing = Relay::start(|_| {
        vec![Answer::Refused {
            detail: "redrive 3 has ended".to_owned(),
        }]
    });
    let ran = refusing.strait("dlq cancel 3");
    assert_eq!(
        (ran.status.code(), &*ran.stderr),
        (Some(2), &b"redrive 3 has ended\n"[..])
    );

    let access = Access {
        read: Some(token("cli-read", "read-secret-0123456789").1),
        change: Some(token("cli-change", "change-secret-0123456789").1),
    };
    let guarded = Relay::start_with(access, done);
    let ran = guarded.strait("dlq cancel 3");
    let error = String::from_utf8_lossy(&ran.stderr).into_owned();
    assert!(
        ran.status.code() == Some(1) && error.contains("--token-file"),
        "{error}"
    );
    let (file, _) = token("cli-change", "change-secret-0123456789");
    let line = format!("dlq cancel 3 --token-file {}", file.display());
    assert_eq!(guarded.strait(&line).status.code(), Some(0));

    let gone = std::process::Command::new(env!("CARGO_BIN_EXE_strait"))
        .args(["queue", "status", "--admin", "127.0.0.1:1"])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&gone.stderr).into_owned();
    assert!(
        gone.status.code() == Some(1) && error.contains("is it running there? (admin.listen)"),
        "{error}"
    );
}

#[test]
fn every_verb_explains_itself() {
    for noun in ["queue", "dlq", "replay", "audit"] {
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_strait"))
            .args([noun, "--help"])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(text.contains(&format!("  strait {noun} ")), "{text}");
    }
}
