//! One reply for an ask that was split into several messages: it goes out when the last of them is done with.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::base::fault::ErrorCode;
use crate::base::ids::ConnId;
use crate::hub::cursors::MemberCursor;
use crate::hub::requests::Acked;
use crate::shard::control_request::{ControlReply, Pushed};

/// Answers an ask when the last of the messages it was split into is done with, by being dropped.
#[derive(Debug)]
pub struct Gather(parking_lot::Mutex<Option<ControlReply<()>>>);

impl Gather {
    pub fn new(reply: ControlReply<()>) -> Arc<Gather> {
        Arc::new(Gather(parking_lot::Mutex::new(Some(reply))))
    }

    /// Answers with a refusal at once, whatever is still under way.
    pub fn refuse(&self, error_code: ErrorCode) {
        if let Some(reply) = self.0.lock().take() {
            reply.send(Err(error_code));
        }
    }
}

impl Drop for Gather {
    fn drop(&mut self) {
        if let Some(reply) = self.0.get_mut().take() {
            reply.send(Ok(()));
        }
    }
}

/// Counts who has been told, and answers the ask when the last of the messages it was split into is done with, by being
/// dropped.
#[derive(Debug)]
pub struct Tally {
    connections: AtomicU64,
    reached: Box<[AtomicBool]>,
    /// Never locked: the last holder drops the tally.
    reply: parking_lot::Mutex<Option<ControlReply<Pushed>>>,
}

impl Tally {
    pub fn new(users: usize, reply: ControlReply<Pushed>) -> Arc<Tally> {
        let reached = (0..users).map(|_| AtomicBool::new(false)).collect();
        Arc::new(Tally {
            connections: AtomicU64::new(0),
            reached,
            reply: parking_lot::Mutex::new(Some(reply)),
        })
    }

    /// A connection of the user with this number has been told.
    pub fn told(&self, user: u32) {
        // Relaxed: the drop of the last handle comes after, by that handle's own count.
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.reached[user as usize].store(true, Ordering::Relaxed);
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        if let Some(reply) = self.reply.get_mut().take() {
            let connections = *self.connections.get_mut();
            let reached = self.reached.iter_mut().map(|reached| *reached.get_mut()).collect();
            reply.send(Ok(Pushed { connections, reached }));
        }
    }
}

/// What the owners of channels say to the acknowledgements of one call. Who is the last to say something answers it.
#[derive(Debug)]
pub struct AckGather {
    pub conn: ConnId,
    /// The command's.
    pub id: u32,
    left: parking_lot::Mutex<AcksLeft>,
}

#[derive(Debug)]
struct AcksLeft {
    /// Owners' answers that are awaited.
    answers: usize,
    outcomes: Vec<Result<MemberCursor, ErrorCode>>,
}

impl AckGather {
    /// `outcomes`: as far as they are known, and one for each acknowledgement.
    pub fn new(
        conn: ConnId,
        id: u32,
        answers: usize,
        outcomes: Vec<Result<MemberCursor, ErrorCode>>,
    ) -> Arc<AckGather> {
        Arc::new(AckGather { conn, id, left: parking_lot::Mutex::new(AcksLeft { answers, outcomes }) })
    }

    /// An owner has answered. Gives all outcomes when it was the last.
    pub fn answered(&self, acked: Acked) -> Option<Vec<Result<MemberCursor, ErrorCode>>> {
        let mut left = self.left.lock();
        for (place, outcome) in acked.outcomes {
            left.outcomes[usize::from(place)] = outcome;
        }
        left.answers -= 1;
        (left.answers == 0).then(|| std::mem::take(&mut left.outcomes))
    }
}
