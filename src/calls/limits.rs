//! How long a call may take (C-D1, C-D3). Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::{MissingKey, ServiceName};

/// What the settings of a service say about its calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallPolicy {
    /// For a call that brings no deadline, until it turns out to be a stream.
    pub timeout: Duration,
    /// For a stream without a deadline: longest time without a byte in either direction.
    pub idle_timeout: Duration,
    /// For a stream without a deadline: longest time in all.
    pub duration_max: Duration,
    /// Where calls without a key go.
    pub missing_key: MissingKey,
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(5 * 60),
            duration_max: Duration::from_secs(24 * 60 * 60),
            missing_key: MissingKey::Reject,
        }
    }
}

/// The policies of all services; one that is not named has the default.
#[derive(Clone, Debug, Default)]
pub struct CallPolicies {
    named: HashMap<ServiceName, CallPolicy>,
    default: CallPolicy,
}

impl CallPolicies {
    /// Policies of these services.
    pub fn new(named: HashMap<ServiceName, CallPolicy>, default: CallPolicy) -> Self {
        Self { named, default }
    }

    /// The policy of a service.
    pub fn of(&self, service: Option<&str>) -> &CallPolicy {
        service
            .and_then(|service| self.named.get(service))
            .unwrap_or(&self.default)
    }
}

/// The time limits of one call.
#[derive(Clone, Copy, Debug)]
pub struct TimeLimits {
    deadline: Option<Instant>,
    received: Instant,
    active: Instant,
    streams: bool,
    timeout: Duration,
    idle_timeout: Duration,
    duration_max: Duration,
    /// Whatever else is said.
    ceiling: Option<Instant>,
    /// If it is a stream.
    stream_ceiling: Option<Instant>,
}

impl TimeLimits {
    /// Limits of a call received at `received`. With a deadline of the caller nothing else counts.
    pub fn new(policy: &CallPolicy, received: Instant, deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            received,
            active: received,
            streams: false,
            timeout: policy.timeout,
            idle_timeout: policy.idle_timeout,
            duration_max: policy.duration_max,
            ceiling: None,
            stream_ceiling: None,
        }
    }

    /// It ends at that time at the latest: another unit may have its key by then.
    pub fn end_by(&mut self, at: Instant) {
        self.ceiling = Some(self.ceiling.map_or(at, |other| other.min(at)));
    }

    /// It ends at that time at the latest if it is a stream by then: its key is being moved.
    pub fn end_stream_by(&mut self, at: Instant) {
        self.stream_ceiling = Some(self.stream_ceiling.map_or(at, |other| other.min(at)));
    }

    /// Whether it has to make way because its key is being moved.
    pub fn makes_way(&self, now: Instant) -> bool {
        self.streams && self.stream_ceiling.is_some_and(|at| at <= now)
    }

    /// Bytes moved without ending the call: it is a stream.
    pub fn on_stream_activity(&mut self, now: Instant) {
        self.streams = true;
        self.active = now;
    }

    /// When the call's time is over, as things stand.
    pub fn limit(&self) -> Option<Instant> {
        let stream = self.stream_ceiling.filter(|_| self.streams);
        [self.own_limit(), self.ceiling, stream].into_iter().flatten().min()
    }

    fn own_limit(&self) -> Option<Instant> {
        if self.deadline.is_some() {
            return self.deadline;
        }
        if !self.streams {
            return self.received.checked_add(self.timeout);
        }
        let idle = self.active.checked_add(self.idle_timeout);
        let longest = self.received.checked_add(self.duration_max);
        match (idle, longest) {
            (Some(idle), Some(longest)) => Some(idle.min(longest)),
            (idle, longest) => idle.or(longest),
        }
    }

    /// Whether the time is over.
    pub fn is_over(&self, now: Instant) -> bool {
        self.limit().is_some_and(|limit| limit <= now)
    }

    /// Which limit it is that ends the call, for the caller's developer.
    pub fn describe(&self, now: Instant) -> String {
        if self.makes_way(now) {
            return "the key is being moved to another unit; a stream makes way for that".to_owned();
        }
        if self.own_limit().is_none_or(|limit| limit > now) {
            return "calls with a key may not take longer than routes.in_flight_max".to_owned();
        }
        if self.deadline.is_some() {
            return "the caller's deadline passed".to_owned();
        }
        if !self.streams {
            return format!(
                "no answer within the timeout of the service, {}",
                humantime::format_duration(self.timeout)
            );
        }
        if now.saturating_duration_since(self.active) >= self.idle_timeout {
            return format!(
                "the stream was idle for {}",
                humantime::format_duration(self.idle_timeout)
            );
        }
        format!(
            "the stream reached its longest duration, {}",
            humantime::format_duration(self.duration_max)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    // C-D3: unary, idle and longest time are separate limits, and an active stream is not ended by the first two.
    #[test]
    fn a_call_without_deadline_has_the_timeout_until_it_streams() {
        let policy = CallPolicy {
            timeout: secs(30),
            idle_timeout: secs(60),
            duration_max: secs(100),
            ..CallPolicy::default()
        };
        let start = tokio::time::Instant::now().into_std();
        let mut limits = TimeLimits::new(&policy, start, None);
        assert_eq!(limits.limit(), Some(start + secs(30)));
        limits.on_stream_activity(start + secs(29));
        assert_eq!(limits.limit(), Some(start + secs(89)));
        limits.on_stream_activity(start + secs(50));
        assert_eq!(
            limits.limit(),
            Some(start + secs(100)),
            "the longest time holds however active it is"
        );
        assert!(limits.is_over(start + secs(100)));
    }

    // C-D1
    #[test]
    fn the_callers_deadline_counts_alone() {
        let start = tokio::time::Instant::now().into_std();
        let mut limits = TimeLimits::new(&CallPolicy::default(), start, Some(start + secs(3600)));
        assert_eq!(limits.limit(), Some(start + secs(3600)));
        limits.on_stream_activity(start);
        assert_eq!(limits.limit(), Some(start + secs(3600)));
    }
}
