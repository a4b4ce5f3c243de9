// SPDX-License-Identifier: GPL-2.0

//! What came of the steps so far: counters, latencies, and the last error.

use crate::engine::Failure;
use crate::engine::Outcome;
use crate::engine::Step;
use crate::vocabulary::Action;
use crate::vocabulary::Answer;
use crate::vocabulary::Trouble;
use crate::wire::Request;
use crate::wire::Response;
use core::fmt;

/// How often something took how long, in powers of two of microseconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    buckets: [u64; Self::BUCKETS],
}

impl Histogram {
    /// The last bucket also holds all that took longer, from 2^30 us (18 minutes) on.
    const BUCKETS: usize = 32;

    fn record(&mut self, us: u64) {
        let bits = u64::BITS.saturating_sub(us.leading_zeros());
        let index = usize::try_from(bits).unwrap_or(usize::MAX);
        let last = Self::BUCKETS.saturating_sub(1);
        if let Some(bucket) = self.buckets.get_mut(index.min(last)) {
            *bucket = bucket.saturating_add(1);
        }
    }

    /// How often it took less than `below` us but not less than half of that, for those `below`
    /// for which it did, in order.
    pub fn counts(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let belows = (0..u64::BITS).map(|bits| 1_u64 << bits);
        let counts = self.buckets.iter().copied();
        belows.zip(counts).filter(|(_, count)| *count != 0)
    }
}

impl fmt::Display for Histogram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (below, count) in self.counts() {
            writeln!(f, "  < {below} us: {count}")?;
        }
        Ok(())
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub struct Statistics {
    answers: [[u64; Answer::ALL.len()]; Action::REQUESTS.len()],
    plugged_blocks: u64,
    unplugged_blocks: u64,
    migrations_failed: u64,
    unplugs_not_sent: u64,
    last_error: Option<(Action, Trouble)>,
    plug: Histogram,
    unplug: Histogram,
    add: Histogram,
    online: Histogram,
    offline: Histogram,
}

impl Statistics {
    /// Notes how `step` went, which took `us` microseconds.
    pub fn record(&mut self, step: &Step, outcome: &Outcome, us: u64) {
        let action = Action::of(step);
        let trouble = match *outcome {
            Outcome::Answered(response) => {
                if let Some(action) = action {
                    self.answered(action, Answer::of(response));
                }
                Trouble::of_response(response)
            }
            Outcome::Abandoned => {
                if let Some(action) = action {
                    self.answered(action, Answer::Garbled);
                }
                Some(Trouble::Garbled)
            }
            Outcome::Failed(failure) => Some(Trouble::of_failure(failure)),
            Outcome::NotSent => {
                self.unplugs_not_sent = self.unplugs_not_sent.saturating_add(1);
                Some(Trouble::InUse)
            }
            Outcome::Done | Outcome::Config(_) => None,
        };
        if let (Some(action), Some(trouble)) = (action, trouble) {
            self.last_error = Some((action, trouble));
        }
        match *step {
            _ if *outcome == Outcome::NotSent => {}
            Step::Send(Request::Plug { blocks, .. }) => {
                self.plug.record(us);
                if *outcome == Outcome::Answered(Response::Ack) {
                    self.plugged_blocks = self.plugged_blocks.saturating_add(blocks.into());
                }
            }
            Step::Send(Request::Unplug { blocks, .. }) => {
                self.unplug.record(us);
                if *outcome == Outcome::Answered(Response::Ack) {
                    self.unplugged_blocks = self.unplugged_blocks.saturating_add(blocks.into());
                }
            }
            Step::Add { .. } => self.add.record(us),
            Step::Online { .. } => self.online.record(us),
            Step::Remove { online: true, .. } => self.offline.record(us),
            _ => {}
        }
        let migrates = matches!(*step, Step::Remove { online: true, .. } | Step::Take { .. });
        if migrates && trouble.is_some() {
            self.migrations_failed = self.migrations_failed.saturating_add(1);
        }
    }

    fn answered(&mut self, request: Action, answer: Answer) {
        let kind = Action::REQUESTS.iter().position(|kind| *kind == request);
        let answer = Answer::ALL.iter().position(|other| *other == answer);
        if let (Some(kind), Some(answer)) = (kind, answer) {
            let row = self.answers.get_mut(kind);
            if let Some(count) = row.and_then(|row| row.get_mut(answer)) {
                *count = count.saturating_add(1);
            }
        }
    }

    /// How many requests of a kind were answered in this way.
    pub fn answers(&self, request: Action, answer: Answer) -> u64 {
        let kind = Action::REQUESTS.iter().position(|kind| *kind == request);
        let answer = Answer::ALL.iter().position(|other| *other == answer);
        kind.zip(answer)
            .and_then(|(kind, answer)| self.answers.get(kind)?.get(answer).copied())
            .unwrap_or(0)
    }

    /// Device blocks plugged.
    pub fn plugged_blocks(&self) -> u64 {
        self.plugged_blocks
    }

    /// Device blocks unplugged, but for those of UNPLUG_ALL.
    pub fn unplugged_blocks(&self) -> u64 {
        self.unplugged_blocks
    }

    /// Attempts to empty online memory that failed.
    pub fn migrations_failed(&self) -> u64 {
        self.migrations_failed
    }

    /// Requests to unplug memory that were not sent, because Linux may have been using some of it. Any
    /// is a defect of the driver.
    pub fn unplugs_not_sent(&self) -> u64 {
        self.unplugs_not_sent
    }

    /// What failed last, and how.
    pub fn last_error(&self) -> Option<(Action, Trouble)> {
        self.last_error
    }

    /// The latencies: each with what it is of.
    pub fn latencies(&self) -> [(&'static str, &Histogram); 5] {
        [
            ("plug", &self.plug),
            ("unplug", &self.unplug),
            ("add", &self.add),
            ("online", &self.online),
            ("offline", &self.offline),
        ]
    }
}

impl Action {
    /// Those that ask the device.
    pub const REQUESTS: [Self; 4] = [Self::Plug, Self::Unplug, Self::UnplugAll, Self::State];

    /// What a step does, if it is one that can fail.
    pub fn of(step: &Step) -> Option<Self> {
        match step {
            Step::Send(request) => Some(Self::of_request(*request)),
            Step::Add { .. } => Some(Self::Add),
            Step::Online { .. } => Some(Self::Online),
            Step::Remove { .. } => Some(Self::Remove),
            Step::Take { .. } => Some(Self::Take),
            Step::Withdraw { .. } => Some(Self::Withdraw),
            Step::Resync => Some(Self::Resync),
            Step::ReadConfig | Step::Give { .. } | Step::Wait { .. } => None,
        }
    }

    /// What a request asks for.
    pub fn of_request(request: Request) -> Self {
        match request {
            Request::Plug { .. } => Self::Plug,
            Request::Unplug { .. } => Self::Unplug,
            Request::UnplugAll => Self::UnplugAll,
            Request::State { .. } => Self::State,
        }
    }
}

impl Answer {
    /// The kind of a response.
    pub fn of(response: Response) -> Self {
        match response {
            Response::Ack | Response::State(_) => Self::Ack,
            Response::Nack => Self::Nack,
            Response::Busy => Self::Busy,
            Response::Error => Self::Error,
            Response::Garbled => Self::Garbled,
        }
    }
}

impl Trouble {
    fn of_response(response: Response) -> Option<Self> {
        match response {
            Response::Ack | Response::State(_) => None,
            Response::Nack => Some(Self::Nack),
            Response::Busy => Some(Self::Busy),
            Response::Error => Some(Self::Error),
            Response::Garbled => Some(Self::Garbled),
        }
    }

    /// How a step failed.
    pub fn of_failure(failure: Failure) -> Self {
        match failure {
            Failure::Busy => Self::InUse,
            Failure::Interrupted => Self::Interrupted,
            Failure::NoMemory => Self::NoMemory,
            Failure::Mismatch => Self::Mismatch,
            Failure::Refused => Self::Refused,
        }
    }
}
