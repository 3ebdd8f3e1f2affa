//! The bare lane prototype: two forwarders with two lanes between them over mutual TLS, and nothing else. They renumber
//! calls, as whoever carries the calls of several callers must; they know no routes, deadlines, limits or metrics.
//!
//! ```text
//! lean load -- Unix socket --> forwarder a == QUIC, two lanes == forwarder b -- Unix socket --> lean echo
//! ```
//! Every batch that was read goes out in one write. Settings of QUIC and TLS are those of the product.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Notify;
use tokio::task::{LocalSet, spawn_local};

use strait::peer::quic::{Purpose, SERVER_NAME};

use crate::lean;
use crate::link::{Identity, Side};
use crate::ports::free_port;
use crate::process::Process;
use crate::speech::{put_bare, take_bare};
use crate::stage::{Stage, role, until};

/// Role of a forwarder: `<a or b> <socket> <UDP address of b> <directory of the stage>`.
pub const ROLE: &str = "bare-forwarder";
const LANES: usize = 2;
/// Opens a lane: the id of no call.
const NOTHING: u64 = u64::MAX;

/// Echo service and both forwarders, running.
pub struct Bare {
    /// Where load goes in.
    pub socket: PathBuf,
    /// The forwarders.
    pub processes: [Process; 2],
    _echo: Process,
}

impl Bare {
    /// Starts all three.
    pub fn start(stage: &Stage) -> Self {
        let at = format!("127.0.0.1:{}", free_port());
        let [socket, echo] = ["bare-a.sock", "bare-echo.sock"].map(|name| stage.directory.join(name));
        let log = |name: &str| stage.directory.join(name);
        let service = Process::start(&mut lean::echo("bare", &echo, 1), &log("bare-echo.log"));
        until("the bare echo", || echo.exists());
        let start = |side: &str, socket: &Path| {
            stage.issue(side);
            let mut command = role(ROLE);
            command.arg(side).arg(socket).arg(&at).arg(&stage.directory);
            Process::start(&mut command, &log(&format!("bare-{side}.log")))
        };
        let b = start("b", &echo);
        let a = start("a", &socket);
        until("the bare forwarders", || socket.exists());
        Self {
            socket,
            processes: [a, b],
            _echo: service,
        }
    }

    /// Processor time of both forwarders.
    pub fn cpu(&self) -> Duration {
        self.processes.iter().map(Process::cpu).sum()
    }
}

pub fn main(words: &[String]) {
    let [side, socket, at, directory] = words else {
        panic!("{words:?}");
    };
    let identity = Identity::of(Path::new(directory), side);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let at = at.parse().unwrap();
    LocalSet::new().block_on(&runtime, async {
        if side == "a" {
            let side = Side::new(&identity, ("b", Some(at)), |_| {});
            let connection = dial(&side, at).await;
            caller_side(Path::new(socket), &connection).await;
        } else {
            let side = Side::new(&identity, ("a", None), |_| {});
            let endpoint = side.quic.server_endpoint(at).unwrap();
            while let Some(incoming) = endpoint.accept().await {
                let connection = side.quic.accept(incoming, 0).unwrap().await.unwrap();
                service_side(Path::new(socket), &connection).await;
            }
        }
    });
}

/// Tries until the other side is there.
async fn dial(side: &Side, at: std::net::SocketAddr) -> quinn::Connection {
    let endpoint = side.quic.client_endpoint([127, 0, 0, 1].into()).unwrap();
    let config = side.client_config("b", Purpose::Lanes);
    loop {
        let connecting = endpoint.connect_with(config.clone(), at, SERVER_NAME).unwrap();
        match tokio::time::timeout(Duration::from_secs(1), connecting).await {
            Ok(Ok(connection)) => return connection,
            _ => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Takes local callers, one after the other.
async fn caller_side(socket: &Path, connection: &quinn::Connection) {
    let table = Rc::new(RefCell::new(Table::default()));
    let local = Rc::new(RefCell::new(vec![Rc::new(Outbox::default())]));
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        let (send, receive) = connection.open_bi().await.unwrap();
        let lane = Rc::new(Outbox::default());
        lane.put(NOTHING, &[]);
        lane.wake.notify_one();
        spawn_local(write_lane(lane.clone(), send));
        spawn_local(replies(Reader::Lane(receive), table.clone(), local.clone()));
        lanes.push(lane);
    }
    let listener = UnixListener::bind(socket).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (read, write) = stream.into_split();
        let outbox = Rc::new(Outbox::default());
        local.borrow_mut()[0] = outbox.clone();
        let writing = spawn_local(write_local(outbox, write));
        calls(Reader::Local(read), 0, table.clone(), lanes.clone()).await;
        writing.abort();
    }
}

/// Takes the lanes of the other side.
async fn service_side(socket: &Path, connection: &quinn::Connection) {
    let table = Rc::new(RefCell::new(Table::default()));
    let (read, write) = UnixStream::connect(socket).await.unwrap().into_split();
    let service = Rc::new(Outbox::default());
    spawn_local(write_local(service.clone(), write));
    let lanes = Rc::new(RefCell::new(Vec::new()));
    spawn_local(replies(Reader::Local(read), table.clone(), lanes.clone()));
    while let Ok((send, receive)) = connection.accept_bi().await {
        let lane = Rc::new(Outbox::default());
        spawn_local(write_lane(lane.clone(), send));
        let source = lanes.borrow().len();
        lanes.borrow_mut().push(lane);
        spawn_local(calls(
            Reader::Lane(receive),
            source,
            table.clone(),
            vec![service.clone()],
        ));
    }
}

/// Calls on their way: the caller's number, and where it came from.
#[derive(Default)]
struct Table {
    calls: Vec<(u64, usize)>,
    free: Vec<usize>,
}

impl Table {
    fn take(&mut self, call: (u64, usize)) -> usize {
        if let Some(slot) = self.free.pop() {
            self.calls[slot] = call;
            return slot;
        }
        self.calls.push(call);
        self.calls.len() - 1
    }

    fn give(&mut self, slot: usize) -> (u64, usize) {
        self.free.push(slot);
        self.calls[slot]
    }
}

/// Frames that wait for one writer.
#[derive(Default)]
struct Outbox {
    frames: RefCell<BytesMut>,
    wake: Notify,
}

impl Outbox {
    fn put(&self, id: u64, body: &[u8]) {
        put_bare(&mut self.frames.borrow_mut(), id, body);
    }

    async fn take(&self) -> Bytes {
        while self.frames.borrow().is_empty() {
            self.wake.notified().await;
        }
        let mut frames = self.frames.borrow_mut();
        let taken = frames.split().freeze();
        frames.reserve(READ_BYTES);
        taken
    }
}

async fn write_lane(outbox: Rc<Outbox>, mut stream: quinn::SendStream) {
    while stream.write_chunk(outbox.take().await).await.is_ok() {}
}

async fn write_local(outbox: Rc<Outbox>, mut stream: OwnedWriteHalf) {
    while stream.write_all(&outbox.take().await).await.is_ok() {}
}

enum Reader {
    Lane(quinn::RecvStream),
    Local(OwnedReadHalf),
}

impl Reader {
    /// All that is there; false at the end.
    async fn read(&mut self, buffer: &mut BytesMut) -> bool {
        match self {
            Self::Local(stream) => {
                buffer.reserve(READ_BYTES);
                stream.read_buf(buffer).await.is_ok_and(|bytes| bytes > 0)
            }
            Self::Lane(stream) => {
                let mut chunks: [Bytes; 64] = std::array::from_fn(|_| Bytes::new());
                let Ok(Some(count)) = stream.read_chunks(&mut chunks).await else {
                    return false;
                };
                chunks[..count].iter().for_each(|chunk| buffer.extend_from_slice(chunk));
                true
            }
        }
    }
}

async fn calls(mut reader: Reader, source: usize, table: Rc<RefCell<Table>>, targets: Vec<Rc<Outbox>>) {
    let mut buffer = BytesMut::new();
    while reader.read(&mut buffer).await {
        while let Some((id, body)) = take_bare(&mut buffer) {
            if id != NOTHING {
                let slot = table.borrow_mut().take((id, source));
                targets[slot % targets.len()].put(slot as u64, &body);
            }
        }
        for target in &targets {
            target.wake.notify_one();
        }
    }
}

async fn replies(mut reader: Reader, table: Rc<RefCell<Table>>, sources: Rc<RefCell<Vec<Rc<Outbox>>>>) {
    let mut buffer = BytesMut::new();
    while reader.read(&mut buffer).await {
        let sources = sources.borrow();
        while let Some((slot, body)) = take_bare(&mut buffer) {
            let (id, source) = table.borrow_mut().give(slot as usize);
            sources[source].put(id, &body);
        }
        for source in sources.iter() {
            source.wake.notify_one();
        }
    }
}

const READ_BYTES: usize = 128 * 1024;
