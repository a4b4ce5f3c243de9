// SPDX-License-Identifier: GPL-2.0

//! Addresses to listen at, as they are written on the command line.

use std::io;
use std::io::ErrorKind;
use std::net::IpAddr;
use std::net::Ipv4Addr;
use std::net::Ipv6Addr;
use std::net::SocketAddr;
use std::net::TcpListener;
use std::str::FromStr;

/// The name of this machine for itself.
const LOCALHOST: &str = "localhost";
/// What can be written. To look up other names takes what a static program cannot have: the C
/// library's modules for that.
const EXPECTED: &str =
    "expected ADDRESS:PORT, :PORT for all addresses, or localhost:PORT; other names \
                        are not looked up";

/// Where to listen.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Listen {
    /// As it was written.
    pub(crate) text: String,
    /// All these, as far as the machine has them.
    addresses: Vec<SocketAddr>,
    /// The first of these only.
    first: bool,
}

impl FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let listen = |addresses, first| Self {
            text: text.into(),
            addresses,
            first,
        };
        if let Ok(address) = text.parse() {
            return Ok(listen(vec![address], true));
        }
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        if !port.chars().all(|c| c.is_ascii_digit()) {
            return Err(EXPECTED);
        }
        let port = port.parse().map_err(|_| EXPECTED)?;
        let addresses = |addresses: [IpAddr; 2]| addresses.map(|ip| (ip, port).into()).to_vec();
        match host {
            // Of IPv6, which takes connections by IPv4, too.
            "" => Ok(listen(
                addresses([Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::UNSPECIFIED.into()]),
                true,
            )),
            LOCALHOST => Ok(listen(
                addresses([Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
                false,
            )),
            _ => Err(EXPECTED),
        }
    }
}

impl Listen {
    /// Listens, at one address at least.
    pub(crate) fn bind(&self) -> io::Result<Vec<TcpListener>> {
        let mut listeners = Vec::new();
        let mut missing = None;

        for address in &self.addresses {
            match TcpListener::bind(address) {
                Ok(listener) => {
                    listener.set_nonblocking(true)?;
                    listeners.push(listener);
                    if self.first {
                        break;
                    }
                }
                // A machine without IPv6, or without IPv4.
                Err(error) if is_missing(&error) => missing = Some(error),
                Err(error) => return Err(error),
            }
        }
        match missing {
            Some(error) if listeners.is_empty() => Err(error),
            _ => Ok(listeners),
        }
    }
}

/// Whether the machine has no such address.
fn is_missing(error: &io::Error) -> bool {
    /// The kernel does not know this kind of address.
    const EAFNOSUPPORT: i32 = 97;

    error.kind() == ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let parse = |text: &str| {
            let listen = text.parse::<Listen>().map(|listen| listen.addresses);
            listen.map(|addresses| {
                let texts = addresses.iter().map(ToString::to_string);
                texts.collect::<Vec<_>>().join(" ")
            })
        };
        assert_eq!(parse("127.0.0.1:9824").as_deref(), Ok("127.0.0.1:9824"));
        assert_eq!(parse("[::1]:9824").as_deref(), Ok("[::1]:9824"));
        assert_eq!(parse(":9824").as_deref(), Ok("[::]:9824 0.0.0.0:9824"));
        assert_eq!(
            parse("localhost:9824").as_deref(),
            Ok("127.0.0.1:9824 [::1]:9824")
        );
        for bad in [
            "",
            ":",
            "9824",
            "localhost",
            "localhost:",
            "localhost:+1",
            "host:1",
            ":65536",
            "::1",
            "::1:9824:x",
        ] {
            assert_eq!(parse(bad), Err(EXPECTED), "{bad}");
        }
    }
}
