//! `strait publish`.

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::ValueEnum;
use tokio::time::Instant;

use super::super::call::answer::Trouble;
use super::super::call::{Way, way};
use super::super::{CliError, Output, grpc, write_json};
use super::summary::{One, Summary, f64_of};
use crate::client::{Call, Client};
use crate::wire::messages::{
    self, AckLevel, Attribute, Encode, MessageKey, PublishBatchReply, PublishBatchRequest, PublishRequest,
};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct PublishArgs {
    /// The topic
    topic: String,
    /// The key; {n} stands for the number of the message
    #[arg(long, value_name = "DIMENSION=KEY", value_parser = super::key)]
    key: Option<(String, String)>,
    /// A `CloudEvents` attribute, such as source, id, type, expirytime; may be repeated; {n} stands for the number
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = super::attribute)]
    attributes: Vec<(String, String)>,
    /// The body; {n} stands for the number of the message
    #[arg(long, value_name = "TEXT", group = "content")]
    body: Option<String>,
    /// The body from a file; - is standard input
    #[arg(long, value_name = "FILE", group = "content")]
    file: Option<PathBuf>,
    /// One message for each line of standard input
    #[arg(long, group = "content")]
    lines: bool,
    /// How far each must have come
    #[arg(long, value_enum, default_value_t = Wait::Accepted)]
    wait: Wait,
    /// How many; each has its number, from 1 on
    #[arg(long, default_value_t = 1, value_name = "N", conflicts_with = "lines")]
    count: u64,
    /// Messages per second; as fast as possible if not given
    #[arg(long, value_name = "R")]
    rate: Option<f64>,
    /// When to give up waiting
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Where the relay listens; the default ports of this machine if not given
    #[arg(long, value_name = "ADDRESS", env = "STRAIT_RELAY")]
    relay: Option<String>,
    /// Speak gRPC instead of the framed protocol
    #[arg(long)]
    grpc: bool,
}

/// How far a message must have come.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Wait {
    /// On this relay's disk
    Accepted,
    /// And on the disk of a relay of each unit it goes to
    Relayed,
    /// And acknowledged by a consumer of each group there
    Delivered,
}

/// For `strait publish --help`.
pub(in crate::cli) const PUBLISH_HELP: &str = "\
Examples:
  strait publish im.sent --key im.conversation=cid:1 --attribute source=/im --attribute id=17 --body hello
  strait publish im.sent --key uid=42 --file message.bin --wait relayed --timeout 10s
  tail -f events.log | strait publish audit --lines
  strait publish load --key uid={n} --body 'message {n}' --count 10000 --rate 500

A message with source and id is recognised when it is published again (queue.dedup).
Addresses: unix:/path and tcp://host:port speak the framed protocol, http://host:port speaks gRPC.
The id of each message and how far it came go to standard output, what went wrong to standard error.
Exit codes: 0 all came as far as wished, 1 one failed (deadline, no relay, full), 2 the answer is no (topic, key or
attributes that the relay refuses), 64 the command line is wrong";

pub(in crate::cli) fn run(args: &PublishArgs, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let content = args.content()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let summary = runtime.block_on(publish(args, content, output, out))?;
    if output == Output::Json {
        write_json(out, &summary)?;
    } else {
        out.flush()?;
        // Nowhere else to say that standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{}", summary.words());
    }
    match (summary.ok, summary.is_no) {
        (true, _) => Ok(()),
        (false, true) => Err(CliError::No),
        (false, false) => Err(CliError::Told),
    }
}

async fn publish(
    args: &PublishArgs,
    content: Content,
    output: Output,
    out: &mut impl Write,
) -> Result<Summary, CliError> {
    let started = Instant::now();
    let mut summary = Summary::default();
    let relay = match Relay::connect(args).await {
        Ok(relay) => relay,
        Err(trouble) => {
            summary.add(One::failed(trouble), output, out)?;
            return Ok(summary);
        }
    };
    let batch = args.rate.map_or(BATCH_MAX, |rate| batch_of(rate));
    let mut bodies = content.bodies(args.count);
    let mut number = 0;
    loop {
        let mut batch_bodies = Vec::new();
        while batch_bodies.len() < batch
            && let Some(body) = bodies.next()
        {
            batch_bodies.push(body?);
            if args.lines {
                // What was typed goes out at once.
                break;
            }
        }
        if batch_bodies.is_empty() {
            break;
        }
        let first = number + 1;
        number += u64::try_from(batch_bodies.len()).unwrap_or(0);
        let requests = (first..)
            .zip(batch_bodies)
            .map(|(number, body)| args.request(number, body));
        for one in relay.publish(requests.collect()).await {
            summary.add(one, output, out)?;
        }
        if let Some(rate) = args.rate.filter(|rate| *rate > 0.0) {
            let due = Duration::try_from_secs_f64(f64_of(number) / rate).unwrap_or(Duration::MAX);
            tokio::time::sleep_until(started + due.min(YEAR)).await;
        }
    }
    summary.ok = summary.failed == 0;
    summary.seconds = started.elapsed().as_secs_f64();
    Ok(summary)
}

/// A connection to a relay.
enum Connection {
    Framed(Client),
    Grpc(tonic::transport::Channel),
}

struct Relay {
    connection: Connection,
    timeout: Duration,
}

impl Relay {
    async fn connect(args: &PublishArgs) -> Result<Self, Trouble> {
        let timeout = args.timeout;
        let connection = match way(args.relay.as_deref(), args.grpc) {
            Way::Framed(address) => {
                let client = Client::connect(&address).await;
                Connection::Framed(client.map_err(|error| Trouble::unreachable(&error))?)
            }
            Way::Grpc(address) => {
                let channel = grpc::connect(&address, timeout).await;
                Connection::Grpc(channel.map_err(|error| Trouble::unreachable(&error))?)
            }
        };
        Ok(Self { connection, timeout })
    }

    async fn publish(&self, messages: Vec<PublishRequest>) -> Vec<One> {
        let count = messages.len();
        match self.call(PublishBatchRequest { messages }.to_bytes()).await {
            Ok(reply) => reply.replies.into_iter().map(One::of).collect(),
            Err(trouble) => {
                // It speaks for all of them; one line is enough.
                let mut all = vec![One::failed(trouble)];
                all.extend((1..count).map(|_| One::unknown()));
                all
            }
        }
    }

    async fn call(&self, body: Bytes) -> Result<PublishBatchReply, Trouble> {
        let attempt = async {
            match &self.connection {
                Connection::Framed(client) => {
                    let call = Call::new(METHOD).body(body).timeout(self.timeout);
                    let reply = client.call(call).await;
                    reply
                        .map_err(|error| Trouble::of_call(&error))
                        .map(|reply| reply.into_body())
                }
                Connection::Grpc(channel) => {
                    let call = grpc::Unary {
                        method: METHOD.to_owned(),
                        fields: Vec::new(),
                        body,
                        timeout: self.timeout,
                    };
                    let reply = grpc::unary(channel.clone(), call).await;
                    reply
                        .map_err(|status| Trouble::of_status(&status))
                        .map(tonic::Response::into_inner)
                }
            }
        };
        let reply = tokio::time::timeout(self.timeout + GRACE, attempt).await;
        let reply = reply.unwrap_or_else(|_| Err(Trouble::silent(self.timeout)))?;
        messages::decode(reply).map_err(|error| Trouble::unreachable(&error))
    }
}

impl PublishArgs {
    fn content(&self) -> io::Result<Content> {
        if self.lines {
            return Ok(Content::Lines);
        }
        let Some(file) = &self.file else {
            return Ok(Content::Text(self.body.clone().unwrap_or_default()));
        };
        if file.as_os_str() == "-" {
            let mut body = Vec::new();
            io::stdin().lock().read_to_end(&mut body)?;
            return Ok(Content::Bytes(body.into()));
        }
        let read = std::fs::read(file);
        let read = read.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())));
        Ok(Content::Bytes(read?.into()))
    }

    fn request(&self, number: u64, body: Bytes) -> PublishRequest {
        let fill = |text: &str| Bytes::from(numbered(text, number));
        let wait = match self.wait {
            Wait::Accepted => AckLevel::Accepted,
            Wait::Relayed => AckLevel::Relayed,
            Wait::Delivered => AckLevel::Delivered,
        };
        PublishRequest {
            topic: Bytes::copy_from_slice(self.topic.as_bytes()),
            key: self.key.as_ref().map(|(dimension, key)| MessageKey {
                dimension: Bytes::copy_from_slice(dimension.as_bytes()),
                key: fill(key),
            }),
            attributes: self
                .attributes
                .iter()
                .map(|(name, value)| Attribute {
                    name: Bytes::copy_from_slice(name.as_bytes()),
                    value: fill(value),
                })
                .collect(),
            body,
            wait: wait.into(),
            ..PublishRequest::default()
        }
    }
}

/// Where bodies come from.
enum Content {
    Text(String),
    Bytes(Bytes),
    Lines,
}

impl Content {
    fn bodies(self, count: u64) -> Box<dyn Iterator<Item = io::Result<Bytes>>> {
        match self {
            Self::Text(text) => Box::new((1..=count).map(move |number| Ok(numbered(&text, number).into()))),
            Self::Bytes(bytes) => Box::new((1..=count).map(move |_| Ok(bytes.clone()))),
            Self::Lines => Box::new(io::stdin().lock().lines().map(|line| line.map(Bytes::from))),
        }
    }
}

fn numbered(text: &str, number: u64) -> String {
    text.replace("{n}", &number.to_string())
}

/// Messages in one call, so that the rate is kept evenly: a twentieth of a second's.
fn batch_of(rate: f64) -> usize {
    let each = Duration::try_from_secs_f64(1.0 / rate.max(0.001)).unwrap_or(YEAR);
    let count = Duration::from_millis(50).as_nanos() / each.as_nanos().max(1);
    usize::try_from(count).unwrap_or(BATCH_MAX).clamp(1, BATCH_MAX)
}

const METHOD: &str = "strait.v1.Messages/PublishBatch";
const BATCH_MAX: usize = 500;
/// How much longer than the deadline the command waits for the error that tells of it.
const GRACE: Duration = Duration::from_secs(1);
const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_kept_by_small_calls() {
        assert_eq!(batch_of(10.0), 1);
        assert_eq!(batch_of(500.0), 25);
        assert_eq!(batch_of(1e9), BATCH_MAX);
        assert_eq!(batch_of(0.0), 1);
    }

    #[test]
    fn each_message_has_its_number() {
        assert_eq!(numbered("message {n} of {n}", 7), "message 7 of 7");
    }
}
