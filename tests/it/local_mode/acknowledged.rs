//! Calls that are acknowledged while their unit is away, and those that are not.

use super::*;

// I16, C-P1, C-P2: what was acknowledged outlives the relay that did, and comes to its unit once and in order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_were_acknowledged_while_their_unit_was_away_are_applied_once_and_in_order() {
    let mut cluster = pair().start().await;
    let (at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, served_b) = Ledger::at(cluster.relay("b-1")).await;
    // While the unit is there nothing is different.
    let client = grpc(cluster.relay("a-1")).await;
    for method in ["Post", "Park"] {
        let fields = [("strait-key", "uid=b:0"), ("idempotency-key", method)];
        let answer = call(&client, method, &fields).await.unwrap();
        assert_eq!(answer["strait-unit"], "b");
        assert!(!answer.contains_key("strait-provisional") && !answer.contains_key("strait-ticket"));
    }
    assert_eq!((at_a.got().len(), at_b.got().len()), (0, 2));
    assert!(at_b.got().iter().all(|entry| entry.field("strait-replay").is_none()));

    lose_b(&mut cluster).await;
    let framed = connect(cluster.relay("a-1")).await;
    let mut acknowledged: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for number in 0..48 {
        let (key, id) = (format!("b:{}", number % 4), format!("call-{number}"));
        let route = format!("uid={key}");
        let fields = [("strait-key", route.as_str()), ("idempotency-key", id.as_str())];
        match number % 3 {
            0 => {
                let answer = call(&client, "Post", &fields).await.unwrap();
                assert_eq!((&*answer["strait-provisional"], &*answer["strait-unit"]), ("true", "a"));
                assert!(answer["strait-ticket"].starts_with("a/a-1/"), "{answer:?}");
            }
            1 => {
                let status = call(&client, "Park", &fields).await.unwrap_err();
                assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
                assert!(
                    said(&status, "strait-error").starts_with("parked; unit=a"),
                    "{status:?}"
                );
                assert!(said(&status, "strait-ticket").starts_with("a/a-1/"), "{status:?}");
            }
            _ => {
                let post = Call::new("im.Ledger/Post").key("uid", &key).body("hello");
                let post = post.metadata("idempotency-key", &id).timeout(LIMIT);
                let answer = framed.call(post).await.unwrap();
                assert_eq!(answer.metadata().text("strait-provisional"), Some("true"));
            }
        }
        acknowledged.entry(key).or_default().push(id);
    }
    // A call that its caller makes again is one call.
    let again = [("strait-key", "uid=b:0"), ("idempotency-key", "call-0")];
    let status = call(&client, "Post", &again).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::AlreadyExists, "the local service knows it");
    assert_eq!(said(&status, "strait-provisional"), "true");
    let again = [("strait-key", "uid=b:1"), ("idempotency-key", "call-1")];
    let status = call(&client, "Park", &again).await.unwrap_err();
    assert!(said(&status, "strait-error").starts_with("parked"), "{status:?}");
    let local = at_a.applied();
    assert_eq!(local.len(), 32);
    for entry in &local {
        assert_eq!(
            (entry.method.as_str(), entry.field("strait-local-mode")),
            ("Post", Some("true"))
        );
        assert_eq!(entry.owner_epoch, None);
    }
    let relay = cluster.relay("a-1");
    for (outcome, expected) in [
        ("executed", 33.0),
        ("parked", 17.0),
        ("local_failed", 0.0),
        ("not_stored", 0.0),
    ] {
        assert_eq!(
            counted(relay, "strait_kept_calls_total", outcome).await,
            expected,
            "{outcome}"
        );
    }

    cluster.relay_mut("a-1").kill();
    cluster.relay_mut("a-1").start().await;
    assert_eq!(at_b.applied().len(), 2);
    // The relay is back before its service is.
    drop(served_b);
    cluster.relay_mut("b-1").start().await;
    wait_for("replays that find no service", LIMIT, async || {
        let again = counted(cluster.relay("b-1"), "strait_replayed_calls_total", "again").await;
        (again > 0.0).then_some(())
    })
    .await;
    let _served_b = at_b.serve(cluster.relay("b-1")).await;
    until_applied(&at_b, 50).await;
    wait_for("nothing to be left", LIMIT, async || {
        let applied = counted(cluster.relay("b-1"), "strait_replayed_calls_total", "applied").await;
        (applied == 48.0).then_some(())
    })
    .await;
    let mut replayed: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for entry in &at_b.applied()[2..] {
        let mark = if entry.method == "Post" { "local" } else { "parked" };
        assert_eq!(entry.field("strait-replay"), Some(mark), "{entry:?}");
        assert!(entry.field("strait-local-mode").is_none(), "{entry:?}");
        assert!(
            entry
                .field("strait-ticket")
                .is_some_and(|ticket| ticket.starts_with("a/a-1/"))
        );
        replayed.entry(entry.key.clone()).or_default().push(entry.id.clone());
    }
    assert_eq!(replayed, acknowledged);
    let relay = cluster.relay("b-1");
    let duplicates = counted(relay, "strait_replayed_calls_total", "duplicate").await;
    assert_eq!(duplicates, 0.0, "what its caller made again was stored once");
    assert!(dead(cluster.relay("b-1")).is_empty());
}

// C-P1, C-P2: what cannot be kept is refused as before, and says why; nothing of it comes to its unit later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_kept_is_refused_and_says_why() {
    let mut cluster = pair().start().await;
    let (at_a, served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    lose_b(&mut cluster).await;
    let client = grpc(cluster.relay("a-1")).await;
    let refused = async |method: &str, fields: &[(&'static str, &str)]| {
        let status = call(&client, method, fields).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        assert!(said(&status, "strait-error").starts_with("unit_away"), "{status:?}");
        status.message().to_owned()
    };
    let key = ("strait-key", "uid=b:1");
    for method in ["Post", "Park"] {
        let text = refused(method, &[key]).await;
        assert!(text.contains("not kept") && text.contains("idempotency-key"), "{text}");
    }
    for method in ["Plain", "Get"] {
        let text = refused(method, &[key, ("idempotency-key", "1")]).await;
        assert!(!text.contains("not kept"), "{text}");
    }
    // A stream ends as before, whether its first message is there or not.
    for messages in [0, 1, 2] {
        let (sender, stream) = channel();
        for _ in 0..messages {
            sender.send(Bytes::from_static(b"hello")).await.unwrap();
        }
        let mut asked = request(stream, &[key, ("idempotency-key", "stream")]);
        asked.set_timeout(LIMIT);
        let ended = within("a stream to be refused", LIMIT, client.chat("Post", asked)).await;
        let status = match ended {
            Err(status) => status,
            Ok(answer) => answer.into_inner().message().await.unwrap_err(),
        };
        assert!(said(&status, "strait-error").starts_with("unit_away"), "{status:?}");
        drop(sender);
    }
    assert_eq!(at_a.got().len(), 0);
    // The local service refuses: the caller hears that, and nothing is stored.
    at_a.refuse(Some(Code::InvalidArgument));
    let fields = [key, ("idempotency-key", "2")];
    let status = call(&client, "Fails", &fields).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (tonic::Code::InvalidArgument, "the room is closed")
    );
    // It is not there at all.
    drop(served_a);
    let status = wait_for("the service to be gone", LIMIT, async || {
        let status = call(&client, "Post", &[key, ("idempotency-key", "3")]).await.err()?;
        Some(status)
    })
    .await;
    assert!(
        status
            .message()
            .contains("unit b is away, and this unit did not execute the call"),
        "{status:?}"
    );
    cluster.relay_mut("b-1").start().await;
    let _again = Ledger::at(cluster.relay("a-1")).await;
    let posted = wait_for("the unit to be back", LIMIT, async || {
        call(&client, "Plain", &[key, ("idempotency-key", "last")]).await.ok()
    })
    .await;
    assert_eq!(posted["strait-unit"], "b");
    assert_eq!(
        at_b.got().iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(),
        ["last"]
    );
    assert!(strait(cluster.relay("a-1"), &["queue", "audit"]).len() > 1);
}

// I16: nothing is answered that is not on disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_the_disk_does_not_take_is_not_acknowledged() {
    let here: Table = "rule = \"local\"\ngroups.ui = {}\n".parse().unwrap();
    let builder = pair()
        .set("a", "topics.\"im.kept\"", here)
        .set("a", "calls.route.\"im.Ledger\".kept_to", "im.kept");
    let mut cluster = builder.start().await;
    let (at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    lose_b(&mut cluster).await;
    cluster.relay_mut("a-1").expect_error("disk");
    let relay = cluster.relay("a-1");
    let client = connect(relay).await;
    let injection = Injection::start(relay.pid(), SYNCS, "error=EIO").await;
    for (method, expected) in [
        (
            "im.Ledger/Post",
            "this unit has executed the call in its place, but could not store it",
        ),
        ("im.Ledger/Park", "the call could not be stored for it"),
    ] {
        let asked = Call::new(method).key("uid", "b:1").body("hello");
        let asked = asked.metadata("idempotency-key", method).timeout(LIMIT);
        let CallError::Relay(error) = client.call(asked).await.unwrap_err() else {
            panic!("{method}: an error of the relay");
        };
        assert_ne!(error.reason, Reason::Parked);
        assert!(error.detail.contains(expected), "{error}");
    }
    drop(injection);
    assert_eq!(at_a.applied().len(), 1);
    assert_eq!(counted(relay, "strait_kept_calls_total", "not_stored").await, 2.0);
    // Nor is anybody told of it.
    for outcome in ["told", "not_told"] {
        let told = counted(relay, "strait_kept_calls_told_total", outcome).await;
        assert_eq!(told, 0.0, "{outcome}");
    }
    // Made again, it is stored, though the local service has executed it before.
    wait_for("the disk to take it", LIMIT, async || {
        let asked = Call::new("im.Ledger/Post").key("uid", "b:1").body("hello");
        let asked = asked.metadata("idempotency-key", "im.Ledger/Post").timeout(LIMIT);
        match client.call(asked).await.unwrap_err() {
            CallError::Status(status) => {
                assert_eq!(status.code, Code::AlreadyExists);
                Some(())
            }
            error => {
                assert!(error.to_string().contains("could not store it"), "{error}");
                None
            }
        }
    })
    .await;
    assert_eq!(at_a.applied().len(), 1);
    cluster.relay_mut("b-1").start().await;
    until_applied(&at_b, 1).await;
    assert_eq!(at_b.applied()[0].id, "im.Ledger/Post");
}

// C-P1: only if the service says so, parked is an answer without content instead of an error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_call_is_answered_with_an_empty_message_where_the_settings_say_so() {
    let builder = pair().set("a", "calls.route.\"im.Ledger\".parked_as", "ok");
    let mut cluster = builder.start().await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    lose_b(&mut cluster).await;
    let client = grpc(cluster.relay("a-1")).await;
    let fields = [("strait-key", "uid=b:1"), ("idempotency-key", "1")];
    let answer = call(&client, "Quiet", &fields).await.unwrap();
    assert!(answer["strait-ticket"].starts_with("a/a-1/"), "{answer:?}");
    assert!(!answer.contains_key("strait-unit"), "nobody has served it: {answer:?}");
    let framed = connect(cluster.relay("a-1")).await;
    let asked = Call::new("im.Ledger/Quiet").key("uid", "b:1").body("hello");
    let answer = framed.call(asked.metadata("idempotency-key", "2")).await.unwrap();
    assert!(answer.body().is_empty());
    cluster.relay_mut("b-1").start().await;
    until_applied(&at_b, 2).await;
    assert_eq!(
        at_b.applied().iter().map(|entry| entry.id.as_str()).collect::<Vec<_>>(),
        ["1", "2"]
    );
}

// O-C1: what a setting does is said before it is needed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_says_what_becomes_of_a_method_and_the_topic_of_kept_calls_is_the_relays_own() {
    let cluster = pair().start().await;
    let config = cluster.relay("a-1").config();
    let explain = |method: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_strait"))
            .args([
                "explain",
                "--key",
                "uid=b:1",
                "--service",
                "im.Ledger",
                "--method",
                method,
                "--config",
            ])
            .arg(&config)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(explain("Post").contains("while away   local"), "{}", explain("Post"));
    assert!(explain("Other").contains("while away   park"), "{}", explain("Other"));
    assert!(!explain("Plain").contains("while away"), "{}", explain("Plain"));
    let asked = "/explain?dimension=uid&key=b:1&service=im.Ledger&method=Post";
    let (_, text) = http_get(&cluster.relay("a-1").admin(), asked).await.unwrap();
    assert!(text.contains("\"on_failure\":\"local\""), "{text}");
    let client = connect(cluster.relay("a-1")).await;
    let publish = client::Publish::new("strait.calls").key("uid", "b:1").body("x");
    let error = client.publish(publish).await.unwrap_err().to_string();
    assert!(error.contains("for calls that relays keep"), "{error}");
    let subscribe = client::Subscribe::new("strait.calls", "owner");
    let refused = client.subscribe(subscribe, |_| async { Ok(()) }).await;
    assert!(refused.is_err(), "nobody else takes these calls");
}
