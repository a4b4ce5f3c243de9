// SPDX-License-Identifier: GPL-2.0

//! The resize engine: decides what the driver does next, and does nothing itself.
//!
//! One thread drives it: it asks for a [`Step`] ([`Engine::step`]), carries it out, and says how it
//! went ([`Engine::done`]). Linux' memory notifier and online-page callback speak to it from other
//! threads between, and even during, steps ([`notify`]). The caller serializes all of it with one
//! lock, which is never held while a step is carried out.
//!
//! # What holds at any time
//!
//! - A sub-block that the map calls unplugged is not in the page allocator, and one that it calls
//!   plugged is plugged in the device. Where the device leaves doubt (an answer that is no answer),
//!   it is asked with STATE; where it will not say, the sub-block is kept away from Linux.
//!   The one exception is memory that Linux was using when the device turned out not to have it: the
//!   map calls it plugged until it has been withdrawn (see `audit.rs`).
//! - A block that a step works on, or that Linux is moving, is in no class of the map and so no
//!   candidate for anything else.
//! - No more is plugged than was requested when the request was sent.

use crate::backoff::Backoff;
use crate::block_map::BlockMap;
use crate::block_map::Class;
use crate::block_map::Flags;
use crate::geometry::Geometry;
use crate::portion::Batch;
use crate::portion::Portion;
use crate::vocabulary::Reason;
use crate::vocabulary::State;
use crate::wire::Config;
use crate::wire::Request;
use core::fmt;
use core::ops::DerefMut;
use core::ops::Range;

mod answers;
mod audit;
#[cfg(any(not(MODULE), vmem_test_hooks))]
mod falsify;
mod grow;
pub mod notify;
mod shrink;
mod step;
mod waiting;

pub use step::Environment;
pub use step::Failure;
pub use step::Look;
pub use step::Onlining;
pub use step::Outcome;
pub use step::Step;
pub use step::WATCH_MS;

use audit::Audit;
use audit::Reread;
use shrink::Pass;
use waiting::Waiting;

/// What the step under way is for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Operation {
    Nothing,
    ReadConfig,
    UnplugAll,
    /// Plugging these; if their block is online they are handed to Linux next.
    Plug(Range<u32>),
    /// Taking these from Linux, to unplug them next.
    Take(Range<u32>),
    /// Unplugging what was taken from Linux.
    UnplugTaken(Range<u32>),
    /// Unplugging what Linux does not use: its block is offline or not added.
    UnplugIdle(Range<u32>),
    /// Handing these to Linux, then asking about the rest.
    Give(Range<u32>, Range<u32>),
    /// Asking about the first sub-blocks, which the device left in doubt, then about the rest.
    Ask(Range<u32>, Range<u32>),
    /// Asking what the device has, to compare it with the map.
    Audit(Range<u32>),
    /// Seeing to it that Linux does not use what the device does not have.
    Withdraw(Range<u32>),
    /// These are memory blocks.
    Add(u32),
    Online(u32),
    Remove(Range<u32>),
    /// Finding out anew what Linux has.
    Resync,
    /// Looking at more blocks, when others have had their turn.
    Look,
}

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
    config: Config,
    reread: bool,
    /// It is read because the device says that it has changed.
    announced: bool,
    /// It was found changed when it was read for another reason.
    changed_unannounced: bool,
    reread_for: Reread,
    unplug_all: bool,
    operation: Operation,
    next: Option<Operation>,
    waiting: Option<Waiting>,
    /// The device is being asked which blocks it has.
    audit: Option<Audit>,
    /// Until that is done, it is not known what was plugged in an earlier life of the driver.
    taking_over: bool,
    /// The map is wrong about Linux, which is to be looked at from this moment on, before anything
    /// else is done.
    resync_at_ms: Option<u64>,
    /// By how much the device's plugged size differs from its blocks, when last it was asked.
    plugged_size_skew: u64,
    /// The same, if that is confirmed when it is asked once more.
    suspected: u64,
    pass: Pass,
    /// No pass has come to its end since the request changed, or much memory was freed.
    first_pass: bool,
    /// Passes in a row that have achieved nothing.
    fruitless_passes: u32,
    /// How often it has had to wait since the request changed.
    attempts: u32,
    /// Most free memory with which one of them was begun.
    most_free: u64,
    /// What has been removed from Linux is to be unplugged before anything else.
    flush: bool,
    /// When the first of it was removed.
    loose_since_ms: Option<u64>,
    batch: Batch,
    /// What is asked of a busy host at once.
    portion: Portion,
    max_offline: u32,
    host: Backoff,
    linux: Backoff,
    in_use: Backoff,
    audits: Backoff,
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
            config,
            reread: true,
            announced: true,
            changed_unannounced: false,
            reread_for: Reread::Changed,
            unplug_all: config.plugged_size != 0,
            operation: Operation::Nothing,
            next: None,
            waiting: None,
            audit: None,
            taking_over: false,
            resync_at_ms: None,
            plugged_size_skew: 0,
            suspected: 0,
            pass: Pass::new(),
            first_pass: true,
            fruitless_passes: 0,
            attempts: 0,
            most_free: 0,
            flush: false,
            loose_since_ms: None,
            batch: Batch::new(&geometry),
            portion: Portion::ALL,
            max_offline: geometry
                .memory_blocks_in(MAX_OFFLINE)
                .max(geometry.memory_blocks_per_block().saturating_mul(2)),
            host: Backoff::HOST,
            linux: Backoff::LINUX,
            in_use: Backoff::MEMORY_IN_USE,
            audits: Backoff::AUDIT,
        };
        if !engine.unplug_all {
            // Some devices count wrong: that nothing is plugged has to be seen.
            engine.audit_all();
        }
        engine
    }

    /// The map, to look at.
    pub fn map(&self) -> &BlockMap<W> {
        &self.map
    }

    /// The config space as last read and believed.
    pub fn config(&self) -> &Config {
        &self.config
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

    /// The device says that its config space changed.
    pub fn config_changed(&mut self) {
        self.reread = true;
        self.announced = true;
    }

    /// Whatever is waited for, it is tried again at once.
    pub fn retry(&mut self) {
        self.waiting = None;
        self.portion = Portion::ALL;
        self.start_over();
        self.clear_refused();
        self.linux.reset();
        self.audits.reset();
        if let Some(audit) = &mut self.audit {
            audit.go_on();
        }
    }

    /// Shrinking starts over, as if nothing had been tried.
    fn start_over(&mut self) {
        self.pass = Pass::new();
        self.first_pass = true;
        self.progress();
    }

    /// What is going on.
    pub fn status(&self) -> Status {
        let (plugged, target) = (self.map.plugged(), self.target());
        let met = !self.unplug_all && plugged == target && !self.has_unused();
        // Where the request is met, all that is left to do is to remove blocks that hold nothing.
        let waiting = self
            .waiting
            .filter(|waiting| !(met && waiting.reason == Reason::MemoryInUse));
        // Only the host can tell what is plugged, and what it says has yet to come true.
        let audit = self.audit.filter(|_| met || self.taking_over);
        // Being asked for the first time, it has said nothing wrong yet.
        let asking = self.taking_over && !audit.is_some_and(|audit| audit.in_vain());
        let in_doubt = audit.is_some() || (met && self.reread_for == Reread::Known);
        let (state, reason) = match waiting {
            Some(waiting) => (State::Waiting, waiting.reason),
            None if asking && plugged <= target => (State::Plugging, Reason::None),
            None if asking => (State::Unplugging, Reason::None),
            None if in_doubt => (State::Waiting, Reason::HostError),
            None if self.unplug_all || plugged > target => (State::Unplugging, Reason::None),
            None if !met => (State::Plugging, Reason::None),
            None => (State::Settled, Reason::None),
        };
        let audit = audit.filter(|_| !asking).map(|audit| audit.goes_on_ms());
        Status {
            state,
            reason,
            retry_at_ms: waiting.map_or(audit, |waiting| waiting.until_ms),
            attempts: self.attempts,
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
        self.map.geometry().subs_in(self.config.requested_size)
    }

    /// Decides what to do now. The answer must be carried out and reported with [`Engine::done`]
    /// before the next call; only [`Step::Wait`] needs no report.
    ///
    /// `look` is asked how much of an online memory block is in use, in bytes: about, and what is
    /// unplugged of it counts as used. Such a block stays online meanwhile.
    pub fn step(&mut self, env: &Environment, look: Look<'_>) -> Step {
        match self.decide(env, look) {
            Step::Wait { ms, free } => Step::Wait {
                ms: [ms, self.until_audit(env)].into_iter().flatten().min(),
                free,
            },
            step => step,
        }
    }

    fn decide(&mut self, env: &Environment, look: Look<'_>) -> Step {
        if let Some(operation) = self.next.take() {
            return self.start(operation);
        }
        if self.reread {
            return self.start(Operation::ReadConfig);
        }
        if let Some(at_ms) = self.resync_at_ms {
            return match at_ms.saturating_sub(env.now_ms) {
                0 => self.start(Operation::Resync),
                ms => Step::wait(Some(ms)),
            };
        }
        if let Some(operation) = self.go_on_with_audit(env) {
            return self.start(operation);
        }
        if self.reread {
            // The audit is over.
            return self.start(Operation::ReadConfig);
        }
        if self.taking_over {
            return Step::wait(None);
        }
        if let Some(step) = self.keep_waiting(env) {
            return step;
        }
        let operation = if self.unplug_all {
            Some(Operation::UnplugAll)
        } else if self.map.plugged() > self.target() {
            self.shrink(env, look)
        } else {
            self.grow(env).or_else(|| {
                if self.waiting.is_some() {
                    return None;
                }
                self.clean_up(env)
            })
        };
        let Some(operation) = operation else {
            // What it waits for may have come while the last steps were under way.
            let over = self.waiting.is_some().then_some(1);
            return self.keep_waiting(env).unwrap_or(Step::wait(over));
        };
        self.start(operation)
    }

    /// Something was achieved: the next failure is a first one again. (Not that of Linux: that it
    /// cannot take memory is found out anew each time memory has been plugged.)
    fn progress(&mut self) {
        self.host.reset();
        self.in_use.reset();
        self.fruitless_passes = 0;
        self.most_free = 0;
        self.pass.progress();
    }

    /// Notes what is being done, marks the blocks that it works on, and says it as a step.
    fn start(&mut self, operation: Operation) -> Step {
        let geometry = *self.map.geometry();
        let range = |subs: &Range<u32>| {
            let blocks = geometry.device_blocks(subs.end.saturating_sub(subs.start));
            (geometry.sub_addr(subs.start), blocks)
        };
        let step = match &operation {
            Operation::Nothing => Step::wait(None),
            Operation::Look => return Step::wait(Some(0)),
            Operation::ReadConfig => {
                self.reread = false;
                Step::ReadConfig
            }
            Operation::UnplugAll => Step::Send(Request::UnplugAll),
            Operation::Plug(subs) => {
                let (addr, blocks) = range(subs);
                Step::Send(Request::Plug { addr, blocks })
            }
            Operation::UnplugTaken(subs) | Operation::UnplugIdle(subs) => {
                let (addr, blocks) = range(subs);
                Step::Send(Request::Unplug { addr, blocks })
            }
            Operation::Ask(subs, _) | Operation::Audit(subs) => {
                let (addr, blocks) = range(subs);
                Step::Send(Request::State { addr, blocks })
            }
            Operation::Resync => Step::Resync,
            Operation::Take(subs) => Step::Take { subs: subs.clone() },
            Operation::Withdraw(subs) => Step::Withdraw { subs: subs.clone() },
            Operation::Give(subs, _) => Step::Give { subs: subs.clone() },
            Operation::Add(memory_block) => Step::Add {
                memory_block: *memory_block,
            },
            Operation::Online(memory_block) => Step::Online {
                memory_block: *memory_block,
            },
            Operation::Remove(memory_blocks) => Step::Remove {
                memory_blocks: memory_blocks.clone(),
                online: memory_blocks
                    .clone()
                    .any(|number| self.map.memory_block_state(number).online()),
                brief: !self.first_pass,
            },
        };
        match &operation {
            Operation::Plug(subs)
            | Operation::Take(subs)
            | Operation::Withdraw(subs)
            | Operation::UnplugIdle(subs) => self.hold(subs, true),
            Operation::Add(memory_block) => self.start_adding(*memory_block),
            Operation::Online(memory_block) => self.set_transit(*memory_block, true),
            Operation::Remove(memory_blocks) => self.set_transit(memory_blocks.start, true),
            _ => {}
        }
        self.operation = operation;
        step
    }

    /// Marks the block of a memory block as on its way into Linux or out of it, or not any more.
    fn set_transit(&mut self, memory_block: u32, on: bool) {
        let block = self.map.geometry().block_of_memory_block(memory_block);
        self.map.set_flags(block, Flags::TRANSIT, on);
    }

    /// Marks the blocks of `subs` as worked on, or as free for others again.
    fn hold(&mut self, subs: &Range<u32>, held: bool) {
        if subs.is_empty() {
            return;
        }
        let geometry = *self.map.geometry();
        let last = geometry.block_of(subs.end.saturating_sub(1));
        for block in geometry.block_of(subs.start)..=last {
            self.map.set_flags(block, Flags::HELD, held);
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
            .field("reread", &self.reread)
            .field("announced", &self.announced)
            .field("changed_unannounced", &self.changed_unannounced)
            .field("reread_for", &self.reread_for)
            .field("unplug_all", &self.unplug_all)
            .field("operation", &self.operation)
            .field("next", &self.next)
            .field("waiting", &self.waiting)
            .field("audit", &self.audit)
            .field("taking_over", &self.taking_over)
            .field("resync_at_ms", &self.resync_at_ms)
            .field("plugged_size_skew", &self.plugged_size_skew)
            .field("suspected", &self.suspected)
            .field("pass", &self.pass)
            .field("first_pass", &self.first_pass)
            .field("fruitless_passes", &self.fruitless_passes)
            .field("attempts", &self.attempts)
            .field("most_free", &self.most_free)
            .field("flush", &self.flush)
            .field("loose_since_ms", &self.loose_since_ms)
            .field("batch", &self.batch)
            .field("portion", &self.portion)
            .field("max_offline", &self.max_offline)
            .field("host", &self.host)
            .field("linux", &self.linux)
            .field("in_use", &self.in_use)
            .field("audits", &self.audits)
            .finish_non_exhaustive()
    }
}
