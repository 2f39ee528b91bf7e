//! A client of the Centrifuge protocol: a small model of the published SDKs that checks everything it is told.
//!
//! It remembers what it asked, where it stands in each channel and what it was promised. Whatever the shard sends must
//! fit that, or the run fails.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use trunkline::base::time::Time;
use trunkline::driver::sim::{ClientEnd, ClientState};
use trunkline::hub::options::GapPolicy;
use trunkline::session::token::{ConnectToken, SubscribeToken, sign_connect, sign_subscribe};

use crate::check::{ChannelNo, Follower, PayloadNo, Place, unbroken};
use crate::scenario::{SECRET, pick, unix_s};
use crate::wire::{self, Heard, Message, PushBody, Reader, SubscribeBody};
use crate::world::Stage;

/// How long a client that connects waits for the whole of it before it tries anew: as the SDKs do.
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
    end: Option<ClientEnd>,
    reader: Reader,
    /// Public id of this connection.
    id: String,
    next_id: u32,
    /// Commands whose replies are awaited, and when each was made.
    sent: BTreeMap<u32, (Time, Sent)>,
    subs: BTreeMap<ChannelNo, Subscription>,
    /// Where it stood in channels that can be recovered; survives connections.
    kept: BTreeMap<ChannelNo, (u64, u32)>,
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
    /// Sockets that the client has done with and still holds open.
    lingering: Vec<(Time, ClientEnd)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Away { until: Time },
    Opening { since: Time },
    Ready,
}

struct Subscription {
    follower: Follower,
    server_side: bool,
    recoverable: bool,
    /// It is to be told who joins and leaves.
    notices: bool,
    /// Who was told to be there, and who to be gone, in a channel that loses no notice without a word.
    present: Option<BTreeMap<String, bool>>,
    /// When it is over unless it is refreshed.
    expires: Option<Time>,
    /// The server may have ended it already: what it said about that may have been meant for this one.
    uncertain: bool,
}

/// A command whose reply is awaited.
enum Sent {
    Connect {
        recover: BTreeMap<ChannelNo, (u64, u32)>,
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
    },
    Presence,
    PresenceStats,
    Ping,
    Refresh,
    SubRefresh {
        channel: ChannelNo,
    },
    /// Cannot succeed.
    Hopeless {
        code: u16,
    },
}

struct Subscribing {
    channel: ChannelNo,
    recover: Option<(u64, u32)>,
    floor: Option<Place>,
    /// Asked to be told who joins and leaves.
    notices: bool,
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
            lingering: Vec::new(),
        }
    }

    // ---- for checkers

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
        let present = sub.present.as_ref().filter(|_| sub.notices);
        present.is_none_or(|present| present.get(&self.id) == Some(&true))
    }

    /// The last offset that it was given in a channel, and the epoch it knows of.
    pub fn stands_at(&self, channel: ChannelNo) -> Option<(Option<u32>, Option<u64>)> {
        self.subs.get(&channel).map(|sub| (sub.follower.epoch, sub.follower.last))
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
        match stage.prng.u8(..64) {
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
            41 => self.command(Sent::Hopeless { code: 108 }, r#""rpc":{"method":"m","data":1}"#, stage),
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
    }

    // ---- what it says

    fn open(&mut self, stage: &mut Stage) {
        self.reader = Reader::default();
        self.next_id = 0;
        let mut end = stage.net.connect();
        stage.note(self.number, '>', &format!("connects as {}", end.number()));
        end.send(&wire::handshake());
        self.end = Some(end);
        self.phase = Phase::Opening { since: stage.net.now() };
        // Half of them do not wait for the answer to their handshake.
        if stage.prng.bool() {
            self.connect(stage);
        }
    }

    fn connect(&mut self, stage: &mut Stage) {
        let mut token = String::new();
        if let Some(user) = self.user {
            let now_s = unix_s(stage.net.now());
            for _ in 0..stage.prng.usize(..3) {
                let channel = stage.prng.usize(..stage.scenario.channels.len());
                if !self.wanted.contains(&channel) {
                    self.granted.insert(channel);
                }
            }
            let expires_at_s = match stage.prng.u8(..if stage.calm { 1 } else { 4 }) {
                0..3 => None,
                _ => Some(now_s + stage.prng.u64(..4)),
            };
            let channels: Vec<String> =
                self.granted.iter().map(|&channel| stage.name(channel).to_string()).collect();
            token = sign_connect(
                SECRET,
                &ConnectToken {
                    user: &user_name(user),
                    expires_at_s,
                    channels: &channels,
                    ..ConnectToken::default()
                },
            )
            .expect("the token is short");
        }
        let recover: BTreeMap<ChannelNo, (u64, u32)> = self
            .granted
            .iter()
            .filter_map(|channel| self.kept.get(channel).map(|&kept| (*channel, kept)))
            .collect();
        let floors =
            self.granted.iter().filter_map(|&channel| stage.log.head(channel).map(|head| (channel, head)));
        let floors = floors.collect();
        let subs: Vec<String> = recover
            .iter()
            .map(|(&channel, (offset, epoch))| {
                let name = stage.name(channel);
                format!(r#""{name}":{{"recover":true,"offset":{offset},"epoch":"{epoch:08x}"}}"#)
            })
            .collect();
        let body = format!(r#""connect":{{"token":"{token}","subs":{{{}}},"name":"sim"}}"#, subs.join(","));
        self.command(Sent::Connect { recover, floors }, &body, stage);
        // The SDK sends its pending subscribes along.
        if stage.prng.bool() {
            self.subscribe_wanted(stage);
        }
        self.send_batch(stage);
    }

    fn subscribe_wanted(&mut self, stage: &mut Stage) {
        let wanted: Vec<ChannelNo> = self.wanted.iter().copied().collect();
        for channel in wanted {
            let under_way = self.sent.values().any(|(_, sent)| match sent {
                Sent::Subscribe(subscribing) => subscribing.channel == channel,
                Sent::Unsubscribe { channel: leaving } => *leaving == channel,
                _ => false,
            });
            if !under_way && !self.subs.contains_key(&channel) && !self.granted.contains(&channel) {
                self.subscribe(channel, stage);
            }
        }
    }

    fn subscribe(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let name = stage.name(channel).to_string();
        let mut body = format!(r#""subscribe":{{"channel":"{name}""#);
        if stage.scenario.channels[channel].needs_token && (stage.calm || stage.prng.u8(..8) != 0) {
            let expires_at_s = match stage.prng.u8(..if stage.calm { 1 } else { 4 }) {
                0..3 => None,
                _ => Some(unix_s(stage.net.now()) + stage.prng.u64(1..4)),
            };
            let user = self.user.map(user_name).unwrap_or_default();
            let token = SubscribeToken { user: &user, channel: &name, expires_at_s, ..Default::default() };
            let token = sign_subscribe(SECRET, &token).expect("the token is short");
            body.push_str(&format!(r#","token":"{token}""#));
        }
        let mut recover = self.kept.get(&channel).copied();
        if stage.prng.u8(..20) == 0 {
            // An offset that it should not have, or an epoch.
            recover = Some(match (recover, stage.prng.bool()) {
                (Some((offset, epoch)), true) => (offset.saturating_sub(stage.prng.u64(..4)), epoch),
                (Some((offset, epoch)), false) => (offset + stage.prng.u64(..4), epoch),
                (None, _) => (stage.prng.u64(..5), stage.prng.u32(..)),
            });
        }
        if let Some((offset, epoch)) = recover {
            body.push_str(&format!(r#","recover":true,"offset":{offset},"epoch":"{epoch:08x}""#));
            if stage.prng.u8(..6) == 0 {
                body.push_str(r#","flag":2"#);
            }
        }
        let notices = stage.prng.u8(..3) != 0;
        for (wish, wished) in [
            ("positioned", stage.prng.u8(..3) != 0),
            ("recoverable", stage.prng.u8(..3) != 0),
            ("join_leave", notices),
        ] {
            if wished {
                body.push_str(&format!(r#","{wish}":true"#));
            }
        }
        body.push('}');
        let floor = stage.log.head(channel);
        self.command(
            Sent::Subscribe(Subscribing { channel, recover, floor, notices, dead: false, uncertain: false }),
            &body,
            stage,
        );
    }

    fn unsubscribe(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let body = format!(r#""unsubscribe":{{"channel":"{}"}}"#, stage.name(channel));
        self.command(Sent::Unsubscribe { channel }, &body, stage);
    }

    fn publish(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let (payload, data) = stage.log.write(channel, false, &mut stage.prng);
        let data = std::str::from_utf8(&data).expect("payloads are JSON");
        let body = format!(r#""publish":{{"channel":"{}","data":{data}}}"#, stage.name(channel));
        self.command(Sent::Publish { payload }, &body, stage);
    }

    fn history(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let limit = stage.prng.i64(-1..10);
        let reverse = stage.prng.bool();
        let since = match (self.kept.get(&channel), stage.prng.bool()) {
            (Some((offset, epoch)), true) => {
                format!(r#","since":{{"offset":{offset},"epoch":"{epoch:08x}"}}"#)
            }
            _ => String::new(),
        };
        let name = stage.name(channel);
        let body = format!(r#""history":{{"channel":"{name}","limit":{limit},"reverse":{reverse}{since}}}"#);
        let floor = stage.log.head(channel);
        self.command(Sent::History { channel, floor, reverse }, &body, stage);
    }

    fn ask(&mut self, stage: &mut Stage, sent: Sent, body: impl FnOnce(&str) -> String) {
        let channel = stage.prng.usize(..stage.scenario.channels.len());
        let body = body(stage.name(channel));
        self.command(sent, &body, stage);
    }

    fn refresh(&mut self, stage: &mut Stage) {
        let Some(user) = self.user else { return };
        let expires_at_s = stage.prng.bool().then(|| unix_s(stage.net.now()) + stage.prng.u64(1..4));
        let user = user_name(user);
        let token = ConnectToken { user: &user, expires_at_s, ..ConnectToken::default() };
        let token = sign_connect(SECRET, &token).expect("the token is short");
        self.command(Sent::Refresh, &format!(r#""refresh":{{"token":"{token}"}}"#), stage);
    }

    fn sub_refresh(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let expires_at_s = stage.prng.bool().then(|| unix_s(stage.net.now()) + stage.prng.u64(1..4));
        let (user, name) = (self.user.map(user_name).unwrap_or_default(), stage.name(channel));
        let token = SubscribeToken { user: &user, channel: name, expires_at_s, ..SubscribeToken::default() };
        let token = sign_subscribe(SECRET, &token).expect("the token is short");
        self.command(
            Sent::SubRefresh { channel },
            &format!(r#""sub_refresh":{{"channel":"{name}","token":"{token}"}}"#),
            stage,
        );
    }

    fn command(&mut self, sent: Sent, body: &str, stage: &Stage) {
        self.next_id += 1;
        self.sent.insert(self.next_id, (stage.net.now(), sent));
        self.batch.push(format!(r#"{{"id":{},{body}}}"#, self.next_id));
    }

    fn send_batch(&mut self, stage: &mut Stage) {
        if !self.batch.is_empty() {
            let frame = std::mem::take(&mut self.batch).join("\n");
            stage.note(self.number, '>', &frame);
            self.send_frame(wire::TEXT, frame.as_bytes(), stage);
        }
    }

    fn send_frame(&mut self, opcode: u8, payload: &[u8], stage: &mut Stage) {
        let mut frame = Vec::with_capacity(payload.len() + 16);
        wire::write_message(&mut frame, opcode, payload, &mut stage.prng);
        if let Some(end) = &mut self.end {
            end.send(&frame);
        }
    }

    // ---- what it hears

    /// Reads what has arrived.
    pub fn hear(&mut self, stage: &mut Stage) {
        let Some(end) = &mut self.end else { return };
        let came = end.recv_into(self.reader.buffer());
        if came > 0 {
            while let Some(heard) = self.reader.next() {
                self.handle(heard, stage);
                if self.end.is_none() {
                    return;
                }
            }
        }
        let Some(end) = &self.end else { return };
        let state = end.state();
        assert!(
            state != ClientState::Finished || end.finished() || self.mute || !stage.settled || stage.ending,
            "client {} is cut off without a word, though it reads and answers",
            self.number
        );
        if matches!(state, ClientState::Finished | ClientState::Reset | ClientState::Refused)
            && (came == 0 || self.paused_until.is_none())
        {
            self.lose(stage);
        }
    }

    fn handle(&mut self, heard: Heard, stage: &mut Stage) {
        match heard {
            Heard::Upgraded => {
                if self.next_id == 0 {
                    self.connect(stage);
                }
            }
            Heard::Status(status) => {
                assert!(status == 408, "the handshake was answered with {status}");
                self.lose(stage);
            }
            Heard::Text(text) => {
                let text = std::str::from_utf8(&text).expect("text messages are UTF-8");
                for line in text.split('\n') {
                    self.handle_line(line, stage);
                    if self.end.is_none() {
                        return;
                    }
                }
            }
            Heard::Ping(_) => panic!("the shard sends no WebSocket pings"),
            Heard::Pong => {}
            Heard::Close(code) => self.handle_close(code, stage),
        }
    }

    fn handle_close(&mut self, code: u16, stage: &mut Stage) {
        stage.note(self.number, '<', &format!("Close {code}"));
        match code {
            3008 | 3012 if stage.settled && !self.mute && !stage.ending => {
                panic!("client {} is closed with {code}, though it reads and answers", self.number);
            }
            3008 => stage.coverage.count("closed_as_slow"),
            3001 => {
                assert!(stage.ending, "told of a shutdown that nobody ordered");
                stage.coverage.count("shutdown_heard");
                stage.shutdowns_heard += 1;
            }
            // What it sent itself, or was done to it.
            4400 => panic!("an order for another user was carried out"),
            1000 | 3000 | 3005 | 3010 | 3012 | 3502 | 4000 => {}
            other => panic!("closed with {other}"),
        }
        match stage.prng.u8(..3) {
            0 => self.send_frame(wire::CLOSE, &code.to_be_bytes(), stage),
            1 => {
                self.send_frame(wire::CLOSE, &code.to_be_bytes(), stage);
                if let Some(end) = &mut self.end {
                    end.finish();
                }
            }
            _ => {}
        }
        self.lose(stage);
    }

    fn handle_line(&mut self, line: &str, stage: &mut Stage) {
        stage.note(self.number, '<', line);
        if line == "{}" {
            if !self.mute {
                self.batch.push("{}".into());
                self.send_batch(stage);
            }
            return;
        }
        let message: Message<'_> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"));
        match message.push {
            Some(push) => {
                assert_eq!(message.id, 0, "a push has no id");
                self.handle_push(push, stage);
            }
            None => self.handle_reply(message, stage),
        }
    }

    fn handle_reply(&mut self, message: Message<'_>, stage: &mut Stage) {
        let id = message.id;
        let (_, sent) =
            self.sent.remove(&id).unwrap_or_else(|| panic!("reply {id} was not asked for, or came before"));
        if let Some(error) = message.error {
            return self.handle_refusal(sent, error.code, error.temporary, stage);
        }
        match sent {
            Sent::Connect { recover, floors } => {
                let body = message.connect.expect("a connect is answered with a connect");
                self.id = body.client;
                self.expires = ends(body.expires, body.ttl, stage);
                self.phase = Phase::Ready;
                for (name, sub) in body.subs {
                    let channel = stage.channel(name);
                    assert!(
                        self.granted.contains(&channel),
                        "subscribed to {name}, which the token does not name"
                    );
                    if sub.recovered {
                        stage.coverage.count("server_side_recovered");
                    }
                    let (recover, floor) = (recover.get(&channel), floors.get(&channel));
                    let sub = begin(channel, &sub, recover.copied(), floor.copied(), By::Server, stage);
                    self.subscribed(channel, sub);
                }
                self.granted.retain(|channel| self.subs.contains_key(channel));
            }
            Sent::Subscribe(subscribing) => {
                let body = message.subscribe.expect("a subscribe is answered with a subscribe");
                let channel = subscribing.channel;
                let by = By::Client { notices: subscribing.notices };
                let mut sub = begin(channel, &body, subscribing.recover, subscribing.floor, by, stage);
                if subscribing.dead {
                    return;
                }
                sub.uncertain = subscribing.uncertain;
                let clear = sub.uncertain;
                self.subscribed(channel, sub);
                if clear {
                    self.unsubscribe(channel, stage);
                    self.send_batch(stage);
                }
            }
            Sent::Unsubscribe { channel } => {
                assert!(message.unsubscribe.is_some(), "an unsubscribe is answered with an unsubscribe");
                self.end_subscription(channel);
                for (&other, (_, sent)) in &mut self.sent {
                    if let Sent::Subscribe(subscribing) = sent
                        && subscribing.channel == channel
                        && other < id
                    {
                        subscribing.dead = true;
                    }
                }
            }
            Sent::Publish { payload } => {
                assert!(message.publish.is_some(), "a publish is answered with a publish");
                stage.log.accepted(payload);
            }
            Sent::History { channel, floor, reverse } => {
                let body = message.history.expect("a history is answered with a history");
                let epoch = u32::from_str_radix(body.epoch, 16).expect("an epoch");
                stage.coverage.add("history_read", body.publications.len() as u64);
                let list: Vec<(u64, &str)> =
                    body.publications.iter().map(|entry| (entry.offset, entry.data.get())).collect();
                check_page(channel, (epoch, body.offset), list, floor, reverse, stage);
            }
            Sent::Presence => assert!(message.presence.is_some()),
            Sent::PresenceStats => {
                let stats = message.presence_stats.expect("it is answered with its own kind");
                assert!(stats.num_users <= stats.num_clients);
            }
            Sent::Ping => assert!(message.ping.is_some()),
            Sent::Refresh => {
                let body = message.refresh.expect("a refresh is answered with a refresh");
                assert_eq!(body.client, self.id);
                self.expires = ends(body.expires, body.ttl, stage);
            }
            Sent::SubRefresh { channel } => {
                let lifetime = message.sub_refresh.expect("it is answered with its own kind");
                if let Some(sub) = self.subs.get_mut(&channel) {
                    sub.expires = ends(lifetime.expires, lifetime.ttl, stage);
                }
            }
            Sent::Hopeless { code } => panic!("what must be refused with {code} was not"),
        }
    }

    fn handle_refusal(&mut self, sent: Sent, code: u16, temporary: bool, stage: &mut Stage) {
        match sent {
            Sent::Connect { .. } => {
                assert!(code == 109, "connect refused with {code}");
                self.lose(stage);
            }
            Sent::Subscribe(Subscribing { channel, recover, .. }) => match code {
                112 => {
                    assert!(recover.is_some(), "nothing was to be recovered");
                    self.kept.remove(&channel);
                }
                103 => assert!(stage.scenario.channels[channel].needs_token, "it may subscribe"),
                105 | 109 => {}
                // A limit of the connection or of the hub; asking again would not help.
                106 => {
                    self.wanted.remove(&channel);
                }
                _ => assert!(temporary, "subscribe refused with {code}"),
            },
            Sent::Publish { payload } => {
                assert!(matches!(code, 103 | 106 | 111), "publish refused with {code}");
                stage.log.refused(payload);
            }
            Sent::History { .. } => {
                assert!(matches!(code, 103 | 106 | 107 | 108 | 112), "history refused with {code}")
            }
            Sent::Presence | Sent::PresenceStats => {
                assert!(matches!(code, 103 | 108), "presence refused with {code}");
            }
            Sent::SubRefresh { .. } => assert!(matches!(code, 103 | 109), "sub_refresh refused with {code}"),
            Sent::Hopeless { code: expected } => assert_eq!(code, expected),
            Sent::Refresh => assert_eq!(code, 109),
            Sent::Unsubscribe { .. } | Sent::Ping => panic!("refused with {code}"),
        }
    }

    fn handle_push(&mut self, push: PushBody<'_>, stage: &mut Stage) {
        if let Some(lifetime) = push.refresh {
            assert!(push.channel.is_empty());
            self.expires = ends(lifetime.expires, lifetime.ttl, stage);
            return;
        }
        let channel = stage.channel(push.channel);
        if let Some(publication) = push.r#pub {
            let Some(sub) = self.subs.get_mut(&channel) else {
                panic!("a publication of {}, to which nobody here is subscribed", push.channel);
            };
            let before = sub.follower.skipped;
            sub.follower.pushed(publication.offset, publication.data.get());
            stage.coverage.add("latest_skipped", sub.follower.skipped - before);
            stage.log.seen(channel, sub.follower.epoch, publication.offset, publication.data.get());
            if let (true, Some(epoch), 1..) = (sub.recoverable, sub.follower.epoch, publication.offset) {
                self.kept.insert(channel, (publication.offset, epoch));
            }
        } else if push.join.is_some() || push.leave.is_some() {
            let joined = push.join.is_some();
            let Some(sub) = self.subs.get_mut(&channel) else {
                panic!("a notice of {} without a subscription", push.channel);
            };
            assert!(sub.notices, "a notice of {} that was not asked for", push.channel);
            let who = push.join.or(push.leave).expect("one of them is there").info.client;
            if let Some(present) = &mut sub.present {
                let before = present.insert(who.clone(), joined);
                assert_ne!(before, Some(joined), "{who} joins or leaves {} twice", push.channel);
            }
        } else if let Some(body) = push.subscribe {
            assert!(
                self.subs.get(&channel).is_none_or(|sub| sub.uncertain),
                "subscribed to {} once more",
                push.channel
            );
            stage.coverage.count("subscribed_by_server");
            let sub = begin(channel, &body, None, None, By::Server, stage);
            self.subscribed(channel, sub);
        } else if let Some(why) = push.unsubscribe {
            match why.code {
                2000 => {
                    stage.coverage.count("unsubscribed_by_server");
                    self.wanted.remove(&channel);
                }
                2500 => {
                    assert_eq!(stage.scenario.channels[channel].options.gap, GapPolicy::Tell);
                    assert!(
                        self.subs.get(&channel).is_some_and(|sub| !sub.server_side),
                        "told of a gap in {} without a subscription of its own",
                        push.channel
                    );
                    stage.coverage.count("gap_told");
                    self.wanted.insert(channel);
                }
                2501 => stage.coverage.count("subscription_expired"),
                other => panic!("unsubscribed with {other}"),
            }
            self.end_subscription(channel);
            for (_, sent) in self.sent.values_mut() {
                if let Sent::Subscribe(subscribing) = sent
                    && subscribing.channel == channel
                {
                    subscribing.uncertain = true;
                }
            }
        } else {
            panic!("an empty push");
        }
    }

    fn subscribed(&mut self, channel: ChannelNo, sub: Subscription) {
        if let (true, Some(epoch), Some(last)) = (sub.recoverable, sub.follower.epoch, sub.follower.last) {
            self.kept.insert(channel, (last, epoch));
        } else {
            self.kept.remove(&channel);
        }
        if let Some(before) = self.subs.insert(channel, sub) {
            assert!(before.uncertain, "subscribed twice");
        }
    }

    fn end_subscription(&mut self, channel: ChannelNo) {
        self.subs.remove(&channel);
        self.granted.remove(&channel);
    }
}

/// Checks the beginning of a subscription.
fn begin(
    channel: ChannelNo,
    body: &SubscribeBody<'_>,
    asked: Option<(u64, u32)>,
    floor: Option<Place>,
    by: By,
    stage: &mut Stage,
) -> Subscription {
    let epoch = body.epoch.map(|epoch| u32::from_str_radix(epoch, 16).expect("an epoch"));
    assert_eq!(
        body.positioned || body.recoverable,
        epoch.is_some(),
        "a position without an epoch, or the reverse"
    );
    assert!(!body.was_recovering || asked.is_some(), "a recovery that nobody asked for");
    let last = if body.recovered {
        let (offset, asked_epoch) = asked.expect("a recovery that nobody asked for");
        let epoch = epoch.expect("what is recovered has an epoch");
        assert_eq!((body.offset, epoch), (offset, asked_epoch), "recovered from another place than asked");
        let list: Vec<(u64, &str)> =
            body.publications.iter().map(|entry| (entry.offset, entry.data.get())).collect();
        stage.coverage.count("recovered");
        Some(unbroken(&mut stage.log, channel, epoch, offset, &list))
    } else {
        if body.was_recovering {
            stage.coverage.count("not_recovered");
        }
        assert!(body.publications.is_empty(), "publications without a recovery");
        epoch.map(|_| body.offset)
    };
    if let (Some(epoch), Some(last), Some(floor)) = (epoch, last, floor)
        && epoch == floor.0
    {
        assert!(
            last >= floor.1,
            "begun at {last}, behind {} which had been answered before it was asked",
            floor.1
        );
    }
    let options = &stage.scenario.channels[channel].options;
    let (server_side, asked_notices) = match by {
        By::Server => (true, true),
        By::Client { notices } => (false, notices || options.force_push_join_leave),
    };
    Subscription {
        follower: Follower::new(epoch, last, options.gap),
        server_side,
        recoverable: body.recoverable,
        notices: options.join_leave && asked_notices,
        // Notices are not in the log: who falls behind in a channel with history loses some.
        present: (!options.keeps_history()).then(BTreeMap::new),
        expires: ends(body.expires, body.ttl, stage),
        uncertain: false,
    }
}

/// Who asked for a subscription.
enum By {
    Server,
    Client { notices: bool },
}

/// The end of a lifetime that has been told just now.
fn ends(expires: bool, ttl_s: u32, stage: &Stage) -> Option<Time> {
    assert_eq!(expires, ttl_s > 0, "a lifetime without an end, or an end without a lifetime");
    expires.then(|| stage.net.now() + Duration::from_secs(ttl_s.into()))
}

/// Checks one page of history.
pub fn check_page(
    channel: ChannelNo,
    top: Place,
    mut list: Vec<(u64, &str)>,
    floor: Option<Place>,
    reverse: bool,
    stage: &mut Stage,
) {
    if let Some(floor) = floor
        && floor.0 == top.0
    {
        assert!(top.1 >= floor.1, "history ends at {}, before {}", top.1, floor.1);
    }
    if reverse {
        list.reverse();
    }
    if let Some(&(first, _)) = list.first() {
        let last = unbroken(&mut stage.log, channel, top.0, first - 1, &list);
        assert!(last <= top.1, "an entry behind the top");
    }
}

pub fn user_name(user: u8) -> String {
    format!("user{user}")
}
