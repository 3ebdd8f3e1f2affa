//! Units that count as away because an operator says so.

use super::*;

// an operator says that a unit counts as away, though it answers. Its calls are kept and wait, over a restart, until that is
// taken back; everybody can see it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unit_counts_as_away_because_an_operator_says_so() {
    let mut cluster = pair().start().await;
    let (at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    let refuses = |words: &[&str], why: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args(["unit", "local-mode"])
            .args(words)
            .args(["--admin", &cluster.relay("a-1").admin()])
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(why), "{words:?}: {text}");
    };
    refuses(&["b", "--for", "25h", "--reason", "x"], "24 hours at most");
    refuses(&["nowhere", "--for", "1h", "--reason", "x"], "no such thing");
    refuses(&["b", "--for", "1h"], "--reason");
    refuses(&["b"], "--for and --reason");
    let none = strait(cluster.relay("a-1"), &["unit", "local-mode"]);
    assert!(none.contains("no unit counts as away"), "{none}");
    let words = ["unit", "local-mode", "b", "--for", "2h", "--reason", "wrong answers"];
    let shown = strait(cluster.relay("a-1"), &words);
    assert!(shown.contains("b ") && shown.contains(": wrong answers"), "{shown}");

    let client = grpc(cluster.relay("a-1")).await;
    let keep = async |client: &Client, id: &str| {
        let fields = [("strait-key", "uid=b:1"), ("idempotency-key", id)];
        let answer = call(client, "Post", &fields).await.unwrap();
        assert_eq!((&*answer["strait-provisional"], &*answer["strait-unit"]), ("true", "a"));
    };
    keep(&client, "1").await;
    let key = ("strait-key", "uid=b:1");
    let status = call(&client, "Post", &[key]).await.unwrap_err();
    assert!(said(&status, "strait-error").starts_with("unit_away"), "{status:?}");
    assert!(status.message().contains("an operator says"), "{status:?}");
    for method in ["Plain", "Get"] {
        let answer = call(&client, method, &[key, ("idempotency-key", method)])
            .await
            .unwrap();
        assert_eq!(answer["strait-unit"], "b", "{method} goes on");
    }
    let labels = [("src_unit", "a"), ("dst_unit", "b")];
    wait_for("the series to say so", LIMIT, async || {
        let metrics = cluster.relay("a-1").metrics().await;
        (metrics.sum("strait_local_mode_by_operator", &labels) == 1.0).then_some(())
    })
    .await;
    let asked = "/explain?dimension=uid&key=b:1&service=im.Ledger&method=Post";
    let (_, text) = http_get(&cluster.relay("a-1").admin(), asked).await.unwrap();
    assert!(
        text.contains("\"counts_as_away\":\"until 20") && text.contains(": wrong answers"),
        "{text}"
    );
    let shown = strait(cluster.relay("a-1"), &["queue", "status"]);
    assert!(shown.contains("b: counts as away for calls until 20"), "{shown}");

    cluster.relay_mut("a-1").kill();
    cluster.relay_mut("a-1").start().await;
    cluster.until_linked("a-1", "b").await;
    let _served_a = at_a.serve(cluster.relay("a-1")).await;
    keep(&grpc(cluster.relay("a-1")).await, "2").await;
    assert_eq!(at_a.applied().len(), 2);
    assert_eq!(at_b.applied().len(), 2, "Plain and Get");
    let relays = cluster.relay("a-1").admin();
    let shown = strait(
        cluster.relay("b-1"),
        &["unit", "local-mode", "b", "--off", "--relays", &relays],
    );
    assert!(shown.contains("no unit counts as away"), "{shown}");
    until_applied(&at_b, 4).await;
    let ids: Vec<String> = at_b.applied().into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids[2..], ["1", "2"]);
    let fields = [key, ("idempotency-key", "3")];
    let answer = call(&grpc(cluster.relay("a-1")).await, "Post", &fields).await.unwrap();
    assert_eq!(answer["strait-unit"], "b");
}
