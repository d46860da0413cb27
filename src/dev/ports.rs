//! TCP ports for many servers on loopback.
//!
//! A port is free when it can be bound now; another process may take it before the server does, and
//! the server then reports the conflict. Without a base, ports come from below the kernel's range
//! for outgoing connections, so a port stays free while its server restarts.

use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use super::deployment::Error;

/// Range searched for free ports when no base is given; ports for outgoing connections are above
/// it.
const SEARCHED: std::ops::Range<u16> = 10_000..32_000;

/// Hands out ports, none twice.
#[derive(Debug)]
pub(super) struct Ports {
    next: u16,
    fixed: bool,
    given: Vec<u16>,
}

impl Ports {
    /// With a base: that port and those after it, each of which must be free. Without: any.
    pub(super) fn new(base: Option<u16>) -> Self {
        let next = base.unwrap_or_else(|| rand::random_range(SEARCHED));
        Self { next, fixed: base.is_some(), given: Vec::new() }
    }

    /// The port that was used before, if it is free and none is prescribed; else the next.
    pub(super) fn again(&mut self, port: u16) -> Result<u16, Error> {
        if self.fixed || self.given.contains(&port) || !is_free(port) {
            return self.next();
        }
        self.given.push(port);
        Ok(port)
    }

    /// The next free port.
    pub(super) fn next(&mut self) -> Result<u16, Error> {
        for _ in SEARCHED {
            let port = self.next;
            self.next = port.checked_add(1).unwrap_or(SEARCHED.start);
            if !self.given.contains(&port) && is_free(port) {
                self.given.push(port);
                return Ok(port);
            }
            if self.fixed {
                return Err(Error::PortInUse { port });
            }
        }
        Err(Error::NoPort)
    }
}

/// Whether nothing listens on this port of loopback.
pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).is_ok()
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::Ports;

    #[test]
    fn port_is_never_given_twice_or_in_use() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap().port();
        let mut ports = Ports::new(None);
        let first = ports.next().unwrap();
        assert_ne!(ports.again(first).unwrap(), first);
        assert_ne!(ports.again(taken).unwrap(), taken);
        assert!(Ports::new(Some(taken)).next().is_err());
        drop(listener);
    }
}
