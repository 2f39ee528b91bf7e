//! The state machines of this folder as records, and back.
//!
//! A record names channels; what numbers them here is the shard's, so it comes as an argument. A record is of a state
//! between two calls: effects have been carried out, and answers that are on their way are not part of it.

mod client;
mod hook_call;
#[cfg(test)]
pub(in crate::session) mod tests;
mod tunnel;
mod unidirectional;

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::filter::{Filter, Filters};
use crate::base::ids::ChannelName;
use crate::base::shape::Shape;
use crate::record::{FiltersRecord, IdentityRecord, RecordFault, RenewalRecord, SubRecord, TermsRecord};
use crate::session::identity::{Identity, Renewal};
use crate::session::state::SubExtra;
use crate::session::subscription::{ChannelIndex, Sub};

/// The name behind a shard's number of a channel.
pub type NameOf<'a> = &'a dyn Fn(ChannelIndex) -> ChannelName;
/// Gives a restored subscription its shard's number of the channel, and its place in the channel's list; while the join is
/// pending the place counts for nothing.
pub type PlaceOf<'a> = &'a mut dyn FnMut(&SubRecord) -> Result<(ChannelIndex, u32), RecordFault>;

/// Where the flags of a [`Sub`] begin.
const FLAGS_SHIFT: u32 = 24;

/// In a record's flags: the number of a [`Shape`]. The bit is that of a pending join, which a record says otherwise.
const SHAPE: u8 = (Sub::PENDING >> FLAGS_SHIFT) as u8;
const _: () = assert!(Shape::BITS == SHAPE.count_ones());

fn flags_to_record(flags: u32) -> u8 {
    (flags >> FLAGS_SHIFT) as u8
}

fn flags_from_record(flags: u8) -> Result<u32, RecordFault> {
    const KNOWN: u32 = Sub::SERVER_SIDE
        | Sub::POSITIONED
        | Sub::RECOVERABLE
        | Sub::NOTICES
        | Sub::BY_TOKEN
        | Sub::LISTED
        | Sub::ANNOUNCED;
    let flags = u32::from(flags) << FLAGS_SHIFT;
    match flags & !KNOWN {
        0 => Ok(flags),
        _ => Err(RecordFault::Impossible("flags of a subscription")),
    }
}

fn sub_to_record(sub: Sub, terms: Option<&SubExtra>, name_of: NameOf<'_>) -> SubRecord {
    SubRecord {
        channel: name_of(sub.channel()),
        flags: flags_to_record(sub.flags() & !Sub::PENDING)
            | terms.map_or(0, |extra| extra.shape.number()) << SHAPE.trailing_zeros(),
        pending: sub.is(Sub::PENDING).then_some(sub.place),
        terms: terms.map(|extra| TermsRecord {
            chan_info: extra.chan_info.clone(),
            expire_at_s: extra.expire_at_s,
            renewal: extra.renewal.to_record(),
            filters: extra.filters.as_deref().map(filters_to_record),
        }),
    }
}

/// Subscriptions in their order.
fn subs_from_record(
    records: &[SubRecord],
    place_of: PlaceOf<'_>,
) -> Result<Vec<(Sub, Option<SubExtra>)>, RecordFault> {
    let mut subs: Vec<(Sub, Option<SubExtra>)> = Vec::new();
    for record in records {
        let shape = Shape::of_number((record.flags & SHAPE) >> SHAPE.trailing_zeros());
        let flags = flags_from_record(record.flags & !SHAPE)?;
        let (channel, place) = place_of(record)?;
        if channel & !Sub::INDEX != 0 || subs.iter().any(|(known, _)| known.channel() == channel) {
            return Err(RecordFault::Impossible("two subscriptions to one channel"));
        }
        let sub = match record.pending {
            Some(number) => Sub { channel: channel | flags | Sub::PENDING, place: number },
            None => Sub { channel: channel | flags, place },
        };
        let filters = record.terms.as_ref().and_then(|terms| terms.filters.as_ref());
        let filters = filters.map(filters_from_record).transpose()?;
        let terms = record.terms.as_ref().map(|terms| SubExtra {
            channel,
            chan_info: terms.chan_info.clone(),
            expire_at_s: terms.expire_at_s,
            renewal: Renewal::from_record(&terms.renewal),
            shape,
            filters,
        });
        if shape != Shape::Whole && terms.is_none() {
            return Err(RecordFault::Impossible("a shape without terms"));
        }
        subs.push((sub, terms));
    }
    Ok(subs)
}

fn filters_to_record(filters: &Filters) -> FiltersRecord {
    let text = |filter: &Option<Filter>| filter.as_ref().map(|filter| filter.to_json().into());
    FiltersRecord { asked: text(&filters.asked), imposed: text(&filters.imposed) }
}

fn filters_from_record(record: &FiltersRecord) -> Result<Arc<Filters>, RecordFault> {
    Ok(Arc::new(Filters {
        asked: record.asked.as_deref().map(filter_from_record).transpose()?,
        imposed: record.imposed.as_deref().map(filter_from_record).transpose()?,
    }))
}

/// One that cannot be read would let everything pass.
fn filter_from_record(text: &str) -> Result<Filter, RecordFault> {
    Filter::parse(text).map_err(|_| RecordFault::Impossible("a filter"))
}

impl Renewal {
    fn to_record(self) -> RenewalRecord {
        match self {
            Renewal::Token => RenewalRecord::Token,
            Renewal::Hook { ask_at_s } => RenewalRecord::Hook(ask_at_s),
        }
    }

    fn from_record(record: &RenewalRecord) -> Renewal {
        match *record {
            RenewalRecord::Token => Renewal::Token,
            RenewalRecord::Hook(ask_at_s) => Renewal::Hook { ask_at_s },
        }
    }
}

impl Identity {
    fn to_record(&self) -> IdentityRecord {
        let Identity { user, conn_info, meta, expire_at_s, renewal, origin, device, token_id, shared: _ } =
            self.clone();
        IdentityRecord {
            user,
            conn_info,
            meta: meta.map(|meta| *meta),
            expire_at_s,
            renewal: renewal.to_record(),
            origin: origin.map(|origin| *origin),
            token_id: token_id.map(|id| *id),
            device: device.map(|device| *device),
        }
    }

    fn from_record(record: &IdentityRecord) -> Identity {
        let IdentityRecord { user, conn_info, meta, expire_at_s, renewal, origin, token_id, device } =
            record.clone();
        Identity {
            user,
            conn_info,
            meta: meta.map(Box::new),
            expire_at_s,
            renewal: Renewal::from_record(&renewal),
            origin: origin.map(Box::new),
            device: device.map(Box::new),
            token_id: token_id.map(Box::new),
            shared: None,
        }
    }
}

fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}
