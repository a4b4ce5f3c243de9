// SPDX-License-Identifier: GPL-2.0

//! The thread that carries out what the engine decides.

mod memory;
mod pause;

use crate::config;
use crate::device::Device;
use crate::events::ANSWERED;
use crate::events::CONFIG;
use crate::events::PAUSE;
use crate::events::RECHECK;
use crate::events::STOP;
use crate::linux::hotplug;
use crate::linux::thread::Calls;
use crate::linux::thread::Run;
use crate::parameters::UNPLUG_ONLINE;
use crate::queue::Queue;
use crate::queue::NO_ANSWER_MS;
use crate::report::Report;
use kernel::prelude::*;
use kernel::sync::atomic::AtomicFlag;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::Instant;
use kernel::time::Monotonic;
use virtio_mem_core::block_map::Flags;
use virtio_mem_core::block_map::MemoryBlockState;
use virtio_mem_core::emptying::Emptying;
use virtio_mem_core::engine::Environment;
use virtio_mem_core::engine::Failure;
use virtio_mem_core::engine::Outcome;
use virtio_mem_core::engine::Step;
use virtio_mem_core::engine::WATCH_MS;
use virtio_mem_core::migration_budget::AttemptDeadline;
use virtio_mem_core::wire::Request;
use virtio_mem_core::wire::Response;

/// How long something may be under way before those who poll are woken for it, in milliseconds.
const ANNOUNCE_MS: u64 = 5;

/// How long to pause when a request could not even be queued, in milliseconds.
const QUEUE_RETRY_MS: u64 = 100;

/// How long to try to remove a block that holds nothing when the thread ends, in milliseconds.
const WIND_DOWN_MS: u64 = 500;

/// What the thread has.
#[pin_data]
pub(crate) struct Worker {
    device: Arc<Device>,
    /// Nobody but the thread takes the lock, except while that rests or is to rest.
    #[pin]
    queue: Mutex<Queue>,
    /// Whether the queue has been taken away. Written by those who suspend and resume, one at a
    /// time: the lock of the queue cannot be had for as long as an answer is waited for.
    suspended: AtomicFlag,
    /// As for the queue.
    #[pin]
    deadline: Mutex<AttemptDeadline>,
    /// As for the queue.
    #[pin]
    emptying: Mutex<Emptying>,
    #[pin]
    report: Report,
    /// Calls into Linux, which may wait for others.
    calls: Calls,
}

impl Worker {
    pub(crate) fn new(device: Arc<Device>, queue: Queue) -> Result<Arc<Self>> {
        let report = Report::new(device.clone());
        Arc::pin_init(
            pin_init!(Self {
                device,
                queue <- new_mutex!(queue),
                suspended: AtomicFlag::new(false),
                deadline <- new_mutex!(AttemptDeadline::default()),
                emptying <- new_mutex!(Emptying::default()),
                report <- report,
                calls: Calls::new(),
            }),
            GFP_KERNEL,
        )
    }

    /// The device.
    pub(crate) fn device(&self) -> &Device {
        &self.device
    }

    /// What there is to tell about the device.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// Tries at once what is waited for. May sleep.
    pub(crate) fn retry(&self) {
        self.device.with_engine(|engine| engine.handle_retry());
        self.device.events().set(RECHECK);
    }

    fn env(&self) -> Environment {
        Environment {
            now_ms: self.report.now_ms(),
            free: memory::reclaimable_memory(),
            metadata_room: hotplug::metadata_room(hotplug::available_memory()),
            unplug_online: UNPLUG_ONLINE.get(),
        }
    }

    /// Carries out a step; `None` if the thread has to end before the device has answered.
    fn carry_out(&self, step: &Step) -> Option<Outcome> {
        let outcome = match step {
            Step::ReadConfig => self.read_config(),
            Step::Send(request) => match self.device.first_in_use(*request) {
                None => self.send(*request)?,
                Some(addr) => {
                    self.report.not_sent(*request, addr);
                    Outcome::NotSent
                }
            },
            Step::Add { memory_block } => self.calls.make(|| self.add(*memory_block)),
            Step::Online { memory_block } => self.calls.make(|| self.online(*memory_block)),
            Step::Remove {
                memory_blocks,
                online,
                brief,
            } => self
                .calls
                .make(|| self.remove(memory_blocks, *online, *brief)),
            Step::Withdraw { subs } => self.calls.make(|| self.withdraw(subs)),
            Step::Take { subs } => self.calls.make(|| self.take(subs)),
            Step::Resync => self.resync(),
            Step::Give { subs } => {
                if let Some(pages) = self.device.pages(subs) {
                    pages.give();
                }
                Outcome::Done
            }
            Step::Wait { .. } => Outcome::Done,
        };
        Some(outcome)
    }

    fn read_config(&self) -> Outcome {
        match self.queue.lock().device() {
            Some(device) => Outcome::Config(config::reread(device)),
            // It is read when the device is back.
            None => Outcome::Failed(Failure::Interrupted),
        }
    }

    /// Sends a request and waits for the answer. `None`: the thread has to end before there is one.
    fn send(&self, request: Request) -> Option<Outcome> {
        let events = self.device.events();
        let mut queue = self.queue.lock();
        events.clear(ANSWERED);
        self.report.sent(request);
        let (mut silent, mut waited_ms) = (false, 0_u64);
        loop {
            let result = queue.send(&request.encode());
            self.report.queued(result);
            if result.is_ok() {
                break;
            }
            if queue.receive().is_some() {
                // An answer that nobody waits for any more makes room.
                continue;
            }
            // No memory for the descriptors, say, or a broken device.
            self.report.publish();
            if events.wait(STOP | PAUSE, Some(QUEUE_RETRY_MS)) {
                if events.is_set(STOP) {
                    return None;
                }
                self.report.forgotten();
                return Some(Outcome::Abandoned);
            }
            waited_ms = waited_ms.saturating_add(QUEUE_RETRY_MS);
            if !silent && waited_ms >= NO_ANSWER_MS {
                silent = true;
                self.report.stalled(request, true);
            }
        }
        // Waking those who poll is work for the processors, which the host may have to share with
        // the guest. A device in good health has answered by then.
        if !events.wait(ANSWERED | STOP, Some(ANNOUNCE_MS)) {
            self.report.publish();
        }
        loop {
            if let Some((bytes, written)) = queue.receive() {
                if silent {
                    self.report.stalled(request, false);
                }
                let response = Response::decode(request, &bytes, written);
                return Some(Outcome::Answered(response));
            }
            if events.is_set(STOP) {
                return None;
            }
            if silent && events.is_set(PAUSE) {
                // Not waited for any longer. Its buffer comes back when the device is reset, and
                // the engine asks the device what has become of it.
                self.report.forgotten();
                return Some(Outcome::Abandoned);
            }
            let limit = (!silent).then_some(NO_ANSWER_MS);
            // A pause ends the wait only when there is little hope.
            let hurry = if silent { PAUSE } else { 0 };
            if !events.wait(ANSWERED | STOP | hurry, limit) {
                silent = true;
                self.report.stalled(request, true);
            }
            events.clear(ANSWERED);
        }
    }

    /// Leaves nothing half done when the thread ends: what was taken from Linux and not unplugged
    /// goes back, and blocks that nothing is plugged of, or that were never brought online, go.
    fn wind_down(&self) {
        self.give_back();
        let device = &self.device;
        let geometry = device.geometry();
        for number in 0..geometry.memory_blocks() {
            let block = geometry.block_of_memory_block(number);
            let (leave, online) = device.with_engine(|engine| {
                let (map, flags) = (engine.map(), engine.map().flags(block));
                let state = map.memory_block_state(number);
                let unwanted = state == MemoryBlockState::Offline && flags.contains(Flags::WANTED);
                let useless = map.plugged_in(block) == 0 || unwanted;
                let leave = state == MemoryBlockState::Absent
                    || !useless
                    || flags.contains(Flags::HELD)
                    || map.is_moving(number);
                (leave, state.online())
            });
            if leave {
                continue;
            }
            if self.calls.is_left() || !device.may_remove() {
                // Who has that lock may wait for us: no second is spent on each block.
                break;
            }
            let addr = geometry.memory_block_addr(number);
            let size = geometry.memory_block_size();
            // If it fails, the block stays as it is, which does no harm.
            let removed = device.events().attempt(WIND_DOWN_MS, 0, || {
                device.region().remove(addr, size, online)
            });
            if removed.is_ok() {
                device.with_engine(|engine| engine.handle_gone(number));
            }
        }
    }

    /// Ends after a step in which the thread was left: the device is gone, with all that shows what there
    /// is to see of it, and nothing new is begun for which others would have to be waited for. Only memory
    /// that has come to Linux meanwhile must not stay.
    fn finish(&self, step: &Step, outcome: Outcome, env: &Environment) {
        let device = &self.device;
        let added = match step {
            Step::Add { memory_block } if outcome == Outcome::Done => Some(*memory_block),
            _ => None,
        };
        device.with_engine(|engine| engine.handle_outcome(outcome, env));
        self.give_back();
        device.close();
        let Some(number) = added else {
            return;
        };
        let addr = device.geometry().memory_block_addr(number);
        let size = device.geometry().memory_block_size();
        if let Err(error) = device.region().remove(addr, size, false) {
            dev_err!(
                device.dev(),
                "memory at {:#x} stays, and must not be brought online: {:?}\n",
                addr,
                error
            );
        }
    }

    /// What was taken from Linux and not unplugged goes back.
    fn give_back(&self) {
        let taken = self.device.with_engine(|engine| engine.wind_down());
        if let Some(pages) = taken.and_then(|subs| self.device.pages(&subs)) {
            pages.give();
        }
    }

    /// Waits as [`Step::Wait`] says.
    fn wait(&self, ms: Option<u64>, free: Option<u64>) {
        let events = self.device.events();
        let mut left = ms;
        let until_ms = ms.map(|ms| self.report.now_ms().saturating_add(ms));
        loop {
            // Only this much is done for each look, with which most of a long wait is spent.
            let nap = match free {
                Some(_) => Some(left.map_or(WATCH_MS, |left| left.min(WATCH_MS))),
                None => left,
            };
            events.migrate_to_irq_cpu();
            let woken = events.wait(CONFIG | RECHECK | STOP | PAUSE, nap);
            if woken || free.is_none_or(|free| memory::reclaimable_memory() >= free) {
                return;
            }
            left = until_ms.map(|at| at.saturating_sub(self.report.now_ms()));
            if left == Some(0) {
                return;
            }
        }
    }
}

impl Run for Worker {
    fn run(&self) {
        let (device, events) = (&self.device, self.device.events());
        events.attach_current();
        // When what there is to see was announced last, or there was nothing to announce.
        let mut env = self.env();
        let mut announced_ms = env.now_ms;
        while !events.is_set(STOP) {
            if events.is_set(PAUSE) {
                self.rest();
                env = self.env();
                continue;
            }
            let changed = events.clear(CONFIG | RECHECK) & CONFIG != 0;
            let step = device.with_engine(|engine| {
                if changed {
                    engine.handle_config_changed();
                }
                engine.next_step(&env, &|number| self.look(number))
            });
            if let Step::Wait { ms: Some(0), .. } = step {
                // The engine's lock was free in between. This may go on for a while.
                self.report.refresh();
                env = self.env();
                continue;
            }
            if let Step::Wait { ms, free } = step {
                self.report.tell();
                self.wait(ms, free);
                env = self.env();
                announced_ms = env.now_ms;
                continue;
            }
            // Some steps take long: that one is under way is to be seen. But what the host waits for
            // comes before waking those who look.
            let later = match step {
                Step::ReadConfig | Step::Send(_) => true,
                Step::Take { .. } | Step::Withdraw { .. } | Step::Give { .. } => {
                    env.now_ms.saturating_sub(announced_ms) < ANNOUNCE_MS
                }
                _ => false,
            };
            if later {
                self.report.refresh();
            } else {
                self.report.publish();
                announced_ms = env.now_ms;
            }
            let begun = Instant::<Monotonic>::now();
            let Some(outcome) = self.carry_out(&step) else {
                break;
            };
            if self.calls.is_left() {
                self.finish(&step, outcome, &env);
                return;
            }
            self.report.step_done(&step, &outcome, begun);
            if step == Step::ReadConfig {
                // In so short a time, and with the host waiting, as it has been.
                env.now_ms = self.report.now_ms();
            } else {
                env = self.env();
            }
            let reading = device.with_engine(|engine| {
                engine.handle_outcome(outcome, &env);
                engine.last_reading()
            });
            device.notify_changed();
            if step == Step::ReadConfig {
                self.report.config_read(reading);
            }
        }
        self.report.publish();
        self.calls.make(|| {
            self.wind_down();
            device.close();
            // Without us, everything in a block that goes online is used.
            device.remove_partly_plugged();
        });
    }

    fn stop(&self) {
        self.device.events().set(STOP);
    }

    fn calls(&self) -> &Calls {
        &self.calls
    }
}
