//! What a relay sees of other units, as frames and back.

use bytes::{Bytes, BytesMut};

use super::encode::frame;
use super::raw::Raw;
use super::{Frame, FrameError, LIST_MAX, kind, tag};
use crate::model::{Sighting, UnitId};
use crate::wire::attributes;

/// What the sender sees of these units; as many frames as that takes, so none for none.
pub fn put_sightings(out: &mut BytesMut, sightings: &[(UnitId, Sighting)]) {
    for part in sightings.chunks(LIST_MAX) {
        frame(out, kind::SIGHTINGS, 0, 0, &[], |out| {
            for (unit, sighting) in part {
                attributes::put_bytes(out, tag_of(*sighting), unit.as_str().as_bytes());
            }
        });
    }
}

/// Reads one such frame.
pub(super) fn read(mut raw: Raw) -> Result<Frame, FrameError> {
    let mut sightings = Vec::new();
    let block: Bytes = std::mem::take(&mut raw.block);
    let mut rest: &[u8] = &block;
    while let Some((tag, value)) = raw.take(&mut rest)? {
        let sighting = match tag {
            tag::UNIT_AWAY => Sighting::Away,
            tag::UNIT_REACHED => Sighting::Reached,
            tag::UNIT_UNKNOWN => Sighting::Unknown,
            unknown => {
                raw.skip(unknown)?;
                continue;
            }
        };
        if sightings.len() >= LIST_MAX {
            return Err(FrameError::TooMany(raw.kind));
        }
        sightings.push((raw.name(tag, value)?, sighting));
    }
    Ok(Frame::Sightings(sightings))
}

fn tag_of(sighting: Sighting) -> u8 {
    match sighting {
        Sighting::Away => tag::UNIT_AWAY,
        Sighting::Reached => tag::UNIT_REACHED,
        Sighting::Unknown => tag::UNIT_UNKNOWN,
    }
}
