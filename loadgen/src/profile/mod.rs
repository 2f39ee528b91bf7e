//! Protocols of long connections from the client's side, sans-IO.
//!
//! Inputs: whole messages, as the wire below cuts them. Outputs: bytes to send, and what a message [`Said`]. Must not
//! know: sockets, time, threads; nor what a publication says: its mark is found by the caller.

mod audience;
mod centrifuge;
mod floor;
mod http;
mod mqtt;
mod nats;
mod outgoing;
mod pusher;
mod socketio;
mod template;
mod websocket;

pub use self::audience::Audience;
pub use self::centrifuge::{Centrifuge, Json, Protobuf, Tokens};
pub use self::floor::Floor;
pub use self::http::{LongPoll, Sse};
pub use self::mqtt::Mqtt;
pub use self::nats::Nats;
pub use self::outgoing::Outgoing;
pub use self::pusher::{Pusher, PusherKeys};
pub use self::socketio::SocketIo;
pub use self::template::{Filling, Template};
pub use self::websocket::PlainWebSocket;
use crate::measure::Cause;

/// What carries a protocol's messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wire {
    WebSocket {
        subprotocols: Vec<String>,
    },
    /// WebSocket frames that carry a stream: [`Profile::message_len`] cuts it, wherever the frames end.
    WebSocketStream {
        subprotocols: Vec<String>,
    },
    /// The TCP stream itself, cut by [`Profile::message_len`].
    Tcp,
    /// The body of a GET's response, cut by [`Profile::message_len`].
    Http,
    /// One GET after the other, each answered by a message or by the end of its time.
    LongPoll,
}

impl Wire {
    /// Whether what is said goes into WebSocket frames.
    pub fn is_framed(&self) -> bool {
        matches!(self, Wire::WebSocket { .. } | Wire::WebSocketStream { .. })
    }
}

/// One connection, as a profile sees it.
pub struct Client<'a> {
    /// Counted over all threads; decides its channels.
    pub number: u32,
    /// The profile's own state; 0 at the start of every connection.
    pub step: &'a mut u16,
    /// Where each of its subscriptions was, for recovery: kept over a reconnect. `None` until something arrived, and
    /// always if the run recovers nothing.
    pub positions: &'a mut Option<Box<[u64]>>,
    pub audience: &'a Audience,
}

/// What a message was, beside the publications in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// The connection is ready now: everything is subscribed.
    pub ready: bool,
    /// A ping was answered.
    pub pings: u32,
    /// Replies to requests; the code of the last that was an error.
    pub replies: u32,
    pub reply_error: Option<u32>,
    /// Where in the message the reply to the request stands, which may hold publications that were delivered before or will
    /// be: begin and end. Both 0: nowhere.
    pub reply_at: (usize, usize),
    pub recovered: u32,
    pub unrecovered: u32,
    /// Neither of these, nor a publication.
    pub others: u32,
}

pub trait Profile: Send + Sync {
    fn name(&self) -> &'static str;

    fn wire(&self) -> Wire;

    /// The request target of the upgrade or GET.
    fn target(&self, client: &Client<'_>) -> String;

    /// The wire is open: what is said first.
    fn open(&self, client: &mut Client<'_>, out: &mut Outgoing) -> Said;

    /// Takes one whole message.
    ///
    /// # Errors
    /// Why the connection is of no use any more.
    fn handle(&self, client: &mut Client<'_>, message: &[u8], out: &mut Outgoing) -> Result<Said, Cause>;

    /// How long the first message of a stream is, if it is whole. Only for wires that do not cut by themselves.
    ///
    /// # Errors
    /// When no message can begin like this.
    fn message_len(&self, _client: &Client<'_>, bytes: &[u8]) -> Result<Option<usize>, Cause> {
        Ok(Some(bytes.len()))
    }

    /// Writes a request that will be answered, with `payload` in it. `false`: the protocol has none, or not this one.
    fn request(&self, client: &mut Client<'_>, payload: &[u8], out: &mut Outgoing) -> bool;

    /// Writes a publication on the connection itself. `false`: the protocol publishes by HTTP.
    fn publish(&self, _channel: u32, _audience: &Audience, _payload: &[u8], _out: &mut Outgoing) -> bool {
        false
    }
}
