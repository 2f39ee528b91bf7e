//! The Centrifuge client protocol over WebSocket, in either of its forms: JSON or Protobuf.
//!
//! Inputs and outputs are those of [`super`]. What a connection does is here, once; a [`Codec`] knows how it is written,
//! and must not know: what was said before, and what follows from it.

mod json;
mod protobuf;
#[cfg(test)]
mod schema;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::atomic::{AtomicU32, Ordering};

pub use self::json::Json;
pub use self::protobuf::Protobuf;
use super::{Client, Filling, Outgoing, Profile, Said, Wire};
use crate::measure::Cause;

/// Ids of commands: 1 connects, 2 and up subscribe, [`REQUEST_ID`] is every request's.
const CONNECT_ID: u32 = 1;
const SUBSCRIBE_ID_MIN: u32 = 2;
const REQUEST_ID: u32 = 1 << 20;

/// Longest name of an epoch, in bytes: one is kept for each channel. Known servers' have 4 to 36.
const EPOCH_BYTES_MAX: usize = 255;

/// Connects and subscribes in one frame, as the JavaScript SDK does, and remembers positions when it may recover.
pub struct Centrifuge<C> {
    pub path: String,
    pub tokens: Tokens,
    /// Joins and leaves are asked for.
    pub join_leave: bool,
    pub codec: C,
    /// Requests are of a connection's channels in turn.
    pub turn: AtomicU32,
}

/// Connection tokens (JWT), for servers that let nobody in without.
pub enum Tokens {
    None,
    /// The same for all.
    One(String),
    /// Signed here with this secret (HS256): each connection is a user of its own.
    Signed(String),
}

impl Tokens {
    fn of(&self, number: u32) -> Option<Cow<'_, str>> {
        match self {
            Tokens::None => None,
            Tokens::One(token) => Some(token.into()),
            Tokens::Signed(secret) => Some(signed(secret, number).into()),
        }
    }
}

/// The token of the user of a connection, without an end.
fn signed(secret: &str, number: u32) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let claims = format!(r#"{{"sub":"user{number}","info":{{"name":"User {number}"}}}}"#);
    let text = [br#"{"alg":"HS256","typ":"JWT"}"#.as_slice(), claims.as_bytes()].map(base64_url).join(".");
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).expect("a key may have any length");
    mac.update(text.as_bytes());
    let signature = base64_url(&mac.finalize().into_bytes());
    format!("{text}.{signature}")
}

/// Without padding (RFC 4648 section 5).
fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let bits =
            part.iter().enumerate().fold(0u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..=part.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit) & 63) as usize]));
        }
    }
    text
}

/// A form of the protocol.
pub trait Codec: Send + Sync {
    /// Its WebSocket subprotocol, which names it in reports too.
    const NAME: &'static str;
    /// A whole frame that answers a ping.
    const PONG: &'static [u8];

    fn write_connect(&self, token: Option<&str>, out: &mut Vec<u8>);

    /// Appends a command to those that are in `out` already.
    fn write_subscribe(&self, subscribe: &Subscribe<'_>, out: &mut Vec<u8>);

    /// A whole frame with the command that `--request` asks for. `false`: filled in, it is none.
    fn write_request(&self, with: Filling<'_>, out: &mut Vec<u8>) -> bool;

    fn send(&self, frame: &[u8], out: &mut Outgoing);

    /// Takes the first message from `frame`. `None`: there is no more. `positions`: those of publications are wanted.
    ///
    /// # Errors
    /// [`Cause::Protocol`], and the rest of the frame means nothing.
    fn hear<'a>(&self, frame: &mut &'a [u8], positions: bool) -> Result<Option<Heard<'a>>, Cause>;
}

pub struct Subscribe<'a> {
    pub id: u32,
    pub channel: &'a str,
    /// Positions are asked for, to recover from them later.
    pub positions: bool,
    pub join_leave: bool,
    /// Offset and epoch to recover from now.
    pub since: Option<(u64, &'a str)>,
}

/// One message of the server's, as much of it as is looked at.
pub enum Heard<'a> {
    Ping,
    /// Nearly all there is. Its mark is found by the caller of the profile; channel and offset if positions are wanted.
    Publication(Option<(Cow<'a, str>, u64)>),
    /// The connection or a subscription is ended with this code.
    Farewell(u32),
    /// Joins, leaves, messages.
    OtherPush,
    Reply {
        id: u32,
        /// Or the error's code. `None`: to something else than a subscribe.
        result: Result<Option<Subscribed<'a>>, u32>,
    },
}

pub struct Subscribed<'a> {
    pub epoch: Cow<'a, str>,
    /// Of the last publication that the reply brought, or else the stream's.
    pub offset: u64,
    /// Whether what was missed came with it. `None`: recovery was not asked for.
    pub recovered: Option<bool>,
}

impl<C: Codec> Profile for Centrifuge<C> {
    fn name(&self) -> &'static str {
        C::NAME
    }

    fn wire(&self) -> Wire {
        Wire::WebSocket { subprotocols: vec![C::NAME.into()] }
    }

    fn target(&self, _: &Client<'_>) -> String {
        self.path.clone()
    }

    fn open(&self, client: &mut Client<'_>, out: &mut Outgoing) -> Said {
        let audience = client.audience;
        let mut commands = Vec::with_capacity(128);
        self.codec.write_connect(self.tokens.of(client.number).as_deref(), &mut commands);
        for (index, channel) in audience.channels_of(client.number).enumerate() {
            let offset = client.positions.as_ref().and_then(|positions| positions.get(index));
            let subscribe = Subscribe {
                id: SUBSCRIBE_ID_MIN + index as u32,
                channel: &audience.name(channel),
                positions: audience.recover,
                join_leave: self.join_leave,
                since: offset.map(|&offset| (offset, audience.epoch(channel))),
            };
            self.codec.write_subscribe(&subscribe, &mut commands);
        }
        self.codec.send(&commands, out);
        Said::default()
    }

    fn handle(&self, client: &mut Client<'_>, message: &[u8], out: &mut Outgoing) -> Result<Said, Cause> {
        let mut said = Said::default();
        let mut frame = message;
        loop {
            let begin = message.len() - frame.len();
            let Some(heard) = self.codec.hear(&mut frame, client.audience.recover)? else { break };
            match heard {
                Heard::Publication(position) => {
                    if let Some((channel, offset)) = position {
                        take_position(client, &channel, offset);
                    }
                }
                Heard::Ping => said.pings += 1,
                Heard::Farewell(code) => {
                    return Err(Cause::ClosedByServer(u16::try_from(code).unwrap_or(u16::MAX)));
                }
                Heard::OtherPush => said.others += 1,
                Heard::Reply { id: REQUEST_ID, result } => {
                    said.replies += 1;
                    said.reply_error = result.err();
                    said.reply_at = (begin, message.len() - frame.len());
                }
                Heard::Reply { id, result } => take_reply(client, id, result, &mut said)?,
            }
        }
        // One for all: a frame full of pings must not become as many frames of ours.
        if said.pings > 0 {
            self.codec.send(C::PONG, out);
        }
        Ok(said)
    }

    fn request(&self, client: &mut Client<'_>, payload: &[u8], out: &mut Outgoing) -> bool {
        let mut command = Vec::with_capacity(payload.len() + 64);
        let audience = client.audience;
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) as usize;
        let mut channels = audience.channels_of(client.number);
        let channel = channels.nth(turn % audience.per_connection.max(1) as usize).unwrap_or(0);
        let name = audience.name(channel);
        let with = Filling { channel: &name, index: channel, number: client.number, data: payload };
        let written = self.codec.write_request(with, &mut command);
        if written {
            self.codec.send(&command, out);
        }
        written
    }
}

/// The reply to connect or to a subscribe: when all of them are there, the connection is ready.
fn take_reply(
    client: &mut Client<'_>,
    id: u32,
    result: Result<Option<Subscribed<'_>>, u32>,
    said: &mut Said,
) -> Result<(), Cause> {
    let subscribed = result.map_err(Cause::Refused)?;
    let index = id.wrapping_sub(SUBSCRIBE_ID_MIN);
    if id != CONNECT_ID && index >= client.audience.per_connection {
        return Err(Cause::Protocol("a reply to no command"));
    }
    if let Some(subscribed) = subscribed.filter(|_| id != CONNECT_ID) {
        if let Some(recovered) = subscribed.recovered {
            said.recovered += u32::from(recovered);
            said.unrecovered += u32::from(!recovered);
        }
        let index = index as usize;
        if client.audience.recover
            && let Some(channel) = client.audience.channels_of(client.number).nth(index)
        {
            if subscribed.epoch.len() > EPOCH_BYTES_MAX {
                return Err(Cause::Protocol("an epoch with a name too long"));
            }
            client.audience.set_epoch(channel, &subscribed.epoch);
            set_position(client, index, subscribed.offset);
        }
    }
    *client.step = client.step.saturating_add(1);
    said.ready |= u32::from(*client.step) == client.audience.per_connection + 1;
    Ok(())
}

fn take_position(client: &mut Client<'_>, channel: &str, offset: u64) {
    if let Some(channel) = client.audience.number_of(channel)
        && let Some(index) = client.audience.index_of(client.number, channel)
    {
        set_position(client, index, offset);
    }
}

fn set_position(client: &mut Client<'_>, index: usize, offset: u64) {
    let count = client.audience.per_connection as usize;
    let positions = client.positions.get_or_insert_with(|| vec![0; count].into_boxed_slice());
    if let Some(position) = positions.get_mut(index) {
        *position = offset;
    }
}
