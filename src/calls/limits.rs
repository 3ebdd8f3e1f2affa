//! How long a call may take (C-D1, C-D3). Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::model::{Request, RoutePolicy, ServiceName};

/// What the settings of a service say about its calls.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CallPolicy {
    /// For a call that brings no deadline, until it turns out to be a stream.
    pub timeout: Duration,
    /// For a stream without a deadline: longest time without a byte in either direction.
    pub idle_timeout: Duration,
    /// For a stream without a deadline: longest time in all.
    pub duration_max: Duration,
    /// How they are routed.
    pub route: RoutePolicy,
    /// The same of methods that are routed in another way.
    pub methods: HashMap<String, RoutePolicy>,
}

impl CallPolicy {
    /// How a call is routed.
    pub fn route_of(&self, request: &Request) -> &RoutePolicy {
        if self.methods.is_empty() {
            return &self.route;
        }
        self.route_of_method(request.method())
    }

    /// How calls of a method are routed.
    pub fn route_of_method(&self, method: Option<&str>) -> &RoutePolicy {
        method
            .and_then(|method| self.methods.get(method))
            .unwrap_or(&self.route)
    }
}

impl Default for CallPolicy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(5 * 60),
            duration_max: Duration::from_secs(24 * 60 * 60),
            route: RoutePolicy::default(),
            methods: HashMap::new(),
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
    /// Something of the reply was there before its end.
    replied: bool,
    /// It may go on for ever: a stream, and not one request that is whole and waits for its answer.
    is_open: bool,
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
            replied: false,
            is_open: false,
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

    /// Its key is being moved: if it is a stream, or becomes one, it ends half a second later at the latest. Answers when to look.
    pub fn make_way(&mut self, now: Instant) -> Instant {
        let at = now + STREAM_GRACE;
        self.stream_ceiling = Some(self.stream_ceiling.map_or(at, |other| other.min(at)));
        at
    }

    /// Whether it has to make way because its key is being moved.
    pub fn makes_way(&self, now: Instant) -> bool {
        self.is_open && self.stream_ceiling.is_some_and(|at| at <= now)
    }

    /// Bytes moved without ending the call: it is a stream.
    pub fn on_stream_activity(&mut self, now: Instant) {
        if !self.is_open {
            // The parts of a unary answer come one after the other.
            self.stream_ceiling = self.stream_ceiling.map(|at| at.max(now + STREAM_GRACE));
        }
        self.streams = true;
        self.is_open = true;
        self.active = now;
    }

    /// The same in the direction of the reply.
    pub fn on_reply_activity(&mut self, now: Instant) {
        self.replied = true;
        self.on_stream_activity(now);
    }

    /// The request is whole. Many callers send the end of a unary request after it.
    pub fn on_request_end(&mut self) {
        self.is_open &= self.replied;
    }

    /// When the call's time is over, as things stand.
    pub fn limit(&self) -> Option<Instant> {
        let stream = self.stream_ceiling.filter(|_| self.is_open);
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

/// How long streams may go on after their key was frozen; well below the time a key may be frozen.
const STREAM_GRACE: Duration = Duration::from_millis(500);

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

    // a unary call whose end comes after its message finishes at its old owner; what streams makes way.
    #[test]
    fn only_what_may_go_on_for_ever_makes_way_for_a_move() {
        let start = tokio::time::Instant::now().into_std();
        let new = || {
            let mut limits = TimeLimits::new(&CallPolicy::default(), start, Some(start + secs(60)));
            limits.make_way(start);
            limits
        };
        let whole = new();
        let mut unary = new();
        unary.on_stream_activity(start);
        let mut uploading = unary;
        unary.on_request_end();
        uploading.on_stream_activity(start);
        let mut answered = unary;
        answered.on_reply_activity(start + secs(9));
        let mut talking = new();
        talking.on_reply_activity(start);
        talking.on_request_end();
        let soon = start + STREAM_GRACE;
        for (limits, expected) in [
            (whole, start + secs(60)),
            (unary, start + secs(60)),
            (uploading, soon),
            (talking, soon),
            // What follows the first part of a late answer has its time too.
            (answered, soon + secs(9)),
        ] {
            assert_eq!(limits.limit(), Some(expected), "{limits:?}");
            assert_eq!(limits.makes_way(soon), expected == soon, "{limits:?}");
        }
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
