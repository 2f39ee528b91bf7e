//! What the control plane asks: of channels whose owner is here, of users whose owner is here, of this shard.

use std::sync::Arc;

use crate::base::blocks::BlockOf;
use crate::base::fault::{Disconnect, ErrorCode, Unsubscribed};
use crate::base::ids::{ChannelName, ConnId};
use crate::base::publication::Since;
use crate::session::token::Overrides;
use crate::session::{Renewal, SessionEnvironment as _, Sub, SubscribeEffect, rights};
use crate::shard::connections::Connection;
use crate::shard::control_request::seen::EndedBy;
use crate::shard::control_request::{ChannelCount, ControlReply, ControlRequest, Target};
use crate::shard::core::Core;
use crate::shard::gather::Gather;
use crate::shard::mailbox::{ApiCommand, ConnectionCommand, ShardMessage};
use crate::shard::view::View;

impl Core {
    pub fn handle_control_request(&mut self, ask: ControlRequest) {
        let Some(ask) = self.handle_request_to_owner(ask) else { return };
        match ask {
            ControlRequest::Channels(filter, reply) => {
                let channels = self.owned.channels.owned.channels(&*filter.0);
                let counts = channels.into_iter().map(|(channel, clients)| ChannelCount { channel, clients });
                reply.send(Ok(counts.collect()));
            }
            ControlRequest::ChannelsPage(filter, after, max, reply) => {
                reply.send(Ok(self.channels_seen(&*filter.0, &after, max)));
            }
            ControlRequest::Connections(query, reply) => reply.send(Ok(self.connections_seen(&query))),
            ControlRequest::Closed(query, reply) => reply.send(Ok(self.ends_seen(&query))),
            ControlRequest::Busiest(reply) => reply.send(Ok(self.busiest_seen())),
            ControlRequest::Observe(observer, reply) => {
                self.add_observer(observer);
                reply.send(Ok(()));
            }
            ControlRequest::Subscribe(ask, reply) => {
                let flags = match self.server_side_flags(&ask.channel, &ask.overrides) {
                    Ok(flags) => flags,
                    Err(error_code) => return reply.send(Err(error_code)),
                };
                let options = self.env.options.namespaces.resolve(&ask.channel);
                let whole = options.is_ok_and(|options| options.is_value()).then_some(Since::WHOLE);
                let subscribe = SubscribeEffect {
                    id: 0,
                    channel: ask.channel,
                    flags,
                    since: ask.recover.or(whole),
                    reject_unrecovered: false,
                    chan_info: ask.info,
                    expire_at_s: ask.expire_at,
                    renewal: Renewal::Token,
                    data: ask.data,
                    filters: ask.filters,
                    deliver_every: ask.deliver_every,
                };
                self.command(&ask.target, reply, |_| ApiCommand::Subscribe(subscribe.clone()));
            }
            ControlRequest::Unsubscribe(ask, reply) => self.command(&ask.target, reply, |_| {
                ApiCommand::Unsubscribe { channel: ask.channel.clone(), why: Unsubscribed::Server }
            }),
            ControlRequest::Disconnect(ask, reply) => {
                self.command(&ask.target, reply, |_| ApiCommand::Disconnect(ask.disconnect.clone()));
            }
            ControlRequest::Refresh(ask, reply) => self.command(&ask.target, reply, |_| match ask.expired {
                true => ApiCommand::Disconnect(crate::base::fault::Disconnect::EXPIRED),
                false => ApiCommand::Refresh { expire_at_s: ask.expire_at, info: ask.info.clone() },
            }),
            ControlRequest::Enforce(reply) => {
                self.enforce_blocks();
                reply.send(Ok(()));
            }
            ControlRequest::Tunnel(conn, command, reply) => self.handle_tunnel_command(conn, command, reply),
            ControlRequest::Online(users, reply) => {
                let count = |user| u32::try_from(self.owned.users.count(user)).unwrap_or(u32::MAX);
                reply.send(Ok(users.iter().map(|user| count(user)).collect()));
            }
            ControlRequest::Push(ask, reply) => self.push_to_users(ask, reply),
            ControlRequest::Everyone(message, reply) => self.push_to_everyone(message, reply),
            ControlRequest::Stats(reply) => reply.send(Ok(self.report())),
            ControlRequest::Options(options, reply) => self.exchange_options(options, reply),
            ControlRequest::Alive(reply) => reply.send(Ok(())),
            ControlRequest::Drain(departure, reply) => self.drain(&departure, reply),
            ControlRequest::DrainStop(reply) => self.drain_stop(reply),
            ControlRequest::Reconnect(movers, departure, reply) => self.reconnect(&movers, &departure, reply),
            ControlRequest::Shutdown(disconnect) => self.end(disconnect),
            ControlRequest::Handover(order) => self.handover.orders.push_back(order),
            ControlRequest::Publish(..)
            | ControlRequest::History(..)
            | ControlRequest::HistoryRemove(..)
            | ControlRequest::Presence(..)
            | ControlRequest::PresencePage(..)
            | ControlRequest::PresenceStats(..)
            | ControlRequest::Cursors(_) => unreachable!("the owner has taken it"),
        }
    }

    /// All that the channel's options allow, as for what a token grants.
    fn server_side_flags(&self, channel: &ChannelName, overrides: &Overrides) -> Result<u32, ErrorCode> {
        let view = View { options: &self.env.options, followed: &self.delivery.followed };
        let rights = rights::overridden(view.rights(channel)?, overrides);
        Ok(Sub::SERVER_SIDE | rights::sub_flags(&rights, true, true, true))
    }

    /// Passes a command on to every connection that the target names. The reply goes out when all have carried it out.
    fn command(&mut self, target: &Target, reply: ControlReply<()>, command: impl Fn(ConnId) -> ApiCommand) {
        let done = Gather::new(reply);
        let named: Vec<ConnId> = match target.client {
            // A client's id says where it is, whoever its user is; an id of another run is nobody's.
            Some(client) => self.peers.client_ids.conn(client).into_iter().collect(),
            None => self.owned.users.connections(&target.user).collect(),
        };
        for conn in named {
            if target.except.contains(&self.peers.client_ids.id(conn)) {
                continue;
            }
            let message = ConnectionCommand {
                conn,
                user: target.user.clone(),
                command: command(conn),
                done: Arc::clone(&done),
            };
            self.messages.mailer.post_to_peer(conn, ShardMessage::Connection(Box::new(message)));
        }
    }

    /// By users and by tokens. Those of tokens that were issued too early come back to show them again by another command.
    fn enforce_blocks(&mut self) {
        let (blocks, now_s) = (Arc::clone(&self.env.options.blocks), self.unix_s());
        let refused = self.links.connections.iter().filter_map(|(slot, connection)| {
            let peer = &connection.peer;
            let user = peer.user().filter(|user| !user.is_empty());
            if user.is_some_and(|user| blocks.stands(&BlockOf::User((&**user).into()), now_s)) {
                return Some((slot, Disconnect::PERMISSION_DENIED));
            }
            let by_token = peer.token_id().is_some_and(|id| blocks.stands(&BlockOf::Token(id.into()), now_s));
            by_token.then_some((slot, Disconnect::INVALID_TOKEN))
        });
        for (slot, disconnect) in refused.collect::<Vec<_>>() {
            self.links.ends.blame(slot, EndedBy::Api);
            self.close(slot, disconnect);
        }
    }

    /// A command of the API, for one connection of this shard.
    pub fn handle_command(&mut self, message: ConnectionCommand) {
        let ConnectionCommand { conn, user, command, done } = message;
        let Some(slot) = self.live(conn) else { return };
        let Some(Connection { peer, .. }) = self.links.connections.get(slot) else { return };
        if peer.user().map_or("", |own| own) != &*user {
            return;
        }
        match command {
            ApiCommand::Disconnect(disconnect) if peer.may_be_ended() => {
                // A user's bound of connections is held by commands as well.
                if disconnect != Disconnect::CONNECTION_LIMIT && disconnect != Disconnect::REPLACED {
                    self.links.ends.blame(slot, EndedBy::Api);
                }
                self.close(slot, disconnect);
            }
            _ if !peer.takes_commands() => {}
            ApiCommand::Disconnect(_) => {}
            ApiCommand::Subscribe(subscribe) => self.subscribe_by_api(slot, subscribe, done),
            ApiCommand::Unsubscribe { channel, why } => self.unsubscribe_by_api(slot, &channel, why),
            ApiCommand::Refresh { expire_at_s, info } => {
                if let Some(uni) = self.links.connections.uni_mut(slot)
                    && let Some(identity) = &mut uni.identity
                {
                    identity.expire_at_s = expire_at_s;
                }
                self.with_session(slot, |session, cx| session.handle_refreshed(expire_at_s, info, cx));
                self.set_peer_timer(slot);
            }
        }
    }

    fn subscribe_by_api(&mut self, slot: u32, subscribe: SubscribeEffect, done: Arc<Gather>) {
        let known = self.delivery.followed.find(&subscribe.channel);
        // Which channels a unidirectional client has is said by its request.
        let Some(session) = self.links.connections.session(slot) else { return };
        if known.is_some_and(|index| session.sub(index).is_some()) {
            return;
        }
        let payload = self.env.options.namespaces.resolve(&subscribe.channel).map(|options| options.payload);
        if let Err(disconnect) = payload.map_or(Ok(()), |form| rights::reads(session.wire().format, form)) {
            return self.close(slot, disconnect);
        }
        if session.subs().len() >= self.env.options.channels_max {
            return done.refuse(ErrorCode::LimitExceeded);
        }
        self.ask_to_join(slot, subscribe, Some(done));
    }

    fn unsubscribe_by_api(&mut self, slot: u32, channel: &ChannelName, why: Unsubscribed) {
        if let Some(session) = self.links.connections.session(slot) {
            session.revoke(channel);
        }
        if let Some(index) = self.delivery.followed.find(channel) {
            self.unsubscribe(slot, index, Some(why));
        }
        // A stream of nothing is of no use to anybody; its client may ask for something else.
        let nothing_left = self
            .links
            .connections
            .uni(slot)
            .is_some_and(|uni| uni.is_streaming() && uni.subs().is_empty() && !uni.is_websocket());
        if nothing_left {
            self.links.ends.blame(slot, EndedBy::Api);
            self.close(slot, Disconnect::FORCE_NO_RECONNECT);
        }
    }
}
