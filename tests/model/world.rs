//! What relays, store and coordinators know at one moment.

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct World {
    /// The record of the key at each revision; the position is the revision.
    pub(crate) log: Vec<Record>,
    pub(crate) relays: Vec<Relay>,
    /// What each coordinator has seen: the barrier of the freeze at this revision.
    pub(crate) ready: Vec<Option<u8>>,
    pub(crate) writes_left: u8,
    /// Term and unit of the newest write that was ever accepted.
    pub(crate) accepted: Option<(u8, u8)>,
    /// A write was accepted after one of a newer term, or of the same term by another unit.
    pub(crate) is_order_broken: bool,
    /// A write was accepted while one of an older term was running.
    pub(crate) is_overlapped: bool,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Record {
    pub(crate) state: State,
    /// Revision of the commit that made the owner.
    pub(crate) term: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum State {
    Unbound,
    Active(u8),
    Frozen(u8),
}

#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Relay {
    pub(crate) applied: u8,
    pub(crate) has_lease: bool,
    /// Writes that are registered but not decided yet.
    pub(crate) tentative: u8,
    /// Without [`Rule::RegisterFirst`]: terms of writes that were checked and are not registered yet.
    pub(crate) checked: Vec<u8>,
    /// Terms of accepted writes that are not done.
    pub(crate) in_flight: Vec<u8>,
    /// On its way to the store.
    pub(crate) report: Option<Report>,
    /// By the store, the session is not over.
    pub(crate) is_live: bool,
    /// By the store: the newest revision that was reported, and the newest at which all was drained.
    pub(crate) acked: u8,
    pub(crate) drained_at: u8,
}

#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) struct Report {
    pub(crate) is_of_this_session: bool,
    pub(crate) applied: u8,
    pub(crate) is_drained: bool,
}

impl World {
    /// Nobody has the key, and nobody knows anything.
    pub(crate) fn new(relays: usize, coordinators: usize, writes: u8) -> Self {
        let relay = Relay {
            applied: 0,
            has_lease: true,
            tentative: 0,
            checked: Vec::new(),
            in_flight: Vec::new(),
            report: None,
            is_live: true,
            acked: 0,
            drained_at: 0,
        };
        Self {
            log: vec![Record {
                state: State::Unbound,
                term: 0,
            }],
            relays: vec![relay; relays],
            ready: vec![None; coordinators],
            writes_left: writes,
            accepted: None,
            is_order_broken: false,
            is_overlapped: false,
        }
    }

    pub(crate) fn rev(&self) -> u8 {
        u8::try_from(self.log.len() - 1).unwrap()
    }

    pub(crate) fn top(&self) -> Record {
        self.log[self.log.len() - 1]
    }

    pub(crate) fn report(&self, at: usize) -> Report {
        let relay = &self.relays[at];
        let view = self.log[usize::from(relay.applied)];
        Report {
            is_of_this_session: true,
            applied: relay.applied,
            is_drained: matches!(view.state, State::Frozen(_)) && relay.in_flight.is_empty() && relay.tentative == 0,
        }
    }

    pub(crate) fn bind(&mut self, unit: u8) {
        let term = self.rev() + 1;
        self.log.push(Record {
            state: State::Active(unit),
            term,
        });
    }

    pub(crate) fn tidy(&mut self) {
        let rev = self.rev();
        for ready in &mut self.ready {
            *ready = ready.filter(|seen| *seen == rev);
        }
        self.ready.sort_unstable();
        let frozen = matches!(self.top().state, State::Frozen(_)).then_some(rev);
        let frozen_at = |revision: u8| if frozen == Some(revision) { revision } else { 0 };
        for relay in &mut self.relays {
            let counts = |report: &Report| report.is_of_this_session && frozen == Some(report.applied);
            relay.report = relay.report.filter(|report| counts(report) && relay.is_live);
            relay.acked = if relay.is_live { frozen_at(relay.acked) } else { 0 };
            relay.drained_at = if relay.is_live { frozen_at(relay.drained_at) } else { 0 };
        }
    }

    pub(crate) fn accept(&mut self, at: usize, term: u8, unit: u8) {
        let newest = self.accepted.unwrap_or((term, unit));
        self.is_order_broken |= term < newest.0 || (term == newest.0 && unit != newest.1);
        let mut running = self.relays.iter().flat_map(|relay| &relay.in_flight);
        self.is_overlapped |= running.any(|other| *other < term);
        self.accepted = Some(newest.max((term, unit)));
        let in_flight = &mut self.relays[at].in_flight;
        in_flight.push(term);
        in_flight.sort_unstable();
    }

    /// Units that owned the key, one after the other.
    pub(crate) fn owners_so_far(&self) -> Vec<u8> {
        let mut owners: Vec<(u8, u8)> = Vec::new();
        for record in &self.log {
            if let (State::Active(unit), true) = (record.state, owners.last().is_none_or(|last| last.0 != record.term))
            {
                owners.push((record.term, unit));
            }
        }
        owners.into_iter().map(|(_, unit)| unit).collect()
    }

    pub(crate) fn has_abort(&self) -> bool {
        let mut pairs = self.log.iter().zip(self.log.iter().skip(1));
        pairs.any(|(first, second)| {
            matches!((first.state, second.state), (State::Frozen(from), State::Active(to)) if from == to)
        })
    }
}

impl Relay {
    pub(crate) fn deliver(&mut self) {
        let Some(report) = self.report.take() else { return };
        if self.is_live && report.is_of_this_session {
            self.acked = self.acked.max(report.applied);
            if report.is_drained {
                self.drained_at = self.drained_at.max(report.applied);
            }
        }
    }

    pub(crate) fn open(&mut self, caught_up: Option<u8>) {
        self.applied = caught_up.unwrap_or(self.applied);
        self.has_lease = true;
        self.is_live = true;
        self.acked = 0;
        self.drained_at = 0;
        if let Some(report) = &mut self.report {
            report.is_of_this_session = false;
        }
    }
}

impl State {
    pub(crate) fn unit(self) -> Option<u8> {
        match self {
            Self::Unbound => None,
            Self::Active(unit) | Self::Frozen(unit) => Some(unit),
        }
    }
}
