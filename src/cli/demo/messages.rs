//! The acts of messages: they cross, wait for a unit that is away, are replayed when it is back; one is refused and
//! redriven; the books are laid open.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Stage;
use super::ledger::{Conversation, Ledger, Phase};
use super::publishing::{HELLO, POISON, Publisher, Sent, Steady};
use super::report::{Books, Poison, Publishing, Replay, Waiting};
use super::world::{self, AWAY, GROUP, POISONED, PUBLISHING, Relay, TOPIC, UNITS};
use crate::queue::operator::{
    Answer, Command, Filter, Line, Peeked, RedriveRequest, RedriveStatus, Status, UnitStatus,
};

/// Each unit publishes to each; one goes on for a while.
pub(super) async fn cross(stage: &Stage) -> Publishing {
    let begun = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in &stage.callers {
        for owner in UNITS {
            let publisher = Publisher::new(caller, &stage.ledger);
            tasks.spawn(async move { publisher.publish_many(&publisher.open(owner, 5), 4).await });
        }
    }
    tasks.join_all().await;
    tokio::time::sleep(MEASURED.saturating_sub(begun.elapsed())).await;
    stage.ledger.enter(Phase::Between);
    until(ARRIVED_WITHIN, async || stage.ledger.missing(Phase::Calm) == 0).await;
    let spread = |owner| (owner, stage.ledger.spread(Phase::Calm, PUBLISHING, owner));
    Publishing {
        account: stage.ledger.account(Some(Phase::Calm)),
        spreads: UNITS.map(spread).to_vec(),
    }
}

/// Publishes for the unit that is away.
pub(super) async fn wait(stage: &Stage) -> Waiting {
    let conversations = stage.publisher.open(AWAY, CONVERSATIONS);
    let accepted = stage.publisher.publish_many(&conversations, EACH).await;
    let mut waiting = Waiting {
        conversations,
        accepted,
        ..Waiting::default()
    };
    until(COUNTED_WITHIN, async || {
        let unit = away(&stage.world.publishing().admin()).await.unwrap_or_default();
        waiting.kept = unit.backlog + unit.live;
        waiting.state = unit.state;
        waiting.problems().is_empty()
    })
    .await;
    waiting
}

/// What the replay is watched with, while other acts go on.
pub(super) struct Watch {
    sender: String,
    receiver: String,
    publisher: Publisher,
    /// Some of those that wait.
    conversations: Vec<Conversation>,
    ledger: Ledger,
}

impl Watch {
    /// For the unit that goes away.
    pub(super) fn new(stage: &Stage, waiting: &Waiting) -> Self {
        Self {
            sender: stage.world.publishing().admin(),
            receiver: stage.world.away().admin(),
            publisher: stage.publisher.clone(),
            conversations: waiting.conversations.iter().take(BEHIND).cloned().collect(),
            ledger: stage.ledger.clone(),
        }
    }

    /// Watches from before the unit comes back until its backlog is there, as the relay that sends it says.
    ///
    /// The time is taken from the last look at the whole backlog to the first at none: never less than it was.
    pub(super) async fn replay(self) -> Replay {
        let mut replay = Replay::default();
        let begun = Instant::now();
        let mut whole = begun;
        while begun.elapsed() < ARRIVED_WITHIN {
            let asked = Instant::now();
            if let Some(unit) = away(&self.sender).await {
                replay.limit = unit.limits.messages_per_second;
                replay.left = unit.backlog;
                if unit.backlog >= replay.backlog {
                    (replay.backlog, whole) = (unit.backlog, asked);
                }
            }
            if replay.left == 0 && replay.backlog > 0 {
                replay.took = whole.elapsed();
                break;
            }
            if replay.left < replay.backlog && self.ledger.phase() != Phase::Replay && self.has_subscriber().await {
                self.ledger.enter(Phase::Replay);
                replay.behind = self.publisher.publish_many(&self.conversations, 1).await;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.ledger.enter(Phase::Between);
        let conversations = &self.conversations;
        until(ARRIVED_WITHIN, async || {
            self.ledger.missing(Phase::Replay) == 0 && conversations.iter().all(|one| self.ledger.is_through(one))
        })
        .await;
        replay.out_of_order = self.ledger.account(None).out_of_order;
        replay.before = self.ledger.spread(Phase::Calm, PUBLISHING, AWAY);
        replay.during = self.ledger.spread(Phase::Replay, PUBLISHING, AWAY);
        replay
    }

    /// Whether the subscriber of the unit is back: how long that takes says nothing of messages.
    async fn has_subscriber(&self) -> bool {
        let groups = status(&self.receiver)
            .await
            .into_iter()
            .flat_map(|status| status.groups);
        groups
            .filter(|group| group.group == GROUP)
            .any(|group| group.consumers > 0)
    }
}

/// One message of three is refused, becomes a dead letter, and is redriven.
pub(super) async fn poison(stage: &Stage) -> Poison {
    let mut poison = Poison::default();
    let (publisher, relay, ledger) = (&stage.publisher, stage.world.poisoned(), &stage.ledger);
    let conversation = ledger.open(PUBLISHING, POISONED);
    let first = publisher.publish(&conversation, HELLO).await;
    let bad = publisher.publish(&conversation, POISON).await;
    let last = publisher.publish(&conversation, HELLO).await;
    let others = async || ledger.has_arrived(first.number) && ledger.has_arrived(last.number);
    poison.others_arrived = until(ARRIVED_WITHIN, others).await;
    until(ARRIVED_WITHIN, async || {
        poison.letter = letters(relay, &bad).await.pop();
        poison.letter.is_some()
    })
    .await;
    poison.arrived_early = ledger.has_arrived(bad.number);
    ledger.redriven(bad.number);
    let Some(task) = redrive(relay, &bad).await else {
        return poison;
    };
    let moved = async || {
        poison.redrive = tasks(relay).await.into_iter().find(|one| one.task == task.task);
        poison.redrive.as_ref().is_some_and(|task| task.state != "running") && ledger.has_arrived(bad.number)
    };
    until(ARRIVED_WITHIN, moved).await;
    poison.arrived = ledger.has_arrived(bad.number);
    poison.left = letters(relay, &bad).await.len();
    poison.id = bad.id.unwrap_or_default();
    poison.key = format!("im.conversation={}", conversation.key);
    poison
}

/// Lays the books of all relays beside the ledger, when nothing is published any more.
pub(super) async fn books(stage: &Stage, steady: Steady) -> Books {
    steady.stop().await;
    until(ARRIVED_WITHIN, async || stage.ledger.missing_in_all() == 0).await;
    let mut books = Books {
        account: stage.ledger.account(None),
        ..Books::default()
    };
    // Acknowledgements may still be on their way.
    until(COUNTED_WITHIN, async || {
        books.rows.clear();
        for relay in stage.world.relays() {
            if let Some(Answer::Audit { rows }) = relay.ask(&Command::Audit).await {
                let rows = rows.into_iter().filter(|row| row.topic == TOPIC);
                books.rows.extend(rows.map(|row| (relay.unit, row)));
            }
        }
        books.problems().is_empty()
    })
    .await;
    // The last look: what came again meanwhile is counted too.
    books.account = stage.ledger.account(None);
    books
}

async fn status(admin: &str) -> Option<Status> {
    match world::ask(admin, &Command::Status).await? {
        Answer::Status(status) => Some(*status),
        _ => None,
    }
}

/// The dead letter of a message, as `strait dlq list` finds it.
async fn letters(relay: &Relay, sent: &Sent) -> Vec<Peeked> {
    let command = Command::Peek {
        line: Line::Dead,
        filter: this(sent),
        limit: 10,
        bodies: false,
    };
    match relay.ask(&command).await {
        Some(Answer::Messages { messages, .. }) => messages,
        _ => Vec::new(),
    }
}

/// As `strait dlq redrive --id ... --allow-reorder`.
async fn redrive(relay: &Relay, sent: &Sent) -> Option<RedriveStatus> {
    let command = Command::Redrive {
        request: RedriveRequest {
            filter: this(sent),
            allow_reorder: true,
            ..RedriveRequest::default()
        },
        who: "strait demo".to_owned(),
    };
    match relay.ask(&command).await? {
        Answer::Redrives { mut tasks } => tasks.pop(),
        _ => None,
    }
}

/// As `strait dlq tasks`.
async fn tasks(relay: &Relay) -> Vec<RedriveStatus> {
    match relay.ask(&Command::Redrives).await {
        Some(Answer::Redrives { tasks }) => tasks,
        _ => Vec::new(),
    }
}

fn this(sent: &Sent) -> Filter {
    Filter {
        id: sent.id.clone(),
        ..Filter::default()
    }
}

/// What a relay says of its messages to the unit that goes away.
async fn away(admin: &str) -> Option<UnitStatus> {
    let units = status(admin).await?.units;
    units.into_iter().find(|unit| unit.unit == AWAY.name)
}

/// Looks until it holds; `false` if it never did.
async fn until(limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        if holds().await {
            return true;
        }
        if begun.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// So long messages are watched while all is well.
const MEASURED: Duration = Duration::from_millis(1200);
/// What is published while a unit is away: conversations, and messages in each.
const CONVERSATIONS: usize = 100;
const EACH: usize = 10;
/// Of these conversations, how many go on while their messages are replayed.
const BEHIND: usize = 20;
const LOOK: Duration = Duration::from_millis(20);
/// When it is too late for messages to arrive.
const ARRIVED_WITHIN: Duration = Duration::from_secs(30);
/// When it is too late for the relays to have counted them.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);
