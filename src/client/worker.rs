//! The task of a client: keeps a connection, moves calls onto it, ends what is late.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::session::{Event, Session};
use super::{Address, Builder, CallError, Command, ConnectError, Pending, ServeError, Shared, Wanted};
use crate::model::Name;
use crate::wire::frame::{CONNECTION, Decoder, Frame, put_hello};
use crate::wire::hello::{self, Agreed, Hello, Purpose, Registered};

/// Time for connecting and shaking hands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First wait after a connection broke.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// Commands wait while more than this is to be written.
const OUT_MAX: usize = 512 * 1024;
const READ_BYTES: usize = 64 * 1024;

/// A connection whose hello was exchanged.
pub(super) struct Connection {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    writer: Box<dyn AsyncWrite + Send + Unpin>,
    decoder: Decoder,
    agreed: Agreed,
}

struct Worker {
    address: Address,
    settings: Builder,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    /// Calls that are not sent.
    waiting: VecDeque<Pending>,
    /// When to look for late calls at the latest.
    next_sweep: Option<Instant>,
    registering: Vec<(Wanted, oneshot::Sender<Result<(), ServeError>>)>,
    /// What the session asked for when it began and the relay has not answered yet.
    asked: Vec<Wanted>,
    session_number: u64,
}

/// Makes one connection.
pub(super) async fn connect(address: &Address, settings: &Builder) -> Result<Connection, ConnectError> {
    let text = &settings.address;
    let socket = |source| ConnectError::Socket {
        address: text.clone(),
        source,
    };
    let attempt = async {
        match address {
            Address::Unix(path) => {
                let (reader, writer) = UnixStream::connect(path).await.map_err(socket)?.into_split();
                shake(Box::new(reader), Box::new(writer), settings).await
            }
            Address::Tcp(host) => {
                let stream = TcpStream::connect(host).await.map_err(socket)?;
                stream.set_nodelay(true).map_err(socket)?;
                let (reader, writer) = stream.into_split();
                shake(Box::new(reader), Box::new(writer), settings).await
            }
        }
    };
    match tokio::time::timeout(CONNECT_TIMEOUT, attempt).await {
        Ok(result) => result,
        Err(_) => Err(socket(std::io::ErrorKind::TimedOut.into())),
    }
}

async fn shake(
    mut reader: Box<dyn AsyncRead + Send + Unpin>,
    mut writer: Box<dyn AsyncWrite + Send + Unpin>,
    settings: &Builder,
) -> Result<Connection, ConnectError> {
    let address = &settings.address;
    let socket = |source| ConnectError::Socket {
        address: address.clone(),
        source,
    };
    let refused = |detail: String| ConnectError::Refused {
        address: address.clone(),
        detail,
    };
    let other_protocol = |error: &dyn std::error::Error| {
        refused(format!(
            "it does not speak the framed protocol ({error}); name the framed address of the relay (ingress.framed), such as \
             tcp://127.0.0.1:7401 or unix:data/strait.sock: 7400 and grpc.sock are for gRPC"
        ))
    };
    let mut ours = Hello::new(Purpose::Service, settings.serving_max);
    if settings.tokens_max > 0 {
        ours.features.push(hello::ROUTES.to_owned());
    }
    let mut out = BytesMut::new();
    put_hello(&mut out, &hello::encode(&ours));
    writer.write_all(&out).await.map_err(socket)?;
    let mut decoder = Decoder::new(hello::FRAME_BYTES_DEFAULT);
    let theirs: Hello = loop {
        match decoder.next(now()).map_err(|error| other_protocol(&error))? {
            Some(Frame::Hello(body)) => break hello::decode(&body).map_err(|error| refused(error.to_string()))?,
            Some(Frame::Failed { id: CONNECTION, error }) => return Err(refused(error.detail)),
            Some(Frame::Unknown(_)) => {}
            Some(_) => return Err(refused("its first frame is no HELLO".to_owned())),
            None => {
                if reader.read_buf(decoder.buffer()).await.map_err(socket)? == 0 {
                    return Err(socket(std::io::ErrorKind::UnexpectedEof.into()));
                }
            }
        }
    };
    let agreed = hello::negotiate(&ours, &theirs).map_err(|error| refused(error.to_string()))?;
    Ok(Connection {
        reader,
        writer,
        decoder,
        agreed,
    })
}

/// Serves a client until all its handles are gone.
pub(super) async fn run(
    address: Address,
    settings: Builder,
    first: Connection,
    shared: Arc<Shared>,
    tasks: TaskTracker,
) {
    let mut worker = Worker {
        address,
        settings,
        shared,
        tasks,
        waiting: VecDeque::new(),
        next_sweep: None,
        registering: Vec::new(),
        asked: Vec::new(),
        session_number: 0,
    };
    let mut connection = Some(first);
    while let Some(next) = connection.take() {
        let Some(why) = worker.serve(next).await else { break };
        tracing::debug!(address = worker.settings.address, why, "connection to the relay lost");
        connection = worker.reconnect().await;
    }
    for pending in worker.waiting {
        let _ = pending.reply.send(Err(CallError::Closed)); // nobody waits: fine
    }
}

impl Worker {
    /// Uses a connection until it breaks, and says why; `None` if the client was closed.
    async fn serve(&mut self, connection: Connection) -> Option<String> {
        let Connection {
            mut reader,
            mut writer,
            mut decoder,
            agreed,
        } = connection;
        self.session_number += 1;
        let limits = (self.settings.serving_max, self.settings.message_bytes_max);
        let (shared, tasks) = (Arc::clone(&self.shared), self.tasks.clone());
        let mut session = Session::new(self.session_number, &agreed, limits, shared, tasks);
        let wanted = self.shared.wanted();
        if !wanted.is_empty() {
            session.register(&wanted, &self.settings.instance);
        }
        self.asked = wanted;
        let mut input = vec![0; READ_BYTES];
        let shared = Arc::clone(&self.shared);
        let why = loop {
            let now = now();
            if let Err(why) = self.parse(&mut session, &mut decoder, now) {
                break why;
            }
            self.collect(Some(&mut session));
            if self.is_closed() {
                return None;
            }
            self.send(&mut session, now);
            if session.is_drained() && session.out.is_empty() {
                break "the relay drains".to_owned();
            }
            let sweep = sleep_until(self.next_sweep);
            tokio::select! {
                biased;
                written = writer.write(&session.out), if !session.out.is_empty() => match written {
                    Ok(written) if written > 0 => {
                        session.out.advance(written);
                        session.written += u64::try_from(written).unwrap_or(0);
                    }
                    Ok(_) => break "the relay takes no more bytes".to_owned(),
                    Err(error) => break error.to_string(),
                },
                read = reader.read(&mut input) => match read {
                    Ok(0) => break "the relay closed the connection".to_owned(),
                    Ok(len) => decoder.feed(input.get(..len).unwrap_or_default()),
                    Err(error) => break error.to_string(),
                },
                () = shared.wake.notified(), if session.out.len() < OUT_MAX => {}
                () = sweep => {}
            }
        };
        let unsent = session.lose(&why);
        // Older calls first, as they were.
        for pending in unsent.into_iter().rev() {
            self.waiting.push_front(pending);
        }
        Some(why)
    }

    fn parse(&mut self, session: &mut Session, decoder: &mut Decoder, now: Instant) -> Result<(), String> {
        while let Some(frame) = decoder.next(now).map_err(|error| error.to_string())? {
            match session.on_frame(frame)? {
                Event::None => {}
                Event::Again(pending) => {
                    // Refused because it drains: its DRAIN frame is here or on its way.
                    session.draining = true;
                    self.waiting.push_back(pending);
                }
                Event::Registered(answer) => self.on_registered(answer),
            }
        }
        Ok(())
    }

    /// Waits and connects until it works; `None` if the client was closed.
    async fn reconnect(&mut self) -> Option<Connection> {
        let mut backoff = BACKOFF_MIN;
        loop {
            let wait = backoff.mul_f64(0.5 + fastrand::f64() / 2.0);
            self.meanwhile(tokio::time::sleep(wait)).await?;
            let (address, settings) = (self.address.clone(), self.settings.clone());
            match self.meanwhile(connect(&address, &settings)).await? {
                Ok(connection) => return Some(connection),
                Err(error) => tracing::debug!(%error, "cannot connect to the relay"),
            }
            backoff = (backoff * 2).min(self.settings.backoff_max);
        }
    }

    /// Does `work` and looks after waiting calls meanwhile; `None` if the client was closed.
    async fn meanwhile<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(work);
        let shared = Arc::clone(&self.shared);
        loop {
            self.collect(None);
            if self.is_closed() {
                return None;
            }
            tokio::select! {
                done = &mut work => return Some(done),
                () = shared.wake.notified() => {}
                () = sleep_until(self.next_sweep) => {}
            }
        }
    }

    /// Takes what the handles have queued, and ends what is late.
    fn collect(&mut self, mut session: Option<&mut Session>) {
        let commands = std::mem::take(&mut *self.shared.queue());
        let mut register = Vec::new();
        for command in commands {
            match command {
                Command::Call(pending) => {
                    let due = pending.deadline;
                    self.next_sweep = Some(self.next_sweep.map_or(due, |next| next.min(due)));
                    self.waiting.push_back(pending);
                }
                Command::Register { wanted, done } => {
                    // What came while the connection was made is among what it began with.
                    if !self.asked.contains(&wanted) {
                        register.push(wanted.clone());
                    }
                    self.registering.push((wanted, done));
                }
                Command::Answered {
                    session: number,
                    id,
                    result,
                } => {
                    if let Some(session) = &mut session {
                        session.on_answer(number, id, result);
                    }
                }
            }
        }
        if let Some(session) = &mut session
            && !register.is_empty()
        {
            session.register(&register, &self.settings.instance);
        }
        let dropped = self.shared.dropped.swap(false, Ordering::AcqRel);
        let now = now();
        if dropped || self.next_sweep.is_some_and(|due| due <= now) {
            self.sweep(session, now);
        }
    }

    fn sweep(&mut self, session: Option<&mut Session>, now: Instant) {
        let mut next = session.and_then(|session| session.sweep(now));
        for pending in std::mem::take(&mut self.waiting) {
            if pending.deadline <= now {
                let _ = pending.reply.send(Err(CallError::Deadline { sent: false })); // nobody waits: fine
            } else if !pending.reply.is_closed() {
                next = Some(next.map_or(pending.deadline, |next| next.min(pending.deadline)));
                self.waiting.push_back(pending);
            }
        }
        self.next_sweep = next;
    }

    fn send(&mut self, session: &mut Session, now: Instant) {
        while session.out.len() < OUT_MAX && session.has_room() {
            let Some(pending) = self.waiting.pop_front() else { break };
            session.start(pending, now);
        }
    }

    fn on_registered(&mut self, answer: Registered) {
        for refused in answer.refused {
            let name = Name::new(&refused.service);
            self.on_refused(name.ok().map(Wanted::Service), &refused.service, &refused.reason);
        }
        for refused in answer.refused_subscriptions {
            let wanted = Wanted::group(&refused.topic, &refused.group);
            self.on_refused(wanted, &refused.topic, &refused.reason);
        }
        let services = answer.accepted.iter();
        let services = services.filter_map(|service| Name::new(service).ok().map(Wanted::Service));
        let groups = answer.subscribed.iter();
        let groups = groups.filter_map(|group| Wanted::group(&group.topic, &group.group));
        for wanted in services.chain(groups) {
            self.end_registration(&wanted, None);
        }
    }

    fn on_refused(&mut self, wanted: Option<Wanted>, name: &str, reason: &str) {
        tracing::warn!(name, reason, "the relay refused a service or subscription");
        if let Some(wanted) = wanted {
            self.end_registration(&wanted, Some(reason));
        }
    }

    fn end_registration(&mut self, wanted: &Wanted, refused: Option<&str>) {
        self.asked.retain(|other| other != wanted);
        let (done, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.registering)
            .into_iter()
            .partition(|(other, _)| other == wanted);
        self.registering = open;
        for (wanted, done) in done {
            let result = match refused {
                Some(reason) => Err(ServeError::Refused {
                    service: wanted.name().clone(),
                    reason: reason.to_owned(),
                }),
                None => Ok(()),
            };
            let _ = done.send(result); // nobody waits: fine
        }
    }

    fn is_closed(&self) -> bool {
        self.shared.closed.load(Ordering::Acquire)
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
