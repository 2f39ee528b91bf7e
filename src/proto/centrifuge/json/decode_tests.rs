//! Frames as clients send them, broken ones, and many that nobody would send.

use std::borrow::Cow;

use crate::base::limits::COMMANDS_PER_FRAME_MAX;
use crate::base::prng::Prng;
use crate::proto::centrifuge::command::*;
use crate::proto::centrifuge::{Commands, Format};

fn decode_frame(frame: &[u8]) -> Commands<'_> {
    crate::proto::centrifuge::decode_frame(Format::Json, frame)
}

fn all(frame: &str) -> Vec<Result<Command<'_>, CommandFault>> {
    decode_frame(frame.as_bytes()).collect()
}

/// The one command of a frame.
fn one(frame: &str) -> Command<'_> {
    let mut commands = all(frame);
    assert_eq!(commands.len(), 1, "{frame}");
    commands.remove(0).unwrap_or_else(|fault| panic!("{frame}: {fault}"))
}

fn method(frame: &str) -> Method<'_> {
    one(frame).method
}

/// The fault that ends a frame.
fn fault(frame: &str) -> &'static str {
    match all(frame).pop() {
        Some(Err(fault)) => fault.0,
        other => panic!("{frame}: {other:?}"),
    }
}

fn json(text: &str) -> Option<Data<'_>> {
    let Method::Send { data } = method(text) else { panic!("{text}") };
    data
}

#[test]
fn connect() {
    let frame = concat!(
        r#"{"id":1,"connect":{"token":"a.b.c","data":{"k":[1, 2]},"#,
        r#""subs":{"news":{"recover":true,"offset":5,"epoch":"0000abcd"},"a":{},"b":null},"#,
        r#""name":"js","version":"5.2.0","headers":{"x-a":"1"},"flag":1,"later":{"x":[{}]}}}"#
    );
    let Command { id: 1, method: Method::Connect(connect) } = one(frame) else { panic!() };
    assert_eq!(connect.token, "a.b.c");
    assert_eq!(connect.data.and_then(Data::as_json), Some(r#"{"k":[1, 2]}"#));
    assert_eq!(connect.name, "js");
    assert_eq!(connect.version, "5.2.0");
    assert_eq!(connect.headers.as_deref(), Some(r#"{"x-a":"1"}"#));
    assert_eq!(
        connect.subs.iter().map(|(channel, _)| channel.as_ref()).collect::<Vec<_>>(),
        ["a", "b", "news"]
    );
    let since = SinceField { recover: true, offset: 5, epoch: "0000abcd".into() };
    assert_eq!(connect.since("news"), Some(&since));
    assert_eq!(connect.since("a"), Some(&SinceField::default()));
    assert_eq!(connect.since("absent"), None);
    assert!(matches!(connect.token, Cow::Borrowed(_)), "text without escapes is borrowed");
}

#[test]
fn subscribe() {
    let frame = concat!(
        r#"{"id":2,"subscribe":{"channel":"news","token":"t","data":"d","recover":true,"offset":18446744073709551615,"#,
        r#""epoch":"x","positioned":true,"recoverable":true,"join_leave":true,"delta":"fossil","flag":1}}"#
    );
    let expected = Subscribe {
        channel: "news".into(),
        token: "t".into(),
        data: json(r#"{"send":{"data":"d"}}"#),
        recover: true,
        offset: u64::MAX,
        epoch: "x".into(),
        positioned: true,
        recoverable: true,
        join_leave: true,
        shape: "fossil".into(),
        flag: 1,
        filter: None,
        kind: 0,
    };
    assert_eq!(one(frame), Command { id: 2, method: Method::Subscribe(Box::new(expected)) });
    assert_eq!(method(r#"{"id":2,"subscribe":{}}"#), Method::Subscribe(Box::default()));
    let Method::Subscribe(unsupported) = method(r#"{"id":2,"subscribe":{"tf":{"op":"eq"},"type":1}}"#) else {
        panic!()
    };
    assert!(unsupported.filter.is_some());
    assert_eq!(unsupported.kind, 1);
}

#[test]
fn the_other_methods() {
    let channel = || Cow::from("c");
    let data = json(r#"{"send":{"data":{"a":1}}}"#);
    assert_eq!(
        method(r#"{"id":3,"publish":{"channel":"c","data":{"a":1}}}"#),
        Method::Publish(Publish { channel: channel(), data, kind: 0 })
    );
    assert_eq!(
        method(r#"{"id":3,"unsubscribe":{"channel":"c"}}"#),
        Method::Unsubscribe { channel: channel() }
    );
    assert_eq!(method(r#"{"id":3,"presence":{"channel":"c"}}"#), Method::Presence { channel: channel() });
    assert_eq!(
        method(r#"{"id":3,"presence_stats":{"channel":"c"}}"#),
        Method::PresenceStats { channel: channel() }
    );
    let since = Some(SinceField { recover: true, offset: 7, epoch: "e".into() });
    assert_eq!(
        method(
            r#"{"id":3,"history":{"channel":"c","limit":-1,"since":{"offset":7,"epoch":"e"},"reverse":true}}"#
        ),
        Method::History(HistoryCommand { channel: channel(), limit: -1, since, reverse: true })
    );
    assert_eq!(
        method(r#"{"id":3,"history":{"channel":"c","since":null}}"#),
        Method::History(HistoryCommand { channel: channel(), ..HistoryCommand::default() })
    );
    assert_eq!(
        method(r#"{"id":3,"rpc":{"method":"m","data":{"a":1}}}"#),
        Method::Rpc { method: "m".into(), data }
    );
    assert_eq!(one(r#"{"send":{"data":{"a":1}}}"#), Command { id: 0, method: Method::Send { data } });
    assert_eq!(method(r#"{"id":3,"refresh":{"token":"t"}}"#), Method::Refresh { token: "t".into() });
    assert_eq!(
        method(r#"{"id":3,"sub_refresh":{"channel":"c","token":"t"}}"#),
        Method::SubRefresh { channel: channel(), token: "t".into() }
    );
    assert_eq!(method(r#"{"id":3,"ping":{}}"#), Method::Ping);
}

#[test]
fn pong_is_whatever_has_no_id_but_send() {
    for frame in ["{}", " {} ", r#"{"id":0}"#, r#"{"id":null}"#, r#"{"connect":{}}"#, r#"{"future":1}"#] {
        assert_eq!(one(frame), Command { id: 0, method: Method::Pong }, "{frame}");
    }
    assert_eq!(one(r#"{"send":{}}"#).method, Method::Send { data: None });
}

#[test]
fn an_id_without_a_known_method_is_unknown() {
    for frame in [r#"{"id":9}"#, r#"{"id":9,"publish":null}"#, r#"{"id":9,"delete":{"channel":"c"}}"#] {
        assert_eq!(one(frame), Command { id: 9, method: Method::Unknown }, "{frame}");
    }
}

#[test]
fn order_of_fields_null_and_unknown_fields_do_not_matter() {
    let plain = one(r#"{"id":4,"subscribe":{"channel":"c"}}"#);
    for frame in [
        r#"{"subscribe":{"channel":"c"},"id":4}"#,
        r#"{ "id" : 4 , "subscribe" : { "channel" : "c" } }"#,
        r#"{"id":4,"subscribe":{"channel":"c","token":null,"recover":null,"offset":null,"flag":null,"tf":null}}"#,
        r#"{"id":4,"new":[{"a":{}}],"subscribe":{"new":"\ud800","channel":"c"},"connect":null}"#,
        r#"{"\u0069d":4,"subscribe":{"chan\u006eel":"\u0063"}}"#,
        "{\"id\":4,\r\n\t\"subscribe\":{\"channel\":\n\"c\"}}",
    ] {
        assert_eq!(one(frame), plain, "{frame}");
    }
}

/// Null is a payload: only absence is none.
#[test]
fn payloads_are_kept_as_written() {
    for data in ["null", "0", "\"\\ud800\"", "{ \"a\" : [ 1 ] }", "[1,\n2]", "\"é\""] {
        let frame = format!(r#"{{"id":1,"publish":{{"channel":"c","data":{data}}}}}"#);
        let Method::Publish(publish) = method(&frame) else { panic!() };
        assert_eq!(publish.data.map(Data::as_bytes), Some(data.as_bytes()));
    }
    assert_eq!(method(r#"{"id":1,"publish":{}}"#), Method::Publish(Publish::default()));
}

#[test]
fn a_frame_may_hold_several_commands() {
    let commands = [
        r#"{"id":1,"connect":{"data":{"text":"line\nfeed }{"}}}"#,
        r#"{"id":2,"subscribe":{"channel":"a"}}"#,
        "{}",
        r#"{"send":{"data":1}}"#,
    ];
    let apart: Vec<_> = commands.iter().map(|command| one(command)).collect();
    for between in ["\n", "\r\n", "\n\n", "", "\n \t\n"] {
        for end in ["", "\n", "\r\n"] {
            let frame = commands.join(between) + end;
            let together: Vec<_> = decode_frame(frame.as_bytes()).map(Result::unwrap).collect();
            assert_eq!(together, apart, "{frame:?}");
        }
    }
}

#[test]
fn commands_before_a_fault_are_kept_and_none_after() {
    let frame = "{\"id\":1,\"ping\":{}}\n{\"id\":2,\"ping\":{}},\n{\"id\":3,\"ping\":{}}";
    let mut commands = decode_frame(frame.as_bytes());
    assert_eq!(commands.next().and_then(Result::ok).map(|command| command.id), Some(1));
    assert_eq!(commands.next().and_then(Result::ok).map(|command| command.id), Some(2));
    let fault = commands.next().and_then(Result::err);
    assert_eq!(fault, Some(CommandFault("not a JSON object")));
    assert_eq!(fault.map(|fault| fault.disconnect().code), Some(3501));
    assert!(commands.next().is_none());
    assert!(commands.next().is_none());
}

#[test]
fn faults_say_what_is_wrong() {
    for (frame, reason) in [
        ("", "frame without a command"),
        (" \n", "frame without a command"),
        ("[]", "not a JSON object"),
        ("null", "not a JSON object"),
        ("{\"id\":1", "expected a comma or the end of an object"),
        ("{\"id\":4294967296,\"ping\":{}}", "number out of range"),
        ("{\"id\":-1}", "expected an integer"),
        ("{\"id\":\"1\"}", "expected an integer"),
        ("{\"id\":1.0}", "expected an integer, not a fraction"),
        ("{\"id\":1,\"id\":1}", "a field comes twice"),
        ("{\"id\":1,\"ping\":{},\"ping\":null}", "a field comes twice"),
        ("{\"id\":1,\"ping\":{},\"send\":{}}", "more than one method in a command"),
        ("{\"id\":1,\"ping\":[]}", "not a JSON object"),
        ("{\"id\":1,\"subscribe\":\"c\"}", "not a JSON object"),
        ("{\"id\":1,\"subscribe\":{\"channel\":1}}", "expected a string"),
        ("{\"id\":1,\"subscribe\":{\"channel\":\"a\",\"channel\":\"b\"}}", "a field comes twice"),
        ("{\"id\":1,\"subscribe\":{\"recover\":1}}", "expected true or false"),
        ("{\"id\":1,\"subscribe\":{\"offset\":-1}}", "expected an integer"),
        ("{\"id\":1,\"subscribe\":{\"offset\":18446744073709551616}}", "number out of range"),
        ("{\"id\":1,\"history\":{\"limit\":2147483648}}", "number out of range"),
        ("{\"id\":1,\"connect\":{\"subs\":[]}}", "not a JSON object"),
        ("{\"id\":1,\"connect\":{\"subs\":{\"a\":{},\"b\":{},\"\\u0061\":{}}}}", "a field comes twice"),
        ("{\"id\":1,\"connect\":{\"subs\":{\"a\":{\"token\":1}}}}", "expected a string"),
        ("{\"id\":1,\"connect\":{\"headers\":[]}}", "headers are not an object"),
        ("{\"id\":1,\"publish\":{\"data\":}}", "expected a JSON value"),
        ("{\"id\":1,\"publish\":{\"data\":\"\t\"}}", "control character in a string"),
        ("{\"id\":1,\"publish\":{\"data\":\"", "string without an end"),
    ] {
        assert_eq!(fault(frame), reason, "{frame:?}");
    }
    let mut commands = decode_frame(b"{\"id\":1,\"publish\":{\"channel\":\"\xff\"}}");
    assert_eq!(commands.next(), Some(Err(CommandFault("frame is not UTF-8"))));
    assert_eq!(commands.next(), None);
}

#[test]
fn commands_of_a_frame_are_bounded() {
    let frame = "{}\n".repeat(COMMANDS_PER_FRAME_MAX);
    assert_eq!(all(&frame).iter().filter(|command| command.is_ok()).count(), COMMANDS_PER_FRAME_MAX);
    assert_eq!(all(&frame).len(), COMMANDS_PER_FRAME_MAX);
    let frame = "{}\n".repeat(COMMANDS_PER_FRAME_MAX + 5);
    assert_eq!(all(&frame).len(), COMMANDS_PER_FRAME_MAX + 1);
    assert_eq!(fault(&frame), "too many commands in one frame");
}

#[test]
fn positions_of_a_connect_are_bounded() {
    let frame = |count: usize| {
        let subs: Vec<String> = (0..count).map(|channel| format!("\"{channel}\":{{}}")).collect();
        format!("{{\"id\":1,\"connect\":{{\"subs\":{{{}}}}}}}", subs.join(","))
    };
    assert!(matches!(method(&frame(COMMANDS_PER_FRAME_MAX)), Method::Connect(_)));
    assert_eq!(fault(&frame(COMMANDS_PER_FRAME_MAX + 1)), "too many subscriptions in a connect");
}

#[test]
fn a_payload_may_nest_so_deep_and_no_deeper() {
    let frame = |depth: usize| {
        format!("{{\"id\":1,\"publish\":{{\"data\":{}{}}}}}", "[".repeat(depth), "]".repeat(depth))
    };
    assert!(matches!(method(&frame(512)), Method::Publish(_)));
    assert_eq!(fault(&frame(513)), "JSON nested too deep");
    assert_eq!(fault(&frame(100_000)), "JSON nested too deep");
}

const CORPUS: [&str; 6] = [
    r#"{"id":1,"connect":{"token":"a.b","data":{},"subs":{"c":{"recover":true,"offset":5,"epoch":"x"}},"name":"js"}}"#,
    r#"{"id":2,"subscribe":{"channel":"news:\u00e9","recover":true,"offset":12,"epoch":"abcd","flag":1}}"#,
    r#"{"id":3,"publish":{"channel":"c","data":{"text":"hello, \"world\" 日本","n":[1,2.5e3,null]}}}"#,
    r#"{"id":4,"history":{"channel":"c","limit":-1,"since":{"offset":7,"epoch":"e"},"reverse":true}}"#,
    "{}\n{\"send\":{\"data\":1}}\n{\"id\":5,\"rpc\":{\"method\":\"m\",\"data\":[]}}",
    r#"{"id":6,"sub_refresh":{"channel":"c","token":"t"}}"#,
];

/// Every prefix of a valid frame ends in a fault or at a border between commands, and in nothing worse.
#[test]
fn truncated_frames_do_not_panic() {
    for frame in CORPUS {
        for end in 0..frame.len() {
            let decoded: Vec<_> = decode_frame(&frame.as_bytes()[..end]).collect();
            let whole = decode_frame(frame.as_bytes()).filter_map(Result::ok).collect::<Vec<_>>();
            for (command, expected) in decoded.iter().filter_map(|command| command.as_ref().ok()).zip(&whole)
            {
                assert_eq!(command, expected);
            }
        }
    }
}

#[test]
fn garbage_and_mutated_frames_do_not_panic() {
    let mut prng = Prng::with_seed(0x7472_756e_6b6c_696e);
    let mut refused = 0;
    for round in 0..60_000 {
        let mut bytes = if round % 4 == 0 {
            (0..prng.usize(..64)).map(|_| prng.u8(..)).collect()
        } else {
            CORPUS[round % CORPUS.len()].as_bytes().to_vec()
        };
        for _ in 0..prng.usize(1..6) {
            if bytes.is_empty() {
                break;
            }
            let at = prng.usize(..bytes.len());
            match prng.u8(..5) {
                0 => bytes[at] ^= 1 << prng.u8(..8),
                1 => bytes[at] = prng.u8(..),
                2 => bytes.truncate(at),
                3 => {
                    let other = CORPUS[prng.usize(..CORPUS.len())].as_bytes();
                    let from = prng.usize(..other.len());
                    bytes.splice(at..at, other[from..].iter().copied());
                }
                _ => drop(bytes.remove(at)),
            }
        }
        let decoded: Vec<_> = decode_frame(&bytes).collect();
        assert!(!decoded.is_empty(), "a frame is commands or a fault");
        let faults = decoded.iter().filter(|command| command.is_err()).count();
        assert!(faults <= 1 && decoded[..decoded.len() - 1].iter().all(Result::is_ok));
        refused += faults;
    }
    assert!(refused > 30_000, "mutations that change nothing test nothing: {refused}");
}
