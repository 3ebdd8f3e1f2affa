//! Publishers: so many messages in flight, or so many a second. One task each, everything that is ready in one write.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::speech::{self, Heard, Outgoing, Speech};
use crate::usage;

/// Where and how to speak to a side.
#[derive(Clone)]
pub struct Target {
    /// Port of the loopback interface.
    pub port: u16,
    /// Makes the speech of a connection; each gets another number.
    pub speech: Rc<dyn Fn(usize) -> Box<dyn Speech>>,
}

/// One kind of load.
#[derive(Clone)]
pub struct Load {
    /// Connections.
    pub connections: usize,
    /// Messages in flight on all connections together.
    pub in_flight: usize,
    /// The body; its first bytes become number and time.
    pub pattern: Bytes,
    /// When it is over.
    pub end: End,
    /// Messages per second; `None` sends the next one when one is answered.
    pub rate: Option<f64>,
    /// Topics, taken in turn.
    pub topics: u32,
    /// Keys, taken in turn.
    pub keys: u32,
    /// Number of the first key.
    pub first_key: u32,
    /// Number of the first message.
    pub first: u64,
}

/// When a load is over.
#[derive(Clone, Copy)]
pub enum End {
    /// After this time, and a warm-up that does not count.
    After(Duration),
    /// After so many messages.
    Count(u64),
}

/// What publishers saw.
#[derive(Clone, Copy, Debug, Default)]
pub struct Published {
    /// Messages that were acknowledged, those of the warm-up included.
    pub all: u64,
    /// Per second, without the warm-up.
    pub per_second: f64,
    /// Time to the acknowledgement in microseconds: half of them, 99 %.
    pub within: [f64; 2],
    /// Processor time of this process meanwhile.
    pub cpu: Duration,
}

/// What all connections of a load share.
struct Shared {
    load: Load,
    clock: Instant,
    window: (Instant, Instant),
    next: Cell<u64>,
    /// Tenths of a microsecond.
    times: RefCell<Vec<u32>>,
    all: Cell<u64>,
}

/// Publishes until the end of the load; `clock` is what the times in bodies are counted from.
pub async fn publish(target: &Target, load: &Load, clock: Instant) -> Published {
    let warm_up = if matches!(load.end, End::After(_)) {
        WARM_UP
    } else {
        Duration::ZERO
    };
    let begin = Instant::now() + warm_up;
    let end = match load.end {
        End::After(time) => begin + time,
        End::Count(_) => begin + Duration::from_secs(24 * 3600),
    };
    let shared = Rc::new(Shared {
        load: load.clone(),
        clock,
        window: (begin, end),
        next: Cell::new(load.first),
        times: RefCell::new(Vec::with_capacity(1 << 20)),
        all: Cell::new(0),
    });
    let cpu = usage::cpu(std::process::id());
    let connections = (0..load.connections).map(|number| {
        let publisher = Publisher {
            speech: (target.speech)(number),
            shared: Rc::clone(&shared),
            sent: Vec::new(),
            free: Vec::new(),
            out: BytesMut::with_capacity(256 * 1024),
            turn: number as u32,
        };
        let port = target.port;
        tokio::task::spawn_local(async move {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            stream.set_nodelay(true).unwrap();
            match publisher.shared.load.rate {
                None => publisher.keep_in_flight(stream).await,
                Some(rate) => publisher.keep_pace(stream, rate).await,
            }
        })
    });
    for connection in connections.collect::<Vec<_>>() {
        connection.await.unwrap();
    }
    let took = Instant::now().min(end).saturating_duration_since(begin).as_secs_f64();
    let mut times = shared.times.borrow_mut();
    times.sort_unstable();
    Published {
        all: shared.all.get(),
        per_second: times.len() as f64 / took,
        within: [0.5, 0.99].map(|share| at(&times, share)),
        cpu: usage::cpu(std::process::id()).saturating_sub(cpu),
    }
}

/// This share of sorted times took no longer, in microseconds.
pub fn at(times: &[u32], share: f64) -> f64 {
    let last = times.len().saturating_sub(1) as f64;
    f64::from(times.get((last * share) as usize).copied().unwrap_or(0)) / 10.0
}

struct Publisher {
    speech: Box<dyn Speech>,
    shared: Rc<Shared>,
    /// When the message of a slot was sent.
    sent: Vec<Instant>,
    /// Slots that are free.
    free: Vec<u32>,
    out: BytesMut,
    turn: u32,
}

impl Publisher {
    /// The next message is sent when one is answered.
    async fn keep_in_flight(mut self, mut stream: TcpStream) {
        let each = self.shared.load.in_flight.div_ceil(self.shared.load.connections);
        self.speech.greet(&mut self.out);
        for _ in 0..each {
            self.put(Instant::now());
        }
        while self.is_waiting() {
            stream.write_all(&self.out).await.unwrap();
            self.out.clear();
            self.read(&mut stream).await;
            while !self.free.is_empty() && self.put(Instant::now()) {}
        }
    }

    /// Sends what is due, whatever the answers do, until the limit of messages in flight.
    async fn keep_pace(mut self, mut stream: TcpStream, rate: f64) {
        let load = &self.shared.load;
        let each = load.in_flight.div_ceil(load.connections);
        let pause = Duration::from_secs_f64(load.connections as f64 / rate);
        let mut due = Instant::now() + pause.mul_f64(f64::from(self.turn) / load.connections as f64);
        self.speech.greet(&mut self.out);
        loop {
            let now = Instant::now();
            while due <= now && self.sent.len() - self.free.len() < each && self.put(now) {
                due += pause;
            }
            if now >= self.shared.window.1 && !self.is_waiting() {
                return;
            }
            if !self.out.is_empty() {
                stream.write_all(&self.out).await.unwrap();
                self.out.clear();
            }
            let next = if now >= self.shared.window.1 || due <= now {
                now + Duration::from_millis(50)
            } else {
                due
            };
            tokio::select! {
                () = self.read(&mut stream) => {}
                () = tokio::time::sleep_until(next.into()) => {}
            }
        }
    }

    fn is_waiting(&self) -> bool {
        self.sent.len() > self.free.len()
    }

    /// Puts the next message into what is to be written, if there is one.
    fn put(&mut self, now: Instant) -> bool {
        let shared = &self.shared;
        let number = shared.next.get();
        let is_over = match shared.load.end {
            End::After(_) => now >= shared.window.1,
            End::Count(count) => number - shared.load.first >= count,
        };
        if is_over {
            return false;
        }
        shared.next.set(number + 1);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.sent.push(now);
            self.sent.len() as u32 - 1
        });
        self.sent[slot as usize] = now;
        let nanos = now.duration_since(shared.clock).as_nanos() as u64;
        let what = Outgoing {
            topic: (number % u64::from(shared.load.topics)) as u32,
            key: shared.load.first_key + (number % u64::from(shared.load.keys)) as u32,
            body: &speech::body(&shared.load.pattern, number, nanos),
        };
        self.speech.put_publish(&mut self.out, slot, &what);
        true
    }

    async fn read(&mut self, stream: &mut TcpStream) {
        self.speech.buffer().reserve(READ_BYTES);
        let read = stream.read_buf(self.speech.buffer()).await.unwrap();
        assert!(read > 0, "the server closed the connection of a publisher");
        let now = Instant::now();
        let (begin, end) = self.shared.window;
        while let Some(heard) = self.speech.next(&mut self.out) {
            match heard {
                Heard::Stored(slot) => {
                    let sent = self.sent[slot as usize];
                    self.free.push(slot);
                    self.shared.all.set(self.shared.all.get() + 1);
                    if sent >= begin && now < end {
                        let time = (now - sent).as_nanos() / 100;
                        self.shared
                            .times
                            .borrow_mut()
                            .push(u32::try_from(time).unwrap_or(u32::MAX));
                    }
                }
                Heard::Refused(_, why) => panic!("a message was refused: {why}"),
                Heard::Message(..) => {}
            }
        }
    }
}

const WARM_UP: Duration = Duration::from_millis(300);
const READ_BYTES: usize = 64 * 1024;
