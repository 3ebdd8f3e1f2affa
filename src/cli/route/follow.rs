//! Waits for the end of a move.

use std::io::{self, IsTerminal, Write};
use std::thread;
use std::time::Duration;

use super::{Answer, CliError, Command, Output, Session, show, unexpected};
use crate::control::operator::MoveRow;
use crate::routing::record::MoveId;

/// Looks until the move is over. What stayed where it was is a no.
pub(super) fn until_over(session: &Session<'_>, id: MoveId, out: &mut impl Write) -> Result<(), CliError> {
    let shown = session.output == Output::Human && io::stderr().is_terminal();
    loop {
        let answer = session.ask(&Command::Moves { id: Some(id) })?;
        let Answer::Moves(rows) = &answer else {
            return Err(unexpected(&answer));
        };
        let Some(row) = rows.first() else {
            return Err(unexpected(&answer));
        };
        if row.is_over() {
            if shown {
                // Nothing depends on it.
                let _ = write!(io::stderr(), "\r\u{1b}[K");
            }
            let is_wrong = row.aborted > 0;
            session.write(&answer, out)?;
            return if is_wrong { Err(CliError::No) } else { Ok(()) };
        }
        if shown {
            progress(row);
        }
        thread::sleep(PAUSE);
    }
}

fn progress(row: &MoveRow) {
    // Nothing depends on it.
    let _ = write!(io::stderr(), "\r\u{1b}[K{}", show::far(row));
}

const PAUSE: Duration = Duration::from_millis(300);
