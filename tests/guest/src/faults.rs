// SPDX-License-Identifier: GPL-2.0

//! How long page faults take: a workload that goes on touching fresh memory, or the start of a file, of
//! which it forgets each time that it has mapped it.
//!
//! Reads commands from standard input, one a line, and answers each with a line of JSON.

use std::fs::File;
use std::hint::black_box;
use std::io;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use crate::load::input_waits;
use crate::load::report;
use crate::mapping::Mapping;

/// For the usage message.
pub(crate) const USAGE: &str =
    "vmem-guest faults --mib N [--file PATH]   (commands: report | quit)";

/// Pages touched between two looks for a command.
const CHUNK: usize = 1024;

/// The latencies of page faults since the last report, in nanoseconds.
#[derive(Default)]
struct Latencies(Vec<u32>);

impl Latencies {
    fn add(&mut self, since: Instant) {
        let nanoseconds = since.elapsed().as_nanos();
        self.0.push(u32::try_from(nanoseconds).unwrap_or(u32::MAX));
    }

    /// The value that `share` of 1000 are not above; 0 without any.
    fn per_mille(&self, share: usize) -> u32 {
        let rank = (self.0.len() * share).div_ceil(1000);
        self.0
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or_default()
    }

    fn tell(&mut self) {
        self.0.sort_unstable();
        report(&json!({
            "event": "report",
            "faults": self.0.len(),
            "median_ns": self.per_mille(500),
            "p999_ns": self.per_mille(999),
            "max_ns": self.per_mille(1000),
        }));
        self.0.clear();
    }
}

/// `vmem-guest faults`.
pub(crate) fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let (mut mib, mut file) = (None, None);
    while let Some(option) = args.next() {
        match (option.as_str(), args.next()) {
            ("--mib", Some(value)) => mib = value.parse().ok(),
            ("--file", Some(value)) => file = Some(value),
            _ => mib = None,
        }
    }
    let Some(mib) = mib.filter(|mib| *mib > 0 && mib % 2 == 0) else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    match run(mib, file.as_deref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("faults: {error}");
            ExitCode::from(3)
        }
    }
}

fn run(mib: usize, file: Option<&str>) -> io::Result<()> {
    let mut memory = match file {
        Some(path) => Mapping::of_file(&File::open(path)?, mib << 20)?,
        None => Mapping::new(mib << 20)?,
    };
    let mut latencies = Latencies::default();
    report(&json!({"event": "ready"}));
    loop {
        for index in 0..memory.pages() {
            if index % CHUNK == 0 && input_waits()? {
                let mut line = String::new();
                io::stdin().read_line(&mut line)?;
                match line.trim() {
                    "report" => latencies.tell(),
                    "quit" | "" => return Ok(()),
                    other => return Err(io::Error::other(format!("bad command: {other}"))),
                }
            }
            let since = Instant::now();
            if file.is_some() {
                black_box(memory.page(index)[0]);
            } else {
                memory.page_mut(index)[0] = 1;
            }
            latencies.add(since);
        }
        memory.give_back(0, memory.pages())?;
    }
}

#[cfg(test)]
mod tests {
    use super::Latencies;

    #[test]
    fn shares_of_what_was_measured() {
        assert_eq!(Latencies::default().per_mille(999), 0);
        let latencies = Latencies((1..=2000).collect());
        assert_eq!(latencies.per_mille(500), 1000);
        assert_eq!(latencies.per_mille(999), 1998);
        assert_eq!(latencies.per_mille(1000), 2000);
        assert_eq!(Latencies(vec![7]).per_mille(1), 7);
    }
}
