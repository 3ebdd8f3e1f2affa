//! Tells the story, to people or to programs.

use std::io::{self, IsTerminal, Write};

use super::super::{CliError, Output, write_json};
use super::DemoError;
use super::publishing::POISON;
use super::report::Document;
use super::world::{TOPIC, Unit, World};

/// Where the demo tells its story.
pub(super) struct Show<'a, W> {
    out: &'a mut W,
    output: Output,
    colour: bool,
    acts: u8,
}

impl<'a, W: Write> Show<'a, W> {
    pub(super) fn new(out: &'a mut W, output: Output) -> Self {
        let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Self {
            out,
            output,
            colour,
            acts: 0,
        }
    }

    fn line(&mut self, text: &str) -> Result<(), CliError> {
        if self.output == Output::Human {
            writeln!(self.out, "{text}")?;
            self.out.flush()?;
        }
        Ok(())
    }

    pub(super) fn title(&mut self, text: &str) -> Result<(), CliError> {
        let text = match self.acts {
            0 => text.to_owned(),
            act => format!("\n{act}. {text}"),
        };
        self.acts += 1;
        let text = self.painted("1", &text);
        self.line(&text)
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    pub(super) fn units(&mut self, world: &World) -> Result<(), CliError> {
        self.line("")?;
        for relay in world.relays() {
            let Unit { name, geo, prefix, .. } = relay.unit;
            let pid = relay.pid().unwrap_or_default();
            self.line(&format!(
                "    Geo {geo:<8} unit {name}   owns the conversations {prefix}...   process {pid}"
            ))?;
        }
        let Unit { name, geo, relay, .. } = world.authority().unit;
        let pid = world.authority().pid().unwrap_or_default();
        self.line(&format!(
            "    Geo {geo:<8} unit {name}   relay {relay} keeps the routes of the Geo   process {pid}"
        ))?;
        self.line("")
    }

    /// Tells an act that held (R1 of `report`).
    pub(super) fn tell(&mut self, problems: &[String], text: impl FnOnce() -> String) -> Result<(), CliError> {
        if !problems.is_empty() {
            return Err(DemoError::NotHeld(problems.to_vec()).into());
        }
        for line in text().lines() {
            self.line(line)?;
        }
        Ok(())
    }

    pub(super) fn done(&mut self, document: &Document, world: &World) -> Result<(), CliError> {
        if self.output == Output::Json {
            let addresses = addresses(world);
            write_json(self.out, &Told { document, addresses })?;
            return Ok(self.out.flush()?);
        }
        let text = self.painted(
            "32",
            "All of this was checked against the replies, the subscribers, and the counters and books of the relays.",
        );
        self.line(&format!("\n{text}"))
    }

    pub(super) fn keeps_running(&mut self, world: &World) -> Result<(), CliError> {
        let title = self.painted("1", "It keeps running. Ctrl-C ends it and removes all of it.");
        self.line(&format!("\n{title}\n"))?;
        for relay in world.relays() {
            self.line(&format!(
                "    unit {}   gRPC http://{}   framed tcp://{}   metrics http://{}/metrics",
                relay.unit.name,
                relay.grpc(),
                relay.framed(),
                relay.admin()
            ))?;
        }
        self.line(&format!("    files    {}", world.folder().display()))?;
        let program = std::env::current_exe().map_or_else(|_| "strait".to_owned(), |path| path.display().to_string());
        for (what, commands) in to_try(world) {
            self.line(&format!("\n{what}:\n"))?;
            for command in commands {
                self.line(&format!("    {program} {command}"))?;
            }
        }
        self.line("\nand from Python, with grpcio:\n")?;
        let grpc = world.publishing().grpc();
        self.line(&format!(
            "    python3 -c 'import grpc; print(grpc.insecure_channel(\"{grpc}\").unary_unary(\"/im.Echo/Say\")(\
             b\"hello\", metadata=[(\"strait-key\", \"im.conversation=cid:3001\")]))'"
        ))
    }
}

/// Commands that work while the demo runs.
fn to_try(world: &World) -> [(&'static str, Vec<String>); 4] {
    let (near, far) = (world.publishing(), world.away());
    let (grpc, framed, admin) = (near.grpc(), near.framed(), near.admin());
    let (far_grpc, far_admin) = (far.grpc(), far.admin());
    let publish = format!("publish {TOPIC} --key im.conversation=cid:3001 --relay tcp://{framed} --body");
    [
        (
            "Try, in another terminal",
            vec![
                format!("call im.Echo/Say --key im.conversation=cid:3001 --data hello --relay tcp://{framed}"),
                format!("call im.Presence/Where --key im.conversation=cid:2001 --data hello --relay http://{grpc}"),
            ],
        ),
        (
            "Messages: receive in unit c (until Ctrl-C), and publish in unit a from a third terminal",
            vec![
                format!("subscribe {TOPIC} --group mine --relay http://{far_grpc}"),
                format!("{publish} hello"),
            ],
        ),
        (
            "Rooms belong to who writes first. Write to one in unit a, move it to unit b, write again, see its history; what a drain would do",
            vec![
                format!("call im.Room/Write --key im.room=mine --data hello --relay tcp://{framed}"),
                format!("route move --key im.room=mine --to b --reason curiosity --wait --admin {admin}"),
                format!("call im.Room/Write --key im.room=mine --data hello --relay tcp://{framed}"),
                format!("route history --key im.room=mine --admin {admin}"),
                format!("unit drain b --to a=1 --dry-run --admin {admin}"),
            ],
        ),
        (
            "The demo's own subscribers refuse the message 'poison', once. See what was given up, take it back, see the rest",
            vec![
                format!("{publish} {POISON}"),
                format!("dlq list --admin {far_admin}"),
                format!("dlq redrive --topic {TOPIC} --allow-reorder --wait --admin {far_admin}"),
                format!("queue status --admin {admin}"),
                format!("audit --admin {admin}"),
            ],
        ),
    ]
}

/// For programs: what was seen, and where the relays are.
#[derive(serde::Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    document: &'a Document,
    addresses: serde_json::Value,
}

fn addresses(world: &World) -> serde_json::Value {
    let all = world.relays().iter().map(|relay| {
        serde_json::json!({
            "unit": relay.unit.name,
            "grpc": relay.grpc(),
            "framed": relay.framed(),
            "admin": relay.admin(),
            "pid": relay.pid(),
        })
    });
    all.collect()
}
