//! Random joins, leaves and pauses against a model: what others were told must alternate, come in time, and end at the truth.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::base::ids::{ChannelName, ShardId, Sock};
use crate::base::prng::Prng;
use crate::base::publication::Visibility;
use crate::hub::attendance::EVENTS_WAITING_MAX;
use crate::hub::creators::Creator;
use crate::hub::requests::JoinRequest;
use crate::hub::{ChannelOptions, HubLimits, Namespaces};

const CHANNEL: &str = "room";
const SHOWN: Visibility = Visibility { listed: true, announced: true };
const RUNS: u64 = 600;

fn owned(options: &ChannelOptions) -> OwnedChannels {
    let namespaces = Namespaces::new(options.clone(), [], 255);
    OwnedChannels::new(Arc::new(namespaces), HubLimits::default(), Prng::with_seed(7))
}

fn conn(slot: u32) -> ConnId {
    ConnId::new(ShardId(0), Sock { slot, generation: 1 })
}

fn info(slot: u32, user: &str) -> ClientInfo {
    ClientInfo { user: user.into(), client: format!("c{slot:04}"), ..ClientInfo::default() }
}

fn room() -> ChannelOptions {
    ChannelOptions { presence: true, join_leave: true, ..ChannelOptions::default() }
}

/// A channel, what it is asked to do, and what others know of it.
struct Run {
    options: ChannelOptions,
    owned: OwnedChannels,
    now: Time,
    /// Who is here: the connection's user.
    here: BTreeMap<u32, String>,
    /// Whom others believe to be here.
    told: BTreeSet<String>,
    /// When events were said, of the last second.
    said: VecDeque<Time>,
    events: usize,
}

impl Run {
    fn new(options: ChannelOptions) -> Run {
        Run {
            owned: owned(&options),
            options,
            now: Time::from_millis(5_000),
            here: BTreeMap::new(),
            told: BTreeSet::new(),
            said: VecDeque::new(),
            events: 0,
        }
    }

    fn name(&self, info: &ClientInfo) -> String {
        match self.options.presence_by == PresenceBy::User && !info.user.is_empty() {
            true => format!("user {}", info.user),
            false => info.client.clone(),
        }
    }

    fn join(&mut self, slot: u32, user: &str) {
        let channel: ChannelName = CHANNEL.into();
        let ask = JoinRequest {
            channel,
            conn: conn(slot),
            info: Arc::new(info(slot, user)),
            shown: SHOWN,
            recover: None,
            device: None,
            by: Creator::Backend,
        };
        let joined = self.owned.join(ask, self.now).unwrap();
        assert!(joined.join_leave.is_none(), "it is said in its turn");
        self.here.insert(slot, user.to_owned());
        self.hear();
    }

    fn leave(&mut self, slot: u32) {
        assert!(self.owned.leave(CHANNEL, conn(slot), self.now).is_none(), "it is said in its turn");
        self.here.remove(&slot);
        self.hear();
    }

    fn pause(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        while let Some(next) = self.owned.next_join_leave().filter(|next| *next <= until) {
            self.now = self.now.max(next);
            self.hear();
        }
        self.now = until;
    }

    fn hear(&mut self) {
        while let Some(event) = self.owned.take_join_leave(self.now) {
            let name = self.name(&event.info);
            let changes = if event.joined { self.told.insert(name) } else { self.told.remove(&name) };
            assert!(changes, "told twice: {event:?}");
            self.events += 1;
            self.said.push_back(self.now);
            let since = self.now - Duration::from_secs(1);
            self.said.retain(|at| *at > since);
            let most = self.options.join_leave_per_second as usize;
            assert!(most == 0 || self.said.len() <= most + most / 10 + 1, "{} of {most}", self.said.len());
        }
        let next = self.owned.next_join_leave();
        assert!(next.is_none_or(|next| next > self.now), "nothing that is due is left");
    }

    fn names_here(&self) -> BTreeSet<String> {
        self.here.iter().map(|(slot, user)| self.name(&info(*slot, user))).collect()
    }

    fn check_presence(&mut self) {
        let roster = self.owned.presence(CHANNEL).unwrap();
        let names: Vec<String> = roster.infos.iter().map(|info| self.name(info)).collect();
        let listed: BTreeSet<String> = names.iter().cloned().collect();
        assert_eq!(names.len(), listed.len(), "somebody is listed twice");
        let mut expected = self.names_here();
        if !self.options.leave_delay.is_zero() {
            expected.extend(self.told.iter().cloned());
        }
        assert_eq!(listed, expected);
        let page = self.owned.presence_page(CHANNEL, "", usize::MAX).unwrap();
        assert_eq!(page.len(), listed.len());
    }

    /// Another process goes on.
    fn upgrade(&mut self) {
        let mut next = owned(&self.options);
        if let Some(record) = self.owned.to_record(CHANNEL, self.now) {
            next.restore(&record, self.now).unwrap();
            let now = self.now;
            self.owned.members_parts(CHANNEL, now, |part| {
                next.restore_members(part, &|peer| Some(ConnId::from_bits(peer)), now).unwrap();
            });
        }
        next.finish_restoring().unwrap();
        self.owned = next;
        // It paces what is left by itself.
        self.said.clear();
        self.hear();
    }
}

#[test]
fn others_are_told_in_turns_in_time_and_the_truth_in_the_end() {
    for seed in 0..RUNS {
        let mut prng = Prng::with_seed(seed);
        let options = ChannelOptions {
            presence_by: if prng.bool() { PresenceBy::User } else { PresenceBy::Client },
            leave_delay: Duration::from_millis([0, 200, 3_000][prng.usize(..3)]),
            join_leave_per_second: [0, 1, 7, 50][prng.usize(..4)],
            ..room()
        };
        if !options.paces_events() {
            continue;
        }
        let mut run = Run::new(options);
        for _ in 0..120 {
            let slot = prng.u32(..24);
            match prng.u8(..10) {
                0..=3 if !run.here.contains_key(&slot) => {
                    run.join(slot, ["", "ann", "bob", "eve"][slot as usize % 4])
                }
                0..=6 if run.here.contains_key(&slot) => run.leave(slot),
                7 if prng.u8(..4) == 0 => run.upgrade(),
                _ => run.pause(prng.u64(..600)),
            }
            run.check_presence();
        }
        run.pause(120_000);
        assert_eq!(run.told, run.names_here(), "seed {seed}");
        run.check_presence();
        for slot in run.here.keys().copied().collect::<Vec<_>>() {
            run.leave(slot);
        }
        run.pause(120_000);
        assert!(run.told.is_empty(), "seed {seed}");
        assert!(run.owned.attendances.is_empty() && run.owned.announcements.next().is_none(), "seed {seed}");
        assert_eq!(run.owned.presence_stats(CHANNEL).unwrap().clients, 0, "seed {seed}");
    }
}

#[test]
fn who_connects_a_hundred_times_leaves_once() {
    let mut run = Run::new(ChannelOptions {
        presence_by: PresenceBy::User,
        leave_delay: Duration::from_secs(2),
        ..room()
    });
    for slot in 0..100 {
        run.join(slot, "ann");
        run.pause(20);
        run.leave(slot);
        run.pause(30);
    }
    assert_eq!((run.events, run.told.len()), (1, 1), "joined once");
    run.pause(2_000);
    assert_eq!((run.events, run.told.len()), (2, 0), "and left once");
    assert_eq!(run.owned.counts().join_leave_unsaid_total, 198);
}

#[test]
fn nothing_is_said_where_there_are_more_members_than_that() {
    let mut run = Run::new(ChannelOptions { join_leave_members_max: 10, ..room() });
    (0..10).for_each(|slot| run.join(slot, ""));
    assert_eq!(run.events, 10);
    (10..1_000).for_each(|slot| run.join(slot, ""));
    (11..1_000).for_each(|slot| run.leave(slot));
    assert_eq!(run.events, 10);
    // The eleventh leaves as one of too many, whose join was not said either.
    run.leave(10);
    assert_eq!(run.events, 10);
    assert_eq!(run.owned.counts().join_leave_unsaid_total, 2 * 990);
    run.leave(3);
    assert_eq!(run.events, 11);
}

#[test]
fn what_has_no_room_to_wait_is_counted() {
    let mut run = Run::new(ChannelOptions { join_leave_per_second: 1, ..room() });
    let more = 10;
    (0..EVENTS_WAITING_MAX as u32 + 2 + more).for_each(|slot| run.join(slot, ""));
    assert_eq!(run.owned.counts().join_leave_unsaid_total, u64::from(more) + 1);
}
