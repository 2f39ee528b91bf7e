//! A stream's life after its beginning: heartbeats, commands of plain WebSocket, gaps, the end.

use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::ids::ChannelName;
use crate::base::limits::BACKLOG_BYTES_MAX;
use crate::base::prng::Prng;
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::notes::Note;
use crate::proto::unidirectional::position::POSITION_CHANNELS_MAX;
use crate::session::request::{may_subscribe, user_of};
use crate::session::unidirectional::{AskedChannel, Mode};
use crate::shard::core::Core;
use crate::shard::unidirectional::deliver::position_text;
use crate::shard::view::View;

/// When a unidirectional client of events is to come back after its connection broke: soon, and not all at once.
const RETRY_MS: u64 = 1_000;
/// The same while the shard has more than it can take, or is about to end.
pub(super) const RETRY_BUSY_MS: u64 = 5_000;

/// At least that, and as much again at random.
pub fn spread(least_ms: u64, prng: &mut Prng) -> u64 {
    least_ms + prng.u64(0..=least_ms * 2)
}

impl Core {
    /// Milliseconds until a unidirectional client of events should come back: at least a minimum, and as much again at
    /// random.
    pub fn retry_ms(&mut self) -> u64 {
        let least = self.retry_least_ms();
        spread(least, &mut self.env.prng)
    }

    pub fn retry_least_ms(&self) -> u64 {
        let seats = &self.env.options.seats;
        let full = self.links.connections.len() * 10 > self.env.options.connections_max as usize * 9
            || u64::from(seats.taken()) * 10 > u64::from(seats.max()) * 9;
        let leaves = self.env.ending.is_some() || self.peers.departures.draining;
        let busy = leaves || full || self.delivery.followed.backlog_bytes() > BACKLOG_BYTES_MAX / 2;
        if busy { RETRY_BUSY_MS } else { RETRY_MS }
    }

    /// A command of plain WebSocket: `subscribe NAME`, `unsubscribe NAME` or `ping`.
    pub fn handle_uni_command(&mut self, slot: u32, text: &str) {
        let (verb, channel) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
        let outcome = match verb {
            "subscribe" => {
                self.admit_command(slot, None).and_then(|()| self.subscribe_uni(slot, channel.trim()))
            }
            "unsubscribe" => {
                self.unsubscribe_uni(slot, channel.trim());
                Ok(())
            }
            "ping" => {
                self.note(slot, &Note::Pong);
                Ok(())
            }
            _ => Err(ErrorCode::MethodNotFound),
        };
        let Err(error_code) = outcome else { return };
        self.env.stats.error_code(error_code);
        let bare =
            self.links.connections.uni(slot).map(|uni| uni.encoding()) == Some(Encoding::WebSocketBare);
        match bare {
            // It has no words for it but the code of a close.
            true => self.close(
                slot,
                match error_code {
                    ErrorCode::PermissionDenied | ErrorCode::UnknownChannel => Disconnect::PERMISSION_DENIED,
                    ErrorCode::LimitExceeded => Disconnect::CHANNEL_LIMIT,
                    ErrorCode::TooManyRequests => Disconnect::TOO_MANY_REQUESTS,
                    _ => Disconnect::BAD_REQUEST,
                },
            ),
            false => self.note(slot, &Note::Refused { channel, error_code }),
        }
    }

    fn subscribe_uni(&mut self, slot: u32, channel: &str) -> Result<(), ErrorCode> {
        let identity = self.links.connections.uni(slot).and_then(|r| r.identity.as_deref());
        let view = View { options: &self.env.options, followed: &self.delivery.followed };
        let shown = may_subscribe(channel, user_of(identity), &view)?;
        let known = self.delivery.followed.find(channel);
        let Some(uni) = self.links.connections.uni(slot) else {
            return Ok(());
        };
        if known.is_some_and(|index| uni.sub(index).is_some()) {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if uni.subs().len() >= self.env.options.channels_max.min(POSITION_CHANNELS_MAX) {
            return Err(ErrorCode::LimitExceeded);
        }
        let subscribe = AskedChannel::new(channel.into(), None, false, shown).subscribe(0);
        self.ask_to_join(slot, subscribe, None);
        Ok(())
    }

    /// The unidirectional client has become a subscriber in the middle of its stream.
    pub(super) fn subscribed(&mut self, slot: u32, name: &ChannelName) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let position = position_text(&self.delivery.followed, connection, None);
        self.note(slot, &Note::Subscribed { channel: name, position: &position });
    }

    fn unsubscribe_uni(&mut self, slot: u32, channel: &str) {
        if let Some(index) = self.delivery.followed.find(channel) {
            self.unsubscribe(slot, index, None);
        }
        self.note(slot, &Note::Unsubscribed { channel });
    }

    /// The unidirectional client hears that it has lost something in the channel, and where it goes on.
    pub fn note_reset(&mut self, slot: u32, channel: u32) {
        let name = self.delivery.followed.get(channel).name.clone();
        let Some(connection) = self.links.connections.get(slot) else { return };
        let position = position_text(&self.delivery.followed, connection, None);
        self.note(slot, &Note::Reset { channel: &name, position: &position });
    }

    /// A unidirectional client is to be ended. True when it is, or will be, by the answer to its request.
    pub fn end_request(&mut self, slot: u32, disconnect: &Disconnect) -> bool {
        let Some(uni) = self.links.connections.uni_mut(slot) else { return false };
        let ready = uni.is_ready();
        match (uni.mode, &mut uni.work) {
            (Mode::Stream(_), _) if !ready && disconnect.reconnects() => {
                self.env.stats.disconnect(disconnect);
                self.refuse_uni(slot, ErrorCode::TooManyRequests.into());
            }
            (Mode::Stream(_), _) | (_, None) => return false,
            (Mode::Poll | Mode::History | Mode::Publish, Some(work)) => {
                // The answer under way still goes out, and is the last one.
                work.reply.keep_alive = false;
                match &mut work.asking {
                    Some(asking) => asking.hold_ms = 0,
                    None if disconnect.reconnects() => self.answer_empty(slot),
                    None => self.refuse_uni(slot, ErrorCode::PermissionDenied.into()),
                }
            }
        }
        true
    }
}
