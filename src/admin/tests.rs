//! The admin address over a real socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::control::access;
use crate::model::{MissingKey, Name, Place, RoutePolicy};
use crate::queue::AwayUnits;
use crate::routing::{self, RouteTable, Rule};
use crate::telemetry::{LogHandle, Registry};
use crate::token::TokenFile;

struct Links;

impl StatusSource for Links {
    fn status(&self) -> Map<String, Value> {
        Map::from_iter([("links".to_owned(), json!([{ "unit": "b" }]))])
    }

    fn certificates(&self) -> Map<String, Value> {
        Map::from_iter([("identity".to_owned(), json!("spiffe://x"))])
    }
}

struct Fixture {
    admin: Admin,
    health: Health,
    drain: CancellationToken,
}

fn start() -> Fixture {
    start_with(Access::default())
}

fn start_with(access: Access) -> Fixture {
    let (a, b) = (Name::new("a").unwrap(), Name::new("b").unwrap());
    let rule: Rule = toml::from_str("dimension = \"uid\"\nprefix = \"15\"\nunit = \"b\"").unwrap();
    let settings = routing::Settings {
        version: 3,
        dimensions: vec![Name::new("uid").unwrap()],
        rules: vec![rule],
        ..routing::Settings::default()
    };
    let health = Health::new();
    let drain = CancellationToken::new();
    let routing = routing::Handle::new(RouteTable::build(&settings, &a, [&b]).unwrap());
    let parts = Parts {
        registry: Registry::new().unwrap(),
        health: health.clone(),
        log: LogHandle::detached(),
        users: Some(users(&routing)),
        routing,
        tokens: None,
        claims: None,
        place: Place {
            unit: a,
            relay: Name::new("a-1").unwrap(),
        },
        route_policy: Arc::new(|service, _| RoutePolicy {
            missing_key: match service {
                Some("im.Echo") => MissingKey::Local,
                _ => MissingKey::Reject,
            },
            ..RoutePolicy::default()
        }),
        status: Arc::new(Links),
        drain: drain.clone(),
        access,
        queue: None,
        away: AwayUnits::default(),
        observers: Arc::default(),
        routes: None,
    };
    let admin = Admin::start(SocketAddr::from(([127, 0, 0, 1], 0)), parts).unwrap();
    Fixture { admin, health, drain }
}

/// Users are those of `uid`; unit `b` has an access point.
fn users(routing: &routing::Handle) -> access::Desk {
    let geo = Name::new("geo").unwrap();
    let b = Name::new("b").unwrap();
    access::Desk::new(access::Parts {
        unit: Name::new("a").unwrap(),
        geo: geo.clone(),
        dimension: Some(Name::new("uid").unwrap()),
        directory: access::Directory {
            units: [(b, (geo, vec!["wss://b".into()]))].into(),
            points_max: 16,
            ..access::Directory::default()
        },
        routing: routing.clone(),
        claims: None,
        metrics: access::Metrics::register(&prometheus::Registry::new()).unwrap(),
    })
}

impl Fixture {
    fn send(&self, method: &str, path: &str) -> (u16, String) {
        self.send_with(method, path, &format!("host: {}\r\n", self.admin.address()))
    }

    fn send_with(&self, method: &str, path: &str, fields: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin.address()).unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\n{fields}content-length: 0\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }
}

#[test]
fn readiness_is_refused_with_the_reasons_and_liveness_is_not() {
    let relay = start();
    assert_eq!(relay.send("GET", "/readyz"), (200, "ready\n".into()));
    relay.health.set("links", true, "2 of 2");
    relay.health.set("draining", false, "the relay is shutting down");
    assert_eq!(
        relay.send("GET", "/readyz"),
        (503, "not ready\n[-] draining: the relay is shutting down\n".into())
    );
    let (status, text) = relay.send("GET", "/readyz?verbose");
    assert!(status == 503 && text.contains("[+] links: 2 of 2\n"), "{text}");
    assert_eq!(relay.send("GET", "/livez").0, 200);
}

#[test]
fn series_status_and_explanations_can_be_read() {
    // O-M1, C-R4
    let relay = start();
    let (status, text) = relay.send("GET", "/metrics");
    assert!(status == 200 && text.contains("strait_build_info"), "{text}");
    assert!(!text.contains("# EOF"), "nobody asked for OpenMetrics");
    let host = relay.admin.address();
    let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    let (status, text) = relay.send_with("GET", "/metrics", &format!("host: {host}\r\naccept: {accept}\r\n"));
    assert!(status == 200 && text.ends_with("# EOF\n"), "{text}");
    let json = |path: &str| -> Value { serde_json::from_str(&relay.send("GET", path).1).unwrap() };
    let status = json("/status");
    assert_eq!(
        (&status["unit"], &status["route_table_version"]),
        (&json!("a"), &json!(3))
    );
    assert_eq!(status["links"][0]["unit"], "b");
    assert_eq!(json("/explain?dimension=uid&key=1500")["owner"], "b");
    assert_eq!(json("/explain?dimension=uid&key=9")["owner"], Value::Null);
    assert_eq!(json("/explain?service=im.Echo")["owner"], "a");
    assert_eq!(json("/explain?unit=b")["rule"], "strait-unit");
    assert_eq!(relay.send("GET", "/explain?key=1").0, 400);
    let listed = json("/access?user=1500");
    assert_eq!(
        (&listed["home"], &listed["points"][0]["address"]),
        (&json!("b"), &json!("wss://b"))
    );
    let nowhere = json("/access?user=base64:AA==");
    assert_eq!((&nowhere["home"], &nowhere["user"]), (&Value::Null, &json!("\u{0}")));
    for wrong in ["/access", "/access?user=", "/access?user=base64:!"] {
        assert_eq!(relay.send("GET", wrong).0, 400, "{wrong}");
    }
    assert_eq!(relay.send("GET", "/nothing").0, 404);
}

#[test]
fn reading_changes_nothing_and_changing_needs_its_method() {
    // A2
    let relay = start();
    assert_eq!(relay.send("GET", "/drain").0, 405);
    assert_eq!(relay.send("GET", "/log?level=trace").0, 405);
    assert!(!relay.drain.is_cancelled());
    assert_eq!(relay.send("POST", "/drain").0, 202);
    assert!(relay.drain.is_cancelled());
    assert_eq!(relay.send("PUT", "/log?level=info,strait::peer=debug").0, 200);
    assert_eq!(relay.send("PUT", "/log?level=strait::peer=loud").0, 400);
    assert_eq!(relay.send("PUT", "/log").0, 400);
}

#[test]
fn a_web_page_can_neither_read_nor_change_anything() {
    // A3
    let relay = start();
    let address = relay.admin.address();
    let foreign = format!("host: {address}\r\norigin: http://evil.example\r\n");
    assert_eq!(relay.send_with("POST", "/drain", &foreign).0, 403);
    assert_eq!(
        relay
            .send_with("POST", "/drain", &format!("host: {address}\r\norigin: null\r\n"))
            .0,
        403
    );
    assert!(!relay.drain.is_cancelled());
    // A name of the page's own that was made to point here.
    assert_eq!(relay.send_with("GET", "/status", "host: evil.example:7402\r\n").0, 421);
    let own = format!(
        "host: localhost:{0}\r\norigin: http://localhost:{0}\r\n",
        address.port()
    );
    assert_eq!(relay.send_with("POST", "/drain", &own).0, 202);
}

#[test]
fn an_address_that_others_can_reach_needs_a_yes() {
    // O-S3
    let remote = Settings {
        listen: SocketAddr::from(([0, 0, 0, 0], 7402)),
        ..Settings::default()
    };
    assert!(remote.address().unwrap_err().to_string().contains("admin.allow_remote"));
    let allowed = Settings {
        allow_remote: true,
        ..remote.clone()
    };
    assert_eq!(allowed.address(), Ok(Some(remote.listen)));
    assert_eq!(
        Settings {
            enabled: false,
            ..remote
        }
        .address(),
        Ok(None)
    );
}

#[test]
fn an_address_that_is_taken_is_named() {
    let relay = start();
    let address = relay.admin.address();
    let taken = std::net::TcpListener::bind(address).unwrap_err();
    let error = ServerError::Bind { address, source: taken };
    assert!(error.to_string().contains(&address.to_string()));
    relay.admin.stop();
    // The port is free again once the thread has ended.
    std::net::TcpListener::bind(address).unwrap();
}

// O-S3, A4
#[test]
fn reading_and_changing_are_two_permissions() {
    let folder = std::env::temp_dir().join(format!("strait-admin-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let token = |name: &str, secret: &str| {
        let path = folder.join(name);
        std::fs::write(&path, secret).unwrap();
        Some(Arc::new(TokenFile::open(&path).unwrap()))
    };
    let read = token("read", "may-read-everything");
    let change = token("change", "may-change-everything");
    let ask = |relay: &Fixture, method: &str, path: &str, token: &str| {
        let host = relay.admin.address();
        let fields = format!("host: {host}\r\nauthorization: Bearer {token}\r\n");
        relay.send_with(method, path, &fields).0
    };
    let both = start_with(Access {
        read: read.clone(),
        change,
    });
    for path in ["/livez", "/readyz"] {
        assert_eq!(both.send("GET", path).0, 200, "probes need no token");
    }
    for path in ["/", "/metrics", "/status", "/explain"] {
        assert_eq!(both.send("GET", path).0, 401, "{path}");
        assert_eq!(ask(&both, "GET", path, "may-read-everythinG"), 401, "{path}");
    }
    for token in ["may-read-everything", "may-change-everything"] {
        assert_eq!(ask(&both, "GET", "/metrics", token), 200);
    }
    assert_eq!(both.send("POST", "/drain").0, 401);
    assert_eq!(ask(&both, "POST", "/drain", "may-read-everything"), 401);
    assert!(!both.drain.is_cancelled());
    assert_eq!(ask(&both, "POST", "/drain", "may-change-everything"), 202);
    assert!(both.drain.is_cancelled());
    let only_read = start_with(Access { read, change: None });
    assert_eq!(ask(&only_read, "PUT", "/log?level=info", "may-read-everything"), 403);
    std::fs::remove_dir_all(folder).unwrap();
}
