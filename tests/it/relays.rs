//! C-L1, C-L3: several relays per unit; one of them goes, in order or not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use crate::harness::{Cluster, http_get, http_post, wait_for, within};
use crate::services::{Client, Echo, channel, request, to_b};

const LIMIT: Duration = Duration::from_secs(60);

/// Callers that send the next call when one is answered, until told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    tasks: tokio::task::JoinSet<Vec<tonic::Status>>,
}

impl Load {
    async fn start(address: &str, callers: usize, idempotent: &'static str) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let client = Client::connect(address).await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..callers {
            let (client, stop, done) = (client.clone(), stop.clone(), done.clone());
            tasks.spawn(async move {
                let mut errors = Vec::new();
                while !stop.load(Ordering::SeqCst) {
                    let key = format!("uid=b:{number}");
                    let fields = [("strait-key", key.as_str()), ("strait-idempotent", idempotent)];
                    let mut asked = request(Bytes::from("m"), &fields);
                    asked.set_timeout(Duration::from_secs(10));
                    match client.unary("Unary", asked).await {
                        Ok(_) => done.fetch_add(1, Ordering::SeqCst),
                        Err(status) => {
                            errors.push(status);
                            0
                        }
                    };
                }
                errors
            });
        }
        Self { stop, done, tasks }
    }

    /// Waits until this many more calls were answered.
    async fn goes_on(&self, calls: u64) {
        let target = self.done.load(Ordering::SeqCst) + calls;
        wait_for("calls to be answered", LIMIT, async || {
            (self.done.load(Ordering::SeqCst) >= target).then_some(())
        })
        .await;
    }

    /// All errors that callers saw.
    async fn end(self) -> Vec<tonic::Status> {
        self.stop.store(true, Ordering::SeqCst);
        within("the callers to end", LIMIT, self.tasks.join_all())
            .await
            .concat()
    }
}

async fn two_relays_at_b(echo: &Echo) -> Cluster {
    let mut builder = Cluster::builder()
        .unit("a", 1)
        .unit("b", 2)
        .service("b", "im.Echo", &[echo.endpoint()]);
    for unit in ["a", "b"] {
        builder = builder
            .set(unit, "peer.keep_alive", "500ms")
            .set(unit, "peer.idle_timeout", "3s");
    }
    builder.start().await
}

// C-L3, C-T3: one of two relays crashes under load. Calls marked idempotent are tried again at the other one: many more
// at once than the budget allows, so that they have to wait for each other.
#[tokio::test]
async fn a_crash_of_one_of_two_relays_is_invisible_to_retryable_calls() {
    let echo = Echo::start();
    let mut cluster = two_relays_at_b(&echo).await;
    let load = Load::start(&cluster.relay("a-1").grpc(), 64, "true").await;
    load.goes_on(500).await;
    for name in ["b-1", "b-2"] {
        cluster.relay_mut(name).kill();
        load.goes_on(500).await;
        cluster.relay_mut(name).start().await;
        // The next one may only go when the other is in use again, or nobody is left.
        wait_for("the relay that came back to carry calls", LIMIT, async || {
            let metrics = cluster.relay(name).metrics().await;
            (metrics.sum("strait_calls_total", &[("outcome", "ok")]) > 0.0).then_some(())
        })
        .await;
    }
    load.goes_on(500).await;
    let errors = load.end().await;
    assert!(
        errors.is_empty(),
        "{} errors, first: {:?}",
        errors.len(),
        errors.first()
    );
}

// C-L1, C-L3: a relay that leaves in order loses no call at all, retryable or not.
#[tokio::test]
async fn an_orderly_end_of_one_of_two_relays_loses_no_call() {
    let echo = Echo::start();
    let mut cluster = two_relays_at_b(&echo).await;
    let load = Load::start(&cluster.relay("a-1").grpc(), 64, "false").await;
    load.goes_on(500).await;
    let status = cluster.relay_mut("b-1").terminate().await;
    assert!(status.success(), "{status}");
    load.goes_on(500).await;
    let errors = load.end().await;
    assert!(
        errors.is_empty(),
        "{} errors, first: {:?}",
        errors.len(),
        errors.first()
    );
}

// C-L1: a relay that was asked to end says so, finishes what runs and refuses what is new.
#[tokio::test]
async fn a_relay_told_to_end_by_signal_finishes_its_calls_first() {
    drains(async |cluster| cluster.relay("b-1").signal("TERM")).await;
}

// C-L1: the same, asked over the admin port.
#[tokio::test]
async fn a_relay_told_to_drain_by_its_admin_finishes_its_calls_first() {
    drains(async |cluster| {
        let (status, body) = http_post(&cluster.relay("b-1").admin(), "/drain").await.unwrap();
        assert!((200..300).contains(&status), "{status} {body}");
    })
    .await;
}

async fn drains(ask: impl AsyncFnOnce(&Cluster)) {
    let echo = Echo::start();
    let cluster = Cluster::pair(&echo.endpoint()).start().await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    let (sender, receiver) = channel();
    sender.send(Bytes::from("first")).await.unwrap();
    let mut replies = client.chat("Chat", to_b(receiver)).await.unwrap().into_inner();
    assert_eq!(replies.message().await.unwrap().unwrap(), "first");

    ask(&cluster).await;
    let admin = cluster.relay("b-1").admin();
    wait_for("the relay not to be ready", LIMIT, async || {
        matches!(http_get(&admin, "/readyz").await, Ok((503, _))).then_some(())
    })
    .await;
    let status = wait_for("new calls to be refused", LIMIT, async || {
        client.unary("Unary", to_b(Bytes::from("new"))).await.err()
    })
    .await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");

    // The call that was open goes on and ends well.
    sender.send(Bytes::from("second")).await.unwrap();
    assert_eq!(
        within("a reply while draining", LIMIT, replies.message())
            .await
            .unwrap()
            .unwrap(),
        "second"
    );
    drop(sender);
    assert_eq!(replies.message().await.unwrap(), None);
}

// C-G2: when the last relay of a unit is gone, callers hear it at once, not at their deadline.
#[tokio::test]
async fn without_any_relay_of_the_unit_calls_fail_fast() {
    let echo = Echo::start();
    let mut cluster = two_relays_at_b(&echo).await;
    let client = Client::connect(&cluster.relay("a-1").grpc()).await;
    client.unary("Unary", to_b(Bytes::from("m"))).await.unwrap();
    for name in ["b-1", "b-2"] {
        cluster.relay_mut(name).kill();
    }
    cluster.until_unlinked("a-1", "b").await;
    let call = client.unary("Unary", to_b(Bytes::from("m")));
    let status = within("the refusal", Duration::from_secs(10), call).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let place = status.metadata().get("strait-error").unwrap().to_str().unwrap();
    assert!(place.starts_with("unit_away; unit=a; relay=a-1"), "{place}");
}
