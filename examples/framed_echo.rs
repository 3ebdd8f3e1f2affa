//! A service that registers itself with its relay and echoes what it gets.
//!
//! ```text
//! cargo run --example framed_echo -- unix:data/strait.sock im.Echo
//! ```
//! The relay needs the service in its settings: `[services."im.Echo"]`.
#![allow(clippy::print_stdout, reason = "the output of a program")]

use strait::client::{Client, Reply};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "tcp://127.0.0.1:7401".to_owned());
    let service = arguments.next().unwrap_or_else(|| "im.Echo".to_owned());

    let client = Client::builder(&address)
        .serving_max(4096)
        .instance("echo")
        .connect()
        .await?;
    client
        .serve(&service, async |received| Ok(Reply::new(received.body().clone())))
        .await?;
    println!("serving {service} at {address}; end with Ctrl-C");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
