//! `strait publish` and `strait subscribe`: messages from and to a shell, as a service would publish and receive them.

mod publish;
mod subscribe;
mod summary;

use crate::model::Name;

pub(super) use self::publish::{PUBLISH_HELP, PublishArgs, run as publish};
pub(super) use self::subscribe::{SUBSCRIBE_HELP, SubscribeArgs, run as subscribe};

/// An attribute, as `name=value`.
fn attribute(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected NAME=VALUE, such as type=im.sent.v1".to_owned()),
    }
}

/// A key, as `dimension=key`.
fn key(text: &str) -> Result<(String, String), String> {
    let (dimension, key) = text
        .split_once('=')
        .ok_or("expected DIMENSION=KEY, such as im.conversation=cid:1")?;
    Name::new(dimension).map_err(|error| format!("the dimension is not a name: {error}"))?;
    Ok((dimension.to_owned(), key.to_owned()))
}
