//! Attacks on the framed endpoint.

use std::time::Duration;

use prost::Message;
use strait::wire::hello::Hello;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{MIB, Target, until_closed};

const HELLO: u8 = 1;
const REQUEST: u8 = 3;
const PING: u8 = 9;

/// A frame header: kind, flags, attribute bytes, body bytes, id.
fn header(kind: u8, attributes: u32, body: u32, id: u64) -> Vec<u8> {
    let mut bytes = vec![kind, 0];
    bytes.extend(&attributes.to_be_bytes()[1..]);
    bytes.extend(&body.to_be_bytes()[1..]);
    bytes.extend(id.to_be_bytes());
    bytes
}

/// A good first frame, or one of another version.
fn hello(version: u32) -> Vec<u8> {
    let message = Hello {
        version_min: version,
        version_max: version,
        purpose: 3,
        calls_max: 16,
        ..Hello::default()
    };
    let body = message.encode_to_vec();
    [header(HELLO, 0, body.len() as u32, 0), body].concat()
}

async fn connect(target: &Target) -> TcpStream {
    TcpStream::connect(target.cluster.relay("a-1").framed()).await.unwrap()
}

// O-S4: everything that is not the protocol ends the connection, and nothing else.
#[tokio::test]
async fn bytes_that_are_not_the_protocol_end_the_connection() {
    let target = Target::start().await;
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let long = 0x00ff_ffff;
    let cases = [
        ("noise", noise),
        ("HTTP", b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()),
        ("no hello but a ping", header(PING, 0, 0, 1)),
        (
            "no hello but a call",
            [header(REQUEST, 0, 4, 0), b"body".to_vec()].concat(),
        ),
        ("a hello that is too long", header(HELLO, 0, long, 0)),
        (
            "a hello that is no message",
            [header(HELLO, 0, 4, 0), vec![0xff; 4]].concat(),
        ),
        ("a version of the future", hello(4_000_000)),
        (
            "a frame over the limit",
            [hello(1), header(REQUEST, 0, long, 0)].concat(),
        ),
        (
            "attributes over the limit",
            [hello(1), header(REQUEST, long, 0, 0)].concat(),
        ),
        (
            "attributes that are noise",
            [hello(1), header(REQUEST, 64, 0, 0), vec![0xa5; 64]].concat(),
        ),
        ("an unknown mandatory frame", [hello(1), header(200, 0, 0, 0)].concat()),
        ("a second hello", [hello(1), hello(1)].concat()),
    ];
    for (what, bytes) in cases {
        until_closed(what, connect(&target).await, bytes).await;
        target.is_well(what, 16 * MIB).await;
    }
}

// T13: clients that stop in the middle are let go.
#[tokio::test]
async fn clients_that_stop_in_the_middle_are_let_go() {
    let target = Target::start().await;
    let cut = [hello(1), header(REQUEST, 10, 1000, 0), vec![0; 100]].concat();
    for (what, bytes) in [
        ("silence", Vec::new()),
        ("half a hello", hello(1)[..8].to_vec()),
        ("half a frame", cut),
    ] {
        until_closed(what, connect(&target).await, bytes).await;
        target.is_well(what, 16 * MIB).await;
    }
    target.forgets("clients that stopped").await;
}

// Frames that make the relay answer, from a client that reads no answer.
#[tokio::test]
async fn a_flood_of_pings_is_not_stored() {
    let target = Target::start().await;
    let mut stream = connect(&target).await;
    stream.write_all(&hello(1)).await.unwrap();
    let flood = header(PING, 0, 0, 1).repeat(10_000);
    let mut rounds = 0;
    while let Ok(Ok(())) = tokio::time::timeout(Duration::from_secs(5), stream.write_all(&flood)).await {
        rounds += 1;
        assert!(rounds < 500, "five million pings were taken");
    }
    target.is_well("a flood of pings", 32 * MIB).await;
}
