//! Where a relay listens.

use std::path::PathBuf;
use std::str::FromStr;

/// Address of a relay's framed socket.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Address {
    /// `tcp://host:port`.
    Tcp(String),
    /// `unix:/path`.
    Unix(PathBuf),
}

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a relay's address looks like unix:/run/strait.sock or tcp://127.0.0.1:7401, not {0:?}")]
pub struct AddressError(String);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError(text.to_owned());
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() {
                Err(error())
            } else {
                Ok(Self::Unix(path.into()))
            };
        }
        let address = text.strip_prefix("tcp://").ok_or_else(error)?;
        match address.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self::Tcp(address.to_owned())),
            _ => Err(error()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_are_read_and_others_are_refused() {
        assert_eq!("unix:/run/s.sock".parse(), Ok(Address::Unix("/run/s.sock".into())));
        assert_eq!("unix:///run/s.sock".parse(), Ok(Address::Unix("/run/s.sock".into())));
        assert_eq!("unix:s.sock".parse(), Ok(Address::Unix("s.sock".into())));
        assert_eq!("tcp://[::1]:7401".parse(), Ok(Address::Tcp("[::1]:7401".into())));
        for text in [
            "",
            "unix:",
            "127.0.0.1:7401",
            "tcp://:7401",
            "tcp://host",
            "tcp://h:99999",
            "http://h:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }
}
