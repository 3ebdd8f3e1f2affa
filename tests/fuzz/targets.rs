//! What must hold for any bytes. One function per decoder; see README.md.
#![allow(dead_code, reason = "each fuzz binary uses one of the functions")]

#[path = "log.rs"]
mod logs;
#[path = "http2.rs"]
mod sessions;
#[path = "token.rs"]
mod tokens;

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use strait::model::{Metadata, MetadataBuilder};
use strait::queue::codec;
use strait::wire::attributes;
use strait::wire::envelope::{UnaryStrip, percent_decode, percent_encode};
use strait::wire::frame::lanes::{self, LaneDecoder};
use strait::wire::frame::{Decoder, Encoder, Frame, HEADER_BYTES, put_failed, put_reply, put_route, put_sightings};
use strait::wire::hello::{self, Hello, Purpose, Register, Registered};

pub use self::logs::{log_checkpoint, log_damage, log_segment};
pub use self::sessions::http2;
pub use self::tokens::{token, token_evidence};

/// A function that takes bytes from an enemy.
pub type Target = fn(&[u8]);

/// All targets by name; the name is that of the corpus folder and of the fuzz binary.
pub const TARGETS: [(&str, Target); 13] = [
    ("attributes", attributes),
    ("envelope", envelope),
    ("frame_decoder", frame_decoder),
    ("handshake", handshake),
    ("http2", http2),
    ("lane_decoder", lane_decoder),
    ("log_checkpoint", log_checkpoint),
    ("log_damage", log_damage),
    ("log_segment", log_segment),
    ("metadata", metadata),
    ("queue_record", queue_record),
    ("token", token),
    ("token_evidence", token_evidence),
];

/// Longest frame in these tests.
const LIMIT: usize = 64 * 1024;

/// The first byte says in which pieces the rest comes. What is decoded can be encoded and read again.
pub fn frame_decoder(data: &[u8]) {
    let Some((step, data)) = data.split_first() else { return };
    let now = now();
    let mut decoder = Decoder::new(LIMIT);
    let mut frames = 0;
    for piece in data.chunks(usize::from(*step) + 1) {
        decoder.feed(piece);
        loop {
            match decoder.next(now) {
                Ok(Some(frame)) => {
                    frames += 1;
                    again(&frame, now);
                }
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    assert!(frames * HEADER_BYTES <= data.len(), "a frame came from nothing");
}

fn again(frame: &Frame, now: Instant) {
    let mut out = BytesMut::new();
    match frame {
        Frame::Request { id, request, large } => Encoder::new().request(&mut out, *id, request, *large, now),
        Frame::Reply {
            id,
            part,
            large,
            large_bytes,
        } => put_reply(&mut out, *id, part, *large, *large_bytes),
        Frame::Failed { id, error } => put_failed(&mut out, *id, error),
        Frame::Route(push) => put_route(&mut out, push),
        Frame::Sightings(sightings) if !sightings.is_empty() => put_sightings(&mut out, sightings),
        _ => return,
    }
    let mut decoder = Decoder::new(16 * LIMIT);
    decoder.feed(&out);
    let read = decoder.next(now).expect("own frames are legal").expect("and whole");
    assert_eq!(std::mem::discriminant(&read), std::mem::discriminant(frame));
    assert!(!decoder.is_mid_frame(), "more was written than is read");
}

/// The first byte says in which pieces the rest comes, and from which side of a lane for messages. What is decoded can be
/// encoded and read again, and is the same then.
pub fn lane_decoder(data: &[u8]) {
    let Some((step, data)) = data.split_first() else { return };
    let (mut decoder, mut bytes) = (LaneDecoder::new(), 0);
    for piece in data.chunks(usize::from(*step >> 1) + 1) {
        decoder.feed(piece);
        let mut out = BytesMut::new();
        if *step & 1 == 0 {
            while let Ok(Some((frame, len))) = decoder.to_receiver() {
                bytes += len;
                lanes::put_to_receiver(&mut out, &frame);
                let mut again = LaneDecoder::new();
                again.feed(&out.split());
                let (read, _) = again.to_receiver().expect("own frames are legal").expect("and whole");
                assert_eq!(read, frame);
            }
        } else {
            while let Ok(Some(frame)) = decoder.to_sender() {
                lanes::put_to_sender(&mut out, &frame);
                let mut again = LaneDecoder::new();
                again.feed(&out.split());
                let read = again.to_sender().expect("own frames are legal");
                // Nothing is said about no message at all.
                assert!(read.is_none_or(|read| std::mem::discriminant(&read) == std::mem::discriminant(&frame)));
            }
        }
    }
    assert!(bytes <= data.len(), "a frame came from nothing");
}

/// Attributes end, and take no more bytes than there are.
pub fn attributes(data: &[u8]) {
    let mut block = data;
    let mut values = 0;
    while let Ok(Some((tag, value))) = attributes::take(&mut block) {
        values += value.len();
        let _ = attributes::number(tag, value);
    }
    assert!(values <= data.len());
    let mut number = data;
    if let Some(value) = attributes::take_varint(&mut number) {
        let mut out = BytesMut::new();
        attributes::put_varint(&mut out, value);
        assert!(out.len() <= data.len() - number.len());
        assert_eq!(attributes::take_varint(&mut &out[..]), Some(value));
    }
}

/// A block that is accepted has only fields that can be written again, to the same bytes.
pub fn metadata(data: &[u8]) {
    let Ok(block) = Metadata::parse(Bytes::copy_from_slice(data)) else {
        return;
    };
    let mut copy = MetadataBuilder::new();
    for (name, value) in block.iter() {
        copy.push(name, value).expect("accepted fields are legal");
    }
    assert!(copy.build() == block);
}

/// The first byte says in which pieces the body comes; what it holds does not depend on that.
pub fn envelope(data: &[u8]) {
    let Some((step, body)) = data.split_first() else { return };
    let strip = |step: usize| {
        let mut strip = UnaryStrip::new(1024);
        let mut message = Vec::new();
        for piece in body.chunks(step) {
            message.extend_from_slice(&strip.push(Bytes::copy_from_slice(piece)).ok()?);
        }
        strip.end().ok().map(|()| message)
    };
    let message = strip(usize::from(*step) + 1);
    assert_eq!(message, strip(usize::MAX));
    assert!(message.is_none_or(|message| message.len() <= 1024 && message.len() + 5 == body.len()));
    assert_eq!(percent_decode(&percent_encode(body)), body);
}

/// Control messages of the other side; both sides of a handshake come to the same verdict (H1).
pub fn handshake(data: &[u8]) {
    let _ = hello::decode::<Register>(data);
    let _ = hello::decode::<Registered>(data);
    let Ok(theirs) = hello::decode::<Hello>(data) else {
        return;
    };
    let _ = theirs.identity();
    let ours = Hello::new(Purpose::Service, 1);
    let result = hello::negotiate(&ours, &theirs);
    if let Ok(agreed) = &result {
        let mirrored = hello::negotiate(&theirs, &ours).expect("both sides agree");
        assert_eq!(
            (agreed.version, &agreed.features),
            (mirrored.version, &mirrored.features)
        );
        assert!(agreed.frame_bytes_max <= hello::FRAME_BYTES_HARD_MAX);
    }
}

/// The first byte is the kind; what is a record can be written and read again.
pub fn queue_record(data: &[u8]) {
    let Some((kind, content)) = data.split_first() else {
        return;
    };
    let Ok(record) = codec::decode(*kind, Bytes::copy_from_slice(content)) else {
        return;
    };
    let entry = codec::encode(&record);
    let mut content = BytesMut::from(&entry.head[..]);
    if let Some(message) = &entry.message {
        strait::wire::message::put(&mut content, message);
    }
    let again = codec::decode(entry.kind, content.freeze()).expect("own records are legal");
    // Settings of operators may hold numbers that are not equal to themselves.
    assert!(again == record || entry.kind == 9, "a record was changed");
}

fn now() -> Instant {
    Instant::now()
}
