//! The backend: publishes and gives orders through the shards' inboxes, as the server API does, and answers plain HTTP.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use http::{Request, Response};
use trunkline::base::bytes::Bytes;
use trunkline::base::event::Event;
use trunkline::base::fault::{Disconnect, ErrorCode};
use trunkline::base::ids::{ClientId, Epoch, Offset, Position, ShardId};
use trunkline::base::publication::{Contents, Encoded};
use trunkline::hub::Roster;
use trunkline::hub::creators::Creator;
use trunkline::hub::requests::{
    History, HistoryRequest, Pace, PresenceStats, PublishRequest, Since, SinceEpoch,
};
use trunkline::session::hook_call::{HookCall, Waiting};
use trunkline::shard::control_request::{
    BackendReply, Busy, ChannelCount, ControlPlane, ControlReply, ControlRequest, DisconnectUser, FilterBox,
    HttpReply, PushUsers, Pushed, RefreshUser, ShardStats, SubscribeUser, Target, UnsubscribeUser,
    UserMessage,
};
use trunkline::shard::router::Router;

use crate::audience::{Audience, Kept, Tags, Who, draw_tags};
use crate::check::{ChannelNo, PayloadNo, Place, check_page};
use crate::client::{origin, user_name};
use crate::events::Books;
use crate::hooks::HookCalls;
use crate::protobuf::shown;
use crate::scenario::{Telling, pick, unix_s};
use crate::world::Stage;

/// Users of the simulated application.
pub const USERS: u8 = 4;

/// What was asked, kept until the answer.
enum Asked {
    Publish {
        payload: PayloadNo,
    },
    History {
        channel: ChannelNo,
        floor: Option<Place>,
        reverse: bool,
    },
    Presence {
        channel: ChannelNo,
    },
    PresenceStats {
        channel: ChannelNo,
    },
    Channels,
    Stats,
    /// A message to a user.
    Message,
    /// An order, or a removal of history: done or refused.
    Done,
}

/// Who is asked.
#[derive(Clone, Copy)]
enum To<'a> {
    Shard(usize),
    /// The owner of a channel.
    Owner(&'a str),
}

#[allow(clippy::large_enum_variant, reason = "one at a time is held")]
enum Answer {
    Published(Result<Position, ErrorCode>),
    History(Result<History, ErrorCode>),
    Presence(Result<Arc<Roster>, ErrorCode>),
    PresenceStats(Result<PresenceStats, ErrorCode>),
    Channels(Result<Vec<ChannelCount>, ErrorCode>),
    Stats(Result<ShardStats, ErrorCode>),
    Message(Result<Pushed, ErrorCode>),
    Done,
}

/// A message to a user's connections.
pub struct UserNews {
    user: String,
    kept: Option<Kept>,
}

impl UserNews {
    /// Whether a connection may have it.
    pub fn is_for(&self, who: &Who) -> bool {
        self.user == who.user && !self.kept.as_ref().is_some_and(|kept| kept.from(who))
    }
}

type Answers = Arc<Mutex<Vec<(u64, Answer)>>>;

/// What the shards told for a comparison at a quiet point.
#[derive(Default)]
pub struct Survey {
    /// Client id → user, by channel.
    pub presence: BTreeMap<ChannelNo, BTreeMap<String, String>>,
    pub presence_stats: BTreeMap<ChannelNo, PresenceStats>,
    /// Subscribers by channel name, over all shards.
    pub channels: BTreeMap<String, u32>,
    pub stats: Vec<ShardStats>,
}

pub struct Backend {
    pub router: Router,
    answers: Answers,
    asked: BTreeMap<u64, Asked>,
    asked_total: u64,
    /// Publishes with an idempotency key, to be repeated.
    keyed: Vec<(PayloadNo, String)>,
    /// Messages to users, by their number.
    pub news: Vec<UserNews>,
    /// Markers of the calm stretch: where each was put.
    pub markers: BTreeMap<ChannelNo, (PayloadNo, Option<Position>)>,
    pub survey: Survey,
}

impl Backend {
    pub fn new(router: Router) -> Backend {
        Backend {
            router,
            answers: Answers::default(),
            asked: BTreeMap::new(),
            asked_total: 0,
            keyed: Vec::new(),
            news: Vec::new(),
            markers: BTreeMap::new(),
            survey: Survey::default(),
        }
    }

    /// Asks whose answers have not come.
    pub fn outstanding(&self) -> usize {
        self.asked.len()
    }

    /// Does something at random. `clients` are ids that exist or did.
    pub fn act(&mut self, clients: &[(Option<u8>, String)], stage: &mut Stage) {
        let channel = stage.prng.usize(..stage.scenario.channels.len());
        match stage.prng.u8(..32) {
            0..20 => {
                // Bursts fill inboxes and streams.
                for _ in 0..if stage.prng.u8(..4) == 0 { stage.prng.usize(..60) } else { 1 } {
                    self.publish(channel, clients, stage);
                }
            }
            23 if stage.scenario.extras.keeps => self.tell_user(clients, stage),
            20 => {
                let name = stage.scenario.channels[channel].name.clone();
                self.ask(To::Owner(&name.clone()), Asked::Done, stage, |answers, id| {
                    ControlRequest::HistoryRemove(name, reply(answers, id, |_| Answer::Done))
                });
            }
            21..23 => self.history(channel, stage),
            23 => self.look_at(channel, stage),
            _ => self.order(channel, clients, stage),
        }
    }

    /// Whom a publication or a message is kept from, if there is anybody.
    fn kept(clients: &[(Option<u8>, String)], stage: &mut Stage) -> Option<Kept> {
        if !stage.scenario.extras.keeps || stage.prng.u8(..3) != 0 {
            return None;
        }
        let mut kept = Kept::default();
        match stage.prng.u8(..3) {
            0 if !clients.is_empty() => kept.client = Some(pick(&mut stage.prng, clients).1.clone()),
            1 => kept.origin = Some(origin(stage.prng.usize(..3))),
            _ => kept.user = Some(user_name(stage.prng.u8(..USERS))),
        }
        Some(kept)
    }

    /// Writes a payload of the channel's form, and says who gets it.
    fn write(
        channel: ChannelNo,
        fleeting: bool,
        clients: &[(Option<u8>, String)],
        stage: &mut Stage,
    ) -> (PayloadNo, Bytes) {
        let written = match stage.scenario.channels[channel].bytes && stage.prng.bool() {
            true => stage.log.write_bytes(channel, fleeting, &mut stage.prng),
            false => stage.log.write(channel, fleeting, &mut stage.prng),
        };
        let tags = if stage.scenario.extras.filters { draw_tags(&mut stage.prng) } else { Tags::new() };
        let kept = Backend::kept(clients, stage);
        stage.log.address(written.0, tags, kept);
        written
    }

    /// What is asked of the channel's owner for a payload.
    fn request(payload: PayloadNo, stage: &Stage) -> PublishRequest {
        let (channel, data) = stage.log.data(payload);
        let (tags, kept) = stage.log.addressed(payload);
        let mut ask = PublishRequest::new(stage.scenario.channels[channel].name.clone(), data);
        if !ask.data.starts_with(b"{") {
            ask.contents = Contents::Bytes;
        }
        ask.tags = tags.clone();
        ask.except = kept.map(|kept| Arc::new(kept.except()));
        ask
    }

    /// A message to all connections of a user.
    pub fn tell_user(&mut self, clients: &[(Option<u8>, String)], stage: &mut Stage) {
        let user = user_name(stage.prng.u8(..USERS));
        let kept = Backend::kept(clients, stage);
        let message = UserMessage {
            data: Bytes::from(format!(r#"{{"m":{}}}"#, self.news.len())),
            except: kept.as_ref().map(Kept::except),
            encoded: Encoded::default(),
        };
        let owner = self.router.user_owner(&user).index();
        let push = PushUsers { users: vec![user.as_str().into()], message: Arc::new(message), newest: false };
        self.news.push(UserNews { user, kept });
        self.ask(To::Shard(owner), Asked::Message, stage, |answers, id| {
            ControlRequest::Push(push, reply(answers, id, Answer::Message))
        });
    }

    fn publish(&mut self, channel: ChannelNo, clients: &[(Option<u8>, String)], stage: &mut Stage) {
        let fleeting = stage.prng.u8(..12) == 0;
        let (payload, key) = match (stage.prng.u8(..12), self.keyed.is_empty()) {
            (0, false) => {
                let (payload, key) = self.keyed[stage.prng.usize(..self.keyed.len())].clone();
                (payload, Some(key))
            }
            (1, _) if !fleeting => {
                let (payload, _) = Backend::write(channel, false, clients, stage);
                let key = format!("key{payload}");
                (payload, Some(key))
            }
            _ => (Backend::write(channel, fleeting, clients, stage).0, None),
        };
        let fleeting = fleeting && key.is_none();
        let mut ask = Backend::request(payload, stage);
        ask.skip_history = fleeting;
        ask.idempotency_key = key.clone().map(String::into_boxed_str);
        if stage.prng.u8(..8) == 0 && ask.tags.is_empty() {
            ask.tags = vec![("tag".into(), "value".into())];
        }
        // What is held back the longest comes within a calm stretch.
        ask.pace = match stage.prng.u8(..10) {
            0 => Pace { spread_ms: *pick(&mut stage.prng, &[1, 30, 400, 2_000]), bulk: false },
            1 => Pace { spread_ms: 0, bulk: true },
            _ => Pace::default(),
        };
        if self.publish_ask(payload, ask, stage)
            && let Some(key) = key
            && !self.keyed.iter().any(|(known, _)| *known == payload)
        {
            self.keyed.push((payload, key));
        }
    }

    fn publish_ask(&mut self, payload: PayloadNo, ask: PublishRequest, stage: &mut Stage) -> bool {
        let channel = ask.channel.clone();
        self.ask(To::Owner(&channel), Asked::Publish { payload }, stage, |answers, id| {
            ControlRequest::Publish(ask, reply(answers, id, Answer::Published))
        })
    }

    /// Publishes what every subscriber of the channel must get. False when the inbox is full: one of two messages may be,
    /// for a moment, though nobody is busy.
    pub fn publish_marker(&mut self, channel: ChannelNo, stage: &mut Stage) -> bool {
        let (payload, _) = Backend::write(channel, false, &[], stage);
        let ask = Backend::request(payload, stage);
        let taken = self.publish_ask(payload, ask, stage);
        if taken {
            self.markers.insert(channel, (payload, None));
        }
        taken
    }

    fn history(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let limit = stage.prng.bool().then(|| stage.prng.usize(..10));
        let reverse = stage.prng.bool();
        let name = stage.scenario.channels[channel].name.clone();
        let floor = stage.log.head(channel);
        let ask = HistoryRequest {
            channel: name.clone(),
            limit,
            since: None,
            since_ms: None,
            reverse,
            by: Creator::Backend,
        };
        self.ask(To::Owner(&name), Asked::History { channel, floor, reverse }, stage, |answers, id| {
            ControlRequest::History(ask, reply(answers, id, Answer::History))
        });
    }

    /// Asks who is in a channel.
    pub fn look_at(&mut self, channel: ChannelNo, stage: &mut Stage) {
        let name = stage.scenario.channels[channel].name.clone();
        let asked = name.clone();
        self.ask(To::Owner(&name), Asked::Presence { channel }, stage, |answers, id| {
            ControlRequest::Presence(asked, reply(answers, id, Answer::Presence))
        });
        let asked = name.clone();
        self.ask(To::Owner(&name), Asked::PresenceStats { channel }, stage, |answers, id| {
            ControlRequest::PresenceStats(asked, reply(answers, id, Answer::PresenceStats))
        });
    }

    fn order(&mut self, channel: ChannelNo, clients: &[(Option<u8>, String)], stage: &mut Stage) {
        let user = stage.prng.u8(..USERS);
        let mut target = Target { user: user_name(user).as_str().into(), client: None, except: Vec::new() };
        if !clients.is_empty() {
            let (of, id) = &clients[stage.prng.usize(..clients.len())];
            let id: Option<ClientId> = id.parse().ok();
            match stage.prng.u8(..4) {
                0 => target.except = id.into_iter().collect(),
                1 => {
                    target.user = of.map(user_name).unwrap_or_default().as_str().into();
                    target.client = id;
                }
                _ => {}
            }
        }
        // Several at once: what is under way when the next one comes is the hard part.
        for _ in 0..if stage.prng.u8(..3) == 0 { stage.prng.usize(2..5) } else { 1 } {
            self.order_once(channel, target.clone(), stage);
        }
    }

    fn order_once(&mut self, channel: ChannelNo, mut target: Target, stage: &mut Stage) {
        let owned = self.router.user_owner(&target.user).index();
        let expire_at = match stage.prng.bool() {
            true => unix_s(stage.net.now()) + stage.prng.u64(1..4),
            false => 0,
        };
        let recover = stage.log.head(channel).filter(|_| stage.prng.bool()).map(|(epoch, offset)| Since {
            offset: Offset(offset.saturating_sub(stage.prng.u64(..5))),
            epoch: SinceEpoch::Known(Epoch(epoch)),
        });
        let name = stage.scenario.channels[channel].name.clone();
        let imposed = stage.scenario.channels[channel].imposed.as_ref();
        let filters = imposed.map(|filter| Arc::new(filter.imposed()));
        let data = filters.is_some().then(|| Bytes::from_static(b"\"filtered\""));
        stage.bytes_ordered |= stage.scenario.channels[channel].bytes;
        let mut kind = stage.prng.u8(..10);
        let foreign = target.client.is_some() && stage.prng.u8(..3) == 0;
        if foreign {
            // The client of another user: nothing may come of it.
            (target.user, kind) = ("nobody".into(), 8);
        }
        let disconnect = match stage.prng.bool() {
            _ if foreign => Disconnect { code: 4400, reason: "not for you".into() },
            true => Disconnect::CONNECTION_CLOSED,
            false => Disconnect { code: 4000, reason: "by the application".into() },
        };
        let expired = stage.prng.u8(..4) == 0;
        self.ask(To::Shard(owned), Asked::Done, stage, |answers, id| {
            let done = reply(answers, id, |_| Answer::Done);
            match kind {
                0..5 => ControlRequest::Subscribe(
                    SubscribeUser {
                        target,
                        channel: name,
                        info: None,
                        data,
                        recover,
                        expire_at,
                        overrides: Default::default(),
                        filters,
                        deliver_every: Default::default(),
                    },
                    done,
                ),
                5..8 => ControlRequest::Unsubscribe(UnsubscribeUser { target, channel: name }, done),
                8 => ControlRequest::Disconnect(DisconnectUser { target, disconnect }, done),
                _ => ControlRequest::Refresh(
                    RefreshUser { target, expired, expire_at, info: Some(Bytes::from_static(b"{}")) },
                    done,
                ),
            }
        });
    }

    /// A comparison begins: what was told before does not count.
    pub fn begin_survey(&mut self) {
        self.survey = Survey::default();
    }

    /// Asks a shard for all that is compared at a quiet point.
    pub fn look_at_shard(&mut self, shard: usize, stage: &mut Stage) {
        self.ask(To::Shard(shard), Asked::Channels, stage, |answers, id| {
            ControlRequest::Channels(FilterBox(Arc::new(|_| true)), reply(answers, id, Answer::Channels))
        });
        self.ask(To::Shard(shard), Asked::Stats, stage, |answers, id| {
            ControlRequest::Stats(reply(answers, id, Answer::Stats))
        });
    }

    /// Asks the engine what is compared at a quiet point.
    pub fn look_at_engine(&mut self, channel: &str, stage: &mut Stage) {
        self.ask(To::Owner(channel), Asked::Channels, stage, |answers, id| {
            ControlRequest::Channels(FilterBox(Arc::new(|_| true)), reply(answers, id, Answer::Channels))
        });
    }

    /// False when the inbox is full. Its answer has come by then: a refusal.
    fn ask(
        &mut self,
        to: To<'_>,
        asked: Asked,
        stage: &mut Stage,
        make: impl FnOnce(&Answers, u64) -> ControlRequest,
    ) -> bool {
        self.asked_total += 1;
        let id = self.asked_total;
        let payload = if let Asked::Publish { payload } = asked { Some(payload) } else { None };
        self.asked.insert(id, asked);
        let ask = make(&self.answers, id);
        let taken = match to {
            To::Shard(shard) => self.router.ask(ShardId(shard as u16), ask),
            To::Owner(channel) => self.router.ask_owner(channel, ask),
        };
        match taken {
            Ok(()) => true,
            Err(Busy) => {
                stage.coverage.count("inbox_full");
                let dropped = self.answers.lock().expect("one thread").pop();
                assert!(
                    dropped.is_some_and(|(answered, _)| answered == id),
                    "an ask that was not taken is answered by its drop"
                );
                self.asked.remove(&id);
                // A repeat may be refused and its first one not.
                if let Some(payload) = payload
                    && !self.keyed.iter().any(|(known, _)| *known == payload)
                {
                    stage.log.refused(payload);
                }
                false
            }
        }
    }

    /// Takes in what shards have answered.
    pub fn hear(&mut self, stage: &mut Stage) {
        let answers = std::mem::take(&mut *self.answers.lock().expect("one thread"));
        for (id, answer) in answers {
            let asked = self.asked.remove(&id).unwrap_or_else(|| panic!("ask {id} was answered twice"));
            self.handle(asked, answer, stage);
        }
    }

    fn handle(&mut self, asked: Asked, answer: Answer, stage: &mut Stage) {
        match (asked, answer) {
            (Asked::Publish { payload }, Answer::Published(Ok(position))) => {
                stage.log.published(payload, position);
                let channel = stage.log.data(payload).0;
                if let Some((marker, place)) = self.markers.get_mut(&channel)
                    && *marker == payload
                {
                    *place = Some(position);
                }
            }
            (Asked::Publish { payload }, Answer::Published(Err(error_code))) => {
                let internal = error_code == ErrorCode::Internal && stage.ending;
                assert!(
                    internal || matches!(error_code, ErrorCode::LimitExceeded | ErrorCode::TooManyRequests),
                    "{error_code}"
                );
                if !self.keyed.iter().any(|(known, _)| *known == payload) {
                    stage.log.refused(payload);
                }
            }
            (Asked::History { channel, floor, reverse }, Answer::History(Ok(history))) => {
                let top = (history.position.epoch.0, history.position.offset.0);
                let data: Vec<(u64, String)> =
                    history.publications.iter().map(|entry| (entry.offset().0, shown(&entry.data))).collect();
                let list = data.iter().map(|(offset, data)| (*offset, data.as_str())).collect();
                check_page(channel, top, list, floor, reverse, &mut stage.log, &Audience::default());
            }
            (Asked::Presence { channel }, Answer::Presence(Ok(roster))) => {
                let infos = &roster.infos;
                let clients: BTreeMap<String, String> =
                    infos.iter().map(|info| (info.client.clone(), info.user.to_string())).collect();
                assert_eq!(clients.len(), infos.len(), "a client is present twice");
                self.survey.presence.insert(channel, clients);
            }
            (Asked::PresenceStats { channel }, Answer::PresenceStats(Ok(stats))) => {
                self.survey.presence_stats.insert(channel, stats);
            }
            (Asked::Channels, Answer::Channels(Ok(counts))) => {
                for count in counts {
                    let known = self.survey.channels.insert(count.channel.to_string(), count.clients);
                    assert!(known.is_none(), "{} has two homes", count.channel);
                }
            }
            (Asked::Stats, Answer::Stats(Ok(stats))) => self.survey.stats.push(stats),
            (Asked::Done, Answer::Done) => {}
            (Asked::Message, Answer::Message(pushed)) => {
                assert!(pushed.is_ok() || matches!(pushed, Err(ErrorCode::TooManyRequests)) || stage.ending);
            }
            // Namespaces without history or presence, no room in the hub, or the end of the shard.
            (_, Answer::History(Err(error_code))) => {
                assert!(
                    matches!(error_code, ErrorCode::NotAvailable | ErrorCode::LimitExceeded) || stage.ending
                );
            }
            (_, Answer::Presence(Err(error_code)) | Answer::PresenceStats(Err(error_code))) => {
                assert!(error_code == ErrorCode::NotAvailable || stage.ending);
            }
            (_, Answer::Channels(Err(_)) | Answer::Stats(Err(_))) => assert!(stage.ending),
            _ => panic!("an answer of another kind"),
        }
    }
}

fn reply<T: 'static>(
    answers: &Answers,
    id: u64,
    answer: fn(Result<T, ErrorCode>) -> Answer,
) -> ControlReply<T> {
    let answers = Arc::clone(answers);
    ControlReply::new(move |result| answers.lock().expect("one thread").push((id, answer(result))))
}

// ---- plain HTTP, and events

/// One shard's control plane: takes requests, answers when the script says; takes events.
pub struct Plane(Mutex<PlaneState>, pub HookCalls, Mutex<Books>);

#[derive(Default)]
struct PlaneState {
    waiting: Vec<(String, HttpReply)>,
    taken: u64,
}

impl ControlPlane for Plane {
    fn handle(&self, request: Request<Bytes>, reply: HttpReply) -> Result<(), Busy> {
        let mut state = self.0.lock().expect("one thread");
        state.taken += 1;
        if state.taken.is_multiple_of(8) {
            return Err(Busy);
        }
        let body = String::from_utf8_lossy(request.body()).into_owned();
        state.waiting.push((format!("{} {body}", request.uri().path()), reply));
        Ok(())
    }

    fn tell_backend(&self, event: Event) -> Result<(), Busy> {
        self.books().take(event)
    }

    fn ask_backend(&self, hook_call: HookCall, reply: BackendReply) -> Result<Waiting, Busy> {
        self.1.take(hook_call, reply)
    }
}

impl Plane {
    pub fn new(telling: Telling) -> Plane {
        Plane(Mutex::default(), HookCalls::default(), Mutex::new(Books::new(telling)))
    }

    /// What this shard has told so far.
    pub fn books(&self) -> MutexGuard<'_, Books> {
        self.2.lock().expect("one thread")
    }

    /// Answers one of the waiting requests, if the inbox has room for it.
    pub fn answer_one(&self, has_room: bool, stage: &mut Stage) {
        let mut state = self.0.lock().expect("one thread");
        if state.waiting.is_empty() || !has_room {
            return;
        }
        let next = stage.prng.usize(..state.waiting.len());
        let (echo, mut reply) = state.waiting.swap_remove(next);
        if stage.prng.u8(..8) == 0 {
            // Dropped, it answers 500.
            return;
        }
        let mut answer = Some(Response::new(Bytes::from(echo)));
        reply.send(&mut answer);
        assert!(answer.is_none(), "the inbox has room");
    }

    pub fn is_idle(&self) -> bool {
        self.0.lock().expect("one thread").waiting.is_empty() && self.1.awaited() == 0
    }
}
