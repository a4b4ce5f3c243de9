// SPDX-License-Identifier: GPL-2.0

//! The few things that a scrape needs of HTTP: GET and HEAD of one path, a connection each.

/// How long a request may be.
pub(crate) const REQUEST: usize = 8 << 10;
/// How many header lines are looked at.
const HEADERS: usize = 64;

/// Where the page is.
const PATH: &str = "/metrics";
/// What the page is.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a client is told.
pub(crate) struct Answer {
    status: &'static str,
    /// Header lines, each with its end.
    headers: &'static str,
    body: String,
    /// Whether only the headers are sent.
    head: bool,
}

impl Answer {
    /// A status, and the same in the body for people.
    fn brief(status: &'static str) -> Self {
        Self {
            status,
            headers: "",
            body: format!("{status}\n"),
            head: false,
        }
    }

    /// The request is longer than is read.
    pub(crate) fn too_long() -> Self {
        Self::brief("431 Request Header Fields Too Large")
    }

    /// There are too many clients.
    pub(crate) fn busy() -> Self {
        Self {
            headers: "Retry-After: 1\r\n",
            ..Self::brief("503 Service Unavailable")
        }
    }

    /// What is sent.
    pub(crate) fn text(&self) -> String {
        let body = if self.head { "" } else { &self.body };
        format!(
            "HTTP/1.1 {}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {}\r\n{}\
             Connection: close\r\n\r\n{body}",
            self.status,
            self.body.len(),
            self.headers,
        )
    }
}

/// Whether a request is complete: an empty line ends it.
pub(crate) fn is_whole(head: &[u8]) -> bool {
    head.windows(4).any(|end| end == b"\r\n\r\n")
}

/// What to answer to a request; `page` makes the page, or `None` if it cannot be made.
pub(crate) fn answer(head: &[u8], page: &mut dyn FnMut() -> Option<String>) -> Answer {
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
                headers: "",
                body,
                head: method == "HEAD",
            },
            None => Answer::brief("500 Internal Server Error"),
        },
        (PATH, _) => Answer {
            headers: "Allow: GET, HEAD\r\n",
            ..Answer::brief("405 Method Not Allowed")
        },
        _ => Answer::brief("404 Not Found"),
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
                let told = answer(&head, &mut || {
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
                assert!(answer(&head, &mut || None).status != "200 OK");
            }
        });
    }
}
