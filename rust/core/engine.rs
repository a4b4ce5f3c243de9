// SPDX-License-Identifier: GPL-2.0

//! The resize engine: decides what the driver does next, and does nothing itself.
//!
//! One thread drives it: it asks for a [`Step`] ([`Engine::next_step`]), carries it out, and says
//! how it went ([`Engine::handle_outcome`]). Linux' memory notifier and online-page callback speak
//! to it from other threads between, and even during, steps ([`notify`]). The caller serializes all
//! of it with one lock, which is never held while a step is carried out.
//!
//! What it knows is in parts, none of which writes to another: the map, the config space
//! (`config_tracker.rs`), when to try again (`retry.rs`), how far shrinking (`shrink.rs`, `pass.rs`)
//! and asking the device (`audit.rs`) have come. Its own methods take what happened (`handle_...`),
//! look for the next step (`next_...`), or read its state.
//!
//! # What holds at any time
//!
//! - A sub-block that the map calls unplugged is not in the page allocator, and one that it calls
//!   plugged is plugged in the device. Where the device leaves doubt (an answer that is no answer),
//!   it is asked with STATE; where it will not say, the sub-block is kept away from Linux.
//!   The one exception is memory that Linux was using when the device turned out not to have it: the
//!   map calls it plugged until it has been withdrawn (see `reconcile.rs`).
//! - A block that a step works on, or that Linux is moving, is in no class of the map and so no
//!   candidate for anything else.
//! - No more is plugged than was requested when the request was sent.

use crate::block_map::BlockMap;
use crate::block_map::Class;
use crate::geometry::Geometry;
use crate::portion::Batch;
use crate::portion::Portion;
use crate::vocabulary::Reason;
use crate::vocabulary::State;
use crate::wire::Config;
use core::fmt;
use core::ops::DerefMut;

mod answers;
mod audit;
mod config_tracker;
#[cfg(any(not(MODULE), vmem_test_hooks))]
mod falsify;
mod grow;
pub mod notify;
mod operation;
mod pass;
mod reconcile;
mod retry;
mod shrink;
mod step;
mod take_over;

pub use config_tracker::IgnoredConfig;
pub use step::Environment;
pub use step::Failure;
pub use step::Look;
pub use step::Onlining;
pub use step::Outcome;
pub use step::Step;
pub use step::WATCH_MS;

use audit::Audit;
use config_tracker::ConfigTracker;
use operation::Operation;
use retry::Retry;
use retry::Wait;
use shrink::Shrink;

/// What the engine is doing, for people and for the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// In general.
    pub state: State,
    /// Why nothing is done.
    pub reason: Reason,
    /// When it is tried again, on the clock of [`Environment::now_ms`].
    pub retry_at_ms: Option<u64>,
    /// How often it has had to wait since the requested size changed.
    pub attempts: u32,
}

/// The engine; `W` is the storage of its [`BlockMap`].
#[cfg_attr(not(MODULE), derive(Clone))]
pub struct Engine<W> {
    map: BlockMap<W>,
    onlining: Onlining,
    config: ConfigTracker,
    unplug_all: bool,
    operation: Operation,
    next: Option<Operation>,
    retry: Retry,
    audit: Audit,
    shrink: Shrink,
    batch: Batch,
    /// What is asked of a busy host at once.
    portion: Portion,
    max_offline: u32,
}

/// Memory that may be added but offline: memory for its metadata is already gone, so without a
/// limit a guest that nobody onlines memory in would die of it.
const MAX_OFFLINE: u64 = 1 << 30;

impl<W: DerefMut<Target = [u64]>> Engine<W> {
    /// An engine for a device in the state that `config` (checked) describes. `words` must have
    /// the length that [`BlockMap::words_needed`] tells.
    pub fn new(geometry: Geometry, words: W, config: Config, onlining: Onlining) -> Self {
        let mut engine = Self {
            map: BlockMap::new(geometry, words),
            onlining,
            config: ConfigTracker::new(config),
            unplug_all: config.plugged_size != 0,
            operation: Operation::Nothing,
            next: None,
            retry: Retry::new(),
            audit: Audit::new(),
            shrink: Shrink::new(),
            batch: Batch::new(&geometry),
            portion: Portion::ALL,
            max_offline: geometry
                .memory_blocks_in(MAX_OFFLINE)
                .max(geometry.memory_blocks_per_block().saturating_mul(2)),
        };
        if !engine.unplug_all {
            // Some devices count wrong: that nothing is plugged has to be seen.
            engine.audit.begin();
        }
        engine
    }

    /// The map, to look at.
    pub fn map(&self) -> &BlockMap<W> {
        &self.map
    }

    /// The config space as last read and believed.
    pub fn config(&self) -> &Config {
        self.config.config()
    }

    /// What came of reading the config space last: what it is, or what makes no sense of it.
    pub fn last_reading(&self) -> Result<Config, IgnoredConfig> {
        self.config.last_reading()
    }

    /// Who brings memory online.
    pub fn onlining(&self) -> Onlining {
        self.onlining
    }

    /// Whether memory from an earlier life has yet to be unplugged.
    pub fn unplug_all_required(&self) -> bool {
        self.unplug_all
    }

    /// How much is plugged, in bytes.
    pub fn plugged_size(&self) -> u64 {
        self.map.geometry().size_of(self.map.plugged())
    }

    /// How much of what Linux has it still has to give up, in bytes.
    pub fn excess_bytes(&self) -> u64 {
        let excess = self.map.plugged().saturating_sub(self.target());
        let more = excess.saturating_sub(self.map.plugged_not_added());
        self.map.geometry().size_of(more)
    }

    /// The device says that its config space changed.
    pub fn handle_config_changed(&mut self) {
        self.config.handle_change();
    }

    /// Whatever is waited for, it is tried again at once.
    pub fn handle_retry(&mut self) {
        self.start_over();
    }

    /// Everything is tried at once, as if nothing had been tried yet.
    fn start_over(&mut self) {
        self.retry.start_over();
        self.portion = Portion::ALL;
        self.shrink.start_over();
        self.shrink.progress();
        self.clear_refused();
    }

    /// What is going on.
    pub fn status(&self) -> Status {
        let (plugged, target) = (self.map.plugged(), self.target());
        let met = !self.unplug_all && plugged == target && !self.has_unused();
        // Where the request is met, all that is left to do is to remove blocks that hold nothing.
        let waiting = self
            .retry
            .waiting()
            .filter(|waiting| !(met && waiting.reason() == Reason::MemoryInUse));
        // Only the host can tell what is plugged, and what it says has yet to come true.
        let taking_over = self.audit.is_taking_over();
        let audited = self.audit.is_under_way() && (met || taking_over);
        // Being asked for the first time, it has said nothing wrong yet.
        let paused = self.retry.audit_at_ms();
        let asking = taking_over && !(audited && (self.audit.in_vain() || paused.is_some()));
        let in_doubt = audited || (met && self.config.confirms_audit());
        let (state, reason) = match waiting {
            Some(waiting) => (State::Waiting, waiting.reason()),
            None if asking && plugged <= target => (State::Plugging, Reason::None),
            None if asking => (State::Unplugging, Reason::None),
            None if in_doubt => (State::Waiting, Reason::HostError),
            None if self.unplug_all || plugged > target => (State::Unplugging, Reason::None),
            None if !met => (State::Plugging, Reason::None),
            None => (State::Settled, Reason::None),
        };
        let audit = (audited && !asking).then(|| paused.unwrap_or(0));
        Status {
            state,
            reason,
            retry_at_ms: waiting.map_or(audit, |waiting| waiting.until_ms()),
            attempts: self.retry.attempts(),
        }
    }

    /// Whether something is plugged that Linux is still to have, or that is still to be brought
    /// online.
    fn has_unused(&self) -> bool {
        self.map.plugged_not_added() > 0
            || self.any(Class::Wanted)
            || self.any(Class::Incomplete)
            || matches!(
                self.operation,
                Operation::Add(_) | Operation::Online(_) | Operation::Give(..)
            )
            || matches!(self.next, Some(Operation::Online(_) | Operation::Give(..)))
    }

    /// Sub-blocks that the request allows.
    fn target(&self) -> u32 {
        self.map.geometry().subs_in(self.config().requested_size)
    }

    /// Decides what to do now. The answer must be carried out and reported with
    /// [`Engine::handle_outcome`] before the next call; only [`Step::Wait`] needs no report.
    ///
    /// `look` is asked how much of an online memory block is in use, in bytes: about, and what is
    /// unplugged of it counts as used. Such a block stays online meanwhile.
    pub fn next_step(&mut self, env: &Environment, look: Look<'_>) -> Step {
        if let Some(operation) = self.next.take() {
            return self.start(operation);
        }
        if self.config.read_due() {
            return self.start(Operation::ReadConfig);
        }
        if self.retry.resync_due(env.now_ms) {
            return self.start(Operation::Resync);
        }
        if self.retry.resync_required() {
            return self.rest(env);
        }
        if let Some(operation) = self.next_of_audit(env) {
            return self.start(operation);
        }
        if self.config.read_due() {
            // The audit is over.
            return self.start(Operation::ReadConfig);
        }
        if self.audit.is_taking_over() {
            return self.rest(env);
        }
        if let Some(step) = self.keep_waiting(env) {
            return step;
        }
        let operation = if self.unplug_all {
            Some(Operation::UnplugAll)
        } else if self.map.plugged() > self.target() {
            self.next_to_shrink(env, look)
        } else {
            self.next_to_grow(env).or_else(|| {
                if self.retry.is_waiting() {
                    return None;
                }
                self.next_to_clean_up(env)
            })
        };
        let Some(operation) = operation else {
            // What it waits for may have come while the last steps were under way.
            let over = self.retry.is_waiting();
            return match self.keep_waiting(env) {
                Some(step) => step,
                None if over => Step::wait(Some(1)),
                None => self.rest(env),
            };
        };
        self.start(operation)
    }

    /// Goes on with the wait, if there is one. Meanwhile the host may get back what is of no use.
    fn keep_waiting(&mut self, env: &Environment) -> Option<Step> {
        match self.retry.poll(env)? {
            Wait::GoesOn => {}
            Wait::Over => {
                self.shrink.resume_pass();
                return None;
            }
            Wait::MuchFreed => {
                self.shrink.start_over();
                return None;
            }
        }
        if self.retry.releases_unusable() {
            let operation = self
                .next_refused()
                .or_else(|| self.next_not_added(u32::MAX));
            if let Some(operation) = operation {
                return Some(self.start(operation));
            }
        }
        Some(self.rest(env))
    }

    /// Does nothing until the next deadline, or until something happens.
    fn rest(&self, env: &Environment) -> Step {
        let deadline = self
            .retry
            .next_deadline(env.now_ms, !self.audit.is_taking_over());
        Step::Wait {
            ms: deadline.map(|at| at.saturating_sub(env.now_ms).max(1)),
            free: self.retry.enough_free(env.now_ms),
        }
    }

    /// Something was achieved.
    fn progress(&mut self) {
        self.retry.progress();
        self.shrink.progress();
    }

    /// A wait for one of `reasons` is over: what has led to it is no longer so.
    fn stop_waiting_for(&mut self, reasons: &[Reason]) {
        if self.retry.stop_waiting_for(reasons) {
            self.shrink.restart_pass();
        }
    }

    /// Whether any block is in `class`.
    fn any(&self, class: Class) -> bool {
        self.map.class(class).first().is_some()
    }
}

/// For developers: all but the map.
impl<W> fmt::Debug for Engine<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("config", &self.config)
            .field("unplug_all", &self.unplug_all)
            .field("operation", &self.operation)
            .field("next", &self.next)
            .field("retry", &self.retry)
            .field("audit", &self.audit)
            .field("shrink", &self.shrink)
            .field("batch", &self.batch)
            .field("portion", &self.portion)
            .field("max_offline", &self.max_offline)
            .finish_non_exhaustive()
    }
}
