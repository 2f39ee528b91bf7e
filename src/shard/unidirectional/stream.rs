//! A stream's life after its beginning: heartbeats, commands of plain WebSocket, gaps, the end.

use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::ids::ChannelName;
use crate::base::limits::BACKLOG_BYTES_MAX;
use crate::hub::options::GapPolicy;
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::notes::{Note, ending, write_note, write_note_with_retry};
use crate::proto::unidirectional::position::POSITION_CHANNELS_MAX;
use crate::proto::websocket;
use crate::session::request::{may_subscribe, user_of};
use crate::session::unidirectional::{Asked, Mode};
use crate::shard::core::Core;
use crate::shard::link::ClosingEnd;
use crate::shard::peer::Kind;
use crate::shard::unidirectional::deliver::position_text;
use crate::shard::view::View;

/// When a unidirectional client of events is to come back after its connection broke: soon, and not all at once.
const RETRY_MS: u64 = 1_000;
/// The same while the shard has more than it can take, or is about to end.
pub(super) const RETRY_BUSY_MS: u64 = 5_000;

impl Core {
    /// Milliseconds until a unidirectional client of events should come back: at least a minimum, and as much again at
    /// random.
    pub fn retry_ms(&mut self) -> u64 {
        let seats = &self.env.options.seats;
        let full = self.links.connections.len() * 10 > self.env.options.connections_max as usize * 9
            || u64::from(seats.taken()) * 10 > u64::from(seats.max()) * 9;
        let busy =
            self.env.ending.is_some() || full || self.delivery.local.backlog_bytes() > BACKLOG_BYTES_MAX / 2;
        let least = if busy { RETRY_BUSY_MS } else { RETRY_MS };
        least + self.env.prng.u64(0..=least * 2)
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
        let view = View { options: &self.env.options, local: &self.delivery.local };
        let shown = may_subscribe(channel, user_of(identity), &view)?;
        let known = self.delivery.local.find(channel);
        let Some(uni) = self.links.connections.uni(slot) else {
            return Ok(());
        };
        if known.is_some_and(|index| uni.sub(index).is_some()) {
            return Err(ErrorCode::AlreadySubscribed);
        }
        if uni.subs().len() >= self.env.options.channels_max.min(POSITION_CHANNELS_MAX) {
            return Err(ErrorCode::LimitExceeded);
        }
        let subscribe = Asked::new(channel.into(), None, false, shown).subscribe(0);
        self.ask_to_join(slot, subscribe, None);
        Ok(())
    }

    /// The unidirectional client has become a subscriber in the middle of its stream.
    pub(super) fn subscribed(&mut self, slot: u32, name: &ChannelName) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let position = position_text(&self.delivery.local, connection, None);
        self.note(slot, &Note::Subscribed { channel: name, position: &position });
    }

    fn unsubscribe_uni(&mut self, slot: u32, channel: &str) {
        if let Some(index) = self.delivery.local.find(channel) {
            self.unsubscribe(slot, index, None);
        }
        self.note(slot, &Note::Unsubscribed { channel });
    }

    /// The cursor of a unidirectional client has fallen off the log's tail. False when the connection is closed for it,
    /// or answered.
    pub fn handle_uni_gap(&mut self, slot: u32, channel: u32, policy: GapPolicy) -> bool {
        let Some(uni) = self.links.connections.uni(slot) else {
            return false;
        };
        if uni.mode == Mode::Poll {
            self.reset_poll(slot, channel);
            return false;
        }
        if policy == GapPolicy::Close {
            self.close(slot, Disconnect::SLOW);
            return false;
        }
        if uni.encoding() == Encoding::WebSocketBare {
            self.close(slot, Disconnect::INSUFFICIENT_STATE);
            return false;
        }
        // It goes on from the newest end, and is told that it does.
        let Some((_, place)) = self.place_of(slot, channel) else { return true };
        let entry = self.delivery.local.get(channel);
        let (stream, name, stands) = (entry.stream(), entry.name.clone(), entry.cursor_of(place));
        let Some(connection) = self.links.connections.get_mut(slot) else { return false };
        if let Some(cursor) = connection.link.lag.as_mut().and_then(|lag| lag.cursor(channel)) {
            *cursor = stream.moved(*cursor, stream.end());
        } else if stands != stream.end() {
            // What is not delivered yet is from before the reset.
            let lag = connection.link.lag.get_or_insert_default();
            lag.cursors.push((channel, stream.cursor(stream.end())));
            self.delivery.local.cursor_set(channel, place);
        }
        self.delivery.catching_up.push(slot);
        let Some(connection) = self.links.connections.get(slot) else { return false };
        let position = position_text(&self.delivery.local, connection, None);
        self.note(slot, &Note::Reset { channel: &name, position: &position });
        true
    }

    /// Ends a unidirectional client for the given reason.
    pub fn close_uni(&mut self, slot: u32, disconnect: Disconnect) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        let blocked = connection.link.is_blocked();
        let Kind::Unidirectional(uni) = &mut connection.peer.kind else { return };
        let (mode, chunked) = (uni.mode, uni.chunked);
        if let (Mode::Poll | Mode::History | Mode::Publish, Some(work)) = (mode, &mut uni.work) {
            // The answer under way still goes out, and is the last one.
            work.reply.keep_alive = false;
            match &mut work.asking {
                Some(asking) => asking.hold_ms = 0,
                None if disconnect.reconnects() => self.answer_empty(slot),
                None => self.refuse_uni(slot, ErrorCode::PermissionDenied.into()),
            }
            return;
        }
        self.env.stats.disconnect(&disconnect);
        let Mode::Stream(kind) = mode else { return };
        let mut last = Vec::new();
        if !uni.is_ready() {
            if disconnect.reconnects() {
                return self.refuse_uni(slot, ErrorCode::TooManyRequests.into());
            }
            // It is not to come back, and hears that in its own words: the stream begins and ends.
            last = uni.asking().map_or_else(Vec::new, |asking| std::mem::take(&mut asking.opening));
        }
        self.owned.events.note_end(slot, &disconnect);
        if blocked && disconnect == Disconnect::SLOW {
            // As for a client: what it does not read, it would not read either.
            return self.give_up(slot);
        }
        if matches!(kind, Encoding::WebSocketJson | Encoding::WebSocketBare) {
            websocket::write_close(&mut last, disconnect.code, &disconnect.reason);
            return self.leave_protocol(slot, last.into(), ClosingEnd::PeersClose);
        }
        let note = Note::Disconnect(&disconnect);
        match kind {
            Encoding::Sse | Encoding::SsePlain
                if disconnect.reconnects() && disconnect != Disconnect::FORCE_RECONNECT =>
            {
                let retry_ms = self.retry_ms();
                write_note_with_retry(&mut last, kind, retry_ms, &note);
            }
            _ => write_note(&mut last, kind, chunked, &note),
        }
        last.extend_from_slice(ending(kind, chunked));
        self.leave_protocol(slot, last.into(), ClosingEnd::Fin);
    }
}
