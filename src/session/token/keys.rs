//! Keys, as the configuration writes them (PEM) and as issuers publish them (JSON Web Keys, RFC 7517), each with the
//! algorithms that it may verify.
//!
//! A key is checked when it is read: one that could not verify anything is a fault of the configuration or of the
//! issuer, to be named there and not to surface as an invalid token.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::session::token::{Flaw, TokenFault};

/// RSA keys, in bits: shorter ones are broken (RFC 7518 section 3.3 forbids them), longer ones cost a shard more time
/// for each connect than they are worth.
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=4096;
/// Keys of one published set that are looked at. Issuers publish a handful; a set of more is something else.
pub const KEYS_MAX: usize = 128;
/// Longest name of a published key (`kid`), in bytes: what is longer is remembered nowhere.
pub const KEY_NAME_BYTES_MAX: usize = 256;

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// A key and what it may verify.
#[derive(Clone)]
pub struct Key {
    key: DecodingKey,
    validation: Validation,
}

impl Key {
    pub(super) fn hmac(secret: &[u8]) -> Key {
        Key::new(DecodingKey::from_secret(secret), HMAC)
    }

    /// An RSA key: RS256, RS384, RS512, PS256, PS384, PS512.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn rsa(pem: &str) -> Result<Key, KeyFault> {
        let key = DecodingKey::from_rsa_pem(public(pem)?.as_bytes()).map_err(|_| KeyFault::NotRsa)?;
        let der = key.try_get_as_bytes().map_err(|_| KeyFault::NotRsa)?;
        let (modulus, exponent) = rsa_parts(der).ok_or(KeyFault::NotRsa)?;
        Key::rsa_of(modulus, exponent)
    }

    fn rsa_of(modulus: &[u8], exponent: &[u8]) -> Result<Key, KeyFault> {
        let significant = modulus.iter().position(|&byte| byte != 0).map_or(&[][..], |at| &modulus[at..]);
        let bits =
            significant.len() * 8 - significant.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(KeyFault::RsaBits);
        }
        // 3 and 65537 are what there is; an even or a huge one is no exponent.
        if exponent.len() > 5 || exponent.last().is_none_or(|last| last % 2 == 0) {
            return Err(KeyFault::NotRsa);
        }
        Ok(Key::new(DecodingKey::from_rsa_raw_components(significant, exponent), RSA))
    }

    /// An ECDSA key on the curve P-256 (ES256) or P-384 (ES384).
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn ecdsa(pem: &str) -> Result<Key, KeyFault> {
        let key = DecodingKey::from_ec_pem(public(pem)?.as_bytes()).map_err(|_| KeyFault::NotEcdsa)?;
        // A point (SEC 1 section 2.3.3), compressed or not: its length tells the curves apart.
        let algorithms = match key.try_get_as_bytes().map(<[u8]>::len) {
            Ok(33 | 65) => P256,
            Ok(49 | 97) => P384,
            _ => return Err(KeyFault::NotEcdsa),
        };
        Key::new(key, algorithms).checked(KeyFault::NotEcdsa)
    }

    /// An Ed25519 key: EdDSA.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn eddsa(pem: &str) -> Result<Key, KeyFault> {
        let key = DecodingKey::from_ed_pem(public(pem)?.as_bytes()).map_err(|_| KeyFault::NotEddsa)?;
        Key::ed25519_of(key.try_get_as_bytes().map_err(|_| KeyFault::NotEddsa)?)
    }

    fn ed25519_of(point: &[u8]) -> Result<Key, KeyFault> {
        // RFC 8032 section 5.1.5. The library panics at a shorter one.
        if point.len() != 32 {
            return Err(KeyFault::NotEddsa);
        }
        Key::new(DecodingKey::from_ed_der(point), ED25519).checked(KeyFault::NotEddsa)
    }

    fn new(key: DecodingKey, algorithms: &[Algorithm]) -> Key {
        // The library reads the clock; what it would check is checked by the caller, with the time of the caller.
        let mut validation = Validation::new(algorithms[0]);
        validation.algorithms = algorithms.to_vec();
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.validate_aud = false;
        Key { key, validation }
    }

    /// Whether the library can use it: it says so only when it is given something to verify.
    fn checked(self, fault: KeyFault) -> Result<Key, KeyFault> {
        let tried = jsonwebtoken::crypto::verify("", b"", &self.key, self.validation.algorithms[0]);
        tried.map(|_| self).map_err(|_| fault)
    }

    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.validation.algorithms.contains(&algorithm)
    }

    /// The claims of a token that is signed with this key.
    pub(super) fn open<T: DeserializeOwned>(&self, token: &str) -> Result<T, TokenFault> {
        let opened = jsonwebtoken::decode::<T>(token, &self.key, &self.validation);
        opened.map(|opened| opened.claims).map_err(|error| {
            TokenFault::Invalid(match error.kind() {
                ErrorKind::InvalidSignature => Flaw::Signature,
                ErrorKind::InvalidAlgorithm => Flaw::KeyMisfit,
                ErrorKind::Base64(_) => Flaw::Encoding,
                ErrorKind::Json(_) | ErrorKind::Utf8(_) => Flaw::Contents,
                _ => Flaw::Malformed,
            })
        })
    }
}

/// Why a text is not the key it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    #[error("is no public key in PEM: it must begin with -----BEGIN PUBLIC KEY-----")]
    NotPem,
    #[error("is a private key: it belongs where tokens are signed; give its public key here")]
    Private,
    #[error("is a certificate: give its public key (openssl x509 -pubkey -noout)")]
    Certificate,
    #[error("is not an RSA key")]
    NotRsa,
    #[error("is an RSA key of a size that is not taken: 2048 to 4096 bits are")]
    RsaBits,
    #[error("is not an ECDSA key on the curve P-256 or P-384")]
    NotEcdsa,
    #[error("is not an Ed25519 key")]
    NotEddsa,
}

/// The text as the library reads it. An environment variable may have its line breaks written out.
fn public(pem: &str) -> Result<String, KeyFault> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(KeyFault::Private);
    }
    if pem.contains("BEGIN CERTIFICATE-----") {
        return Err(KeyFault::Certificate);
    }
    if !pem.contains("PUBLIC KEY-----") {
        return Err(KeyFault::NotPem);
    }
    Ok(pem.replace("\\n", "\n").trim().to_string())
}

/// Modulus and exponent of an `RSAPublicKey` (RFC 8017 appendix A.1.1): a DER sequence of two integers.
fn rsa_parts(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, rest) = der_value(der, 0x30)?;
    let (modulus, sequence) = der_value(sequence, 0x02)?;
    let (exponent, sequence) = der_value(sequence, 0x02)?;
    (rest.is_empty() && sequence.is_empty()).then_some((modulus, exponent))
}

/// The value of a DER element with the tag, and what follows it.
fn der_value(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (&found, der) = der.split_first()?;
    let (&length, der) = der.split_first()?;
    let (length, der) = match length {
        0..=0x7f => (usize::from(length), der),
        0x81 | 0x82 => {
            let (bytes, der) = der.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte)), der)
        }
        _ => return None,
    };
    (found == tag).then_some(der.split_at_checked(length)?)
}

/// The keys that an issuer publishes, by name.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<(Option<Box<str>>, Arc<Key>)>,
}

impl KeySet {
    /// Reads a JSON Web Key Set (RFC 7517 section 5). Keys that are of no use here are passed over, as the standard
    /// says: those for encryption, of unknown kinds, malformed ones. Secrets among them too: what is published is
    /// no secret. A set without any key is taken: an issuer revokes its keys that way.
    ///
    /// # Errors
    /// What is wrong with the set as a whole; also when none of its keys is of use.
    pub fn parse(json: &[u8]) -> Result<KeySet, &'static str> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            #[serde(borrow)]
            keys: Vec<&'a RawValue>,
        }
        let wire: Wire<'_> = serde_json::from_slice(json).map_err(|_| "is not a JSON Web Key Set")?;
        if wire.keys.len() > KEYS_MAX {
            return Err("has more than 128 keys");
        }
        let read = |key: &&RawValue| serde_json::from_str::<JwkWire>(key.get()).ok()?.key();
        let keys: Vec<_> = wire.keys.iter().filter_map(read).collect();
        match keys.is_empty() && !wire.keys.is_empty() {
            true => Err("has no key that can be used"),
            false => Ok(KeySet { keys }),
        }
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.named(name).next().is_some()
    }

    /// Keys of different kinds may share a name (RFC 7517 section 4.5).
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.iter().filter(move |(known, _)| known.as_deref() == Some(name)).map(|(_, key)| key)
    }

    pub(super) fn fitting(&self, algorithm: Algorithm) -> impl Iterator<Item = &Arc<Key>> {
        self.keys.iter().map(|(_, key)| key).filter(move |key| key.fits(algorithm))
    }
}

/// What is read of a JSON Web Key (RFC 7517 section 4, RFC 7518 section 6, RFC 8037).
#[derive(Deserialize)]
struct JwkWire {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl JwkWire {
    /// `None`: it is of no use here.
    fn key(self) -> Option<(Option<Box<str>>, Arc<Key>)> {
        let verifies = self.r#use.as_deref().is_none_or(|of| of == "sig")
            && self.key_ops.as_ref().is_none_or(|of| of.iter().any(|operation| operation == "verify"));
        if !verifies || self.kid.as_ref().is_some_and(|kid| kid.len() > KEY_NAME_BYTES_MAX) {
            return None;
        }
        let bytes = |text: &Option<String>| {
            // Some issuers pad, which the standard does not allow.
            URL_SAFE_NO_PAD.decode(text.as_deref()?.trim_end_matches('=')).ok()
        };
        let mut key = match (&*self.kty, self.crv.as_deref()) {
            ("RSA", _) => Key::rsa_of(&bytes(&self.n)?, &bytes(&self.e)?).ok()?,
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (length, algorithms) = if curve == "P-256" { (32, P256) } else { (48, P384) };
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                let point = [&[0x04][..], &x, &y].concat();
                Key::new(DecodingKey::from_ec_der(&point), algorithms).checked(KeyFault::NotEcdsa).ok()?
            }
            ("OKP", Some("Ed25519")) => Key::ed25519_of(&bytes(&self.x)?).ok()?,
            _ => return None,
        };
        if let Some(only) = &self.alg {
            // A key that says what it is for is for nothing else.
            let only = only.parse::<Algorithm>().ok().filter(|&only| key.fits(only))?;
            key.validation.algorithms = vec![only];
        }
        Some((self.kid.map(String::into_boxed_str), Arc::new(key)))
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
