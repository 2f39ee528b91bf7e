//! Replies and pushes into Protobuf messages, each behind its length, appended to the caller's buffer.

use super::wire::{ProtobufFields, write_delimited};
use crate::base::ids::Epoch;
use crate::proto::centrifuge::reply::{
    ClientInfoRef, ConnectResult, ErrorRef, HistoryResult, Lifetime, PublicationRef, Push, Reply,
    SubscribePush, SubscribeResult,
};

pub(in crate::proto::centrifuge) fn encode_reply(out: &mut Vec<u8>, id: u32, reply: &Reply<'_>) {
    write_delimited(out, |fields| {
        fields.number(1, id);
        match reply {
            Reply::Error(error) => fields.message(2, |fields| write_error(fields, error)),
            Reply::Connect(result) => fields.message(5, |fields| write_connect_result(fields, result)),
            Reply::Subscribe(result) => fields.message(6, |fields| write_subscribe_result(fields, result)),
            Reply::Unsubscribe => fields.message(7, |_| ()),
            Reply::Publish => fields.message(8, |_| ()),
            Reply::Presence(clients) => fields.message(9, |fields| write_presence_list(fields, clients)),
            Reply::PresenceEncoded(list) => fields.message(9, |fields| fields.written(list)),
            Reply::PresenceStats { clients, users } => fields.message(10, |fields| {
                fields.number(1, *clients);
                fields.number(2, *users);
            }),
            Reply::History(result) => fields.message(11, |fields| write_history(fields, result)),
            Reply::Ping => fields.message(12, |_| ()),
            Reply::Rpc(data) => fields.message(13, |fields| fields.raw(1, *data)),
            Reply::Refresh(result) => fields.message(14, |fields| {
                fields.text(1, result.client);
                fields.text(2, result.version);
                write_lifetime(fields, [3, 4], result.lifetime);
            }),
            Reply::SubRefresh(lifetime) => {
                fields.message(15, |fields| write_lifetime(fields, [1, 2], *lifetime))
            }
        }
    });
}

pub(in crate::proto::centrifuge) fn write_presence(out: &mut Vec<u8>, clients: &[(&str, ClientInfoRef<'_>)]) {
    write_presence_list(&mut ProtobufFields::new(out), clients);
}

fn write_presence_list(fields: &mut ProtobufFields<'_>, clients: &[(&str, ClientInfoRef<'_>)]) {
    for (client, info) in clients {
        fields.entry(1, client, |fields| write_client_info(fields, info));
    }
}

pub(in crate::proto::centrifuge) fn encode_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    out.reserve(push_bytes(channel, push));
    write_delimited(out, |reply| {
        reply.message(4, |fields| {
            fields.text(2, channel);
            match push {
                Push::Publication(publication) => {
                    fields.message(4, |fields| write_publication(fields, publication));
                }
                Push::Join(info) => write_info(fields, 5, info),
                Push::Leave(info) => write_info(fields, 6, info),
                Push::Unsubscribe(why) => fields.message(7, |fields| {
                    fields.number(2, why.code());
                    fields.text(3, why.reason());
                }),
                Push::Message(data) => fields.message(8, |fields| fields.raw(1, *data)),
                Push::Subscribe(subscribe) => {
                    fields.message(9, |fields| write_subscribe_push(fields, subscribe))
                }
                Push::Refresh(lifetime) => {
                    fields.message(12, |fields| write_lifetime(fields, [1, 2], *lifetime))
                }
                Push::Disconnect { code, reason } => fields.message(11, |fields| {
                    fields.number(1, *code);
                    fields.text(2, reason);
                }),
            }
        });
    });
}

/// Bytes that a push takes, so that the buffer grows once: enough for a publication without info and tags, too few for
/// what is rare.
fn push_bytes(channel: &str, push: &Push<'_>) -> usize {
    // Tags, lengths and the longest numbers.
    const AROUND: usize = 64;
    let payload = if let Push::Publication(publication) = push { publication.data.len() } else { 0 };
    AROUND + channel.len() + payload
}

fn write_publication(fields: &mut ProtobufFields<'_>, publication: &PublicationRef<'_>) {
    fields.bytes(4, publication.data);
    if let Some(info) = &publication.info {
        fields.message(5, |fields| write_client_info(fields, info));
    }
    fields.number(6, publication.offset.0);
    for (name, value) in publication.tags {
        fields.message(7, |entry| {
            entry.text(1, name);
            entry.text(2, value);
        });
    }
    fields.flag(8, publication.patched);
    fields.number(9, publication.time_ms);
}

fn write_publications(fields: &mut ProtobufFields<'_>, number: u8, publications: &[PublicationRef<'_>]) {
    for publication in publications {
        fields.message(number, |fields| write_publication(fields, publication));
    }
}

pub(super) fn write_client_info(fields: &mut ProtobufFields<'_>, info: &ClientInfoRef<'_>) {
    fields.text(1, info.user);
    fields.text(2, info.client);
    fields.raw(3, info.conn_info);
    fields.raw(4, info.chan_info);
}

/// A join or a leave: both hold one client.
fn write_info(fields: &mut ProtobufFields<'_>, number: u8, info: &ClientInfoRef<'_>) {
    fields.message(number, |fields| fields.message(1, |fields| write_client_info(fields, info)));
}

fn write_error(fields: &mut ProtobufFields<'_>, error: &ErrorRef<'_>) {
    fields.number(1, error.code);
    fields.text(2, error.message);
    fields.flag(3, error.temporary);
}

fn write_connect_result(fields: &mut ProtobufFields<'_>, result: &ConnectResult<'_>) {
    fields.text(1, result.client);
    fields.text(2, result.version);
    write_lifetime(fields, [3, 4], result.lifetime);
    fields.raw(5, result.data);
    for (channel, result) in result.subs {
        fields.entry(6, channel, |fields| write_subscribe_result(fields, result));
    }
    fields.number(7, result.ping_s);
    fields.flag(8, result.pong);
    fields.text(9, result.session);
    fields.text(10, result.node);
}

fn write_subscribe_result(fields: &mut ProtobufFields<'_>, result: &SubscribeResult<'_>) {
    write_lifetime(fields, [1, 2], result.lifetime);
    fields.flag(3, result.recoverable);
    write_epoch(fields, 6, result.epoch);
    write_publications(fields, 7, result.publications);
    fields.flag(8, result.recovered);
    fields.number(9, result.offset.0);
    fields.flag(10, result.positioned);
    fields.raw(11, result.data);
    fields.flag(12, result.was_recovering);
    fields.flag(13, result.shape.is_chained());
}

fn write_subscribe_push(fields: &mut ProtobufFields<'_>, subscribe: &SubscribePush<'_>) {
    fields.flag(1, subscribe.recoverable);
    write_epoch(fields, 4, subscribe.epoch);
    fields.number(5, subscribe.offset.0);
    fields.flag(6, subscribe.positioned);
    fields.raw(7, subscribe.data);
}

fn write_history(fields: &mut ProtobufFields<'_>, result: &HistoryResult<'_>) {
    write_publications(fields, 1, result.publications);
    write_epoch(fields, 2, result.epoch);
    fields.number(3, result.offset.0);
}

fn write_lifetime(fields: &mut ProtobufFields<'_>, [expires, ttl]: [u8; 2], lifetime: Lifetime) {
    fields.flag(expires, lifetime.expires);
    fields.number(ttl, lifetime.ttl_s);
}

fn write_epoch(fields: &mut ProtobufFields<'_>, number: u8, epoch: Option<Epoch>) {
    if let Some(epoch) = epoch {
        fields.bytes(number, &epoch.text());
    }
}
