// SPDX-License-Identifier: GPL-2.0

//! The words in which a script tells the device what to be.
//!
//! Numbers are decimal or, with `0x`, hexadecimal, and may end with K, M or G.

use super::config::Field;
use super::config::Lie;
use super::device::Setup;
use super::device::ACK;
use super::device::BUSY;
use super::device::ERROR;
use super::device::NACK;
use super::fault::Delivery;
use super::fault::Fault;
use super::fault::Kind;
use super::personality::Personality;
use virtio_mem_core::wire::Features;

/// A command.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// `setup KEY=VALUE...`: a new device, of which nothing is plugged. It must not be there.
    Setup(Setup),
    /// `create`: the device appears.
    Create,
    /// `destroy [surprise]`: the device goes, with its blocks as they are; by surprise it has
    /// ceased to work before its driver is told.
    Destroy {
        /// By surprise.
        surprise: bool,
    },
    /// `system-reset`: nothing is plugged any more.
    SystemReset,
    /// `reset`: as an admin or a bus resets the device below its driver, which is told before and
    /// after.
    Reset,
    /// `freeze`: the driver is told that the machine is to sleep; it may refuse.
    Freeze,
    /// `thaw`: and that it is awake again.
    Thaw,
    /// `request SIZE [quiet]`: what the host wants; quietly, without a config interrupt.
    Request {
        /// That.
        size: u64,
        /// No interrupt.
        quiet: bool,
    },
    /// `usable SIZE`: a usable region that does not follow from the request.
    Usable(u64),
    /// `notify`: a config interrupt, whatever has changed.
    Notify,
    /// `migrating on|off`.
    Migrating(bool),
    /// `lie FIELD truth|VALUE`, `flap FIELD VALUE VALUE`: what a config field reads as.
    Lie(Field, Lie),
    /// `generations N`: the next N reads of the generation each find another one.
    Generations(u32),
    /// `fault KEY=VALUE...`: see [`parse_fault`].
    Fault(Fault),
    /// `seed N`: where the probabilities of faults come from.
    Seed(u64),
    /// `release`: answers that are held back are given.
    Release,
    /// `honest`: no more faults and lies, nothing held back, no migration.
    Honest,
    /// `scribble ADDR`: writes to the memory, to see whether that is noticed.
    Scribble(u64),
    /// `inflate ADDR SIZE`: a balloon takes memory of the guest.
    Inflate {
        /// The first address.
        addr: u64,
        /// How many bytes.
        size: u64,
    },
    /// `deflate`: the balloon gives its memory back, which has to be as it was left.
    Deflate,
    /// `leak`: loses some of the kernel's memory, to see whether that is noticed.
    Leak,
    /// `check`: looks whether unplugged memory was written.
    Check,
}

/// Reads a number.
pub fn number(word: &str) -> Option<u64> {
    let (digits, factor) = match word.as_bytes().last()? {
        b'K' => (word.strip_suffix('K')?, 1 << 10),
        b'M' => (word.strip_suffix('M')?, 1 << 20),
        b'G' => (word.strip_suffix('G')?, 1 << 30),
        _ => (word, 1_u64),
    };
    let value = match digits.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16).ok()?,
        None => digits.parse().ok()?,
    };
    value.checked_mul(factor)
}

fn number_as<T: TryFrom<u64>>(word: &str) -> Option<T> {
    T::try_from(number(word)?).ok()
}

/// An answer's type, by name or number.
fn code(word: &str) -> Option<u16> {
    match word {
        "ack" => Some(ACK),
        "nack" => Some(NACK),
        "busy" => Some(BUSY),
        "error" => Some(ERROR),
        _ => number_as(word),
    }
}

/// Reads a fault: `kind=KIND`, `skip=N`, `percent=N` and `times=N` say when it happens; `code=TYPE`,
/// `act` (all the same), `state=N`, `len=N`, `delay=MS`, and one of `twice`, `again`, `hold`, `never`
/// and `stray` say what.
pub fn parse_fault<'a>(words: impl Iterator<Item = &'a str>) -> Option<Fault> {
    let mut fault = Fault::default();
    let effect = &mut fault.effect;
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("kind", name) => fault.kind = Some(Kind::parse(name)?),
            ("skip", n) => fault.skip = number_as(n)?,
            ("percent", n) => fault.percent = number_as(n)?,
            ("times", n) => fault.times = number_as(n)?,
            ("code", name) => effect.code = Some(code(name)?),
            ("act", "") => effect.act = true,
            ("state", n) => effect.state = Some(number_as(n)?),
            ("len", n) => effect.len = Some(number_as(n)?),
            ("delay", n) => effect.delay_ms = number_as(n)?,
            ("twice", "") => effect.delivery = Delivery::Twice,
            ("again", "") => effect.delivery = Delivery::Again,
            ("hold", "") => effect.delivery = Delivery::Hold,
            ("never", "") => effect.delivery = Delivery::Never,
            ("stray", "") => effect.delivery = Delivery::Stray,
            _ => return None,
        }
    }
    Some(fault)
}

/// Reads what a device is made from, as far as it differs from `before`. With another personality
/// come its blocks and its features.
fn parse_setup<'a>(words: impl Iterator<Item = &'a str>, before: &Setup) -> Option<Setup> {
    let mut setup = *before;
    for word in words {
        let (key, value) = word.split_once('=')?;
        match key {
            "personality" => {
                setup.personality = Personality::parse(value)?;
                setup.block_size = setup.personality.block_size();
                setup.features = setup.personality.features();
            }
            "addr" => setup.addr = number(value)?,
            "region_size" => setup.region_size = number(value)?,
            "block_size" => setup.block_size = number(value)?,
            "requested_size" => setup.requested_size = number(value)?,
            "node" => setup.node = number_as(value)?,
            "features" => setup.features = Features::from_bits(number(value)?)?,
            _ => return None,
        }
    }
    setup.blocks().map(|_| setup)
}

impl Command {
    /// Reads a line; `setup` is what the present device is made from.
    pub fn parse(line: &str, setup: &Setup) -> Option<Self> {
        let mut words = line.split_ascii_whitespace();
        let command = match words.next()? {
            "setup" => return Some(Self::Setup(parse_setup(words, setup)?)),
            "fault" => return Some(Self::Fault(parse_fault(words)?)),
            "create" => Self::Create,
            "destroy" => match words.next() {
                None => Self::Destroy { surprise: false },
                Some("surprise") => Self::Destroy { surprise: true },
                Some(_) => return None,
            },
            "system-reset" => Self::SystemReset,
            "reset" => Self::Reset,
            "freeze" => Self::Freeze,
            "thaw" => Self::Thaw,
            "request" => Self::Request {
                size: number(words.next()?)?,
                quiet: match words.next() {
                    None => false,
                    Some("quiet") => true,
                    Some(_) => return None,
                },
            },
            "usable" => Self::Usable(number(words.next()?)?),
            "notify" => Self::Notify,
            "migrating" => match words.next()? {
                "on" => Self::Migrating(true),
                "off" => Self::Migrating(false),
                _ => return None,
            },
            "lie" => {
                let field = Field::parse(words.next()?)?;
                let lie = match words.next()? {
                    "truth" => Lie::None,
                    value => Lie::Fixed(number(value)?),
                };
                Self::Lie(field, lie)
            }
            "flap" => {
                let field = Field::parse(words.next()?)?;
                Self::Lie(
                    field,
                    Lie::Flap(number(words.next()?)?, number(words.next()?)?),
                )
            }
            "generations" => Self::Generations(number_as(words.next()?)?),
            "seed" => Self::Seed(number(words.next()?)?),
            "release" => Self::Release,
            "honest" => Self::Honest,
            "scribble" => Self::Scribble(number(words.next()?)?),
            "inflate" => Self::Inflate {
                addr: number(words.next()?)?,
                size: number(words.next()?)?,
            },
            "deflate" => Self::Deflate,
            "leak" => Self::Leak,
            "check" => Self::Check,
            _ => return None,
        };
        words.next().is_none().then_some(command)
    }
}
