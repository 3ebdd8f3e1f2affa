//! Lanes between relays: frames in order, with delay; lanes that break; directions that lose everything.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::relay::{geo, name};
use super::{Event as WorldEvent, World};
use crate::queue::api::{Input, Output};
use crate::queue::lanes::{LaneId, LaneKind, ToReceiver, ToSender};

#[derive(Default)]
pub(super) struct Net {
    lanes: BTreeMap<LaneId, Lane>,
    last: u64,
    /// Directions in which everything is lost.
    pub cut: BTreeSet<(usize, usize)>,
}

struct Lane {
    from: (usize, u64),
    to: (usize, u64),
    kind: LaneKind,
    /// When the last frame of each direction arrives.
    there: u64,
    back: u64,
    /// The receiver is busy: what waits for it.
    held: Option<VecDeque<ToReceiver>>,
    /// A frame was lost: nothing arrives any more.
    broken: bool,
    ends: [bool; 2],
}

#[derive(Debug)]
pub(super) enum Event {
    Open(usize, usize, LaneKind),
    There(LaneId, ToReceiver),
    Back(LaneId, ToSender),
    /// What was held up arrives.
    Late(LaneId),
    /// One end, the sender's (0) or the receiver's (1), notices that the lane has ended.
    Ended(LaneId, usize),
}

const KINDS: [LaneKind; 2] = [LaneKind::Live, LaneKind::Backlog];

impl World {
    /// A relay has started: its lanes and those to it.
    pub(super) fn connect_all(&mut self, number: usize) {
        for other in (0..self.relays.len()).filter(|other| *other != number) {
            for kind in KINDS {
                for (from, to) in [(number, other), (other, number)] {
                    let time = self.dice.u64(1_000..200_000);
                    self.plan_in(time, WorldEvent::Net(Event::Open(from, to, kind)));
                }
            }
        }
    }

    pub(super) fn on_net(&mut self, event: Event) {
        match event {
            Event::Open(from, to, kind) => self.open_lane(from, to, kind),
            Event::There(lane, frame) => self.arrive(lane, frame),
            Event::Back(lane, frame) => {
                if let Some(Lane {
                    from: (relay, life),
                    ends: [true, _],
                    broken: false,
                    ..
                }) = self.net.lanes.get(&lane)
                {
                    let (relay, life) = (*relay, *life);
                    self.input(relay, life, Input::FromReceiver { lane, frame });
                }
            }
            Event::Late(lane) => self.release(lane),
            Event::Ended(lane, end) => self.end_lane(lane, end),
        }
    }

    fn open_lane(&mut self, from: usize, to: usize, kind: LaneKind) {
        let lives = (self.relays[from].life_number(), self.relays[to].life_number());
        let (Some(from_life), Some(to_life)) = lives else {
            return;
        };
        let is_same = |lane: &&Lane| {
            lane.from == (from, from_life) && lane.to.0 == to && lane.kind == kind && lane.ends[0] && !lane.broken
        };
        if self.net.lanes.values().any(|lane| is_same(&lane)) && self.dice.u8(..4) > 0 {
            return;
        }
        if self.net.cut.contains(&(from, to)) || self.net.cut.contains(&(to, from)) {
            return self.plan_in(500_000, WorldEvent::Net(Event::Open(from, to, kind)));
        }
        self.net.last += 1;
        let id = LaneId::new(0, self.net.last);
        let lane = Lane {
            from: (from, from_life),
            to: (to, to_life),
            kind,
            there: self.now,
            back: self.now,
            held: None,
            broken: false,
            ends: [true, true],
        };
        self.net.lanes.insert(id, lane);
        let accepted = Input::LaneAccepted {
            lane: id,
            geo: geo(from),
            unit: self.relays[from].unit.clone(),
            relay: name("relay"),
        };
        self.input(to, to_life, accepted);
        let up = Input::LaneUp {
            lane: id,
            unit: self.relays[to].unit.clone(),
            relay: name("relay"),
            kind,
        };
        self.input(from, from_life, up);
    }

    pub(super) fn on_lane_output(&mut self, relay: usize, output: Output) {
        match output {
            Output::ToReceiver { lane, frame } => self.send_there(lane, frame),
            Output::ToSender { lane, frame } => self.send_back(lane, frame),
            Output::CloseLane { lane, .. } => {
                let Some(state) = self.net.lanes.get_mut(&lane) else {
                    return;
                };
                let end = usize::from(state.from.0 != relay);
                state.ends[end] = false;
                self.reopen(lane);
                let time = self.dice.u64(500..50_000);
                self.plan_in(time, WorldEvent::Net(Event::Ended(lane, 1 - end)));
            }
            _ => {}
        }
    }

    fn send_there(&mut self, lane: LaneId, frame: ToReceiver) {
        let delay = self.delay();
        let Some(state) = self.net.lanes.get_mut(&lane) else {
            return;
        };
        if self.net.cut.contains(&(state.from.0, state.to.0)) {
            return self.break_lane(lane);
        }
        state.there = (state.there + 1).max(self.now + delay);
        let time = state.there - self.now;
        self.plan_in(time, WorldEvent::Net(Event::There(lane, frame)));
    }

    fn send_back(&mut self, lane: LaneId, mut frame: ToSender) {
        let delay = self.delay();
        if let ToSender::Opened { frontier, above, .. } = &mut frame
            && self.dice.u8(..3) < if self.plan.harsh { 2 } else { 1 }
        {
            // The last of it came late on another lane, and there is not room for all runs: it comes again.
            *frontier = frontier.saturating_sub(self.dice.u64(..40));
            above.truncate(self.dice.usize(..=above.len()));
        }
        let Some(state) = self.net.lanes.get_mut(&lane) else {
            return;
        };
        if !state.ends[1] {
            return;
        }
        if let ToSender::Busy { pushback } = &frame {
            if pushback.is_some() {
                state.held.get_or_insert_with(VecDeque::new);
            } else {
                self.release(lane);
            }
        }
        let Some(state) = self.net.lanes.get_mut(&lane) else {
            return;
        };
        if self.net.cut.contains(&(state.to.0, state.from.0)) {
            return self.break_lane(lane);
        }
        state.back = (state.back + 1).max(self.now + delay);
        let time = state.back - self.now;
        self.plan_in(time, WorldEvent::Net(Event::Back(lane, frame)));
    }

    fn release(&mut self, lane: LaneId) {
        let held = self.net.lanes.get_mut(&lane).and_then(|state| state.held.take());
        for frame in held.into_iter().flatten() {
            self.planned += 1;
            let event = WorldEvent::Net(Event::There(lane, frame));
            self.agenda.insert((self.now, self.planned), event);
        }
    }

    fn arrive(&mut self, lane: LaneId, frame: ToReceiver) {
        let Some(state) = self.net.lanes.get_mut(&lane) else {
            return;
        };
        if !state.ends[1] || state.broken {
            return;
        }
        if let Some(held) = &mut state.held {
            return held.push_back(frame);
        }
        let (relay, _) = state.to;
        if let ToReceiver::Messages { messages, .. } = &frame
            && let Some(sent) = messages
                .iter()
                .find(|sent| sent.message.visited.contains(&self.relays[relay].unit))
        {
            let text = format!(
                "{:?} comes to relay {relay} again, by {:?} (M-G3)",
                sent.message, sent.message.visited
            );
            self.ledger.blame(text);
        }
        let Some(state) = self.net.lanes.get_mut(&lane) else {
            return;
        };
        let (relay, life) = state.to;
        let bytes = match &frame {
            ToReceiver::Messages { messages, .. } => messages.iter().map(|sent| sent.message.bytes()).sum(),
            _ => 32,
        };
        self.input(relay, life, Input::FromSender { lane, frame, bytes });
    }

    /// A lane loses something: it ends, and each end notices in its time.
    pub(super) fn break_lane(&mut self, lane: LaneId) {
        let Some(state) = self.net.lanes.get_mut(&lane).filter(|lane| !lane.broken) else {
            return;
        };
        state.broken = true;
        for end in 0..2 {
            let time = self.dice.u64(1_000..3_000_000);
            self.plan_in(time, WorldEvent::Net(Event::Ended(lane, end)));
        }
    }

    pub(super) fn break_some_lane(&mut self) {
        let open: Vec<LaneId> = self
            .net
            .lanes
            .iter()
            .filter(|(_, lane)| !lane.broken)
            .map(|(id, _)| *id)
            .collect();
        if let Some(lane) = self.dice.choice(open) {
            self.break_lane(lane);
        }
    }

    /// The sender gives a lane up and opens another; what it has sent on the old one still comes for a while.
    pub(super) fn give_up_some_lane(&mut self) {
        let lanes = self.net.lanes.iter();
        let open = lanes.filter(|(_, lane)| !lane.broken && lane.ends[0]);
        let open: Vec<LaneId> = open.map(|(id, _)| *id).collect();
        if let Some(lane) = self.dice.choice(open) {
            if let Some(state) = self.net.lanes.get_mut(&lane) {
                state.held.get_or_insert_with(VecDeque::new);
            }
            let time = self.dice.u64(1_000..500_000);
            self.plan_in(time, WorldEvent::Net(Event::Late(lane)));
            self.end_lane(lane, 0);
            let time = self.dice.u64(1_000..3_000_000);
            self.plan_in(time, WorldEvent::Net(Event::Ended(lane, 1)));
        }
    }

    /// A relay is gone: its lanes end at the other side.
    pub(super) fn disconnect_all(&mut self, number: usize) {
        let lanes: Vec<LaneId> = self.net.lanes.keys().copied().collect();
        for id in lanes {
            let Some(lane) = self.net.lanes.get_mut(&id) else {
                continue;
            };
            for end in 0..2 {
                let (relay, _) = [lane.from, lane.to][end];
                if relay == number {
                    lane.ends[end] = false;
                    lane.broken = true;
                }
            }
            if lane.broken {
                for end in 0..2 {
                    let time = self.dice.u64(1_000..1_000_000);
                    self.plan_in(time, WorldEvent::Net(Event::Ended(id, end)));
                }
            }
        }
    }

    fn end_lane(&mut self, lane: LaneId, end: usize) {
        let Some(state) = self.net.lanes.get_mut(&lane) else {
            return;
        };
        let (relay, life) = [state.from, state.to][end];
        let was_open = std::mem::replace(&mut state.ends[end], false);
        let gone = state.ends == [false, false];
        if was_open {
            self.input(relay, life, Input::LaneDown(lane));
            if end == 0 {
                self.reopen(lane);
            }
        }
        if gone {
            self.net.lanes.remove(&lane);
        }
    }

    fn reopen(&mut self, lane: LaneId) {
        let Some(state) = self.net.lanes.get(&lane) else {
            return;
        };
        let (from, to, kind) = (state.from.0, state.to.0, state.kind);
        let time = self.dice.u64(1_000..300_000);
        self.plan_in(time, WorldEvent::Net(Event::Open(from, to, kind)));
    }

    fn delay(&mut self) -> u64 {
        let late = if self.plan.harsh { 4 } else { 1 };
        match self.dice.u8(..20) {
            kind if kind < late => self.dice.u64(1_000..200_000),
            _ => self.dice.u64(200..3_000),
        }
    }
}
