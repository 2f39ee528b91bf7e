//! Tokens of every algorithm, for tests: with private keys, which the daemon never has.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p521::pkcs8::DecodePrivateKey as _;
use ring::{hmac, rand, signature};
use serde_json::{Value, json};

use super::algorithm::Algorithm;

/// What signs.
pub enum Signer {
    Secret(Vec<u8>),
    Rsa(signature::RsaKeyPair),
    P256(signature::EcdsaKeyPair),
    P384(signature::EcdsaKeyPair),
    P521(Box<p521::ecdsa::SigningKey>),
    Ed25519(signature::Ed25519KeyPair),
}

fn der(pem: &str) -> Vec<u8> {
    pem::parse(pem).unwrap().into_contents()
}

impl Signer {
    pub fn secret(secret: &[u8]) -> Signer {
        Signer::Secret(secret.to_vec())
    }

    pub fn rsa(pem: &str) -> Signer {
        Signer::Rsa(signature::RsaKeyPair::from_pkcs8(&der(pem)).unwrap())
    }

    pub fn p256(pem: &str) -> Signer {
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let random = rand::SystemRandom::new();
        Signer::P256(signature::EcdsaKeyPair::from_pkcs8(algorithm, &der(pem), &random).unwrap())
    }

    pub fn p384(pem: &str) -> Signer {
        let algorithm = &signature::ECDSA_P384_SHA384_FIXED_SIGNING;
        let random = rand::SystemRandom::new();
        Signer::P384(signature::EcdsaKeyPair::from_pkcs8(algorithm, &der(pem), &random).unwrap())
    }

    pub fn p521(pem: &str) -> Signer {
        Signer::P521(Box::new(p521::ecdsa::SigningKey::from_pkcs8_pem(pem).unwrap()))
    }

    pub fn ed25519(pem: &str) -> Signer {
        Signer::Ed25519(signature::Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der(pem)).unwrap())
    }

    pub fn sign(&self, algorithm: Algorithm, message: &[u8]) -> Vec<u8> {
        let random = rand::SystemRandom::new();
        match self {
            Signer::Secret(secret) => {
                let hash = match algorithm {
                    Algorithm::HS384 => hmac::HMAC_SHA384,
                    Algorithm::HS512 => hmac::HMAC_SHA512,
                    _ => hmac::HMAC_SHA256,
                };
                hmac::sign(&hmac::Key::new(hash, secret), message).as_ref().to_vec()
            }
            Signer::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    Algorithm::RS256 => &signature::RSA_PKCS1_SHA256,
                    Algorithm::RS384 => &signature::RSA_PKCS1_SHA384,
                    Algorithm::RS512 => &signature::RSA_PKCS1_SHA512,
                    Algorithm::PS256 => &signature::RSA_PSS_SHA256,
                    Algorithm::PS384 => &signature::RSA_PSS_SHA384,
                    _ => &signature::RSA_PSS_SHA512,
                };
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, message, &mut signed).unwrap();
                signed
            }
            Signer::P256(key) | Signer::P384(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Signer::P521(key) => {
                use p521::ecdsa::signature::Signer as _;
                let signature: p521::ecdsa::Signature = key.sign(message);
                signature.to_bytes().to_vec()
            }
            Signer::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        }
    }

    /// A token with `alg` and, where given, `kid` in its header.
    pub fn token(&self, algorithm: Algorithm, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"typ": "JWT", "alg": algorithm.name()});
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        self.token_with(algorithm, &header, claims.to_string().as_bytes())
    }

    pub fn token_with(&self, algorithm: Algorithm, header: &Value, claims: &[u8]) -> String {
        let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let signed = format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims));
        let signature = encode(&self.sign(algorithm, signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}
