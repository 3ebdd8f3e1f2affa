//! Takes the connections that relays of other units open, and makes links of them.
//!
//! # Invariants
//! - P3. Two connections become one link only if both have the same link id and the same identity.

use std::rc::Rc;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::handshake::{self, HandshakeError};
use super::link::LinkPeer;
use super::pool::{Greetings, Peers};
use super::quic;
use super::refusals::Direction;
use super::session;
use super::upkeep::Made;
use crate::telemetry::Chain;
use crate::wire::hello::Purpose;

/// Who waits for the second connection of a link, and how it is handed over.
pub(super) type Partner = (LinkPeer, oneshot::Sender<quinn::Connection>);

impl Peers {
    /// Takes connections of peers until the shard ends.
    pub(super) async fn accept(self: Rc<Self>, listener: quinn::Endpoint) {
        loop {
            let incoming = tokio::select! {
                incoming = listener.accept() => incoming,
                () = self.closing.cancelled() => None,
            };
            let Some(incoming) = incoming else { break };
            let Some(connecting) = self.parts.quic.accept(incoming, self.handshakes.get()) else {
                continue;
            };
            self.handshakes.set(self.handshakes.get() + 1);
            self.spawn(self.clone().take(connecting));
        }
        listener.close(session::CODE_GOODBYE, b"shutting down");
        listener.wait_idle().await;
    }

    async fn take(self: Rc<Self>, connecting: quinn::Connecting) {
        let from = connecting.remote_address();
        let limit = self.parts.settings.handshake_timeout;
        let greeted = tokio::select! {
            greeted = timeout(limit, self.answer(connecting)) => greeted,
            () = self.closing.cancelled() => return,
        };
        self.handshakes.set(self.handshakes.get().saturating_sub(1));
        match greeted {
            Ok(Ok(Some(greetings))) => drop(self.adopt(greetings)),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                if let Some(error) = error.lost() {
                    self.parts.quic.report(Direction::Accepted, from, error);
                }
                tracing::debug!(peer.address = %from, error = %Chain(&error), "handshake of a peer failed");
            }
            Err(_) => tracing::debug!(peer.address = %from, "peer too slow to say hello"),
        }
    }

    /// Greets a connection. One for lanes waits until its partner for bodies is there too (P3).
    async fn answer(self: &Rc<Self>, connecting: quinn::Connecting) -> Result<Option<Greetings>, HandshakeError> {
        let made = Made {
            dialled: None,
            own: self.parts.quic.credentials().current(),
        };
        let connection = connecting.await?;
        if quic::is_line(&connection) {
            self.take_line(connection).await?;
            return Ok(None);
        }
        self.check_not_own(&connection)?;
        let heard = handshake::hear(connection.clone()).await?;
        let link_id = heard.theirs.link_id.clone();
        let ours = self.hello(heard.theirs.purpose(), link_id.clone());
        if heard.theirs.purpose() == Purpose::Bodies {
            self.parts.quic.adopt(&connection, quic::Purpose::Bodies);
            let partner = self
                .half
                .borrow_mut()
                .remove(&link_id)
                .filter(|(peer, _)| *peer == heard.peer);
            let (_, partner) = partner.ok_or(HandshakeError::NoPartner)?;
            let greeted = heard.reply(&ours).await?;
            // Gone if the partner gave up meanwhile; the dialling side then sees that connection end.
            let _ = partner.send(greeted.connection);
            return Ok(None);
        }
        let (sender, partner) = oneshot::channel();
        let waiting = Half {
            peers: self,
            link_id: link_id.clone(),
        };
        self.half.borrow_mut().insert(link_id, (heard.peer.clone(), sender));
        let greeted = heard.reply(&ours).await?;
        let streams = handshake::accept_lanes(&connection).await?;
        let bodies = partner.await.map_err(|_| HandshakeError::NoPartner)?;
        drop(waiting);
        Ok(Some(Greetings {
            lanes: greeted,
            streams,
            bodies,
            made,
        }))
    }
}

/// Takes a waiting connection out of the table when its wait ends, however it ends.
struct Half<'a> {
    peers: &'a Peers,
    link_id: Vec<u8>,
}

impl Drop for Half<'_> {
    fn drop(&mut self) {
        self.peers.half.borrow_mut().remove(&self.link_id);
    }
}
