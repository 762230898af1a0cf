//! The server of a command line: a name or an address, and a port.

use crate::error::Failure;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, ToSocketAddrs};

/// The server that a client connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// A name, or an address without brackets, perhaps with a zone (RFC 4007 §11).
    host: String,
    port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", bracketed(&self.host), self.port)
    }
}

impl Target {
    /// Reads `HOST:PORT`.
    ///
    /// # Errors
    /// Says which part is wrong, and how it should be.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return Err("this is a URL: give HOST:PORT, such as example.com:4433, and the path \
                        as an argument of its own"
                .to_owned());
        }
        let (host, port) = split(text, "localhost")?;
        if host.is_empty() {
            return Err(format!(
                "there is no host before :{port}; give one, such as localhost:{port}"
            ));
        }
        if let Some((port, path)) = port.split_once('/') {
            return Err(format!(
                "the path is an argument of its own: {}:{port} /{path}",
                bracketed(host)
            ));
        }
        let number = port.parse().ok().filter(|port| *port != 0);
        let port =
            number.ok_or_else(|| format!("the port \"{port}\" is not a number from 1 to 65535"))?;
        Ok(Self { host: host.to_owned(), port })
    }

    /// The name that the server's certificate has to be for: the host as typed, without its zone.
    pub(crate) fn server_name(&self) -> &str {
        self.host.split_once('%').map_or(&self.host, |(address, _)| address)
    }

    /// The addresses, in the order in which they should be tried.
    ///
    /// # Errors
    /// The name does not resolve, or the zone is no device of this machine.
    pub(crate) fn resolve(&self) -> Result<Vec<SocketAddr>, Failure> {
        if let Some((address, zone)) = self.host.split_once('%') {
            return Ok(vec![zoned(address, zone, self.port)?]);
        }
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, self.port)]);
        }
        let found = (self.host.as_str(), self.port).to_socket_addrs().map_err(|error| {
            Failure::Failed(format!("\"{}\" cannot be resolved: {error}", self.host))
        })?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in found {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() {
            return Err(Failure::Failed(format!("\"{}\" has no address", self.host)));
        }
        Ok(addresses)
    }
}

impl Target {
    /// One address, for a run of many connections: IPv4 first, since `localhost` is both, and
    /// servers listen on 0.0.0.0 by default.
    ///
    /// # Errors
    /// As [`resolve`](Self::resolve).
    pub(crate) fn resolve_one(&self) -> Result<SocketAddr, Failure> {
        let found = self.resolve()?;
        let first = found.iter().find(|address| address.is_ipv4()).or(found.first());
        first.copied().ok_or_else(|| Failure::Failed(format!("{self} has no address")))
    }
}

/// Reads where a server listens: an address, not a name.
///
/// # Errors
/// Says which part is wrong, and how it should be.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    let (host, port) = split(text, "0.0.0.0")?;
    let number =
        port.parse().map_err(|_| format!("the port \"{port}\" is not a number from 0 to 65535"))?;
    if let Some((address, zone)) = host.split_once('%') {
        return zoned(address, zone, number).map_err(|failure| failure.to_string());
    }
    let address = host.parse::<IpAddr>().map_err(|_| {
        format!(
            "\"{host}\" is not an IP address; give one such as 127.0.0.1; 0.0.0.0 or [::] is all"
        )
    })?;
    Ok(SocketAddr::new(address, number))
}

/// A host as written before a port.
fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// Splits a text into host and port. `host` is an example for the error.
fn split<'a>(text: &'a str, host: &str) -> Result<(&'a str, &'a str), String> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(format!("this is only a port; give a host too, such as {host}:{text}"));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let (host, port) = rest.split_once(']').ok_or("the bracket [ is not closed")?;
        let port = port.strip_prefix(':').ok_or_else(|| no_port(text))?;
        return Ok((host, port));
    }
    let (host, port) = text.rsplit_once(':').ok_or_else(|| no_port(text))?;
    if text.parse::<Ipv6Addr>().is_ok() || host.contains(':') {
        let inside = if host.parse::<Ipv6Addr>().is_ok() { host } else { text };
        return Err(format!("an IPv6 address needs brackets, such as [{inside}]:4433"));
    }
    Ok((host, port))
}

fn no_port(text: &str) -> String {
    format!("there is no port; give one, such as {text}:4433")
}

/// An address with a zone, such as `fe80::1%eth0`.
fn zoned(address: &str, zone: &str, port: u16) -> Result<SocketAddr, Failure> {
    let bad = |why: &str| Failure::Usage(format!("{address}%{zone}: {why}"));
    let ip: Ipv6Addr = address.parse().map_err(|_| bad("only an IPv6 address has a zone"))?;
    let scope = zone.parse().ok().or_else(|| crate::sys::device_index(zone));
    let scope = scope.ok_or_else(|| bad("there is no such device; see: ip link"))?;
    Ok(SocketAddrV6::new(ip, port, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_read() {
        for (text, name) in [
            ("localhost:4433", "localhost"),
            ("192.0.2.1:4433", "192.0.2.1"),
            ("[2001:db8::1]:4433", "2001:db8::1"),
            ("[fe80::1%eth0]:4433", "fe80::1"),
        ] {
            let target = Target::parse(text).unwrap();
            assert_eq!((target.server_name(), target.port), (name, 4433));
            assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, words) in [
            ("localhost", "no port"),
            ("localhost:99999", "\"99999\""),
            ("localhost:", "\"\""),
            (":4433", "no host"),
            ("::1:4433", "[::1]:4433"),
            ("::1", "[::1]:4433"),
            ("[::1]", "no port"),
            ("[::1:4433", "not closed"),
            ("https://example.com/x", "URL"),
            ("example.com:4433/x/y", "example.com:4433 /x/y"),
            ("4433", "localhost:4433"),
        ] {
            let error = Target::parse(text).unwrap_err();
            assert!(error.contains(words), "{text}: {error}");
        }
        assert!(listen("localhost:1").unwrap_err().contains("127.0.0.1"));
        assert!(listen("4433").unwrap_err().contains("0.0.0.0:4433"));
        assert_eq!(listen("[::]:0").unwrap(), "[::]:0".parse().unwrap());
    }

    #[test]
    fn a_zone_is_a_device() {
        let at = |text: &str| Target::parse(text).unwrap().resolve();
        let index = crate::sys::device_index("lo").unwrap();
        for zone in ["lo".to_owned(), index.to_string()] {
            let found = at(&format!("[fe80::1%{zone}]:1")).unwrap();
            assert!(matches!(found[..], [SocketAddr::V6(v6)] if v6.scope_id() == index));
        }
        assert!(at("[fe80::1%no-such0]:1").unwrap_err().to_string().contains("no-such0"));
        assert!(at("no-such-name.invalid:1").unwrap_err().to_string().contains("invalid"));
    }
}
