//! Keys of a group that have a message open, and the messages that wait behind it.
//!
//! A key is known by a hash of 64 bits. Two keys with one hash are delivered one after the other; that is all.
//!
//! # Invariants
//! - K1. A key has one open message; all later ones that were looked at wait behind it in order (M-C1).
//! - K2. What waits is a number. The first messages are kept in memory too while there is room, but none behind a
//!   parked key: those wait for long and would take the room of others (M-C3, M-G7).

use std::collections::{BTreeSet, VecDeque};

use crate::model::{Key, Map, Message, Seq};
use crate::queue::line::{Settled, hash_joined};

#[derive(Default)]
pub(super) struct Keys {
    /// Keys with an open message; most have no other one, and so take little memory.
    busy: Map<u64, Option<Box<Busy>>>,
    held: Map<Seq, Message>,
    held_bytes: usize,
    behind: usize,
    /// Keys whose messages go to the dead letters.
    pub rest: BTreeSet<u64>,
}

/// What is to be known of a key whose open message is not all there is.
#[derive(Default)]
struct Busy {
    parked: bool,
    /// How many of `behind` are held.
    held: usize,
    behind: VecDeque<Seq>,
}

/// The message of a key that is open now.
pub(super) struct Next {
    pub seq: Seq,
    /// If it was kept.
    pub message: Option<Message>,
}

/// What a key is known by.
pub(super) fn hash(key: &Key) -> u64 {
    hash_joined(&[&key.dimension.len().to_be_bytes(), &key.dimension, &key.key])
}

impl Keys {
    /// A message of a key comes. It is handed back if it is the open one now, else it waits.
    pub(super) fn enter(&mut self, key: u64, seq: Seq, message: Message) -> Option<Message> {
        let Some(busy) = self.busy.get_mut(&key) else {
            self.busy.insert(key, None);
            return Some(message);
        };
        let busy = busy.get_or_insert_default();
        busy.behind.push_back(seq);
        self.behind += 1;
        if !busy.parked {
            self.hold(key, seq, message);
        }
        None
    }

    /// Whether a key has an open message.
    pub(super) fn is_busy(&self, key: u64) -> bool {
        self.busy.contains_key(&key)
    }

    /// The open message of a key has ended. The next one is open now.
    pub(super) fn leave(&mut self, key: u64, done: &Settled) -> Option<Next> {
        let mut busy = self.busy.get_mut(&key)?.as_deref_mut();
        if let Some(busy) = &mut busy {
            busy.parked = false;
        }
        while let Some(busy) = &mut busy
            && let Some(seq) = busy.behind.pop_front()
        {
            self.behind -= 1;
            let message = if busy.held > 0 { self.held.remove(&seq) } else { None };
            if let Some(message) = &message {
                busy.held -= 1;
                self.held_bytes -= message.bytes();
            }
            if !done.contains(seq) {
                return Some(Next { seq, message });
            }
        }
        self.busy.remove(&key);
        None
    }

    /// The open message waits for long: nothing behind it stays in memory.
    pub(super) fn park(&mut self, key: u64) {
        let Some(busy) = self.busy.get_mut(&key) else {
            return;
        };
        let busy = busy.get_or_insert_default();
        busy.parked = true;
        for seq in &busy.behind {
            if busy.held == 0 {
                break;
            }
            if let Some(message) = self.held.remove(seq) {
                busy.held -= 1;
                self.held_bytes -= message.bytes();
            }
        }
    }

    /// The open message is tried again.
    pub(super) fn unpark(&mut self, key: u64) {
        if let Some(Some(busy)) = self.busy.get_mut(&key) {
            busy.parked = false;
        }
    }

    /// How many numbers a read from `seq` on should cover, to bring some that wait behind it too.
    pub(super) fn span(&self, key: u64, seq: Seq) -> usize {
        let busy = self.busy.get(&key).and_then(Option::as_deref);
        let Some(busy) = busy.filter(|busy| !busy.parked && busy.held == 0) else {
            return 1;
        };
        let last = busy.behind.iter().take_while(|next| **next < seq + SPAN_MAX).last();
        last.map_or(1, |last| usize::try_from(last - seq + 1).unwrap_or(1))
    }

    /// A message was read that may wait behind the open one of a key.
    pub(super) fn offer(&mut self, key: u64, seq: Seq, message: Message) {
        let waits = |busy: &Busy| !busy.parked && busy.behind.binary_search(&seq).is_ok();
        let busy = self.busy.get(&key).and_then(Option::as_deref);
        if busy.is_some_and(waits) && !self.held.contains_key(&seq) {
            self.hold(key, seq, message);
        }
    }

    /// Forgets what waits, and all keys but those.
    pub(super) fn rewind(&mut self, keep: &BTreeSet<u64>) {
        self.busy.retain(|key, _| keep.contains(key));
        for busy in self.busy.values_mut() {
            *busy = None;
        }
        self.held.clear();
        self.held_bytes = 0;
        self.behind = 0;
    }

    /// Messages that wait behind another one.
    pub(super) fn behind(&self) -> usize {
        self.behind
    }

    fn hold(&mut self, key: u64, seq: Seq, message: Message) {
        let bytes = message.bytes();
        if self.held.len() >= HELD_MESSAGES || self.held_bytes + bytes > HELD_BYTES {
            return;
        }
        if let Some(Some(busy)) = self.busy.get_mut(&key) {
            busy.held += 1;
            self.held_bytes += bytes;
            self.held.insert(seq, message);
        }
    }
}

/// Numbers that a read for one key covers.
const SPAN_MAX: u64 = 64;
/// Messages behind others that are kept in memory.
const HELD_MESSAGES: usize = 4096;
/// And their bytes.
const HELD_BYTES: usize = 1 << 20;
