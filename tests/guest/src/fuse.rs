// SPDX-License-Identifier: GPL-2.0

//! A file system in userspace that any user can run: it has one file, and does not answer whoever reads
//! it. The pages that were allocated for what is read stay locked meanwhile.

use std::ffi::CString;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufRead;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::Mutex;
use std::thread;

use serde_json::json;

use crate::load::report;

/// For the usage message.
pub(crate) const USAGE: &str = "vmem-guest fuse DIRECTORY   (commands: reads | answer | quit)";

/// From include/uapi/linux/fuse.h.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// The version that is spoken, which the kernel answers to whatever its own is.
const MAJOR: u32 = 7;
const MINOR: u32 = 31;

/// The file's number; that of the root is 1.
const FILE: u64 = 2;

/// How large the file is, in bytes.
const SIZE: u64 = 16 << 20;

/// How much the kernel may send at once.
const BUFFER: usize = 1 << 20;

/// The length of the header of a request.
const HEADER: usize = 40;

/// `vmem-guest fuse`. Reads commands from standard input, one a line, and answers each with a line of
/// JSON: `reads` tells how many have not been answered, `answer` answers them, and all that follow.
pub(crate) fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let args: Vec<String> = args.collect();
    let [directory] = &args[..] else {
        eprintln!("usage: {USAGE}");
        return ExitCode::from(2);
    };
    match serve(directory) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fuse: {error}");
            ExitCode::from(3)
        }
    }
}

/// What the thread that serves and the one that takes commands share.
#[derive(Default)]
struct Reads {
    /// Numbers and lengths of those that wait.
    waiting: Vec<(u64, u32)>,
    answered: bool,
}

fn serve(directory: &str) -> io::Result<()> {
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")?;
    mount(directory, device.as_raw_fd())?;
    let reads = Arc::new(Mutex::new(Reads::default()));
    let (server, seen) = (device.try_clone()?, reads.clone());
    thread::spawn(move || requests(server, &seen));
    report(&json!({"event": "ready"}));
    for line in io::stdin().lock().lines() {
        let mut reads = reads.lock().map_err(|_| io::ErrorKind::Other)?;
        match line?.trim() {
            "reads" => report(&json!({"event": "reads", "waiting": reads.waiting.len()})),
            "answer" => {
                reads.answered = true;
                for (unique, size) in reads.waiting.drain(..) {
                    reply(&device, unique, &vec![0; size as usize])?;
                }
                report(&json!({"event": "answer"}));
            }
            "quit" => break,
            other => return Err(io::Error::other(format!("bad command: {other}"))),
        }
    }
    Ok(())
}

fn mount(directory: &str, device: i32) -> io::Result<()> {
    let options = format!("fd={device},rootmode=40000,user_id=0,group_id=0,allow_other");
    let [source, target, kind, options] =
        ["vmem", directory, "fuse", &options].map(|text| CString::new(text).unwrap_or_default());
    // SAFETY: Four terminated strings, which outlive the call.
    let rc = unsafe {
        libc::mount(
            source.as_ptr(),
            target.as_ptr(),
            kind.as_ptr(),
            0,
            options.as_ptr().cast(),
        )
    };
    if rc == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Answers requests until the file system is unmounted.
fn requests(mut device: File, reads: &Mutex<Reads>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let length = device.read(&mut buffer)?;
        let Some(request) = buffer.get(HEADER..length) else {
            continue;
        };
        let opcode = u32_at(&buffer, 4);
        let unique = u64_at(&buffer, 8);
        match opcode {
            FORGET | BATCH_FORGET | INTERRUPT => {}
            INIT => reply(&device, unique, &init(u32_at(request, 8)))?,
            LOOKUP if request == b"file\0" => reply(&device, unique, &entry())?,
            GETATTR => {
                let node = u64_at(&buffer, 16);
                let mut answer = vec![0; 16];
                answer.extend(attributes(node));
                reply(&device, unique, &answer)?;
            }
            OPEN => reply(&device, unique, &[0; 16])?,
            READ => {
                let size = u32_at(request, 16);
                let mut reads = reads.lock().map_err(|_| io::ErrorKind::Other)?;
                if reads.answered {
                    reply(&device, unique, &vec![0; size as usize])?;
                } else {
                    reads.waiting.push((unique, size));
                }
            }
            _ => refuse(
                &device,
                unique,
                if opcode == LOOKUP {
                    libc::ENOENT
                } else {
                    libc::ENOSYS
                },
            )?,
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut value = [0; 4];
    value.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(value)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut value = [0; 8];
    value.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(value)
}

/// A `struct fuse_init_out`.
fn init(max_readahead: u32) -> Vec<u8> {
    let words = [MAJOR, MINOR, max_readahead, 0, 12 | (9 << 16), 128 << 10, 1];
    let mut answer: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    answer.resize(64, 0);
    answer
}

/// A `struct fuse_entry_out` for the file.
fn entry() -> Vec<u8> {
    // Number, generation, and for how long name and attributes are valid, in seconds.
    let words = [FILE, 0, 3600, 3600];
    let mut answer: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    answer.extend([0; 8]);
    answer.extend(attributes(FILE));
    answer
}

/// A `struct fuse_attr`.
fn attributes(node: u64) -> Vec<u8> {
    let (size, mode) = if node == FILE {
        (SIZE, libc::S_IFREG | 0o444)
    } else {
        (0, libc::S_IFDIR | 0o755)
    };
    let mut answer: Vec<u8> = [node, size, size / 512, 0, 0, 0]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    // Nanoseconds, mode, links, owner, group, device, block size, flags.
    let words = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0];
    answer.extend(words.iter().flat_map(|word: &u32| word.to_le_bytes()));
    answer
}

fn reply(device: &File, unique: u64, answer: &[u8]) -> io::Result<()> {
    send(device, unique, 0, answer)
}

fn refuse(device: &File, unique: u64, errno: i32) -> io::Result<()> {
    send(device, unique, -errno, &[])
}

fn send(mut device: &File, unique: u64, error: i32, answer: &[u8]) -> io::Result<()> {
    let length = u32::try_from(16 + answer.len()).unwrap_or(u32::MAX);
    let mut message = length.to_le_bytes().to_vec();
    message.extend(error.to_le_bytes());
    message.extend(unique.to_le_bytes());
    message.extend(answer);
    device.write_all(&message)
}
