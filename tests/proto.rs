//! The documents in `proto/` and the Rust messages say the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it finds something unexpected"
)]

use prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
use strait::wire::access::{
    self, AccessPoint, AccessUpdate, AttachRequest, AttachedUser, ListReply, ListRequest, ReAttach, UserAccess,
};
use strait::wire::authority::{Piece, Question};
use strait::wire::hello::{Hello, Purpose, RefusedService, RefusedSubscription, Register, Registered, Subscription};
use strait::wire::kept::KeptCall;
use strait::wire::messages::{
    Ack, AckLevel, Attribute, Durability, Extend, MessageKey, Nack, PublishBatchReply, PublishBatchRequest,
    PublishError, PublishReply, PublishRequest, Received, Say, Start, SubscribeRequest, Terminate,
};
use strait::wire::owner_control::{self, HookReply, HookRequest, LagReply, What};
use strait::wire::routes::{
    self, ClaimReply, ClaimRequest, ResolveReply, ResolveRequest, Route, RouteKey, RouteUpdate, WatchRoutesRequest,
};
use strait::wire::shadow::{self, Shadow, ShadowKey};

fn pool() -> DescriptorPool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = [
        "strait/control/v1/control.proto",
        "strait/v1/access.proto",
        "strait/v1/frame.proto",
        "strait/v1/kept.proto",
        "strait/v1/messages.proto",
        "strait/v1/owner_control.proto",
        "strait/v1/peer.proto",
        "strait/v1/routes.proto",
        "strait/v1/shadow.proto",
    ];
    let set = protox::compile(files, [root]).expect("the documents compile");
    DescriptorPool::from_file_descriptor_set(set).expect("the documents resolve")
}

/// `name=value` of every field, as the document reads the bytes of the Rust message.
fn read(name: &str, bytes: &[u8]) -> Vec<String> {
    let descriptor = pool().get_message_by_name(name).expect(name);
    let message = DynamicMessage::decode(descriptor.clone(), bytes).expect("bytes are the message");
    assert_eq!(
        message.unknown_fields().count(),
        0,
        "{name}: the document lacks a field"
    );
    let unset: Vec<_> = descriptor.fields().filter(|field| !message.has_field(field)).collect();
    assert!(unset.is_empty(), "{name}: the Rust message lacks {unset:?}");
    assert_eq!(
        message.encode_to_vec(),
        bytes,
        "{name}: the document writes other bytes"
    );
    let mut fields: Vec<_> = descriptor.fields().collect();
    fields.sort_by_key(protox::prost_reflect::FieldDescriptor::number);
    fields
        .iter()
        .map(|field| format!("{}={}", field.name(), show(&message.get_field(field))))
        .collect()
}

fn show(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bytes(bytes) => format!("{bytes:?}"),
        Value::List(values) => values.iter().map(show).collect::<Vec<_>>().join(","),
        Value::Message(message) => {
            let descriptor = message.descriptor();
            descriptor
                .fields()
                .map(|field| show(&message.get_field(&field)))
                .collect::<Vec<_>>()
                .join(":")
        }
        Value::EnumNumber(number) => number.to_string(),
        Value::U32(number) => number.to_string(),
        Value::U64(number) => number.to_string(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_hello_of_the_document_is_the_hello_of_the_code() {
    let hello = Hello {
        version_min: 1,
        version_max: 2,
        features: vec!["f1".into(), "f2".into()],
        features_required: vec!["r".into()],
        geo: "g".into(),
        unit: "u".into(),
        relay: "n".into(),
        purpose: Purpose::Service.into(),
        link_id: vec![9],
        calls_max: 10,
        bytes_max: 11,
        frame_bytes_max: 12,
        software: "s".into(),
    };
    let expected = [
        "version_min=1",
        "version_max=2",
        "features=f1,f2",
        "features_required=r",
        "geo=g",
        "unit=u",
        "relay=n",
        "purpose=3",
        "link_id=b\"\\t\"",
        "calls_max=10",
        "bytes_max=11",
        "frame_bytes_max=12",
        "software=s",
    ];
    assert_eq!(read("strait.v1.Hello", &hello.encode_to_vec()), expected);
}

#[test]
fn questions_to_the_route_store_of_the_document_are_those_of_the_code() {
    let question = Question { json: "q".into() };
    assert_eq!(
        read("strait.control.v1.Question", &question.encode_to_vec()),
        ["json=b\"q\""]
    );
    let piece = Piece {
        json: "p".into(),
        last: true,
    };
    assert_eq!(
        read("strait.control.v1.Piece", &piece.encode_to_vec()),
        ["json=b\"p\"", "last=Bool(true)"]
    );
    let service = pool().get_service_by_name(strait::wire::authority::SERVICE);
    let methods: Vec<_> = service.expect("it is there").methods().collect();
    let paths = methods
        .iter()
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()));
    let ours = [strait::wire::authority::ASK, strait::wire::authority::WATCH];
    assert_eq!(paths.collect::<Vec<_>>(), ours);
}

#[test]
fn routes_of_the_document_are_those_of_the_code() {
    let key = RouteKey {
        dimension: "d".into(),
        key: "k".into(),
    };
    let route = Route {
        key: Some(key.clone()),
        unit: "u".into(),
        epoch: 1,
        moving: true,
        token: "t".into(),
        detail: "w".into(),
    };
    let expected = [
        "key=d:b\"k\"",
        "unit=u",
        "epoch=1",
        "moving=Bool(true)",
        "token=t",
        "detail=w",
    ];
    assert_eq!(read("strait.v1.Route", &route.encode_to_vec()), expected);
    let keys = vec![key.clone()];
    let asked = ResolveRequest { keys: keys.clone() };
    assert_eq!(
        read("strait.v1.ResolveRequest", &asked.encode_to_vec()),
        ["keys=d:b\"k\""]
    );
    let asked = WatchRoutesRequest { keys };
    assert_eq!(
        read("strait.v1.WatchRoutesRequest", &asked.encode_to_vec()),
        ["keys=d:b\"k\""]
    );
    let asked = ClaimRequest { key: Some(key) };
    assert_eq!(read("strait.v1.ClaimRequest", &asked.encode_to_vec()), ["key=d:b\"k\""]);
    let route = Some(route);
    let answer = ResolveReply { route: route.clone() };
    let shown = "d:b\"k\":u:1:Bool(true):t:w";
    assert_eq!(
        read("strait.v1.ResolveReply", &answer.encode_to_vec()),
        [format!("route={shown}")]
    );
    let answer = ClaimReply {
        route: route.clone(),
        won: true,
    };
    let expected = [format!("route={shown}"), "won=Bool(true)".to_owned()];
    assert_eq!(read("strait.v1.ClaimReply", &answer.encode_to_vec()), expected);
    let update = RouteUpdate {
        routes: route.into_iter().collect(),
        epoch: 5,
    };
    let expected = [format!("routes={shown}"), "epoch=5".to_owned()];
    assert_eq!(read("strait.v1.RouteUpdate", &update.encode_to_vec()), expected);
    let service = pool().get_service_by_name(routes::SERVICE);
    let methods: Vec<_> = service.expect("it is there").methods().collect();
    let paths = methods
        .iter()
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()));
    assert_eq!(
        paths.collect::<Vec<_>>(),
        [routes::RESOLVE, routes::CLAIM, routes::WATCH]
    );
}

/// How it stands with a user, and as it is shown.
fn listed() -> (UserAccess, &'static str) {
    let listed = UserAccess {
        user: "k".into(),
        home: "h".into(),
        epoch: 1,
        moving: true,
        points: vec![point()],
        detail: "w".into(),
    };
    (listed, "b\"k\":h:1:Bool(true):p:q:w")
}

fn point() -> AccessPoint {
    AccessPoint {
        unit: "p".into(),
        address: "q".into(),
    }
}

#[test]
fn the_access_list_of_the_document_is_that_of_the_code() {
    let (listed, shown) = listed();
    let expected = [
        "user=b\"k\"",
        "home=h",
        "epoch=1",
        "moving=Bool(true)",
        "points=p:q",
        "detail=w",
    ];
    assert_eq!(read("strait.v1.UserAccess", &listed.encode_to_vec()), expected);
    let asked = ListRequest { user: "k".into() };
    assert_eq!(read("strait.v1.ListRequest", &asked.encode_to_vec()), ["user=b\"k\""]);
    let answer = ListReply { access: Some(listed) };
    assert_eq!(
        read("strait.v1.ListReply", &answer.encode_to_vec()),
        [format!("access={shown}")]
    );
    let service = pool().get_service_by_name(access::SERVICE);
    let methods: Vec<_> = service.expect("it is there").methods().collect();
    let paths = methods
        .iter()
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()));
    assert_eq!(paths.collect::<Vec<_>>(), [access::LIST, access::ATTACH]);
}

#[test]
fn advice_to_gateways_of_the_document_is_that_of_the_code() {
    let asked = AttachRequest {
        users: vec![AttachedUser {
            user: "k".into(),
            home: "h".into(),
        }],
    };
    assert_eq!(
        read("strait.v1.AttachRequest", &asked.encode_to_vec()),
        ["users=b\"k\":h"]
    );
    let advice = ReAttach {
        user: "k".into(),
        unit: "u".into(),
        previous: "f".into(),
        epoch: 2,
        points: vec![point()],
        after_ms: 3,
        within_ms: 4,
    };
    let expected = [
        "user=b\"k\"",
        "unit=u",
        "previous=f",
        "epoch=2",
        "points=p:q",
        "after_ms=3",
        "within_ms=4",
    ];
    assert_eq!(read("strait.v1.ReAttach", &advice.encode_to_vec()), expected);
    let (listed, shown) = listed();
    let update = AccessUpdate {
        users: vec![listed],
        advice: vec![advice],
        epoch: 5,
    };
    let expected = [
        format!("users={shown}"),
        "advice=b\"k\":u:f:2:p:q:3:4".to_owned(),
        "epoch=5".to_owned(),
    ];
    assert_eq!(read("strait.v1.AccessUpdate", &update.encode_to_vec()), expected);
}

#[test]
fn the_kept_call_of_the_document_is_that_of_the_code() {
    let kept = KeptCall {
        path: "p".into(),
        grpc: true,
        metadata: "m".into(),
        keys: vec![ShadowKey {
            dimension: "d".into(),
            key: "k".into(),
        }],
        source_geo: "g".into(),
        source_service: "s".into(),
        body: "b".into(),
        routed_by: "uid".into(),
        executed: true,
        rejected_to: "t".into(),
    };
    let expected = [
        "path=b\"p\"",
        "grpc=Bool(true)",
        "metadata=b\"m\"",
        "keys=b\"d\":b\"k\"",
        "source_geo=g",
        "source_service=s",
        "body=b\"b\"",
        "routed_by=uid",
        "executed=Bool(true)",
        "rejected_to=t",
    ];
    assert_eq!(read("strait.v1.KeptCall", &kept.to_bytes()), expected);
}

#[test]
fn the_shadow_of_the_document_is_the_shadow_of_the_code() {
    let shadow = Shadow {
        r#move: 1,
        epoch: 2,
        owner_epoch: 3,
        path: "p".into(),
        grpc: true,
        metadata: "m".into(),
        keys: vec![ShadowKey {
            dimension: "d".into(),
            key: "k".into(),
        }],
        idempotent: true,
        source_geo: "g".into(),
        source_unit: "u".into(),
        source_service: "s".into(),
        routed_by: "uid".into(),
        body: "b".into(),
    };
    let expected = [
        "move=1",
        "epoch=2",
        "owner_epoch=3",
        "path=b\"p\"",
        "grpc=Bool(true)",
        "metadata=b\"m\"",
        "keys=b\"d\":b\"k\"",
        "idempotent=Bool(true)",
        "source_geo=g",
        "source_unit=u",
        "source_service=s",
        "body=b\"b\"",
        "routed_by=uid",
    ];
    assert_eq!(read("strait.v1.ShadowCall", &shadow.to_bytes()), expected);
    let service = pool().get_service_by_name(shadow::SERVICE);
    let methods: Vec<_> = service.expect("it is there").methods().collect();
    let paths = methods
        .iter()
        .map(|method| format!("/{}/{}", method.parent_service().full_name(), method.name()));
    assert_eq!(paths.collect::<Vec<_>>(), [shadow::DELIVER]);
}

#[test]
fn registration_of_the_document_is_registration_of_the_code() {
    let register = Register {
        services: vec!["im.Echo".into()],
        instance: "i".into(),
        max_in_flight: 7,
        subscriptions: vec![Subscription {
            topic: "t".into(),
            group: "g".into(),
            in_flight_max: 9,
        }],
    };
    let subscriptions = register.subscriptions.clone();
    assert_eq!(
        read("strait.v1.Register", &register.encode_to_vec()),
        [
            "services=im.Echo",
            "instance=i",
            "max_in_flight=7",
            "subscriptions=t:g:9"
        ]
    );
    let registered = Registered {
        accepted: vec!["im.Echo".into()],
        refused: vec![RefusedService {
            service: "x".into(),
            reason: "y".into(),
        }],
        subscribed: subscriptions,
        refused_subscriptions: vec![RefusedSubscription {
            topic: "u".into(),
            group: "h".into(),
            reason: "z".into(),
        }],
    };
    assert_eq!(
        read("strait.v1.Registered", &registered.encode_to_vec()),
        [
            "accepted=im.Echo",
            "refused=x:y",
            "subscribed=t:g:9",
            "refused_subscriptions=u:h:z"
        ]
    );
}

fn key() -> MessageKey {
    MessageKey {
        dimension: "d".into(),
        key: "k".into(),
    }
}

fn attributes() -> Vec<Attribute> {
    vec![Attribute {
        name: "n".into(),
        value: "v".into(),
    }]
}

#[test]
fn publications_of_the_document_are_those_of_the_code() {
    let request = PublishRequest {
        topic: "t".into(),
        key: Some(key()),
        attributes: attributes(),
        body: "b".into(),
        expires_at_ms: 5,
        wait: AckLevel::Relayed.into(),
        wait_ms: 7,
        number: 8,
    };
    let expected = [
        "topic=t",
        "key=d:b\"k\"",
        r#"attributes=Map({String("n"): String("v")})"#,
        "body=b\"b\"",
        "expires_at_ms=5",
        "wait=2",
        "wait_ms=7",
        "number=8",
    ];
    assert_eq!(read("strait.v1.PublishRequest", &request.encode_to_vec()), expected);
    let reply = PublishReply {
        id: "i".into(),
        level: AckLevel::Delivered.into(),
        duplicate: true,
        durability: Durability::Buffered.into(),
        number: 5,
        error: Some(PublishError {
            reason: "r".into(),
            message: "m".into(),
            retry: "safe".into(),
            pushback_ms: 4,
        }),
    };
    let expected = [
        "id=i",
        "level=3",
        "duplicate=Bool(true)",
        "durability=2",
        "number=5",
        "error=r:m:safe:4",
    ];
    assert_eq!(read("strait.v1.PublishReply", &reply.encode_to_vec()), expected);
    let batch = PublishBatchRequest {
        messages: vec![request],
    };
    assert_eq!(read("strait.v1.PublishBatchRequest", &batch.encode_to_vec()).len(), 1);
    let replies = PublishBatchReply { replies: vec![reply] };
    assert_eq!(read("strait.v1.PublishBatchReply", &replies.encode_to_vec()).len(), 1);
}

/// Only one part of a `oneof` can be set: the others are not missing.
fn read_one(name: &str, say: Say) -> String {
    let bytes = SubscribeRequest { request: Some(say) }.encode_to_vec();
    let descriptor = pool().get_message_by_name("strait.v1.SubscribeRequest").expect(name);
    let message = DynamicMessage::decode(descriptor, &bytes[..]).expect("bytes are the message");
    let field = message.get_field_by_name(name).expect(name);
    show(&field)
}

#[test]
fn what_consumers_say_in_the_document_is_what_they_say_in_the_code() {
    let start = Start {
        topic: "t".into(),
        group: "g".into(),
        in_flight_max: 3,
    };
    assert_eq!(read_one("start", Say::Start(start)), "t:g:3");
    let deliveries = vec![1, 2];
    assert_eq!(read_one("ack", Say::Ack(Ack { deliveries })), "1,2");
    let nack = Nack {
        delivery: 1,
        delay_ms: Some(0),
        reason: "r".into(),
    };
    assert_eq!(read_one("nack", Say::Nack(nack)), "1:0:r");
    let terminate = Terminate {
        delivery: 1,
        reason: "r".into(),
    };
    assert_eq!(read_one("terminate", Say::Terminate(terminate)), "1:r");
    assert_eq!(read_one("extend", Say::Extend(Extend { delivery: 4 })), "4");
    let received = Received {
        delivery: 1,
        attempt: 2,
        id: "i".into(),
        topic: "t".into(),
        key: Some(key()),
        attributes: attributes(),
        body: "b".into(),
        accepted_at_ms: 8,
        expires_at_ms: 9,
        visibility_timeout_ms: 10,
    };
    let expected = [
        "delivery=1",
        "attempt=2",
        "id=i",
        "topic=t",
        "key=d:b\"k\"",
        r#"attributes=Map({String("n"): String("v")})"#,
        "body=b\"b\"",
        "accepted_at_ms=8",
        "expires_at_ms=9",
        "visibility_timeout_ms=10",
    ];
    assert_eq!(read("strait.v1.Received", &received.encode_to_vec()), expected);
}

#[test]
fn levels_and_durability_of_the_document_are_those_of_the_code() {
    let check = |name: &str, prefix: &str, ours: &dyn Fn(i32) -> String| {
        let values = pool().get_enum_by_name(name).expect(name);
        for value in values.values() {
            let name = format!("{prefix}_{}", ours(value.number()).to_uppercase());
            assert_eq!(value.name(), name);
        }
        values.values().count()
    };
    let level = |number| format!("{:?}", AckLevel::try_from(number).expect("known"));
    assert_eq!(check("strait.v1.AckLevel", "ACK_LEVEL", &level), 4);
    let durability = |number| format!("{:?}", Durability::try_from(number).expect("known"));
    assert_eq!(check("strait.v1.Durability", "DURABILITY", &durability), 3);
}

/// What gRPC reflection tells, and what the examples in Python read, is committed, so that no build needs a compiler of
/// protobuf. `STRAIT_BLESS=1` writes it.
#[test]
fn the_compiled_documents_are_fresh() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    for name in ["access", "messages", "owner_control", "routes"] {
        let mut compiler = protox::Compiler::new([root]).expect("the folder is there");
        compiler.include_source_info(false);
        let document = format!("strait/v1/{name}.proto");
        compiler.open_file(&document).expect("it compiles");
        let bytes = compiler.encode_file_descriptor_set();
        let path = format!("{root}/{name}.descriptors");
        if std::env::var_os("STRAIT_BLESS").is_some() {
            std::fs::write(&path, &bytes).expect("it can be written");
        }
        let committed = std::fs::read(&path).expect("it is committed");
        assert!(
            committed == bytes,
            "run STRAIT_BLESS=1 cargo test --test proto, and commit {path}"
        );
    }
}

#[test]
fn purposes_of_the_document_are_those_of_the_code() {
    let purpose = pool().get_enum_by_name("strait.v1.Purpose").expect("Purpose");
    for value in purpose.values() {
        let ours = Purpose::try_from(value.number()).expect("known number");
        let name = format!("PURPOSE_{}", format!("{ours:?}").to_uppercase());
        assert_eq!(value.name(), name);
    }
    assert_eq!(purpose.values().count(), 4);
}

#[test]
fn questions_about_moves_of_the_document_are_those_of_the_code() {
    let asked = |what: What| HookRequest {
        r#move: "00000000000000ff".into(),
        node: Some(owner_control::Node {
            dimension: "cid".into(),
            what: Some(what),
        }),
        from: "a".into(),
        to: "b".into(),
        revision: 9,
    };
    for (what, shown) in [
        (What::Key("k".into()), "cid:b\"k\":0:0:"),
        (What::Bucket(7), "cid:b\"\":7:0:"),
        (What::Rule(8), "cid:b\"\":0:8:"),
        (What::Unit("u".into()), "cid:b\"\":0:0:u"),
    ] {
        let node = format!("node={shown}");
        let expected = ["move=00000000000000ff", node.as_str(), "from=a", "to=b", "revision=9"];
        assert_eq!(read("strait.v1.HookRequest", &asked(what).encode_to_vec()), expected);
    }
    let reply = HookReply {
        pending: true,
        detail: "d".into(),
    };
    let expected = ["pending=Bool(true)", "detail=d"];
    assert_eq!(read("strait.v1.HookReply", &reply.encode_to_vec()), expected);
    let reply = LagReply {
        changes: 1,
        bytes: 2,
        time_ms: 3,
        pending: true,
        detail: "d".into(),
    };
    let expected = ["changes=1", "bytes=2", "time_ms=3", "pending=Bool(true)", "detail=d"];
    assert_eq!(read("strait.v1.LagReply", &reply.encode_to_vec()), expected);
    let service = pool()
        .get_service_by_name("strait.v1.OwnerControl")
        .expect("it is there");
    let methods: Vec<_> = service.methods().map(|method| method.name().to_owned()).collect();
    let ours = ["Prepare", "Copy", "Lag", "Quiesce", "FinalSync", "Activate", "Cleanup"];
    assert_eq!(methods, ours);
}
