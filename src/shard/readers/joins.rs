//! A reader's beginning: the answers of channel owners, until all have come.

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::publication::{Publications, Since, Visibility};
use crate::hub::creators::Creator;
use crate::hub::requests::{History, HistoryRequest, JoinRequest};
use crate::proto::encoding::Encoding;
use crate::proto::reader::notes::{Note, write_note, write_note_with_retry};
use crate::proto::reader::position::write_position;
use crate::proto::reader::{answer, frames};
use crate::session::reader::{Asking, Mode, ReaderVerdict};
use crate::shard::core::Core;
use crate::shard::links::Action;
use crate::shard::owner::{JoinTag, OwnerRequest};
use crate::shard::peer::Kind;
use crate::shard::readers::answers::{Answer, Caching};
use crate::shard::readers::deliver::{own_frame, text_of};

impl Core {
    pub fn is_reader(&self, slot: u32) -> bool {
        self.links
            .connections
            .get(slot)
            .is_some_and(|connection| matches!(connection.peer.kind, Kind::Reader(_)))
    }

    /// Asks a channel's owner to make the reader a subscriber.
    pub fn ask_reader_join(
        &mut self,
        slot: u32,
        channel: ChannelName,
        since: Option<Since>,
        shown: Visibility,
        id: u32,
    ) {
        let conn = self.conn_id(slot);
        let Ok(options) = self.env.options.namespaces.resolve(&channel) else { return };
        let identity = self.links.connections.reader(slot).and_then(|r| r.identity.as_deref());
        let mut info = self.reader_info(slot, identity);
        let index = self.delivery.local.join_asked(&channel, options);
        let Some(reader) = self.links.connections.reader_mut(slot) else {
            return;
        };
        let at = id.wrapping_sub(reader.id) as usize;
        reader.join_asked(index, id);
        if let Some(asked) = reader.asking().and_then(|asking| asking.channels.get_mut(at)) {
            asked.index = index;
            info.chan_info = asked.chan_info.take();
        }
        let by = Creator::client(Some(&info.user), conn);
        let ask = JoinRequest { channel, conn, info, shown, recover: since, by };
        let tag =
            JoinTag { index, number: id, id, flags: 0, reject_unrecovered: false, data: None, done: None };
        self.messages.mailer.request(OwnerRequest::Join { ask, tag });
    }

    /// A join of a reader has been answered.
    pub fn handle_reader_joined(
        &mut self,
        slot: u32,
        name: &ChannelName,
        tag: &JoinTag,
        outcome: Result<(Position, Option<Option<Publications>>), ErrorCode>,
    ) {
        let Some(reader) = self.links.connections.reader_mut(slot) else {
            return;
        };
        if reader.joined(tag.index, tag.id) == ReaderVerdict::Ignore {
            return;
        }
        let (top, recovery) = match outcome {
            Ok(outcome) => outcome,
            Err(error_code) => {
                reader.remove(tag.index);
                match reader.is_ready() {
                    true => self.note(slot, &Note::Refused { channel: name, error_code }),
                    false => self.refuse_reader(slot, error_code.into()),
                }
                return;
            }
        };
        let (first, mode) = (reader.id, reader.mode);
        let Some(work) = reader.work.as_mut().filter(|work| work.asking.is_some()) else {
            // Subscribed in the middle of a stream: it goes on from here.
            self.add_subscriber(slot, tag.index, false, top.offset, false);
            self.subscribed(slot, name);
            return;
        };
        let limit = usize::from(work.reply.limit);
        let Some(asking) = &mut work.asking else { return };
        let Some(asked) = asking.channels.get_mut(tag.id.wrapping_sub(first) as usize) else { return };
        let reads_on = asked.joined(top, recovery, mode == Mode::Poll);
        let since = asked.since();
        if !reads_on {
            asking.outstanding -= 1;
        }
        let waits = asking.outstanding > 0;
        self.add_subscriber(slot, tag.index, false, top.offset, waits);
        if reads_on {
            let (conn, id) = (self.conn_id(slot), tag.id);
            let by = Creator::Connection(conn);
            let ask = HistoryRequest { channel: name.clone(), limit: Some(limit), since, reverse: false, by };
            self.messages.mailer.request(OwnerRequest::History { conn, id, ask });
        } else if !waits {
            self.reader_answered(slot);
        }
    }

    /// A read of a channel's log for a reader has been answered.
    pub fn handle_reader_history(&mut self, slot: u32, id: u32, outcome: Result<History, ErrorCode>) {
        let Some(reader) = self.links.connections.reader_mut(slot) else {
            return;
        };
        let (first, mode) = (reader.id, reader.mode);
        let Some(asking) = reader.asking() else { return };
        let Some(asked) = asking.channels.get_mut(id.wrapping_sub(first) as usize) else { return };
        match outcome {
            Ok(History { publications, position }) => {
                if mode == Mode::Poll {
                    asked.read_on(publications);
                } else {
                    asked.top = Some(position);
                    asked.publications = publications;
                }
            }
            // The log has changed between the two asks: what was there is no longer.
            Err(_) if mode == Mode::Poll => asked.lost = true,
            Err(error_code) => return self.refuse_reader(slot, error_code.into()),
        }
        asking.outstanding -= 1;
        if asking.outstanding == 0 {
            self.reader_answered(slot);
        }
    }

    /// A publication of a reader's has been answered.
    pub fn handle_reader_published(&mut self, slot: u32, id: u32, outcome: Result<Position, ErrorCode>) {
        let Some(reader) = self.links.connections.reader_mut(slot) else {
            return;
        };
        if reader.id != id || reader.mode != Mode::Publish {
            return;
        }
        let position = match outcome {
            Ok(position) => position,
            Err(error_code) => return self.refuse_reader(slot, error_code.into()),
        };
        let Some(asked) = reader.asking().and_then(|asking| asking.channels.first()) else { return };
        let mut text = Vec::new();
        write_position(&mut text, [(&*asked.name, position)]);
        let body = answer::published(position, &text);
        self.answer_reader(slot, Answer::json(body.into(), Caching::Never));
    }

    /// Every owner has answered.
    pub fn reader_answered(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get_mut(slot) else { return };
        if let Some(lag) = &mut connection.link.lag
            && std::mem::take(&mut lag.held)
        {
            self.delivery.catching_up.push(slot);
        }
        let Kind::Reader(reader) = &mut connection.peer.kind else { return };
        let mode = reader.mode;
        let Some(asking) = reader.work.as_mut().and_then(|work| work.asking.take()) else { return };
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

    /// Sends a stream's head, and what it has missed. What does not fit is fetched by the reader's return: the stream
    /// ends at a position that it knows.
    fn open_stream(&mut self, slot: u32, kind: Encoding, asking: Asking) {
        let Some(reader) = self.links.connections.reader_mut(slot) else {
            return;
        };
        let unread =
            reader.work.take().and_then(|work| work.unread).map_or_else(Vec::new, |mut unread| unread.take());
        let (chunked, own_frames) = (reader.chunked, reader.has_own_frames(asking.channels.len()));
        // Where it was left: a position beyond a loss goes out with the word of that loss and not before, or a reader
        // cut off between the two would never hear of it.
        let mut stand: Vec<(ChannelName, Position)> = asking
            .channels
            .iter()
            .filter_map(|asked| Some((asked.name.clone(), asked.since.or(asked.top)?)))
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
                let frame = publication
                    .encoded
                    .get_or_encode(kind.id(), || frames::encode(kind, publication))
                    .clone();
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

    /// Sends the reader a note in its own form.
    pub fn note(&mut self, slot: u32, note: &Note<'_>) {
        let Some(reader) = self.links.connections.reader(slot) else { return };
        let mut out = Vec::new();
        write_note(&mut out, reader.encoding(), reader.chunked, note);
        self.send(slot, Bytes::from(out));
    }
}
