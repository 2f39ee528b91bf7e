//! JSON Web Tokens (RFC 7519) signed with HMAC (RFC 7518 section 3.2): who a client is, and what it may subscribe to.
//!
//! The time is an argument and there is no leeway: hosts that sign and hosts that verify are expected to keep the time,
//! and a client whose token has just expired gets a new one without a user noticing. A token holds from `nbf`,
//! inclusive, until `exp`, exclusive (RFC 7519 sections 4.1.4 and 4.1.5).

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::base::bytes::Bytes;
use crate::base::fault::{Disconnect, Refusal};

/// Longest token that is looked at, in bytes. Browsers and proxies cut headers at this size, so backends keep their
/// tokens below it; what is longer is not worth its hash.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// What a token must satisfy.
#[derive(Clone, Default)]
pub struct TokenOptions {
    /// The shared secret of HS256, HS384 and HS512. Empty: no token is valid.
    pub hmac_secret: Vec<u8>,
    /// When set, `aud` must be or hold this.
    pub audience: Option<String>,
    /// When set, `iss` must be this.
    pub issuer: Option<String>,
}

impl fmt::Debug for TokenOptions {
    /// Without the secret: options end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenOptions")
            .field("audience", &self.audience)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Why a token is refused.
///
/// On the wire: of a connection token, invalid closes with 3500 and expired is error 109; of a subscription token they
/// are the errors 103 and 109. A client that is told 109 asks its application for a new token and tries again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenFault {
    /// Not ours, malformed or made for somebody else; the reason is for the log.
    Invalid(&'static str),
    /// Outside its time: expired, or not valid yet. The published server calls both expired.
    Expired,
}

impl TokenFault {
    /// What a `connect` or `refresh` with such a token gets: an error reply or the end of the connection.
    pub fn of_connection(self) -> Result<Refusal, Disconnect> {
        match self {
            TokenFault::Invalid(_) => Err(Disconnect::INVALID_TOKEN),
            TokenFault::Expired => Ok(Refusal::TokenExpired),
        }
    }

    /// What a `subscribe` or `sub_refresh` with such a token gets.
    pub fn of_subscription(self) -> Refusal {
        match self {
            TokenFault::Invalid(_) => Refusal::PermissionDenied,
            TokenFault::Expired => Refusal::TokenExpired,
        }
    }
}

impl fmt::Display for TokenFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TokenFault::Invalid(why) => write!(f, "invalid token: {why}"),
            TokenFault::Expired => f.write_str("token expired"),
        }
    }
}

impl std::error::Error for TokenFault {}

/// What a valid connection token says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConnectClaims {
    /// `sub`; empty for an anonymous user.
    pub user: String,
    /// When the connection ends unless it is refreshed, in seconds since 1970: `expire_at` where given (not positive
    /// means never), else `exp`. May already have passed when `expire_at` was given.
    pub expire_at_s: Option<u64>,
    /// JSON shown to others as `conn_info`.
    pub info: Option<Bytes>,
    /// Server-side subscriptions by channel: `subs`, or `channels` with nothing special when there are none.
    pub subs: BTreeMap<String, SubscribeGrant>,
    /// JSON that only the backend gets to see.
    pub meta: Option<Bytes>,
    /// `jti`, for whoever revokes tokens.
    pub id: Option<String>,
    /// `iat`, in seconds since 1970.
    pub issued_at_s: Option<u64>,
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
}

/// Channel options replaced for one subscription.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub presence: Option<bool>,
    pub join_leave: Option<bool>,
    pub force_push_join_leave: Option<bool>,
    pub force_positioning: Option<bool>,
    pub force_recovery: Option<bool>,
}

/// Verifies tokens against one set of options.
pub struct Verifier {
    /// `None` when no secret is configured.
    key: Option<DecodingKey>,
    validation: Validation,
    audience: Option<String>,
    issuer: Option<String>,
}

impl Verifier {
    pub fn new(options: TokenOptions) -> Verifier {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.algorithms = vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
        // The library reads the clock; what it would check is checked here, with the time of the caller.
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        let key = (!options.hmac_secret.is_empty()).then(|| DecodingKey::from_secret(&options.hmac_secret));
        Verifier { key, validation, audience: options.audience, issuer: options.issuer }
    }

    /// Verifies the token of a `connect` or `refresh` at `unix_now_s`, seconds since 1970.
    ///
    /// # Errors
    /// See [`TokenFault::of_connection`] for what goes out. A subscription token is not taken for a connection token.
    pub fn verify_connect(&self, token: &str, unix_now_s: u64) -> Result<ConnectClaims, TokenFault> {
        let wire: ConnectWire = self.claims(token)?;
        self.check(&wire.exp, &wire.nbf, &wire.aud, &wire.iss, unix_now_s)?;
        if wire.channel.is_some_and(|channel| !channel.is_empty()) {
            return Err(TokenFault::Invalid("a subscription token is not a connection token"));
        }
        let subs = wire.subs.unwrap_or_default();
        let subs = if subs.is_empty() {
            let channels = wire.channels.unwrap_or_default().into_iter();
            channels.map(|channel| (channel, SubscribeGrant::default())).collect()
        } else {
            let grants = subs.into_iter().map(|(channel, wire)| Ok((channel, wire.grant()?)));
            grants.collect::<Result<BTreeMap<_, _>, TokenFault>>()?
        };
        if subs.contains_key("") {
            return Err(TokenFault::Invalid("subscription without a channel"));
        }
        Ok(ConnectClaims {
            user: wire.sub.unwrap_or_default(),
            expire_at_s: expire_at(wire.expire_at, wire.exp),
            info: json(wire.info, wire.b64info)?,
            subs,
            meta: wire.meta.map(raw),
            id: wire.jti,
            issued_at_s: wire.iat.and_then(NumericDate::positive),
        })
    }

    /// Verifies the token of a `subscribe` or `sub_refresh` at `unix_now_s`, seconds since 1970.
    ///
    /// # Errors
    /// See [`TokenFault::of_subscription`] for what goes out. A connection token is not taken for a subscription token.
    pub fn verify_subscribe(&self, token: &str, unix_now_s: u64) -> Result<SubscribeClaims, TokenFault> {
        let wire: SubscribeWire = self.claims(token)?;
        self.check(&wire.exp, &wire.nbf, &wire.aud, &wire.iss, unix_now_s)?;
        let channel = wire.channel.filter(|channel| !channel.is_empty());
        let channel = channel.ok_or(TokenFault::Invalid("subscription token without a channel"))?;
        let grant = GrantWire {
            info: wire.info,
            b64info: wire.b64info,
            data: wire.data,
            b64data: wire.b64data,
            r#override: wire.r#override,
        };
        Ok(SubscribeClaims {
            user: wire.sub.unwrap_or_default(),
            channel,
            client: wire.client.unwrap_or_default(),
            expire_at_s: expire_at(wire.expire_at, wire.exp),
            grant: grant.grant()?,
            id: wire.jti,
            issued_at_s: wire.iat.and_then(NumericDate::positive),
        })
    }

    /// The claims of a token whose signature holds. Nothing of a token is believed before.
    fn claims<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenFault> {
        use jsonwebtoken::errors::ErrorKind;
        let key = self.key.as_ref().ok_or(TokenFault::Invalid("no token key is configured"))?;
        if token.is_empty() {
            return Err(TokenFault::Invalid("empty"));
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::Invalid("longer than 8 KiB"));
        }
        let decoded = jsonwebtoken::decode::<T>(token, key, &self.validation).map_err(|error| {
            TokenFault::Invalid(match error.kind() {
                ErrorKind::InvalidSignature => "signature does not match",
                ErrorKind::InvalidAlgorithm => "algorithm is not HS256, HS384 or HS512",
                ErrorKind::Base64(_) => "not base64url",
                ErrorKind::Json(_) | ErrorKind::Utf8(_) => "header or claims are not what they should be",
                _ => "not a token",
            })
        })?;
        // Extensions that the signer says must be understood (RFC 7515 section 4.1.11). None is.
        if decoded.header.crit.is_some() {
            return Err(TokenFault::Invalid("critical header extension"));
        }
        Ok(decoded.claims)
    }

    fn check(
        &self,
        exp: &Option<NumericDate>,
        nbf: &Option<NumericDate>,
        aud: &Option<Audience>,
        iss: &Option<String>,
        unix_now_s: u64,
    ) -> Result<(), TokenFault> {
        let now = i64::try_from(unix_now_s).unwrap_or(i64::MAX);
        if exp.is_some_and(|exp| exp.0 <= now) || nbf.is_some_and(|nbf| nbf.0 > now) {
            return Err(TokenFault::Expired);
        }
        if let Some(expected) = &self.audience
            && !aud.as_ref().is_some_and(|aud| aud.holds(expected))
        {
            return Err(TokenFault::Invalid("made for another audience"));
        }
        if self.issuer.is_some() && *iss != self.issuer {
            return Err(TokenFault::Invalid("made by another issuer"));
        }
        Ok(())
    }
}

/// A connection token to be signed. Fields that are empty are left out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ConnectToken<'a> {
    #[serde(rename = "sub")]
    pub user: &'a str,
    /// Seconds since 1970.
    #[serde(rename = "exp", skip_serializing_if = "Option::is_none")]
    pub expires_at_s: Option<u64>,
    /// Seconds since 1970.
    #[serde(rename = "iat", skip_serializing_if = "Option::is_none")]
    pub issued_at_s: Option<u64>,
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<&'a str>,
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<&'a RawValue>,
    /// Server-side subscriptions.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub channels: &'a [String],
}

/// A subscription token to be signed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SubscribeToken<'a> {
    #[serde(rename = "sub")]
    pub user: &'a str,
    pub channel: &'a str,
    /// Seconds since 1970.
    #[serde(rename = "exp", skip_serializing_if = "Option::is_none")]
    pub expires_at_s: Option<u64>,
    /// Seconds since 1970.
    #[serde(rename = "iat", skip_serializing_if = "Option::is_none")]
    pub issued_at_s: Option<u64>,
    #[serde(rename = "aud", skip_serializing_if = "Option::is_none")]
    pub audience: Option<&'a str>,
    #[serde(rename = "iss", skip_serializing_if = "Option::is_none")]
    pub issuer: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub info: Option<&'a RawValue>,
}

/// Why a token cannot be signed: a fault of the configuration or of the command line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignFault {
    #[error("no token key is configured")]
    NoKey,
    #[error("a subscription token needs a channel")]
    NoChannel,
    #[error("token is longer than {TOKEN_BYTES_MAX} bytes")]
    TooLong,
    #[error("token cannot be signed")]
    Unsigned,
}

/// Signs a connection token with HS256.
///
/// # Errors
/// An empty secret, or claims so large that [`Verifier`] would refuse the token.
pub fn sign_connect(hmac_secret: &[u8], token: &ConnectToken<'_>) -> Result<String, SignFault> {
    sign(hmac_secret, token)
}

/// Signs a subscription token with HS256.
///
/// # Errors
/// As [`sign_connect`], and an empty channel.
pub fn sign_subscribe(hmac_secret: &[u8], token: &SubscribeToken<'_>) -> Result<String, SignFault> {
    if token.channel.is_empty() {
        return Err(SignFault::NoChannel);
    }
    sign(hmac_secret, token)
}

fn sign(hmac_secret: &[u8], claims: &impl Serialize) -> Result<String, SignFault> {
    if hmac_secret.is_empty() {
        return Err(SignFault::NoKey);
    }
    let key = EncodingKey::from_secret(hmac_secret);
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &key)
        .map_err(|_| SignFault::Unsigned)?;
    if token.len() > TOKEN_BYTES_MAX { Err(SignFault::TooLong) } else { Ok(token) }
}

/// Seconds since 1970, whole or not (RFC 7519 section 2); a fraction is cut.
#[derive(Clone, Copy)]
struct NumericDate(i64);

impl NumericDate {
    fn positive(self) -> Option<u64> {
        u64::try_from(self.0).ok().filter(|&date| date > 0)
    }
}

impl<'de> Deserialize<'de> for NumericDate {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Number {
            Whole(i64),
            Fraction(f64),
        }
        Ok(NumericDate(match Number::deserialize(from)? {
            Number::Whole(date) => date,
            // Saturates: a date beyond the range of 64 bits is as far away as any.
            Number::Fraction(date) => date.floor() as i64,
        }))
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
    fn holds(&self, recipient: &str) -> bool {
        match self {
            Audience::One(one) => one == recipient,
            Audience::Several(several) => several.iter().any(|one| one == recipient),
        }
    }
}

#[derive(Deserialize)]
struct ConnectWire {
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
    channels: Option<Vec<String>>,
    subs: Option<BTreeMap<String, GrantWire>>,
    meta: Option<Box<RawValue>>,
    channel: Option<String>,
}

#[derive(Deserialize)]
struct SubscribeWire {
    sub: Option<String>,
    channel: Option<String>,
    client: Option<String>,
    exp: Option<NumericDate>,
    nbf: Option<NumericDate>,
    iat: Option<NumericDate>,
    jti: Option<String>,
    aud: Option<Audience>,
    iss: Option<String>,
    expire_at: Option<NumericDate>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    r#override: Option<OverridesWire>,
}

#[derive(Deserialize)]
struct GrantWire {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    r#override: Option<OverridesWire>,
}

impl GrantWire {
    fn grant(self) -> Result<SubscribeGrant, TokenFault> {
        let info = json(self.info, self.b64info)?;
        let data = json(self.data, self.b64data)?;
        let overrides = self.r#override.map_or_else(Overrides::default, OverridesWire::overrides);
        Ok(SubscribeGrant { info, data, overrides })
    }
}

/// Each option is an object, so that false differs from absent in languages without null.
#[derive(Deserialize)]
struct OverridesWire {
    presence: Option<Switch>,
    join_leave: Option<Switch>,
    force_push_join_leave: Option<Switch>,
    force_positioning: Option<Switch>,
    force_recovery: Option<Switch>,
}

#[derive(Deserialize)]
struct Switch {
    #[serde(default)]
    value: bool,
}

impl OverridesWire {
    fn overrides(self) -> Overrides {
        let value = |switch: Option<Switch>| switch.map(|switch| switch.value);
        Overrides {
            presence: value(self.presence),
            join_leave: value(self.join_leave),
            force_push_join_leave: value(self.force_push_join_leave),
            force_positioning: value(self.force_positioning),
            force_recovery: value(self.force_recovery),
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
    let decoded =
        STANDARD.decode(base64).map_err(|_| TokenFault::Invalid("b64info or b64data is not base64"))?;
    match serde_json::from_slice::<IgnoredAny>(&decoded) {
        Ok(_) => Ok(Some(decoded.into())),
        Err(_) => Err(TokenFault::Invalid("b64info or b64data does not hold JSON")),
    }
}

fn raw(value: Box<RawValue>) -> Bytes {
    Bytes::from(Box::<str>::from(value).into_boxed_bytes())
}

#[cfg(test)]
#[path = "token_tests.rs"]
mod tests;
