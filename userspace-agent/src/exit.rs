// SPDX-License-Identifier: GPL-2.0

//! The exit statuses: what each means, in one place for the program, its help and its man pages.

/// A number that a command ends with, and what it means.
#[derive(Clone, Copy, Debug)]
pub struct Exit {
    /// The number.
    pub code: u8,
    /// What it means.
    pub meaning: &'static str,
}

/// Everything was done.
pub(crate) const DONE: u8 = 0;
/// Something could not be read or written.
pub(crate) const ERROR: u8 = 1;
/// The command line is wrong (clap's own number).
pub(crate) const USAGE: u8 = 2;
/// There is no such device.
pub(crate) const NO_DEVICE: u8 = 3;
/// `wait`: the time is over.
pub(crate) const TIMED_OUT: u8 = 4;
/// `wait`: only the host can make it so.
pub(crate) const HOPELESS: u8 = 5;
/// `doctor`: the worst finding is a warning.
pub(crate) const WARNING: u8 = 4;
/// `doctor`: the worst finding is an error.
pub(crate) const FINDING: u8 = 5;

const fn exit(code: u8, meaning: &'static str) -> Exit {
    Exit { code, meaning }
}

const WRONG_USAGE: Exit = exit(USAGE, "wrong usage");
const NO_SUCH_DEVICE: Exit = exit(NO_DEVICE, "no device");
const NOT_READ: Exit = exit(ERROR, "something could not be read or written");

/// How `status`, and the agent without a command, end.
pub(crate) const STATUS: &[Exit] = &[exit(DONE, "done"), NOT_READ, WRONG_USAGE, NO_SUCH_DEVICE];

/// How `retry` ends.
pub(crate) const RETRY: &[Exit] = STATUS;

/// How `doctor` ends.
pub(crate) const DOCTOR: &[Exit] = &[
    exit(DONE, "nothing worse than notes"),
    NOT_READ,
    WRONG_USAGE,
    NO_SUCH_DEVICE,
    exit(WARNING, "the worst is a warning"),
    exit(FINDING, "the worst is an error"),
];

/// How `watch` ends.
pub(crate) const WATCH: &[Exit] = &[
    exit(
        DONE,
        "ended by a signal, by --count, or as nothing reads its output",
    ),
    exit(
        ERROR,
        "something could not be written or waited for; what cannot be read, or is not there, does \
         not end it",
    ),
    WRONG_USAGE,
];

/// How `wait` ends.
pub(crate) const WAIT: &[Exit] = &[
    exit(DONE, "it is so"),
    exit(
        ERROR,
        "something could not be read or waited for, or a driver does not tell",
    ),
    WRONG_USAGE,
    NO_SUCH_DEVICE,
    exit(TIMED_OUT, "timed out"),
    exit(HOPELESS, "it is not so, and only the host can change that"),
];

/// How `metrics` ends.
pub(crate) const METRICS: &[Exit] = &[
    exit(DONE, "done, also where there is no device"),
    exit(
        ERROR,
        "something could not be read or written, or ADDRESS cannot be listened at; what cannot be \
         read does not end --listen",
    ),
    WRONG_USAGE,
];

/// How `report` ends.
pub(crate) const REPORT: &[Exit] = &[exit(
    USAGE,
    "wrong usage; nothing else ends it but a signal: what cannot be read or told is tried again",
)];

/// The exit statuses of a command; those of `status` where there is none.
pub fn of(command: &str) -> &'static [Exit] {
    match command {
        "doctor" => DOCTOR,
        "watch" => WATCH,
        "wait" => WAIT,
        "metrics" => METRICS,
        "report" => REPORT,
        "retry" => RETRY,
        _ => STATUS,
    }
}

/// The exit statuses of a command as its help shows them.
pub(crate) fn help(command: &str) -> String {
    let lines = of(command)
        .iter()
        .map(|exit| format!("  {}  {}", exit.code, exit.meaning));
    let lines: Vec<_> = std::iter::once("Exit status:".into())
        .chain(lines)
        .collect();
    lines.join("\n")
}
