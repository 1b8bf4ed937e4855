//! Free ports on loopback that stay free for as long as they are held.
//!
//! Asking the system for a free port and letting go of it is a race twice over: against another test that
//! does the same, and, at a restart, against any outgoing connection that is given the port as its own. So
//! ports come from below the range that systems take outgoing ports from, and each is held by a lock on a
//! file, which the system releases when the process ends, however it ends.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Linux gives outgoing connections 32768 and up, others 49152 and up.
const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// A port that no other test will be given.
#[derive(Debug)]
pub(crate) struct Port {
    number: u16,
    _claim: File,
}

impl Port {
    /// Claims a free port.
    pub(crate) fn claim() -> io::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let claims =
            std::env::temp_dir().join(format!("testkit-ports-{}", rustix::process::getuid().as_raw()));
        std::fs::create_dir_all(&claims)?;
        let span = u32::from(RANGE.end - RANGE.start);
        // Each process begins elsewhere, so that two of them seldom try the same ports.
        let begin = std::process::id().wrapping_mul(7_919);
        for _ in 0..span {
            let offset = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % span;
            let number = RANGE.start + u16::try_from(offset).unwrap_or_default();
            if let Some(port) = Self::claim_one(&claims, number)? {
                return Ok(port);
            }
        }
        Err(io::Error::new(io::ErrorKind::AddrInUse, "no free port on loopback"))
    }

    /// Claims this port, unless somebody else holds it or listens on it.
    fn claim_one(claims: &Path, number: u16) -> io::Result<Option<Self>> {
        let claim = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(claims.join(number.to_string()))?;
        match claim.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok();
        Ok(free.then_some(Self { number, _claim: claim }))
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_are_of_the_range() {
        let held: Vec<Port> = (0..50).map(|_| Port::claim().unwrap()).collect();
        let mut numbers: Vec<u16> = held.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), held.len());
        assert!(numbers.iter().all(|number| RANGE.contains(number)));
    }

    #[test]
    fn a_port_that_is_held_or_listened_on_is_not_given() {
        let claims = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let number = listener.local_addr().unwrap().port();
        let claim = || Port::claim_one(claims.path(), number).unwrap();
        assert!(claim().is_none());
        drop(listener);
        // Held while nobody listens, as by a server that is down.
        let held = claim();
        assert!(held.is_some() && claim().is_none());
        drop(held);
        assert!(claim().is_some());
    }
}
