//! One plain quinn connection with the product's own settings for QUIC and TLS, and a two-way stream for everything: what
//! one would write without a relay.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;

use strait::peer::Settings;
use strait::peer::quic::{Purpose, Quic, SERVER_NAME};

use crate::background::Background;
use crate::link::{Identity, Side, on_thread};

/// First byte of a stream: send the body back, or take it.
const ECHO: u8 = 0;
const TAKE: u8 = 1;
/// Packets taken from a stream at once, as many as the product takes.
const CHUNKS: usize = 48;

/// The answering side, on a thread of its own.
pub fn serve(identity: Identity, tune: fn(&mut Settings)) -> (SocketAddr, Background) {
    let side = move || Side::new(&identity, ("a", None), tune);
    on_thread("plain-b", side, |side, endpoint| async move {
        while let Some(incoming) = endpoint.accept().await {
            let Some(connecting) = side.quic.accept(incoming, 0) else {
                continue;
            };
            spawn_local(answer(side.quic.clone(), connecting));
        }
    })
}

async fn answer(quic: Quic, connecting: quinn::Connecting) {
    let Ok(connection) = connecting.await else { return };
    quic.adopt(&connection, Purpose::Bodies);
    while let Ok((send, receive)) = connection.accept_bi().await {
        spawn_local(answer_stream(send, receive));
    }
}

async fn answer_stream(mut send: quinn::SendStream, mut receive: quinn::RecvStream) -> Option<()> {
    let mut mode = [0];
    receive.read_exact(&mut mode).await.ok()?;
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    while let Some(count) = receive.read_chunks(&mut chunks).await.ok()? {
        if mode == [ECHO] {
            send.write_all_chunks(&mut chunks[..count]).await.ok()?;
        }
    }
    send.finish().ok()
}

/// The calling side.
pub struct Plain {
    connection: quinn::Connection,
    _endpoint: quinn::Endpoint,
}

impl Plain {
    /// Dials; tries again for some seconds, as a path may lose packets.
    pub async fn dial(side: &Side, at: SocketAddr, purpose: Purpose) -> Rc<Self> {
        let endpoint = side.quic.client_endpoint([127, 0, 0, 1].into()).unwrap();
        let config = side.client_config("b", purpose);
        let connecting = endpoint.connect_with(config, at, SERVER_NAME).unwrap();
        let connection = tokio::time::timeout(Duration::from_secs(20), connecting).await;
        Rc::new(Self {
            connection: connection.unwrap().unwrap(),
            _endpoint: endpoint,
        })
    }

    /// One body on a stream of its own; ends when the answer is whole. `false` if the connection broke.
    pub async fn call(&self, body: Bytes, echo: bool) -> bool {
        self.try_call(body, echo).await.is_some()
    }

    async fn try_call(&self, body: Bytes, echo: bool) -> Option<()> {
        let (mut send, mut receive) = self.connection.open_bi().await.ok()?;
        let wanted = if echo { body.len() } else { 0 };
        let write = async {
            let mode = if echo { &[ECHO] } else { &[TAKE] };
            let mut chunks = [Bytes::from_static(mode), body];
            send.write_all_chunks(&mut chunks).await.ok()?;
            send.finish().ok()
        };
        let read = async {
            let mut read = 0;
            let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
            while let Some(count) = receive.read_chunks(&mut chunks).await.ok()? {
                read += chunks[..count].iter().map(Bytes::len).sum::<usize>();
            }
            (read == wanted).then_some(())
        };
        let (written, returned) = tokio::join!(write, read);
        written.and(returned)
    }
}
