//! What is measured: pairs of servers on the same work.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use crate::load::Target;
use crate::nats::{self, DELIVER};
use crate::nats_speech::Nats;
use crate::process::Process;
use crate::speech::Speech;
use crate::stage::{Side, Stage};
use crate::strait;
use crate::strait_speech::{Framed, Wish};

/// What can be measured.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, clap::ValueEnum)]
pub enum Peer {
    /// NATS as it comes: acknowledged before the disk has it.
    Nats,
    /// NATS with `sync_interval: always`.
    NatsAlways,
    /// Strait.
    Strait,
}

/// A running pair.
pub enum Pair {
    /// Of NATS servers.
    Nats(nats::Pair),
    /// Of relays.
    Strait(strait::Pair),
}

impl Peer {
    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nats => "nats",
            Self::NatsAlways => "nats-always",
            Self::Strait => "strait",
        }
    }

    /// Whether it is installed; if not, what to do.
    pub fn installed(self) -> Result<(), String> {
        if self == Self::Strait || nats::server().exists() {
            return Ok(());
        }
        Err(format!(
            "{} is not installed: run benches/messages/install",
            self.name()
        ))
    }

    /// Starts both sides; `name` is that of their directory.
    pub fn start(self, stage: &Stage, name: &str) -> Pair {
        let name = format!("{name}-{}", self.name());
        match self {
            Self::Nats | Self::NatsAlways => Pair::Nats(nats::Pair::start(stage, &name, self == Self::NatsAlways)),
            Self::Strait => Pair::Strait(strait::Pair::start(stage, &name, "")),
        }
    }
}

impl Pair {
    /// Where publishers connect to at a side.
    pub fn publishers(&self, side: Side) -> Target {
        match self {
            Self::Nats(pair) => Target {
                port: pair.port(side),
                speech: Rc::new(|number| -> Box<dyn Speech> { Box::new(Nats::new(&format!("p{number}"), DELIVER)) }),
            },
            Self::Strait(pair) => pair.target(side, Wish::Accepted),
        }
    }

    /// Where the consumer at B connects to. Call it once per pair.
    pub fn consumer(&self, in_flight: usize) -> Target {
        match self {
            Self::Nats(pair) => {
                pair.make_consumer(in_flight);
                self.publishers(Side::B)
            }
            Self::Strait(pair) => Target {
                port: pair.port(Side::B),
                speech: Rc::new(|_| -> Box<dyn Speech> { Box::new(Framed::consumer()) }),
            },
        }
    }

    /// Starts one side, on the files it has.
    pub fn start_side(&mut self, side: Side) {
        match self {
            Self::Nats(pair) => pair.start_side(side),
            Self::Strait(pair) => pair.start_side(side),
        }
    }

    /// Ends one side.
    pub fn stop_side(&mut self, side: Side) {
        match self {
            Self::Nats(pair) => pair.stop_side(side),
            Self::Strait(pair) => pair.stop_side(side),
        }
    }

    /// Messages stored at a side so far.
    pub fn stored(&self, side: Side) -> u64 {
        match self {
            Self::Nats(pair) => pair.stored(side),
            Self::Strait(pair) => pair.stored(side),
        }
    }

    /// Processor time of a side since it was started.
    pub fn cpu(&self, side: Side) -> Duration {
        self.process(side).map_or(Duration::ZERO, Process::cpu)
    }

    /// Resident memory of a side in MiB.
    pub fn mib(&self, side: Side) -> f64 {
        self.process(side)
            .map_or(0.0, |process| process.rss() as f64 / 1_048_576.0)
    }

    /// Where a side keeps its messages.
    pub fn files(&self, side: Side) -> PathBuf {
        match self {
            Self::Nats(pair) => pair.files(side),
            Self::Strait(pair) => pair.files(side),
        }
    }

    fn process(&self, side: Side) -> Option<&Process> {
        match self {
            Self::Nats(pair) => pair.process(side),
            Self::Strait(pair) => pair.process(side),
        }
    }
}
