//! The same for programs.

use serde::Serialize;

use super::{Books, Crossing, Moved, Outage, Poison, Publishing, Replay, Return, Start, Waiting, WithoutRoutes};
use crate::cli::demo::ledger::{Account, Spread, Sum};
use crate::cli::demo::room::Account as Written;
use crate::cli::demo::traffic::{Tallies, Tally};
use crate::cli::demo::world::Unit;
use crate::queue::operator::{AuditRow, Peeked, RedriveStatus};

/// For programs.
#[derive(Serialize)]
pub(in crate::cli) struct Document {
    started_ms: u128,
    crossing: Vec<Row<Tally>>,
    outage_known_after_ms: u128,
    outage: Vec<Row<Tally>>,
    back_after_ms: u128,
    back: Vec<Row<Tally>>,
    others: Vec<Row<Tally>>,
    moved: MovedRow,
    without_routes: WithoutRow,
    messages: Messages,
}

/// What was seen, act by act.
pub(in crate::cli) struct Seen {
    pub(in crate::cli) start: Start,
    pub(in crate::cli) crossing: Crossing,
    pub(in crate::cli) publishing: Publishing,
    pub(in crate::cli) moved: Moved,
    pub(in crate::cli) without: WithoutRoutes,
    pub(in crate::cli) outage: Outage,
    pub(in crate::cli) waiting: Waiting,
    pub(in crate::cli) back: Return,
    pub(in crate::cli) replay: Replay,
    pub(in crate::cli) poison: Poison,
    pub(in crate::cli) books: Books,
}

/// What came of the calls or messages of one unit for keys of another.
#[derive(Serialize)]
struct Row<T> {
    from: &'static str,
    owner: &'static str,
    #[serde(flatten)]
    of: T,
}

/// A conversation that was moved while it was written to.
#[derive(Serialize)]
struct MovedRow {
    took_ms: u128,
    #[serde(flatten)]
    writes: Writes,
}

/// The relay that keeps the routes was away.
#[derive(Serialize)]
struct WithoutRow {
    known_after_ms: Option<u128>,
    back_after_ms: Option<u128>,
    new_key: Option<String>,
    writes: Writes,
    calls: Vec<Row<Tally>>,
}

/// What came of writes to a conversation.
#[derive(Serialize)]
struct Writes {
    acknowledged: u64,
    lost: u64,
    doubled: u64,
    reordered: u64,
    refused: usize,
    longest_ms: u128,
    gap_ms: u128,
    owners: Vec<Owner>,
}

/// Who wrote how many, since which epoch.
#[derive(Serialize)]
struct Owner {
    unit: &'static str,
    writes: u64,
    epoch: u64,
}

#[derive(Serialize)]
struct Messages {
    crossing: Vec<Row<Sum>>,
    /// Kept for the unit that is away, of them those that were published when it was known to be away.
    waiting: u64,
    waiting_accepted: u64,
    replay: Replayed,
    dead_letter: Option<Peeked>,
    redrive: Option<RedriveStatus>,
    books: Vec<Book>,
    ledger: Ledger,
}

#[derive(Serialize)]
struct Replayed {
    backlog: u64,
    limit_per_second: f64,
    seen_per_second: f64,
    took_ms: u128,
    behind_it: u64,
    live_before: Times,
    live_during: Times,
}

#[derive(Serialize)]
struct Times {
    messages: u64,
    p50_us: u128,
    p99_us: u128,
}

/// A line of the books of a relay.
#[derive(Serialize)]
struct Book {
    relay: &'static str,
    #[serde(flatten)]
    row: AuditRow,
}

#[derive(Serialize)]
struct Ledger {
    published: u64,
    delivered: u64,
    lost: u64,
    twice: u64,
    out_of_order: u64,
    redriven_late: u64,
    pairs: Vec<Row<Sum>>,
}

impl Document {
    pub(in crate::cli) fn new(seen: Seen) -> Self {
        Self {
            started_ms: seen.start.took.as_millis(),
            crossing: calls(&seen.crossing.calls),
            outage_known_after_ms: seen.outage.known_after.as_millis(),
            outage: calls(&seen.outage.refused),
            back_after_ms: seen.back.after.as_millis(),
            back: calls(&seen.back.calls),
            others: calls(&seen.back.others),
            moved: MovedRow {
                took_ms: seen.moved.took.as_millis(),
                writes: writes(&seen.moved.account),
            },
            without_routes: WithoutRow {
                known_after_ms: seen.without.known_after.map(|after| after.as_millis()),
                back_after_ms: seen.without.back_after.map(|after| after.as_millis()),
                new_key: seen.without.refused,
                writes: writes(&seen.without.account),
                calls: calls(&seen.without.calls),
            },
            messages: Messages {
                crossing: sums(&seen.publishing.account),
                waiting: seen.waiting.kept,
                waiting_accepted: seen.waiting.accepted,
                replay: replayed(&seen.replay),
                dead_letter: seen.poison.letter,
                redrive: seen.poison.redrive,
                ledger: ledger(&seen.books.account),
                books: books(seen.books.rows),
            },
        }
    }
}

fn calls(tallies: &Tallies) -> Vec<Row<Tally>> {
    let row = |((from, owner), tally): (&(Unit, Unit), &Tally)| Row {
        from: from.name,
        owner: owner.name,
        of: tally.clone(),
    };
    tallies.0.iter().map(row).collect()
}

fn writes(account: &Written) -> Writes {
    let owner = |(unit, writes, epoch): &(Unit, u64, u64)| Owner {
        unit: unit.name,
        writes: *writes,
        epoch: *epoch,
    };
    Writes {
        acknowledged: account.writes,
        lost: account.lost,
        doubled: account.doubled,
        reordered: account.reordered,
        refused: account.refused.len(),
        longest_ms: account.longest.as_millis(),
        gap_ms: account.gap.as_millis(),
        owners: account.owners.iter().map(owner).collect(),
    }
}

fn sums(account: &Account) -> Vec<Row<Sum>> {
    let row = |((from, owner), sum): (&(Unit, Unit), &Sum)| Row {
        from: from.name,
        owner: owner.name,
        of: *sum,
    };
    account.pairs.iter().map(row).collect()
}

fn replayed(replay: &Replay) -> Replayed {
    let times = |spread: &Spread| Times {
        messages: spread.count,
        p50_us: spread.half.as_micros(),
        p99_us: spread.most.as_micros(),
    };
    Replayed {
        backlog: replay.backlog,
        limit_per_second: replay.limit,
        seen_per_second: replay.rate(),
        took_ms: replay.took.as_millis(),
        behind_it: replay.behind,
        live_before: times(&replay.before),
        live_during: times(&replay.during),
    }
}

fn books(rows: Vec<(Unit, AuditRow)>) -> Vec<Book> {
    let book = |(unit, row): (Unit, AuditRow)| Book { relay: unit.relay, row };
    rows.into_iter().map(book).collect()
}

fn ledger(account: &Account) -> Ledger {
    let Sum { published, delivered } = account.total;
    Ledger {
        published,
        delivered,
        lost: account.total.lost(),
        twice: account.twice,
        out_of_order: account.out_of_order,
        redriven_late: account.moved,
        pairs: sums(account),
    }
}
