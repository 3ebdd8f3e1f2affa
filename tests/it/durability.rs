//! M-A5: a weaker durability is asked for by name, and then seen.

use std::process::{Command, Stdio};

use crate::disk::{LIMIT, audit, connect, consume, message, pair, publish, status, until_got};
use crate::harness::wait_for;
use crate::services::Echo;

// M-A5: in every acknowledgement, in the status and in a metric. The end of the process costs nothing: what it acknowledged is with the operating system.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weaker_durability_is_seen_everywhere_and_survives_the_end_of_the_process() {
    let echo = Echo::start();
    let mut cluster = pair(&echo).set("a", "queue.sync", "buffered").start().await;
    for (relay, buffered) in [("a-1", true), ("b-1", false)] {
        let relay = cluster.relay(relay);
        let (publish, _) = message(0);
        let published = connect(relay).await.publish(publish.timeout(LIMIT)).await.unwrap();
        assert_eq!(published.is_buffered(), buffered);
        let address = format!("http://{}", relay.grpc());
        let arguments = [
            "publish", "orders", "--key", "uid=b:1", "--body", "x", "--output", "json", "--relay", &address,
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
        command.args(arguments).stdin(Stdio::null());
        let told = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        let told = String::from_utf8(told.stdout).unwrap();
        assert_eq!(told.contains("buffered"), buffered, "{told}");
        let word = if buffered { "buffered" } else { "group" };
        assert_eq!(status(relay).await["durability"], word);
        wait_for("the metric", LIMIT, async || {
            let shown = relay.metrics().await.sum("strait_queue_durability_buffered", &[]);
            (shown == f64::from(u8::from(buffered))).then_some(())
        })
        .await;
    }
    cluster.relay_mut("b-1").terminate().await;
    let client = connect(cluster.relay("a-1")).await;
    let mut acknowledged = Vec::new();
    for number in 1..50 {
        acknowledged.push(publish(&client, number).await.unwrap());
    }
    cluster.relay_mut("a-1").kill();
    cluster.relay_mut("a-1").start().await;
    cluster.relay_mut("b-1").start().await;
    let (_consumer, got) = consume(cluster.relay("b-1")).await;
    until_got(&got, &acknowledged).await;
    audit(cluster.relay("a-1")).await;
}
