//! The admin address of a relay whose queue answers from a script, and the binary that asks it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command as Process, Output as Ran};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::{Map, Value};
use strait::admin::{Access, Admin, Desk, Health, Parts, StatusSource};
use strait::crossing;
use strait::model::{Name, Place, RoutePolicy};
use strait::queue::Handle;
use strait::queue::api::{Input, Output};
use strait::queue::operator::{Answer, Command, RedriveStatus};
use strait::routing::{self, RouteTable};
use strait::telemetry::{LogHandle, Registry};
use strait::token::TokenFile;
use tokio_util::sync::CancellationToken;

/// A relay of which only the admin address is there.
pub struct Relay {
    admin: Option<Admin>,
    seen: Arc<Mutex<Vec<Command>>>,
    inlet: Arc<strait::queue::Inlet>,
    queue: Option<JoinHandle<()>>,
}

pub type Script = Box<dyn FnMut(&Command) -> Vec<Answer> + Send>;

impl Relay {
    /// Answers each command with what the script says.
    pub fn start(script: impl FnMut(&Command) -> Vec<Answer> + Send + 'static) -> Self {
        Self::start_with(Access::default(), script)
    }

    pub fn start_with(access: Access, script: impl FnMut(&Command) -> Vec<Answer> + Send + 'static) -> Self {
        let (handle, inlet) = Handle::new(1 << 20);
        let (sender, receiver) = crossing::pipe();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let queue = thread::spawn({
            let (seen, inlet) = (Arc::clone(&seen), Arc::clone(&inlet));
            move || answer(&inlet, &sender, &seen, Box::new(script))
        });
        let desk = Arc::new(Desk::new(handle, receiver));
        let admin = Admin::start(SocketAddr::from(([127, 0, 0, 1], 0)), parts(access, desk)).unwrap();
        Self {
            admin: Some(admin),
            seen,
            inlet,
            queue: Some(queue),
        }
    }

    pub fn address(&self) -> String {
        self.admin.as_ref().unwrap().address().to_string()
    }

    /// What the queue was asked so far.
    pub fn seen(&self) -> Vec<Command> {
        self.seen.lock().unwrap().clone()
    }

    /// Runs `strait ... --admin <this relay>` as user `ann`.
    pub fn strait(&self, arguments: &str) -> Ran {
        let mut process = Process::new(env!("CARGO_BIN_EXE_strait"));
        process.args(words(arguments)).args(["--admin", &self.address()]);
        process.env("USER", "ann").env_remove("SUDO_USER").output().unwrap()
    }

    /// One HTTP request; status and body.
    pub fn http(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
        let (host, length) = (self.address(), body.len());
        let head = format!("{method} {path} HTTP/1.0\r\nhost: {host}\r\n{token}content-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.admin.take());
        self.inlet.close();
        self.queue.take().unwrap().join().unwrap();
    }
}

/// Words of a command line; `'...'` is one.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

fn answer(
    inlet: &strait::queue::Inlet,
    outputs: &crossing::Sender<Output>,
    seen: &Mutex<Vec<Command>>,
    mut script: Script,
) {
    let mut inputs = Vec::new();
    while inlet.take(&mut inputs, Duration::from_secs(1)) {
        for input in inputs.drain(..) {
            let Input::Operate(ticket, command) = input else {
                continue;
            };
            let answers = script(&command);
            seen.lock().unwrap().push(*command);
            for answer in answers {
                outputs.push(Output::Answer(ticket, Box::new(answer)));
            }
        }
    }
}

struct Nothing;

impl StatusSource for Nothing {
    fn status(&self) -> Map<String, Value> {
        Map::new()
    }

    fn certificates(&self) -> Map<String, Value> {
        Map::new()
    }
}

fn parts(access: Access, desk: Arc<Desk>) -> Parts {
    let unit = Name::new("a").unwrap();
    let routes = RouteTable::build(&routing::Settings::default(), &unit, []).unwrap();
    Parts {
        registry: Registry::new().unwrap(),
        health: Health::new(),
        log: LogHandle::detached(),
        routing: routing::Handle::new(routes),
        tokens: None,
        claims: None,
        users: None,
        place: Place {
            unit,
            relay: Name::new("a-1").unwrap(),
        },
        route_policy: Arc::new(|_, _| RoutePolicy::default()),
        status: Arc::new(Nothing),
        drain: CancellationToken::new(),
        access,
        queue: Some(desk),
        away: strait::queue::AwayUnits::default(),
        observers: Arc::default(),
        routes: None,
    }
}

/// A redrive that is so far.
pub fn task(state: &str, moved: u64, remaining: u64) -> Answer {
    let task = RedriveStatus {
        task: 4,
        state: state.to_owned(),
        moved,
        remaining,
        ..RedriveStatus::default()
    };
    Answer::Redrives { tasks: vec![task] }
}

/// A file with a secret.
pub fn token(name: &str, secret: &str) -> (PathBuf, Arc<TokenFile>) {
    let file = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&file, secret).unwrap();
    let token = Arc::new(TokenFile::open(&file).unwrap());
    (file, token)
}
