//! What arrived at the consumer: every message is looked at, each number counted.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::load::{Target, at};
use crate::speech::{Heard, stamp};

/// What a consumer has seen.
pub struct Ledger {
    clock: Instant,
    /// How often each number came.
    times_seen: Vec<u8>,
    /// Numbers that came.
    pub distinct: u64,
    /// Messages that came again.
    pub again: u64,
    /// When each number came first, if that is kept.
    came: Option<Vec<Duration>>,
    /// Tenths of a microsecond from publisher to consumer, of numbers from `timed_from` on.
    times: Vec<u32>,
    timed_from: u64,
}

impl Ledger {
    /// An empty one.
    pub fn new(clock: Instant) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            clock,
            times_seen: Vec::new(),
            distinct: 0,
            again: 0,
            came: None,
            times: Vec::new(),
            timed_from: u64::MAX,
        }))
    }

    /// From now on, keep the times of messages with this number and later.
    pub fn time_from(&mut self, number: u64) {
        self.timed_from = number;
        self.times.clear();
    }

    /// From now on, keep when each message came.
    pub fn keep_arrivals(&mut self) {
        self.came = Some(Vec::new());
    }

    /// Half, 99 % and 100 % of the timed messages took no longer, in microseconds; and how many there were.
    pub fn within(&mut self) -> ([f64; 3], usize) {
        self.times.sort_unstable();
        ([0.5, 0.99, 1.0].map(|share| at(&self.times, share)), self.times.len())
    }

    /// When the messages of these numbers came, in order of time.
    pub fn arrivals(&self, from: u64, to: u64) -> Vec<Duration> {
        let came = self.came.as_deref().unwrap_or_default();
        let mut came: Vec<Duration> = came.iter().take(to as usize).skip(from as usize).copied().collect();
        came.retain(|time| *time > Duration::ZERO);
        came.sort_unstable();
        came
    }

    /// How many of these numbers never came.
    pub fn missing(&self, from: u64, to: u64) -> u64 {
        let seen = |number: &u64| self.times_seen.get(*number as usize).is_some_and(|times| *times > 0);
        (from..to).filter(|number| !seen(number)).count() as u64
    }

    fn note(&mut self, body: &[u8], pattern: &Bytes) {
        let (number, nanos) = stamp(body, pattern);
        let now = self.clock.elapsed();
        let index = number as usize;
        if index >= self.times_seen.len() {
            self.times_seen.resize(index + 1, 0);
        }
        if self.times_seen[index] > 0 {
            self.again += 1;
        } else {
            self.distinct += 1;
            if let Some(came) = &mut self.came {
                if index >= came.len() {
                    came.resize(index + 1, Duration::ZERO);
                }
                came[index] = now;
            }
            if number >= self.timed_from {
                let time = now.saturating_sub(Duration::from_nanos(nanos)).as_nanos() / 100;
                self.times.push(u32::try_from(time).unwrap_or(u32::MAX));
            }
        }
        self.times_seen[index] = self.times_seen[index].saturating_add(1);
    }
}

/// A consumer that acknowledges everything, until it is dropped.
pub struct Consumer(JoinHandle<()>);

impl Consumer {
    /// Connects and subscribes; connects again when the server went away.
    pub fn start(target: &Target, in_flight: usize, pattern: &Bytes, ledger: &Rc<RefCell<Ledger>>) -> Self {
        let (target, pattern, ledger) = (target.clone(), pattern.clone(), Rc::clone(ledger));
        Self(tokio::task::spawn_local(async move {
            let mut turn = 1_000;
            loop {
                turn += 1;
                if let Ok(stream) = TcpStream::connect(("127.0.0.1", target.port)).await {
                    consume(stream, &target, (turn, in_flight), &pattern, &ledger).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }))
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn consume(
    mut stream: TcpStream,
    target: &Target,
    (turn, in_flight): (usize, usize),
    pattern: &Bytes,
    ledger: &RefCell<Ledger>,
) {
    stream.set_nodelay(true).unwrap();
    let mut speech = (target.speech)(turn);
    let mut out = BytesMut::with_capacity(64 * 1024);
    speech.greet(&mut out);
    speech.put_subscribe(&mut out, in_flight);
    loop {
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        speech.buffer().reserve(READ_BYTES);
        if !stream.read_buf(speech.buffer()).await.is_ok_and(|read| read > 0) {
            return;
        }
        while let Some(heard) = speech.next(&mut out) {
            match heard {
                Heard::Message(body, ack) => {
                    ledger.borrow_mut().note(&body, pattern);
                    speech.put_ack(&mut out, &ack);
                }
                Heard::Refused(_, why) => eprintln!("the consumer was refused: {why}"),
                Heard::Stored(_) => {}
            }
        }
    }
}

const READ_BYTES: usize = 256 * 1024;
