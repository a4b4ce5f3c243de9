// SPDX-License-Identifier: GPL-2.0

//! Memory whose use keeps changing, and whose every page is checked.
//!
//! Regions are mapped, filled, checked, written anew, moved, shared with a child,
//! given back in part and as a whole, with small pages and huge ones. Commands come
//! from standard input, one a line, and are answered with a line of JSON.

use std::fs;
use std::io;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::dice::Dice;
use crate::load::be_modest;
use crate::load::input_waits;
use crate::load::report;
use crate::mapping::PageSize;
use crate::mapping::HUGE;
use crate::region::Found;
use crate::region::Region;
use crate::watch::meminfo;

/// How to call it.
pub(crate) const USAGE: &str = "\
vmem-guest churn --mib N [--reserve MIB] [--seed S] [--expendable]
         commands: limit MIB | rest | go | check | quit";

/// The largest region, in units of 2 MiB.
const LARGEST: usize = 24;

/// Between two steps: the guest has other things to do.
const PAUSE: Duration = Duration::from_millis(5);

struct Options {
    /// How much memory it may use, in bytes.
    limit: usize,
    /// How much memory it leaves to others, in KiB.
    reserve: u64,
    seed: u64,
    /// Whether it is the one to kill when memory runs out.
    expendable: bool,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self {
            limit: 0,
            reserve: 256 << 10,
            seed: 1,
            expendable: false,
        };
        while let Some(option) = args.next() {
            match option.as_str() {
                "--mib" => options.limit = args.next()?.parse::<usize>().ok()? << 20,
                "--reserve" => options.reserve = args.next()?.parse::<u64>().ok()? << 10,
                "--seed" => options.seed = args.next()?.parse().ok()?,
                "--expendable" => options.expendable = true,
                _ => return None,
            }
        }
        (options.limit > 0).then_some(options)
    }
}

struct Churn {
    regions: Vec<Region>,
    dice: Dice,
    limit: usize,
    reserve: u64,
    steps: u64,
    found: Found,
}

impl Churn {
    fn size(&self) -> usize {
        self.regions.iter().map(Region::size).sum()
    }

    /// Takes note of what a check has found.
    fn note(&mut self, found: Found, when: &str) {
        if found.changed > 0 {
            report(&json!({"corrupted": found.changed, "when": when, "step": self.steps}));
        }
        self.found += found;
    }

    /// Whether there is memory that others can spare.
    fn may_take(&self, size: usize) -> bool {
        let available = meminfo("MemAvailable").unwrap_or_default();
        available > self.reserve + (size as u64 >> 10)
    }

    fn free(&mut self, which: usize) {
        let region = self.regions.swap_remove(which);
        self.note(region.check(), "free");
    }

    fn shrink(&mut self) {
        while self.size() > self.limit {
            let which = self.dice.pick(0..self.regions.len());
            self.free(which);
        }
    }

    fn allocate(&mut self) -> io::Result<()> {
        let huge = self.dice.pick(1..LARGEST + 1);
        if self.size() + huge * HUGE > self.limit || !self.may_take(huge * HUGE) {
            return Ok(());
        }
        let pages = if self.dice.once_in(2) {
            PageSize::Huge
        } else {
            PageSize::Small
        };
        let mut region = Region::new(huge, self.dice.next(), pages)?;
        let found = region.fill(0, region.pages());
        self.regions.push(region);
        self.note(found, "allocate");
        Ok(())
    }

    /// A range of pages of a region.
    fn part(&mut self, which: usize) -> (usize, usize) {
        let pages = self.regions[which].pages();
        let first = self.dice.pick(0..pages);
        let most = (pages - first).min(2048);
        (first, self.dice.pick(0..most) + 1)
    }

    /// Has a child check what it shares with us while we write to it.
    fn share(&mut self, which: usize) -> io::Result<()> {
        let seed = self.dice.next();
        if !self.may_take(self.regions[which].size()) {
            return Ok(());
        }
        // SAFETY: There is one thread, so the child may do what we may.
        let child = unsafe { libc::fork() };
        if child == 0 {
            let status = i32::from(self.regions[which].check().changed > 0);
            // SAFETY: `_exit` runs nothing of ours, and does not return.
            unsafe { libc::_exit(status) };
        }
        if child < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut found = self.regions[which].rewrite(seed);
        let mut status = 0;
        // SAFETY: `status` is valid for a write, and the child is ours.
        if unsafe { libc::waitpid(child, &mut status, 0) } != child {
            return Err(io::Error::last_os_error());
        }
        // It is killed before us when memory runs out, which is no change of content.
        if libc::WIFEXITED(status) {
            found.pages += found.pages;
            found.changed += u64::from(libc::WEXITSTATUS(status) != 0);
        }
        self.note(found, "share");
        Ok(())
    }

    /// Does one thing or another.
    fn step(&mut self) -> io::Result<()> {
        self.steps += 1;
        self.shrink();
        if self.regions.is_empty() {
            return self.allocate();
        }
        let which = self.dice.pick(0..self.regions.len());
        match self.dice.pick(0..12) {
            0..=2 => self.allocate()?,
            3 => {
                let found = self.regions[which].check();
                self.note(found, "check");
            }
            4 => {
                let seed = self.dice.next();
                let found = self.regions[which].rewrite(seed);
                self.note(found, "rewrite");
            }
            5 | 6 => {
                let (first, count) = self.part(which);
                self.regions[which].punch(first, count)?;
            }
            7 => {
                let (first, count) = self.part(which);
                if self.may_take(count * HUGE / 512) {
                    let found = self.regions[which].fill(first, count);
                    self.note(found, "fill");
                }
            }
            8 => self.regions[which].relocate()?,
            9 => self.share(which)?,
            10 => {
                let how = [PageSize::Small, PageSize::Huge, PageSize::Collapse];
                let how = how[self.dice.pick(0..how.len())];
                self.regions[which].resize_pages(how);
            }
            _ => self.free(which),
        }
        Ok(())
    }

    /// Carries out a command; false when it was the last.
    fn command(&mut self, line: &str, resting: &mut bool) -> io::Result<bool> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["limit", mib] => match mib.parse::<usize>() {
                Ok(mib) => {
                    self.limit = mib << 20;
                    self.shrink();
                }
                Err(error) => return Err(io::Error::other(format!("{line}: {error}"))),
            },
            ["rest"] => *resting = true,
            ["go"] => *resting = false,
            ["check" | "quit"] => {
                for which in 0..self.regions.len() {
                    let found = self.regions[which].check();
                    self.note(found, "check");
                }
            }
            _ => return Err(io::Error::other(format!("bad command: {line}"))),
        }
        report(&json!({
            "event": words[0],
            "mib": self.size() >> 20,
            "pages": self.found.pages,
            "corrupted": self.found.changed,
            "steps": self.steps,
        }));
        Ok(words[0] != "quit")
    }
}

/// `vmem-guest churn`.
pub(crate) fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let Some(options) = Options::parse(args) else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("churn: {error}");
            ExitCode::from(3)
        }
    }
}

/// Returns the number of pages found changed.
fn run(options: &Options) -> io::Result<u64> {
    if options.expendable {
        fs::write("/proc/self/oom_score_adj", "1000")?;
    }
    be_modest()?;
    let mut churn = Churn {
        regions: Vec::new(),
        dice: Dice::new(options.seed),
        limit: options.limit,
        reserve: options.reserve,
        steps: 0,
        found: Found::default(),
    };
    let mut resting = false;
    report(&json!({"event": "ready", "corrupted": 0}));
    loop {
        while !resting && !input_waits()? {
            churn.step()?;
            sleep(PAUSE);
        }
        let mut line = String::new();
        if io::stdin().read_line(&mut line)? == 0 {
            line = "quit".into();
        }
        if !churn.command(&line, &mut resting)? {
            return Ok(churn.found.changed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Churn;
    use super::Dice;
    use super::Found;

    #[test]
    fn steps_change_nothing() {
        let mut churn = Churn {
            regions: Vec::new(),
            dice: Dice::new(7),
            limit: 16 << 20,
            reserve: 0,
            steps: 0,
            found: Found::default(),
        };
        for _ in 0..200 {
            churn.step().expect("a step");
            assert!(churn.size() <= churn.limit);
        }
        assert_eq!(churn.found.changed, 0);
        assert!(churn.found.pages > 4000);
        // The test's other threads have no part in it, so it may fork.
        churn.limit = 0;
        churn.shrink();
        assert!(churn.regions.is_empty());
    }
}
