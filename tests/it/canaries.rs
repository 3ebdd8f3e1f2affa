//! O-S5: nothing that a caller, a service, a peer or an operator hands over is shown anywhere.
//!
//! Each value has the word `canary` in it. All log lines there are, at TRACE, metrics and admin pages are
//! searched for that word in the forms in which bytes get printed, and for the lines of the private keys.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use axum::Router;
use axum::routing::post;
use bytes::Bytes;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use strait::client::{AckLevel, Call, Client as Framed, Nack, Publish, Reply, Status, Subscribe};
use strait::model::{self, Code, MetadataBuilder};
use strait::wire::http2;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tonic::metadata::MetadataValue;

use crate::harness::{Background, Cluster, DOMAIN, Leaf, Relay, http_get, wait_for, within};
use crate::services::{Client, Echo, RawClient, grpc_message, request, stream_of};

const LIMIT: Duration = Duration::from_secs(60);

/// Names are shown: of services, methods and units that exist or that a service registers, and of the
/// dimensions and fields that a caller uses, so that developers find their mistakes.
const SHOWN: [&str; 2] = ["im.canary-service", "canary-method"];

/// The word as text, hexadecimal, a list of numbers, and base64 at each of its three alignments.
const FORMS: [&str; 6] = [
    "canary",
    "63616e617279",
    "99, 97, 110, 97, 114, 121",
    "y2fuyxj5",
    "nhbmfye",
    "jyw5hcn",
];

/// Certificates are public: each relay shows its own to everybody who connects. At TRACE rustls prints them whole.
const CERTIFICATE: &str = "CertificateDer(0x";

/// Lines of a text that show a canary.
fn shown(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in text.lines().filter(|line| !line.contains(CERTIFICATE)) {
        let mut rest = line.to_lowercase();
        for name in SHOWN {
            rest = rest.replace(name, "");
        }
        if FORMS.iter().any(|form| rest.contains(form)) {
            found.push(line.chars().take(600).collect());
        }
    }
    found
}

/// An HTTP/1.1 service that answers with canaries.
fn http1_service() -> (String, Background) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let endpoint = format!("http1://{}", listener.local_addr().unwrap());
    let answer = || async { ([("x-reply", "canary-http-reply")], "canary-http-body") };
    let thread = Background::start("http1", move || async move {
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let routes = Router::new().route("/im.Http/canary-method", post(answer));
        axum::serve(listener, routes).await.unwrap();
    });
    (endpoint, thread)
}

/// Two relays that log everything, one in JSON. The peer's certificate has a canary for its common name.
async fn start(echo: &Echo, http1: &str) -> Cluster {
    let mut builder = Cluster::pair(&echo.endpoint())
        .service("b", "im.Http", &[http1.to_owned()])
        .service("b", "im.canary-service", &[])
        .set("a", "calls.route.\"im.Echo\".methods.Unary.on_failure", "park")
        .set("a", "calls.route.\"im.Echo\".rejected_to", "told")
        .set("a", "calls.route.\"im.Echo\".kept_to", "here")
        .set("a", "topics.here.rule", "local")
        .set("a", "log.format", "json")
        .set("b", "log.format", "human");
    for unit in ["a", "b"] {
        builder = builder
            .set(unit, "access.dimension", "uid")
            .set(unit, "topics.t.rule", "owner")
            .set(unit, "topics.told.rule", "all")
            .set(unit, "log.level", "trace")
            .set(unit, "log.access", 1.0)
            .set(unit, "log.spans", true);
    }
    let mut cluster = builder.prepare();
    let home = cluster.relay("b-1").directory().to_owned();
    let leaf = Leaf::relay(DOMAIN, "geo-b", "b", "b-1");
    let pair = cluster.authority("b").issue(&leaf, &home, "canary-common-name");
    fs::rename(pair.certificate, home.join("relay.pem")).unwrap();
    fs::rename(pair.key, home.join("relay.key")).unwrap();
    for relay in ["a-1", "b-1"] {
        fs::remove_dir(cluster.relay(relay).directory().join("data")).unwrap();
        cluster.relay_mut(relay).spawn();
    }
    for relay in ["a-1", "b-1"] {
        cluster.relay_mut(relay).until_ready().await;
    }
    cluster.until_all_linked().await;
    cluster
}

/// All fields a caller can set, on calls that succeed, fail at the service, and are refused by a relay.
async fn grpc_calls(relay: &Relay) {
    let client = Client::connect_as(&relay.grpc(), "canary-authority").await;
    let fields = [
        ("strait-key", "uid=b:canary-key"),
        ("strait-token", "canary-token"),
        ("strait-class", "canary-class"),
        ("authorization", "Bearer canary-bearer"),
        ("cookie", "session=canary-cookie"),
        ("x-secret", "canary-metadata"),
        ("x-echo-secret", "canary-initial"),
        ("x-trail-secret", "canary-trailer"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "vendor=canary-tracestate"),
        ("baggage", "user=canary-baggage"),
    ];
    let with_bin = |mut asked: tonic::Request<Bytes>| {
        let value = MetadataValue::from_bytes(b"canary-binary");
        asked.metadata_mut().insert_bin("x-secret-bin", value.clone());
        asked.metadata_mut().insert_bin("x-details-bin", value);
        asked
    };
    let small = with_bin(request(Bytes::from("canary-payload"), &fields));
    within("call", LIMIT, client.unary("Unary", small)).await.unwrap();
    let failing = [&fields[..], &[("x-code", "13"), ("x-message", "canary-message")]].concat();
    let failing = with_bin(request(Bytes::from("canary-payload"), &failing));
    within("call", LIMIT, client.unary("Unary", failing)).await.unwrap_err();
    let large = Bytes::from("canary-large-".repeat(30_000));
    let stream = request(stream_of(vec![large; 2]), &fields);
    within("stream", LIMIT, client.collect("Collect", stream))
        .await
        .unwrap();

    let refused: [&[(&str, &str)]; 6] = [
        &[("x-secret", "canary-keyless")],
        &[("strait-key", "uid=nobody:canary-unowned")],
        &[("strait-key", "canary-without-an-equals-sign")],
        &[("strait-unit", "canary-unit")],
        &[("strait-key", "uid=b:1"), ("grpc-timeout", "canary-timeout")],
        &[("strait-class", "not a name: canary-class")],
    ];
    for fields in refused {
        let call = client.unary("Unary", request(Bytes::from("canary-payload"), fields));
        within("refused call", LIMIT, call).await.unwrap_err();
    }
    let gone = client.clone().service("im.canary-service");
    let asked = request(Bytes::new(), &[("strait-key", "uid=b:canary-key")]);
    within("call", LIMIT, gone.unary("canary-method", asked))
        .await
        .unwrap_err();
    // The relay's own API is served by other libraries.
    let users = client.clone().service("strait.v1.Access");
    let listed = users.unary("List", request(Bytes::from("\n\x0db:canary-user"), &[]));
    within("call", LIMIT, listed).await.unwrap();
    let asked = request(Bytes::from("\n\x0f\n\x0db:canary-user"), &[]);
    let mut attached = users.produce("Attach", asked).await.unwrap().into_inner();
    within("an update", LIMIT, attached.message()).await.unwrap();
    let own = client.service("grpc.health.v1.Health");
    let asked = request(
        Bytes::from("\n\x11canary-health-ask"),
        &[("x-secret", "canary-own-api")],
    );
    let _ = within("call", LIMIT, own.unary("Check", asked)).await;
    let raw = RawClient::connect(&relay.grpc()).await;
    let path = "/im.Echo/Unary?access_token=canary-query";
    let reply = raw.call(path, &[("strait-key", "uid=b:1")], grpc_message(b"canary-payload"));
    let _ = within("call", LIMIT, reply).await;
}

/// The same over the framed protocol, towards a service that registered itself and one behind HTTP/1.1.
async fn framed_calls(a: &Relay, b: &Relay) {
    let mut fields = MetadataBuilder::new();
    fields.push(b"x-secret", b"canary-framed-reply").unwrap();
    let fields = fields.build();
    let service = Framed::builder(&format!("tcp://{}", b.framed()))
        .instance("canary-instance")
        .connect()
        .await
        .unwrap();
    let answer = move |call: strait::client::Received| {
        let fields = fields.clone();
        async move {
            if call.body().is_empty() {
                return Err(Status::new(Code::Internal, "canary-framed-status"));
            }
            Ok(Reply::new("canary-framed-body")
                .with_metadata(fields.clone())
                .with_trailers(fields))
        }
    };
    service.serve("im.canary-service", answer).await.unwrap();
    service
        .serve("im.Unknown", async |_| Ok(Reply::new("")))
        .await
        .unwrap_err();
    let caller = Framed::connect(&format!("tcp://{}", a.framed())).await.unwrap();
    let call = |service: &str, body: Bytes| {
        Call::new(&format!("{service}/canary-method"))
            .key("uid", "b:canary-framed-key")
            .token("canary-framed-token")
            .class("canary-framed-class")
            .metadata("x-secret", "canary-framed-metadata")
            .body(body)
    };
    let large = Bytes::from("canary-framed-".repeat(20_000));
    for body in [Bytes::from("canary-framed-payload"), large] {
        caller.call(call("im.canary-service", body)).await.unwrap();
    }
    caller.call(call("im.canary-service", Bytes::new())).await.unwrap_err();
    let reply = caller
        .call(call("im.Http", Bytes::from("canary-http-payload")))
        .await
        .unwrap();
    assert_eq!(reply.body(), "canary-http-body");
    // A gRPC caller, so that the messages are translated.
    let client = Client::connect(&a.grpc()).await.service("im.canary-service");
    let fields = [("strait-key", "uid=b:canary-key"), ("x-secret", "canary-metadata")];
    for body in [Bytes::from("canary-payload"), Bytes::new()] {
        let _ = within("call", LIMIT, client.unary("canary-method", request(body, &fields))).await;
    }
}

/// Messages: published, refused, failed by a consumer, and received.
async fn messages(a: &Relay, b: &Relay) {
    let publisher = Framed::connect(&format!("tcp://{}", a.framed())).await.unwrap();
    let consumer = Framed::connect(&format!("tcp://{}", b.framed())).await.unwrap();
    let handler = async |attempt: strait::client::Attempt| match attempt.number() {
        1 => Err(Nack::after(Duration::from_millis(1), "canary-nack")),
        _ => Ok(()),
    };
    consumer.subscribe(Subscribe::new("t", "g"), handler).await.unwrap();
    let message = |topic: &str| {
        Publish::new(topic)
            .key("uid", "b:canary-message-key")
            .identity("canary-source", "canary-id")
            .attribute("subject", "canary-subject")
            .attribute("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
            .body("canary-message-body")
            .wait(AckLevel::Delivered)
            .timeout(LIMIT)
    };
    within("the delivery", LIMIT, publisher.publish(message("t")))
        .await
        .unwrap();
    publisher
        .publish(message("t").attribute("CANARY", "x"))
        .await
        .unwrap_err();
    publisher
        .publish(message("t").key("uid", "nobody:canary-key"))
        .await
        .unwrap_err();
    publisher
        .publish_all([message("u"), message("t")])
        .await
        .into_iter()
        .next()
        .unwrap()
        .unwrap_err();
}

/// A call that is kept while its unit is away, and that the unit's service fails when it comes.
async fn kept(cluster: &mut Cluster) {
    cluster.relay_mut("b-1").terminate().await;
    cluster.until_unlinked("a-1", "b").await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let fields = [
        ("strait-key", "uid=b:canary-key"),
        ("idempotency-key", "canary-idempotency"),
        ("x-secret", "canary-metadata"),
        ("x-code", "9"),
        ("x-message", "canary-refusal"),
        ("x-early", "1"),
    ];
    let asked = request(Bytes::from("canary-payload"), &fields);
    let parked = within("call", LIMIT, client.unary("Unary", asked)).await.unwrap_err();
    let error = parked.metadata().get("strait-error").unwrap().to_str().unwrap();
    assert!(error.starts_with("parked"), "{parked:?}");
    cluster.relay_mut("b-1").start().await;
    wait_for("the replay", LIMIT, async || {
        let metrics = cluster.relay("b-1").metrics().await;
        let rejected = metrics.sum("strait_replayed_calls_total", &[("outcome", "rejected")]);
        (rejected > 0.0).then_some(())
    })
    .await;
}

/// What does not speak the protocol of a port.
async fn noise(relay: &Relay) {
    let framed_hello = b"\x01\0\0\0\0\0\0\x10\0\0\0\0\0\0\0\0canary-not-hello";
    let texts: [&[u8]; 3] = [
        b"GET /canary-page?token=canary HTTP/1.1\r\nhost: canary-host\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0canary\0\0\x06\x01\x05\0\0\0\x01canary",
        framed_hello,
    ];
    for port in [relay.grpc(), relay.framed(), relay.admin()] {
        for text in texts {
            let mut stream = TcpStream::connect(&port).await.unwrap();
            stream.write_all(text).await.unwrap();
            let _ = stream.shutdown().await;
            let mut answer = Vec::new();
            let _ = within("the end", LIMIT, stream.read_to_end(&mut answer)).await;
        }
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let datagram = [b"\xc3\0\0\0\x01".as_slice(), "canary-datagram".repeat(80).as_bytes()].concat();
    socket.send_to(&datagram, relay.peer()).await.unwrap();
}

/// What a private key would look like: the lines of its file, and the middle of it as hexadecimal and as a list.
fn key_forms(relay: &Relay) -> Vec<String> {
    let path = relay.directory().join("relay.key");
    let pem = fs::read_to_string(&path).unwrap();
    let lines = pem.lines().filter(|line| !line.starts_with("---"));
    let mut forms: Vec<String> = lines.map(|line| line.chars().take(32).collect()).collect();
    let der = PrivateKeyDer::from_pem_file(&path).unwrap();
    // A PKCS 8 key of P-256 has its secret at 36.
    let secret = &der.secret_der()[36..52];
    forms.push(
        secret
            .iter()
            .fold(String::new(), |text, byte| text + &format!("{byte:02x}")),
    );
    forms.push(format!("{secret:?}").trim_matches(['[', ']']).to_owned());
    forms
}

#[tokio::test]
async fn nothing_that_is_handed_over_is_shown_anywhere() {
    let echo = Echo::start();
    let (http1, _thread) = http1_service();
    let mut cluster = start(&echo, &http1).await;
    let (a, b) = (cluster.relay("a-1"), cluster.relay("b-1"));
    grpc_calls(a).await;
    framed_calls(a, b).await;
    messages(a, b).await;
    noise(a).await;
    kept(&mut cluster).await;
    let (a, b) = (cluster.relay("a-1"), cluster.relay("b-1"));
    let mut pages = String::new();
    for relay in [a, b] {
        let asked = "/explain?dimension=uid&key=b:canary-explained&service=im.Echo";
        assert_eq!(http_get(&relay.admin(), asked).await.unwrap().0, 200);
        let asked = "/access?user=b:canary-user";
        assert_eq!(http_get(&relay.admin(), asked).await.unwrap().0, 200);
        for page in ["/", "/status", "/readyz?verbose", "/metrics"] {
            pages += &http_get(&relay.admin(), page).await.unwrap().1;
        }
        relay.signal("HUP");
        wait_for("the reload", LIMIT, async || {
            relay.log().contains("settings loaded").then_some(())
        })
        .await;
    }
    let keys: Vec<String> = [a, b].into_iter().flat_map(key_forms).collect();
    assert!(keys.len() >= 8 && keys.iter().all(|line| line.len() > 10), "{keys:?}");
    cluster.relay_mut("a-1").terminate().await;
    cluster.relay_mut("b-1").terminate().await;
    let logs = ["a-1", "b-1"].map(|name| cluster.relay(name).log());
    for log in &logs {
        // The search would find nothing in a log that says nothing.
        for source in ["quinn", "rustls", "h2::", "strait::access", "strait::span"] {
            assert!(log.contains(source), "nothing is logged by {source}");
        }
    }
    let text = logs.join("\n") + &pages;
    assert!(text.contains("im.canary-service") && text.contains("canary-method"));
    let found = shown(&text);
    assert!(
        found.is_empty(),
        "{} lines show canaries:\n{}",
        found.len(),
        found.join("\n")
    );
    for line in keys {
        assert!(!text.contains(&line), "a private key is shown");
    }
    for relay in cluster.relays() {
        files_are_private(&relay.directory().join("data"));
    }
}

/// What a relay creates is for its owner; the group may pass to the sockets (O-S3).
fn files_are_private(directory: &Path) {
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(directory), 0o710);
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let allowed = if path.is_dir() { 0o700 } else { 0o660 };
        assert_eq!(mode(&path) & !allowed, 0, "{}", path.display());
    }
}

#[test]
fn values_do_not_show_themselves_in_debug() {
    let canary = || Bytes::from_static(b"canary");
    let mut fields = MetadataBuilder::new();
    fields.push(b"x-secret", b"canary").unwrap();
    let fields = fields.build();
    let key = model::Key {
        dimension: Bytes::from_static(b"uid"),
        key: canary(),
    };
    let hints = model::RouteHints {
        keys: vec![key],
        token: Some(canary()),
        ..model::RouteHints::default()
    };
    let request = model::Request {
        path: Bytes::from_static(b"/im.Echo/Say?token=canary"),
        authority: canary(),
        envelope: model::Envelope::Grpc,
        metadata: fields.clone(),
        hints,
        facts: model::Facts::default(),
        received: tokio::time::Instant::now().into_std(),
        deadline: None,
        body: model::RequestBody {
            chunk: canary(),
            end: true,
        },
    };
    let part = model::Part {
        head: Some((200, fields.clone())),
        body: model::ReplyBody(canary()),
        end: Some(model::Ending {
            message: canary(),
            trailers: fields.clone(),
            ..model::Ending::default()
        }),
    };
    let head = http2::Head {
        path: canary(),
        authority: canary(),
        fields: fields.clone(),
        apart: fields.clone(),
        status: 0,
        is_post: true,
        is_too_large: false,
    };
    let received = http2::Part {
        stream: http2::StreamRef { index: 0, id: 1 },
        token: 0,
        head: Some(head),
        chunk: canary(),
        trailers: Some(fields.clone()),
        is_cut: false,
        end: true,
    };
    let call = Call::new("im.Echo/Say")
        .key("uid", "canary")
        .token("canary")
        .body("canary");
    let reply = Reply::new("canary").with_metadata(fields);
    let text = format!("{request:?} {part:?} {received:?} {call:?} {reply:?}");
    assert!(shown(&text).is_empty(), "{text}");
    assert!(text.contains("x-secret"), "names of fields are shown");
}

#[test]
fn the_search_finds_each_form_of_a_canary() {
    for line in [
        "x=Canary",
        "[99, 97, 110, 97, 114, 121]",
        "63616e617279",
        "Y2FuYXJ5LWJpbmFyeQ",
        "eGNhbmFyeQ",
        "eHhjYW5hcnk",
    ] {
        assert_eq!(shown(line).len(), 1, "{line}");
    }
    assert!(shown("service=im.canary-service method=canary-method").is_empty());
}
