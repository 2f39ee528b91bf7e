//! Who joins and leaves a channel that servers keep: from the tail that is here, or after one read of its log.

use std::sync::Arc;

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, ConnId, Position};
use crate::base::publication::{ClientInfo, Missed};
use crate::engine::followed::{BusyWith, Followed, Member, Tail};
use crate::engine::job::{LogEntries, LogRead, Task, Then};
use crate::engine::keeper::{EngineKeeper, terms};
use crate::engine::link::LinkChange;
use crate::hub::RecoveryMode;
use crate::hub::requests::{JoinRequest, Since, SinceEpoch};
use crate::session::JoinOutcome;
use crate::shard::owner::{JoinTag, OwnerAnswer, OwnerRequest};

impl EngineKeeper {
    pub(super) fn begin_join(&mut self, ask: JoinRequest, tag: JoinTag) {
        let options = match self.options(&ask.channel) {
            Ok(options) => options,
            Err(error_code) => return self.answer_join(ask, tag, Err(error_code)),
        };
        let link = self.link_of(&ask.channel);
        if !self.links[link].is_up() || self.is_cut() {
            return self.answer_join(ask, tag, Err(ErrorCode::Unavailable));
        }
        let channel = ask.channel.clone();
        let new = || Followed::new(link, Arc::clone(&options));
        let followed = self.channels.entry(channel.clone()).or_insert_with(new);
        followed.options = options;
        if !followed.subscribed {
            followed.busy = BusyWith::Subscribing;
            followed.waiting.push_front(OwnerRequest::Join { ask, tag });
            return self.subscribe(&channel);
        }
        if !followed.options.keeps_history() {
            let missed = if ask.recover.is_some() { Missed::Lost } else { Missed::NotAsked };
            return self.finish_join(ask, tag, (Position::UNKNOWN, missed));
        }
        if let Some(outcome) = followed.log.as_ref().and_then(|tail| {
            join_from_tail(tail, &ask, followed.options.recovery_mode, self.limits.recovery_max)
        }) {
            return self.finish_join(ask, tag, outcome);
        }
        followed.busy = BusyWith::Reading;
        let cache = followed.options.recovery_mode == RecoveryMode::Cache;
        let entries = match ask.recover {
            None => None,
            Some(Since { epoch: SinceEpoch::Newest { count, .. }, .. }) => Some(LogEntries {
                from: 0,
                limit: self.limits.recovery_max.min(count as usize),
                backwards: true,
            }),
            Some(_) if cache => Some(LogEntries { from: 0, limit: 1, backwards: true }),
            Some(since) if since.epoch == SinceEpoch::Foreign => None,
            // One more than may be recovered tells that there are more.
            Some(since) => Some(LogEntries {
                from: since.offset.0.saturating_add(1),
                limit: self.limits.recovery_max + 1,
                backwards: false,
            }),
        };
        let terms = terms(&followed.options);
        let task = Task::History(LogRead { channel: channel.clone(), entries, terms });
        self.do_at(&channel, task, Then::Join(Box::new((ask, tag))));
    }

    pub(super) fn subscribe(&mut self, channel: &ChannelName) {
        let Some(followed) = self.channels.get_mut(channel) else { return };
        self.subscribes += 1;
        followed.subscribe_number = self.subscribes;
        self.subscribing.insert(self.subscribes, channel.clone());
        self.links[followed.link].change(LinkChange::Subscribe(channel.clone(), self.subscribes));
    }

    /// The connection is in from now on.
    pub(super) fn finish_join(
        &mut self,
        ask: JoinRequest,
        tag: JoinTag,
        (position, missed): (Position, Missed),
    ) {
        let JoinRequest { channel, conn, info, shown, recover, .. } = ask;
        let shard = self.posts.peer_shard(conn);
        let Some(followed) = self.channels.get_mut(&channel) else { return };
        if followed.log.is_none() && followed.options.keeps_history() {
            followed.log = Some(Tail::new(position));
        }
        let member = shown.at_all().then(|| Box::new(Member { info: Arc::clone(&info), shown }));
        let before = followed.members.insert(conn, member);
        let is_new = before.is_none();
        let was_listed = before.flatten().is_some_and(|member| member.shown.listed);
        followed.listed += usize::from(shown.listed);
        followed.listed -= usize::from(was_listed);
        if is_new {
            followed.interest.add(shard);
        }
        let outcome: JoinOutcome = Ok((position, missed));
        self.posts.answer(OwnerAnswer::Joined {
            conn,
            channel: channel.clone(),
            since: recover,
            tag,
            outcome,
            cursors: None,
        });
        if shown.listed {
            let what = Task::PresenceAdd { channel: channel.clone(), info: Arc::clone(&info) };
            self.do_at(&channel, what, Then::Nobody);
        }
        // After the answer, so that the one who joined hears of itself as well, as the SDKs expect.
        if shown.announced && is_new {
            let what = Task::Event { channel: channel.clone(), joined: true, info };
            self.do_at(&channel, what, Then::Nobody);
        }
    }

    pub(super) fn answer_join(&mut self, ask: JoinRequest, tag: JoinTag, outcome: JoinOutcome) {
        let JoinRequest { channel, conn, recover, .. } = ask;
        let answer = OwnerAnswer::Joined { conn, channel, since: recover, tag, outcome, cursors: None };
        self.posts.answer(answer);
    }

    pub(super) fn leave(&mut self, channel: &ChannelName, conn: ConnId) {
        let shard = self.posts.peer_shard(conn);
        let Some(followed) = self.channels.get_mut(channel) else { return };
        // One that is not in: its join may have been refused.
        let Some(member) = followed.members.remove(&conn) else { return };
        followed.interest.remove(shard);
        let Some(Member { info, shown }) = member.map(|member| *member) else { return };
        followed.listed -= usize::from(shown.listed);
        if shown.listed {
            let what = Task::PresenceRemove { channel: channel.clone(), client: info.client.clone() };
            self.do_at(channel, what, Then::Nobody);
        }
        if shown.announced {
            let what = Task::Event { channel: channel.clone(), joined: false, info };
            self.do_at(channel, what, Then::Nobody);
        }
    }

    pub(super) fn renew(&mut self, channel: &ChannelName, conn: ConnId, info: Arc<ClientInfo>) {
        let Some(followed) = self.channels.get_mut(channel) else { return };
        let Some(Some(member)) = followed.members.get_mut(&conn) else { return };
        member.info = Arc::clone(&info);
        if member.shown.listed {
            let what = Task::PresenceAdd { channel: channel.clone(), info };
            self.do_at(channel, what, Then::Nobody);
        }
    }
}

/// The answer to a join that needs no server.
fn join_from_tail(
    tail: &Tail,
    ask: &JoinRequest,
    mode: RecoveryMode,
    recovery_max: usize,
) -> Option<(Position, Missed)> {
    let Some(since) = ask.recover else { return Some((tail.top, Missed::NotAsked)) };
    match mode {
        RecoveryMode::Cache if !since.is_rewind() => {
            Some((tail.top, Missed::Given(vec![Arc::clone(tail.newest()?)])))
        }
        _ => Some((tail.top, Missed::Given(tail.missed(since, recovery_max)?))),
    }
}
