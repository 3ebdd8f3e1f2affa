//! The acts of routes: a hot conversation moves while both units write to it, and the relay that keeps the routes goes away.

use std::time::Duration;

use tokio::time::Instant;

use super::report::{Moved, WithoutRoutes};
use super::room::{self, DIMENSION, HOT, Writers};
use super::traffic::{Caller, Steady};
use super::world::{ROUTES, Relay, UNITS, Unit};
use super::{DemoError, Stage};
use crate::control::operator::{Answer, Command, MoveAsk, MoveRow, Status, Which};
use crate::model::Name;
use crate::routing::record::{MoveOptions, NodeId};

/// The first of these units writes to the room first; the second gets it.
pub(super) fn owners() -> [Unit; 2] {
    let [from, to, _] = UNITS;
    [from, to]
}

pub(super) async fn move_room(stage: &Stage) -> Moved {
    let mut moved = Moved::default();
    let callers = stage.callers_of(&owners());
    // Whoever writes first has it.
    if let Some(first) = callers.first()
        && let Err(why) = room::write(first, HOT, "first".to_owned()).await
    {
        moved.problem = Some(format!("nobody could claim the room: {why}"));
        return moved;
    }
    stage.room.clear();
    let writers = Writers::start(&callers, WRITERS);
    tokio::time::sleep(BEFORE).await;
    let begun = Instant::now();
    match ask_move(stage.world.publishing()).await {
        Some(row) => {
            moved.took = begun.elapsed();
            moved.keys = row.moved;
        }
        None => moved.problem = Some("the move did not come to its end".to_owned()),
    }
    tokio::time::sleep(BEFORE).await;
    let sent = writers.stop().await;
    moved.account = stage.room.account(&sent);
    moved
}

/// As `strait route move --wait` does.
async fn ask_move(relay: &Relay) -> Option<MoveRow> {
    let [_, to] = owners();
    let node = NodeId::Key {
        dimension: Name::new(DIMENSION).ok()?,
        key: HOT.into(),
    };
    let ask = MoveAsk {
        what: vec![Which::Node(node)],
        to: Name::new(to.name).ok()?,
        options: MoveOptions::default(),
        dry_run: false,
        reason: "to show it".to_owned(),
        who: "demo".to_owned(),
    };
    let Some(Answer::Plan(plan)) = relay.ask_routes(&Command::Move(ask)).await else {
        return None;
    };
    let id = plan.id?;
    let begun = Instant::now();
    while begun.elapsed() < MOVED_WITHIN {
        if let Some(Answer::Moves(rows)) = relay.ask_routes(&Command::Moves { id: Some(id) }).await
            && let Some(row) = rows.into_iter().next()
            && row.is_over()
        {
            return Some(row);
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

/// Ends the relay that keeps the routes, looks, and starts it again.
pub(super) async fn without_routes(stage: &mut Stage) -> Result<WithoutRoutes, DemoError> {
    let mut seen = WithoutRoutes::default();
    let near = stage.callers_of(&owners());
    let all: Vec<Unit> = UNITS.to_vec();
    stage.room.clear();
    stage.world.authority_mut().kill();
    let writers = Writers::start(&near, WRITERS);
    let steady = Steady::start(&stage.callers, &all);
    let begun = Instant::now();
    let new = near.first().cloned();
    let (known, refused) = tokio::join!(until_silent(stage.world.relays(), true), new_room(new));
    seen.known_after = known;
    seen.refused = refused.err();
    seen.status = statuses(stage.world.relays()).await;
    let sent = writers.stop().await;
    seen.calls = steady.stop().await;
    seen.away_for = begun.elapsed();
    seen.account = stage.room.account(&sent);

    let begun = Instant::now();
    let authority = stage.world.authority_mut();
    authority.spawn()?;
    authority.until_ready().await?;
    let known = until_silent(stage.world.relays(), false).await;
    seen.back_after = known.map(|_| begun.elapsed());
    seen.refused_then = new_room(near.first().cloned()).await.err();
    Ok(seen)
}

/// A room that nobody has written to.
async fn new_room(caller: Option<Caller>) -> Result<(), String> {
    match caller {
        Some(caller) => room::write(&caller, NEW, "first".to_owned()).await,
        None => Err("there is no caller".to_owned()),
    }
}

/// Waits until the relays that have the routes say that they hear nothing of the store, or that they do; how long that took.
async fn until_silent(relays: &[Relay], is_silent: bool) -> Option<Duration> {
    let begun = Instant::now();
    while begun.elapsed() < NOTICED_WITHIN {
        let status = statuses(relays).await;
        if status.len() == owners().len() && status.iter().all(|(_, status)| status.is_stale == is_silent) {
            return Some(begun.elapsed());
        }
        tokio::time::sleep(POLL).await;
    }
    None
}

/// How the relays that have the routes stand, as `strait route status` shows it.
async fn statuses(relays: &[Relay]) -> Vec<(Unit, Status)> {
    let mut all = Vec::new();
    for relay in relays.iter().filter(|relay| relay.unit.geo == ROUTES.geo) {
        if let Some(Answer::Status(status)) = relay.ask_routes(&Command::Status).await {
            all.push((relay.unit, status));
        }
    }
    all
}

/// At each of the two units.
const WRITERS: u32 = 4;
/// How long is written before and after the move.
const BEFORE: Duration = Duration::from_millis(400);
const NEW: &str = "new";
const POLL: Duration = Duration::from_millis(20);
/// When it is too late for a move to end.
const MOVED_WITHIN: Duration = Duration::from_secs(10);
/// When it is too late for the store's absence, or its return, to be noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(15);
