//! Threads at real inboxes which answer as shards do.

use std::collections::HashMap;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::driver::Wake;
use crate::hub::Roster;
use crate::hub::requests::{History, PresenceStats};
use crate::shard::control_request::{ChannelCount, Pushed, ShardStats};
use crate::shard::mailbox::{ShardInbox, ShardMessage};

struct Unpark(thread::Thread);

impl Wake for Unpark {
    fn wake(&self) {
        self.0.unpark();
    }
}

/// The threads' inboxes: logs by channel, and every ask about users as it came.
pub(super) struct Shards {
    pub router: ShardRouter,
    pub inboxes: Arc<[Arc<ShardInbox>]>,
    pub user_asks: mpsc::Receiver<ControlRequest>,
}

pub(super) const EPOCH: Epoch = Epoch(0xabc);

impl Shards {
    pub fn start(count: usize, inbox_messages: usize) -> Shards {
        let shards = Shards::stopped(count, inbox_messages);
        let (seen, user_asks) = mpsc::channel();
        for inbox in shards.inboxes.iter() {
            let (inbox, seen) = (Arc::clone(inbox), seen.clone());
            thread::spawn(move || {
                inbox.set_waker(Arc::new(Unpark(thread::current())));
                let mut logs = HashMap::new();
                loop {
                    while let Some(ShardMessage::ControlRequest(ask)) = inbox.pop_control() {
                        answer(&mut logs, *ask, &seen);
                    }
                    // Nobody owns these threads: they end when the test has dropped its inboxes.
                    if Arc::strong_count(&inbox) == 1 {
                        return;
                    }
                    if inbox.about_to_sleep() {
                        thread::park_timeout(Duration::from_millis(20));
                        inbox.awake();
                    }
                }
            });
        }
        Shards { user_asks, ..shards }
    }

    /// Inboxes that nobody reads.
    pub fn stopped(count: usize, inbox_messages: usize) -> Shards {
        let inboxes: Arc<[Arc<ShardInbox>]> =
            (0..count).map(|_| Arc::new(ShardInbox::new(inbox_messages))).collect();
        let router = ShardRouter::new(Arc::clone(&inboxes), [1, 2, 3, 4]);
        Shards { router, inboxes, user_asks: mpsc::channel().1 }
    }
}

fn answer(
    logs: &mut HashMap<String, Vec<Arc<Publication>>>,
    ask: ControlRequest,
    // Before the answer: a test looks as soon as it has that.
    seen: &mpsc::Sender<ControlRequest>,
) {
    let position = |offset: usize| Position { offset: Offset(offset as u64), epoch: EPOCH };
    match ask {
        ControlRequest::Publish(ask, reply) => {
            if ask.channel.starts_with("unknown:") {
                return reply.send(Err(ErrorCode::UnknownChannel));
            }
            if ask.channel.starts_with("lost:") {
                // A shard that never answers: its reply is kept from being dropped as well.
                return std::mem::forget(reply);
            }
            let Ok(data) = bytes::admitted(&ask) else { return reply.send(Err(ErrorCode::BadRequest)) };
            let log = logs.entry(ask.channel.to_string()).or_default();
            let info = (&*ask.channel == "chat:client").then(|| ClientInfo {
                user: "ann".into(),
                client: "c1".to_string(),
                conn_info: Some(Bytes::from_static(b"{\"a\":1}")),
                chan_info: None,
            });
            log.push(Arc::new(Publication {
                channel: ask.channel,
                position: position(log.len() + 1),
                data,
                info,
                tags: ask.tags,
                except: ask.except,
                time_ms: 0,
                encoded: Default::default(),
            }));
            reply.send(Ok(position(log.len())));
        }
        ControlRequest::History(ask, reply) => {
            let log = logs.get(&*ask.channel).cloned().unwrap_or_default();
            let top = position(log.len());
            if ask.since.is_some_and(|since| !since.epoch.matches(EPOCH)) {
                return reply.send(Err(ErrorCode::UnrecoverablePosition));
            }
            let after = ask.since.map_or(Offset(0), |since| since.offset);
            let mut publications: Vec<_> = log.into_iter().filter(|entry| entry.offset() > after).collect();
            if ask.reverse {
                publications.reverse();
            }
            publications.truncate(ask.limit.unwrap_or(300));
            reply.send(Ok(History { publications, position: top, payload: bytes::form(&ask.channel) }));
        }
        ControlRequest::HistoryRemove(channel, reply) => {
            logs.remove(&*channel);
            reply.send(Ok(()));
        }
        ControlRequest::Presence(_, reply) => {
            let info = ClientInfo {
                user: "ann".into(),
                client: "c1".to_string(),
                conn_info: None,
                chan_info: Some(Bytes::from_static(b"[1]")),
            };
            reply.send(Ok(Arc::new(Roster { infos: vec![Arc::new(info)], ..Roster::default() })));
        }
        ControlRequest::PresencePage(query, reply) => {
            let all = ["c1", "c2", "c3"].into_iter().filter(|client| *client > &*query.after);
            let info =
                |client: &str| Arc::new(ClientInfo { client: client.to_owned(), ..ClientInfo::default() });
            reply.send(Ok(all.take(query.limit).map(info).collect()));
        }
        ControlRequest::Cursors(ask) => ask.refuse(ErrorCode::NotAvailable),
        ControlRequest::Online(users, reply) => {
            let connections = |user: &UserName| if user.starts_with("absent") { 0 } else { 2 };
            reply.send(Ok(users.iter().map(connections).collect()));
        }
        ControlRequest::Enforce(reply) => {
            let _ =
                seen.send(ControlRequest::Enforce(crate::shard::control_request::ControlReply::new(|_| ())));
            reply.send(Ok(()));
        }
        ControlRequest::PresenceStats(_, reply) => reply.send(Ok(PresenceStats { clients: 2, users: 1 })),
        ControlRequest::Channels(filter, reply) => {
            let matching = logs.keys().filter(|name| (filter.0)(name));
            reply.send(Ok(matching
                .map(|name| ChannelCount { channel: name.as_str().into(), clients: 1 })
                .collect()));
        }
        ControlRequest::Stats(reply) => {
            reply.send(Ok(ShardStats { clients: 1, channels: logs.len() as u64, ..ShardStats::default() }));
        }
        ControlRequest::Subscribe(ref user, _) if &*user.target.user == "refused" => {
            let ControlRequest::Subscribe(_, reply) = ask else { return };
            reply.send(Err(ErrorCode::NotAvailable));
        }
        ControlRequest::Subscribe(user, reply) => {
            let _ = seen.send(ControlRequest::Subscribe(
                user,
                crate::shard::control_request::ControlReply::new(|_| ()),
            ));
            reply.send(Ok(()));
        }
        ControlRequest::Unsubscribe(user, reply) => {
            let _ = seen.send(ControlRequest::Unsubscribe(
                user,
                crate::shard::control_request::ControlReply::new(|_| ()),
            ));
            reply.send(Ok(()));
        }
        ControlRequest::Disconnect(user, reply) => {
            let _ = seen.send(ControlRequest::Disconnect(
                user,
                crate::shard::control_request::ControlReply::new(|_| ()),
            ));
            reply.send(Ok(()));
        }
        ControlRequest::Refresh(user, reply) => {
            let _ = seen.send(ControlRequest::Refresh(
                user,
                crate::shard::control_request::ControlReply::new(|_| ()),
            ));
            reply.send(Ok(()));
        }
        // Dropped, it is answered 100.
        ControlRequest::Tunnel(..) => {}
        ControlRequest::Everyone(message, reply) => {
            let _ = seen.send(ControlRequest::Everyone(
                message,
                crate::shard::control_request::ControlReply::new(|_| ()),
            ));
            reply.send(Ok(2));
        }
        ControlRequest::Push(ask, reply) => {
            let there = |user: &UserName| !user.starts_with("absent");
            let reached: Vec<bool> = ask.users.iter().map(there).collect();
            let each = if ask.newest { 1 } else { 2 };
            let connections = reached.iter().filter(|&&reached| reached).count() as u64 * each;
            let _ = seen
                .send(ControlRequest::Push(ask, crate::shard::control_request::ControlReply::new(|_| ())));
            reply.send(Ok(Pushed { connections, reached }));
        }
        ControlRequest::Alive(reply) | ControlRequest::Drain(_, reply) | ControlRequest::DrainStop(reply) => {
            reply.send(Ok(()))
        }
        ControlRequest::ChannelsPage(..)
        | ControlRequest::Connections(..)
        | ControlRequest::Closed(..)
        | ControlRequest::Busiest(_)
        | ControlRequest::Observe(..)
        | ControlRequest::Options(..)
        | ControlRequest::Reconnect(..)
        | ControlRequest::Shutdown(_)
        | ControlRequest::Handover(_) => {}
    }
}
