//! Publishing and reading through the store, now or later.

use std::sync::Arc;

use super::OwnedChannels;
use crate::base::fault::ErrorCode;
use crate::base::ids::{Offset, Position};
use crate::base::publication::{Encoded, Publication, Publications};
use crate::base::time::Time;
use crate::hub::history::Log;
use crate::hub::idempotency::KeyOwner;
use crate::hub::limits::{APPEND_PATIENCE, APPENDS_MAX, IDEMPOTENCY_KEY_TTL};
use crate::hub::log_store::{Append, Durable, Pending, ReadBack, StoreDone, StoreEntry, goes_on};
use crate::hub::requests::{PublishRequest, Published, ReadAnswer, Reading, Recovery, Released, Since};
use crate::hub::sequencer::Version;

impl OwnedChannels {
    /// Gives a publication its position and keeps it as the namespace says. The answer says what to deliver;
    /// [`OwnedChannels::interested`] says where. `wall_ms` is the wall clock in milliseconds since 1970, shown to clients.
    ///
    /// A repeat of an idempotency key is answered like the first. A version that is not above the newest (in the same
    /// `version_epoch`, or without one) is answered with the channel's top and its key is not remembered. The newest
    /// version is remembered as long as the channel is, with history or without.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for a channel name, key or version epoch that is too long or malformed;
    /// [`ErrorCode::UnknownChannel`] for an unknown namespace; [`ErrorCode::LimitExceeded`] when no more channels fit;
    /// [`ErrorCode::TooManyRequests`] while the store does not keep up, and its own codes for what it does not take.
    pub fn publish(
        &mut self,
        mut ask: PublishRequest,
        now: Time,
        wall_ms: u64,
    ) -> Result<Published, ErrorCode> {
        let now = self.advance(now);
        let key = ask.idempotency_key.as_deref().unwrap_or("");
        let version_epoch = ask.version_epoch.take().unwrap_or_default();
        if key.len() > self.limits.key_bytes_max || version_epoch.len() > self.limits.key_bytes_max {
            return Err(ErrorCode::BadRequest);
        }
        if self.appends.len() >= APPENDS_MAX {
            return Err(ErrorCode::TooManyRequests);
        }
        let slot = self.mention(&ask.channel, &ask.by, now)?;
        let channel = self.channels.get_mut(slot).expect("just mentioned");
        let owner = KeyOwner { slot, life: channel.life };
        if let Err(error_code) = channel.options.admit(&mut ask.data, ask.contents) {
            self.settle(slot);
            return Err(error_code);
        }
        let under_way = self.appends.of(owner);
        let repeat = |(ticket, position)| Published { position, publication: None, ticket: Some(ticket) };

        if !key.is_empty() {
            if let Some(position) = self.keys.get(owner, key, now) {
                return Ok(Published { position, publication: None, ticket: None });
            }
            if let Some(first) = under_way.and_then(|appends| appends.with_key(key)) {
                return Ok(repeat(first));
            }
        }
        if channel.options.is_value() {
            match channel.admit_value(&ask, &version_epoch, under_way) {
                Ok(None) => {}
                Ok(Some((position, ticket))) => return Ok(Published { position, publication: None, ticket }),
                Err(error_code) => {
                    self.settle(slot);
                    return Err(error_code);
                }
            }
        } else if ask.keyed || ask.skip_history && channel.options.is_notice() {
            // A key that is of no value, or a notice of what can be read nowhere.
            self.settle(slot);
            return Err(ErrorCode::BadRequest);
        } else if ask.version > 0 {
            if let Some(newest) =
                under_way.and_then(|appends| appends.with_version(ask.version, &version_epoch))
            {
                return Ok(repeat(newest));
            }
            if channel.sequencer.has_seen(ask.version, &version_epoch) {
                return Ok(Published { position: channel.position(), publication: None, ticket: None });
            }
        }

        let before = under_way.map_or(0, |appends| appends.offsets());
        let position = match ask.skip_history {
            true => channel.position(),
            false => channel.sequencer.next(before),
        };
        let offset = if ask.skip_history { Offset(0) } else { position.offset };
        let publication = Arc::new(Publication {
            // The channel's own name, not the ask's: entries that live long then share one.
            channel: channel.name.clone(),
            position: Position { offset, ..position },
            data: ask.data,
            info: ask.info,
            tags: ask.tags,
            except: ask.except,
            time_ms: wall_ms,
            encoded: Encoded::of(if ask.accepted == Time::ZERO { now } else { ask.accepted }),
        });
        let is_stored = (channel.options.durable != Durable::No || self.store_takes_all)
            && (!ask.skip_history || ask.version > 0 || !key.is_empty());
        if is_stored {
            let sync = channel.options.durable != Durable::Async;
            let bytes = channel.options.is_of_bytes();
            let (publication, version, version_epoch) = (&publication, ask.version, &*version_epoch);
            let entry = StoreEntry { publication, position, key, version, version_epoch, sync, bytes };
            match self.store.append(entry, now) {
                Append::Done => {}
                Append::Refused(error_code) => {
                    self.settle(slot);
                    return Err(error_code);
                }
                Append::Later(ticket) => {
                    // Like a key, it holds the channel.
                    channel.keys += 1;
                    channel.active_until = channel.active_until.max(now + APPEND_PATIENCE);
                    let publication = Arc::clone(publication);
                    let (key, version_epoch) = (key.into(), version_epoch.into());
                    let pending =
                        Pending { ticket, publication, position, key, version, version_epoch, done: None };
                    self.appends.push(owner, pending);
                    self.settle(slot);
                    return Ok(Published { position, publication: None, ticket: Some(ticket) });
                }
            }
        }
        debug_assert!(before == 0 || ask.skip_history, "appends of a channel are done in order");
        self.keep(owner, &publication, position, key, Version::of(ask.version, version_epoch), now);
        Ok(Published { position, publication: Some(publication), ticket: None })
    }

    /// A publication is part of its channel's log from now on, or of nothing when its offset is 0.
    fn keep(
        &mut self,
        owner: KeyOwner,
        publication: &Arc<Publication>,
        at: Position,
        key: &str,
        version: Option<Version>,
        now: Time,
    ) {
        let channel = self.channels.get_mut(owner.slot).expect("published to just now");
        let of_channel = version.as_ref().filter(|_| !channel.options.is_value());
        if let Some(version) = of_channel {
            channel.sequencer.saw(version.clone());
        }
        let is_watched = channel.options.watches() && publication.offset() != Offset(0);
        if publication.offset() != Offset(0) {
            channel.sequencer.took(publication.offset());
            if channel.options.keeps_history() {
                let expires = channel.options.expires(now);
                self.append(owner.slot, publication.clone(), expires, now);
            }
        }
        self.saw_value(owner.slot, publication.key(), version);
        if is_watched {
            self.watch_published(owner.slot, publication, now);
        }
        if !key.is_empty() {
            self.remember_key(owner, key, at, now + IDEMPOTENCY_KEY_TTL, now);
        }
    }

    /// The newest version of a key of a value channel.
    pub(super) fn saw_value(&mut self, slot: u32, key: &str, version: Option<Version>) {
        let log = self.channels.get_mut(slot).and_then(|channel| channel.log.as_deref_mut());
        if let (Some(version), Some(values)) = (version, log.and_then(Log::values_mut)) {
            values.saw(key, version);
        }
    }

    /// What the store has done since, of each channel in order.
    pub fn take_released(&mut self, now: Time) -> Option<Released> {
        let now = self.advance(now);
        loop {
            if let Some((owner, pending, kept)) = self.appends.take() {
                return Some(Released::Published(pending.ticket, self.release(owner, pending, kept, now)));
            }
            match self.store.take_done()? {
                (ticket, StoreDone::Appended(kept)) => {
                    if !self.appends.done(ticket, kept) {
                        // Tickets come back in the order in which they were given.
                        self.cursors_pending = self.cursors_pending.filter(|pending| *pending > ticket);
                        return Some(Released::Cursors(ticket, kept));
                    }
                }
                (ticket, StoreDone::Read(publications)) => return Some(Released::Read(ticket, publications)),
            }
        }
    }

    fn release(
        &mut self,
        owner: KeyOwner,
        pending: Pending,
        kept: Result<(), ErrorCode>,
        now: Time,
    ) -> Result<Published, ErrorCode> {
        let Pending { publication, position, key, version, version_epoch, .. } = pending;
        let channel = self.channels.get_mut(owner.slot).filter(|channel| channel.life == owner.life);
        // Without its channel, nobody is subscribed and nothing is left to be kept here.
        let Some(channel) = channel else {
            let published = Published { position, publication: None, ticket: None };
            return kept.map(|()| published);
        };
        channel.keys -= 1;
        if let Err(error_code) = kept {
            self.settle(owner.slot);
            return Err(error_code);
        }
        self.keep(owner, &publication, position, &key, Version::of(version, version_epoch), now);
        self.settle(owner.slot);
        Ok(Published { position, publication: Some(publication), ticket: None })
    }

    /// What memory does not have of a recovery, the store may.
    pub(super) fn recover_from_store(&mut self, slot: u32, since: Since) -> Recovery {
        let channel = self.channels.get(slot).expect("known");
        let (after, end) = (since.offset, channel.position());
        let limit = self.limits.recovery_publications_max;
        let many = end.offset.0.saturating_sub(after.0) > limit as u64;
        if !since.epoch.matches(end.epoch) || after >= end.offset || many {
            return Recovery::Lost;
        }
        match self.store.read(&channel.name, after, end, limit) {
            ReadBack::Nothing => Recovery::Lost,
            ReadBack::Ready(publications) => Recovery::of(publications, after, end),
            ReadBack::Later(ticket) => Recovery::Later(ticket),
        }
    }

    /// What comes after a position, for a follower that is missing it: as many publications as
    /// [`history_read_max`](crate::hub::HubLimits::history_read_max) and about `bytes_max` allow, and at least one. Makes no channel.
    pub fn read(&mut self, channel: &str, after: Position, bytes_max: usize, now: Time) -> Reading {
        let now = self.advance(now);
        let slot = self.known_mut(channel).filter(|(_, channel)| !channel.is_over(now)).map(|(slot, _)| slot);
        let Some(channel) = slot.and_then(|slot| self.channels.get(slot)) else {
            return Reading::Ready(ReadAnswer::Lost(Position::UNKNOWN));
        };
        let end = channel.position();
        if after == end {
            return Reading::Ready(ReadAnswer::Page { publications: Vec::new(), position: end });
        }
        if after.epoch != end.epoch || after.offset > end.offset {
            return Reading::Ready(ReadAnswer::Lost(end));
        }
        let limit = self.limits.history_read_max;
        if channel.options.is_value() {
            return Reading::Ready(channel.read_values(after.offset, limit, bytes_max, now));
        }
        let kept = channel.log.as_ref().map(|log| log.forward(Some(after.offset), now, limit));
        let publications = match kept.filter(|kept| goes_on(kept, after.offset)) {
            Some(kept) => kept,
            None => match self.store.read(&channel.name, after.offset, end, limit) {
                ReadBack::Nothing => Vec::new(),
                ReadBack::Ready(publications) => publications,
                ReadBack::Later(ticket) => return Reading::Later(ticket, end),
            },
        };
        Reading::Ready(ReadAnswer::page(publications, after, end, bytes_max))
    }
}

impl Recovery {
    /// What was read is what was asked for, or it is lost.
    pub fn of(publications: Publications, after: Offset, end: Position) -> Recovery {
        let whole =
            goes_on(&publications, after) && publications.last().is_some_and(|last| last.position == end);
        if whole { Recovery::Recovered(publications) } else { Recovery::Lost }
    }
}

impl ReadAnswer {
    /// As much as fits of what was read after `after` from a log that ends at `position`.
    pub fn page(
        publications: Publications,
        after: Position,
        position: Position,
        bytes_max: usize,
    ) -> ReadAnswer {
        match goes_on(&publications, after.offset) {
            true => ReadAnswer::fitting(publications, position, bytes_max),
            false => ReadAnswer::Lost(position),
        }
    }

    /// As much of these as fits.
    pub fn fitting(mut publications: Publications, position: Position, bytes_max: usize) -> ReadAnswer {
        let mut room = bytes_max.max(1);
        let fitting = publications.iter().take_while(|publication| {
            let fits = room > 0;
            room = room.saturating_sub(publication.weight());
            fits
        });
        let fitting = fitting.count();
        publications.truncate(fitting);
        ReadAnswer::Page { publications, position }
    }
}
