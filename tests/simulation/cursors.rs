//! Cursors under simulation: devices of users acknowledge what they get, late, more than once and out of order, over networks that
//! lose connections and shards that have their turns late. In the end each cursor is the highest acknowledgement that its device
//! has sent and heard of, or sent since; nobody was named to the backend for what the owner knew of, and each once for a message.
//!
//! What outlives a process is in `disk`. `SIM_SEEDS` and `SIM_SEED` as in `main`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use trunkline::base::bytes::Bytes;
use trunkline::base::event::{Event, EventKind, EventKinds, What};
use trunkline::base::prng::Prng;
use trunkline::driver::sim::{ClientEnd, ClientState};
use trunkline::hub::requests::{CursorsPage, PublishRequest};
use trunkline::hub::{ChannelOptions, Namespaces};
use trunkline::session::permissions::Permissions;
use trunkline::session::rules::{ChannelRules, NamespaceOptions};
use trunkline::session::token::{ConnectToken, TokenBasis, sign_connect};
use trunkline::shard::control_request::cursors::CursorsQuery;
use trunkline::shard::control_request::{
    Busy, ControlPlane, ControlReply, ControlRequest, CursorsRequest, HttpReply,
};

use crate::node::{Node, run_seed, seeds};
use crate::scenario::SECRET;
use crate::variable;
use crate::wire::{Heard, Message, PONG, Reader, TEXT, handshake, write_message};

const SEEDS: u64 = 200;
const CHANNELS: [&str; 3] = ["c:a", "c:b", "c:c"];
const USERS: [&str; 3] = ["ann", "bob", "carol"];
const DEVICES: [&str; 3] = ["phone", "desktop", "tablet"];

/// What was received, and what was read.
type Marks = (u64, u64);

fn highest(one: Marks, other: Marks) -> Marks {
    let read = one.1.max(other.1);
    (one.0.max(other.0).max(read), read)
}

/// Takes events for the backend.
#[derive(Default)]
struct Backend(Mutex<Vec<Event>>);

impl ControlPlane for Backend {
    fn handle(&self, _: http::Request<Bytes>, _: HttpReply) -> Result<(), Busy> {
        Err(Busy)
    }

    fn tell_backend(&self, event: Event) -> Result<(), Busy> {
        self.0.lock().expect("one thread").push(event);
        Ok(())
    }
}

/// A device of a user, in one channel.
struct Client {
    end: Option<ClientEnd>,
    reader: Reader,
    user: &'static str,
    device: &'static str,
    channel: &'static str,
}

impl Client {
    fn say(&mut self, opcode: u8, text: &str, prng: &mut Prng) {
        let mut out = Vec::new();
        write_message(&mut out, opcode, text.as_bytes(), prng);
        if let Some(end) = &mut self.end {
            end.send(&out);
        }
    }

    fn begin(&mut self, prng: &mut Prng) {
        let basis = TokenBasis { user: self.user, ..TokenBasis::default() };
        let token = sign_connect(SECRET, &ConnectToken { basis, ..ConnectToken::default() });
        let token = token.expect("the token is short");
        self.say(TEXT, &format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#), prng);
        self.say(TEXT, &format!(r#"{{"id":2,"subscribe":{{"channel":"{}"}}}}"#, self.channel), prng);
    }
}

/// What a client knows of itself.
#[derive(Clone, Copy, Debug, Default)]
struct Known {
    subscribed: bool,
    /// Of the publications that it has got.
    newest: u64,
    /// The highest that it has ever sent, and that it was answered.
    sent: Marks,
    answered: Marks,
}

/// Something that was published by the backend.
struct Publication {
    channel: &'static str,
    offset: u64,
    /// Clients whose cursors the owner had by then.
    members: Vec<usize>,
}

#[derive(Deserialize)]
struct AckAnswer {
    acks: Vec<BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct CursorsData {
    cursors: Standing,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(dead_code)]
struct Standing {
    offset: u64,
    epoch: String,
    read: u64,
    unread: u64,
    devices: BTreeMap<String, BTreeMap<String, u64>>,
}

#[derive(Deserialize)]
struct Receipts<'a> {
    #[serde(borrow)]
    receipts: Vec<Receipt<'a>>,
}

#[derive(Deserialize)]
struct Receipt<'a> {
    channel: &'a str,
    offset: u64,
    received: usize,
    read: usize,
    members: usize,
}

struct World {
    node: Node,
    clients: Vec<Client>,
    known: Vec<Known>,
    backend: Arc<Backend>,
    publications: Arc<Mutex<Vec<Publication>>>,
    /// By channel, up to where somebody was named.
    named: BTreeMap<String, u64>,
    /// Who was named for which offsets.
    lacks: Vec<(String, u64, u64, Vec<String>)>,
    /// The newest that the backend has heard of a device.
    acked: BTreeMap<(String, String, String), Marks>,
    /// By publisher, channel and offset.
    receipts: BTreeMap<(&'static str, String, u64), (usize, usize)>,
    heard: Heards,
}

/// A run that never saw it holds nothing.
#[derive(Default)]
struct Heards {
    unacked: u64,
    acked: u64,
    receipts: u64,
    repeats: u64,
}

fn namespaces(prng: &mut Prng) -> Namespaces<NamespaceOptions> {
    let channel = ChannelOptions {
        history_size: 1_000,
        history_ttl: Duration::from_secs(600),
        cursors: true,
        cursors_in_data: true,
        ack_timeout: Duration::from_millis(prng.u64(100..3_000)),
        receipts: true,
        ..ChannelOptions::default()
    };
    let rules =
        ChannelRules { permissions: Permissions::ALL, force_recovery: true, ..ChannelRules::default() };
    let named = [("c".to_owned(), NamespaceOptions { channel, rules })];
    Namespaces::new(NamespaceOptions::default(), named, 32)
}

impl World {
    fn new(seed: u64) -> World {
        let backend = Arc::new(Backend::default());
        let control = Arc::clone(&backend) as Arc<dyn ControlPlane>;
        let events = EventKinds::from_iter([EventKind::Acked, EventKind::Unacked]);
        let mut node = Node::new(seed, namespaces, |options| options.events = events, Some(control));
        let prng = &mut node.prng;
        let mut clients = Vec::new();
        for user in USERS {
            for device in DEVICES {
                let channel = CHANNELS[prng.usize(..CHANNELS.len())];
                if prng.u8(..4) > 0 {
                    clients.push(Client { end: None, reader: Reader::default(), user, device, channel });
                }
            }
        }
        World {
            known: vec![Known::default(); clients.len()],
            node,
            clients,
            backend,
            publications: Arc::default(),
            named: BTreeMap::new(),
            lacks: Vec::new(),
            acked: BTreeMap::new(),
            receipts: BTreeMap::new(),
            heard: Heards::default(),
        }
    }

    fn run(mut self) -> Heards {
        for _ in 0..250 {
            match self.node.prng.u8(..40) {
                0 => self.node.starve_one(),
                1 if !self.clients.is_empty() => {
                    let client = self.node.prng.usize(..self.clients.len());
                    self.clients[client].end = None;
                }
                2..6 => self.publish(),
                6..30 if !self.clients.is_empty() => {
                    let client = self.node.prng.usize(..self.clients.len());
                    match self.node.prng.u8(..8) {
                        0 => self.publish_as(client),
                        _ => self.acknowledge(client, false),
                    }
                }
                _ => {}
            }
            let pause = self.node.prng.u64(1..60_000);
            self.run_for(Duration::from_micros(pause));
        }
        // Everybody comes back and says once more how far it has come.
        self.node.calm();
        self.run_for(Duration::from_secs(12));
        for client in 0..self.clients.len() {
            assert!(self.known[client].subscribed, "it is subscribed to {}", self.clients[client].channel);
            self.acknowledge(client, true);
        }
        self.run_for(Duration::from_secs(5));
        self.check();
        self.heard
    }

    fn check(&mut self) {
        for channel in CHANNELS {
            let found = self.cursors(channel);
            for (client, known) in self.clients.iter().zip(&self.known) {
                if client.channel != channel {
                    continue;
                }
                let key = (client.user.to_owned(), client.device.to_owned());
                let cursor = found.get(&key).copied().unwrap_or_default();
                assert_eq!(cursor, known.sent, "{channel}: {key:?}");
                let heard = self.acked.get(&(channel.to_owned(), key.0, key.1)).copied().unwrap_or_default();
                assert_eq!(heard, known.sent, "the backend has heard of it");
            }
        }
        for Publication { channel, offset, members } in &*self.publications.lock().expect("one thread") {
            for &member in members {
                let (client, known) = (&self.clients[member], &self.known[member]);
                let times = self.lacks.iter().filter(|(of, from, to, users)| {
                    of == channel
                        && from <= offset
                        && offset <= to
                        && users.iter().any(|user| user == client.user)
                });
                let times = times.count();
                assert!(times <= 1, "{} was named {times} times for {channel} {offset}", client.user);
                assert!(
                    known.sent.0 >= *offset || times == 1,
                    "{} lacks {channel} {offset} on {}, and was not named",
                    client.user,
                    client.device
                );
            }
        }
    }

    /// As the owner has them.
    fn cursors(&mut self, channel: &str) -> BTreeMap<(String, String), Marks> {
        let query = CursorsQuery { channel: channel.into(), user: None, after: String::new(), limit: 1_000 };
        let found: Arc<Mutex<Option<CursorsPage>>> = Arc::default();
        let take = Arc::clone(&found);
        let reply = ControlReply::new(move |page: Result<CursorsPage, _>| {
            *take.lock().expect("one thread") = Some(page.expect("it has cursors"));
        });
        self.node.ask(channel, ControlRequest::Cursors(CursorsRequest::Page(query, reply)));
        self.run_for(Duration::from_millis(100));
        let page = found.lock().expect("one thread").take();
        page.into_iter()
            .flat_map(|page| page.cursors)
            .map(|named| {
                let key = (named.user.to_string(), named.device.to_string());
                (key, (named.cursor.received.0, named.cursor.read.0))
            })
            .collect()
    }

    fn publish(&mut self) {
        let channel = CHANNELS[self.node.prng.usize(..CHANNELS.len())];
        let is_member =
            |number: &usize| self.clients[*number].channel == channel && self.known[*number].answered.0 > 0;
        let members: Vec<usize> = (0..self.clients.len()).filter(is_member).collect();
        let publications = Arc::clone(&self.publications);
        let reply = ControlReply::new(move |outcome: Result<trunkline::base::ids::Position, _>| {
            if let Ok(position) = outcome {
                let publication = Publication { channel, offset: position.offset.0, members };
                publications.lock().expect("one thread").push(publication);
            }
        });
        let ask = PublishRequest::new(channel.into(), Bytes::from_static(b"1"));
        self.node.ask(channel, ControlRequest::Publish(ask, reply));
    }

    fn publish_as(&mut self, client: usize) {
        let text =
            format!(r#"{{"id":4,"publish":{{"channel":"{}","data":2}}}}"#, self.clients[client].channel);
        if self.known[client].subscribed {
            self.clients[client].say(TEXT, &text, &mut self.node.prng);
        }
    }

    /// A device says how far it has come: often less than before, or the same.
    fn acknowledge(&mut self, number: usize, is_last: bool) {
        let (client, known) = (&mut self.clients[number], &mut self.known[number]);
        if !known.subscribed || known.newest == 0 {
            return;
        }
        let offset = known.newest - self.node.prng.u64(..4).min(known.newest);
        let reads = self.node.prng.bool();
        let (received, read) = match is_last {
            true => known.sent,
            false => (offset, if reads { offset } else { 0 }),
        };
        let now = highest(known.sent, (received, read));
        self.heard.repeats += u64::from(now == known.sent && now.0 > 0);
        known.sent = now;
        let (channel, device) = (client.channel, client.device);
        let of = |kind, offset| format!(r#"{{"channel":"{channel}","offset":{offset},"kind":"{kind}"}}"#);
        let acks = [of("received", received), of("read", read)].join(",");
        let data = format!(r#"{{"device":"{device}","acks":[{acks}]}}"#);
        let text = format!(r#"{{"id":3,"rpc":{{"method":"trunkline.ack","data":{data}}}}}"#);
        client.say(TEXT, &text, &mut self.node.prng);
    }

    fn hear(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(end) = &mut client.end else {
            let mut end = self.node.net.connect();
            end.send(&handshake(false, ""));
            (client.end, client.reader) = (Some(end), Reader::default());
            self.known[number].subscribed = false;
            return;
        };
        end.recv_into(client.reader.buffer());
        let gone = matches!(end.state(), ClientState::Finished | ClientState::Reset | ClientState::Refused);
        while let Some(heard) = self.clients[number].reader.next() {
            match heard {
                Heard::Upgraded => self.clients[number].begin(&mut self.node.prng),
                Heard::Text(text) => {
                    let text = String::from_utf8(text).expect("JSON is UTF-8");
                    for line in text.lines() {
                        match line {
                            "{}" => self.clients[number].say(TEXT, "{}", &mut self.node.prng),
                            line => self.hear_message(number, line),
                        }
                    }
                }
                Heard::Ping(payload) => {
                    self.clients[number].say(PONG, &String::from_utf8_lossy(&payload), &mut self.node.prng);
                }
                Heard::Close(_) | Heard::Status(_) => self.clients[number].end = None,
                Heard::Binary(_) => panic!("it speaks JSON"),
                Heard::Pong => {}
            }
            if self.clients[number].end.is_none() {
                return;
            }
        }
        if gone {
            self.clients[number].end = None;
        }
    }

    fn hear_message(&mut self, number: usize, line: &str) {
        let message: Message<'_> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let (user, device) = (self.clients[number].user, self.clients[number].device);
        let others = || self.clients.iter().zip(&self.known).filter(|(client, _)| client.user == user);
        let most = others().map(|(_, known)| known.sent).fold((0, 0), highest);
        let known = &mut self.known[number];
        assert!(message.error.is_none() || message.id == 4, "{line}");
        if let Some(subscribe) = message.subscribe {
            known.subscribed = true;
            known.newest = known.newest.max(subscribe.offset);
            let data = subscribe.data.expect("it has cursors").get();
            let CursorsData { cursors } = serde_json::from_str(data).expect("they are an object");
            let own = cursors.devices.get(device).map_or((0, 0), |own| (own["received"], own["read"]));
            assert!(highest(own, known.answered) == own && highest(own, known.sent) == known.sent, "{line}");
            assert!(cursors.read <= most.1 && cursors.unread == cursors.offset - cursors.read, "{line}");
        }
        if let Some(rpc) = message.rpc {
            let AckAnswer { acks } = serde_json::from_str(rpc.data.get()).expect("an answer");
            assert_eq!(acks.len(), 2, "{line}");
            for ack in acks {
                let received = ack["received"];
                assert!(known.answered.0 <= received && received <= known.sent.0, "{line}: {known:?}");
                assert!(ack["read"] <= most.1, "{line}: {most:?}");
                known.answered.0 = received;
            }
        }
        if let Some(push) = message.push {
            if let Some(publication) = &push.r#pub {
                known.newest = known.newest.max(publication.offset);
            }
            if let Some(message) = &push.message {
                let Receipts { receipts } = serde_json::from_str(message.data.get()).expect("receipts");
                for Receipt { channel, offset, received, read, members } in receipts {
                    self.heard.receipts += 1;
                    assert!(read <= received && received <= members && members < USERS.len(), "{line}");
                    let at = self.receipts.entry((device, format!("{user} {channel}"), offset)).or_default();
                    assert!(at.0 <= received && at.1 <= read, "{line} after {at:?}");
                    *at = (received, read);
                }
            }
            if push.unsubscribe.is_some() {
                self.clients[number].end = None;
            }
        }
    }

    /// What the backend has got since, before clients hear more.
    fn hear_events(&mut self) {
        for event in std::mem::take(&mut *self.backend.0.lock().expect("one thread")) {
            match event.what {
                What::Acked(event) => {
                    self.heard.acked += 1;
                    for ack in event.acks {
                        let key = (event.channel.to_string(), ack.user.to_string(), ack.device.to_string());
                        let now = (ack.received.0, ack.read.0);
                        let before = self.acked.insert(key.clone(), now);
                        let farther =
                            before.is_none_or(|before| highest(before, now) == now && before != now);
                        assert!(farther, "{key:?}: {now:?} after {before:?}");
                    }
                }
                What::Unacked(event) => {
                    self.heard.unacked += 1;
                    let channel = event.channel.to_string();
                    let named = self.named.insert(channel.clone(), event.to.0).unwrap_or(0);
                    assert!(named < event.from.0 && event.from <= event.to, "{event:?} after {named}");
                    assert_eq!(event.total, event.users.len());
                    let mut users: Vec<String> =
                        event.users.iter().map(|user| user.user.to_string()).collect();
                    for named in &event.users {
                        let knows = self.clients.iter().zip(&self.known).find(|(client, known)| {
                            *client.user == *named.user
                                && *client.channel == *channel
                                && named.devices.iter().any(|device| **device == *client.device)
                                && known.answered.0 >= event.to.0
                        });
                        assert!(knows.is_none(), "{named:?} has acknowledged {:?}", event.to);
                    }
                    users.sort_unstable();
                    let all = users.len();
                    users.dedup();
                    assert_eq!(users.len(), all, "each once");
                    self.lacks.push((channel, event.from.0, event.to.0, users));
                }
                what => panic!("nobody asked for {what:?}"),
            }
        }
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.node.net.now() + time;
        while self.node.net.now() < until {
            self.node.tick();
            self.hear_events();
            for number in 0..self.clients.len() {
                self.hear(number);
            }
            self.node.advance(until);
        }
    }
}

#[test]
fn each_cursor_is_the_highest_acknowledgement_and_who_lacks_something_is_named_once() {
    let usual = variable("SIM_SEEDS").unwrap_or(u64::MAX).min(SEEDS);
    let seeds = seeds(variable("SIM_CURSOR_SEEDS").unwrap_or(usual));
    let alone = seeds.end - seeds.start == 1;
    let mut all = Heards::default();
    for seed in seeds {
        let Heards { unacked, acked, receipts, repeats } = run_seed(seed, || World::new(seed).run());
        (all.unacked, all.acked) = (all.unacked + unacked, all.acked + acked);
        (all.receipts, all.repeats) = (all.receipts + receipts, all.repeats + repeats);
    }
    let Heards { unacked, acked, receipts, repeats } = all;
    println!("{unacked} unacked, {acked} acked, {receipts} receipts, {repeats} repeats");
    assert!(
        alone || [unacked, acked, receipts, repeats].iter().all(|seen| *seen > 10),
        "it has become toothless"
    );
}
