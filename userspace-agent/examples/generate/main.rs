// SPDX-License-Identifier: GPL-2.0

//! `generate DIR` makes the agent's man pages (DIR/man) and shell completions (DIR/completions)
//! from the definition of its command line.
//!
//! It is an example so that the agent itself has nothing of it.

use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

/// System administration commands.
const SECTION: &str = "8";

/// The shells that there are completions for.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Zsh, Shell::Fish];

fn main() -> ExitCode {
    let Some(dir) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: generate DIR");
        return ExitCode::from(2);
    };

    match generate(&dir) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!(
                "{}: expected a directory to write to: {error}",
                dir.display()
            );
            ExitCode::FAILURE
        }
    }
}

/// Makes everything anew: what is no longer there leaves no file behind.
fn generate(dir: &Path) -> io::Result<()> {
    let (man, completions) = (dir.join("man"), dir.join("completions"));
    for dir in [&man, &completions] {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
    }

    let mut command = virtio_mem_agent::definition();
    let name = command.get_name().to_owned();
    for shell in SHELLS {
        clap_complete::generate_to(shell, &mut command, &name, &completions)?;
    }
    let mut command = virtio_mem_agent::definition().disable_help_subcommand(true);
    command.build();
    pages(&command, &man)
}

/// Makes the man page of a command and those of its subcommands.
fn pages(command: &Command, dir: &Path) -> io::Result<()> {
    for subcommand in command.get_subcommands().filter(|c| !c.is_hide_set()) {
        pages(subcommand, dir)?;
    }
    Man::new(command.clone())
        .section(SECTION)
        .source(concat!(
            env!("CARGO_PKG_NAME"),
            " ",
            env!("CARGO_PKG_VERSION")
        ))
        .generate_to(dir)?;
    Ok(())
}
