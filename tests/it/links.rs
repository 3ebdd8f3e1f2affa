//! C-L4, C-L5: links over paths that lose, delay, reorder and double datagrams, or carry none at all.

use std::time::Duration;

use bytes::Bytes;
use tonic::Code;

use crate::harness::{Cluster, ClusterBuilder, Direction, Impairment, wait_for, within};
use crate::services::{Client, Echo, request, stream_of, to_b};

const LIMIT: Duration = Duration::from_secs(60);
const MS: Duration = Duration::from_millis(1);

/// A pair behind impairers whose links notice silence after three seconds instead of thirty.
fn impaired_pair(endpoint: &str) -> ClusterBuilder {
    let mut builder = Cluster::pair(endpoint).impaired(20_261_122);
    for unit in ["a", "b"] {
        builder = builder
            .set(unit, "peer.keep_alive", "500ms")
            .set(unit, "peer.idle_timeout", "3s");
    }
    builder
}

async fn client_of(cluster: &Cluster) -> Client {
    Client::connect(&cluster.relay("a-1").grpc()).await
}

/// A call that ends within two seconds, one way or the other.
async fn try_call(client: &Client) -> Result<(), tonic::Status> {
    let mut asked = request(Bytes::from("m"), &[("strait-key", "uid=b:1")]);
    asked.set_timeout(Duration::from_secs(2));
    within("a call of two seconds", LIMIT, client.unary("Unary", asked))
        .await
        .map(|_| ())
}

/// Away, as a relay says it, or too late, as a relay or the client's own clock says it.
fn is_away_or_late(status: &tonic::Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) || status.message() == "Timeout expired"
}

// A bad path costs time, nothing else; and no datagram that comes twice makes a call happen twice.
#[tokio::test]
async fn loss_delay_reordering_and_duplicates_change_no_byte_and_no_count() {
    let echo = Echo::start();
    let cluster = impaired_pair(&echo.endpoint()).start().await;
    let client = client_of(&cluster).await;
    cluster.impair(Impairment {
        delay: MS * 5,
        jitter: MS * 2,
        loss: 0.03,
        duplicate: 0.03,
        reorder: 0.03,
        ..Impairment::default()
    });
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..400_usize {
        let client = client.clone();
        tasks.spawn(async move {
            let body = Bytes::from(vec![number as u8; number * 37]);
            let reply = client.unary("Unary", to_b(body.clone())).await.unwrap();
            assert!(reply.into_inner() == body, "call {number}");
        });
    }
    for number in 0..4_u8 {
        let client = client.clone();
        tasks.spawn(async move {
            let parts: Vec<Bytes> = (0..20).map(|part| Bytes::from(vec![number ^ part; 100_000])).collect();
            let reply = client.collect("Collect", to_b(stream_of(parts.clone()))).await.unwrap();
            assert!(reply.into_inner() == parts.concat(), "stream {number}");
        });
    }
    within("all calls on a bad path", LIMIT * 2, tasks.join_all()).await;
    assert_eq!(echo.seen.get(|seen| &seen.opened), 404, "a call happened twice");
    let counts = cluster.path("a-1", "b-1").counts(Direction::Forth);
    let back = cluster.path("b-1", "a-1").counts(Direction::Forth);
    assert!(counts.lost + back.lost > 0, "the path was not bad: {counts:?} {back:?}");
}

// C-L4: UDP blocked is visible as such, and links are back within five seconds of the path's return.
#[tokio::test]
async fn links_come_back_by_themselves_within_five_seconds() {
    let echo = Echo::start();
    let cluster = impaired_pair(&echo.endpoint()).start().await;
    let client = client_of(&cluster).await;
    try_call(&client).await.unwrap();

    cluster.partition(true);
    let status = try_call(&client).await.unwrap_err();
    assert!(is_away_or_late(&status), "{status:?}");
    cluster.until_unlinked("a-1", "b").await;
    let status = try_call(&client).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let place = status.metadata().get("strait-error").unwrap().to_str().unwrap();
    assert!(place.starts_with("unit_away; unit=a"), "{place}");

    cluster.partition(false);
    wait_for("the link to be back", Duration::from_secs(5), async || {
        try_call(&client).await.ok()
    })
    .await;
}

// A path that is dead in one direction only must not look alive.
#[tokio::test]
async fn a_path_that_is_dead_in_one_direction_is_seen_and_survived() {
    let echo = Echo::start();
    let cluster = impaired_pair(&echo.endpoint()).start().await;
    let client = client_of(&cluster).await;
    for direction in [Direction::Forth, Direction::Back] {
        for (from, to) in [("a-1", "b-1"), ("b-1", "a-1")] {
            cluster.path(from, to).partition(direction, true);
        }
        cluster.until_unlinked("a-1", "b").await;
        assert_eq!(try_call(&client).await.unwrap_err().code(), Code::Unavailable);
        cluster.partition(false);
        wait_for("the link to be back", LIMIT, async || try_call(&client).await.ok()).await;
    }
}

// C-G2: calls that were under way when the path died are told so, and not executed again.
#[tokio::test]
async fn calls_under_way_on_a_dying_link_end_as_unavailable_once() {
    let echo = Echo::start();
    let cluster = impaired_pair(&echo.endpoint()).start().await;
    let client = client_of(&cluster).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let asked = request(Bytes::from("m"), &[("strait-key", "uid=b:1"), ("x-delay-ms", "60000")]);
                client.unary("Unary", asked).await
            })
        })
        .collect();
    wait_for("the calls to reach the service", LIMIT, async || {
        (echo.seen.open() == 10).then_some(())
    })
    .await;
    cluster.partition(true);
    for call in calls {
        let status = within("the end of the link", LIMIT, call).await.unwrap().unwrap_err();
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        let place = status.metadata().get("strait-error").unwrap().to_str().unwrap();
        assert!(place.starts_with("link_lost; "), "{place}");
    }
    // The far relay cannot hear a cancel; it must find out by itself that the callers are gone.
    wait_for("the service to be told", LIMIT, async || {
        (echo.seen.open() == 0).then_some(())
    })
    .await;
    assert_eq!(echo.seen.get(|seen| &seen.opened), 10, "a call was executed again");
}

// C-L4: the other relay crashes and comes back at the same address, with nothing left of its state.
#[tokio::test]
async fn a_relay_that_crashed_and_came_back_is_found_again() {
    let echo = Echo::start();
    let mut cluster = impaired_pair(&echo.endpoint()).start().await;
    let client = client_of(&cluster).await;
    for _ in 0..3 {
        cluster.relay_mut("b-1").kill();
        let status = try_call(&client).await.unwrap_err();
        assert!(is_away_or_late(&status), "{status:?}");
        cluster.relay_mut("b-1").start().await;
        wait_for("the link to be back", LIMIT, async || try_call(&client).await.ok()).await;
    }
}

// C-L5: only `b` can open connections; calls flow both ways over them.
#[tokio::test]
async fn links_that_only_one_side_can_open_carry_calls_both_ways() {
    let (at_a, at_b) = (Echo::start(), Echo::start());
    let cluster = Cluster::pair(&at_b.endpoint())
        .service("a", "im.Echo", &[at_a.endpoint()])
        .waits_for("a", "b")
        .start()
        .await;
    for _ in 0..20 {
        // New connections, so that each shard of either relay has to reach the other unit.
        let from_a = Client::connect(&cluster.relay("a-1").grpc()).await;
        let from_b = Client::connect(&cluster.relay("b-1").grpc()).await;
        from_a
            .unary("Unary", request(Bytes::from("m"), &[("strait-key", "uid=b:1")]))
            .await
            .unwrap();
        from_b
            .unary("Unary", request(Bytes::from("m"), &[("strait-key", "uid=a:1")]))
            .await
            .unwrap();
    }
    assert_eq!(at_a.seen.get(|seen| &seen.opened), 20);
    assert_eq!(at_b.seen.get(|seen| &seen.opened), 20);
}

// A slow link pushes back on one large call without ending small ones.
#[tokio::test]
async fn a_narrow_path_carries_small_calls_beside_a_large_one() {
    let echo = Echo::start();
    let cluster = impaired_pair(&echo.endpoint()).start().await;
    let client = client_of(&cluster).await;
    cluster.impair(Impairment {
        delay: MS * 5,
        rate: Some(2_000_000),
        ..Impairment::default()
    });
    let large = tokio::spawn({
        let client = client.clone();
        let body = Bytes::from(vec![1; 8 << 20]);
        async move { client.unary("Unary", to_b(body)).await }
    });
    let mut small = 0;
    while !large.is_finished() {
        try_call(&client).await.unwrap();
        small += 1;
    }
    assert_eq!(large.await.unwrap().unwrap().into_inner().len(), 8 << 20);
    assert!(small >= 10, "only {small} small calls passed beside the large one");
}
