mod cases;
mod history;

use std::time::Duration;

use super::*;
use crate::control::store::StoreError;
use crate::routing::record::{Claim, Epoch, OpId, Rev, Target};

const PATIENCE: Duration = Duration::from_secs(5);

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// A desk and the time it is there.
struct Office {
    desk: Desk,
    now: Duration,
    out: Vec<Output>,
}

impl Office {
    fn new(limits: Limits) -> Self {
        Self {
            desk: Desk::new(limits, Known::new(100, 7)),
            now: ms(1000),
            out: Vec::new(),
        }
    }

    fn read(&mut self, waiter: u64, key: &str) -> Option<Outcome> {
        let ask = Ask::Read(name("im.conversation"), key.into());
        self.desk.ask(ask, Waiter(waiter), self.now + PATIENCE, self.now)
    }

    fn write(&mut self, waiter: u64, key: &str, op: u128) -> Option<Outcome> {
        let ask = Ask::Write(claim(key, op));
        self.desk.ask(ask, Waiter(waiter), self.now + PATIENCE, self.now)
    }

    fn after(&mut self, milliseconds: u64) -> Vec<Output> {
        self.now += ms(milliseconds);
        self.desk.tick(self.now, &mut self.out);
        std::mem::take(&mut self.out)
    }

    /// The one batch that is due after a millisecond.
    fn sent(&mut self) -> (BatchId, Batch) {
        match self.after(1).as_slice() {
            [Output::Send(id, batch)] => (*id, batch.clone()),
            other => panic!("{other:?}"),
        }
    }

    fn answered(&mut self, id: BatchId, answer: Answer) -> Vec<(u64, Outcome)> {
        self.desk.answered(id, answer, self.now, 0, &mut self.out);
        std::mem::take(&mut self.out).into_iter().map(told).collect()
    }
}

fn told(output: Output) -> (u64, Outcome) {
    match output {
        Output::Tell(Waiter(waiter), outcome) => (waiter, outcome),
        Output::Send(..) => panic!("{output:?}"),
    }
}

/// A claim of unit `u<op>`, so that each operation wants another owner.
fn claim(key: &str, op: u128) -> Claim {
    let unit = name(&format!("u{op}"));
    Claim {
        dimension: name("im.conversation"),
        key: key.into(),
        target: Target::Unit(unit.clone()),
        base: Epoch::new(0, Rev(3)),
        op: OpId(op),
        by: unit,
    }
}

fn won(key: &str, op: u128) -> Outcome {
    Outcome::Won(holder(key, op))
}

fn lost(key: &str, op: u128) -> Outcome {
    Outcome::Lost(holder(key, op))
}

fn holder(key: &str, op: u128) -> Holder {
    let claim = claim(key, op);
    let base = claim.base;
    Holder::new(claim, base)
}
