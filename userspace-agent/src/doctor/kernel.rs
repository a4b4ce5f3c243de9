// SPDX-License-Identifier: GPL-2.0

//! How the kernel was configured and booted: `init_on_alloc`, and which modules it takes.

use crate::doctor::facts::Facts;
use crate::doctor::facts::Module;
use crate::doctor::finding::Findings;
use crate::doctor::finding::Kind;
use crate::doctor::finding::Severity;
use crate::error::optional;
use crate::error::Result;
use crate::files;
use crate::files::CONFIG_GZ;
use crate::values;

/// The command line, from `/`.
const CMDLINE: &str = "proc/cmdline";
/// The kernel's release, from `/`.
const RELEASE: &str = "proc/sys/kernel/osrelease";
/// What is expected there.
const EXPECTED_CONFIG: &str = "the kernel's configuration";
/// What is expected in [`CMDLINE`].
const EXPECTED_CMDLINE: &str = "the kernel's command line";
/// A configuration has some hundred kilobytes.
const LIMIT: u64 = 4 << 20;
/// The default for memory being zeroed.
const OPTION: &str = "CONFIG_INIT_ON_ALLOC_DEFAULT_ON";

/// Whether the kernel is locked down, from `/`.
const LOCKDOWN: &str = "sys/kernel/security/lockdown";
/// Whether modules have to be signed, from `/`.
const ENFORCE: &str = "sys/module/module/parameters/sig_enforce";
/// What is unusual about the module, from `/`.
const TAINT: &str = "sys/module/virtio_mem/taint";

/// How to sign a module.
const SIGN: &str = "sign virtio_mem.ko with a key that the guest trusts: scripts/sign-file sha256 \
    KEY.priv KEY.der virtio_mem.ko (from the kernel's tree), after mokutil --import KEY.der and a \
    reboot";

/// Memory is zeroed when it is allocated.
pub(crate) const INIT_ON_ALLOC: Kind = Kind {
    id: "init-on-alloc",
    severity: Severity::Note,
    about: "the kernel writes zeroes over memory that it allocates",
};

/// The module will not load again.
pub(crate) const SIGNATURE_REQUIRED: Kind = Kind {
    id: "signature-required",
    severity: Severity::Warning,
    about: "the kernel takes signed modules only, and virtio_mem is not known to be signed",
};

/// The module is not signed.
pub(crate) const UNSIGNED: Kind = Kind {
    id: "module-unsigned",
    severity: Severity::Note,
    about: "the module is not signed by a key that the kernel trusts",
};

/// Looks whether memory is zeroed when it is allocated.
pub(crate) fn init_on_alloc(facts: &Facts, findings: &mut Findings) -> Result<()> {
    let path = facts.path(CMDLINE);
    let text = files::read_text(&path, EXPECTED_CMDLINE, LIMIT)?;
    let given = text
        .split_ascii_whitespace()
        // What comes after it is not the kernel's.
        .take_while(|word| *word != "--")
        .filter_map(|word| truth(word.strip_prefix("init_on_alloc=")?))
        .last();

    let why = match given {
        Some(false) => return Ok(()),
        Some(true) => format!("/{CMDLINE} has init_on_alloc=1"),
        None => match default(facts)? {
            Some(place) => format!("{OPTION}=y in {place}"),
            None => return Ok(()),
        },
    };
    let cost = match facts.module() {
        Module::Theirs => "the first use of memory, and each unplug with the kernel's own driver",
        Module::Ours | Module::Absent => "the first use of memory",
    };
    findings.add(
        &INIT_ON_ALLOC,
        None,
        format!("{why}: the kernel writes zeroes over what it allocates, which slows {cost}"),
        "keep it, it is there for security; to be rid of the cost, boot with init_on_alloc=0",
    );
    Ok(())
}

/// Truth, as in the kernel's parameters: the first letter, after "o" the second.
fn truth(text: &str) -> Option<bool> {
    match text.as_bytes() {
        [b'y' | b'Y' | b't' | b'T' | b'1', ..] | [b'o' | b'O', b'n' | b'N', ..] => Some(true),
        [b'n' | b'N' | b'f' | b'F' | b'0', ..] | [b'o' | b'O', b'f' | b'F', ..] => Some(false),
        _ => None,
    }
}

/// The file that says that memory is zeroed by default; an error if no file says what is.
fn default(facts: &Facts) -> Result<Option<String>> {
    let enabled = |text: &str| text.lines().any(|line| line == format!("{OPTION}=y"));

    if let Some(text) = optional(files::read_packed(
        &facts.path(CONFIG_GZ),
        EXPECTED_CONFIG,
        LIMIT,
    ))? {
        return Ok(enabled(&text).then(|| format!("/{CONFIG_GZ}")));
    }
    let release = facts.value(RELEASE, "the kernel's release", |text| {
        let fits = |c: char| c.is_ascii_graphic() && c != '/';
        (!text.is_empty() && text.chars().all(fits)).then(|| text.to_owned())
    })?;
    let elsewhere = format!("lib/modules/{release}/config");
    let place = format!("boot/config-{release}");
    let place = if !facts.path(&place).exists() && facts.path(&elsewhere).exists() {
        elsewhere
    } else {
        place
    };
    let text = files::read_text(&facts.path(&place), EXPECTED_CONFIG, LIMIT)?;
    Ok(enabled(&text).then(|| format!("/{place}")))
}

/// Looks whether the module is signed, and has to be.
pub(crate) fn signature(facts: &Facts, findings: &mut Findings) -> Result<()> {
    let required = required(facts)?;
    let unsigned = match facts.module() {
        Module::Absent => None,
        Module::Ours | Module::Theirs => {
            // A driver that is part of the kernel has no such file.
            optional(facts.value(TAINT, "capital letters", |text| {
                let fits = |c: char| c.is_ascii_uppercase();
                text.chars().all(fits).then(|| text.contains('E'))
            }))?
            .or(Some(false))
        }
    };

    match (required, unsigned) {
        (Some(why), None) => findings.add(
            &SIGNATURE_REQUIRED,
            None,
            format!("{why}: virtio_mem is not loaded, and cannot be unless it is signed"),
            SIGN,
        ),
        (Some(why), Some(true)) => findings.add(
            &SIGNATURE_REQUIRED,
            None,
            format!("{why}: virtio_mem is loaded, but not signed, and cannot be loaded again"),
            SIGN,
        ),
        (None, Some(true)) => findings.add(
            &UNSIGNED,
            None,
            format!(
                "/{TAINT} has E: virtio_mem is not signed, and cannot be loaded under Secure Boot"
            ),
            SIGN,
        ),
        _ => {}
    }
    Ok(())
}

/// Why modules have to be signed, if they have to.
fn required(facts: &Facts) -> Result<Option<String>> {
    // Both are missing where the kernel cannot do that.
    let locked = optional(
        facts.value(LOCKDOWN, "modes, one of them in brackets", |text| {
            let (_, mode) = text.split_once('[')?;
            let (mode, _) = mode.split_once(']')?;
            values::word(mode)
        }),
    )?;
    let enforced = optional(facts.value(ENFORCE, "Y or N", |text| match text {
        "Y" => Some(true),
        "N" => Some(false),
        _ => None,
    }))?;

    Ok(match (locked, enforced) {
        (Some(mode), _) if mode != "none" => Some(format!("/{LOCKDOWN} is {mode}")),
        (_, Some(true)) => Some(format!("/{ENFORCE} is Y")),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::testing::Tree;
    use flate2::write::GzEncoder;
    use flate2::Compression;
    use std::io::Write;

    const CONFIG: &str = "boot/config-7.2.12";

    #[test]
    fn command_line() {
        for (cmdline, zeroed) in [
            ("init_on_alloc=1\n", true),
            ("quiet init_on_alloc=0 init_on_alloc=on\n", true),
            ("init_on_alloc=1 init_on_alloc=off", false),
            ("-- init_on_alloc=1", false),
            ("init_on_alloc=", false),
        ] {
            let tree = Tree::ours();
            tree.write(CMDLINE, cmdline);
            assert_eq!(tree.ids().contains(&INIT_ON_ALLOC.id), zeroed, "{cmdline}");
        }
    }

    #[test]
    fn configuration() {
        let tree = Tree::ours();
        tree.write(CONFIG, format!("{OPTION}=y\n"));
        assert_eq!(tree.ids(), [INIT_ON_ALLOC.id]);
        assert!(tree.finding(INIT_ON_ALLOC.id).message.contains(CONFIG));
        tree.write(CMDLINE, "init_on_alloc=0\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());
        tree.write(CMDLINE, "\n");

        let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
        packed
            .write_all(format!("# {OPTION} is not set\n").as_bytes())
            .unwrap();
        tree.write(CONFIG_GZ, packed.finish().unwrap());
        assert_eq!(tree.ids(), Vec::<&str>::new());

        let tree = Tree::ours();
        std::fs::remove_file(tree.path(CONFIG)).unwrap();
        assert!(tree.finding("not-checked").message.contains(CONFIG));
        tree.write("lib/modules/7.2.12/config", format!("{OPTION}=y\n"));
        assert_eq!(tree.ids(), [INIT_ON_ALLOC.id]);
    }

    #[test]
    fn signatures() {
        let tree = Tree::ours();
        tree.write(TAINT, "OE\n");
        assert_eq!(tree.ids(), [UNSIGNED.id]);
        tree.write(LOCKDOWN, "none [integrity] confidentiality\n");
        assert!(tree
            .finding(SIGNATURE_REQUIRED.id)
            .message
            .contains("is integrity"));
        tree.write(LOCKDOWN, "[none] integrity confidentiality\n");
        tree.write(ENFORCE, "Y\n");
        assert_eq!(tree.ids(), [SIGNATURE_REQUIRED.id]);
        tree.write(TAINT, "O\n");
        assert_eq!(tree.ids(), Vec::<&str>::new());

        std::fs::remove_dir_all(tree.path("sys/module/virtio_mem")).unwrap();
        std::fs::remove_file(tree.path("sys/bus/virtio/devices/virtio0/driver")).unwrap();
        assert!(tree
            .finding(SIGNATURE_REQUIRED.id)
            .message
            .contains("not loaded"));
    }
}
