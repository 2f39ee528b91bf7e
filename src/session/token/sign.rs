//! Tokens made here, for the command line and for tests: HMAC only.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::base::limits::TOKEN_BYTES_MAX;
use crate::session::token::algorithm::sign_hs256;

/// What both kinds of token say. Fields that are empty are left out.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct TokenBasis<'a> {
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
}

/// A connection token to be signed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct ConnectToken<'a> {
    #[serde(flatten)]
    pub basis: TokenBasis<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub meta: Option<&'a RawValue>,
    /// What tells the device from others of the user.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<&'a str>,
    /// Server-side subscriptions.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    pub channels: &'a [String],
}

/// A subscription token to be signed.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct SubscribeToken<'a> {
    #[serde(flatten)]
    pub basis: TokenBasis<'a>,
    pub channel: &'a str,
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
/// An empty secret, or claims so large that [`super::Verifier`] would refuse the token.
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
    let claims = serde_json::to_vec(claims).map_err(|_| SignFault::Unsigned)?;
    let header = URL_SAFE_NO_PAD.encode(r#"{"typ":"JWT","alg":"HS256"}"#);
    let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign_hs256(hmac_secret, signed.as_bytes()));
    let token = format!("{signed}.{signature}");
    if token.len() > TOKEN_BYTES_MAX { Err(SignFault::TooLong) } else { Ok(token) }
}
