//! C-G1, C-G3: what goes in comes out, whatever gRPC library is on either side.

use std::time::Duration;

use bytes::Bytes;
use tonic::{Code, Request, Status, Streaming};

use crate::harness::{Cluster, usage, within};
use crate::services::{
    Client, Echo, PythonEcho, RawClient, RawService, channel, grpc_message, python_client, read_all, request, reset,
    stream_of, to_b, trailers_only,
};

const LIMIT: Duration = Duration::from_secs(60);
const TO_B: (&str, &str) = ("strait-key", "uid=b:1");

/// The services of the tests are right themselves, so that a failure behind relays is the relays'.
#[tokio::test]
async fn without_a_relay_grpcio_and_tonic_find_nothing_wrong_with_each_other() {
    let echo = Echo::start();
    assert_eq!(python_client(echo.address()).await, Vec::<String>::new());
    let python = PythonEcho::start();
    all_kinds_with_tonic(&Client::connect(python.endpoint().strip_prefix("http://").unwrap()).await).await;
}

// C-G1
#[tokio::test]
async fn grpcio_calls_tonic_through_two_relays() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let failed = within(
        "the grpcio client",
        LIMIT * 3,
        python_client(&cluster.relay("a-1").grpc()),
    )
    .await;
    assert_eq!(failed, Vec::<String>::new());
}

// C-G1
#[tokio::test]
async fn grpcio_calls_grpcio_through_two_relays() {
    let echo = PythonEcho::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let failed = within(
        "the grpcio client",
        LIMIT * 3,
        python_client(&cluster.relay("a-1").grpc()),
    )
    .await;
    assert_eq!(failed, Vec::<String>::new());
}

// C-G1
#[tokio::test]
async fn tonic_calls_grpcio_through_two_relays() {
    let echo = PythonEcho::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    all_kinds_with_tonic(&Client::connect(&cluster.relay("a-1").grpc()).await).await;
}

// C-G1
#[tokio::test]
async fn tonic_calls_tonic_over_a_unix_socket_and_two_relays() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    all_kinds_with_tonic(&Client::connect_unix(&cluster.relay("a-1").grpc_socket()).await).await;
}

// C-G1: a unit's own services are reached the same way, with one relay between.
#[tokio::test]
async fn a_call_to_the_local_unit_is_carried_whole() {
    let echo = Echo::start();
    let cluster = Cluster::builder()
        .unit("b", 1)
        .service("b", "im.Echo", &[echo.endpoint()])
        .start()
        .await;
    all_kinds_with_tonic(&Client::connect(&cluster.relay("b-1").grpc()).await).await;
}

/// The four kinds of calls, metadata, errors and compression, with tonic as the client.
async fn all_kinds_with_tonic(client: &Client) {
    for size in [0, 1, 1000, 16_384, 70_000, 5 << 20] {
        let body = Bytes::from(vec![5; size]);
        let reply = within("unary", LIMIT, client.unary("Unary", to_b(body.clone())))
            .await
            .unwrap();
        assert!(reply.into_inner() == body, "{size} bytes came back changed");
    }

    let parts: Vec<Bytes> = (0..100).map(|n| Bytes::from(vec![n; usize::from(n) * 100])).collect();
    let reply = client.collect("Collect", to_b(stream_of(parts.clone()))).await.unwrap();
    assert!(reply.into_inner() == parts.concat());

    let stream = client.produce("Produce", to_b(Bytes::from("200 3000"))).await.unwrap();
    let got = read_stream(stream.into_inner()).await.unwrap();
    assert!(got.len() == 200 && got.iter().all(|message| message.len() == 3000));

    lock_step(client, 50).await;

    let stream = client
        .chat("AfterHalfClose", to_b(stream_of(parts.clone())))
        .await
        .unwrap();
    assert!(read_stream(stream.into_inner()).await.unwrap() == parts);

    let body = Bytes::from(vec![9; 300_000]);
    let asked = request(body.clone(), &[TO_B, ("x-compress", "gzip")]);
    assert!(
        client
            .clone()
            .compressed()
            .unary("Unary", asked)
            .await
            .unwrap()
            .into_inner()
            == body
    );

    errors_with_tonic(client).await;
}

/// Each message is answered before the next is sent, so nothing may wait for more bytes.
async fn lock_step(client: &Client, messages: u32) {
    let (sender, receiver) = channel();
    sender.send(Bytes::from("0")).await.unwrap();
    let mut replies = client.chat("Chat", to_b(receiver)).await.unwrap().into_inner();
    for number in 0..messages {
        let reply = within("a reply in lock step", LIMIT, replies.message()).await.unwrap();
        assert_eq!(reply.unwrap(), number.to_string());
        sender.send((number + 1).to_string().into()).await.unwrap();
    }
    drop(sender);
    assert_eq!(replies.message().await.unwrap().unwrap(), messages.to_string());
    assert_eq!(replies.message().await.unwrap(), None);
}

/// Rich errors before and after messages.
async fn errors_with_tonic(client: &Client) {
    let details: Vec<u8> = (0..=255).collect();
    for early in [true, false] {
        let mut asked = request(
            Bytes::from("2 10"),
            &[TO_B, ("x-code", "10"), ("x-message", "caf\u{e9} 100%")],
        );
        asked
            .metadata_mut()
            .insert_bin("x-details-bin", tonic::metadata::MetadataValue::from_bytes(&details));
        if early {
            asked.metadata_mut().insert("x-early", "1".parse().unwrap());
        }
        let status = match client.produce("Produce", asked).await {
            Ok(stream) => read_stream(stream.into_inner()).await.unwrap_err(),
            Err(status) => status,
        };
        assert_eq!(status.code(), Code::Aborted);
        assert_eq!(status.details(), details);
    }
    let status = client.unary("Nothing", to_b(Bytes::new())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(
        !status.metadata().contains_key("strait-error"),
        "the service said so, not a relay: {status:?}"
    );
}

async fn read_stream(mut stream: Streaming<Bytes>) -> Result<Vec<Bytes>, Status> {
    let mut messages = Vec::new();
    while let Some(message) = within("the next message", LIMIT, stream.message()).await? {
        messages.push(message);
    }
    Ok(messages)
}

// C-G1: a reply of one header block stays one header block; a client may tell them apart.
#[tokio::test]
async fn a_trailers_only_reply_stays_trailers_only() {
    let service = RawService::start(|mut call, respond| async move {
        let _ = read_all(call.body_mut()).await;
        let fields = [
            ("grpc-status", "8"),
            ("grpc-message", "too%20much"),
            ("grpc-status-details-bin", "CAgSBHRlc3Q"),
            ("x-own", "kept"),
        ];
        trailers_only(respond, &fields);
    });
    let cluster = Cluster::pair(&service.endpoint()).start().await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    let reply = client.call("/im.Echo/Any", &[TO_B], grpc_message(b"m")).await.unwrap();
    assert!(
        reply.head_ended && reply.trailers.is_none() && reply.body.is_empty(),
        "{reply:?}"
    );
    assert_eq!(reply.status, 200);
    assert_eq!(reply.ending("grpc-status"), Some("8"));
    assert_eq!(reply.ending("grpc-message"), Some("too%20much"));
    assert_eq!(reply.ending("grpc-status-details-bin"), Some("CAgSBHRlc3Q"));
    assert_eq!(reply.ending("x-own"), Some("kept"));
    assert_eq!(reply.ending("strait-error"), None);
}

// C-G1: bodies are opaque, even where they are no gRPC messages.
#[tokio::test]
async fn bytes_that_are_no_grpc_messages_pass_unchanged() {
    let service = RawService::start(|mut call, mut respond| async move {
        let Ok(body) = read_all(call.body_mut()).await else {
            return;
        };
        let response = http::Response::builder().header("content-type", "application/grpc+thrift");
        let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
        stream.send_data(body, false).unwrap();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        stream.send_trailers(trailers).unwrap();
    });
    let cluster = Cluster::pair(&service.endpoint()).start().await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    let noise: Bytes = (0..40_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for body in [
        Bytes::from_static(&[1, 0, 0, 0, 3, 9, 9, 9]),
        Bytes::from_static(&[0xff]),
        noise,
    ] {
        let reply = client.call("/im.Echo/Any", &[TO_B], body.clone()).await.unwrap();
        assert!(reply.body == body, "{} bytes came back as {reply:?}", body.len());
        assert_eq!(reply.head.get("content-type").unwrap(), "application/grpc+thrift");
        assert_eq!(reply.ending("grpc-status"), Some("0"));
    }
}

// C-G1: what a service says in plain HTTP is the service's, not a relay's.
#[tokio::test]
async fn a_plain_http_error_of_the_service_passes() {
    let service = RawService::start(|_, mut respond| async move {
        let response = http::Response::builder()
            .status(418)
            .header("content-type", "text/plain");
        let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
        stream.send_data(Bytes::from("short and stout"), true).unwrap();
    });
    let cluster = Cluster::pair(&service.endpoint()).start().await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    let reply = client.call("/im.Echo/Any", &[TO_B], grpc_message(b"m")).await.unwrap();
    assert_eq!((reply.status, &reply.body[..]), (418, &b"short and stout"[..]));
    assert!(!reply.head.contains_key("strait-error"));
}

// C-G1: a service that resets a stream ends that call and no other.
#[tokio::test]
async fn a_reset_by_the_service_ends_the_call_and_no_other() {
    let service = RawService::start(|mut call, respond| async move {
        if call.uri().path() == "/im.Echo/Reset" {
            return reset(respond, h2::Reason::INTERNAL_ERROR);
        }
        let _ = read_all(call.body_mut()).await;
        trailers_only(respond, &[("grpc-status", "0")]);
    });
    let cluster = Cluster::pair(&service.endpoint()).start().await;
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    for _ in 0..10 {
        let call = client.call("/im.Echo/Reset", &[TO_B], grpc_message(b"m"));
        if let Ok(reply) = within("the end of a reset call", LIMIT, call).await {
            assert!(!matches!(reply.ending("grpc-status"), None | Some("0")), "{reply:?}");
        }
        let reply = client.call("/im.Echo/Fine", &[TO_B], grpc_message(b"m")).await.unwrap();
        assert_eq!(reply.ending("grpc-status"), Some("0"));
    }
}

// C-E2: the service learns who called from the relay, and a client cannot pretend.
#[tokio::test]
async fn the_service_sees_the_calling_unit_and_no_forged_one() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let asked = request(
        Bytes::new(),
        &[
            TO_B,
            ("strait-source-unit", "forged"),
            ("strait-source-geo", "forged"),
            ("x-own", "kept"),
        ],
    );
    let reply = client.unary("Metadata", asked).await.unwrap();
    assert!(!reply.metadata().contains_key("strait-error"));
    let seen = String::from_utf8(reply.into_inner().to_vec()).unwrap();
    assert!(seen.contains("strait-source-unit: a\n"), "{seen}");
    assert!(seen.contains("strait-source-geo: geo-a\n"), "{seen}");
    assert!(!seen.contains("forged"), "{seen}");
    assert!(
        seen.contains("x-own: kept\n") && seen.contains("te: trailers\n"),
        "{seen}"
    );
}

// C-G3: four-mebibyte messages as streams in both directions at once, in bounded memory.
#[tokio::test]
async fn a_hundred_mebibytes_each_way_need_little_memory() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let before: Vec<u64> = cluster.relays().iter().map(|relay| usage::rss(relay.pid())).collect();
    let messages: Vec<Bytes> = (0..25)
        .map(|n| Bytes::from(vec![n; (4 << 20) + usize::from(n)]))
        .collect();
    let replies = client.chat("Chat", to_b(stream_of(messages.clone()))).await.unwrap();
    let mut replies = replies.into_inner();
    for message in messages {
        let reply = within("a large message", LIMIT, replies.message())
            .await
            .unwrap()
            .unwrap();
        assert!(reply == message);
    }
    for (relay, before) in cluster.relays().iter().zip(before) {
        let grown = usage::rss_peak(relay.pid()).saturating_sub(before) >> 20;
        assert!(grown < 64, "{} grew by {grown} MiB", relay.name);
    }
}

// C-F2, C-G1
#[tokio::test]
async fn a_thousand_streams_at_once_each_get_their_own_replies() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let mut tasks = tokio::task::JoinSet::new();
    for connection in 0..4 {
        let client = Client::connect(&cluster.relay("a-1").grpc()).await;
        for number in 0..250 {
            let client = client.clone();
            tasks.spawn(async move {
                let (sender, receiver) = channel();
                let own = Bytes::from(format!("{connection}-{number}"));
                sender.send(own.clone()).await.unwrap();
                let mut replies = client.chat("Chat", to_b(receiver)).await.unwrap().into_inner();
                assert_eq!(replies.message().await.unwrap().unwrap(), own);
                // All wait here until each has had its first reply: a thousand are open.
                (sender, replies, own)
            });
        }
    }
    let open = within("a thousand streams", LIMIT, tasks.join_all()).await;
    assert_eq!(echo.seen.open(), 1000);
    for (sender, mut replies, own) in open {
        sender.send(own.clone()).await.unwrap();
        drop(sender);
        assert_eq!(replies.message().await.unwrap().unwrap(), own);
        assert_eq!(replies.message().await.unwrap(), None);
    }
}

// C-G1: an HTTP/2 client of a third family; each of its calls must be answered.
#[tokio::test]
async fn h2load_loses_no_call() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let body = cluster.directory().join("body.bin");
    std::fs::write(&body, grpc_message(&[3; 200])).unwrap();
    let mut command = tokio::process::Command::new("h2load");
    command
        .args(["-n", "5000", "-c", "8", "-m", "16", "-t", "1"])
        .args([
            "-H",
            "content-type: application/grpc",
            "-H",
            "te: trailers",
            "-H",
            "strait-key: uid=b:1",
        ])
        .arg("-d")
        .arg(&body)
        .arg(format!("http://{}/im.Echo/Unary", cluster.relay("a-1").grpc()))
        .kill_on_drop(true);
    let output = within("h2load", LIMIT, command.output()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("5000 succeeded, 0 failed, 0 errored, 0 timeout"),
        "{text}"
    );
    assert!(text.contains("status codes: 5000 2xx"), "{text}");
}

// C-G1
#[tokio::test]
async fn services_and_methods_nobody_compiled_in_are_carried() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint())
        .service("b", "some.other.v2.Service-7", &[echo.endpoint()])
        .start()
        .await;
    let client = Client::connect(&cluster.relay("a-1").grpc())
        .await
        .service("some.other.v2.Service-7");
    let status = client.unary("Whatever", Request::new(Bytes::new())).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "no key, no route: {status:?}");
    // tonic does not know the service and says so itself: the path got through.
    let status = client.unary("Whatever", to_b(Bytes::new())).await.unwrap_err();
    assert_eq!(status.code(), Code::Unimplemented);
    assert!(!status.metadata().contains_key("strait-error"), "{status:?}");
}
