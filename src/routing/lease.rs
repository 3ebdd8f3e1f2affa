//! How long a relay may decide by its copy that it owns a key (R-3.7, R-D7).
//!
//! Whoever takes keys over by force waits until every relay that could still admit writes has stopped. So a relay stops
//! before: after four fifths of the lease, counted from when it *sent* the last renewal that was answered.
//!
//! # Invariants
//! - S1. What is given is never longer than what the store counts: it counts from when the renewal came, which is later, and
//!   the whole lease.
//! - S2. A new session admits nothing before the copy is at the revision at which it was granted (R-I14).
//! - S3. Who may have been counted as stopped has stopped for good: a renewal that is answered when the shortest lease is over
//!   ends the session. The next one begins where the store is (S2).
//! - S4. No clock shows the time of another one, and none goes exactly as fast: that of a relay may be 2 % slower than that of the
//!   store. The fifth of the lease that a relay leaves pays for that, also for the calls that it has let through; so those may not run
//!   for more than eight leases. With 20 s and 10 s there is room for 15 %; the simulation (`control::sim`) has clocks that are 6 %
//!   slower, with 7 s and 10 s. A clock that is faster only stops sooner.

use std::time::Duration;

use super::record::{Lease, Rev, SessionId};

/// What a relay's session allows. Times are of a clock that goes on while the machine sleeps.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LeaseState {
    session: Option<Session>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Session {
    id: SessionId,
    granted_at: Rev,
    /// When the last renewal was sent that was answered.
    renewed: Duration,
}

impl LeaseState {
    /// A session was granted; its request was sent at `sent`.
    pub fn opened(&mut self, id: SessionId, granted_at: Rev, sent: Duration) {
        self.session = Some(Session {
            id,
            granted_at,
            renewed: sent,
        });
    }

    /// A renewal of this session that was sent at `sent` was answered. One of another session is ignored; one that comes too late
    /// ends the session (S3).
    pub fn renewed(&mut self, id: SessionId, sent: Duration, now: Duration) {
        let Some(session) = self.session.as_mut().filter(|session| session.id == id) else {
            return;
        };
        if now.saturating_sub(session.renewed) >= usable(LEASE_MIN) {
            self.session = None;
        } else {
            session.renewed = session.renewed.max(sent);
        }
    }

    /// The store has given the session up.
    pub fn over(&mut self, id: SessionId) {
        self.session = self.session.filter(|session| session.id != id);
    }

    /// The present session.
    pub fn session(&self) -> Option<SessionId> {
        self.session.map(|session| session.id)
    }

    /// Whether writes of a dimension with this lease are admitted now, by a copy at `applied`.
    pub fn admits(&self, lease: Lease, applied: Rev, now: Duration) -> bool {
        let Some(session) = self.session else { return false };
        if applied < session.granted_at {
            return false;
        }
        match lease.length() {
            None => true,
            Some(length) => now.saturating_sub(session.renewed) < usable(length),
        }
    }
}

/// The part of a lease that a relay uses.
fn usable(lease: Duration) -> Duration {
    lease.saturating_mul(4) / 5
}

/// Whether the store may count a relay as stopped for a lease: it has been silent for all of it, and what it had admitted is
/// over too. `None`: for longer than stores remember.
pub fn is_expired(silent_for: Option<Duration>, lease: Lease, in_flight_max: Duration) -> bool {
    let Some(length) = lease.length() else { return false };
    silent_for.unwrap_or(REMEMBERED) >= length.saturating_add(in_flight_max)
}

/// Calls under a lease that ends run for no more than so many times the lease (S4).
pub const IN_FLIGHT_LEASES_MAX: u32 = 8;
/// The shortest lease that a dimension can have.
const LEASE_MIN: Duration = Duration::from_secs(7);
/// The longest one that ends, and the longest time that a call may run under such a one: together what stores remember.
pub const LEASE_MAX: Duration = Duration::from_secs(3600);
/// Every store remembers for so long at least when it heard of a relay.
pub const REMEMBERED: Duration = Duration::from_secs(2 * 3600);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    proptest! {
        // S1, S4, R-I14, R-I15: whatever is sent, lost and answered late, and how fast the clocks are, once the store counts the
        // relay as stopped, it has stopped, and all that it had admitted has had its time. Times are of the store's clock.
        #[test]
        fn who_is_counted_as_stopped_has_stopped(
            renewals in prop::collection::vec((1_u64..4000, 0_u64..2000, 0_u64..2000, any::<bool>(), any::<bool>()), 0..20),
            asked in 0_u64..300_000, seconds in 7_u32..30, share in 1_u64..=100, later in (0_u64..5000, 0_u64..2000),
            slow in 0_u64..=20,
        ) {
            // Of eight leases.
            let longest = at(u64::from(seconds * IN_FLIGHT_LEASES_MAX) * 10 * share);
            let (lease, in_flight) = (Lease::Seconds(seconds), longest);
            // What the relay's clock shows then, and when it shows so much.
            let shown = |time: u64| at(time * (1000 - slow) / 1000);
            let really = |time: Duration| time * 1000 / u32::try_from(1000 - slow).unwrap();
            let mut state = LeaseState::default();
            let id = SessionId(1);
            state.opened(id, Rev(0), at(0));
            let (mut now, mut heard) = (0, 0);
            let mut answers = Vec::new();
            for (pause, there, back, arrives, answered) in renewals {
                now += pause;
                if arrives {
                    heard = heard.max(now + there);
                    if answered {
                        answers.push((now + there + back, now));
                    }
                }
            }
            let asked = asked.max(heard);
            for (came, sent) in answers.into_iter().filter(|(came, _)| *came <= asked) {
                state.renewed(id, shown(sent), shown(came));
            }
            if is_expired(Some(at(asked - heard)), lease, in_flight) {
                // The last moment at which a write can have been admitted.
                let last = (0..=asked).rev().find(|time| state.admits(lease, Rev(0), shown(*time)));
                prop_assert!(last.is_none_or(|last| at(last) + really(in_flight) <= at(asked)), "{last:?} {asked}");
                // Nor does it begin again, whatever is answered later: others have its keys (S3).
                let sent = (asked + later.0).saturating_sub(4000);
                let came = (asked + later.0).max(sent) + later.1;
                state.renewed(id, shown(sent), shown(came));
                prop_assert!(!state.admits(lease, Rev(0), shown(came)), "{sent} {came} {asked}");
            }
        }
    }

    // S4: the last call that is let through, and runs for as long as it may, ends before anybody counts the relay as stopped.
    #[test]
    fn a_lease_has_room_for_clocks_that_are_2_percent_slower() {
        for seconds in [7, 20, 3600] {
            let length = Duration::from_secs(seconds);
            let lease = Lease::Seconds(u32::try_from(seconds).unwrap());
            let mut state = LeaseState::default();
            state.opened(SessionId(1), Rev(0), at(0));
            let last = usable(length).saturating_sub(at(1));
            assert!(state.admits(lease, Rev(0), last) && !state.admits(lease, Rev(0), last + at(1)));
            let is_over_in_time = |leases: u32| {
                let longest = length * leases;
                let ends = (last + longest) * 100 / 98;
                assert!(!is_expired(
                    Some((length + longest).saturating_sub(at(1))),
                    lease,
                    longest
                ));
                is_expired(Some(length + longest), lease, longest) && ends <= length + longest
            };
            assert!(is_over_in_time(IN_FLIGHT_LEASES_MAX));
            assert!(!is_over_in_time(IN_FLIGHT_LEASES_MAX + 2), "not for much longer ones");
        }
    }

    #[test]
    fn a_session_counts_from_what_was_granted_to_what_was_sent() {
        let mut state = LeaseState::default();
        let lease = Lease::Seconds(20);
        assert!(!state.admits(lease, Rev(9), at(0)));
        state.opened(SessionId(1), Rev(5), at(1000));
        assert!(!state.admits(lease, Rev(4), at(1000)), "R-I14: it has not caught up");
        assert!(state.admits(lease, Rev(5), at(16_999)));
        assert!(!state.admits(lease, Rev(5), at(17_000)));
        assert!(state.admits(Lease::Infinite, Rev(5), at(1_000_000)));
        let mut other = state;
        other.renewed(SessionId(1), at(3000), at(6600));
        assert!(!other.admits(Lease::Infinite, Rev(9), at(6600)), "S3");
        state.renewed(SessionId(2), at(16_000), at(16_000));
        assert!(!state.admits(lease, Rev(5), at(17_000)), "of another session");
        state.renewed(SessionId(1), at(2000), at(2000));
        state.renewed(SessionId(1), at(1500), at(2100));
        assert!(state.admits(lease, Rev(5), at(17_999)));
        state.over(SessionId(1));
        assert!(!state.admits(Lease::Infinite, Rev(5), at(2000)));
        assert!(!is_expired(None, Lease::Infinite, at(0)));
        assert!(is_expired(None, lease, at(0)));
        assert!(!is_expired(Some(at(29_999)), lease, at(10_000)));
        assert!(is_expired(Some(at(30_000)), lease, at(10_000)));
    }
}
