//! The algorithms that a token may be signed with (RFC 7518 section 3.1, RFC 8037), and how a signature is verified.
//!
//! One library does it all, the one that TLS uses already, except P-521, which it does not have.

use std::str::FromStr;

use ring::{hmac, signature};

/// What a token says in `alg`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
}

/// Algorithms that share one configured key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    Hmac,
    Rsa,
    Ecdsa,
    Eddsa,
}

impl Algorithm {
    pub const ALL: [Algorithm; 13] = [
        Algorithm::HS256,
        Algorithm::HS384,
        Algorithm::HS512,
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
        Algorithm::ES256,
        Algorithm::ES384,
        Algorithm::ES512,
        Algorithm::EdDSA,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Algorithm::HS256 => "HS256",
            Algorithm::HS384 => "HS384",
            Algorithm::HS512 => "HS512",
            Algorithm::RS256 => "RS256",
            Algorithm::RS384 => "RS384",
            Algorithm::RS512 => "RS512",
            Algorithm::PS256 => "PS256",
            Algorithm::PS384 => "PS384",
            Algorithm::PS512 => "PS512",
            Algorithm::ES256 => "ES256",
            Algorithm::ES384 => "ES384",
            Algorithm::ES512 => "ES512",
            Algorithm::EdDSA => "EdDSA",
        }
    }

    pub fn family(self) -> Family {
        match self {
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Family::Hmac,
            Algorithm::RS256
            | Algorithm::RS384
            | Algorithm::RS512
            | Algorithm::PS256
            | Algorithm::PS384
            | Algorithm::PS512 => Family::Rsa,
            Algorithm::ES256 | Algorithm::ES384 | Algorithm::ES512 => Family::Ecdsa,
            Algorithm::EdDSA => Family::Eddsa,
        }
    }

    fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Algorithm::HS256 => Some(hmac::HMAC_SHA256),
            Algorithm::HS384 => Some(hmac::HMAC_SHA384),
            Algorithm::HS512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    fn rsa(self) -> Option<&'static signature::RsaParameters> {
        match self {
            Algorithm::RS256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::RS384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::RS512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            Algorithm::PS256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            Algorithm::PS384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
            Algorithm::PS512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
            _ => None,
        }
    }
}

impl FromStr for Algorithm {
    type Err = ();

    /// Names are case-sensitive (RFC 7515 section 4.1.1).
    fn from_str(name: &str) -> Result<Algorithm, ()> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name).ok_or(())
    }
}

/// A public key or a shared secret, as verifying needs it.
#[derive(Clone)]
pub(super) enum Material {
    Secret(Box<[u8]>),
    /// Big-endian, without leading zeros.
    Rsa {
        modulus: Box<[u8]>,
        exponent: Box<[u8]>,
    },
    /// Uncompressed points (SEC 1 section 2.3.3).
    P256(Box<[u8]>),
    P384(Box<[u8]>),
    P521(Box<p521::ecdsa::VerifyingKey>),
    Ed25519([u8; 32]),
}

impl Material {
    /// Whether `signature` is that of `message` by `algorithm` and this key.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let by_point = |point: &[u8], curve: &'static dyn signature::VerificationAlgorithm| {
            signature::UnparsedPublicKey::new(curve, point).verify(message, signature).is_ok()
        };
        match (self, algorithm) {
            (Material::Secret(secret), algorithm) => algorithm
                .hmac()
                .is_some_and(|hash| hmac::verify(&hmac::Key::new(hash, secret), message, signature).is_ok()),
            (Material::Rsa { modulus, exponent }, algorithm) => algorithm.rsa().is_some_and(|parameters| {
                let key = signature::RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, message, signature).is_ok()
            }),
            (Material::P256(point), Algorithm::ES256) => by_point(point, &signature::ECDSA_P256_SHA256_FIXED),
            (Material::P384(point), Algorithm::ES384) => by_point(point, &signature::ECDSA_P384_SHA384_FIXED),
            (Material::P521(key), Algorithm::ES512) => {
                use p521::ecdsa::signature::Verifier as _;
                p521::ecdsa::Signature::from_slice(signature)
                    .is_ok_and(|signature| key.verify(message, &signature).is_ok())
            }
            (Material::Ed25519(point), Algorithm::EdDSA) => by_point(point, &signature::ED25519),
            _ => false,
        }
    }
}

/// The signature of `message` by a shared secret with HS256.
pub(super) fn sign_hs256(secret: &[u8], message: &[u8]) -> impl AsRef<[u8]> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message)
}
