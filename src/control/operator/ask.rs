//! What can be asked.

use serde::{Deserialize, Serialize};

use crate::control::store::ClaimKey;
use crate::model::{Name, UnitId};
use crate::routing::record::{KeyBytes, MoveId, MoveOptions, NodeId, RelayId};

/// What an operator asks; one JSON document.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "ask", deny_unknown_fields)]
#[non_exhaustive]
pub enum Command {
    /// How this relay stands with its route store; answered without the store.
    Status,
    /// Keys that this relay has put somewhere while the store was away, conflicts first; answered without the store.
    Provisional {
        /// How many at most; 1000 and more are as many.
        limit: usize,
    },
    /// An operator has merged what two units have of a key: the conflict is forgotten.
    Dismiss {
        /// Kind of key.
        dimension: Name,
        /// The key.
        key: KeyBytes,
        /// Who asks, for the audit log.
        #[serde(default)]
        who: String,
    },
    /// Who owns a key, as the store has it now, and what was decided about it.
    Get {
        /// Kind of key.
        dimension: Name,
        /// The key.
        key: KeyBytes,
        /// For calls of this service; `None`: for whatever has the key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        /// And of this method of it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        method: Option<String>,
    },
    /// What was decided about a key, newest first.
    History {
        /// Kind of key.
        dimension: Name,
        /// The key.
        key: KeyBytes,
        /// How much at most.
        limit: usize,
    },
    /// All keys, buckets, rules and units that something was decided about. Claims are not among them.
    Export,
    /// What is published: units, dimensions, and rules with the ids that moves name.
    Book,
    /// Moves, the last ones first.
    Moves {
        /// Only this one.
        id: Option<MoveId>,
    },
    /// Relays that have the routes, and how they stand.
    Relays,
    /// Moves keys to a unit.
    Move(MoveAsk),
    /// Stops a move: what is under way goes back, what was moved stays.
    Abort {
        /// Which.
        id: MoveId,
        /// Who asks, for the audit log.
        #[serde(default)]
        who: String,
    },
    /// Takes back a move that is over: what it moved goes where it came from.
    Undo(Undo),
    /// Units, whether they take keys, what they have, and what is being done about them.
    Units {
        /// Only this one; then the keys that were claimed for it are counted too.
        unit: Option<UnitId>,
    },
    /// A unit gets no new keys, and what it has goes to others by ordinary moves.
    Drain(DrainAsk),
    /// Others take over the keys of a unit, without its help.
    Evacuate(EvacuateAsk),
    /// A unit that was drained or evacuated gets its keys back.
    Return(ReturnAsk),
    /// Claims a key that has no owner yet for a unit.
    Claim(GiveAsk),
    /// Gives a key that has no owner yet to a unit: claims it, or pins it if keys of its dimension are not claimed.
    Set(GiveAsk),
    /// [`Set`](Self::Set) for many keys, at most [`IMPORT_MAX`].
    Import {
        /// The keys.
        rows: Vec<ImportRow>,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
        /// Who asks, for the audit log.
        #[serde(default)]
        who: String,
    },
    /// Forgets a relay that will not come back, so that nobody waits for it.
    Forget {
        /// Which.
        relay: RelayId,
        /// Whoever asks knows that the relay does not run: nobody waits until its leases are over.
        #[serde(default)]
        is_stopped: bool,
        /// Who asks, for the audit log.
        #[serde(default)]
        who: String,
    },
    /// Publishes units, dimensions and rules that are new in this relay's configuration.
    Publish {
        /// Not the configuration: new keys go where they went before what was published last.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        previous: bool,
        /// Only say what would be done.
        #[serde(default)]
        dry_run: bool,
        /// Who asks, for the audit log.
        #[serde(default)]
        who: String,
    },
}

/// A move that is to be taken back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// Which.
    pub id: MoveId,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Who asks, for the audit log.
    #[serde(default)]
    pub who: String,
}

/// A key that is to be given to a unit.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct GiveAsk {
    /// Kind of key.
    pub dimension: Name,
    /// The key.
    pub key: KeyBytes,
    /// The unit.
    pub unit: UnitId,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Who asks, for the audit log.
    #[serde(default)]
    pub who: String,
}

/// A key and the unit it is to be given to.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ImportRow {
    /// Kind of key.
    pub dimension: Name,
    /// The key.
    pub key: KeyBytes,
    /// The unit.
    pub unit: UnitId,
}

/// What is to be moved, and how.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct MoveAsk {
    /// What is moved.
    pub what: Vec<Which>,
    /// The new owner.
    pub to: UnitId,
    /// How.
    #[serde(default)]
    pub options: MoveOptions,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Who asks, for the audit log.
    #[serde(default)]
    pub who: String,
}

/// A unit that is to be drained. Keys that were claimed for it come some at a time: ask again with the
/// [`next`](super::UnitPlan::next) of the answer until there is none.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DrainAsk {
    /// The unit.
    pub unit: UnitId,
    /// Who gets what it has, by weight.
    pub to: Vec<(UnitId, u16)>,
    /// How it is moved.
    #[serde(default)]
    pub options: MoveOptions,
    /// Go on after this claim.
    #[serde(default)]
    pub after: Option<ClaimKey>,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Who asks, for the audit log.
    #[serde(default)]
    pub who: String,
}

/// A unit that is to be evacuated.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EvacuateAsk {
    /// The unit.
    pub unit: UnitId,
    /// Who takes over, by weight.
    pub to: Vec<(UnitId, u16)>,
    /// Whoever asks knows that what the application has not copied is lost.
    #[serde(default)]
    pub accept_loss: bool,
    /// Whoever asks knows that keys with a lease that never ends may be written at two units until the relays of the unit have
    /// stopped. Needs a reason.
    #[serde(default)]
    pub accept_dual: bool,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Who asks, for the audit log.
    #[serde(default)]
    pub who: String,
}

/// A unit that is to get its keys back.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ReturnAsk {
    /// The unit.
    pub unit: UnitId,
    /// How its keys are moved.
    #[serde(default)]
    pub options: MoveOptions,
    /// Only say what would be done.
    #[serde(default)]
    pub dry_run: bool,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// Who asks, for the audit log.
    #[serde(default)]
    pub who: String,
}

/// What is moved.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Which {
    /// One key, bucket or rule; of a rule with `hash` its buckets.
    Node(NodeId),
    /// Buckets of a dimension, from the first up to and without the last.
    Buckets {
        /// Kind of key.
        dimension: Name,
        /// The first.
        from: u16,
        /// The first one that is not moved, 4096 at most.
        to: u16,
    },
}

impl Command {
    /// Whether it changes something.
    pub fn changes(&self) -> bool {
        match self {
            Self::Status
            | Self::Provisional { .. }
            | Self::Get { .. }
            | Self::History { .. }
            | Self::Export
            | Self::Book
            | Self::Moves { .. }
            | Self::Relays
            | Self::Units { .. } => false,
            Self::Move(MoveAsk { dry_run, .. })
            | Self::Undo(Undo { dry_run, .. })
            | Self::Drain(DrainAsk { dry_run, .. })
            | Self::Evacuate(EvacuateAsk { dry_run, .. })
            | Self::Return(ReturnAsk { dry_run, .. })
            | Self::Claim(GiveAsk { dry_run, .. })
            | Self::Set(GiveAsk { dry_run, .. })
            | Self::Import { dry_run, .. }
            | Self::Publish { dry_run, .. } => !dry_run,
            Self::Abort { .. } | Self::Dismiss { .. } | Self::Forget { .. } => true,
        }
    }

    /// Its name, for the audit log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Provisional { .. } => "provisional",
            Self::Dismiss { .. } => "dismiss",
            Self::Get { .. } => "get",
            Self::History { .. } => "history",
            Self::Export => "export",
            Self::Book => "book",
            Self::Moves { .. } => "moves",
            Self::Relays => "relays",
            Self::Move(_) => "move",
            Self::Abort { .. } => "abort",
            Self::Undo(_) => "undo",
            Self::Units { .. } => "units",
            Self::Drain(_) => "drain",
            Self::Evacuate(_) => "evacuate",
            Self::Return(_) => "return",
            Self::Claim(_) => "claim",
            Self::Set(_) => "set",
            Self::Import { .. } => "import",
            Self::Forget { .. } => "forget",
            Self::Publish { .. } => "publish",
        }
    }

    /// Who asks, for the audit log.
    pub fn who(&self) -> &str {
        match self {
            Self::Move(MoveAsk { who, .. })
            | Self::Undo(Undo { who, .. })
            | Self::Drain(DrainAsk { who, .. })
            | Self::Evacuate(EvacuateAsk { who, .. })
            | Self::Return(ReturnAsk { who, .. })
            | Self::Claim(GiveAsk { who, .. })
            | Self::Set(GiveAsk { who, .. })
            | Self::Abort { who, .. }
            | Self::Dismiss { who, .. }
            | Self::Import { who, .. }
            | Self::Forget { who, .. }
            | Self::Publish { who, .. } => who,
            _ => "",
        }
    }

    /// What it is about, without keys, for the audit log.
    pub fn target(&self) -> String {
        match self {
            Self::Move(ask) => format!("{} to unit {}", ask.what.len(), ask.to),
            Self::Abort { id, .. } | Self::Undo(Undo { id, .. }) => id.to_string(),
            Self::Drain(ask) => format!("unit {} to {}", ask.unit, weighed(&ask.to)),
            Self::Evacuate(ask) => {
                let loss = if ask.accept_loss { "; signed for loss" } else { "" };
                let dual = if ask.accept_dual { "; signed for two owners" } else { "" };
                let (unit, to, reason) = (&ask.unit, weighed(&ask.to), &ask.reason);
                format!("unit {unit} to {to}{loss}{dual}: {reason}")
            }
            Self::Return(ask) => format!("unit {}", ask.unit),
            Self::Claim(ask) | Self::Set(ask) => format!("a key of {} for unit {}", ask.dimension, ask.unit),
            Self::Dismiss { dimension, .. } => format!("a key of {dimension}"),
            Self::Import { rows, .. } => format!("{} keys", rows.len()),
            Self::Forget { relay, .. } => relay.to_string(),
            _ => String::new(),
        }
    }
}

fn weighed(shares: &[(UnitId, u16)]) -> String {
    let shares: Vec<_> = shares.iter().map(|(unit, weight)| format!("{unit}={weight}")).collect();
    shares.join(",")
}

/// Most keys of an import; more are several.
pub const IMPORT_MAX: usize = 1000;
