//! A client of the Centrifuge protocol.

use smallvec::SmallVec;

use crate::base::deliver_every::DeliverEvery;
use crate::base::ids::ChannelName;
use crate::base::publication::{Publication, Publications};
use crate::base::shape::Shape;
use crate::base::time::Time;
use crate::proto::wire::Wire;
use crate::record::{
    ClientRecord, ConnectRecord, HeaderRecord, JoinRecord, PublicationRecord, RecordFault, RecoveryRecord,
    SinceRecord, SubscribedRecord, WaitsRecord,
};
use crate::session::context::SubscribeEffect;
use crate::session::identity::{Identity, Renewal};
use crate::session::record::{
    NameOf, PlaceOf, copied, filters_from_record, filters_to_record, flags_from_record, flags_to_record,
    sub_to_record, subs_from_record,
};
use crate::session::state::{Extras, Session, SessionPhase};
use crate::session::subscribed::Subscribed;
use crate::session::subscription::{ChannelIndex, Sub};
use crate::session::waits::{AwaitedCall, Connecting, HeldCommands, Waits};

impl Session {
    /// Everything that this client is, as it stands at `now`.
    pub fn to_record(&self, name_of: NameOf<'_>, now: Time) -> ClientRecord {
        let none = Extras::default();
        let extras = self.extras.as_deref().unwrap_or(&none);
        let headers = extras.headers.as_ref().map(|headers| {
            headers
                .iter()
                .map(|(name, value)| HeaderRecord { name: name.clone(), value: copied(value) })
                .collect()
        });
        ClientRecord {
            format: self.wire.number(),
            phase: match self.phase {
                SessionPhase::Fresh => 1,
                SessionPhase::Connecting => 2,
                SessionPhase::Connected => 3,
                SessionPhase::Refused => 4,
            },
            ping_outstanding: self.ping_outstanding,
            under_way: self.under_way,
            input_paused: self.input_paused,
            resumes: self.resumes,
            shown: extras.shown.clone(),
            identity: self.identity.as_ref().map(|identity| identity.to_record()),
            headers,
            subs: self
                .subs
                .iter()
                .map(|sub| sub_to_record(*sub, self.extra(sub.channel()), name_of))
                .collect(),
            held: extras.held.as_ref().map(|held| held.commands().map(copied).collect()),
            waits: extras.waits.as_ref().map(|waits| match &**waits {
                Waits::Joins(connecting) => WaitsRecord::Joins(connecting.to_record()),
                Waits::Answer(asked) => {
                    let known = |channel: &ChannelIndex| self.sub(*channel).is_some();
                    WaitsRecord::HookCall(asked.to_record(name_of, &known, now))
                }
            }),
        }
    }

    /// The client of a record, at a time `now` of this process that is `written` or later. Commands under way to the owners
    /// of channels are to be answered here too: those answers come with their numbers, as before.
    ///
    /// After it: [`Session::ask_once_more`] if a hook call was under way, and what is held is taken up by the shard.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for what no client is.
    pub fn from_record(
        record: &ClientRecord,
        place_of: PlaceOf<'_>,
        written: Time,
    ) -> Result<Session, RecordFault> {
        let mut session = Session {
            wire: Wire::of_number(record.format).ok_or(RecordFault::Impossible("a client's format"))?,
            phase: match record.phase {
                1 => SessionPhase::Fresh,
                2 => SessionPhase::Connecting,
                3 => SessionPhase::Connected,
                4 => SessionPhase::Refused,
                _ => return Err(RecordFault::Impossible("a client's phase")),
            },
            ping_outstanding: record.ping_outstanding,
            under_way: record.under_way,
            input_paused: record.input_paused,
            resumes: record.resumes,
            identity: record.identity.as_ref().map(|identity| Box::new(Identity::from_record(identity))),
            ..Session::default()
        };
        let mut extras = Extras { shown: record.shown.clone(), ..Extras::default() };
        extras.headers = record.headers.as_ref().map(|headers| {
            headers.iter().map(|header| (header.name.clone(), (&*header.value).into())).collect()
        });
        let mut subs = SmallVec::new();
        for (sub, terms) in subs_from_record(&record.subs, place_of)? {
            subs.push(sub);
            extras.subs.extend(terms);
        }
        session.subs = subs;
        extras.held = record
            .held
            .as_ref()
            .map(|commands| Box::new(HeldCommands::of(commands.iter().map(|command| (&**command).into()))));
        extras.waits = match &record.waits {
            None => None,
            Some(WaitsRecord::Joins(connecting)) => {
                let connecting = Connecting::from_record(connecting)?;
                let pending =
                    session.subs.iter().filter(|sub| sub.is(Sub::PENDING) && sub.is(Sub::SERVER_SIDE));
                if session.phase != SessionPhase::Connecting
                    || (connecting.outstanding as usize) < pending.count()
                {
                    return Err(RecordFault::Impossible("a client's joins"));
                }
                Some(Box::new(Waits::Joins(connecting)))
            }
            Some(WaitsRecord::HookCall(call)) => {
                let find = |name: &str| {
                    let at = record.subs.iter().position(|sub| *sub.channel == *name)?;
                    session.subs.get(at).map(|sub| sub.channel())
                };
                Some(Box::new(Waits::Answer(AwaitedCall::from_record(call, &find, written)?)))
            }
        };
        session.extras = Some(Box::new(extras));
        session.trim();
        Ok(session)
    }
}

impl Connecting {
    fn to_record(&self) -> ConnectRecord {
        ConnectRecord {
            id: self.id,
            outstanding: self.outstanding,
            done: self.done.iter().map(|(channel, subscribed)| subscribed.to_record(channel)).collect(),
            data: self.data.clone(),
            behind_place: self
                .behind_place
                .as_ref()
                .map(|joins| joins.iter().map(SubscribeEffect::to_record).collect()),
        }
    }

    fn from_record(record: &ConnectRecord) -> Result<Connecting, RecordFault> {
        let behind_place = record.behind_place.as_ref();
        if record.outstanding as usize != behind_place.map_or(record.outstanding.max(1) as usize, Vec::len) {
            return Err(RecordFault::Impossible("a connect that waits for nothing"));
        }
        let done: Result<_, _> = record.done.iter().map(Subscribed::from_record).collect();
        let behind_place = behind_place.map(|joins| joins.iter().map(SubscribeEffect::from_record).collect());
        Ok(Connecting {
            id: record.id,
            outstanding: record.outstanding,
            done: done?,
            data: record.data.clone(),
            behind_place: behind_place.transpose()?,
        })
    }
}

impl Subscribed {
    fn to_record(&self, channel: &ChannelName) -> SubscribedRecord {
        SubscribedRecord {
            channel: channel.clone(),
            flags: flags_to_record(self.flags),
            position: self.position,
            recovery: self.recovery.as_ref().map(|(asked, publications)| RecoveryRecord {
                asked: *asked,
                publications: publications.as_deref().map(publications_to_record),
            }),
            expire_at_s: self.expire_at_s,
            data: self.data.clone(),
            rewound: self.rewound,
            cursors: self.cursors.clone(),
        }
    }

    fn from_record(record: &SubscribedRecord) -> Result<(ChannelName, Subscribed), RecordFault> {
        let channel = record.channel.clone();
        let recovery = record.recovery.as_ref().map(|recovery| {
            let publications = recovery.publications.as_deref();
            (
                recovery.asked,
                publications.map(|publications| publications_from_record(publications, &channel)),
            )
        });
        let subscribed = Subscribed {
            flags: flags_from_record(record.flags)?,
            position: record.position,
            recovery,
            rewound: record.rewound,
            expire_at_s: record.expire_at_s,
            data: record.data.clone(),
            // The server's own subscriptions have none.
            shape: Shape::Whole,
            cursors: record.cursors.clone(),
        };
        Ok((channel, subscribed))
    }
}

impl SubscribeEffect {
    fn to_record(&self) -> JoinRecord {
        JoinRecord {
            id: self.id,
            channel: self.channel.clone(),
            flags: flags_to_record(self.flags),
            since: self.since.map(SinceRecord::of),
            reject_unrecovered: self.reject_unrecovered,
            chan_info: self.chan_info.clone(),
            expire_at_s: self.expire_at_s,
            renewal: self.renewal.to_record(),
            data: self.data.clone(),
            filters: self.filters.as_deref().map(filters_to_record),
            deliver_every_ms: self.deliver_every.0,
        }
    }

    fn from_record(record: &JoinRecord) -> Result<SubscribeEffect, RecordFault> {
        Ok(SubscribeEffect {
            id: record.id,
            channel: record.channel.clone(),
            flags: flags_from_record(record.flags)?,
            since: record.since.as_ref().map(SinceRecord::since),
            reject_unrecovered: record.reject_unrecovered,
            chan_info: record.chan_info.clone(),
            expire_at_s: record.expire_at_s,
            renewal: Renewal::from_record(&record.renewal),
            data: record.data.clone(),
            filters: record.filters.as_ref().map(filters_from_record).transpose()?,
            deliver_every: DeliverEvery(record.deliver_every_ms),
        })
    }
}

pub(super) fn publications_to_record(publications: &[std::sync::Arc<Publication>]) -> Vec<PublicationRecord> {
    publications.iter().map(|publication| PublicationRecord::of(publication)).collect()
}

pub(super) fn publications_from_record(records: &[PublicationRecord], channel: &ChannelName) -> Publications {
    records.iter().map(|record| record.clone().publication(channel)).collect()
}
