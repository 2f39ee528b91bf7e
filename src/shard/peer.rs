//! One participant: who speaks over a link, in which protocol, and what all protocols have in common.
//!
//! The kind of a peer is known here and in the modules below alone: another protocol is one more arm in each of their functions.
//! What a shard does with each kind is in [`steps`].

mod input;
mod records;
mod steps;
mod times;

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::fault::Disconnect;
use crate::base::filter::Filters;
use crate::base::ids::{EncodingId, SLOT_BITS, UserName};
use crate::base::limits::ECHO_MESSAGE_BYTES_MAX;
use crate::base::publication::ClientInfo;
use crate::hub::class::Class;
use crate::hub::followed::ChannelIndex;
use crate::hub::options::GapPolicy;
use crate::proto::encoding::Encoding;
use crate::proto::websocket::write_close;
use crate::session::gaps::AfterGap;
use crate::session::tunnel::Tunnel;
use crate::session::unidirectional::{Mode, Unidirectional};
use crate::session::{Session, Sub, SubscribeEffect, info_of, shared_info};
use crate::shard::directory::{BOOKS_MAX, Number};
use crate::shard::link::ClosingEnd;
use crate::shard::requests::Http;
use crate::shard::timers::{TimedSlot, TimerEntry};

pub struct Peer {
    kind: Kind,
    /// What is due next, whatever it is.
    pub timer: TimerEntry,
    /// In the low bits the number, in the high ones flags.
    number: u32,
}

const _: () = assert!(size_of::<Peer>() <= 72);

const LISTED: u32 = 1 << 31;
const OF_USER: u32 = 1 << 30;
const FLAGS: u32 = LISTED | OF_USER;
const _: () = assert!((BOOKS_MAX as u32) << SLOT_BITS <= OF_USER, "a number ends where the flags begin");

/// What a peer speaks, and where it stands in that.
enum Kind {
    /// Asks requests. Boxed state only while a head or body is incomplete or an answer is awaited.
    Http(Requests),
    /// What comes is sent back.
    Echo,
    /// Speaks the Centrifuge protocol: see [`crate::proto::wire`] for what carries it.
    Client(Session),
    /// A unidirectional client: reads without the client protocol, or publishes: see `unidirectional/`.
    Unidirectional(Unidirectional),
    /// Speaks whatever it likes over WebSocket, with a backend: see `tunnel.rs`.
    Tunnel(Box<Tunnel>),
    /// Has left: its link is closing.
    Nobody,
}

/// What a connection that asks requests keeps of them.
pub type Requests = Option<Box<Http>>;

/// What becomes of a peer whose link has been ended by the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterEnd {
    /// Its answer is awaited.
    Stays,
    /// Its answer is on the way, and nothing follows.
    LeavesBehindAnswer,
    Leaves,
    HasLeft,
}

impl TimedSlot for Peer {
    fn timer(&mut self) -> &mut TimerEntry {
        &mut self.timer
    }
}

impl Peer {
    pub fn new(number: Number) -> Peer {
        Peer { kind: Kind::Http(None), timer: TimerEntry::default(), number: number.0 }
    }

    // --- what is known of it

    pub fn number(&self) -> Number {
        Number(self.number & !FLAGS)
    }

    /// Counted as a client: to be undone when it goes.
    pub fn listed(&self) -> bool {
        self.number & LISTED != 0
    }

    pub fn set_listed(&mut self) {
        self.number |= LISTED;
    }

    pub fn take_listed(&mut self) -> bool {
        let listed = self.listed();
        self.number &= !LISTED;
        listed
    }

    /// Its user's owner knows it, and hears when it goes.
    pub fn of_user(&self) -> bool {
        self.number & OF_USER != 0
    }

    pub fn set_of_user(&mut self) {
        self.number |= OF_USER;
    }

    pub fn take_of_user(&mut self) -> bool {
        let of_user = self.of_user();
        self.number &= !OF_USER;
        of_user
    }

    // --- who speaks now

    pub fn leave(&mut self) {
        self.kind = Kind::Nobody;
    }

    pub fn has_left(&self) -> bool {
        matches!(self.kind, Kind::Nobody)
    }

    /// It asks its next request.
    pub fn set_requests(&mut self) {
        self.kind = Kind::Http(None);
    }

    pub fn set_client(&mut self, session: Session) {
        self.kind = Kind::Client(session);
    }

    pub fn set_echo(&mut self) {
        self.kind = Kind::Echo;
    }

    pub fn set_uni(&mut self, uni: Unidirectional) {
        self.kind = Kind::Unidirectional(uni);
    }

    pub fn set_tunnel(&mut self, tunnel: Tunnel) {
        self.kind = Kind::Tunnel(Box::new(tunnel));
    }

    /// The tunnel leaves.
    pub fn take_tunnel(&mut self) -> Option<Box<Tunnel>> {
        self.tunnel()?;
        match std::mem::replace(&mut self.kind, Kind::Nobody) {
            Kind::Tunnel(tunnel) => Some(tunnel),
            _ => None,
        }
    }

    // --- one peer interface

    /// What comes is sent back.
    pub fn is_echo(&self) -> bool {
        matches!(self.kind, Kind::Echo)
    }

    /// It speaks its protocol: it is past its requests, and has not left.
    pub fn is_in_protocol(&self) -> bool {
        match &self.kind {
            Kind::Echo | Kind::Client(_) | Kind::Unidirectional(_) | Kind::Tunnel(_) => true,
            Kind::Http(_) | Kind::Nobody => false,
        }
    }

    /// It keeps its number for as long as it has its socket.
    pub fn keeps_number(&self) -> bool {
        match &self.kind {
            Kind::Client(_) | Kind::Unidirectional(_) | Kind::Tunnel(_) => true,
            Kind::Http(_) | Kind::Echo | Kind::Nobody => false,
        }
    }

    /// Its end is one of a client. Polls are requests.
    pub fn ends_as_client(&self) -> bool {
        match &self.kind {
            Kind::Client(_) => true,
            Kind::Unidirectional(uni) => matches!(uni.mode, Mode::Stream(_)),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => false,
        }
    }

    /// It may have subscriptions.
    pub fn subscribes(&self) -> bool {
        matches!(self.kind, Kind::Client(_) | Kind::Unidirectional(_))
    }

    /// How it gets messages to its user, and whether they go in chunks; `None` while it takes none.
    pub fn takes_messages(&self) -> Option<(Encoding, bool)> {
        match &self.kind {
            Kind::Client(session) => session.is_connected().then(|| (session.wire().encoding(), false)),
            Kind::Unidirectional(uni) => uni.is_streaming().then(|| (uni.encoding(), uni.chunked)),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// Who it is to the backend; `None` for the anonymous, and for a peer that has not said yet.
    pub fn user(&self) -> Option<&UserName> {
        match &self.kind {
            Kind::Client(session) => session.user(),
            Kind::Unidirectional(uni) => uni.identity.as_ref()?.user.as_ref(),
            Kind::Tunnel(tunnel) => tunnel.user(),
            Kind::Http(_) | Kind::Echo | Kind::Nobody => None,
        }
    }

    /// `jti` of the token that it has shown.
    pub fn token_id(&self) -> Option<&str> {
        match &self.kind {
            Kind::Client(session) => session.token_id(),
            Kind::Unidirectional(uni) => uni.identity.as_ref()?.token_id.as_ref().map(|id| &***id),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// The tag that it named when it connected.
    pub fn origin(&self) -> Option<&str> {
        match &self.kind {
            Kind::Client(session) => session.origin(),
            Kind::Unidirectional(uni) => uni.identity.as_ref()?.origin(),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// What tells its device from others of its user.
    pub fn device(&self) -> Option<&UserName> {
        match &self.kind {
            Kind::Client(session) => session.device(),
            Kind::Unidirectional(uni) => uni.identity.as_ref()?.device(),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    pub fn subs(&self) -> &[Sub] {
        match &self.kind {
            Kind::Client(session) => session.subs(),
            Kind::Unidirectional(uni) => uni.subs(),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => &[],
        }
    }

    /// Every subscription, given up: the peer is going away.
    pub fn take_subs(&mut self) -> SmallVec<[Sub; 2]> {
        match &mut self.kind {
            Kind::Client(session) => session.take_subs(),
            Kind::Unidirectional(uni) => uni.take_subs(),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => SmallVec::new(),
        }
    }

    /// Who it is to others, but for what a subscription adds; `None` for a peer that subscribes to nothing.
    pub fn info(&self, client: String) -> Option<ClientInfo> {
        match &self.kind {
            Kind::Client(session) => Some(session.info(client, None)),
            Kind::Unidirectional(uni) => Some(info_of(uni.identity.as_deref(), client)),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// The same, shared by all channels that show it.
    pub fn shared_info(&mut self, client: String) -> Option<Arc<ClientInfo>> {
        match &mut self.kind {
            Kind::Client(session) => Some(session.shared_info(client)),
            Kind::Unidirectional(uni) => Some(shared_info(&mut uni.identity, client)),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// What its subscription to the channel is filtered by.
    pub fn filters(&self, channel: ChannelIndex) -> Option<&Arc<Filters>> {
        match &self.kind {
            Kind::Client(session) => session.filters(channel),
            Kind::Unidirectional(uni) => uni.filters(channel),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// The channel's owner has been asked under `number` to make it a subscriber.
    pub fn join_asked(&mut self, channel: ChannelIndex, number: u32, effect: &SubscribeEffect) {
        match &mut self.kind {
            Kind::Client(session) => session.join_asked(channel, number, effect),
            Kind::Unidirectional(uni) => {
                uni.join_asked(channel, number, effect.id);
                uni.set_filters(channel, effect.filters.as_ref());
            }
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => {}
        }
    }

    pub fn sub(&self, channel: ChannelIndex) -> Option<Sub> {
        self.subs().iter().copied().find(|sub| sub.channel() == channel)
    }

    /// The channel's list has the peer at another place.
    pub fn set_place(&mut self, channel: ChannelIndex, place: u32) {
        match &mut self.kind {
            Kind::Client(session) => session.set_place(channel, place),
            Kind::Unidirectional(uni) => uni.set_place(channel, place),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => {}
        }
    }

    /// A client whose connect is not answered: nothing may be pushed to it.
    pub fn is_connecting(&self) -> bool {
        matches!(&self.kind, Kind::Client(session) if !session.is_connected())
    }

    /// Speaks frames of WebSocket now.
    pub fn takes_frames(&self) -> bool {
        match &self.kind {
            Kind::Echo => true,
            Kind::Client(session) => session.wire().carrier.is_websocket(),
            Kind::Unidirectional(uni) => uni.is_websocket() && uni.is_ready() && !uni.holds_input(),
            Kind::Tunnel(tunnel) => tunnel.is_open(),
            Kind::Http(_) | Kind::Nobody => false,
        }
    }

    /// As events name its transport; `None` for a peer that events do not tell of.
    pub fn transport(&self) -> Option<&'static str> {
        match &self.kind {
            Kind::Client(session) => Some(session.wire().carrier.transport()),
            Kind::Unidirectional(uni) => Some(match uni.mode {
                Mode::Stream(Encoding::Sse | Encoding::SsePlain) => "sse",
                Mode::Stream(Encoding::JsonLines | Encoding::Iframe) => "http_stream",
                Mode::Stream(_) => "uni_websocket",
                // No client: no event tells of it.
                Mode::Poll | Mode::History | Mode::Publish => "long_poll",
            }),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// Forgets the subscription, if there is one.
    pub fn remove(&mut self, channel: ChannelIndex) {
        match &mut self.kind {
            Kind::Client(session) => drop(session.remove(channel)),
            Kind::Unidirectional(uni) => drop(uni.remove(channel)),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => {}
        }
    }

    /// In which encoding it gets items, compressed where its link `deflates`; `None` for a peer that subscribes to
    /// nothing. Frames of its own are made of the plain ones.
    pub fn encoding(&self, deflates: bool) -> Option<EncodingId> {
        let (encoding, own_frames) = match &self.kind {
            Kind::Client(session) => (session.wire().encoding(), false),
            Kind::Unidirectional(uni) => (uni.encoding(), uni.has_own_frames(uni.subs().len())),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => return None,
        };
        Some(match deflates && !own_frames && encoding.is_websocket() {
            true => encoding.compressed_id(),
            false => encoding.id(),
        })
    }

    /// How it gets what is delivered; `None` for a peer that subscribes to nothing.
    pub fn class(&mut self, channel: ChannelIndex, join_leave: bool, deflates: bool) -> Option<Class> {
        let encoding = self.encoding(deflates)?;
        match &mut self.kind {
            Kind::Client(session) => {
                let shape = session.shape(channel);
                Some(Class { join_leave, shape, ..Class::shared(encoding) })
            }
            Kind::Unidirectional(uni) => {
                let channels = match uni.asking() {
                    Some(asking) => asking.channels.len(),
                    None => uni.subs().len(),
                };
                let own_frames = uni.has_own_frames(channels);
                Some(Class { own_frames, ..Class::shared(encoding) })
            }
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// What becomes of it when something is lost in the channel; `None` for a peer that subscribes to nothing.
    pub fn after_gap(&self, channel: ChannelIndex, policy: GapPolicy) -> Option<AfterGap> {
        match &self.kind {
            Kind::Client(session) => Some(session.after_gap(channel, policy)),
            Kind::Unidirectional(uni) => Some(uni.after_gap(policy)),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// How much it may owe its socket, by what is allowed to one that is sent messages.
    pub fn owed_bytes_max(&self, outbox_bytes_max: usize) -> usize {
        match &self.kind {
            Kind::Client(_) | Kind::Tunnel(_) => outbox_bytes_max,
            Kind::Unidirectional(uni) if uni.is_streaming() => outbox_bytes_max,
            // One message being echoed and one behind it; frames included.
            Kind::Echo => 3 * ECHO_MESSAGE_BYTES_MAX,
            // One answer, made by ourselves.
            Kind::Http(_) | Kind::Unidirectional(_) | Kind::Nobody => usize::MAX,
        }
    }

    // --- its end

    /// The last bytes of an orderly end for the reason, and how the link ends behind them. `retry_ms`: when a client of
    /// events is to come back.
    pub fn last_bytes(
        &mut self,
        disconnect: &Disconnect,
        retry_ms: impl FnOnce() -> u64,
    ) -> (Vec<u8>, ClosingEnd) {
        match &mut self.kind {
            Kind::Unidirectional(uni) if uni.is_websocket() => {
                (uni.last_bytes(disconnect, retry_ms), ClosingEnd::PeersClose)
            }
            Kind::Unidirectional(uni) => (uni.last_bytes(disconnect, retry_ms), ClosingEnd::Fin),
            Kind::Client(session) => {
                let wire = session.wire();
                let mut last = session.take_opening().map_or_else(Vec::new, |opening| opening.head);
                wire.write_end(&mut last, disconnect, retry_ms);
                let is_websocket = wire.carrier.is_websocket();
                (last, if is_websocket { ClosingEnd::PeersClose } else { ClosingEnd::Fin })
            }
            Kind::Echo | Kind::Tunnel(_) => {
                let mut frame = Vec::new();
                write_close(&mut frame, disconnect.code, &disconnect.reason);
                (frame, ClosingEnd::PeersClose)
            }
            Kind::Http(_) | Kind::Nobody => (Vec::new(), ClosingEnd::Fin),
        }
    }

    /// The other side of the link has said its last word. `owes`: ours is not with the kernel yet.
    pub fn handle_link_ended(&mut self, owes: bool) -> AfterEnd {
        match &mut self.kind {
            // A client of HTTP may end its side and still wait for the answer. A stream that the backend is still asked
            // about ends as if it flowed: nobody is there to read it.
            Kind::Http(Some(http)) if http.is_asked() && !http.wants_stream() => {
                if let Some(request) = &mut http.request {
                    request.keep_alive = false;
                }
                AfterEnd::Stays
            }
            // With further requests behind an answer that is on its way.
            Kind::Http(Some(http)) if http.is_waiting() && owes => AfterEnd::Stays,
            Kind::Http(None) if owes => AfterEnd::LeavesBehindAnswer,
            // One that awaits its one answer stays as well; one that awaits messages has gone.
            Kind::Unidirectional(uni) if !uni.is_ready() && !matches!(uni.mode, Mode::Stream(_)) => {
                AfterEnd::Stays
            }
            Kind::Http(_) | Kind::Echo | Kind::Client(_) | Kind::Unidirectional(_) | Kind::Tunnel(_) => {
                AfterEnd::Leaves
            }
            Kind::Nobody => AfterEnd::HasLeft,
        }
    }

    // --- commands of the API

    /// It is somebody whom the API can name. One that waits for its place, or for its channels, can be ended and
    /// nothing else.
    pub fn may_be_ended(&self) -> bool {
        match &self.kind {
            Kind::Client(session) => session.is_connected() || self.of_user(),
            Kind::Unidirectional(_) => true,
            Kind::Tunnel(tunnel) => tunnel.is_admitted(),
            Kind::Http(_) | Kind::Echo | Kind::Nobody => false,
        }
    }

    /// It stays for long, so that a node which drains ends it. Requests of HTTP are answered and end by themselves.
    pub fn departs(&self) -> bool {
        match &self.kind {
            Kind::Client(_) | Kind::Unidirectional(_) | Kind::Tunnel(_) | Kind::Echo => true,
            Kind::Http(Some(http)) => http.inquiry.is_some(),
            Kind::Http(None) | Kind::Nobody => false,
        }
    }

    /// It knows channels, and is far enough to hear of them.
    pub fn takes_commands(&self) -> bool {
        match &self.kind {
            Kind::Client(session) => session.is_connected(),
            Kind::Unidirectional(_) => true,
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => false,
        }
    }

    // --- the state machine of each kind

    pub fn client(&self) -> Option<&Session> {
        match &self.kind {
            Kind::Client(session) => Some(session),
            _ => None,
        }
    }

    pub fn session(&mut self) -> Option<&mut Session> {
        match &mut self.kind {
            Kind::Client(session) => Some(session),
            _ => None,
        }
    }

    pub fn uni(&self) -> Option<&Unidirectional> {
        match &self.kind {
            Kind::Unidirectional(uni) => Some(uni),
            _ => None,
        }
    }

    pub fn uni_mut(&mut self) -> Option<&mut Unidirectional> {
        match &mut self.kind {
            Kind::Unidirectional(uni) => Some(uni),
            _ => None,
        }
    }

    /// What it keeps of its requests, if it asks any.
    pub fn requests(&self) -> Option<&Requests> {
        match &self.kind {
            Kind::Http(requests) => Some(requests),
            _ => None,
        }
    }

    pub fn requests_mut(&mut self) -> Option<&mut Requests> {
        match &mut self.kind {
            Kind::Http(requests) => Some(requests),
            _ => None,
        }
    }

    pub fn tunnel(&self) -> Option<&Tunnel> {
        match &self.kind {
            Kind::Tunnel(tunnel) => Some(tunnel),
            _ => None,
        }
    }

    pub fn tunnel_mut(&mut self) -> Option<&mut Tunnel> {
        match &mut self.kind {
            Kind::Tunnel(tunnel) => Some(tunnel),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::unidirectional::UnidirectionalWork;
    use crate::shard::requests::Request;

    #[test]
    fn who_awaits_an_answer_outlives_the_end_of_its_side() {
        let uni = |mode, ready: bool| {
            let mut uni = Unidirectional::new(1, mode, None);
            let asking = (!ready).then(Default::default);
            uni.work = Some(Box::new(UnidirectionalWork { asking, ..UnidirectionalWork::default() }));
            Kind::Unidirectional(uni)
        };
        let stream = Mode::Stream(Encoding::Sse);
        let waiting = || Kind::Http(Some(Box::default()));
        // With an answer on its way, and without.
        for (kind, expected) in [
            (Kind::Http(None), [AfterEnd::LeavesBehindAnswer, AfterEnd::Leaves]),
            (waiting(), [AfterEnd::Stays, AfterEnd::Leaves]),
            (uni(Mode::Poll, false), [AfterEnd::Stays; 2]),
            (uni(Mode::Poll, true), [AfterEnd::Leaves; 2]),
            (uni(stream, false), [AfterEnd::Leaves; 2]),
            (Kind::Client(Session::default()), [AfterEnd::Leaves; 2]),
            (Kind::Echo, [AfterEnd::Leaves; 2]),
            (Kind::Nobody, [AfterEnd::HasLeft; 2]),
        ] {
            let mut peer = Peer::new(Number(0));
            peer.kind = kind;
            assert_eq!([true, false].map(|owes| peer.handle_link_ended(owes)), expected);
        }
        let request = Request { asked: true, keep_alive: true, ..Request::default() };
        let mut peer = Peer::new(Number(0));
        peer.kind = Kind::Http(Some(Box::new(Http { request: Some(request), ..Http::default() })));
        assert_eq!(peer.handle_link_ended(false), AfterEnd::Stays);
        let http = peer.requests().and_then(|requests| requests.as_ref()).expect("it stays");
        assert!(http.request.as_ref().is_some_and(|request| !request.keep_alive), "and asks no more");
    }

    #[test]
    fn a_number_keeps_apart_from_the_flags_beside_it() {
        let number = Number(crate::base::ids::SLOT_MAX);
        let mut peer = Peer::new(number);
        assert!(!peer.listed() && !peer.of_user());
        peer.set_listed();
        assert!(peer.listed() && !peer.of_user());
        peer.set_of_user();
        assert_eq!(peer.number(), number);
        assert!(peer.take_listed() && !peer.take_listed() && peer.of_user());
        assert!(peer.take_of_user() && !peer.of_user());
        assert_eq!(peer.number(), number);
    }
}
