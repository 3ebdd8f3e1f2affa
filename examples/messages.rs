//! Publishes messages at the local relay and receives them again.
//!
//! ```text
//! cargo run --example messages -- unix:data/strait.sock im.sent archive hello world
//! ```
//! The topic must be in the relay's settings, such as `[topics."im.sent"]` with `rule = "local"`.
#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::time::Duration;

use strait::client::{AckLevel, Attempt, Client, Publish, Subscribe};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, topic, group, bodies @ ..] = arguments.as_slice() else {
        return Err("usage: messages <address> <topic> <group> <body>...".into());
    };
    let client = Client::connect(address).await?;
    // What the handler returns is the settlement; at least once, so the same id can come again.
    let receive = async |message: Attempt| {
        println!(
            "received {} attempt {}: {:?}",
            message.id(),
            message.number(),
            message.body()
        );
        Ok(())
    };
    client.subscribe(Subscribe::new(topic, group), receive).await?;
    for (number, body) in bodies.iter().enumerate() {
        let message = Publish::new(topic)
            .identity("/example", &format!("{body}-{number}"))
            .body(body.clone())
            .wait(AckLevel::Delivered)
            .timeout(Duration::from_secs(5));
        let published = client.publish(message).await?;
        println!("{} came as far as {:?}", published.id(), published.level());
    }
    Ok(())
}
