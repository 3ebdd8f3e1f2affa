//! Makes one call through the local relay.
//!
//! ```text
//! cargo run --example framed_call -- unix:data/strait.sock im.Echo/Say im.conversation cid:1 hello
//! ```
#![allow(clippy::print_stdout, reason = "the output of a program")]

use std::time::Duration;

use strait::client::{Call, Client};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, method, dimension, key, body] = arguments.as_slice() else {
        return Err("usage: framed_call <address> <service/Method> <dimension> <key> <body>".into());
    };
    let client = Client::connect(address).await?;
    let call = Call::new(method)
        .key(dimension, key)
        .body(body.clone())
        .timeout(Duration::from_secs(5));
    let reply = client.call(call).await?;
    let unit = reply.metadata().text("strait-unit").unwrap_or("this unit");
    println!("{unit}: {}", String::from_utf8_lossy(reply.body()));
    Ok(())
}
