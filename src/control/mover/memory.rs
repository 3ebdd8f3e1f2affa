//! What a mover remembers. Nothing of it decides who owns a key (V1).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::lives::Lives;
use super::{HookCall, Hooked, Phase, Planned, Sight};
use crate::control::store::StoreError;
use crate::model::{Name, UnitId};
use crate::routing::record::{
    Claim, Committed, Epoch, Hook, HookNote, HookSpec, KeyBytes, Lag, Move, MoveId, NodeId, OpId, RecordId, RelayId,
    Rev,
};
use crate::routing::{Found, Known};

#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    holds: BTreeMap<RecordId, Hold>,
    asked: BTreeMap<OpId, RecordId>,
    /// Since when records are as they are, as far as this mover saw.
    seen: BTreeMap<(RecordId, Rev), Duration>,
    hooks: BTreeMap<HookCall, Calling>,
    /// What applications said last.
    notes: BTreeMap<MoveId, Noted>,
    /// How far copies were behind when the application was asked last.
    lags: BTreeMap<(MoveId, NodeId), Lag>,
    /// What nodes wait for, at this look.
    phases: BTreeMap<(MoveId, NodeId), Phase>,
    /// What nodes that are under way waited for at the last look that found it.
    waited: BTreeMap<(MoveId, NodeId), Phase>,
    claims: BTreeMap<(MoveId, NodeId), Asked>,
    /// Lives of relays.
    pub(super) lives: Lives,
    /// Relays that moves waited for at this look before they freeze anything.
    put_off: BTreeMap<MoveId, RelayId>,
    /// Relays with more messages of a node than there may be when it is frozen, at this look.
    undelivered: BTreeMap<MoveId, RelayId>,
    /// What held nodes up, since they are as they are, when that was heard of last.
    held: BTreeMap<(MoveId, NodeId), Held>,
    /// Nodes that nothing is to be done with, and whether they belong to the new owner.
    settled: BTreeMap<(MoveId, NodeId), bool>,
}

/// A record that is left alone.
#[derive(Clone, Debug)]
struct Hold {
    until: Until,
    freezes: Option<(UnitId, usize)>,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    Answered,
    Copied(Rev),
    Time(Duration),
}

/// What relays have said that a node waits for.
#[derive(Clone, Debug)]
struct Held {
    /// The revision of the node's record.
    rev: Rev,
    phase: Phase,
    by: String,
}

/// What an application said last about a move.
#[derive(Clone, Debug)]
struct Noted {
    note: HookNote,
    is_refusal: bool,
    /// When something was written last.
    written: Option<Duration>,
}

#[derive(Clone, Debug)]
enum Calling {
    Under,
    Answered(Hooked, Duration),
}

#[derive(Clone, Debug)]
enum Asked {
    Under,
    Answered(Found),
}

/// What is known of a hook.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum HookState {
    /// The application is to be asked.
    Due(HookCall),
    /// It is being asked.
    Asked,
    /// It is asked again later.
    Waits,
    Done,
    Refused,
}

impl Memory {
    /// Forgets what is over.
    pub(super) fn forget(&mut self, sight: &Sight<'_>) {
        let routes = sight.routes;
        let moves: BTreeSet<MoveId> = routes.moves().map(|work| work.id).collect();
        self.seen.retain(|(id, rev), _| routes.rev_of(id) == *rev);
        self.hooks.retain(|call, _| moves.contains(&call.by));
        self.notes.retain(|by, _| moves.contains(by));
        self.lags.retain(|(by, _), _| moves.contains(by));
        let rev_of = |node: &NodeId| routes.view(node).map(|view| view.rev());
        self.held
            .retain(|(by, node), held| moves.contains(by) && rev_of(node) == Some(held.rev));
        self.waited.append(&mut self.phases);
        self.waited
            .retain(|(by, node), _| routes.view(node).is_some_and(|view| view.state().work() == Some(*by)));
        self.put_off.clear();
        self.undelivered.clear();
        self.lives.look(sight);
        self.settled.retain(|(by, _), _| moves.contains(by));
        self.claims.retain(|(by, node), _| {
            moves.contains(by) && routes.view(node).is_none_or(|view| view.state().work().is_none())
        });
        self.holds.retain(|_, hold| hold.lasts(sight));
    }

    /// A move waits for a relay before it freezes anything.
    pub(super) fn put_off(&mut self, by: MoveId, relay: RelayId) {
        self.put_off.entry(by).or_insert(relay);
    }

    /// The relay that a move waits for.
    pub(super) fn put_off_by(&self, by: MoveId) -> Option<&RelayId> {
        self.put_off.get(&by)
    }

    /// Messages of a move wait at a relay.
    pub(super) fn note_undelivered(&mut self, by: MoveId, relay: RelayId) {
        self.undelivered.entry(by).or_insert(relay);
    }

    /// The relay at which messages of a move wait.
    pub(super) fn undelivered_at(&self, by: MoveId) -> Option<&RelayId> {
        self.undelivered.get(&by)
    }

    /// A node whose record has this revision waits for something that is known in words; for people.
    pub(super) fn note_held(&mut self, of: MoveId, (node, rev): (&NodeId, Rev), phase: Phase, by: String) {
        self.held.insert((of, node.clone()), Held { rev, phase, by });
    }

    /// What a node waited for last in this phase, in words.
    pub(super) fn held_by(&self, of: MoveId, node: &NodeId, phase: Phase) -> Option<&str> {
        let held = self.held.get(&(of, node.clone()))?;
        (held.phase == phase).then_some(&held.by)
    }

    /// What a node that is under way waited for at the last look that found it; `None`: none has looked yet.
    pub(super) fn waited(&self, by: MoveId, node: &NodeId) -> Option<Phase> {
        self.waited.get(&(by, node.clone())).copied()
    }

    pub(super) fn is_held(&self, id: &RecordId, sight: &Sight<'_>) -> bool {
        self.holds.get(id).is_some_and(|hold| hold.lasts(sight))
    }

    /// A commit is asked for.
    pub(super) fn hold(&mut self, planned: &Planned) {
        self.asked.insert(planned.commit.op, planned.about.clone());
        let hold = Hold {
            until: Until::Answered,
            freezes: planned.freezes.clone(),
        };
        self.holds.insert(planned.about.clone(), hold);
    }

    pub(super) fn on_committed(&mut self, op: OpId, committed: &Result<Committed, StoreError>, now: Duration) {
        let Some(about) = self.asked.remove(&op) else { return };
        let Some(hold) = self.holds.get_mut(&about) else { return };
        hold.until = match committed {
            Ok(Committed::Done(rev)) => Until::Copied(*rev),
            // It is there no more, or the copy is not where the store is.
            Ok(Committed::Conflict { found, .. }) if *found == Rev::ZERO => Until::Time(now + AGAIN),
            Ok(Committed::Conflict { found, .. }) => Until::Copied(*found),
            Err(StoreError::Broken(_) | StoreError::Denied(_)) => Until::Time(now + LATER),
            Err(_) => Until::Time(now + AGAIN),
        };
        if !matches!(committed, Ok(Committed::Done(_))) {
            hold.freezes = None;
        }
    }

    /// Keys of a unit that are about to be frozen.
    pub(super) fn freezing(&self, unit: &UnitId) -> usize {
        let freezes = self.holds.values().filter_map(|hold| hold.freezes.as_ref());
        freezes.filter(|(of, _)| of == unit).map(|(_, count)| count).sum()
    }

    /// How long a record has been as it is.
    pub(super) fn age(&mut self, id: RecordId, rev: Rev, now: Duration) -> Duration {
        now.saturating_sub(*self.seen.entry((id, rev)).or_insert(now))
    }

    /// How a hook stands; one that is due is called.
    pub(super) fn hook(&mut self, call: HookCall, spec: &HookSpec, now: Duration) -> HookState {
        let state = match self.hooks.get(&call) {
            Some(Calling::Answered(Hooked::Done, _)) => return HookState::Done,
            Some(Calling::Answered(Hooked::Lag(lag), _)) if spec.allows(*lag) => return HookState::Done,
            // What has moved has moved.
            Some(Calling::Answered(Hooked::Refused(_), _)) if matches!(call.hook, Hook::Activate | Hook::Cleanup) => {
                return HookState::Done;
            }
            Some(Calling::Answered(Hooked::Refused(_), _)) => return HookState::Refused,
            Some(Calling::Under) => HookState::Asked,
            Some(Calling::Answered(Hooked::NotYet(_) | Hooked::Lag(_), at))
                if now.saturating_sub(*at) < again(call.hook) =>
            {
                HookState::Waits
            }
            Some(Calling::Answered(Hooked::NotYet(_) | Hooked::Lag(_), _)) | None => HookState::Due(call.clone()),
        };
        self.phases.insert((call.by, call.node.clone()), Phase::Hook(call.hook));
        if matches!(state, HookState::Due(_)) {
            self.hooks.insert(call, Calling::Under);
        }
        state
    }

    pub(super) fn on_hook(&mut self, call: &HookCall, hooked: Hooked, now: Duration) {
        let Some(calling) = self.hooks.get_mut(call) else {
            return;
        };
        let (said, lag) = match &hooked {
            Hooked::Done => (String::new(), None),
            Hooked::Lag(lag) => (String::new(), Some(*lag)),
            Hooked::NotYet(said) => (said.clone(), None),
            Hooked::Refused(said) => (format!("refused: {said}"), None),
        };
        let note = HookNote {
            node: call.node.clone(),
            hook: call.hook,
            unit: call.unit.clone(),
            said,
            lag,
        };
        if let Some(lag) = lag {
            self.lags.insert((call.by, call.node.clone()), lag);
        }
        let is_refusal = matches!(hooked, Hooked::Refused(_));
        let is_told = hooked == Hooked::Done && matches!(call.hook, Hook::Activate | Hook::Cleanup);
        *calling = Calling::Answered(hooked, now);
        let before = self.notes.get(&call.by);
        // That those who are told know is no news beside why they had to be.
        if !(is_told && before.is_some_and(|noted| noted.is_refusal)) {
            let written = before.and_then(|noted| noted.written);
            let noted = Noted {
                note,
                is_refusal,
                written,
            };
            self.notes.insert(call.by, noted);
        }
    }

    /// What an application refused about a node, and why.
    pub(super) fn refusal(&self, by: MoveId, node: &NodeId) -> Option<String> {
        let mut calls = self
            .hooks
            .iter()
            .filter(|(call, _)| call.by == by && call.node == *node);
        calls.find_map(|(call, calling)| match calling {
            Calling::Answered(Hooked::Refused(said), _) => {
                Some(format!("{} at unit {} refused: {said}", call.hook, call.unit))
            }
            _ => None,
        })
    }

    /// What the application said last about a move.
    pub(super) fn note(&self, by: MoveId) -> Option<&HookNote> {
        self.notes.get(&by).map(|noted| &noted.note)
    }

    /// What the application said last, if it is to be written now: each word of it is a commit, so not as often as it comes.
    pub(super) fn note_due(&mut self, work: &Move, now: Duration) -> Option<HookNote> {
        let noted = self.notes.get_mut(&work.id)?;
        let is_new = work.note.as_ref() != Some(&noted.note);
        let is_time = noted.written.is_none_or(|at| now.saturating_sub(at) >= NOTE_EVERY);
        (is_new && is_time).then(|| {
            noted.written = Some(now);
            noted.note.clone()
        })
    }

    /// A node waits for something else than the application.
    pub(super) fn wait(&mut self, by: MoveId, node: &NodeId, phase: Phase) {
        self.phases.entry((by, node.clone())).or_insert(phase);
    }

    /// What nodes wait for.
    pub(super) fn phases(&self) -> impl Iterator<Item = Phase> {
        self.phases.values().copied()
    }

    /// The copies that are furthest behind.
    pub(super) fn lag(&self) -> Lag {
        let copying = self
            .phases
            .iter()
            .filter(|(_, phase)| **phase == Phase::Hook(Hook::Lag));
        let lags = copying.filter_map(|(node, _)| self.lags.get(node));
        lags.fold(Lag::default(), |most, lag| Lag {
            changes: most.changes.max(lag.changes),
            bytes: most.bytes.max(lag.bytes),
            time: most.time.max(lag.time),
        })
    }

    /// What is known of a key's claim; `None` while the store is being asked.
    pub(super) fn claim(&self, by: MoveId, node: &NodeId) -> Option<Found> {
        match self.claims.get(&(by, node.clone())) {
            None => Some(Found::Unasked),
            Some(Asked::Under) => None,
            Some(Asked::Answered(found)) => Some(found.clone()),
        }
    }

    pub(super) fn ask_claim(&mut self, by: MoveId, node: &NodeId) {
        self.claims.insert((by, node.clone()), Asked::Under);
    }

    pub(super) fn on_claims(
        &mut self,
        by: MoveId,
        keys: &[(Name, KeyBytes)],
        asked_at: Epoch,
        claims: &Result<(Rev, Vec<Option<Claim>>), StoreError>,
    ) {
        for (index, (dimension, key)) in keys.iter().enumerate() {
            let node = NodeId::Key {
                dimension: dimension.clone(),
                key: key.clone(),
            };
            let claim = claims.as_ref().ok().and_then(|(_, claims)| claims.get(index));
            match claim {
                Some(claim) => {
                    let known = claim.as_ref().map(|claim| Known {
                        target: claim.target.clone(),
                        base: claim.base,
                        as_of: asked_at,
                    });
                    let found = known.map_or(Found::Nothing, Found::Known);
                    self.claims.insert((by, node), Asked::Answered(found));
                }
                // It is asked again.
                None => drop(self.claims.remove(&(by, node))),
            }
        }
    }

    /// Nothing is to be done with a node.
    pub(super) fn settle(&mut self, work: &Move, node: &NodeId, is_there: bool) {
        self.settled.insert((work.id, node.clone()), is_there);
    }

    pub(super) fn settled(&self, work: &Move, node: &NodeId) -> Option<bool> {
        if self.settled.is_empty() {
            return None;
        }
        self.settled.get(&(work.id, node.clone())).copied()
    }
}

impl Hold {
    fn lasts(&self, sight: &Sight<'_>) -> bool {
        match self.until {
            Until::Answered => true,
            Until::Copied(rev) => sight.routes.rev() < rev,
            Until::Time(at) => sight.now < at,
        }
    }
}

/// Until an application is asked again. While its keys are frozen they wait for it.
fn again(hook: Hook) -> Duration {
    match hook {
        Hook::Quiesce | Hook::FinalSync => AGAIN,
        _ => LAG_AGAIN,
    }
}

/// Between two notes about what an application said.
const NOTE_EVERY: Duration = Duration::from_secs(2);
/// Until an application is asked again that is serving meanwhile.
const LAG_AGAIN: Duration = Duration::from_millis(500);
/// Until something that was not answered is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// Until something that the store refused is asked again.
const LATER: Duration = Duration::from_secs(2);
