//! How long the thread of the queue leaves alone what comes in, so that more of it is done in one look.
//!
//! A look costs nearly as much for one input as for ten: threads are woken, a batch is written and synced, and answered.
//! Where many come, a short rest between two looks saves more time than it takes, for those who wait as well.
//!
//! # Invariants
//! - R1. There is a rest only where two more inputs at least are expected meanwhile: a message that comes alone is never held up.
//! - R2. No rest goes on beyond [`LONGEST`] after the look has begun.

use std::time::Duration;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// When the last look began.
    last: Duration,
    /// Inputs a second, of late.
    rate: f64,
}

impl Rest {
    /// A look begins, and so many inputs were there.
    pub(super) fn on_look(&mut self, now: Duration, inputs: usize) {
        let gap = now
            .saturating_sub(self.last)
            .max(Duration::from_micros(1))
            .as_secs_f64();
        let weight = (gap / MEMORY.as_secs_f64()).min(1.0);
        let inputs = f64::from(u32::try_from(inputs).unwrap_or(u32::MAX));
        self.rate += (inputs / gap - self.rate) * weight;
        self.last = now;
    }

    /// The look is over: how long to rest. `on_disk` of its time it waited for the disk.
    pub(super) fn after_look(&self, now: Duration, on_disk: Duration) -> Option<Duration> {
        if self.rate * SHORTEST.as_secs_f64() < 2.0 {
            return None;
        }
        let took = now.saturating_sub(self.last);
        let work = took.saturating_sub(on_disk);
        let until_next = work.saturating_mul(SHARE).clamp(SHORTEST, LONGEST);
        Some(until_next.saturating_sub(took)).filter(|rest| !rest.is_zero())
    }
}

/// From one look to the next where many inputs come. About what waking the threads of one message takes.
const SHORTEST: Duration = Duration::from_micros(200);
/// The same where looks take long: many messages are in flight, and answers to some of them may wait for others.
const LONGEST: Duration = Duration::from_millis(1);
/// The thread works for one part of so many, at most, as long as that does not exceed `LONGEST`.
const SHARE: u32 = 4;
/// What was longer ago says nothing of the rate now.
const MEMORY: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;

    const US: Duration = Duration::from_micros(1);

    /// Looks every `every`, each with so many inputs and so long in all and at the disk; the last rest.
    fn looks(every: Duration, inputs: usize, took: Duration, on_disk: Duration) -> Option<Duration> {
        let (mut rest, mut now) = (Rest::default(), Duration::ZERO);
        let mut last = None;
        for _ in 0..100 {
            now += every;
            rest.on_look(now, inputs);
            last = rest.after_look(now + took, on_disk);
        }
        last
    }

    #[test]
    fn what_comes_alone_is_not_held_up() {
        // R1: one publisher that waits for each answer, and 500 messages a second.
        assert_eq!(looks(US * 330, 3, US * 90, US * 80), None);
        assert_eq!(looks(US * 2_000, 1, US * 90, US * 80), None);
    }

    #[test]
    fn where_many_come_looks_are_at_a_distance() {
        assert_eq!(looks(US * 100, 4, US * 90, US * 70), Some(US * 110));
        // The sync was longer than the rest would be.
        assert_eq!(looks(US * 300, 12, US * 250, US * 210), None);
        // Looks that take long are further apart.
        assert_eq!(looks(US * 400, 60, US * 200, US * 100), Some(US * 200));
    }

    #[test]
    fn no_rest_is_long() {
        // R2
        assert_eq!(looks(US * 900, 2_000, US * 800, Duration::ZERO), Some(US * 200));
        assert_eq!(looks(US * 2_000, 2_000, US * 1_900, Duration::ZERO), None);
    }

    #[test]
    fn a_rush_that_is_over_is_forgotten() {
        let mut rest = Rest::default();
        for turn in 1..50 {
            rest.on_look(US * 200 * turn, 50);
        }
        assert!(rest.after_look(US * 200 * 50, Duration::ZERO).is_some());
        let later = US * 200 * 50 + MEMORY;
        rest.on_look(later, 1);
        assert_eq!(rest.after_look(later + US * 20, Duration::ZERO), None);
    }
}
