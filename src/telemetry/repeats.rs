//! Keeps a log line that repeats from flooding the log.

use std::time::{Duration, Instant};

/// Lets a line through once per interval and counts what it held back. Pure: the caller brings the time.
#[derive(Clone, Debug)]
pub struct Repeats {
    interval: Duration,
    last: Option<Instant>,
    held_back: u64,
}

impl Repeats {
    /// One line per `interval`.
    pub fn new(interval: Duration) -> Self {
        Self {
            interval,
            last: None,
            held_back: 0,
        }
    }

    /// `Some` if the line may be written now, with the number of equal ones held back since the last.
    pub fn admit(&mut self, now: Instant) -> Option<u64> {
        let due = self
            .last
            .is_none_or(|last| now.saturating_duration_since(last) >= self.interval);
        if !due {
            self.held_back = self.held_back.saturating_add(1);
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.held_back))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_passes_once_per_interval_and_says_how_many_were_held_back() {
        // O-M4
        let start = tokio::time::Instant::now().into_std();
        let at = |millis| start + Duration::from_millis(millis);
        let mut repeats = Repeats::new(Duration::from_secs(1));
        assert_eq!(repeats.admit(at(0)), Some(0));
        assert_eq!(repeats.admit(at(1)), None);
        assert_eq!(repeats.admit(at(999)), None);
        assert_eq!(repeats.admit(at(1000)), Some(2));
        assert_eq!(repeats.admit(at(1500)), None);
        assert_eq!(repeats.admit(at(9000)), Some(1));
    }
}
