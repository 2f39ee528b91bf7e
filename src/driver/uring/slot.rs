//! What the driver keeps for a socket.

/// Eight bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct UringSlot {
    pub generation: u32,
    pub flags: u32,
}
const _: () = assert!(size_of::<UringSlot>() == 8, "an idle connection's share of the driver");

/// Between `Accepted` and `Closed`.
pub(super) const OPEN: u32 = 1;
/// Reading is wanted.
pub(super) const READING: u32 = 1 << 1;
/// Bytes or the end may be there to read.
pub(super) const READABLE: u32 = 1 << 2;
/// In the queue of readable slots.
pub(super) const QUEUED: u32 = 1 << 3;
/// The end was reported.
pub(super) const ENDED: u32 = 1 << 4;
pub(super) const CLOSING: u32 = 1 << 5;
/// In flight: the multishot read poll, ...
pub(super) const POLL: u32 = 1 << 6;
/// ... the poll for writing, ...
pub(super) const WATCH: u32 = 1 << 7;
/// ... a receive, ...
pub(super) const RECV: u32 = 1 << 8;
/// ... a shutdown, ...
pub(super) const FINISH: u32 = 1 << 9;
/// ... the close, ...
pub(super) const CLOSE: u32 = 1 << 10;
/// ... and the reset before it.
pub(super) const RESET: u32 = 1 << 11;
/// A unix socket: most kernels do not say whether a read left bytes or the end, so it is read until it is dry.
pub(super) const BLIND: u32 = 1 << 12;

impl UringSlot {
    pub fn is(self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub fn any(self, flags: u32) -> bool {
        self.flags & flags != 0
    }

    pub fn set(&mut self, flag: u32) {
        self.flags |= flag;
    }

    pub fn clear(&mut self, flag: u32) {
        self.flags &= !flag;
    }
}
