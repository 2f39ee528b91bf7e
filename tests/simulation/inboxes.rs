//! Inboxes of users under simulation: the backend appends to several at a time and repeats what it is not sure of; devices
//! acknowledge, lose their connections, stay away and are started again; the process is killed, with the machine's power or
//! without, and the next one has what the disk has. Each device gets each entry once and in order, from where its cursor may
//! be, or hears that it has lost some; nothing that was answered is lost or there twice; no cursor goes back.
//!
//! `SIM_SEEDS`, `SIM_INBOX_SEEDS` and `SIM_SEED` as in `main`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use trunkline::base::bytes::Bytes;
use trunkline::base::ids::Position;
use trunkline::base::inboxes::Inboxes;
use trunkline::base::prng::Prng;
use trunkline::driver::sim::{ClientEnd, ClientState};
use trunkline::hub::log_store::Durable;
use trunkline::hub::requests::{CursorsPage, PublishRequest};
use trunkline::hub::{ChannelOptions, Namespaces};
use trunkline::session::rules::{ChannelRules, NamespaceOptions};
use trunkline::session::token::{ConnectToken, TokenBasis, sign_connect};
use trunkline::shard::control_request::cursors::CursorsQuery;
use trunkline::shard::control_request::{ControlReply, ControlRequest, CursorsRequest};

use crate::node::{Node, run_seed, seeds};
use crate::scenario::SECRET;
use crate::variable;
use crate::wire::{
    Heard, Message, PONG, PublicationBody, Reader, SubscribeBody, TEXT, handshake, write_message,
};

const SEEDS: u64 = 3_000;
const USERS: [&str; 2] = ["ann", "bob"];
/// The last names none, and acknowledges nothing.
const DEVICES: [&str; 3] = ["phone:1", "desktop", ""];
/// How long everything may take once nothing goes wrong.
const CALM: Duration = Duration::from_secs(60);

/// What is in the inboxes, as answers and devices have shown it.
#[derive(Default)]
struct Truth {
    entries: BTreeMap<(&'static str, u64), String>,
    offsets: BTreeMap<(&'static str, String), u64>,
    /// What the API has answered.
    answered: BTreeSet<(&'static str, String)>,
    repeats: u64,
}

impl Truth {
    /// An entry has one place, and a place one entry.
    fn see(&mut self, user: &'static str, offset: u64, text: &str) {
        let there = self.entries.entry((user, offset)).or_insert_with(|| text.to_owned());
        assert_eq!(there, text, "{user} {offset} is another entry");
        let place = *self.offsets.entry((user, text.to_owned())).or_insert(offset);
        assert_eq!(place, offset, "{user} has {text} twice");
    }

    fn top(&self, user: &'static str) -> u64 {
        let of_user = self.entries.range((user, 0)..=(user, u64::MAX));
        of_user.last().map_or(0, |((_, offset), _)| *offset)
    }
}

struct Device {
    end: Option<ClientEnd>,
    reader: Reader,
    user: &'static str,
    name: &'static str,
    away: bool,
    subscribed: bool,
    /// Where the application stands, since it was started.
    stands: Option<(u64, String)>,
    /// The highest that it has ever sent, and that it was answered.
    sent: u64,
    answered: u64,
    /// Where its cursor was at least when it connected: other devices' for one without a name.
    least: u64,
    /// What it was first given begins behind this.
    first: Option<u64>,
    seen: BTreeSet<u64>,
    /// Behind the first, up to the second: it knows that it has not got them.
    lost: Vec<(u64, u64)>,
}

/// What runs have been through: one that never saw it holds nothing.
#[derive(Default, Debug)]
struct Seen {
    by_position: u64,
    by_cursor: u64,
    lost_by_position: u64,
    lost_by_cursor: u64,
    kills: u64,
    power_losses: u64,
    repeats: u64,
}

#[derive(Deserialize)]
struct AckAnswer {
    acks: Vec<BTreeMap<String, u64>>,
}

impl Device {
    fn say(&mut self, opcode: u8, text: &str, prng: &mut Prng) {
        let mut out = Vec::new();
        write_message(&mut out, opcode, text.as_bytes(), prng);
        if let Some(end) = &mut self.end {
            end.send(&out);
        }
    }

    /// It has no connection any more. `forgets`: the application is started again as well.
    fn cut(&mut self, forgets: bool) {
        (self.end, self.subscribed) = (None, false);
        if forgets {
            self.stands = None;
        }
    }

    fn begin(&mut self, prng: &mut Prng) {
        let basis = TokenBasis { user: self.user, ..TokenBasis::default() };
        let device = Some(self.name).filter(|name| !name.is_empty());
        let token = sign_connect(SECRET, &ConnectToken { basis, device, ..ConnectToken::default() });
        let token = token.expect("the token is short");
        let subs = self.stands.as_ref().map_or_else(String::new, |(offset, epoch)| {
            let at = format!(r#"{{"recover":true,"offset":{offset},"epoch":"{epoch}"}}"#);
            format!(r#","subs":{{"inbox:#{}":{at}}}"#, self.user)
        });
        self.say(TEXT, &format!(r#"{{"id":1,"connect":{{"token":"{token}"{subs}}}}}"#), prng);
    }

    fn acknowledge(&mut self, prng: &mut Prng, newest: bool) {
        let Some((offset, _)) = self.stands.as_ref().filter(|_| self.subscribed) else { return };
        let back = if newest { 0 } else { prng.u64(..4) };
        let offset = offset.saturating_sub(back);
        if offset == 0 || self.name.is_empty() {
            return;
        }
        self.sent = self.sent.max(offset);
        let ack = format!(r#"{{"channel":"inbox:#{}","offset":{offset},"kind":"received"}}"#, self.user);
        let data = format!(r#"{{"acks":[{ack}]}}"#);
        let text = format!(r#"{{"id":3,"rpc":{{"method":"trunkline.ack","data":{data}}}}}"#);
        for _ in 0..prng.u8(1..3) {
            self.say(TEXT, &text, prng);
        }
    }

    /// The reply to a connect: where it goes on, and with what. `most`: how far its cursor may be.
    fn joined(&mut self, sub: &SubscribeBody<'_>, most: u64, kept: u64, seen: &mut Seen, truth: &mut Truth) {
        let least = self.least;
        // The offset is where it begins, and what follows there comes along.
        let (begin, epoch) = (sub.offset, sub.epoch.unwrap_or_default());
        let top = begin + sub.publications.len() as u64;
        assert!(sub.recoverable && sub.positioned && (sub.recovered || sub.publications.is_empty()));
        match &self.stands {
            Some((offset, known)) => {
                assert!(sub.was_recovering && *offset <= top, "{offset} at {top}");
                // An inbox in which nothing was yet is not kept.
                let same = known == epoch;
                assert!(same || *offset == 0, "{offset} {known} at {top} {epoch}");
                assert_eq!(sub.recovered, same && top - offset <= kept, "from {offset} to {top}");
                assert!(!sub.recovered || begin == *offset, "from {begin} in the place of {offset}");
                match sub.recovered {
                    true => seen.by_position += 1,
                    false => {
                        seen.lost_by_position += 1;
                        self.lost.push((*offset, top));
                    }
                }
            }
            None if !sub.recovered && !sub.was_recovering => {
                assert!(least == 0 && top == 0, "new, and there is something: {least} {top}");
            }
            // The one that it may have had is behind what is kept.
            None if !sub.recovered => {
                assert!(most > 0 && top - least.max(1) > kept, "{least} to {most} at {top}");
                seen.lost_by_cursor += 1;
                self.lost.push((least, top));
            }
            None => {
                let is_new = least == 0 && begin == top.saturating_sub(kept);
                let is_behind = least.max(1) <= begin && begin <= most && top - begin <= kept;
                let is_right = if sub.was_recovering { is_behind } else { is_new };
                assert!(is_right, "from {begin} to {top}, with {least} to {most}");
                seen.by_cursor += u64::from(sub.was_recovering);
                if !sub.was_recovering {
                    // Nothing was known of it: what it had before without a word is no concern of ours.
                    self.first = Some(begin);
                }
            }
        }
        self.first.get_or_insert(begin);
        (self.stands, self.subscribed) = (Some((begin, epoch.to_owned())), true);
        sub.publications.iter().for_each(|publication| self.take(publication, truth));
        assert_eq!(self.stands.as_ref().map(|(offset, _)| *offset), Some(top));
    }

    /// Each follows the one before.
    fn take(&mut self, publication: &PublicationBody<'_>, truth: &mut Truth) {
        let (offset, _) = self.stands.as_mut().expect("it is subscribed");
        assert_eq!(publication.offset, *offset + 1, "of {} on {:?}", self.user, self.name);
        *offset = publication.offset;
        truth.see(self.user, *offset, publication.data.get());
        self.seen.insert(*offset);
    }
}

struct World {
    node: Node,
    kept: u64,
    inboxes: Inboxes,
    devices: Vec<Device>,
    truth: Arc<Mutex<Truth>>,
    /// To whom, and what.
    posts: Vec<(Vec<&'static str>, String)>,
    seen: Seen,
}

fn namespaces(kept: u64) -> Namespaces<NamespaceOptions> {
    let channel = ChannelOptions {
        history_size: kept as usize,
        history_ttl: Duration::from_secs(3_600),
        cursors: true,
        durable: Durable::Sync,
        ..ChannelOptions::default()
    };
    let rules = ChannelRules { force_recovery: true, ..ChannelRules::default() };
    let named = [("inbox".to_owned(), NamespaceOptions { channel, rules })];
    Namespaces::new(NamespaceOptions::default(), named, 32)
}

impl World {
    fn new(seed: u64) -> World {
        let kept = 2 + seed % 12;
        let inboxes = Inboxes::new("inbox");
        let own = inboxes.clone();
        let mut node = Node::new(
            seed,
            |_| namespaces(kept),
            |options| {
                options.inboxes = Some(own);
                options.hub.recovery_publications_max = 300;
            },
            None,
        );
        node = node.with_store();
        let pairs = USERS.iter().flat_map(|user| DEVICES.iter().map(move |name| (*user, *name)));
        let pairs: Vec<_> = pairs.filter(|_| node.prng.u8(..4) > 0).collect();
        let device = |(user, name)| Device {
            end: None,
            reader: Reader::default(),
            user,
            name,
            away: true,
            subscribed: false,
            stands: None,
            sent: 0,
            answered: 0,
            least: 0,
            first: None,
            seen: BTreeSet::new(),
            lost: Vec::new(),
        };
        let devices = pairs.into_iter().map(device).collect();
        World {
            node,
            kept,
            inboxes,
            devices,
            truth: Arc::default(),
            posts: Vec::new(),
            seen: Seen::default(),
        }
    }

    fn run(mut self) -> Seen {
        for process in 0..self.node.prng.u8(1..4) {
            if process > 0 {
                let power = self.node.prng.bool();
                self.node.kill(power);
                // Some begin again then, from where their cursors are.
                for device in &mut self.devices {
                    if self.node.prng.bool() {
                        device.cut(true);
                    }
                }
                self.seen.kills += 1;
                self.seen.power_losses += u64::from(power);
            }
            for _ in 0..self.node.prng.u8(4..24) {
                self.step();
                let pause = self.node.prng.u64(1..30_000);
                self.run_for(Duration::from_micros(pause));
            }
        }
        self.come_to_rest();
        self.check();
        self.seen.repeats = self.truth.lock().expect("one thread").repeats;
        self.seen
    }

    fn step(&mut self) {
        let prng = &mut self.node.prng;
        let device = prng.usize(..self.devices.len().max(1));
        match (prng.u8(..16), self.devices.get_mut(device)) {
            (0, _) => self.node.starve_one(),
            (1, Some(device)) => device.cut(prng.bool()),
            (2..5, Some(device)) => {
                device.away = !device.away;
                if device.away {
                    device.cut(prng.bool());
                }
            }
            (5..9, Some(device)) => device.acknowledge(prng, false),
            (9, _) if !self.posts.is_empty() => {
                let again = prng.usize(..self.posts.len());
                self.send(again);
            }
            _ => {
                for _ in 0..self.node.prng.u8(1..4) {
                    let some: Vec<_> = USERS.into_iter().filter(|_| self.node.prng.u8(..3) > 0).collect();
                    self.posts.push((some, format!("\"e{}\"", self.posts.len())));
                    self.send(self.posts.len() - 1);
                }
            }
        }
    }

    /// As `POST /api/inbox` does: an entry for each user, under the key of the call.
    fn send(&self, post: usize) {
        let (users, text) = &self.posts[post];
        for &user in users {
            let (truth, own) = (Arc::clone(&self.truth), text.clone());
            let reply = ControlReply::new(move |outcome: Result<Position, _>| {
                let Ok(position) = outcome else { return };
                let truth = &mut *truth.lock().expect("one thread");
                truth.see(user, position.offset.0, &own);
                truth.repeats += u64::from(!truth.answered.insert((user, own)));
            });
            let channel = self.inboxes.of(user);
            let ask = PublishRequest {
                idempotency_key: Some(format!("key {text}").into()),
                ..PublishRequest::new(channel.clone(), Bytes::from(text.clone().into_bytes()))
            };
            self.node.ask(&channel, ControlRequest::Publish(ask, reply));
        }
    }

    /// Everybody comes, gets all and says so; the backend repeats what was not answered.
    fn come_to_rest(&mut self) {
        self.node.calm();
        self.devices.iter_mut().for_each(|device| device.away = false);
        let end = self.node.net.now() + CALM;
        loop {
            assert!(self.node.net.now() < end, "it does not come to rest");
            for post in 0..self.posts.len() {
                let truth = Arc::clone(&self.truth);
                let answered = &truth.lock().expect("one thread").answered;
                let (users, text) = &self.posts[post];
                if users.iter().any(|user| !answered.contains(&(*user, text.clone()))) {
                    self.send(post);
                }
            }
            let mut rests = true;
            for device in &mut self.devices {
                let top = self.truth.lock().expect("one thread").top(device.user);
                let stands = device.stands.as_ref().map_or(0, |(offset, _)| *offset);
                rests &= device.subscribed && stands == top;
                if device.subscribed && !device.name.is_empty() && device.answered < top {
                    device.acknowledge(&mut self.node.prng, true);
                    rests = false;
                }
            }
            let all: usize = self.posts.iter().map(|(users, _)| users.len()).sum();
            if rests && self.truth.lock().expect("one thread").answered.len() == all {
                return;
            }
            self.run_for(Duration::from_millis(400));
        }
    }

    fn check(&mut self) {
        for user in USERS {
            let cursors = self.cursors(user);
            let truth = self.truth.lock().expect("one thread");
            let (top, posts) =
                (truth.top(user), self.posts.iter().filter(|(users, _)| users.contains(&user)));
            assert_eq!(top, posts.count() as u64, "each is there once");
            for device in self.devices.iter().filter(|device| device.user == user) {
                if device.name.is_empty() {
                    // It begins behind what others have.
                    continue;
                }
                for offset in device.first.expect("it was subscribed") + 1..=top {
                    let knows = device.lost.iter().any(|(from, to)| (from + 1..=*to).contains(&offset));
                    assert!(knows || device.seen.contains(&offset), "{:?} lacks {offset}", device.name);
                }
                let cursor = cursors.get(device.name).copied().unwrap_or_default();
                assert_eq!(cursor, device.sent, "{user} on {:?}", device.name);
            }
        }
    }

    /// What devices have received, as the owner has it.
    fn cursors(&mut self, user: &'static str) -> BTreeMap<String, u64> {
        let channel = self.inboxes.of(user);
        let query = CursorsQuery { channel: channel.clone(), user: None, after: String::new(), limit: 1_000 };
        let found: Arc<Mutex<Option<CursorsPage>>> = Arc::default();
        let take = Arc::clone(&found);
        let reply = ControlReply::new(move |page: Result<CursorsPage, _>| {
            *take.lock().expect("one thread") = Some(page.expect("it has cursors"));
        });
        self.node.ask(&channel, ControlRequest::Cursors(CursorsRequest::Page(query, reply)));
        self.run_for(Duration::from_millis(20));
        let page = found.lock().expect("one thread").take().expect("it was answered");
        page.cursors.iter().map(|named| (named.device.to_string(), named.cursor.received.0)).collect()
    }

    fn hear(&mut self, number: usize) {
        let device = &mut self.devices[number];
        let Some(end) = &mut device.end else {
            if !device.away {
                let mut end = self.node.net.connect();
                end.send(&handshake(false, ""));
                (device.end, device.reader) = (Some(end), Reader::default());
            }
            return;
        };
        end.recv_into(device.reader.buffer());
        let gone = matches!(end.state(), ClientState::Finished | ClientState::Reset | ClientState::Refused);
        while let Some(heard) = self.devices[number].reader.next() {
            let (device, prng) = (&mut self.devices[number], &mut self.node.prng);
            match heard {
                Heard::Upgraded => {
                    let least = self.cursor_of(number, |device| device.answered);
                    let (device, prng) = (&mut self.devices[number], &mut self.node.prng);
                    device.least = least;
                    device.begin(prng);
                }
                Heard::Text(text) => {
                    let text = String::from_utf8(text).expect("JSON is UTF-8");
                    for line in text.lines() {
                        match line {
                            "{}" => self.devices[number].say(TEXT, "{}", &mut self.node.prng),
                            line => self.hear_message(number, line),
                        }
                    }
                }
                Heard::Ping(payload) => device.say(PONG, &String::from_utf8_lossy(&payload), prng),
                Heard::Close(_) | Heard::Status(_) => device.cut(false),
                Heard::Binary(_) => panic!("it speaks JSON"),
                Heard::Pong => {}
            }
            if self.devices[number].end.is_none() {
                return;
            }
        }
        if gone {
            self.devices[number].cut(false);
        }
    }

    /// The farthest of the devices whose cursors count for this one.
    fn cursor_of(&self, number: usize, of: impl Fn(&Device) -> u64) -> u64 {
        let Device { user, name, .. } = self.devices[number];
        let same = |device: &&Device| device.user == user && (name.is_empty() || device.name == name);
        self.devices.iter().filter(same).map(of).max().unwrap_or(0)
    }

    fn hear_message(&mut self, number: usize, line: &str) {
        let message: Message<'_> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(message.error.is_none(), "{line}");
        let truth = Arc::clone(&self.truth);
        let truth = &mut *truth.lock().expect("one thread");
        if let Some(connect) = message.connect {
            let most = self.cursor_of(number, |device| device.sent);
            let sub = connect.subs.values().next().expect("its inbox");
            self.devices[number].joined(sub, most, self.kept, &mut self.seen, truth);
        }
        let device = &mut self.devices[number];
        if let Some(rpc) = message.rpc {
            let AckAnswer { acks } = serde_json::from_str(rpc.data.get()).expect("an answer");
            let received = acks[0]["received"];
            assert!(device.answered <= received && received <= device.sent, "{line}");
            device.answered = received;
        }
        if let Some(push) = message.push {
            if let Some(publication) = &push.r#pub {
                device.take(publication, truth);
            }
            if push.unsubscribe.is_some() || push.disconnect.is_some() {
                device.cut(false);
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.node.net.now() + time;
        while self.node.net.now() < until {
            self.node.tick();
            for number in 0..self.devices.len() {
                self.hear(number);
            }
            self.node.advance(until);
        }
    }
}

#[test]
fn each_device_gets_each_entry_of_its_inbox_once_or_hears_that_it_has_lost_some() {
    let usual = variable("SIM_SEEDS").unwrap_or(u64::MAX).min(SEEDS);
    let seeds = seeds(variable("SIM_INBOX_SEEDS").unwrap_or(usual));
    let (began, count) = (std::time::Instant::now(), seeds.end - seeds.start);
    let mut all = [0; 7];
    for seed in seeds {
        let seen = run_seed(seed, || World::new(seed).run());
        let Seen { by_position, by_cursor, lost_by_position, lost_by_cursor, kills, power_losses, repeats } =
            seen;
        let own = [by_position, by_cursor, lost_by_position, lost_by_cursor, kills, power_losses, repeats];
        all.iter_mut().zip(own).for_each(|(all, own)| *all += own);
    }
    println!("{count} seeds in {:?}: {all:?}", began.elapsed());
    assert!(count < 500 || all.iter().all(|seen| *seen > 10), "it has become toothless: {all:?}");
}
