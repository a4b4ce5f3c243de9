// SPDX-License-Identifier: GPL-2.0

//! The command server: reads requests from the port, answers each from a thread
//! of its own, so that one that hangs holds up no other.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use crate::children::Children;
use crate::process;
use crate::process::Programs;
use crate::protocol::Op;
use crate::protocol::Reply;
use crate::protocol::Request;
use crate::watch;

/// The host's end of the channel; messages of several threads do not mix.
#[derive(Clone)]
pub(crate) struct Host(Arc<Mutex<File>>);

impl Host {
    /// Sends one message. Nothing can be done about a failure: the host is gone.
    pub(crate) fn send(&self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).unwrap_or_default();
        line.push(b'\n');
        let mut port = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = port.write_all(&line) {
            eprintln!("vmem-guest: answer to {}: {error}", reply.id);
        }
    }
}

/// Serves requests until the port fails.
pub(crate) fn serve(port: File) {
    let reader = match port.try_clone() {
        Ok(reader) => reader,
        Err(error) => return eprintln!("vmem-guest: {error}"),
    };
    let host = Host(Arc::new(Mutex::new(port)));
    let children = Children::start();
    let programs = Programs::default();
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    loop {
        line.clear();
        match reader.read_line(&mut line) {
            // Nobody is connected at the host's end yet.
            Ok(0) => {
                thread::sleep(Duration::from_millis(20));
                continue;
            }
            Ok(_) => {}
            Err(error) => return eprintln!("vmem-guest: reading requests: {error}"),
        }
        match serde_json::from_str::<Request>(&line) {
            Ok(request) => dispatch(request, &host, &children, &programs),
            Err(error) => eprintln!("vmem-guest: bad request: {error}: {line}"),
        }
    }
}

fn dispatch(request: Request, host: &Host, children: &Children, programs: &Programs) {
    let id = request.id;
    let host = host.clone();
    match request.op {
        // Started from here, so that an `Input` or `Signal` read after it finds it.
        Op::Run(run) => process::start(id, run, &host, children, programs),
        Op::Input { target, data } => answer(&host, id, programs.input(target, &data)),
        Op::Signal { target, signal } => answer(&host, id, programs.signal(target, signal)),
        // The rest can block: a sysfs write in the kernel, the wait by its nature.
        Op::Read { path } => apart(move || {
            let content = fs::read(path).map(|data| String::from_utf8_lossy(&data).into_owned());
            answer_with(&host, id, content);
        }),
        Op::Write { path, data } => apart(move || answer(&host, id, write(&path, &data))),
        Op::AwaitMeminfo {
            key,
            min,
            max,
            timeout,
        } => apart(move || {
            let value = watch::await_meminfo(&key, min..=max, process::seconds(timeout));
            answer_with(&host, id, value.map(|value| value.to_string()));
        }),
    }
}

fn apart(work: impl FnOnce() + Send + 'static) {
    if let Err(error) = thread::Builder::new().spawn(work) {
        eprintln!("vmem-guest: no thread: {error}");
    }
}

fn answer(host: &Host, id: u64, result: io::Result<()>) {
    match result {
        Ok(()) => host.send(&Reply::done(id)),
        Err(error) => host.send(&Reply::failed(id, &error)),
    }
}

fn answer_with(host: &Host, id: u64, result: io::Result<String>) {
    match result {
        Ok(data) => host.send(&Reply {
            data: Some(data),
            ..Reply::done(id)
        }),
        Err(error) => host.send(&Reply::failed(id, &error)),
    }
}

fn write(path: &str, data: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    let written = file.write(data.as_bytes())?;
    if written == data.len() {
        Ok(())
    } else {
        Err(io::ErrorKind::WriteZero.into())
    }
}
