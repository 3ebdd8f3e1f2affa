//! What a mover says is to be done.

use std::time::Duration;

use super::{Job, Sight};
use crate::model::{Name, UnitId};
use crate::routing::key_hash;
use crate::routing::record::{
    Commit, Hook, KeyBytes, Lag, Move, MoveId, MoveState, Node, NodeId, OpId, Record, RecordId, Rev, State, Target,
    Term,
};

/// What is to be done, and when to look again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// What is to be done; in no order, at once if it can be.
    pub acts: Vec<Act>,
    /// When to look again at the latest; `None`: when the routes have changed or an act was answered.
    pub again: Option<Duration>,
    /// Whether to ask how relays stand before.
    pub wants_standing: bool,
}

/// Something that is to be done.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Act {
    /// Commit; answer with [`Mover::on_committed`](super::Mover::on_committed).
    Commit(Box<Planned>),
    /// Call the application; answer with [`Mover::on_hook`](super::Mover::on_hook).
    Hook(HookCall),
    /// Ask who claimed keys; answer with [`Mover::on_claims`](super::Mover::on_claims).
    Claims(MoveId, Vec<(Name, KeyBytes)>),
}

/// A commit, and what it is for.
#[derive(Clone, Debug, PartialEq)]
pub struct Planned {
    /// The commit.
    pub commit: Commit,
    /// The move it belongs to.
    pub by: MoveId,
    /// The record that it is about.
    pub about: RecordId,
    /// Which step.
    pub step: Step,
    /// Whether the move had ended but for its trail.
    pub(super) was_trailing: bool,
    /// Keys that it freezes, of whom.
    pub(super) freezes: Option<(UnitId, usize)>,
}

/// A step of a move.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Step {
    /// S0: the node is on its way; its unit still serves it.
    Begin,
    /// S3: nobody admits writes of it.
    Freeze,
    /// S5: it belongs to its new owner.
    Commit,
    /// It stays where it was.
    Abort(Why),
    /// The move has come so far.
    Progress,
    /// Too many nodes stayed where they were.
    Stop,
    /// All nodes are done.
    End,
    /// S8: marks of where nodes came from go.
    ClearTrail,
    /// This relay goes on with the move.
    TakeOver,
}

/// Why a node stays where it is.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[non_exhaustive]
pub enum Why {
    /// An operator, or too many nodes that stayed, stopped the move.
    Stopped,
    /// The new owner takes no keys.
    Destination,
    /// Something was decided about one of the units meanwhile.
    Unit,
    /// It was frozen for longer than the move allows.
    Budget,
    /// The application copied for longer than the move allows.
    CopyLimit,
    /// Relays did not say for longer than the move allows before a freeze that few messages of it wait.
    Messages,
    /// A relay that was killed could not report for as long.
    Settle,
    /// Its turn to be frozen did not come for as long.
    Turn,
    /// The application refused.
    Hook,
}

impl Step {
    /// In words, for logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Begin => "begun",
            Self::Freeze => "frozen",
            Self::Commit => "moved",
            Self::Abort(why) => why.as_str(),
            Self::Progress => "progress",
            Self::Stop => "stopped: too many nodes could not be moved",
            Self::End => "ended",
            Self::ClearTrail => "old owners forgotten",
            Self::TakeOver => "taken over from a relay that is gone",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Begin => 0,
            Self::Freeze => 1,
            Self::Commit => 2,
            Self::Abort(_) => 3,
            Self::Progress => 4,
            Self::Stop => 5,
            Self::End => 6,
            Self::ClearTrail => 7,
            Self::TakeOver => 8,
        }
    }
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Stopped,
        Self::Destination,
        Self::Unit,
        Self::Budget,
        Self::CopyLimit,
        Self::Messages,
        Self::Settle,
        Self::Turn,
        Self::Hook,
    ];

    /// Of a node that was not frozen in time, by what it waited for.
    pub(super) fn late(waited: Phase) -> Self {
        match waited {
            Phase::Hook(_) => Self::CopyLimit,
            Phase::Deliver => Self::Messages,
            Phase::Settle => Self::Settle,
            Phase::Freeze | Phase::Drain | Phase::Trail => Self::Turn,
        }
    }

    /// In series.
    pub fn label(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Destination => "destination",
            Self::Unit => "unit",
            Self::Budget => "budget",
            Self::CopyLimit => "copy_limit",
            Self::Messages => "messages",
            Self::Settle => "settle",
            Self::Turn => "turn",
            Self::Hook => "hook",
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stays: the move was stopped",
            Self::Destination => "stays: the new owner takes no keys",
            Self::Unit => "stays: something was decided about a unit",
            Self::Budget => {
                "stays: relays of its unit did not report in time that no call and no message of it is under way there \
                 (messages that wait: strait queue status)"
            }
            Self::CopyLimit => "stays: the application copied for too long",
            Self::Messages => {
                "stays: relays of its unit did not say within the limit for copying that few messages of it waited there \
                 (strait queue status)"
            }
            Self::Settle => "stays: relays of its unit could not report within the limit for copying",
            Self::Turn => "stays: its turn to be frozen did not come within the limit for copying",
            Self::Hook => "stays: the application refused",
        }
    }
}

/// A call of the application's `OwnerControl` service. Each may come more than once.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HookCall {
    /// The move.
    pub by: MoveId,
    /// The node.
    pub node: NodeId,
    /// The revision of its record; of [`Hook::Activate`] the one that gave it to the unit.
    pub rev: Rev,
    /// What is asked.
    pub hook: Hook,
    /// The unit whose application is asked.
    pub unit: UnitId,
    /// Who has the node before the move; `None` if that is many, or not known any more.
    pub from: Option<UnitId>,
    /// Who is to have it.
    pub to: UnitId,
}

/// What an application answered. Texts are for people.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Hooked {
    /// Yes.
    Done,
    /// So far behind is its copy.
    Lag(Lag),
    /// Not yet, or it could not be reached; it is asked again.
    NotYet(String),
    /// No: the node stays where it is.
    Refused(String),
}

/// How far a node is, by what it waits for.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// An answer of the application.
    Hook(Hook),
    /// Relays of its unit that were killed and have started again, before it is frozen.
    Settle,
    /// Messages of it to be delivered at its unit until few are left, before it is frozen.
    Deliver,
    /// Its turn to be frozen.
    Freeze,
    /// Relays of its unit to report that nothing is in flight.
    Drain,
    /// The time for which its old owner is remembered.
    Trail,
}

impl Phase {
    /// All of them.
    pub const ALL: [Self; Hook::ALL.len() + 5] = [
        Self::Hook(Hook::Prepare),
        Self::Hook(Hook::Copy),
        Self::Hook(Hook::Lag),
        Self::Settle,
        Self::Deliver,
        Self::Freeze,
        Self::Drain,
        Self::Hook(Hook::Quiesce),
        Self::Hook(Hook::FinalSync),
        Self::Hook(Hook::Activate),
        Self::Trail,
        Self::Hook(Hook::Cleanup),
    ];

    /// In series.
    pub fn label(self) -> &'static str {
        match self {
            Self::Hook(hook) => hook.as_str(),
            Self::Settle => "settle",
            Self::Deliver => "deliver",
            Self::Freeze => "freeze",
            Self::Drain => "drain",
            Self::Trail => "trail",
        }
    }
}

impl Plan {
    /// Looks again after this time at the latest.
    pub(super) fn look_again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |again| again.min(after)));
    }

    pub(super) fn want_standing(&mut self) {
        self.wants_standing = true;
    }
}

impl Planned {
    /// Writes the record of a move.
    pub(super) fn of_move(sight: &Sight<'_>, job: &Job<'_>, work: Move, step: Step, salt: &str) -> Self {
        let about = RecordId::Move(work.id);
        let by = work.id;
        Self {
            commit: Commit {
                op: operation(sight, by, &about, step, job.rev, salt),
                compares: vec![(about.clone(), job.rev)],
                puts: vec![Record::Move(work)],
                removes: Vec::new(),
            },
            by,
            about,
            step,
            was_trailing: job.work.state == MoveState::Trailing,
            freezes: None,
        }
    }

    /// Writes a node that has this revision now; `state` and `target` are the new ones.
    pub(super) fn of_node(sight: &Sight<'_>, job: &Job<'_>, id: &NodeId, put: Put, step: Step) -> Self {
        let about = RecordId::Node(id.clone());
        let rev = sight.routes.rev_of(&about);
        let op = operation(sight, job.work.id, &about, step, rev, "");
        let home = home_of(sight, job, id, &put, step);
        let node = Node {
            id: id.clone(),
            target: put.target,
            state: put.state,
            rev: Rev::ZERO,
            term: put.term,
            previous: put.previous,
            home,
            op,
            reason: format!("move {}", job.work.id),
        };
        Self {
            commit: Commit {
                op,
                compares: vec![(about.clone(), rev)],
                puts: vec![Record::Node(node)],
                removes: Vec::new(),
            },
            by: job.work.id,
            about,
            step,
            was_trailing: false,
            freezes: None,
        }
    }

    /// Says in the record of a node why.
    pub(super) fn because(mut self, why: &str) -> Self {
        for record in &mut self.commit.puts {
            if let Record::Node(node) = record {
                node.reason = format!("{}: {why}", node.reason);
            }
        }
        self
    }

    /// Also compares this record as it is in the copy.
    pub(super) fn compare(mut self, sight: &Sight<'_>, id: RecordId) -> Self {
        let rev = sight.routes.rev_of(&id);
        self.compare_at(id, rev);
        self
    }

    /// Also compares the record of a unit.
    pub(super) fn compare_unit(self, sight: &Sight<'_>, unit: &UnitId) -> Self {
        self.compare(sight, RecordId::Node(NodeId::Unit(unit.clone())))
    }

    pub(super) fn compare_at(&mut self, id: RecordId, rev: Rev) {
        if !self.commit.compares.iter().any(|(other, _)| *other == id) {
            self.commit.compares.push((id, rev));
        }
    }
}

/// What is written about a node.
pub(super) struct Put {
    pub(super) target: Target,
    pub(super) state: State,
    /// New if it gives the node to somebody, else that of the record before.
    pub(super) term: Term,
    pub(super) previous: Option<UnitId>,
}

/// Where a node that drains have moved is at home: at the unit that the first of them took it from, unless it gets there.
fn home_of(sight: &Sight<'_>, job: &Job<'_>, id: &NodeId, put: &Put, step: Step) -> Option<UnitId> {
    let before = sight.routes.view(id).and_then(|view| view.home().cloned());
    if step != Step::Commit {
        return before;
    }
    let drained = job.work.of.as_ref();
    let drained = drained.filter(|unit| put.previous.as_ref() == Some(unit))?;
    let home = before.unwrap_or_else(|| drained.clone());
    (put.target.unit() != Some(&home)).then_some(home)
}

/// The number of a step: the same whoever takes it, and of no other one. Keyed, so that no key can be made to look like another.
pub(super) fn operation(sight: &Sight<'_>, by: MoveId, about: &RecordId, step: Step, rev: Rev, salt: &str) -> OpId {
    let about = serde_json::to_vec(about).unwrap_or_default();
    let bytes = [
        &by.0.to_le_bytes()[..],
        &rev.0.to_le_bytes(),
        &[step.code()],
        &about,
        &[0],
        salt.as_bytes(),
    ];
    OpId(key_hash(sight.routes.seed(), b"strait/move", &bytes.concat()).0)
}
