//! What services of a unit are told of calls that it keeps: by subscriptions, and by a call of a local service.

use super::*;

/// A kept call as somebody of this unit heard of it.
type Heard = BTreeMap<String, String>;

/// Somebody who hears of kept calls.
#[derive(Clone, Default)]
struct Audience(Arc<Mutex<Hearing>>);

#[derive(Default)]
struct Hearing {
    heard: Vec<Heard>,
    /// Fails so many times before it takes anything.
    failures: usize,
}

impl Audience {
    /// Whether it takes this one.
    fn hear(&self, heard: Heard) -> bool {
        let mut hearing = self.0.lock().unwrap();
        if let Some(left) = hearing.failures.checked_sub(1) {
            hearing.failures = left;
            return false;
        }
        hearing.heard.push(heard);
        true
    }

    /// Subscribes to the topic of kept calls.
    async fn subscribe(&self, client: &client::Client) {
        let audience = self.clone();
        let subscribed = client.subscribe(client::Subscribe::new("im.kept", "ui"), move |message| {
            let of = |name: &str| (name.to_owned(), message.attribute(name).unwrap_or_default().to_owned());
            let mut heard: Heard = ATTRIBUTES.map(of).into();
            heard.insert("key".to_owned(), text(&message.key().unwrap().key));
            heard.insert("body".to_owned(), text(message.body()));
            audience.hear(heard);
            async { Ok(()) }
        });
        within("a subscription", LIMIT, subscribed).await.unwrap();
    }

    /// Serves `im.Model`, which the topic's group `model` calls.
    async fn serve(&self, client: &client::Client) {
        let audience = self.clone();
        let served = client.serve("im.Model", move |received| {
            let of = |name: &str| {
                let value = received.metadata().text(&format!("ce-{name}"));
                (name.to_owned(), value.unwrap_or_default().to_owned())
            };
            let mut heard: Heard = ATTRIBUTES.map(of).into();
            heard.insert("key".to_owned(), text(&received.keys()[0].key));
            heard.insert("body".to_owned(), text(received.body()));
            let answer = if audience.hear(heard) {
                Ok(Reply::new(""))
            } else {
                Err(Status::new(Code::Unavailable, "not now"))
            };
            async move { answer }
        });
        within("the model to be served", LIMIT, served).await.unwrap();
    }

    fn all(&self) -> Vec<Heard> {
        self.0.lock().unwrap().heard.clone()
    }

    async fn until(&self, wanted: usize) -> Vec<Heard> {
        wait_for("services of the unit to hear of kept calls", LIMIT, async || {
            Some(self.all()).filter(|heard| heard.len() >= wanted)
        })
        .await
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Both units tell of calls of `im.Ledger` that they keep. Unit `a` calls `im.Model` with them.
fn telling() -> ClusterBuilder {
    let topic: Table = "rule = \"local\"\nretry = { first = \"20ms\", longest = \"100ms\", attempts = 1000 }\n\
                        groups.model.push = { service = \"im.Model\", method = \"OnKept\" }\ngroups.ui = {}\n"
        .parse()
        .unwrap();
    let silent: Table = "rule = \"local\"\ngroups.ui = {}\n".parse().unwrap();
    let mut builder = pair()
        .service("a", "im.Model", &[])
        .set("a", "topics.\"im.kept\"", topic)
        .set("b", "topics.\"im.kept\"", silent);
    for unit in ["a", "b"] {
        builder = builder.set(unit, "calls.route.\"im.Ledger\".kept_to", "im.kept");
    }
    builder
}

async fn until_told(relay: &Relay, outcome: &str, wanted: f64) {
    wait_for("the series of what is told", LIMIT, async || {
        let now = counted(relay, "strait_kept_calls_told_total", outcome).await;
        (now >= wanted).then(|| assert_eq!(now, wanted, "{outcome}"))
    })
    .await;
}

// steps 3 and 4: a local service and subscribers of this unit hear of each call that is kept, in the order of its key, and that it
// is not final; the home unit gets it as ever. Nobody hears of calls that are not kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_of_the_unit_hear_of_each_kept_call_in_order_while_the_home_is_away() {
    let mut cluster = telling().start().await;
    let (at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    let (model, ui, elsewhere) = (Audience::default(), Audience::default(), Audience::default());
    let clients = [connect(cluster.relay("a-1")).await, connect(cluster.relay("b-1")).await];
    model.serve(&clients[0]).await;
    ui.subscribe(&clients[0]).await;
    elsewhere.subscribe(&clients[1]).await;
    let client = grpc(cluster.relay("a-1")).await;
    let fields = [("strait-key", "uid=b:0"), ("idempotency-key", "there")];
    call(&client, "Post", &fields).await.unwrap();

    lose_b(&mut cluster).await;
    at_a.refuse(Some(Code::InvalidArgument));
    let fields = [("strait-key", "uid=b:0"), ("idempotency-key", "refused")];
    call(&client, "Fails", &fields).await.unwrap_err();
    // What fails here holds up no call, and comes again.
    model.0.lock().unwrap().failures = 3;
    let framed = connect(cluster.relay("a-1")).await;
    let mut kept: BTreeMap<String, Vec<[String; 4]>> = BTreeMap::new();
    for number in 0..24 {
        let (key, id) = (format!("b:{}", number % 3), format!("call-{number}"));
        let route = format!("uid={key}");
        let fields = [("strait-key", route.as_str()), ("idempotency-key", id.as_str())];
        let (method, on_failure, ticket) = match number % 4 {
            0 | 1 => (
                "Post",
                "local",
                call(&client, "Post", &fields).await.unwrap()["strait-ticket"].clone(),
            ),
            2 => {
                let status = call(&client, "Park", &fields).await.unwrap_err();
                ("Park", "park", said(&status, "strait-ticket").to_owned())
            }
            _ => {
                let post = Call::new("im.Ledger/Post").key("uid", &key).body("hello");
                let answer = framed.call(post.metadata("idempotency-key", &id)).await.unwrap();
                let ticket = answer.metadata().text("strait-ticket").unwrap().to_owned();
                ("Post", "local", ticket)
            }
        };
        assert!(ticket.starts_with("a/a-1/"), "{ticket}");
        let told = [format!("im.Ledger/{method}"), on_failure.to_owned(), ticket, id];
        kept.entry(key).or_default().push(told);
    }
    // Made again, it is stored once and told once.
    let again = [("strait-key", "uid=b:0"), ("idempotency-key", "call-0")];
    call(&client, "Post", &again).await.unwrap_err();
    for (who, audience) in [("the model", &model), ("the subscriber", &ui)] {
        let mut told: BTreeMap<String, Vec<[String; 4]>> = BTreeMap::new();
        for heard in audience.until(24).await {
            for (field, value) in [
                ("type", "strait.call.kept"),
                ("owner", "b"),
                ("provisional", "true"),
                ("body", "hello"),
            ] {
                assert_eq!(heard[field], value, "{who}: {field} of {heard:?}");
            }
            let fields = ["subject", "onfailure", "ticket", "callid"].map(|field| heard[field].clone());
            told.entry(heard["key"].clone()).or_default().push(fields);
        }
        assert_eq!(told, kept, "{who}");
    }
    assert_eq!(model.0.lock().unwrap().failures, 0);
    until_told(cluster.relay("a-1"), "told", 25.0).await;
    until_told(cluster.relay("a-1"), "not_told", 0.0).await;

    cluster.relay_mut("b-1").start().await;
    until_applied(&at_b, 25).await;
    assert_eq!((model.all().len(), ui.all().len()), (24, 24));
    assert!(elsewhere.all().is_empty(), "what is kept is told where it is kept");
}

// that nobody can be told fails no call. Here the topic has no room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_are_kept_though_nobody_can_be_told_of_them() {
    let builder = telling().set("a", "topics.\"im.kept\".messages_max", 1);
    let mut cluster = builder.start().await;
    let (_at_a, _served_a) = Ledger::at(cluster.relay("a-1")).await;
    let (at_b, _served_b) = Ledger::at(cluster.relay("b-1")).await;
    lose_b(&mut cluster).await;
    let client = grpc(cluster.relay("a-1")).await;
    for id in ["1", "2", "3"] {
        let fields = [("strait-key", "uid=b:1"), ("idempotency-key", id)];
        assert_eq!(
            call(&client, "Post", &fields).await.unwrap()["strait-provisional"],
            "true"
        );
    }
    until_told(cluster.relay("a-1"), "not_told", 2.0).await;
    until_told(cluster.relay("a-1"), "told", 1.0).await;
    assert_eq!(
        counted(cluster.relay("a-1"), "strait_kept_calls_total", "executed").await,
        3.0
    );
    cluster.relay_mut("b-1").start().await;
    until_applied(&at_b, 3).await;
}

const ATTRIBUTES: [&str; 7] = [
    "type",
    "subject",
    "ticket",
    "callid",
    "owner",
    "onfailure",
    "provisional",
];
