// SPDX-License-Identifier: GPL-2.0

//! What runs inside the test guests.
//!
//! One static binary: as `/init` of an initramfs it brings the guest up and
//! serves commands from the host over a virtio-serial port; as `vmem-guest load`
//! it keeps memory in use whose content it can vouch for, as `vmem-guest churn` it
//! keeps changing how it is used, as `vmem-guest faults` it times page faults, as
//! `vmem-guest names` it is a user who names network interfaces. `vmem-guest kexec` starts another
//! kernel, and `vmem-guest vmcore` reads what a crashed one has left.

mod children;
mod churn;
mod dice;
mod faults;
mod fuse;
mod init;
mod kexec;
mod load;
mod mapping;
mod modules;
mod names;
mod pagemap;
mod pattern;
mod pinned;
mod port;
mod process;
mod protocol;
mod random;
mod range;
mod region;
mod server;
mod vmcore;
mod watch;

use std::env;
use std::process::ExitCode;

const USAGE: &str = "usage: vmem-guest init | vmem-guest load --mib N [OPTIONS]";

fn main() -> ExitCode {
    let mut args = env::args();
    let name = args.next().unwrap_or_default();
    if name.rsplit('/').next() == Some("init") {
        return init::main();
    }
    match args.next().as_deref() {
        Some("init") => init::main(),
        Some("load") => load::main(args),
        Some("churn") => churn::main(args),
        Some("faults") => faults::main(args),
        Some("names") => names::main(args),
        Some("fuse") => fuse::main(args),
        Some("reseed") => random::main(args),
        Some("kexec") => kexec::main(args),
        Some("vmcore") => vmcore::main(args),
        _ => {
            eprintln!("{USAGE}\n       {}", kexec::USAGE);
            eprintln!("       {}\n       {}", vmcore::USAGE, churn::USAGE);
            eprintln!("       {}\n       {}", faults::USAGE, names::USAGE);
            eprintln!("       {}\n       {}", random::USAGE, fuse::USAGE);
            eprintln!("{}", load::OPTIONS);
            ExitCode::from(2)
        }
    }
}
