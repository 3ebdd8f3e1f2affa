//! What a link can move at best: one plain quinn connection with the product's QUIC and TLS settings, one way.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use strait::peer::quic::Purpose;
use tokio::task::spawn_local;

use crate::link::{Identity, Side};
use crate::plain::{self, Plain};
use crate::rows::block_on;
use crate::stage::Stage;

/// MiB/s over so long.
pub fn link_speed(stage: &Stage, time: Duration) -> f64 {
    let identity = |unit| Identity::of(&stage.directory, unit);
    let (at, _server) = plain::serve(identity("b"), |_| {});
    block_on(async {
        let side = Side::new(&identity("a"), ("b", Some(at)), |_| {});
        let plain = Plain::dial(&side, at, Purpose::Bodies).await;
        let (begin, bytes) = (Instant::now(), Rc::new(Cell::new(0)));
        let streams = (0..4).map(|_| {
            let (plain, bytes) = (Rc::clone(&plain), Rc::clone(&bytes));
            spawn_local(async move {
                let body = Bytes::from(vec![b'x'; 1 << 20]);
                while begin.elapsed() < time {
                    assert!(plain.call(body.clone(), false).await, "the plain connection broke");
                    bytes.set(bytes.get() + body.len());
                }
            })
        });
        for stream in streams.collect::<Vec<_>>() {
            stream.await.unwrap();
        }
        bytes.get() as f64 / 1_048_576.0 / begin.elapsed().as_secs_f64()
    })
}
