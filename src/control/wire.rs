//! The server API's requests as JSON has them.
//!
//! Lenient as the field is: unknown fields are ignored, and `null` is the same as a field that is not there (but for
//! `data`, where it is a payload). Payloads are kept as the text they came as.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::except::{Except, ORIGIN_BYTES_MAX};
use crate::base::fault::ErrorCode;
use crate::base::json::Object;
use crate::base::publication::{Contents, IS_REMOVED, KEY_TAG, REMOVED_TAG};
use crate::hub::limits::SPREAD_MS_MAX;
use crate::hub::options::{is_break, one_line};
use crate::hub::requests::{Pace, Since, SinceEpoch};
use crate::session::token::Overrides;

/// `publish` with its `channel`, `broadcast` with its `channels`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PublishBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    #[serde(deserialize_with = "or_default")]
    pub channels: Vec<String>,
    #[serde(deserialize_with = "even_null")]
    pub data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    pub b64data: String,
    #[serde(deserialize_with = "or_default")]
    pub skip_history: bool,
    #[serde(deserialize_with = "map")]
    pub tags: BTreeMap<String, String>,
    /// Ours: of a value channel, the key whose value it is. The same as the tag `key`.
    #[serde(deserialize_with = "or_default")]
    pub key: String,
    /// Ours: the key has no value any more. The same as the tag `removed` with "true".
    #[serde(deserialize_with = "or_default")]
    pub remove: bool,
    /// Ours: who does not get it.
    pub except: Option<ExceptBody>,
    /// Ours: of `broadcast`, to every connection instead of channels.
    #[serde(deserialize_with = "or_default")]
    pub everyone: bool,
    #[serde(deserialize_with = "or_default")]
    pub idempotency_key: String,
    #[serde(deserialize_with = "or_default")]
    pub delta: bool,
    #[serde(deserialize_with = "or_default")]
    pub version: u64,
    #[serde(deserialize_with = "or_default")]
    pub version_epoch: String,
    /// Ours: milliseconds over which deliveries are spread evenly.
    #[serde(deserialize_with = "or_default")]
    pub spread_ms: u64,
    /// Ours: empty, `normal` or `bulk`.
    #[serde(deserialize_with = "or_default")]
    pub class: String,
}

impl PublishBody {
    /// The tags, with those that say `key` and `remove`.
    ///
    /// # Errors
    /// They contradict each other.
    pub fn all_tags(&mut self) -> Result<Vec<(String, String)>, &'static str> {
        let mut tags = std::mem::take(&mut self.tags);
        if !self.key.is_empty() {
            let known = tags.insert(KEY_TAG.to_owned(), self.key.clone());
            if known.is_some_and(|known| known != self.key) {
                return Err("key is another one than that of the tags");
            }
        }
        if self.remove {
            tags.insert(REMOVED_TAG.to_owned(), IS_REMOVED.to_owned());
        }
        Ok(tags.into_iter().collect())
    }

    /// It is for a value channel.
    pub fn is_keyed(&self) -> bool {
        !self.key.is_empty() || self.remove
    }

    /// # Errors
    /// What is wrong with `spread_ms` or `class`.
    pub fn pace(&self) -> Result<Pace, &'static str> {
        let bulk = match &*self.class {
            "" | "normal" => false,
            "bulk" => true,
            _ => return Err("class is \"normal\" or \"bulk\""),
        };
        match u32::try_from(self.spread_ms) {
            Ok(spread_ms) if spread_ms <= SPREAD_MS_MAX => Ok(Pace { spread_ms, bulk }),
            _ => Err("spread_ms is from 0 to 3600000"),
        }
    }
}

/// `inbox`: the same to each of several users, whether they are connected or not.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct InboxBody {
    #[serde(deserialize_with = "or_default")]
    pub users: Vec<String>,
    #[serde(deserialize_with = "even_null")]
    pub data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    pub b64data: String,
    #[serde(deserialize_with = "map")]
    pub tags: BTreeMap<String, String>,
    pub except: Option<ExceptBody>,
    #[serde(deserialize_with = "or_default")]
    pub idempotency_key: String,
    #[serde(deserialize_with = "or_default")]
    pub version: u64,
    #[serde(deserialize_with = "or_default")]
    pub version_epoch: String,
    #[serde(deserialize_with = "or_default")]
    pub spread_ms: u64,
    #[serde(deserialize_with = "or_default")]
    pub class: String,
}

impl From<InboxBody> for PublishBody {
    fn from(body: InboxBody) -> PublishBody {
        PublishBody {
            data: body.data,
            b64data: body.b64data,
            tags: body.tags,
            except: body.except,
            idempotency_key: body.idempotency_key,
            version: body.version,
            version_epoch: body.version_epoch,
            spread_ms: body.spread_ms,
            class: body.class,
            ..PublishBody::default()
        }
    }
}

/// Whom a publication or a message is kept from: each that is named.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExceptBody {
    #[serde(deserialize_with = "or_default")]
    pub client: String,
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    /// The tag that a client has named when it connected.
    #[serde(deserialize_with = "or_default")]
    pub origin: String,
}

impl ExceptBody {
    /// `None` when nobody is named.
    ///
    /// # Errors
    /// What can be nobody's: whoever was meant would get what was to be kept from it.
    pub fn except(&self) -> Result<Option<Except>, &'static str> {
        let client = match self.client.as_str() {
            "" => None,
            client => Some(client.parse().map_err(|()| "except.client is not the id of a client")?),
        };
        if self.origin.len() > ORIGIN_BYTES_MAX {
            return Err("except.origin is longer than 64 bytes");
        }
        let filled = |text: &str| (!text.is_empty()).then(|| Box::<str>::from(text));
        let except =
            Except { client, user: filled(&self.user).map(Into::into), origin: filled(&self.origin) };
        Ok(Some(except).filter(|except| !except.is_nobody()))
    }
}

/// `push`: one message to the connections of users.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PushBody {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub users: Vec<String>,
    #[serde(deserialize_with = "even_null")]
    pub data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    pub b64data: String,
    /// Only to the connection of each user that was made last.
    #[serde(deserialize_with = "or_default")]
    pub newest: bool,
    /// Who of them does not get it.
    pub except: Option<ExceptBody>,
    #[serde(deserialize_with = "or_default")]
    pub idempotency_key: String,
}

/// Seconds since 1970; what is not positive, or null, means never and is 0. However far a date lies, and however it is
/// written, it is a date: past 64 bits it is the last one.
pub fn unix_seconds<'de, D: serde::Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Unsigned(u64),
        Signed(i64),
        Fraction(f64),
    }
    let seconds = match Option::<Number>::deserialize(from)? {
        None => 0,
        Some(Number::Unsigned(seconds)) => seconds,
        Some(Number::Signed(seconds)) => u64::try_from(seconds).unwrap_or(0),
        Some(Number::Fraction(seconds)) => seconds as u64,
    };
    // As the signed number that the protocol has for it.
    Ok(seconds.min(i64::MAX as u64))
}

/// `subscribe`, `unsubscribe`, `disconnect` and `refresh`: each uses the fields it knows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UserBody {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    #[serde(deserialize_with = "or_default")]
    pub client: String,
    #[serde(deserialize_with = "or_default")]
    pub session: String,
    pub info: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    pub b64info: String,
    pub data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    pub b64data: String,
    pub recover_since: Option<StreamPosition>,
    #[serde(deserialize_with = "unix_seconds")]
    pub expire_at: u64,
    #[serde(deserialize_with = "or_default")]
    pub expired: bool,
    /// Named options with `null` or `{"value": …}`.
    #[serde(rename = "override", deserialize_with = "map")]
    pub override_: BTreeMap<String, Option<OptionBody>>,
    /// Of `subscribe`: publications are left out that it does not match.
    pub server_tags_filter: Option<Box<RawValue>>,
    /// Of `subscribe`: how often something is given to it, where that is slower than its channel.
    pub deliver_every: Option<DeliverEvery>,
    #[serde(deserialize_with = "or_default")]
    pub whitelist: Vec<String>,
    pub disconnect: Option<DisconnectBody>,
}

/// An option of one subscription.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct OptionBody {
    #[serde(deserialize_with = "or_default")]
    pub value: bool,
}

impl UserBody {
    /// # Errors
    /// An option that cannot be another one for a subscription: ignoring it would not say so.
    pub fn overrides(&self) -> Result<Overrides, &'static str> {
        let mut overrides = Overrides::default();
        for (name, option) in &self.override_ {
            let place = match name.as_str() {
                "presence" => &mut overrides.presence,
                "join_leave" => &mut overrides.join_leave,
                "force_push_join_leave" => &mut overrides.force_push_join_leave,
                "force_positioning" => &mut overrides.force_positioning,
                "force_recovery" => &mut overrides.force_recovery,
                _ if option.is_none() => continue,
                _ => return Err("override names an option that cannot be overridden"),
            };
            *place = option.map(|option| option.value);
        }
        Ok(overrides)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct DisconnectBody {
    #[serde(deserialize_with = "or_default")]
    pub code: u32,
    #[serde(deserialize_with = "or_default")]
    pub reason: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamPosition {
    #[serde(deserialize_with = "or_default")]
    pub offset: u64,
    #[serde(deserialize_with = "or_default")]
    pub epoch: String,
}

impl StreamPosition {
    pub fn since(&self) -> Since {
        Since { offset: crate::base::ids::Offset(self.offset), epoch: SinceEpoch::from_wire(&self.epoch) }
    }
}

/// `presence`, `presence_stats` and `history_remove`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChannelBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
}

/// `rpc`: kept for server libraries that have it.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RpcBody {
    #[serde(deserialize_with = "or_default")]
    pub method: String,
    #[serde(rename = "params")]
    pub _params: Option<Box<RawValue>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct HistoryBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    #[serde(deserialize_with = "or_default")]
    pub limit: i64,
    pub since: Option<StreamPosition>,
    /// Milliseconds since 1970; not together with `since`.
    pub since_ms: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub reverse: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ChannelsBody {
    #[serde(deserialize_with = "or_default")]
    pub pattern: String,
    /// So many at a time, in the order of names. 0: all at once, without sizes.
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ApiBatchBody<'b> {
    /// Each an object with one method in it.
    #[serde(borrow)]
    pub commands: Vec<BTreeMap<String, Option<&'b RawValue>>>,
    #[serde(deserialize_with = "or_default")]
    pub parallel: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PresenceBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// So many at a time, in the order of clients' ids. 0: all at once.
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OnlineBody {
    #[serde(deserialize_with = "or_default")]
    pub users: Vec<String>,
}

/// `block`, `unblock` and `revoke`: each uses the fields it knows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BlockBody {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub token_id: String,
    /// Seconds since 1970.
    pub issued_before: Option<u64>,
    /// Seconds; left out: until it is taken back.
    pub for_s: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BlockedBody {
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CursorsBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// Of this user alone; empty: of all members.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UnreadBody {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub channels: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReadByBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    pub offset: Option<u64>,
    /// "read", or "received".
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MembersBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    pub add: Option<Vec<String>>,
    pub remove: Option<Vec<String>>,
    /// Up to where those who are added have everything; left out: the top.
    pub offset: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

/// A payload given as JSON or as Base64 (RFC 4648 section 4); the latter wins, as in the field.
///
/// # Errors
/// [`ErrorCode::BadRequest`] when the Base64 cannot be read.
pub fn any_payload(raw: Option<Box<RawValue>>, base64: &str) -> Result<Option<(Bytes, Contents)>, ErrorCode> {
    let json = |json: Vec<u8>| {
        let contents = if json.iter().any(is_break) { Contents::Json } else { Contents::Line };
        (Bytes::from(json), contents)
    };
    if base64.is_empty() {
        return Ok(raw.map(|raw| json(String::from(Box::<str>::from(raw)).into_bytes())));
    }
    let bytes = STANDARD.decode(base64).map_err(|_| ErrorCode::BadRequest)?;
    Ok(Some(match serde_json::from_slice::<&RawValue>(&bytes) {
        Ok(_) => json(bytes),
        Err(_) => (Bytes::from(bytes), Contents::Bytes),
    }))
}

/// The same where clients of every kind must be able to read it.
///
/// # Errors
/// [`ErrorCode::BadRequest`] when the Base64 or the JSON in it cannot be read.
pub fn payload(raw: Option<Box<RawValue>>, base64: &str) -> Result<Option<Bytes>, ErrorCode> {
    match any_payload(raw, base64)? {
        Some((_, Contents::Bytes)) => Err(ErrorCode::BadRequest),
        Some((json, Contents::Json)) => Ok(Some(one_line(&json))),
        Some((line, Contents::Line)) => Ok(Some(line)),
        None => Ok(None),
    }
}

pub fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(from)?.unwrap_or_default())
}

/// Whether the JSON is `[]`.
fn is_empty_list(json: &str) -> bool {
    json.strip_prefix('[').is_some_and(|rest| rest.trim_ascii_start() == "]")
}

/// Whether the JSON is more than another way to leave a field out.
pub fn says_something(json: &RawValue) -> bool {
    !matches!(json.get(), "null" | "false" | "0" | "\"\"" | "{}") && !is_empty_list(json.get())
}

/// As [`or_default`], of an object with any keys; `[]` is an empty one, which is how PHP writes an empty array.
pub fn map<'de, D: Deserializer<'de>, T: serde::de::DeserializeOwned>(
    from: D,
) -> Result<BTreeMap<String, T>, D::Error> {
    Ok(Option::<Object<_>>::deserialize(from)?.unwrap_or_default().0)
}

/// `null` is there, a missing field is not.
pub fn even_null<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(data: Option<Bytes>) -> Option<String> {
        data.map(|bytes| String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[test]
    fn payloads_stay_as_they_came() {
        for data in ["{\"b\":1.0,\"a\":1e2}", "\"\\u0041\"", "null", " [ 1 ]", "12345678901234567890123"] {
            let body: PublishBody = serde_json::from_str(&format!("{{\"data\":{data}}}")).unwrap();
            assert_eq!(text(payload(body.data, "").unwrap()).as_deref(), Some(data.trim()));
        }
        let missing: PublishBody = serde_json::from_str("{}").unwrap();
        assert_eq!(payload(missing.data, ""), Ok(None));
    }

    #[test]
    fn no_payload_breaks_a_line() {
        let body: PublishBody = serde_json::from_str("{\"data\":{\r\n\"a\":\n\"\\n\"}}").unwrap();
        assert_eq!(text(payload(body.data, "").unwrap()).unwrap(), "{  \"a\": \"\\n\"}");
        assert!(
            serde_json::from_str::<PublishBody>("{\"data\":\"a\nb\"}").is_err(),
            "a bare line feed in a string"
        );
    }

    #[test]
    fn base64_is_of_json_where_everybody_must_read_it() {
        assert_eq!(text(payload(None, "eyJhIjoKMX0=").unwrap()).unwrap(), "{\"a\": 1}");
        for wrong in ["e", "AAAA", "/w==", "eyJhIjox"] {
            assert_eq!(payload(None, wrong), Err(ErrorCode::BadRequest), "{wrong}");
        }
        assert_eq!(any_payload(None, "e"), Err(ErrorCode::BadRequest));
        let found = |base64| any_payload(None, base64).unwrap().unwrap();
        assert_eq!(found("/woK"), (Bytes::from_static(b"\xff\n\n"), Contents::Bytes));
        assert_eq!(found("ewp9"), (Bytes::from_static(b"{\n}"), Contents::Json), "not changed yet");
        assert_eq!(found("e30="), (Bytes::from_static(b"{}"), Contents::Line));
    }

    #[test]
    fn null_is_the_same_as_absent() {
        let body: UserBody = serde_json::from_str(
            "{\"user\":null,\"client\":null,\"info\":null,\"data\":null,\"recover_since\":null,\"override\":null,\
             \"whitelist\":null,\"disconnect\":null,\"expire_at\":null,\"unknown\":[1]}",
        )
        .unwrap();
        assert!(body.info.is_none() && body.data.is_none() && body.override_.is_empty());
        let body: PublishBody =
            serde_json::from_str("{\"tags\":null,\"version\":null,\"b64data\":null,\"channels\":null}")
                .unwrap();
        assert!(body.tags.is_empty() && body.data.is_none());
    }
}
