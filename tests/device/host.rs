// SPDX-License-Identifier: GPL-2.0

//! The hypervisor: the model with its memory, its transport, and a thread that answers.
//!
//! Lock order: `registration` -> (locks of the driver core and of the driver) -> `model` -> the
//! transport's ring, `transport`, `pending`, `again`, and what says which memory is online. Under the
//! last ones nothing else is locked.

use crate::linux::balloon::Balloon;
use crate::linux::control::Control;
use crate::linux::debug_dir::Directory;
use crate::linux::event_flags::EventFlags;
use crate::linux::hidden::Hidden;
use crate::linux::ring::Chain;
use crate::linux::thread::Run;
use crate::linux::transport::Hypervisor;
use crate::linux::transport::Registration;
use crate::linux::transport::Transport;
use crate::model;
use crate::model::command::Command;
use crate::model::device::Answer;
use crate::model::device::Device;
use crate::model::device::Setup;
use crate::model::fault::Delivery;
use crate::model::personality::Personality;
use crate::model::Memory;
use crate::model::Store;
use core::ops::Range;
use kernel::device;
use kernel::prelude::*;
use kernel::sync::aref::ARef;
use kernel::sync::new_mutex;
use kernel::sync::Arc;
use kernel::sync::Mutex;
use kernel::time::Instant;
use kernel::time::Monotonic;
use virtio_mem_core::wire;
use virtio_mem_core::wire::Features;

/// There may be a request, or an answer to give.
const KICK: u32 = 1 << 0;
/// The thread has to end.
const STOP: u32 = 1 << 1;

/// What unplugged memory holds, and freshly plugged memory too.
const POISON: u64 = 0x6b6b_dead_6b6b_dead;

/// The model's storage.
pub(crate) struct Pages;

impl Store for Pages {
    type Of<T: Copy> = KVVec<T>;

    fn make<T: Copy>(value: T, len: usize) -> Option<KVVec<T>> {
        KVVec::from_elem(value, len, GFP_KERNEL).ok()
    }
}

/// The model's memory.
struct Ram<'a>(&'a Hidden);

impl Memory for Ram<'_> {
    fn poison(&mut self, range: Range<u64>) {
        self.0.fill(range, POISON);
    }

    fn damage(&mut self, range: Range<u64>) -> Option<u64> {
        self.0.find_other(range, POISON)
    }

    fn in_use(&mut self, range: Range<u64>) -> Option<u64> {
        self.0.find_used(range)
    }
}

/// An answer that is to be given later.
struct Pending {
    chain: Chain,
    answer: Answer,
    /// When; never, unless it is released.
    at_ms: Option<u64>,
}

/// See the module's documentation.
#[pin_data]
pub(crate) struct Host {
    parent: ARef<device::Device>,
    hidden: Arc<Hidden>,
    #[pin]
    events: EventFlags,
    epoch: Instant<Monotonic>,
    #[pin]
    model: Mutex<Device<Pages>>,
    #[pin]
    registration: Mutex<Option<Registration<Host>>>,
    /// The same device, for the thread.
    #[pin]
    transport: Mutex<Option<Arc<Transport<Host>>>>,
    #[pin]
    pending: Mutex<KVec<Pending>>,
    /// An answer to be given a second time.
    #[pin]
    again: Mutex<Option<(Chain, Answer)>>,
    /// What another balloon has of the guest's memory.
    #[pin]
    balloon: Mutex<Option<Balloon>>,
}

/// What stands for the device in debugfs.
pub(crate) type Files = Control<Host>;

impl Host {
    /// A device in all of `hidden`, which is not there yet.
    pub(crate) fn new(hidden: Arc<Hidden>, parent: &device::Device) -> Result<Arc<Self>> {
        let Range { start, end } = hidden.range();
        let personality = Personality::default();
        let setup = Setup {
            personality,
            addr: start,
            region_size: end.saturating_sub(start),
            block_size: personality.block_size(),
            requested_size: 0,
            node: 0,
            features: personality.features(),
        };
        setup.blocks().ok_or(EINVAL)?;
        let model = Device::new(setup).ok_or(ENOMEM)?;
        Arc::pin_init(
            pin_init!(Self {
                parent: parent.into(),
                hidden,
                events <- EventFlags::new(),
                epoch: Instant::now(),
                model <- new_mutex!(model),
                registration <- new_mutex!(None),
                transport <- new_mutex!(None),
                pending <- new_mutex!(KVec::new()),
                again <- new_mutex!(None),
                balloon <- new_mutex!(None),
            }),
            GFP_KERNEL,
        )
    }

    /// The files in debugfs, in the directory `device` of the module's.
    pub(crate) fn files(host: &Arc<Self>) -> Result<Files> {
        let directory = Directory::new(
            c"device",
            host,
            &[
                (c"status", Self::status),
                (c"violations", |host, to| {
                    model::report::violations(&host.model.lock(), to)
                }),
                (c"log", |host, to| {
                    model::report::log(&host.model.lock(), to)
                }),
            ],
        )?;
        Control::new(directory, c"control", host, Self::control)
    }

    fn status(&self, to: &mut dyn core::fmt::Write) -> core::fmt::Result {
        let created = self.transport.lock().is_some();
        writeln!(to, "created {}", u8::from(created))?;
        writeln!(to, "pending {}", self.pending.lock().len())?;
        model::report::status(&self.model.lock(), to)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(0)
    }

    /// Carries out the lines of a script, up to the first that cannot be.
    fn control(host: &Arc<Self>, text: &str) -> Result {
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let setup = *host.model.lock().setup();
            let command = Command::parse(line, &setup).ok_or(EINVAL)?;
            Self::carry_out(host, command)?;
        }
        Ok(())
    }

    fn carry_out(host: &Arc<Self>, command: Command) -> Result {
        match command {
            Command::Setup(setup) => return host.set_up(setup),
            Command::Create => return Self::create(host),
            Command::Destroy { surprise } => {
                return if host.destroy(surprise) {
                    Ok(())
                } else {
                    Err(ENODEV)
                }
            }
            Command::SystemReset => return host.system_reset(),
            Command::Reset => return host.with_registration(Registration::reset),
            Command::Freeze => return host.with_registration(Registration::freeze),
            Command::Thaw => return host.with_registration(Registration::thaw),
            Command::Release => host.release(),
            Command::Honest => {
                {
                    let mut model = host.model.lock();
                    model.lies.forget();
                    model.faults.clear();
                    model.migrating = false;
                }
                host.release();
                host.notify();
            }
            Command::Notify => host.notify(),
            Command::Request { size, quiet } => {
                host.model.lock().request(size);
                if !quiet {
                    host.notify();
                }
            }
            Command::Usable(size) => host.model.lock().limit(size),
            Command::Migrating(on) => host.model.lock().migrating = on,
            Command::Lie(field, lie) => host.model.lock().lies.set(field, lie),
            Command::Generations(count) => host.model.lock().lies.generations = count,
            Command::Fault(fault) => {
                if !host.model.lock().faults.add(fault) {
                    return Err(ENOSPC);
                }
            }
            Command::Seed(seed) => host.model.lock().faults.seed(seed),
            Command::Scribble(addr) => host.hidden.fill(addr..addr.saturating_add(8), !POISON),
            Command::Inflate { addr, size } => {
                let mut balloon = host.balloon.lock();
                if balloon.is_some() {
                    return Err(EEXIST);
                }
                *balloon = Some(Balloon::new(addr..addr.saturating_add(size))?);
            }
            Command::Deflate => {
                let balloon = host.balloon.lock().take().ok_or(ENODEV)?;
                if !balloon.is_intact() {
                    // Others have these pages by now: they are lost rather than freed twice.
                    core::mem::forget(balloon);
                    return Err(EIO);
                }
            }
            Command::Leak => core::mem::forget(KBox::new(POISON, GFP_KERNEL)?),
            Command::Check => host.model.lock().check(&mut Ram(&host.hidden)),
        }
        Ok(())
    }

    /// What is done to the device while it is there.
    fn with_registration(&self, f: impl FnOnce(&mut Registration<Self>) -> Result) -> Result {
        let mut registration = self.registration.lock();
        f((*registration).as_mut().ok_or(ENODEV)?)
    }

    /// Nothing of the old device may be plugged, or be there.
    fn set_up(&self, setup: Setup) -> Result {
        let (all, end) = (
            self.hidden.range(),
            setup.addr.saturating_add(setup.region_size),
        );
        if setup.addr < all.start || end > all.end {
            return Err(ERANGE);
        }
        let registration = self.registration.lock();
        if registration.is_some() {
            return Err(EBUSY);
        }
        if self.hidden.find_used(all).is_some() {
            return Err(EBUSY);
        }
        let mut model = self.model.lock();
        model.check(&mut Ram(&self.hidden));
        let mut new = Device::new(setup).ok_or(ENOMEM)?;
        // What it is accused of is not forgotten.
        core::mem::swap(&mut new.journal, &mut model.journal);
        new.faults.hits = model.faults.hits;
        new.counts = model.counts;
        new.answers = model.answers;
        *model = new;
        Ok(())
    }

    fn system_reset(&self) -> Result {
        let registration = self.registration.lock();
        if registration.is_some() || self.hidden.find_used(self.hidden.range()).is_some() {
            return Err(EBUSY);
        }
        self.model.lock().system_reset(&mut Ram(&self.hidden));
        Ok(())
    }

    fn create(host: &Arc<Self>) -> Result {
        let mut registration = host.registration.lock();
        if registration.is_some() {
            return Err(EEXIST);
        }
        host.model.lock().appear(&mut Ram(&host.hidden));
        let created = Registration::new(wire::DEVICE_ID, &host.parent, host.clone(), |transport| {
            *host.transport.lock() = Some(transport);
        });
        if created.is_err() {
            *host.transport.lock() = None;
        }
        *registration = Some(created?);
        Ok(())
    }

    /// Takes the device away; returns whether it was there.
    pub(crate) fn destroy(&self, surprise: bool) -> bool {
        let mut registration = self.registration.lock();
        let Some(registered) = registration.take() else {
            return false;
        };
        if surprise {
            registered.break_down();
        }
        drop(registered);
        *self.transport.lock() = None;
        self.forget();
        true
    }

    fn notify(&self) {
        if let Some(registered) = &*self.registration.lock() {
            registered.config_changed();
        }
    }

    /// Gives what was held back.
    fn release(&self) {
        for pending in self.pending.lock().iter_mut() {
            pending.at_ms = Some(0);
        }
        self.events.set(KICK);
    }

    /// Answers that have not been given never will be.
    fn forget(&self) {
        let mut model = self.model.lock();
        for pending in core::mem::take(&mut *self.pending.lock()) {
            model.lost(&pending.answer);
        }
    }

    /// Answers all requests that there are.
    fn serve(&self, transport: &Transport<Self>) {
        loop {
            // From here until it is handled, so that nobody reads the config space between.
            let mut model = self.model.lock();
            let Some(chain) = transport.take() else {
                return;
            };
            // Not locked while it is given.
            let again = self.again.lock().take();
            if let Some((chain, answer)) = again {
                transport.give(&chain, &answer.bytes, answer.len, false);
            }
            let Some(request) = &chain.request else {
                model.malformed();
                continue;
            };
            let (ready, now) = (transport.ready(), self.now_ms());
            let answer = model.handle(request, ready, now, &mut Ram(&self.hidden));
            let Some(answer) = answer else {
                continue;
            };
            let at_ms = match answer.delivery {
                Delivery::Hold => None,
                _ => Some(now.saturating_add(answer.delay_ms.into())),
            };
            if at_ms == Some(now) {
                self.give(&mut model, transport, &chain, &answer);
                continue;
            }
            let pending = Pending {
                chain,
                answer,
                at_ms,
            };
            if self.pending.lock().push(pending, GFP_KERNEL).is_err() {
                model.lost(&answer);
            }
        }
    }

    fn give(
        &self,
        model: &mut Device<Pages>,
        transport: &Transport<Self>,
        chain: &Chain,
        answer: &Answer,
    ) {
        let stray = answer.delivery == Delivery::Stray;
        let given = transport.give(chain, &answer.bytes, answer.len, stray);
        if given && answer.delivery == Delivery::Twice {
            transport.give(chain, &answer.bytes, answer.len, false);
        }
        if given && answer.delivery == Delivery::Again {
            *self.again.lock() = Some((*chain, *answer));
        }
        if given && !stray {
            model.told(answer);
        } else {
            model.lost(answer);
        }
    }

    /// Gives the answers that are due; returns how long it is until the next one is.
    fn give_due(&self, transport: &Transport<Self>) -> Option<u64> {
        loop {
            let mut model = self.model.lock();
            let now = self.now_ms();
            let mut pending = self.pending.lock();
            let due = |p: &Pending| p.at_ms.is_some_and(|at| at <= now);
            let Some(index) = pending.iter().position(due) else {
                let next = pending.iter().filter_map(|p| p.at_ms).min();
                return next.map(|at| at.saturating_sub(now).max(1));
            };
            let Ok(Pending { chain, answer, .. }) = pending.remove(index) else {
                return None;
            };
            drop(pending);
            self.give(&mut model, transport, &chain, &answer);
        }
    }
}

impl Run for Host {
    fn run(&self) {
        while !self.events.is_set(STOP) {
            self.events.clear(KICK);
            let transport = self.transport.lock().clone();
            let timeout = transport.and_then(|transport| {
                self.serve(&transport);
                self.give_due(&transport)
            });
            self.events.wait(KICK | STOP, timeout);
        }
    }

    fn stop(&self) {
        self.events.set(STOP);
    }
}

impl Hypervisor for Host {
    fn read_config(&self, offset: u32, buffer: &mut [u8]) {
        self.model.lock().read_config(offset, buffer);
    }

    fn config_written(&self, offset: u32) {
        self.model.lock().config_written(offset);
    }

    fn generation(&self) -> u32 {
        self.model.lock().lies.read_generation()
    }

    fn features(&self) -> u64 {
        self.model.lock().setup().features.bits()
    }

    fn accepts(&self, features: u64) -> bool {
        let personality = self.model.lock().setup().personality;
        personality.accepts(Features::from_bits_truncate(features))
    }

    fn kicked(&self) {
        self.events.set(KICK);
    }

    fn reset(&self) {
        self.forget();
        self.model.lock().reset();
    }
}
