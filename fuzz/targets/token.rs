//! A token: its header, and its claims behind a signature that holds; and a set of published keys.
//!
//! The input is the header's JSON, a line break, and the claims' JSON: signed here, as nothing would get past the signature
//! otherwise.
#![no_main]

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use libfuzzer_sys::fuzz_target;
use sha2::Sha256;
use trunkline::base::limits::TOKEN_BYTES_MAX;
use trunkline::session::token::keys::KeySet;
use trunkline::session::token::{TokenOptions, Verifier};

const SECRET: &[u8] = b"a secret of the fuzz targets";
/// A time at which tokens are looked at, seconds since 1970.
const NOW_S: u64 = 1_800_000_000;
/// Clocks differ: what may be granted behind `exp`, at most.
const LEEWAY_S_MAX: i128 = 60;

static VERIFIER: LazyLock<Verifier> =
    LazyLock::new(|| Verifier::new(TokenOptions { hmac_secret: SECRET.to_vec(), ..TokenOptions::default() }));

fuzz_target!(|data: &[u8]| {
    drop(KeySet::parse(data));
    if let Ok(text) = std::str::from_utf8(data) {
        // Signed by nobody.
        assert!(VERIFIER.verify_connect(text, NOW_S).is_err());
    }
    let end = data.iter().position(|&byte| byte == b'\n').unwrap_or(data.len());
    let (header, claims) = (&data[..end], data.get(end + 1..).unwrap_or_default());
    let mut token = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET).expect("any length");
    mac.update(token.as_bytes());
    let signature = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
    token.push('.');
    token.push_str(&signature);

    let connect = VERIFIER.verify_connect(&token, NOW_S).is_ok();
    let subscribe = VERIFIER.verify_subscribe(&token, NOW_S).is_ok();
    if !connect && !subscribe {
        return;
    }
    assert!(!(connect && subscribe), "one kind is taken for the other");
    assert!(token.len() <= TOKEN_BYTES_MAX);
    for part in [header, claims] {
        assert_eq!(part.trim_ascii_start().first(), Some(&b'{'), "a list is taken for an object");
    }
    // serde_json refuses these, but not in members that are skipped: escapes that are no character, numbers out of every range.
    let Ok(header) = serde_json::from_slice::<serde_json::Value>(header) else { return };
    assert_eq!(header["alg"], "HS256");
    let Ok(claims) = serde_json::from_slice::<serde_json::Value>(claims) else { return };
    if let Some(exp) = claims["exp"].as_i64() {
        assert!(i128::from(exp) + LEEWAY_S_MAX > i128::from(NOW_S), "an expired token is taken");
    }
    if let Some(nbf) = claims["nbf"].as_i64() {
        assert!(i128::from(nbf) - LEEWAY_S_MAX <= i128::from(NOW_S), "a token is taken too early");
    }
});
