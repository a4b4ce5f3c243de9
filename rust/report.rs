// SPDX-License-Identifier: GPL-2.0

//! What a device's driver tells about itself: counters, tracepoints, the values in sysfs and who is
//! woken for them, uevents, and the kernel's log.
//!
//! The log has one line for each new request, one when it is met, and one for each new reason why
//! it is not; all else that goes on is for the tracepoints.
//!
//! Each of the three locks here is a leaf, under which nothing is taken but the console's: they are
//! never held together, nor together with the engine's, whose status is asked for before.

use crate::device::Device;
use crate::linux::attributes as sysfs;
use crate::linux::trace;
use crate::status;
use crate::status::Status;
use kernel::prelude::*;
use kernel::str::CString;
use kernel::sync::atomic::AtomicFlag;
use kernel::sync::atomic::Relaxed;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::Instant;
use kernel::time::Monotonic;
use virtio_mem_core::engine::IgnoredConfig;
use virtio_mem_core::engine::Outcome;
use virtio_mem_core::engine::Step;
use virtio_mem_core::statistics::Statistics;
use virtio_mem_core::vocabulary::Action;
use virtio_mem_core::vocabulary::Answer;
use virtio_mem_core::vocabulary::Reason;
use virtio_mem_core::vocabulary::State;
use virtio_mem_core::vocabulary::Trouble;
use virtio_mem_core::wire::Config;
use virtio_mem_core::wire::Request;

/// See the module's documentation.
#[pin_data]
pub(crate) struct Report {
    device: Arc<Device>,
    started: Instant<Monotonic>,
    suspended: AtomicFlag,
    stalled: AtomicFlag,
    #[pin]
    statistics: Mutex<Statistics>,
    /// What can be polled shows this, so that nobody reads anything before it was announced.
    #[pin]
    published: Mutex<Status>,
    /// What was shown when those who poll were last woken.
    #[pin]
    announced: Mutex<Status>,
    #[pin]
    told: Mutex<Told>,
}

/// What has been said in the kernel's log.
#[derive(Default)]
struct Told {
    config: Option<Config>,
    /// Whether the log has what was plugged at first, and what is requested.
    plugged: bool,
    requested: bool,
    nonsense: bool,
    /// Where the memory was that Linux may have been using when a request was last not sent.
    not_sent: Option<u64>,
    add_error: Option<Error>,
    queue_error: Option<Error>,
    reason: Option<Reason>,
    settled: bool,
}

impl Report {
    pub(crate) fn new(device: Arc<Device>) -> impl PinInit<Self> {
        let started = Instant::now();
        let status = Status::of(&device, 0);
        pin_init!(Self {
            device,
            started,
            suspended: AtomicFlag::new(false),
            stalled: AtomicFlag::new(false),
            statistics <- new_mutex!(Statistics::default()),
            published <- new_mutex!(status),
            announced <- new_mutex!(status),
            told <- new_mutex!(Told::default()),
        })
    }

    /// The clock of the engine: milliseconds since the driver was bound.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(0)
    }

    /// How the device stands.
    pub(crate) fn status(&self) -> Status {
        let mut status = Status::of(&self.device, self.now_ms());
        if self.suspended.load(Relaxed) {
            status.state = State::Suspended;
        } else if self.stalled.load(Relaxed) {
            (status.state, status.reason) = (State::Stalled, Reason::NoAnswer);
        }
        if status.state != State::Waiting {
            status.next_attempt_ms = None;
        }
        status
    }

    /// How the device stood when the worker last said that something may have changed.
    pub(crate) fn published(&self) -> Status {
        *self.published.lock()
    }

    /// Calls `f` with the counters.
    pub(crate) fn with_statistics<R>(&self, f: impl FnOnce(&Statistics) -> R) -> R {
        f(&self.statistics.lock())
    }

    /// Shows how the device stands, and returns it. To be called whenever something may have changed,
    /// by the worker, with [`Report::publish`] to follow soon. May sleep.
    pub(crate) fn refresh(&self) -> Status {
        let status = self.status();
        *self.published.lock() = status;
        status
    }

    /// As [`Report::refresh`], and wakes those who poll what has changed since the last time. May
    /// sleep.
    pub(crate) fn publish(&self) -> Status {
        self.log_request();
        let status = self.refresh();
        let old = core::mem::replace(&mut *self.announced.lock(), status);
        let dev = self.device.dev();
        let changed = |attribute| sysfs::notify(dev, status::GROUP, attribute);
        if old.state != status.state {
            changed(status::STATE);
        }
        if old.reason != status.reason {
            changed(status::REASON);
        }
        if old.requested_size != status.requested_size {
            changed(status::REQUESTED_SIZE);
        }
        if old.plugged_size != status.plugged_size {
            changed(status::PLUGGED_SIZE);
        }
        let what = |status: &Status| (status.state, status.reason, status.requested_size);
        if what(&old) != what(&status) {
            trace::state(
                dev,
                status.state.as_str(),
                status.reason.as_str(),
                status.requested_size,
                status.plugged_size,
            );
        }
        status
    }

    /// Says in the log and by a uevent what is new, now that the driver has done what it can: that
    /// the request is met, or a reason why it is not. May sleep.
    pub(crate) fn tell(&self) {
        let status = self.publish();
        let dev = self.device.dev();
        let mut told = self.told.lock();
        match status.state {
            State::Settled if !told.settled && told.config.is_some() => {
                told.settled = true;
                told.reason = None;
                dev_info!(
                    dev,
                    "{}, plugged size: {:#x}\n",
                    status.state.as_str(),
                    status.plugged_size
                );
            }
            State::Waiting if told.reason != Some(status.reason) => {
                told.settled = false;
                told.reason = Some(status.reason);
                dev_info!(
                    dev,
                    "{}: {}, plugged size: {:#x}\n",
                    status.state.as_str(),
                    status.reason.as_str(),
                    status.plugged_size
                );
            }
            _ => return,
        }
        drop(told);
        self.announce(&status);
    }

    fn announce(&self, status: &Status) {
        let dev = self.device.dev();
        let variables = || -> Result<[CString; 4]> {
            Ok([
                CString::try_from_fmt(fmt!("VIRTIO_MEM_STATE={}", status.state.as_str()))?,
                CString::try_from_fmt(fmt!("VIRTIO_MEM_REASON={}", status.reason.as_str()))?,
                CString::try_from_fmt(fmt!("VIRTIO_MEM_REQUESTED_SIZE={}", status.requested_size))?,
                CString::try_from_fmt(fmt!("VIRTIO_MEM_PLUGGED_SIZE={}", status.plugged_size))?,
            ])
        };
        // Without memory for it nobody hears of it; those who poll do.
        if let Ok([a, b, c, d]) = variables() {
            sysfs::announce(dev, [&a, &b, &c, &d]);
        }
    }

    /// Says in the log what is requested, if that is new: not when it is read, because a request to
    /// the device can be on its way in a shorter time than a line takes to a console.
    fn log_request(&self) {
        let dev = self.device.dev();
        let mut told = self.told.lock();
        let Some(config) = told.config else {
            return;
        };
        if !core::mem::replace(&mut told.plugged, true) {
            dev_info!(dev, "plugged size: {:#x}\n", config.plugged_size);
        }
        if !core::mem::replace(&mut told.requested, true) {
            dev_info!(dev, "requested size: {:#x}\n", config.requested_size);
        }
    }

    /// The config space was read, and is what it is believed to be, or ignored.
    pub(crate) fn config_read(&self, reading: Result<Config, IgnoredConfig>) {
        let dev = self.device.dev();
        let mut told = self.told.lock();
        let config = match reading {
            Ok(config) => config,
            Err(IgnoredConfig { error, config }) => {
                if !told.nonsense {
                    dev_warn!(
                        dev,
                        "ignored: the device's {} {}: {:#x?}\n",
                        error.field(),
                        error.rule(),
                        config
                    );
                }
                told.nonsense = true;
                return;
            }
        };
        told.nonsense = false;
        let old = told.config.replace(config);
        if old.is_some_and(|old| old.requested_size == config.requested_size) {
            return;
        }
        told.settled = false;
        told.reason = None;
        told.requested = false;
    }

    /// A request could be queued, or not.
    pub(crate) fn queued(&self, result: Result) {
        let error = result.err();
        let old = core::mem::replace(&mut self.told.lock().queue_error, error);
        if let Some(error) = error.filter(|error| old != Some(*error)) {
            dev_err!(self.device.dev(), "sending a request failed: {:?}\n", error);
        }
    }

    /// `request` was not sent, because Linux may use the memory at `addr`: the map was wrong about it.
    /// Logged once for each address: it is tried again.
    pub(crate) fn not_sent(&self, request: Request, addr: u64) {
        if self.told.lock().not_sent.replace(addr) == Some(addr) {
            return;
        }
        dev_err!(
            self.device.dev(),
            "{} not sent: Linux may use memory at {:#x}; this is a bug of the driver, please report it\n",
            request.name(),
            addr
        );
    }

    /// A memory block was added, or not.
    pub(crate) fn added(&self, result: Result) {
        let error = result.err();
        let old = core::mem::replace(&mut self.told.lock().add_error, error);
        if let Some(error) = error.filter(|error| old != Some(*error)) {
            dev_warn!(self.device.dev(), "adding memory failed: {:?}\n", error);
        }
    }

    /// The device does not answer `request`, or has answered it at last. Said once for each request
    /// of the host: a slow one may take long over each step towards it.
    pub(crate) fn stalled(&self, request: Request, on: bool) {
        self.stalled.store(on, Relaxed);
        let status = self.publish();
        let dev = self.device.dev();
        if !on {
            dev_dbg!(dev, "{} was answered at last\n", request.name());
            return;
        }
        let mut told = self.told.lock();
        told.settled = false;
        if told.reason.replace(Reason::NoAnswer) == Some(Reason::NoAnswer) {
            return;
        }
        drop(told);
        dev_warn!(
            dev,
            "{}: {} to {}\n",
            State::Stalled.as_str(),
            Reason::NoAnswer.as_str(),
            request.name()
        );
        self.announce(&status);
    }

    /// A request that was not answered is not waited for any longer.
    pub(crate) fn forgotten(&self) {
        self.stalled.store(false, Relaxed);
    }

    /// The machine is being suspended, or is back.
    pub(crate) fn suspended(&self, on: bool) {
        self.suspended.store(on, Relaxed);
        self.publish();
    }

    /// A request is about to be sent.
    pub(crate) fn sent(&self, request: Request) {
        let (addr, size) = self.range(request);
        let kind = Action::of_request(request).as_str();
        trace::request_sent(self.device.dev(), kind, addr, size);
    }

    /// Where the memory is that a request is about, and how much it is.
    fn range(&self, request: Request) -> (u64, u64) {
        let unit = self.device.geometry().device_block_size();
        match request {
            Request::Plug { addr, blocks }
            | Request::Unplug { addr, blocks }
            | Request::State { addr, blocks } => (addr, unit.saturating_mul(blocks.into())),
            Request::UnplugAll => (0, 0),
        }
    }

    /// A step was begun at `begun`, and has ended like this.
    pub(crate) fn step_done(&self, step: &Step, outcome: &Outcome, begun: Instant<Monotonic>) {
        let us = u64::try_from(begun.elapsed().as_micros_ceil()).unwrap_or(0);
        self.statistics.lock().record(step, outcome, us);
        let dev = self.device.dev();
        let how = match *outcome {
            Outcome::Done | Outcome::Config(_) => "done",
            Outcome::Answered(response) => Answer::of(response).as_str(),
            Outcome::Abandoned => Answer::Garbled.as_str(),
            Outcome::NotSent => "not-sent",
            Outcome::Failed(failure) => Trouble::of_failure(failure).as_str(),
        };
        let done = *outcome == Outcome::Done;
        let geometry = self.device.geometry();
        match step {
            Step::Send(request) => {
                let kind = Action::of_request(*request).as_str();
                trace::answer_received(dev, kind, self.range(*request), how, us);
            }
            Step::Add { memory_block } if done => {
                let addr = geometry.memory_block_addr(*memory_block);
                trace::block_added(dev, addr, geometry.memory_block_size());
            }
            Step::Remove { memory_blocks, .. } if done => {
                let addr = geometry.memory_block_addr(memory_blocks.start);
                let end = geometry.memory_block_addr(memory_blocks.end);
                trace::block_removed(dev, addr, end.saturating_sub(addr));
            }
            Step::Take { subs } => {
                let addr = geometry.sub_addr(subs.start);
                let size = geometry.size_of(subs.end.saturating_sub(subs.start));
                if done {
                    trace::range_taken(dev, addr, size);
                } else {
                    trace::range_refused(dev, addr, size, how);
                }
            }
            _ => {}
        }
        trace::step(dev, step.name(), how, us);
    }
}
