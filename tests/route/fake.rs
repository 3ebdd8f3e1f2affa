//! The admin address of a relay whose routes are answered by a script or by an operator, and the binary that asks it.

use std::future::Future;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::process::{Command as Process, Output as Ran};
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value};
use strait::admin::{Access, Admin, Health, Parts, RouteDesk, StatusSource};
use strait::control::operator::{Answer, Command};
use strait::model::{Name, Place, RoutePolicy};
use strait::routing::{self, RouteTable};
use strait::telemetry::{LogHandle, Registry};
use tokio_util::sync::CancellationToken;

type Script = Box<dyn FnMut(&Command) -> Answer + Send>;

/// Answers from a script and remembers what was asked.
pub struct Scripted {
    script: Mutex<Script>,
    seen: Mutex<Vec<Command>>,
}

impl RouteDesk for Scripted {
    fn ask(&self, command: Command) -> Pin<Box<dyn Future<Output = Answer> + Send + '_>> {
        let answer = (self.script.lock().unwrap())(&command);
        self.seen.lock().unwrap().push(command);
        Box::pin(std::future::ready(answer))
    }
}

impl Scripted {
    pub fn new(script: impl FnMut(&Command) -> Answer + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            script: Mutex::new(Box::new(script)),
            seen: Mutex::default(),
        })
    }

    pub fn seen(&self) -> Vec<Command> {
        self.seen.lock().unwrap().clone()
    }
}

/// A relay of which only the admin address is there.
pub struct Relay(Admin);

impl Relay {
    pub fn start(routes: Option<Arc<dyn RouteDesk>>) -> Self {
        Self::start_with(Access::default(), routes)
    }

    pub fn start_with(access: Access, routes: Option<Arc<dyn RouteDesk>>) -> Self {
        let unit = Name::new("a").unwrap();
        let table = RouteTable::build(&routing::Settings::default(), &unit, []).unwrap();
        let parts = Parts {
            registry: Registry::new().unwrap(),
            health: Health::new(),
            log: LogHandle::detached(),
            routing: routing::Handle::new(table),
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
            away: strait::queue::AwayUnits::default(),
            observers: Arc::default(),
            queue: None,
            routes,
        };
        Self(Admin::start(SocketAddr::from(([127, 0, 0, 1], 0)), parts).unwrap())
    }

    pub fn address(&self) -> String {
        self.0.address().to_string()
    }

    /// Runs `strait ... --admin <this relay>` as user `ann`; `_` in a word stands for a space.
    pub fn strait(&self, arguments: &str) -> Ran {
        let mut process = Process::new(env!("CARGO_BIN_EXE_strait"));
        process.args(arguments.split(' ').map(|word| word.replace('_', " ")));
        process.args(["--admin", &self.address()]);
        process.env("USER", "ann").env_remove("SUDO_USER").output().unwrap()
    }

    /// One HTTP request; status and body.
    pub fn http(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, String) {
        let host = self.0.address();
        let mut stream = TcpStream::connect(host).unwrap();
        let token = token.map_or_else(String::new, |token| format!("authorization: Bearer {token}\r\n"));
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.0\r\nhost: {host}\r\n{token}content-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
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

pub fn out(ran: &Ran) -> String {
    String::from_utf8_lossy(&ran.stdout).into_owned()
}

pub fn err(ran: &Ran) -> String {
    String::from_utf8_lossy(&ran.stderr).into_owned()
}
