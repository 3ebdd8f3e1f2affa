//! Settings of `[peer]` and `[units.*]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{ByteSize, Geo, RelayName, UnitId};

use super::identity::TrustDomain;

/// Links to relays of other units (`[peer]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// UDP address for links from other relays. Default `0.0.0.0:7443`. All shards share the port.
    pub listen: SocketAddr,
    /// Certificate chain of this relay, PEM, leaf first. Its URI SAN must name this Geo and unit.
    /// Relative paths start at the configuration file. No default: without it there are no links.
    pub certificate: Option<PathBuf>,
    /// Private key of the certificate, PEM (PKCS#8 or SEC1), readable by the owner only (0600). No default.
    pub key: Option<PathBuf>,
    /// Trust domain all identities must have. Default `strait.local`.
    #[schemars(with = "String")]
    pub trust_domain: TrustDomain,
    /// Per Geo the PEM file with the CA certificates that may vouch for its units. A file may hold old and new roots
    /// side by side. Default empty: nobody is trusted. A CA of one Geo is never asked about another Geo.
    pub trust: BTreeMap<Geo, PathBuf>,
    /// Per Geo the PEM files with revocation lists. Default empty: no revocation check for that Geo. Once a Geo has
    /// one, every CA in a chain of that Geo needs one, and a chain whose status is unknown is refused.
    pub crls: BTreeMap<Geo, Vec<PathBuf>>,
    /// What a revocation list past its next update means. Default `refuse`: links of that Geo end when the operator
    /// forgets to renew the list; `accept`: the old list is used on, and newer revocations are missed.
    pub crl_expired: CrlExpired,
    /// Congestion control of links. Default `cubic`; `bbr` carries about four times more at 1 % loss, `newreno` is the
    /// plain reference.
    pub congestion: Congestion,
    /// Lane streams per connection. Default 2; 4 pays off on lossy paths. Range 1 to 16.
    pub lanes: u8,
    /// Flow-control window of one lane stream. Default `4MiB`.
    pub lane_window: ByteSize,
    /// Flow-control window of one body stream. Default `1MiB`.
    pub body_window: ByteSize,
    /// Flow-control window of a whole connection, per direction: the memory one peer can claim. Default `16MiB`.
    pub connection_window: ByteSize,
    /// Two-way streams a peer may hold open on a lane connection. Default 64.
    pub lane_streams_max: u32,
    /// One-way streams a peer may hold open on a body connection. Default 1024.
    pub body_streams_max: u32,
    /// Interval of keep-alive packets. Default `10s`. Must be shorter than `idle_timeout` on both sides.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub keep_alive: Duration,
    /// A connection that hears nothing for so long is lost. Default `30s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub idle_timeout: Duration,
    /// Longest time a handshake may take, dialled or accepted. Default `5s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub handshake_timeout: Duration,
    /// Longest life of a link. Default `24h`. Between half and three quarters of it the relay that dialled puts another
    /// link in its place; calls that are still open on the old one at the end are cut off. At least `2s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub link_age_max: Duration,
    /// Links are replaced so long before the first certificate they were made with expires, some later, at the latest
    /// after half of it; what is left is for the last calls. Default `1h`. Renew certificates earlier than that.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub link_expiry_margin: Duration,
    /// Links made with an earlier certificate of this relay are replaced within so long after a reload, each at a
    /// moment drawn at random. Default `30s`.
    #[serde(with = "humantime_serde")]
    #[schemars(with = "String")]
    pub link_replace_spread: Duration,
    /// Handshakes in progress per shard above which a caller must first prove its address (one more round trip).
    /// Default 32.
    pub handshakes_unproven_max: usize,
    /// Handshakes in progress per shard above which callers are refused. Default 1024.
    pub handshakes_max: usize,
    /// Largest UDP payload tried on a path, in bytes. Default 6500: what a path carries is found out by probing, every
    /// path must carry 1200. Paths with jumbo frames carry small calls at less cost. 6550 at most, because ten packets
    /// go to the kernel in one piece of 64 KiB.
    pub mtu_max: u16,
    /// Buffer asked from the kernel per UDP socket and direction. Default `4MiB`. A kernel limit (`net.core.rmem_max`,
    /// `net.core.wmem_max`) below it is reported once and costs throughput.
    pub socket_buffer: ByteSize,
    /// Calls in flight per connection and direction. Default 16384. More are refused with a pause to wait.
    pub calls_max: u32,
    /// Bytes of calls in flight per connection and direction. Default `64MiB`. More are refused with a pause to wait.
    pub bytes_max: ByteSize,
    /// Calls that may wait for a link that is being opened, per unit and shard. Default 1024.
    pub pending_max: usize,
}

/// Another unit this relay may talk to (`[units.<name>]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnitSettings {
    /// Geo of the unit. Required: a certificate of the unit from another Geo is refused.
    pub geo: Geo,
    /// Whether this relay opens connections to the unit. Default `true`; `false` waits for the other side.
    #[serde(default = "dial_default")]
    pub dial: bool,
    /// The relays of the unit. Default none: the unit can only connect to us.
    #[serde(default)]
    pub relays: Vec<RelaySettings>,
    /// Where clients of users reach the gateways of the unit, in the order in which they try; see `[access]`. Eight at most, any text
    /// that clients understand. Default none.
    #[serde(default)]
    pub access: Vec<String>,
}

/// A relay of another unit (`[[units.<name>.relays]]`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RelaySettings {
    /// Name of the relay. Required: a certificate that names another relay is refused when this one is dialled.
    pub name: RelayName,
    /// Addresses to dial, `host:port`, tried in order. Default none: the relay can only connect to us.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// Why settings of `[peer]` cannot be used.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// A number outside of its range.
    #[error("{found} is out of range; use {range}")]
    Range {
        /// The key.
        key: &'static str,
        /// What it was set to.
        found: u64,
        /// What is allowed.
        range: &'static str,
    },
    /// Links would be lost between two keep-alives.
    #[error("must be at most half of idle_timeout, or quiet links are lost with one packet")]
    KeepAlive,
    /// Links would be replaced faster than they are looked at.
    #[error("must be at least 2s")]
    LinkAge,
    /// A handshake that may take no time at all never ends well.
    #[error("must be longer than zero")]
    HandshakeTimeout,
}

impl SettingsError {
    /// The key of `[peer]` that is at fault.
    pub const fn key(&self) -> &'static str {
        match self {
            Self::Range { key, .. } => key,
            Self::KeepAlive => "keep_alive",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::LinkAge => "link_age_max",
        }
    }
}

/// What a revocation list past its next update means.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CrlExpired {
    /// Refuse the certificate.
    #[default]
    Refuse,
    /// Use the list as if it were current.
    Accept,
}

/// Congestion control of links.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Congestion {
    /// Model-based; steady under random loss.
    Bbr,
    /// Loss-based; the default of most systems.
    #[default]
    Cubic,
    /// Loss-based; the plain reference.
    Newreno,
}

impl Settings {
    /// Checks ranges and what must fit together. Files are checked by
    /// [`Credentials::load`](super::credentials::Credentials::load).
    ///
    /// # Errors
    /// [`SettingsError`] names the first key that cannot be used.
    pub fn check(&self) -> Result<(), SettingsError> {
        const STREAMS: &str = "1 to 1048576";
        let range = |key, found: u64, allowed: std::ops::RangeInclusive<u64>, range| {
            let inside = allowed.contains(&found);
            if inside {
                Ok(())
            } else {
                Err(SettingsError::Range { key, found, range })
            }
        };
        let size = |key, size: ByteSize| range(key, size.as_u64(), 1 << 16..=1 << 30, "64KiB to 1GiB");
        range("lanes", self.lanes.into(), 1..=16, "1 to 16")?;
        range("lane_streams_max", self.lane_streams_max.into(), 1..=1 << 20, STREAMS)?;
        range("body_streams_max", self.body_streams_max.into(), 1..=1 << 20, STREAMS)?;
        range("mtu_max", self.mtu_max.into(), 1200..=6550, "1200 to 6550")?;
        range("calls_max", self.calls_max.into(), 1..=1 << 20, "1 to 1048576")?;
        size("lane_window", self.lane_window)?;
        size("body_window", self.body_window)?;
        size("connection_window", self.connection_window)?;
        size("socket_buffer", self.socket_buffer)?;
        if self.keep_alive.saturating_mul(2) > self.idle_timeout {
            return Err(SettingsError::KeepAlive);
        }
        if self.handshake_timeout.is_zero() {
            return Err(SettingsError::HandshakeTimeout);
        }
        if self.link_age_max < Duration::from_secs(2) {
            return Err(SettingsError::LinkAge);
        }
        Ok(())
    }

    /// Makes relative paths start at `base`, the folder of the configuration file.
    pub fn resolve_paths(&mut self, base: &Path) {
        let single = self.certificate.iter_mut().chain(self.key.iter_mut());
        let lists = self.crls.values_mut().flatten();
        for path in single.chain(self.trust.values_mut()).chain(lists) {
            *path = base.join(&*path);
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([0, 0, 0, 0], 7443)),
            certificate: None,
            key: None,
            trust_domain: TrustDomain::default(),
            trust: BTreeMap::new(),
            crls: BTreeMap::new(),
            crl_expired: CrlExpired::default(),
            congestion: Congestion::default(),
            lanes: 2,
            lane_window: ByteSize::mib(4),
            body_window: ByteSize::mib(1),
            connection_window: ByteSize::mib(16),
            lane_streams_max: 64,
            body_streams_max: 1024,
            keep_alive: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(5),
            link_age_max: Duration::from_secs(24 * 3600),
            link_expiry_margin: Duration::from_secs(3600),
            link_replace_spread: Duration::from_secs(30),
            handshakes_unproven_max: 32,
            handshakes_max: 1024,
            mtu_max: 6500,
            socket_buffer: ByteSize::mib(4),
            calls_max: 16_384,
            bytes_max: ByteSize::mib(64),
            pending_max: 1024,
        }
    }
}

/// The other units of the configuration, by name.
pub type Units = BTreeMap<UnitId, UnitSettings>;

const fn dial_default() -> bool {
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    // O-C1: what the documentation shows is what the program reads.
    #[test]
    fn the_documented_form_is_read() {
        let settings: Settings = toml::from_str(
            r#"
            listen = "127.0.0.1:7443"
            certificate = "certs/a-1.pem"
            key = "/etc/strait/a-1.key"
            congestion = "bbr"
            crl_expired = "accept"
            idle_timeout = "45s"
            bytes_max = "1MiB"
            [trust]
            cn-east = "certs/cn-east-ca.pem"
            [crls]
            sg = ["certs/sg.crl"]
            "#,
        )
        .unwrap();
        let mut resolved = settings.clone();
        resolved.resolve_paths(Path::new("/srv/strait"));
        assert_eq!(settings.congestion, Congestion::Bbr);
        assert_eq!(settings.bytes_max, ByteSize::mib(1));
        assert_eq!(settings.idle_timeout, Duration::from_secs(45));
        assert_eq!(resolved.certificate.unwrap(), Path::new("/srv/strait/certs/a-1.pem"));
        assert_eq!(resolved.key.unwrap(), Path::new("/etc/strait/a-1.key"));
        assert_eq!(resolved.trust["cn-east"], Path::new("/srv/strait/certs/cn-east-ca.pem"));
        assert_eq!(resolved.crls["sg"], [Path::new("/srv/strait/certs/sg.crl")]);
    }

    #[test]
    fn values_that_cannot_work_are_refused_by_name() {
        let check = |bend: fn(&mut Settings)| {
            let mut settings = Settings::default();
            bend(&mut settings);
            settings.check().map_err(|error| format!("{}: {error}", error.key()))
        };
        assert_eq!(check(|_| ()), Ok(()));
        let named = |bend, part: &str| {
            let text = check(bend).expect_err(part);
            assert!(text.contains(part), "{text}");
        };
        named(|settings| settings.lanes = 0, "lanes: 0 is out of range");
        named(|settings| settings.lanes = 17, "1 to 16");
        named(|settings| settings.mtu_max = 1199, "mtu_max");
        named(
            |settings| settings.connection_window = ByteSize::bytes(1),
            "connection_window",
        );
        named(|settings| settings.keep_alive = Duration::from_secs(16), "keep_alive");
        named(
            |settings| settings.handshake_timeout = Duration::ZERO,
            "handshake_timeout",
        );
        named(
            |settings| settings.link_age_max = Duration::from_secs(1),
            "link_age_max",
        );
    }

    #[test]
    fn a_unit_needs_its_geo_and_refuses_unknown_keys() {
        let unit: UnitSettings =
            toml::from_str("geo = \"sg\"\n[[relays]]\nname = \"b-1\"\naddresses = [\"h:1\"]").unwrap();
        assert!(unit.dial);
        assert_eq!(unit.relays[0].addresses, ["h:1"]);
        assert!(toml::from_str::<UnitSettings>("dial = true").is_err());
        assert!(toml::from_str::<UnitSettings>("geo = \"sg\"\nport = 1").is_err());
        assert!(toml::from_str::<Settings>("trust_domain = \"Strait\"").is_err());
        assert!(toml::from_str::<Settings>("certifcate = \"x\"").is_err());
    }
}
