//! One connection of a tunnel as a state machine, and the words in which it speaks with the backend.
//!
//! A tunnel carries the messages of any WebSocket client to an HTTP backend, one at a time and in order, and the
//! backend's answers back. Nothing here knows what a message means. Inputs: messages of the client, answers of the
//! backend. Outputs: the next message to hand over, and whether the client may go on speaking.
//!
//! ```text
//!  Asking ──Admitted──▶ Open ──▶ (parted: what waits is still handed over, then the close is told)
//!     └──Refused, Failed──▶ (answered over HTTP)
//! ```

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::budget::BudgetHeld;
use crate::base::bytes::Bytes;
use crate::base::certificate::ClientCertificate;
use crate::base::ids::{ClientId, UserName};
use crate::proto::websocket::Handshake;
use crate::session::hook_call::Waiting;

/// What a backend is asked or told about one connection.
#[derive(Clone, Debug)]
pub struct TunnelCall {
    /// The tunnel's place in the configuration's list.
    pub tunnel: u16,
    pub client: ClientId,
    /// As the backend named it when it let the connection in.
    pub user: Option<UserName>,
    /// The client's; `None` where it is not known.
    pub address: Option<IpAddr>,
    pub tunnel_request: TunnelRequest,
}

#[derive(Clone, Debug)]
pub enum TunnelRequest {
    /// May this client connect? Answered with [`TunnelAnswer::Admitted`], `Refused` or `Failed`.
    Connect(Box<Hello>),
    /// The client said this. Answered with `Said`, `Gone` or `Failed`.
    Message {
        /// From 1, without gaps: the same message has the same number when it is handed over again.
        sequence: u64,
        message: Payload,
    },
    /// The connection has ended. Nobody waits for an answer.
    Close {
        /// Of the Close frame; 1005 without one in it, 1006 when the connection broke (RFC 6455 section 7.4.1).
        code: u16,
        reason: Box<str>,
        /// The number of the last message that was handed over.
        messages: u64,
        /// Messages of the client that the backend has not taken: the one that failed, and what waited behind it.
        undelivered: u32,
    },
}

/// The request that wants to become a connection.
#[derive(Clone, Debug)]
pub struct Hello {
    /// As it stands in the target, without the question mark.
    pub query: Box<str>,
    /// Those that the configuration forwards.
    pub headers: Box<[(Box<str>, Box<str>)]>,
    /// As the client offers them, in its order.
    pub subprotocols: Box<[Box<str>]>,
    /// That the client has shown.
    pub certificate: Option<Arc<ClientCertificate>>,
}

/// One WebSocket message, either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// UTF-8 then: its maker has seen to that.
    pub text: bool,
    pub bytes: Bytes,
}

/// What the backend says to a [`TunnelCall`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TunnelAnswer {
    Admitted(Box<TunnelAdmission>),
    /// The client may not connect: the status it gets, 401 or 403.
    Refused {
        status: u16,
    },
    /// The message was taken; the answer, if it has one, is for the client.
    Said(Option<Payload>),
    /// The backend does not know the connection any more.
    Gone,
    /// There is no telling what the backend wants: it is down, slow, or talks nonsense.
    Failed,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelAdmission {
    /// The tunnel's place and the client's address, for the case that the connection is gone by now.
    pub tunnel: u16,
    pub address: Option<IpAddr>,
    pub user: Option<UserName>,
    /// One of those that the client offers.
    pub subprotocol: Option<Box<str>>,
    /// Sent to the client first of all.
    pub message: Option<Payload>,
}

/// How much of what a client says may wait for the backend. Above either, reading from the client pauses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitingLimits {
    pub messages_max: usize,
    pub bytes_max: usize,
}

/// One connection.
pub struct Tunnel {
    /// The tunnel's place in the configuration's list.
    pub place: u16,
    /// Messages that the backend will not get.
    undelivered: u32,
    pub user: Option<UserName>,
    /// Unix seconds; 0 until it is let in.
    pub opened_at_s: u64,
    /// Messages handed over so far: the number of the last one.
    sequence: u64,
    stage: TunnelStage,
}

const _: () = assert!(size_of::<Tunnel>() <= 64, "an idle connection of a tunnel costs its slot and this");

pub(super) enum TunnelStage {
    Asking(Box<TunnelAsking>),
    /// Boxed work only while a message is under way.
    Open(Option<Box<TunnelWork>>),
}

/// What is kept until the backend has said whether the client may connect.
pub struct TunnelAsking {
    pub handshake: Handshake<'static>,
    /// Dropping it tells the control plane that nobody waits any more.
    pub waiting: Waiting,
    /// What the client said before it was answered.
    pub unread: BudgetHeld,
    /// Let in by the backend, and without a place among the connections of its user yet.
    pub admission: Option<Box<TunnelAdmission>>,
}

pub(super) struct TunnelWork {
    /// What the backend has not answered: with the number [`Tunnel::sequence`], so that it can be handed over again.
    pub(super) under_way: Payload,
    /// Bound: `messages_waiting_max` and `bytes_waiting_max`, at which reading pauses.
    waiting: VecDeque<Payload>,
    waiting_bytes: usize,
    /// The client is not read from.
    paused: bool,
}

impl TunnelWork {
    fn new(under_way: Payload) -> TunnelWork {
        TunnelWork { under_way, waiting: VecDeque::new(), waiting_bytes: 0, paused: false }
    }

    pub(super) fn of(under_way: Payload, waiting: VecDeque<Payload>, paused: bool) -> TunnelWork {
        let waiting_bytes = waiting.iter().map(|message| message.bytes.len()).sum();
        TunnelWork { under_way, waiting, waiting_bytes, paused }
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = &Payload> {
        self.waiting.iter()
    }
}

impl Tunnel {
    pub fn new(place: u16, asking: TunnelAsking) -> Tunnel {
        let stage = TunnelStage::Asking(Box::new(asking));
        Tunnel { place, undelivered: 0, user: None, opened_at_s: 0, sequence: 0, stage }
    }

    pub(super) fn restored(
        place: u16,
        undelivered: u32,
        user: Option<UserName>,
        opened_at_s: u64,
        sequence: u64,
        stage: TunnelStage,
    ) -> Tunnel {
        Tunnel { place, undelivered, user, opened_at_s, sequence, stage }
    }

    pub(super) fn stage(&self) -> &TunnelStage {
        &self.stage
    }

    pub fn is_open(&self) -> bool {
        matches!(self.stage, TunnelStage::Open(_))
    }

    pub fn asking(&mut self) -> Option<&mut TunnelAsking> {
        match &mut self.stage {
            TunnelStage::Asking(asking) => Some(asking),
            TunnelStage::Open(_) => None,
        }
    }

    /// The backend has let the client in, which waits for its place among the connections of its user.
    pub fn hold(&mut self, admission: TunnelAdmission) {
        if let TunnelStage::Asking(asking) = &mut self.stage {
            asking.admission = Some(Box::new(admission));
        }
    }

    pub fn take_admission(&mut self) -> Option<Box<TunnelAdmission>> {
        self.asking()?.admission.take()
    }

    /// The backend has let the client in: it is open, or waits for its place.
    pub fn is_admitted(&self) -> bool {
        match &self.stage {
            TunnelStage::Asking(asking) => asking.admission.is_some(),
            TunnelStage::Open(_) => true,
        }
    }

    /// As the backend named it.
    pub fn user(&self) -> Option<&UserName> {
        match &self.stage {
            TunnelStage::Asking(asking) => {
                asking.admission.as_ref().and_then(|admission| admission.user.as_ref())
            }
            TunnelStage::Open(_) => self.user.as_ref(),
        }
    }

    /// The backend has let the client in. `None`: it was in already.
    pub fn open(&mut self, user: Option<UserName>, unix_s: u64) -> Option<TunnelAsking> {
        let TunnelStage::Asking(asking) = std::mem::replace(&mut self.stage, TunnelStage::Open(None)) else {
            return None;
        };
        self.user = user;
        self.opened_at_s = unix_s;
        Some(*asking)
    }

    /// The client said something. `Some`: hand it over now. `None`: it waits behind what is under way.
    pub fn handle_message(&mut self, message: Payload) -> Option<(u64, Payload)> {
        match &mut self.stage {
            TunnelStage::Asking(_) => None,
            TunnelStage::Open(Some(work)) => {
                work.waiting_bytes += message.bytes.len();
                work.waiting.push_back(message);
                None
            }
            TunnelStage::Open(work @ None) => {
                *work = Some(Box::new(TunnelWork::new(message.clone())));
                self.sequence += 1;
                Some((self.sequence, message))
            }
        }
    }

    /// What was under way is done with: the next message to hand over, if one waits.
    pub fn handle_answered(&mut self) -> Option<(u64, Payload)> {
        let TunnelStage::Open(work) = &mut self.stage else { return None };
        let next = work.as_mut().and_then(|work| {
            let next = work.waiting.pop_front()?;
            work.waiting_bytes -= next.bytes.len();
            work.under_way = next.clone();
            Some(next)
        });
        match next {
            Some(message) => {
                self.sequence += 1;
                Some((self.sequence, message))
            }
            None => {
                *work = None;
                None
            }
        }
    }

    /// True when the client is to be read from no longer. Once: until [`Tunnel::take_resume`] it stays paused.
    pub fn take_pause(&mut self, limits: WaitingLimits) -> bool {
        let TunnelStage::Open(Some(work)) = &mut self.stage else { return false };
        let full = work.waiting.len() >= limits.messages_max || work.waiting_bytes >= limits.bytes_max;
        full && !std::mem::replace(&mut work.paused, true)
    }

    /// Ask before [`Tunnel::handle_answered`], which may end the work: true when the client is to be read from again.
    /// That is at half of the limits, so that reading does not stop and start with each message.
    pub fn take_resume(&mut self, limits: WaitingLimits) -> bool {
        let TunnelStage::Open(Some(work)) = &mut self.stage else { return false };
        let next_bytes = work.waiting.front().map_or(0, |next| next.bytes.len());
        let (messages, bytes) = (work.waiting.len().saturating_sub(1), work.waiting_bytes - next_bytes);
        let room = messages * 2 <= limits.messages_max && bytes * 2 <= limits.bytes_max;
        room && std::mem::take(&mut work.paused)
    }

    /// Whether reading from the client is paused because the backend does not keep up.
    pub fn is_paused(&self) -> bool {
        matches!(&self.stage, TunnelStage::Open(Some(work)) if work.paused)
    }

    /// Whether it has spoken before it was let in: that is kept, and enough.
    pub fn holds_input(&self) -> bool {
        matches!(&self.stage, TunnelStage::Asking(asking) if !asking.unread.is_empty())
    }

    /// What that takes of its budget.
    pub fn held_input_bytes(&self) -> u64 {
        match &self.stage {
            TunnelStage::Asking(asking) => asking.unread.leased_bytes(),
            TunnelStage::Open(_) => 0,
        }
    }

    /// Whether the backend has a message and has not answered it.
    pub fn is_asking_backend(&self) -> bool {
        matches!(self.stage, TunnelStage::Open(Some(_)))
    }

    /// The message that the backend has and has not answered, with its number: of a tunnel that came from a record, to be
    /// handed over again.
    pub fn under_way(&self) -> Option<(u64, &Payload)> {
        match &self.stage {
            TunnelStage::Open(Some(work)) => Some((self.sequence, &work.under_way)),
            _ => None,
        }
    }

    /// Messages handed over so far.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Messages that wait behind the one under way, and their bytes.
    pub fn waiting(&self) -> (usize, usize) {
        match &self.stage {
            TunnelStage::Open(Some(work)) => (work.waiting.len(), work.waiting_bytes),
            _ => (0, 0),
        }
    }

    /// What waits will not be handed over.
    pub fn discard(&mut self) {
        let TunnelStage::Open(Some(work)) = &mut self.stage else { return };
        work.waiting_bytes = 0;
        self.undelivered = self.undelivered.saturating_add(work.waiting.len() as u32);
        work.waiting.clear();
    }

    /// The backend has not taken what was under way, and gets nothing more.
    pub fn fail(&mut self) {
        self.discard();
        self.undelivered = self.undelivered.saturating_add(1);
        self.stage = TunnelStage::Open(None);
    }

    /// Messages that the backend will not get.
    pub fn undelivered(&self) -> u32 {
        self.undelivered
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened() -> Tunnel {
        let head = b"GET /tunnel/x HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        let (head, _) = crate::proto::http1::parse_head(head).unwrap().unwrap();
        let handshake = crate::proto::websocket::accept(&head, &[]).unwrap();
        let asking = TunnelAsking {
            handshake,
            waiting: Waiting::for_good(),
            unread: BudgetHeld::default(),
            admission: None,
        };
        let mut tunnel = Tunnel::new(0, asking);
        assert!(tunnel.handle_message(payload("early")).is_none() && !tunnel.is_open());
        assert!(tunnel.open(Some("u".into()), 7).is_some() && tunnel.open(None, 8).is_none());
        assert_eq!((tunnel.user.as_deref(), tunnel.opened_at_s), (Some("u"), 7));
        tunnel
    }

    fn payload(text: &str) -> Payload {
        Payload { text: true, bytes: Bytes::copy_from_slice(text.as_bytes()) }
    }

    #[test]
    fn messages_are_handed_over_one_at_a_time_and_numbered_in_order() {
        let mut tunnel = opened();
        assert_eq!(tunnel.handle_message(payload("a")), Some((1, payload("a"))));
        for text in ["b", "cc", "d"] {
            assert_eq!(tunnel.handle_message(payload(text)), None);
        }
        assert_eq!(tunnel.waiting(), (3, 4));
        assert_eq!(tunnel.handle_answered(), Some((2, payload("b"))));
        assert_eq!(tunnel.handle_answered(), Some((3, payload("cc"))));
        assert_eq!(tunnel.handle_answered(), Some((4, payload("d"))));
        assert!(tunnel.is_asking_backend());
        assert_eq!((tunnel.handle_answered(), tunnel.is_asking_backend()), (None, false));
        assert_eq!(tunnel.handle_message(payload("e")), Some((5, payload("e"))));
    }

    #[test]
    fn reading_pauses_at_either_limit_and_resumes_at_half_of_both() {
        for (limits, texts) in [
            (WaitingLimits { messages_max: 4, bytes_max: 1000 }, ["x", "x", "x", "x"]),
            (WaitingLimits { messages_max: 1000, bytes_max: 40 }, ["0123456789"; 4]),
        ] {
            let mut tunnel = opened();
            assert!(tunnel.handle_message(payload("first")).is_some() && !tunnel.take_pause(limits));
            let pauses = texts.map(|text| {
                assert!(tunnel.handle_message(payload(text)).is_none());
                tunnel.take_pause(limits)
            });
            assert_eq!(pauses, [false, false, false, true]);
            assert!(!tunnel.take_pause(limits) && tunnel.is_paused(), "it is paused once");
            assert!(!tunnel.take_resume(limits) && tunnel.handle_answered().is_some());
            assert!(tunnel.take_resume(limits) && tunnel.handle_answered().is_some(), "two are left of four");
            assert!(!tunnel.take_resume(limits) && !tunnel.is_paused());
        }
    }

    #[test]
    fn the_smallest_limit_lets_every_message_through() {
        let limits = WaitingLimits { messages_max: 1, bytes_max: 1 };
        let mut tunnel = opened();
        tunnel.handle_message(payload("a long one"));
        tunnel.handle_message(payload("another long one"));
        assert!(tunnel.take_pause(limits) && tunnel.take_resume(limits));
        assert_eq!(tunnel.handle_answered(), Some((2, payload("another long one"))));
    }

    #[test]
    fn what_is_discarded_is_counted() {
        let mut tunnel = opened();
        tunnel.discard();
        assert_eq!(tunnel.undelivered(), 0);
        for _ in 0..3 {
            tunnel.handle_message(payload("x"));
        }
        tunnel.discard();
        assert_eq!((tunnel.undelivered(), tunnel.waiting(), tunnel.sequence()), (2, (0, 0), 1));
        assert_eq!(tunnel.handle_answered(), None);
        tunnel.handle_message(payload("y"));
        tunnel.handle_message(payload("z"));
        tunnel.fail();
        assert_eq!((tunnel.undelivered(), tunnel.is_asking_backend()), (4, false));
    }
}
