//! How much work the texts of a client may cost that are no tokens. Pure: the caller brings the time.
//!
//! # Invariants
//! - K1. A client whose tokens are good is never held back, and no client by another one.
//! - K2. What is remembered is bounded: by clients, the calmest of which are forgotten.

use std::time::Duration;

use crate::model::Map;

/// A client: a number that no other open connection of the shard has.
pub(super) type Client = usize;

/// What clients have brought that were no tokens.
#[derive(Debug, Default)]
pub(super) struct Strikes {
    clients: Map<Client, Bucket>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// Bad tokens that may still be looked at.
    left: f64,
    at: Duration,
}

impl Strikes {
    /// Whether a token of a client is looked at.
    pub(super) fn may_check(&mut self, client: Client, now: Duration) -> bool {
        let Some(bucket) = self.clients.get_mut(&client) else {
            return true;
        };
        bucket.fill(now);
        if bucket.left >= BURST {
            self.clients.remove(&client);
            return true;
        }
        bucket.left >= 1.0
    }

    /// A client brought what is no token.
    pub(super) fn on_bad(&mut self, client: Client, now: Duration) {
        if !self.clients.contains_key(&client) && self.clients.len() >= CLIENTS_MAX {
            for bucket in self.clients.values_mut() {
                bucket.fill(now);
            }
            let fullest = self.clients.iter().max_by(|(_, a), (_, b)| a.left.total_cmp(&b.left));
            if let Some(calmest) = fullest.map(|(client, _)| *client) {
                self.clients.remove(&calmest);
            }
        }
        let bucket = self.clients.entry(client).or_insert(Bucket { left: BURST, at: now });
        bucket.fill(now);
        bucket.left = (bucket.left - 1.0).max(0.0);
    }
}

impl Bucket {
    fn fill(&mut self, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.left = (self.left + passed * PER_SECOND).min(BURST);
        self.at = self.at.max(now);
    }
}

/// Bad tokens that are looked at one after the other.
const BURST: f64 = 100.0;
/// And from then on.
const PER_SECOND: f64 = 10.0;
/// Clients that are remembered.
const CLIENTS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    // K1
    #[test]
    fn a_client_with_bad_tokens_is_held_back_and_nobody_else() {
        let mut strikes = Strikes::default();
        let looked = (0..1000).filter(|_| {
            let may = strikes.may_check(1, at(0));
            if may {
                strikes.on_bad(1, at(0));
            }
            may
        });
        assert_eq!(looked.count(), 100);
        assert!(strikes.may_check(2, at(0)), "another client");
        assert!(!strikes.may_check(1, at(50)));
        assert!(strikes.may_check(1, at(150)), "a while later");
        assert!(strikes.may_check(1, at(60_000)));
        assert!(strikes.clients.is_empty(), "who is calm is forgotten");
    }

    // K2
    #[test]
    fn what_is_remembered_is_bounded_and_the_worst_stays() {
        let mut strikes = Strikes::default();
        for _ in 0..100 {
            strikes.on_bad(0, at(0));
        }
        for client in 1..10_000 {
            strikes.on_bad(client, at(0));
            assert!(strikes.clients.len() <= CLIENTS_MAX);
        }
        assert!(!strikes.may_check(0, at(0)));
    }
}
