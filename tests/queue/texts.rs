//! What people see, word for word: `tests/golden/cli/`. `STRAIT_BLESS=1` writes the files.

use std::fs;
use std::path::Path;

use strait::queue::operator::{
    Answer, AuditRow, Command, GroupStatus, LimitValues, Peeked, RedriveStatus, Status, UnitStatus,
};
use strait::queue::record::Pause;

use crate::fake::Relay;

/// 2026-11-25T10:00:00Z
const MOMENT: u64 = 1_795_600_800_000;

fn check(name: &str, line: &str, answer: Answer) {
    let relay = Relay::start(move |command| match command {
        Command::Purge { dry_run: true, .. } => vec![Answer::Done { messages: 12_345 }],
        _ => vec![answer.clone()],
    });
    let ran = relay.strait(line);
    let found = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(
        ran.stderr.is_empty(),
        "{line}: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/cli/{name}.txt"));
    if std::env::var_os("STRAIT_BLESS").is_some() {
        fs::write(&file, &found).unwrap();
    }
    let expected = fs::read_to_string(&file).unwrap();
    assert_eq!(found, expected, "strait {line}");
}

fn paused() -> Pause {
    Pause {
        reason: "moving to the new hall".to_owned(),
        until: Some(MOMENT),
    }
}

fn units() -> Vec<UnitStatus> {
    let limits = LimitValues {
        messages_per_second: 500.0,
        bytes_per_second: 1 << 20,
        burst: 0,
    };
    let draining = UnitStatus {
        unit: "b".to_owned(),
        state: "draining".to_owned(),
        live: 3,
        backlog: 1_234_567,
        bytes: 1_300_000_000,
        oldest_ms: Some(130_000),
        replay_rate: 499.6,
        limits,
        eta_seconds: Some(2470),
        keys_behind: 3001,
        ..UnitStatus::default()
    };
    let down = UnitStatus {
        unit: "sg-canary".to_owned(),
        state: "down".to_owned(),
        detail: "no link to any relay of the unit".to_owned(),
        backlog: 9,
        bytes: 800,
        oldest_ms: Some(90_000_000),
        keys_coarse: true,
        counts_as_away: Some(Pause {
            reason: "ann: its database is read-only".to_owned(),
            until: Some(MOMENT),
        }),
        ..UnitStatus::default()
    };
    let paused = UnitStatus {
        unit: "d".to_owned(),
        state: "paused".to_owned(),
        pause: Some(paused()),
        ..UnitStatus::default()
    };
    vec![draining, down, paused]
}

fn status() -> Status {
    let archive = GroupStatus {
        topic: "chat.messages".to_owned(),
        group: "archive".to_owned(),
        consumers: 2,
        pending: 1500,
        in_flight: 64,
        retrying: 3,
        behind: 12,
        blocked_keys: 1,
        oldest_ms: Some(61_000),
        pause: None,
    };
    let idle = GroupStatus {
        topic: "chat.edits".to_owned(),
        group: "index".to_owned(),
        pause: Some(Pause {
            until: None,
            ..paused()
        }),
        ..GroupStatus::default()
    };
    Status {
        durability: "group".to_owned(),
        epoch: "018c7f3a9b2d4e10".to_owned(),
        bytes_used: 1_400_000_000,
        bytes_max: 16 << 30,
        segments: 21,
        disk: "ok".to_owned(),
        units: units(),
        groups: vec![archive, idle],
        dead_letters: 12,
        dead_letter_bytes: 3500,
        dead_by_reason: vec![("attempts".to_owned(), 10), ("too_large".to_owned(), 2)],
        damaged: vec!["numbers 10 to 12 to unit b, found in segment 3".to_owned()],
    }
}

#[test]
fn status_shows_what_waits_and_why() {
    check("queue_status", "queue status", Answer::Status(Box::new(status())));
    check(
        "queue_status_unit",
        "queue status --unit b",
        Answer::Status(Box::new(status())),
    );
    for (file, command) in [
        ("queue_status_topic", "queue status --topic chat.edits"),
        ("queue_status_topic_none", "queue status --topic nobodys"),
        ("queue_status_unit_none", "queue status --unit nobody"),
    ] {
        check(file, command, Answer::Status(Box::new(status())));
    }
    check("replay_status", "replay status", Answer::Status(Box::new(status())));
    check(
        "unit_local_mode",
        "unit local-mode sg-canary --for 1h --reason moving",
        Answer::Status(Box::new(status())),
    );
    let none = Status::default();
    check(
        "unit_local_mode_none",
        "unit local-mode",
        Answer::Status(Box::new(none)),
    );
    let worse = Status {
        durability: "buffered".to_owned(),
        disk: "failing".to_owned(),
        ..Status::default()
    };
    check("queue_status_failing", "queue status", Answer::Status(Box::new(worse)));
    check(
        "queue_status_json",
        "queue status --output json --topic chat.edits",
        Answer::Status(Box::new(status())),
    );
}

fn message(seq: u64) -> Peeked {
    Peeked {
        seq,
        id: format!("a/a-1/018c7f3a9b2d4e10/{seq}"),
        topic: "chat.messages".to_owned(),
        key: Some("uid=1500".to_owned()),
        accepted_at: MOMENT,
        state: "backlog".to_owned(),
        attributes: vec![
            ("id".to_owned(), "m-1".to_owned()),
            ("source".to_owned(), "/chat".to_owned()),
        ],
        body_bytes: 5,
        ..Peeked::default()
    }
}

fn dead(seq: u64) -> Peeked {
    Peeked {
        state: "dead".to_owned(),
        deadline: Some(MOMENT + 86_400_000),
        attempts: 16,
        redrives: 1,
        place: Some("delivery".to_owned()),
        reason: Some("attempts".to_owned()),
        error: Some("im.Archive: disk full".to_owned()),
        first_failure: Some(MOMENT + 1000),
        last_failure: Some(MOMENT + 3_600_000),
        was_for: Some("group archive".to_owned()),
        ..message(seq)
    }
}

// M-H1
#[test]
fn messages_are_listed_in_lines_or_shown_in_full() {
    let messages = |messages, more| Answer::Messages { messages, more };
    let without_key = Peeked {
        key: None,
        body_bytes: 4_200_000,
        ..message(1_000_018)
    };
    check(
        "queue_peek",
        "queue peek --unit b",
        messages(vec![message(17), without_key], true),
    );
    let text = Peeked {
        body: Some("aGVsbG8=".to_owned()),
        ..message(17)
    };
    let binary = Peeked {
        body: Some("AAEC".to_owned()),
        ..message(18)
    };
    check(
        "queue_peek_bodies",
        "queue peek --unit b --bodies",
        messages(vec![text, binary], false),
    );
    check("queue_peek_none", "queue peek --topic t", messages(Vec::new(), false));
    check("dlq_list", "dlq list", messages(vec![dead(3), dead(1204)], false));
    check("dlq_show", "dlq show --seq 3", messages(vec![dead(3)], false));
}

// M-G8
#[test]
fn the_books_are_a_table_with_a_verdict() {
    let row = AuditRow {
        topic: "chat.messages".to_owned(),
        to: "b".to_owned(),
        accepted: 1_000_000,
        relayed: 999_000,
        pending: 900,
        expired: 40,
        dropped: 30,
        dead_lettered: 20,
        purged: 9,
        corrupted: 1,
        rerouted: 0,
        difference: 0,
    };
    let group = AuditRow {
        to: "group archive".to_owned(),
        ..row.clone()
    };
    check(
        "audit",
        "audit",
        Answer::Audit {
            rows: vec![row.clone(), group],
        },
    );
    let wrong = AuditRow { difference: -3, ..row };
    check("audit_wrong", "queue audit", Answer::Audit { rows: vec![wrong] });
}

// M-F2
#[test]
fn redrives_show_how_far_they_are() {
    let running = RedriveStatus {
        task: 2,
        state: "running".to_owned(),
        moved: 1200,
        remaining: 34_000,
        failed: 1,
        rate: 50.0,
        started: MOMENT,
        eta_seconds: Some(680),
        who: "ann".to_owned(),
        ..RedriveStatus::default()
    };
    let failed = RedriveStatus {
        task: 1,
        state: "failed".to_owned(),
        eta_seconds: None,
        reason: "the disk is full".to_owned(),
        ..running.clone()
    };
    check(
        "dlq_tasks",
        "dlq tasks",
        Answer::Redrives {
            tasks: vec![running, failed],
        },
    );
}

// M-H2
#[test]
fn a_purge_says_how_many() {
    check(
        "queue_purge_dry",
        "queue purge --unit b --all --dry-run",
        Answer::Done { messages: 0 },
    );
    check(
        "queue_purge",
        "queue purge --unit b --all --yes",
        Answer::Done { messages: 12_345 },
    );
    check(
        "replay_limit_dry",
        "replay limit --unit b --rate 5 --dry-run",
        Answer::Done { messages: 0 },
    );
}
