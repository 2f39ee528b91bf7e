//! What one seed draws before it begins: shards, limits, channels, faults, who takes part.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use trunkline::base::admission::{Admission, AdmissionLimits};
use trunkline::base::budget::Budget;
use trunkline::base::debts::Debts;
use trunkline::base::event::{EventKind, EventKinds};
use trunkline::base::ids::ChannelName;
use trunkline::base::networks::NetworkLimits;
use trunkline::base::prng::Prng;
use trunkline::base::publication::PayloadForm;
use trunkline::base::rate::Rate;
use trunkline::base::seats::Seats;
use trunkline::base::time::Time;
use trunkline::driver::sim::Faults;
use trunkline::driver::{self, DriverOptions};
use trunkline::hub::followed::StreamLimits;
use trunkline::hub::limits::HubLimits;
use trunkline::hub::options::{ChannelOptions, GapPolicy, Namespaces};
use trunkline::proto::websocket::deflate::CompressionOptions;
use trunkline::session::origins::AllowedOrigins;
use trunkline::session::permissions::{Deed, Grantee, Permissions};
use trunkline::session::rules::{ChannelRules, NamespaceOptions};
use trunkline::session::token::{TokenOptions, Verifier};
use trunkline::shard::options::SeeingOptions;
use trunkline::shard::{ClientHooks, HttpLimits, ListenerOptions, ShardOptions};

use crate::REGRESSIONS;
use crate::audience::TagFilter;
use crate::presence;
use crate::sealed::Maker;
use crate::tls;

/// Signs the tokens of the simulated backend.
pub const SECRET: &[u8] = b"only the simulated backend knows this";
/// Wall clock at the start of virtual time, milliseconds since 1970.
const EPOCH_MS: u64 = 1_700_000_000_000;
/// One seed in so many has a channel with more subscribers than one tick serves.
const CROWD_EVERY: u64 = 100;
/// One seed in so many has hooks.
const HOOKED_EVERY: u64 = 4;
/// Two seeds in so many limit who is let in; one of them has TLS links.
const ADMITTED_EVERY: u64 = 16;
/// One seed in so many has clients that never stop to send commands while everything must come right.
const FLOODED_EVERY: u64 = 97;
/// Subscribers that one tick of a shard serves; a batch for more is cut.
pub const DELIVERIES_PER_TICK: usize = 512;

/// Where 32 bits of a clock wrap, milliseconds: a count of milliseconds, one of the wheel's ticks of 20 ms, and the sign
/// of each.
const WRAPS_MS: [u64; 4] = [1 << 32, 20 << 32, 1 << 31, 20 << 31];
/// Ten years, milliseconds: no host is up for longer.
const UPTIME_MAX_MS: u64 = 10 * 365 * 86_400_000;

pub struct Scenario {
    /// What the host's clock shows at the start.
    pub uptime: Time,
    pub shards: u16,
    pub options: ShardOptions,
    /// Whether the backend is told of what happens.
    pub telling: Telling,
    pub driver: DriverOptions,
    pub inbox_messages: usize,
    pub channels: Vec<Channel>,
    pub faults: Faults,
    pub cast: Cast,
    /// Script steps of one rough stretch, and how many stretches, each followed by a calm one with its checks.
    pub steps: u32,
    pub stretches: u32,
    /// Longest pause between two script steps, virtual microseconds.
    pub step_us: u64,
    /// There may be less room than clients: not everyone need be connected in the end.
    pub cramped: bool,
    /// A channel that everybody subscribes to, with more subscribers than one tick serves.
    pub crowd: bool,
    /// Clients without a token, and channels of the namespace `hook`, are the backend's to judge.
    pub hooked: bool,
    /// Places in `channels` of those that an engine owns.
    pub engine: Vec<usize>,
    /// Clients send as many commands as they can while others must be served.
    pub flooded: bool,
    /// Shards are told to end while clients are connected; otherwise the clients leave first.
    pub shutdown_under_load: bool,
    /// Other processes take over, or begin to.
    pub upgrades: bool,
    /// What all connections of the node together may owe, in bytes.
    pub debts: u64,
    /// Every other connection is sealed by a layer.
    pub sealed: bool,
    /// Every other connection speaks TLS.
    pub tls: bool,
    pub extras: Extras,
}

/// What only some runs have, so that the other seeds mean what they meant before it was there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Extras {
    /// Publications have tags, and subscriptions are filtered by them.
    pub filters: bool,
    /// Publications and messages are kept from some.
    pub keeps: bool,
    /// The namespace whose payloads are bytes.
    pub bytes: Option<&'static str>,
    /// Clients come by all carriers.
    pub carriers: bool,
}

impl Extras {
    fn draw(seed: u64) -> Extras {
        if REGRESSIONS.iter().any(|(known, _)| *known == seed) {
            return Extras::default();
        }
        let mut prng = Prng::with_seed(seed ^ 0x7a65);
        Extras {
            filters: prng.bool(),
            keeps: prng.bool(),
            bytes: (prng.u8(..4) == 0)
                .then(|| *pick(&mut prng, &["tell", "latest", "close", "plain", "token"])),
            carriers: prng.bool(),
        }
    }
}

/// What becomes of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Telling {
    Nothing,
    All,
    /// Some find no room.
    Some,
}

/// How many of each kind of client.
#[derive(Clone, Copy, Debug)]
pub struct Cast {
    pub clients: usize,
    pub hostile: usize,
    pub http: usize,
    /// Without the client protocol.
    pub unidirectional: usize,
}

pub struct Channel {
    pub name: ChannelName,
    pub options: Arc<NamespaceOptions>,
    /// Clients subscribe with a token of the backend's.
    pub needs_token: bool,
    /// Clients subscribe and publish by leave of the backend.
    pub asked_about: bool,
    /// What whoever grants a subscription has it filtered by.
    pub imposed: Option<TagFilter>,
    /// Clients may filter by tags.
    pub filterable: bool,
    pub bytes: bool,
}

pub fn wall_ms(at: Time) -> u64 {
    EPOCH_MS + at.as_millis()
}

pub fn unix_s(at: Time) -> u64 {
    wall_ms(at) / 1000
}

impl Scenario {
    pub fn draw(seed: u64, prng: &mut Prng) -> Scenario {
        let crowd = seed % CROWD_EVERY == CROWD_EVERY / 2;
        let cramped = !crowd && prng.u8(..8) == 0;
        let cast = match crowd {
            true => Cast {
                clients: DELIVERIES_PER_TICK + prng.usize(30..120),
                hostile: 0,
                http: 1,
                unidirectional: prng.usize(..4),
            },
            false => Cast {
                clients: prng.usize(3..24),
                hostile: usize::from(prng.u8(..3) == 0) * prng.usize(1..3),
                http: usize::from(prng.u8(..3) == 0) * prng.usize(1..3),
                unidirectional: usize::from(prng.bool()) * prng.usize(1..8),
            },
        };
        // By the seed alone: what it draws is the same as before events were told.
        let telling = match seed % 8 {
            1 | 2 | 5 => Telling::All,
            6 => Telling::Some,
            _ => Telling::Nothing,
        };
        let every_kind = EventKinds::from_iter(EventKind::ALL);
        // Drawn apart, so that what other seeds mean does not change with it.
        let mut hooks = Prng::with_seed(seed);
        let hooked = !crowd && seed % HOOKED_EVERY == 1;
        // By the seed alone as well: three of four deliver at once.
        let batch_max_delay = Duration::from_millis([0, 0, 0, 15][(seed / 8 % 4) as usize]);
        let flooded_seed = seed % FLOODED_EVERY == 7;
        let admitted = matches!(seed % ADMITTED_EVERY, 0 | 9);
        let extras = match crowd || cramped || flooded_seed || admitted {
            true => Extras::default(),
            false => Extras::draw(seed),
        };
        let namespaces = namespaces(prng, hooked.then_some(&mut hooks), extras, |options| {
            options.batch_max_delay = batch_max_delay;
            presence::paced(seed, options);
        });
        // One in eight shares little among all clients.
        let debts = if !crowd && seed % 8 == 3 { 40_000 } else { u64::MAX };
        let faults = if crowd { mild() } else { faults(prng) };
        let room = match cramped {
            true => prng.u32(1..5),
            false => 8 * (cast.clients + cast.hostile + cast.http + cast.unidirectional) as u32 + 64,
        };
        let mut channels = channels(prng, &namespaces, crowd, hooked);
        channels.iter_mut().for_each(|channel| channel.take_extras(extras, &mut hooks));
        // What happens to an engine's channels is not told to the backend by shards.
        let engine = match !crowd && telling == Telling::Nothing && seed % 8 >= 4 {
            true => engine_channels(seed, channels.len()),
            false => Vec::new(),
        };
        let flooded = !crowd && !cramped && !hooked && engine.is_empty() && seed % FLOODED_EVERY == 7;
        let admission = match !crowd && !cramped && !flooded && matches!(seed % ADMITTED_EVERY, 0 | 9) {
            true => admission(seed, cast.clients + cast.unidirectional),
            false => None,
        };
        let addresses = admission.is_some();
        let has_engine = !engine.is_empty();
        Scenario {
            engine,
            uptime: uptime(seed),
            shards: if crowd { 1 } else { prng.u16(1..=4).min(if flooded { 2 } else { 4 }) },
            options: ShardOptions {
                events: if telling == Telling::Nothing { EventKinds::default() } else { every_kind },
                compression: compression(seed),
                vacated_delay: Duration::from_millis([0, 30, 1_000][(seed % 3) as usize]),
                user_offline_delay: Duration::from_millis([0, 30, 1_000][(seed % 3) as usize]),
                admission: admission.map(Arc::new),
                ..with_hooks(hooked, options(prng, namespaces, room, cramped, debts))
            },
            telling,
            driver: DriverOptions {
                listeners: vec![
                    driver::ListenOptions {
                        addresses,
                        ..SocketAddr::from(([127, 0, 0, 1], 0)).into()
                    };
                    3
                ],
                // The driver's table may be full before the shard's own bound is reached, or after.
                sockets_max: if cramped && prng.bool() { room + 2 } else { room * 2 },
                recv_buffer_bytes: *pick(
                    prng,
                    if flooded { &[16 * 1024; 3] } else { &[512, 4096, 16 * 1024] },
                ),
                recv_buffers: *pick(prng, &[1, 4, 64]),
                socket: Default::default(),
            },
            // A flood fills any of them; in small ones time would pass with moving on a few messages a tick.
            inbox_messages: match crowd {
                true => 1024,
                false => *pick(prng, if flooded { &[64, 64, 64, 64, 1024] } else { &[2, 4, 16, 64, 1024] }),
            },
            channels,
            faults,
            cast,
            steps: if crowd { 60 } else { *pick(prng, &[40, 200, 700]) },
            stretches: if !crowd && prng.u8(..4) == 0 { 2 } else { 1 },
            step_us: *pick(prng, &[500, 5_000, 30_000]),
            cramped,
            crowd,
            hooked,
            flooded,
            shutdown_under_load: prng.bool(),
            // By the seed alone: what it draws stays the same.
            sealed: seed % 4 == 2,
            debts,
            upgrades: seed.is_multiple_of(3) && !crowd && !addresses && !has_engine && seed % 4 != 2,
            tls: seed % 4 == 1,
            extras,
        }
    }
}

impl Channel {
    fn take_extras(&mut self, extras: Extras, prng: &mut Prng) {
        self.bytes = self.options.channel.payload == PayloadForm::Bytes;
        self.filterable = self.options.rules.allow_tags_filter;
        if extras.filters && prng.bool() {
            self.imposed = Some(TagFilter::draw(prng, 2));
        }
    }
}

/// Limits that those who come together meet, and that all of them fit in when they come one after the other: in the end
/// nobody is left out. Drawn apart, so that what other seeds mean does not change.
fn admission(seed: u64, participants: usize) -> Option<Admission> {
    let mut prng = Prng::with_seed(seed ^ 0xad);
    let rate = |prng: &mut Prng| Rate::new(prng.u64(50..500), prng.u64(2..10));
    let network = NetworkLimits {
        prefix_ipv4: 32,
        prefix_ipv6: 64,
        // All but some come from one address.
        connections_max: participants as u32 + 1,
        unauthenticated_max: prng.u32(2..8),
        connects: rate(&mut prng),
    };
    let limits = AdmissionLimits {
        network,
        connects: rate(&mut prng),
        unauthenticated_max: prng.u32(4..12),
        busy_percent_max: 0,
        retry_after_max: Duration::from_secs(prng.u64(1..30)),
    };
    Admission::new(limits, [1, 2, 3, seed])
}

/// In one of three runs. By the seed alone: what it draws is the same.
fn compression(seed: u64) -> Option<CompressionOptions> {
    (seed % 3 == 1).then_some(CompressionOptions { bytes_min: 40, level: 1 + (seed / 3 % 6) as u8 })
}

/// About half of the channels, one at least. Drawn apart, so that what other seeds mean does not change.
fn engine_channels(seed: u64, channels: usize) -> Vec<usize> {
    let mut prng = Prng::with_seed(seed ^ 0xe9);
    let first = prng.usize(..channels);
    (0..channels).filter(|&number| number == first || prng.bool()).collect()
}

/// At boot, short of a wrap that the run passes, or anywhere. Drawn apart, so that what other seeds mean does not change.
fn uptime(seed: u64) -> Time {
    let mut prng = Prng::with_seed(!seed);
    Time::from_millis(match prng.u8(..4) {
        0 => 0,
        1 => prng.u64(..UPTIME_MAX_MS),
        _ => pick(&mut prng, &WRAPS_MS) - prng.u64(..15_000),
    })
}

pub fn pick<'a, T>(prng: &mut Prng, from: &'a [T]) -> &'a T {
    &from[prng.usize(..from.len())]
}

fn with_hooks(hooked: bool, options: ShardOptions) -> ShardOptions {
    let hook = || hooked.then(|| "hook".into());
    let hooks = ClientHooks { connect: hook(), refresh: hook(), rpc: hook(), ..ClientHooks::default() };
    ShardOptions { hooks, ..options }
}

fn namespaces(
    prng: &mut Prng,
    hooks: Option<&mut Prng>,
    extras: Extras,
    finish: impl Fn(&mut ChannelOptions),
) -> Namespaces<NamespaceOptions> {
    let mut named = Vec::new();
    for (name, gap) in [("tell", GapPolicy::Tell), ("latest", GapPolicy::Latest), ("close", GapPolicy::Close)]
    {
        named.push((name.to_string(), with_history(prng, gap)));
    }
    named
        .push(("token".to_string(), permitting(with_history(prng, GapPolicy::Tell), Deed::Subscribe, false)));
    let mut plain = open(prng, GapPolicy::Tell);
    (plain.channel.presence, plain.channel.join_leave) = (true, true);
    named.push(("plain".to_string(), plain));
    if let Some(prng) = hooks {
        let hook = || Some("hook".to_string());
        let options = permitting(with_history(prng, GapPolicy::Tell), Deed::Subscribe, false);
        let mut options = permitting(options, Deed::Publish, false);
        (options.rules.subscribe_hook, options.rules.sub_refresh_hook) = (hook(), hook());
        options.rules.publish_hook = hook();
        named.push(("hook".to_string(), options));
    }
    let unnamed = open(prng, GapPolicy::Tell);
    let finished = |mut options: NamespaceOptions| {
        finish(&mut options.channel);
        options
    };
    let with_extras = |name: &str, mut options: NamespaceOptions| {
        options.rules.allow_tags_filter = extras.filters;
        if extras.bytes == Some(name) {
            options.channel.payload = PayloadForm::Bytes;
        }
        options
    };
    let named = named.into_iter().map(|(name, options)| {
        let options = with_extras(&name, finished(options));
        (name, options)
    });
    Namespaces::new(finished(unnamed), named, 32)
}

/// Whether all clients may do it.
fn permitting(mut options: NamespaceOptions, deed: Deed, to: bool) -> NamespaceOptions {
    options.rules.permissions.set(deed, Grantee::Client, to);
    options
}

fn open(prng: &mut Prng, gap: GapPolicy) -> NamespaceOptions {
    let (presence, join_leave) = (prng.bool(), prng.bool());
    let (force_push_join_leave, force_positioning) = (prng.bool(), prng.bool());
    let mut permissions = Permissions::ALL;
    for deed in [Deed::Publish, Deed::ReadHistory, Deed::ReadPresence] {
        permissions.set(deed, Grantee::Client, prng.bool());
    }
    NamespaceOptions {
        channel: ChannelOptions { presence, join_leave, gap, ..ChannelOptions::default() },
        rules: ChannelRules {
            permissions,
            force_push_join_leave,
            force_positioning,
            ..ChannelRules::default()
        },
    }
}

fn with_history(prng: &mut Prng, gap: GapPolicy) -> NamespaceOptions {
    let history_size = prng.usize(1..40);
    let history_ttl = Duration::from_millis(*pick(prng, &[200, 2_000, 600_000]));
    let history_meta_ttl = Duration::from_millis(*pick(prng, &[100, 3_000, 600_000]));
    let force_recovery = prng.bool();
    let NamespaceOptions { channel, rules } = open(prng, gap);
    NamespaceOptions {
        channel: ChannelOptions { history_size, history_ttl, history_meta_ttl, ..channel },
        rules: ChannelRules { force_recovery, ..rules },
    }
}

fn channels(
    prng: &mut Prng,
    namespaces: &Namespaces<NamespaceOptions>,
    crowd: bool,
    hooked: bool,
) -> Vec<Channel> {
    let mut names: Vec<String> = Vec::new();
    if crowd {
        names.push("tell:crowd".into());
    } else {
        for namespace in ["tell:", "latest:", "close:", "token:", "plain:", ""] {
            for number in 0..prng.usize(1..3) {
                names.push(format!("{namespace}{number}"));
            }
        }
    }
    if hooked {
        names.extend(["hook:0".into(), "hook:1".into()]);
    }
    let of = |name: &String| Channel {
        name: name.as_str().into(),
        options: Arc::clone(namespaces.resolve(name).expect("the namespaces are there")),
        needs_token: name.starts_with("token"),
        asked_about: name.starts_with("hook"),
        imposed: None,
        filterable: false,
        bytes: false,
    };
    names.iter().map(of).collect()
}

fn options(
    prng: &mut Prng,
    namespaces: Namespaces<NamespaceOptions>,
    room: u32,
    cramped: bool,
    debts: u64,
) -> ShardOptions {
    let verifier = Verifier::new(TokenOptions { hmac_secret: SECRET.to_vec(), ..TokenOptions::default() });
    let channels_tight = prng.u8(..8) == 0;
    let (namespaces, rules) = namespaces.split();
    ShardOptions {
        listeners: vec![
            ListenerOptions::default(),
            ListenerOptions { layer: Some(Arc::new(Maker)), ..ListenerOptions::default() },
            ListenerOptions { layer: Some(tls::maker()), ..ListenerOptions::default() },
        ],
        trusted: Default::default(),
        namespaces: Arc::new(namespaces),
        rules: Arc::new(rules),
        hub: HubLimits {
            history_bytes_max: *pick(prng, &[2_000, 20_000, 1 << 20]),
            history_read_max: prng.usize(1..30),
            recovery_publications_max: prng.usize(1..50),
            channels_max: if channels_tight { prng.usize(1..6) } else { 1000 },
            client_channels_max: if channels_tight { prng.usize(1..6) } else { 1000 },
            cursors_max: 1_000,
            idempotency_keys_max: 10_000,
            key_bytes_max: 64,
        },
        streams: StreamLimits {
            channel_bytes_max: *pick(prng, &[100, 1_000, 10_000]),
            channel_items_max: *pick(prng, &[1, 5, 50]),
            // Drawn by another number, so that what seeds mean does not change.
            shard_bytes_max: [usize::MAX, 3_000][usize::from(debts < u64::MAX)],
        },
        verifier: Some(Arc::new(verifier)),
        tunnels: Vec::new(),
        allow_anonymous: true,
        personal_channels: None,
        inboxes: None,
        allowed_origins: AllowedOrigins::default(),
        connections_max: if cramped { room } else { room * 2 },
        seats: Seats::new(if cramped { room * 2 } else { u32::MAX }),
        refused_max: 2,
        debts: Debts::new(debts),
        send_buffer_bytes: 1_000,
        admission: None,
        channels_max: prng.usize(3..12),
        message_bytes_max: 8 * 1024,
        compression: None,
        outbox_bytes_max: *pick(prng, &[1_000, 4_000, 64 * 1024]),
        http_body_bytes_max: 1_000,
        http: HttpLimits {
            keep_alive: Duration::from_millis(prng.u64(500..10_000)),
            body_timeout: Duration::from_millis(prng.u64(500..5_000)),
            input: Budget::with_debts("input", *pick(prng, &[2_000, 1 << 20])),
            bodies: Budget::new("bodies", *pick(prng, &[2_000, 1 << 20])),
        },
        ping_interval: Duration::from_millis(prng.u64(1_000..4_000)),
        pong_timeout: Duration::from_millis(prng.u64(200..900)),
        connect_timeout: Duration::from_millis(prng.u64(500..3_000)),
        handshake_timeout: Duration::from_secs(5),
        expired_close_delay: Duration::from_secs(1),
        hooks: ClientHooks::default(),
        forward_headers: Vec::new(),
        emulated_headers: Vec::new(),
        hook_call_patience: Duration::from_secs(1),
        shutdown_grace: Duration::from_millis(prng.u64(100..4_000)),
        client_limits: Default::default(),
        echo: false,
        client_paths: Default::default(),
        connect_statuses: Vec::new(),
        node_uid: "node".into(),
        events: EventKinds::default(),
        vacated_delay: Duration::ZERO,
        user_offline_delay: Duration::ZERO,
        blocks: Arc::default(),
        seeing: SeeingOptions { ends_max: 64, ..SeeingOptions::default() },
        version: "sim",
        wall_ms,
        thread_time: || Duration::ZERO,
    }
}

/// Longest a connection drawn from [`faults`] lives before it is doomed, and the longest stall: calm stretches wait for
/// both.
const DOOM_US: u64 = 3_000_000;

fn faults(prng: &mut Prng) -> Faults {
    let harsh = || Faults { stall_us: 1_000..=2_000_000, doom_us: 0..=DOOM_US, ..Faults::harsh() };
    match prng.u8(..10) {
        0 => Faults::none(),
        1 => Faults {
            send_buffer_bytes: 200..=4_000,
            client_window_bytes: 1..=1_000,
            latency_us: 0..=500,
            ..Faults::none()
        },
        2..6 => Faults::gentle(),
        6..8 => harsh(),
        _ => mixed(prng, [Faults::none(), Faults::gentle(), harsh()]),
    }
}

/// For scenarios with so many clients that all faults at once would only make them long.
fn mild() -> Faults {
    Faults { send_cut: 0.001, no_buffers: 0.001, closed_late: 0.2, ..Faults::none() }
}

/// Each fault from one of the three at random.
fn mixed(prng: &mut Prng, from: [Faults; 3]) -> Faults {
    let mut one = || from[prng.usize(..3)].clone();
    Faults {
        latency_us: one().latency_us,
        stall: one().stall,
        stall_us: 1_000..=600_000,
        split: one().split,
        send_buffer_bytes: one().send_buffer_bytes,
        client_window_bytes: one().client_window_bytes,
        read_cut: one().read_cut,
        send_cut: one().send_cut,
        no_buffers: one().no_buffers,
        break_in_send: one().break_in_send,
        doom_reset: one().doom_reset,
        doom_half_close: one().doom_half_close,
        doom_us: 0..=DOOM_US,
        reset_loses: one().reset_loses,
        accept_failed: one().accept_failed,
        accept_drops: one().accept_drops,
        accept_dead: one().accept_dead,
        accept_late: one().accept_late,
        buffers_short: one().buffers_short,
        wait_empty: one().wait_empty,
        event_late: one().event_late,
        writable_early: one().writable_early,
        closed_late: one().closed_late,
        closed_late_us: 1..=500_000,
        shuffle: one().shuffle,
    }
}
