//! Others take over the keys of a unit without its help, and give them back.

use super::{Asked, Begun, Refused, begun, check_heirs, refused, state_of, work};
use crate::control::mover::barrier::longest_lease;
use crate::model::UnitId;
use crate::routing::Routes;
use crate::routing::record::{Lease, Move, MoveKind, MoveOptions, NodeId, Record, State};

/// Evacuates a unit: its keys go to others by weight, without its help. What the application has not copied is lost.
///
/// Relays of the unit that do not answer are waited for until the longest lease is over; for ever, if a dimension has one that
/// never ends, unless `accept_dual` is signed for: then such keys may be written at two units for a while (R-D7).
///
/// # Errors
/// [`Refused`].
pub fn evacuate(
    routes: &Routes,
    unit: &UnitId,
    takeover: &[(UnitId, u16)],
    accept_dual: bool,
    asked: &Asked,
) -> Result<Begun, Refused> {
    match state_of(routes, unit)? {
        State::Active | State::Draining => {}
        State::Fencing { by } => {
            return refused(format!(
                "unit {unit} is being evacuated already; see how far it is with `strait unit status {unit}`, stop it with \
                 `strait route abort {by}`"
            ));
        }
        State::Returning { by, .. } => {
            return refused(format!(
                "unit {unit} is getting its keys back; stop that with `strait route abort {by}`"
            ));
        }
        _ => {
            return refused(format!(
                "unit {unit} is evacuated already; `strait unit status {unit}` shows who has its keys"
            ));
        }
    }
    let busy = routes.units().find_map(|(other, state)| Some((other, state.work()?)));
    if let Some((other, by)) = busy {
        return refused(format!(
            "work on unit {other} is under way, and units are evacuated one at a time; wait for it, or stop it with \
             `strait route abort {by}`"
        ));
    }
    check_heirs(routes, unit, takeover)?;
    let heaviest = takeover.iter().max_by_key(|(_, weight)| *weight);
    let to = heaviest.map_or(unit, |(to, _)| to).clone();
    let kind = MoveKind::Evacuate {
        takeover: takeover.to_vec(),
        accept_dual,
    };
    let nodes = vec![NodeId::Unit(unit.clone())];
    Ok(whole(unit, work(routes.rev(), kind, nodes, to, (asked, 0)), asked))
}

/// Gives a unit that was evacuated its keys back. Those who have them stop first, all at once.
///
/// # Errors
/// [`Refused`].
pub fn give_back(routes: &Routes, unit: &UnitId, options: MoveOptions, asked: &Asked) -> Result<Begun, Refused> {
    let State::Evacuated { takeover } = state_of(routes, unit)? else {
        return refused(format!("unit {unit} is not evacuated; it has its keys"));
    };
    let is_passed_on = |heir: &UnitId| {
        routes
            .units()
            .any(|(unit, state)| unit == heir && state.takeover().is_some())
    };
    if let Some((heir, _)) = takeover.iter().find(|(heir, _)| is_passed_on(heir)) {
        return refused(format!(
            "unit {heir}, which has keys of unit {unit}, is evacuated itself; give it its keys back first: \
             `strait unit return {heir}`"
        ));
    }
    let nodes = vec![NodeId::Unit(unit.clone())];
    let work = Move {
        options,
        ..work(routes.rev(), MoveKind::GiveBack, nodes, unit.clone(), (asked, 0))
    };
    Ok(whole(unit, work, asked))
}

/// The lease that an evacuation waits for if a relay of the unit does not answer: the longest there is.
pub fn fence_lease(routes: &Routes, accept_dual: bool) -> Lease {
    longest_lease(routes, accept_dual)
}

/// One move of the whole unit.
fn whole(unit: &UnitId, work: Move, asked: &Asked) -> Begun {
    let work = Move {
        of: Some(unit.clone()),
        ..work
    };
    Begun {
        moves: vec![work.id],
        commits: vec![begun(asked.op, vec![Record::Move(work)])],
        ..Begun::default()
    }
}
