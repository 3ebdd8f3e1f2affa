//! The configuration of a relay, as an operator would write it.

use std::fmt::Write as _;

use super::machine::Ports;
use super::world::{GROUP, RATE, ROUTES, TOPIC, Unit};

/// A relay, and where it listens.
#[derive(Clone, Copy)]
pub(super) struct Own {
    pub(super) unit: Unit,
    pub(super) ports: Ports,
}

/// The configuration of the relay of one unit. `all`: units and ports of their relays; `routes`: the port of the relay that keeps
/// the routes.
pub(super) fn text(own: Own, all: &[(Unit, Ports)], service_port: u16, routes: u16) -> String {
    let services = format!(
        r#"
# A gRPC service at its own address, and two that register themselves over the framed protocol.
[services."im.Echo"]
endpoints = ["http://127.0.0.1:{service_port}"]
[services."im.Presence"]
endpoints = []
[services."im.Room"]
endpoints = []

# A message goes to the unit that owns its key, those of one key in the order in which they were published.
[topics."{TOPIC}"]
rule = "owner"
ordered = true
# This group exists before its first subscriber comes, so it misses nothing.
[topics."{TOPIC}".groups.{GROUP}]
"#
    );
    let mut text = basics(own) + &services + &routing(own.unit, all);
    if own.unit.geo == ROUTES.geo {
        text += &store(&format!("authority_addresses = [\"127.0.0.1:{routes}\"]\n"));
    }
    for (other, ports) in all.iter().filter(|(other, _)| *other != own.unit) {
        text += &link(*other, ports.peer);
    }
    text
}

/// The configuration of the relay that keeps the routes: nobody calls through it, and it dials nobody.
pub(super) fn authority(own: Own, all: &[(Unit, Ports)]) -> String {
    let mut text = basics(own);
    text += &routing(own.unit, all);
    text += &store("");
    let others = all.iter().filter(|(other, _)| other.name != own.unit.name);
    for (Unit { name, geo, relay, .. }, ports) in others {
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "\n[units.{name}]\ngeo = \"{geo}\"\ndial = false\n[[units.{name}.relays]]\nname = \"{relay}\"\naddresses = \
             [\"127.0.0.1:{}\"]",
            ports.peer
        );
    }
    text
}

/// Who it is, and where it listens.
fn basics(own: Own) -> String {
    let Unit { name, geo, relay, .. } = own.unit;
    let Ports {
        grpc,
        framed,
        admin,
        peer,
    } = own.ports;
    format!(
        r#"# A relay of `strait demo`.
[relay]
geo = "{geo}"
unit = "{name}"
name = "{relay}"
data_dir = "data"
shards = 2

[ingress.grpc]
listen = ["127.0.0.1:{grpc}"]
[ingress.framed]
listen = ["127.0.0.1:{framed}"]
[admin]
listen = "127.0.0.1:{admin}"

[peer]
listen = "127.0.0.1:{peer}"
certificate = "../certs/{relay}.pem"
key = "../certs/{relay}.key"
# On one machine silence is noticed sooner than the defaults allow for long ways.
keep_alive = "250ms"
idle_timeout = "1s"
[peer.trust]
cn-east = "../certs/cn-east-ca.pem"
sg = "../certs/sg-ca.pem"
"#
    )
}

/// Whose which keys are. Rooms have no rules: where there is a route store, they belong to who writes first.
fn routing(own: Unit, all: &[(Unit, Ports)]) -> String {
    let rooms = if own.geo == ROUTES.geo { ", \"im.room\"" } else { "" };
    let mut text = format!("\n[routing]\ndimensions = [\"im.conversation\"{rooms}]\n");
    for (Unit { name, prefix, .. }, _) in all {
        text += "[[routing.rules]]\ndimension = \"im.conversation\"\n";
        // Writing to a String cannot fail.
        let _ = writeln!(text, "prefix = \"{prefix}\"\nunit = \"{name}\"");
    }
    text
}

/// Where the routes of the Geo are kept that change while relays run.
fn store(more: &str) -> String {
    let Unit { name, relay, .. } = ROUTES;
    format!(
        r#"
# One relay of the Geo keeps the routes in a file. The others have a copy, and go on by it for as long as they run when
# that relay is away.
[routes]
store = "embedded"
authority = "{name}/{relay}"
{more}[[routes.dimension]]
name = "im.conversation"
owner_lease = "infinite"
[[routes.dimension]]
name = "im.room"
placement = "claim"
owner_lease = "infinite"
"#
    )
}

/// Another unit: where it is, and how fast it gets what waited for it while it was away.
fn link(unit: Unit, port: u16) -> String {
    let Unit { name, geo, relay, .. } = unit;
    format!(
        r#"
[units.{name}]
geo = "{geo}"
[[units.{name}.relays]]
name = "{relay}"
addresses = ["127.0.0.1:{port}"]
# Messages that waited for it while it was away go at this rate, beside new ones.
[replay.units.{name}.limits]
messages_per_second = {RATE}
"#
    )
}
