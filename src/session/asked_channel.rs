//! One channel of a unidirectional client's request: where it was left, and what the channel's owner says.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::filter::Filters;
use crate::base::ids::{ChannelName, Offset, Position};
use crate::base::publication::{Missed, Publications, Since, SinceEpoch, Visibility};
use crate::session::context::SubscribeEffect;
use crate::session::identity::Renewal;
use crate::session::rights::flags_of;
use crate::session::subscription::ChannelIndex;

/// One channel that the request names.
#[derive(Debug)]
pub struct AskedChannel {
    pub name: ChannelName,
    /// The shard's number of it, once a join has been asked.
    pub index: ChannelIndex,
    pub since: Option<Position>,
    /// What was missed may be given.
    pub recoverable: bool,
    /// Where the channel's log ended when it answered.
    pub top: Option<Position>,
    /// Of what the log gave, what is for this client.
    pub publications: Publications,
    /// Behind all that the log gave: where it stands when it has been given these.
    pub through: Option<Position>,
    pub first: Option<Offset>,
    pub lost: bool,
    /// JSON that others see of the subscription.
    pub chan_info: Option<Bytes>,
    pub shown: Visibility,
    /// Publications are left out that these do not match.
    pub filters: Option<Arc<Filters>>,
    /// How often it is given something, where that is slower than its channel.
    pub deliver_every: DeliverEvery,
    /// Without a position: what of the log it gets all the same.
    pub rewind: Option<Since>,
    /// `publications` are all values of the channel: a part of them is of no use.
    pub whole: bool,
}

impl AskedChannel {
    pub fn new(
        name: ChannelName,
        since: Option<Position>,
        recoverable: bool,
        shown: Visibility,
    ) -> AskedChannel {
        AskedChannel {
            name,
            index: 0,
            since,
            recoverable,
            shown,
            top: None,
            publications: Vec::new(),
            through: None,
            first: None,
            lost: false,
            chan_info: None,
            filters: None,
            deliver_every: DeliverEvery::default(),
            rewind: None,
            whole: false,
        }
    }

    /// What to ask the channel's owner for; `at` is the channel's place in the request.
    pub fn subscribe(&mut self, at: u32) -> SubscribeEffect {
        SubscribeEffect {
            id: at,
            channel: self.name.clone(),
            flags: flags_of(self.shown),
            since: self.since().or(self.rewind),
            reject_unrecovered: false,
            chan_info: self.chan_info.take(),
            // The client ends with what it was granted.
            expire_at_s: 0,
            renewal: Renewal::Token,
            data: None,
            filters: self.filters.clone(),
            deliver_every: self.deliver_every,
        }
    }

    pub fn since(&self) -> Option<Since> {
        self.since.map(|since| Since { offset: since.offset, epoch: SinceEpoch::Known(since.epoch) })
    }

    /// Where the unidirectional client stands before anything of this answer is given to it.
    pub fn start(&self) -> Option<Position> {
        match self.since {
            // Nothing of what it missed is for it.
            Some(since) if !self.lost && self.publications.is_empty() => self.through.or(Some(since)),
            Some(since) if !self.lost => Some(since),
            _ => self.before_rewound().or(self.top),
        }
    }

    /// Where a stream begins: it hears of a loss at its own place.
    pub fn opens_at(&self) -> Option<Position> {
        self.since.or_else(|| self.before_rewound()).or(self.top)
    }

    /// In front of the first publication that a new subscriber gets of the log.
    fn before_rewound(&self) -> Option<Position> {
        let first = self.publications.first().filter(|_| self.since.is_none())?;
        Some(Position { offset: Offset(first.offset().0.saturating_sub(1)), ..first.position })
    }

    /// Takes all values of a channel. They are in the place of what a client has that names a position.
    pub(super) fn took_whole(&mut self) {
        self.whole = true;
        self.lost = self.since.is_some();
    }

    /// The owner knows where it was left, and the request did not say.
    pub(super) fn began_at(&mut self, since: Since) {
        if let (None, SinceEpoch::Known(epoch)) = (self.since, since.epoch) {
            self.since = Some(Position { offset: since.offset, epoch });
        }
    }

    /// Takes the outcome of a join. True when a poll should look whether the log has what the join did not give:
    /// a recovery gives all that was missed or nothing, a poll is content with a part.
    pub fn handle_joined(&mut self, top: Position, missed: Missed, reads_on: bool) -> bool {
        self.top = Some(top);
        match missed {
            // Nothing was missed, whatever is allowed.
            Missed::Given(publications) if publications.is_empty() => {
                self.through = Some(top);
                false
            }
            Missed::Given(publications) if self.recoverable || self.since.is_none() || self.whole => {
                self.publications = publications;
                self.through = Some(top);
                false
            }
            Missed::Lost
                if self.recoverable
                    && reads_on
                    && self.since.is_some_and(|since| since.epoch == top.epoch) =>
            {
                true
            }
            Missed::Lost | Missed::Given(_) => {
                self.lost = self.since.is_some();
                false
            }
            Missed::NotAsked => false,
        }
    }

    /// Something is lost between the join and the answer of the request: the client goes on from `top`. Without a position
    /// it has nothing yet that could be missing.
    pub(super) fn gap(&mut self, top: Position) {
        self.top = Some(top);
        self.publications.clear();
        self.through = None;
        self.lost = self.since.is_some();
    }

    /// Takes what the log gave from the asked position on: usable when it goes on exactly there. `own`: of that, what is
    /// for this client.
    pub fn read_on(&mut self, given: &Publications, own: Publications) {
        if self.lost {
            return;
        }
        let next = self.since.map(|since| since.offset.next());
        match given.first() {
            Some(first) if Some(first.offset()) == next => self.take_read(given, own),
            _ => self.lost = true,
        }
    }

    /// Takes what the log gave, and of that what is for this client.
    pub fn take_read(&mut self, given: &Publications, own: Publications) {
        self.first = given.first().map(|first| first.offset());
        self.through = given.last().map(|last| last.position);
        self.publications = own;
    }
}
