//! Calls at random times at a given rate, whether or not earlier ones are answered; over a link or a stream per call.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::task::spawn_local;

use strait::model::{CallId, Callee, Caller, CallerRef, ReplyEvent};

use crate::link;
use crate::plain::Plain;

/// How many calls of what size, for how long.
pub struct Load {
    /// Bytes of a body.
    pub bytes: usize,
    /// Calls per second.
    pub rate: u32,
    /// How long.
    pub time: Duration,
}

/// How calls go.
pub enum Way {
    /// On the lanes of a link.
    Link(Rc<dyn Callee>),
    /// On a stream each.
    Plain(Rc<Plain>),
}

/// What became of the calls.
pub struct Answered {
    /// When each was due, and how long after that its answer came.
    pub calls: Vec<(Instant, Duration)>,
    /// Calls without an answer ten seconds after the last was sent.
    pub missing: usize,
}

#[derive(Default)]
struct Answers {
    due: RefCell<Vec<Instant>>,
    came: RefCell<Vec<(Instant, Duration)>>,
}

impl Answers {
    fn on_answer(&self, index: usize) {
        let due = self.due.borrow()[index];
        self.came.borrow_mut().push((due, due.elapsed()));
    }
}

impl Caller for Answers {
    fn on_reply(&self, id: CallId, event: ReplyEvent) {
        match event {
            ReplyEvent::Part(part) if part.end.is_some() => self.on_answer(id.0 as usize),
            ReplyEvent::Failed(error) => eprintln!("a call failed: {error}"),
            _ => {}
        }
    }
}

impl Way {
    /// Sends calls; the same seed gives the same times.
    pub async fn drive(&self, load: &Load, seed: u64) -> Answered {
        let mut dice = fastrand::Rng::with_seed(seed);
        let answers = Rc::new(Answers::default());
        let body = Bytes::from(vec![b'x'; load.bytes]);
        let mut at = Instant::now();
        let end = at + load.time;
        loop {
            // Exponential gaps are what many independent callers make.
            at += Duration::from_secs_f64(-(1.0 - dice.f64()).ln() / f64::from(load.rate));
            if at > end {
                break;
            }
            tokio::time::sleep_until(at.into()).await;
            let index = answers.due.borrow().len();
            answers.due.borrow_mut().push(at);
            self.send(index, &body, &answers);
        }
        let sent = answers.due.borrow().len();
        let waited = Instant::now();
        while answers.came.borrow().len() < sent && waited.elapsed() < Duration::from_secs(10) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let calls = answers.came.take();
        let missing = sent - calls.len();
        Answered { calls, missing }
    }

    fn send(&self, index: usize, body: &Bytes, answers: &Rc<Answers>) {
        match self {
            Self::Link(link) => {
                let caller = CallerRef {
                    port: answers.clone(),
                    id: CallId(index as u64),
                };
                let request = link::request("/bench.Small/Echo", body.clone(), true);
                link.open(Box::new(request), caller).expect("the link takes calls");
            }
            Self::Plain(plain) => {
                let (plain, body, answers) = (plain.clone(), body.clone(), answers.clone());
                spawn_local(async move {
                    if plain.call(body, true).await {
                        answers.on_answer(index);
                    }
                });
            }
        }
    }
}
