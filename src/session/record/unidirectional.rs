//! A client without the client protocol.

use std::sync::Arc;

use crate::base::budget::{Budget, BudgetHeld};
use crate::base::deliver_every::DeliverEvery;
use crate::base::publication::Visibility;
use crate::base::shape::Shape;
use crate::proto::encoding::Encoding;
use crate::record::{
    AskedChannelRecord, AskingRecord, ModeRecord, RecordFault, ReplyRecord, SinceRecord,
    UnidirectionalRecord, WorkRecord,
};
use crate::session::identity::{Identity, Renewal};
use crate::session::record::client::{publications_from_record, publications_to_record};
use crate::session::record::{
    NameOf, PlaceOf, copied, filters_from_record, filters_to_record, sub_to_record, subs_from_record,
};
use crate::session::state::SubExtra;
use crate::session::subscription::{ChannelIndex, Sub};
use crate::session::unidirectional::{
    AskedChannel, Asking, ChannelFilters, Mode, Origin, ReplyForm, Unidirectional, UnidirectionalWork,
};

impl Unidirectional {
    /// Everything that this client is.
    pub fn to_record(&self, name_of: NameOf<'_>) -> UnidirectionalRecord {
        UnidirectionalRecord {
            mode: match self.mode {
                Mode::Stream(encoding) => ModeRecord::Stream(encoding.id().0),
                Mode::Poll => ModeRecord::Poll,
                Mode::History => ModeRecord::History,
                Mode::Publish => ModeRecord::Publish,
            },
            chunked: self.chunked,
            id: self.id,
            identity: self.identity.as_ref().map(|identity| identity.to_record()),
            subs: self
                .subs()
                .iter()
                .map(|sub| {
                    let terms = self.filters(sub.channel()).map(|filters| SubExtra {
                        channel: sub.channel(),
                        chan_info: None,
                        expire_at_s: 0,
                        renewal: Renewal::Token,
                        shape: Shape::Whole,
                        filters: Some(Arc::clone(filters)),
                    });
                    sub_to_record(*sub, terms.as_ref(), name_of)
                })
                .collect(),
            work: self.work.as_ref().map(|work| WorkRecord {
                reply: work.reply.to_record(),
                asking: work.asking.as_ref().map(|asking| asking.to_record(self.subs(), name_of)),
                unread: work.unread.as_ref().map(|unread| copied(unread.bytes())),
            }),
        }
    }

    /// The client of a record.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for what no client is, and when `input` has no room for what it keeps.
    pub fn from_record(
        record: &UnidirectionalRecord,
        place_of: PlaceOf<'_>,
        input: &Arc<Budget>,
    ) -> Result<Unidirectional, RecordFault> {
        let mode = match record.mode {
            ModeRecord::Stream(number) => {
                let encoding = Encoding::ALL.into_iter().find(|encoding| encoding.id().0 == number);
                Mode::Stream(encoding.ok_or(RecordFault::Impossible("an encoding"))?)
            }
            ModeRecord::Poll => Mode::Poll,
            ModeRecord::History => Mode::History,
            ModeRecord::Publish => Mode::Publish,
        };
        let identity = record.identity.as_ref().map(|identity| Box::new(Identity::from_record(identity)));
        let mut uni = Unidirectional::new(record.id, mode, identity);
        uni.chunked = record.chunked;
        let (subs, terms): (Vec<Sub>, Vec<_>) = subs_from_record(&record.subs, place_of)?.into_iter().unzip();
        let filters: ChannelFilters =
            terms.into_iter().flatten().filter_map(|terms| Some((terms.channel, terms.filters?))).collect();
        uni.filters = (!filters.is_empty()).then(|| Box::new(filters));
        if let Some(work) = &record.work {
            let index = |name: &str| {
                let at = record.subs.iter().position(|sub| *sub.channel == *name)?;
                subs.get(at).map(|sub| sub.channel())
            };
            let mut unread = None;
            if let Some(bytes) = &work.unread {
                let mut held = BudgetHeld::default();
                held.push(input, bytes).map_err(|_| RecordFault::Impossible("room for input"))?;
                unread = Some(Box::new(held));
            }
            let asking = work.asking.as_ref().map(|asking| Asking::from_record(asking, &index).map(Box::new));
            uni.work = Some(Box::new(UnidirectionalWork {
                reply: ReplyForm::from_record(&work.reply),
                asking: asking.transpose()?,
                unread,
            }));
        }
        uni.restore_subs(subs);
        Ok(uni)
    }
}

impl ReplyForm {
    fn to_record(&self) -> ReplyRecord {
        let ReplyForm { origin, keep_alive, http10, head_only, gzip, not_modified, limit, events } =
            self.clone();
        let origin = origin.map(|origin| origin.0);
        ReplyRecord { origin, keep_alive, http10, head_only, gzip, not_modified, limit, events }
    }

    fn from_record(record: &ReplyRecord) -> ReplyForm {
        let ReplyRecord { origin, keep_alive, http10, head_only, gzip, not_modified, limit, events } =
            record.clone();
        let origin = origin.map(|origin| Box::new(Origin(origin)));
        ReplyForm { origin, keep_alive, http10, head_only, gzip, not_modified, limit, events }
    }
}

impl Asking {
    fn to_record(&self, subs: &[Sub], name_of: NameOf<'_>) -> AskingRecord {
        AskingRecord {
            channels: self.channels.iter().map(|asked| asked.to_record(subs, name_of)).collect(),
            outstanding: self.outstanding,
            awaits_place: self.awaits_place,
            opening: copied(&self.opening),
            hold_ms: self.hold_ms,
            if_none_match: self.if_none_match.clone(),
            reverse: self.reverse,
        }
    }

    fn from_record(
        record: &AskingRecord,
        index: &dyn Fn(&str) -> Option<ChannelIndex>,
    ) -> Result<Asking, RecordFault> {
        // Each channel answers once, and the user's owner.
        if record.outstanding as usize > record.channels.len() + usize::from(record.awaits_place) {
            return Err(RecordFault::Impossible("answers that are awaited"));
        }
        let channels: Result<_, _> =
            record.channels.iter().map(|asked| AskedChannel::from_record(asked, index)).collect();
        Ok(Asking {
            channels: channels?,
            outstanding: record.outstanding,
            awaits_place: record.awaits_place,
            opening: record.opening.to_vec(),
            hold_ms: record.hold_ms,
            if_none_match: record.if_none_match.clone(),
            reverse: record.reverse,
        })
    }
}

impl AskedChannel {
    fn to_record(&self, subs: &[Sub], name_of: NameOf<'_>) -> AskedChannelRecord {
        AskedChannelRecord {
            channel: self.name.clone(),
            joined: Sub::find(subs, self.index).is_some_and(|sub| *name_of(sub.channel()) == *self.name),
            since: self.since,
            recoverable: self.recoverable,
            top: self.top,
            publications: publications_to_record(&self.publications),
            lost: self.lost,
            chan_info: self.chan_info.clone(),
            filters: self.filters.as_deref().map(filters_to_record),
            listed: self.shown.listed,
            announced: self.shown.announced,
            rewind: self.rewind.map(SinceRecord::of),
            deliver_every_ms: self.deliver_every.0,
        }
    }

    fn from_record(
        record: &AskedChannelRecord,
        index: &dyn Fn(&str) -> Option<ChannelIndex>,
    ) -> Result<AskedChannel, RecordFault> {
        let shown = Visibility { listed: record.listed, announced: record.announced };
        let mut asked = AskedChannel::new(record.channel.clone(), record.since, record.recoverable, shown);
        if record.joined {
            asked.index =
                index(&record.channel).ok_or(RecordFault::Impossible("a channel that was joined"))?;
        }
        asked.top = record.top;
        asked.publications = publications_from_record(&record.publications, &record.channel);
        asked.first = asked.publications.first().map(|first| first.offset());
        asked.lost = record.lost;
        asked.chan_info = record.chan_info.clone();
        asked.deliver_every = DeliverEvery(record.deliver_every_ms);
        asked.rewind = record.rewind.as_ref().map(SinceRecord::since);
        asked.filters = record.filters.as_ref().map(filters_from_record).transpose()?;
        Ok(asked)
    }
}
