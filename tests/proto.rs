//! The documents in `proto/` and the Rust messages say the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where it finds something unexpected"
)]

use prost::Message;
use protox::prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage, Value};
use strait::wire::hello::{Hello, Purpose, RefusedService, Register, Registered};

fn pool() -> DescriptorPool {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let files = ["strait/v1/frame.proto", "strait/v1/peer.proto"];
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
fn registration_of_the_document_is_registration_of_the_code() {
    let register = Register {
        services: vec!["im.Echo".into()],
        instance: "i".into(),
        max_in_flight: 7,
    };
    assert_eq!(
        read("strait.v1.Register", &register.encode_to_vec()),
        ["services=im.Echo", "instance=i", "max_in_flight=7"]
    );
    let registered = Registered {
        accepted: vec!["im.Echo".into()],
        refused: vec![RefusedService {
            service: "x".into(),
            reason: "y".into(),
        }],
    };
    assert_eq!(
        read("strait.v1.Registered", &registered.encode_to_vec()),
        ["accepted=im.Echo", "refused=x:y"]
    );
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
