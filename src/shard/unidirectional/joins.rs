//! A unidirectional client's beginning: the answers of channel owners, until all have come.

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::ids::{ChannelName, Offset, Position};
use crate::hub::requests::{History, HistoryRequest};
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::notes::{Note, write_note, write_note_with_retry};
use crate::proto::unidirectional::position::write_position;
use crate::proto::unidirectional::{answer, frames};
use crate::session::unidirectional::{AfterJoin, Asking, Mode};
use crate::shard::audience::keep_matching;
use crate::shard::core::Core;
use crate::shard::framing::encoded;
use crate::shard::links::Action;
use crate::shard::owner::OwnerRequest;
use crate::shard::unidirectional::answers::{Caching, UnidirectionalAnswer};
use crate::shard::unidirectional::deliver::{own_frame, text_of};

impl Core {
    pub fn is_uni(&self, slot: u32) -> bool {
        self.links.connections.uni(slot).is_some()
    }

    /// The request whose join, of the channel at this place, has been answered goes on.
    pub fn go_on_after_join(&mut self, slot: u32, name: &ChannelName, at: u32, after: AfterJoin) {
        match after {
            AfterJoin::Wait => {}
            AfterJoin::Answer => self.uni_answered(slot),
            AfterJoin::ReadLog { since, limit } => {
                let Some(first) = self.links.connections.uni(slot).map(|uni| uni.id) else { return };
                let (conn, id) = (self.conn_id(slot), first.wrapping_add(at));
                let by = self.creator(slot, None);
                let ask = HistoryRequest {
                    channel: name.clone(),
                    limit: Some(limit),
                    since,
                    since_ms: None,
                    reverse: false,
                    by,
                };
                self.messages.mailer.request(OwnerRequest::History { conn, id, ask });
            }
            AfterJoin::Refuse(error_code) => self.refuse_uni(slot, error_code.into()),
            AfterJoin::NoteSubscribed => self.subscribed(slot, name),
            AfterJoin::NoteRefused(error_code) => {
                self.note(slot, &Note::Refused { channel: name, error_code });
            }
        }
    }

    /// A read of a channel's log for a unidirectional client has been answered.
    pub fn handle_uni_history(&mut self, slot: u32, id: u32, outcome: Result<History, ErrorCode>) {
        let Some(uni) = self.links.connections.uni_mut(slot) else {
            return;
        };
        let (first, mode) = (uni.id, uni.mode);
        let at = id.wrapping_sub(first) as usize;
        let mut own = outcome.as_ref().map_or_else(|_| Vec::new(), |read| read.publications.clone());
        let Some(asked) = uni.asking().and_then(|asking| asking.channels.get(at)) else { return };
        keep_matching(asked.filters.as_ref(), &mut own);
        self.keep_not_excepted(slot, &mut own);
        let Some(asking) = self.links.connections.uni_mut(slot).and_then(|uni| uni.asking()) else { return };
        let Some(asked) = asking.channels.get_mut(at) else { return };
        match outcome {
            Ok(History { publications, position, .. }) => {
                if mode == Mode::Poll {
                    asked.read_on(&publications, own);
                } else {
                    asked.top = Some(position);
                    asked.take_read(&publications, own);
                }
            }
            // The log has changed between the two asks: what was there is no longer.
            Err(_) if mode == Mode::Poll => asked.lost = true,
            Err(error_code) => return self.refuse_uni(slot, error_code.into()),
        }
        asking.outstanding -= 1;
        if asking.outstanding == 0 {
            self.uni_answered(slot);
        }
    }

    /// A publication of a unidirectional client's has been answered.
    pub fn handle_uni_published(&mut self, slot: u32, id: u32, outcome: Result<Position, ErrorCode>) {
        let Some(uni) = self.links.connections.uni_mut(slot) else {
            return;
        };
        if uni.id != id || uni.mode != Mode::Publish {
            return;
        }
        let position = match outcome {
            Ok(position) => position,
            Err(error_code) => return self.refuse_uni(slot, error_code.into()),
        };
        let Some(asked) = uni.asking().and_then(|asking| asking.channels.first()) else { return };
        let mut text = Vec::new();
        write_position(&mut text, [(&*asked.name, position)]);
        let body = answer::published(position, &text);
        self.answer_uni(slot, UnidirectionalAnswer::json(body.into(), Caching::Never));
    }

    /// Every owner has answered.
    pub fn uni_answered(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if let Some(pending) = &mut connection.link.pending
            && std::mem::take(&mut pending.held)
        {
            self.delivery.catching_up.push(slot);
        }
        let Some(uni) = connection.peer.uni_mut() else { return };
        let mode = uni.mode;
        let Some(asking) = uni.work.as_mut().and_then(|work| work.asking.take()) else { return };
        for asked in &asking.channels {
            match asked.lost {
                true => self.env.stats.counters.recoveries_lost_total += 1,
                false if asked.since.is_some() => self.env.stats.counters.recoveries_total += 1,
                false => {}
            }
        }
        match mode {
            Mode::Stream(kind) => self.open_stream(slot, kind, *asking),
            Mode::Poll => self.answer_or_hold(slot, *asking),
            Mode::History => self.answer_history(slot, *asking),
            // Has its own answer.
            Mode::Publish => {}
        }
    }

    /// Sends a stream's head, and what it has missed. What does not fit is fetched by the unidirectional client's
    /// return: the stream ends at a position that it knows.
    fn open_stream(&mut self, slot: u32, kind: Encoding, asking: Asking) {
        let Some(uni) = self.links.connections.uni_mut(slot) else {
            return;
        };
        let unread =
            uni.work.take().and_then(|work| work.unread).map_or_else(Vec::new, |mut unread| unread.take());
        let (chunked, own_frames) = (uni.chunked, uni.has_own_frames(asking.channels.len()));
        // Where it was left: a position beyond a loss goes out with the word of that loss and not before, or a
        // unidirectional client cut off between the two would never hear of it.
        let mut stand: Vec<(ChannelName, Position)> = asking
            .channels
            .iter()
            .filter_map(|asked| Some((asked.name.clone(), asked.opens_at()?)))
            .collect();
        self.env.stats.counters.streams_opened_total += 1;
        let mut out = asking.opening;
        let (position, retry_ms) = (text_of(&stand), self.retry_ms());
        let ready = Note::Ready { position: &position };
        match kind {
            Encoding::Sse | Encoding::SsePlain => write_note_with_retry(&mut out, kind, retry_ms, &ready),
            _ => write_note(&mut out, kind, chunked, &ready),
        }
        let lost = asking.channels.iter().any(|asked| asked.lost);
        for (at, asked) in asking.channels.iter().enumerate().filter(|(_, asked)| asked.lost) {
            if let (Some((_, stands)), Some(top)) = (stand.get_mut(at), asked.top) {
                *stands = top;
            }
            let position = text_of(&stand);
            write_note(&mut out, kind, chunked, &Note::Reset { channel: &asked.name, position: &position });
        }
        self.send(slot, out.into());
        self.begin_peer(slot);
        if lost && kind == Encoding::WebSocketBare {
            // It has no words for it but this.
            return self.close(slot, Disconnect::INSUFFICIENT_STATE);
        }
        let connection = self.links.connections.get(slot);
        let shared = connection.and_then(|connection| connection.encoding()).filter(|_| !own_frames);
        let encoding = shared.unwrap_or(kind.id());
        let mut budget = self.env.options.outbox_bytes_max / 2;
        for (at, asked) in asking.channels.iter().enumerate() {
            for publication in &asked.publications {
                if budget == 0 {
                    return self.close(slot, Disconnect::FORCE_RECONNECT);
                }
                if publication.offset() != Offset(0)
                    && let Some((_, stands)) = stand.get_mut(at)
                {
                    *stands = publication.position;
                }
                let frame = || frames::encode(kind, publication);
                let deflater = &mut self.links.compression.deflater;
                let frame = encoded(&publication.encoded, encoding, frame, deflater).clone();
                budget = budget.saturating_sub(frame.len());
                match own_frames {
                    false => self.send(slot, frame),
                    true => {
                        for part in own_frame(kind, chunked, publication, &frame, || text_of(&stand)) {
                            self.send(slot, part);
                        }
                    }
                }
            }
        }
        if !unread.is_empty() {
            // What a client of WebSocket says before it has its answer.
            self.links.actions.push(Action::ReadStart(slot));
            let mut unread = unread;
            self.handle_bytes(slot, &mut unread);
        }
    }

    /// Sends the unidirectional client a note in its own form.
    pub fn note(&mut self, slot: u32, note: &Note<'_>) {
        let Some(uni) = self.links.connections.uni(slot) else { return };
        let mut out = Vec::new();
        write_note(&mut out, uni.encoding(), uni.chunked, note);
        self.send(slot, Bytes::from(out));
    }
}
