//! A unidirectional client without the client protocol as a state machine: its channels, and what is due to it.
//!
//! ```text
//!              ┌─ refused ─▶ problem
//!  asking ─────┼─ stream ──▶ streaming ──▶ end of stream
//!  (joins or   ├─ poll, nothing there ──▶ held ──▶ answer
//!   reads are  └─ poll with messages, history, publish ──▶ answer
//!   awaited)
//! ```
//! Inputs: the request, answers of channel owners. Outputs: what is complete. Must not know: sockets, frames, logs.
//!
//! A streaming unidirectional client keeps its subscriptions and nothing else; a held poll keeps, besides, what its
//! answer needs.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::base::budget::BudgetHeld;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::filter::Filters;
use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::publication::{Publications, Since};
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::notes::{Note, ending, write_note, write_note_with_retry};
use crate::proto::unidirectional::position::Positions;
use crate::proto::websocket;
pub use crate::session::asked_channel::AskedChannel;
use crate::session::identity::Identity;
use crate::session::joins::{JoinAnswer, JoinVerdict};
use crate::session::subscription::{ChannelIndex, Sub};
use crate::session::token::SubscribeGrant;

/// What a unidirectional client gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Messages as they come, framed for the kind.
    Stream(Encoding),
    /// One batch, awaited.
    Poll,
    /// One batch of the log.
    History,
    /// The position of what it has published.
    Publish,
}

/// Messages of one unidirectional client of plain WebSocket that a shard takes in one turn: what a client of the
/// protocol may have under way. Each is a command of its own and has an answer, and a read may hold nearly three
/// thousand.
pub const TURN_MESSAGES_MAX: usize = 64;

/// Plain data; an idle stream's whole state.
#[derive(Debug)]
pub struct Unidirectional {
    subs: SmallVec<[Sub; 2]>,
    pub identity: Option<Box<Identity>>,
    /// Present while something is awaited of an owner, and as long as a poll is held.
    pub work: Option<Box<UnidirectionalWork>>,
    /// Tells what it asked from what an earlier request of the same connection asked.
    pub id: u32,
    pub mode: Mode,
    /// Streamed lines go in chunks.
    pub chunked: bool,
    pub(super) filters: Option<Box<ChannelFilters>>,
}

/// Of subscriptions that have any.
pub(super) type ChannelFilters = Vec<(ChannelIndex, Arc<Filters>)>;

/// What the answer of a request needs until it is given.
#[derive(Debug, Default)]
pub struct UnidirectionalWork {
    pub reply: ReplyForm,
    /// Present until every owner has answered.
    pub asking: Option<Box<Asking>>,
    /// Input that came behind the request; few have any.
    pub unread: Option<Box<BudgetHeld>>,
}

// A held poll has one: with its slot it is most of what the poll costs.
const _: () = assert!(size_of::<UnidirectionalWork>() <= 32);

/// An origin as the browser sent it.
#[derive(Clone, Debug)]
pub struct Origin(pub Box<str>);

/// How to answer.
#[derive(Clone, Debug, Default)]
pub struct ReplyForm {
    /// The origin to name as allowed; `None` for a page of this host, and for what is no browser.
    pub origin: Option<Box<Origin>>,
    pub keep_alive: bool,
    pub http10: bool,
    /// HEAD: everything but the body.
    pub head_only: bool,
    pub gzip: bool,
    /// A held poll's position is one that the client has already: 304 if nothing comes.
    pub not_modified: bool,
    /// Most messages of the answer.
    pub limit: u16,
    /// The request is for an event stream: what is temporary is said in one, or its unidirectional client would never
    /// come back.
    pub events: bool,
}

impl ReplyForm {
    pub fn allowed_origin(&self) -> Option<&str> {
        self.origin.as_deref().map(|origin| &*origin.0)
    }
}

/// What is awaited, and what has come.
#[derive(Debug, Default)]
pub struct Asking {
    pub channels: Vec<AskedChannel>,
    /// Answers to come, and the place among the user's connections.
    pub outstanding: u32,
    /// Where users' connections are limited, until the user's owner has granted one.
    pub awaits_place: bool,
    /// What a stream begins with: the response's head.
    pub opening: Vec<u8>,
    /// How long a poll may be held, milliseconds; 0 not at all.
    pub hold_ms: u32,
    pub if_none_match: Option<Box<str>>,
    pub reverse: bool,
}

/// How a request goes on when one of its joins has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterJoin {
    /// Nothing is said: other answers are awaited, or this one was not.
    Wait,
    /// All have answered.
    Answer,
    /// A poll is content with a part of what it missed: the log may have that.
    ReadLog { since: Option<Since>, limit: usize },
    /// The whole request is refused.
    Refuse(ErrorCode),
    /// A stream that flows hears of its new channel.
    NoteSubscribed,
    /// The same when it does not get it.
    NoteRefused(ErrorCode),
}

impl AfterJoin {
    /// Nothing may be given to the client before the rest has been answered.
    pub fn waits(self) -> bool {
        matches!(self, AfterJoin::Wait | AfterJoin::ReadLog { .. })
    }
}

impl Unidirectional {
    pub fn new(id: u32, mode: Mode, identity: Option<Box<Identity>>) -> Unidirectional {
        Unidirectional {
            subs: SmallVec::new(),
            identity,
            work: None,
            id,
            mode,
            chunked: false,
            filters: None,
        }
    }

    pub fn encoding(&self) -> Encoding {
        match self.mode {
            Mode::Stream(encoding) => encoding,
            Mode::Poll | Mode::History | Mode::Publish => Encoding::Poll,
        }
    }

    /// Speaks WebSocket.
    pub fn is_websocket(&self) -> bool {
        matches!(self.mode, Mode::Stream(Encoding::WebSocketJson | Encoding::WebSocketBare))
    }

    /// Input of it is kept whose turn has not come.
    pub fn holds_input(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.unread.is_some())
    }

    /// Every owner has answered: a stream flows, a poll is held.
    pub fn is_ready(&self) -> bool {
        self.work.as_ref().is_none_or(|work| work.asking.is_none())
    }

    /// A stream that flows: it counts as a client.
    pub fn is_streaming(&self) -> bool {
        matches!(self.mode, Mode::Stream(_)) && self.is_ready()
    }

    /// What it gets must be made for it alone: its positions cover several channels, or it knows no chunks.
    pub fn has_own_frames(&self, channels: usize) -> bool {
        match self.mode {
            Mode::Stream(Encoding::WebSocketBare) => false,
            Mode::Stream(Encoding::JsonLines) => channels > 1 || !self.chunked,
            Mode::Stream(_) => channels > 1,
            Mode::Poll | Mode::History | Mode::Publish => true,
        }
    }

    /// The last bytes of a stream that ends for the reason; `retry_ms` says when a client of events is to come back.
    pub fn last_bytes(&mut self, disconnect: &Disconnect, retry_ms: impl FnOnce() -> u64) -> Vec<u8> {
        let Mode::Stream(kind) = self.mode else { return Vec::new() };
        let chunked = self.chunked;
        // One that is not answered yet hears its end in its own words: the stream begins and ends.
        let mut last = self.asking().map_or_else(Vec::new, |asking| std::mem::take(&mut asking.opening));
        let note = Note::Disconnect(disconnect);
        match kind {
            Encoding::WebSocketJson | Encoding::WebSocketBare => {
                websocket::write_close(&mut last, disconnect.code, &disconnect.reason);
                return last;
            }
            Encoding::Sse | Encoding::SsePlain
                if disconnect.reconnects() && *disconnect != Disconnect::FORCE_RECONNECT =>
            {
                write_note_with_retry(&mut last, kind, retry_ms(), &note);
            }
            _ => write_note(&mut last, kind, chunked, &note),
        }
        last.extend_from_slice(ending(kind, chunked));
        last
    }

    pub fn asking(&mut self) -> Option<&mut Asking> {
        self.work.as_mut()?.asking.as_deref_mut()
    }

    // --- subscriptions, as in `Session`

    pub fn subs(&self) -> &[Sub] {
        &self.subs
    }

    pub fn take_subs(&mut self) -> SmallVec<[Sub; 2]> {
        std::mem::take(&mut self.subs)
    }

    pub fn sub(&self, channel: ChannelIndex) -> Option<Sub> {
        Sub::find(&self.subs, channel)
    }

    /// The shard has asked the channel's owner to join under `number`; `at` is the channel's place in the request.
    pub fn join_asked(&mut self, channel: ChannelIndex, number: u32, at: u32) {
        debug_assert!(self.sub(channel).is_none());
        self.subs.push(Sub { channel: channel | Sub::PENDING, place: number });
        if let Some(asked) = self.asking().and_then(|asking| asking.channels.get_mut(at as usize)) {
            asked.index = channel;
        }
    }

    pub fn set_filters(&mut self, channel: ChannelIndex, filters: Option<&Arc<Filters>>) {
        if let Some(filters) = filters {
            self.filters.get_or_insert_default().push((channel, Arc::clone(filters)));
        }
    }

    /// What its subscription to the channel is filtered by.
    pub fn filters(&self, channel: ChannelIndex) -> Option<&Arc<Filters>> {
        self.filters.as_ref()?.iter().find_map(|(of, filters)| (*of == channel).then_some(filters))
    }

    /// In the place of none.
    pub(super) fn restore_subs(&mut self, subs: Vec<Sub>) {
        self.subs = subs.into();
    }

    /// It has its place among its user's connections. True when nothing else is awaited.
    pub fn handle_placed(&mut self) -> bool {
        let Some(asking) = self.asking().filter(|asking| asking.awaits_place) else { return false };
        asking.awaits_place = false;
        asking.outstanding -= 1;
        asking.outstanding == 0
    }

    /// A join has been answered.
    pub fn handle_joined(&mut self, channel: ChannelIndex, answer: JoinAnswer) -> (JoinVerdict, AfterJoin) {
        if !self.sub(channel).is_some_and(|sub| sub.awaits(answer.terms.number)) {
            return (JoinVerdict::Ignore, AfterJoin::Wait);
        }
        let (top, missed) = match answer.outcome {
            Ok(outcome) => outcome,
            Err(error_code) => {
                self.remove(channel);
                let after = match self.is_ready() {
                    true => AfterJoin::NoteRefused(error_code),
                    false => AfterJoin::Refuse(error_code),
                };
                return (JoinVerdict::Refused, after);
            }
        };
        let (polls, limit) = (self.mode == Mode::Poll, self.work.as_ref().map_or(0, |work| work.reply.limit));
        let subscribe = JoinVerdict::Subscribe { join_leaves: false };
        // In the middle of a stream it goes on from here.
        let Some(asking) = self.asking() else { return (subscribe, AfterJoin::NoteSubscribed) };
        let Some(asked) = asking.channels.get_mut(answer.terms.id as usize) else {
            debug_assert!(false, "a join has its place in the request");
            return (JoinVerdict::Leave, AfterJoin::Wait);
        };
        match answer.since {
            Some(Since::WHOLE) => asked.took_whole(),
            Some(since) => asked.began_at(since),
            None => {}
        }
        if asked.handle_joined(top, missed, polls) {
            return (subscribe, AfterJoin::ReadLog { since: asked.since(), limit: limit.into() });
        }
        asking.outstanding -= 1;
        (subscribe, if asking.outstanding > 0 { AfterJoin::Wait } else { AfterJoin::Answer })
    }

    /// A channel that has been joined has lost something before the request is answered; it goes on from `top`.
    pub fn handle_gap(&mut self, channel: ChannelIndex, top: Position) {
        let Some(asking) = self.asking() else { return };
        let joined = |asked: &&mut AskedChannel| asked.index == channel && asked.top.is_some();
        if let Some(asked) = asking.channels.iter_mut().find(joined) {
            asked.gap(top);
        }
    }

    /// The shard has put the connection at `place` of the channel's list, or has moved it there.
    pub fn set_place(&mut self, channel: ChannelIndex, place: u32) {
        Sub::set_place(&mut self.subs, channel, place);
    }

    pub fn remove(&mut self, channel: ChannelIndex) -> Option<Sub> {
        let at = self.subs.iter().position(|sub| sub.channel() == channel)?;
        if let Some(filters) = &mut self.filters {
            filters.retain(|(of, _)| *of != channel);
        }
        // In order: positions are written in the order of subscribing, so that equal ones are equal texts.
        Some(self.subs.remove(at))
    }
}

/// Who asks, as a request shows it.
#[derive(Clone, Debug, Default)]
pub struct UnidirectionalAdmission {
    pub identity: Option<Box<Identity>>,
    /// Channels that tokens and the connect hook open, whatever their namespace says, and the personal one.
    pub granted: Vec<(ChannelName, SubscribeGrant)>,
}

impl UnidirectionalAdmission {
    pub fn grant(&self, channel: &str) -> Option<&SubscribeGrant> {
        self.granted.iter().find(|(granted, _)| **granted == *channel).map(|(_, grant)| grant)
    }
}

/// In place of a position that is none of its channel: no log has this epoch (see [`Position::UNKNOWN`]), so what was
/// missed is lost.
pub const LOST: Position = Position::UNKNOWN;

/// Where each channel of a request was left, by its position.
///
/// # Errors
/// [`ErrorCode::BadRequest`] when the position is one of other channels altogether.
pub fn since(channels: &[ChannelName], positions: &Positions) -> Result<Vec<Option<Position>>, ErrorCode> {
    let since: Vec<_> = channels.iter().map(|channel| positions.get(channel)).collect();
    match positions.is_empty() || since.iter().any(Option::is_some) {
        true => Ok(since),
        false => Err(ErrorCode::BadRequest),
    }
}

/// The position after the last of `publications` that has one of its own.
pub fn last_offset(publications: &Publications) -> Option<Offset> {
    publications.iter().rev().map(|publication| publication.offset()).find(|&offset| offset != Offset(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bytes::Bytes;
    use crate::base::ids::Epoch;
    use crate::base::publication::{Encoded, Missed, Publication, SinceEpoch, Visibility};
    use crate::session::joins::{JoinOutcome, JoinTerms};
    use std::sync::Arc;

    fn at(offset: u64) -> Position {
        Position { offset: Offset(offset), epoch: Epoch(1) }
    }

    fn publications(offsets: impl IntoIterator<Item = u64>) -> Publications {
        let publication = |offset| {
            Arc::new(Publication {
                channel: "c".into(),
                position: at(offset),
                data: Bytes::from_static(b"1"),
                info: None,
                tags: Vec::new(),
                except: None,
                time_ms: 0,
                encoded: Encoded::default(),
            })
        };
        offsets.into_iter().map(publication).collect()
    }

    fn asked(since: Option<Position>, recoverable: bool) -> AskedChannel {
        AskedChannel::new("c".into(), since, recoverable, Visibility::default())
    }

    #[test]
    fn what_was_missed_is_given_where_it_may_be() {
        let mut given = asked(Some(at(3)), true);
        assert!(!given.handle_joined(at(5), Missed::Given(publications([4, 5])), true));
        assert_eq!((given.start(), given.publications.len(), given.lost), (Some(at(3)), 2, false));

        let mut forbidden = asked(Some(at(3)), false);
        assert!(!forbidden.handle_joined(at(5), Missed::Given(publications([4, 5])), true));
        assert_eq!((forbidden.start(), forbidden.publications.len(), forbidden.lost), (Some(at(5)), 0, true));

        let mut nothing = asked(Some(at(5)), false);
        assert!(!nothing.handle_joined(at(5), Missed::Given(Vec::new()), true));
        assert!(!nothing.lost);

        let mut new = asked(None, true);
        assert!(!new.handle_joined(at(5), Missed::NotAsked, true));
        assert_eq!((new.start(), new.lost), (Some(at(5)), false));
    }

    #[test]
    fn who_comes_without_a_position_may_get_what_was_published_last() {
        let rewinding = || {
            let newest = SinceEpoch::Newest { count: 2, from_ms: 0 };
            let rewind = Some(Since { offset: Offset(0), epoch: newest });
            AskedChannel { rewind, ..asked(None, false) }
        };
        assert_eq!(rewinding().subscribe(0).since, rewinding().rewind);
        let mut given = rewinding();
        assert!(!given.handle_joined(at(5), Missed::Given(publications([4, 5])), true));
        assert_eq!((given.start(), given.opens_at(), given.lost), (Some(at(3)), Some(at(3)), false));
        assert_eq!(given.publications.len(), 2);
        // What was published between the join and the answer is no loss to a client that had nothing.
        given.gap(at(9));
        assert_eq!((given.start(), given.publications.len(), given.lost), (Some(at(9)), 0, false));
        for nothing in [Missed::Given(Vec::new()), Missed::Lost] {
            let mut given = rewinding();
            assert!(!given.handle_joined(at(5), nothing, true));
            assert_eq!((given.start(), given.lost), (Some(at(5)), false));
        }
        // A position goes before.
        let mut returned = AskedChannel { since: Some(at(1)), recoverable: true, ..rewinding() };
        assert_ne!(returned.subscribe(0).since, returned.rewind);
    }

    #[test]
    fn who_gets_nothing_of_what_it_missed_stands_behind_it() {
        let mut stream = asked(Some(at(3)), true);
        assert!(!stream.handle_joined(at(5), Missed::Given(Vec::new()), true));
        assert_eq!((stream.start(), stream.lost), (Some(at(5)), false));
        let mut poll = asked(Some(at(3)), true);
        assert!(poll.handle_joined(at(9), Missed::Lost, true));
        poll.read_on(&publications(4..=7), Vec::new());
        assert_eq!((poll.start(), poll.first, poll.lost), (Some(at(7)), Some(Offset(4)), false));
        poll.read_on(&publications(4..=7), publications([5]));
        assert_eq!((poll.start(), poll.through), (Some(at(3)), Some(at(7))));
    }

    #[test]
    fn a_poll_reads_on_in_the_log_where_a_stream_is_told_that_it_lost() {
        let mut stream = asked(Some(at(1)), true);
        assert!(!stream.handle_joined(at(900), Missed::Lost, false) && stream.lost);

        let mut poll = asked(Some(at(1)), true);
        assert!(poll.handle_joined(at(900), Missed::Lost, true) && !poll.lost);
        poll.read_on(&publications(2..=301), publications(2..=301));
        assert_eq!((poll.publications.len(), poll.lost), (300, false));

        for gap in [publications(3..5), Vec::new()] {
            let mut poll = asked(Some(at(1)), true);
            poll.handle_joined(at(900), Missed::Lost, true);
            poll.read_on(&gap, gap.clone());
            assert!(poll.lost && poll.publications.is_empty());
        }
        let mut foreign = asked(Some(Position { offset: Offset(1), epoch: Epoch(2) }), true);
        assert!(!foreign.handle_joined(at(900), Missed::Lost, true) && foreign.lost);
    }

    #[test]
    fn what_is_lost_before_the_answer_is_said_in_it() {
        let mut uni = polling(vec![asked(Some(at(3)), true), asked(Some(at(1)), true), asked(None, true)]);
        let answers = [Missed::Given(publications([4, 5])), Missed::Lost, Missed::NotAsked];
        for (place, recovery) in answers.into_iter().enumerate() {
            let place = place as u32;
            uni.join_asked(3 + place, 10 + place, place);
            uni.handle_joined(3 + place, join_answer(10 + place, place, Ok((at(5), recovery))));
        }
        for channel in 3..6 {
            uni.handle_gap(channel, at(9));
        }
        let channels = &mut uni.asking().unwrap().channels;
        // The log is read still, and gives what would leave a hole.
        channels[1].read_on(&publications(2..=4), publications(2..=4));
        let after = channels.iter().map(|asked| (asked.start(), asked.publications.len(), asked.lost));
        let expected = [(Some(at(9)), 0, true), (Some(at(9)), 0, true), (Some(at(9)), 0, false)];
        assert_eq!(after.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn an_answer_to_an_earlier_request_is_not_taken_for_one_to_this() {
        let mut uni = polling(vec![asked(None, true)]);
        uni.join_asked(3, 7, 0);
        let verdict = |uni: &mut Unidirectional, channel, number| {
            uni.handle_joined(channel, join_answer(number, 0, Ok((at(5), Missed::NotAsked)))).0
        };
        assert_eq!(verdict(&mut uni, 3, 6), JoinVerdict::Ignore);
        assert_eq!(verdict(&mut uni, 4, 7), JoinVerdict::Ignore);
        assert_eq!(verdict(&mut uni, 3, 7), JoinVerdict::Subscribe { join_leaves: false });
        uni.set_place(3, 0);
        assert_eq!(verdict(&mut uni, 3, 7), JoinVerdict::Ignore);
        assert_eq!(uni.remove(3).and_then(Sub::place), Some(0));
    }

    fn polling(channels: Vec<AskedChannel>) -> Unidirectional {
        let mut uni = Unidirectional::new(7, Mode::Poll, None);
        let asking = Asking { outstanding: channels.len() as u32, channels, ..Asking::default() };
        let reply = ReplyForm { limit: 9, ..ReplyForm::default() };
        uni.work = Some(Box::new(UnidirectionalWork { reply, asking: Some(Box::new(asking)), unread: None }));
        uni
    }

    fn join_answer(number: u32, id: u32, outcome: JoinOutcome) -> JoinAnswer {
        let terms = JoinTerms { number, id, ..JoinTerms::default() };
        JoinAnswer { terms, since: None, outcome, cursors: None }
    }

    #[test]
    fn a_request_goes_on_when_its_last_join_is_answered() {
        let subscribe = JoinVerdict::Subscribe { join_leaves: false };
        let mut uni = polling(vec![asked(Some(at(1)), true), asked(None, true)]);
        uni.join_asked(3, 10, 0);
        uni.join_asked(4, 11, 1);
        // The log has what the join did not give: the request still waits for that.
        let (verdict, after) = uni.handle_joined(3, join_answer(10, 0, Ok((at(900), Missed::Lost))));
        let since = Since { offset: Offset(1), epoch: SinceEpoch::Known(Epoch(1)) };
        assert_eq!((verdict, after), (subscribe, AfterJoin::ReadLog { since: Some(since), limit: 9 }));
        uni.asking().unwrap().outstanding -= 1;
        let (_, after) = uni.handle_joined(4, join_answer(11, 1, Ok((at(5), Missed::NotAsked))));
        assert_eq!(after, AfterJoin::Answer);

        let mut uni = polling(vec![asked(None, true), asked(None, true)]);
        uni.join_asked(3, 10, 0);
        uni.join_asked(4, 11, 1);
        let (_, after) = uni.handle_joined(4, join_answer(11, 1, Ok((at(5), Missed::NotAsked))));
        assert!(after == AfterJoin::Wait && after.waits());
        let refused = uni.handle_joined(3, join_answer(10, 0, Err(ErrorCode::LimitExceeded)));
        assert_eq!(refused, (JoinVerdict::Refused, AfterJoin::Refuse(ErrorCode::LimitExceeded)));
        assert!(uni.sub(3).is_none() && uni.sub(4).is_some());
    }

    #[test]
    fn a_stream_that_flows_hears_what_came_of_its_command() {
        let mut uni = Unidirectional::new(7, Mode::Stream(Encoding::WebSocketJson), None);
        for (number, outcome, expected) in [
            (1, Ok((at(5), Missed::NotAsked)), AfterJoin::NoteSubscribed),
            (2, Err(ErrorCode::LimitExceeded), AfterJoin::NoteRefused(ErrorCode::LimitExceeded)),
        ] {
            uni.join_asked(number, number, 0);
            assert_eq!(uni.handle_joined(number, join_answer(number, 0, outcome)).1, expected);
            assert!(!expected.waits());
        }
    }

    #[test]
    fn a_held_poll_costs_less_than_its_bound_above_an_idle_client() {
        assert!(size_of::<Unidirectional>() <= size_of::<crate::session::Session>() + 16);
        assert!(size_of::<UnidirectionalWork>() <= 64, "{}", size_of::<UnidirectionalWork>());
    }

    #[test]
    fn a_position_of_other_channels_is_refused_and_a_part_of_one_is_not() {
        let mut text = Vec::new();
        crate::proto::unidirectional::position::write_position(&mut text, [("a", at(1))]);
        let positions = Positions::parse(std::str::from_utf8(&text).unwrap()).unwrap();
        assert_eq!(since(&["b".into()], &positions), Err(ErrorCode::BadRequest));
        assert_eq!(since(&["b".into(), "a".into()], &positions), Ok(vec![None, Some(at(1))]));
        assert_eq!(since(&["b".into()], &Positions::default()), Ok(vec![None]));
    }
}
