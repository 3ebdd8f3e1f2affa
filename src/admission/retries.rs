//! Retry budgets of all destination units, shared by the shards.
//!
//! Each shard counts its active calls in a cache line that no other shard writes: one load and one store for a call, no
//! contention. The lock belongs to retries: a call that is never sent again does not see it.
//!
//! # Invariants
//! - Q1. A [`Permit`] is out from the moment it is taken until it is dropped, wherever that happens.
//! - Q2. A permit that comes back goes to the first in line, on whichever shard it waits.
//! - Q3. A grant that finds nobody gives its permit back: dropping it is enough.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;

use super::budget::{Line, permits};
use super::settings::RetrySettings;
use crate::crossing::{Receiver, Sender, pipe};
use crate::model::{CallId, Map, UnitId};

/// The budgets of all units, and the settings in force.
pub struct RetryBudgets {
    /// Of every unit that was in the settings since the start: one that leaves may come back while calls to it are open.
    units: Mutex<HashMap<UnitId, Arc<Budget>>>,
    shards: usize,
    grants: Arc<[Sender<Granted>]>,
    settings: ArcSwap<RetrySettings>,
    granted: Mutex<Vec<Option<Receiver<Granted>>>>,
}

/// The budget of one unit.
struct Budget {
    line: Mutex<Line<Waiter>>,
    /// Active calls, one counter for each shard, which alone writes it.
    active: Vec<Padded>,
    /// Where permits for those who waited go, by shard.
    grants: Arc<[Sender<Granted>]>,
}

/// Alone in its cache line, and in the one that the processor fetches along.
#[derive(Default)]
#[repr(align(128))]
struct Padded(AtomicUsize);

/// A call that waits.
struct Waiter {
    shard: usize,
    call: CallId,
}

/// One retry may be under way for as long as this exists (Q1).
pub struct Permit(Arc<Budget>);

/// A place in line; dropping it gives it up.
pub struct Ticket {
    budget: Arc<Budget>,
    number: u64,
}

/// A permit for a call that waited.
pub struct Granted {
    /// The call.
    pub call: CallId,
    /// The permit.
    pub permit: Permit,
    number: u64,
}

/// What one shard sees.
pub struct ShardBudgets {
    shared: Arc<RetryBudgets>,
    shard: usize,
    /// Those that were asked for.
    units: RefCell<Map<UnitId, Rc<ShardBudget>>>,
    /// The last one asked for: most calls go where the one before went, and the name is all that is compared.
    last: RefCell<Option<(UnitId, Rc<ShardBudget>)>>,
    granted: Option<Receiver<Granted>>,
}

/// The budget of one unit as one shard sees it.
pub struct ShardBudget {
    budget: Arc<Budget>,
    shard: usize,
}

/// One active call, for as long as this exists: its first attempt is on its way and unanswered.
pub struct Active(Rc<ShardBudget>);

impl RetryBudgets {
    /// Budgets for calls to these units.
    pub fn new(units: impl IntoIterator<Item = UnitId>, shards: usize, settings: RetrySettings) -> Arc<Self> {
        let (grants, granted): (Vec<_>, Vec<_>) = (0..shards).map(|_| pipe()).unzip();
        let budgets = Self {
            units: Mutex::default(),
            shards,
            grants: grants.into(),
            settings: ArcSwap::from_pointee(settings),
            granted: Mutex::new(granted.into_iter().map(Some).collect()),
        };
        budgets.add_units(units);
        Arc::new(budgets)
    }

    /// Budgets for calls to further units; those that are there already stay as they are.
    pub fn add_units(&self, units: impl IntoIterator<Item = UnitId>) {
        let budget = || {
            Arc::new(Budget {
                line: Mutex::default(),
                active: std::iter::repeat_with(Padded::default).take(self.shards).collect(),
                grants: self.grants.clone(),
            })
        };
        let mut known = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        for unit in units {
            known.entry(unit).or_insert_with(budget);
        }
    }

    fn of(&self, unit: &UnitId) -> Option<Arc<Budget>> {
        let units = self.units.lock().unwrap_or_else(PoisonError::into_inner);
        units.get(unit).cloned()
    }

    /// Puts settings in force.
    pub fn replace_settings(&self, settings: RetrySettings) {
        self.settings.store(Arc::new(settings));
    }

    /// The side of one shard; grants come to the first that asks.
    pub fn on_shard(self: &Arc<Self>, shard: usize) -> ShardBudgets {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        ShardBudgets {
            shared: self.clone(),
            shard,
            units: RefCell::default(),
            last: RefCell::default(),
            granted: granted.get_mut(shard).and_then(Option::take),
        }
    }
}

impl ShardBudgets {
    /// The budget of a unit, if it is one of the settings.
    pub fn of(&self, unit: &UnitId) -> Option<Rc<ShardBudget>> {
        let mut last = self.last.borrow_mut();
        if let Some((name, budget)) = &*last
            && name == unit
        {
            return Some(budget.clone());
        }
        let known = self.units.borrow().get(unit).cloned();
        let budget = match known {
            Some(budget) => budget,
            None => self.meet(unit)?,
        };
        *last = Some((unit.clone(), budget.clone()));
        Some(budget)
    }

    fn meet(&self, unit: &UnitId) -> Option<Rc<ShardBudget>> {
        let budget = Rc::new(ShardBudget {
            budget: self.shared.of(unit)?,
            shard: self.shard,
        });
        self.units.borrow_mut().insert(unit.clone(), budget.clone());
        Some(budget)
    }

    /// Whether a call to this service and unit may be sent again now (C-T7).
    pub fn allows(&self, service: Option<&str>, unit: &UnitId) -> bool {
        self.shared.settings.load().allows(service, unit)
    }

    /// Waits for permits of calls that waited on this shard, and takes them into the empty `batch`. Cancel safe.
    pub async fn granted(&self, batch: &mut VecDeque<Granted>) {
        match &self.granted {
            // Never ends before the budgets do, and those are here.
            Some(granted) => drop(granted.take(batch).await),
            None => std::future::pending().await,
        }
    }
}

impl ShardBudget {
    /// Counts a call until the guard is dropped.
    pub fn count(self: Rc<Self>) -> Active {
        self.add(1);
        Active(self)
    }

    /// Takes a permit if one is free and nobody waits.
    pub fn take(&self) -> Option<Permit> {
        let permits = self.budget.permits();
        let taken = self.budget.line().take(permits);
        taken.then(|| Permit(self.budget.clone()))
    }

    /// Takes a permit, or gets in line for one.
    ///
    /// # Errors
    /// The place in line. A permit then comes as [`Granted`].
    pub fn take_or_wait(&self, call: CallId) -> Result<Permit, Ticket> {
        let permits = self.budget.permits();
        let mut line = self.budget.line();
        let budget = self.budget.clone();
        if line.take(permits) {
            return Ok(Permit(budget));
        }
        let shard = self.shard;
        let number = line.wait(Waiter { shard, call });
        Err(Ticket { budget, number })
    }

    /// Active calls to the unit, all shards together.
    #[cfg(test)]
    pub(crate) fn active(&self) -> usize {
        let active = self.budget.active.iter();
        active.map(|Padded(count)| count.load(Ordering::Relaxed)).sum()
    }

    /// Only this shard writes its counter, so a load and a store are enough.
    fn add(&self, change: isize) {
        if let Some(Padded(count)) = self.budget.active.get(self.shard) {
            let active = count.load(Ordering::Relaxed).saturating_add_signed(change);
            count.store(active, Ordering::Relaxed);
        }
    }
}

impl Budget {
    /// How many permits there are now. Counts of other shards may be a moment old, which moves the limit a little.
    fn permits(&self) -> usize {
        let active = self.active.iter().map(|Padded(count)| count.load(Ordering::Relaxed));
        permits(active.sum())
    }

    fn line(&self) -> MutexGuard<'_, Line<Waiter>> {
        // No code that can panic runs under the lock.
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A permit came back: it, and what else is free, goes to those who wait (Q2).
    fn give_back(self: &Arc<Self>) {
        self.line().give_back();
        loop {
            let permits = self.permits();
            // The lock is free again before the grant is handed over: dropping one takes it (Q3).
            let Some((number, Waiter { shard, call })) = self.line().next(permits) else {
                return;
            };
            let permit = Permit(self.clone());
            if let Some(grants) = self.grants.get(shard) {
                grants.push(Granted { call, permit, number });
            }
        }
    }
}

impl Granted {
    /// Whether this is what the ticket was for.
    pub fn is_for(&self, ticket: &Ticket) -> bool {
        self.number == ticket.number && Arc::ptr_eq(&self.permit.0, &ticket.budget)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.budget.line().leave(self.number);
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Name;

    fn unit() -> UnitId {
        Name::new("b").unwrap()
    }

    fn budgets(shards: usize) -> Vec<ShardBudgets> {
        let budgets = RetryBudgets::new([unit()], shards, RetrySettings::default());
        (0..shards).map(|shard| budgets.on_shard(shard)).collect()
    }

    // C-T3: one budget for the unit, whatever shard counts and asks.
    #[test]
    fn all_shards_share_the_budget_of_a_unit() {
        let shards = budgets(2);
        let [one, other] = [0, 1].map(|shard: usize| shards[shard].of(&unit()).unwrap());
        let active: Vec<_> = (0..10)
            .flat_map(|_| [one.clone().count(), other.clone().count()])
            .collect();
        let permits = [&one, &other, &one, &other].map(|shard| shard.take());
        assert!(permits.iter().all(Option::is_some), "a fifth of twenty");
        assert!(one.take().is_none() && other.take().is_none());
        drop(active);
        drop(permits);
        let permits = [&one, &other, &one].map(|shard| shard.take());
        assert!(permits.iter().all(Option::is_some), "three at least");
        assert!(other.take().is_none());
    }

    async fn next_grant(shard: &ShardBudgets, batch: &mut VecDeque<Granted>) {
        let limit = std::time::Duration::from_secs(10);
        let granted = tokio::time::timeout(limit, shard.granted(batch)).await;
        granted.expect("nobody was granted a permit");
    }

    // Q2, B2
    #[tokio::test]
    async fn a_permit_goes_to_the_first_in_line_on_whichever_shard_it_waits() {
        let shards = budgets(2);
        let [one, other] = [0, 1].map(|shard: usize| shards[shard].of(&unit()).unwrap());
        let mut permits: Vec<_> = (0..3).map(|_| one.take().unwrap()).collect();
        let wait = |shard: &ShardBudget, call| shard.take_or_wait(CallId(call)).err().unwrap();
        let (_first, left, second) = (wait(&other, 1), wait(&one, 2), wait(&one, 3));
        drop(left);
        let mut batch = VecDeque::new();
        permits.pop();
        next_grant(&shards[1], &mut batch).await;
        let granted = batch.pop_front().unwrap();
        assert_eq!((granted.call, batch.len()), (CallId(1), 0));
        // A grant that nobody wants goes on to the next.
        drop(granted);
        next_grant(&shards[0], &mut batch).await;
        assert!(batch[0].call == CallId(3) && batch[0].is_for(&second));
    }

    #[test]
    fn a_shard_that_is_gone_keeps_no_permit() {
        let mut shards = budgets(2);
        let gone = shards.pop().unwrap();
        let permits: Vec<_> = {
            let one = shards[0].of(&unit()).unwrap();
            (0..3).map(|_| one.take().unwrap()).collect()
        };
        let tickets: Vec<_> = (0..50)
            .filter_map(|call| gone.of(&unit()).unwrap().take_or_wait(CallId(call)).err())
            .collect();
        drop(gone);
        drop(permits);
        drop(tickets);
        let one = shards[0].of(&unit()).unwrap();
        assert!(one.take().is_some());
    }
}
