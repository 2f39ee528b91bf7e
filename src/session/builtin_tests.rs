//! Calls that are answered here.

use super::*;
use crate::base::ids::Offset;
use crate::hub::cursors::{AckCall, AckKind, AckRequest, MemberCursor};
use crate::session::acks::reply_acked;

fn member() -> Stage {
    let mut stage = Stage::connected(ConnectAnswer { user: "ann".to_owned(), ..ConnectAnswer::default() });
    stage.say(r#"{"id":2,"subscribe":{"channel":"free"}}"#).unwrap();
    stage.join();
    stage.heard.clear();
    stage
}

fn ack(stage: &mut Stage, data: &str) {
    stage.say(&format!(r#"{{"id":3,"rpc":{{"method":"trunkline.ack","data":{data}}}}}"#)).unwrap();
}

fn asked(stage: &mut Stage) -> AckCall {
    match stage.effects.pop() {
        Some(Effect::Ack { id: 3, call }) => *call,
        other => panic!("{other:?}"),
    }
}

#[test]
fn no_hook_is_called_for_a_method_of_this_daemon() {
    let mut stage = Stage::connected(ConnectAnswer::default());
    stage.say(r#"{"id":2,"rpc":{"method":"trunkline.nothing"}}"#).unwrap();
    assert!(stage.heard.contains(r#""code":104"#) && stage.matters.is_empty(), "{}", stage.heard);
}

#[test]
fn acknowledgements_go_to_the_owners_of_their_channels() {
    let mut stage = member();
    let data = r#"{"acks":[{"channel":"free","offset":3,"kind":"received"},{"channel":"other","offset":1,"kind":"read"},
        {"channel":"free","offset":2,"kind":"read","epoch":"00000009"}],"device":"phone"}"#;
    ack(&mut stage, &data.replace('\n', " "));
    let AckCall { requests, mut outcomes } = asked(&mut stage);
    let [AckRequest { channel, user, device, acks }] = &requests[..] else { panic!("{requests:?}") };
    assert_eq!((&**channel, &**user, &**device), ("free", "ann", "phone"));
    let said: Vec<_> = acks.iter().map(|ack| (ack.place, ack.offset.0, ack.kind)).collect();
    assert_eq!(said, [(0, 3, AckKind::Received), (2, 2, AckKind::Read)]);
    assert_eq!(outcomes[1], Err(ErrorCode::PermissionDenied), "it is not subscribed");
    outcomes[0] = Ok(MemberCursor { received: Offset(3), read: Offset(2) });
    outcomes[2] = Err(ErrorCode::UnrecoverablePosition);
    stage.run(|_, cx| reply_acked(3, &outcomes, cx));
    let expected = [
        r#"{"received":3,"read":2}"#,
        r#"{"error":{"code":103,"message":"permission denied"}}"#,
        r#"{"error":{"code":112,"message":"unrecoverable position"}}"#,
    ];
    let expected = format!(r#"{{"id":3,"rpc":{{"data":{{"acks":[{}]}}}}}}"#, expected.join(","));
    assert_eq!(stage.heard.trim_end(), expected);
}

#[test]
fn a_call_that_cannot_be_read_is_refused_whole() {
    let one = r#"{"channel":"free","offset":1,"kind":"read"}"#;
    let many = |count| format!(r#"{{"acks":[{}]}}"#, vec![one; count].join(","));
    let device = |bytes| format!(r#"{{"acks":[{one}],"device":"{}"}}"#, "d".repeat(bytes));
    for (data, code) in [
        ("[]".to_owned(), Some(107)),
        ("{}".to_owned(), Some(107)),
        (r#"{"acks":[{"channel":"free","offset":-1,"kind":"read"}]}"#.to_owned(), Some(107)),
        (r#"{"acks":[{"channel":"free","offset":1,"kind":"seen"}]}"#.to_owned(), Some(107)),
        (many(101), Some(106)),
        (many(100), None),
        (device(65), Some(107)),
        (device(64), None),
    ] {
        let mut stage = member();
        ack(&mut stage, &data);
        match code {
            Some(code) => assert!(stage.heard.contains(&format!(r#""code":{code}"#)), "{data}"),
            None => assert!(!asked(&mut stage).requests.is_empty(), "{data}"),
        }
    }
    let mut stage = Stage::connected(ConnectAnswer::default());
    ack(&mut stage, &many(1));
    assert!(stage.heard.contains(r#""code":103"#), "who has no user has no cursors: {}", stage.heard);
}

#[test]
fn a_client_whose_device_is_known_acknowledges_for_it_alone() {
    let named = ConnectAnswer {
        user: "ann".to_owned(),
        device: Some("phone:7c".to_owned()),
        ..ConnectAnswer::default()
    };
    let mut stage = Stage::connected(named);
    stage.say(r#"{"id":2,"subscribe":{"channel":"free"}}"#).unwrap();
    stage.join();
    stage.heard.clear();
    let one = r#"{"channel":"free","offset":1,"kind":"read"}"#;
    for device in ["", r#","device":"phone:7c""#] {
        ack(&mut stage, &format!(r#"{{"acks":[{one}]{device}}}"#));
        assert_eq!(&*asked(&mut stage).requests[0].device, "phone:7c");
    }
    ack(&mut stage, &format!(r#"{{"acks":[{one}],"device":"phone"}}"#));
    assert!(stage.heard.contains(r#""code":103"#), "{}", stage.heard);
}
