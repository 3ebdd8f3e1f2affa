//! Messages between whole relays, through each edge: clients in Rust and grpcio, push, the shell (M-A2, M-B4).

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use strait::client::{AckLevel, Attempt, Client, Nack, Publish, Received, Reply, Subscribe};

use crate::harness::{Cluster, Relay, wait_for, within};

const LIMIT: Duration = Duration::from_secs(30);

/// Units `a` and `b`; `uid=a:*` and `uid=b:*` are theirs.
async fn pair() -> Cluster {
    let mut builder = Cluster::pair("http://127.0.0.1:1").service("b", "im.Sink", &[]);
    for unit in ["a", "b"] {
        builder = builder
            .set(unit, "topics.owned.rule", "owner")
            .set(unit, "topics.owned.retry.first", "50ms")
            .set(unit, "topics.everywhere.rule", "all")
            .set(unit, "topics.pushed.rule", "owner");
    }
    builder
        .set("b", "topics.pushed.groups.sink.push.service", "im.Sink")
        .start()
        .await
}

async fn client(relay: &Relay) -> Client {
    Client::connect(&format!("tcp://{}", relay.framed())).await.unwrap()
}

/// Lines that a subscription of a client writes.
async fn subscribed(client: &Client, topic: &str, group: &str) -> Arc<Mutex<Vec<String>>> {
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let write = Arc::clone(&seen);
    let handler = move |attempt: Attempt| {
        let body = String::from_utf8_lossy(attempt.body()).into_owned();
        write.lock().unwrap().push(format!("{body} {}", attempt.number()));
        let is_first = attempt.number() == 1;
        async move {
            match body.as_str() {
                "again" if is_first => Err(Nack::later("not yet")),
                _ => Ok(()),
            }
        }
    };
    client.subscribe(Subscribe::new(topic, group), handler).await.unwrap();
    seen
}

async fn until(seen: &Arc<Mutex<Vec<String>>>, lines: &[&str]) {
    wait_for(&format!("{lines:?}"), LIMIT, async || {
        let seen = seen.lock().unwrap();
        lines
            .iter()
            .all(|line| seen.iter().any(|found| found == line))
            .then_some(())
    })
    .await;
}

fn strait(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_strait"));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command beside the runtime.
async fn output(mut command: Command) -> Output {
    let run = tokio::task::spawn_blocking(move || command.output().unwrap());
    within("the command", LIMIT * 2, run).await.unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// M-A2, M-B4: published at one unit, consumed at the other, at the level that was asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_message_published_here_is_consumed_there() {
    let cluster = pair().await;
    let (a, b) = (client(cluster.relay("a-1")).await, client(cluster.relay("b-1")).await);
    let seen = subscribed(&b, "owned", "g").await;
    for (body, level) in [
        ("accepted", AckLevel::Accepted),
        ("relayed", AckLevel::Relayed),
        ("delivered", AckLevel::Delivered),
        ("again", AckLevel::Delivered),
    ] {
        let message = Publish::new("owned")
            .key("uid", "b:1")
            .body(body)
            .wait(level)
            .timeout(LIMIT);
        let published = within(body, LIMIT, a.publish(message)).await.unwrap();
        assert_eq!(published.level(), level);
        assert!(published.id().starts_with("a/a-1/"), "{}", published.id());
    }
    until(&seen, &["accepted 1", "relayed 1", "delivered 1", "again 1", "again 2"]).await;
    // M-B3
    let twice = Publish::new("owned")
        .key("uid", "b:1")
        .identity("/im", "17")
        .body("once");
    let first = a.publish(twice.clone()).await.unwrap();
    let second = a.publish(twice).await.unwrap();
    assert_eq!((first.id(), second.is_duplicate()), (second.id(), true));
}

// M-B4: push to a service that registered, in the unit that owns the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_group_is_pushed_to_a_service_of_the_other_unit() {
    let cluster = pair().await;
    let (a, b) = (client(cluster.relay("a-1")).await, client(cluster.relay("b-1")).await);
    let seen: Arc<Mutex<Vec<String>>> = Arc::default();
    let write = Arc::clone(&seen);
    let serve = b.serve("im.Sink", move |call: Received| {
        let topic = call.metadata().text("strait-topic").unwrap_or_default().to_owned();
        let line = format!("{} {} {topic}", call.method(), text(call.body()));
        write.lock().unwrap().push(line);
        async { Ok(Reply::default()) }
    });
    serve.await.unwrap();
    let message = Publish::new("pushed")
        .key("uid", "b:7")
        .body("x")
        .wait(AckLevel::Delivered)
        .timeout(LIMIT);
    let published = within("the delivery", LIMIT, a.publish(message)).await.unwrap();
    assert_eq!(published.level(), AckLevel::Delivered);
    until(&seen, &["Receive x pushed"]).await;
}

fn python(arguments: &[&str]) -> Command {
    example("messages.py", arguments)
}

/// An example in Python.
fn example(name: &str, arguments: &[&str]) -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let interpreter =
        std::env::var_os("STRAIT_TEST_PYTHON").map_or_else(|| root.join("target/venv/bin/python"), PathBuf::from);
    let mut command = Command::new(interpreter);
    command.arg(root.join("examples/python").join(name)).args(arguments);
    command
}

// M-B4: the example for Python, with a gRPC library of another family.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn grpcio_publishes_here_and_subscribes_there() {
    let cluster = pair().await;
    let (a, b) = (cluster.relay("a-1").grpc(), cluster.relay("b-1").grpc());
    // The group must be there before the messages are.
    let warm = client(cluster.relay("b-1")).await;
    drop(subscribed(&warm, "owned", "py").await);
    drop(warm);
    let subscriber = tokio::spawn(output(python(&[&b, "subscribe", "owned", "py", "3"])));
    let published = output(python(&[&a, "publish", "owned", "uid=b:1", "one", "two", "three"])).await;
    assert!(published.status.success(), "{}", text(&published.stderr));
    assert_eq!(text(&published.stdout).matches(" accepted").count(), 3);
    let got = subscriber.await.unwrap();
    assert!(got.status.success(), "{}", text(&got.stderr));
    let bodies: Vec<_> = text(&got.stdout)
        .lines()
        .map(|line| line.rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert_eq!(bodies, ["one", "two", "three"], "M-C1");
}

// The shell: exit codes, both outputs, clear errors.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_shell_publishes_and_subscribes() {
    let cluster = pair().await;
    let framed = format!("tcp://{}", cluster.relay("a-1").framed());
    let grpc = format!("http://{}", cluster.relay("b-1").grpc());
    let publish = |arguments: &[&str]| {
        let common = ["publish", "owned", "--relay", &framed, "--key", "uid=b:{n}"];
        output(strait(&[&common, arguments].concat()))
    };
    let subscribe = |arguments: &[&str]| {
        let common = [
            "subscribe",
            "owned",
            "--relay",
            &grpc,
            "--group",
            "shell",
            "--idle",
            "20s",
        ];
        output(strait(&[&common, arguments].concat()))
    };
    // Makes the group.
    let none = output(strait(&[
        "subscribe",
        "owned",
        "--relay",
        &grpc,
        "--group",
        "shell",
        "--idle",
        "10ms",
    ]))
    .await;
    assert_eq!((none.status.code(), text(&none.stderr)), (Some(0), String::new()));
    let sent = publish(&[
        "--body",
        "message {n}",
        "--count",
        "3",
        "--rate",
        "100",
        "--wait",
        "relayed",
    ])
    .await;
    assert_eq!(sent.status.code(), Some(0), "{}", text(&sent.stderr));
    assert_eq!(text(&sent.stdout).matches(" RELAYED").count(), 3);
    let looked = subscribe(&["--no-ack", "--count", "1"]).await;
    assert_eq!(text(&looked.stdout), "message 1\n");
    let got = subscribe(&["--count", "3", "--output", "json"]).await;
    assert_eq!(got.status.code(), Some(0), "{}", text(&got.stderr));
    let documents: Vec<serde_json::Value> = text(&got.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let mut bodies: Vec<_> = documents
        .iter()
        .map(|one| one["body"].as_str().unwrap().to_owned())
        .collect();
    bodies.sort();
    assert_eq!(bodies, ["message 1", "message 2", "message 3"]);
    assert!(
        documents.iter().all(|one| one["attempt"] == 1),
        "--no-ack is no attempt: {documents:?}"
    );

    let json = publish(&[
        "--body",
        "x",
        "--attribute",
        "source=/s",
        "--attribute",
        "id=1",
        "--output",
        "json",
    ])
    .await;
    let document: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(
        (&document["ok"], &document["messages"][0]["durability"]),
        (&true.into(), &"group".into())
    );

    for (arguments, code, said) in [
        (
            vec!["publish", "nobody", "--relay", &framed, "--body", "x"],
            2,
            "unknown_topic",
        ),
        (
            vec!["publish", "owned", "--relay", &framed, "--body", "x"],
            2,
            "no_route",
        ),
        (
            vec!["publish", "owned", "--relay", "tcp://127.0.0.1:1", "--body", "x"],
            1,
            "no_relay",
        ),
        (
            vec!["publish", "owned", "--relay", &framed, "--key", "nonsense"],
            64,
            "DIMENSION=KEY",
        ),
        (vec!["publish", "owned", "--relay", &grpc, "--body", "x"], 2, "no_route"),
        (
            vec!["subscribe", "nobody", "--relay", &grpc, "--group", "g"],
            2,
            "unknown_topic",
        ),
        (
            vec!["subscribe", "owned", "--relay", "http://127.0.0.1:1", "--group", "g"],
            1,
            "no_relay",
        ),
        (
            vec!["subscribe", "owned", "--relay", &grpc, "--group=-"],
            2,
            "no group can have the name",
        ),
        (vec!["subscribe", "owned", "--relay", &grpc], 64, "--group"),
    ] {
        let ended = output(strait(&arguments)).await;
        assert_eq!(
            ended.status.code(),
            Some(code),
            "{arguments:?}: {}",
            text(&ended.stderr)
        );
        assert!(
            text(&ended.stderr).contains(said),
            "{arguments:?}: {}",
            text(&ended.stderr)
        );
    }
}

// O-C1: who calls an example wrongly reads a line that says what was expected.
#[test]
fn python_examples_say_what_they_expect() {
    let key = ["127.0.0.1:1", "publish", "owned", "no-key", "body"];
    let wrong = [
        (example("access.py", &[]), "required: host:port, user"),
        (
            example("framed_call.py", &["127.0.0.1", "m", "b"]),
            "expected unix:/path or tcp://host:port",
        ),
        (
            example("messages.py", &key),
            "expected <dimension>=<key>, such as uid=7, not 'no-key'",
        ),
        (example("owner_control.py", &[]), "required: listen-host:port"),
        (
            example("route_tokens.py", &["h:1", "m", "uid=7", "many"]),
            "invalid int value: 'many'",
        ),
        (
            example("watch_routes.py", &["h:1", "no-key"]),
            "expected <dimension>=<key>",
        ),
    ];
    for (mut command, part) in wrong {
        let output = command.output().unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(part) && !said.contains("Traceback"), "{said}");
    }
    let refused = example("messages.py", &["127.0.0.1:1", "publish", "owned", "uid=7", "body"]).output();
    let refused = refused.unwrap();
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(
        said.starts_with("127.0.0.1:1: UNAVAILABLE: ") && said.lines().count() == 1,
        "{said}"
    );
}
