//! Frames of the specification: what the codec writes is what `tests/golden/frames` says, byte for byte.
//!
//! A changed byte is a changed protocol: old clients exist. After a change that was meant, write the files
//! again with `BLESS=1 cargo test --test golden` and review the difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::disallowed_methods,
    clippy::too_many_lines,
    clippy::semicolon_if_nothing_returned,
    clippy::precedence,
    reason = "a test ends where it finds something unexpected"
)]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use strait::model::lanes::{LaneKind, Refused, Sent, ToReceiver, ToSender};
use strait::model::{
    CancelReason, Code, Ending, Envelope, Facts, GapReason, Key, Message, MessageId, Metadata, MetadataBuilder, Mode,
    Name, OnFailure, Part, Place, Reason, RelayError, ReplyBody, Request, RequestBody, Retry, RouteHints, RoutePush,
    RoutedBy, Source, Timing, UnixMillis,
};
use strait::wire::frame::lanes::{self, LaneDecoder};
use strait::wire::frame::{self, CONNECTION, Decoder, Encoder, HEADER_BYTES};
use strait::wire::hello::{self, Hello, Purpose, RefusedService, Register, Registered};

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn fields(list: &[(&str, &str)]) -> Metadata {
    let mut block = MetadataBuilder::new();
    for (name, value) in list {
        block.push(name.as_bytes(), value.as_bytes()).unwrap();
    }
    block.build()
}

fn plain(now: Instant) -> Request {
    Request {
        path: Bytes::from_static(b"/im.Echo/Say"),
        authority: Bytes::new(),
        envelope: Envelope::Framed,
        metadata: Metadata::default(),
        hints: RouteHints {
            keys: vec![Key {
                dimension: Bytes::from_static(b"im.conversation"),
                key: Bytes::from_static(b"cid:1"),
            }],
            ..RouteHints::default()
        },
        facts: Facts::default(),
        received: now,
        deadline: Some(now + Duration::from_secs(1)),
        body: RequestBody {
            chunk: Bytes::from_static(b"hello"),
            end: true,
        },
    }
}

fn full(now: Instant) -> Request {
    let mut request = plain(now);
    request.envelope = Envelope::Grpc;
    request.authority = Bytes::from_static(b"im");
    request.metadata = fields(&[("x-trace", "t1")]);
    request.hints.unit = Some(name("b"));
    request.hints.token = Some(Bytes::from_static(b"\x01\x02"));
    request.hints.class = Some(name("bulk"));
    request.hints.idempotent = true;
    request.hints.on_failure = OnFailure::Park;
    request.facts = Facts {
        source: Some(Source {
            geo: name("cn-east"),
            unit: name("a"),
            service: Some(name("im.Api")),
        }),
        visited: vec![name("a")],
        epoch: 300,
        attempt: 1,
        destination: None,
        owner_epoch: None,
        mode: Mode::Usual,
        routed_by: RoutedBy::Dimension(name("uid")),
        request_id: 0xabcd,
    };
    request.body.end = false;
    request
}

fn reply(status: Code) -> Part {
    Part {
        head: Some((200, fields(&[("strait-unit", "b")]))),
        body: ReplyBody(Bytes::from_static(if matches!(status, Code::Ok) {
            b"world"
        } else {
            b""
        })),
        end: Some(Ending {
            status,
            message: Bytes::from_static(if matches!(status, Code::Ok) {
                b""
            } else {
                b"no such room"
            }),
            trailers: if status == Code::Ok {
                Metadata::default()
            } else {
                fields(&[("x-hint", "42")])
            },
            timing: Timing {
                service: Duration::from_micros(150),
                relay: Duration::from_micros(12),
            },
        }),
    }
}

fn failure() -> RelayError {
    RelayError {
        reason: Reason::WrongUnit,
        place: Some(Place {
            unit: name("b"),
            relay: name("b-1"),
        }),
        detail: "unit b does not own this key".to_owned(),
        retry: Retry::Safe,
        pushback: Some(Duration::from_millis(25)),
        owner: Some((name("c"), 301)),
        token: None,
        ticket: None,
    }
}

/// Name of the file, what it shows, bytes.
fn frames() -> Vec<(&'static str, &'static str, BytesMut)> {
    let now = Instant::now();
    let id = 0x0000_0001_0000_0000; // generation 1, index 0
    let mut list = Vec::new();
    let mut add = |file, about, put: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        put(&mut out);
        list.push((file, about, out));
    };
    add("hello", "HELLO of a service that accepts no calls", &|out| {
        let mut hello = Hello::new(Purpose::Service, 0);
        "example/1".clone_into(&mut hello.software);
        frame::put_hello(out, &hello::encode(&hello));
    });
    add(
        "request",
        "a small call with a key; its names are defined first",
        &|out| {
            Encoder::new().request(out, id, &plain(now), false, now);
        },
    );
    add(
        "request_again",
        "the same names a second time are numbers only",
        &|out| {
            let mut encoder = Encoder::new();
            encoder.request(&mut BytesMut::new(), id, &plain(now), false, now);
            encoder.request(out, id + 1, &plain(now), false, now);
        },
    );
    add(
        "request_between_relays",
        "every attribute of a request; more body follows",
        &|out| {
            Encoder::new().request(out, id, &full(now), false, now);
        },
    );
    add("request_body", "the last chunk of a request body", &|out| {
        frame::put_request_body(out, id, b"more", true, false);
    });
    add(
        "request_large",
        "a request whose body comes on a stream of its own",
        &|out| {
            Encoder::new().request(out, id, &plain(now), true, now);
        },
    );
    add("cancel", "the caller's deadline has passed", &|out| {
        frame::put_cancel(out, id, CancelReason::Deadline);
    });
    add("reply", "a whole reply", &|out| {
        frame::put_reply(out, id, &reply(Code::Ok), false, 0)
    });
    add("reply_error", "an error of the service", &|out| {
        frame::put_reply(out, id, &reply(Code::NotFound), false, 0);
    });
    add(
        "reply_large_end",
        "the end of a reply whose body came on a stream of its own",
        &|out| {
            frame::put_reply(out, id, &reply(Code::Ok), true, 70_000);
        },
    );
    add("failed", "an error of a relay", &|out| {
        frame::put_failed(out, id, &failure())
    });
    add(
        "failed_token",
        "another owner, and what to bring along next time",
        &|out| {
            let error = RelayError {
                token: Some(Box::new(Bytes::from_static(TOKEN))),
                ..failure()
            };
            frame::put_failed(out, id, &error);
        },
    );
    add("route", "a key that the service has used has another owner", &|out| {
        let push = RoutePush {
            key: plain(now).hints.keys.remove(0),
            token: Bytes::from_static(&TOKEN[16..]),
        };
        frame::put_route(out, &push);
    });
    add("goodbye", "the last frame of a connection", &|out| {
        let error = RelayError::new(Reason::BadInput, Retry::Ambiguous, "no HELLO within 5s");
        frame::put_failed(out, CONNECTION, &error);
    });
    add("credit_request", "the callee has passed on request bytes", &|out| {
        frame::put_credit(out, id, 65_536, false)
    });
    add("credit_reply", "the caller has passed on reply bytes", &|out| {
        frame::put_credit(out, id, 300, true)
    });
    add("ping_pong", "a probe and its answer", &|out| {
        frame::put_ping(out, 7);
        frame::put_pong(out, 7);
    });
    add("drain", "no new calls, please", &|out| frame::put_drain(out));
    add("renew", "please put another link in the place of this one", &|out| {
        frame::put_renew(out)
    });
    add("retire", "another link has taken over; then no call is left", &|out| {
        frame::put_retire(out, false);
        frame::put_retire(out, true);
    });
    add("register", "a service says what it serves", &|out| {
        let register = Register {
            services: vec!["im.Receiver".to_owned()],
            instance: "r-1".to_owned(),
            max_in_flight: 16,
            ..Register::default()
        };
        frame::put_register(out, 1, &hello::encode(&register));
    });
    add("registered", "one service accepted, one refused", &|out| {
        let registered = Registered {
            accepted: vec!["im.Receiver".to_owned()],
            refused: vec![RefusedService {
                service: "im.Other".to_owned(),
                reason: "not in the settings".to_owned(),
            }],
            ..Registered::default()
        };
        frame::put_registered(out, 1, &hello::encode(&registered));
    });
    add_lanes(&mut add);
    list
}

fn message(body: &'static [u8]) -> Message {
    Message {
        id: MessageId {
            unit: name("a"),
            relay: name("a-1"),
            epoch: 7,
            number: 1001,
        },
        topic: name("im.message"),
        key: Some(Key {
            dimension: Bytes::from_static(b"im.conversation"),
            key: Bytes::from_static(b"cid:1"),
        }),
        accepted_at: UnixMillis(1_700_000_000_000),
        deadline: None,
        visited: vec![name("a")],
        redrives: 0,
        routed: 0,
        attributes: fields(&[("id", "m-1"), ("source", "/im")]),
        body: Bytes::from_static(body),
    }
}

/// Frames of lanes for messages.
fn add_lanes(add: &mut impl FnMut(&'static str, &'static str, &dyn Fn(&mut BytesMut))) {
    add("lane_open", "a live lane; all below 900 is done with", &|out| {
        let open = ToReceiver::Open {
            epoch: 7,
            kind: LaneKind::Live,
            base: 900,
        };
        lanes::put_to_receiver(out, &open);
    });
    add(
        "messages",
        "two messages; the publisher of the second one waits",
        &|out| {
            let sent = |seq, tell_delivered| Sent {
                seq,
                tell_delivered,
                message: message(b"hello"),
            };
            let messages = ToReceiver::Messages {
                batch: 1,
                messages: vec![sent(901, false), sent(902, true)],
            };
            lanes::put_to_receiver(out, &messages);
        },
    );
    add("gap", "three messages will not come: they expired", &|out| {
        let gap = ToReceiver::Gap {
            batch: 2,
            seqs: (903, 905),
            reason: GapReason::Expired,
        };
        lanes::put_to_receiver(out, &gap);
    });
    add(
        "lane_opened",
        "all up to 899 is here, and 902 to 904, and 910",
        &|out| {
            let opened = ToSender::Opened {
                frontier: 899,
                above: vec![(902, 904), (910, 910)],
                highest: 910,
            };
            lanes::put_to_sender(out, &opened);
        },
    );
    add("lane_denied", "the lane is not wanted", &|out| {
        let detail = "unit a is not in the settings".to_owned();
        lanes::put_to_sender(out, &ToSender::Denied { detail });
    });
    add("ack", "all up to batch 2 is on disk; one message is refused", &|out| {
        let refused = vec![Refused {
            seq: 902,
            reason: "too_large".to_owned(),
            detail: "1 MiB at most".to_owned(),
        }];
        lanes::put_to_sender(out, &ToSender::Ack { batch: 2, refused });
    });
    add("busy", "out of resources for about 250 ms; then no longer", &|out| {
        let pushback = Some(Duration::from_millis(250));
        lanes::put_to_sender(out, &ToSender::Busy { pushback });
        lanes::put_to_sender(out, &ToSender::Busy { pushback: None });
    });
    add("delivered", "consumers are done with two messages", &|out| {
        lanes::put_to_sender(out, &ToSender::Delivered { seqs: vec![902, 901] });
    });
    add("ended", "a group gave a message up", &|out| {
        let ended = vec![Refused {
            seq: 902,
            reason: "attempts".to_owned(),
            detail: "it is a dead letter".to_owned(),
        }];
        lanes::put_to_sender(out, &ToSender::Ended { ended });
    });
}

/// The first of `tests/golden/tokens`, as relays give it for a key of a dimension with a name of 15 characters.
const TOKEN: &[u8] = b"im.conversation;ES8AAQADAAAAAAAAA-gAAAAAA-xrB3aAAALGQPhlaAuV2r6M--a7pN_A";

const KINDS: [&str; 26] = [
    "?",
    "HELLO",
    "NAME",
    "REQUEST",
    "REQUEST_BODY",
    "CANCEL",
    "REPLY",
    "FAILED",
    "CREDIT",
    "PING",
    "PONG",
    "DRAIN",
    "REGISTER",
    "REGISTERED",
    "RENEW",
    "RETIRE",
    "LANE_OPEN",
    "MESSAGES",
    "GAP",
    "LANE_OPENED",
    "LANE_DENIED",
    "ACK",
    "BUSY",
    "DELIVERED",
    "ENDED",
    "ROUTE",
];

const TAGS: [&str; 41] = [
    "?",
    "path (number)",
    "path (text)",
    "timeout_us",
    "key (dimension number, key)",
    "key (length, dimension, key)",
    "unit",
    "class",
    "token",
    "marks",
    "metadata",
    "authority",
    "visited",
    "epoch",
    "source_service",
    "request_id",
    "attempt",
    "http_status",
    "trailers",
    "status",
    "message",
    "service_us",
    "relay_us",
    "reason",
    "retry",
    "pushback_ms",
    "owner (epoch, unit)",
    "place_unit",
    "place_relay",
    "credit",
    "large_bytes",
    "source_geo",
    "source_unit",
    "lane",
    "base",
    "first",
    "last",
    "frontier",
    "highest",
    "cause",
    "routed_by",
];

/// Attributes that are one number.
const NUMBERS: [u8; 20] = [
    1, 3, 9, 13, 15, 16, 17, 19, 21, 22, 24, 25, 29, 30, 33, 34, 35, 36, 37, 38,
];

/// A LEB128 number and how many bytes it takes.
fn varint(bytes: &[u8]) -> (u64, usize) {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return (value, at + 1);
        }
    }
    panic!("a number is cut off")
}

fn flags(flags: u8) -> String {
    let names = [(1, "END"), (2, "LARGE"), (4, "GRPC"), (8, "HEAD"), (16, "REPLY")];
    let set: Vec<&str> = names
        .iter()
        .filter(|(bit, _)| flags & bit != 0)
        .map(|(_, name)| *name)
        .collect();
    if set.is_empty() {
        "no flag".to_owned()
    } else {
        set.join(" | ")
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<Vec<_>>()
        .join(" ")
}

fn text(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|b| if (0x20..0x7f).contains(b) { char::from(*b) } else { '.' })
        .collect()
}

/// Hex with a comment per part, written without the codec's help.
fn render(about: &str, mut bytes: &[u8]) -> String {
    let mut out = format!("# {about}\n");
    while !bytes.is_empty() {
        let header = &bytes[..HEADER_BYTES];
        let length =
            |at: usize| usize::from(header[at]) << 16 | usize::from(header[at + 1]) << 8 | usize::from(header[at + 2]);
        let (attributes, body) = (length(2), length(5));
        let line = |out: &mut String, bytes: &[u8], comment: &str| {
            let mut rows = bytes.chunks(16).peekable();
            while let Some(row) = rows.next() {
                if rows.peek().is_none() {
                    writeln!(out, "{:<48}# {comment}", hex(row)).unwrap();
                } else {
                    writeln!(out, "{}", hex(row)).unwrap();
                }
            }
        };
        out.push('\n');
        line(&mut out, &header[..1], KINDS[usize::from(header[0])]);
        line(&mut out, &header[1..2], &flags(header[1]));
        line(&mut out, &header[2..5], &format!("attributes: {attributes} bytes"));
        line(&mut out, &header[5..8], &format!("body: {body} bytes"));
        line(&mut out, &header[8..16], "id");
        bytes = &bytes[HEADER_BYTES..];
        let (mut block, rest) = bytes.split_at(attributes);
        while !block.is_empty() {
            let (len, at) = varint(&block[1..]);
            let (len, at) = (usize::try_from(len).unwrap(), at + 1);
            let (tag, value) = (block[0], &block[at..at + len]);
            let is_number =
                NUMBERS.contains(&tag) || (["CANCEL", "GAP"].contains(&KINDS[usize::from(header[0])]) && tag == 23);
            let shown = if is_number {
                varint(value).0.to_string()
            } else {
                text(value)
            };
            line(
                &mut out,
                &block[..at + len],
                &format!("{}: {shown}", TAGS[usize::from(tag)]),
            );
            block = &block[at + len..];
        }
        let (body, rest) = rest.split_at(body);
        if !body.is_empty() {
            line(&mut out, body, &format!("body: {}", text(body)));
        }
        bytes = rest;
    }
    out
}

fn parse(file: &str) -> Vec<u8> {
    file.lines()
        .map(|line| line.split('#').next().unwrap())
        .flat_map(str::split_whitespace)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/frames")
}

#[test]
fn frames_are_those_of_the_specification() {
    let bless = std::env::var_os("BLESS").is_some();
    let mut wrong = Vec::new();
    for (file, about, bytes) in frames() {
        let path = folder().join(file).with_extension("hex");
        let rendered = render(about, &bytes);
        if bless {
            std::fs::write(&path, &rendered).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(parse(&rendered), bytes, "{file}: the rendering has other bytes");
        if golden != rendered {
            wrong.push(format!("{file}: is\n{rendered}\nbut the file says\n{golden}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_golden_file_belongs_to_a_frame_and_can_be_read() {
    let mut files: Vec<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let mut known: Vec<String> = frames().iter().map(|(file, ..)| format!("{file}.hex")).collect();
    known.sort();
    assert_eq!(files, known);
    for file in files {
        let bytes = parse(&std::fs::read_to_string(folder().join(&file)).unwrap());
        if (16..25).contains(&bytes[0]) {
            let mut decoder = LaneDecoder::new();
            decoder.feed(&bytes);
            let one_way = bytes[0] < 19;
            let frames = std::iter::from_fn(|| {
                if one_way {
                    decoder.to_receiver().expect(&file).map(drop)
                } else {
                    decoder.to_sender().expect(&file).map(drop)
                }
            });
            assert_eq!(frames.count(), if bytes[0] == 22 { 2 } else { 1 }, "{file}");
            continue;
        }
        let mut decoder = Decoder::new(1 << 20);
        // The second request of a connection uses names of the first.
        if file == "request_again.hex" {
            decoder.feed(&parse(&std::fs::read_to_string(folder().join("request.hex")).unwrap()));
            decoder.next(Instant::now()).unwrap().unwrap();
        }
        decoder.feed(&bytes);
        while decoder.next(Instant::now()).expect(&file).is_some() {}
        assert!(!decoder.is_mid_frame(), "{file} is cut off");
    }
}

// The example of the specification is made of golden frames.
#[test]
fn the_worked_example_of_the_specification_is_golden() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    for file in ["hello", "request", "reply", "lane_open", "messages"] {
        let golden = std::fs::read_to_string(folder().join(file).with_extension("hex")).unwrap();
        assert!(
            readme.contains(golden.trim()),
            "proto/README.md does not quote {file}.hex as it is"
        );
    }
}
