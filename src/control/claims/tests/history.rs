//! R-I5 over random histories: several desks, one store that keeps what it was told first, and between them a network that
//! loses, repeats and reorders.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Event {
    /// A caller of a desk reads a key, or claims it: with a new operation, or with one it used for this key before.
    Ask {
        desk: usize,
        key: usize,
        kind: Asked,
    },
    /// Milliseconds pass.
    Pass(u64),
    /// The store gets a request. It may get the same one again.
    Request {
        pick: usize,
        stays: bool,
    },
    /// A desk gets an answer. It may get the same one again.
    Answer {
        pick: usize,
        stays: bool,
    },
    LoseRequest(usize),
    LoseAnswer(usize),
    /// A desk is told that the store is away, although the request may be done.
    Fail(usize),
}

#[derive(Clone, Copy, Debug)]
enum Asked {
    Read,
    Claim,
    Again,
}

const DESKS: usize = 3;
const KEYS: [&str; 3] = ["a", "b", "c"];

fn events() -> impl Strategy<Value = Vec<Event>> {
    let pick = || any::<usize>();
    let kind = prop_oneof![Just(Asked::Read), Just(Asked::Claim), Just(Asked::Again)];
    let event = prop_oneof![
        6 => (0..DESKS, 0..KEYS.len(), kind).prop_map(|(desk, key, kind)| Event::Ask { desk, key, kind }),
        4 => prop_oneof![1..3_u64, 200..1500_u64].prop_map(Event::Pass),
        5 => (pick(), any::<bool>()).prop_map(|(pick, stays)| Event::Request { pick, stays }),
        5 => (pick(), any::<bool>()).prop_map(|(pick, stays)| Event::Answer { pick, stays }),
        1 => pick().prop_map(Event::LoseRequest),
        1 => pick().prop_map(Event::LoseAnswer),
        1 => pick().prop_map(Event::Fail),
    ];
    proptest::collection::vec(event, 1..120)
}

#[derive(Default)]
struct World {
    desks: Vec<Desk>,
    now: Duration,
    /// What the store keeps.
    claims: BTreeMap<String, Claim>,
    requests: Vec<(usize, BatchId, Batch)>,
    answers: Vec<(usize, BatchId, Answer)>,
    /// Who waits at which desk, for which key, with which operation.
    waiting: BTreeMap<u64, (usize, String, Option<OpId>)>,
    /// Operations by desk and key.
    ops: BTreeMap<(usize, String), Vec<u128>>,
    /// Operations that were told they had won.
    winners: BTreeSet<OpId>,
    /// Desks that have said who has a key.
    said: BTreeSet<(usize, String)>,
    next: u64,
}

impl World {
    fn new() -> Self {
        let limits = Limits {
            batch_max: 2,
            ..Limits::default()
        };
        Self {
            desks: (0..DESKS).map(|_| Desk::new(limits, Known::new(100, 7))).collect(),
            ..Self::default()
        }
    }

    fn run(&mut self, event: &Event) {
        match *event {
            Event::Ask { desk, key, kind } => self.ask(desk, KEYS[key], kind),
            Event::Pass(milliseconds) => self.pass(milliseconds),
            Event::Request { pick, stays } => {
                if let Some(request) = take(&mut self.requests, pick, stays) {
                    self.execute(request);
                }
            }
            Event::Answer { pick, stays } => {
                if let Some((desk, id, answer)) = take(&mut self.answers, pick, stays) {
                    self.answer(desk, id, answer);
                }
            }
            Event::LoseRequest(pick) => drop(take(&mut self.requests, pick, false)),
            Event::LoseAnswer(pick) => drop(take(&mut self.answers, pick, false)),
            Event::Fail(pick) => {
                if let Some((desk, id, _)) = take(&mut self.answers, pick, true) {
                    self.answer(desk, id, Answer::Failed(StoreError::Away("test".to_owned())));
                }
            }
        }
    }

    fn ask(&mut self, desk: usize, key: &str, kind: Asked) {
        let ops = self.ops.entry((desk, key.to_owned())).or_default();
        let op = match (kind, ops.first()) {
            (Asked::Read, _) => None,
            (Asked::Again, Some(op)) => Some(*op),
            (Asked::Claim | Asked::Again, _) => {
                let op = u128::from(self.next) + 1000;
                ops.push(op);
                Some(op)
            }
        };
        self.next += 1;
        let ask = match op {
            Some(op) => Ask::Write(claim(key, op)),
            None => Ask::Read(name("im.conversation"), key.into()),
        };
        let (waiter, op) = (self.next, op.map(OpId));
        self.waiting.insert(waiter, (desk, key.to_owned(), op));
        if let Some(outcome) = self.desks[desk].ask(ask, Waiter(waiter), self.now + PATIENCE, self.now) {
            self.told(waiter, &outcome);
        }
    }

    fn pass(&mut self, milliseconds: u64) {
        self.now += ms(milliseconds);
        for desk in 0..DESKS {
            let mut out = Vec::new();
            self.desks[desk].tick(self.now, &mut out);
            self.act(desk, out);
        }
    }

    fn answer(&mut self, desk: usize, id: BatchId, answer: Answer) {
        let mut out = Vec::new();
        self.desks[desk].answered(id, answer, self.now, self.next, &mut out);
        self.act(desk, out);
    }

    fn act(&mut self, desk: usize, out: Vec<Output>) {
        for output in out {
            match output {
                Output::Send(id, batch) => self.requests.push((desk, id, batch)),
                Output::Tell(Waiter(waiter), outcome) => self.told(waiter, &outcome),
            }
        }
    }

    fn execute(&mut self, (desk, id, batch): (usize, BatchId, Batch)) {
        let text = |key: &KeyBytes| String::from(key.clone());
        let answer = match batch {
            Batch::Claim(claims) => {
                let claims = claims.into_iter();
                Answer::Claimed(
                    claims
                        .map(|claim| self.claims.entry(text(&claim.key)).or_insert(claim).clone())
                        .collect(),
                )
            }
            Batch::LookUp(keys) => Answer::Found(
                keys.iter()
                    .map(|(_, key)| self.claims.get(&text(key)).cloned())
                    .collect(),
            ),
        };
        self.answers.push((desk, id, answer));
    }

    fn told(&mut self, waiter: u64, outcome: &Outcome) {
        let (desk, key, op) = self.waiting.remove(&waiter).expect("nobody is told twice");
        let is_claim = op.is_some();
        match outcome {
            Outcome::Won(holder) | Outcome::Lost(holder) => {
                let kept = self.claims.get(&key).expect("the store has it");
                assert_eq!(
                    *holder,
                    Holder::new(kept.clone(), kept.base),
                    "the target of a key never changes"
                );
                let mut ops = self.ops.values().flatten();
                assert!(ops.any(|asked| *asked == kept.op.0), "nobody asked for {:?}", kept.op);
                let has_won = matches!(outcome, Outcome::Won(_));
                assert_eq!(
                    has_won,
                    op == Some(kept.op),
                    "won exactly with the operation that is kept"
                );
                self.winners.extend(op.filter(|_| has_won));
                self.said.insert((desk, key));
            }
            Outcome::Free => {
                assert!(!is_claim, "a claim ends with an owner");
                assert!(!self.said.contains(&(desk, key)), "a desk does not forget what it said");
            }
            Outcome::Away => {}
            Outcome::Full | Outcome::Denied(_) => panic!("{outcome:?}"),
        }
    }

    /// From now on nothing is lost: whoever waits is told before their time is over.
    fn settle(&mut self) {
        self.requests.clear();
        self.answers.clear();
        for _ in 0..40 {
            self.pass(100);
            while let Some(request) = self.requests.pop() {
                self.execute(request);
            }
            while let Some((desk, id, answer)) = self.answers.pop() {
                self.answer(desk, id, answer);
            }
        }
        assert!(self.waiting.is_empty(), "{:?} still wait", self.waiting);
        for desk in &self.desks {
            assert_eq!((desk.waiters(), desk.wake_at()), (0, None), "nothing is left to do");
        }
    }

    /// Every operation that was told it had won hears the same when it asks again.
    fn ask_again(&mut self) {
        for ((desk, key), ops) in self.ops.clone() {
            for op in ops.into_iter().filter(|op| self.winners.contains(&OpId(*op))) {
                let ask = Ask::Write(claim(&key, op));
                let outcome = self.desks[desk].ask(ask, Waiter(0), self.now + PATIENCE, self.now);
                assert!(matches!(outcome, Some(Outcome::Won(_))), "{outcome:?}");
            }
        }
    }
}

fn take<T: Clone>(list: &mut Vec<T>, pick: usize, stays: bool) -> Option<T> {
    let at = pick.checked_rem(list.len())?;
    Some(if stays { list[at].clone() } else { list.swap_remove(at) })
}

proptest! {
    // R-I5
    #[test]
    fn all_agree_for_ever_on_who_has_a_key(events in events()) {
        let mut world = World::new();
        for event in events {
            world.run(&event);
        }
        world.settle();
        world.ask_again();
    }
}
