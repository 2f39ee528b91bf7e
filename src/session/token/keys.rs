//! Keys, as the configuration writes them (PEM) and as issuers publish them (JSON Web Keys, RFC 7517), each with the
//! algorithms that it may verify.
//!
//! A key is checked when it is read: one that could not verify anything is a fault of the configuration or of the
//! issuer, to be named there and not to surface as an invalid token.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::{agreement, rand};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::base::json::object;
use crate::session::token::algorithm::{Algorithm, Material};
use crate::session::token::fault::{Flaw, TokenFault};

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
const P521: &[Algorithm] = &[Algorithm::ES512];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// What a public key is for, by the object identifiers of its PEM (RFC 8017, RFC 5480, RFC 8410), without tag and length.
const RSA_ENCRYPTION: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const SECP256R1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const SECP521R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x23];
const ID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];

/// A key and what it may verify.
#[derive(Clone)]
pub struct TokenKey {
    material: Material,
    algorithms: Vec<Algorithm>,
}

impl TokenKey {
    pub(super) fn hmac(secret: &[u8]) -> TokenKey {
        TokenKey::new(Material::Secret(secret.into()), HMAC)
    }

    /// An RSA key: RS256, RS384, RS512, PS256, PS384, PS512.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn rsa(pem: &str) -> Result<TokenKey, KeyFault> {
        let (label, der) = public(pem, KeyFault::NotRsa)?;
        let key = match &*label {
            // PKCS #1 (RFC 8017 appendix A.1.1).
            "RSA PUBLIC KEY" => &der[..],
            _ => match subject_key(&der) {
                Some(SubjectKey { algorithm: RSA_ENCRYPTION, key, .. }) => key,
                _ => return Err(KeyFault::NotRsa),
            },
        };
        let (modulus, exponent) = rsa_parts(key).ok_or(KeyFault::NotRsa)?;
        TokenKey::rsa_of(modulus, exponent)
    }

    fn rsa_of(modulus: &[u8], exponent: &[u8]) -> Result<TokenKey, KeyFault> {
        let (modulus, exponent) = (significant(modulus), significant(exponent));
        let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
        if !RSA_BITS.contains(&bits) {
            return Err(KeyFault::RsaBits);
        }
        // 3 and 65537 are what there is; an even or a huge one is no exponent.
        if exponent.len() > 4 || exponent.last().is_none_or(|last| last % 2 == 0) || exponent == [1] {
            return Err(KeyFault::NotRsa);
        }
        Ok(TokenKey::new(Material::Rsa { modulus: modulus.into(), exponent: exponent.into() }, RSA))
    }

    /// An ECDSA key on the curve P-256 (ES256), P-384 (ES384) or P-521 (ES512).
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn ecdsa(pem: &str) -> Result<TokenKey, KeyFault> {
        let (_, der) = public(pem, KeyFault::NotEcdsa)?;
        match subject_key(&der) {
            Some(SubjectKey { algorithm: EC_PUBLIC_KEY, parameters, key }) => {
                TokenKey::point_of(Curve::of_parameters(parameters).ok_or(KeyFault::NotEcdsa)?, key)
            }
            _ => Err(KeyFault::NotEcdsa),
        }
    }

    /// `point` is uncompressed: 4, then both coordinates. It must lie on the curve.
    fn point_of(curve: Curve, point: &[u8]) -> Result<TokenKey, KeyFault> {
        let is_on = |curve: &'static agreement::Algorithm| {
            // The library says whether a point is one only when it is given something to do with it.
            let random = rand::SystemRandom::new();
            let own = agreement::EphemeralPrivateKey::generate(curve, &random);
            let point = agreement::UnparsedPublicKey::new(curve, point);
            own.is_ok_and(|own| agreement::agree_ephemeral(own, &point, |_| ()).is_ok())
        };
        match curve {
            Curve::P256 if is_on(&agreement::ECDH_P256) => {
                Ok(TokenKey::new(Material::P256(point.into()), P256))
            }
            Curve::P384 if is_on(&agreement::ECDH_P384) => {
                Ok(TokenKey::new(Material::P384(point.into()), P384))
            }
            Curve::P521 if point.first() == Some(&4) => {
                let key =
                    p521::ecdsa::VerifyingKey::from_sec1_bytes(point).map_err(|_| KeyFault::NotEcdsa)?;
                Ok(TokenKey::new(Material::P521(Box::new(key)), P521))
            }
            _ => Err(KeyFault::NotEcdsa),
        }
    }

    /// An Ed25519 key: EdDSA.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn eddsa(pem: &str) -> Result<TokenKey, KeyFault> {
        let (_, der) = public(pem, KeyFault::NotEddsa)?;
        match subject_key(&der) {
            Some(SubjectKey { algorithm: ID_ED25519, parameters: [], key }) => TokenKey::ed25519_of(key),
            _ => Err(KeyFault::NotEddsa),
        }
    }

    /// Any 32 bytes (RFC 8032 section 5.1.5): that they are no point shows when a signature does not match.
    fn ed25519_of(point: &[u8]) -> Result<TokenKey, KeyFault> {
        let point = point.try_into().map_err(|_| KeyFault::NotEddsa)?;
        Ok(TokenKey::new(Material::Ed25519(point), ED25519))
    }

    fn new(material: Material, algorithms: &[Algorithm]) -> TokenKey {
        TokenKey { material, algorithms: algorithms.to_vec() }
    }

    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// The claims of a token that says to be signed with `algorithm`, if this key has signed it. Nothing of it is read
    /// before (RFC 7515 section 5.2).
    pub(super) fn open<T: DeserializeOwned>(
        &self,
        token: &str,
        algorithm: Algorithm,
    ) -> Result<T, TokenFault> {
        if !self.fits(algorithm) {
            return Err(Flaw::KeyMisfit.into());
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Flaw::Malformed)?;
        let (_, claims) = signed.split_once('.').ok_or(Flaw::Malformed)?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Flaw::Encoding)?;
        if !self.material.verify(algorithm, signed.as_bytes(), &signature) {
            return Err(Flaw::Signature.into());
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| Flaw::Encoding)?;
        object(&claims).map_err(|_| Flaw::Contents.into())
    }
}

/// Curves of ECDSA.
#[derive(Clone, Copy, Debug)]
enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    /// By the parameters of a public key: the name of the curve.
    fn of_parameters(parameters: &[u8]) -> Option<Curve> {
        let (name, rest) = der_value(parameters, 0x06)?;
        match name {
            _ if !rest.is_empty() => None,
            SECP256R1 => Some(Curve::P256),
            SECP384R1 => Some(Curve::P384),
            SECP521R1 => Some(Curve::P521),
            _ => None,
        }
    }

    /// By the name of RFC 7518 section 6.2.1.1, with the bytes of one coordinate.
    fn of_name(name: &str) -> Option<(Curve, usize)> {
        match name {
            "P-256" => Some((Curve::P256, 32)),
            "P-384" => Some((Curve::P384, 48)),
            "P-521" => Some((Curve::P521, 66)),
            _ => None,
        }
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
    #[error("is not an ECDSA key on the curve P-256, P-384 or P-521, with an uncompressed point")]
    NotEcdsa,
    #[error("is not an Ed25519 key")]
    NotEddsa,
}

/// The label of a text in PEM and the bytes in it. An environment variable may have its line breaks written out.
///
/// # Errors
/// What is recognized by its label, or `otherwise`.
fn public(pem: &str, otherwise: KeyFault) -> Result<(String, Vec<u8>), KeyFault> {
    if pem.contains("PRIVATE KEY-----") {
        return Err(KeyFault::Private);
    }
    if pem.contains("BEGIN CERTIFICATE-----") {
        return Err(KeyFault::Certificate);
    }
    if !pem.contains("PUBLIC KEY-----") {
        return Err(KeyFault::NotPem);
    }
    let pem = pem::parse(pem.replace("\\n", "\n").trim()).map_err(|_| otherwise)?;
    Ok((pem.tag().to_string(), pem.into_contents()))
}

/// A `SubjectPublicKeyInfo` (RFC 5280 section 4.1).
struct SubjectKey<'a> {
    /// An object identifier.
    algorithm: &'a [u8],
    /// One DER element, or nothing.
    parameters: &'a [u8],
    key: &'a [u8],
}

fn subject_key(der: &[u8]) -> Option<SubjectKey<'_>> {
    let (info, rest) = der_value(der, 0x30)?;
    let (identifier, info) = der_value(info, 0x30)?;
    let (algorithm, parameters) = der_value(identifier, 0x06)?;
    let (bits, info) = der_value(info, 0x03)?;
    // The first byte says how many bits at the end do not count.
    let key = bits.strip_prefix(&[0])?;
    (rest.is_empty() && info.is_empty()).then_some(SubjectKey { algorithm, parameters, key })
}

fn significant(number: &[u8]) -> &[u8] {
    number.iter().position(|&byte| byte != 0).map_or(&[][..], |at| &number[at..])
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
    keys: Vec<(Option<Box<str>>, Arc<TokenKey>)>,
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
        let wire: Wire<'_> = object(json).map_err(|_| "is not a JSON Web Key Set")?;
        if wire.keys.len() > KEYS_MAX {
            return Err("has more than 128 keys");
        }
        let read = |key: &&RawValue| object::<JwkWire>(key.get().as_bytes()).ok()?.key();
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
    pub(super) fn named(&self, name: &str) -> impl Iterator<Item = &Arc<TokenKey>> {
        self.keys.iter().filter(move |(known, _)| known.as_deref() == Some(name)).map(|(_, key)| key)
    }

    pub(super) fn fitting(&self, algorithm: Algorithm) -> impl Iterator<Item = &Arc<TokenKey>> {
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
    fn key(self) -> Option<(Option<Box<str>>, Arc<TokenKey>)> {
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
            ("RSA", _) => TokenKey::rsa_of(&bytes(&self.n)?, &bytes(&self.e)?).ok()?,
            ("EC", Some(curve)) => {
                let (curve, length) = Curve::of_name(curve)?;
                let (x, y) = (bytes(&self.x)?, bytes(&self.y)?);
                if x.len() != length || y.len() != length {
                    return None;
                }
                TokenKey::point_of(curve, &[&[0x04][..], &x, &y].concat()).ok()?
            }
            ("OKP", Some("Ed25519")) => TokenKey::ed25519_of(&bytes(&self.x)?).ok()?,
            _ => return None,
        };
        if let Some(only) = &self.alg {
            // A key that says what it is for is for nothing else.
            let only = only.parse::<Algorithm>().ok().filter(|&only| key.fits(only))?;
            key.algorithms = vec![only];
        }
        Some((self.kid.map(String::into_boxed_str), Arc::new(key)))
    }
}

#[cfg(test)]
#[path = "keys_tests.rs"]
mod tests;
