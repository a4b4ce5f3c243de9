// SPDX-License-Identifier: GPL-2.0

//! Running one program for the host: its input, output, time limit and end.

use std::collections::HashMap;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::ChildStdin;
use std::process::Command;
use std::process::Stdio;
use std::sync::mpsc;
use std::sync::mpsc::Receiver;
use std::sync::mpsc::RecvTimeoutError;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use crate::children;
use crate::children::Children;
use crate::protocol::Reply;
use crate::protocol::Run;
use crate::server::Host;

/// More output than this of one program is dropped: the guest may have little
/// memory, and the host could not make sense of it anyway.
const OUTPUT_LIMIT: u64 = 4 << 20;

/// How long to wait for a killed program, and for the rest of its output when a
/// process it left behind keeps the pipe open.
const GRACE: Duration = Duration::from_secs(2);

/// The programs that run, by the id of the request that started them.
#[derive(Clone, Default)]
pub(crate) struct Programs(Arc<Mutex<HashMap<u64, Running>>>);

struct Running {
    pid: i32,
    stdin: Option<ChildStdin>,
}

impl Programs {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Running>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes to a streaming program's standard input.
    pub(crate) fn input(&self, target: u64, data: &str) -> io::Result<()> {
        match self.lock().get_mut(&target) {
            Some(Running {
                stdin: Some(stdin), ..
            }) => stdin.write_all(data.as_bytes()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Sends a signal to a program and all that it has started.
    pub(crate) fn signal(&self, target: u64, signal: i32) -> io::Result<()> {
        match self.lock().get(&target) {
            Some(running) => kill_group(running.pid, signal),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// A number of seconds from the host; what cannot be a duration is zero.
pub(crate) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or_default()
}

/// Starts the program of request `id`, and a thread that sees it to its end.
pub(crate) fn start(id: u64, run: Run, host: &Host, children: &Children, programs: &Programs) {
    let begin = Instant::now();
    let mut arguments = run.argv.iter();
    let mut command = Command::new(arguments.next().map_or("", String::as_str));
    command
        .args(arguments)
        .env("PATH", "/bin")
        .env("HOME", "/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let (mut child, ended) = match children.spawn(&mut command) {
        Ok(started) => started,
        Err(error) => return host.send(&Reply::failed(id, &error)),
    };
    let pid = children::pid(&child);
    let mut stdin = child.stdin.take();
    let kept = if run.stream { stdin.take() } else { None };
    programs.lock().insert(id, Running { pid, stdin: kept });
    host.send(&Reply {
        id,
        pid: Some(pid),
        ..Reply::default()
    });
    let stdout = match (child.stdout.take(), run.stream) {
        (Some(pipe), true) => forward(pipe, id, host.clone()),
        (pipe, _) => collect(pipe),
    };
    let stderr = collect(child.stderr.take());
    let host = host.clone();
    let programs = programs.clone();
    thread::spawn(move || {
        if let Some(mut stdin) = stdin {
            // A program need not read what it is given.
            let _ = stdin.write_all(run.stdin.unwrap_or_default().as_bytes());
        }
        let (rc, timed_out) = wait(pid, &ended, run.timeout.map(seconds));
        programs.lock().remove(&id);
        host.send(&Reply {
            rc,
            stdout: stdout.recv_timeout(GRACE).ok(),
            stderr: stderr.recv_timeout(GRACE).ok(),
            ms: u64::try_from(begin.elapsed().as_millis()).ok(),
            timed_out,
            ..Reply::done(id)
        });
    });
}

/// Waits for the end of a program, which the time limit may bring about. A
/// program that sleeps uninterruptibly does not even end then: no status.
fn wait(pid: i32, ended: &Receiver<i32>, limit: Option<Duration>) -> (Option<i32>, bool) {
    let Some(limit) = limit else {
        return (ended.recv().ok(), false);
    };
    match ended.recv_timeout(limit) {
        Ok(rc) => (Some(rc), false),
        Err(RecvTimeoutError::Disconnected) => (None, false),
        Err(RecvTimeoutError::Timeout) => {
            let _ = kill_group(pid, libc::SIGKILL);
            (ended.recv_timeout(GRACE).ok(), true)
        }
    }
}

fn kill_group(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: `kill` touches no memory.
    if unsafe { libc::kill(-pid, signal) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads all of a pipe in a thread of its own.
fn collect(pipe: Option<impl Read + Send + 'static>) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut data = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.by_ref().take(OUTPUT_LIMIT).read_to_end(&mut data);
            // The program must not block on a pipe that nobody empties.
            let _ = io::copy(&mut pipe, &mut io::sink());
        }
        let _ = sender.send(String::from_utf8_lossy(&data).into_owned());
    });
    receiver
}

/// Sends every line of a pipe to the host as it comes.
fn forward(pipe: impl Read + Send + 'static, id: u64, host: Host) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            host.send(&Reply {
                id,
                line: Some(line),
                ..Reply::default()
            });
        }
        let _ = sender.send(String::new());
    });
    receiver
}
