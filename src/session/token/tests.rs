//! Tokens that hold, and every way known to us in which one does not.

use serde_json::{Value, json};

use super::signer::Signer;
use super::*;
use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::prng::Prng;

const SECRET: &[u8] = b"a secret of the tests, longer than a hash";
const NOW: u64 = 1_700_000_000;

fn verifier() -> Verifier {
    Verifier::new(TokenOptions { hmac_secret: SECRET.to_vec(), ..TokenOptions::default() })
}

fn signed_with(algorithm: Algorithm, secret: &[u8], claims: &Value) -> String {
    Signer::secret(secret).token(algorithm, None, claims)
}

fn signed(claims: &Value) -> String {
    signed_with(Algorithm::HS256, SECRET, claims)
}

fn connect(claims: Value) -> Result<ConnectClaims, TokenFault> {
    verifier().verify_connect(&signed(&claims), NOW)
}

fn subscribe(claims: Value) -> Result<SubscribeClaims, TokenFault> {
    verifier().verify_subscribe(&signed(&claims), NOW)
}

fn bytes(text: &'static str) -> Option<Bytes> {
    Some(Bytes::from_static(text.as_bytes()))
}

#[test]
fn a_connection_token_says_who_and_until_when() {
    let claims = json!({
        "sub": "42", "exp": NOW + 300, "iat": NOW - 5, "nbf": NOW, "jti": "id1", "aud": "ignored", "iss": "ignored",
        "info": {"name": "Ann"}, "channels": ["news", "#42", "news"], "meta": [1, 2], "more": {"x": 1}, "device": "phone:7c",
    });
    let grants =
        [("#42".to_string(), SubscribeGrant::default()), ("news".to_string(), SubscribeGrant::default())];
    let expected = ConnectClaims {
        user: "42".into(),
        expire_at_s: Some(NOW + 300),
        info: bytes(r#"{"name":"Ann"}"#),
        subs: grants.into(),
        meta: bytes("[1,2]"),
        id: Some("id1".into()),
        issued_at_s: Some(NOW - 5),
        device: Some("phone:7c".into()),
        device_unfit: false,
    };
    assert_eq!(connect(claims), Ok(expected));
    assert_eq!(connect(json!({})), Ok(ConnectClaims::default()));
    assert_eq!(connect(json!({"device": ""})), Ok(ConnectClaims::default()));
    assert_eq!(connect(json!({"device": null})), Ok(ConnectClaims::default()));
    let unfit = ConnectClaims { device_unfit: true, ..ConnectClaims::default() };
    for device in [json!("d".repeat(65)), json!(7), json!({"model": "x"})] {
        assert_eq!(connect(json!({"device": device})), Ok(unfit.clone()), "{device}");
    }
    assert_eq!(
        connect(json!({"sub": null, "exp": null, "info": null, "channels": null, "subs": null, "aud": null})),
        Ok(ConnectClaims::default())
    );
}

#[test]
fn every_hmac_algorithm_is_taken() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = signed_with(algorithm, SECRET, &json!({"sub": "42"}));
        assert_eq!(verifier().verify_connect(&token, NOW).map(|claims| claims.user), Ok("42".into()));
    }
}

/// The example token of RFC 7515, appendix A.1: made by others, and expired since 2011.
#[test]
fn the_token_of_the_standard_verifies() {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let secret = URL_SAFE_NO_PAD
        .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
        .unwrap();
    let token = concat!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.",
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let verifier = Verifier::new(TokenOptions {
        hmac_secret: secret,
        issuer: Some("joe".into()),
        ..TokenOptions::default()
    });
    let claims = verifier.verify_connect(token, 1_300_819_379).unwrap();
    assert_eq!(claims.expire_at_s, Some(1_300_819_380));
    assert_eq!(verifier.verify_connect(token, 1_300_819_380), Err(TokenFault::Expired));
}

#[test]
fn a_subscription_token_says_what_and_for_whom() {
    let claims = json!({
        "sub": "42", "channel": "news", "client": "c1", "exp": NOW + 60, "iat": NOW, "jti": "id2", "info": {"a": 1},
        "data": "hello", "override": {"presence": {"value": true}, "force_recovery": {}, "later": {"value": 1}},
    });
    let overrides = Overrides { presence: Some(true), force_recovery: Some(false), ..Overrides::default() };
    let grant = SubscribeGrant {
        info: bytes(r#"{"a":1}"#),
        data: bytes(r#""hello""#),
        overrides,
        ..SubscribeGrant::default()
    };
    let expected = SubscribeClaims {
        user: "42".into(),
        channel: "news".into(),
        client: "c1".into(),
        expire_at_s: Some(NOW + 60),
        grant,
        id: Some("id2".into()),
        issued_at_s: Some(NOW),
    };
    assert_eq!(subscribe(claims), Ok(expected));
}

#[test]
fn subs_carry_their_options_and_win_over_channels() {
    let claims = connect(json!({
        "channels": ["ignored"],
        "subs": {"a": {"b64info": "eyJ4IjoxfQ==", "data": 5, "override": {"join_leave": {"value": true}}}, "b": {}},
    }))
    .unwrap();
    let overrides = Overrides { join_leave: Some(true), ..Overrides::default() };
    let grant = SubscribeGrant {
        info: bytes(r#"{"x":1}"#),
        data: bytes("5"),
        overrides,
        ..SubscribeGrant::default()
    };
    let expected = [("a".to_string(), grant), ("b".to_string(), SubscribeGrant::default())];
    assert_eq!(claims.subs, expected.into());
}

#[test]
fn one_kind_of_token_is_not_taken_for_the_other() {
    let kind = TokenFault::Invalid(Flaw::NotForConnecting);
    assert_eq!(connect(json!({"sub": "42", "channel": "news"})), Err(kind));
    let kind = TokenFault::Invalid(Flaw::NoChannel);
    assert_eq!(subscribe(json!({"sub": "42"})), Err(kind));
    assert_eq!(subscribe(json!({"sub": "42", "channel": ""})), Err(kind));
    let kind = TokenFault::Invalid(Flaw::NoChannel);
    assert_eq!(connect(json!({"channels": [""]})), Err(kind));
}

#[test]
fn a_token_holds_from_nbf_until_before_exp() {
    for (claims, fault) in [
        (json!({"exp": NOW + 1}), None),
        (json!({"exp": NOW}), Some(TokenFault::Expired)),
        (json!({"exp": NOW - 1}), Some(TokenFault::Expired)),
        (json!({"exp": 0}), Some(TokenFault::Expired)),
        (json!({"exp": -1}), Some(TokenFault::Expired)),
        (json!({"exp": NOW as f64 + 1.5}), None),
        (json!({"exp": NOW as f64 + 0.5}), Some(TokenFault::Expired)),
        (json!({"exp": 1e300}), None),
        (json!({"exp": u64::MAX}), None),
        (json!({"nbf": NOW}), None),
        (json!({"nbf": NOW + 1}), Some(TokenFault::NotYetValid)),
        (json!({"nbf": NOW - 1, "exp": NOW + 1}), None),
    ] {
        let mut subscription = claims.clone();
        subscription["channel"] = "c".into();
        let expected = fault.map_or(Ok(()), Err);
        assert_eq!(connect(claims.clone()).map(drop), expected, "{claims}");
        assert_eq!(subscribe(subscription).map(drop), expected, "{claims}");
    }
    for claims in [json!({"exp": "soon"}), json!({"nbf": [1]}), json!({"exp": true})] {
        assert!(matches!(connect(claims.clone()), Err(TokenFault::Invalid(_))), "{claims}");
    }
}

#[test]
fn expire_at_replaces_exp_as_the_end_of_the_connection() {
    let ends = |claims: Value| connect(claims).map(|claims| claims.expire_at_s);
    assert_eq!(ends(json!({"exp": NOW + 9, "expire_at": NOW + 99})), Ok(Some(NOW + 99)));
    assert_eq!(ends(json!({"exp": NOW + 9, "expire_at": 0})), Ok(None));
    assert_eq!(ends(json!({"exp": NOW + 9, "expire_at": -1})), Ok(None));
    assert_eq!(ends(json!({"exp": NOW + 9})), Ok(Some(NOW + 9)));
    assert_eq!(ends(json!({"expire_at": NOW - 9})), Err(TokenFault::Over), "nothing is granted any more");
    assert_eq!(ends(json!({})), Ok(None));
}

#[test]
fn audience_and_issuer_must_match_when_set() {
    let verifier = Verifier::new(TokenOptions {
        hmac_secret: SECRET.to_vec(),
        audience: Some("us".into()),
        issuer: Some("backend".into()),
        ..TokenOptions::default()
    });
    for (claims, expected) in [
        (json!({"aud": "us", "iss": "backend"}), Ok(())),
        (json!({"aud": ["them", "us"], "iss": "backend"}), Ok(())),
        (json!({"aud": "them", "iss": "backend"}), Err(Flaw::Audience)),
        (json!({"aud": [], "iss": "backend"}), Err(Flaw::Audience)),
        (json!({"iss": "backend"}), Err(Flaw::Audience)),
        (json!({"aud": "us", "iss": "other"}), Err(Flaw::Issuer)),
        (json!({"aud": "us"}), Err(Flaw::Issuer)),
    ] {
        let expected = expected.map_err(TokenFault::Invalid);
        assert_eq!(verifier.verify_connect(&signed(&claims), NOW).map(drop), expected, "{claims}");
        let mut subscription = claims.clone();
        subscription["channel"] = "c".into();
        assert_eq!(verifier.verify_subscribe(&signed(&subscription), NOW).map(drop), expected, "{claims}");
    }
}

#[test]
fn the_wrong_key_or_a_changed_token_is_refused() {
    let claims = json!({"sub": "42"});
    let wrong = TokenFault::Invalid(Flaw::Signature);
    let token = signed_with(Algorithm::HS256, b"another secret", &claims);
    assert_eq!(verifier().verify_connect(&token, NOW), Err(wrong));
    let (ours, theirs) = (signed(&claims), signed(&json!({"sub": "admin"})));
    let parts = |token: &str| token.split('.').map(str::to_string).collect::<Vec<_>>();
    let (ours, theirs) = (parts(&ours), parts(&theirs));
    let spliced = [ours[0].as_str(), &theirs[1], &ours[2]].join(".");
    assert_eq!(verifier().verify_connect(&spliced, NOW), Err(wrong));
    let unsigned = [ours[0].as_str(), &ours[1], ""].join(".");
    assert_eq!(verifier().verify_connect(&unsigned, NOW), Err(wrong));
    // Each algorithm has its own header: the signature of one is not that of another.
    let other = parts(&signed_with(Algorithm::HS512, SECRET, &claims));
    let spliced = [other[0].as_str(), &ours[1], &ours[2]].join(".");
    assert_eq!(verifier().verify_connect(&spliced, NOW), Err(wrong));
}

#[test]
fn without_a_key_no_token_is_valid() {
    let verifier = Verifier::new(TokenOptions::default());
    let token = signed_with(Algorithm::HS256, b"", &json!({"sub": "42"}));
    let fault = TokenFault::Invalid(Flaw::NoKey);
    assert_eq!(verifier.verify_connect(&token, NOW), Err(fault));
    assert_eq!(verifier.verify_subscribe(&token, NOW), Err(fault));
}

#[test]
fn other_algorithms_are_refused() {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let ours = signed(&json!({"sub": "42"}));
    let mut parts = ours.split('.');
    let (payload, signature) = (parts.nth(1).unwrap(), parts.next().unwrap());
    let with_header = |header: &str| format!("{}.{payload}.", URL_SAFE_NO_PAD.encode(header));
    for algorithm in ["none", "None", "NONE", "RS256", "ES256", "PS512", "EdDSA", "HS1", "hs256", ""] {
        let unsigned = with_header(&format!(r#"{{"alg":"{algorithm}","typ":"JWT"}}"#));
        for token in [unsigned.clone(), unsigned + signature] {
            let refused = verifier().verify_connect(&token, NOW);
            assert!(matches!(refused, Err(TokenFault::Invalid(_))), "{algorithm}: {refused:?}");
        }
    }
    for header in ["{}", "[]", "null", "", r#"{"alg":null}"#, r#"{"alg":["HS256"]}"#] {
        let token = with_header(header) + signature;
        assert!(matches!(verifier().verify_connect(&token, NOW), Err(TokenFault::Invalid(_))), "{header}");
    }
}

#[test]
fn critical_extensions_are_refused() {
    let header = json!({"alg": "HS256", "crit": ["b64"]});
    let token = Signer::secret(SECRET).token_with(Algorithm::HS256, &header, b"{}");
    assert_eq!(verifier().verify_connect(&token, NOW), Err(TokenFault::Invalid(Flaw::Critical)));
}

#[test]
fn malformed_tokens_are_refused() {
    let long = "a".repeat(TOKEN_BYTES_MAX + 1);
    assert_eq!(verifier().verify_connect("", NOW), Err(TokenFault::Invalid(Flaw::Empty)));
    assert_eq!(verifier().verify_connect(&long, NOW), Err(TokenFault::Invalid(Flaw::TooLong)));
    for token in [".", "..", "...", "a", "a.b", "a.b.c", "a.b.c.d", "é.é.é", " ", "Bearer x.y.z"] {
        assert!(matches!(verifier().verify_connect(token, NOW), Err(TokenFault::Invalid(_))), "{token:?}");
    }
    for claims in [json!([]), json!("x"), json!(null), json!({"sub": 42}), json!({"channels": "a"})] {
        assert!(matches!(connect(claims.clone()), Err(TokenFault::Invalid(_))), "{claims}");
    }
    assert!(matches!(connect(json!({"subs": {"a": 1}})), Err(TokenFault::Invalid(_))));
}

#[test]
fn a_list_is_no_header_and_no_claims() {
    let signer = Signer::secret(SECRET);
    let verify = |header: Value, claims: Value| {
        let token = signer.token_with(Algorithm::HS256, &header, claims.to_string().as_bytes());
        verifier().verify_connect(&token, NOW).map(|claims| claims.user)
    };
    assert_eq!(verify(json!({"alg": "HS256"}), json!({"sub": "a"})), Ok("a".into()));
    assert_eq!(verify(json!(["HS256", null, null]), json!({"sub": "a"})), Err(Flaw::Contents.into()));
    assert_eq!(verify(json!({"alg": "HS256"}), json!(["a"])), Err(Flaw::Contents.into()));
    assert_eq!(connect(json!({"sub": "a", "subs": ["x"]})), Err(Flaw::Contents.into()));
    assert_eq!(connect(json!({"sub": "a", "subs": {"x": [1]}})), Err(Flaw::Contents.into()));
    assert_eq!(subscribe(json!({"channel": "x", "override": [{"value": true}]})), Err(Flaw::Contents.into()));
    // PHP writes an empty array as a list.
    assert_eq!(connect(json!({"sub": "a", "subs": []})).map(|claims| claims.subs.len()), Ok(0));
    assert_eq!(connect(json!({"sub": "a", "subs": {"x": []}})).map(|claims| claims.subs.len()), Ok(1));
    let overridden = subscribe(json!({"channel": "x", "override": []})).map(|claims| claims.grant.overrides);
    assert_eq!(overridden, Ok(Overrides::default()));
}

#[test]
fn a_token_of_the_longest_length_is_taken() {
    let fits = |length: usize| signed(&json!({"sub": "u".repeat(length)}));
    let length = (1..TOKEN_BYTES_MAX).rev().find(|&length| fits(length).len() <= TOKEN_BYTES_MAX).unwrap();
    assert!(verifier().verify_connect(&fits(length), NOW).is_ok());
    let fault = TokenFault::Invalid(Flaw::TooLong);
    assert_eq!(verifier().verify_connect(&fits(length + 1), NOW).map(drop), Err(fault));
}

#[test]
fn mutated_tokens_are_refused() {
    let token = signed(&json!({"sub": "42", "exp": NOW + 5}));
    let mut prng = Prng::with_seed(11);
    for _ in 0..2_000 {
        let mut changed = token.clone().into_bytes();
        let at = prng.usize(..changed.len());
        changed[at] = prng.u8(0x20..0x7f);
        let changed = String::from_utf8(changed).unwrap();
        if changed != token {
            let refused = verifier().verify_connect(&changed, NOW);
            assert!(matches!(refused, Err(TokenFault::Invalid(_))), "{changed}");
        }
    }
}

/// Decoded bytes are copied into JSON frames, so they must be JSON themselves.
#[test]
fn base64_info_must_hold_json() {
    let info = |b64info: &str| connect(json!({"b64info": b64info, "info": 1})).map(|claims| claims.info);
    assert_eq!(info("eyJ4IjoxfQ=="), Ok(bytes(r#"{"x":1}"#)));
    assert_eq!(info(""), Ok(bytes("1")), "empty counts as absent");
    assert_eq!(info("not base64"), Err(TokenFault::Invalid(Flaw::Base64)));
    assert_eq!(info("fSx7"), Err(TokenFault::Invalid(Flaw::NotJson)));
    assert_eq!(info("/w=="), Err(TokenFault::Invalid(Flaw::NotJson)));
}

#[test]
fn faults_map_to_the_codes_of_the_protocol() {
    let (invalid, expired) = (TokenFault::Invalid(Flaw::Empty), TokenFault::Expired);
    assert_eq!(invalid.of_connection().map_err(|disconnect| disconnect.code), Err(3500));
    assert_eq!(invalid.of_refresh().map_err(|disconnect| disconnect.code), Err(3500));
    assert_eq!(invalid.of_subscription().code(), 103);
    for fault in [expired, TokenFault::Over] {
        assert_eq!(fault.of_connection().map(ErrorCode::code), Ok(109));
        assert_eq!(fault.of_refresh().map_err(|disconnect| disconnect.code), Err(3005));
        assert_eq!(fault.of_subscription().code(), 109);
    }
    for fault in [TokenFault::NotYetValid, TokenFault::KeyAwaited] {
        for error_code in [fault.of_connection(), fault.of_refresh(), Ok(fault.of_subscription())] {
            assert!(error_code.is_ok_and(ErrorCode::temporary), "{fault:?}");
        }
    }
}

#[test]
fn what_we_sign_we_verify() {
    let info = serde_json::value::to_raw_value(&json!({"n": 1})).unwrap();
    let channels = ["news".to_string()];
    let lasting = TokenBasis {
        user: "42",
        audience: Some("us"),
        issuer: Some("trunkline"),
        info: Some(&info),
        ..TokenBasis::default()
    };
    let basis = TokenBasis { expires_at_s: Some(NOW + 60), issued_at_s: Some(NOW), ..lasting };
    let token = ConnectToken { basis, meta: Some(&info), device: Some("phone"), channels: &channels };
    let options = TokenOptions {
        hmac_secret: SECRET.to_vec(),
        audience: Some("us".into()),
        issuer: Some("trunkline".into()),
        ..TokenOptions::default()
    };
    let verifier = Verifier::new(options);
    let claims = verifier.verify_connect(&sign_connect(SECRET, &token).unwrap(), NOW).unwrap();
    assert_eq!(
        (claims.user.as_str(), claims.expire_at_s, claims.issued_at_s),
        ("42", Some(NOW + 60), Some(NOW))
    );
    assert_eq!((claims.info, claims.meta), (bytes(r#"{"n":1}"#), bytes(r#"{"n":1}"#)));
    assert_eq!(claims.device.as_deref(), Some("phone"));
    assert!(claims.subs.contains_key("news"));
    let token = SubscribeToken { basis: lasting, channel: "news" };
    let claims = verifier.verify_subscribe(&sign_subscribe(SECRET, &token).unwrap(), NOW).unwrap();
    assert_eq!((claims.user.as_str(), claims.channel.as_str(), claims.expire_at_s), ("42", "news", None));
    assert_eq!(claims.grant.info, bytes(r#"{"n":1}"#));
}

#[test]
fn what_would_be_refused_is_not_signed() {
    assert_eq!(sign_connect(b"", &ConnectToken::default()), Err(SignFault::NoKey));
    assert_eq!(sign_subscribe(SECRET, &SubscribeToken::default()), Err(SignFault::NoChannel));
    let long = "u".repeat(TOKEN_BYTES_MAX);
    let token = ConnectToken {
        basis: TokenBasis { user: &long, ..TokenBasis::default() },
        ..ConnectToken::default()
    };
    assert_eq!(sign_connect(SECRET, &token), Err(SignFault::TooLong));
}

#[test]
fn the_secret_is_not_printed() {
    let options = TokenOptions { hmac_secret: b"hush".to_vec(), ..TokenOptions::default() };
    let printed = format!("{options:?}");
    assert!(!printed.contains("hush") && !printed.contains("104"), "{printed}");
}

#[test]
fn clocks_may_differ_by_the_leeway() {
    let verifier = |leeway_s| {
        Verifier::new(TokenOptions { hmac_secret: SECRET.to_vec(), leeway_s, ..TokenOptions::default() })
    };
    let judged = |leeway_s, claims: Value| verifier(leeway_s).verify_connect(&signed(&claims), NOW).map(drop);
    for (claim, sign, fault) in [
        ("exp", -1, TokenFault::Expired),
        ("expire_at", -1, TokenFault::Over),
        ("nbf", 1, TokenFault::NotYetValid),
    ] {
        for leeway in [0, 1, 5, 60] {
            // The last moment that is taken and the first that is not; `exp` is exclusive, `nbf` inclusive.
            let inclusive = i64::from(sign > 0);
            let by = |seconds: i64| json!({claim: NOW as i64 + sign * seconds});
            let last = leeway as i64 - 1 + inclusive;
            assert_eq!(judged(leeway, by(last)), Ok(()), "{claim} {leeway}");
            assert_eq!(judged(leeway, by(last + 1)), Err(fault), "{claim} {leeway}");
        }
        let far = json!({claim: if sign < 0 { i64::MIN } else { i64::MAX }});
        let expected = if claim == "expire_at" { Ok(()) } else { Err(fault) };
        assert_eq!(judged(u64::MAX, json!({claim: NOW as i64 + sign * 1000})), Ok(()), "{claim}");
        assert_eq!(judged(5, far), expected, "{claim}");
    }
    assert_eq!(judged(0, json!({"iat": NOW + 3600})), Ok(()), "when it was made is no reason");
    let within = verifier(5).verify_connect(&signed(&json!({"exp": NOW - 3})), NOW).unwrap();
    assert_eq!(within.expire_at_s, Some(NOW + 1), "what still holds has not ended yet");
}

/// What renews is held to our own clock: an end that has passed would make nothing last longer, and what begins later can
/// be shown again. Once the time of what it renews is up, a clock that is ahead must not cost the client its connection.
#[test]
fn the_leeway_lets_in_and_does_not_stretch() {
    let verifier =
        Verifier::new(TokenOptions { hmac_secret: SECRET.to_vec(), leeway_s: 5, ..TokenOptions::default() });
    let never = 0;
    for (claims, fault, taken_when_due) in [
        (json!({"exp": NOW}), TokenFault::Expired, false),
        (json!({"exp": NOW - 3}), TokenFault::Expired, false),
        (json!({"exp": NOW + 60, "expire_at": NOW - 1}), TokenFault::Over, false),
        (json!({"exp": NOW + 60, "nbf": NOW + 5}), TokenFault::NotYetValid, true),
        (json!({"exp": NOW + 60, "nbf": NOW + 6}), TokenFault::NotYetValid, false),
    ] {
        let connection = signed(&claims);
        let mut subscription = claims.clone();
        subscription["channel"] = "a".into();
        let subscription = signed(&subscription);
        let judged = |expire_at_s| {
            let connection = verifier.verify_refresh(&connection, NOW, expire_at_s).map(drop);
            assert_eq!(verifier.verify_sub_refresh(&subscription, NOW, expire_at_s).map(drop), connection);
            connection
        };
        for expire_at_s in [never, NOW + 6, u64::MAX] {
            assert_eq!(judged(expire_at_s), Err(fault), "{claims} renews {expire_at_s}");
        }
        let when_due = if taken_when_due { Ok(()) } else { Err(fault) };
        for expire_at_s in [1, NOW - 20, NOW, NOW + 5] {
            assert_eq!(judged(expire_at_s), when_due, "{claims} renews {expire_at_s}");
        }
    }
    let last = signed(&json!({"exp": NOW + 1}));
    let renewed = verifier.verify_refresh(&last, NOW, NOW).unwrap();
    assert_eq!(renewed.expire_at_s, Some(NOW + 1));
}

#[test]
fn dates_come_as_numbers_and_as_text() {
    let taken = |date: &str| {
        let claims = format!(r#"{{"exp":{date}}}"#);
        let token =
            Signer::secret(SECRET).token_with(Algorithm::HS256, &json!({"alg": "HS256"}), claims.as_bytes());
        verifier().verify_connect(&token, NOW).map(|claims| claims.expire_at_s)
    };
    for date in [
        "1700000300",
        "1700000300.75",
        "1.7000003e9",
        "\"1700000300\"",
        "\"1700000300.5\"",
        "\" 1700000300 \"",
    ] {
        assert_eq!(taken(date), Ok(Some(NOW + 300)), "{date}");
    }
    for far in ["1e300", "\"1e300\"", "9223372036854775808", "\"99999999999999999999\""] {
        assert_eq!(taken(far), Ok(Some(i64::MAX as u64)), "{far}");
    }
    for date in
        ["\"\"", "\"soon\"", "\"inf\"", "\"nan\"", "\"2023-11-14T22:13:20Z\"", "true", "[1700000300]", "{}"]
    {
        assert_eq!(taken(date), Err(Flaw::Contents.into()), "{date}");
    }
}

#[test]
fn a_grant_that_cannot_be_held_is_refused() {
    let refused = TokenFault::Invalid(Flaw::Grant);
    assert_eq!(connect(json!({"caps": [{"channels": ["*"]}]})), Err(refused));
    assert_eq!(connect(json!({"subs": {"a": {"allow": ["pub"]}}})), Err(refused));
    assert_eq!(subscribe(json!({"channel": "a", "allow": ["pub"]})).map(drop), Err(refused));
    assert_eq!(
        subscribe(json!({"channel": "a", "server_tags_filter": {"op": "and"}})).map(drop),
        Err(refused)
    );
    assert!(connect(json!({"caps": [], "subs": {"a": {"allow": []}}})).is_ok());
    let filter = json!({"key": "k", "cmp": "ex"});
    let granted = subscribe(json!({"channel": "a", "server_tags_filter": filter})).unwrap();
    assert_eq!(
        granted.grant.filter.map(|filter| filter.to_json()).as_deref(),
        Some(r#"{"key":"k","cmp":"ex"}"#)
    );
}

#[test]
fn secrets_are_changed_without_a_gap() {
    let (old, new, ended) =
        (&b"the secret of before"[..], &b"the secret of now"[..], &b"one of long ago"[..]);
    let options = TokenOptions {
        hmac_secret: new.to_vec(),
        hmac_secrets: vec![
            (old.to_vec(), Some(NOW + 10)),
            (ended.to_vec(), Some(NOW)),
            (SECRET.to_vec(), None),
        ],
        ..TokenOptions::default()
    };
    let verifier = Verifier::new(options);
    let outcome = |secret: &[u8], at: u64| {
        let token = signed_with(Algorithm::HS384, secret, &json!({"sub": "ann"}));
        verifier.verify_connect(&token, at).map(|claims| claims.user)
    };
    let no = || Err(TokenFault::Invalid(Flaw::Signature));
    for secret in [new, old, SECRET] {
        assert_eq!(outcome(secret, NOW).as_deref(), Ok("ann"));
    }
    assert_eq!((outcome(old, NOW + 9).is_ok(), outcome(old, NOW + 10)), (true, no()), "exclusive");
    assert_eq!((outcome(ended, NOW), outcome(b"none of them", NOW)), (no(), no()));
    assert_eq!(outcome(new, NOW + 1000).as_deref(), Ok("ann"));
    // With none but one that has ended, no secret is left; without any there is no key.
    let alone = TokenOptions { hmac_secrets: vec![(ended.to_vec(), Some(NOW))], ..TokenOptions::default() };
    let token = signed_with(Algorithm::HS256, ended, &json!({}));
    assert_eq!(Verifier::new(alone).verify_connect(&token, NOW), Err(TokenFault::Invalid(Flaw::Signature)));
    let without = Verifier::new(TokenOptions::default());
    assert_eq!(without.verify_connect(&token, NOW), Err(TokenFault::Invalid(Flaw::NoKey)));
}

#[test]
fn audience_and_issuer_may_be_patterns() {
    let pattern = |text: &str| Some(Pattern::new(text).unwrap());
    let options = TokenOptions {
        hmac_secret: SECRET.to_vec(),
        audience_pattern: pattern("^app-[a-z]+$"),
        issuer_pattern: pattern("^https://[a-z]+\\.example$"),
        ..TokenOptions::default()
    };
    let verifier = Verifier::new(options);
    let outcome = |aud: Value, iss: Value| {
        verifier.verify_connect(&signed(&json!({"aud": aud, "iss": iss})), NOW).map(|_| ())
    };
    let good = json!("https://a.example");
    assert_eq!(outcome(json!("app-web"), good.clone()), Ok(()));
    assert_eq!(outcome(json!(["other", "app-web"]), good.clone()), Ok(()));
    for aud in [json!("app-1"), json!("an app-web"), json!([]), json!(null)] {
        assert_eq!(outcome(aud, good.clone()), Err(TokenFault::Invalid(Flaw::Audience)));
    }
    for iss in [json!("https://a.example.evil"), json!(null)] {
        assert_eq!(outcome(json!("app-web"), iss), Err(TokenFault::Invalid(Flaw::Issuer)));
    }
}

#[test]
fn the_user_may_stand_in_another_claim_and_may_be_required() {
    let verifier = |user_claim: Option<&str>, require_user| {
        let user_claim = user_claim.map(str::to_string);
        Verifier::new(TokenOptions {
            hmac_secret: SECRET.to_vec(),
            user_claim,
            require_user,
            ..TokenOptions::default()
        })
    };
    let user = |verifier: &Verifier, claims: Value| {
        verifier.verify_connect(&signed(&claims), NOW).map(|claims| claims.user)
    };
    let mail = verifier(Some("mail"), false);
    assert_eq!(user(&mail, json!({"sub": "1", "mail": "ann"})).as_deref(), Ok("ann"));
    assert_eq!(user(&mail, json!({"sub": "1"})).as_deref(), Ok(""), "sub is another claim");
    assert_eq!(user(&mail, json!({"mail": null})).as_deref(), Ok(""));
    assert_eq!(user(&mail, json!({"mail": 7})), Err(TokenFault::Invalid(Flaw::Contents)));
    let claims = mail.verify_subscribe(&signed(&json!({"mail": "ann", "channel": "c"})), NOW).unwrap();
    assert_eq!(claims.user, "ann");
    let strict = verifier(Some("mail"), true);
    assert_eq!(user(&strict, json!({"sub": "1"})), Err(TokenFault::Invalid(Flaw::NoUser)));
    assert_eq!(user(&strict, json!({"mail": "ann"})).as_deref(), Ok("ann"));
    let strict = verifier(None, true);
    assert_eq!(user(&strict, json!({})), Err(TokenFault::Invalid(Flaw::NoUser)));
    assert_eq!(user(&strict, json!({"sub": ""})), Err(TokenFault::Invalid(Flaw::NoUser)));
    assert_eq!(user(&strict, json!({"sub": "ann"})).as_deref(), Ok("ann"));
}
