//! Hook calls and answers in the JSON shapes of the Centrifuge ecosystem's proxies (`centrifugal.dev`,
//! `docs/server/proxy.md`), so that a backend that answers those answers us unchanged.
//!
//! Lenient as the field is: unknown fields are ignored, `null` is the same as a field that is not there (but for the
//! data of `rpc`, where it is a payload). Payloads are checked once and kept as the text they came as.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer};
use serde_json::error::Category;
use serde_json::value::RawValue;

use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::fault::Disconnect;
use crate::base::filter::Filter;
use crate::base::inboxes::DEVICE_BYTES_MAX;
use crate::base::json::Object;
use crate::base::publication::PayloadForm;
use crate::base::rewind::Rewind;
use crate::config::hooks::{DISCONNECT_CODES, ERROR_CODES, REASON_BYTES_MAX};
use crate::control::certificate::Certificate;
use crate::control::hooks::fault::{HookFault, quoted};
use crate::control::wire::{ExceptBody, any_payload, even_null, map, or_default, payload, says_something};
use crate::session::hook_call::{
    Answer, ConnectAnswer, Denied, Granted, HookCall, HookRequest, PublishAnswer, RefreshAnswer,
    SubRefreshAnswer,
};
use crate::session::token::{Overrides, SubscribeGrant};

/// Longest message of an error, in bytes: it goes to the client, who only shows it.
const MESSAGE_BYTES_MAX: usize = 1024;
/// What a hook call that waits weighs beside what the client said, in bytes: its task and its place in line.
pub const PLACE_BYTES: usize = 1024;

/// What of a hook call the hook's options decide.
#[derive(Clone, Copy, Debug, Default)]
pub struct HookEncoding {
    pub include_connection_meta: bool,
    pub binary: bool,
}

/// What kind of hook call it is, in metrics and logs.
pub fn kind(hook_request: &HookRequest) -> &'static str {
    match hook_request {
        HookRequest::Connect { .. } => "connect",
        HookRequest::Refresh => "refresh",
        HookRequest::Subscribe { .. } => "subscribe",
        HookRequest::SubRefresh { .. } => "sub_refresh",
        HookRequest::Publish { .. } => "publish",
        HookRequest::Rpc { .. } => "rpc",
    }
}

/// Whether asking twice is as asking once: what a client publishes or calls may not be done twice.
pub fn is_repeatable(hook_request: &HookRequest) -> bool {
    !matches!(hook_request, HookRequest::Publish { .. } | HookRequest::Rpc { .. })
}

/// What a hook call weighs while it waits, in bytes: what the client can make longer, and its place.
pub fn weight(hook_call: &HookCall) -> usize {
    let caller = &hook_call.caller;
    let length = |data: &Option<Bytes>| data.as_ref().map_or(0, Bytes::len);
    let own = match &hook_call.hook_request {
        HookRequest::Connect { data, name, version, channels } => {
            length(data) + name.len() + version.len() + channels.iter().map(|c| c.len() + 32).sum::<usize>()
        }
        HookRequest::Refresh | HookRequest::SubRefresh { .. } => 0,
        HookRequest::Subscribe { token, data, .. } => length(data) + token.len(),
        HookRequest::Publish { data, .. } => data.len(),
        HookRequest::Rpc { method, data } => length(data) + method.len(),
    };
    let headers = caller.headers.iter().flat_map(|headers| headers.iter());
    let headers: usize = headers.map(|(name, value)| name.len() + value.len() + 32).sum();
    PLACE_BYTES + own + headers + length(&caller.meta)
}

/// The body to POST.
pub fn encode(hook_call: &HookCall, encoding: HookEncoding) -> Vec<u8> {
    let HookCall { caller, hook_request, .. } = hook_call;
    let mut object = ObjectWriter::new();
    object.text("client", &caller.client.to_string());
    object.text("transport", caller.transport);
    object.text("protocol", caller.format.name());
    object.text("encoding", if encoding.binary { "binary" } else { "json" });
    // Before the backend has said who it is, there is no user to name.
    if !matches!(hook_request, HookRequest::Connect { .. }) {
        object.text("user", &caller.user);
    }
    if let Some(address) = caller.address {
        object.text("address", &address.to_string());
    }
    if let Some(certificate) = &caller.certificate {
        object.json("certificate", &serde_json::to_vec(&Certificate::of(certificate)).unwrap_or_default());
    }
    if encoding.include_connection_meta
        && let Some(meta) = &caller.meta
    {
        object.json("meta", meta);
    }
    let payload = |object: &mut ObjectWriter, data: &Option<Bytes>| match data {
        Some(data) if encoding.binary => object.text("b64data", &STANDARD.encode(data)),
        Some(data) => object.json("data", data),
        None => {}
    };
    match hook_request {
        HookRequest::Connect { data, name, version, channels } => {
            object.text_unless_empty("name", name);
            object.text_unless_empty("version", version);
            payload(&mut object, data);
            if !channels.is_empty() {
                let channels: Vec<&str> = channels.iter().map(|channel| &**channel).collect();
                object.json("channels", &serde_json::to_vec(&channels).unwrap_or_default());
            }
        }
        HookRequest::Refresh => {}
        HookRequest::Subscribe { channel, token, data } => {
            object.text("channel", channel);
            object.text_unless_empty("token", token);
            payload(&mut object, data);
        }
        HookRequest::SubRefresh { channel } => object.text("channel", channel),
        HookRequest::Publish { channel, data, form } => {
            object.text("channel", channel);
            match form {
                // Whatever it looks like, so that the backend reads one field.
                PayloadForm::Bytes => object.text("b64data", &STANDARD.encode(data)),
                PayloadForm::Json => payload(&mut object, &Some(data.clone())),
            }
        }
        HookRequest::Rpc { method, data } => {
            object.text_unless_empty("method", method);
            payload(&mut object, data);
        }
    }
    object.end()
}

/// Reads the body of an answer with HTTP status 200.
///
/// # Errors
/// The fault when it is no answer that anybody could act on.
pub fn decode(hook_request: &HookRequest, body: &[u8]) -> Result<Result<Answer, Denied>, HookFault> {
    let body: &RawValue = serde_json::from_slice(body).map_err(|error| fault_of(&error))?;
    let envelope: Envelope<'_> = read(body.get())?;
    if let Some(disconnect) = envelope.disconnect {
        let disconnect: DisconnectWire = read(disconnect.get())?;
        return Ok(Err(Denied::Disconnect(disconnect.checked()?)));
    }
    if let Some(error) = envelope.error {
        return Ok(Err(read::<ErrorWire>(error.get())?.checked()?));
    }
    let Some(result) = envelope.result else {
        return Err(HookFault::WrongShape("there is no result, error or disconnect".into()));
    };
    let result = result.get();
    Ok(Ok(match hook_request {
        HookRequest::Connect { .. } => Answer::Connect(Box::new(read::<ConnectWire>(result)?.answer()?)),
        HookRequest::Refresh => {
            let wire: RefreshWire = read(result)?;
            let (expired, expire_at_s) = (wire.expired, wire.expire_at.0);
            let info = checked(wire.info, &wire.b64info)?;
            Answer::Refresh(RefreshAnswer { expired, expire_at_s, info, meta: checked(wire.meta, "")? })
        }
        HookRequest::Subscribe { .. } => Answer::Subscribe(Box::new(read::<GrantedWire>(result)?.granted()?)),
        HookRequest::SubRefresh { .. } => {
            let wire: RefreshWire = read(result)?;
            let (expired, expire_at_s) = (wire.expired, wire.expire_at.0);
            Answer::SubRefresh(SubRefreshAnswer {
                expired,
                expire_at_s,
                info: checked(wire.info, &wire.b64info)?,
            })
        }
        HookRequest::Publish { form, .. } => {
            let wire: PublishWire = read(result)?;
            let filled = |text: String| (!text.is_empty()).then(|| text.into_boxed_str());
            Answer::Publish(PublishAnswer {
                data: match form {
                    PayloadForm::Json => checked(wire.data, &wire.b64data)?,
                    PayloadForm::Bytes => any_payload(wire.data, &wire.b64data)
                        .map_err(|_| wrong("b64data is not base64"))?
                        .map(|(data, _)| data),
                },
                skip_history: wire.skip_history,
                tags: wire.tags.into_iter().collect(),
                except: wire.except.map_or(Ok(None), |except| except.except()).map_err(wrong)?,
                idempotency_key: filled(wire.idempotency_key),
                version: wire.version,
                version_epoch: filled(wire.version_epoch),
            })
        }
        HookRequest::Rpc { .. } => {
            let wire: RpcWire = read(result)?;
            Answer::Rpc { data: checked(wire.data, &wire.b64data)? }
        }
    }))
}

/// A JSON object that is being written.
struct ObjectWriter(Vec<u8>);

impl ObjectWriter {
    fn new() -> ObjectWriter {
        ObjectWriter(Vec::with_capacity(256))
    }

    fn key(&mut self, key: &'static str) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.0.push(b'"');
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        // Neither a text nor a Vec can fail.
        let _ = serde_json::to_writer(&mut self.0, value);
    }

    fn text_unless_empty(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() {
            self.text(key, value);
        }
    }

    /// `value` was checked when it came in.
    fn json(&mut self, key: &'static str, value: &[u8]) {
        self.key(key);
        self.0.extend_from_slice(value);
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

#[derive(Deserialize)]
struct Envelope<'b> {
    #[serde(borrow)]
    result: Option<&'b RawValue>,
    error: Option<&'b RawValue>,
    disconnect: Option<&'b RawValue>,
}

#[derive(Deserialize)]
struct ErrorWire {
    #[serde(default)]
    code: u64,
    #[serde(default, deserialize_with = "or_default")]
    message: String,
    #[serde(default, deserialize_with = "or_default")]
    temporary: bool,
}

impl ErrorWire {
    fn checked(self) -> Result<Denied, HookFault> {
        let code = code_of(ERROR_CODES, self.code)?;
        within("the message of the error", &self.message, MESSAGE_BYTES_MAX)?;
        Ok(Denied::Error { code, message: self.message.into(), temporary: self.temporary })
    }
}

#[derive(Deserialize)]
struct DisconnectWire {
    #[serde(default)]
    code: u64,
    #[serde(default, deserialize_with = "or_default")]
    reason: String,
}

impl DisconnectWire {
    fn checked(self) -> Result<Disconnect, HookFault> {
        let code = code_of(DISCONNECT_CODES, self.code)?;
        within("the reason of the disconnect", &self.reason, REASON_BYTES_MAX)?;
        Ok(Disconnect { code, reason: self.reason.into() })
    }
}

fn code_of(known: RangeInclusive<u16>, code: u64) -> Result<u16, HookFault> {
    u16::try_from(code).ok().filter(|code| known.contains(code)).ok_or(HookFault::UnknownCode(code))
}

fn within(what: &str, text: &str, bytes_max: usize) -> Result<(), HookFault> {
    if text.len() > bytes_max {
        let len = text.len();
        return Err(HookFault::WrongShape(format!("{what} has {len} bytes, {bytes_max} are the most")));
    }
    Ok(())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ConnectWire {
    #[serde(deserialize_with = "or_default")]
    user: String,
    #[serde(deserialize_with = "or_default")]
    expire_at: UnixSeconds,
    info: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    b64info: String,
    data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    b64data: String,
    #[serde(deserialize_with = "or_default")]
    channels: Vec<String>,
    #[serde(deserialize_with = "map")]
    subs: BTreeMap<String, Option<Box<RawValue>>>,
    meta: Option<Box<RawValue>>,
    caps: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    device: String,
}

impl ConnectWire {
    fn answer(self) -> Result<ConnectAnswer, HookFault> {
        none_of("caps", &self.caps)?;
        let mut granted = BTreeMap::new();
        for channel in self.channels {
            granted.insert(channel, Granted::default());
        }
        // Named in both: what says more wins.
        for (channel, grant) in self.subs {
            let grant = grant.map(|grant| read::<GrantedWire>(grant.get())).transpose()?;
            granted.insert(channel, grant.unwrap_or_default().granted()?);
        }
        if granted.contains_key("") {
            return Err(HookFault::WrongShape("a channel has no name".into()));
        }
        within("device", &self.device, DEVICE_BYTES_MAX)?;
        Ok(ConnectAnswer {
            user: self.user,
            expire_at_s: self.expire_at.0,
            info: checked(self.info, &self.b64info)?,
            data: checked(self.data, &self.b64data)?,
            subs: granted.into_iter().map(|(channel, granted)| (channel.into(), granted)).collect(),
            meta: checked(self.meta, "")?,
            device: (!self.device.is_empty()).then_some(self.device),
        })
    }
}

/// A subscription of `connect`, and the whole result of `subscribe`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct GrantedWire {
    info: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    b64info: String,
    data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    b64data: String,
    #[serde(rename = "override", deserialize_with = "or_default")]
    overrides: Object<Overrides>,
    #[serde(deserialize_with = "or_default")]
    expire_at: UnixSeconds,
    allow: Option<Box<RawValue>>,
    server_tags_filter: Option<Box<RawValue>>,
    rewind: Option<Rewind>,
    deliver_every: Option<DeliverEvery>,
}

impl GrantedWire {
    fn granted(self) -> Result<Granted, HookFault> {
        none_of("allow", &self.allow)?;
        let filter = self.server_tags_filter.filter(|tree| says_something(tree));
        let filter = filter.map(|tree| Filter::parse(tree.get())).transpose();
        let filter = filter.map_err(|fault| HookFault::WrongShape(format!("server_tags_filter: {fault}")))?;
        let info = checked(self.info, &self.b64info)?;
        let data = checked(self.data, &self.b64data)?;
        let (overrides, rewind) = (self.overrides.0, self.rewind);
        let deliver_every = self.deliver_every.unwrap_or_default();
        let grant = SubscribeGrant { info, data, overrides, filter, rewind, deliver_every };
        Ok(Granted { grant, expire_at_s: self.expire_at.0 })
    }
}

/// Of `refresh` and `sub_refresh`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RefreshWire {
    #[serde(deserialize_with = "or_default")]
    expired: bool,
    #[serde(deserialize_with = "or_default")]
    expire_at: UnixSeconds,
    info: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    b64info: String,
    meta: Option<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PublishWire {
    data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    b64data: String,
    #[serde(deserialize_with = "or_default")]
    skip_history: bool,
    #[serde(deserialize_with = "map")]
    tags: BTreeMap<String, String>,
    except: Option<ExceptBody>,
    #[serde(deserialize_with = "or_default")]
    idempotency_key: String,
    #[serde(deserialize_with = "or_default")]
    version: u64,
    #[serde(deserialize_with = "or_default")]
    version_epoch: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RpcWire {
    #[serde(deserialize_with = "even_null")]
    data: Option<Box<RawValue>>,
    #[serde(deserialize_with = "or_default")]
    b64data: String,
}

/// Seconds since 1970; what is not positive means never, as in tokens.
#[derive(Default)]
struct UnixSeconds(u64);

impl<'de> Deserialize<'de> for UnixSeconds {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        crate::control::wire::unix_seconds(from).map(UnixSeconds)
    }
}

/// A grant that is not held here. Passed over, the backend would take for granted what nobody keeps.
fn none_of(name: &'static str, grant: &Option<Box<RawValue>>) -> Result<(), HookFault> {
    match grant {
        Some(grant) if says_something(grant) => {
            Err(HookFault::WrongShape(format!("{name:?} is a grant that this daemon does not have")))
        }
        _ => Ok(()),
    }
}

fn read<'r, T: Deserialize<'r>>(object: &'r str) -> Result<T, HookFault> {
    serde_json::from_str(object).map(|Object(read)| read).map_err(|error| fault_of(&error))
}

/// A payload as JSON or as base64 of it.
fn checked(plain: Option<Box<RawValue>>, base64: &str) -> Result<Option<Bytes>, HookFault> {
    payload(plain, base64)
        .map_err(|_| HookFault::WrongShape("b64info or b64data is not base64 of JSON".into()))
}

fn wrong(problem: &'static str) -> HookFault {
    HookFault::WrongShape(problem.into())
}

fn fault_of(error: &serde_json::Error) -> HookFault {
    let what = quoted(&error.to_string());
    match error.classify() {
        Category::Data => HookFault::WrongShape(what),
        Category::Syntax | Category::Eof | Category::Io => HookFault::NotJson(what),
    }
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
