//! What is known of keys that nobody decided about, from tokens and from claims that were looked up.
//!
//! A claim is written once, so what is known of it never gets wrong. What can make it count no more is a record about the
//! key in the control group, and of those each relay has all; and a store that was restored from a backup, which may have
//! forgotten it.

use super::KeyHash;
use super::record::{Epoch, Rev, Target};
use crate::model::Name;

/// Where to look for what is known of a key. The order is that of this list; one that holds is enough, and all that hold
/// say the same (R-I6).
pub trait Evidence {
    /// What the call's token says of the key, if it has one of this Geo, for this key, and in time.
    fn token(&self, dimension: &Name, key: &[u8]) -> Option<Known> {
        let _ = (dimension, key);
        None
    }

    /// What was heard of the key's claim.
    fn claim(&self, dimension: &Name, key: &[u8], hash: KeyHash) -> Found;

    /// Where this relay has put the key while the store is away. Asked only of dimensions with a fallback, and only when nothing
    /// else says anything: whatever the store has said of a key comes first.
    fn provisional(&self, hash: KeyHash) -> Provisional {
        let _ = hash;
        Provisional::Nothing
    }
}

/// Where this relay has put a key while the store is away.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Provisional {
    /// Here; on disk.
    Chosen(Known),
    /// Nowhere, and no room is left to remember where.
    Full,
    /// Nowhere yet, or the store is not away.
    #[default]
    Nothing,
}

/// What was heard of a key's claim.
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

/// Who has a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Known {
    /// The owner; of a claim, the one since birth.
    pub target: Target,
    /// Of a claim: what the claiming relay's copy was at. Of a token: its epoch.
    pub base: Epoch,
    /// The revision up to which whoever says so knew of all decisions. Of a token: it says so, with the incarnation of its
    /// epoch. Of a claim that was looked up: where this relay's copy was when it *asked*. Not the claim's `base`: after a
    /// decision about the key was taken back, that would never hold again.
    pub as_of: Epoch,
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
    /// This relay, while the store is away.
    Provisional,
}

/// How evidence stands at a copy.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It holds.
    Current,
    /// The copy knows of a later decision.
    Superseded,
    /// The store was restored since and may have forgotten the claim; ask it.
    TooOld,
    /// The copy is behind what the evidence speaks of.
    Ahead(Epoch),
}

/// Judges evidence as of `as_of` at a copy that has applied `applied` and whose newest record of the key, a tombstone
/// perhaps, is `newest`.
pub fn judge(as_of: Epoch, applied: Epoch, newest: Option<Rev>) -> Verdict {
    if as_of.incarnation() < applied.incarnation() {
        Verdict::TooOld
    } else if as_of > applied {
        Verdict::Ahead(as_of)
    } else if newest.is_some_and(|newest| newest > as_of.rev()) {
        Verdict::Superseded
    } else {
        Verdict::Current
    }
}

impl Known {
    /// Whether a choice that was made without the store still counts at a copy: not if the store was restored since, nor if
    /// something was decided about the key. A copy that is older than the choice, kept over a restart say, does not matter.
    pub fn counts(&self, applied: Epoch, newest: Option<Rev>) -> bool {
        matches!(judge(self.as_of, applied, newest), Verdict::Current | Verdict::Ahead(_))
            && self.as_of.incarnation() == applied.incarnation()
    }

    /// How it stands at a copy. Nothing holds before the copy is where the claim was made.
    pub fn judge(&self, applied: Epoch, newest: Option<Rev>) -> Verdict {
        judge(self.as_of.max(self.base), applied, newest)
    }
}

impl Source {
    /// All of them, for registering series.
    pub const ALL: [Self; 7] = [
        Self::Explicit,
        Self::MissingKey,
        Self::Rule,
        Self::Override,
        Self::Token,
        Self::Claim,
        Self::Provisional,
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
            Self::Provisional => "provisional",
        }
    }
}

/// Nothing is known without it.
impl<T: Evidence> Evidence for Option<T> {
    fn token(&self, dimension: &Name, key: &[u8]) -> Option<Known> {
        self.as_ref()?.token(dimension, key)
    }

    fn claim(&self, dimension: &Name, key: &[u8], hash: KeyHash) -> Found {
        self.as_ref()
            .map_or(Found::Unasked, |evidence| evidence.claim(dimension, key, hash))
    }

    fn provisional(&self, hash: KeyHash) -> Provisional {
        self.as_ref()
            .map_or(Provisional::Nothing, |evidence| evidence.provisional(hash))
    }
}

/// Nothing is known of any key.
impl Evidence for () {
    fn claim(&self, _: &Name, _: &[u8], _: KeyHash) -> Found {
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
        let at = |rev| Epoch::new(1, Rev(rev));
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
                    let verdict = judge(at(as_of), at(applied), owner(applied));
                    match verdict {
                        Verdict::Current => assert_eq!(said, owner(applied), "{history:b} {as_of} {applied}"),
                        Verdict::Superseded => assert_ne!(said, owner(applied), "{history:b} {as_of} {applied}"),
                        Verdict::Ahead(rev) => assert!(rev > at(applied)),
                        Verdict::TooOld => panic!("{history:b} {as_of} {applied}"),
                    }
                }
            }
        }
    }

    // revisions of another incarnation say nothing.
    #[test]
    fn what_was_known_before_a_restore_is_too_old_and_what_was_known_after_it_is_ahead() {
        let (before, after) = (Epoch::new(1, Rev(90)), Epoch::new(2, Rev(40)));
        for early in [3, 90] {
            assert_eq!(judge(Epoch::new(1, Rev(early)), after, None), Verdict::TooOld);
        }
        assert_eq!(judge(after, before, None), Verdict::Ahead(after));
        let known = Known {
            target: Target::Unit(Name::new("a").unwrap()),
            base: before,
            as_of: after,
        };
        assert_eq!(known.judge(after, Some(Rev(40))), Verdict::Current);
        // A choice without the store counts at the incarnation that it was made at, and at no other.
        let chosen = |as_of| Known { as_of, ..known.clone() };
        assert!(chosen(after).counts(after, None));
        assert!(!chosen(after).counts(before, None) && !chosen(before).counts(after, None));
    }
}
