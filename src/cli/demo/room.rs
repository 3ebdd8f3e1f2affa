//! A hot conversation: its writers, what its services have written in all units, and whether that is what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::traffic::{Caller, PATIENCE, reason_of_call};
use super::world::Unit;
use crate::client::Call;

/// The service, which registers itself.
pub(super) const WRITE: &str = "im.Room/Write";
/// The dimension of its keys; each room belongs to who writes to it first.
pub(super) const DIMENSION: &str = "im.room";
/// The room that everybody writes to.
pub(super) const HOT: &str = "lobby";

/// What services of all units have written, in the order in which they did. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Room(Arc<Mutex<Vec<Written>>>);

/// A line that a service wrote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    unit: Unit,
    /// Since when that unit owns the room, as its relay told the service.
    epoch: u64,
    line: Line,
    at: Instant,
}

/// Which line of which writer.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct Line {
    writer: u32,
    number: u32,
}

/// What one writer knows of its lines.
#[derive(Clone, Debug, Default)]
pub(super) struct Sent {
    /// Those that were acknowledged.
    acked: Vec<Line>,
    /// Why others were not.
    failed: Vec<String>,
    /// The longest that one took.
    longest: Duration,
}

/// Whether what was written is what was acknowledged.
#[derive(Clone, Debug, Default)]
pub(super) struct Account {
    /// Lines that were acknowledged.
    pub(super) writes: u64,
    /// Of those, lines that no service has.
    pub(super) lost: u64,
    /// Lines that services have twice.
    pub(super) doubled: u64,
    /// Lines that came after a later one of their writer.
    pub(super) reordered: u64,
    /// Lines that were written by a unit that did not own the room any more, or not yet.
    pub(super) misplaced: u64,
    /// Why lines were refused.
    pub(super) refused: Vec<String>,
    /// Who wrote how many, since which epoch; in order.
    pub(super) owners: Vec<(Unit, u64, u64)>,
    /// The longest that a writer waited for one answer.
    pub(super) longest: Duration,
    /// From the last line of an owner to the first of the next.
    pub(super) gap: Duration,
}

/// Writers that go on until they are stopped, each with one line after the other.
pub(super) struct Writers {
    tasks: JoinSet<Sent>,
    stop: CancellationToken,
}

impl Room {
    /// A service of a unit gets a line. What is none, of somebody who tries the demo, is not written down.
    pub(super) fn write(&self, unit: Unit, epoch: Option<u64>, body: &[u8]) {
        if let Some(line) = Line::read(body) {
            let epoch = epoch.unwrap_or_default();
            let at = Instant::now();
            self.lines().push(Written { unit, epoch, line, at });
        }
    }

    /// Forgets what was written.
    pub(super) fn clear(&self) {
        self.lines().clear();
    }

    /// What came of these lines.
    pub(super) fn account(&self, sent: &[Sent]) -> Account {
        judge(&self.lines(), sent)
    }

    fn lines(&self) -> MutexGuard<'_, Vec<Written>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writers {
    /// So many at each caller.
    pub(super) fn start(callers: &[Caller], each: u32) -> Self {
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        for (writer, caller) in (0..).zip(callers.iter().flat_map(|caller| (0..each).map(move |_| caller))) {
            let (caller, stop) = (caller.clone(), stop.clone());
            tasks.spawn(async move {
                let mut sent = Sent::default();
                for number in 0.. {
                    if stop.is_cancelled() {
                        break;
                    }
                    sent.send(&caller, Line { writer, number }).await;
                }
                sent
            });
        }
        Self { tasks, stop }
    }

    /// Stops them when they have their answers.
    pub(super) async fn stop(self) -> Vec<Sent> {
        self.stop.cancel();
        self.tasks.join_all().await
    }
}

impl Sent {
    async fn send(&mut self, caller: &Caller, line: Line) {
        let begun = Instant::now();
        match write(caller, HOT, line.text()).await {
            Ok(()) => self.acked.push(line),
            Err(why) => self.failed.push(why),
        }
        self.longest = self.longest.max(begun.elapsed());
    }
}

impl Line {
    fn text(self) -> String {
        format!("{MARK} {} {}", self.writer, self.number)
    }

    fn read(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let (writer, number) = text.strip_prefix(MARK)?.trim().split_once(' ')?;
        Some(Self {
            writer: writer.parse().ok()?,
            number: number.parse().ok()?,
        })
    }
}

/// One call to a room.
pub(super) async fn write(caller: &Caller, room: &str, body: String) -> Result<(), String> {
    let call = Call::new(WRITE).key(DIMENSION, room).body(body).timeout(PATIENCE * 2);
    let reply = caller.framed().call(call).await;
    reply.map(drop).map_err(|error| reason_of_call(&error))
}

fn judge(written: &[Written], sent: &[Sent]) -> Account {
    let mut account = Account::default();
    let mut seen = BTreeSet::new();
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    let mut before: Option<Written> = None;
    for now in written {
        let Line { writer, number } = now.line;
        account.doubled += u64::from(!seen.insert(now.line));
        let latest = last.entry(writer).or_insert(number);
        account.reordered += u64::from(number < *latest);
        *latest = number.max(*latest);
        // A unit that has the room gets a newer epoch when a move of it begins.
        let is_newer = before.is_none_or(|before| now.epoch > before.epoch);
        if is_newer && account.owners.last().is_none_or(|(unit, ..)| *unit != now.unit) {
            account.owners.push((now.unit, 0, now.epoch));
            let gap = before.map_or(Duration::ZERO, |before| now.at.saturating_duration_since(before.at));
            account.gap = account.gap.max(gap);
        }
        if let Some((unit, writes, _)) = account.owners.last_mut() {
            *writes += 1;
            // Calls that one unit serves at the same time may be written in any order, with the epochs that they were let in by.
            account.misplaced += u64::from(*unit != now.unit);
        }
        before = Some(match before {
            Some(before) if !is_newer => Written { at: now.at, ..before },
            _ => *now,
        });
    }
    for sent in sent {
        account.writes += u64::try_from(sent.acked.len()).unwrap_or(u64::MAX);
        let missing = sent.acked.iter().filter(|line| !seen.contains(line)).count();
        account.lost += u64::try_from(missing).unwrap_or(u64::MAX);
        account.refused.extend(sent.failed.iter().cloned());
        account.longest = account.longest.max(sent.longest);
    }
    account
}

/// What lines of the demo begin with.
const MARK: &str = "line";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::world::UNITS;

    fn line(writer: u32, number: u32) -> Line {
        Line { writer, number }
    }

    fn written(unit: usize, epoch: u64, line: Line) -> Written {
        Written {
            unit: UNITS[unit],
            epoch,
            line,
            at: Instant::now(),
        }
    }

    fn good() -> (Vec<Written>, Vec<Sent>) {
        let written = vec![
            written(0, 5, line(0, 0)),
            written(0, 5, line(1, 0)),
            written(1, 9, line(1, 1)),
            written(1, 9, line(0, 1)),
        ];
        let sent = [0, 1].map(|writer| Sent {
            acked: vec![line(writer, 0), line(writer, 1)],
            ..Sent::default()
        });
        (written, sent.to_vec())
    }

    fn faults(account: &Account) -> [u64; 4] {
        [account.lost, account.doubled, account.reordered, account.misplaced]
    }

    #[test]
    fn what_is_as_it_should_be_has_no_faults() {
        let (written, sent) = good();
        let mut begun = written.clone();
        begun[1].epoch = 6;
        assert_eq!(judge(&begun, &sent).owners.len(), 2, "the move has only begun");
        let account = judge(&written, &sent);
        assert_eq!((account.writes, faults(&account)), (4, [0; 4]));
        assert_eq!(account.owners, [(UNITS[0], 2, 5), (UNITS[1], 2, 9)]);
    }

    // R-I1, C-R1: each fault alone is counted as that fault.
    #[test]
    fn each_fault_is_counted() {
        let check = |change: fn(&mut Vec<Written>), expected: [u64; 4]| {
            let (mut written, sent) = good();
            change(&mut written);
            assert_eq!(faults(&judge(&written, &sent)), expected);
        };
        check(|written| written.truncate(3), [1, 0, 0, 0]);
        check(|written| written.push(written[3]), [0, 1, 0, 0]);
        check(
            |written| {
                written[0].line = line(0, 1);
                written[3].line = line(0, 0);
            },
            [0, 0, 1, 0],
        );
        // The old owner after the new one, and two owners at once.
        check(
            |written| (written[3].unit, written[3].epoch) = (UNITS[0], 5),
            [0, 0, 0, 1],
        );
        check(|written| written[3].unit = UNITS[0], [0, 0, 0, 1]);
    }

    #[test]
    fn only_lines_of_the_demo_are_written_down() {
        let room = Room::default();
        room.write(UNITS[0], Some(1), b"hello");
        room.write(UNITS[0], Some(1), line(3, 4).text().as_bytes());
        assert_eq!(room.lines().len(), 1);
        assert_eq!(room.lines()[0].line, line(3, 4));
    }
}
