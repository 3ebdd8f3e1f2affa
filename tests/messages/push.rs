//! Groups that are pushed to services: gRPC, framed and HTTP/1.1 (M-B4, M-E1).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{HeaderMap, StatusCode};
use axum::response::IntoResponse;
use bytes::Bytes;
use strait::client::{Client, Received, Reply, Status};
use strait::model::Code;
use strait::wire::messages::{Attribute, MessageKey, PublishRequest};

use crate::grpc::{Api, message};
use crate::relay::{Relay, Setup};

/// A relay that pushes topic `plain` to group `g`, at this endpoint of `im.Sink`; none: it registers itself.
fn pushing(endpoint: Option<String>) -> Relay {
    let mut setup = Setup::default();
    let plain = setup.topics.get_mut("plain").unwrap();
    let groups = "g = { push = { service = 'im.Sink', in_flight_max = 8 } }";
    plain.groups = toml::from_str(groups).unwrap();
    let endpoints = endpoint.map_or(String::new(), |endpoint| format!("'{endpoint}'"));
    setup.services = toml::from_str(&format!("['im.Sink']\nendpoints = [{endpoints}]")).unwrap();
    Relay::with(setup)
}

/// A message with everything.
fn full(body: &'static str) -> PublishRequest {
    let attribute = |name: &'static str, value: &'static str| Attribute {
        name: Bytes::from_static(name.as_bytes()),
        value: Bytes::from_static(value.as_bytes()),
    };
    PublishRequest {
        key: Some(MessageKey {
            dimension: Bytes::from_static(b"uid"),
            key: Bytes::from_static(b"a 1"),
        }),
        attributes: vec![
            attribute("source", "/im"),
            attribute("datacontenttype", "application/json"),
        ],
        ..message("plain", body)
    }
}

const EXPECTED: [(&str, &str); 7] = [
    ("ce-source", "/im"),
    ("ce-datacontenttype", "application/json"),
    ("strait-message-id", "a/a-1/0000000000000001/1"),
    ("strait-topic", "plain"),
    ("strait-group", "g"),
    ("strait-attempt", "1"),
    ("strait-key", "uid=a%201"),
];

// Over HTTP/1.1: the status is the settlement.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_http_service_gets_messages_and_its_status_settles_them() {
    let seen: Arc<Mutex<Vec<(HeaderMap, Bytes)>>> = Arc::default();
    let answers = Arc::clone(&seen);
    let app = axum::Router::new().route(
        "/im.Sink/Receive",
        axum::routing::post(move |headers: HeaderMap, body: Bytes| async move {
            let is_first = headers["strait-attempt"] == "1";
            answers.lock().unwrap().push((headers, body.clone()));
            match &body[..] {
                b"gone" => StatusCode::GONE.into_response(),
                b"busy" if is_first => (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "0")]).into_response(),
                b"broken" if is_first => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                _ => StatusCode::NO_CONTENT.into_response(),
            }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    let relay = pushing(Some(format!("http1://{address}")));
    let api = Api::connect(&relay.grpc).await;
    for request in [
        full("ok"),
        message("plain", "gone"),
        message("plain", "busy"),
        message("plain", "broken"),
    ] {
        api.publish(request).await.unwrap();
    }
    relay.queue.wait("all are settled", |seen| {
        let has = |text: &str| seen.said.iter().any(|said| said.starts_with(text));
        has("ack 1")
            && has("terminate 2: HTTP 410")
            && has("nack 3 Some(0ns): HTTP 429")
            && has("nack 4 None: HTTP 500")
            && has("ack 3")
            && has("ack 4")
    });
    let (headers, body) = seen.lock().unwrap()[0].clone();
    assert_eq!(&body[..], b"ok");
    assert_eq!(headers["content-type"], "application/json");
    for (name, value) in EXPECTED {
        assert_eq!(headers[name], value, "{name}");
    }
    server.abort();
}

fn answer(received: &Received) -> Result<Reply, Status> {
    match &received.body()[..] {
        b"poison" => Err(Status::new(Code::InvalidArgument, "no such thing")),
        b"busy" if received.metadata().text("strait-attempt") == Some("1") => {
            let mut trailers = strait::model::MetadataBuilder::new();
            trailers.push(b"grpc-retry-pushback-ms", b"40").unwrap();
            Err(Status {
                trailers: trailers.build(),
                ..Status::new(Code::FailedPrecondition, "not now")
            })
        }
        _ => Ok(Reply::default()),
    }
}

async fn check_statuses(relay: &Relay) {
    let api = Api::connect(&relay.grpc).await;
    for request in [full("ok"), message("plain", "poison"), message("plain", "busy")] {
        api.publish(request).await.unwrap();
    }
    relay.queue.wait("all are settled", |seen| {
        let has = |text: &str| seen.said.iter().any(|said| said.starts_with(text));
        has("ack 1")
            && has("terminate 2: InvalidArgument: no such thing")
            && has("nack 3 Some(40ms): FailedPrecondition: not now")
            && has("ack 3")
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_framed_service_that_registered_gets_messages_and_its_status_settles_them() {
    let relay = pushing(None);
    let seen: Arc<Mutex<Vec<Received>>> = Arc::default();
    let client = Client::connect(&relay.framed).await.unwrap();
    let answers = Arc::clone(&seen);
    let serve = client.serve("im.Sink", move |received: Received| {
        let result = answer(&received);
        answers.lock().unwrap().push(received);
        async move { result }
    });
    serve.await.unwrap();
    check_statuses(&relay).await;
    let seen = seen.lock().unwrap();
    let first = seen.iter().find(|received| &received.body()[..] == b"ok").unwrap();
    assert_eq!((first.service(), first.method()), ("im.Sink", "Receive"));
    for (name, value) in EXPECTED {
        assert_eq!(first.metadata().text(name), Some(value), "{name}");
    }
    assert_eq!(&first.keys()[0].key[..], b"a 1");
    let left = first
        .deadline()
        .unwrap()
        .saturating_duration_since(std::time::Instant::now());
    assert!(
        left > Duration::from_secs(10) && left <= Duration::from_secs(30),
        "{left:?}"
    );
}

// gRPC: the message is the request message, attributes are metadata.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_grpc_service_gets_messages_and_its_status_settles_them() {
    use tonic::codegen::{Body, http};
    let seen: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let answers = Arc::clone(&seen);
    let app = axum::Router::new().route(
        "/im.Sink/Receive",
        axum::routing::post(move |headers: HeaderMap, body: Bytes| async move {
            let is_first = headers["strait-attempt"] == "1";
            answers.lock().unwrap().push(headers);
            let reply = |status: &str, text: &str, pushback: Option<&str>| {
                let mut reply = http::Response::builder().header("content-type", "application/grpc");
                reply = reply.header("grpc-status", status).header("grpc-message", text);
                if let Some(pushback) = pushback {
                    reply = reply.header("grpc-retry-pushback-ms", pushback);
                }
                reply.body(tonic::body::Body::empty()).unwrap()
            };
            match body.get(5..) {
                Some(b"poison") => reply("3", "no such thing", None),
                Some(b"busy") if is_first => reply("9", "not now", Some("40")),
                Some(b"ok" | b"busy") => {
                    let body = tonic::body::Body::new(http_body_util::Full::new(Bytes::from_static(&[0; 5])));
                    assert!(!body.is_end_stream());
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().unwrap());
                    let body = http_body_util::BodyExt::with_trailers(body, async move { Some(Ok(trailers)) });
                    let reply = http::Response::builder().header("content-type", "application/grpc");
                    reply.body(tonic::body::Body::new(body)).unwrap()
                }
                other => panic!("not a message in gRPC framing: {other:?}"),
            }
        }),
    );
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let incoming = tonic::transport::server::TcpIncoming::from(listener);
        let routes = tonic::service::Routes::from(app);
        tonic::transport::Server::builder()
            .serve_with_incoming(routes.prepare(), incoming)
            .await
            .unwrap();
    });
    let relay = pushing(Some(format!("http://{address}")));
    check_statuses(&relay).await;
    let seen = seen.lock().unwrap().clone();
    let headers = seen
        .iter()
        .find(|headers| headers.contains_key("ce-source"))
        .expect("it came");
    assert_eq!(headers["content-type"], "application/grpc");
    for (name, value) in EXPECTED {
        assert_eq!(headers[name], value, "{name}");
    }
    server.abort();
}

// M-E1: what never reached the service is no attempt, and the message waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn messages_wait_for_a_service_that_is_away_without_losing_attempts() {
    let relay = pushing(None);
    let api = Api::connect(&relay.grpc).await;
    api.publish(message("plain", "x")).await.unwrap();
    relay.queue.wait("it is away", |seen| {
        seen.said.iter().any(|said| said == "unavailable 1")
    });
    let client = Client::connect(&relay.framed).await.unwrap();
    client
        .serve("im.Sink", async |received: Received| answer(&received))
        .await
        .unwrap();
    relay
        .queue
        .wait("it comes", |seen| seen.said.iter().any(|said| said == "ack 1"));
    let failed = relay
        .queue
        .look(|seen| seen.said.iter().any(|said| said.starts_with("nack")));
    assert!(!failed, "being away was counted as an attempt");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_service_that_does_not_answer_in_time_has_failed_the_message() {
    let relay = pushing(None);
    relay
        .queue
        .set(|seen| seen.visibility_timeout = Some(Duration::from_millis(300)));
    let client = Client::connect(&relay.framed).await.unwrap();
    let serve = client.serve("im.Sink", async |received: Received| {
        if received.metadata().text("strait-attempt") == Some("1") {
            std::future::pending::<()>().await;
        }
        Ok(Reply::default())
    });
    serve.await.unwrap();
    Api::connect(&relay.grpc)
        .await
        .publish(message("plain", "x"))
        .await
        .unwrap();
    relay
        .queue
        .wait("the next attempt", |seen| seen.said.iter().any(|said| said == "ack 1"));
}
