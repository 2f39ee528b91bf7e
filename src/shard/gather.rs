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
    pub fn count(&self, user: u32) {
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{self, Receiver};

    use super::*;
    use crate::base::ids::{ShardId, Sock};

    fn reply<T: Send + 'static>() -> (ControlReply<T>, Receiver<Result<T, ErrorCode>>) {
        let (sender, answered) = mpsc::channel();
        (ControlReply::new(move |answer| sender.send(answer).unwrap()), answered)
    }

    #[test]
    fn the_last_part_answers_and_a_refusal_answers_once() {
        let (to, answered) = reply();
        let parts = [Gather::new(to)].map(|first| (Arc::clone(&first), first));
        let [(one, other)] = parts;
        drop(one);
        assert!(answered.try_recv().is_err(), "one is under way");
        drop(other);
        assert_eq!(answered.try_recv(), Ok(Ok(())));

        let (to, answered) = reply();
        let gather = Gather::new(to);
        gather.refuse(ErrorCode::LimitExceeded);
        gather.refuse(ErrorCode::Internal);
        drop(gather);
        assert_eq!(answered.iter().collect::<Vec<_>>(), [Err(ErrorCode::LimitExceeded)]);
    }

    #[test]
    fn a_tally_counts_connections_and_says_which_users_were_reached() {
        let (to, answered) = reply();
        let tally = Tally::new(3, to);
        [0, 2, 2].into_iter().for_each(|user| tally.count(user));
        drop(tally);
        let pushed = Pushed { connections: 3, reached: vec![true, false, true] };
        assert_eq!(answered.try_recv(), Ok(Ok(pushed)));
    }

    #[test]
    fn acknowledgements_are_answered_together_each_at_its_place() {
        let conn = ConnId::new(ShardId(0), Sock { slot: 1, generation: 0 });
        let refused = |error_code| Err::<MemberCursor, _>(error_code);
        let known =
            vec![refused(ErrorCode::Internal), refused(ErrorCode::BadRequest), refused(ErrorCode::Internal)];
        let gather = AckGather::new(conn, 7, 2, known);
        let acked = |place, error_code| Acked { outcomes: vec![(place, refused(error_code))], ticket: None };
        assert!(gather.answered(acked(2, ErrorCode::NotAvailable)).is_none());
        let outcomes = gather.answered(acked(0, ErrorCode::PermissionDenied)).expect("it was the last");
        let codes: Vec<ErrorCode> = outcomes.into_iter().filter_map(Result::err).collect();
        assert_eq!(codes, [ErrorCode::PermissionDenied, ErrorCode::BadRequest, ErrorCode::NotAvailable]);
    }
}
