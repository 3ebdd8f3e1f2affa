//! The policies in force on one shard; another set takes their place when the settings are read again (C-L2).

use std::cell::RefCell;
use std::rc::Rc;

use super::CallPolicies;

/// The policies in force on one shard.
#[derive(Debug)]
pub struct ShardPolicies(RefCell<Rc<CallPolicies>>);

impl ShardPolicies {
    /// Starts with these.
    pub fn new(policies: CallPolicies) -> Rc<Self> {
        Rc::new(Self(RefCell::new(Rc::new(policies))))
    }

    /// The policies for a call that begins now. A call under way keeps the limits it began with.
    pub fn current(&self) -> Rc<CallPolicies> {
        Rc::clone(&self.0.borrow())
    }

    /// Puts others in force.
    pub fn replace(&self, policies: CallPolicies) {
        self.0.replace(Rc::new(policies));
    }
}
