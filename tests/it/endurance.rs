//! C-G3: streams that live long. Not part of every run, because waiting is all there is to it.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc::Sender;
use tokio::time::Instant;
use tonic::Streaming;

use crate::harness::{Cluster, usage, within};
use crate::services::{Client, Echo, channel, to_b};

const LIMIT: Duration = Duration::from_secs(30);
const STREAMS: usize = 50;
const GROWN_MAX: u64 = 16 << 20;

struct Stream {
    messages: Sender<Bytes>,
    replies: Streaming<Bytes>,
}

impl Stream {
    async fn open(client: &Client) -> Self {
        let (messages, source) = channel();
        let replies = within("stream", LIMIT, client.chat("Chat", to_b(source)))
            .await
            .unwrap();
        Self {
            messages,
            replies: replies.into_inner(),
        }
    }

    async fn echoes(&mut self, message: &str) {
        self.messages
            .send(Bytes::copy_from_slice(message.as_bytes()))
            .await
            .unwrap();
        let reply = within("echo", LIMIT, self.replies.message()).await.unwrap();
        assert_eq!(reply.unwrap(), message.as_bytes());
    }
}

#[tokio::test]
#[ignore = "takes STRAIT_STREAM_MINUTES minutes (5): cargo test --test it endurance:: -- --ignored"]
async fn streams_stay_open_whether_anything_moves_on_them_or_not() {
    let minutes = std::env::var("STRAIT_STREAM_MINUTES").map_or(5, |text| text.parse().unwrap());
    let echo = Echo::start();
    let mut builder = Cluster::pair(&echo.endpoint());
    for unit in ["a", "b"] {
        builder = builder
            .set(unit, "services.\"im.Echo\".idle_timeout", "25h")
            .set(unit, "services.\"im.Echo\".duration_max", "25h")
            // Both kinds of keep-alive happen many times within the shortest run.
            .set(unit, "ingress.grpc.keepalive", "5s")
            .set(unit, "delivery.grpc.keepalive", "5s")
            .set(unit, "peer.keep_alive", "5s")
            .set(unit, "peer.idle_timeout", "15s");
    }
    let cluster = builder.start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let (mut idle, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..STREAMS {
        let mut stream = Stream::open(&client).await;
        stream.echoes("first").await;
        idle.push(stream);
        busy.push(Stream::open(&client).await);
    }
    let before = state(&cluster).await;
    let end = Instant::now() + Duration::from_secs(minutes * 60);
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    let mut rounds = 0_u64;
    while Instant::now() < end {
        ticks.tick().await;
        for stream in &mut busy {
            stream.echoes("again").await;
        }
        rounds += 1;
    }
    for stream in &mut idle {
        stream.echoes("last").await;
    }
    let after = state(&cluster).await;
    for ((name, links, rss), (_, links_after, rss_after)) in before.iter().zip(&after) {
        assert_eq!(links, links_after, "{name}: a link was made again");
        let grown = rss_after.saturating_sub(*rss);
        eprintln!("{name}: {minutes} min, {rounds} rounds, grew by {} KiB", grown / 1024);
        assert!(grown < GROWN_MAX, "{name} grew by {grown} bytes");
    }
    drop((idle, busy));
    crate::harness::wait_for("the streams to end", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
}

/// Per relay: links made so far, and memory.
async fn state(cluster: &Cluster) -> Vec<(String, f64, u64)> {
    let mut state = Vec::new();
    for relay in cluster.relays() {
        let links = relay.metrics().await.sum("strait_peer_connects_total", &[]);
        state.push((relay.name.clone(), links, usage::rss(relay.pid())));
    }
    state
}
