//! Many at once, in a process of its own: local connections that are open and silent, or relays of other units with a link
//! each.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::{LocalSet, spawn_local};

use strait::wire::http2::{Limits, Session, Side as HttpSide};

use crate::link::{Identity, Side, nobody};
use crate::process::Process;
use crate::speech::Speech;
use crate::stage::{Relays, Stage, get, role, until};

/// Role: `connections <framed socket> <gRPC socket> <count>` or `units <directory> <peer address> <count>`.
pub const ROLE: &str = "crowd";

/// Opens connections to side A, half of them framed, half gRPC, and waits until the relay has them.
pub fn connections(relays: &Relays, count: usize, log: &Path) -> Process {
    let mut command = role(ROLE);
    command
        .arg("connections")
        .arg(relays.socket(0, "strait"))
        .arg(relays.socket(0, "grpc"));
    let process = Process::start(command.arg(count.to_string()), log);
    until("all local connections", || {
        number(&get(relays.admin[0], "/status").unwrap_or_default(), "\"connections\":") >= count
    });
    process
}

/// Starts units `u0`, `u1`, ... that dial side A, and waits until it has a link to each.
pub fn units(stage: &Stage, relays: &Relays, count: usize, log: &Path) -> Process {
    (0..count).for_each(|n| drop(stage.issue(&format!("u{n}"))));
    let mut command = role(ROLE);
    command.arg("units").arg(&stage.directory).arg(relays.peer.to_string());
    let process = Process::start(command.arg(count.to_string()), log);
    until("a link to each unit", || {
        let status = get(relays.admin[0], "/status").unwrap_or_default();
        let links = status.split("\"links\":").skip(1);
        links.filter(|rest| !rest.trim_start().starts_with('0')).count() > count
    });
    process
}

/// The number after some text.
fn number(text: &str, after: &str) -> usize {
    let rest = text.split(after).nth(1).unwrap_or_default().trim_start();
    let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..digits].parse().unwrap_or(0)
}

pub fn main(words: &[String]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    LocalSet::new().block_on(&runtime, async {
        match words {
            [what, framed, grpc, count] if what == "connections" => {
                connect(framed.into(), grpc.into(), count.parse().unwrap()).await;
            }
            [what, directory, at, count] if what == "units" => {
                let count: usize = count.parse().unwrap();
                let at = at.parse().unwrap();
                let links: Vec<_> = (0..count)
                    .map(|n| {
                        let identity = Identity::of(Path::new(directory), &format!("u{n}"));
                        Side::new(&identity, ("a", Some(at)), |_| {}).peers(nobody(), None)
                    })
                    .collect();
                std::future::pending::<()>().await;
                drop(links);
            }
            _ => panic!("{words:?}"),
        }
    });
}

async fn connect(framed: PathBuf, grpc: PathBuf, count: usize) {
    for n in 0..count {
        // The listen queue is short: one after the other.
        let at = if n % 2 == 0 { &framed } else { &grpc };
        let stream = UnixStream::connect(at).await.unwrap();
        if n % 2 == 0 {
            spawn_local(stay_framed(stream));
        } else {
            spawn_local(stay_grpc(stream));
        }
        tokio::task::yield_now().await;
    }
    std::future::pending::<()>().await;
}

async fn stay_framed(mut stream: UnixStream) {
    let mut speech = Speech::named("strait");
    let mut out = BytesMut::new();
    speech.greet(&mut out);
    stream.write_all(&out).await.unwrap();
    while stream.read_buf(speech.buffer()).await.is_ok_and(|bytes| bytes > 0) {
        while speech.next(false, Instant::now()).is_some() {}
    }
    let _ = writeln!(std::io::stderr(), "a framed connection was closed");
}

/// Answers the relay's settings and its questions for a sign of life.
async fn stay_grpc(mut stream: UnixStream) {
    let mut session = Session::new(HttpSide::Client, Limits::default()).unwrap();
    let (mut out, mut buffer) = (BytesMut::new(), BytesMut::with_capacity(4096));
    loop {
        session.send_into(&mut out, 64 * 1024).unwrap();
        stream.write_all(&out).await.unwrap();
        out.clear();
        buffer.clear();
        buffer.reserve(4096);
        if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            let _ = writeln!(std::io::stderr(), "a gRPC connection was closed");
            return;
        }
        session.recv(&buffer, Instant::now()).unwrap();
        while session.next_event().is_some() {}
    }
}
