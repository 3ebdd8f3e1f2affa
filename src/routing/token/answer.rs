//! Which token an answer carries along: pure.
//!
//! A token says what decided about the key *itself*, with that record's own target: not who has the key in the place of a unit
//! that was evacuated, nor who has the key that it follows. So it stays right when those change.

use super::brought::{Check, CheckOutcome};
use super::{Flags, Lifetime, Token, TokenTarget};
use crate::model::Name;
use crate::routing::evidence::Source;
use crate::routing::record::{Epoch, Placement, Rev, State, Target};
use crate::routing::{Decision, NodeView, Routes};

/// What is known when a call was resolved.
#[derive(Clone, Copy, Debug)]
pub struct Grounds<'a> {
    /// The copy that resolved it.
    pub routes: &'a Routes,
    /// How.
    pub decision: &'a Decision<'a>,
    /// The key of the decision's dimension.
    pub key: &'a [u8],
    /// What became of the token it brought.
    pub check: Option<Check>,
    /// The target of the key's claim, if it was looked up.
    pub claim: Option<&'a Target>,
    /// Seconds since 1970.
    pub now: u64,
    /// Where the copy was [`AS_OF_AGE_MAX`](super::AS_OF_AGE_MAX) ago.
    pub then: Rev,
    /// Of tokens of the dimension.
    pub lifetime: Lifetime,
}

/// Why a token is issued.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Occasion {
    /// The key's claim was looked up.
    Claim,
    /// The key was moved; told without being asked.
    Push,
    /// The caller's relay thought of another owner.
    Redirect,
    /// The caller's token holds and gets old.
    Renewal,
    /// This relay knows of a later decision than the caller's token.
    Superseded,
}

impl Grounds<'_> {
    /// What the answer of a call carries along.
    pub fn answer(&self) -> Option<(Occasion, Token)> {
        let occasion = match (self.decision.source, self.check) {
            (Source::Claim, _) => Occasion::Claim,
            (Source::Token | Source::Override, Some(check)) => match (check.outcome, check.token) {
                (CheckOutcome::Current, Some(token)) if token.is_due(self.now, self.then) => Occasion::Renewal,
                (CheckOutcome::Superseded | CheckOutcome::TooOld | CheckOutcome::LostFuture, Some(_)) => {
                    Occasion::Superseded
                }
                _ => return None,
            },
            _ => return None,
        };
        Some((occasion, self.token()?))
    }

    /// What a relay says that does not own the key, or that a client is told whose key was moved.
    pub fn token(&self) -> Option<Token> {
        let dimension = self.decision.dimension?;
        if !is_claimed(self.routes, dimension) {
            return None;
        }
        let source = self.decision.source;
        let target = match source {
            Source::Token => self.check?.token?.target,
            Source::Claim => TokenTarget::of(self.claim?, self.routes, dimension)?,
            Source::Override => TokenTarget::of(&self.decided()?, self.routes, dimension)?,
            // Of a provisional choice there is none: it would outlive the claim that it may lose against.
            Source::Explicit | Source::MissingKey | Source::Rule | Source::Provisional => return None,
        };
        Some(Token {
            target,
            epoch: Epoch(self.decision.epoch),
            as_of: self.routes.rev(),
            issued_at: self.now,
            lifetime: self.lifetime,
            flags: Flags {
                claim: source != Source::Override,
                ..Flags::default()
            },
        })
    }

    /// What was decided about the key itself.
    fn decided(&self) -> Option<Target> {
        let dimension = self.decision.dimension?;
        let hash = self.routes.hash(dimension.as_str().as_bytes(), self.key);
        match self.routes.view_of(hash)? {
            NodeView::Rest { unit, .. } => Some(Target::Unit(unit.clone())),
            NodeView::Whole(node) if node.state != State::Tombstone => Some(node.target.clone()),
            NodeView::Whole(_) | NodeView::Tombstone { .. } => None,
        }
    }
}

impl Occasion {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Claim, Self::Push, Self::Redirect, Self::Renewal, Self::Superseded];

    /// Label of the counter.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claim => "claim",
            Self::Push => "push",
            Self::Redirect => "redirect",
            Self::Renewal => "renewal",
            Self::Superseded => "superseded",
        }
    }
}

/// Whether keys of a dimension are claimed: only those have tokens.
pub fn is_claimed(routes: &Routes, dimension: &Name) -> bool {
    let spec = routes.dimension(dimension);
    spec.is_some_and(|spec| matches!(spec.placement, Placement::Claim(_)))
}

/// Whether a call with these keys may be routed by a token at all.
pub fn may_have_tokens(routes: &Routes) -> bool {
    let dimensions = &routes.book().dimensions;
    dimensions
        .iter()
        .any(|spec| matches!(spec.placement, Placement::Claim(_)))
}
