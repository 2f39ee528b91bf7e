//! What the generator keeps of one connection.

use trunkline::base::time::Time;
use trunkline::proto::websocket::Decoder;

use crate::measure::Subscription;
use crate::profile::Audience;

/// Where a connection is in its life.
///
/// ```text
///  Free ─▶ Connecting ─▶ [Securing] ─▶ Upgrading ─▶ Subscribing ─▶ Ready ─▶ Closing ─▶ Free (or Connecting, when cut)
///              └─────────────┴─────────────┴─ any failure ─┴─────────┴─────────▲
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Free,
    Connecting,
    /// The TLS handshake goes on.
    Securing,
    /// The upgrade or GET is sent.
    Upgrading,
    /// The wire is open; the profile speaks.
    Subscribing,
    Ready,
    Closing,
}

/// It stopped reading at some time: its deliveries say nothing about the server.
pub const STALLED: u8 = 1;
/// A request of it waits for the reply.
pub const WAITING: u8 = 1 << 1;
/// It is closed to be opened again.
pub const RETURNS: u8 = 1 << 2;
/// The response's body comes in chunks.
pub const CHUNKED: u8 = 1 << 3;
/// Counted among the ready.
pub const ENTERED: u8 = 1 << 4;
/// Counted among its channels' subscribers: ready, and never stalled.
pub const COUNTED: u8 = 1 << 5;

/// The upgrade has agreed on compression.
pub const COMPRESSED: u8 = 1 << 6;

pub struct Conn {
    pub state: State,
    pub flags: u8,
    /// The profile's.
    pub step: u16,
    /// Which of its connects this is: a deadline of an older one means nothing.
    pub attempt: u16,
    /// Second of the run in which it was heard last.
    pub heard_s: u32,
    /// Begin of the connect; once ready, the planned time of the request that waits.
    pub since: Time,
    /// What is incomplete. `None` whenever it idles.
    pub partial: Option<Box<Partial>>,
    /// For recovery.
    pub positions: Option<Box<[u64]>>,
    pub subscriptions: Subscriptions,
}

const _: () = assert!(size_of::<Conn>() <= 80, "what an idle connection costs the generator");

/// An incomplete head, frame, or message.
#[derive(Default)]
pub struct Partial {
    pub bytes: Vec<u8>,
    /// A body's text that is no whole message yet.
    pub text: Vec<u8>,
    pub decoder: Option<Decoder>,
}

pub enum Subscriptions {
    One(Subscription),
    Many(Box<[Subscription]>),
}

impl Conn {
    pub fn new(number: u32, audience: &Audience) -> Conn {
        let mut channels = audience.channels_of(number);
        let subscriptions = match (audience.per_connection, channels.next()) {
            (1, Some(channel)) => Subscriptions::One(Subscription::new(channel)),
            (_, first) => {
                Subscriptions::Many(first.into_iter().chain(channels).map(Subscription::new).collect())
            }
        };
        Conn {
            state: State::Free,
            flags: 0,
            step: 0,
            attempt: 0,
            heard_s: 0,
            since: Time::ZERO,
            partial: None,
            positions: None,
            subscriptions,
        }
    }

    pub fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

impl Subscriptions {
    pub fn get_mut(&mut self, channel: u32) -> Option<&mut Subscription> {
        match self {
            Subscriptions::One(only) => (only.channel == channel).then_some(only),
            Subscriptions::Many(many) => many.iter_mut().find(|subscription| subscription.channel == channel),
        }
    }
}
