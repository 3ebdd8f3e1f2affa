//! What happens to inbox and model alike.

use super::*;

impl Model {
    pub(super) fn settle(&mut self, which: usize, outcome: &Settlement) {
        if self.flying.is_empty() {
            return;
        }
        let deliver = self.flying.remove(which % self.flying.len());
        let (group, seq) = (deliver.group.clone(), deliver.delivery.seq);
        self.world.settle(&deliver, outcome.clone());
        match outcome {
            Settlement::Ack => self.end(&group, seq, None),
            Settlement::Nack { delay, .. } => self.fail(&deliver, *delay),
            Settlement::Extend => return self.flying.push(deliver),
            Settlement::Terminate { .. } | Settlement::Unavailable { .. } => {}
        }
        self.old.push(deliver);
    }

    pub(super) fn publish(&mut self, key: Option<u64>, deadline: Option<u64>, only: Option<&GroupName>) {
        let deadline = deadline.map(|millis| self.world.now.wall.0 + millis);
        let message = message(key, deadline, 10);
        self.world.write(message, only);
        self.written += 1;
    }

    pub(super) fn commit(&mut self, count: usize) {
        for _ in 0..count {
            self.look();
            let Some(logged) = self.world.commit(1).pop() else {
                return;
            };
            match logged {
                Logged::Record(Record::Stored(stored)) => {
                    let seq = stored.inbox.unwrap();
                    self.stored.insert(seq, stored.message.clone());
                    if stored.only.is_some() {
                        self.narrow.insert(seq);
                    }
                    self.give(seq, stored.only.as_ref());
                }
                Logged::Dead(wish) => {
                    let DeadSource::Group(group, seq) = wish.at else {
                        panic!()
                    };
                    let group = self.name_of(&group);
                    self.dying.remove(&(group.clone(), seq));
                    self.end(&group, seq, Some(GapReason::DeadLettered));
                }
                Logged::Record(_) => {}
            }
        }
    }

    /// A message is on disk, for all groups or for one.
    pub(super) fn give(&mut self, seq: Seq, only: Option<&GroupName>) {
        if self.groups.is_empty() {
            self.groups.insert(name("-"), Group::default());
        }
        for (group, state) in &mut self.groups {
            if only.is_none_or(|only| only == group) {
                state.has.insert(seq);
            }
        }
    }

    pub(super) fn unsubscribe(&mut self, which: usize) {
        let Some(id) = self.consumers.keys().nth(which % self.consumers.len().max(1)).copied() else {
            return;
        };
        self.world.unsubscribe(id.0);
        self.consumers.remove(&id);
        let (gone, stays) = std::mem::take(&mut self.flying)
            .into_iter()
            .partition(|it| it.consumer == id);
        self.flying = stays;
        let gone: Vec<_> = gone;
        self.old.extend(gone);
    }

    pub(super) fn subscribe(&mut self, group: &str, in_flight_max: usize) {
        let id = self.next_consumer;
        self.next_consumer += 1;
        if self.groups.is_empty() {
            self.groups.insert(name("-"), Group::default());
        }
        self.consumers.insert(ConsumerId(id), (name(group), in_flight_max));
        self.world.subscribe(id, group, in_flight_max);
    }

    pub(super) fn gone(&mut self, seqs: &[Seq]) {
        let mut fx = Effects::default();
        let now = self.world.now;
        let flying: Vec<_> = self
            .flying
            .iter()
            .map(|it| (it.group.clone(), it.delivery.seq))
            .collect();
        self.world
            .inbox
            .gone(now, (&topic(), None), seqs, GapReason::Purged, &mut fx);
        self.world.inbox.save(&mut fx);
        self.world.absorb(fx);
        self.look();
        for (group, seq) in flying {
            if self.group(&group).ended.contains_key(&seq) {
                self.flying.retain(|it| it.group != group || it.delivery.seq != seq);
            }
        }
    }

    pub(super) fn snapshot(&mut self) {
        // Only what is in records or in memory by acknowledgements is known here.
        self.world.save();
        self.look();
        self.world.take_snapshot();
        self.kept = (self.groups.clone(), self.heir.clone());
        let is_attempt = |write: &&Write| matches!(write, Write::Record(Record::Attempt { .. }));
        self.kept_attempts = self.world.writing.iter().filter(is_attempt).count();
    }

    pub(super) fn restart(&mut self, again: usize) {
        (self.groups, self.heir) = self.kept.clone();
        let log = self.world.log[self.world.snapshot.1..].to_vec();
        self.flying.clear();
        self.old.clear();
        self.dying.clear();
        self.consumers.clear();
        self.not_before.clear();
        self.stored
            .retain(|seq, _| self.world.disk.contains_key(seq) || self.damaged.contains(seq));
        self.world.restart(again);
        self.written = self.world.left;
        let is_attempt = |logged: &&Logged| matches!(logged, Logged::Record(Record::Attempt { .. }));
        self.kept_attempts = self.kept_attempts.min(log.iter().filter(is_attempt).count());
        let mut kept_attempts = self.kept_attempts;
        for logged in log {
            match logged {
                Logged::Record(Record::Attempt { .. }) if kept_attempts > 0 => kept_attempts -= 1,
                Logged::Record(Record::Stored(stored)) => self.give(stored.inbox.unwrap(), stored.only.as_ref()),
                Logged::Dead(wish) => {
                    let DeadSource::Group(group, seq) = wish.at else {
                        panic!()
                    };
                    let state = self.group(&group);
                    state.ended.entry(seq).or_insert(Some(GapReason::DeadLettered));
                    state.failed.remove(&seq);
                }
                Logged::Record(record) => self.look_at_record(record, false),
            }
        }
        self.world.save();
        self.look();
    }

    pub(super) fn disk_fails(&mut self) {
        self.world.disk_fails();
        self.dying.clear();
        self.written = self.world.left;
        // Records that are lost said what memory still knows.
        self.snapshot();
    }

    pub(super) fn audit(&mut self) {
        self.world.save();
        self.look();
        for (group, state) in &self.groups {
            let row = self.world.row(group.as_str());
            let count = |reason: Option<GapReason>| {
                let number = state.ended.values().filter(|ended| **ended == reason).count();
                u64::try_from(number).unwrap()
            };
            let books = [
                row.relayed,
                row.expired,
                row.dropped,
                row.dead_lettered,
                row.purged,
                row.corrupted,
            ];
            let expected = [
                count(None),
                count(Some(GapReason::Expired)),
                count(Some(GapReason::Dropped)),
                count(Some(GapReason::DeadLettered)),
                count(Some(GapReason::Purged)),
                count(Some(GapReason::Corrupted)),
            ];
            assert_eq!(
                books, expected,
                "{group}: delivered, expired, dropped, dead, purged, corrupted"
            );
            assert_eq!(row.accepted, u64::try_from(state.has.len()).unwrap(), "{group}");
            let status = self.world.inbox.status(self.world.now);
            let status = status.iter().find(|status| status.group == group.as_str()).unwrap();
            assert_eq!(status.pending, row.accepted - books.iter().sum::<u64>());
            let flying = self.flying.iter().filter(|it| it.group == *group).count();
            assert_eq!(status.in_flight, u64::try_from(flying).unwrap());
        }
    }

    /// With willing consumers and time, everything ends.
    pub(super) fn drain(&mut self) {
        for group in ["g", "h"] {
            self.subscribe(group, 3);
            let group = Pausable::Group {
                topic: topic(),
                group: name(group),
            };
            self.world.inbox.pause(&group, None);
        }
        self.world.inbox.pause(&Pausable::Topic { topic: topic() }, None);
        for _ in 0..2000 {
            self.turn();
            while !self.flying.is_empty() {
                self.settle(0, &Settlement::Ack);
            }
            self.unblock(None);
            let pending = self.groups.values().any(|group| group.ended.len() < group.has.len());
            if !pending && self.world.writing.is_empty() && self.world.reads.is_empty() {
                return self.audit();
            }
            self.world.pass_ms(500);
        }
        panic!(
            "something is stuck: {:?} {:?}",
            self.world.inbox.status(self.world.now),
            self.groups
        );
    }

    pub(super) fn turn(&mut self) {
        self.world.poll();
        self.look();
        self.commit(usize::MAX);
        self.look();
        while !self.world.reads.is_empty() {
            self.world.answer(0, false);
            self.look();
        }
        self.world.poll();
        self.look();
        self.commit(usize::MAX);
        self.look();
    }

    pub(super) fn unblock(&mut self, key: Option<u64>) {
        let key = key.and_then(|key| message(Some(key), None, 0).key);
        for group in self.groups.keys().cloned().collect::<Vec<_>>() {
            let mut fx = Effects::default();
            self.world
                .inbox
                .unblock(self.world.now, &topic(), &group, key.as_ref(), &mut fx);
            for write in &fx.writes {
                if let Write::Record(Record::Attempt { seq, failed: 0, .. }) = write {
                    self.group(&group).failed.remove(seq);
                }
            }
            self.world.absorb(fx);
        }
    }

    pub(super) fn pause(&mut self, a: u16, b: u16) {
        let group = if a.is_multiple_of(2) { "g" } else { "h" };
        let what = match a % 3 {
            0 => Pausable::Topic { topic: topic() },
            _ => Pausable::Group {
                topic: topic(),
                group: name(group),
            },
        };
        let time = (!a.is_multiple_of(5)).then(|| Duration::from_millis(u64::from(b)));
        let pause = Pause::for_time("", time, self.world.now.wall);
        self.world.inbox.pause(&what, (!b.is_multiple_of(3)).then_some(pause));
    }

    pub(super) fn operate(&mut self, (what, a, b): (u8, u16, u16)) {
        let (small, any) = (u64::from(a), usize::from(b));
        let group = if a % 2 == 0 { "g" } else { "h" };
        let reason = String::new();
        match what {
            0..=5 => {
                let key = (small % 5 != 4).then_some(small % 5);
                let deadline = (b % 7 == 0).then_some(u64::from(b % 5000));
                self.publish(key, deadline, None);
            }
            6..=8 => self.commit(any % 4 + 1),
            9 => self.commit(usize::MAX),
            10..=15 => self.world.poll(),
            16..=19 if !self.world.reads.is_empty() => self.world.answer(any % self.world.reads.len(), a % 16 == 0),
            20..=21 => self.subscribe(group, any % 3 + 1),
            22 => self.unsubscribe(any),
            23..=29 => self.settle(any, &Settlement::Ack),
            30..=33 => {
                let delay = (a % 3 == 0).then(|| Duration::from_millis(small % 4000));
                self.settle(any, &Settlement::Nack { delay, reason });
            }
            34 => self.settle(any, &Settlement::Terminate { reason }),
            35 => {
                let pushback = Duration::from_millis(small % 500);
                self.settle(any, &Settlement::Unavailable { pushback });
            }
            36 => self.settle(any, &Settlement::Extend),
            37..=40 => self.world.pass_ms(small % 1500),
            41 => self.world.pass_ms(30_000),
            42 => self.pause(a, b),
            43 => self.unblock((b % 2 == 0).then_some(small % 5)),
            44 => {
                let seqs: Vec<Seq> = self
                    .stored
                    .keys()
                    .copied()
                    .filter(|seq| seq % 11 == small % 11)
                    .collect();
                self.gone(&seqs);
            }
            45 => self.snapshot(),
            46 => self.restart(any % 20),
            47 => {
                // Not the last one: the number of a message that was never acknowledged to anybody is given again.
                let last = self.stored.keys().max().copied().unwrap_or(0);
                let seq = small % last.max(1);
                // Whom a damaged one was for nobody knows.
                if !self.narrow.contains(&seq) && self.world.disk.remove(&seq).is_some() {
                    self.damaged.insert(seq);
                }
            }
            48 => self.disk_fails(),
            49 if !self.old.is_empty() => {
                let deliver = self.old.remove(any % self.old.len());
                self.world.settle(&deliver, Settlement::Ack);
            }
            50 if self.groups.contains_key(&name(group)) => self.publish(Some(1), None, Some(&name(group))),
            51 => self.audit(),
            _ => self.world.save(),
        }
        self.look();
    }
}
