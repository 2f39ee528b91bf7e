//! Messages to users: from the users' owner to their connections, and the count of those who were reached.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ConnId, UserName};
use crate::proto::centrifuge::Push;
use crate::proto::encoding::Encoding;
use crate::proto::unidirectional::frames;
use crate::proto::websocket::deflate::Deflater;
use crate::proto::wire::Wire;
use crate::shard::control_request::{ControlReply, ControlRequest, PushUsers, Pushed, UserMessage};
use crate::shard::core::Core;
use crate::shard::framing::encoded;
use crate::shard::gather::Tally;
use crate::shard::mailbox::{PushMessage, ShardMessage};
use crate::shard::owner_and_follower::WAITING_MESSAGES_MAX;
use crate::shard::pushes::{EVERYONE_WAITING_MAX, Everyone, PUSH_CONNECTIONS_MAX};

/// Connections of one message between shards: bounds what one inbox entry holds (16 KiB).
const TARGETS_PER_MESSAGE: usize = 1024;
/// Connections told in one tick, as in `fanout.rs`: reads and publications wait about a millisecond.
const PUSHES_PER_TICK: usize = 512;
impl Core {
    /// Sends a message on its way to the connections of users whose owner is here. The reply goes out when every one of
    /// them has been told, or is gone.
    pub fn push_to_users(&mut self, ask: PushUsers, reply: ControlReply<Pushed>) {
        let PushUsers { users, message, newest } = ask;
        if self.messages.mailer.waiting() > WAITING_MESSAGES_MAX {
            return reply.send(Err(ErrorCode::TooManyRequests));
        }
        let connections: usize = users.iter().map(|user| self.owned.users.count(user)).sum();
        if !newest && connections > PUSH_CONNECTIONS_MAX {
            return reply.send(Err(ErrorCode::LimitExceeded));
        }
        let tally = Tally::new(users.len(), reply);
        let mut by_shard: Vec<Vec<(ConnId, u32)>> = vec![Vec::new(); self.messages.mailer.router().shards()];
        for (number, user) in users.iter().enumerate() {
            let newest_told = newest.then(|| self.owned.users.newest_told(user));
            let all = (!newest).then(|| self.owned.users.connections(user).rev());
            for conn in newest_told.flatten().into_iter().chain(all.into_iter().flatten()) {
                by_shard[self.messages.mailer.router().peer_shard(conn).index()].push((conn, number as u32));
            }
        }
        for targets in by_shard {
            for targets in targets.chunks(TARGETS_PER_MESSAGE) {
                let push = PushMessage {
                    message: Arc::clone(&message),
                    targets: targets.to_vec(),
                    tally: Arc::clone(&tally),
                };
                self.messages.mailer.post_to_peer(targets[0].0, ShardMessage::Push(Box::new(push)));
            }
        }
    }

    /// Says to the connections of a user who has got what it has published. While other shards do not keep up it is left out:
    /// what is said next says it as well.
    pub fn push_receipts(&mut self, user: UserName, data: Bytes) {
        if self.messages.mailer.waiting() > WAITING_MESSAGES_MAX {
            return;
        }
        let owner = self.messages.mailer.router().user_owner(&user);
        let message = Arc::new(UserMessage { data, except: None, encoded: Default::default() });
        let ask = PushUsers { users: vec![user], message, newest: false };
        let ask = ControlRequest::Push(ask, ControlReply::new(|_| {}));
        self.messages.mailer.post(owner, ShardMessage::ControlRequest(Box::new(ask)));
        self.env.stats.counters.receipts_pushed_total += 1;
    }

    /// A message for every connection of this shard.
    pub fn push_to_everyone(&mut self, message: Arc<UserMessage>, reply: ControlReply<u64>) {
        if self.delivery.pushes.everyone.len() >= EVERYONE_WAITING_MAX {
            return reply.send(Err(ErrorCode::TooManyRequests));
        }
        self.delivery.pushes.everyone.push_back(Everyone { message, next: 0, told: 0, reply });
    }

    pub fn handle_push(&mut self, push: PushMessage) {
        self.delivery.pushes.waiting += push.targets.len();
        self.delivery.pushes.queue.push_back(push);
    }

    /// Tells connections what users are to be told, as many as one tick may.
    pub fn deliver_pushes(&mut self) {
        let mut budget = PUSHES_PER_TICK;
        while budget > 0
            && let Some(push) = self.delivery.pushes.queue.front_mut()
        {
            let from = push.targets.len().saturating_sub(budget);
            let targets = push.targets.split_off(from);
            let (message, tally) = (Arc::clone(&push.message), Arc::clone(&push.tally));
            if push.targets.is_empty() {
                self.delivery.pushes.queue.pop_front();
            }
            self.delivery.pushes.waiting -= targets.len();
            budget -= targets.len().min(budget);
            for (conn, user) in targets {
                if self.push_to_one(conn, &message) {
                    self.env.stats.counters.user_messages_total += 1;
                    tally.count(user);
                }
            }
        }
        self.deliver_everyone(budget);
    }

    /// The same for messages to everybody, slot by slot. Who connects meanwhile may get it or not.
    fn deliver_everyone(&mut self, mut budget: usize) {
        while budget > 0
            && let Some(mut everyone) = self.delivery.pushes.everyone.pop_front()
        {
            let end = self.links.connections.end();
            while budget > 0 && everyone.next < end {
                budget -= 1;
                let slot = everyone.next;
                everyone.next += 1;
                if self.links.connections.get(slot).is_some_and(|connection| !connection.link.is_gone())
                    && self.push_to_one(self.conn_id(slot), &everyone.message)
                {
                    self.env.stats.counters.user_messages_total += 1;
                    everyone.told += 1;
                }
            }
            match everyone.next < end {
                true => self.delivery.pushes.everyone.push_front(everyone),
                false => everyone.reply.send(Ok(everyone.told)),
            }
        }
    }

    /// False when the connection is gone, or goes because it cannot take the message.
    fn push_to_one(&mut self, conn: ConnId, message: &UserMessage) -> bool {
        let Some(slot) = self.live(conn) else { return false };
        let Some(connection) = self.links.connections.get(slot) else { return false };
        let peer = &connection.peer;
        let Some((encoding, chunked)) = peer.takes_messages() else { return false };
        if let Some(except) = &message.except
            && except
                .covers(peer.user().map(|user| &**user), peer.origin(), || self.peers.client_ids.id(conn))
        {
            return false;
        }
        let deflater = &mut self.links.compression.deflater;
        let mut frame = frame_of(message, encoding, connection.link.deflates(), deflater);
        if encoding == Encoding::JsonLines && !chunked {
            frame = frames::without_chunks(&frame).into();
        }
        self.send(slot, frame);
        // One that owes too much has been closed for it.
        self.links.connections.get(slot).is_some_and(|connection| connection.peer.subscribes())
    }
}

/// The frame of a message in an encoding, made by the first delivery that needs it.
fn frame_of(message: &UserMessage, kind: Encoding, deflates: bool, deflater: &mut Deflater) -> Bytes {
    let id = if deflates && kind.is_websocket() { kind.compressed_id() } else { kind.id() };
    let frame = || match Wire::of(kind) {
        Some(wire) => wire.push("", &Push::Message(Some(&message.data))),
        None => frames::message(kind, &message.data),
    };
    encoded(&message.encoded, id, frame, deflater).clone()
}
