//! Names of keys and channels in Redis, and the messages in its channels: those of Centrifugo, byte for byte.
//!
//! | what | where | content |
//! |---|---|---|
//! | publications | Pub/Sub `P.client.C` | `__p1:OFFSET:EPOCH__` and a publication, or a bare one without history |
//! | joins, leaves | the same | `__j__` or `__l__` and a client |
//! | log | stream `P.stream.C`, ids are offsets, field `d` | publications |
//! | its position | hash `P.stream.meta.C` | `e` epoch, `s` offset, `v` and `ve` version and its epoch |
//! | keys of idempotent publishes | hash `P.result.C.KEY` | `e`, `s` |
//! | presence | zset `P.presence.expire.C`, hash `P.presence.data.C` | client ids by expiry, clients |
//! | between nodes | Pub/Sub `P.control`, `P.node.UID` | node messages |
//!
//! `P` is the prefix, `C` the channel, in braces where keys are of a cluster: then all of one channel are in one slot.

use crate::base::bytes::Bytes;
use crate::base::ids::{Epoch, Offset, Position};
use crate::base::publication::ClientInfo;
use crate::proto::centrifuge::shared::{
    SharedPublication, decode_client_info, decode_publication, encode_client_info,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisNames {
    pub prefix: String,
    pub is_cluster: bool,
}

impl RedisNames {
    fn key(&self, kind: &str, channel: &str) -> String {
        let prefix = &self.prefix;
        match self.is_cluster {
            true => format!("{prefix}.{kind}.{{{channel}}}"),
            false => format!("{prefix}.{kind}.{channel}"),
        }
    }

    pub fn stream(&self, channel: &str) -> String {
        self.key("stream", channel)
    }

    pub fn meta(&self, channel: &str) -> String {
        self.key("stream.meta", channel)
    }

    /// Also of a publish without a key: a script's keys are in one slot.
    pub fn result(&self, channel: &str, key: &str) -> String {
        format!("{}.{key}", self.key("result", channel))
    }

    pub fn presence_expire(&self, channel: &str) -> String {
        self.key("presence.expire", channel)
    }

    pub fn presence_data(&self, channel: &str) -> String {
        self.key("presence.data", channel)
    }

    /// Pub/Sub of a channel.
    pub fn client(&self, channel: &str) -> String {
        format!("{}.client.{channel}", self.prefix)
    }

    pub fn control(&self) -> String {
        format!("{}.control", self.prefix)
    }

    pub fn node(&self, uid: &str) -> String {
        format!("{}.node.{uid}", self.prefix)
    }

    /// The channel whose Pub/Sub channel has that name.
    pub fn channel_of<'n>(&self, name: &'n str) -> Option<&'n str> {
        name.strip_prefix(self.prefix.as_str())?.strip_prefix(".client.")
    }
}

/// What comes through the Pub/Sub of a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisMessage {
    /// With its position where the channel has a log.
    Publication(Option<Position>, SharedPublication),
    Join(ClientInfo),
    Leave(ClientInfo),
}

/// # Errors
/// What is wrong with the message: no node of a known kind has written it.
pub fn read_message(payload: &[u8]) -> Result<RedisMessage, &'static str> {
    let Some(rest) = payload.strip_prefix(b"__") else {
        return publication(None, payload);
    };
    if let Some(delta) = rest.strip_prefix(b"d1:") {
        let (position, rest) = position(delta, b':')?;
        let (_before, rest) = counted(rest)?;
        let rest = rest.strip_prefix(b":").ok_or("a delta without its payload")?;
        let (message, rest) = counted(rest)?;
        return if rest.is_empty() {
            publication(Some(position), message)
        } else {
            Err("a delta that goes on")
        };
    }
    if let Some(positioned) = rest.strip_prefix(b"p1:") {
        let end = find(positioned, b"__").ok_or("a position without an end")?;
        let (head, rest) = (&positioned[..end], &positioned[end + 2..]);
        let (position, rest_of_head) = position(head, b'\0')?;
        debug_assert!(rest_of_head.is_empty());
        return publication(Some(position), rest);
    }
    if let Some(info) = rest.strip_prefix(b"j__") {
        return decode_client_info(info).map(RedisMessage::Join).map_err(|fault| fault.0);
    }
    if let Some(info) = rest.strip_prefix(b"l__") {
        return decode_client_info(info).map(RedisMessage::Leave).map_err(|fault| fault.0);
    }
    Err("a kind of message that no known node writes")
}

fn publication(position: Option<Position>, message: &[u8]) -> Result<RedisMessage, &'static str> {
    let publication = decode_publication(message).map_err(|fault| fault.0)?;
    Ok(RedisMessage::Publication(position, publication))
}

/// `OFFSET:EPOCH`, to where `end` stands or to the end.
fn position(bytes: &[u8], end: u8) -> Result<(Position, &[u8]), &'static str> {
    let colon = bytes.iter().position(|&byte| byte == b':').ok_or("a position without an epoch")?;
    let rest = &bytes[colon + 1..];
    let (epoch, rest) = match rest.iter().position(|&byte| byte == end) {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None if end == b'\0' => (rest, &[][..]),
        None => return Err("a position without an end"),
    };
    let offset = number(&bytes[..colon]).ok_or("an offset that is no number")?;
    Ok((Position { offset: Offset(offset), epoch: read_epoch(epoch)? }, rest))
}

/// # Errors
/// It is longer than those of known nodes.
pub fn read_epoch(text: &[u8]) -> Result<Epoch, &'static str> {
    let text = std::str::from_utf8(text).map_err(|_| "an epoch that is no text")?;
    text.parse().map_err(|()| "an epoch of an unknown form")
}

fn number(digits: &[u8]) -> Option<u64> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// `LENGTH:BYTES`.
fn counted(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let colon = bytes.iter().position(|&byte| byte == b':').ok_or("a length without an end")?;
    let length = number(&bytes[..colon]).ok_or("a length that is no number")?;
    let length = usize::try_from(length).map_err(|_| "a length that is no number")?;
    bytes[colon + 1..].split_at_checked(length).ok_or("a length beyond the end")
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

pub fn write_event(joined: bool, info: &ClientInfo) -> Vec<u8> {
    let mut message = if joined { b"__j__".to_vec() } else { b"__l__".to_vec() };
    encode_client_info(&mut message, info);
    message
}

/// The offset that stands in the id of a stream's entry.
pub fn offset_of_id(id: &[u8]) -> Option<Offset> {
    let hyphen = id.iter().position(|&byte| byte == b'-')?;
    number(&id[..hyphen]).map(Offset)
}

/// Which of `servers` has a channel: FNV-1a of its name, and the jump consistent hash of Lamping and Veach.
pub fn server_of(channel: &str, servers: usize) -> usize {
    if servers <= 1 {
        return 0;
    }
    let mut key = 0xcbf2_9ce4_8422_2325_u64;
    for byte in channel.bytes() {
        key = (key ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    let (mut bucket, mut next) = (-1_i64, 0_i64);
    while next < servers as i64 {
        bucket = next;
        key = key.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((bucket + 1) as f64 * ((1_i64 << 31) as f64 / ((key >> 33) + 1) as f64)) as i64;
    }
    bucket as usize
}

/// Whether these are the bytes of a JSON value: subscribers get them as they are.
pub fn is_json(bytes: &Bytes) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLICATION: &[u8] = b"\x22\x07{\"a\":1}\x48\xac\x02";

    fn at(offset: u64, epoch: &str) -> Option<Position> {
        Some(Position { offset: Offset(offset), epoch: epoch.parse().unwrap() })
    }

    #[test]
    fn keys_are_those_of_the_published_layout() {
        let single = RedisNames { prefix: "centrifugo".into(), is_cluster: false };
        let cluster = RedisNames { is_cluster: true, ..single.clone() };
        let of = |names: &RedisNames| {
            [
                names.stream("a:b"),
                names.meta("a:b"),
                names.result("a:b", "key"),
                names.result("a:b", ""),
                names.presence_expire("a:b"),
                names.presence_data("a:b"),
                names.client("a:b"),
            ]
        };
        assert_eq!(
            of(&single),
            [
                "centrifugo.stream.a:b",
                "centrifugo.stream.meta.a:b",
                "centrifugo.result.a:b.key",
                "centrifugo.result.a:b.",
                "centrifugo.presence.expire.a:b",
                "centrifugo.presence.data.a:b",
                "centrifugo.client.a:b",
            ]
        );
        assert_eq!(
            of(&cluster),
            [
                "centrifugo.stream.{a:b}",
                "centrifugo.stream.meta.{a:b}",
                "centrifugo.result.{a:b}.key",
                "centrifugo.result.{a:b}.",
                "centrifugo.presence.expire.{a:b}",
                "centrifugo.presence.data.{a:b}",
                "centrifugo.client.a:b",
            ]
        );
        assert_eq!(
            (single.control().as_str(), single.node("u").as_str()),
            ("centrifugo.control", "centrifugo.node.u")
        );
        assert_eq!(single.channel_of("centrifugo.client.a.client.b"), Some("a.client.b"));
        assert_eq!(single.channel_of("centrifugo.control"), None);
        assert_eq!(single.channel_of("other.client.a"), None);
    }

    #[test]
    fn messages_of_other_nodes_are_read() {
        let read = |head: &[u8]| read_message(&[head, PUBLICATION].concat());
        let publication = decode_publication(PUBLICATION).unwrap();
        assert_eq!(read(b""), Ok(RedisMessage::Publication(None, publication.clone())));
        assert_eq!(
            read(b"__p1:16901:1700000000__"),
            Ok(RedisMessage::Publication(at(16901, "1700000000"), publication.clone()))
        );
        assert_eq!(read(b"__p1:1:xyz.123__"), Err("an epoch of an unknown form"));
        let length = PUBLICATION.len();
        let delta = format!("__d1:7:1700000000:4:a:_b:{length}:");
        assert_eq!(
            read(delta.as_bytes()),
            Ok(RedisMessage::Publication(at(7, "1700000000"), publication.clone()))
        );
        let first = format!("__d1:1:abcd:0::{length}:");
        assert_eq!(read(first.as_bytes()), Ok(RedisMessage::Publication(at(1, "abcd"), publication)));
        let info = ClientInfo { user: "u".into(), client: "c".into(), conn_info: None, chan_info: None };
        for joined in [true, false] {
            let message = write_event(joined, &info);
            assert_eq!(message, if joined { b"__j__\x0a\x01u\x12\x01c" } else { b"__l__\x0a\x01u\x12\x01c" });
            let event =
                if joined { RedisMessage::Join(info.clone()) } else { RedisMessage::Leave(info.clone()) };
            assert_eq!(read_message(&message), Ok(event));
        }
    }

    #[test]
    fn what_no_node_writes_is_refused_at_every_cut() {
        for foreign in [&b"__"[..], b"__x__", b"__p1:__", b"__p1:a:b__", b"__p1:1", b"__d1:1:e:9:x", b"hello"]
        {
            assert!(read_message(foreign).is_err(), "{foreign:?}");
        }
        let whole = [b"__d1:7:1700000000:2:ab:18:".as_slice(), PUBLICATION].concat();
        for end in 1..whole.len() {
            let _ = read_message(&whole[..end]);
        }
        assert_eq!(offset_of_id(b"16-0"), Some(Offset(16)));
        assert_eq!((offset_of_id(b"16"), offset_of_id(b"x-0")), (None, None));
    }

    /// What other nodes find there must be found here. The first two are figures of the paper's own code.
    #[test]
    fn channels_are_on_the_server_where_other_nodes_put_them() {
        assert_eq!(server_of("anything", 1), 0);
        let mut on = [0; 3];
        for number in 0..3000 {
            let channel = format!("channel:{number}");
            let three = server_of(&channel, 3);
            on[three] += 1;
            // One server more takes channels from each, and moves none between the others.
            let four = server_of(&channel, 4);
            assert!(four == three || four == 3, "{channel}");
        }
        assert!(on.iter().all(|&count| count > 800), "{on:?}");
    }
}
