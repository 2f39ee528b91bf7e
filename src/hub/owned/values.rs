//! Publications of value channels: what is taken, and what a position of one is worth.

use crate::base::fault::ErrorCode;
use crate::base::ids::{Offset, Position};
use crate::base::publication::{Publications, key_of, removes};
use crate::base::time::Time;
use crate::hub::log_store::{ChannelAppends, Pending, Ticket};
use crate::hub::owned::channel::Channel;
use crate::hub::requests::{PublishRequest, ReadAnswer};

/// A publication that changes nothing, and how it is answered: when what is under way is done, if something is.
pub(super) type Unchanged = (Position, Option<Ticket>);

impl Channel {
    /// Whether a value channel takes a publication. `None`: it does.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for a key that is too long, and for what would not be kept or not be delivered at once;
    /// [`ErrorCode::LimitExceeded`] for a key more than there may be.
    pub(super) fn admit_value(
        &self,
        ask: &PublishRequest,
        version_epoch: &str,
        under_way: Option<&ChannelAppends>,
    ) -> Result<Option<Unchanged>, ErrorCode> {
        let (key, options) = (key_of(&ask.tags), &self.options);
        if key.len() > options.key_bytes_max || ask.skip_history || !ask.pace.is_at_once() {
            return Err(ErrorCode::BadRequest);
        }
        let values = self.log.as_ref().and_then(|log| log.values());
        let newest_pending = under_way.and_then(|appends| appends.all().last());
        let unchanged = match newest_pending {
            Some(Pending { position, ticket, .. }) => (*position, Some(*ticket)),
            None => (self.position(), None),
        };
        let of_key = || under_way.into_iter().flat_map(move |appends| appends.of_key(key));
        if ask.version > 0 {
            let seen = match of_key().filter(|pending| pending.version > 0).last() {
                Some(pending) => pending.covers(ask.version, version_epoch),
                None => values.is_some_and(|values| values.has_seen(key, ask.version, version_epoch)),
            };
            if seen {
                return Ok(Some(unchanged));
            }
        }
        let there = match of_key().last() {
            Some(pending) => !pending.publication.is_removal(),
            None => values.is_some_and(|values| values.has(key)),
        };
        if there {
            return Ok(None);
        }
        if removes(&ask.tags) {
            return Ok(Some(unchanged));
        }
        // Of keys under way each is counted: few are, and a bound that is reached a little early is none that is broken.
        let coming = under_way.map_or(0, |appends| appends.all().count());
        match values.map_or(0, |values| values.values()) + coming < options.keys_max {
            true => Ok(None),
            false => Err(ErrorCode::LimitExceeded),
        }
    }

    /// As much of what has changed since a position as one answer holds.
    pub(super) fn read_values(&self, after: Offset, limit: usize, bytes_max: usize, now: Time) -> ReadAnswer {
        let position = self.position();
        let values = self.log.as_ref().and_then(|log| log.values());
        match values.and_then(|values| values.changes(after, position.offset, now, limit)) {
            Some(changes) => ReadAnswer::fitting(changes, position, bytes_max),
            None => ReadAnswer::Lost(position),
        }
    }

    /// Everything that a value channel holds; `None` of other channels.
    pub(super) fn state(&self, now: Time) -> Option<Publications> {
        let values = self.log.as_ref().and_then(|log| log.values());
        self.options.is_value().then(|| values.map_or_else(Vec::new, |values| values.state(now)))
    }

    /// There is a value, and age takes none.
    pub(super) fn holds_for_ever(&self) -> bool {
        self.options.keeps_for_ever() && self.holds()
    }

    /// Something that somebody may ask for: removals alone are nothing.
    pub(super) fn holds(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.values().is_none_or(|values| values.values() > 0))
    }
}

#[cfg(test)]
#[path = "values_tests.rs"]
mod tests;
