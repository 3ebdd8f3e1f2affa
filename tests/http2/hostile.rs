//! Hostile clients in raw frames. Each must leave another connection served (T12-T14).

use std::rc::Rc;
use std::time::Duration;

use strait::ingress::grpc::Settings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;

use crate::support::*;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut out = vec![len[1], len[2], len[3], kind, flags];
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

fn field(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    block.push(u8::try_from(name.len()).unwrap());
    block.extend(name.bytes());
    assert!(value.len() < 127);
    block.push(u8::try_from(value.len()).unwrap());
    block.extend(value.bytes());
}

fn head(method: &str) -> Vec<u8> {
    let mut block = Vec::new();
    field(&mut block, ":method", "POST");
    field(&mut block, ":scheme", "http");
    field(&mut block, ":path", &format!("/t.Echo/{method}"));
    field(&mut block, ":authority", "svc");
    field(&mut block, "content-type", "application/grpc");
    block
}

/// What became of an attacker's connection.
#[derive(Debug, Default)]
struct Fate {
    goaway: Option<u32>,
    closed: bool,
    resets: usize,
    acks: usize,
    headers: usize,
}

struct Attack {
    socket: UnixStream,
    echo: Rc<Echo>,
    good: h2::client::SendRequest<bytes::Bytes>,
}

impl Attack {
    async fn new(settings: Settings) -> Self {
        let echo = Rc::new(Echo::default());
        let context = context_with(echo.clone(), settings);
        let drain = CancellationToken::new();
        let mut socket = serve(&context, &drain);
        let good = h2_client(serve(&context, &drain)).await;
        socket.write_all(PREFACE).await.unwrap();
        socket.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
        Self { socket, echo, good }
    }

    /// Writes until the other side has had enough; reads nothing.
    async fn throw(&mut self, frames: impl IntoIterator<Item = Vec<u8>>) {
        for frame in frames {
            let write = self.socket.write_all(&frame);
            match tokio::time::timeout(Duration::from_secs(2), write).await {
                Ok(Ok(())) => {}
                _ => return,
            }
        }
    }

    /// Reads until the connection ends or nothing comes for a while.
    async fn fate(&mut self) -> Fate {
        let mut fate = Fate::default();
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 65536];
        loop {
            match tokio::time::timeout(Duration::from_millis(500), self.socket.read(&mut buffer)).await {
                Ok(Ok(0) | Err(_)) => {
                    fate.closed = true;
                    break;
                }
                Ok(Ok(len)) => bytes.extend_from_slice(&buffer[..len]),
                Err(_) => break,
            }
        }
        let mut rest = &bytes[..];
        while rest.len() >= 9 {
            let len = usize::try_from(u32::from_be_bytes([0, rest[0], rest[1], rest[2]])).unwrap();
            if rest.len() < 9 + len {
                break;
            }
            match rest[3] {
                GOAWAY => fate.goaway = Some(u32::from_be_bytes(rest[13..17].try_into().unwrap())),
                RST_STREAM => fate.resets += 1,
                PING | SETTINGS if rest[4] & 1 != 0 => fate.acks += 1,
                HEADERS => fate.headers += 1,
                _ => {}
            }
            rest = &rest[9 + len..];
        }
        fate
    }

    async fn others_are_served(&self) {
        let answer = call(&self.good, request("Unary").body(()).unwrap(), "good")
            .await
            .unwrap();
        assert_eq!(answer.body, "good");
    }
}

// T14: CVE-2023-44487
#[test]
fn rapid_reset_ends_the_connection_and_opens_next_to_nothing() {
    on_a_shard(async {
        let mut attack = Attack::new(Settings::default()).await;
        let open_and_reset = (0..20_000_u32).map(|n| {
            let mut pair = frame(HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head("Silent"));
            pair.extend(frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes()));
            pair
        });
        attack.throw(open_and_reset).await;
        let fate = attack.fate().await;
        assert!(fate.closed, "{fate:?}");
        attack.others_are_served().await;
        assert!(
            attack.echo.requests.borrow().len() <= 1500,
            "{}",
            attack.echo.requests.borrow().len()
        );
        until("every call is cancelled", || attack.echo.open_calls() == 0).await;
    });
}

// T14: what looks like a flood and is none. A gateway's calls all reach their deadline at once, again and again.
#[test]
fn a_gateway_that_cancels_thousands_of_calls_at_once_stays_connected() {
    on_a_shard(async {
        let echo = Rc::new(Echo::default());
        let settings = Settings {
            streams_max: 5000,
            ..Settings::default()
        };
        let client = h2_client(serve(&context_with(echo.clone(), settings), &CancellationToken::new())).await;
        for _ in 0..4 {
            let mut calls = Vec::new();
            while calls.len() < 5000 {
                let mut opener = client.clone().ready().await.unwrap();
                calls.push(opener.send_request(request("Silent").body(()).unwrap(), true).unwrap());
            }
            until("all calls are under way", || echo.open_calls() == 5000).await;
            // The deadline they have in common.
            tokio::time::sleep(Duration::from_millis(30)).await;
            drop(calls);
            until("all calls are cancelled", || echo.open_calls() == 0).await;
        }
        let answer = call(&client, request("Unary").body(()).unwrap(), "still here")
            .await
            .unwrap();
        assert_eq!(answer.body, "still here");
    });
}

// T14: CVE-2025-8671, the server is made to reset.
#[test]
fn provoked_resets_end_the_connection() {
    on_a_shard(async {
        let mut attack = Attack::new(Settings::default()).await;
        let provoke = (0..20_000_u32).map(|n| {
            let mut pair = frame(HEADERS, END_HEADERS, 2 * n + 1, &head("Silent"));
            // A window above 2^31 is an error of the stream.
            pair.extend(frame(WINDOW_UPDATE, 0, 2 * n + 1, &0x7fff_ffff_u32.to_be_bytes()));
            pair
        });
        attack.throw(provoke).await;
        let fate = attack.fate().await;
        assert!(fate.closed, "{fate:?}");
        attack.others_are_served().await;
        until("every call is cancelled", || attack.echo.open_calls() == 0).await;
    });
}

// T14
#[test]
fn an_endless_header_block_ends_the_connection() {
    on_a_shard(async {
        let mut attack = Attack::new(Settings::default()).await;
        let mut frames = vec![frame(HEADERS, 0, 1, &head("Unary"))];
        let mut more = Vec::new();
        field(&mut more, "x-more", "v");
        frames.extend((0..1000).map(|_| frame(CONTINUATION, 0, 1, &more)));
        attack.throw(frames).await;
        let fate = attack.fate().await;
        assert!(fate.closed, "{fate:?}");
        assert!(attack.echo.requests.borrow().is_empty());
        attack.others_are_served().await;
    });
}

// T12: small on the wire, large when decoded.
#[test]
fn a_header_bomb_is_answered_as_too_large() {
    on_a_shard(async {
        let mut attack = Attack::new(Settings::default()).await;
        let mut block = head("Unary");
        // Literal with indexing, 100 bytes; then the same again and again by its index, 62.
        block.push(0x40);
        block.push(5);
        block.extend(b"x-big");
        block.push(100);
        block.extend([b'v'; 100]);
        block.extend(std::iter::repeat_n(0xbe, 15_000));
        attack
            .throw([frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)])
            .await;
        let fate = attack.fate().await;
        assert_eq!((fate.closed, fate.headers), (false, 1), "{fate:?}");
        assert!(attack.echo.requests.borrow().is_empty());
        attack.others_are_served().await;
    });
}

// T14
#[test]
fn a_settings_flood_ends_the_connection_even_if_the_client_reads() {
    on_a_shard(async {
        let mut attack = Attack::new(Settings::default()).await;
        let mut acks = 0;
        while acks < 20_000 {
            attack.throw((0..100).map(|_| frame(SETTINGS, 0, 0, &[]))).await;
            let mut buffer = vec![0; 65536];
            let len = attack.socket.read(&mut buffer).await.unwrap_or(0);
            assert!(len > 0, "closed without a word");
            acks += len / 9;
            let goaway = [7, 0, 0, 0, 0, 0];
            if buffer[..len].windows(6).any(|window| window == goaway) {
                break;
            }
        }
        assert!((1000..10_000).contains(&acks), "{acks}");
        attack.others_are_served().await;
    });
}

// T14
#[test]
fn a_ping_flood_by_a_client_that_reads_nothing_ends_the_connection() {
    on_a_shard(async {
        let mut attack = Attack::new(Settings::default()).await;
        attack
            .throw((0..3000).map(|_| frame(PING, 0, 0, &[0; 8]).repeat(100)))
            .await;
        let fate = attack.fate().await;
        assert!(fate.closed, "{fate:?}");
        attack.others_are_served().await;
    });
}

// T12, T14
#[test]
fn a_flood_of_empty_data_or_priorities_ends_the_connection() {
    for (kind, payload) in [(DATA, &[][..]), (PRIORITY, &[0, 0, 0, 3, 16][..])] {
        on_a_shard(async {
            let mut attack = Attack::new(Settings::default()).await;
            attack.throw([frame(HEADERS, END_HEADERS, 1, &head("Silent"))]).await;
            attack
                .throw((0..1000).map(|_| frame(kind, 0, 1, payload).repeat(100)))
                .await;
            let fate = attack.fate().await;
            assert!(fate.closed, "{fate:?}");
            attack.others_are_served().await;
            until("the call is cancelled", || attack.echo.open_calls() == 0).await;
        });
    }
}

// T13
#[test]
fn replies_to_a_zero_window_wait_within_their_credit() {
    on_a_shard(async {
        let mut attack = Attack::new(Settings::default()).await;
        // Initial window 0: no reply body may be sent.
        attack.throw([frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])]).await;
        let body = [7; 16_000];
        for n in 0..200_u32 {
            attack
                .throw([frame(HEADERS, END_HEADERS, 2 * n + 1, &head("Stream"))])
                .await;
            attack.throw([frame(DATA, 0, 2 * n + 1, &body)]).await;
        }
        let fate = attack.fate().await;
        assert!(!fate.closed, "{fate:?}");
        attack.others_are_served().await;
        attack
            .throw((0..200_u32).map(|n| frame(RST_STREAM, 0, 2 * n + 1, &8_u32.to_be_bytes())))
            .await;
        until("every call is cancelled", || attack.echo.open_calls() == 0).await;
    });
}

// T13
#[test]
fn slow_clients_are_disconnected() {
    let fast = || Settings {
        preface_timeout: Duration::from_millis(80),
        header_timeout: Duration::from_millis(80),
        keepalive: Duration::from_millis(80),
        keepalive_timeout: Duration::from_millis(80),
        write_timeout: Duration::from_millis(80),
        ..Settings::default()
    };
    on_a_shard(async {
        // Connects and says nothing.
        let context = context_with(Rc::new(Echo::default()), fast());
        let mut silent = serve(&context, &CancellationToken::new());
        let mut bytes = Vec::new();
        silent.read_to_end(&mut bytes).await.unwrap();
        // Begins a header block and does not end it, but keeps sending.
        let mut attack = Attack::new(fast()).await;
        attack.throw([frame(HEADERS, 0, 1, &head("Unary"))]).await;
        let fate = attack.fate().await;
        assert!(fate.closed, "{fate:?}");
        // Does not answer pings.
        let mut attack = Attack::new(fast()).await;
        let fate = attack.fate().await;
        assert!(fate.closed, "{fate:?}");
        attack.others_are_served().await;
        // Asks for much and reads nothing.
        let mut attack = Attack::new(Settings {
            keepalive: Duration::from_secs(60),
            ..fast()
        })
        .await;
        attack
            .throw([frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())])
            .await;
        attack.throw([frame(SETTINGS, 0, 0, &[0, 4, 0x40, 0, 0, 0])]).await;
        attack.throw([frame(HEADERS, END_HEADERS, 1, &head("Stream"))]).await;
        attack.throw((0..400).map(|_| frame(DATA, 0, 1, &[7; 16_000]))).await;
        until("its call is cancelled", || attack.echo.open_calls() == 0).await;
        attack.others_are_served().await;
    });
}

// T12
#[test]
fn frames_that_break_the_protocol_end_only_their_connection() {
    let garbage: [Vec<u8>; 5] = [
        frame(DATA, 0, 0, b"x"),
        frame(HEADERS, END_HEADERS, 2, &head("Unary")),
        frame(HEADERS, END_HEADERS, 1, &[0xff; 40]),
        frame(SETTINGS, 0, 0, &[1, 2, 3]),
        vec![0xff; 64],
    ];
    for bytes in garbage {
        on_a_shard(async {
            let mut attack = Attack::new(Settings::default()).await;
            attack.throw([bytes]).await;
            let fate = attack.fate().await;
            assert!(fate.closed && fate.goaway.is_some_and(|code| code != 0), "{fate:?}");
            assert!(attack.echo.requests.borrow().is_empty());
            attack.others_are_served().await;
        });
    }
}
