//! The connection slot: everything an idle connection costs us, in at most 128 bytes.

use std::collections::VecDeque;

use smallvec::SmallVec;

use crate::base::budget::{Held, Lease};
use crate::base::bytes::Bytes;
use crate::base::time::Time;
use crate::hub::local::{ChannelIndex, Cursor};
use crate::proto::http1::{BodyDecoder, HeadScan};
use crate::proto::websocket::Decoder;
use crate::session::reader::Reader;
use crate::session::tunnel::Tunnel;
use crate::session::{Session, Sub};
use crate::shard::outbox::Chain;
use crate::shard::readers::{Inquiry, PublishOrder};
use crate::shard::timers::{Link, Linked, ShortTick};

/// One accepted socket.
///
/// ```text
///  Http ──upgrade──▶ Client ──close──▶ Closing ──▶ Gone ──Closed──▶ (slot free)
///    │ └──upgrade──▶ Echo, Tunnel ─────▲  ▲         ▲
///    └─────────────────────────────────┘  └─ peer's end, a fault, the deadline
/// ```
pub struct Connection {
    pub link: Link,
    pub generation: u32,
    pub chain: Chain,
    /// When the next ping is due, or the pong to the last one.
    pub ping_due: ShortTick,
    pub awaits_pong: bool,
    /// Counted as a client: to be undone when it goes.
    pub listed: bool,
    /// Its user's home knows it, and hears when it goes.
    pub of_user: bool,
    /// The peer has sent its FIN: there will be no other sign of it.
    pub peer_ended: bool,
    /// It has one of the node's seats: to be given back when it is gone.
    pub seated: bool,
    /// Closed for slowness or silence: what the kernel still holds for it will not be read.
    pub silent: bool,
    /// Among the shard's debtors.
    pub indebted: bool,
    /// Present while the socket does not take everything at once.
    pub lag: Option<Box<Lag>>,
    pub state: State,
}

const _: () =
    assert!(size_of::<Option<Connection>>() <= 128, "an idle connection costs one slot of 128 bytes");

impl Linked for Connection {
    fn link(&mut self) -> &mut Link {
        &mut self.link
    }
}

pub enum State {
    /// Speaks HTTP. Boxed state only while a head or body is incomplete or an answer is awaited.
    Http(Option<Box<Http>>),
    Echo {
        decoder: Option<Box<Decoder>>,
    },
    /// Speaks the Centrifuge protocol over WebSocket.
    Client {
        decoder: Option<Box<Decoder>>,
        session: Session,
    },
    /// Reads without the client protocol, or publishes: see `readers/`.
    Reader {
        /// Of plain WebSocket.
        decoder: Option<Box<Decoder>>,
        reader: Reader,
    },
    /// Speaks whatever it likes over WebSocket, with a backend: see `tunnel.rs`.
    Tunnel {
        decoder: Option<Box<Decoder>>,
        tunnel: Box<Tunnel>,
    },
    /// Its last bytes are on their way. What still comes in is discarded until the peer ends.
    Closing {
        end: ClosingEnd,
    },
    /// Closed by us; the driver has not said so yet.
    Gone,
}

/// How a closing connection comes to its end.
pub enum ClosingEnd {
    /// We have sent our Close frame and the peer has not: its own is awaited (RFC 6455 section 7.1.1).
    PeersClose(Option<Box<Decoder>>),
    /// FIN follows our last bytes; then the peer's is awaited.
    Fin,
    /// The peer has said its last word: the socket is closed behind ours.
    Both,
}

/// A request that is not complete, or not answered.
#[derive(Default)]
pub struct Http {
    /// Unread input: a part of a head, or what follows the request that is being answered.
    pub unread: Held,
    pub scan: HeadScan,
    pub request: Option<Request>,
    /// What the backend is asked about the request of a reader, which is in here.
    pub inquiry: Option<Box<Inquiry>>,
}

impl Http {
    /// Its answer is awaited of somebody.
    pub fn is_asked(&self) -> bool {
        self.inquiry.is_some() || self.request.as_ref().is_some_and(|request| request.asked)
    }

    /// A request's body is coming.
    pub fn takes_body(&self) -> bool {
        self.inquiry.is_none() && self.request.as_ref().is_some_and(|request| !request.asked)
    }

    /// Holds a part of a head, or requests whose turn has not come: nothing has begun.
    pub fn is_waiting(&self) -> bool {
        self.inquiry.is_none() && self.request.is_none()
    }

    pub fn wants_stream(&self) -> bool {
        self.inquiry.as_ref().is_some_and(|inquiry| inquiry.endpoint.streams())
    }
}

/// A request whose head has been read.
pub struct Request {
    pub parts: http::request::Parts,
    /// The origin to allow in answers, as CORS names it.
    pub origin: Option<Box<str>>,
    pub keep_alive: bool,
    pub body: Held,
    pub decoder: BodyDecoder,
    /// When the body must be there.
    pub until: Time,
    /// Bytes of the body, framing included, that have come since the timer was set.
    pub progress: u64,
    /// Counts the body while it is under way in the control plane.
    pub lease: Option<Lease>,
    /// Handed to the control plane: the answer is awaited, nothing is read.
    pub asked: bool,
    /// It publishes; without, it is the control plane's.
    pub publish: Option<Box<PublishOrder>>,
}

/// What a connection has when its socket did not take everything, or when it joined a channel between an item's
/// arrival and its delivery.
#[derive(Default)]
pub struct Lag {
    /// Encoded bytes that must leave first, in order.
    /// Bound: `outbox_bytes_max`, at which the connection is closed as slow.
    pub remainder: VecDeque<Bytes>,
    pub remainder_bytes: usize,
    /// Where it stands in each channel that it lags in.
    pub cursors: SmallVec<[(ChannelIndex, Cursor); 1]>,
    /// The socket takes nothing: wait until it is writable.
    pub blocked: bool,
    /// Reading is paused until the remainder is gone.
    pub read_paused: bool,
    /// A reader whose other channels have not answered yet: nothing may be given to it.
    pub held: bool,
}

impl Lag {
    pub fn is_over(&self) -> bool {
        !self.blocked && !self.held && self.remainder.is_empty() && self.cursors.is_empty()
    }

    pub fn push(&mut self, bytes: Bytes) {
        self.remainder_bytes += bytes.len();
        self.remainder.push_back(bytes);
    }

    pub fn cursor(&mut self, channel: ChannelIndex) -> Option<&mut Cursor> {
        self.cursors.iter_mut().find(|(at, _)| *at == channel).map(|(_, cursor)| cursor)
    }

    pub fn cursor_in(&self, channel: ChannelIndex) -> Option<Cursor> {
        self.cursors.iter().find(|(at, _)| *at == channel).map(|(_, cursor)| *cursor)
    }
}

impl Connection {
    pub fn new(generation: u32) -> Connection {
        Connection {
            link: Link::default(),
            generation,
            chain: Chain::default(),
            ping_due: ShortTick::default(),
            awaits_pong: false,
            listed: false,
            of_user: false,
            peer_ended: false,
            seated: false,
            silent: false,
            indebted: false,
            lag: None,
            state: State::Http(None),
        }
    }

    pub fn session(&mut self) -> Option<&mut Session> {
        match &mut self.state {
            State::Client { session, .. } => Some(session),
            _ => None,
        }
    }

    pub fn reader(&self) -> Option<&Reader> {
        match &self.state {
            State::Reader { reader, .. } => Some(reader),
            _ => None,
        }
    }

    pub fn reader_mut(&mut self) -> Option<&mut Reader> {
        match &mut self.state {
            State::Reader { reader, .. } => Some(reader),
            _ => None,
        }
    }

    /// The subscription to a channel of whoever is at the other end.
    pub fn sub(&self, channel: ChannelIndex) -> Option<Sub> {
        match &self.state {
            State::Client { session, .. } => session.sub(channel),
            State::Reader { reader, .. } => reader.sub(channel),
            _ => None,
        }
    }

    /// The channel's list has the connection at another place.
    pub fn placed(&mut self, channel: ChannelIndex, place: u32) {
        match &mut self.state {
            State::Client { session, .. } => session.placed(channel, place),
            State::Reader { reader, .. } => reader.placed(channel, place),
            _ => {}
        }
    }

    /// A client whose connect is not answered: nothing may be pushed to it.
    pub fn is_connecting(&self) -> bool {
        matches!(&self.state, State::Client { session, .. } if !session.is_connected())
    }

    /// Whether reading from it is paused for another reason than what it owes: its backend does not keep up, or its
    /// commands wait.
    pub fn input_is_paused(&self) -> bool {
        match &self.state {
            State::Tunnel { tunnel, .. } => tunnel.is_paused(),
            State::Client { session, .. } => session.input_paused,
            _ => false,
        }
    }

    /// Something that it was given has not gone to the kernel yet.
    pub fn owes(&self) -> bool {
        !self.chain.is_empty()
            || self.lag.as_ref().is_some_and(|lag| lag.blocked || !lag.remainder.is_empty())
    }

    pub fn is_blocked(&self) -> bool {
        self.lag.as_ref().is_some_and(|lag| lag.blocked)
    }
}
