// SPDX-License-Identifier: GPL-2.0

//! `generate DIR` makes the agent's man pages (DIR/man) and shell completions (DIR/completions)
//! from the definition of its command line.
//!
//! It is an example so that the agent itself has nothing of it.

mod man;

use clap_complete::Shell;
use std::env;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

/// The shells for which clap_complete makes what is used as it is.
const SHELLS: [Shell; 2] = [Shell::Zsh, Shell::Fish];

/// The program's name without hyphens.
const PLAIN: &str = "virtio_mem_agent";

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
    let bash = completions.join(format!("{name}.bash"));
    fs::write(bash, bash_completion(&name))?;
    let mut command = virtio_mem_agent::definition().disable_help_subcommand(true);
    command.build();
    man::pages(&command, &man)
}

/// The completion for bash. In what clap_complete 4.6 makes for a program with hyphens in its name, the
/// case of a subcommand has another name than the one that is looked for: it is made for a name without
/// hyphens, and the function bound to the real one.
fn bash_completion(name: &str) -> String {
    let mut command = virtio_mem_agent::definition().name(PLAIN);
    let mut text = Vec::new();
    clap_complete::generate(Shell::Bash, &mut command, PLAIN, &mut text);

    let text = String::from_utf8_lossy(&text);
    text.replace(
        &format!("-o default {PLAIN}\n"),
        &format!("-o default {name}\n"),
    )
}
