//! Keys that are taken, each with its own algorithms and no others, and texts that are none.

use serde_json::{Value, json};

use super::*;
use crate::session::token::published::PublishedKeys;
use crate::session::token::signer::Signer;
use crate::session::token::{TokenOptions, Verifier};

macro_rules! pem {
    ($name:literal) => {
        include_str!(concat!("../../../tests/keys/", $name, ".pem"))
    };
}

const NOW: u64 = 1_700_000_000;

/// Each kind of private key with what it signs, and its public key.
fn pairs() -> Vec<(Signer, &'static [Algorithm], TokenKey)> {
    vec![
        (Signer::rsa(pem!("rsa.private")), RSA, TokenKey::rsa(pem!("rsa")).unwrap()),
        (Signer::p256(pem!("p256.private")), P256, TokenKey::ecdsa(pem!("p256")).unwrap()),
        (Signer::p384(pem!("p384.private")), P384, TokenKey::ecdsa(pem!("p384")).unwrap()),
        (Signer::ed25519(pem!("ed25519.private")), ED25519, TokenKey::eddsa(pem!("ed25519")).unwrap()),
        (Signer::p521(pem!("p521.private")), P521, TokenKey::ecdsa(pem!("p521")).unwrap()),
    ]
}

fn signed(key: &Signer, algorithm: Algorithm, kid: Option<&str>) -> String {
    key.token(algorithm, kid, &json!({"sub": "42"}))
}

fn user(verifier: &Verifier, token: &str) -> Result<String, TokenFault> {
    verifier.verify_connect(token, NOW).map(|claims| claims.user)
}

/// A verifier with every kind of configured key; P-256 or P-384, which share a place.
fn every_key(ecdsa: TokenKey) -> Verifier {
    Verifier::new(TokenOptions {
        hmac_secret: b"secret".to_vec(),
        rsa: Some(TokenKey::rsa(pem!("rsa")).unwrap()),
        ecdsa: Some(ecdsa),
        eddsa: Some(TokenKey::eddsa(pem!("ed25519")).unwrap()),
        ..TokenOptions::default()
    })
}

#[test]
fn every_algorithm_verifies_with_the_key_of_its_kind_and_no_other() {
    let by_curve = ["p256", "p384", "p521"].map(|curve| {
        every_key(
            TokenKey::ecdsa(match curve {
                "p256" => pem!("p256"),
                "p384" => pem!("p384"),
                _ => pem!("p521"),
            })
            .unwrap(),
        )
    });
    let none = Verifier::new(TokenOptions { hmac_secret: b"secret".to_vec(), ..TokenOptions::default() });
    let mut tried = 0;
    for (key, algorithms, _) in pairs() {
        for &algorithm in algorithms {
            let token = signed(&key, algorithm, None);
            let own = match algorithm {
                Algorithm::ES256 => Some(0),
                Algorithm::ES384 => Some(1),
                Algorithm::ES512 => Some(2),
                _ => None,
            };
            assert_eq!(user(&none, &token), Err(Flaw::NoKey.into()), "{algorithm:?}");
            let (signed, signature) = token.rsplit_once('.').unwrap();
            let first = if signature.starts_with('A') { "B" } else { "A" };
            let changed = format!("{signed}.{first}{}", &signature[1..]);
            for (at, verifier) in by_curve.iter().enumerate() {
                let fits = own.is_none_or(|own| own == at);
                let expected = if fits { Ok("42".into()) } else { Err(Flaw::KeyMisfit.into()) };
                assert_eq!(user(verifier, &token), expected, "{algorithm:?}");
                let flaw = if fits { Flaw::Signature } else { Flaw::KeyMisfit };
                assert_eq!(user(verifier, &changed), Err(flaw.into()), "{algorithm:?}");
            }
            tried += 1;
        }
    }
    assert_eq!(tried, 10);
}

/// The example of RFC 7515, appendix A.4: ES512, made by others.
#[test]
fn the_es512_example_of_the_standard_verifies() {
    let set = json!({"keys": [{
        "kty": "EC", "crv": "P-521",
        "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
        "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
    }]});
    let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
    let key = set.fitting(Algorithm::ES512).next().unwrap();
    let signature = URL_SAFE_NO_PAD.decode(concat!(
        "AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7Xdt",
        "AG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
    ));
    let signed = b"eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA";
    assert!(key.material.verify(Algorithm::ES512, signed, &signature.unwrap()));
}

/// The classic forgery: the attacker signs with HMAC and the text of the public key, which everybody knows.
#[test]
fn a_public_key_is_no_secret() {
    for public in [pem!("rsa"), pem!("p256"), pem!("ed25519")] {
        let forged = signed(&Signer::secret(public.as_bytes()), Algorithm::HS256, None);
        let with_secret = every_key(TokenKey::ecdsa(pem!("p256")).unwrap());
        assert_eq!(user(&with_secret, &forged), Err(Flaw::Signature.into()));
        let options = TokenOptions { rsa: TokenKey::rsa(pem!("rsa")).ok(), ..TokenOptions::default() };
        assert_eq!(user(&Verifier::new(options), &forged), Err(Flaw::NoKey.into()));
    }
}

#[test]
fn what_is_no_such_key_is_named() {
    let faults = |text: &str| {
        [TokenKey::rsa(text).err(), TokenKey::ecdsa(text).err(), TokenKey::eddsa(text).err()]
            .map(|fault| fault.unwrap())
    };
    for text in ["", "x", "secret", "MIIBIjANBg", "-----BEGIN PGP-----"] {
        assert_eq!(faults(text), [KeyFault::NotPem; 3], "{text:?}");
    }
    for text in [pem!("rsa.private"), pem!("p256.private"), pem!("ed25519.private")] {
        assert_eq!(faults(text), [KeyFault::Private; 3]);
    }
    assert_eq!(faults(pem!("certificate")), [KeyFault::Certificate; 3]);
    let none = [KeyFault::NotRsa, KeyFault::NotEcdsa, KeyFault::NotEddsa];
    for text in [
        "-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----",
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
        &pem!("rsa")[..200],
    ] {
        assert_eq!(faults(text), none, "{text}");
    }
    assert_eq!(TokenKey::ecdsa(pem!("rsa")).err(), Some(KeyFault::NotEcdsa));
    assert_eq!(TokenKey::rsa(pem!("p256")).err(), Some(KeyFault::NotRsa));
    assert_eq!(TokenKey::eddsa(pem!("p256")).err(), Some(KeyFault::NotEddsa));
    assert_eq!(TokenKey::ecdsa(pem!("ed25519")).err(), Some(KeyFault::NotEcdsa));
    assert_eq!(TokenKey::rsa(pem!("rsa1024")).err(), Some(KeyFault::RsaBits));
}

#[test]
fn pem_comes_in_more_than_one_form() {
    let escaped = pem!("rsa").trim().replace('\n', "\\n");
    for text in [&escaped, pem!("rsa.pkcs1"), &format!("\n  {}\n\n", pem!("rsa"))] {
        let verifier = Verifier::new(TokenOptions {
            rsa: Some(TokenKey::rsa(text).unwrap()),
            ..TokenOptions::default()
        });
        let key = Signer::rsa(pem!("rsa.private"));
        assert_eq!(user(&verifier, &signed(&key, Algorithm::RS256, None)), Ok("42".into()), "{text}");
    }
}

#[test]
fn any_cut_or_change_of_a_key_is_refused_or_is_a_key() {
    let mut prng = crate::base::prng::Prng::with_seed(5);
    for text in [pem!("rsa"), pem!("p256"), pem!("p384"), pem!("p521"), pem!("ed25519")] {
        for _ in 0..300 {
            let mut changed = text.as_bytes().to_vec();
            let at = prng.usize(..changed.len());
            changed[at] = prng.u8(0x20..0x7f);
            changed.truncate(prng.usize(at..=text.len()));
            let changed = String::from_utf8(changed).unwrap();
            let _ = (
                TokenKey::rsa(&changed).err(),
                TokenKey::ecdsa(&changed).err(),
                TokenKey::eddsa(&changed).err(),
            );
        }
    }
}

/// The public key as issuers write it.
fn jwk(key: &TokenKey, algorithm: Algorithm, kid: &str) -> Value {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let curve = |name: &str, point: &[u8]| {
        let (x, y) = point[1..].split_at(point.len() / 2);
        json!({"kty": "EC", "crv": name, "x": encode(x), "y": encode(y)})
    };
    let mut jwk = match &key.material {
        Material::Rsa { modulus, exponent } => {
            json!({"kty": "RSA", "n": encode(modulus), "e": encode(exponent)})
        }
        Material::P256(point) => curve("P-256", point),
        Material::P384(point) => curve("P-384", point),
        Material::P521(key) => curve("P-521", key.to_sec1_point(false).as_bytes()),
        Material::Ed25519(point) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(point)}),
        Material::Secret(_) => panic!("a secret is not published"),
    };
    jwk["alg"] = algorithm.name().into();
    jwk["kid"] = kid.into();
    jwk
}

fn published(set: &Value) -> (Verifier, std::sync::Arc<PublishedKeys>) {
    let keys = std::sync::Arc::new(PublishedKeys::new("http://issuer", std::time::Duration::from_secs(60)));
    keys.take_wanted();
    keys.publish(KeySet::parse(set.to_string().as_bytes()).unwrap(), NOW);
    let options = TokenOptions { published: Some(std::sync::Arc::clone(&keys)), ..TokenOptions::default() };
    (Verifier::new(options), keys)
}

#[test]
fn published_keys_verify_by_name() {
    for (key, algorithms, public) in pairs() {
        let algorithm = algorithms[0];
        let mut named = jwk(&public, algorithm, "one");
        named.as_object_mut().unwrap().remove("alg");
        let (verifier, _) = published(&json!({"keys": [named]}));
        for &algorithm in algorithms {
            assert_eq!(
                user(&verifier, &signed(&key, algorithm, Some("one"))),
                Ok("42".into()),
                "{algorithm:?}"
            );
            assert_eq!(user(&verifier, &signed(&key, algorithm, None)), Ok("42".into()), "the only one");
            assert_eq!(
                user(&verifier, &signed(&key, algorithm, Some("two"))),
                Err(TokenFault::KeyAwaited),
                "it may have been published since"
            );
        }
        let (verifier, _) = published(&json!({"keys": [jwk(&public, algorithm, "one")]}));
        for &other in algorithms.iter().filter(|&&other| other != algorithm) {
            let token = signed(&key, other, Some("one"));
            assert_eq!(
                user(&verifier, &token),
                Err(Flaw::KeyMisfit.into()),
                "a key with alg is for nothing else"
            );
        }
    }
}

#[test]
fn a_token_without_a_name_needs_the_only_key_that_fits() {
    let pairs = pairs();
    let both =
        json!({"keys": [jwk(&pairs[1].2, Algorithm::ES256, "a"), jwk(&pairs[1].2, Algorithm::ES256, "b")]});
    let (verifier, _) = published(&both);
    let token = signed(&pairs[1].0, Algorithm::ES256, None);
    assert_eq!(user(&verifier, &token), Err(Flaw::KeyUnnamed.into()));
    let rsa = signed(&pairs[0].0, Algorithm::RS256, None);
    assert_eq!(user(&verifier, &rsa), Err(Flaw::KeyUnnamed.into()));
    let named = signed(&pairs[0].0, Algorithm::RS256, Some("a"));
    assert_eq!(user(&verifier, &named), Err(Flaw::KeyMisfit.into()));
    let fresh = std::sync::Arc::new(PublishedKeys::new("http://issuer", std::time::Duration::from_secs(60)));
    let verifier = Verifier::new(TokenOptions { published: Some(fresh), ..TokenOptions::default() });
    assert_eq!(user(&verifier, &token), Err(TokenFault::KeyAwaited), "nothing was fetched yet");
}

#[test]
fn keys_of_no_use_are_passed_over_and_secrets_are_among_them() {
    let (rsa, ec) = (&pairs()[0].2, &pairs()[1].2);
    let good = jwk(ec, Algorithm::ES256, "good");
    let changed = |name: &str, value: Value| {
        let mut changed = good.clone();
        changed[name] = value;
        changed
    };
    let useless = [
        json!({"kty": "oct", "kid": "secret", "k": "c2VjcmV0"}),
        json!({"kty": "EC", "crv": "P-521", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": "AA"}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AA"}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
        json!({"kty": "RSA"}),
        json!({"kid": "nothing"}),
        json!(1),
        json!(null),
        changed("use", json!("enc")),
        changed("key_ops", json!(["encrypt"])),
        changed("alg", json!("RS256")),
        changed("alg", json!("ECDH-ES")),
        changed("x", json!("AAAA")),
        changed("y", good["x"].clone()),
        changed("kid", json!("k".repeat(KEY_NAME_BYTES_MAX + 1))),
        changed("kid", json!(7)),
    ];
    for key in &useless {
        let parsed = KeySet::parse(json!({"keys": [key]}).to_string().as_bytes());
        assert_eq!(parsed.err(), Some("has no key that can be used"), "{key}");
        let beside = KeySet::parse(json!({"keys": [key, good]}).to_string().as_bytes()).unwrap();
        assert!(beside.len() == 1 && beside.has("good"), "{key}");
    }
    let forged = signed(&Signer::secret(b"secret"), Algorithm::HS256, Some("secret"));
    let (verifier, _) = published(&json!({"keys": [useless[0], good, jwk(rsa, Algorithm::RS256, "rsa")]}));
    assert_eq!(user(&verifier, &forged), Err(Flaw::NoKey.into()));
}

#[test]
fn sets_that_are_none_are_refused_and_an_empty_one_revokes() {
    for text in ["", "x", "[]", "{}", "null", r#"{"keys": {}}"#, r#"{"keys": 1}"#, "<html>", r#"{"keys": ["#]
    {
        assert_eq!(KeySet::parse(text.as_bytes()).err(), Some("is not a JSON Web Key Set"), "{text}");
    }
    let many = json!({"keys": vec![json!({}); KEYS_MAX + 1]});
    assert_eq!(KeySet::parse(many.to_string().as_bytes()).err(), Some("has more than 128 keys"));
    let (key, _, public) = &pairs()[3];
    let (verifier, keys) = published(&json!({"keys": [jwk(public, Algorithm::EdDSA, "one")]}));
    let token = signed(key, Algorithm::EdDSA, Some("one"));
    assert_eq!(user(&verifier, &token), Ok("42".into()));
    keys.take_wanted();
    keys.publish(KeySet::parse(br#"{"keys": []}"#).unwrap(), NOW);
    assert_eq!(user(&verifier, &token), Err(TokenFault::KeyAwaited));
    keys.take_wanted();
    keys.publish(KeySet::parse(br#"{"keys": []}"#).unwrap(), NOW);
    assert_eq!(user(&verifier, &token), Err(Flaw::KeyUnknown.into()));
}

#[test]
fn a_name_of_a_key_leads_past_the_configured_one() {
    let (configured, theirs) = (&pairs()[1].0, &pairs()[0].0);
    let (_, keys) = published(&json!({"keys": [jwk(&pairs()[0].2, Algorithm::RS256, "rsa")]}));
    let verifier = Verifier::new(TokenOptions {
        ecdsa: Some(TokenKey::ecdsa(pem!("p256")).unwrap()),
        hmac_secret: b"secret".to_vec(),
        published: Some(keys),
        ..TokenOptions::default()
    });
    assert_eq!(user(&verifier, &signed(configured, Algorithm::ES256, None)), Ok("42".into()));
    let named = signed(configured, Algorithm::ES256, Some("mine"));
    assert_eq!(user(&verifier, &named), Err(TokenFault::KeyAwaited));
    assert_eq!(user(&verifier, &signed(theirs, Algorithm::RS256, Some("rsa"))), Ok("42".into()));
    let secret = Signer::secret(b"secret");
    assert_eq!(user(&verifier, &signed(&secret, Algorithm::HS256, Some("any"))), Ok("42".into()));
}

/// The configured secret of connections says nothing about subscriptions that have keys of their own.
#[test]
fn subscriptions_may_have_keys_of_their_own() {
    let sign = |secret: &[u8], claims: Value| Signer::secret(secret).token(Algorithm::HS256, None, &claims);
    let options = |secret: &[u8]| TokenOptions { hmac_secret: secret.to_vec(), ..TokenOptions::default() };
    let verifier = Verifier::new(options(b"connections")).with_subscriptions(options(b"subscriptions"));
    let claims = json!({"sub": "42", "channel": "c"});
    assert!(verifier.verify_subscribe(&sign(b"subscriptions", claims.clone()), NOW).is_ok());
    let refused = verifier.verify_subscribe(&sign(b"connections", claims), NOW).map(drop);
    assert_eq!(refused, Err(Flaw::Signature.into()));
    assert!(verifier.verify_connect(&sign(b"connections", json!({})), NOW).is_ok());
    assert!(verifier.verify_connect(&sign(b"subscriptions", json!({})), NOW).is_err());
}
