//! What expires: the backend is asked whether it goes on.

use super::*;

fn hooked(expire_in_s: u64) -> ConnectAnswer {
    ConnectAnswer { user: "ann".into(), expire_at_s: NOW_S + expire_in_s, ..ConnectAnswer::default() }
}

#[test]
fn the_backend_says_whether_a_connection_that_it_let_in_goes_on() {
    let mut stage = Stage::connected(hooked(60));
    assert_eq!((stage.session.next_ask_s(), stage.session.next_expiry_s()), (Some(NOW_S + 60), NOW_S + 60));
    stage.timer();
    assert!(stage.matters.is_empty(), "not before its time");
    stage.unix_s += 60;
    stage.timer();
    assert!(matches!(&stage.matters[..], [HookRequest::Refresh]));
    let refreshed = RefreshAnswer { expire_at_s: NOW_S + 120, ..RefreshAnswer::default() };
    stage.answer(Ok(Answer::Refresh(refreshed))).unwrap();
    assert_eq!((stage.session.next_ask_s(), stage.session.next_expiry_s()), (Some(NOW_S + 120), NOW_S + 120));
    assert!(stage.heard.is_empty(), "the client is told of nothing: {}", stage.heard);

    // Down: asked again a little later, the expiry stands.
    stage.unix_s += 60;
    for (pause, outcome) in [(5, DOWN), (10, error(false))] {
        stage.timer();
        stage.answer(outcome).unwrap();
        assert_eq!(stage.session.next_ask_s(), Some(NOW_S + 120 + pause));
        assert_eq!(stage.session.next_expiry_s(), NOW_S + 120);
        stage.unix_s = NOW_S + 120 + pause;
    }
    // And with the other policy it lives on for a while.
    stage.timer();
    stage.answer(LET_IN).unwrap();
    assert_eq!(stage.session.next_expiry_s(), stage.unix_s + LENIENCE_S);
    stage.unix_s += LENIENCE_S;
    stage.timer();
    let expired = RefreshAnswer { expired: true, ..RefreshAnswer::default() };
    assert_eq!(stage.answer(Ok(Answer::Refresh(expired))), Err(Disconnect::EXPIRED));
}

#[test]
fn a_refresh_of_the_server_overtakes_the_hook_call_about_it() {
    let mut stage = Stage::connected(hooked(60));
    stage.unix_s += 60;
    stage.timer();
    stage.say(r#"{"id":2,"subscribe":{"channel":"free"}}"#).unwrap();
    let later = stage.unix_s + 100;
    stage.run(|session, cx| session.handle_refreshed(later, None, cx));
    assert!(!stage.session.is_waiting());
    assert!(matches!(stage.effects.last(), Some(Effect::Subscribe(_))), "what was held goes on");
    let expired = RefreshAnswer { expired: true, ..RefreshAnswer::default() };
    assert_eq!(stage.answer(Ok(Answer::Refresh(expired))), Ok(false));
    assert_eq!(stage.session.next_ask_s(), Some(later));
}

/// A client whose every command asks would never be asked about otherwise.
#[test]
fn what_is_due_comes_before_what_is_held() {
    let mut stage = Stage::connected(hooked(60));
    stage.say("{\"id\":2,\"rpc\":{\"method\":\"a\"}}\n{\"id\":3,\"rpc\":{\"method\":\"b\"}}").unwrap();
    stage.unix_s += 60;
    stage.timer();
    assert_eq!(stage.matters.len(), 1, "one at a time");
    stage.answer(Ok(Answer::Rpc { data: None })).unwrap();
    assert!(matches!(stage.matters.last(), Some(HookRequest::Refresh)));
    stage.answer(Ok(Answer::Refresh(RefreshAnswer::default()))).unwrap();
    assert!(matches!(stage.matters.last(), Some(HookRequest::Rpc { method, .. }) if &**method == "b"));
    assert_eq!(stage.session.next_expiry_s(), 0, "without an end it has none");
}

fn subscribed(expire_in_s: u64) -> Stage {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"subscribe":{"channel":"a"}}"#).unwrap();
    stage.answer(granted(NOW_S + expire_in_s)).unwrap();
    stage.join();
    stage.unix_s += expire_in_s;
    stage.matters.clear();
    stage.timer();
    assert!(matches!(&stage.matters[..], [HookRequest::SubRefresh { channel }] if &**channel == "a"));
    stage
}

#[test]
fn the_backend_says_whether_a_subscription_that_it_granted_goes_on() {
    let mut stage = subscribed(30);
    let later = stage.unix_s + 30;
    let refreshed = SubRefreshAnswer {
        expire_at_s: later,
        info: Some(Bytes::from_static(b"\"i\"")),
        ..SubRefreshAnswer::default()
    };
    stage.answer(Ok(Answer::SubRefresh(refreshed))).unwrap();
    assert_eq!(stage.session.next_ask_s(), Some(later));
    assert_eq!(stage.session.info(String::new(), Some(0)).chan_info.as_deref(), Some(&b"\"i\""[..]));

    for over in [
        SubRefreshAnswer { expired: true, ..SubRefreshAnswer::default() },
        SubRefreshAnswer { expire_at_s: NOW_S, ..SubRefreshAnswer::default() },
    ] {
        let mut stage = subscribed(30);
        stage.answer(Ok(Answer::SubRefresh(over))).unwrap();
        let ends = |effect: &Effect| {
            matches!(effect, Effect::Unsubscribe { channel: 0, why: Some(Unsubscribed::Expired) })
        };
        assert!(stage.effects.iter().any(ends), "{:?}", stage.effects);
    }
    let mut stage = subscribed(30);
    stage.answer(DOWN).unwrap();
    assert_eq!(stage.session.next_ask_s(), Some(stage.unix_s + 5));
    assert_eq!(stage.session.expired_subs(stage.unix_s), [0], "the delay runs");
}

/// The number of a channel that nobody is subscribed to any more is the next one's.
#[test]
fn an_answer_about_a_subscription_that_has_ended_is_not_about_the_next_one_of_its_number() {
    let mut stage = subscribed(30);
    stage.session.remove(0);
    let other = join_of("other", crate::session::Sub::SERVER_SIDE, stage.unix_s + 500);
    stage.session.join_asked(0, 8, &other);
    let expired = SubRefreshAnswer { expired: true, ..SubRefreshAnswer::default() };
    assert_eq!(stage.answer(Ok(Answer::SubRefresh(expired))), Ok(true));
    assert!(!stage.effects.iter().any(|effect| matches!(effect, Effect::Unsubscribe { .. })));
    assert_eq!(stage.session.next_expiry_s(), stage.unix_s + 500);
}
