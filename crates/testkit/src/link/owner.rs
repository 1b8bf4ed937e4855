//! Which member of a cluster a connection comes from.
//!
//! All members connect from 127.0.0.1 and announce one address to all others, so that the link to one member
//! carries what all others send to it. To cut off one member both ways, its own connections are told apart by
//! their process: the socket's inode in `/proc/net/tcp`, and the one among the members' processes that has it
//! open. On systems without `/proc` a member is cut off from what others send to it only.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use super::Slot;

/// The member that opened the connection `from` → `to`, seen from the side that accepted it.
pub(super) fn of(from: SocketAddr, to: SocketAddr, members: &[(Slot, u32)]) -> Option<Slot> {
    if members.is_empty() {
        return None;
    }
    let inode = inode("/proc/net/tcp", "", from, to).or_else(|| inode("/proc/net/tcp6", MAPPED, from, to))?;
    let open = format!("socket:[{inode}]");
    let has_it = |pid: u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files
            .flatten()
            .any(|file| fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == open.as_str()))
    };
    members.iter().find(|(_, pid)| has_it(*pid)).map(|(slot, _)| *slot)
}

/// What stands before an IPv4 address on an IPv6 socket, which is what Java opens.
const MAPPED: &str = "0000000000000000FFFF0000";

/// The inode of the socket with this local and this remote address, among those of a table of the system's.
fn inode(table: &str, before: &str, local: SocketAddr, remote: SocketAddr) -> Option<String> {
    let table = fs::read_to_string(table).ok()?;
    let (local, remote) = (format!("{before}{}", hex(local)?), format!("{before}{}", hex(remote)?));
    let line = table.lines().find(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(local.as_str()) && words.next() == Some(remote.as_str())
    })?;
    line.split_whitespace().nth(9).map(ToOwned::to_owned)
}

/// An address as the table has it: the bytes of the address in the machine's order, then the port.
fn hex(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::link::Board;

    #[test]
    fn a_connection_is_found_among_the_members() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        let board = Board::default();
        let (us, init) = (board.slot(), board.slot());
        let members = [(init, 1), (us, std::process::id())];
        // The accepted side is this process's as well; what counts is who connected.
        assert_eq!(of(from, accepted.local_addr().unwrap(), &members), Some(us));
        assert_eq!(of(from, accepted.local_addr().unwrap(), &members[..1]), None);
        assert_eq!(of(from, accepted.local_addr().unwrap(), &[]), None);
    }
}
