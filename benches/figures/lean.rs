//! The leanest load and the leanest echo service there are: one task, one connection each (or several), everything that
//! is ready in one write. Processes of their own.

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::LocalSet;

use crate::speech::{Heard, Speech};
use crate::stage::{role, until};

/// Role of the echo service: `<speech> <socket> <connections>`. Bare ones listen, others register at a relay.
pub const ECHO: &str = "lean-echo";
/// Role of the load: `<speech> <socket> <connections> <bytes> <in flight> <seconds>`.
pub const LOAD: &str = "lean-load";

/// One kind of load.
#[derive(Clone)]
pub struct Load {
    /// `bare` or `strait`.
    pub speech: &'static str,
    /// Connections.
    pub connections: usize,
    /// Bytes of a body.
    pub bytes: usize,
    /// Calls in flight on all connections together.
    pub in_flight: usize,
    /// How long.
    pub time: Duration,
}

/// What the load found.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// Calls answered, those of the warm-up included.
    pub all: f64,
    /// Calls per second.
    pub per_second: f64,
    /// Response times in microseconds: half of the calls, 99 %, 99.9 %.
    pub within: [f64; 3],
}

impl Load {
    /// Puts the load on a socket and waits for its end.
    pub fn run(&self, socket: &Path) -> Sample {
        let (sample, said) = self.attempt(socket);
        sample.unwrap_or_else(|| panic!("the load failed: {said}"))
    }

    /// Waits until calls pass through a socket.
    pub fn until_serving(&self, socket: &Path) {
        let one = Self {
            in_flight: self.connections,
            time: Duration::from_millis(10),
            ..self.clone()
        };
        until("the first call to be answered", || one.attempt(socket).0.is_some());
    }

    fn attempt(&self, socket: &Path) -> (Option<Sample>, String) {
        let output = role(LOAD)
            .arg(self.speech)
            .arg(socket)
            .args([self.connections, self.bytes, self.in_flight].map(|number| number.to_string()))
            .arg(self.time.as_secs_f64().to_string())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        let sample = match numbers[..] {
            [all, per_second, p50, p99, p999] => Some(Sample {
                all,
                per_second,
                within: [p50, p99, p999],
            }),
            _ => None,
        };
        (sample, String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// The command of an echo service.
pub fn echo(speech: &str, socket: &Path, connections: usize) -> Command {
    let mut command = role(ECHO);
    command.arg(speech).arg(socket).arg(connections.to_string());
    command
}

/// One call to each of the units `u0`, `u1`, ..., whatever becomes of it.
pub fn call_each(socket: &Path, units: usize) {
    block_on(async {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        let mut speech = Speech::named("strait");
        let mut out = BytesMut::new();
        speech.greet(&mut out);
        for unit in 0..units {
            speech.set_key(&format!("u{unit}:1"));
            speech.put_call(&mut out, unit as u32, 0, &Bytes::new());
        }
        stream.write_all(&out).await.unwrap();
        let mut ended = 0;
        while ended < units {
            assert!(stream.read_buf(speech.buffer()).await.unwrap() > 0);
            while speech.next(false, Instant::now()).is_some() {
                ended += 1;
            }
        }
    });
}

pub fn echo_main(words: &[String]) {
    let [speech, socket, connections] = words else {
        panic!("{words:?}");
    };
    block_on(async {
        if speech == "bare" {
            let listener = UnixListener::bind(socket).unwrap();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::task::spawn_local(answer(stream, Speech::named(speech)));
            }
        }
        let serving: Vec<_> = (0..connections.parse().unwrap())
            .map(|_| {
                let (speech, socket) = (speech.clone(), socket.clone());
                tokio::task::spawn_local(async move {
                    let mut stream = UnixStream::connect(socket).await.unwrap();
                    let speech = Speech::named(&speech);
                    let mut out = BytesMut::new();
                    speech.register(&mut out);
                    stream.write_all(&out).await.unwrap();
                    answer(stream, speech).await;
                })
            })
            .collect();
        for one in serving {
            let _ = one.await;
        }
    });
}

async fn answer(mut stream: UnixStream, mut speech: Speech) {
    let mut out = BytesMut::with_capacity(256 * 1024);
    while stream.read_buf(speech.buffer()).await.is_ok_and(|bytes| bytes > 0) {
        let now = Instant::now();
        while let Some(heard) = speech.next(true, now) {
            match heard {
                Heard::Call(id, body) => speech.put_reply(&mut out, id, body),
                Heard::Failed(_, why) => eprintln!("the echo was refused: {why}"),
                Heard::Reply(_) => {}
            }
        }
        if stream.write_all(&out).await.is_err() {
            return;
        }
        out.clear();
        speech.buffer().reserve(READ_BYTES);
    }
}

pub fn load_main(words: &[String]) {
    let [speech, socket, connections, bytes, in_flight, seconds] = words else {
        panic!("{words:?}");
    };
    let connections: usize = connections.parse().unwrap();
    let in_flight: usize = in_flight.parse().unwrap();
    let body = Bytes::from(vec![b'x'; bytes.parse().unwrap()]);
    let time = Duration::from_secs_f64(seconds.parse().unwrap());
    block_on(async {
        let begin = Instant::now() + WARM_UP;
        let window = (begin, begin + time);
        let times = Rc::new(RefCell::new(Vec::<u32>::with_capacity(4 << 20)));
        let all = Rc::new(Cell::new(0_u64));
        let each = in_flight.div_ceil(connections);
        let callers: Vec<_> = (0..connections)
            .map(|_| {
                let (speech, socket) = (Speech::named(speech), socket.clone());
                let (body, times, all) = (body.clone(), times.clone(), all.clone());
                tokio::task::spawn_local(async move {
                    let stream = UnixStream::connect(socket).await.unwrap();
                    let count = calls(stream, speech, (body, each), window, &times).await;
                    all.set(all.get() + count);
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
        let mut times = times.borrow_mut();
        times.sort_unstable();
        let at = |share: f64| f64::from(times[((times.len() - 1) as f64 * share) as usize]) / 10.0;
        let per_second = times.len() as f64 / time.as_secs_f64();
        println!("{} {per_second} {} {} {}", all.get(), at(0.5), at(0.99), at(0.999));
    });
}

/// Keeps so many calls in flight, and tells how many there were. Times are kept in tenths of a microsecond.
async fn calls(
    mut stream: UnixStream,
    mut speech: Speech,
    (body, in_flight): (Bytes, usize),
    (begin, end): (Instant, Instant),
    times: &RefCell<Vec<u32>>,
) -> u64 {
    let mut out = BytesMut::with_capacity(256 * 1024);
    let mut sent = vec![Instant::now(); in_flight];
    speech.greet(&mut out);
    let (mut turn, mut all) = (0, 0);
    for index in 0..in_flight {
        speech.put_call(&mut out, index as u32, turn, &body);
    }
    let mut open = in_flight;
    while open > 0 {
        stream.write_all(&out).await.unwrap();
        out.clear();
        speech.buffer().reserve(READ_BYTES);
        let read = stream.read_buf(speech.buffer()).await.unwrap();
        assert!(read > 0, "the relay closed the connection");
        let now = Instant::now();
        turn += 1;
        while let Some(heard) = speech.next(false, now) {
            let index = match heard {
                Heard::Reply(id) => id as u32,
                Heard::Failed(_, why) => panic!("a call failed: {why}"),
                Heard::Call(..) => continue,
            };
            all += 1;
            let since = &mut sent[index as usize];
            if *since >= begin && now < end {
                times.borrow_mut().push(((now - *since).as_nanos() / 100) as u32);
            }
            if now < end {
                *since = now;
                speech.put_call(&mut out, index, turn, &body);
            } else {
                open -= 1;
            }
        }
    }
    all
}

fn block_on(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, future);
}

const READ_BYTES: usize = 128 * 1024;
const WARM_UP: Duration = Duration::from_millis(300);
