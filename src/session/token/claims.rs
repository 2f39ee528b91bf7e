//! What tokens say, on the wire and to us.

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde::de::{Error as _, IgnoredAny};
use serde_json::value::RawValue;

use crate::base::bytes::Bytes;
use crate::base::deliver_every::DeliverEvery;
use crate::base::filter::Filter;
use crate::base::inboxes::DEVICE_BYTES_MAX;
use crate::base::json::Object;
use crate::base::rewind::Rewind;
use crate::session::token::fault::{Flaw, TokenFault};

/// What a valid connection token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectClaims {
    /// `sub`; empty for an anonymous user.
    pub user: String,
    /// When the connection ends unless it is refreshed, in seconds since 1970: `expire_at` where given (not positive
    /// means never), else `exp`. In the future.
    pub expire_at_s: Option<u64>,
    /// JSON shown to others as `conn_info`.
    pub info: Option<Bytes>,
    /// Server-side subscriptions by channel: `subs`, or `channels` with nothing special when there are none.
    pub subs: BTreeMap<String, SubscribeGrant>,
    /// JSON that only the backend gets to see.
    pub meta: Option<Bytes>,
    /// `jti`, for revoking tokens.
    pub id: Option<String>,
    /// `iat`, in seconds since 1970.
    pub issued_at_s: Option<u64>,
    /// What tells the device from others of the user. Not empty, and at most [`DEVICE_BYTES_MAX`].
    pub device: Option<String>,
    /// The claim is no such text. A fault only where devices are told apart: applications have claims of their own.
    pub device_unfit: bool,
}

/// What a valid subscription token says. It is for the session to compare `user`, `channel` and `client` with its own:
/// a token that is valid is not yet one for this subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeClaims {
    /// `sub`; must be the connection's user.
    pub user: String,
    /// Never empty.
    pub channel: String,
    /// Older tokens are bound to one public client id; empty for any.
    pub client: String,
    /// As [`ConnectClaims::expire_at_s`], of the subscription.
    pub expire_at_s: Option<u64>,
    pub grant: SubscribeGrant,
    pub id: Option<String>,
    pub issued_at_s: Option<u64>,
}

/// How one subscription differs from what its channel's options say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscribeGrant {
    /// JSON shown to others as `chan_info`.
    pub info: Option<Bytes>,
    /// JSON handed to the client with the subscription.
    pub data: Option<Bytes>,
    pub overrides: Overrides,
    /// Publications are left out that it does not match.
    pub filter: Option<Filter>,
    /// What it begins with, in the place of what the namespace says.
    pub rewind: Option<Rewind>,
    /// How often it is given something, where that is slower than its channel.
    pub deliver_every: DeliverEvery,
}

/// Channel options replaced for one subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OverridesWire")]
pub struct Overrides {
    pub presence: Option<bool>,
    pub join_leave: Option<bool>,
    pub force_push_join_leave: Option<bool>,
    pub force_positioning: Option<bool>,
    pub force_recovery: Option<bool>,
}

/// The claims that every token is judged by. Dates are seconds since 1970.
pub(super) trait ClaimsFrame {
    fn expires(&self) -> Option<i64>;
    fn begins(&self) -> Option<i64>;
    /// When what the token grants ends, if it says so itself; not positive: never.
    fn ends(&self) -> Option<i64>;
    /// Whether one of those that it is for is `wanted`.
    fn is_for(&self, wanted: &dyn Fn(&str) -> bool) -> bool;
    fn issuer(&self) -> Option<&str>;
    fn has_user(&self) -> bool;
    fn set_user(&mut self, user: String);
}

/// A token on the wire: the claims that both kinds have, and those of its own. Not serde's `flatten`: it would make a
/// tree of every claim that is not ours, and refuse a token for a number or a depth in one of those.
macro_rules! wire {
    ($wire:ident { $($claim:ident: $form:ty,)+ }) => {
        #[derive(Deserialize)]
        pub(super) struct $wire {
            sub: Option<String>,
            exp: Option<NumericDate>,
            nbf: Option<NumericDate>,
            iat: Option<NumericDate>,
            jti: Option<String>,
            aud: Option<Audience>,
            iss: Option<String>,
            expire_at: Option<NumericDate>,
            info: Option<Box<RawValue>>,
            b64info: Option<String>,
            channel: Option<String>,
            $($claim: Option<$form>,)+
        }

        impl ClaimsFrame for $wire {
            fn expires(&self) -> Option<i64> {
                self.exp.map(|exp| exp.0)
            }

            fn begins(&self) -> Option<i64> {
                self.nbf.map(|nbf| nbf.0)
            }

            fn ends(&self) -> Option<i64> {
                self.expire_at.map(|end| end.0)
            }

            fn is_for(&self, wanted: &dyn Fn(&str) -> bool) -> bool {
                self.aud.as_ref().is_some_and(|aud| aud.holds(wanted))
            }

            fn has_user(&self) -> bool {
                self.sub.as_ref().is_some_and(|user| !user.is_empty())
            }

            fn set_user(&mut self, user: String) {
                self.sub = Some(user);
            }

            fn issuer(&self) -> Option<&str> {
                self.iss.as_deref()
            }
        }
    };
}

wire!(ConnectWire {
    channels: Vec<String>,
    subs: Object<BTreeMap<String, Object<GrantWire>>>,
    meta: Box<RawValue>,
    caps: Box<RawValue>,
    device: Box<RawValue>,
});

wire!(SubscribeWire {
    client: String,
    data: Box<RawValue>,
    b64data: String,
    r#override: Object<Overrides>,
    allow: Box<RawValue>,
    server_tags_filter: Box<RawValue>,
    rewind: Rewind,
    deliver_every: DeliverEvery,
});

impl ConnectWire {
    pub fn claims(self) -> Result<ConnectClaims, TokenFault> {
        if self.channel.is_some_and(|channel| !channel.is_empty()) {
            return Err(Flaw::NotForConnecting.into());
        }
        none_of(&self.caps)?;
        let subs = self.subs.unwrap_or_default().0;
        let subs = if subs.is_empty() {
            let channels = self.channels.unwrap_or_default().into_iter();
            channels.map(|channel| (channel, SubscribeGrant::default())).collect()
        } else {
            let grants = subs.into_iter().map(|(channel, wire)| Ok((channel, wire.0.grant()?)));
            grants.collect::<Result<BTreeMap<_, _>, TokenFault>>()?
        };
        if subs.contains_key("") {
            return Err(Flaw::NoChannel.into());
        }
        let device = self.device.map_or(Ok(None), |claim| device_of(&claim));
        Ok(ConnectClaims {
            user: self.sub.unwrap_or_default(),
            expire_at_s: expire_at(self.expire_at, self.exp),
            info: json(self.info, self.b64info)?,
            subs,
            meta: self.meta.map(raw),
            id: self.jti,
            issued_at_s: self.iat.and_then(NumericDate::positive),
            device_unfit: device.is_err(),
            device: device.unwrap_or_default(),
        })
    }
}

fn device_of(claim: &RawValue) -> Result<Option<String>, ()> {
    let device: Option<String> = serde_json::from_str(claim.get()).map_err(|_| ())?;
    let device = device.filter(|device| !device.is_empty());
    if device.as_ref().is_some_and(|device| device.len() > DEVICE_BYTES_MAX) { Err(()) } else { Ok(device) }
}

impl SubscribeWire {
    pub fn claims(self) -> Result<SubscribeClaims, TokenFault> {
        let channel = self.channel.filter(|channel| !channel.is_empty()).ok_or(Flaw::NoChannel)?;
        let grant = GrantWire {
            info: self.info,
            b64info: self.b64info,
            data: self.data,
            b64data: self.b64data,
            r#override: self.r#override,
            allow: self.allow,
            server_tags_filter: self.server_tags_filter,
            rewind: self.rewind,
            deliver_every: self.deliver_every,
        };
        Ok(SubscribeClaims {
            user: self.sub.unwrap_or_default(),
            channel,
            client: self.client.unwrap_or_default(),
            expire_at_s: expire_at(self.expire_at, self.exp),
            grant: grant.grant()?,
            id: self.jti,
            issued_at_s: self.iat.and_then(NumericDate::positive),
        })
    }
}

/// Seconds since 1970, whole or not (RFC 7519 section 2), or a text that holds them, as some libraries write it. A
/// fraction is cut. A date beyond 64 bits is as far away as any.
#[derive(Clone, Copy)]
struct NumericDate(i64);

impl NumericDate {
    fn positive(self) -> Option<u64> {
        u64::try_from(self.0).ok().filter(|&date| date > 0)
    }

    fn of_text(text: &str) -> Option<NumericDate> {
        let whole = text.parse::<i64>().ok();
        // Not what else Rust reads as a number: "inf", "nan", "+1".
        let decimal = || {
            let is_number =
                text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'-' | b'.' | b'e' | b'E' | b'+'));
            text.parse::<f64>().ok().filter(|_| is_number)
        };
        whole.map(NumericDate).or_else(|| decimal().map(NumericDate::of_decimal))
    }

    fn of_decimal(date: f64) -> NumericDate {
        // Saturates.
        NumericDate(date.floor() as i64)
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(from)?;
        let text: Cow<'_, str> = match raw.get() {
            quoted if quoted.starts_with('"') => {
                serde_json::from_str::<String>(quoted).map_err(D::Error::custom)?.trim().to_string().into()
            }
            number => number.into(),
        };
        NumericDate::of_text(&text).ok_or_else(|| D::Error::custom("not a date in seconds since 1970"))
    }
}

/// One recipient or several (RFC 7519 section 4.1.3).
#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

impl Audience {
    fn holds(&self, wanted: &dyn Fn(&str) -> bool) -> bool {
        match self {
            Audience::One(one) => wanted(one),
            Audience::Several(several) => several.iter().any(|one| wanted(one)),
        }
    }
}

#[derive(Deserialize)]
struct GrantWire {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    r#override: Option<Object<Overrides>>,
    allow: Option<Box<RawValue>>,
    server_tags_filter: Option<Box<RawValue>>,
    rewind: Option<Rewind>,
    deliver_every: Option<DeliverEvery>,
}

/// A grant that is not held here: passed over, who signs would take for granted what nobody keeps.
fn none_of(grant: &Option<Box<RawValue>>) -> Result<(), TokenFault> {
    match grant.as_ref().map(|grant| grant.get()) {
        None | Some("null" | "[]" | "{}" | "\"\"") => Ok(()),
        Some(_) => Err(Flaw::Grant.into()),
    }
}

impl GrantWire {
    fn grant(self) -> Result<SubscribeGrant, TokenFault> {
        none_of(&self.allow)?;
        let filter = match none_of(&self.server_tags_filter) {
            Ok(()) => None,
            Err(_) => self.server_tags_filter.map(|tree| Filter::parse(tree.get())),
        };
        let filter = filter.transpose().map_err(|_| Flaw::Grant)?;
        let info = json(self.info, self.b64info)?;
        let data = json(self.data, self.b64data)?;
        let overrides = self.r#override.unwrap_or_default().0;
        let deliver_every = self.deliver_every.unwrap_or_default();
        Ok(SubscribeGrant { info, data, overrides, filter, rewind: self.rewind, deliver_every })
    }
}

/// [`Overrides`] as backends write them. Each option is an object, so that false differs from absent in languages without null.
#[derive(Deserialize)]
struct OverridesWire {
    presence: Option<Object<Switch>>,
    join_leave: Option<Object<Switch>>,
    force_push_join_leave: Option<Object<Switch>>,
    force_positioning: Option<Object<Switch>>,
    force_recovery: Option<Object<Switch>>,
}

#[derive(Deserialize)]
struct Switch {
    value: Option<bool>,
}

impl From<OverridesWire> for Overrides {
    fn from(wire: OverridesWire) -> Overrides {
        let value =
            |switch: Option<Object<Switch>>| switch.map(|Object(switch)| switch.value.unwrap_or(false));
        Overrides {
            presence: value(wire.presence),
            join_leave: value(wire.join_leave),
            force_push_join_leave: value(wire.force_push_join_leave),
            force_positioning: value(wire.force_positioning),
            force_recovery: value(wire.force_recovery),
        }
    }
}

fn expire_at(expire_at: Option<NumericDate>, exp: Option<NumericDate>) -> Option<u64> {
    expire_at.or(exp).and_then(NumericDate::positive)
}

/// A payload given as JSON or as base64 of it; base64 wins when both are there. What it holds must be JSON too: it is
/// going to be copied into JSON frames.
fn json(plain: Option<Box<RawValue>>, base64: Option<String>) -> Result<Option<Bytes>, TokenFault> {
    let Some(base64) = base64.filter(|base64| !base64.is_empty()) else { return Ok(plain.map(raw)) };
    let decoded = STANDARD.decode(base64).map_err(|_| Flaw::Base64)?;
    match serde_json::from_slice::<IgnoredAny>(&decoded) {
        Ok(_) => Ok(Some(decoded.into())),
        Err(_) => Err(Flaw::NotJson.into()),
    }
}

fn raw(value: Box<RawValue>) -> Bytes {
    Bytes::from(Box::<str>::from(value).into_boxed_bytes())
}
