//! JSON Web Tokens (RFC 7519): who a client is, and what it may subscribe to.
//!
//! Inputs: a token, the time, the keys of the configuration and those that an issuer publishes. Outputs: claims, or the
//! [`TokenFault`] by name. Must not know: where a token came from, how published keys are fetched.
//!
//! The time is an argument. A token holds from `nbf`, inclusive, until `exp`, exclusive (RFC 7519 sections 4.1.4 and
//! 4.1.5), both widened by a leeway for hosts whose clocks differ. A token that renews is held to our own clock: one whose
//! end has passed makes nothing last longer, and one that begins later can be shown again while there is time; the leeway
//! counts once that time is up. `iat` is no reason to refuse a token: it says when it was made, and a token that must not
//! be used before a time has an `nbf`.
//!
//! Which key a token is held against follows from its algorithm, and the algorithm must be one of that key's: a public
//! key never serves as the secret of an HMAC. HMAC is the shared secret's alone. With a `jwks_url`, a token that names
//! its key (`kid`) is held against the published key of that name and no other; one that names none, against the
//! configured key of its kind or, without one, the only published key that fits.

mod algorithm;
mod claims;
mod fault;
pub mod keys;
pub mod published;
mod sign;
#[cfg(test)]
pub(crate) mod signer;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::value::RawValue;

use crate::base::json::object;
use crate::base::limits::TOKEN_BYTES_MAX;
use crate::base::pattern::Pattern;
use crate::session::token::algorithm::{Algorithm, Family};
use crate::session::token::claims::{ClaimsFrame, ConnectWire, SubscribeWire};
use crate::session::token::keys::TokenKey;
use crate::session::token::published::{PublishedKeys, Sought};

pub use claims::{ConnectClaims, Overrides, SubscribeClaims, SubscribeGrant};
pub use fault::{Flaw, TokenFault};
pub use sign::{ConnectToken, SignFault, SubscribeToken, TokenBasis, sign_connect, sign_subscribe};

/// What a token must satisfy.
#[derive(Clone, Default)]
pub struct TokenOptions {
    /// The shared secret of HS256, HS384 and HS512. Empty: none of them is taken.
    pub hmac_secret: Vec<u8>,
    /// Further secrets, and until when each is taken, in seconds since 1970; `None` for ever.
    pub hmac_secrets: Vec<(Vec<u8>, Option<u64>)>,
    /// Public keys, at most one for each kind of algorithm.
    pub rsa: Option<TokenKey>,
    pub ecdsa: Option<TokenKey>,
    pub eddsa: Option<TokenKey>,
    /// The keys that the issuer publishes.
    pub published: Option<Arc<PublishedKeys>>,
    /// When set, `aud` must be or hold this.
    pub audience: Option<String>,
    /// When set, it must be found in an `aud`.
    pub audience_pattern: Option<Pattern>,
    /// When set, `iss` must be this.
    pub issuer: Option<String>,
    /// When set, it must be found in `iss`.
    pub issuer_pattern: Option<Pattern>,
    /// The claim that holds the user; `None` is `sub`.
    pub user_claim: Option<String>,
    /// A token without a user is none.
    pub require_user: bool,
    /// How far the clocks of hosts that sign and hosts that verify may differ, in seconds.
    pub leeway_s: u64,
}

impl fmt::Debug for TokenOptions {
    /// Without the keys: options end up in logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenOptions")
            .field("audience", &self.audience)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// Verifies the tokens of connections and of subscriptions.
pub struct Verifier {
    connection: Judge,
    /// `None`: as those of connections.
    subscription: Option<Judge>,
    /// Of keys that were changed, and until when: seconds since 1970.
    previous: Option<(Judge, u64)>,
    previous_subscription: Option<(Judge, u64)>,
}

impl Verifier {
    /// One set of options for both kinds of token.
    pub fn new(options: TokenOptions) -> Verifier {
        Verifier {
            connection: Judge::new(options),
            subscription: None,
            previous: None,
            previous_subscription: None,
        }
    }

    /// Takes tokens of keys that were changed as well, until then.
    pub fn with_previous(mut self, (options, until_s): (TokenOptions, u64)) -> Verifier {
        self.previous = Some((Judge::new(options), until_s));
        self
    }

    /// The same of subscription tokens that have options of their own.
    pub fn with_previous_subscriptions(mut self, (options, until_s): (TokenOptions, u64)) -> Verifier {
        self.previous_subscription = Some((Judge::new(options), until_s));
        self
    }

    /// Holds subscription tokens against options of their own.
    pub fn with_subscriptions(mut self, options: TokenOptions) -> Verifier {
        self.subscription = Some(Judge::new(options));
        self
    }

    /// Verifies the token of a `connect` at `unix_now_s`, seconds since 1970.
    ///
    /// # Errors
    /// See [`TokenFault::of_connection`] for what goes out. A subscription token is not taken for a connection token.
    pub fn verify_connect(&self, token: &str, unix_now_s: u64) -> Result<ConnectClaims, TokenFault> {
        self.connect(token, unix_now_s, Use::Begin)
    }

    /// Verifies the token of a `refresh` of a connection that expires at `expire_at_s`; 0 never.
    ///
    /// # Errors
    /// See [`TokenFault::of_refresh`] for what goes out.
    pub fn verify_refresh(
        &self,
        token: &str,
        unix_now_s: u64,
        expire_at_s: u64,
    ) -> Result<ConnectClaims, TokenFault> {
        self.connect(token, unix_now_s, Use::Renew { expire_at_s })
    }

    fn connect(&self, token: &str, unix_now_s: u64, to: Use) -> Result<ConnectClaims, TokenFault> {
        let previous = self.previous.as_ref();
        let wire = judge_by_either::<ConnectWire>(&self.connection, previous, token, unix_now_s, to)?;
        let mut claims = wire.claims()?;
        claims.expire_at_s = not_ended(claims.expire_at_s, unix_now_s);
        Ok(claims)
    }

    /// Verifies the token of a `subscribe` at `unix_now_s`, seconds since 1970.
    ///
    /// # Errors
    /// See [`TokenFault::of_subscription`] for what goes out. A connection token is not taken for a subscription token.
    pub fn verify_subscribe(&self, token: &str, unix_now_s: u64) -> Result<SubscribeClaims, TokenFault> {
        self.subscribe(token, unix_now_s, Use::Begin)
    }

    /// Verifies the token of a `sub_refresh` of a subscription that expires at `expire_at_s`; 0 never.
    ///
    /// # Errors
    /// As [`Verifier::verify_subscribe`].
    pub fn verify_sub_refresh(
        &self,
        token: &str,
        unix_now_s: u64,
        expire_at_s: u64,
    ) -> Result<SubscribeClaims, TokenFault> {
        self.subscribe(token, unix_now_s, Use::Renew { expire_at_s })
    }

    fn subscribe(&self, token: &str, unix_now_s: u64, to: Use) -> Result<SubscribeClaims, TokenFault> {
        let (judge, previous) = match &self.subscription {
            Some(own) => (own, self.previous_subscription.as_ref()),
            None => (&self.connection, self.previous.as_ref()),
        };
        let mut claims =
            judge_by_either::<SubscribeWire>(judge, previous, token, unix_now_s, to)?.claims()?;
        claims.expire_at_s = not_ended(claims.expire_at_s, unix_now_s);
        Ok(claims)
    }
}

/// By the keys that hold; where they refuse the token, by the ones before while these are accepted.
fn judge_by_either<T: DeserializeOwned + ClaimsFrame>(
    judge: &Judge,
    previous: Option<&(Judge, u64)>,
    token: &str,
    unix_now_s: u64,
    to: Use,
) -> Result<T, TokenFault> {
    let judged = judge.judge::<T>(token, unix_now_s, to);
    match (judged, previous) {
        (Err(fault), Some((previous, until_s))) if unix_now_s < *until_s => {
            // Of a key that is known here, the fault is the token's own: expired, not strange.
            previous.judge::<T>(token, unix_now_s, to).map_err(|of_previous| match of_previous {
                TokenFault::Expired | TokenFault::Over | TokenFault::NotYetValid => of_previous,
                _ => fault,
            })
        }
        (judged, _) => judged,
    }
}

/// What a token is shown for: how much of the leeway counts follows from it.
#[derive(Clone, Copy)]
enum Use {
    /// To be let in: all of it.
    Begin,
    /// To make what ends at `expire_at_s` (0: never) last longer: only for `nbf`, and only when the end is near.
    Renew { expire_at_s: u64 },
}

/// The end of what a token grants that still holds: in the leeway it is a second away.
fn not_ended(expire_at_s: Option<u64>, unix_now_s: u64) -> Option<u64> {
    expire_at_s.map(|at| at.max(unix_now_s.saturating_add(1)))
}

/// One set of keys and of what a token must say.
struct Judge {
    /// Until when each is taken, in seconds since 1970.
    hmac: Vec<(TokenKey, Option<u64>)>,
    rsa: Option<Arc<TokenKey>>,
    ecdsa: Option<Arc<TokenKey>>,
    eddsa: Option<Arc<TokenKey>>,
    published: Option<Arc<PublishedKeys>>,
    audience: Option<String>,
    audience_pattern: Option<Pattern>,
    issuer: Option<String>,
    issuer_pattern: Option<Pattern>,
    user_claim: Option<String>,
    require_user: bool,
    leeway_s: u64,
}

/// What a token says of itself before anything of it is believed.
#[derive(Deserialize)]
struct ShownToken {
    alg: Option<String>,
    kid: Option<String>,
    crit: Option<IgnoredAny>,
}

impl Judge {
    fn new(options: TokenOptions) -> Judge {
        let first = [(options.hmac_secret, None)];
        let secrets = first.into_iter().chain(options.hmac_secrets).filter(|(secret, _)| !secret.is_empty());
        Judge {
            hmac: secrets.map(|(secret, until_s)| (TokenKey::hmac(&secret), until_s)).collect(),
            rsa: options.rsa.map(Arc::new),
            ecdsa: options.ecdsa.map(Arc::new),
            eddsa: options.eddsa.map(Arc::new),
            published: options.published,
            audience: options.audience,
            audience_pattern: options.audience_pattern,
            issuer: options.issuer,
            issuer_pattern: options.issuer_pattern,
            user_claim: options.user_claim.filter(|claim| claim != "sub"),
            require_user: options.require_user,
            leeway_s: options.leeway_s,
        }
    }

    /// The claims of a token whose signature holds and which is for us and now. Nothing is believed before.
    fn judge<T: DeserializeOwned + ClaimsFrame>(
        &self,
        token: &str,
        unix_now_s: u64,
        to: Use,
    ) -> Result<T, TokenFault> {
        if token.is_empty() {
            return Err(Flaw::Empty.into());
        }
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Flaw::TooLong.into());
        }
        let (algorithm, kid) = shown(token)?;
        let mut claims: T = match algorithm.family() {
            Family::Hmac => self.open_hmac(token, algorithm, unix_now_s)?,
            _ => self.key(algorithm, kid.as_deref(), unix_now_s)?.open(token, algorithm)?,
        };
        if let Some(claim) = &self.user_claim {
            claims.set_user(text_claim(token, claim)?);
        }
        self.check(&claims, unix_now_s, to)?;
        Ok(claims)
    }

    /// By the first secret that has signed it and is still taken.
    fn open_hmac<T: DeserializeOwned>(
        &self,
        token: &str,
        algorithm: Algorithm,
        unix_now_s: u64,
    ) -> Result<T, TokenFault> {
        let mut fault = Flaw::NoKey.into();
        for (key, until_s) in &self.hmac {
            if until_s.is_some_and(|until_s| until_s <= unix_now_s) {
                fault = Flaw::Signature.into();
                continue;
            }
            match key.open(token, algorithm) {
                Err(TokenFault::Invalid(Flaw::Signature)) => fault = Flaw::Signature.into(),
                outcome => return outcome,
            }
        }
        Err(fault)
    }

    fn key(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        unix_now_s: u64,
    ) -> Result<Arc<TokenKey>, TokenFault> {
        let configured = match algorithm.family() {
            // Secrets are tried one by one: see `open_hmac`.
            Family::Hmac => &None,
            Family::Rsa => &self.rsa,
            Family::Ecdsa => &self.ecdsa,
            Family::Eddsa => &self.eddsa,
        };
        let published = self
            .published
            .as_ref()
            .filter(|_| algorithm.family() != Family::Hmac && (kid.is_some() || configured.is_none()));
        if let Some(published) = published {
            return match published.find(kid, algorithm, unix_now_s) {
                Sought::Found(key) => Ok(key),
                Sought::Awaited => Err(TokenFault::KeyAwaited),
                Sought::Absent => Err(Flaw::KeyUnknown.into()),
                Sought::Unnamed => Err(Flaw::KeyUnnamed.into()),
                Sought::Misfit => Err(Flaw::KeyMisfit.into()),
                Sought::LongName => Err(Flaw::KeyNameTooLong.into()),
            };
        }
        match configured {
            Some(key) if key.fits(algorithm) => Ok(Arc::clone(key)),
            Some(_) => Err(Flaw::KeyMisfit.into()),
            None => Err(Flaw::NoKey.into()),
        }
    }

    fn check(&self, claims: &impl ClaimsFrame, unix_now_s: u64, to: Use) -> Result<(), TokenFault> {
        let now = i64::try_from(unix_now_s).unwrap_or(i64::MAX);
        let (before_nbf, behind_end) = match to {
            Use::Begin => (self.leeway_s, self.leeway_s),
            Use::Renew { expire_at_s: 0 } => (0, 0),
            Use::Renew { expire_at_s } if expire_at_s > unix_now_s.saturating_add(self.leeway_s) => (0, 0),
            Use::Renew { .. } => (self.leeway_s, 0),
        };
        let seconds = |leeway_s: u64| i64::try_from(leeway_s).unwrap_or(i64::MAX);
        let is_past = |date: i64| date.saturating_add(seconds(behind_end)) <= now;
        if claims.expires().is_some_and(is_past) {
            return Err(TokenFault::Expired);
        }
        if claims.begins().is_some_and(|nbf| nbf > now.saturating_add(seconds(before_nbf))) {
            return Err(TokenFault::NotYetValid);
        }
        // The token itself still holds, but what it grants has ended.
        if claims.ends().is_some_and(|end| end > 0 && is_past(end)) {
            return Err(TokenFault::Over);
        }
        if let Some(expected) = &self.audience
            && !claims.is_for(&|audience| audience == expected)
        {
            return Err(Flaw::Audience.into());
        }
        if let Some(pattern) = &self.audience_pattern
            && !claims.is_for(&|audience| pattern.is_in(audience))
        {
            return Err(Flaw::Audience.into());
        }
        if self.issuer.is_some() && claims.issuer() != self.issuer.as_deref() {
            return Err(Flaw::Issuer.into());
        }
        if let Some(pattern) = &self.issuer_pattern
            && !claims.issuer().is_some_and(|issuer| pattern.is_in(issuer))
        {
            return Err(Flaw::Issuer.into());
        }
        if self.require_user && !claims.has_user() {
            return Err(Flaw::NoUser.into());
        }
        Ok(())
    }
}

/// A claim of the token by its name, empty when it is not there: of a token whose signature holds.
fn text_claim(token: &str, name: &str) -> Result<String, TokenFault> {
    let claims = token.split('.').nth(1).ok_or(Flaw::Malformed)?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Flaw::Encoding)?;
    let claims: BTreeMap<String, Box<RawValue>> = object(&claims).map_err(|_| Flaw::Contents)?;
    let Some(claim) = claims.get(name) else { return Ok(String::new()) };
    let text: Option<String> = serde_json::from_str(claim.get()).map_err(|_| Flaw::Contents)?;
    Ok(text.unwrap_or_default())
}

/// Reads the header: what the token claims to be signed with.
fn shown(token: &str) -> Result<(Algorithm, Option<String>), TokenFault> {
    let mut parts = token.split('.');
    let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(Flaw::Malformed.into());
    };
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| Flaw::Encoding)?;
    let shown: ShownToken = object(&header).map_err(|_| Flaw::Contents)?;
    let algorithm = shown.alg.ok_or(Flaw::Contents)?;
    if algorithm.eq_ignore_ascii_case("none") {
        return Err(Flaw::Unsigned.into());
    }
    // Extensions that the signer says must be understood (RFC 7515 section 4.1.11). None is.
    if shown.crit.is_some() {
        return Err(Flaw::Critical.into());
    }
    let algorithm = Algorithm::from_str(&algorithm).map_err(|()| Flaw::Algorithm)?;
    Ok((algorithm, shown.kid))
}

#[cfg(test)]
mod tests;
