//! Polls: answered at once, or held until something comes or the time is over. And the log read at once.

use std::sync::Arc;

use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::publication::{Publication, Publications};
use crate::hub::followed::{Active, ChannelIndex, Item, Seq};
use crate::proto::unidirectional::answer::{BatchBody, matches_tag};
use crate::session::unidirectional::{Asking, Mode};
use crate::shard::audience::{is_filtered, is_kept_from};
use crate::shard::core::Core;
use crate::shard::unidirectional::answers::{Caching, UnidirectionalAnswer, millis};
use crate::shard::unidirectional::deliver::{position_text, text_of};

impl Core {
    /// Whether the connection is a poll whose owners have answered.
    pub fn is_held_poll(&self, slot: u32) -> bool {
        self.links.connections.uni(slot).is_some_and(|uni| uni.mode == Mode::Poll && uni.is_ready())
    }

    /// Every channel of a poll has been joined.
    pub(super) fn answer_or_hold(&mut self, slot: u32, asking: Asking) {
        let missed = asking.channels.iter().any(|asked| asked.lost || !asked.publications.is_empty());
        let ended = self.env.ending.is_some()
            || self.links.connections.get(slot).is_some_and(|connection| connection.link.peer_ended());
        let mut stand: Vec<(ChannelName, Position)> = Vec::with_capacity(asking.channels.len());
        for asked in &asking.channels {
            stand.extend(asked.start().map(|start| (asked.name.clone(), start)));
        }
        if missed {
            let mut batch = self.batch(slot);
            for (at, asked) in asking.channels.iter().enumerate() {
                if let (Some((_, stands)), Some(top), true) = (stand.get_mut(at), asked.top, asked.whole) {
                    asked.publications.iter().for_each(|publication| batch.body.push(publication));
                    *stands = top;
                } else if let Some((_, stands)) = stand.get_mut(at)
                    && batch.take(&asked.publications, stands)
                    && let Some(through) = asked.through.filter(|_| !asked.lost)
                {
                    *stands = through;
                }
            }
            let reset: Vec<&str> =
                asking.channels.iter().filter(|asked| asked.lost).map(|asked| &*asked.name).collect();
            self.answer_poll(slot, batch.body, &text_of(&stand), &reset, asking.if_none_match.as_deref());
            return;
        }
        let text = text_of(&stand);
        let known = asking.if_none_match.as_deref().is_some_and(|tags| matches_tag(tags, text_str(&text)));
        if let Some(work) = self.links.connections.uni_mut(slot).and_then(|r| r.work.as_mut()) {
            work.reply.not_modified = known;
        }
        if asking.hold_ms == 0 || ended {
            return self.answer_poll(slot, BatchBody::default(), &text, &[], None);
        }
        self.env.stats.counters.polls_held_total += 1;
        self.timer_in(slot, millis(asking.hold_ms));
    }

    /// Whether a batch that is not yet taken from the stream has what a held poll of the channel waits for next. One
    /// that stands elsewhere, or whose socket is full, stays where it is: see `catch_up.rs`.
    pub fn meets(&self, slot: u32, index: ChannelIndex, active: Active) -> bool {
        let Some(connection) = self.links.connections.get(slot) else { return false };
        let Some(pending) = &connection.link.pending else { return true };
        if pending.blocked || pending.held {
            return false;
        }
        let stream = self.delivery.followed.get(index).stream();
        pending.cursor_in(index).is_none_or(|cursor| {
            cursor.seq >= active.start && cursor.seq <= active.end && stream.reaches(cursor)
        })
    }

    /// A batch of a channel meets a held poll, see [`Core::meets`]. `items` are its publications; the stream may have
    /// them no more.
    pub fn answer_held(
        &mut self,
        slot: u32,
        index: ChannelIndex,
        active: Active,
        items: &[(Seq, Arc<Publication>)],
    ) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        if !self.is_held_poll(slot) {
            return;
        }
        let cursor = connection.link.pending.as_ref().and_then(|pending| pending.cursor_in(index));
        let from = cursor.map_or(0, |cursor| items.partition_point(|(seq, _)| *seq < cursor.seq));
        let news = items[from..].iter().map(|(_, publication)| publication);
        let filters = connection.peer.filters(index);
        let news = news.filter(|publication| {
            !is_kept_from(&self.peers, &connection.peer, publication)
                && filters.is_none_or(|filters| filters.match_all(&publication.tags))
        });
        let news: Publications = match cursor {
            Some(cursor) if cursor.skips => {
                news.filter(|publication| !cursor.has_had_offset(publication.offset())).cloned().collect()
            }
            _ => news.cloned().collect(),
        };
        if !news.is_empty() {
            return self.answer_with(slot, index, &news);
        }
        let Some(cursor) = cursor else { return };
        let Some((_, place)) = self.place_of(slot, index) else { return };
        self.cursor_moved(slot, index, place, cursor, active.end);
    }

    /// A held poll whose socket was full, or that joined several channels one after the other, looks for itself.
    /// True when it has been answered.
    pub fn catch_up_poll(&mut self, slot: u32) -> bool {
        let Some(connection) = self.links.connections.get(slot) else { return false };
        let Some(pending) = connection.link.pending.as_ref() else { return false };
        for (index, cursor) in pending.cursors.clone() {
            let stream = self.delivery.followed.get(index).stream();
            if !stream.reaches(cursor) {
                continue;
            }
            let news: Publications = stream
                .from(cursor.seq)
                .filter_map(|item| match item {
                    Item::Publication(publication)
                        if !cursor.has_had(item)
                            && !is_kept_from(&self.peers, &connection.peer, publication)
                            && !is_filtered(&connection.peer, index, item) =>
                    {
                        Some(publication.clone())
                    }
                    _ => None,
                })
                .collect();
            if !news.is_empty() {
                self.answer_with(slot, index, &news);
                return true;
            }
        }
        false
    }

    /// What a held poll would have got is gone: its answer says so.
    pub fn reset_poll(&mut self, slot: u32, index: ChannelIndex) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let channel = self.delivery.followed.get(index);
        let name = channel.name.clone();
        let here = channel.top().map(|top| (index, top));
        let text = position_text(&self.delivery.followed, connection, here);
        self.answer_poll(slot, BatchBody::default(), &text, &[&name], None);
    }

    /// The time of a held poll is over, or its connection is about to end.
    pub fn answer_empty(&mut self, slot: u32) {
        let Some(connection) = self.links.connections.get(slot) else { return };
        let text = position_text(&self.delivery.followed, connection, None);
        self.answer_poll(slot, BatchBody::default(), &text, &[], None);
    }

    pub fn handle_poll_timer(&mut self, slot: u32) {
        if self.is_held_poll(slot) {
            self.answer_empty(slot);
        }
    }

    /// What a held poll missed while its socket was full has come from the channel's log.
    pub fn answer_missed(&mut self, slot: u32, index: ChannelIndex, missed: &Publications) {
        if !missed.is_empty() {
            self.answer_with(slot, index, missed);
        }
    }

    fn answer_with(&mut self, slot: u32, index: ChannelIndex, news: &Publications) {
        let mut batch = self.batch(slot);
        let Some(connection) = self.links.connections.get(slot) else { return };
        // Before the first that moves it, it stands one before that; without one, where its channel stands.
        let first = news.iter().find(|publication| publication.offset() != Offset(0));
        let mut here =
            first.map(|first| Position { offset: Offset(first.offset().0 - 1), epoch: first.position.epoch });
        let mut nowhere = Position { offset: Offset(0), epoch: crate::base::ids::Epoch(0) };
        batch.take(news, here.as_mut().unwrap_or(&mut nowhere));
        let text = position_text(&self.delivery.followed, connection, here.map(|here| (index, here)));
        self.answer_poll(slot, batch.body, &text, &[], None);
    }

    /// Messages go out, and the unidirectional client with them. With no news to a client that has this position
    /// already: 304.
    fn answer_poll(
        &mut self,
        slot: u32,
        body: BatchBody,
        position: &[u8],
        reset: &[&str],
        if_none_match: Option<&str>,
    ) {
        let known = self
            .links
            .connections
            .uni(slot)
            .and_then(|uni| uni.work.as_ref())
            .is_some_and(|work| work.reply.not_modified);
        let tag = text_str(position);
        let unmodified = reset.is_empty()
            && match body.is_empty() {
                true => known,
                // The same request had the same answer.
                false => if_none_match.is_some_and(|tags| matches_tag(tags, tag)),
            };
        self.env.stats.counters.polls_answered_total += 1;
        self.env.stats.counters.deliveries_total += body.messages() as u64;
        let (status, body) = match unmodified {
            true => (304, Vec::new()),
            false => (200, body.finish(position, reset)),
        };
        let answer = UnidirectionalAnswer {
            status,
            tag: Some(tag),
            ..UnidirectionalAnswer::json(body, Caching::Revalidate)
        };
        self.answer_uni(slot, answer);
    }

    /// The log has been read.
    pub(super) fn answer_history(&mut self, slot: u32, asking: Asking) {
        let mut batch = self.batch(slot);
        let mut stand: Vec<(ChannelName, Position)> = Vec::with_capacity(asking.channels.len());
        let mut reset: Vec<&str> = Vec::new();
        let mut oldest = 0;
        for asked in &asking.channels {
            let Some(top) = asked.top else { continue };
            let publications = &asked.publications;
            let (first, is_empty) = (asked.first.unwrap_or(top.offset), asked.first.is_none());
            oldest ^= first.0;
            let since = asked.since.filter(|since| since.epoch == top.epoch);
            let mut stands = match (since, asking.reverse) {
                (Some(since), _) => since,
                (None, true) => Position { offset: top.offset.next(), ..top },
                // Without a position the log is read from its oldest on: what is before that is not missed.
                (None, false) if is_empty => top,
                (None, false) => Position { offset: Offset(first.0.saturating_sub(1)), ..top },
            };
            let holed = !asking.reverse
                && since.is_some_and(|since| match is_empty {
                    true => since.offset < top.offset && batch.limit > 0,
                    false => first != since.offset.next(),
                });
            if holed {
                reset.push(&asked.name);
                if is_empty {
                    stands = top;
                }
            }
            if batch.take(publications, &mut stands) {
                stands = asked.through.unwrap_or(stands);
            }
            stand.push((asked.name.clone(), stands));
        }
        let text = text_of(&stand);
        let messages = batch.body.messages();
        // What is read changes with the position it leads to, with what is before it, and with its length.
        let tag = format!("{}.{oldest:x}.{messages:x}", text_str(&text));
        let known = asking.if_none_match.as_deref().is_some_and(|tags| matches_tag(tags, &tag));
        self.env.stats.counters.history_reads_total += 1;
        let (status, body) = match known {
            true => (304, Vec::new()),
            false => (200, batch.body.finish(&text, &reset)),
        };
        let answer = UnidirectionalAnswer {
            status,
            tag: Some(&tag),
            ..UnidirectionalAnswer::json(body, Caching::Revalidate)
        };
        self.answer_uni(slot, answer);
    }

    fn batch(&self, slot: u32) -> PollBatch {
        let limit = self
            .links
            .connections
            .uni(slot)
            .and_then(|uni| uni.work.as_ref())
            .map_or(0, |work| work.reply.limit);
        let reading = self.links.connections.uni(slot).is_some_and(|uni| uni.mode == Mode::History);
        // A poll that may have nothing would be held for ever.
        let limit = if reading { limit } else { limit.max(1) };
        PollBatch {
            body: BatchBody::default(),
            limit: limit.into(),
            bytes_max: self.env.options.outbox_bytes_max,
        }
    }
}

/// Messages up to a number and a size; at least one, whatever its size.
struct PollBatch {
    body: BatchBody,
    limit: usize,
    bytes_max: usize,
}

impl PollBatch {
    /// Adds what fits of `publications`, and moves `stands` to behind the last that was added. True when all fit.
    fn take(&mut self, publications: &Publications, stands: &mut Position) -> bool {
        for publication in publications {
            let messages = self.body.messages();
            if messages >= self.limit
                || messages > 0 && self.body.len() + publication.weight() > self.bytes_max
            {
                return false;
            }
            self.body.push(publication);
            if publication.offset() != Offset(0) {
                *stands = publication.position;
            }
        }
        true
    }
}

/// A position's text is ASCII.
fn text_str(text: &[u8]) -> &str {
    std::str::from_utf8(text).unwrap_or_default()
}
