//! What the real drivers ask of the kernel, and all `unsafe` of this crate.
//!
//! Inputs: options, sockets by slot, bytes to send. Outputs: [`Completion`]s, a listener, the clock. Must not know:
//! what a completion means to the driver: it carries the driver's token back.
//!
//! The io_uring rules are kept by ownership: every byte that a submission points to (held bytes, gather lists, receive
//! buffers) lives in the [`Ring`], and is released only when the submission queue is empty. That is enough because of
//! two things: IORING_FEAT_SUBMIT_STABLE lets the kernel keep no pointer to a gather list after submit, and MSG_DONTWAIT
//! makes each send and receive complete inside submit, so none of them points anywhere once the queue is empty.

mod allocate;
mod allocator;
mod handed_over;
mod memory;
mod ring;
mod socket;
mod turns;
mod wake;

pub use self::allocate::allocate;
pub use self::allocator::give_memory_back;
pub(super) use self::handed_over::take_handed_over;
pub(super) use self::memory::{SEND_BYTES_MAX, SEND_PARTS_MAX, held};
pub(super) use self::ring::{Completion, Op, Ring};
pub use self::socket::now;
pub(super) use self::socket::{
    BACKLOG, accept_failure, accept_unix, descriptors_max, inherit, is_readable, leave_queue, listen,
    send_cause, wait_in_turn,
};
pub use self::turns::take_short_turns;
pub(super) use self::wake::RingWaker;
