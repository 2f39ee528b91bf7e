//! What a completion is of, as its submission said.

use crate::base::ids::{GENERATION_MASK, SLOT_BITS, SLOT_MAX};

/// What a completion is of: the top byte of its token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum OperationKind {
    Accept,
    /// The poll of the waker's eventfd.
    Wake,
    /// A message of the waker.
    Woken,
    Cancel,
    Send,
    /// A send that was longer than one submission may be: it completes always, and is short even when it succeeds.
    SendCut,
    Poll,
    Watch,
    Recv,
    Finish,
    Close,
    Reset,
    Install,
}

pub(super) const KINDS: [OperationKind; 13] = [
    OperationKind::Accept,
    OperationKind::Wake,
    OperationKind::Woken,
    OperationKind::Cancel,
    OperationKind::Send,
    OperationKind::SendCut,
    OperationKind::Poll,
    OperationKind::Watch,
    OperationKind::Recv,
    OperationKind::Finish,
    OperationKind::Close,
    OperationKind::Reset,
    OperationKind::Install,
];

/// Tokens: kind in the top 8 bits, then generation (28) and slot (24) of a socket, or the tag (32) of a send, or a listener.
pub(super) struct Token;

impl Token {
    const KIND_SHIFT: u32 = 56;

    pub fn of(kind: OperationKind, slot: u32, generation: u32) -> u64 {
        ((kind as u64) << Self::KIND_SHIFT) | (u64::from(generation) << SLOT_BITS) | u64::from(slot)
    }

    pub fn send(kind: OperationKind, tag: u32) -> u64 {
        ((kind as u64) << Self::KIND_SHIFT) | u64::from(tag)
    }

    pub fn accept(listener: u32) -> u64 {
        Self::of(OperationKind::Accept, listener, 0)
    }

    pub fn wake() -> u64 {
        Self::of(OperationKind::Wake, 0, 0)
    }

    pub fn woken() -> u64 {
        Self::of(OperationKind::Woken, 0, 0)
    }

    pub fn cancel() -> u64 {
        Self::of(OperationKind::Cancel, 0, 0)
    }

    pub fn kind(token: u64) -> OperationKind {
        KINDS[(token >> Self::KIND_SHIFT) as usize]
    }

    pub fn slot(token: u64) -> (u32, u32) {
        ((token as u32) & SLOT_MAX, ((token >> SLOT_BITS) as u32) & GENERATION_MASK)
    }

    pub fn tag(token: u64) -> u32 {
        token as u32
    }
}
