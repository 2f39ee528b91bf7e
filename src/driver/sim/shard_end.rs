//! The shard's end of the simulator: [`Driver`] as the shard sees it, with the contract's order asserted.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::base::address::ListenAddress;
use crate::base::bytes::Bytes;
use crate::base::ids::{ListenerId, Sock};
use crate::base::limits::LISTENERS_MAX;
use crate::base::time::Time;
use crate::driver::{
    Driver, DriverEvent, DriverOptions, Lent, ListenOptions, SendCause, SendFailure, SendHold, SendPart, Wake,
};

use super::host::Host;
use super::kernel::Buffers;
use super::world::{Exported, World};

/// Bits of a [`SendHold`] that name the bytes; the rest names the flush, so that a hold kept too long is found out.
const HOLD_BITS: u32 = 20;
/// Parts that Linux gathers in one write (UIO_MAXIOV); what is beyond them is not sent.
const PARTS_MAX: usize = 1024;

/// One shard's driver in a simulated net. Dropped, it is a killed process: its listener and sockets are closed.
///
/// # Panics
/// Every method panics on a call that the contract in the head of [`crate::driver`] forbids.
pub struct SimDriver {
    world: Rc<RefCell<World>>,
    host: usize,
    buffers: Buffers,
    holds: Vec<Bytes>,
    flushes: u32,
    queue: Vec<Queued>,
    /// The bytes of the queued sends, back to back.
    staged: Vec<u8>,
}

/// What waits for the flush, in the order it was asked for.
enum Queued {
    /// `whole` is false when the kernel would not gather all the parts.
    Send {
        slot: u32,
        len: usize,
        whole: bool,
        tag: u32,
    },
    Finish {
        slot: u32,
    },
    Close {
        slot: u32,
        reset: bool,
    },
}

impl SimDriver {
    pub(super) fn new(world: Rc<RefCell<World>>, options: &DriverOptions) -> SimDriver {
        assert!(options.recv_buffers.is_power_of_two(), "a ring has a power of two buffers");
        assert!(options.recv_buffer_bytes > 0 && options.sockets_max > 0);
        assert!((1..=LISTENERS_MAX).contains(&options.listeners.len()));
        let host = {
            let world = &mut *world.borrow_mut();
            let index = world.hosts.len();
            let ports = 20_000..;
            let address = |(listener, port): (&ListenOptions, u16)| match listener.address() {
                ListenAddress::Tcp(mut address) => {
                    address.set_port(if address.port() == 0 { port } else { address.port() });
                    ListenAddress::Tcp(address)
                }
                unix => unix,
            };
            let listeners = options.listeners.iter().zip(ports).map(address).collect();
            let generation = match world.faults.shuffle {
                // Close to the wrap, so that runs go over it.
                true => crate::base::ids::GENERATION_MASK - world.prng.u32(0..4),
                false => 0,
            };
            let addresses = options.listeners.iter().map(|listener| listener.addresses).collect();
            world.hosts.push(Host::new(
                listeners,
                addresses,
                options.sockets_max,
                options.recv_buffer_bytes,
                generation,
            ));
            index
        };
        SimDriver {
            world,
            host,
            buffers: Buffers::new(options.recv_buffers, options.recv_buffer_bytes),
            holds: Vec::new(),
            flushes: 0,
            queue: Vec::new(),
            staged: Vec::new(),
        }
    }

    /// This driver's number in its [`super::SimNet`], in the order of creation.
    pub fn shard(&self) -> usize {
        self.host
    }

    fn hold_mark(&self) -> u32 {
        self.flushes << HOLD_BITS
    }

    fn held(&self, part: &SendPart) -> &[u8] {
        let SendHold(hold) = part.hold;
        assert_eq!(hold & !((1 << HOLD_BITS) - 1), self.hold_mark(), "a hold is used after its flush");
        let bytes = &self.holds[(hold & ((1 << HOLD_BITS) - 1)) as usize];
        &bytes[part.range.start as usize..part.range.end as usize]
    }

    fn end(&mut self, sock: Sock, reset: bool) {
        let mut world = self.world.borrow_mut();
        let host = &mut world.hosts[self.host];
        let Some(socket) = host.named(sock, "close") else { return };
        socket.closing = true;
        let queued = socket.send_queued;
        host.stats.close_calls += 1;
        match queued {
            true => self.queue.push(Queued::Close { slot: sock.slot, reset }),
            false => world.kernel_close(self.host, sock.slot, reset),
        }
    }
}

impl Driver for SimDriver {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn now(&self) -> Time {
        self.world.borrow().now
    }

    fn local_addr(&self, listener: ListenerId) -> ListenAddress {
        self.world.borrow().hosts[self.host].listeners[listener.index()].clone()
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.world.borrow().hosts[self.host].waker.clone()
    }

    fn accept_start(&mut self) {
        self.world.borrow_mut().accept_start(self.host);
    }

    fn accept_pause(&mut self) {
        self.world.borrow_mut().accept_pause(self.host);
    }

    fn accept_end(&mut self) {
        self.world.borrow_mut().accept_end(self.host);
    }

    fn read_start(&mut self, sock: Sock) {
        let mut world = self.world.borrow_mut();
        world.claim(self.host, sock);
        world.read_start(self.host, sock);
    }

    fn read_pause(&mut self, sock: Sock) {
        self.world.borrow_mut().read_pause(self.host, sock);
    }

    fn received(&mut self, lent: &Lent) -> &mut [u8] {
        self.buffers.get(lent)
    }

    fn give_back(&mut self, lent: Lent) {
        self.buffers.give_back(lent);
    }

    fn hold(&mut self, bytes: Bytes) -> SendHold {
        assert!(self.holds.len() < 1 << HOLD_BITS, "more holds in a flush than a simulated run should need");
        self.holds.push(bytes);
        SendHold(self.hold_mark() | (self.holds.len() as u32 - 1))
    }

    fn send(&mut self, sock: Sock, parts: &[SendPart], tag: u32) {
        let from = self.staged.len();
        let mut staged = std::mem::take(&mut self.staged);
        for part in parts.iter().take(PARTS_MAX) {
            staged.extend_from_slice(self.held(part));
        }
        self.staged = staged;
        let len = self.staged.len() - from;
        let whole = parts.iter().skip(PARTS_MAX).all(|part| part.range.is_empty());
        let mut world = self.world.borrow_mut();
        world.claim(self.host, sock);
        let socket = world.hosts[self.host].named(sock, "send").filter(|_| len > 0);
        let Some(socket) = socket else {
            self.staged.truncate(from);
            return;
        };
        assert!(!socket.send_queued, "a second send on {sock:?} before the flush");
        assert!(!socket.finished, "send on {sock:?} after finish");
        socket.send_queued = true;
        self.queue.push(Queued::Send { slot: sock.slot, len, whole, tag });
    }

    fn flush(&mut self, failures: &mut Vec<SendFailure>) {
        let mut world = self.world.borrow_mut();
        // Without travel time, what was sent before has left the send buffer by now.
        world.run_due();
        let from = failures.len();
        let mut start = 0;
        for queued in self.queue.drain(..) {
            match queued {
                Queued::Send { slot, len, whole, tag } => {
                    let socket = world.hosts[self.host].at(slot).1;
                    socket.send_queued = false;
                    let closing = socket.closing;
                    let (sent, cause) = world.kernel_send(self.host, slot, &self.staged[start..start + len]);
                    start += len;
                    let cut = (!whole).then_some(SendCause::WouldBlock);
                    // Closed before the flush: the contract leaves open whether its failure is told.
                    let told = !closing || (world.faults.shuffle && world.prng.bool());
                    if let Some(cause) = cause.or(cut).filter(|_| told) {
                        failures.push(SendFailure { tag, sent: sent as u32, cause });
                    }
                }
                Queued::Finish { slot } => world.kernel_finish(self.host, slot),
                Queued::Close { slot, reset } => world.kernel_close(self.host, slot, reset),
            }
        }
        if world.faults.shuffle {
            world.prng.shuffle(&mut failures[from..]);
        }
        self.staged.clear();
        self.holds.clear();
        self.flushes = (self.flushes + 1) & (u32::MAX >> HOLD_BITS);
    }

    fn write_watch(&mut self, sock: Sock) {
        let mut world = self.world.borrow_mut();
        world.claim(self.host, sock);
        world.write_watch(self.host, sock);
    }

    fn finish(&mut self, sock: Sock) {
        let mut world = self.world.borrow_mut();
        world.claim(self.host, sock);
        let Some(socket) = world.hosts[self.host].named(sock, "finish") else { return };
        socket.finished = true;
        match socket.send_queued {
            true => self.queue.push(Queued::Finish { slot: sock.slot }),
            false => world.kernel_finish(self.host, sock.slot),
        }
    }

    fn close(&mut self, sock: Sock) {
        self.end(sock, false);
    }

    fn reset(&mut self, sock: Sock) {
        self.end(sock, true);
    }

    fn wait(&mut self, events: &mut Vec<DriverEvent>, timeout: Option<Duration>) -> io::Result<()> {
        let kept = events.iter().filter(|event| matches!(event, DriverEvent::Received { .. })).count();
        assert_eq!(self.buffers.lent(), kept, "lent buffers were not given back before wait");
        assert!(self.queue.is_empty(), "sends were not flushed before wait");
        self.world.borrow_mut().harvest(self.host, &mut self.buffers, events, timeout);
        Ok(())
    }

    fn stale_total(&self) -> u64 {
        self.world.borrow().hosts[self.host].stats.stale
    }

    fn hold_reads(&mut self, on: bool) {
        self.world.borrow_mut().hold_reads(self.host, on);
    }

    fn accept_is_idle(&self) -> bool {
        let host = &self.world.borrow().hosts[self.host];
        !host.accepting && host.accept_late == 0
    }

    fn export_is_refused(&self) -> Option<&'static str> {
        None
    }

    /// A descriptor stands for a socket: its number is all that counts.
    fn export(&mut self, socks: &[Sock], exported: &mut Vec<io::Result<OwnedFd>>) {
        let mut world = self.world.borrow_mut();
        for sock in socks {
            let found =
                world.hosts[self.host].named(*sock, "export").map(|socket| (socket.link, socket.finished));
            exported.push(match found {
                Some((link, finished)) => std::fs::File::open("/dev/null").map(|file| {
                    let of = (self.host, *sock);
                    world.exported.insert(file.as_raw_fd(), Exported { of, link, finished, alone: false });
                    file.into()
                }),
                None => Err(io::ErrorKind::NotConnected.into()),
            });
        }
    }

    fn adopt(&mut self, socket: OwnedFd) -> io::Result<Sock> {
        self.world.borrow_mut().adopt(self.host, socket.as_raw_fd())
    }

    /// A wait reads from all that have something.
    fn reads_waiting(&self) -> usize {
        0
    }
}

impl Drop for SimDriver {
    fn drop(&mut self) {
        // While a failed assertion unwinds, the world may be in the middle of a change.
        if let Ok(mut world) = self.world.try_borrow_mut()
            && !std::thread::panicking()
        {
            world.host_dies(self.host);
        }
    }
}
