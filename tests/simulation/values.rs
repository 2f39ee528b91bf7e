//! Value channels under simulation: networks that lose connections, shards that have their turns late, clients that stop reading.
//! Each client keeps a map as the documentation tells it; in the end, and at each answer to a subscription, it has what was published.
//! Channels of notices are beside them: a client there knows in the end where the channel stands.
//!
//! `SIM_SEEDS` and `SIM_SEED` as in `main`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use trunkline::base::bytes::Bytes;
use trunkline::base::fault::ErrorCode;
use trunkline::base::ids::Position;
use trunkline::base::prng::Prng;
use trunkline::base::publication::{IS_REMOVED, KEY_TAG, REMOVED_TAG};
use trunkline::driver::sim::{ClientEnd, ClientState, SimNet};
use trunkline::hub::requests::{Pace, PublishRequest};
use trunkline::hub::{ChannelKind, ChannelOptions, Deliver, Namespaces};
use trunkline::session::permissions::Permissions;
use trunkline::session::rules::{ChannelRules, NamespaceOptions};
use trunkline::shard::control_request::{ControlReply, ControlRequest};

use crate::node::{Node, run_seed, seeds};
use crate::variable;
use crate::wire::{Heard, Message, PONG, PublicationBody, Reader, TEXT, handshake, write_message};

const SEEDS: u64 = 200;
const CHANNELS: [&str; 5] = ["v:a", "v:b", "slow:a", "notice:a", "pinged:a"];
const KEYS_MAX: usize = 12;

/// By key. Of a channel of notices the only key is empty, and its value the newest offset.
type Map = BTreeMap<String, String>;

fn has_notices(channel: &str) -> bool {
    channel.starts_with("notice:") || channel.starts_with("pinged:")
}

/// What was published and acknowledged, by channel.
#[derive(Default)]
struct Truth {
    now: BTreeMap<&'static str, Map>,
}

struct Client {
    end: Option<ClientEnd>,
    reader: Reader,
    channel: &'static str,
    map: Map,
    /// Where it stands, once it was subscribed.
    stands: Option<(u64, String)>,
    subscribed: bool,
    /// Offsets rise from here on.
    newest: u64,
}

impl Client {
    fn new(channel: &'static str) -> Client {
        let (map, reader) = (Map::new(), Reader::default());
        Client { end: None, reader, channel, map, stands: None, subscribed: false, newest: 0 }
    }

    fn connect(&mut self, net: &SimNet) {
        let mut end = net.connect();
        end.send(&handshake(false, ""));
        (self.end, self.reader, self.subscribed) = (Some(end), Reader::default(), false);
    }

    fn say(&mut self, opcode: u8, text: &str, prng: &mut Prng) {
        let mut out = Vec::new();
        write_message(&mut out, opcode, text.as_bytes(), prng);
        if let Some(end) = &mut self.end {
            end.send(&out);
        }
    }

    fn hear(&mut self, net: &SimNet, prng: &mut Prng) {
        let Some(end) = &mut self.end else { return self.connect(net) };
        end.recv_into(self.reader.buffer());
        let gone = matches!(end.state(), ClientState::Finished | ClientState::Reset | ClientState::Refused);
        while let Some(heard) = self.reader.next() {
            match heard {
                Heard::Upgraded => {
                    let position = match &self.stands {
                        Some((offset, epoch)) => {
                            format!("\"recover\":true,\"offset\":{offset},\"epoch\":\"{epoch}\",")
                        }
                        None => String::new(),
                    };
                    let channel = self.channel;
                    self.say(TEXT, "{\"id\":1,\"connect\":{}}", prng);
                    self.say(
                        TEXT,
                        &format!("{{\"id\":2,\"subscribe\":{{{position}\"channel\":\"{channel}\"}}}}"),
                        prng,
                    );
                }
                Heard::Text(text) => {
                    let text = String::from_utf8(text).expect("JSON is UTF-8");
                    for line in text.lines() {
                        match line {
                            "{}" => self.say(TEXT, "{}", prng),
                            line => self.hear_message(line),
                        }
                    }
                }
                Heard::Ping(payload) => self.say(PONG, &String::from_utf8_lossy(&payload), prng),
                Heard::Close(_) | Heard::Status(_) => self.end = None,
                Heard::Binary(_) => panic!("it speaks JSON"),
                Heard::Pong => {}
            }
            if self.end.is_none() {
                return;
            }
        }
        if gone {
            self.end = None;
        }
    }

    fn hear_message(&mut self, line: &str) {
        let message: Message<'_> =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let notices = has_notices(self.channel);
        if let Some(subscribe) = message.subscribe {
            assert!(subscribe.positioned && subscribe.recoverable, "{line}");
            if !(subscribe.was_recovering && subscribe.recovered) {
                self.map.clear();
            }
            self.subscribed = true;
            self.newest = 0;
            let epoch = subscribe.epoch.unwrap_or_default().to_owned();
            self.stands = Some((subscribe.offset, epoch));
            if notices && subscribe.offset > 0 {
                self.map.insert(String::new(), subscribe.offset.to_string());
            }
            assert!(!notices || subscribe.publications.len() < 2, "one says it all: {line}");
            subscribe.publications.iter().for_each(|publication| self.take(publication, line));
        }
        if let Some(push) = message.push {
            if let Some(publication) = &push.r#pub {
                assert!(self.subscribed, "a publication before its subscription: {line}");
                self.take(publication, line);
            }
            if push.unsubscribe.is_some() {
                // As an SDK does: with another connection, from where it stands.
                self.end = None;
            }
        }
    }

    fn take(&mut self, publication: &PublicationBody<'_>, line: &str) {
        assert!(publication.offset > self.newest, "{} after {}: {line}", publication.offset, self.newest);
        self.newest = publication.offset;
        if let Some(stands) = &mut self.stands {
            stands.0 = publication.offset;
        }
        if has_notices(self.channel) {
            assert!(publication.data.get() == "null" && publication.tags.is_none(), "{line}");
            self.map.insert(String::new(), publication.offset.to_string());
            return;
        }
        let tags = publication.tags.as_ref().expect("a value has a key");
        match tags.contains_key(REMOVED_TAG) {
            true => drop(self.map.remove(&tags[KEY_TAG])),
            false => drop(self.map.insert(tags[KEY_TAG].clone(), publication.data.get().to_owned())),
        }
    }
}

struct World {
    node: Node,
    clients: Vec<Client>,
    truth: Arc<Mutex<Truth>>,
    published: u64,
}

fn namespaces(prng: &mut Prng) -> Namespaces<NamespaceOptions> {
    let of = |channel| NamespaceOptions {
        channel,
        rules: ChannelRules {
            permissions: Permissions::ALL,
            force_recovery: true,
            ..ChannelRules::default()
        },
    };
    let value = ChannelOptions { kind: ChannelKind::Value, keys_max: KEYS_MAX, ..ChannelOptions::default() };
    let (history_size, history_ttl) = (prng.usize(1..20), Duration::from_secs(60));
    let stream = ChannelOptions { history_size, history_ttl, ..ChannelOptions::default() };
    let mut wait = || Duration::from_millis(prng.u64(1..300));
    let named = [
        ("v", value.clone()),
        ("slow", ChannelOptions { deliver_every: wait(), ..value }),
        (
            "notice",
            ChannelOptions { deliver: Deliver::Notice, batch_max_delay: wait() / 3, ..stream.clone() },
        ),
        ("pinged", ChannelOptions { deliver: Deliver::NoticeWithPing, ..stream }),
    ];
    let named = named.map(|(name, options)| (name.to_owned(), of(options)));
    Namespaces::new(NamespaceOptions::default(), named, 32)
}

impl World {
    fn new(seed: u64) -> World {
        let mut node = Node::new(seed, namespaces, |_| (), None);
        let prng = &mut node.prng;
        let clients =
            (0..prng.usize(2..8)).map(|_| Client::new(CHANNELS[prng.usize(..CHANNELS.len())])).collect();
        World { node, clients, truth: Arc::default(), published: 0 }
    }

    fn run(mut self) {
        for _ in 0..300 {
            for _ in 0..self.node.prng.usize(..4) {
                self.publish();
            }
            match self.node.prng.u8(..40) {
                0 => self.node.starve_one(),
                1 => {
                    let client = self.node.prng.usize(..self.clients.len());
                    self.clients[client].end = None;
                }
                2..6 => {
                    let (client, reads) = (self.node.prng.usize(..self.clients.len()), self.node.prng.bool());
                    match &mut self.clients[client].end {
                        Some(end) if reads => end.read_resume(),
                        Some(end) => end.read_pause(),
                        None => {}
                    }
                }
                _ => {}
            }
            let pause = self.node.prng.u64(1..20_000);
            self.run_for(Duration::from_micros(pause));
        }
        // Those that are still cut off, or were told something that will not arrive, come back.
        self.node.calm();
        for client in &mut self.clients {
            if let Some(end) = &mut client.end {
                end.read_resume();
            }
        }
        self.run_for(Duration::from_secs(12));
        let truth = std::mem::take(&mut self.truth.lock().expect("one thread").now);
        for client in &self.clients {
            let truth = truth.get(client.channel).cloned().unwrap_or_default();
            assert!(client.subscribed, "it is subscribed to {}", client.channel);
            assert_eq!(client.map, truth, "{}: it stands at {:?}", client.channel, client.stands);
        }
    }

    fn publish(&mut self) {
        let channel = CHANNELS[self.node.prng.usize(..CHANNELS.len())];
        let key = format!("k{}", self.node.prng.usize(..KEYS_MAX + 2));
        let removes = self.node.prng.u8(..5) == 0;
        self.published += 1;
        let value = self.published.to_string();
        let mut tags = vec![(KEY_TAG.to_owned(), key.clone())];
        if removes {
            tags.push((REMOVED_TAG.to_owned(), IS_REMOVED.to_owned()));
        }
        let data = Bytes::from(value.clone().into_bytes());
        let plain = PublishRequest::new(channel.into(), data);
        let notices = has_notices(channel);
        let ask = match notices {
            false => PublishRequest { tags, keyed: true, ..plain },
            true => {
                let spread_ms = [0, 0, self.node.prng.u32(1..200)][self.node.prng.usize(..3)];
                PublishRequest { pace: Pace { spread_ms, bulk: self.node.prng.u8(..5) == 0 }, ..plain }
            }
        };
        let truth = Arc::clone(&self.truth);
        let reply = ControlReply::new(move |outcome: Result<Position, ErrorCode>| {
            let mut truth = truth.lock().expect("one thread");
            let map = truth.now.entry(channel).or_default();
            match outcome {
                Ok(position) if notices => drop(map.insert(String::new(), position.offset.0.to_string())),
                Ok(_) if removes => drop(map.remove(&key)),
                Ok(_) => drop(map.insert(key, value)),
                Err(error_code) => {
                    assert_eq!(error_code, ErrorCode::LimitExceeded);
                    assert!(!map.contains_key(&key) && map.len() == KEYS_MAX, "there was room for {key}");
                }
            }
        });
        self.node.ask(channel, ControlRequest::Publish(ask, reply));
    }

    fn run_for(&mut self, time: Duration) {
        let until = self.node.net.now() + time;
        while self.node.net.now() < until {
            self.node.tick();
            for client in &mut self.clients {
                client.hear(&self.node.net, &mut self.node.prng);
            }
            self.node.advance(until);
        }
    }
}

#[test]
fn clients_of_value_channels_and_of_notices_end_at_the_truth() {
    for seed in seeds(variable("SIM_SEEDS").unwrap_or(u64::MAX).min(SEEDS)) {
        run_seed(seed, || World::new(seed).run());
    }
}
