//! How live messages and backlog share the way to a unit (M-D3, M-D4, M-D5).
//!
//! # How
//! - Alone, the backlog may fill its lane.
//! - While live messages come, it sends a window, waits until that has arrived, and rests for as long as the window took beyond
//!   the bare delay of the path: it uses the link half of the time, however fast that is. The window becomes smaller when it
//!   took long, so that live messages do not wait behind it.
//! - While live messages have to wait, it gets its minimal share of the bytes.
//! - A peer that is out of resources halves its rate; the rate comes back in steps of a tenth per second.
//!
//! # Invariants
//! - S1. The backlog always gets its minimal share: where priorities on the wire keep it from arriving, live messages wait for it.
//! - S2. If the backlog does not move then, live messages wait a second of five at most.

use std::collections::VecDeque;
use std::time::Duration;

use super::lane::Lane;
use super::pace::{Bucket, float, whole};

/// Who may send how much.
#[derive(Debug, Default)]
pub(super) struct Share {
    /// What the backlog gets at least of the bytes, from 0 to 1.
    least: f64,
    lane_bytes_max: usize,
    live_at: Option<Duration>,
    window: usize,
    cycle: Option<Cycle>,
    rest_until: Duration,
    delay: Delay,
    /// Bytes of the last seconds, older ones count less.
    live_sent: f64,
    backlog_sent: f64,
    backlog_arrived: f64,
    /// Since when live messages wait for the backlog.
    held_since: Option<Duration>,
    faded: Duration,
    brake: Option<Brake>,
    live_rate: Meter,
    pub(super) backlog_rate: Meter,
    pub(super) backlog_messages: Meter,
}

/// A window of backlog.
#[derive(Clone, Copy, Debug)]
struct Cycle {
    since: Duration,
    sent: usize,
}

/// The backlog is slowed because the peer is out of resources.
#[derive(Debug)]
struct Brake {
    bucket: Bucket,
    /// Bytes per second before.
    peak: f64,
    stepped: Duration,
    halved: Duration,
}

/// The shortest time from sending to acknowledgement, of the last minute.
#[derive(Debug, Default)]
struct Delay {
    now: Option<Duration>,
    before: Option<Duration>,
    since: Duration,
}

/// Something per second, over the last two seconds.
#[derive(Debug, Default)]
pub(super) struct Meter {
    slots: VecDeque<(Duration, f64)>,
}

/// What the backlog may send now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Allowance {
    pub(super) bytes: usize,
    /// When there will be more, unless something arrives.
    pub(super) wake: Option<Duration>,
}

impl Share {
    /// Other settings are in force.
    pub(super) fn configure(&mut self, min_share_percent: u8, lane_bytes_max: usize) {
        self.least = f64::from(min_share_percent.min(75)) / 100.0 * AIM;
        self.lane_bytes_max = lane_bytes_max;
        self.window = (lane_bytes_max / 8).max(WINDOW_MIN);
    }

    /// The bare delay of the path.
    pub(super) fn delay(&self) -> Duration {
        self.delay.get()
    }

    /// Live messages were sent.
    pub(super) fn on_live_sent(&mut self, now: Duration, bytes: usize) {
        self.fade(now);
        self.live_at = Some(now);
        self.live_sent += float(bytes);
    }

    /// Messages of the backlog were sent.
    pub(super) fn on_backlog_sent(&mut self, now: Duration, bytes: usize) {
        self.fade(now);
        self.backlog_sent += float(bytes);
        if let Some(cycle) = &mut self.cycle {
            cycle.sent += bytes;
        }
        if let Some(brake) = &mut self.brake {
            brake.bucket.take(float(bytes));
        }
    }

    /// A batch arrived.
    pub(super) fn on_live_arrived(&mut self, now: Duration, bytes: usize, sent: Duration) {
        self.delay.learn(now, now.saturating_sub(sent));
        self.live_rate.add(now, float(bytes));
    }

    /// A batch arrived. `empty`: no other is on its way.
    pub(super) fn on_backlog_arrived(&mut self, now: Duration, bytes: usize, sent: Duration, empty: bool) {
        self.fade(now);
        self.delay.learn(now, now.saturating_sub(sent));
        self.backlog_rate.add(now, float(bytes));
        self.backlog_arrived += float(bytes);
        self.held_since = None;
        if let Some(cycle) = self.cycle.filter(|_| empty) {
            let queued = now.saturating_sub(cycle.since).saturating_sub(self.delay());
            let most = QUEUED_MAX + self.delay() / 4;
            if queued > most {
                self.window = (self.window / 2).max(WINDOW_MIN);
            } else if queued < most / 2 && cycle.sent >= self.window {
                self.window = (self.window + self.window / 4).min((self.lane_bytes_max / 2).max(WINDOW_MIN));
            }
            self.rest_until = now + queued;
            self.cycle = None;
        }
    }

    /// The lane of the backlog is gone.
    pub(super) fn on_backlog_down(&mut self) {
        self.cycle = None;
    }

    /// The peer is out of resources (M-D5).
    pub(super) fn on_busy(&mut self, now: Duration) {
        let measured = self.backlog_rate.per_second(now);
        let live = self.live_rate.per_second(now);
        let floor = (self.least * (live + measured)).max(RATE_MIN);
        let (rate, peak) = match &self.brake {
            Some(brake) if now.saturating_sub(brake.halved) < STEP => return,
            Some(brake) => (brake.bucket.rate().min(measured.max(floor)), brake.peak),
            None => (measured, measured.max(floor)),
        };
        let rate = (rate / 2.0).max(floor);
        self.brake = Some(Brake {
            bucket: Bucket::new(now, rate, rate * BRAKE_BURST),
            peak,
            stepped: now,
            halved: now,
        });
    }

    /// What the backlog may send. `live_waits`: live messages cannot be sent at once.
    pub(super) fn allowance(&mut self, now: Duration, lane: &Lane, live_waits: bool) -> Allowance {
        self.fade(now);
        let mut room = self.lane_bytes_max.saturating_sub(lane.bytes());
        if let Some(wake) = self.braked(now, lane.busy, &mut room) {
            return wake;
        }
        if live_waits {
            self.cycle = None;
            let share = self.least / (1.0 - self.least);
            let entitled = whole((share * self.live_sent - self.backlog_sent).max(0.0));
            return Allowance {
                bytes: room.min(usize::try_from(entitled).unwrap_or(usize::MAX)),
                wake: Some(now + LOOK_AGAIN),
            };
        }
        let active_until = self.live_at.map(|at| at + ACTIVE).filter(|until| now < *until);
        if active_until.is_none() {
            self.cycle = None;
            return Allowance {
                bytes: room,
                wake: None,
            };
        }
        if now < self.rest_until {
            return Allowance {
                bytes: 0,
                wake: Some(self.rest_until),
            };
        }
        let window = self.window;
        let cycle = self.cycle.get_or_insert(Cycle {
            since: now,
            sent: lane.bytes(),
        });
        if cycle.sent == 0 {
            cycle.since = now;
        }
        Allowance {
            bytes: room.min(window.saturating_sub(cycle.sent)),
            wake: active_until,
        }
    }

    /// Whether live messages must wait for the backlog; until when, at most (S1, S2).
    pub(super) fn holds_live(&mut self, now: Duration, lane: &Lane) -> Option<Duration> {
        self.fade(now);
        let age = now.saturating_sub(lane.oldest()?);
        let patience = self.delay() * 2 + LATE;
        let has = self.backlog_arrived;
        if age < patience || has >= self.least * (self.live_sent + has) || lane.busy {
            self.held_since = None;
            return None;
        }
        let since = self.held_since.filter(|since| now < *since + HOLD_AGAIN).unwrap_or(now);
        self.held_since = Some(since);
        (now < since + HOLD_MAX).then_some(since + HOLD_MAX)
    }

    /// Steps of the brake; `Some`: nothing may go.
    fn braked(&mut self, now: Duration, busy: bool, room: &mut usize) -> Option<Allowance> {
        let brake = self.brake.as_mut()?;
        let step = now.saturating_sub(brake.stepped);
        if step >= STEP {
            brake.stepped = now;
            let steps = if busy { 0.0 } else { step.as_secs_f64() };
            let rate = brake.bucket.rate() + steps * brake.peak * STEP_UP;
            brake.bucket.set(now, rate, rate * BRAKE_BURST);
            if rate >= brake.peak {
                self.brake = None;
                return None;
            }
        }
        brake.bucket.refill(now);
        if brake.bucket.allows(1.0) {
            // The rest of a message that is larger is paid for afterwards.
            *room = (*room).min(usize::try_from(brake.bucket.worth()).unwrap_or(usize::MAX));
            return None;
        }
        Some(Allowance {
            bytes: 0,
            wake: Some(brake.bucket.ready_at(1.0)),
        })
    }

    fn fade(&mut self, now: Duration) {
        if now.saturating_sub(self.faded) >= FADE {
            self.faded = now;
            self.live_sent /= 2.0;
            self.backlog_sent /= 2.0;
            self.backlog_arrived /= 2.0;
        }
    }
}

impl Delay {
    fn get(&self) -> Duration {
        self.now.into_iter().chain(self.before).min().unwrap_or_default()
    }

    fn learn(&mut self, now: Duration, took: Duration) {
        if now.saturating_sub(self.since) > DELAY_TIME {
            self.since = now;
            self.before = self.now.take();
        }
        self.now = Some(self.now.map_or(took, |best| best.min(took)));
    }
}

impl Meter {
    /// So much, now.
    pub(super) fn add(&mut self, now: Duration, amount: f64) {
        match self.slots.back_mut() {
            Some((since, sum)) if now.saturating_sub(*since) < METER_SLOT => *sum += amount,
            _ => self.slots.push_back((now, amount)),
        }
        self.forget(now);
    }

    /// Per second, of late.
    pub(super) fn per_second(&mut self, now: Duration) -> f64 {
        self.forget(now);
        self.peek(now)
    }

    /// The same without tidying up.
    pub(super) fn peek(&self, now: Duration) -> f64 {
        let recent = self
            .slots
            .iter()
            .filter(|(since, _)| now.saturating_sub(*since) <= METER_TIME);
        let (mut first, mut sum) = (None, 0.0);
        for (since, amount) in recent {
            first.get_or_insert(*since);
            sum += amount;
        }
        let span = first.map_or(METER_SLOT, |first| now.saturating_sub(first).max(METER_SLOT));
        sum / span.as_secs_f64()
    }

    fn forget(&mut self, now: Duration) {
        while self
            .slots
            .front()
            .is_some_and(|(since, _)| now.saturating_sub(*since) > METER_TIME)
        {
            self.slots.pop_front();
        }
    }
}

/// So that it is the share at least, a little more is aimed at.
const AIM: f64 = 1.2;
/// Live messages count as coming for so long after the last one.
const ACTIVE: Duration = Duration::from_secs(1);
/// While live messages wait, the backlog looks again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// A window of backlog may keep the path busy for so long, and a quarter of its delay.
const QUEUED_MAX: Duration = Duration::from_millis(8);
/// The smallest window.
const WINDOW_MIN: usize = 16 << 10;
/// A batch of the backlog is late after this, beside twice the bare delay.
const LATE: Duration = Duration::from_millis(100);
/// Live messages wait no longer than this for the backlog to move,
const HOLD_MAX: Duration = Duration::from_secs(1);
/// and again after this.
const HOLD_AGAIN: Duration = Duration::from_secs(5);
/// Bytes count half after this time.
const FADE: Duration = Duration::from_secs(1);
/// Time of one step of the brake,
const STEP: Duration = Duration::from_secs(1);
/// and the part of the former rate that it gives back.
const STEP_UP: f64 = 0.1;
/// Burst of the brake in seconds of its rate.
const BRAKE_BURST: f64 = 0.05;
/// The slowest that the backlog becomes, in bytes per second.
const RATE_MIN: f64 = 16_384.0;
/// The shortest delay is sought anew after this.
const DELAY_TIME: Duration = Duration::from_secs(30);
/// What a meter looks back on,
const METER_TIME: Duration = Duration::from_secs(2);
/// in steps of this.
const METER_SLOT: Duration = Duration::from_millis(250);
