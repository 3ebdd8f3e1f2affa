//! `strait subscribe`.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;

use super::super::call::answer::Trouble;
use super::super::call::{Way, way};
use super::super::{CliError, Output, grpc};
use crate::wire::messages::{self, Ack, Encode, Nack, Received, Say, Start, SubscribeRequest, Terminate};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct SubscribeArgs {
    /// The topic
    topic: String,
    /// The group; each message goes to one consumer of it
    #[arg(long, value_name = "GROUP")]
    group: String,
    /// End after so many messages; go on until interrupted if not given
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End if no message comes for so long
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    idle: Option<Duration>,
    /// Messages at a time
    #[arg(long, default_value_t = 64, value_name = "N")]
    in_flight: u32,
    /// Say that each is done (this is what happens if nothing else is said)
    #[arg(long, group = "settle")]
    ack: bool,
    /// Say that each failed, so that it comes again
    #[arg(long, group = "settle")]
    nack: bool,
    /// Say that each failed for good, so that it becomes a dead letter
    #[arg(long, group = "settle")]
    terminate: bool,
    /// Say nothing: they go back to the group when this command ends, without counting as an attempt
    #[arg(long, group = "settle")]
    no_ack: bool,
    /// With --nack: pause before the next attempt
    #[arg(long, value_name = "TIME", requires = "nack", value_parser = humantime::parse_duration)]
    delay: Option<Duration>,
    /// With --nack and --terminate: why
    #[arg(long, default_value = "strait subscribe", value_name = "TEXT")]
    reason: String,
    /// Where the relay listens for gRPC
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "STRAIT_RELAY_GRPC",
        default_value = "http://127.0.0.1:7400"
    )]
    relay: String,
}

/// For `strait subscribe --help`.
pub(in crate::cli) const SUBSCRIBE_HELP: &str = "\
Examples:
  strait subscribe im.sent --group archive
  strait subscribe im.sent --group archive --count 10 --output json | jq .id
  strait subscribe im.sent --group look --no-ack --count 1
  strait subscribe im.sent --group archive --nack --delay 5s --count 1 --relay unix:data/grpc.sock

A group that is not there is made, and gets what is published from then on.
Addresses: http://host:port or unix:/path of the gRPC listener.
Bodies go to standard output, one a line, and what came with them to standard error; with --output json one document
for each message, all of it, to standard output. Delivery is at least once: the same id can come twice.
Exit codes: 0 ended as asked, 1 the relay went away or could not be reached, 2 the relay refuses the topic or group,
64 the command line is wrong";

#[derive(Serialize)]
struct Document<'a> {
    id: &'a str,
    topic: &'a str,
    key: Option<String>,
    attempt: u32,
    accepted_at_ms: u64,
    expires_at_ms: Option<u64>,
    attributes: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_hex: Option<String>,
}

pub(in crate::cli) fn run(args: &SubscribeArgs, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(subscribe(args, output, out))?;
    let Some(trouble) = ended else { return Ok(()) };
    // Nowhere else to say that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{}", trouble.words());
    Err(if trouble.is_no { CliError::No } else { CliError::Told })
}

/// Receives until it is enough; what went wrong, if something did.
async fn subscribe(args: &SubscribeArgs, output: Output, out: &mut impl Write) -> Result<Option<Trouble>, CliError> {
    let (Way::Grpc(address) | Way::Framed(address)) = way(Some(&args.relay), true);
    let channel = match grpc::connect(&address, CONNECT_TIMEOUT).await {
        Ok(channel) => channel,
        Err(error) => return Ok(Some(Trouble::unreachable(&error))),
    };
    let (requests, to_send) = mpsc::channel(REQUESTS_MAX);
    let start = Say::Start(Start {
        topic: args.topic.clone(),
        group: args.group.clone(),
        in_flight_max: args.in_flight,
    });
    // There is room for the first.
    let _ = requests.send(say(start)).await;
    let mut messages = match grpc::stream(channel, "/strait.v1.Messages/Subscribe", to_send).await {
        Ok(messages) => messages,
        Err(status) => return Ok(Some(Trouble::of_status(&status))),
    };
    let mut requests = Some(requests);
    let mut count = 0;
    loop {
        let idle = async {
            match args.idle {
                Some(idle) => tokio::time::sleep(idle).await,
                None => std::future::pending().await,
            }
        };
        let next = tokio::select! {
            next = messages.message() => next,
            () = idle, if requests.is_some() => {
                requests = None;
                continue;
            }
            _ = tokio::signal::ctrl_c(), if requests.is_some() => {
                requests = None;
                continue;
            }
        };
        let bytes = match next {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(status) => return Ok(Some(Trouble::of_status(&status))),
        };
        // After the end was asked for: those go back to the group.
        let Some(sender) = &requests else { continue };
        let Ok(received) = messages::decode::<Received>(bytes) else {
            continue;
        };
        print(&received, output, out)?;
        if let Some(settlement) = args.settlement(received.delivery) {
            let _ = sender.send(settlement).await;
        }
        count += 1;
        if args.count.is_some_and(|wanted| count >= wanted) {
            // Ends this side: the relay reads what was settled, then ends its own.
            requests = None;
        }
    }
}

impl SubscribeArgs {
    fn settlement(&self, delivery: u64) -> Option<Bytes> {
        if self.no_ack {
            return None;
        }
        let reason = self.reason.clone();
        let delay_ms = self
            .delay
            .map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
        Some(say(if self.nack {
            Say::Nack(Nack {
                delivery,
                delay_ms,
                reason,
            })
        } else if self.terminate {
            Say::Terminate(Terminate { delivery, reason })
        } else {
            Say::Ack(Ack {
                deliveries: vec![delivery],
            })
        }))
    }
}

fn say(say: Say) -> Bytes {
    SubscribeRequest { request: Some(say) }.to_bytes()
}

fn print(received: &Received, output: Output, out: &mut impl Write) -> Result<(), CliError> {
    let key = received.key.as_ref().map(|key| {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        format!("{}={}", text(&key.dimension), text(&key.key))
    });
    if output == Output::Json {
        let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
        let attributes = received.attributes.iter();
        let attributes = attributes.map(|one| (text(&one.name), text(&one.value).into()));
        let body = std::str::from_utf8(&received.body).ok();
        let document = Document {
            id: &received.id,
            topic: &received.topic,
            key,
            attempt: received.attempt,
            accepted_at_ms: received.accepted_at_ms,
            expires_at_ms: (received.expires_at_ms > 0).then_some(received.expires_at_ms),
            attributes: attributes.collect(),
            body,
            body_hex: body.is_none().then(|| hex(&received.body)),
        };
        let line = serde_json::to_string(&document).map_err(|error| CliError::Format(Box::new(error)))?;
        writeln!(out, "{line}")?;
        return Ok(out.flush()?);
    }
    let key = key.map_or(String::new(), |key| format!(" {key}"));
    let again = if received.attempt > 1 {
        format!(", attempt {}", received.attempt)
    } else {
        String::new()
    };
    let bytes = received.body.len();
    // Nowhere else to say that standard error is closed.
    let _ = writeln!(io::stderr().lock(), "{}{key}: {bytes} bytes{again}", received.id);
    out.write_all(&received.body)?;
    if io::stdout().is_terminal() || !received.body.ends_with(b"\n") {
        out.write_all(b"\n")?;
    }
    Ok(out.flush()?)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const REQUESTS_MAX: usize = 256;
