//! The life of one link: starts its tasks, probes the peer once a second, and ends all of it together.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::bodies;
use super::handshake::{Control, Greeted, LaneStreams};
use super::lane::{self, LaneError};
use super::link::Link;
use super::metrics::Reading;
use crate::model::Endpoint;
use crate::telemetry::Chain;
use crate::wire::frame::{self, Decoder, Frame};

/// Runs a link until one of its connections ends or `closing` says so. Returns why it ended.
pub(super) async fn run(
    link: Rc<Link>,
    lanes: Greeted,
    streams: Vec<LaneStreams>,
    closing: CancellationToken,
) -> String {
    let Greeted {
        connection,
        control,
        agreed: _,
        peer: _,
    } = lanes;
    for (index, LaneStreams { send, recv }) in streams.into_iter().enumerate() {
        let decoder = Decoder::new(FRAME_BYTES_MAX);
        link.tracker
            .spawn_local(until_end(link.clone(), lane::write(link.clone(), index, send)));
        link.tracker
            .spawn_local(until_end(link.clone(), lane::read(link.clone(), index, recv, decoder)));
    }
    link.tracker.spawn_local(take_bodies(link.clone()));
    let why = tokio::select! {
        error = connection.closed() => error.to_string(),
        error = link.bodies.closed() => error.to_string(),
        () = link.closed.cancelled() => "a lane ended".to_owned(),
        () = closing.cancelled() => "this relay is shutting down".to_owned(),
        why = watch(&link, &connection, control) => why,
    };
    link.shut(&why);
    connection.close(CODE_GOODBYE, why.as_bytes());
    link.bodies.close(CODE_GOODBYE, why.as_bytes());
    link.tracker.close();
    link.tracker.wait().await;
    why
}

/// A lane that ends takes the link with it: order and call state would be lost.
async fn until_end(link: Rc<Link>, lane: impl Future<Output = Result<(), LaneError>>) {
    if let Err(error) = lane.await
        && !link.closed.is_cancelled()
    {
        if matches!(error, LaneError::Frame(_)) {
            tracing::warn!(peer.unit = %link.peer.unit, peer.relay = %link.peer.relay, error = %Chain(&error), "link ended by a bad frame");
        }
        link.closed.cancel();
    }
}

/// Takes the streams of large bodies.
async fn take_bodies(link: Rc<Link>) {
    loop {
        let mut stream = tokio::select! {
            stream = link.bodies.accept_uni() => match stream {
                Ok(stream) => stream,
                Err(_) => return,
            },
            () = link.closed.cancelled() => return,
        };
        // A task each: a peer that opens a stream and writes nothing must not hold up the others. How
        // many there can be is QUIC's stream limit.
        let task = link.clone();
        link.tracker.spawn_local(async move {
            let preface = tokio::select! {
                preface = tokio::time::timeout(PREFACE_WAIT, bodies::read_preface(&mut stream)) => preface.ok().flatten(),
                () = task.closed.cancelled() => None,
            };
            if let Some((side, id)) = preface {
                task.on_body_stream(side, id, stream, Instant::now().into_std());
            }
        });
    }
}

/// Probes the peer, takes readings, and serves the control stream. Ends when the control stream does.
async fn watch(link: &Rc<Link>, connection: &quinn::Connection, control: Control) -> String {
    let Control {
        mut send,
        mut recv,
        mut decoder,
    } = control;
    let answered = Cell::new(Instant::now());
    let mut tick = interval(PROBE_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = Reading::default();
    let mut number = 0;
    let mut drain_said = false;
    loop {
        let mut out = BytesMut::new();
        tokio::select! {
            _ = tick.tick() => {
                let now = Instant::now();
                link.set_silent(now.duration_since(answered.get()) > SILENT_AFTER);
                link.forget_early(now.into_std());
                before = read_off(link, connection, &before);
                number += 1;
                frame::put_ping(&mut out, number);
            }
            () = link.drain_wanted(), if !drain_said => {
                drain_said = true;
                frame::put_drain(&mut out);
            }
            chunk = recv.read_chunk(4096, true) => match chunk {
                Ok(Some(chunk)) => {
                    decoder.feed(&chunk.bytes);
                    if let Err(why) = on_control(link, &mut decoder, &mut out, &answered) {
                        return why;
                    }
                }
                Ok(None) => return "the peer closed its control stream".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
        if !out.is_empty()
            && let Err(error) = send.write_chunk(out.freeze()).await
        {
            return error.to_string();
        }
    }
}

fn on_control(link: &Link, decoder: &mut Decoder, out: &mut BytesMut, answered: &Cell<Instant>) -> Result<(), String> {
    let now = Instant::now();
    loop {
        match decoder.next(now.into_std()) {
            Ok(Some(Frame::Ping(number))) => frame::put_pong(out, number),
            Ok(Some(Frame::Pong(_))) => {
                answered.set(now);
                link.set_silent(false);
            }
            Ok(Some(Frame::Drain)) => link.on_peer_drains(),
            Ok(Some(_)) => {}
            Ok(None) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        }
    }
}

fn read_off(link: &Link, connection: &quinn::Connection, before: &Reading) -> Reading {
    let (lanes, bodies) = (connection.stats(), link.bodies.stats());
    let now = Reading {
        calls_out: link.in_flight(),
        calls_in: link.calls_in(),
        pending: link.pending(),
        credit_bytes: link.bytes_out(),
        cwnd: lanes.path.cwnd,
        lost_packets: lanes.path.lost_packets + bodies.path.lost_packets,
        sent_packets: lanes.path.sent_packets + bodies.path.sent_packets,
        body_streams: link.body_streams(),
        bytes_in: lanes.udp_rx.bytes + bodies.udp_rx.bytes,
        bytes_out: lanes.udp_tx.bytes + bodies.udp_tx.bytes,
        rtt: lanes.path.rtt,
    };
    link.metrics.on_reading(before, &now);
    now
}

/// Application error code of a connection that ends in good order.
pub(super) const CODE_GOODBYE: quinn::VarInt = quinn::VarInt::from_u32(0);

/// How often the peer is probed. A probe is also what makes QUIC notice soon that a broken path is back:
/// its own probes back off exponentially (C-L4).
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// After this long without an answer new calls go elsewhere.
const SILENT_AFTER: Duration = Duration::from_millis(3500);
const PREFACE_WAIT: Duration = Duration::from_secs(5);
/// What a lane carries fits easily: a small body, metadata and hints.
const FRAME_BYTES_MAX: usize = 256 * 1024;
