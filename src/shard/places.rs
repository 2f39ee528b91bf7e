//! Connections of users, between the users' owners and the shards of the connections.
//!
//! Where the number of a user's connections is limited, one asks for a place before it is answered as connected:
//! [`Core::join_user`], then [`Core::handle_placed`], or an order to end. It asks once in its life.

use std::sync::Arc;

use crate::base::fault::Disconnect;
use crate::base::ids::{ConnId, UserName};
use crate::hub::places::{DeviceClass, PlaceVerdict, UserLimit};
use crate::shard::control_request::ControlReply;
use crate::shard::core::Core;
use crate::shard::gather::Gather;
use crate::shard::mailbox::{ApiCommand, ConnectionCommand, ShardMessage, UserJoined};

impl Core {
    pub fn user_limit(&self) -> Option<UserLimit> {
        let limits = &self.env.options.client_limits;
        limits.limits_users().then(|| UserLimit {
            connections_max: match limits.user_connections_max {
                0 => usize::MAX,
                connections_max => connections_max as usize,
            },
            policy: limits.user_connections_policy,
            classes: Arc::clone(&limits.device_connections_max),
        })
    }

    // --- as the owner of the user

    /// `silent`: by a tunnel, which takes no messages.
    pub fn user_joined(&mut self, joined: &UserJoined, silent: bool) {
        let UserJoined { user, conn, class } = joined;
        let conn = *conn;
        // It was let in while the user was being blocked.
        if self.env.options.blocks.refuses_user(user, self.unix_s()) {
            self.order_end(user, conn, Disconnect::PERMISSION_DENIED);
        }
        let before = self.owned.users.count(user);
        match silent {
            true => self.owned.users.add_silent(user, conn),
            false => self.owned.users.add(user, conn),
        }
        let Some(limit) = self.user_limit() else { return self.tell_user(user, before) };
        let mut verdicts = Vec::new();
        self.owned.places.handle_joined(&mut self.owned.users, user, (conn, *class), &limit, &mut verdicts);
        self.tell_user(user, before);
        self.tell_verdicts(user, verdicts);
    }

    pub fn user_left(&mut self, user: &UserName, conn: ConnId) {
        let before = self.owned.users.count(user);
        let Some(limit) = self.user_limit() else {
            self.owned.users.remove(user, conn);
            return self.tell_user(user, before);
        };
        let mut verdicts = Vec::new();
        self.owned.places.handle_left(&mut self.owned.users, user, conn, &limit, &mut verdicts);
        self.tell_user(user, before);
        self.tell_verdicts(user, verdicts);
    }

    pub fn tell_verdicts(&mut self, user: &UserName, verdicts: Vec<PlaceVerdict>) {
        for verdict in verdicts {
            let (conn, why) = match verdict {
                PlaceVerdict::Granted(conn) => {
                    self.messages.mailer.post_to_peer(conn, ShardMessage::Placed(conn));
                    continue;
                }
                PlaceVerdict::Rejected(conn) => (conn, Disconnect::CONNECTION_LIMIT),
                PlaceVerdict::Replaced(conn) => (conn, Disconnect::REPLACED),
            };
            self.order_end(user, conn, why);
        }
    }

    fn order_end(&mut self, user: &UserName, conn: ConnId, why: Disconnect) {
        let done = Gather::new(ControlReply::new(|_| {}));
        let message =
            ConnectionCommand { conn, user: user.clone(), command: ApiCommand::Disconnect(why), done };
        self.messages.mailer.post_to_peer(conn, ShardMessage::Connection(Box::new(message)));
    }

    // --- as the shard of the connection

    /// The user's owner learns of the connection. True when it must wait for a place.
    pub fn join_user(&mut self, slot: u32, user: Option<UserName>, silent: bool) -> bool {
        let conn = self.conn_id(slot);
        let Some(user) = user else { return false };
        let Some(connection) = self.links.connections.get_mut(slot) else { return false };
        connection.peer.set_of_user();
        let owned = self.messages.mailer.router().user_owner(&user);
        let classes = &self.env.options.client_limits.device_connections_max;
        let class = connection.peer.device().and_then(|device| DeviceClass::of(device, classes));
        let joined = Box::new(UserJoined { user, conn, class });
        self.messages.mailer.post(
            owned,
            if silent { ShardMessage::UserJoinedByTunnel(joined) } else { ShardMessage::UserJoined(joined) },
        );
        self.env.options.client_limits.limits_users()
    }

    /// The connection has a place.
    pub fn handle_placed(&mut self, conn: ConnId) {
        let Some(slot) = self.live(conn) else { return };
        if let Some(uni) = self.links.connections.uni_mut(slot) {
            if uni.handle_placed() {
                self.uni_answered(slot);
            }
        } else if let Some(tunnel) = self.links.connections.tunnel_mut(slot) {
            if let Some(admission) = tunnel.take_admission() {
                self.open_tunnel(slot, *admission);
            }
        } else {
            self.with_session(slot, |session, cx| session.handle_placed(cx));
        }
    }
}
