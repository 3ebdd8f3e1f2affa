//! What is known of keys that nobody decided about, from tokens and from claims that were looked up.
//!
//! A claim is written once, so what is known of it never gets wrong. What can make it count no more is a record about the
//! key in the control group, and of those each relay has all.

use super::KeyHash;
use super::record::{Epoch, Rev, Target};
use crate::model::Key;

/// Where to look for what is known of a key.
pub trait Evidence {
    /// What is known of the key.
    fn find(&self, hash: KeyHash, key: &Key) -> Found;
}

/// What is known of a key.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Found {
    /// This.
    Known(Known),
    /// The store has no claim of it, or could not say, a moment ago; writes must not go by this.
    Nothing,
    /// Nobody asked yet.
    #[default]
    Unasked,
}

/// Who has a key, by its claim.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Known {
    /// The owner since birth.
    pub target: Target,
    /// What the claiming relay's copy was at.
    pub base: Epoch,
    /// The revision up to which whoever says so knew of no other decision.
    pub as_of: Rev,
    /// Where it comes from.
    pub source: Source,
}

/// What decided, as series and explanations name it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// The call named the unit.
    Explicit,
    /// The service's policy for calls without key.
    MissingKey,
    /// A rule, or what was decided about all of its keys or the bucket.
    Rule,
    /// What was decided about the key.
    Override,
    /// The call's token.
    Token,
    /// A claim that was looked up.
    Claim,
}

/// How evidence stands at a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It holds.
    Current,
    /// The copy knows of a later decision.
    Superseded,
    /// The copy is behind what the evidence speaks of.
    Ahead(Rev),
}

/// Judges evidence at a copy that has applied `applied` and whose newest record of the key, a tombstone perhaps, is `newest`.
pub fn judge(as_of: Rev, applied: Rev, newest: Option<Rev>) -> Verdict {
    if as_of > applied {
        Verdict::Ahead(as_of)
    } else if newest.is_some_and(|newest| newest > as_of) {
        Verdict::Superseded
    } else {
        Verdict::Current
    }
}

impl Source {
    /// All of them, for registering series.
    pub const ALL: [Self; 6] = [
        Self::Explicit,
        Self::MissingKey,
        Self::Rule,
        Self::Override,
        Self::Token,
        Self::Claim,
    ];

    /// The word used in labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Explicit => "explicit",
            Self::MissingKey => "missing_key",
            Self::Rule => "rule",
            Self::Override => "override",
            Self::Token => "token",
            Self::Claim => "claim",
        }
    }
}

/// Nothing is known of any key.
impl Evidence for () {
    fn find(&self, _: KeyHash, _: &Key) -> Found {
        Found::Unasked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // all of it: a history of one key, a token as of any revision, a relay at any revision.
    #[test]
    fn what_is_judged_current_is_what_the_history_says() {
        const STEPS: u64 = 7;
        // Bit n: revision n + 1 decided about the key.
        for history in 0..1_u64 << STEPS {
            let owner = |at: u64| {
                (0..at)
                    .rev()
                    .find(|step| history & (1 << step) != 0)
                    .map(|step| Rev(step + 1))
            };
            for as_of in 0..=STEPS {
                for applied in 0..=STEPS {
                    let said = owner(as_of);
                    let verdict = judge(Rev(as_of), Rev(applied), owner(applied));
                    match verdict {
                        Verdict::Current => assert_eq!(said, owner(applied), "{history:b} {as_of} {applied}"),
                        Verdict::Superseded => assert_ne!(said, owner(applied), "{history:b} {as_of} {applied}"),
                        Verdict::Ahead(rev) => assert!(rev > Rev(applied)),
                    }
                }
            }
        }
    }
}
