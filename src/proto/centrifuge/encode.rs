//! Replies and pushes into JSON objects, appended to the caller's buffer.
//!
//! The views here borrow everything: whoever holds a publication, a client's info or a result describes it without
//! copying. Fields marked raw are JSON text that was checked when it came in; empty raw text counts as absent.

use super::write::{self, Fields};
use crate::base::fault::{Disconnect, Refusal, Unsubscribed};
use crate::base::ids::{Epoch, Offset};

/// The server's ping, a whole frame.
pub const PING: &[u8] = b"{}";

/// Several replies or pushes in one frame: each one is written to the buffer that [`Batch::message`] hands back, and a
/// newline is put between them.
#[derive(Debug)]
pub struct Batch<'b> {
    out: &'b mut Vec<u8>,
    from: usize,
}

impl<'b> Batch<'b> {
    /// A frame that starts at the present end of `out`.
    pub fn new(out: &'b mut Vec<u8>) -> Batch<'b> {
        let from = out.len();
        Batch { out, from }
    }

    /// Where the next message goes. Whoever asks must write one.
    pub fn message(&mut self) -> &mut Vec<u8> {
        if !self.is_empty() {
            self.out.push(b'\n');
        }
        self.out
    }

    pub fn is_empty(&self) -> bool {
        self.out.len() == self.from
    }
}

/// What is answered to a command.
#[derive(Clone, Copy, Debug)]
pub enum Reply<'a> {
    Error(ErrorRef<'a>),
    Connect(ConnectResult<'a>),
    Subscribe(SubscribeResult<'a>),
    Unsubscribe,
    Publish,
    /// Present clients by their public id.
    Presence(&'a [(&'a str, ClientInfoRef<'a>)]),
    PresenceStats {
        clients: u32,
        users: u32,
    },
    History(HistoryResult<'a>),
    Ping,
    /// Raw data.
    Rpc(Option<&'a [u8]>),
    Refresh(RefreshResult<'a>),
    SubRefresh(Lifetime),
}

/// What is told without having been asked. All but the last four belong to a channel.
#[derive(Clone, Copy, Debug)]
pub enum Push<'a> {
    Publication(PublicationRef<'a>),
    Join(ClientInfoRef<'a>),
    Leave(ClientInfoRef<'a>),
    Unsubscribe(Unsubscribed),
    Subscribe(SubscribePush<'a>),
    /// Raw data.
    Message(Option<&'a [u8]>),
    /// The first push of a unidirectional transport.
    Connect(ConnectResult<'a>),
    /// Only where the transport has no close code of its own (SSE, HTTP streaming).
    Disconnect(&'a Disconnect),
    Refresh(Lifetime),
}

/// An error reply. Ours come from a [`Refusal`]; a backend may send its own code and message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorRef<'a> {
    pub code: u32,
    pub message: &'a str,
    pub temporary: bool,
}

impl From<Refusal> for ErrorRef<'static> {
    fn from(refusal: Refusal) -> Self {
        ErrorRef { code: refusal.code().into(), message: refusal.message(), temporary: refusal.temporary() }
    }
}

/// Whether something ends unless it is refreshed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    pub expires: bool,
    /// Seconds until then.
    pub ttl_s: u32,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectResult<'a> {
    pub client: &'a str,
    pub version: &'a str,
    pub lifetime: Lifetime,
    /// Raw.
    pub data: Option<&'a [u8]>,
    /// Server-side subscriptions by channel.
    pub subs: &'a [(&'a str, SubscribeResult<'a>)],
    /// Seconds between the server's pings; 0 when there are none.
    pub ping_s: u32,
    /// Whether the client has to answer pings.
    pub pong: bool,
    /// Echoed by the client in emulated upstream requests, with `node`.
    pub session: &'a str,
    pub node: &'a str,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct SubscribeResult<'a> {
    pub lifetime: Lifetime,
    pub recoverable: bool,
    pub epoch: Option<Epoch>,
    /// What was missed, oldest first.
    pub publications: &'a [PublicationRef<'a>],
    pub recovered: bool,
    /// The top of the log; when `recovered`, the offset of the request instead, from which `publications` go on.
    pub offset: Offset,
    pub positioned: bool,
    /// Raw.
    pub data: Option<&'a [u8]>,
    pub was_recovering: bool,
    pub delta: bool,
}

/// A server-side subscription that has begun.
#[derive(Clone, Copy, Debug, Default)]
pub struct SubscribePush<'a> {
    pub recoverable: bool,
    pub epoch: Option<Epoch>,
    pub offset: Offset,
    pub positioned: bool,
    /// Raw.
    pub data: Option<&'a [u8]>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct HistoryResult<'a> {
    pub publications: &'a [PublicationRef<'a>],
    pub epoch: Option<Epoch>,
    pub offset: Offset,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct RefreshResult<'a> {
    pub client: &'a str,
    pub version: &'a str,
    pub lifetime: Lifetime,
}

/// Who a client is, as others may see it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClientInfoRef<'a> {
    pub user: &'a str,
    pub client: &'a str,
    /// Raw.
    pub conn_info: Option<&'a [u8]>,
    /// Raw.
    pub chan_info: Option<&'a [u8]>,
}

/// One publication. Its channel is said by what it stands in.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublicationRef<'a> {
    /// Raw; with a negotiated delta a JSON string.
    pub data: &'a [u8],
    /// Zero in a channel without history.
    pub offset: Offset,
    pub info: Option<ClientInfoRef<'a>>,
    pub tags: &'a [(String, String)],
    /// `data` is a patch of the publication before.
    pub delta: bool,
    /// Wall clock, milliseconds since 1970; 0 leaves it out.
    pub time_ms: u64,
}

/// Appends the reply to the command `id`.
pub fn encode_reply(out: &mut Vec<u8>, id: u32, reply: &Reply<'_>) {
    let mut fields = Fields::new(out);
    fields.number(r#""id":"#, id.into());
    match reply {
        Reply::Error(error) => write_error(fields.key(r#""error":"#), error),
        Reply::Connect(result) => write_connect_result(fields.key(r#""connect":"#), result),
        Reply::Subscribe(result) => write_subscribe_result(fields.key(r#""subscribe":"#), result),
        Reply::Unsubscribe => fields.key(r#""unsubscribe":"#).extend_from_slice(b"{}"),
        Reply::Publish => fields.key(r#""publish":"#).extend_from_slice(b"{}"),
        Reply::Presence(clients) => write_presence(fields.key(r#""presence":"#), clients),
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

/// Appends a push, as bidirectional transports carry it. An empty `channel` is left out: messages, connects, disconnects
/// and refreshes have none.
///
/// The one that delivery runs through: a publication is written in one pass, without memory of its own.
pub fn encode_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    out.reserve(push_bytes(channel, push));
    out.extend_from_slice(br#"{"push":"#);
    encode_unidirectional_push(out, channel, push);
    out.push(b'}');
}

/// Appends a push without its envelope, as unidirectional transports carry it.
pub fn encode_unidirectional_push(out: &mut Vec<u8>, channel: &str, push: &Push<'_>) {
    let mut fields = Fields::new(out);
    fields.text(r#""channel":"#, channel);
    match push {
        Push::Publication(publication) => write_publication(fields.key(r#""pub":"#), publication),
        Push::Join(info) => write_info(fields.key(r#""join":"#), info),
        Push::Leave(info) => write_info(fields.key(r#""leave":"#), info),
        Push::Unsubscribe(why) => write_unsubscribe(fields.key(r#""unsubscribe":"#), *why),
        Push::Message(data) => write_data(fields.key(r#""message":"#), *data),
        Push::Subscribe(subscribe) => write_subscribe_push(fields.key(r#""subscribe":"#), subscribe),
        Push::Connect(result) => write_connect_push(fields.key(r#""connect":"#), result),
        Push::Disconnect(disconnect) => write_disconnect(fields.key(r#""disconnect":"#), disconnect),
        Push::Refresh(lifetime) => write_lifetime(fields.key(r#""refresh":"#), *lifetime),
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
    let mut fields = Fields::new(out);
    fields.raw(r#""data":"#, Some(publication.data));
    if let Some(info) = &publication.info {
        write_client_info(fields.key(r#""info":"#), info);
    }
    fields.number(r#""offset":"#, publication.offset.0);
    if !publication.tags.is_empty() {
        let mut tags = Fields::new(fields.key(r#""tags":"#));
        for (name, value) in publication.tags {
            write::string(tags.named(name), value);
        }
        tags.end();
    }
    fields.flag(r#""delta":"#, publication.delta);
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
    let mut fields = Fields::new(out);
    write::string(fields.key(r#""user":"#), info.user);
    write::string(fields.key(r#""client":"#), info.client);
    fields.raw(r#""conn_info":"#, info.conn_info);
    fields.raw(r#""chan_info":"#, info.chan_info);
    fields.end();
}

fn write_info(out: &mut Vec<u8>, info: &ClientInfoRef<'_>) {
    let mut fields = Fields::new(out);
    write_client_info(fields.key(r#""info":"#), info);
    fields.end();
}

fn write_error(out: &mut Vec<u8>, error: &ErrorRef<'_>) {
    let mut fields = Fields::new(out);
    fields.number(r#""code":"#, error.code.into());
    fields.text(r#""message":"#, error.message);
    fields.flag(r#""temporary":"#, error.temporary);
    fields.end();
}

fn write_connect_result(out: &mut Vec<u8>, result: &ConnectResult<'_>) {
    let mut fields = Fields::new(out);
    fields.text(r#""client":"#, result.client);
    fields.text(r#""version":"#, result.version);
    lifetime(&mut fields, result.lifetime);
    fields.raw(r#""data":"#, result.data);
    subs(&mut fields, result.subs);
    connect_tail(&mut fields, result);
    fields.end();
}

/// The same fields as the reply, in the order the published server gives them in a push.
fn write_connect_push(out: &mut Vec<u8>, result: &ConnectResult<'_>) {
    let mut fields = Fields::new(out);
    fields.text(r#""client":"#, result.client);
    fields.text(r#""version":"#, result.version);
    fields.raw(r#""data":"#, result.data);
    subs(&mut fields, result.subs);
    lifetime(&mut fields, result.lifetime);
    connect_tail(&mut fields, result);
    fields.end();
}

fn connect_tail(fields: &mut Fields<'_>, result: &ConnectResult<'_>) {
    fields.number(r#""ping":"#, result.ping_s.into());
    fields.flag(r#""pong":"#, result.pong);
    fields.text(r#""session":"#, result.session);
    fields.text(r#""node":"#, result.node);
}

fn subs(fields: &mut Fields<'_>, subs: &[(&str, SubscribeResult<'_>)]) {
    if subs.is_empty() {
        return;
    }
    let mut channels = Fields::new(fields.key(r#""subs":"#));
    for (channel, result) in subs {
        write_subscribe_result(channels.named(channel), result);
    }
    channels.end();
}

fn write_subscribe_result(out: &mut Vec<u8>, result: &SubscribeResult<'_>) {
    let mut fields = Fields::new(out);
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
    fields.flag(r#""delta":"#, result.delta);
    fields.end();
}

fn write_subscribe_push(out: &mut Vec<u8>, subscribe: &SubscribePush<'_>) {
    let mut fields = Fields::new(out);
    fields.flag(r#""recoverable":"#, subscribe.recoverable);
    epoch(&mut fields, subscribe.epoch);
    fields.number(r#""offset":"#, subscribe.offset.0);
    fields.flag(r#""positioned":"#, subscribe.positioned);
    fields.raw(r#""data":"#, subscribe.data);
    fields.end();
}

/// All three fields are written even when empty, as by the published server.
fn write_history(out: &mut Vec<u8>, result: &HistoryResult<'_>) {
    let mut fields = Fields::new(out);
    write_publications(fields.key(r#""publications":"#), result.publications);
    match result.epoch {
        Some(epoch) => write_epoch(fields.key(r#""epoch":"#), epoch),
        None => fields.key(r#""epoch":"#).extend_from_slice(br#""""#),
    }
    write::number(fields.key(r#""offset":"#), result.offset.0);
    fields.end();
}

fn write_presence(out: &mut Vec<u8>, clients: &[(&str, ClientInfoRef<'_>)]) {
    let mut fields = Fields::new(out);
    let mut entries = Fields::new(fields.key(r#""presence":"#));
    for (client, info) in clients {
        write_client_info(entries.named(client), info);
    }
    entries.end();
    fields.end();
}

/// Both counts are written even when zero, as by the published server.
fn write_presence_stats(out: &mut Vec<u8>, clients: u32, users: u32) {
    let mut fields = Fields::new(out);
    write::number(fields.key(r#""num_clients":"#), clients.into());
    write::number(fields.key(r#""num_users":"#), users.into());
    fields.end();
}

fn write_refresh_result(out: &mut Vec<u8>, result: &RefreshResult<'_>) {
    let mut fields = Fields::new(out);
    fields.text(r#""client":"#, result.client);
    fields.text(r#""version":"#, result.version);
    lifetime(&mut fields, result.lifetime);
    fields.end();
}

fn write_lifetime(out: &mut Vec<u8>, of: Lifetime) {
    let mut fields = Fields::new(out);
    lifetime(&mut fields, of);
    fields.end();
}

fn lifetime(fields: &mut Fields<'_>, lifetime: Lifetime) {
    fields.flag(r#""expires":"#, lifetime.expires);
    fields.number(r#""ttl":"#, lifetime.ttl_s.into());
}

fn write_unsubscribe(out: &mut Vec<u8>, why: Unsubscribed) {
    let mut fields = Fields::new(out);
    fields.number(r#""code":"#, why.code().into());
    fields.text(r#""reason":"#, why.reason());
    fields.end();
}

fn write_disconnect(out: &mut Vec<u8>, disconnect: &Disconnect) {
    let mut fields = Fields::new(out);
    fields.number(r#""code":"#, disconnect.code.into());
    fields.text(r#""reason":"#, &disconnect.reason);
    fields.flag(r#""reconnect":"#, disconnect.reconnects());
    fields.end();
}

fn write_data(out: &mut Vec<u8>, data: Option<&[u8]>) {
    let mut fields = Fields::new(out);
    fields.raw(r#""data":"#, data);
    fields.end();
}

fn epoch(fields: &mut Fields<'_>, epoch: Option<Epoch>) {
    if let Some(epoch) = epoch {
        write_epoch(fields.key(r#""epoch":"#), epoch);
    }
}

/// Eight hexadecimal digits in quotes, as [`Epoch`] is displayed, without the formatting machinery.
fn write_epoch(out: &mut Vec<u8>, epoch: Epoch) {
    out.push(b'"');
    out.extend((0..8).rev().map(|digit| b"0123456789abcdef"[(epoch.0 >> (digit * 4) & 0xf) as usize]));
    out.push(b'"');
}
