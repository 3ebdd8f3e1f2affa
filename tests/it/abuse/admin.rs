//! Attacks on the admin endpoint.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{MIB, Target};
use crate::harness::http_get;

// O-S4: noise and slow clients at the admin port stop neither calls nor scrapes.
#[tokio::test]
async fn noise_and_idlers_stop_neither_calls_nor_scrapes() {
    let target = Target::start().await;
    let admin = target.cluster.relay("a-1").admin();
    let noise: Vec<u8> = (0..100_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut idlers = Vec::new();
    for number in 0..200 {
        let mut stream = TcpStream::connect(&admin).await.unwrap();
        let bytes: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /metrics HT",
            _ => &noise,
        };
        let _ = tokio::time::timeout(Duration::from_millis(200), stream.write_all(bytes)).await;
        idlers.push(stream);
    }
    let long = format!("/{}", "x".repeat(200_000));
    let _ = http_get(&admin, &long).await;
    assert_eq!(http_get(&admin, "/metrics").await.unwrap().0, 200);
    target.is_well("noise at the admin port", 32 * MIB).await;
}

// O-S3: looking is allowed here, changing is not done by a GET, and unknown paths are not found.
#[tokio::test]
async fn a_get_changes_nothing() {
    let target = Target::start().await;
    let admin = target.cluster.relay("a-1").admin();
    assert_eq!(http_get(&admin, "/drain").await.unwrap().0, 405);
    assert_eq!(http_get(&admin, "/no/such/page").await.unwrap().0, 404);
    assert_eq!(http_get(&admin, "/readyz").await.unwrap().0, 200);
    target.is_well("a GET of /drain", 16 * MIB).await;
}
