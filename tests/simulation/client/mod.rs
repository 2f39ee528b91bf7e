//! A client of the Centrifuge protocol: a small model of the published SDKs that checks everything it is told.
//!
//! It remembers what it asked, where it stands in each channel and what it was promised. Whatever the shard sends must
//! fit that, or the run fails. Here its state and what time brings; `say` writes its commands, `hear` checks what comes,
//! `carried` is what carries both.

mod carried;
mod hear;
mod say;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trunkline::base::time::Time;

use carried::{Carrier, Uplink};

use crate::audience::{TagFilter, Who};
use crate::backend::UserNews;
use crate::check::{ChannelNo, Follower, Log, PayloadNo, Place};
use crate::scenario::{Extras, pick};
use crate::sealed::End;
use crate::wire::{self, Reader};
use crate::world::Stage;

/// How long a client that connects waits for the whole of it before it tries again: as the SDKs do.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// How soon after its expiry something ends: the delay for a refresh, and the rounding of clocks that count seconds.
const EXPIRY_PROMPT: Duration = Duration::from_millis(3_200);
/// How soon a command is answered when nothing is late.
const REPLY_PROMPT: Duration = Duration::from_secs(1);

pub struct Client {
    number: usize,
    /// `None`: anonymous.
    user: Option<u8>,
    phase: Phase,
    end: Option<End>,
    reader: Reader,
    /// Public id of this connection.
    id: String,
    next_id: u32,
    /// Commands whose replies are awaited, and when each was made.
    sent: BTreeMap<u32, (Time, Sent)>,
    subs: BTreeMap<ChannelNo, Subscription>,
    /// Where it stood in channels that can be recovered; survives connections.
    kept: BTreeMap<ChannelNo, (u64, u64)>,
    /// Channels it wants to be subscribed to.
    wanted: BTreeSet<ChannelNo>,
    /// Channels in the token of this connection.
    granted: BTreeSet<ChannelNo>,
    /// Commands that wait to leave in one frame.
    batch: Vec<String>,
    paused_until: Option<Time>,
    /// Answers no pings for the rest of this connection.
    mute: bool,
    /// When the connection is over unless it is refreshed.
    expires: Option<Time>,
    /// When it asked to be let in by the backend, which may take longer than a silent client may.
    asked_to_connect: Option<Time>,
    /// Sockets that the client has done with and still holds open.
    lingering: Vec<(Time, End)>,
    carrier: Carrier,
    protobuf: bool,
    /// The tag that it names itself by.
    origin: String,
    uplink: Uplink,
    /// The request that this connection begins with has been sent.
    asked_for_stream: bool,
    /// It has asked on this connection for what it cannot read, on purpose.
    asked_for_bytes: bool,
    /// Messages to its user that came on this connection.
    news: BTreeSet<usize>,
    ready_since: Time,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Away { until: Time },
    Opening { since: Time },
    Ready,
}

struct Subscription {
    follower: Follower,
    began: Time,
    server_side: bool,
    recoverable: bool,
    imposed: bool,
    /// It is to be told who joins and leaves.
    join_leaves: bool,
    /// Who was told to be there, and who to be gone, in a channel that loses no join/leave event without a word.
    present: Option<BTreeMap<String, bool>>,
    /// When it is over unless it is refreshed.
    expires: Option<Time>,
    /// The server may have ended it already: what it said about that may have been meant for this one.
    uncertain: bool,
}

/// A command whose reply is awaited.
enum Sent {
    Connect {
        recover: BTreeMap<ChannelNo, (u64, u64)>,
        floors: BTreeMap<ChannelNo, Place>,
    },
    Subscribe(Subscribing),
    Unsubscribe {
        channel: ChannelNo,
    },
    Publish {
        payload: PayloadNo,
    },
    History {
        channel: ChannelNo,
        floor: Option<Place>,
        reverse: bool,
        /// Since when its subscription has been filtered by others.
        filtered_since: Option<Time>,
    },
    Presence,
    PresenceStats,
    Ping,
    Refresh,
    SubRefresh {
        channel: ChannelNo,
    },
    /// A call that the backend gives back.
    Rpc {
        number: u32,
    },
    /// Cannot succeed.
    Hopeless {
        code: u16,
    },
    /// A filter where there may be none.
    Unfilterable,
}

struct Subscribing {
    channel: ChannelNo,
    recover: Option<(u64, u64)>,
    floor: Option<Place>,
    /// Asked to be told who joins and leaves.
    join_leaves: bool,
    filters: Vec<TagFilter>,
    /// Somebody else has it filtered.
    imposed: bool,
    /// An unsubscribe that was sent later has been answered earlier.
    dead: bool,
    /// An unsubscribe of the server came: for this one, or for one before it.
    uncertain: bool,
}

impl Client {
    pub fn new(number: usize, user: Option<u8>) -> Client {
        Client {
            number,
            user,
            phase: Phase::Away { until: Time::ZERO },
            end: None,
            reader: Reader::default(),
            id: String::new(),
            next_id: 0,
            sent: BTreeMap::new(),
            subs: BTreeMap::new(),
            kept: BTreeMap::new(),
            wanted: BTreeSet::new(),
            granted: BTreeSet::new(),
            batch: Vec::new(),
            paused_until: None,
            mute: false,
            expires: None,
            asked_to_connect: None,
            lingering: Vec::new(),
            carrier: Carrier::default(),
            protobuf: false,
            origin: String::new(),
            uplink: Uplink::default(),
            asked_for_stream: false,
            asked_for_bytes: false,
            news: BTreeSet::new(),
            ready_since: Time::ZERO,
        }
    }

    /// What only some runs have. By its number: what it draws stays the same.
    pub fn with_extras(mut self, extras: Extras) -> Client {
        if extras.carriers {
            (self.carrier, self.protobuf) = match self.number % 5 {
                0 => (Carrier::WebSocket, false),
                1 => (Carrier::Stream, true),
                2 => (Carrier::Sse, false),
                3 => (Carrier::WebSocket, true),
                _ => (Carrier::Stream, false),
            };
        } else if extras.bytes.is_some() {
            self.protobuf = !self.number.is_multiple_of(3);
        }
        if extras.keeps && !self.number.is_multiple_of(3) {
            self.origin = origin(self.number % 3);
        }
        self
    }

    /// Who it is, on this connection.
    fn who(&self) -> Who {
        let user = self.user.map(user_name).unwrap_or_default();
        Who { client: self.id.clone(), user, origin: self.origin.clone() }
    }

    /// It cannot read what is published there.
    fn cannot_read(&self, channel: ChannelNo, stage: &Stage) -> bool {
        stage.scenario.channels[channel].bytes && !self.protobuf
    }

    // ---- for checkers

    /// Whether it has had a message to its user, if it was there for it.
    pub fn misses(&self, number: usize, news: &UserNews, since: Time) -> bool {
        let there = self.is_ready() && self.ready_since < since;
        there && news.is_for(&self.who()) && !self.news.contains(&number)
    }

    pub fn is_ready(&self) -> bool {
        self.phase == Phase::Ready
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn user(&self) -> Option<u8> {
        self.user
    }

    pub fn outstanding(&self) -> usize {
        self.sent.len()
    }

    pub fn channels(&self) -> impl Iterator<Item = ChannelNo> {
        self.subs.keys().copied()
    }

    pub fn is_subscribed(&self, channel: ChannelNo) -> bool {
        self.subs.contains_key(&channel)
    }

    /// Whether it was told of its own join, where it must have been.
    pub fn knows_itself(&self, channel: ChannelNo) -> bool {
        let Some(sub) = self.subs.get(&channel) else { return true };
        let present = sub.present.as_ref().filter(|_| sub.join_leaves);
        present.is_none_or(|present| present.get(&self.id) == Some(&true))
    }

    /// Checks that it has come to this place of a channel: it has been given what is there, or that is not for it; nor is
    /// anything before. False where that cannot be known: it has subscribed only after `since` and was told of no position,
    /// or of one in another life of the channel: with a small table a channel without subscribers is forgotten at once.
    pub fn check_place(
        &self,
        channel: ChannelNo,
        since: Time,
        place: Place,
        payload: PayloadNo,
        log: &mut Log,
    ) -> bool {
        let Some(sub) = self.subs.get(&channel) else { return false };
        if sub.began >= since && sub.follower.epoch.is_some_and(|known| known != place.0) {
            return false;
        }
        if sub.follower.last.is_none() && sub.began >= since {
            return false;
        }
        let same = sub.follower.epoch.is_none_or(|epoch| epoch == place.0);
        assert!(same, "client {} knows another life of {channel}", self.number);
        sub.follower.check_place(channel, place, payload, log);
        true
    }

    // ---- what time brings

    /// Called at every step of the script.
    pub fn step(&mut self, stage: &mut Stage) {
        let now = stage.net.now();
        self.lingering.retain(|(until, _)| *until > now);
        if self.paused_until.is_some_and(|until| until <= now || stage.calm) {
            self.paused_until = None;
            if let Some(end) = &mut self.end {
                end.read_resume();
            }
        }
        self.pump(stage);
        match self.phase {
            Phase::Away { until } if until <= now => self.open(stage),
            Phase::Opening { since } if now.since(since) > OPEN_TIMEOUT => self.lose(stage),
            Phase::Ready => {
                self.subscribe_wanted(stage);
                self.send_batch(stage);
                if stage.settled {
                    self.check_lifetimes(now);
                }
                if let Some((id, (asked, _))) = self.sent.first_key_value()
                    && stage.settled
                {
                    assert!(
                        now.since(*asked) < REPLY_PROMPT,
                        "client {} waits for reply {id}, though nothing is late any more",
                        self.number
                    );
                }
            }
            _ => {}
        }
    }

    /// What has expired is over.
    fn check_lifetimes(&self, now: Time) {
        let over = |expires: Option<Time>| expires.is_some_and(|at| now > at + EXPIRY_PROMPT);
        assert!(!over(self.expires), "client {} is still connected after its time", self.number);
        for (channel, sub) in &self.subs {
            assert!(
                !over(sub.expires),
                "client {} is still subscribed to {channel} after its time",
                self.number
            );
        }
    }

    /// Does something at random.
    pub fn act(&mut self, stage: &mut Stage) {
        if self.phase != Phase::Ready {
            if stage.prng.u8(..10) == 0 {
                self.lose(stage);
            }
            return;
        }
        if self.paused_until.is_some() && stage.prng.bool() {
            return self.flood(stage);
        }
        let channel = stage.prng.usize(..stage.scenario.channels.len());
        if stage.scenario.extras.filters && stage.prng.u8(..40) == 0 {
            self.filter_in_vain(channel, stage);
        }
        match stage.prng.u8(..64) {
            // What it cannot read it asks for seldom.
            0..13 if self.cannot_read(channel, stage) && stage.prng.u8(..6) != 0 => {}
            0..12 if self.cannot_read(channel, stage) => self.subscribe(channel, stage),
            0..12 => {
                self.wanted.insert(channel);
            }
            12 => {
                // Once more, or for the first time.
                self.subscribe(channel, stage);
            }
            13..17 => {
                self.wanted.remove(&channel);
                self.unsubscribe(channel, stage);
            }
            17..32 => {
                for _ in 0..stage.prng.usize(1..4) {
                    self.publish(channel, stage);
                }
            }
            32..37 => self.history(channel, stage),
            37..39 => self.ask(stage, Sent::Presence, |name| format!(r#""presence":{{"channel":"{name}"}}"#)),
            39 => self.ask(stage, Sent::PresenceStats, |name| {
                format!(r#""presence_stats":{{"channel":"{name}"}}"#)
            }),
            40 => self.command(Sent::Ping, r#""ping":{}"#, stage),
            41 => self.rpc(stage),
            42 => self.command(Sent::Hopeless { code: 102 }, r#""subscribe":{"channel":"nowhere:1"}"#, stage),
            43 => self.batch.push(r#"{"send":{"data":{"one":"way"}}}"#.into()),
            44..46 => self.refresh(stage),
            46..48 => self.sub_refresh(channel, stage),
            48..58 => {
                let longest_us = *pick(&mut stage.prng, &[50_000, 4_000_000]);
                let pause = Duration::from_micros(stage.prng.u64(1_000..longest_us));
                self.paused_until = Some(stage.net.now() + pause);
                if let Some(end) = &mut self.end {
                    end.read_pause();
                }
            }
            58 => self.mute = true,
            59 => self.lose(stage),
            60 => {
                if let Some(end) = &mut self.end {
                    end.finish();
                }
            }
            61 => {
                if let Some(end) = &mut self.end {
                    end.reset();
                }
            }
            62.. if !self.is_websocket() => {}
            62 => self.send_frame(wire::CLOSE, &1000u16.to_be_bytes(), stage),
            _ => self.send_frame(wire::PING, b"are you there", stage),
        }
        // What is not sent now goes with what comes next.
        if stage.prng.u8(..4) != 0 {
            self.send_batch(stage);
        }
    }

    /// Asks much and reads nothing: the shard must stop to listen before its answers cost too much.
    fn flood(&mut self, stage: &mut Stage) {
        for _ in 0..stage.prng.usize(1..30) {
            match stage.prng.u8(..3) {
                0 => {
                    let channel = stage.prng.usize(..stage.scenario.channels.len());
                    self.history(channel, stage);
                }
                _ => self.command(Sent::Ping, r#""ping":{}"#, stage),
            }
            self.send_batch(stage);
        }
    }

    /// Adds a channel to those it wants.
    pub fn want(&mut self, channel: ChannelNo) {
        self.wanted.insert(channel);
    }

    /// The connection is over for the client; it comes back later.
    pub fn lose(&mut self, stage: &mut Stage) {
        let now = stage.net.now();
        stage.note(self.number, '|', "ends its connection");
        if let Some(end) = self.end.take()
            && stage.prng.u8(..4) == 0
        {
            self.lingering.push((now + Duration::from_millis(stage.prng.u64(..4_000)), end));
        }
        self.forget_connection();
        let pause = stage.prng.u64(..if stage.calm { 100_000 } else { 600_000 });
        self.phase = Phase::Away { until: now + Duration::from_micros(pause) };
    }

    /// Leaves for good.
    pub fn leave(&mut self) {
        self.end = None;
        self.lingering.clear();
        self.forget_connection();
        self.phase = Phase::Away { until: Time::NEVER };
    }

    fn forget_connection(&mut self) {
        self.uplink = Uplink::default();
        (self.asked_for_stream, self.asked_for_bytes) = (false, false);
        self.news.clear();
        let channels: Vec<ChannelNo> = self.subs.keys().copied().collect();
        for channel in channels {
            self.end_subscription(channel);
        }
        self.sent.clear();
        self.batch.clear();
        self.granted.clear();
        self.reader = Reader::default();
        self.paused_until = None;
        self.mute = false;
        self.expires = None;
        self.asked_to_connect = None;
    }
}

/// A tag that clients name themselves by.
pub fn origin(number: usize) -> String {
    format!("tab{number}")
}

pub fn user_name(user: u8) -> String {
    format!("user{user}")
}
