//! C-F1, C-F4: a reader that stops is felt by the sender, not by the relays' memory or by other calls.

use std::time::Duration;

use bytes::Bytes;

use crate::harness::{Cluster, usage, wait_for, within};
use crate::services::{Client, Echo, PythonEcho, RawClient, grpc_message, to_b};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// Waits until a count stops growing for half a second; gives it.
async fn settled(what: &str, mut count: impl FnMut() -> u64) -> u64 {
    let mut last = (count(), tokio::time::Instant::now());
    wait_for(what, LIMIT, async || {
        let now = count();
        if now != last.0 {
            last = (now, tokio::time::Instant::now());
        }
        (now > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(now)
    })
    .await
}

// C-F4: server streaming into a client that reads nothing.
#[tokio::test]
async fn a_client_that_stops_reading_pauses_the_service() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    client.unary("Unary", to_b(Bytes::from("warm"))).await.unwrap();
    let before: Vec<u64> = cluster.relays().iter().map(|relay| usage::rss(relay.pid())).collect();

    let mut flood = client.produce("Flood", to_b(Bytes::new())).await.unwrap().into_inner();
    let paused_at = settled("the service to be paused", || echo.seen.get(|seen| &seen.flooded)).await;
    assert!(
        paused_at < 64 * MIB,
        "{} MiB were taken from the service",
        paused_at / MIB
    );
    for (relay, before) in cluster.relays().iter().zip(before) {
        let grown = usage::rss(relay.pid()).saturating_sub(before) / MIB;
        assert!(grown < 32, "{} grew by {grown} MiB", relay.name);
    }

    // C-F1: others do not notice.
    for _ in 0..100 {
        within(
            "a small call",
            Duration::from_secs(10),
            client.unary("Unary", to_b(Bytes::from("small"))),
        )
        .await
        .unwrap();
    }

    // It goes on where it stopped.
    let mut read = 0;
    while read < paused_at + 8 * MIB {
        let message = within("more of the flood", LIMIT, flood.message())
            .await
            .unwrap()
            .unwrap();
        assert!(message.iter().all(|byte| *byte == 7));
        read += message.len() as u64;
    }
    drop(flood);
    wait_for("the service to see the cancel", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
}

// C-F4: client streaming into a service that reads nothing.
#[tokio::test]
async fn a_service_that_stops_reading_pauses_the_client() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let fields = [("strait-key", "uid=b:1")];
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    client
        .call("/im.Echo/Unary", &fields, grpc_message(b"warm"))
        .await
        .unwrap();
    let before: Vec<u64> = cluster.relays().iter().map(|relay| usage::rss(relay.pid())).collect();

    let mut upload = client.upload("/im.Echo/Sink", &fields).await.unwrap();
    let message = grpc_message(&vec![1; 65_536]);
    let mut sent: u64 = 0;
    // The source is paused when the next message is not taken for a second.
    while let Ok(taken) = tokio::time::timeout(Duration::from_secs(1), upload.send(message.clone())).await {
        taken.unwrap();
        sent += 65_536;
        assert!(sent < 256 * MIB, "the client was never paused");
    }
    assert!(sent < 64 * MIB, "{} MiB were taken from the client", sent / MIB);
    for (relay, before) in cluster.relays().iter().zip(before) {
        let grown = usage::rss(relay.pid()).saturating_sub(before) / MIB;
        assert!(grown < 32, "{} grew by {grown} MiB", relay.name);
    }

    // C-F1: a stalled upload does not hold up other calls on the same connection.
    for _ in 0..100 {
        let call = client.call("/im.Echo/Unary", &fields, grpc_message(b"small"));
        let reply = within("a small call", Duration::from_secs(10), call).await.unwrap();
        assert_eq!(reply.ending("grpc-status"), Some("0"), "{reply:?}");
    }
    // C-D2: the cancel overtakes the bytes that wait.
    drop(upload);
    wait_for("the service to see the cancel", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
}

// C-F4: many stalled readers share the bound of the link, they do not multiply it.
#[tokio::test]
async fn fifty_stalled_readers_stay_within_the_memory_of_the_link() {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    client.unary("Unary", to_b(Bytes::from("warm"))).await.unwrap();
    let before: Vec<u64> = cluster.relays().iter().map(|relay| usage::rss(relay.pid())).collect();
    let mut floods = Vec::new();
    for _ in 0..50 {
        floods.push(client.produce("Flood", to_b(Bytes::new())).await.unwrap());
    }
    settled("the service to be paused", || echo.seen.get(|seen| &seen.flooded)).await;
    for (relay, before) in cluster.relays().iter().zip(before) {
        let grown = usage::rss(relay.pid()).saturating_sub(before) / MIB;
        assert!(grown < 128, "{} grew by {grown} MiB", relay.name);
    }
    // C-F1. On a connection of its own: the window of the first one is used up by the client itself.
    let other = Client::connect(&cluster.relay("a-1").grpc()).await;
    let reply = within(
        "a small call",
        Duration::from_secs(10),
        other.unary("Unary", to_b(Bytes::from("small"))),
    )
    .await;
    assert_eq!(reply.unwrap().into_inner(), "small");
    drop(floods);
    wait_for("the service to see the cancels", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
}

// C-F1: the same with gRPC of another family, several uploads, and the windows it begins with.
#[tokio::test]
async fn grpcio_services_that_do_not_read_uploads_answer_other_calls() {
    let python = PythonEcho::start();
    let cluster = Cluster::pair(&python.endpoint()).start().await;
    let fields = [("strait-key", "uid=b:1")];
    let client = RawClient::connect(&cluster.relay("a-1").grpc()).await;
    let message = grpc_message(&vec![1; 65_536]);
    let mut uploads = Vec::new();
    for _ in 0..3 {
        let mut upload = client.upload("/im.Echo/Hang", &fields).await.unwrap();
        let mut sent = 0_u64;
        while let Ok(taken) = tokio::time::timeout(Duration::from_secs(1), upload.send(message.clone())).await {
            taken.unwrap();
            sent += 65_536;
            assert!(sent < 256 * MIB, "the client was never paused");
        }
        uploads.push(upload);
        for _ in 0..50 {
            let call = client.call("/im.Echo/Unary", &fields, grpc_message(b"small"));
            let reply = within("a small call", Duration::from_secs(10), call).await.unwrap();
            assert_eq!(reply.ending("grpc-status"), Some("0"), "{reply:?}");
        }
    }
}
