//! Commands that wait, in order and bounded.

use super::*;

#[test]
fn pongs_count_while_commands_are_held() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    assert!(stage.session.ping());
    stage.say("{\"id\":2,\"rpc\":{\"method\":\"m\"}}\n{\"id\":3,\"ping\":{}}\n{}").unwrap();
    assert!(!stage.session.ping_outstanding(), "within the frame that asks");
    assert!(stage.session.ping());
    stage.say("{}").unwrap();
    assert!(!stage.session.ping_outstanding(), "and in one of its own");
    assert_eq!(stage.heard, "");
    assert_eq!(stage.say("{}"), Err(Disconnect::BAD_REQUEST), "nobody asked for this one");
    stage.answer(DOWN).unwrap();
    assert!(stage.heard.contains(r#"{"id":3"#));
}

#[test]
fn held_commands_are_checked_and_say_when_they_are_enough() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"rpc":{"method":"m"}}"#).unwrap();
    assert_eq!(stage.say("{\"id\":3,"), Err(Disconnect::BAD_REQUEST));
    let command = format!(r#"{{"id":3,"rpc":{{"method":"m","data":"{}"}}}}"#, "x".repeat(1000));
    let mut held = 0;
    while !stage.session.holds_enough() {
        assert!(held <= HELD_BYTES_MAX);
        stage.say(&command).unwrap();
        held += command.len();
    }
    assert!(held > HELD_BYTES_MAX / 10 * 9, "{held}");

    // Many small ones weigh more than their bytes.
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"rpc":{"method":"m"}}"#).unwrap();
    stage.say(&[r#"{"send":{}}"#; 100].join("\n")).unwrap();
    assert!(!stage.session.holds_enough());
    stage.say(&[r#"{"send":{}}"#; 200].join("\n")).unwrap();
    assert!(stage.session.holds_enough());
    // Taken up, none is left.
    stage.answer(DOWN).unwrap();
    assert!(!stage.session.holds_enough() && !stage.session.has_held());
    assert_eq!(stage.effects.iter().filter(|effect| matches!(effect, Effect::Message { .. })).count(), 300);
}

#[test]
fn a_client_has_so_many_commands_under_way_and_the_others_wait_in_order() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.session.command_sent(UNDER_WAY_MAX);
    stage.say("{\"id\":2,\"ping\":{}}\n{\"id\":3,\"ping\":{}}").unwrap();
    stage.say(r#"{"id":4,"ping":{}}"#).unwrap();
    stage.resume();
    assert_eq!(stage.heard, "");
    stage.session.command_answered(1);
    // One that comes before the held ones are taken up does not overtake them.
    stage.say(r#"{"id":5,"ping":{}}"#).unwrap();
    assert_eq!(stage.heard, "");
    stage.resume();
    let ids: Vec<_> = (2..=5).map(|id| stage.heard.find(&format!("\"id\":{id}"))).collect();
    assert!(ids.iter().all(Option::is_some) && ids.is_sorted(), "{}", stage.heard);
}

#[test]
fn a_turn_has_room_for_so_many_commands_and_the_others_wait_in_order() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    let frame: Vec<_> = (2..7).map(|id| format!(r#"{{"id":{id},"ping":{{}}}}"#)).collect();
    stage.turn = 2;
    stage.say(&frame.join("\n")).unwrap();
    let heard =
        |stage: &Stage| (2..9).filter(|id| stage.heard.contains(&format!("\"id\":{id}"))).collect::<Vec<_>>();
    assert_eq!(heard(&stage), [2, 3]);
    // What comes in the same turn does not overtake them, nor in the next one.
    stage.say(r#"{"id":7,"ping":{}}"#).unwrap();
    stage.turn = 2;
    stage.say(r#"{"id":8,"ping":{}}"#).unwrap();
    assert_eq!(heard(&stage), [2, 3]);
    stage.resume();
    assert_eq!(heard(&stage), [2, 3, 4, 5]);
    stage.turn = u16::MAX;
    stage.resume();
    let ids: Vec<_> = (2..9).map(|id| stage.heard.find(&format!("\"id\":{id}"))).collect();
    assert!(ids.iter().all(Option::is_some) && ids.is_sorted(), "{}", stage.heard);
    assert!(!stage.session.has_held());
}

#[test]
fn what_is_answered_at_length_waits_for_the_socket_and_keeps_its_place() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.blocked = true;
    stage
        .say("{\"id\":2,\"ping\":{}}\n{\"id\":3,\"history\":{\"channel\":\"free\"}}\n{\"id\":4,\"ping\":{}}")
        .unwrap();
    stage.resume();
    assert!(stage.heard.contains("\"id\":2"), "what is short goes on: {}", stage.heard);
    assert!(!stage.heard.contains("\"id\":3") && !stage.heard.contains("\"id\":4"), "{}", stage.heard);
    stage.blocked = false;
    stage.resume();
    // There is no history in this stage: what matters is that it is looked at, and before the one behind it.
    assert!(stage.heard.find("\"id\":3").unwrap() < stage.heard.find("\"id\":4").unwrap(), "{}", stage.heard);
    assert!(!stage.session.has_held());
}

/// SDKs send both in one message when a component comes and goes at once: answered before its subscribe, the
/// unsubscribe left the client with an answer for a subscription that was not there.
#[test]
fn an_unsubscribe_waits_for_its_subscribe() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"subscribe":{"channel":"free"}}"#).unwrap();
    let Some(Effect::Subscribe(subscribe)) = stage.effects.pop() else { panic!("no join was asked for") };
    let index = stage.around.find("free").unwrap();
    stage.session.join_asked(index, 1, &subscribe);
    stage.say(r#"{"id":3,"unsubscribe":{"channel":"free"}}"#).unwrap();
    stage.resume();
    assert_eq!(stage.heard, "");
    stage.session.set_place(index, 0);
    stage.resume();
    assert!(stage.heard.contains("\"id\":3"), "{}", stage.heard);
    assert!(
        matches!(stage.effects.pop(), Some(Effect::Unsubscribe { channel, why: None }) if channel == index)
    );
}
