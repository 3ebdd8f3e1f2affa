//! A link on a virtual clock, with a capacity and a delay, on which the live lane goes first.

use std::collections::VecDeque;
use std::time::Duration;

use super::world::World;
use crate::queue::lanes::{LaneKind, ToReceiver, ToSender};

const TICK: Duration = Duration::from_millis(1);

/// The path between the two relays.
pub(super) struct Link {
    /// Bytes per second.
    capacity: usize,
    /// One way.
    delay: Duration,
    /// Nothing passes before.
    pub(super) blocked_until: Duration,
    credit: usize,
    on_way: VecDeque<(Duration, usize, ToReceiver)>,
    back: VecDeque<(Duration, usize, ToSender)>,
    /// When each message arrived, on which lane, how large, and how long after it was accepted.
    pub(super) arrivals: Vec<(Duration, LaneKind, usize, Duration)>,
}

fn bytes_of(frame: &ToReceiver) -> usize {
    match frame {
        ToReceiver::Messages { messages, .. } => messages.iter().map(|sent| sent.message.bytes()).sum(),
        ToReceiver::Gap { .. } | ToReceiver::Open { .. } => 50,
    }
}

impl Link {
    pub(super) fn new(capacity: usize, delay_ms: u64) -> Self {
        Self {
            capacity,
            delay: Duration::from_millis(delay_ms),
            blocked_until: Duration::ZERO,
            credit: 0,
            on_way: VecDeque::new(),
            back: VecDeque::new(),
            arrivals: Vec::new(),
        }
    }

    /// One millisecond.
    fn tick(&mut self, world: &mut World) {
        world.pass(TICK);
        let now = world.now.mono;
        world.commit(usize::MAX);
        world.read(usize::MAX, false);
        world.poll();
        if now >= self.blocked_until {
            self.transmit(world, now);
        }
        while self.on_way.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, index, frame) = self.on_way.pop_front().unwrap();
            self.arrive(world, now, index, frame);
        }
        while self.back.front().is_some_and(|(at, ..)| *at <= now) {
            let (_, index, answer) = self.back.pop_front().unwrap();
            let id = world.wires[index].id;
            world.frame(id, answer);
        }
        world.poll();
    }

    fn transmit(&mut self, world: &mut World, now: Duration) {
        self.credit += self.capacity / 1000;
        let mut order: Vec<usize> = (0..world.wires.len()).collect();
        order.sort_by_key(|index| world.wires[*index].kind == LaneKind::Backlog);
        let mut idle = true;
        for index in order {
            while let Some(frame) = world.wires[index].out.front() {
                let bytes = bytes_of(frame);
                if bytes > self.credit {
                    break;
                }
                self.credit -= bytes;
                let frame = world.wires[index].out.pop_front().unwrap();
                self.on_way.push_back((now + self.delay, index, frame));
            }
            if !world.wires[index].out.is_empty() {
                idle = false;
                break;
            }
        }
        if idle {
            self.credit = 0;
        }
    }

    fn arrive(&mut self, world: &mut World, now: Duration, index: usize, frame: ToReceiver) {
        let kind = world.wires[index].kind;
        if let ToReceiver::Messages { messages, .. } = &frame {
            for sent in messages {
                let accepted = Duration::from_millis(sent.message.accepted_at.0);
                let age = Duration::from_millis(world.now.wall.0).saturating_sub(accepted);
                self.arrivals.push((now, kind, sent.message.bytes(), age));
            }
        }
        world.wires[index].out.push_front(frame);
        world.receive(index, 1);
        let answers: Vec<ToSender> = world.wires[index].back.drain(..).collect();
        self.back
            .extend(answers.into_iter().map(|answer| (now + self.delay, index, answer)));
    }

    pub(super) fn run(&mut self, world: &mut World, time: Duration) {
        let end = world.now.mono + time;
        while world.now.mono < end {
            self.tick(world);
        }
    }

    /// Runs while live messages of 1 KiB come at so many bytes per second.
    pub(super) fn run_live(&mut self, world: &mut World, time: Duration, rate: usize) {
        let end = world.now.mono + time;
        let mut due = 0;
        while world.now.mono < end {
            due += rate / 1000;
            while due >= 1184 {
                due -= 1184;
                let message = world.message("t1", None, 1024, None);
                world.publish(message);
            }
            self.tick(world);
        }
    }

    /// Messages and bytes of a lane in a time.
    pub(super) fn between(&self, kind: LaneKind, from: Duration, to: Duration) -> (usize, usize) {
        let some = self
            .arrivals
            .iter()
            .filter(|(at, lane, ..)| *lane == kind && *at >= from && *at < to);
        some.fold((0, 0), |(count, sum), (_, _, bytes, _)| (count + 1, sum + bytes))
    }

    /// The most messages and bytes of the backlog in any time of this length.
    pub(super) fn most(&self, window: Duration) -> (usize, usize) {
        let (mut first, mut count, mut sum, mut most) = (0, 0, 0, (0, 0));
        for (at, lane, bytes, _) in &self.arrivals {
            let weight = usize::from(*lane == LaneKind::Backlog);
            (count, sum) = (count + weight, sum + weight * bytes);
            while self.arrivals[first].0 + window <= *at {
                let weight = usize::from(self.arrivals[first].1 == LaneKind::Backlog);
                (count, sum) = (count - weight, sum - weight * self.arrivals[first].2);
                first += 1;
            }
            most = (most.0.max(count), most.1.max(sum));
        }
        most
    }

    /// How long 99 of 100 live messages took, at most.
    pub(super) fn p99(&self, from: Duration) -> Duration {
        let live = self
            .arrivals
            .iter()
            .filter(|(at, lane, ..)| *lane == LaneKind::Live && *at >= from);
        let mut ages: Vec<Duration> = live.map(|(.., age)| *age).collect();
        ages.sort();
        ages[ages.len() * 99 / 100]
    }
}
