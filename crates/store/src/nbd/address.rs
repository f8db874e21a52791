//! Where an NBD server is, and which of its exports is meant: the NBD URI.
//!
//! Source: the NBD project's `doc/uri.md`.

use std::fmt;
use std::path::{Path, PathBuf};

/// The port that NBD servers listen on.
const PORT: u16 = 10809;

/// An export of an NBD server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NbdAddress {
    /// Where its server listens.
    pub(crate) server: NbdServer,
    /// Its name; empty: the server's default.
    pub(crate) export: String,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NbdServer {
    /// On a socket of this host.
    Unix(PathBuf),
    /// On a port of a host, a name or an address.
    Tcp(String, u16),
}

impl NbdAddress {
    /// Whether a path is meant as an address, well formed or not.
    pub(crate) fn is_meant(path: &Path) -> bool {
        let text = path.to_str().unwrap_or_default();
        text.starts_with("nbd://") || text.starts_with("nbd+") || text.starts_with("nbds:")
    }

    /// Reads an address.
    ///
    /// # Errors
    /// What it should be.
    pub(crate) fn parse(path: &Path) -> Result<NbdAddress, &'static str> {
        let text = path.to_str().ok_or(SCHEME)?;
        if let Some(rest) = text.strip_prefix("nbd+unix:///") {
            let (export, query) = rest.split_once('?').ok_or(UNIX)?;
            let socket = query.strip_prefix("socket=").ok_or(UNIX)?;
            if socket.is_empty() || socket.contains('&') {
                return Err(UNIX);
            }
            return Ok(NbdAddress {
                server: NbdServer::Unix(decode(socket)?.into()),
                export: decode(export)?,
            });
        }
        let rest = text.strip_prefix("nbd://").ok_or(SCHEME)?;
        let (authority, export) = rest.split_once('/').unwrap_or((rest, ""));
        if export.contains('?') {
            return Err(TCP);
        }
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| TCP)?),
            _ => (authority, PORT),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty() {
            return Err(TCP);
        }
        Ok(NbdAddress {
            server: NbdServer::Tcp(host.to_owned(), port),
            export: decode(export)?,
        })
    }
}

const SCHEME: &str = "an NBD server is written nbd://HOST[:PORT]/NAME or nbd+unix:///NAME?socket=PATH";
const UNIX: &str = "an NBD server on a socket of this host is written nbd+unix:///NAME?socket=PATH";
const TCP: &str = "an NBD server on the network is written nbd://HOST[:PORT]/NAME";

/// Undoes `%41`.
fn decode(text: &str) -> Result<String, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        rest = tail;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(byte.ok_or("% must be followed by two hexadecimal digits; a plain % is written %25")?);
        rest = &tail[2..];
    }
    String::from_utf8(bytes).map_err(|_| "what the % sequences stand for is not UTF-8")
}

impl fmt::Display for NbdAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.server {
            NbdServer::Unix(socket) => write!(f, "the NBD server at {}", socket.display())?,
            NbdServer::Tcp(host, port) => write!(f, "the NBD server at {host} port {port}")?,
        }
        match self.export.as_str() {
            "" => Ok(()),
            name => write!(f, ", export {name:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        let unix = |socket: &str, export: &str| NbdAddress {
            server: NbdServer::Unix(socket.into()),
            export: export.into(),
        };
        let tcp = |host: &str, port, export: &str| NbdAddress {
            server: NbdServer::Tcp(host.into(), port),
            export: export.into(),
        };
        for (text, address) in [
            ("nbd+unix:///?socket=/run/a.sock", unix("/run/a.sock", "")),
            ("nbd+unix:///a%20b?socket=/run/%25", unix("/run/%", "a b")),
            ("nbd://host", tcp("host", 10809, "")),
            ("nbd://host/", tcp("host", 10809, "")),
            ("nbd://10.0.0.1:99/disk/1", tcp("10.0.0.1", 99, "disk/1")),
            ("nbd://[fd00::1]:99/x", tcp("fd00::1", 99, "x")),
            ("nbd://[fd00::1]/x", tcp("fd00::1", 10809, "x")),
        ] {
            assert_eq!(NbdAddress::parse(text.as_ref()), Ok(address), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_says_what_one_is() {
        for text in [
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbd+unix:///x?path=/a",
            "nbd+unix://host/x?socket=/a",
            "nbd+unix:///x?socket=/a&tls=1",
            "nbd://",
            "nbd://:10809/x",
            "nbd://host:port/x",
            "nbds://host/x",
            "nbd://host/x?tls-type=anon",
            "nbd://host/%4",
            "nbd://host/%ff",
        ] {
            assert!(NbdAddress::parse(text.as_ref()).is_err(), "{text}");
        }
    }
}
