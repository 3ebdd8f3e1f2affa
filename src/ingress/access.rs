//! Who may use the local endpoints, and who is on the other side of a Unix socket (O-S3).

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::model::ServiceName;

/// `[[ingress.identities]]`: the service that runs under a user.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Number of the user, as `id -u` tells it.
    pub uid: u32,
    /// The service that its calls come from, as services see it in `strait-source-service`.
    pub service: ServiceName,
}

/// Permissions of the files of Unix sockets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SocketFiles {
    /// Mode, such as `0o660`.
    pub mode: u32,
    /// Group, if not the one of the relay's process.
    pub group: Option<u32>,
}

/// Why the access cannot be set up.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AccessError {
    /// The system knows no such group.
    #[error("there is no group {0:?} in /etc/group; write its name or its number")]
    Group(String),
    /// Not a mode.
    #[error("expected a mode in octal digits up to \"0777\", such as \"0660\", not {0:?}")]
    Mode(String),
    /// One user, two services.
    #[error("user {0} is listed twice")]
    Twice(u32),
}

/// Reads what the settings say of socket files.
///
/// # Errors
/// [`AccessError::Mode`], [`AccessError::Group`].
pub fn socket_files(mode: &str, group: &str) -> Result<SocketFiles, AccessError> {
    let is_octal = !mode.is_empty() && mode.bytes().all(|digit| digit.is_ascii_digit());
    let parsed = u32::from_str_radix(mode, 8)
        .ok()
        .filter(|mode| is_octal && *mode <= 0o777);
    let mode = parsed.ok_or_else(|| AccessError::Mode(mode.to_owned()))?;
    let group = match group {
        "" => None,
        group => Some(group_number(group).ok_or_else(|| AccessError::Group(group.to_owned()))?),
    };
    Ok(SocketFiles { mode, group })
}

/// Checks that each user stands for one service.
///
/// # Errors
/// [`AccessError::Twice`].
pub fn check_identities(identities: &[Identity]) -> Result<(), AccessError> {
    for (index, identity) in identities.iter().enumerate() {
        if identities.iter().take(index).any(|earlier| earlier.uid == identity.uid) {
            return Err(AccessError::Twice(identity.uid));
        }
    }
    Ok(())
}

/// The path of a file in the settings; `None` if there is none.
pub fn resolved(base: &Path, path: &Path) -> PathBuf {
    if path.as_os_str().is_empty() {
        PathBuf::new()
    } else {
        base.join(path)
    }
}

fn group_number(group: &str) -> Option<u32> {
    if let Ok(number) = group.parse() {
        return Some(number);
    }
    let groups = std::fs::read_to_string("/etc/group").ok()?;
    groups.lines().find_map(|line| {
        let mut parts = line.split(':');
        (parts.next() == Some(group)).then(|| parts.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    // O-S3
    #[test]
    fn modes_are_octal_and_groups_have_names_or_numbers() {
        let files = |mode, group| socket_files(mode, group).map(|files| (files.mode, files.group));
        assert_eq!(files("0660", ""), Ok((0o660, None)));
        assert_eq!(files("666", "1234"), Ok((0o666, Some(1234))));
        assert_eq!(files("0600", "root"), Ok((0o600, Some(0))));
        for wrong in ["", "0888", "1777", "rw", "+600", "-1"] {
            assert_eq!(files(wrong, ""), Err(AccessError::Mode(wrong.to_owned())));
        }
        assert_eq!(files("0660", "no such"), Err(AccessError::Group("no such".to_owned())));
    }

    #[test]
    fn a_user_stands_for_one_service() {
        let identity = |uid, service| Identity {
            uid,
            service: Name::new(service).unwrap(),
        };
        assert_eq!(check_identities(&[identity(1, "a"), identity(2, "a")]), Ok(()));
        let twice = [identity(1, "a"), identity(2, "b"), identity(1, "c")];
        assert_eq!(check_identities(&twice), Err(AccessError::Twice(1)));
    }
}
