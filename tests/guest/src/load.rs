// SPDX-License-Identifier: GPL-2.0

//! Memory in use whose every page is checked.
//!
//! Reads commands from standard input, one a line, and answers each with a line
//! of JSON. Between commands it goes on checking all pages when `--watch` is
//! given. At `quit` or the end of input it checks a last time; the exit status is
//! 1 if a page was ever found changed.

use std::io;
use std::io::Write;
use std::ops::Range;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use serde_json::json;
use serde_json::Value;

use crate::mapping::Mapping;
use crate::mapping::HUGE;
use crate::mapping::PAGE;
use crate::pagemap::Pagemap;
use crate::pattern;
use crate::pinned::Pinned;
use crate::range::parse_range;

/// The options, for the usage message.
pub(crate) const OPTIONS: &str = "\
  --mib N      how much memory to fill, in MiB (an even number)
  --sparse     then keep one page in each 2 MiB and give the rest back
  --mlock      lock the pages that are kept
  --pin        also hold a few pages that cannot be moved
  --modest     leave the processors to others
  --huge       in transparent huge pages
  --hugetlb    in pages of the pool of huge pages
  --watch      go on checking between commands
  --seed S     a number that the content depends on
commands: check | keep MIB (free all beyond) | free | quit
          where START-END (pages at physical addresses in this range)";

const PAGES_PER_HUGE: usize = HUGE / PAGE;

/// Pages named in the answer to `where`, at most.
const PLACES: usize = 64;

/// Pages checked between two looks for a command.
const CHUNK: usize = 4096;

/// With `--watch`, so many times as long as it has checked some pages it waits before it checks more:
/// an emulated processor is not to do nothing else.
const REST: u32 = 3;

#[derive(Default)]
struct Options {
    mib: usize,
    sparse: bool,
    mlock: bool,
    pin: bool,
    watch: bool,
    modest: bool,
    pages: Pages,
    seed: u64,
}

/// What pages the memory is made of.
#[derive(Clone, Copy, Default)]
enum Pages {
    #[default]
    Small,
    Huge,
    Pooled,
}

impl Options {
    fn parse(mut args: impl Iterator<Item = String>) -> Option<Self> {
        let mut options = Self::default();
        while let Some(option) = args.next() {
            match option.as_str() {
                "--mib" => options.mib = args.next()?.parse().ok()?,
                "--seed" => options.seed = args.next()?.parse().ok()?,
                "--sparse" => options.sparse = true,
                "--mlock" => options.mlock = true,
                "--modest" => options.modest = true,
                "--pin" => options.pin = true,
                "--watch" => options.watch = true,
                "--huge" => options.pages = Pages::Huge,
                "--hugetlb" => options.pages = Pages::Pooled,
                _ => return None,
            }
        }
        (options.mib > 0 && options.mib % 2 == 0).then_some(options)
    }
}

/// Memory in use, and what has become of it.
struct Load {
    memory: Mapping,
    _pinned: Option<Pinned>,
    seed: u64,
    sparse: bool,
    /// Pages from here on were freed on demand.
    end: usize,
    /// Where the continuous check goes on.
    next: usize,
    corrupted: u64,
    rounds: u64,
}

impl Load {
    fn new(options: &Options) -> io::Result<Self> {
        let len = options.mib << 20;
        let mut memory = match options.pages {
            Pages::Small => Mapping::new(len)?,
            Pages::Huge => Mapping::huge(len)?,
            Pages::Pooled => Mapping::pooled(len)?,
        };
        let pages = memory.pages();
        // All is filled first even if most is given back: the pages that stay are
        // then spread over as much physical memory.
        for index in 0..pages {
            pattern::fill(memory.page_mut(index), options.seed, index);
        }
        let mut load = Self {
            memory,
            _pinned: options.pin.then(Pinned::new).transpose()?,
            seed: options.seed,
            sparse: options.sparse,
            end: pages,
            next: 0,
            corrupted: 0,
            rounds: 0,
        };
        if options.sparse {
            load.thin_out()?;
        }
        if options.mlock {
            load.memory.lock()?;
        }
        Ok(load)
    }

    /// Keeps one page in each 2 MiB, not always the same one.
    fn thin_out(&mut self) -> io::Result<()> {
        for first in (0..self.end).step_by(PAGES_PER_HUGE) {
            let kept = kept_page(first);
            self.memory.give_back(first, kept - first)?;
            let last = first + PAGES_PER_HUGE;
            self.memory.give_back(kept + 1, last - kept - 1)?;
        }
        Ok(())
    }

    /// The page at or after `index` that is in use.
    fn in_use(&self, index: usize) -> usize {
        if !self.sparse {
            return index;
        }
        let first = index - index % PAGES_PER_HUGE;
        let kept = kept_page(first);
        if kept >= index {
            kept
        } else {
            kept_page(first + PAGES_PER_HUGE)
        }
    }

    /// Checks up to `limit` pages from `next` on; true at the end of a round.
    fn check_some(&mut self, limit: usize) -> bool {
        for _ in 0..limit {
            let index = self.in_use(self.next);
            if index >= self.end {
                self.next = 0;
                self.rounds += 1;
                return true;
            }
            if !pattern::intact(self.memory.page(index), self.seed, index) {
                self.corrupted += 1;
                report(&json!({"corrupted": index, "word": self.memory.page(index)[0]}));
                // Once is enough: found again in each round it would drown all else.
                pattern::fill(self.memory.page_mut(index), self.seed, index);
            }
            self.next = index + 1;
        }
        false
    }

    fn check_all(&mut self) {
        self.next = 0;
        while !self.check_some(CHUNK) {}
    }

    fn keep(&mut self, pages: usize) -> io::Result<()> {
        let pages = pages.min(self.end);
        self.memory.give_back(pages, self.end - pages)?;
        self.end = pages;
        self.next = 0;
        Ok(())
    }

    /// Pages in a range of physical addresses, as their index and address: not
    /// all, but spread over all of those that there are.
    fn places(&self, range: &Range<u64>) -> io::Result<Vec<(usize, u64)>> {
        let pagemap = Pagemap::open()?;
        let mut places = Vec::new();
        let mut index = self.in_use(0);
        while index < self.end {
            if let Some(address) = pagemap.physical(self.memory.address(index))? {
                if range.contains(&address) {
                    places.push((index, address));
                }
            }
            index = self.in_use(index + 1);
        }
        places.sort_unstable_by_key(|place| place.1);
        let step = places.len().div_ceil(PLACES).max(1);
        Ok(places.into_iter().step_by(step).collect())
    }

    fn pages_in_use(&self) -> usize {
        if self.sparse {
            self.end.div_ceil(PAGES_PER_HUGE)
        } else {
            self.end
        }
    }

    fn state(&self, event: &str, start: Instant) -> Value {
        json!({
            "event": event,
            "pages": self.pages_in_use(),
            "corrupted": self.corrupted,
            "rounds": self.rounds,
            "ms": start.elapsed().as_millis(),
        })
    }

    /// Carries out one command; false when it was the last.
    fn command(&mut self, line: &str) -> io::Result<bool> {
        let start = Instant::now();
        let mut words = line.split_whitespace();
        let bad = || Err(io::Error::other(format!("bad command: {line}")));
        match (words.next(), words.next()) {
            (Some("check"), None) => self.check_all(),
            (Some("free"), None) => self.keep(0)?,
            (Some("keep"), Some(mib)) => match mib.parse::<usize>() {
                Ok(mib) => self.keep((mib << 20) / PAGE)?,
                Err(_) => return bad(),
            },
            (Some("where"), Some(range)) => {
                let Some(range) = parse_range(range) else {
                    return bad();
                };
                let mut answer = self.state("where", start);
                answer["places"] = json!(self.places(&range)?);
                report(&answer);
                return Ok(true);
            }
            (Some("quit"), None) => {
                self.check_all();
                report(&self.state("quit", start));
                return Ok(false);
            }
            _ => return bad(),
        }
        report(&self.state(words_of(line), start));
        Ok(true)
    }
}

fn words_of(line: &str) -> &str {
    line.split_whitespace().next().unwrap_or_default()
}

/// The page of the 2 MiB from `first` on that a sparse load keeps.
fn kept_page(first: usize) -> usize {
    first + (first / PAGES_PER_HUGE).wrapping_mul(167) % PAGES_PER_HUGE
}

pub(crate) fn report(line: &Value) {
    println!("{line}");
    // Lost with a broken pipe only, when nobody is left to read it.
    let _ = io::stdout().flush();
}

/// `vmem-guest load`.
pub(crate) fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let Some(options) = Options::parse(args) else {
        eprintln!("{OPTIONS}");
        return ExitCode::from(2);
    };
    match run(&options) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::from(1),
        Err(error) => {
            eprintln!("load: {error}");
            ExitCode::from(3)
        }
    }
}

/// Returns the number of pages found changed.
fn run(options: &Options) -> io::Result<u64> {
    let start = Instant::now();
    if options.modest {
        be_modest()?;
    }
    let mut load = Load::new(options)?;
    report(&load.state("ready", start));
    loop {
        let mut rest = Duration::ZERO;
        while options.watch && !input_within(rest)? {
            let begun = Instant::now();
            if load.check_some(CHUNK) && load.end == 0 {
                break;
            }
            rest = begun.elapsed() * REST;
        }
        let mut line = String::new();
        if io::stdin().read_line(&mut line)? == 0 {
            line = "quit".into();
        }
        if !load.command(&line)? {
            return Ok(load.corrupted);
        }
    }
}

/// Leaves the processors to whoever else wants them. khugepaged is as modest, and is
/// interrupted where RCU waits for it: beside a load that goes before it, it may not
/// get on for longer than RCU has patience.
pub(crate) fn be_modest() -> io::Result<()> {
    // SAFETY: `setpriority` touches no memory; 0 stands for this process.
    if unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Whether a command can be read without waiting.
pub(crate) fn input_waits() -> io::Result<bool> {
    input_within(Duration::ZERO)
}

/// Waits for a command that can be read, for so long at most (in whole ms); whether there is one. The
/// host sends whole lines, one at a time, so nothing is ever left in the reader's buffer.
fn input_within(limit: Duration) -> io::Result<bool> {
    let mut descriptor = libc::pollfd {
        fd: 0,
        events: libc::POLLIN,
        revents: 0,
    };
    let ms = limit.as_millis().try_into().unwrap_or(i32::MAX);
    // SAFETY: `descriptor` is one valid element.
    let rc = unsafe { libc::poll(&mut descriptor, 1, ms) };
    if rc < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(rc > 0)
}

#[cfg(test)]
mod tests {
    use super::kept_page;
    use super::Load;
    use super::Options;
    use super::PAGES_PER_HUGE;

    fn load(sparse: bool) -> Load {
        let options = Options {
            mib: 8,
            sparse,
            seed: 1,
            ..Options::default()
        };
        Load::new(&options).expect("8 MiB of memory")
    }

    #[test]
    fn each_huge_page_keeps_one_page() {
        for huge in 0..5000 {
            let first = huge * PAGES_PER_HUGE;
            assert_eq!(kept_page(first) / PAGES_PER_HUGE, huge);
        }
    }

    #[test]
    fn every_page_in_use_is_checked() {
        for sparse in [false, true] {
            let mut load = load(sparse);
            load.check_all();
            assert_eq!((load.corrupted, load.rounds), (0, 1));
            let victims = if sparse { 4 } else { load.end };
            for index in 0..load.end {
                load.memory.page_mut(index)[5] += 1;
            }
            load.check_all();
            assert_eq!(load.corrupted, victims as u64);
            assert_eq!(load.pages_in_use(), victims);
        }
    }

    #[test]
    fn freed_pages_are_not_checked() {
        let mut load = load(false);
        load.keep(512).expect("madvise");
        load.check_all();
        assert_eq!((load.corrupted, load.pages_in_use()), (0, 512));
    }
}
