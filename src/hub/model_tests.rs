//! Random operations against [`OwnedChannels`] and a naive map that was written from its documentation, comparing every answer.
//!
//! The naive one keeps everything in lists, walks them all before each step, and knows no sweep. It cannot foresee
//! random epochs or which log pays for want of bytes: those it learns from the owner and checks that they were allowed.
//! A failure prints its seed; `HUB_SEED=n` runs that one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ConnId, Epoch, Offset, Position, ShardId, Sock};
use crate::base::prng::Prng;
use crate::base::publication::{ClientInfo, Publication, Visibility};
use crate::base::time::Time;
use crate::hub::creators::Creator;
use crate::hub::entry::ENTRY_BYTES;
use crate::hub::requests::{
    HistoryRequest, JoinRequest, PresenceStats, PublishRequest, Recovery, Since, SinceEpoch,
};
use crate::hub::{ChannelOptions, HubLimits, Namespaces, OwnedChannels};

const NAMES: [&str; 12] = [
    "plain",
    "plain2",
    "kept:a",
    "kept:b",
    "kept:c",
    "short:a",
    "short:b",
    "seen:a",
    "told:a",
    "all:a",
    "gone:a",
    "bad\nname",
];
/// Names one run uses: few enough that each is used often.
const NAMES_PER_RUN: usize = 6;
const RUNS: u64 = 1_500;
const STEPS: usize = 200;

#[test]
fn agrees_with_a_naive_map() {
    run(0, RUNS, HubLimits { recovery_publications_max: 6, history_read_max: 5, ..HubLimits::default() });
}

#[test]
fn agrees_with_a_naive_map_short_of_bytes() {
    let history_bytes_max = 6 * ENTRY_BYTES;
    run(1 << 32, RUNS, HubLimits { history_bytes_max, ..HubLimits::default() });
}

#[test]
fn agrees_with_a_naive_map_short_of_channels_and_keys() {
    run(
        2 << 32,
        RUNS,
        HubLimits {
            channels_max: 3,
            client_channels_max: 3,
            idempotency_keys_max: 3,
            ..HubLimits::default()
        },
    );
}

#[test]
fn agrees_with_a_naive_map_where_clients_have_a_share() {
    run(4 << 32, RUNS, HubLimits { channels_max: 4, client_channels_max: 2, ..HubLimits::default() });
    run(5 << 32, RUNS, HubLimits { client_channels_max: 3, ..HubLimits::default() });
}

#[test]
fn agrees_with_a_naive_map_short_of_everything() {
    let history_bytes_max = 3 * ENTRY_BYTES;
    let limits = HubLimits {
        channels_max: 3,
        client_channels_max: 2,
        idempotency_keys_max: 2,
        history_bytes_max,
        ..HubLimits::default()
    };
    run(3 << 32, RUNS, limits);
}

fn run(first_seed: u64, runs: u64, limits: HubLimits) {
    let only = std::env::var("HUB_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    for seed in first_seed..first_seed + runs {
        if only.is_some_and(|only| only != seed) {
            continue;
        }
        let outcome = std::panic::catch_unwind(|| Pair::new(seed, limits.clone()).run());
        if let Err(panic) = outcome {
            eprintln!("failed with HUB_SEED={seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

fn namespaces() -> Arc<Namespaces> {
    let kept = ChannelOptions {
        history_size: 8,
        history_ttl: Duration::from_secs(100),
        history_meta_ttl: Duration::from_secs(400),
        ..ChannelOptions::default()
    };
    let short = ChannelOptions { history_size: 3, history_ttl: Duration::from_secs(1), ..kept.clone() };
    let seen = ChannelOptions { presence: true, ..ChannelOptions::default() };
    let told = ChannelOptions { join_leave: true, ..ChannelOptions::default() };
    let all = ChannelOptions { presence: true, join_leave: true, ..kept.clone() };
    let named = [("kept", kept), ("short", short), ("seen", seen), ("told", told), ("all", all)];
    let named = named.map(|(name, options)| (name.to_owned(), options));
    Arc::new(Namespaces::new(ChannelOptions::default(), named, 255))
}

/// One channel as the documentation tells it.
struct Naive {
    options: Arc<ChannelOptions>,
    epoch: Epoch,
    top: u64,
    /// Offset, payload, when it is over.
    entries: Vec<(u64, Bytes, Time)>,
    members: BTreeMap<ConnId, (Arc<ClientInfo>, Visibility)>,
    /// Key, answer, when it is over, and when it came in the order of all keys.
    keys: Vec<(String, Position, Time, u64)>,
    version: (u64, String),
    in_use_until: Time,
    /// The bucket of the client that made it, while only clients have used it.
    creator: Option<u16>,
}

impl Naive {
    fn position(&self) -> Position {
        Position { offset: Offset(self.top), epoch: self.epoch }
    }

    fn forget_at(&self) -> Time {
        let grace = if self.options.keeps_history() {
            self.options.history_meta_ttl
        } else {
            Duration::from_secs(60)
        };
        self.in_use_until + grace
    }

    fn idle(&self) -> bool {
        self.members.is_empty() && self.entries.is_empty() && self.keys.is_empty()
    }

    fn bytes(&self) -> usize {
        self.entries.iter().map(|(_, data, _)| data.len() + ENTRY_BYTES).sum()
    }
}

struct Pair {
    prng: Prng,
    owned: OwnedChannels,
    naive: BTreeMap<&'static str, Naive>,
    /// Epochs that each name has had.
    epochs: BTreeMap<&'static str, BTreeSet<u64>>,
    namespaces: Arc<Namespaces>,
    limits: HubLimits,
    now: Time,
    keys_issued: u64,
    /// Keys of channels that had to go, until they are over: they still take places.
    dead_keys: Vec<(Time, u64)>,
}

impl Pair {
    fn new(seed: u64, limits: HubLimits) -> Pair {
        let mut prng = Prng::with_seed(seed);
        let owned = OwnedChannels::new(namespaces(), limits.clone(), prng.fork());
        Pair {
            prng,
            owned,
            naive: BTreeMap::new(),
            epochs: BTreeMap::new(),
            namespaces: namespaces(),
            limits,
            now: Time(1_000),
            keys_issued: 0,
            dead_keys: Vec::new(),
        }
    }

    fn run(mut self) {
        let mut names = NAMES;
        self.prng.shuffle(&mut names);
        for _ in 0..STEPS {
            self.pass_time();
            self.age();
            if self.prng.u8(..4) == 0 {
                let budget = self.prng.usize(..20);
                self.owned.sweep(self.now, budget);
            }
            if self.limits.channels_max.min(self.limits.client_channels_max) < NAMES.len() {
                // Whether an idle channel can make room depends on its being known as idle.
                self.owned.sweep(self.now, 1_000);
            }
            let name = names[self.prng.usize(..NAMES_PER_RUN)];
            match self.prng.u8(..16) {
                0..=6 => self.publish(name),
                7..=9 => self.join(name),
                10..=11 => self.leave(name),
                12..=13 => self.history(name),
                14 if self.prng.u8(..4) == 0 => self.history_remove(name),
                _ => {}
            }
            self.compare();
        }
        self.finish();
    }

    /// Mostly a little; sometimes to the border of something, or just before it.
    fn pass_time(&mut self) {
        match self.prng.u8(..8) {
            0..=4 => {}
            5 => self.now = self.now + Duration::from_millis(self.prng.u64(..800)),
            6 => self.now = self.now + Duration::from_secs(self.prng.u64(..40)),
            _ => {
                let mut borders: Vec<Time> = Vec::new();
                for channel in self.naive.values() {
                    borders.extend(channel.entries.iter().map(|&(_, _, over)| over));
                    borders.extend(channel.keys.iter().map(|&(_, _, over, _)| over));
                    borders.push(channel.forget_at());
                }
                borders.sort();
                if let Some(&border) = borders.get(self.prng.usize(..6)) {
                    let just_before = self.prng.u64(..2);
                    self.now = self.now.max(Time(border.0 - just_before));
                }
            }
        }
    }

    fn age(&mut self) {
        let now = self.now;
        for channel in self.naive.values_mut() {
            channel.entries.retain(|&(_, _, over)| now < over);
            channel.keys.retain(|&(_, _, over, _)| now < over);
        }
        self.dead_keys.retain(|&(over, _)| now < over);
        self.naive.retain(|_, channel| !channel.members.is_empty() || now < channel.forget_at());
    }

    fn clients_channels(&self) -> usize {
        self.naive.values().filter(|channel| channel.creator.is_some()).count()
    }

    /// Whether the share of clients is used up, for one who asks.
    fn share_is_full(&self, by: &Creator) -> bool {
        *by != Creator::Backend && self.clients_channels() >= self.limits.client_channels_max
    }

    /// What a mention of `name` must be answered, by what the naive one knows.
    fn may_mention(&self, name: &str, by: &Creator) -> Result<(), ErrorCode> {
        let all: Vec<&Naive> = self.naive.values().collect();
        let yields = all.iter().any(|channel| channel.creator.is_some() && channel.members.is_empty());
        let idle = all.iter().any(|channel| channel.idle());
        let room = match self.share_is_full(by) {
            true => yields,
            false => all.len() < self.limits.channels_max || idle || yields,
        };
        match name {
            "bad\nname" => Err(ErrorCode::BadRequest),
            "gone:a" => Err(ErrorCode::UnknownChannel),
            name if self.naive.contains_key(name) || room => Ok(()),
            _ => Err(ErrorCode::LimitExceeded),
        }
    }

    /// After a mention that the owner took: follows it, learning the epoch of a new channel.
    fn mentioned(&mut self, name: &'static str, epoch: Epoch, by: &Creator) -> &mut Naive {
        if !self.naive.contains_key(name) {
            let share_is_full = self.share_is_full(by);
            if share_is_full || self.naive.len() >= self.limits.channels_max {
                let gone: Vec<_> =
                    self.naive.keys().copied().filter(|name| self.owned.position(name).is_none()).collect();
                let [gone] = gone[..] else { panic!("one channel makes room for one, not {gone:?}") };
                let idle_first = !share_is_full && self.naive.values().any(Naive::idle);
                let most = self.most_channels_of_a_creator();
                let channel = &self.naive[gone];
                if idle_first {
                    assert!(channel.idle(), "{gone} was in use");
                } else {
                    assert!(channel.members.is_empty(), "{gone} has subscribers");
                    let creator = channel.creator.expect("the backend's stays");
                    assert_eq!(self.channels_of(creator), most, "who has most pays");
                }
                let gone = self.naive.remove(gone).unwrap();
                self.dead_keys.extend(gone.keys.iter().map(|&(_, _, over, order)| (over, order)));
            }
            let fresh = self.epochs.entry(name).or_default().insert(epoch.0);
            assert!(fresh, "the successor of {name} has another epoch");
            let channel = Naive {
                options: self.namespaces.resolve(name).unwrap().clone(),
                epoch,
                top: 0,
                entries: Vec::new(),
                members: BTreeMap::new(),
                keys: Vec::new(),
                version: (0, String::new()),
                in_use_until: self.now,
                creator: self.owned.bucket_of(by),
            };
            self.naive.insert(name, channel);
        }
        let channel = self.naive.get_mut(name).unwrap();
        if *by == Creator::Backend {
            channel.creator = None;
        }
        channel.in_use_until = channel.in_use_until.max(self.now);
        channel
    }

    fn channels_of(&self, creator: u16) -> usize {
        self.naive.values().filter(|channel| channel.creator == Some(creator)).count()
    }

    /// Of the creators that have one without subscribers.
    fn most_channels_of_a_creator(&self) -> usize {
        let yielding = self.naive.values().filter(|channel| channel.members.is_empty());
        yielding.filter_map(|channel| Some(self.channels_of(channel.creator?))).max().unwrap_or(0)
    }

    /// The backend, or one of some clients.
    fn creator(&mut self) -> Creator {
        match self.prng.u8(..5) {
            0 => Creator::Backend,
            1 => Creator::client(None, self.conn()),
            other => {
                Creator::client(Some(&["ann", "bob", "cid"][usize::from(other) - 2].into()), self.conn())
            }
        }
    }

    fn publish(&mut self, name: &'static str) {
        let data = Bytes::from(vec![b'7'; self.prng.usize(..200)]);
        let mut ask = PublishRequest::new(name.into(), data.clone());
        ask.by = self.creator();
        ask.skip_history = self.prng.u8(..6) == 0;
        if self.prng.u8(..3) == 0 {
            ask.idempotency_key = Some(["", "a", "b", "c", "d"][self.prng.usize(..5)].into());
        }
        if self.prng.u8(..3) == 0 {
            ask.version = self.prng.u64(..5);
            ask.version_epoch = [None, Some(""), Some("x"), Some("y")][self.prng.usize(..4)].map(Into::into);
        }
        let evicted_before = self.owned.counts().history_evicted_total;
        let answer = self.owned.publish(ask.clone(), self.now, 5);
        let expected = self.may_mention(name, &ask.by);
        let published = match answer {
            Err(error_code) => return assert_eq!(Err(error_code), expected),
            Ok(published) => published,
        };
        assert_eq!(expected, Ok(()));

        let now = self.now;
        let keys_max = self.limits.idempotency_keys_max;
        let epoch = published.position.epoch;
        let channel = self.mentioned(name, epoch, &ask.by);
        let key = ask.idempotency_key.as_deref().unwrap_or("").to_owned();
        if let Some((_, first, _, _)) = channel.keys.iter().find(|(known, ..)| *known == key) {
            assert_eq!(published.position, *first);
            assert!(published.publication.is_none());
            return;
        }
        if ask.version > 0 {
            let version_epoch = ask.version_epoch.as_deref().unwrap_or("");
            let comparable = version_epoch.is_empty() || version_epoch == channel.version.1;
            if comparable && ask.version <= channel.version.0 {
                assert_eq!(published.position, channel.position());
                assert!(published.publication.is_none());
                return;
            }
            channel.version = (ask.version, version_epoch.to_owned());
        }
        let publication = published.publication.expect("it is news");
        assert_eq!((&publication.data, &*publication.channel, publication.time_ms), (&data, name, 5));
        assert_eq!(publication.position.epoch, channel.epoch);
        if ask.skip_history {
            assert_eq!(publication.offset(), Offset(0));
        } else {
            channel.top += 1;
            assert_eq!(publication.offset(), Offset(channel.top));
        }
        assert_eq!(published.position, channel.position());
        if !ask.skip_history && channel.options.keeps_history() {
            let over = now + channel.options.history_ttl;
            channel.in_use_until = channel.in_use_until.max(over);
            channel.entries.push((channel.top, data, over));
            if channel.entries.len() > channel.options.history_size {
                channel.entries.remove(0);
            }
            self.follow_evictions(evicted_before);
        }
        if !key.is_empty() {
            let live: usize = self.naive.values().map(|channel| channel.keys.len()).sum();
            if live + self.dead_keys.len() >= keys_max {
                let oldest = |channel: &Naive| channel.keys.first().map_or(u64::MAX, |&(.., order)| order);
                let loser = self.naive.values_mut().min_by_key(|channel| oldest(channel)).unwrap();
                let dead = self.dead_keys.iter().map(|&(_, order)| order).min();
                match dead.filter(|&dead| dead < oldest(loser)) {
                    Some(dead) => self.dead_keys.retain(|&(_, order)| order != dead),
                    None => drop(loser.keys.remove(0)),
                }
            }
            self.keys_issued += 1;
            let order = self.keys_issued;
            let over = now + Duration::from_secs(300);
            let channel = self.naive.get_mut(name).unwrap();
            channel.in_use_until = channel.in_use_until.max(over);
            channel.keys.push((key, published.position, over, order));
        }
    }

    /// Which log loses its oldest entries for want of bytes is the owner's choice; that they are no more than needed
    /// is checked.
    fn follow_evictions(&mut self, evicted_before: u64) {
        let evicted = self.owned.counts().history_evicted_total - evicted_before;
        let mut lost = 0;
        let mut largest = 0;
        for (name, channel) in &mut self.naive {
            while channel.entries.len() > self.owned.retained(name) {
                let (_, data, _) = channel.entries.remove(0);
                largest = largest.max(data.len() + ENTRY_BYTES);
                lost += 1;
            }
        }
        assert_eq!(lost, evicted, "only evictions lose entries before their time");
        if lost > 0 {
            let live: usize = self.naive.values().map(Naive::bytes).sum();
            assert!(live + largest > self.limits.history_bytes_max, "there was room for one more");
        }
    }

    fn join(&mut self, name: &'static str) {
        let conn = self.conn();
        let user = ["", "ann", "bob"][self.prng.usize(..3)];
        let info =
            ClientInfo { user: user.into(), client: format!("{conn:?}"), conn_info: None, chan_info: None };
        let info = Arc::new(info);
        let recover = (self.prng.u8(..3) > 0).then(|| self.since(name));
        let by = self.creator();
        let shown = self.shown(name);
        let ask = JoinRequest {
            channel: name.into(),
            conn,
            info: info.clone(),
            shown,
            recover,
            device: None,
            by: by.clone(),
        };
        let joined = match (self.owned.join(ask, self.now), self.may_mention(name, &by)) {
            (Err(error_code), expected) => return assert_eq!(Err(error_code), expected),
            (Ok(joined), expected) => {
                assert_eq!(expected, Ok(()));
                joined
            }
        };
        let recovery_max = self.limits.recovery_publications_max;
        let channel = self.mentioned(name, joined.position.epoch, &by);
        assert_eq!(joined.position, channel.position());
        let repeated = channel.members.insert(conn, (info.clone(), shown)).is_some();
        let told = shown.announced && !repeated;
        assert_eq!(joined.join_leave.is_some(), told);
        if let Some(join_leave) = joined.join_leave {
            assert!(join_leave.joined && join_leave.info == info && &*join_leave.channel == name);
        }
        let expected = recover.map(|since| {
            let missed = channel.top.wrapping_sub(since.offset.0);
            let kept: Vec<u64> =
                channel.entries.iter().map(|&(offset, ..)| offset).filter(|&o| o > since.offset.0).collect();
            let whole =
                since.offset.0 <= channel.top && kept.len() as u64 == missed && kept.len() <= recovery_max;
            (since.epoch.matches(channel.epoch) && whole).then_some(kept)
        });
        let got = joined.recovery.map(|recovery| match recovery {
            Recovery::Recovered(publications) => Some(offsets(&publications)),
            Recovery::Lost | Recovery::Replaced(_) | Recovery::Later(_) => None,
        });
        assert_eq!(got, expected, "{recover:?}");
    }

    fn leave(&mut self, name: &'static str) {
        let conn = match self.naive.get(name) {
            Some(channel) if !channel.members.is_empty() && self.prng.u8(..4) > 0 => {
                *channel.members.keys().nth(self.prng.usize(..channel.members.len())).unwrap()
            }
            _ => self.conn(),
        };
        let unknown_before = self.owned.counts().leaves_unknown_total;
        let join_leave = self.owned.leave(name, conn, self.now);
        let info = self.naive.get_mut(name).and_then(|channel| {
            let (info, shown) = channel.members.remove(&conn)?;
            channel.in_use_until = channel.in_use_until.max(self.now);
            Some((info, shown.announced))
        });
        let unknown = self.owned.counts().leaves_unknown_total - unknown_before;
        assert_eq!(unknown, u64::from(info.is_none()));
        let expected = info.filter(|&(_, told)| told).map(|(info, _)| info);
        assert_eq!(join_leave.as_ref().map(|join_leave| &join_leave.info), expected.as_ref());
        assert!(join_leave.is_none_or(|join_leave| !join_leave.joined && &*join_leave.channel == name));
    }

    fn history(&mut self, name: &'static str) {
        let limit = [None, Some(0), Some(1), Some(3), Some(usize::MAX)][self.prng.usize(..5)];
        let since = self.prng.bool().then(|| self.since(name));
        let reverse = self.prng.bool();
        let by = self.creator();
        let ask = HistoryRequest { channel: name.into(), limit, since, since_ms: None, reverse, by };
        let known = self.naive.contains_key(name);
        let answer = self.owned.history(&ask, self.now);
        let expected = match self.namespaces.resolve(name) {
            Err(error_code) => Err(error_code),
            Ok(options) if !options.keeps_history() => Err(ErrorCode::NotAvailable),
            _ if reverse && since.is_some_and(|since| since.offset == Offset(0)) => {
                Err(ErrorCode::BadRequest)
            }
            _ => self.may_mention(name, &ask.by),
        };
        if let Err(error_code) = expected {
            return assert_eq!(answer.err(), Some(error_code));
        }
        let epoch = self.owned.position(name).expect("the ask made it").epoch;
        let read_max = self.limits.history_read_max;
        let channel = self.mentioned(name, epoch, &ask.by);
        if since.is_some_and(|since| !since.epoch.matches(channel.epoch)) {
            return assert_eq!(answer.err(), Some(ErrorCode::UnrecoverablePosition));
        }
        let mut kept: Vec<u64> = channel.entries.iter().map(|&(offset, ..)| offset).collect();
        if reverse {
            kept.reverse();
        }
        if let Some(Since { offset: Offset(since), .. }) = since {
            let reachable = !reverse || kept.contains(&(since - 1));
            kept.retain(|&offset| reachable && if reverse { offset < since } else { offset > since });
        }
        kept.truncate(limit.unwrap_or(usize::MAX).min(read_max));
        let answer = answer.unwrap();
        assert_eq!(offsets(&answer.publications), kept, "{ask:?}, known before: {known}");
        assert_eq!(answer.position, channel.position());
    }

    fn history_remove(&mut self, name: &'static str) {
        let expected = match self.namespaces.resolve(name) {
            Err(error_code) => Err(error_code),
            Ok(options) if !options.keeps_history() => Err(ErrorCode::NotAvailable),
            Ok(_) => Ok(()),
        };
        assert_eq!(self.owned.history_remove(name, self.now), expected);
        if expected.is_ok()
            && let Some(channel) = self.naive.get_mut(name)
        {
            channel.entries.clear();
        }
    }

    /// Everything that can be asked without changing anything.
    fn compare(&mut self) {
        // Lets the owner know the time: some of these answers take none.
        self.owned.sweep(self.now, 0);
        let mut occupied = BTreeMap::new();
        for name in NAMES {
            let channel = self.naive.get(name);
            assert_eq!(self.owned.position(name), channel.map(Naive::position), "{name:?}");
            let mut interest = BTreeMap::new();
            let mut infos = Vec::new();
            if let Some(channel) = channel {
                channel.members.keys().for_each(|conn| *interest.entry(conn.shard()).or_insert(0) += 1);
                let listed = channel.members.values().filter(|(_, shown)| shown.listed);
                infos.extend(listed.map(|(info, _)| info.clone()));
                if !channel.members.is_empty() {
                    occupied.insert(name.to_owned(), channel.members.len() as u32);
                }
            }
            let interest: Vec<(ShardId, u32)> = interest.into_iter().collect();
            assert_eq!(self.owned.interested(name), interest);
            match self.namespaces.resolve(name) {
                Ok(options) if options.presence => {
                    let mut present = self.owned.presence(name).unwrap().infos.clone();
                    present.sort_by(|a, b| a.client.cmp(&b.client));
                    infos.sort_by(|a, b| a.client.cmp(&b.client));
                    let users: BTreeSet<&str> = infos.iter().map(|info| &*info.user).collect();
                    let stats = PresenceStats { clients: infos.len() as u32, users: users.len() as u32 };
                    assert_eq!(self.owned.presence_stats(name), Ok(stats));
                    assert_eq!(present, infos);
                }
                refused => {
                    let error_code = refused.err().unwrap_or(ErrorCode::NotAvailable);
                    assert_eq!(self.owned.presence(name).unwrap_err(), error_code);
                    assert_eq!(self.owned.presence_stats(name), Err(error_code));
                }
            }
        }
        let channels = self.owned.channels(&|name| name != "plain");
        let channels: BTreeMap<_, _> = channels.into_iter().map(|(name, n)| (name.to_string(), n)).collect();
        let counts = self.owned.counts();
        assert_eq!(counts.subscriptions, occupied.values().sum::<u32>() as usize);
        occupied.remove("plain");
        assert_eq!(channels, occupied);
        let live_bytes: usize = self.naive.values().map(Naive::bytes).sum();
        assert!((live_bytes..=self.limits.history_bytes_max).contains(&counts.history_bytes), "{counts:?}");
        assert!(counts.channels <= self.limits.channels_max);
        assert!(
            (self.clients_channels()..=self.limits.client_channels_max).contains(&counts.client_channels)
        );
        assert!(counts.idempotency_keys <= self.limits.idempotency_keys_max);
    }

    /// Everybody leaves, everything ends: nothing may be left.
    fn finish(mut self) {
        for (name, channel) in &self.naive {
            for &conn in channel.members.keys() {
                self.owned.leave(name, conn, self.now);
            }
        }
        // No later than the latest of all ends, and not one nanosecond before.
        let last = self.naive.values_mut().map(|channel| {
            if !channel.members.is_empty() {
                channel.in_use_until = channel.in_use_until.max(self.now);
            }
            channel.forget_at()
        });
        let Some(last) = last.max() else { return };
        self.owned.sweep(Time(last.0 - 1), 10_000);
        assert!(self.owned.counts().channels > 0);
        self.owned.sweep(last, 10_000);
        let counts = self.owned.counts();
        assert_eq!((counts.channels, counts.client_channels, counts.subscriptions), (0, 0, 0));
        let keys_over = self.dead_keys.iter().map(|&(over, _)| over).fold(last, Time::max);
        self.owned.sweep(keys_over, 10_000);
        assert_eq!(self.owned.counts().idempotency_keys, 0);
        assert_eq!((counts.history_bytes, counts.history_publications), (0, 0));
    }

    /// As the namespace says, or as a grant makes it for one member.
    fn shown(&mut self, name: &str) -> Visibility {
        match self.namespaces.resolve(name) {
            Ok(options) if self.prng.u8(..3) > 0 => {
                Visibility { listed: options.presence, announced: options.join_leave }
            }
            _ => Visibility { listed: self.prng.bool(), announced: self.prng.bool() },
        }
    }

    /// One of some forty, on three shards.
    fn conn(&mut self) -> ConnId {
        let slots = if self.prng.bool() { 4 } else { 40 };
        let slot = self.prng.u32(..slots);
        ConnId::new(ShardId(slot as u16 % 3), Sock { slot, generation: 1 })
    }

    /// About the top, in an epoch of now, of before, of nobody, or none.
    fn since(&mut self, name: &str) -> Since {
        let top = self.naive.get(name).map_or(0, |channel| channel.top);
        let offset = match self.prng.u8(..8) {
            0 => u64::MAX,
            1 => 0,
            _ => (top + 2).saturating_sub(self.prng.u64(..12)),
        };
        let past = self.epochs.get(name).into_iter().flatten().next().copied().unwrap_or(1);
        let epoch = match (self.prng.u8(..8), self.naive.get(name)) {
            (0, _) => SinceEpoch::Foreign,
            (1, _) => SinceEpoch::Known(Epoch(past)),
            (2..=6, Some(channel)) => SinceEpoch::Known(channel.epoch),
            _ => SinceEpoch::Any,
        };
        Since { offset: Offset(offset), epoch }
    }
}

fn offsets(publications: &[Arc<Publication>]) -> Vec<u64> {
    publications.iter().map(|publication| publication.offset().0).collect()
}
