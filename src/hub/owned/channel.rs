//! One channel as its owner has it.

use std::sync::Arc;
use std::time::Duration;

use crate::base::ids::{ChannelName, Epoch, Position};
use crate::base::publication::{ClientInfo, Encoded, Visibility};
use crate::base::time::Time;
use crate::hub::history::Log;
use crate::hub::interest::Interest;
use crate::hub::limits::FORGET_AFTER;
use crate::hub::options::{ChannelOptions, RecoveryMode};
use crate::hub::presence::Members;
use crate::hub::requests::{JoinLeaveEvent, Recovery, Since, SinceEpoch};
use crate::hub::sequencer::Sequencer;

pub(super) struct Channel {
    pub(super) name: ChannelName,
    pub(super) options: Arc<ChannelOptions>,
    /// Tells the uses of a slot apart.
    pub(super) life: u64,
    pub(super) sequencer: Sequencer,
    /// Idempotency keys of this channel that are not dropped yet.
    pub(super) keys: u32,
    /// `None` when nothing is retained.
    pub(super) log: Option<Box<Log>>,
    pub(super) members: Members,
    pub(super) interest: Interest,
    /// Without subscribers it is idle from here on: the last mention, or later when an entry or key lives longer.
    pub(super) active_until: Time,
    /// The bucket of the client that made it, until the backend uses it as well.
    pub(super) creator: Option<u16>,
}

const _: () = assert!(size_of::<Option<Channel>>() <= 112, "what a million personal channels cost");

impl Channel {
    /// Without anything, and without a life until it is added to its table.
    pub(super) fn new(
        name: ChannelName,
        options: Arc<ChannelOptions>,
        epoch: Epoch,
        active_until: Time,
        creator: Option<u16>,
    ) -> Channel {
        Channel {
            name,
            life: 0,
            sequencer: Sequencer::new(epoch),
            keys: 0,
            log: None,
            members: Members::new(
                Visibility { listed: options.presence, announced: options.join_leave },
                options.presence_by,
            ),
            interest: Interest::None,
            active_until,
            creator,
            options,
        }
    }

    pub(super) fn position(&self) -> Position {
        self.sequencer.position()
    }

    /// Nobody and nothing needs it, as far as was noticed.
    pub(super) fn is_idle(&self) -> bool {
        self.members.is_empty() && !self.holds() && self.keys == 0
    }

    /// When it may be forgotten, if it has no subscribers until then.
    pub(super) fn forget_at(&self) -> Time {
        self.active_until + grace(&self.options)
    }

    pub(super) fn is_over(&self, now: Time) -> bool {
        self.members.is_empty() && !self.holds_for_ever() && self.forget_at() <= now
    }

    /// Its newest publication is all that a client that was away needs.
    pub(super) fn is_cache(&self) -> bool {
        self.options.recovery_mode == RecoveryMode::Cache
    }

    /// The newest publication, unless that is the one that is known.
    fn recover_newest(&self, since: Since, now: Time) -> Recovery {
        let top = self.position();
        if since.offset == top.offset && since.epoch == SinceEpoch::Known(top.epoch) {
            return Recovery::Recovered(Vec::new());
        }
        let newest = self.log.as_ref().map(|log| log.reverse(None, now, 1)).unwrap_or_default();
        match newest.first() {
            Some(publication) if publication.offset() == top.offset => Recovery::Recovered(newest),
            _ => Recovery::Lost,
        }
    }

    pub(super) fn recover(&self, since: Since, now: Time, publications_max: usize) -> Recovery {
        if since.is_rewind()
            && let Some(state) = self.state(now)
        {
            return Recovery::Recovered(state);
        }
        if let SinceEpoch::Newest { count, from_ms } = since.epoch {
            let limit = publications_max.min(count as usize);
            let newest = self.log.as_ref().map(|log| log.since_time(from_ms, now, limit, true));
            let mut newest = newest.unwrap_or_default();
            newest.reverse();
            return Recovery::Recovered(newest);
        }
        if self.is_cache() {
            return self.recover_newest(since, now);
        }
        let top = self.position();
        if !since.epoch.matches(top.epoch) {
            return Recovery::Lost;
        }
        match &self.log {
            Some(log) => log.recover(top.offset, since.offset, now, publications_max),
            None if since.offset == top.offset => Recovery::Recovered(Vec::new()),
            None => Recovery::Lost,
        }
    }

    pub(super) fn join_leave(&self, joined: bool, info: Arc<ClientInfo>) -> Arc<JoinLeaveEvent> {
        Arc::new(JoinLeaveEvent { channel: self.name.clone(), joined, info, encoded: Encoded::default() })
    }
}

/// How long an idle channel keeps its offset and epoch.
fn grace(options: &ChannelOptions) -> Duration {
    if options.keeps_history() { options.history_meta_ttl } else { FORGET_AFTER }
}
