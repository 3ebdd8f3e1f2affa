//! Who owns a node that is to be moved, and all that this was found by: whoever moves it compares the revisions of that, so that
//! nothing of it can have changed (R-3.9 S0).

use bytes::Bytes;

use super::trail::{Asked, Trail};
use super::{NodeView, Routes};
use crate::model::{Key, Name, RouteHints, UnitId};
use crate::routing::evidence::{Evidence, Found};
use crate::routing::record::{MoveId, Node, NodeId, RecordId, Rev, State};
use crate::routing::{KeyHash, RouteError};

/// Who owns a node, and by what.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Origin {
    /// The unit that owns it, and admits writes of it.
    pub unit: UnitId,
    /// Since when it does.
    pub since: Rev,
    /// Every record that says so, with its revision; those that would have a say and are not there with [`Rev::ZERO`].
    pub path: Vec<(RecordId, Rev)>,
}

/// Why a node cannot be moved.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Unmovable {
    /// It has no owner that could be found.
    #[error(transparent)]
    NoOwner(#[from] RouteError),
    /// It goes where another key goes.
    #[error("it goes where another key goes; move that one")]
    Follows,
    /// Its unit is evacuated, and each of its keys may be at another one.
    #[error(
        "unit {0} is evacuated, and its keys are at several units; give it its keys back first, or move single keys"
    )]
    Scattered(UnitId),
    /// It is a unit.
    #[error("a unit is not moved; drain or evacuate it")]
    Unit,
    /// Something that has a say is being moved itself.
    #[error("move {0}, which it depends on, is under way")]
    Busy(MoveId),
}

/// What was heard of the claim of the one key that is asked about.
struct Heard<'a>(&'a Found);

impl Evidence for Heard<'_> {
    fn claim(&self, _: &Name, _: &[u8], _: KeyHash) -> Found {
        self.0.clone()
    }
}

impl Routes {
    /// Who owns a node that is at rest. `claim` is what was heard of its claim, if it is a key.
    ///
    /// # Errors
    /// [`Unmovable`]; with [`RouteError::Unclaimed`] in it, ask the store for the key's claim.
    pub fn origin(&self, id: &NodeId, claim: &Found) -> Result<Origin, Unmovable> {
        let view = self.view(id);
        if let Some(by) = view.and_then(|view| view.state().work()) {
            return Err(Unmovable::Busy(by));
        }
        let mut origin = match id {
            NodeId::Key { dimension, key } => self.origin_of_key(dimension, &key.0, claim)?,
            NodeId::Bucket { .. } | NodeId::Rule { .. } => self.origin_of_part(id, view)?,
            NodeId::Unit(_) => return Err(Unmovable::Unit),
        };
        origin
            .path
            .push((RecordId::Node(id.clone()), self.rev_of(&RecordId::Node(id.clone()))));
        self.units_on(&mut origin)?;
        Ok(origin)
    }

    fn origin_of_key(&self, dimension: &Name, key: &Bytes, claim: &Found) -> Result<Origin, Unmovable> {
        let hints = RouteHints {
            keys: vec![Key {
                dimension: Bytes::copy_from_slice(dimension.as_str().as_bytes()),
                key: key.clone(),
            }],
            ..RouteHints::default()
        };
        let mut trail = Trail::default();
        let resolved = self.resolve(&hints, &[], &Heard(claim), &mut trail);
        let resolved = match resolved {
            Some(Err(RouteError::NoParent { .. })) => return Err(Unmovable::Follows),
            Some(resolved) => resolved?,
            None => {
                let found = dimension.to_string();
                return Err(RouteError::UnknownDimension { found }.into());
            }
        };
        let (unit, since) = (resolved.unit.clone(), resolved.since.rev());
        let mut path = Vec::new();
        let part = match trail.only().ok_or(Unmovable::Follows)? {
            Asked::No => None,
            Asked::Unmatched => Some(None),
            Asked::Bucket(bucket) => Some(Some(NodeId::Bucket {
                dimension: dimension.clone(),
                bucket,
            })),
            Asked::Rule(rule) => Some(Some(NodeId::Rule {
                dimension: dimension.clone(),
                rule,
            })),
        };
        if let Some(part) = part {
            path.push((RecordId::Book, self.book.rev));
            if let Some(part) = part {
                if let Some(by) = self.view(&part).and_then(|view| view.state().work()) {
                    return Err(Unmovable::Busy(by));
                }
                let id = RecordId::Node(part);
                path.push((id.clone(), self.rev_of(&id)));
            }
        }
        Ok(Origin { unit, since, path })
    }

    fn origin_of_part(&self, id: &NodeId, view: Option<NodeView<'_>>) -> Result<Origin, Unmovable> {
        let decided = view.filter(|view| *view.state() != State::Tombstone);
        let mut path = Vec::new();
        // A tombstone counts too; since when the rule has its keys does for each of them.
        let mut since = view.and_then(|view| view.same_term().since).unwrap_or_default();
        let unit = if let Some(view) = decided {
            view.unit().ok_or(Unmovable::Follows)?
        } else {
            path.push((RecordId::Book, self.book.rev));
            let dimension = id.dimension().cloned().ok_or(Unmovable::Unit)?;
            self.rule_owner(id).ok_or(RouteError::NoRule { dimension })?
        };
        // Its keys are shared out one by one.
        let node = self.unit_node(unit);
        let takeover = node.and_then(|node| node.state.takeover());
        let were_more = node.is_some_and(|node| !node.term.earlier.is_empty());
        let mut heirs = takeover.unwrap_or_default().iter().filter(|(_, weight)| *weight > 0);
        let unit = match (takeover.is_some(), heirs.next(), heirs.next()) {
            (false, ..) => unit,
            // If there were more before, not all keys have been here for the same time.
            (true, Some((heir, _)), None)
                if !were_more && self.unit_node(heir).is_none_or(|node| node.state.takeover().is_none()) =>
            {
                since = since.max(node.map_or(Rev::ZERO, Node::since));
                heir
            }
            _ => return Err(Unmovable::Scattered(unit.clone())),
        };
        Ok(Origin {
            unit: unit.clone(),
            since,
            path,
        })
    }

    /// Units that have a say: the owner, and all that others have keys of.
    fn units_on(&self, origin: &mut Origin) -> Result<(), Unmovable> {
        for unit in &self.book().units {
            let node = self.unit_node(unit);
            let stands_in = node.is_some_and(|node| node.state.takeover().is_some());
            if *unit != origin.unit && !stands_in {
                continue;
            }
            if let Some(by) = node.and_then(|node| node.state.work()) {
                return Err(Unmovable::Busy(by));
            }
            let rev = node.map_or(Rev::ZERO, |node| node.rev);
            origin.path.push((RecordId::Node(NodeId::Unit(unit.clone())), rev));
        }
        Ok(())
    }
}
