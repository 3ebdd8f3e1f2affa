//! Tells the story, to people or to programs.

use std::io::{self, IsTerminal, Write};

use super::super::{CliError, Output, write_json};
use super::DemoError;
use super::report::Document;
use super::world::{Unit, World};

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
            "All of this was checked against the replies and the counters of the relays.",
        );
        self.line(&format!("\n{text}"))
    }

    pub(super) fn keeps_running(&mut self, world: &World) -> Result<(), CliError> {
        let Some(first) = world.relays().first() else {
            return Ok(());
        };
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
        let (grpc, framed) = (first.grpc(), first.framed());
        let program = std::env::current_exe().map_or_else(|_| "strait".to_owned(), |path| path.display().to_string());
        self.line(&format!(
            "    files    {}\n\nTry, in another terminal:\n",
            world.folder().display()
        ))?;
        self.line(&format!(
            "    {program} call im.Echo/Say --key im.conversation=cid:3001 --data hello --relay tcp://{framed}"
        ))?;
        self.line(&format!(
            "    {program} call im.Presence/Where --key im.conversation=cid:2001 --data hello --relay http://{grpc}"
        ))?;
        self.line("\nand from Python, with grpcio:\n")?;
        self.line(&format!(
            "    python3 -c 'import grpc; print(grpc.insecure_channel(\"{grpc}\").unary_unary(\"/im.Echo/Say\")(\
             b\"hello\", metadata=[(\"strait-key\", \"im.conversation=cid:3001\")]))'"
        ))
    }
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
