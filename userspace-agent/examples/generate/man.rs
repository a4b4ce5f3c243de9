// SPDX-License-Identifier: GPL-2.0

//! The man pages: what clap_mangen makes of the command line, and the sections that it knows nothing of.

use clap::Command;
use clap_mangen::Man;
use roff::bold;
use roff::roman;
use roff::Roff;
use std::fs;
use std::io;
use std::path::Path;

/// System administration commands.
const SECTION: &str = "8";

/// A line, and what it does.
type Line = (&'static str, &'static str);

/// What a page has beside the command line.
struct More {
    command: &'static str,
    examples: &'static [Line],
    environment: &'static [Line],
    files: &'static [Line],
    see_also: &'static [&'static str],
}

const TERMINAL: &[Line] = &[
    (
        "NO_COLOR",
        "If it is set and not empty, there are no colours.",
    ),
    (
        "TERM",
        "On a terminal called dumb there are no colours, and nothing is drawn over.",
    ),
];

const SYSTEMD: &[Line] = &[(
    "NOTIFY_SOCKET, WATCHDOG_USEC",
    "Set by systemd, which the agent notifies that it is ready and alive.",
)];

const SOURCES: &[Line] = &[
    (
        "/sys/bus/virtio/devices/virtioN/virtio_mem/",
        "What this project's driver says of a device.",
    ),
    (
        "/proc/iomem",
        "Where the memory of the kernel's own driver is. Only root sees addresses in it.",
    ),
    (
        "/sys/devices/system/memory/",
        "The memory blocks, and how each stands.",
    ),
];

/// The pages.
const PAGES: &[More] = &[
    More {
        command: "virtio-mem-agent",
        examples: &[
            ("virtio-mem-agent", "Shows a table of all devices."),
            ("virtio-mem-agent -J", "Prints them as JSON."),
        ],
        environment: TERMINAL,
        files: SOURCES,
        see_also: &["lsmem(1)", "chmem(8)"],
    },
    More {
        command: "status",
        examples: &[
            ("virtio-mem-agent status --wide", "Shows all that is known."),
            (
                "virtio-mem-agent status -b --noheadings -o device,plugged",
                "Prints a line for each device, for scripts.",
            ),
        ],
        environment: TERMINAL,
        files: SOURCES,
        see_also: &["lsmem(1)"],
    },
    More {
        command: "doctor",
        examples: &[
            ("virtio-mem-agent doctor", "Examines the machine."),
            (
                "virtio-mem-agent doctor --save /tmp/machine",
                "Records it, to be examined elsewhere with --root.",
            ),
        ],
        environment: &[],
        files: &[
            (
                "/etc/udev/rules.d, /run/udev/rules.d, /usr/lib/udev/rules.d",
                "Rules that bring memory online.",
            ),
            (
                "/sys/devices/system/memory/auto_online_blocks",
                "The kernel's policy for memory that is added.",
            ),
        ],
        see_also: &["udev(7)", "chmem(8)"],
    },
    More {
        command: "watch",
        examples: &[
            ("virtio-mem-agent watch", "Draws the table again when something changes."),
            ("virtio-mem-agent watch --json", "Prints a line of JSON for each change."),
        ],
        environment: TERMINAL,
        files: SOURCES,
        see_also: &[],
    },
    More {
        command: "wait",
        examples: &[
            (
                "virtio-mem-agent wait --requested 8G --timeout 1m",
                "After a resize on the host: waits until the guest has heard of it, and done it.",
            ),
            (
                "virtio-mem-agent wait --at-least 4G",
                "Waits for 4 GiB, and ends with 5 if the host requests less.",
            ),
        ],
        environment: &[("TERM", "On a terminal called dumb there is no line of progress.")],
        files: SOURCES,
        see_also: &[],
    },
    More {
        command: "retry",
        examples: &[(
            "virtio-mem-agent retry virtio1",
            "Has the driver try again at once what it waits for with this device.",
        )],
        environment: &[],
        files: &[(
            "/sys/bus/virtio/devices/virtioN/virtio_mem/retry",
            "What is written to.",
        )],
        see_also: &[],
    },
    More {
        command: "metrics",
        examples: &[
            (
                "virtio-mem-agent metrics --listen 127.0.0.1:9824",
                "Serves them at http://127.0.0.1:9824/metrics.",
            ),
            (
                "virtio-mem-agent metrics --output /var/lib/prometheus/node-exporter/virtio_mem.prom",
                "Writes them for node_exporter.",
            ),
        ],
        environment: SYSTEMD,
        files: &[(
            "/etc/default/virtio-mem-agent",
            "METRICS_ADDRESS for virtio-mem-agent-metrics.service.",
        )],
        see_also: &["systemd.service(5)"],
    },
    More {
        command: "report",
        examples: &[(
            "virtio-mem-agent report --vsock 2:1024",
            "Tells whoever listens at vsock port 1024 of the host.",
        )],
        environment: SYSTEMD,
        files: &[
            (
                "/dev/virtio-ports/org.virtio_mem.agent.0",
                "The virtio-serial port, unless another is given.",
            ),
            (
                "/etc/default/virtio-mem-agent",
                "REPORT_OPTIONS for virtio-mem-agent-report.service.",
            ),
        ],
        see_also: &["systemd.service(5)", "vsock(7)"],
    },
];

/// Makes the man page of a command and those of its subcommands.
pub(crate) fn pages(command: &Command, dir: &Path) -> io::Result<()> {
    let subcommands: Vec<_> = command
        .get_subcommands()
        .filter(|subcommand| !subcommand.is_hide_set())
        .collect();
    let program = command.get_name();
    let mut names = vec![format!("{program}({SECTION})")];
    for subcommand in &subcommands {
        names.push(format!("{program}-{}({SECTION})", subcommand.get_name()));
    }

    page(command, &names, dir)?;
    for subcommand in subcommands {
        page(subcommand, &names, dir)?;
    }
    Ok(())
}

fn page(command: &Command, names: &[String], dir: &Path) -> io::Result<()> {
    let man = Man::new(command.clone()).section(SECTION).source(concat!(
        env!("CARGO_PKG_NAME"),
        " ",
        env!("CARGO_PKG_VERSION")
    ));
    let name = command.get_name();
    let Some(more) = PAGES.iter().find(|more| more.command == name) else {
        return Err(io::Error::other(format!("{name} has no page")));
    };
    let mut text = Vec::new();

    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    man.render_description_section(&mut text)?;
    man.render_options_section(&mut text)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut text)?;
    }
    let mut roff = Roff::new();
    let exits = virtio_mem_agent::exit_statuses(name);
    let exits = exits
        .iter()
        .map(|exit| (exit.code.to_string(), exit.meaning));
    section(&mut roff, "EXIT STATUS", exits);
    section(&mut roff, "EXAMPLES", owned(more.examples));
    section(&mut roff, "ENVIRONMENT", owned(more.environment));
    section(&mut roff, "FILES", owned(more.files));
    let own = man.get_filename();
    let others = names
        .iter()
        .filter(|name| name.replace('(', ".").trim_end_matches(')') != own);
    let others: Vec<_> = others
        .map(String::as_str)
        .chain(more.see_also.iter().copied())
        .collect();
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman(others.join(", "))]);
    roff.to_writer(&mut text)?;
    fs::write(dir.join(own), text)
}

fn owned(lines: &[Line]) -> impl Iterator<Item = (String, &'static str)> + '_ {
    lines
        .iter()
        .map(|(line, meaning)| ((*line).into(), *meaning))
}

/// A section of lines, each with what it means; none if there are no lines.
fn section(roff: &mut Roff, title: &str, lines: impl Iterator<Item = (String, &'static str)>) {
    let mut lines = lines.peekable();
    if lines.peek().is_some() {
        roff.control("SH", [title]);
    }
    for (line, meaning) in lines {
        roff.control("TP", []);
        roff.text([bold(line)]);
        roff.text([roman(meaning)]);
    }
}
