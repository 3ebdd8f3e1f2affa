//! Keeps log lines that repeat from flooding the log (O-M4).

use std::time::{Duration, Instant};

/// Lets a number of lines through per interval and counts what it held back. Pure: the caller brings the time.
#[derive(Clone, Debug)]
pub struct Repeats {
    interval: Duration,
    lines_max: u32,
    since: Option<Instant>,
    lines: u32,
    held_back: u64,
}

impl Repeats {
    /// At most `lines_max` lines per `interval`.
    pub fn new(lines_max: u32, interval: Duration) -> Self {
        Self {
            interval,
            lines_max,
            since: None,
            lines: 0,
            held_back: 0,
        }
    }

    /// `Some` if a line may be written now, with the number of those held back since the last.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        let is_over = |since| now.saturating_duration_since(since) >= self.interval;
        if self.since.is_none_or(is_over) {
            self.since = Some(now);
            self.lines = 0;
        }
        if self.lines >= self.lines_max {
            self.held_back = self.held_back.saturating_add(1);
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lines_pass_per_interval_and_the_next_says_how_many_were_held_back() {
        // O-M4
        let start = tokio::time::Instant::now().into_std();
        let at = |millis| start + Duration::from_millis(millis);
        let mut repeats = Repeats::new(2, Duration::from_secs(1));
        assert_eq!(repeats.admit(at(0)), Some(0));
        assert_eq!(repeats.admit(at(1)), Some(0));
        assert_eq!(repeats.admit(at(2)), None);
        assert_eq!(repeats.admit(at(999)), None);
        assert_eq!(repeats.admit(at(1000)), Some(2));
        assert_eq!(repeats.admit(at(1500)), Some(0));
        assert_eq!(repeats.admit(at(1501)), None);
        assert_eq!(repeats.admit(at(9000)), Some(1));
    }
}
