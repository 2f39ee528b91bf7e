//! What of a peer hangs on time: its end, hook calls, pings.

use crate::base::bytes::Bytes;
use crate::base::time::Time;
use crate::hub::followed::ChannelIndex;
use crate::proto::unidirectional::notes::heartbeat;
use crate::proto::websocket::Opcode;
use crate::proto::wire::Carrier;
use crate::session::unidirectional::Mode;
use crate::shard::peer::{Kind, Peer};
use crate::shard::pings::Liveness;

const WEBSOCKET_PING: &[u8] = &[0x80 | Opcode::Ping as u8, 0];

impl Peer {
    /// When it is to be closed because what it showed has expired, unix seconds; 0 never. A client that can show
    /// something else has `delay_s` for that; a unidirectional client comes back with it.
    pub fn ends_at_s(&self, delay_s: u64) -> u64 {
        let (at, delay_s) = match &self.kind {
            Kind::Client(session) => (session.expire_at_s(), delay_s),
            Kind::Unidirectional(uni) => (uni.identity.as_ref().map_or(0, |known| known.expire_at_s), 0),
            Kind::Http(_) | Kind::Echo | Kind::Tunnel(_) | Kind::Nobody => (0, 0),
        };
        if at == 0 { 0 } else { at.saturating_add(delay_s) }
    }

    /// The same for the first of it and its subscriptions.
    pub fn next_end_s(&self, delay_s: u64) -> u64 {
        match &self.kind {
            Kind::Client(session) if session.next_expiry_s() != 0 => {
                session.next_expiry_s().saturating_add(delay_s)
            }
            _ => self.ends_at_s(delay_s),
        }
    }

    /// Subscriptions that had expired at `unix_s`.
    pub fn expired_subs(&self, unix_s: u64) -> Vec<ChannelIndex> {
        match &self.kind {
            Kind::Client(session) => session.expired_subs(unix_s),
            // They last as long as their connection.
            Kind::Http(_) | Kind::Echo | Kind::Unidirectional(_) | Kind::Tunnel(_) | Kind::Nobody => {
                Vec::new()
            }
        }
    }

    /// When the backend is to be asked whether it may go on (unix seconds).
    pub fn next_hook_call_s(&self) -> Option<u64> {
        match &self.kind {
            Kind::Client(session) => session.next_ask_s(),
            Kind::Http(_) | Kind::Echo | Kind::Unidirectional(_) | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// When the hook call that it waits for is given up.
    pub fn hook_call_until(&self) -> Option<Time> {
        match &self.kind {
            Kind::Client(session) => session.awaits().map(|(_, until)| until),
            Kind::Http(_) | Kind::Echo | Kind::Unidirectional(_) | Kind::Tunnel(_) | Kind::Nobody => None,
        }
    }

    /// How it shows that it lives; `None` for a peer that is not pinged.
    pub fn liveness(&self) -> Option<Liveness> {
        match &self.kind {
            Kind::Client(session) => Some(match session.wire().carrier {
                Carrier::WebSocket | Carrier::Stream | Carrier::Sse => Liveness::Pong,
                Carrier::WebSocketPings | Carrier::UniWebSocket => Liveness::PongUntilNext,
                Carrier::UniStream | Carrier::UniStreamPlain | Carrier::UniSse | Carrier::UniSsePlain => {
                    Liveness::Reads
                }
            }),
            Kind::Unidirectional(uni) if uni.is_websocket() => Some(Liveness::PongUntilNext),
            Kind::Unidirectional(uni) if matches!(uni.mode, Mode::Stream(_)) => Some(Liveness::Reads),
            Kind::Tunnel(_) => Some(Liveness::PongUntilNext),
            Kind::Http(_) | Kind::Echo | Kind::Unidirectional(_) | Kind::Nobody => None,
        }
    }

    /// The last ping has not been answered, as far as the state machine of the kind looks at that.
    pub fn ping_is_outstanding(&self) -> bool {
        match &self.kind {
            Kind::Client(session) if self.liveness() == Some(Liveness::Pong) => session.ping_outstanding(),
            // The link knows.
            Kind::Client(_) => true,
            Kind::Http(_) | Kind::Echo | Kind::Unidirectional(_) | Kind::Tunnel(_) | Kind::Nobody => true,
        }
    }

    /// A ping goes out: its frame.
    pub fn ping(&mut self) -> Bytes {
        let pongs = self.liveness() == Some(Liveness::Pong);
        match &mut self.kind {
            Kind::Client(session) => {
                if pongs {
                    session.ping();
                }
                Bytes::from_static(session.wire().ping())
            }
            Kind::Unidirectional(uni) => heartbeat(uni.encoding(), uni.chunked),
            Kind::Tunnel(_) => Bytes::from_static(WEBSOCKET_PING),
            Kind::Http(_) | Kind::Echo | Kind::Nobody => Bytes::new(),
        }
    }
}
