//! A shard without a driver, for tests of what it does: requests come as bytes, and what sockets take is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::base::budget::Budget;
use crate::base::bytes::Bytes;
use crate::base::debts::Debts;
use crate::base::event::EventKinds;
use crate::base::ids::{ChannelName, ListenerId, ShardId, Sock};
use crate::base::prng::Prng;
use crate::base::seats::Seats;
use crate::base::time::Time;
use crate::driver::{SendCause, SendFailure};
use crate::hub::followed::StreamLimits;
use crate::hub::limits::HubLimits;
use crate::hub::options::{ChannelOptions, GapPolicy, Namespaces};
use crate::hub::requests::PublishRequest;
use crate::session::origins::AllowedOrigins;
use crate::session::permissions::{Deed, Grantee, Permissions};
use crate::session::rules::ChannelRules;
use crate::shard::client_ids::ClientIds;
use crate::shard::control_request::{ControlReply, ControlRequest};
use crate::shard::core::Core;
use crate::shard::link::PendingOutput;
use crate::shard::links::Action;
use crate::shard::mailbox::{ShardInbox, ShardMessage};
use crate::shard::options::{ClientHooks, HttpLimits, ShardOptions};
use crate::shard::router::Router;

/// Most items that the stream of a channel keeps for laggards.
pub const STREAM_ITEMS: usize = 4;
/// Most pending output of one connection.
pub const OUTBOX_BYTES: usize = 16 * 1024;

/// Channels of the namespaces `tell`, `latest` and `close` keep two publications, those of `log` all of them, and others
/// none.
fn options() -> ShardOptions {
    let keeping = |history_size, gap| ChannelOptions {
        history_size,
        history_ttl: Duration::from_secs(600),
        gap,
        ..ChannelOptions::default()
    };
    let named = [
        ("tell", keeping(2, GapPolicy::Tell)),
        ("latest", keeping(2, GapPolicy::Latest)),
        ("close", keeping(2, GapPolicy::Close)),
        ("log", keeping(1000, GapPolicy::Tell)),
    ];
    let named = named.map(|(name, options)| (name.to_owned(), options));
    let namespaces = Namespaces::new(ChannelOptions::default(), named, 255);
    let permissions = Permissions::default().with(Deed::Subscribe, Grantee::Client, true);
    let rules = ChannelRules { permissions, ..ChannelRules::default() };
    ShardOptions {
        listeners: Vec::new(),
        trusted: Default::default(),
        rules: Arc::new(namespaces.map(|_| rules.clone())),
        namespaces: Arc::new(namespaces),
        hub: HubLimits::default(),
        streams: StreamLimits {
            channel_bytes_max: 1 << 20,
            channel_items_max: STREAM_ITEMS,
            shard_bytes_max: 1 << 20,
        },
        verifier: None,
        tunnels: Vec::new(),
        allow_anonymous: true,
        personal_channels: None,
        inboxes: None,
        compression: None,
        allowed_origins: AllowedOrigins::default(),
        connections_max: 1024,
        admission: None,
        seats: Seats::new(1024),
        refused_max: 8,
        debts: Debts::new(1 << 30),
        send_buffer_bytes: 0,
        channels_max: 16,
        message_bytes_max: 64 * 1024,
        outbox_bytes_max: OUTBOX_BYTES,
        http_body_bytes_max: 1 << 20,
        http: HttpLimits {
            keep_alive: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            input: Budget::with_debts("input", 1 << 20),
            bodies: Budget::new("bodies", 1 << 20),
        },
        ping_interval: Duration::from_secs(600),
        pong_timeout: Duration::from_secs(300),
        connect_timeout: Duration::from_secs(60),
        handshake_timeout: Duration::from_secs(60),
        expired_close_delay: Duration::from_secs(25),
        hooks: ClientHooks::default(),
        forward_headers: Vec::new(),
        emulated_headers: Vec::new(),
        hook_call_patience: Duration::from_secs(1),
        shutdown_grace: Duration::from_secs(5),
        client_limits: Default::default(),
        echo: false,
        client_paths: Default::default(),
        connect_statuses: Vec::new(),
        node_uid: "node".into(),
        events: EventKinds::default(),
        vacated_delay: Duration::ZERO,
        user_offline_delay: Duration::ZERO,
        blocks: Arc::default(),
        seeing: Default::default(),
        version: "test",
        wall_ms: |now| now.0 / 1000,
        thread_time: || Duration::ZERO,
    }
}

pub struct Stage {
    pub core: Core,
    /// What was done to sockets since it was last looked at.
    pub actions: Vec<Action>,
    inbox: Arc<ShardInbox>,
    /// Sockets that take nothing.
    full: BTreeSet<u32>,
    /// What the others took, by slot, since it was last looked at.
    taken: BTreeMap<u32, Vec<u8>>,
    slots: u32,
}

impl Stage {
    pub fn new() -> Stage {
        Stage::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut ShardOptions)) -> Stage {
        let mut options = options();
        change(&mut options);
        let inbox = Arc::new(ShardInbox::new(1024));
        let router = Router::new([Arc::clone(&inbox)].into(), [1, 2, 3, 4]);
        let (ids, prng) = (ClientIds::of_seed(1), Prng::with_seed(1));
        let core = Core::new(ShardId(0), Arc::new(options), router, ids, None, prng, Time::from_millis(1000));
        Stage { core, actions: Vec::new(), inbox, full: BTreeSet::new(), taken: BTreeMap::new(), slots: 0 }
    }

    // --- peers

    /// A connection that has said nothing.
    pub fn connection(&mut self) -> u32 {
        let slot = self.slots;
        self.slots += 1;
        assert!(self.core.handle_accepted(Sock { slot, generation: 0 }, ListenerId::default(), None));
        slot
    }

    /// A client that is connected.
    pub fn client(&mut self) -> u32 {
        let slot = self.connection();
        self.connect(slot);
        slot
    }

    /// The connection becomes a client's.
    pub fn connect(&mut self, slot: u32) {
        self.upgrade(slot, "/connection/websocket");
        self.text(slot, r#"{"id":1,"connect":{}}"#);
        self.tick();
        assert!(self.taken(slot).contains(r#""connect":{"#));
    }

    /// A client of each of the channels.
    pub fn subscriber(&mut self, channels: &[&str]) -> u32 {
        let slot = self.client();
        for channel in channels {
            self.subscribe(slot, channel);
        }
        self.tick();
        self.taken(slot);
        slot
    }

    /// Not answered before the next tick.
    pub fn subscribe(&mut self, slot: u32, channel: &str) {
        self.text(slot, &format!(r#"{{"id":2,"subscribe":{{"channel":"{channel}"}}}}"#));
    }

    /// A unidirectional client whose request is not answered before the next tick.
    pub fn get(&mut self, target: &str) -> u32 {
        let slot = self.connection();
        self.receive(slot, format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n").into_bytes());
        slot
    }

    /// The same of plain WebSocket.
    pub fn upgraded(&mut self, target: &str) -> u32 {
        let slot = self.connection();
        self.upgrade(slot, target);
        slot
    }

    pub fn upgrade(&mut self, slot: u32, target: &str) {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        self.receive(slot, request.into_bytes());
    }

    // --- what peers do

    pub fn receive(&mut self, slot: u32, mut bytes: Vec<u8>) {
        self.core.handle_received(slot, &mut bytes);
    }

    pub fn text(&mut self, slot: u32, text: &str) {
        self.frame(slot, 1, text.as_bytes());
    }

    /// The same of up to 64 KiB.
    pub fn long_text(&mut self, slot: u32, text: &str) {
        assert!((126..1 << 16).contains(&text.len()), "a shorter frame has another head");
        let length = (text.len() as u16).to_be_bytes();
        let head = [0x81, 0x80 | 126, length[0], length[1], 0, 0, 0, 0];
        self.receive(slot, [&head, text.as_bytes()].concat());
    }

    /// Sends a frame under a mask of zeros.
    pub fn frame(&mut self, slot: u32, opcode: u8, payload: &[u8]) {
        assert!(payload.len() < 126);
        let head = [0x80 | opcode, 0x80 | payload.len() as u8, 0, 0, 0, 0];
        self.receive(slot, [&head, payload].concat());
    }

    /// The peer does not read, and its socket is full.
    pub fn block(&mut self, slot: u32) {
        self.full.insert(slot);
    }

    /// The peer reads again.
    pub fn unblock(&mut self, slot: u32) {
        self.full.remove(&slot);
        self.core.handle_writable(slot);
    }

    // --- what the backend does

    pub fn publish(&mut self, channel: &str, data: &str) {
        self.publish_as(channel, data, |_| ());
    }

    /// The same of a publication that is more than its payload.
    pub fn publish_as(&mut self, channel: &str, data: &str, change: impl FnOnce(&mut PublishRequest)) {
        let mut ask =
            PublishRequest::new(ChannelName::from(channel), Bytes::copy_from_slice(data.as_bytes()));
        change(&mut ask);
        let ask = ControlRequest::Publish(ask, ControlReply::new(|_| {}));
        self.core.handle_message(ShardMessage::ControlRequest(Box::new(ask)));
    }

    /// Publishes numbers, each in a tick of its own.
    pub fn publish_each(&mut self, channel: &str, numbers: impl IntoIterator<Item = u32>) {
        for number in numbers {
            self.publish(channel, &number.to_string());
            self.tick();
        }
    }

    // --- the shard

    /// One turn, as [`Shard::tick`](crate::shard::Shard::tick).
    pub fn tick(&mut self) {
        let core = &mut self.core;
        let now = core.env.now + Duration::from_millis(1);
        core.begin(now);
        core.resume_http();
        core.inflate_unread();
        core.resume_commands();
        core.handle_messages(&self.inbox);
        core.handle_stored();
        core.ask_owners();
        core.catch_up();
        core.deliver_pushes();
        core.deliver();
        core.handle_timers();
        self.flush();
        self.core.collect_debts();
        self.core.collect_input();
        self.core.finish_closed();
        let actions = std::mem::take(&mut self.core.links.actions);
        for action in &actions {
            if let Action::Close(slot) | Action::GiveUp(slot) | Action::Reset(slot) = *action
                && let Some(sock) = self.core.sock(slot)
            {
                self.core.handle_closed(sock);
            }
        }
        self.actions.extend(actions);
    }

    /// What is in line goes to the sockets, in the middle of a turn.
    pub fn flush(&mut self) {
        let mut failures = Vec::new();
        for (tag, (slot, bytes)) in (0..).zip(self.core.links.outbox.writes()) {
            if self.core.links.connections.get(slot).is_none_or(|connection| connection.link.is_gone()) {
                continue;
            }
            match self.full.contains(&slot) {
                true => failures.push(SendFailure { tag, sent: 0, cause: SendCause::WouldBlock }),
                false => self.taken.entry(slot).or_default().extend_from_slice(&bytes),
            }
        }
        for failure in failures {
            self.core.handle_send_failed(&failure);
        }
        self.core.outbox_sent();
    }

    // --- what is to be seen

    /// What the connection has been sent since this was last called. Heads of frames show as marks.
    pub fn taken(&mut self, slot: u32) -> String {
        let bytes = self.taken.remove(&slot).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The numbers that the connection has been sent as publications since it was last looked at, in order.
    pub fn numbers(&mut self, slot: u32) -> Vec<u32> {
        numbers_in(&self.taken(slot))
    }

    /// Connections that ever were.
    pub fn connections(&self) -> u32 {
        self.slots
    }

    pub fn pending(&self, slot: u32) -> Option<&PendingOutput> {
        self.core.links.connections.get(slot)?.link.pending.as_deref()
    }

    /// Whether the driver still has the connection.
    pub fn is_open(&self, slot: u32) -> bool {
        self.core.links.connections.get(slot).is_some()
    }

    /// The epoch of a channel's log, as clients have it.
    pub fn epoch(&self, channel: &str) -> String {
        self.core.owned.channels.owned.position(channel).unwrap().epoch.to_string()
    }

    /// Subscribers that the owner knows of.
    pub fn members(&self) -> usize {
        self.core
            .owned
            .channels
            .owned
            .channels(&|_| true)
            .into_iter()
            .map(|(_, clients)| clients as usize)
            .sum()
    }
}

/// The numbers behind each `"data":`.
pub fn numbers_in(text: &str) -> Vec<u32> {
    let behind = text.split(r#""data":"#).skip(1);
    let digits = behind.map(|text| text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default());
    digits.filter_map(|digits| digits.parse().ok()).collect()
}
