//! A pair of NATS servers: B is a leaf node of A behind mutual TLS (so that it dials at once when it comes back), each has `JetStream` with a domain of its own; a stream at
//! A takes what is published, a stream at B takes it from there, a durable consumer waits at B.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};

use crate::ports::free_port;
use crate::process::Process;
use crate::stage::{Side, Stage, until};

/// Where the consumer's messages go.
pub const DELIVER: &str = "deliver.all";

/// A running pair. The servers end when it is dropped.
pub struct Pair {
    directory: PathBuf,
    ports: [u16; 2],
    processes: [Option<Process>; 2],
}

impl Pair {
    /// Starts both; `always` syncs before each acknowledgement.
    pub fn start(stage: &Stage, name: &str, always: bool) -> Self {
        let directory = stage.directory.join(name);
        fs::create_dir_all(&directory).unwrap();
        let (ports, leaf) = ([free_port(), free_port()], free_port());
        for side in [Side::A, Side::B] {
            let text = config(stage, &directory, side, (ports[side as usize], leaf), always);
            fs::write(file(&directory, side), text).unwrap();
        }
        let mut pair = Self {
            directory,
            ports,
            processes: [None, None],
        };
        pair.start_side(Side::A);
        pair.start_side(Side::B);
        pair.request(
            Side::A,
            "STREAM.CREATE.M",
            &json!({
                "name": "M", "subjects": ["m.>"], "retention": "limits", "storage": "file", "num_replicas": 1,
            }),
        );
        pair.request(
            Side::B,
            "STREAM.CREATE.N",
            &json!({
                "name": "N", "retention": "limits", "storage": "file", "num_replicas": 1,
                "sources": [{ "name": "M", "external": { "api": "$JS.a.API", "deliver": "" } }],
            }),
        );
        pair
    }

    /// The consumer at B, with so many messages at a time.
    pub fn make_consumer(&self, in_flight: usize) {
        self.request(
            Side::B,
            "CONSUMER.DURABLE.CREATE.N.c",
            &json!({
                "stream_name": "N",
                "config": {
                    "durable_name": "c", "deliver_subject": DELIVER, "ack_policy": "explicit",
                    "max_ack_pending": in_flight, "deliver_policy": "all", "replay_policy": "instant",
                },
            }),
        );
    }

    /// Starts one side, on the files it has.
    pub fn start_side(&mut self, side: Side) {
        let log = self.directory.join(format!("{}.log", side.unit()));
        let mut command = Command::new(server());
        command.arg("-c").arg(file(&self.directory, side));
        self.processes[side as usize] = Some(Process::start(&mut command, &log));
        until("a NATS server to answer", || {
            self.try_request(side, "INFO", &json!({})).is_some()
        });
    }

    /// Ends one side.
    pub fn stop_side(&mut self, side: Side) {
        self.processes[side as usize] = None;
    }

    /// The process of a side, if it runs.
    pub fn process(&self, side: Side) -> Option<&Process> {
        self.processes[side as usize].as_ref()
    }

    /// Where the stream of a side has its files.
    pub fn files(&self, side: Side) -> PathBuf {
        let stream = ["M", "N"][side as usize];
        let store = self
            .directory
            .join(format!("{}-data/jetstream/$G/streams", side.unit()));
        store.join(stream).join("msgs")
    }

    /// Where clients connect to.
    pub fn port(&self, side: Side) -> u16 {
        self.ports[side as usize]
    }

    /// Messages stored at a side.
    pub fn stored(&self, side: Side) -> u64 {
        let name = ["M", "N"][side as usize];
        let info = self.try_request(side, &format!("STREAM.INFO.{name}"), &json!({}));
        info.and_then(|info| info["state"]["messages"].as_u64()).unwrap_or(0)
    }

    fn request(&self, side: Side, what: &str, body: &Value) {
        let answer = self.try_request(side, what, body).expect("JetStream answers");
        assert!(answer["error"].is_null(), "{what}: {answer}");
    }

    fn try_request(&self, side: Side, what: &str, body: &Value) -> Option<Value> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports[side as usize])).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        let body = body.to_string();
        let text = format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true}}\r\nSUB r 1\r\nPUB $JS.API.{what} r {}\r\n{body}\r\n",
            body.len()
        );
        stream.write_all(text.as_bytes()).ok()?;
        let mut read = Vec::new();
        let mut chunk = vec![0; 65_536];
        loop {
            let bytes = stream.read(&mut chunk).ok().filter(|bytes| *bytes > 0)?;
            read.extend_from_slice(&chunk[..bytes]);
            let text = String::from_utf8_lossy(&read);
            if text.contains("HMSG r") {
                return None;
            }
            if let Some((_, rest)) = text.split_once("MSG r 1 ") {
                let (length, payload) = rest.split_once("\r\n")?;
                let length: usize = length.rsplit(' ').next()?.parse().ok()?;
                if payload.len() >= length {
                    return serde_json::from_str(&payload[..length]).ok();
                }
            }
        }
    }
}

fn config(stage: &Stage, directory: &Path, side: Side, (port, leaf): (u16, u16), always: bool) -> String {
    let unit = side.unit();
    let store = directory.join(format!("{unit}-data"));
    let sync = if always { "sync_interval: always" } else { "" };
    let pair = stage.certificate(side);
    let tls = format!(
        "tls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\" {} }}",
        pair.certificate.display(),
        pair.key.display(),
        stage.bundle().display(),
        if side == Side::A { ", verify: true" } else { "" },
    );
    let link = match side {
        Side::B => format!("leafnodes {{ remotes: [ {{ url: \"tls://localhost:{leaf}\", {tls} }} ] }}"),
        Side::A => format!("leafnodes {{ listen: \"127.0.0.1:{leaf}\", {tls} }}"),
    };
    format!(
        "server_name: {unit}\nlisten: \"127.0.0.1:{port}\"\nmax_pending: 256MB\n\
         jetstream {{ store_dir: \"{}\", domain: {unit}, max_file_store: 64GB, {sync} }}\n{link}\n",
        store.display()
    )
}

fn file(directory: &Path, side: Side) -> PathBuf {
    directory.join(format!("{}.conf", side.unit()))
}

/// Where `benches/messages/install` puts it.
pub fn server() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bench/nats/nats-server")
}
