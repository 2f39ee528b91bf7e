//! Replies and pushes into JSON objects, appended to the caller's buffer.

use super::write::{self, JsonFields};
use crate::base::fault::Unsubscribed;
use crate::base::ids::Epoch;
use crate::proto::centrifuge::reply::{
    ClientInfoRef, ConnectResult, ErrorRef, HistoryResult, Lifetime, PublicationRef, Push, RefreshResult,
    Reply, SubscribePush, SubscribeResult,
};

pub(in crate::proto::centrifuge) fn encode_reply(out: &mut Vec<u8>, id: u32, reply: &Reply<'_>) {
    let mut fields = JsonFields::new(out);
    fields.number(r#""id":"#, id.into());
    match reply {
        Reply::Error(error) => write_error(fields.key(r#""error":"#), error),
        Reply::Connect(result) => write_connect_result(fields.key(r#""connect":"#), result),
        Reply::Subscribe(result) => write_subscribe_result(fields.key(r#""subscribe":"#), result),
        Reply::Unsubscribe => fields.key(r#""unsubscribe":"#).extend_from_slice(b"{}"),
        Reply::Publish => fields.key(r#""publish":"#).extend_from_slice(b"{}"),
        Reply::Presence(clients) => write_presence(fields.key(r#""presence":"#), clients),
        Reply::PresenceEncoded(list) => fields.key(r#""presence":"#).extend_from_slice(list),
        Reply::PresenceStats { clients, users } => {
            write_presence_stats(fields.key(r#""presence_stats":"#), *clients, *users);
        }
        Reply::History(result) => write_history(fields.key(r#""history":"#), result),
        Reply::Ping => fields.key(r#""ping":"#).extend_from_slice(b"{}"),
        Reply::Rpc(data) => write_data(fields.key(r#""rpc":"#), *data),
        Reply::Refresh(result) => write_refresh_result(fields.key(r#""refresh":"#), result),
        Reply::SubRefresh(lifetime) => write_lifetime(fields.key(r#""sub_refresh":"#), *lifetime),
    }
    fields.end();
}

pub(in crate::proto::centrifuge) fn encode_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    out.reserve(push_bytes(channel, push));
    out.extend_from_slice(br#"{"push":"#);
    write_push(out, channel, push);
    out.push(b'}');
}

/// A push of a unidirectional client, who gets nothing else.
pub(in crate::proto::centrifuge) fn encode_bare_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    out.reserve(push_bytes(channel, push));
    write_push(out, channel, push);
}

/// The answer to a unidirectional client's connect.
pub(in crate::proto::centrifuge) fn encode_connect_push(out: &mut Vec<u8>, result: &ConnectResult<'_>) {
    let mut fields = JsonFields::new(out);
    write_connect_result(fields.key(r#""connect":"#), result);
    fields.end();
}

#[inline]
fn write_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    let mut fields = JsonFields::new(out);
    fields.text(r#""channel":"#, channel);
    match push {
        Push::Publication(publication) => write_publication(fields.key(r#""pub":"#), publication),
        Push::Join(info) => write_info(fields.key(r#""join":"#), info),
        Push::Leave(info) => write_info(fields.key(r#""leave":"#), info),
        Push::Unsubscribe(why) => write_unsubscribe(fields.key(r#""unsubscribe":"#), *why),
        Push::Message(data) => write_data(fields.key(r#""message":"#), *data),
        Push::Subscribe(subscribe) => write_subscribe_push(fields.key(r#""subscribe":"#), subscribe),
        Push::Refresh(lifetime) => write_lifetime(fields.key(r#""refresh":"#), *lifetime),
        Push::Disconnect { code, reason } => {
            let mut disconnect = JsonFields::new(fields.key(r#""disconnect":"#));
            disconnect.number(r#""code":"#, (*code).into());
            disconnect.text(r#""reason":"#, reason);
            disconnect.end();
        }
    }
    fields.end();
}

/// Bytes that a push takes, so that the buffer grows once: exact enough for a publication without info and tags, too
/// few for what is rare.
fn push_bytes(channel: &str, push: &Push<'_>) -> usize {
    // Envelope, keys, brackets and the longest numbers.
    const AROUND: usize = 128;
    let payload = if let Push::Publication(publication) = push { publication.data.len() } else { 0 };
    AROUND + channel.len() + payload
}

fn write_publication(out: &mut Vec<u8>, publication: &PublicationRef<'_>) {
    let mut fields = JsonFields::new(out);
    fields.raw(r#""data":"#, Some(publication.data));
    if let Some(info) = &publication.info {
        write_client_info(fields.key(r#""info":"#), info);
    }
    fields.number(r#""offset":"#, publication.offset.0);
    if !publication.tags.is_empty() {
        let mut tags = JsonFields::new(fields.key(r#""tags":"#));
        for (name, value) in publication.tags {
            write::string(tags.named(name), value);
        }
        tags.end();
    }
    fields.flag(r#""delta":"#, publication.patched);
    fields.number(r#""time":"#, publication.time_ms);
    fields.end();
}

fn write_publications(out: &mut Vec<u8>, publications: &[PublicationRef<'_>]) {
    out.push(b'[');
    for (index, publication) in publications.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write_publication(out, publication);
    }
    out.push(b']');
}

/// The two names are written even when empty: the published server does, and clients index by them.
fn write_client_info(out: &mut Vec<u8>, info: &ClientInfoRef<'_>) {
    let mut fields = JsonFields::new(out);
    write::string(fields.key(r#""user":"#), info.user);
    write::string(fields.key(r#""client":"#), info.client);
    fields.raw(r#""conn_info":"#, info.conn_info);
    fields.raw(r#""chan_info":"#, info.chan_info);
    fields.end();
}

fn write_info(out: &mut Vec<u8>, info: &ClientInfoRef<'_>) {
    let mut fields = JsonFields::new(out);
    write_client_info(fields.key(r#""info":"#), info);
    fields.end();
}

fn write_error(out: &mut Vec<u8>, error: &ErrorRef<'_>) {
    let mut fields = JsonFields::new(out);
    fields.number(r#""code":"#, error.code.into());
    fields.text(r#""message":"#, error.message);
    fields.flag(r#""temporary":"#, error.temporary);
    fields.end();
}

fn write_connect_result(out: &mut Vec<u8>, result: &ConnectResult<'_>) {
    let mut fields = JsonFields::new(out);
    fields.text(r#""client":"#, result.client);
    fields.text(r#""version":"#, result.version);
    lifetime(&mut fields, result.lifetime);
    fields.raw(r#""data":"#, result.data);
    subs(&mut fields, result.subs);
    connect_tail(&mut fields, result);
    fields.end();
}

fn connect_tail(fields: &mut JsonFields<'_>, result: &ConnectResult<'_>) {
    fields.number(r#""ping":"#, result.ping_s.into());
    fields.flag(r#""pong":"#, result.pong);
    fields.text(r#""session":"#, result.session);
    fields.text(r#""node":"#, result.node);
}

fn subs(fields: &mut JsonFields<'_>, subs: &[(&str, SubscribeResult<'_>)]) {
    if subs.is_empty() {
        return;
    }
    let mut channels = JsonFields::new(fields.key(r#""subs":"#));
    for (channel, result) in subs {
        write_subscribe_result(channels.named(channel), result);
    }
    channels.end();
}

fn write_subscribe_result(out: &mut Vec<u8>, result: &SubscribeResult<'_>) {
    let mut fields = JsonFields::new(out);
    lifetime(&mut fields, result.lifetime);
    fields.flag(r#""recoverable":"#, result.recoverable);
    epoch(&mut fields, result.epoch);
    if !result.publications.is_empty() {
        write_publications(fields.key(r#""publications":"#), result.publications);
    }
    fields.flag(r#""recovered":"#, result.recovered);
    fields.number(r#""offset":"#, result.offset.0);
    fields.flag(r#""positioned":"#, result.positioned);
    fields.raw(r#""data":"#, result.data);
    fields.flag(r#""was_recovering":"#, result.was_recovering);
    fields.flag(r#""delta":"#, result.shape.is_chained());
    fields.end();
}

fn write_subscribe_push(out: &mut Vec<u8>, subscribe: &SubscribePush<'_>) {
    let mut fields = JsonFields::new(out);
    fields.flag(r#""recoverable":"#, subscribe.recoverable);
    epoch(&mut fields, subscribe.epoch);
    fields.number(r#""offset":"#, subscribe.offset.0);
    fields.flag(r#""positioned":"#, subscribe.positioned);
    fields.raw(r#""data":"#, subscribe.data);
    fields.end();
}

/// All three fields are written even when empty, as by the published server.
fn write_history(out: &mut Vec<u8>, result: &HistoryResult<'_>) {
    let mut fields = JsonFields::new(out);
    write_publications(fields.key(r#""publications":"#), result.publications);
    match result.epoch {
        Some(epoch) => write_epoch(fields.key(r#""epoch":"#), epoch),
        None => fields.key(r#""epoch":"#).extend_from_slice(br#""""#),
    }
    write::number(fields.key(r#""offset":"#), result.offset.0);
    fields.end();
}

pub(in crate::proto::centrifuge) fn write_presence(out: &mut Vec<u8>, clients: &[(&str, ClientInfoRef<'_>)]) {
    let mut fields = JsonFields::new(out);
    let mut entries = JsonFields::new(fields.key(r#""presence":"#));
    for (client, info) in clients {
        write_client_info(entries.named(client), info);
    }
    entries.end();
    fields.end();
}

/// Both counts are written even when zero, as by the published server.
fn write_presence_stats(out: &mut Vec<u8>, clients: u32, users: u32) {
    let mut fields = JsonFields::new(out);
    write::number(fields.key(r#""num_clients":"#), clients.into());
    write::number(fields.key(r#""num_users":"#), users.into());
    fields.end();
}

fn write_refresh_result(out: &mut Vec<u8>, result: &RefreshResult<'_>) {
    let mut fields = JsonFields::new(out);
    fields.text(r#""client":"#, result.client);
    fields.text(r#""version":"#, result.version);
    lifetime(&mut fields, result.lifetime);
    fields.end();
}

fn write_lifetime(out: &mut Vec<u8>, of: Lifetime) {
    let mut fields = JsonFields::new(out);
    lifetime(&mut fields, of);
    fields.end();
}

fn lifetime(fields: &mut JsonFields<'_>, lifetime: Lifetime) {
    fields.flag(r#""expires":"#, lifetime.expires);
    fields.number(r#""ttl":"#, lifetime.ttl_s.into());
}

fn write_unsubscribe(out: &mut Vec<u8>, why: Unsubscribed) {
    let mut fields = JsonFields::new(out);
    fields.number(r#""code":"#, why.code().into());
    fields.text(r#""reason":"#, why.reason());
    fields.end();
}

fn write_data(out: &mut Vec<u8>, data: Option<&[u8]>) {
    let mut fields = JsonFields::new(out);
    fields.raw(r#""data":"#, data);
    fields.end();
}

fn epoch(fields: &mut JsonFields<'_>, epoch: Option<Epoch>) {
    if let Some(epoch) = epoch {
        write_epoch(fields.key(r#""epoch":"#), epoch);
    }
}

fn write_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.push(b'"');
    out.extend_from_slice(&epoch.text());
    out.push(b'"');
}
