//! Attacks on the gRPC endpoint, in raw HTTP/2 frames.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{LIMIT, MIB, Target, until_closed};
use crate::harness::{wait_for, within};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// HPACK: a field of one of the tables, by number.
const INDEXED: u8 = 0x80;

/// A frame of any kind, right or wrong.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header block without compression: literal fields without indexing.
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (name, value) in fields {
        bytes.push(0);
        for text in [name, value] {
            length(&mut bytes, text.len());
            bytes.extend_from_slice(text.as_bytes());
        }
    }
    bytes
}

/// A string length as HPACK writes it, without Huffman coding.
fn length(bytes: &mut Vec<u8>, length: usize) {
    if length < 127 {
        bytes.push(length as u8);
        return;
    }
    bytes.push(127);
    let mut rest = length - 127;
    while rest >= 128 {
        bytes.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    bytes.push(rest as u8);
}

const CALL: [(&str, &str); 7] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/im.Echo/Hang"),
    (":authority", "test"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("strait-key", "uid=a:1"),
];

/// Preface and empty settings.
fn opening() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

async fn connect(target: &Target) -> TcpStream {
    TcpStream::connect(target.grpc()).await.unwrap()
}

/// Sends an opening and these bytes; the relay has to close the connection.
async fn attack(target: &Target, what: &str, bytes: Vec<u8>) -> Vec<u8> {
    until_closed(what, connect(target).await, [opening(), bytes].concat()).await
}

/// Whether an answer holds a GOAWAY frame.
fn says_goaway(mut answer: &[u8]) -> bool {
    while answer.len() >= 9 {
        let length = usize::from(answer[0]) << 16 | usize::from(answer[1]) << 8 | usize::from(answer[2]);
        if answer[3] == GOAWAY {
            return true;
        }
        answer = answer.get(9 + length..).unwrap_or_default();
    }
    false
}

// O-S4: bytes that are no HTTP/2 at all.
#[tokio::test]
async fn other_protocols_are_turned_away() {
    let target = Target::start().await;
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for (what, bytes) in [
        ("noise", noise),
        ("HTTP/1.1", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        (
            "a TLS hello",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".repeat(50),
        ),
        ("half a preface", [&PREFACE[..10], b"and then something else"].concat()),
    ] {
        until_closed(what, connect(&target).await, bytes).await;
        target.is_well(what, 16 * MIB).await;
    }
}

// O-S4: frames that break the protocol end the connection with a reason.
#[tokio::test]
async fn frames_that_break_the_protocol_end_the_connection() {
    let target = Target::start().await;
    let huge = [
        vec![0xff, 0xff, 0xff, DATA, 0],
        1_u32.to_be_bytes().to_vec(),
        vec![0; 100_000],
    ]
    .concat();
    let cases = [
        ("a frame of 16 MiB", huge),
        ("data on an idle stream", frame(DATA, 0, 5, b"x")),
        (
            "headers on an even stream",
            frame(HEADERS, END_HEADERS, 2, &block(&CALL)),
        ),
        ("settings of a wrong length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("a ping of a wrong length", frame(PING, 0, 0, &[0; 7])),
        ("a window of zero more", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        (
            "a window beyond 2^31",
            frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()),
        ),
        ("broken header compression", frame(HEADERS, END_HEADERS, 1, &[0xff; 64])),
        ("continuation without headers", frame(CONTINUATION, END_HEADERS, 1, &[])),
        (
            "another frame inside a header block",
            [frame(HEADERS, 0, 1, &block(&CALL)), frame(PING, 0, 0, &[0; 8])].concat(),
        ),
    ];
    for (what, bytes) in cases {
        let answer = attack(&target, what, bytes).await;
        assert!(says_goaway(&answer), "{what}: closed without a reason");
        target.is_well(what, 16 * MIB).await;
    }
    assert_eq!(
        target.echo.seen.get(|seen| &seen.cancelled),
        0,
        "a broken call reached the service"
    );
}

// O-S4: header blocks that HTTP/2 forbids end their stream, not the others of the connection.
#[tokio::test]
async fn forbidden_fields_are_refused_on_their_stream() {
    let target = Target::start().await;
    let mut bad: Vec<Vec<(&str, &str)>> = Vec::new();
    for extra in [
        ("Upper-Case", "x"),
        ("connection", "close"),
        (":late", "x"),
        ("x\0y", "z"),
        ("x-nul", "a\0b"),
        ("te", "gzip"),
    ] {
        bad.push(CALL.iter().copied().chain([extra]).collect());
    }
    for missing in [":method", ":path", ":scheme"] {
        bad.push(CALL.iter().copied().filter(|(name, _)| *name != missing).collect());
    }
    for fields in bad {
        let mut stream = connect(&target).await;
        let bytes = [opening(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &block(&fields))].concat();
        stream.write_all(&bytes).await.unwrap();
        // RST_STREAM of stream 1, an answer with an error status, or GOAWAY: anything but a call.
        let mut answer = [0; 4096];
        let length = within("an answer", LIMIT, stream.read(&mut answer)).await.unwrap();
        assert!(length > 0, "{fields:?}");
        drop(stream);
        target.is_well("forbidden fields", 16 * MIB).await;
        // The good calls of the check itself are the only ones the service may see.
        assert_eq!(
            target.echo.seen.get(|seen| &seen.cancelled),
            0,
            "{fields:?} reached the service"
        );
    }
}

// CVE-2023-44487: calls that are opened and reset at once.
#[tokio::test]
async fn rapid_resets_end_the_connection_and_orphan_nothing() {
    let target = Target::start().await;
    let mut bytes = Vec::new();
    for number in 0..50_000_u32 {
        bytes.extend(frame(HEADERS, END_HEADERS, number * 2 + 1, &block(&CALL)));
        bytes.extend(frame(RST_STREAM, 0, number * 2 + 1, &8_u32.to_be_bytes()));
    }
    let answer = attack(&target, "rapid resets", bytes).await;
    assert!(says_goaway(&answer), "closed without a reason");
    target.is_well("rapid resets", 32 * MIB).await;
    assert!(
        target.echo.seen.get(|seen| &seen.opened) < 20_000,
        "most of the attack reached the service"
    );
}

// CVE-2025-8671: the relay itself is made to reset streams, so that they do not count.
#[tokio::test]
async fn provoked_resets_end_the_connection() {
    let target = Target::start().await;
    let mut bytes = Vec::new();
    for number in 0..50_000_u32 {
        let stream = number * 2 + 1;
        bytes.extend(frame(HEADERS, END_HEADERS, stream, &block(&CALL)));
        bytes.extend(frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()));
    }
    attack(&target, "provoked resets", bytes).await;
    target.is_well("provoked resets", 32 * MIB).await;
}

// CVE-2024-27316 and the like: header blocks that never end.
#[tokio::test]
async fn endless_header_blocks_end_the_connection() {
    let target = Target::start().await;
    for (what, piece) in [
        ("empty continuations", Vec::new()),
        ("large continuations", block(&[("x", &"v".repeat(8000))])),
    ] {
        let mut bytes = frame(HEADERS, 0, 1, &block(&CALL));
        for _ in 0..20_000 {
            bytes.extend(frame(CONTINUATION, 0, 1, &piece));
        }
        attack(&target, what, bytes).await;
        target.is_well(what, 32 * MIB).await;
    }
}

// One field of 4 KiB is indexed and then named ten thousand times: forty megabytes out of ten kilobytes.
#[tokio::test]
async fn a_header_compression_bomb_stays_small() {
    let target = Target::start().await;
    let mut bomb = block(&CALL);
    // Literal with incremental indexing; then the newest entry of the dynamic table, again and again.
    bomb.push(0x40);
    length(&mut bomb, 1);
    bomb.push(b'x');
    length(&mut bomb, 4000);
    bomb.extend([b'v'; 4000]);
    bomb.extend([INDEXED + 62; 10_000]);
    let bytes = [opening(), frame(HEADERS, END_HEADERS | END_STREAM, 1, &bomb)].concat();
    let mut stream = connect(&target).await;
    stream.write_all(&bytes).await.unwrap();
    let mut answer = [0; 4096];
    within("an answer", LIMIT, stream.read(&mut answer)).await.unwrap();
    target.is_well("a header bomb", 16 * MIB).await;
    assert_eq!(target.echo.seen.get(|seen| &seen.cancelled), 0);
}

// Frames that make the relay answer, from a client that reads no answer.
#[tokio::test]
async fn floods_of_pings_and_settings_are_not_stored() {
    let target = Target::start().await;
    for (what, piece) in [
        ("pings", frame(PING, 0, 0, &[7; 8])),
        ("settings", frame(SETTINGS, 0, 0, &[])),
    ] {
        let mut stream = connect(&target).await;
        stream.write_all(&opening()).await.unwrap();
        let flood = piece.repeat(10_000);
        let mut rounds = 0;
        // Until the relay closes, or takes no more: both are fine, storing answers is not.
        while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&flood)).await {
            rounds += 1;
            assert!(rounds < 500, "{what}: five million were taken");
        }
        target.is_well(what, 32 * MIB).await;
    }
}

// CVE-2019-9518: frames that carry nothing and cost something.
#[tokio::test]
async fn floods_of_empty_data_do_not_slow_others() {
    let target = Target::start().await;
    let mut stream = connect(&target).await;
    let first = [opening(), frame(HEADERS, END_HEADERS, 1, &block(&CALL))].concat();
    stream.write_all(&first).await.unwrap();
    let flood = frame(DATA, 0, 1, &[]).repeat(10_000);
    let writer = async {
        for _ in 0..100 {
            if stream.write_all(&flood).await.is_err() {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(Duration::from_secs(10), writer).await;
    target.serves().await;
    drop(stream);
    target.is_well("empty data", 32 * MIB).await;
}

// T13: clients that connect and say nothing, or stop in the middle.
#[tokio::test]
async fn clients_that_stop_in_the_middle_are_let_go() {
    let target = Target::start().await;
    let begun = [opening(), frame(HEADERS, 0, 1, &block(&CALL[..3]))].concat();
    let cut = [opening(), frame(HEADERS, END_HEADERS, 1, &block(&CALL))[..20].to_vec()].concat();
    for (what, bytes) in [
        ("silence", Vec::new()),
        ("half a preface", PREFACE[..12].to_vec()),
        ("no settings", PREFACE.to_vec()),
        ("a header block without an end", begun),
        ("half a frame", cut),
    ] {
        until_closed(what, connect(&target).await, bytes).await;
        target.is_well(what, 16 * MIB).await;
    }
    target.forgets("clients that stopped").await;
}

// A thousand clients that stay and do nothing cost little and stop nobody.
#[tokio::test]
async fn idle_connections_are_cheap() {
    let target = Target::start().await;
    let mut streams = Vec::new();
    for _ in 0..1000 {
        let mut stream = connect(&target).await;
        stream.write_all(&opening()).await.unwrap();
        streams.push(stream);
    }
    target.is_well("a thousand idle connections", 64 * MIB).await;
    drop(streams);
    target.forgets("a thousand idle connections").await;
}

// More streams than allowed are refused as not processed; the allowed ones are served.
#[tokio::test]
async fn streams_beyond_the_limit_are_refused_without_harm() {
    let target = Target::start().await;
    let mut stream = connect(&target).await;
    let mut bytes = opening();
    for number in 0..1500_u32 {
        bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, number * 2 + 1, &block(&CALL)));
    }
    let _ = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&bytes)).await;
    wait_for("calls to reach the service", LIMIT, async || {
        (target.echo.seen.open() >= 1000).then_some(())
    })
    .await;
    target.serves().await;
    assert!(
        target.echo.seen.open() <= 1025,
        "{} calls of one connection at a time",
        target.echo.seen.open()
    );
    drop(stream);
    target.is_well("too many streams", 48 * MIB).await;
}
