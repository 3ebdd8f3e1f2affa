//! The configuration of a relay, as an operator would write it.

use super::machine::Ports;
use super::world::{GROUP, RATE, TOPIC, Unit};

/// The configuration of the relay of one unit. `all`: units and ports of their relays.
pub(super) fn text(own: Unit, ports: Ports, all: &[(Unit, Ports)], service_port: u16) -> String {
    let Unit { name, geo, relay, .. } = own;
    let Ports {
        grpc,
        framed,
        admin,
        peer,
    } = ports;
    let mut text = format!(
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

# A gRPC service at its own address, and one that registers itself over the framed protocol.
[services."im.Echo"]
endpoints = ["http://127.0.0.1:{service_port}"]
[services."im.Presence"]
endpoints = []

# A message goes to the unit that owns its key, those of one key in the order in which they were published.
[topics."{TOPIC}"]
rule = "owner"
ordered = true
# This group exists before its first subscriber comes, so it misses nothing.
[topics."{TOPIC}".groups.{GROUP}]

[routing]
dimensions = ["im.conversation"]
"#
    );
    for (other, _) in all {
        text += &rule(*other);
    }
    for (other, ports) in all.iter().filter(|(other, _)| other.name != name) {
        text += &link(*other, ports.peer);
    }
    text
}

/// Whose the keys of a unit are.
fn rule(unit: Unit) -> String {
    let Unit { name, prefix, .. } = unit;
    format!("[[routing.rules]]\ndimension = \"im.conversation\"\nprefix = \"{prefix}\"\nunit = \"{name}\"\n")
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
