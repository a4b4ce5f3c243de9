// SPDX-License-Identifier: GPL-2.0

//! The few things that a scrape needs of HTTP: GET and HEAD of one path, a connection each.
//!
//! Clients are bounded in number, in the time they have and in what they may say, so that one that
//! is slow, or wants to do harm, neither holds up the others nor makes the agent grow.

use crate::output::complain;
use std::io;
use std::io::ErrorKind;
use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

/// How many clients are served at the same time; more are turned away.
const CLIENTS: usize = 8;
/// How long a client has to ask, and to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a request may be.
const REQUEST: usize = 8 << 10;
/// How many header lines are looked at.
const HEADERS: usize = 64;
/// How long to wait when no connection can be taken: for want of file descriptors, mostly.
const PAUSE: Duration = Duration::from_secs(1);

/// Where the page is.
const PATH: &str = "/metrics";
/// What the page is.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a client is told.
struct Answer {
    status: &'static str,
    body: String,
    /// Whether only the headers are sent.
    head: bool,
}

/// Serves what `page` makes, for ever; `None` is a page that could not be made.
pub(crate) fn serve(
    listener: &TcpListener,
    page: impl Fn() -> Option<String> + Send + Sync + 'static,
) -> ! {
    // Every client that is being served holds it too, and so is counted.
    let page = Arc::new(page);

    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                complain(&format!("no connection can be taken: {error}"));
                thread::sleep(PAUSE);
                continue;
            }
        };
        if Arc::strong_count(&page) > CLIENTS {
            continue;
        }
        let page = Arc::clone(&page);
        let started = thread::Builder::new().spawn(move || {
            // A client that goes away is its own affair.
            let _ = converse(Timed::new(stream), &*page);
        });
        if let Err(error) = started {
            complain(&format!("no thread for a connection: {error}"));
        }
    }
}

/// Takes one request and answers it.
fn converse(mut stream: Timed, page: &impl Fn() -> Option<String>) -> io::Result<()> {
    let answer = match request(&mut stream)? {
        Some(head) => answer(&head, page),
        None => Answer::brief("431 Request Header Fields Too Large"),
    };
    let body = if answer.head { "" } else { &answer.body };

    let text = format!(
        "HTTP/1.1 {}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        answer.status,
        answer.body.len(),
    );
    stream.write_all(text.as_bytes())
}

/// Reads up to the empty line that ends a request; `None` if it is too long.
fn request(stream: &mut Timed) -> io::Result<Option<Vec<u8>>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];

    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() >= REQUEST {
            return Ok(None);
        }
        match stream.read(&mut part)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            count => head.extend_from_slice(part.get(..count).unwrap_or_default()),
        }
    }
    Ok(Some(head))
}

/// What to answer to a request.
fn answer(head: &[u8], page: &impl Fn() -> Option<String>) -> Answer {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let (Ok(_), Some(method), Some(target)) = (request.parse(head), request.method, request.path)
    else {
        return Answer::brief("400 Bad Request");
    };
    let path = target.split('?').next().unwrap_or(target);

    match (path, method) {
        (PATH, "GET" | "HEAD") => match page() {
            Some(body) => Answer {
                status: "200 OK",
                body,
                head: method == "HEAD",
            },
            None => Answer::brief("500 Internal Server Error"),
        },
        (PATH, _) => Answer::brief("405 Method Not Allowed"),
        _ => Answer::brief("404 Not Found"),
    }
}

impl Answer {
    /// An answer that says no more than its status.
    fn brief(status: &'static str) -> Self {
        Self {
            status,
            body: format!("{status}\n"),
            head: false,
        }
    }
}

/// A connection that ends when its time is up, however little at a time the client sends or takes.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Timed {
    fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// What is left of its time.
    fn left(&self) -> io::Result<Option<Duration>> {
        match self.deadline.saturating_duration_since(Instant::now()) {
            Duration::ZERO => Err(ErrorKind::TimedOut.into()),
            left => Ok(Some(left)),
        }
    }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz::target;
    use crate::fuzz::text_of;
    use std::cell::Cell;

    /// What there is to be served.
    const PAGE: &str = "virtio_mem_agent_info 1\n";

    #[test]
    fn any_http_request() {
        let words = [
            "GET",
            " ",
            "/metrics",
            " HTTP/1.1",
            "\r\n",
            "HEAD",
            "POST",
            "?x=1",
            "Host: a",
            ":",
            "\r\n\r\n",
            "HTTP/1.0",
            "/",
            "\n",
            "GET /metrics HTTP/1.1\r\n",
        ];
        target("any_http_request", 256, |bytes| {
            for head in [text_of(bytes, &words).into_bytes(), bytes.to_vec()] {
                let made = Cell::new(0);
                let told = answer(&head, &|| {
                    made.set(made.get() + 1);
                    Some(PAGE.into())
                });
                // The page is made for who asks for it, once, and nothing else is said at length.
                let given = told.status == "200 OK";
                assert_eq!(made.get(), u32::from(given), "{}", told.status);
                if given {
                    assert_eq!(told.body, PAGE);
                    assert!(head.windows(PATH.len()).any(|part| part == PATH.as_bytes()));
                } else {
                    assert_eq!(told.body, format!("{}\n", told.status));
                    assert!(!told.head && told.status.starts_with(['4', '5']));
                }
                assert!(answer(&head, &|| None).status != "200 OK");
            }
        });
    }
}
