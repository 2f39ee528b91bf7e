//! The methods of the server API: what each asks of which shard, and how the answers become one.

mod commands;
mod inbox;
mod push;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::base::blocks::Blocks;
use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::except::Except;
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::filter::Filter;
use crate::base::ids::{ChannelName, Position, ShardId};
use crate::base::inboxes::Inboxes;
use crate::base::limits::WS_CLOSE_REASON_BYTES_MAX;
use crate::base::publication::{Contents, removes};
use crate::control::answers::{ApiAnswer, ChannelInfo, ErrorBody, NodeAnswer, ProcessBody, Response};
pub use crate::control::api::commands::{ApiCommandBody, ApiMethod, ApiRequest};
use crate::control::glob::Glob;
use crate::control::options::OtherNodes;
use crate::control::other_nodes::{AsWord as _, may_be_told, tell};
use crate::control::process::{self, Process};
use crate::control::pushes::PushKeys;
use crate::control::rates::ShardRates;
use crate::control::requests::{ControlError, PendingReply, Shards};
use crate::control::traces::stamped;
use crate::control::wire::{
    ChannelBody, ChannelsBody, ExceptBody, HistoryBody, PublishBody, RpcBody, UserBody, any_payload, payload,
    says_something,
};
use crate::engine::push_word;
use crate::hub::creators::Creator;
use crate::hub::requests::{HistoryRequest, PublishRequest};
use crate::session::rights::filters;
use crate::shard::control_request::{
    ControlRequest, DisconnectUser, FilterBox, RefreshUser, ShardStats, SubscribeUser, Target,
    UnsubscribeUser, UserMessage,
};

/// Between two tries at a shard whose inbox was full, when another one has taken its part already.
const PUSH_RETRY: Duration = Duration::from_millis(2);
/// Most commands of a batch: what a caller can make one request cost.
pub const BATCH_COMMANDS_MAX: usize = 10_000;

/// Commands of a parallel batch that run at a time: what one caller can put into inboxes at once.
const BATCH_PARALLEL: usize = 256;

/// How long a batch may take, in deadlines of one ask. Commands that were not started by then are answered 100: with a
/// silent shard each would wait for its own deadline, one after the other.
const BATCH_DEADLINES: u32 = 6;

/// Carries commands out.
#[derive(Clone)]
pub struct Api {
    shards: Shards,
    node: Arc<NodeIdentity>,
    push_keys: Arc<PushKeys>,
    others: Option<OtherNodes>,
    blocks: Arc<Blocks>,
    inboxes: Option<Inboxes>,
}

/// Who answers `info`.
#[derive(Debug)]
pub struct NodeIdentity {
    pub name: String,
    pub process: Process,
    pub rates: ShardRates,
}

impl Api {
    pub fn new(shards: Shards, node: NodeIdentity, others: Option<OtherNodes>, blocks: Arc<Blocks>) -> Api {
        Api { shards, node: Arc::new(node), push_keys: Arc::default(), others, blocks, inboxes: None }
    }

    /// Users have inboxes.
    pub fn with_inboxes(self, inboxes: Option<Inboxes>) -> Api {
        Api { inboxes, ..self }
    }

    /// Whom and which tokens the node does not let in.
    pub fn blocks(&self) -> &Arc<Blocks> {
        &self.blocks
    }

    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    pub fn push_keys(&self) -> &PushKeys {
        &self.push_keys
    }

    /// The nodes that share channels with this one.
    pub fn others(&self) -> Option<&OtherNodes> {
        self.others.as_ref()
    }

    /// The node's id, as `info` gives it.
    pub fn uid(&self) -> &str {
        &self.node.process.uid
    }

    pub fn name(&self) -> &str {
        &self.node.name
    }

    /// How long this process runs.
    pub fn uptime(&self) -> Duration {
        self.node.process.started.elapsed()
    }

    /// # Errors
    /// [`ControlError::Busy`] when a shard's inbox is full and nothing was done; a refusal for everything else.
    pub async fn execute(&self, command: ApiCommandBody) -> Result<ApiAnswer, ControlError> {
        match command {
            ApiCommandBody::Publish(body) => self.publish(body).await,
            ApiCommandBody::Broadcast(body) => self.broadcast(body).await,
            ApiCommandBody::Inbox(body) => self.inbox(body).await,
            ApiCommandBody::Subscribe(body) => self.subscribe(body).await,
            ApiCommandBody::Unsubscribe(body) => self.unsubscribe(body).await,
            ApiCommandBody::Disconnect(body) => self.disconnect(body).await,
            ApiCommandBody::Refresh(body) => self.refresh(body).await,
            ApiCommandBody::Presence(body) => self.presence(body).await,
            ApiCommandBody::PresenceStats(body) => self.presence_stats(body).await,
            ApiCommandBody::Online(body) => self.online(body).await,
            ApiCommandBody::Block(body) => self.block(body).await,
            ApiCommandBody::Unblock(body) => self.unblock(body).await,
            ApiCommandBody::Revoke(body) => self.revoke(body).await,
            ApiCommandBody::Blocked(body) => self.blocked(&body),
            ApiCommandBody::Cursors(body) => self.cursors(body).await,
            ApiCommandBody::Unread(body) => self.unread(body).await,
            ApiCommandBody::ReadBy(body) => self.read_by(body).await,
            ApiCommandBody::Members(body) => self.members(body).await,
            ApiCommandBody::History(body) => self.history(body).await,
            ApiCommandBody::HistoryRemove(body) => self.history_remove(body).await,
            ApiCommandBody::Channels(body) => self.channels(body).await,
            ApiCommandBody::Info => self.info().await,
            ApiCommandBody::Push(body) => self.push(body).await,
            // No extension is there to serve one; a call without a method's name is wrong in itself.
            ApiCommandBody::Rpc(RpcBody { method, .. }) => Err(match method.as_str() {
                "" => ErrorCode::BadRequest.into(),
                _ => ErrorCode::MethodNotFound.into(),
            }),
            ApiCommandBody::Unknown => Err(ErrorCode::MethodNotFound.into()),
        }
    }

    /// Every command's name and outcome, in the order of the commands.
    ///
    /// # Errors
    /// [`ErrorCode::BadRequest`] for more than [`BATCH_COMMANDS_MAX`] commands.
    pub async fn batch(
        &self,
        commands: Vec<ApiCommandBody>,
        parallel: bool,
    ) -> Result<Vec<(&'static str, Result<ApiAnswer, ControlError>)>, ControlError> {
        if commands.len() > BATCH_COMMANDS_MAX {
            return Err(ErrorCode::BadRequest.into());
        }
        let mut outcomes: Vec<(&'static str, Result<ApiAnswer, ControlError>)> =
            commands.iter().map(|command| (command.name(), Err(ErrorCode::Internal.into()))).collect();
        let end = Instant::now() + self.shards.timeout() * BATCH_DEADLINES;
        if !parallel {
            for (at, command) in commands.into_iter().enumerate() {
                if Instant::now() >= end {
                    break;
                }
                outcomes[at].1 = self.execute(command).await;
            }
            return Ok(outcomes);
        }
        let mut waiting = commands.into_iter().enumerate();
        let mut running = JoinSet::new();
        loop {
            while running.len() < BATCH_PARALLEL
                && Instant::now() < end
                && let Some((at, command)) = waiting.next()
            {
                let api = self.clone();
                running.spawn(async move { (at, api.execute(command).await) });
            }
            match running.join_next().await {
                Some(Ok((at, outcome))) => outcomes[at].1 = outcome,
                // A panic of ours in one command: its place keeps "internal", the others go on.
                Some(Err(error)) => tracing::error!(%error, "a command of a batch ended without an outcome"),
                None => return Ok(outcomes),
            }
        }
    }

    /// Statistics of every shard, in their order.
    pub async fn stats(&self) -> Result<Vec<ShardStats>, ControlError> {
        self.shards.ask_every(ControlRequest::Stats).await
    }

    async fn publish(&self, body: PublishBody) -> Result<ApiAnswer, ControlError> {
        Ok(self.send_publish(publication(body)?)?.wait().await?.into())
    }

    /// Every channel is asked at once, then the answers are gathered. Busy only when no channel's shard took it:
    /// else the caller would publish again where it was taken.
    async fn broadcast(&self, mut body: PublishBody) -> Result<ApiAnswer, ControlError> {
        if body.everyone {
            return self.everyone(body).await;
        }
        let channels = std::mem::take(&mut body.channels);
        if channels.is_empty() {
            return Err(ErrorCode::BadRequest.into());
        }
        let model = publish_ask("".into(), body)?;
        let mut all_busy = true;
        let mut sent: Vec<Result<PendingReply<Position>, ControlError>> = Vec::with_capacity(channels.len());
        for channel in &channels {
            let pending = channel_name(channel).map_err(ControlError::from).and_then(|channel| {
                let ask = PublishRequest { channel, ..model.clone() };
                self.send_publish(ask)
            });
            all_busy &= matches!(pending, Err(ControlError::Busy));
            sent.push(pending);
        }
        if all_busy {
            return Err(ControlError::Busy);
        }
        let mut responses = Vec::with_capacity(sent.len());
        for pending in sent {
            let outcome = match pending {
                Ok(pending) => pending.wait().await.map_err(ControlError::from),
                Err(error) => Err(error),
            };
            responses.push(respond(outcome.map(ApiAnswer::from)));
        }
        Ok(ApiAnswer::Broadcast { responses })
    }

    /// A message to every connection that takes messages. Busy only when no shard took it.
    async fn everyone(&self, body: PublishBody) -> Result<ApiAnswer, ControlError> {
        if !body.channels.is_empty() || !body.channel.is_empty() {
            return Err(ControlError::Invalid("a broadcast to everyone names no channels"));
        }
        let except = excepted(body.except.as_ref())?;
        let data = payload(body.data, &body.b64data)?.ok_or(ControlError::Invalid("data is missing"))?;
        tell(&self.others, || push_word(&[], &data, except.as_ref(), false));
        let message = Arc::new(UserMessage { data, except, encoded: Default::default() });
        let end = Instant::now() + self.shards.timeout();
        let mut sent = Vec::with_capacity(self.shards.router().shards());
        for shard in 0..self.shards.router().shards() {
            let shard = ShardId(shard as u16);
            sent.push(loop {
                let message = Arc::clone(&message);
                match self.shards.send(shard, |reply| ControlRequest::Everyone(message, reply)) {
                    Ok(pending) => break pending,
                    Err(_) if sent.is_empty() => return Err(ControlError::Busy),
                    // Others have it: to call the whole busy would have it sent to them again.
                    Err(_) if Instant::now() < end => tokio::time::sleep(PUSH_RETRY).await,
                    Err(_) => return Err(ErrorCode::Internal.into()),
                }
            });
        }
        let mut connections = 0;
        for pending in sent {
            connections += pending.wait().await?;
        }
        Ok(ApiAnswer::Everyone { connections })
    }

    fn send_publish(&self, ask: PublishRequest) -> Result<PendingReply<Position>, ControlError> {
        let channel = ask.channel.clone();
        Ok(self.shards.send_to_owner(&channel, |reply| ControlRequest::Publish(ask, reply))?)
    }

    async fn subscribe(&self, body: UserBody) -> Result<ApiAnswer, ControlError> {
        let overrides = body.overrides().map_err(ControlError::Invalid)?;
        let channel = channel_name(&body.channel)?;
        let filter = body.server_tags_filter.as_deref().filter(|tree| says_something(tree));
        let filter = filter.map(|tree| Filter::parse(tree.get())).transpose();
        let filter = filter.map_err(|fault| ControlError::Invalid(fault.0))?;
        let deliver_every = body.deliver_every.unwrap_or_default();
        may_be_told(&self.others, filter.is_some() || deliver_every != DeliverEvery::default())?;
        let Some(target) = target(&body)? else { return Ok(ApiAnswer::Empty {}) };
        let ask = SubscribeUser {
            target,
            channel,
            info: payload(body.info, &body.b64info)?,
            data: payload(body.data, &body.b64data)?,
            recover: body.recover_since.map(|position| position.since()),
            expire_at: body.expire_at,
            overrides,
            filters: filters(None, filter),
            deliver_every,
        };
        tell(&self.others, || ask.as_word());
        let owner = self.shards.router().user_owner(&ask.target.user);
        self.shards.ask(owner, |reply| ControlRequest::Subscribe(ask, reply)).await?;
        Ok(ApiAnswer::Empty {})
    }

    async fn unsubscribe(&self, body: UserBody) -> Result<ApiAnswer, ControlError> {
        let channel = channel_name(&body.channel)?;
        let Some(target) = target(&body)? else { return Ok(ApiAnswer::Empty {}) };
        let ask = UnsubscribeUser { target, channel };
        tell(&self.others, || ask.as_word());
        let owner = self.shards.router().user_owner(&ask.target.user);
        self.shards.ask(owner, |reply| ControlRequest::Unsubscribe(ask, reply)).await?;
        Ok(ApiAnswer::Empty {})
    }

    async fn disconnect(&self, body: UserBody) -> Result<ApiAnswer, ControlError> {
        let disconnect = match &body.disconnect {
            None => Disconnect::FORCE_NO_RECONNECT,
            // A server library's empty object.
            Some(given) if given.code == 0 && given.reason.is_empty() => Disconnect::FORCE_NO_RECONNECT,
            Some(given) => match u16::try_from(given.code) {
                // What an application may put into a Close frame (RFC 6455 section 7.4.2).
                Ok(code @ 3000..=4999) if given.reason.len() <= WS_CLOSE_REASON_BYTES_MAX => {
                    Disconnect { code, reason: given.reason.clone().into() }
                }
                _ => return Err(ErrorCode::BadRequest.into()),
            },
        };
        let Some(target) = target(&body)? else { return Ok(ApiAnswer::Empty {}) };
        let ask = DisconnectUser { target, disconnect };
        tell(&self.others, || ask.as_word());
        let owner = self.shards.router().user_owner(&ask.target.user);
        self.shards.ask(owner, |reply| ControlRequest::Disconnect(ask, reply)).await?;
        Ok(ApiAnswer::Empty {})
    }

    async fn refresh(&self, body: UserBody) -> Result<ApiAnswer, ControlError> {
        let Some(target) = target(&body)? else { return Ok(ApiAnswer::Empty {}) };
        let ask = RefreshUser {
            target,
            expired: body.expired,
            expire_at: body.expire_at,
            info: payload(body.info, &body.b64info)?,
        };
        tell(&self.others, || ask.as_word());
        let owner = self.shards.router().user_owner(&ask.target.user);
        self.shards.ask(owner, |reply| ControlRequest::Refresh(ask, reply)).await?;
        Ok(ApiAnswer::Empty {})
    }

    async fn presence_stats(&self, body: ChannelBody) -> Result<ApiAnswer, ControlError> {
        let channel = channel_name(&body.channel)?;
        let stats = self
            .shards
            .ask_owner(&channel, |reply| ControlRequest::PresenceStats(channel.clone(), reply))
            .await?;
        Ok(ApiAnswer::PresenceStats { num_clients: stats.clients, num_users: stats.users })
    }

    async fn history(&self, body: HistoryBody) -> Result<ApiAnswer, ControlError> {
        let ask = HistoryRequest {
            channel: channel_name(&body.channel)?,
            // A negative limit asks for all there is, zero and none for the position.
            limit: usize::try_from(body.limit).ok(),
            since: body.since.map(|position| position.since()),
            since_ms: body.since_ms,
            reverse: body.reverse,
            by: Creator::Backend,
        };
        let channel = ask.channel.clone();
        let history = self.shards.ask_owner(&channel, |reply| ControlRequest::History(ask, reply)).await?;
        Ok(ApiAnswer::from(&history))
    }

    async fn history_remove(&self, body: ChannelBody) -> Result<ApiAnswer, ControlError> {
        let channel = channel_name(&body.channel)?;
        self.shards
            .ask_owner(&channel, |reply| ControlRequest::HistoryRemove(channel.clone(), reply))
            .await?;
        Ok(ApiAnswer::Empty {})
    }

    /// No pattern: every channel.
    async fn channels(&self, body: ChannelsBody) -> Result<ApiAnswer, ControlError> {
        let pattern = if body.pattern.is_empty() { "*" } else { &body.pattern };
        let glob = Glob::new(pattern).map_err(|_| ErrorCode::BadRequest)?;
        let filter = FilterBox(Arc::new(move |name: &str| glob.matches(name)));
        if body.limit > 0 && self.others.is_none() {
            return self.channels_page(filter, &body.cursor, body.limit as usize).await;
        }
        let ask = |reply| ControlRequest::Channels(filter.clone(), reply);
        let counts = match &self.others {
            Some(_) => vec![self.shards.ask_owner("", ask).await?],
            None => self.shards.ask_every(ask).await?,
        };
        let mut channels: BTreeMap<String, ChannelInfo> = BTreeMap::new();
        for count in counts.into_iter().flatten() {
            let entry = channels.entry(count.channel.to_string()).or_insert(ChannelInfo { num_clients: 0 });
            entry.num_clients = entry.num_clients.saturating_add(count.clients);
        }
        Ok(ApiAnswer::Channels { channels })
    }

    async fn info(&self) -> Result<ApiAnswer, ControlError> {
        let stats = self.stats().await?;
        let sum = |of: fn(&ShardStats) -> u64| stats.iter().map(of).sum();
        let node = NodeAnswer {
            uid: self.node.process.uid.clone(),
            name: self.node.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            num_clients: sum(|shard| shard.clients),
            num_users: sum(|shard| shard.users),
            num_channels: sum(|shard| shard.channels),
            num_subs: sum(|shard| shard.subscriptions),
            uptime: self.node.process.started.elapsed().as_secs(),
            metrics: self.node.rates.read(&stats),
            process: ProcessBody { cpu: self.node.process.cpu_percent(), rss: process::rss_bytes() },
        };
        let others = self.others.iter().flat_map(|OtherNodes(engine)| engine.others()).map(NodeAnswer::from);
        Ok(ApiAnswer::Nodes { nodes: std::iter::once(node).chain(others).collect() })
    }
}

/// An outcome where it stands among others: a busy shard there is an error that may be tried again.
pub fn respond(outcome: Result<ApiAnswer, ControlError>) -> Response {
    match outcome {
        Ok(answer) => Response::Result(answer),
        Err(ControlError::Refused(error_code)) => Response::Error(error_code.into()),
        Err(ControlError::Invalid(message)) => Response::Error(ErrorBody::invalid(message)),
        Err(ControlError::Busy) => Response::Error(ErrorCode::TooManyRequests.into()),
    }
}

/// An empty name is refused here; what else makes a name wrong is known where its namespace is.
pub(super) fn channel_name(name: &str) -> Result<ChannelName, ErrorCode> {
    if name.is_empty() { Err(ErrorCode::BadRequest) } else { Ok(name.into()) }
}

fn excepted(body: Option<&ExceptBody>) -> Result<Option<Except>, ControlError> {
    body.map_or(Ok(None), ExceptBody::except).map_err(ControlError::Invalid)
}

/// A publication to the one channel that its body names.
pub(super) fn publication(mut body: PublishBody) -> Result<PublishRequest, ControlError> {
    let channel = channel_name(&body.channel)?;
    body.channels.clear();
    publish_ask(channel, body)
}

/// Takes the content of a publication out of its body.
fn publish_ask(channel: ChannelName, mut body: PublishBody) -> Result<PublishRequest, ControlError> {
    let pace = body.pace().map_err(ControlError::Invalid)?;
    // `delta` permits patches and does not demand them: every subscriber gets the whole payload.
    // Whether bytes may be published is known where the channel's namespace is.
    let (tags, keyed) = (body.all_tags().map_err(ControlError::Invalid)?, body.is_keyed());
    let payload = any_payload(body.data, &body.b64data)?;
    // A removal says all that there is to say.
    let nothing = || removes(&tags).then(|| (Bytes::from_static(b"null"), Contents::Line));
    let (data, contents) = payload.or_else(nothing).ok_or(ErrorCode::BadRequest)?;
    let filled = |text: String| if text.is_empty() { None } else { Some(text.into_boxed_str()) };
    Ok(PublishRequest {
        contents,
        tags,
        keyed,
        except: excepted(body.except.as_ref())?.map(Arc::new),
        skip_history: body.skip_history,
        idempotency_key: filled(body.idempotency_key),
        version: body.version,
        version_epoch: filled(body.version_epoch),
        pace,
        ..stamped(PublishRequest::new(channel, data))
    })
}

/// Which connections are meant; `None` when no connection can be.
fn target(body: &UserBody) -> Result<Option<Target>, ErrorCode> {
    // Sessions are not told to clients, so no connection has the one that is named.
    if !body.session.is_empty() {
        return Ok(None);
    }
    let client = match body.client.as_str() {
        "" => None,
        client => match client.parse() {
            Ok(client) => Some(client),
            // No connection ever had such an id.
            Err(()) => return Ok(None),
        },
    };
    let except = body.whitelist.iter().filter_map(|client| client.parse().ok()).collect();
    Ok(Some(Target { user: body.user.as_str().into(), client, except }))
}
