//! What a refresh with a token changes, and what it must not end.

use super::*;

/// As by default.
const LEEWAY_S: u64 = 5;

/// A connected client of `ann` whose token grants `subs`, each joined; with what signs its next tokens.
fn with_token(subs: serde_json::Value) -> Stage {
    let mut stage = Stage::new();
    let options =
        TokenOptions { hmac_secret: b"secret".to_vec(), leeway_s: LEEWAY_S, ..TokenOptions::default() };
    stage.around.verifier = Some(Verifier::new(options));
    let token =
        token(serde_json::json!({"sub": "ann", "exp": NOW_S + 60, "info": 1, "meta": 1, "subs": subs}));
    stage.say(&format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#)).unwrap();
    let joins: Vec<SubscribeEffect> = stage
        .effects
        .drain(..)
        .filter_map(|effect| match effect {
            Effect::Subscribe(subscribe) => Some(subscribe),
            _ => None,
        })
        .collect();
    for (at, join) in joins.iter().enumerate() {
        let channel = stage.around.find(&join.channel).unwrap();
        stage.session.join_asked(channel, at as u32, join);
        stage.session.set_place(channel, at as u32);
    }
    stage.session.stop_waiting();
    stage.session.phase = SessionPhase::Connected;
    stage
}

fn token(claims: serde_json::Value) -> String {
    use crate::session::token::signer::Signer;
    Signer::secret(b"secret").token("HS256".parse().unwrap(), None, &claims)
}

#[test]
fn what_a_refresh_token_says_is_what_goes() {
    let mut stage = with_token(serde_json::json!({"a": {"info": 1}, "b": {}, "free": {}}));
    let other = join_of("both", crate::session::Sub::SERVER_SIDE, 0);
    stage.session.join_asked(3, 9, &other);
    let fresh = token(serde_json::json!({
        "sub": "ann", "exp": NOW_S + 600, "info": 2, "subs": {"a": {"info": 2}, "free": {}, "for#bob": {}},
    }));
    stage.say(&format!(r#"{{"id":5,"refresh":{{"token":"{fresh}"}}}}"#)).unwrap();
    let ended: Vec<_> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Unsubscribe { channel, why } => Some((*channel, why.unwrap())),
            _ => None,
        })
        .collect();
    assert_eq!(ended, [(1, Unsubscribed::Server)], "b was taken away; what the API subscribed to was not");
    let begun: Vec<_> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Subscribe(subscribe) => Some(&*subscribe.channel),
            _ => None,
        })
        .collect();
    assert_eq!(begun, ["for#bob"]);
    let changed: Vec<_> = stage
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::InfoChanged { channel } => Some(*channel),
            _ => None,
        })
        .collect();
    assert_eq!(changed, [Some(0), None]);
    let info = stage.session.info("id".into(), Some(0));
    assert_eq!((info.conn_info.as_deref(), info.chan_info.as_deref()), (Some(&b"2"[..]), Some(&b"2"[..])));
    assert_eq!(stage.session.meta(), None, "the new token has no meta");
    assert_eq!(stage.session.expire_at_s(), NOW_S + 600);
}

#[test]
fn a_refresh_that_grants_more_than_there_is_room_for_brings_the_client_back() {
    let mut stage = with_token(serde_json::json!({"a": {}, "b": {}, "free": {}, "both": {}}));
    let fresh = token(serde_json::json!({
        "sub": "ann", "subs": {"a": {}, "b": {}, "free": {}, "both": {}},
    }));
    stage.say(&format!(r#"{{"id":5,"refresh":{{"token":"{fresh}"}}}}"#)).unwrap();
    // One of the token's ends, and the client takes its place with one of its own.
    stage.session.remove(3);
    let own = join_of("for#bob", 0, 0);
    stage.session.join_asked(4, 9, &own);
    let refreshed = stage.say(&format!(r#"{{"id":6,"refresh":{{"token":"{fresh}"}}}}"#));
    assert_eq!(refreshed, Err(Disconnect::FORCE_RECONNECT));
    assert!(Disconnect::FORCE_RECONNECT.reconnects());
}

/// What the SDKs do with the codes: after an error that is not temporary, `refresh` and `sub_refresh` end them for good.
#[test]
fn no_refresh_ends_a_client_for_what_is_temporary() {
    let claims = [
        ("expired", serde_json::json!({"exp": NOW_S - 1})),
        ("over", serde_json::json!({"exp": NOW_S + 60, "expire_at": NOW_S - 1})),
        ("not yet", serde_json::json!({"nbf": NOW_S + 60})),
        ("not yet", serde_json::json!({"nbf": NOW_S + LEEWAY_S})),
    ];
    for (name, mut claims) in claims {
        claims["sub"] = "ann".into();
        let connection = token(claims.clone());
        claims["channel"] = "free".into();
        let subscription = token(claims);
        let mut stage = with_token(serde_json::json!({}));
        let refreshed = stage.say(&format!(r#"{{"id":2,"refresh":{{"token":"{connection}"}}}}"#));
        match name {
            "not yet" => assert!(stage.heard.contains(r#""temporary":true"#), "{}", stage.heard),
            _ => assert_eq!(refreshed, Err(Disconnect::EXPIRED), "{name}"),
        }
        for server_side in [0, crate::session::Sub::SERVER_SIDE] {
            let mut stage = with_token(serde_json::json!({}));
            let own = join_of("free", server_side, NOW_S + 60);
            stage.session.join_asked(2, 1, &own);
            let said = format!(r#"{{"id":3,"sub_refresh":{{"channel":"free","token":"{subscription}"}}}}"#);
            let refreshed = stage.say(&said);
            if name != "not yet" && server_side != 0 {
                assert_eq!(refreshed, Err(Disconnect::SUBSCRIPTION_EXPIRED), "{name}");
                continue;
            }
            assert!(stage.heard.contains(r#""temporary":true"#), "{name}: {}", stage.heard);
            let ended = stage.effects.iter().any(|effect| {
                matches!(effect, Effect::Unsubscribe { channel: 2, why: Some(Unsubscribed::Expired) })
            });
            assert_eq!(ended, name != "not yet", "{name}");
        }
    }
}

/// Every channel that the node may remember is in use: asked again later, there may be room.
#[test]
fn a_full_node_is_a_reason_to_come_back() {
    let full = |stage: &mut Stage, flags: u32| {
        let answer = JoinAnswer {
            terms: JoinTerms { number: 1, id: 2, flags, ..JoinTerms::default() },
            since: None,
            cursors: None,
            outcome: Err(ErrorCode::LimitExceeded),
        };
        stage.run(|session, cx| session.handle_joined(2, &"free".into(), answer, cx))
    };
    let mut stage = with_token(serde_json::json!({}));
    assert_eq!(full(&mut stage, 0), Ok(JoinVerdict::Refused));
    assert!(stage.heard.contains(r#""code":106"#) && stage.heard.contains(r#""temporary":true"#));
    let mut stage = Stage::new();
    stage.around.verifier = with_token(serde_json::json!({})).around.verifier;
    let token = token(serde_json::json!({"sub": "ann", "subs": {"free": {}}}));
    stage.say(&format!(r#"{{"id":1,"connect":{{"token":"{token}"}}}}"#)).unwrap();
    let Some(Effect::Subscribe(join)) = stage.effects.pop() else { panic!("a join") };
    stage.session.join_asked(2, 1, &join);
    assert_eq!(full(&mut stage, join.flags), Err(Disconnect::SERVER_ERROR), "not let in without its channel");
    // A channel that another token grants later.
    let mut stage = with_token(serde_json::json!({}));
    stage.session.join_asked(2, 1, &join);
    assert_eq!(full(&mut stage, join.flags), Err(Disconnect::SERVER_ERROR), "not left without it");
    assert!(Disconnect::SERVER_ERROR.reconnects());
}
