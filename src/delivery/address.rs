//! Where an endpoint of a local service is and what it speaks, as written in the settings.
//!
//! # Invariants
//! - A1. `EndpointAddress::from_str` accepts what `Display` writes.
//!
//! # Not here
//! Looking names up and connecting (`connector`).

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One entry of `services.<name>.endpoints`.
#[derive(Clone, Debug, Eq, Hash, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct EndpointAddress {
    /// What it speaks.
    pub protocol: Protocol,
    /// Where it is.
    pub site: Site,
}

/// What an endpoint speaks.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Protocol {
    /// The framed protocol.
    Framed,
    /// gRPC over HTTP/2 without TLS.
    Grpc,
    /// HTTP/1.1: unary calls as `POST /service/method`.
    Http1,
}

/// Where an endpoint is.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum Site {
    /// All addresses of a name, looked up again and again; each is an endpoint of its own.
    Dns(HostPort),
    /// One host; a name is looked up at each connect, and the first address that answers is used.
    Tcp(HostPort),
    /// A Unix socket with an absolute path.
    Unix(PathBuf),
}

/// Host name or IP address with a port.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct HostPort {
    /// Name or address; IPv6 without brackets.
    pub host: String,
    /// Port, not 0.
    pub port: u16,
}

/// Why a text is not an endpoint.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// Not of the form `host:port`.
    #[error("endpoint {text:?}: needs a host and a port from 1 to 65535, as in {example}")]
    HostPort {
        /// What was written.
        text: String,
        /// How it should look.
        example: &'static str,
    },
    /// A Unix socket without an absolute path.
    #[error("endpoint {text:?}: needs an absolute path, as in {example}")]
    Path {
        /// What was written.
        text: String,
        /// How it should look.
        example: &'static str,
    },
    /// None of the known forms.
    #[error("endpoint {text:?} has no known form; write one of {FORMS}")]
    Scheme {
        /// What was written.
        text: String,
    },
}

/// Forms in the order in which they are tried; `framed+unix:` stands before what it could be taken for.
const FORMS: &str = "http://host:port (gRPC over HTTP/2), unix:/path (the same on a Unix socket), dns://host:port \
                     (gRPC, all addresses of the name), framed://host:port, framed+unix:/path, http1://host:port";

impl EndpointAddress {
    /// The scheme, a closed set: fit for labels.
    pub fn kind(&self) -> &'static str {
        match (self.protocol, &self.site) {
            (Protocol::Framed, Site::Unix(_)) => "framed+unix",
            (Protocol::Framed, _) => "framed",
            (Protocol::Grpc, Site::Dns(_)) => "dns",
            (Protocol::Grpc, Site::Tcp(_)) => "http",
            (Protocol::Grpc, Site::Unix(_)) => "unix",
            (Protocol::Http1, _) => "http1",
        }
    }
}

impl FromStr for EndpointAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let tcp = |rest, example| host_port(text, rest, example);
        let (protocol, site) = if let Some(rest) = text.strip_prefix("http://") {
            (Protocol::Grpc, Site::Tcp(tcp(rest, "http://127.0.0.1:9000")?))
        } else if let Some(rest) = text.strip_prefix("dns://") {
            (Protocol::Grpc, Site::Dns(tcp(rest, "dns://echo.local:9000")?))
        } else if let Some(rest) = text.strip_prefix("framed://") {
            (Protocol::Framed, Site::Tcp(tcp(rest, "framed://127.0.0.1:9001")?))
        } else if let Some(rest) = text.strip_prefix("http1://") {
            (Protocol::Http1, Site::Tcp(tcp(rest, "http1://127.0.0.1:8080")?))
        } else if let Some(rest) = text.strip_prefix("unix:") {
            (Protocol::Grpc, Site::Unix(path(text, rest, "unix:/run/echo.sock")?))
        } else if let Some(rest) = text.strip_prefix("framed+unix:") {
            (
                Protocol::Framed,
                Site::Unix(path(text, rest, "framed+unix:/run/echo.sock")?),
            )
        } else {
            return Err(AddressError::Scheme { text: text.to_owned() });
        };
        Ok(Self { protocol, site })
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = self.kind();
        match &self.site {
            Site::Dns(at) | Site::Tcp(at) => write!(f, "{kind}://{at}"),
            Site::Unix(path) => write!(f, "{kind}:{}", path.display()),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for EndpointAddress {
    type Error = AddressError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<EndpointAddress> for String {
    fn from(address: EndpointAddress) -> Self {
        address.to_string()
    }
}

impl schemars::JsonSchema for EndpointAddress {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EndpointAddress".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": FORMS,
            "pattern": "^((http|dns|framed|http1)://.+:[0-9]+|(framed\\+)?unix:/.+)$",
        })
    }
}

fn host_port(text: &str, rest: &str, example: &'static str) -> Result<HostPort, AddressError> {
    let parse = || {
        // A trailing slash is how people write URIs.
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = rest.rsplit_once(':')?;
        let host = match host.strip_prefix('[') {
            Some(bracketed) => {
                let address = bracketed.strip_suffix(']')?;
                address.parse::<std::net::Ipv6Addr>().ok()?;
                address
            }
            None => host,
        };
        let plain = host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_'));
        let port = port.parse::<u16>().ok().filter(|port| *port > 0)?;
        (!host.is_empty() && (plain || rest.starts_with('['))).then(|| HostPort {
            host: host.to_owned(),
            port,
        })
    };
    parse().ok_or_else(|| AddressError::HostPort {
        text: text.to_owned(),
        example,
    })
}

fn path(text: &str, rest: &str, example: &'static str) -> Result<PathBuf, AddressError> {
    let path = Path::new(rest.strip_prefix("//").unwrap_or(rest));
    if path.is_absolute() && path.file_name().is_some() {
        Ok(path.to_owned())
    } else {
        Err(AddressError::Path {
            text: text.to_owned(),
            example,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<&str, &str>) {
        let found = text.parse::<EndpointAddress>();
        match (&found, expected) {
            (Ok(address), Ok(canonical)) => {
                assert_eq!(address.to_string(), canonical);
                assert_eq!(canonical.parse::<EndpointAddress>().as_ref(), Ok(address), "A1");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{error}"),
            _ => panic!("{text}: {found:?}"),
        }
    }

    // C-E1
    #[test]
    fn every_documented_form_is_read_and_written_back() {
        check("http://127.0.0.1:9000", Ok("http://127.0.0.1:9000"));
        check("http://[::1]:9000/", Ok("http://[::1]:9000"));
        check("unix:/run/echo.sock", Ok("unix:/run/echo.sock"));
        check("unix:///run/echo.sock", Ok("unix:/run/echo.sock"));
        check("dns://echo.local:9000", Ok("dns://echo.local:9000"));
        check("framed://127.0.0.1:9001", Ok("framed://127.0.0.1:9001"));
        check("framed+unix:/run/f.sock", Ok("framed+unix:/run/f.sock"));
        check("http1://127.0.0.1:8080", Ok("http1://127.0.0.1:8080"));
    }

    #[test]
    fn wrong_forms_are_told_what_to_write() {
        check("127.0.0.1:9000", Err("http://host:port"));
        check("https://a:1", Err("has no known form"));
        check("http://a", Err("http://127.0.0.1:9000"));
        check("http://a:0", Err("1 to 65535"));
        check("http://a:70000", Err("1 to 65535"));
        check("http://:1", Err("needs a host"));
        check("http://::1:9000", Err("needs a host"));
        check("http://[zz]:9000", Err("needs a host"));
        check("http://a:1/path", Err("needs a host"));
        check("http://a b:1", Err("needs a host"));
        check("unix:echo.sock", Err("absolute path"));
        check("unix:/", Err("absolute path"));
    }
}
