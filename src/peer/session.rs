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
use super::messages;
use super::metrics::Reading;
use super::observers::Witness;
use super::upkeep::{Upkeep, Verdict};
use crate::model::Endpoint;
use crate::telemetry::Chain;
use crate::wire::frame::{self, Decoder, Frame};

/// Why a link ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// It reached its longest age with calls left on it.
    Age,
    /// A certificate it was made with expires, with calls left on it.
    Expired,
    /// A connection broke, or the peer closed it.
    Lost,
    /// Its peer would be refused now.
    Refused,
    /// Another link took its place, and its last call is over.
    Replaced,
    /// This relay ends.
    Shutdown,
}

impl Ended {
    pub(super) const ALL: [Self; 6] = [
        Self::Age,
        Self::Expired,
        Self::Lost,
        Self::Refused,
        Self::Replaced,
        Self::Shutdown,
    ];

    /// Label in metrics.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Age => "age",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::Refused => "refused",
            Self::Replaced => "replaced",
            Self::Shutdown => "shutdown",
        }
    }
}

/// How a link ended, and the text about it.
pub(super) type End = (Ended, String);

/// Runs a link until one of its connections ends, its upkeep or `closing` says so. Returns why it ended.
pub(super) async fn run(
    link: Rc<Link>,
    (lanes, streams, witness): (Greeted, Vec<LaneStreams>, Option<Witness>),
    upkeep: &mut Upkeep,
    closing: CancellationToken,
) -> End {
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
    if link.lane_handler.is_some() {
        link.tracker.spawn_local(messages::accept(link.clone()));
    }
    let (mut ended, why) = tokio::select! {
        error = connection.closed() => (Ended::Lost, error.to_string()),
        error = link.bodies.closed() => (Ended::Lost, error.to_string()),
        () = link.closed.cancelled() => (Ended::Lost, "a lane ended".to_owned()),
        () = closing.cancelled() => (Ended::Shutdown, "this relay is shutting down".to_owned()),
        end = watch(&link, &connection, (control, witness.as_ref()), upkeep) => end,
    };
    drop(witness);
    if ended == Ended::Lost && link.is_done() {
        // The peer closed first: our last word and its closing may cross.
        ended = Ended::Replaced;
    }
    link.shut(&why);
    connection.close(CODE_GOODBYE, why.as_bytes());
    link.bodies.close(CODE_GOODBYE, why.as_bytes());
    link.tracker.close();
    link.tracker.wait().await;
    (ended, why)
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

/// Probes the peer, takes readings, looks after the link, and serves the control stream. Ends when the link should.
async fn watch(
    link: &Rc<Link>,
    connection: &quinn::Connection,
    (control, witness): (Control, Option<&Witness>),
    upkeep: &mut Upkeep,
) -> End {
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
    let mut last_words = LastWords::default();
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
                if let Some(witness) = witness {
                    frame::put_sightings(&mut out, &witness.news());
                }
                match upkeep.on_tick(now) {
                    Verdict::Keep => {}
                    Verdict::Leave => link.retire(),
                    Verdict::Replace => last_words.ask(link, upkeep.has_dialled(), &mut out),
                    Verdict::End(ended, why) => return (ended, why),
                }
                if last_words.say(link, now, &mut out) {
                    return (Ended::Replaced, "another link has taken its place".to_owned());
                }
            }
            () = link.drain_wanted(), if !drain_said => {
                drain_said = true;
                frame::put_drain(&mut out);
            }
            () = link.retired(), if last_words.retired.is_none() => {
                // May be the answer to the peer's word; either way the peer hears that this side knows.
                last_words.retired = Some(Instant::now());
                frame::put_retire(&mut out, false);
            }
            chunk = recv.read_chunk(4096, true) => match chunk {
                Ok(Some(chunk)) => {
                    decoder.feed(&chunk.bytes);
                    if let Err(why) = on_control((link, witness), &mut decoder, &mut out, &answered) {
                        return (Ended::Lost, why);
                    }
                }
                Ok(None) => return (Ended::Lost, "the peer closed its control stream".to_owned()),
                Err(error) => return (Ended::Lost, error.to_string()),
            }
        }
        if let Some(witness) = witness {
            witness.set_counts(!link.is_silent());
        }
        if !out.is_empty()
            && let Err(error) = send.write_chunk(out.freeze()).await
        {
            return (Ended::Lost, error.to_string());
        }
    }
}

/// What is said about the end of a link, each once.
#[derive(Default)]
struct LastWords {
    asked: bool,
    retired: Option<Instant>,
}

impl LastWords {
    /// Has another link made, or asks the peer for one: only the side that dialled can.
    fn ask(&mut self, link: &Link, dialled: bool, out: &mut BytesMut) {
        if dialled {
            link.on_renewal_wanted();
        } else if !self.asked {
            self.asked = true;
            frame::put_renew(out);
        }
    }

    /// Tells the peer when none of our calls is left. True once the link can be closed.
    fn say(&self, link: &Link, now: Instant, out: &mut BytesMut) -> bool {
        let Some(retired) = self.retired else { return false };
        let since = now.duration_since(retired);
        // The word on this link may be here before the last packet of the handshake of the other one.
        if since >= SETTLED_AFTER && link.finish() {
            frame::put_retire(out, true);
        }
        link.is_over(since > OLDER_AFTER)
    }
}

fn on_control(
    (link, witness): (&Link, Option<&Witness>),
    decoder: &mut Decoder,
    out: &mut BytesMut,
    answered: &Cell<Instant>,
) -> Result<(), String> {
    let now = Instant::now();
    loop {
        match decoder.next(now.into_std()) {
            Ok(Some(Frame::Ping(number))) => frame::put_pong(out, number),
            Ok(Some(Frame::Pong(_))) => {
                answered.set(now);
                link.set_silent(false);
            }
            Ok(Some(Frame::Drain)) => link.on_peer_drains(),
            Ok(Some(Frame::Renew)) => link.on_renewal_wanted(),
            Ok(Some(Frame::Retire { done })) => link.on_peer_retires(done),
            Ok(Some(Frame::Sightings(sightings))) => {
                if let Some(witness) = witness {
                    witness.hear(&sightings);
                }
            }
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
/// By then the link that takes the place of another one is up on both sides.
const SETTLED_AFTER: Duration = Duration::from_secs(1);
/// A peer that has not answered the word that a link retires after so long is an older one.
const OLDER_AFTER: Duration = Duration::from_secs(5);
const PREFACE_WAIT: Duration = Duration::from_secs(5);
/// What a lane carries fits easily: a small body, metadata and hints.
const FRAME_BYTES_MAX: usize = 256 * 1024;
