//! Sockets out of the ring as ordinary descriptors, and into it.

use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::UringDriver;
use super::slot::{BLIND, OPEN, UringSlot};
use super::token::{OperationKind, Token};
use crate::base::ids::Sock;
use crate::driver::sys::{Op, Ring};

/// Sockets exported in one submit: half of what its queue takes.
const EXPORTS_MAX: usize = 256;
/// How long an export that the kernel had no memory for is waited for, and how long at a time.
const EXPORT_MAX: Duration = Duration::from_millis(100);
const EXPORT_WAIT: Duration = Duration::from_millis(1);

impl UringDriver {
    pub(super) fn install(&mut self, socks: &[Sock], exported: &mut Vec<io::Result<OwnedFd>>) {
        for socks in socks.chunks(EXPORTS_MAX) {
            let mut found: Vec<io::Result<OwnedFd>> = Vec::new();
            let mut waiting = 0;
            for (place, sock) in socks.iter().enumerate() {
                found.push(Err(ErrorKind::NotConnected.into()));
                if self.live(*sock).is_some() {
                    self.ring.push(
                        Op::Install { slot: sock.slot },
                        Token::of(OperationKind::Install, place as u32, 0),
                    );
                    waiting += 1;
                }
            }
            self.ring.submit();
            let end = Instant::now() + EXPORT_MAX;
            loop {
                self.harvest();
                self.completions.retain(|completion| {
                    let is_it = Token::kind(completion.token) == OperationKind::Install;
                    if is_it {
                        found[Token::slot(completion.token).0 as usize] = Ring::installed(completion);
                        waiting -= 1;
                    }
                    !is_it
                });
                // They complete inside the submit, unless the kernel had no memory for it.
                if waiting == 0 || Instant::now() > end || self.ring.wait(Some(EXPORT_WAIT)).is_err() {
                    break;
                }
            }
            exported.append(&mut found);
        }
    }

    pub(super) fn register(&mut self, socket: &OwnedFd) -> io::Result<Sock> {
        assert!(!self.accept_wanted, "sockets are adopted before any is accepted");
        // None was ever accepted here, so the slots are used in order.
        let index = self.slots.len() as u32;
        if index >= self.sockets_max {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let blind = socket2::SockRef::from(socket).domain()? == socket2::Domain::UNIX;
        self.ring.register(index, socket.as_fd())?;
        self.slots.push(UringSlot { generation: 1, flags: OPEN | if blind { BLIND } else { 0 } });
        Ok(Sock { slot: index, generation: 1 })
    }
}
