//! Tokens that owners give to callers, who present them later, to any relay; some with a bit that flipped.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use zeroize::Zeroizing;

use super::World;
use super::relay::Life;
use crate::routing::record::{Epoch, Target};
use crate::routing::token::{Flags, Lifetime, Ring, Secrets, Text, Token, TokenTarget};
use crate::routing::{Decision, Known, Source};

pub(super) struct Tokens {
    ring: Ring,
    /// What callers keep, by key.
    kept: BTreeMap<usize, Vec<Text>>,
}

/// Seconds since 1970 at the start.
const START: u64 = 1_800_000_000;
const KEPT_MAX: usize = 10;

impl Tokens {
    pub(super) fn new() -> Self {
        let secrets = Secrets::parse(Zeroizing::new("5a".repeat(32))).unwrap();
        Self {
            ring: Ring::new(secrets, 7, START),
            kept: BTreeMap::new(),
        }
    }
}

impl World {
    fn wall(&self) -> u64 {
        START + self.now / 1_000_000
    }

    /// One that the caller kept.
    pub(super) fn some_token(&mut self, subject: usize) -> Option<Text> {
        let kept = self.tokens.kept.get(&subject)?;
        if self.dice.bool() {
            return None;
        }
        self.dice.choice(kept).copied()
    }

    /// What a token says; nothing if it was not signed for this key (R-I7).
    pub(super) fn open_token(&mut self, life: Life, subject: usize, text: &Text) -> Option<Known> {
        let of = &self.subjects[subject];
        let now = self.wall();
        let (dimension, key) = (&of.dimension, of.key.as_bytes());
        if self.dice.u8(..8) == 0 {
            let mut flipped = *text.as_bytes().first_chunk::<{ Text::BYTES }>()?;
            let at = self.dice.usize(..flipped.len());
            flipped[at] ^= 1 << self.dice.u8(..7);
            if self.tokens.ring.open(&flipped, dimension, key, now).is_ok() {
                self.witness.blame("R-I7: a token with a flipped bit".to_owned());
            }
        }
        let token = self.tokens.ring.open(text.as_bytes(), dimension, key, now).ok()?;
        let routes = self.relays[life.relay].running.as_ref()?.table.routes()?.clone();
        let target = match token.target {
            TokenTarget::Follow => Target::Follow(super::keys::name("org")),
            TokenTarget::Unit(number) => Target::Unit(routes.book().units.get(usize::from(number.get()) - 1)?.clone()),
        };
        Some(Known {
            target,
            base: token.epoch,
            as_of: token.evidence_as_of(),
        })
    }

    /// The caller gets a token that says what is known of its key: who claimed it, not who has it in the place of that one.
    pub(super) fn issue_token(&mut self, life: Life, subject: usize, decision: &Decision<'_>, given: Option<Text>) {
        if !matches!(decision.source, Source::Claim | Source::Token) {
            return;
        }
        let given = given.and_then(|text| self.open_token(life, subject, &text));
        let running = self.at(life);
        let Some(routes) = running.table.routes().cloned() else {
            return;
        };
        let of = &self.subjects[subject];
        let hash = routes.hash(of.dimension.as_str().as_bytes(), of.key.as_bytes());
        let claimed = self.at(life).desk.known().get(hash).map(|holder| holder.target);
        let known = match decision.source {
            Source::Token => given.map(|known| known.target),
            _ => claimed,
        };
        let units = &routes.book().units;
        let target = match known {
            Some(Target::Follow(_)) => TokenTarget::Follow,
            Some(Target::Unit(unit)) => {
                let position = units.iter().position(|other| *other == unit).unwrap();
                TokenTarget::Unit(NonZeroU16::new(u16::try_from(position).unwrap() + 1).unwrap())
            }
            // No token can say which group.
            Some(Target::Group { .. }) | None => return,
        };
        let token = Token {
            target,
            epoch: Epoch(decision.epoch),
            as_of: routes.rev(),
            issued_at: self.wall(),
            lifetime: Lifetime::Usual,
            flags: Flags {
                claim: true,
                ..Flags::default()
            },
        };
        let of = &self.subjects[subject];
        let text = self.tokens.ring.issue(&of.dimension, of.key.as_bytes(), &token);
        let kept = self.tokens.kept.entry(subject).or_default();
        kept.extend(text);
        if kept.len() > KEPT_MAX {
            let at = self.dice.usize(..kept.len());
            kept.swap_remove(at);
        }
    }
}
