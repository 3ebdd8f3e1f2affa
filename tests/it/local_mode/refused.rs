//! Kept calls that their owner refuses.

use super::*;

/// What a unit was told of calls that it kept: attributes, with `key` and `body`.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<BTreeMap<String, String>>>>);

impl Told {
    async fn listen(&self, client: &client::Client) {
        let told = self.clone();
        let subscribe = client::Subscribe::new("im.refused", "app");
        let subscribed = client.subscribe(subscribe, move |message| {
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            let names = ["type", "subject", "ticket", "callid", "code", "owner"];
            let of = |name: &str| (name.to_owned(), message.attribute(name).unwrap_or_default().to_owned());
            let mut fields: BTreeMap<_, _> = names.into_iter().map(of).collect();
            fields.insert("key".to_owned(), text(&message.key().unwrap().key));
            fields.insert("body".to_owned(), text(message.body()));
            told.0.lock().unwrap().push(fields);
            async { Ok(()) }
        });
        within("a subscription", LIMIT, subscribed).await.unwrap();
    }

    fn all(&self) -> Vec<BTreeMap<String, String>> {
        self.0.lock().unwrap().clone()
    }
}

// C-P2, I16: what the owner refuses for good is a dead letter that says which call it was and why; what it knows is done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_owner_refuses_is_a_dead_letter_and_what_it_knows_is_done() {
    let mut cluster = pair().start().await;
    let (_at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    let client = grpc(cluster.relay("a-1")).await;
    let known = [("strait-key", "uid=b:1"), ("idempotency-key", "known")];
    call(&client, "Post", &known).await.unwrap();
    let listeners = [connect(cluster.relay("a-1")).await, connect(cluster.relay("b-1")).await];
    let (at_home, elsewhere) = (Told::default(), Told::default());
    at_home.listen(&listeners[0]).await;
    elsewhere.listen(&listeners[1]).await;
    lose_b(&mut cluster).await;
    at_b.refuse(Some(Code::FailedPrecondition));
    call(&client, "Post", &known).await.unwrap();
    let mut tickets = Vec::new();
    for (method, id) in [("Fails", "1"), ("Post", "2")] {
        let fields = [("strait-key", "uid=b:1"), ("idempotency-key", id)];
        tickets.push(call(&client, method, &fields).await.unwrap()["strait-ticket"].clone());
    }
    cluster.relay_mut("b-1").start().await;
    until_applied(&at_b, 2).await;
    assert_eq!(at_b.applied()[1].id, "2", "the next one of the key goes on");
    let relay = cluster.relay("b-1");
    for (outcome, expected) in [("applied", 1.0), ("duplicate", 1.0), ("rejected", 1.0)] {
        assert_eq!(
            counted(relay, "strait_replayed_calls_total", outcome).await,
            expected,
            "{outcome}"
        );
    }
    let letters = wait_for("a dead letter", LIMIT, async || {
        Some(dead(relay)).filter(|letters| !letters.is_empty())
    })
    .await;
    let text = serde_json::to_string(&letters).unwrap();
    assert_eq!(letters.len(), 1, "{text}");
    assert!(
        text.contains("im.Ledger/Fails: FailedPrecondition: the room is closed"),
        "{text}"
    );
    let shown = strait(relay, &["dlq", "list"]);
    assert!(shown.contains("strait.calls im.Ledger/Fails"), "{shown}");
    let shown = strait(relay, &["dlq", "show"]);
    assert!(
        shown.contains("im.Ledger/Fails: FailedPrecondition: the room is closed"),
        "{shown}"
    );
    let notices = wait_for("the callers' unit to be told", LIMIT, async || {
        Some(at_home.all()).filter(|notices| !notices.is_empty())
    })
    .await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    for (field, value) in [
        ("type", "strait.call.rejected"),
        ("subject", "im.Ledger/Fails"),
        ("ticket", tickets[0].as_str()),
        ("callid", "1"),
        ("code", "FailedPrecondition"),
        ("owner", "b"),
        ("key", "b:1"),
        ("body", "im.Ledger/Fails: FailedPrecondition: the room is closed"),
    ] {
        assert_eq!(notices[0].get(field).map(String::as_str), Some(value), "{field}");
    }
    assert!(elsewhere.all().is_empty(), "the owner knows");
    // The room is open again: an operator takes it back.
    at_b.refuse(None);
    strait(relay, &["dlq", "redrive", "--topic", "strait.calls", "--allow-reorder"]);
    until_applied(&at_b, 3).await;
    assert_eq!(at_b.applied()[2].id, "1");
}

// U4: who kept a call is told that it was refused, also if the owner crashes after that, and is told once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_of_a_refused_call_outlives_the_owners_relay() {
    let mut cluster = pair().start().await;
    let (_at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    at_b.refuse(Some(Code::FailedPrecondition));
    let client = connect(cluster.relay("a-1")).await;
    let told = Told::default();
    told.listen(&client).await;
    // Nothing goes from the owner to the unit that is to be told.
    strait(
        cluster.relay("b-1"),
        &["queue", "pause", "--unit", "a", "--reason", "test"],
    );
    lose_b(&mut cluster).await;
    let fields = [("strait-key", "uid=b:1"), ("idempotency-key", "1")];
    let kept = call(&grpc(cluster.relay("a-1")).await, "Fails", &fields).await.unwrap();
    cluster.relay_mut("b-1").start().await;
    wait_for("a dead letter", LIMIT, async || {
        (!dead(cluster.relay("b-1")).is_empty()).then_some(())
    })
    .await;
    // It was on disk before the call was a dead letter.
    cluster.relay_mut("b-1").kill();
    cluster.relay_mut("b-1").start().await;
    assert!(told.all().is_empty(), "its unit is paused");
    strait(cluster.relay("b-1"), &["queue", "resume", "--unit", "a"]);
    let notices = wait_for("the callers' unit to be told", LIMIT, async || {
        Some(told.all()).filter(|notices| !notices.is_empty())
    })
    .await;
    assert_eq!(notices.len(), 1, "{notices:?}");
    assert_eq!(notices[0]["ticket"], kept["strait-ticket"]);
    assert_eq!(dead(cluster.relay("b-1")).len(), 1);
}
