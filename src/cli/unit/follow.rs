//! Waits for the end of what is done about a unit.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use super::{Answer, CliError, Command, Output, Session, show, unexpected};
use crate::control::operator::MoveRow;
use crate::model::UnitId;
use crate::routing::record::MoveId;

/// Looks until all moves are over; answers how many of their nodes stayed where they were.
pub(super) fn until_over(session: &Session<'_>, unit: &UnitId, moves: &[MoveId]) -> Result<u32, CliError> {
    let shown = session.output == Output::Human && io::stderr().is_terminal();
    let mut rows: BTreeMap<MoveId, MoveRow> = BTreeMap::new();
    loop {
        let answer = session.ask(&Command::Moves { id: None })?;
        let Answer::Moves(found) = answer else {
            return Err(unexpected(&answer));
        };
        // One that is not told any more is over, and was forgotten.
        for row in rows.values_mut() {
            row.left = 0;
        }
        rows.extend(
            found
                .into_iter()
                .filter(|row| moves.contains(&row.id))
                .map(|row| (row.id, row)),
        );
        if rows.values().all(MoveRow::is_over) {
            break;
        }
        if shown {
            progress(session, unit, &rows)?;
        }
        thread::sleep(PAUSE);
    }
    if shown {
        // Nothing depends on it.
        let _ = write!(io::stderr(), "\r\u{1b}[K");
    }
    Ok(rows.values().map(|row| row.aborted).sum())
}

fn progress(session: &Session<'_>, unit: &UnitId, rows: &BTreeMap<MoveId, MoveRow>) -> Result<(), CliError> {
    let answer = session.ask(&Command::Units { unit: None })?;
    let Answer::Units(units) = answer else {
        return Err(unexpected(&answer));
    };
    let fence = units
        .into_iter()
        .find(|row| row.unit == *unit)
        .and_then(|row| row.fence);
    let text = fence.map_or_else(|| show::far(rows.values()), |fence| show::fenced(&fence));
    // Nothing depends on it.
    let _ = write!(io::stderr(), "\r\u{1b}[K{text}");
    Ok(())
}

const PAUSE: Duration = Duration::from_millis(300);
