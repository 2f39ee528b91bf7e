//! Messages between the two processes of an upgrade.
//!
//! Inputs: steps, bytes, descriptors. Outputs: the same at the other end, or a [`WireFault`]. Must not know: what the steps
//! come to.
//!
//! # On the wire
//! A socket pair of the kind SOCK_SEQPACKET: a packet arrives whole or not at all, and the end of either process is seen at
//! once. A message is one packet or more; descriptors (SCM_RIGHTS) come with the first.
//! ```text
//!  0      3         4      5       6             8
//!  ├"TKH" ┼ version ┼ step ┼ more? ┼ fds (LE) ───┼ a piece of the body ┤
//! ```

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, Shutdown, SocketFlags, SocketType, recvmsg, sendmsg, shutdown,
    socketpair,
};

use crate::record::{RECORD_BYTES_MAX, Record, RecordFault, read, write};

/// Of this file and of the order of steps. Both processes speak the same, or there is no upgrade.
pub const PROTOCOL: u8 = 2;
/// Most descriptors of one message: SCM_MAX_FD of the kernel.
pub const DESCRIPTORS_MAX: usize = 253;
/// Longest piece of a body in one packet, in bytes: a quarter of net.core.wmem_default, so that three are under way.
const PIECE_BYTES_MAX: usize = 48 * 1024;
/// Longest body: one record.
const BODY_BYTES_MAX: usize = RECORD_BYTES_MAX;
const MAGIC: &[u8; 3] = b"TKH";
const HEAD_BYTES: usize = 8;

/// What a message says. Numbers are never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum WireStep {
    /// Who speaks, from either side.
    Hello = 1,
    /// New to old: the upgrade cannot be; the body says why, for people.
    Refused = 2,
    /// Old to new: what the node is known by.
    Node = 3,
    /// Old to new: sockets that listen.
    Listeners = 4,
    /// Old to new: there are no more listeners.
    ListenersEnd = 5,
    /// New to old: everything is made; nothing was touched yet.
    Ready = 6,
    /// Old to new: some of what shards hold, with sockets.
    Parcels = 7,
    /// New to old: so many messages of parcels have been taken.
    Ack = 8,
    /// Old to new: a record of the control plane.
    Control = 9,
    /// Old to new: connections of the API between two requests, as descriptors.
    ApiConnections = 10,
    /// Old to new: that was everything, so much.
    Complete = 11,
    /// New to old: everything is in its place, so much.
    Adopted = 12,
    /// Old to new: it is yours. Read, it cannot be taken back.
    Commit = 13,
    /// New to old: it is mine, and not touched yet.
    Committed = 14,
    /// New to old: it is served.
    Serving = 15,
    /// Old to new, before `Complete`: where the writer of the store has stopped, with the lock of its directory.
    Store = 16,
    /// Old to new, before `Complete`: who is in a channel that an engine has.
    Followed = 17,
}

impl WireStep {
    const ALL: [WireStep; 17] = [
        WireStep::Hello,
        WireStep::Refused,
        WireStep::Node,
        WireStep::Listeners,
        WireStep::ListenersEnd,
        WireStep::Ready,
        WireStep::Parcels,
        WireStep::Ack,
        WireStep::Control,
        WireStep::ApiConnections,
        WireStep::Complete,
        WireStep::Adopted,
        WireStep::Commit,
        WireStep::Committed,
        WireStep::Serving,
        WireStep::Store,
        WireStep::Followed,
    ];
}

/// Why the other process is not understood, or not reached.
#[derive(Debug, thiserror::Error)]
pub enum WireFault {
    #[error("the other process has ended")]
    Ended,
    #[error("the other process did not answer in time")]
    TimedOut,
    #[error("the other process speaks version {0} of the handover, this one {PROTOCOL}")]
    Version(u8),
    #[error("the other process does not speak the handover: {0}")]
    Malformed(&'static str),
    #[error("descriptors were lost on their way: the limit of open files (RLIMIT_NOFILE) is too low")]
    DescriptorsLost,
    #[error("a message is longer than {BODY_BYTES_MAX} bytes")]
    TooLong,
    #[error("{0}")]
    Record(#[from] RecordFault),
    #[error("the socket between the processes: {0}")]
    Io(#[from] std::io::Error),
    /// The words of the other process.
    #[error("{0}")]
    Refused(String),
}

impl From<Errno> for WireFault {
    fn from(error: Errno) -> WireFault {
        match error {
            Errno::PIPE | Errno::CONNRESET => WireFault::Ended,
            other => WireFault::Io(other.into()),
        }
    }
}

/// One message.
#[derive(Debug)]
pub struct WireMessage {
    pub step: WireStep,
    pub body: Vec<u8>,
    pub descriptors: Vec<OwnedFd>,
}

impl WireMessage {
    /// # Errors
    /// The body is no such record.
    pub fn record<R: Record>(&self) -> Result<R, WireFault> {
        Ok(read(&self.body)?)
    }
}

/// One end of the socket between the two.
pub struct UpgradeWire {
    socket: OwnedFd,
    /// A message of which pieces are to come.
    partial: Option<WireMessage>,
    piece: Box<[u8]>,
}

impl UpgradeWire {
    /// Both ends; the second is for the other process.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn pair() -> std::io::Result<(UpgradeWire, OwnedFd)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (own, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((UpgradeWire::new(own), other))
    }

    pub fn new(socket: OwnedFd) -> UpgradeWire {
        UpgradeWire { socket, partial: None, piece: vec![0; HEAD_BYTES + PIECE_BYTES_MAX].into() }
    }

    /// # Errors
    /// [`WireFault`]; nothing more can be sent then.
    pub fn send_record(&self, step: WireStep, record: &impl Record, until: Instant) -> Result<(), WireFault> {
        let mut body = Vec::new();
        write(record, &mut body)?;
        self.send(step, &body, &[], until)
    }

    /// # Errors
    /// As [`UpgradeWire::send_record`].
    pub fn send(
        &self,
        step: WireStep,
        body: &[u8],
        descriptors: &[BorrowedFd<'_>],
        until: Instant,
    ) -> Result<(), WireFault> {
        assert!(descriptors.len() <= DESCRIPTORS_MAX, "the kernel takes no more with one message");
        if body.len() > BODY_BYTES_MAX {
            return Err(WireFault::TooLong);
        }
        let mut pieces = body.chunks(PIECE_BYTES_MAX).peekable();
        let mut descriptors = descriptors;
        loop {
            let piece = pieces.next().unwrap_or_default();
            let more = pieces.peek().is_some();
            let count = (descriptors.len() as u16).to_le_bytes();
            let head = [b'T', b'K', b'H', PROTOCOL, step as u8, u8::from(more), count[0], count[1]];
            self.send_packet(&[IoSlice::new(&head), IoSlice::new(piece)], descriptors, until)?;
            descriptors = &[];
            if !more {
                return Ok(());
            }
        }
    }

    fn send_packet(
        &self,
        packet: &[IoSlice<'_>],
        descriptors: &[BorrowedFd<'_>],
        until: Instant,
    ) -> Result<(), WireFault> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            if !descriptors.is_empty() {
                control.push(SendAncillaryMessage::ScmRights(descriptors));
            }
            match sendmsg(&self.socket, packet, &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(_) => return Ok(()),
                Err(Errno::AGAIN | Errno::INTR) => self.wait(PollFlags::OUT, until)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next message.
    ///
    /// # Errors
    /// [`WireFault`]; a refusal of the other process is one.
    pub fn receive(&mut self, until: Instant) -> Result<WireMessage, WireFault> {
        loop {
            match self.try_receive()? {
                Some(message) => return Ok(message),
                None => self.wait(PollFlags::IN, until)?,
            }
        }
    }

    /// The next message, which has to be of this step.
    ///
    /// # Errors
    /// As [`UpgradeWire::receive`].
    pub fn expect(&mut self, step: WireStep, until: Instant) -> Result<WireMessage, WireFault> {
        let message = self.receive(until)?;
        match message.step == step {
            true => Ok(message),
            false => Err(WireFault::Malformed("a step out of order")),
        }
    }

    /// The next message, if it is here.
    ///
    /// # Errors
    /// As [`UpgradeWire::receive`].
    pub fn try_receive(&mut self) -> Result<Option<WireMessage>, WireFault> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
            let received =
                recvmsg(&self.socket, &mut [IoSliceMut::new(&mut self.piece)], &mut control, flags);
            let received = match received {
                Ok(received) => received,
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let mut descriptors = Vec::new();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    descriptors.extend(rights);
                }
            }
            if received.bytes == 0 {
                return Err(WireFault::Ended);
            }
            if received.flags.contains(ReturnFlags::CTRUNC) {
                return Err(WireFault::DescriptorsLost);
            }
            if received.flags.contains(ReturnFlags::TRUNC) {
                return Err(WireFault::Malformed("the length of a packet"));
            }
            if let Some(message) = self.take_packet(received.bytes, descriptors)? {
                return match message.step {
                    WireStep::Refused => {
                        Err(WireFault::Refused(String::from_utf8_lossy(&message.body).into_owned()))
                    }
                    _ => Ok(Some(message)),
                };
            }
        }
    }

    fn take_packet(
        &mut self,
        bytes: usize,
        descriptors: Vec<OwnedFd>,
    ) -> Result<Option<WireMessage>, WireFault> {
        let Some((head, piece)) = self.piece[..bytes].split_first_chunk::<HEAD_BYTES>() else {
            return Err(WireFault::Malformed("the head of a packet"));
        };
        let [_, _, _, version, step, more, low, high] = *head;
        if &head[..3] != MAGIC {
            return Err(WireFault::Malformed("the head of a packet"));
        }
        if version != PROTOCOL {
            return Err(WireFault::Version(version));
        }
        let step = WireStep::ALL.into_iter().find(|known| *known as u8 == step);
        let step = step.ok_or(WireFault::Malformed("an unknown step"))?;
        if usize::from(u16::from_le_bytes([low, high])) != descriptors.len() {
            return Err(WireFault::DescriptorsLost);
        }
        let message = match self.partial.take() {
            None => WireMessage { step, body: piece.to_vec(), descriptors },
            Some(mut message) if message.step == step && descriptors.is_empty() => {
                if message.body.len() + piece.len() > BODY_BYTES_MAX {
                    return Err(WireFault::TooLong);
                }
                message.body.extend_from_slice(piece);
                message
            }
            Some(_) => return Err(WireFault::Malformed("a message within another")),
        };
        if more == 0 {
            return Ok(Some(message));
        }
        self.partial = Some(message);
        Ok(None)
    }

    /// Waits until something can be received, at most until then. True when it can.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn wait_readable(&self, until: Instant) -> Result<bool, WireFault> {
        match self.wait(PollFlags::IN, until) {
            Ok(()) => Ok(true),
            Err(WireFault::TimedOut) => Ok(false),
            Err(fault) => Err(fault),
        }
    }

    /// Nothing more is sent, also by a copy of its descriptor: standard input of a process that was started with it is one.
    pub fn end(self) {
        // An error means that the other process has ended.
        let _ = shutdown(&self.socket, Shutdown::Write);
    }

    fn wait(&self, flags: PollFlags, until: Instant) -> Result<(), WireFault> {
        let left = until.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left.min(Duration::from_secs(3600))).unwrap_or_default();
        match poll(&mut [PollFd::new(&self.socket, flags)], Some(&left)) {
            Ok(0) => Err(WireFault::TimedOut),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl AsFd for UpgradeWire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use super::*;
    use crate::record::{HelloRecord, TotalsRecord};

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(30)
    }

    fn both() -> (UpgradeWire, UpgradeWire) {
        let (own, other) = UpgradeWire::pair().unwrap();
        (own, UpgradeWire::new(other))
    }

    #[test]
    fn a_long_body_and_its_descriptors_arrive_whole() {
        let (old, mut new) = both();
        let (mut client, served) = UnixStream::pair().unwrap();
        let body: Vec<u8> = (0..3_000_000u32).map(|number| number as u8).collect();
        let sending = std::thread::spawn({
            let body = body.clone();
            move || old.send(WireStep::Parcels, &body, &[served.as_fd()], soon()).map(|()| old)
        });
        let message = new.receive(soon()).unwrap();
        assert_eq!((message.step, message.body == body), (WireStep::Parcels, true));
        let mut served = UnixStream::from(message.descriptors.into_iter().next().unwrap());
        client.write_all(b"hello").unwrap();
        let mut heard = [0; 5];
        served.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"hello");
        drop(sending.join().unwrap());
        assert!(matches!(new.receive(soon()), Err(WireFault::Ended)));
    }

    #[test]
    fn as_many_descriptors_as_the_kernel_takes() {
        let (old, mut new) = both();
        let (one, _other) = UnixStream::pair().unwrap();
        old.send(WireStep::Listeners, b"", &vec![one.as_fd(); DESCRIPTORS_MAX], soon()).unwrap();
        assert_eq!(new.receive(soon()).unwrap().descriptors.len(), DESCRIPTORS_MAX);
    }

    #[test]
    fn what_is_no_message_is_refused_by_name() {
        let fault = |packet: &[u8]| {
            let (old, mut new) = both();
            rustix::net::send(&old, packet, SendFlags::empty()).unwrap();
            new.receive(soon()).unwrap_err()
        };
        assert!(matches!(fault(b"TKH\x01\x01\0\0\0"), WireFault::Version(1)));
        assert!(matches!(fault(b"TKH\x02\x63\0\0\0"), WireFault::Malformed("an unknown step")));
        assert!(matches!(fault(b"GET / HTTP/1.1\r\n"), WireFault::Malformed(_)));
        assert!(matches!(fault(b"TKH"), WireFault::Malformed(_)));
        assert!(matches!(fault(b"TKH\x02\x01\0\x01\0"), WireFault::DescriptorsLost));
        assert!(matches!(fault(&[0; 100_000]), WireFault::Malformed(_)));
        let (old, mut new) = both();
        for packet in [b"TKH\x02\x01\x01\0\0", b"TKH\x02\x02\0\0\0"] {
            rustix::net::send(&old, packet, SendFlags::empty()).unwrap();
        }
        assert!(matches!(new.receive(soon()), Err(WireFault::Malformed("a message within another"))));
    }

    #[test]
    fn records_of_other_kinds_and_steps_out_of_order_are_no_surprise() {
        let (old, mut new) = both();
        let hello = HelloRecord { protocol: 1, build: "0.1".into(), pid: 7, shards: 2 };
        old.send_record(WireStep::Hello, &hello, soon()).unwrap();
        let message = new.expect(WireStep::Hello, soon()).unwrap();
        assert!(matches!(message.record::<TotalsRecord>(), Err(WireFault::Record(_))));
        assert_eq!(message.record::<HelloRecord>().unwrap(), hello);
        old.send(WireStep::Commit, b"", &[], soon()).unwrap();
        assert!(matches!(new.expect(WireStep::Complete, soon()), Err(WireFault::Malformed(_))));
        old.send(WireStep::Refused, "no room".as_bytes(), &[], soon()).unwrap();
        assert!(matches!(new.receive(soon()), Err(WireFault::Refused(why)) if why == "no room"));
        let late = Instant::now();
        assert!(matches!(new.receive(late), Err(WireFault::TimedOut)));
    }
}
