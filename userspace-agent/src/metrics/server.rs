// SPDX-License-Identifier: GPL-2.0

//! Serves the page to many clients in one thread.
//!
//! Clients are bounded in number, in the time they have and in what they may say, so that one that
//! is slow, or wants to do harm, neither holds up the others nor makes the agent grow.

use crate::metrics::connection::Connection;
use crate::metrics::http::Answer;
use crate::output::complain;
use rustix::event::poll;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::Duration;
use std::time::Instant;

/// How many clients there are at the same time.
const CLIENTS: usize = 64;
/// How long to wait when no connection can be taken: for want of file descriptors, mostly.
const PAUSE: Duration = Duration::from_secs(1);

/// Serves what `page` makes, for ever; `None` is a page that could not be made. The listeners do not
/// block.
pub(crate) fn serve(listeners: &[TcpListener], mut page: impl FnMut() -> Option<String>) -> ! {
    let mut clients: Vec<Connection> = Vec::new();
    let mut paused_until: Option<Instant> = None;

    loop {
        let now = Instant::now();
        paused_until = paused_until.filter(|until| *until > now);
        let (can_accept, ready) = wait(listeners, &clients, paused_until);

        let now = Instant::now();
        let mut ready = ready.into_iter();
        clients.retain_mut(|client| {
            let is_ready = ready.next().unwrap_or(false);
            (!is_ready || client.go_on(&mut page)) && client.deadline() > now
        });
        if can_accept
            && !listeners
                .iter()
                .all(|listener| take(listener, &mut clients, &mut page))
        {
            paused_until = Some(Instant::now() + PAUSE);
        }
    }
}

/// Waits until a connection can be taken, or gone on with, or a client's time is over; says whether
/// there may be a new one, and which of the clients can be gone on with.
fn wait(
    listeners: &[TcpListener],
    clients: &[Connection],
    paused_until: Option<Instant>,
) -> (bool, Vec<bool>) {
    let deadlines = clients.iter().map(Connection::deadline);
    let timeout = deadlines
        .chain(paused_until)
        .min()
        .map(|until| until.saturating_duration_since(Instant::now()));
    let mut fds: Vec<_> = clients
        .iter()
        .map(|client| {
            let flags = if client.is_taking() {
                PollFlags::OUT
            } else {
                PollFlags::IN
            };
            PollFd::from_borrowed_fd(client.fd(), flags)
        })
        .collect();
    if paused_until.is_none() {
        let listener = |listener| PollFd::new(listener, PollFlags::IN);
        fds.extend(listeners.iter().map(listener));
    }

    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    if let Err(error) = poll(&mut fds, timeout.as_ref()) {
        if error != rustix::io::Errno::INTR {
            complain(&format!("cannot wait for clients: {error}"));
            std::thread::sleep(PAUSE);
        }
        return (false, Vec::new());
    }
    let mut ready: Vec<_> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
    let can_accept = ready.split_off(clients.len()).contains(&true);
    (can_accept, ready)
}

/// Takes all clients that have come; whether that was possible. The longest of those that have not asked
/// yet makes place for a new one where there is none.
fn take(
    listener: &TcpListener,
    clients: &mut Vec<Connection>,
    page: &mut dyn FnMut() -> Option<String>,
) -> bool {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                ) =>
            {
                continue;
            }
            Err(error) => {
                complain(&format!("cannot take a connection: {error}"));
                return false;
            }
        };
        let Ok(mut client) = Connection::new(stream) else {
            continue;
        };
        if clients.len() >= CLIENTS {
            let mut refused = match clients.iter().position(Connection::is_asking) {
                // The order is that in which they came.
                Some(longest) => {
                    clients.push(client);
                    clients.remove(longest)
                }
                None => client,
            };
            // As much as is taken at once: it has no place to wait at.
            refused.answer(&Answer::busy());
            refused.go_on(page);
            continue;
        }
        // What was asked is there already as a rule.
        if client.go_on(page) {
            clients.push(client);
        }
    }
}
