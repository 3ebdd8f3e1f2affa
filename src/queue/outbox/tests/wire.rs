//! Lanes of a world: they come, carry and go as the test wants.

use std::collections::VecDeque;

use super::world::{World, name};
use crate::queue::effects::Effects;
use crate::queue::lanes::{LaneId, LaneKind, ToReceiver, ToSender};

/// A lane on the wire.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) id: LaneId,
    pub(super) kind: LaneKind,
    /// The sender still has it.
    pub(super) up: bool,
    pub(super) out: VecDeque<ToReceiver>,
    pub(super) back: VecDeque<ToSender>,
}

impl World {
    pub(super) fn lane_up(&mut self, kind: LaneKind) -> LaneId {
        let id = LaneId(self.next_lane);
        self.next_lane += 1;
        self.wires.push(Wire {
            id,
            kind,
            up: true,
            out: VecDeque::new(),
            back: VecDeque::new(),
        });
        let mut fx = Effects::default();
        self.outbox.on_lane_up(self.now, id, name("peer"), kind, &mut fx);
        self.take(fx);
        id
    }

    /// Both lanes are up and opened.
    pub(super) fn connect(&mut self) {
        self.lane_up(LaneKind::Live);
        self.lane_up(LaneKind::Backlog);
        self.exchange();
    }

    /// Both lanes are up and opened, and nothing else happens.
    pub(super) fn connect_without_exchange(&mut self) {
        for kind in [LaneKind::Live, LaneKind::Backlog] {
            self.lane_up(kind);
            let index = self.wires.len() - 1;
            self.receive(index, 1);
            self.answer(index, 1);
        }
    }

    /// The sender loses a lane. `lost`: what is under way is lost too; else it may arrive later.
    pub(super) fn lane_down(&mut self, index: usize, lost: bool) {
        let wire = &mut self.wires[index];
        let (id, was_up) = (wire.id, wire.up);
        wire.up = false;
        wire.back.clear();
        if lost {
            wire.out.clear();
        }
        if was_up {
            let mut fx = Effects::default();
            self.outbox.on_lane_down(self.now, id, &mut fx);
            self.take(fx);
        }
    }

    pub(super) fn all_down(&mut self) {
        for index in 0..self.wires.len() {
            self.lane_down(index, true);
        }
        self.wires.clear();
    }

    /// The receiver takes frames of a lane.
    pub(super) fn receive(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let wire = &mut self.wires[index];
            let Some(frame) = wire.out.pop_front() else { return };
            let answer = self.receiver.take(frame, wire.kind, &self.accepted);
            if wire.up {
                wire.back.push_back(answer);
            }
            for seq in std::mem::take(&mut self.receiver.fresh) {
                let message = self.accepted[&seq].clone();
                self.came(&message);
            }
        }
    }

    /// The sender takes answers of a lane.
    pub(super) fn answer(&mut self, index: usize, count: usize) {
        for _ in 0..count {
            let wire = &mut self.wires[index];
            let id = wire.id;
            let Some(frame) = wire.back.pop_front().filter(|_| wire.up) else {
                return;
            };
            self.frame(id, frame);
        }
    }

    pub(super) fn frame(&mut self, id: LaneId, frame: ToSender) {
        let mut fx = Effects::default();
        self.outbox.on_frame(self.now, id, frame, &mut fx);
        self.take(fx);
    }

    /// Everything moves until nothing does, without time passing.
    pub(super) fn exchange(&mut self) {
        let mut idle = 0;
        for _ in 0..100_000 {
            self.poll();
            self.commit(usize::MAX);
            self.read(usize::MAX, false);
            let mut moved = false;
            for index in 0..self.wires.len() {
                moved |= !self.wires[index].out.is_empty() || !self.wires[index].back.is_empty();
                self.receive(index, usize::MAX);
                self.answer(index, usize::MAX);
            }
            moved |= !self.pending.is_empty() || !self.reads.is_empty();
            idle = if moved { 0 } else { idle + 1 };
            if idle == 3 {
                return;
            }
        }
        panic!("it never comes to rest");
    }
}
