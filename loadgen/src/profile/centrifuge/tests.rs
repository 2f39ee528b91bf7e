//! Both forms through the same conversations: what is said is written in JSON, and put into Protobuf by another
//! implementation than ours.

use prost::Message as _;
use trunkline::base::prng::Prng;

use super::{AtomicU32, Centrifuge, Codec, EPOCH_BYTES_MAX, Json, Protobuf, Tokens, schema};
use crate::measure::{Cause, Mark, MarkFinder, MarkKind, write_payload};
use crate::profile::{Audience, Client, Outgoing, Profile, Said, Template};

const ECHO: &str = r#""rpc":{"method":"echo","data":{data}}"#;

/// One connection of either form.
struct Rig {
    profile: Box<dyn Profile>,
    form: Form,
    audience: Audience,
    number: u32,
    step: u16,
    positions: Option<Box<[u64]>>,
    out: Outgoing,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Form {
    Json,
    Protobuf,
}

const FORMS: [Form; 2] = [Form::Json, Form::Protobuf];

impl Rig {
    fn new(form: Form, recover: bool) -> Rig {
        Rig::with(form, recover, None, ECHO)
    }

    fn with(form: Form, recover: bool, token: Option<&str>, request: &str) -> Rig {
        fn profile<C: Codec + 'static>(token: Option<&str>, codec: C) -> Box<dyn Profile> {
            let path = "/connection/websocket".into();
            let tokens = token.map_or(Tokens::None, |token| Tokens::One(token.into()));
            Box::new(Centrifuge { path, tokens, join_leave: false, codec, turn: AtomicU32::new(0) })
        }
        let request = Template::new(request);
        let profile = match form {
            Form::Json => profile(token, Json { request }),
            Form::Protobuf => profile(token, Protobuf::new(request).unwrap()),
        };
        let audience = Audience::new(10, 2, "c".into(), recover);
        Rig { profile, form, audience, number: 1, step: 0, positions: None, out: Outgoing::new() }
    }

    fn turn<T>(&mut self, turn: impl FnOnce(&dyn Profile, &mut Client<'_>, &mut Outgoing) -> T) -> T {
        self.out.begin(false);
        let Rig { profile, audience, number, step, positions, out, .. } = self;
        turn(&**profile, &mut Client { number: *number, step, positions, audience }, out)
    }

    fn hear_bytes(&mut self, frame: &[u8]) -> Result<Said, Cause> {
        self.turn(|profile, client, out| profile.handle(client, frame, out))
    }

    /// Hears replies, given in JSON.
    fn hear(&mut self, replies: &[&str]) -> Result<Said, Cause> {
        self.hear_bytes(&frame(self.form, replies))
    }

    /// The commands that were sent in the last turn.
    fn commands(&self) -> Vec<schema::Command> {
        let bytes = self.out.bytes();
        match self.form {
            Form::Json => {
                let lines = bytes.split(|&byte| byte == b'\n');
                lines.map(|line| serde_json::from_slice(line).unwrap()).collect()
            }
            Form::Protobuf => {
                let mut rest = bytes;
                let mut commands = Vec::new();
                while !rest.is_empty() {
                    commands.push(schema::Command::decode_length_delimited(&mut rest).unwrap());
                }
                commands
            }
        }
    }
}

fn frame(form: Form, replies: &[&str]) -> Vec<u8> {
    match form {
        Form::Json => replies.join("\n").into_bytes(),
        Form::Protobuf => {
            let read = |text: &&str| serde_json::from_str::<schema::Reply>(text).unwrap();
            replies.iter().map(read).flat_map(|reply| reply.encode_length_delimited_to_vec()).collect()
        }
    }
}

/// What both forms are to have sent.
fn commands(texts: &[&str]) -> Vec<schema::Command> {
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

#[test]
fn is_ready_when_everything_is_answered() {
    for form in FORMS {
        let mut rig = Rig::new(form, false);
        rig.turn(|profile, client, out| profile.open(client, out));
        let expected = [
            r#"{"id":1,"connect":{"name":"loadgen"}}"#,
            r#"{"id":2,"subscribe":{"channel":"c2"}}"#,
            r#"{"id":3,"subscribe":{"channel":"c3"}}"#,
        ];
        assert_eq!(rig.commands(), commands(&expected), "{form:?}");
        let some = rig.hear(&[r#"{"id":1,"connect":{"ping":25}}"#, r#"{"id":2,"subscribe":{}}"#]);
        assert!(!some.unwrap().ready);
        assert!(rig.hear(&[r#"{"id":3,"subscribe":{}}"#]).unwrap().ready);
    }
}

#[test]
fn a_token_is_shown() {
    for form in FORMS {
        let mut rig = Rig::with(form, false, Some("a.b.c"), ECHO);
        rig.turn(|profile, client, out| profile.open(client, out));
        assert_eq!(rig.commands()[0].connect.as_ref().unwrap().token, "a.b.c", "{form:?}");
    }
}

/// The bytes that the published clients and servers exchange.
#[test]
fn pings_are_answered_once_a_frame() {
    for (form, ping, two) in [(Form::Json, &b"{}"[..], &b"{}\n{}"[..]), (Form::Protobuf, &[0], &[0, 0])] {
        let mut rig = Rig::new(form, false);
        assert_eq!(rig.hear_bytes(ping).unwrap().pings, 1);
        assert_eq!(rig.out.bytes(), ping);
        assert_eq!(rig.hear_bytes(two).unwrap().pings, 2);
        assert_eq!(rig.out.bytes(), ping, "{form:?}");
        assert_eq!(rig.hear_bytes(b"").unwrap(), Said::default());
        assert!(rig.out.bytes().is_empty());
    }
}

#[test]
fn refusals_farewells_and_garbage_have_causes() {
    for form in FORMS {
        let mut rig = Rig::new(form, false);
        let refusal = rig.hear(&[r#"{"id":1,"error":{"code":101,"message":"x"}}"#]);
        assert_eq!(refusal, Err(Cause::Refused(101)), "{form:?}");
        let farewell = rig.hear(&[r#"{"push":{"disconnect":{"code":3008,"reason":"slow"}}}"#]);
        assert_eq!(farewell, Err(Cause::ClosedByServer(3008)));
        let farewell = rig.hear(&[r#"{"push":{"channel":"c2","unsubscribe":{"code":2500}}}"#]);
        assert_eq!(farewell, Err(Cause::ClosedByServer(2500)));
        let farewell = rig.hear(&[r#"{"push":{"disconnect":{"code":4294967295}}}"#]);
        assert_eq!(farewell, Err(Cause::ClosedByServer(u16::MAX)));
        assert_eq!(rig.hear(&[r#"{"push":{"message":{"data":{}}}}"#]).unwrap().others, 1);
        for id in [0, 4, 1_048_575, u32::MAX] {
            let reply = format!(r#"{{"id":{id},"subscribe":{{"offset":1}}}}"#);
            assert!(matches!(rig.hear(&[&reply]), Err(Cause::Protocol(_))), "{form:?} {id}");
        }
        let reply = rig.hear(&[r#"{"id":1048576,"error":{"code":108,"message":"x"}}"#]).unwrap();
        assert_eq!((reply.replies, reply.reply_error), (1, Some(108)));
        assert_eq!(rig.step, 0, "none of these was a step towards being ready");
    }
    for garbage in [&b"hello"[..], b"{\"id\":\"x\"}", b"\x00", b"{\"id\":4294967296}"] {
        assert!(matches!(Rig::new(Form::Json, false).hear_bytes(garbage), Err(Cause::Protocol(_))));
    }
    for garbage in [
        &b"{\"id\":1}"[..],                                  // the other form
        b"\x02\x08",                                         // a message cut short
        b"\x80",                                             // a length cut short
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",         // the longest length
        b"\x0b\x08\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80", // a number that does not end
        b"\x02\x00\x00",                                     // field 0
        b"\x02\x0b\x0c",                                     // a group
        b"\x02\x0e\x00",                                     // type 6
        b"\x03\x0d\x00\x00",                                 // four bytes that are two
        b"\x03\x0a\x01\x00",                                 // an id of bytes
        b"\x02\x20\x01",                                     // a push that is a number
        b"\x04\x22\x02\x3a\x05",                             // inside a push
        b"\x06\x08\x02\x32\x02\x48\x80",                     // inside a result
        b"\x07\x08\x02\x32\x03\x32\x01\xff",                 // an epoch that is no UTF-8
    ] {
        let heard = Rig::new(Form::Protobuf, true).hear_bytes(garbage);
        assert!(matches!(heard, Err(Cause::Protocol(_))), "{garbage:02x?}: {heard:?}");
    }
    // Fields of tomorrow, of every type.
    let unknown = b"\x1b\x08\x02\x32\x00\xf8\x07\x01\xfa\x07\x01x\xfd\x07abcd\xf9\x07abcdefgh";
    assert_eq!(Rig::new(Form::Protobuf, true).hear_bytes(&unknown[..]), Ok(Said::default()));
}

#[test]
fn positions_are_kept_and_asked_for() {
    for form in FORMS {
        let mut rig = Rig::new(form, true);
        rig.hear(&[r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"a\"b","offset":7}}"#]).unwrap();
        rig.hear(&[r#"{"push":{"channel":"c3","pub":{"data":{},"offset":4}}}"#]).unwrap();
        // Channels that are not its own.
        rig.hear(&[r#"{"push":{"channel":"c9","pub":{"data":{},"offset":5}}}"#]).unwrap();
        rig.hear(&[r#"{"push":{"channel":"else","pub":{"data":{},"offset":5}}}"#]).unwrap();
        assert_eq!(rig.positions.as_deref(), Some(&[7, 4][..]), "{form:?}");
        rig.turn(|profile, client, out| profile.open(client, out));
        let expected = [
            r#"{"id":1,"connect":{"name":"loadgen"}}"#,
            r#"{"id":2,"subscribe":{"channel":"c2","positioned":true,"recoverable":true,"recover":true,"offset":7,
                "epoch":"a\"b"}}"#,
            r#"{"id":3,"subscribe":{"channel":"c3","positioned":true,"recoverable":true,"recover":true,"offset":4}}"#,
        ];
        assert_eq!(rig.commands(), commands(&expected), "{form:?}");
        let recovered = r#"{"id":2,"subscribe":{"recovered":true,"was_recovering":true,"offset":7,
            "publications":[{"data":{},"offset":8},{"data":{},"offset":9}]}}"#;
        let lost = r#"{"id":3,"subscribe":{"was_recovering":true,"offset":300,"epoch":"x"}}"#;
        let said = rig.hear(&[&recovered.replace('\n', " "), lost]).unwrap();
        assert_eq!((said.recovered, said.unrecovered), (1, 1));
        assert_eq!(rig.positions.as_deref(), Some(&[9, 300][..]));
        let long = format!(r#"{{"id":2,"subscribe":{{"epoch":"{}"}}}}"#, "e".repeat(EPOCH_BYTES_MAX + 1));
        assert!(matches!(rig.hear(&[&long]), Err(Cause::Protocol(_))));
    }
}

#[test]
fn nothing_is_remembered_that_nobody_asks_for() {
    for form in FORMS {
        let mut rig = Rig::new(form, false);
        rig.hear(&[r#"{"id":2,"subscribe":{"recoverable":true,"epoch":"ab","offset":7}}"#]).unwrap();
        rig.hear(&[r#"{"push":{"channel":"c3","pub":{"data":{},"offset":4}}}"#]).unwrap();
        assert_eq!(rig.positions, None);
        assert_eq!(rig.audience.epoch(2), "");
    }
}

#[test]
fn marks_of_publications_and_of_answers_are_found_in_the_frame() {
    let mark = |sequence| Mark {
        kind: MarkKind::Publication,
        run: 7,
        channel: 2,
        number: 1,
        sequence,
        floor: 0,
        planned: trunkline::base::time::Time(5),
    };
    for form in FORMS {
        let replies: Vec<String> = (0..3)
            .map(|sequence| {
                let mut payload = Vec::new();
                write_payload(&mut payload, &mark(sequence), 200);
                let payload = String::from_utf8(payload).unwrap();
                if sequence == 2 {
                    format!(r#"{{"id":1048576,"rpc":{{"data":{payload}}}}}"#)
                } else {
                    format!(r#"{{"push":{{"channel":"c2","pub":{{"data":{payload},"offset":{sequence}}}}}}}"#)
                }
            })
            .collect();
        let frame = frame(form, &replies.iter().map(String::as_str).collect::<Vec<_>>());
        let said = Rig::new(form, false).hear_bytes(&frame).unwrap();
        assert_eq!((said.replies, said.reply_error, said.others), (1, None, 0));
        let found: Vec<Mark> = MarkFinder::default().marks(&frame).collect();
        assert_eq!(found, [mark(0), mark(1), mark(2)], "{form:?}");
    }
}

#[test]
fn a_request_is_the_same_command_in_both_forms() {
    let payload = br#"{"m":"x","n":[1, 2.50]}"#;
    for (request, expected) in [
        (ECHO, r#"{"id":1048576,"rpc":{"method":"echo","data":{"m":"x","n":[1, 2.50]}}}"#),
        (
            r#""rpc":{"method":"m{number}","data":{"all":[{data}],"text":{string}}}"#,
            r#"{"id":1048576,"rpc":{"method":"m1","data":{"all":[{"m":"x","n":[1, 2.50]}],"text":"{\"m\":\"x\",\"n\":[1, 2.50]}"}}}"#,
        ),
        (r#""rpc":{"data":7}"#, r#"{"id":1048576,"rpc":{"data":7}}"#),
        (
            r#""publish":{"channel":"a\"b","data":{data}}"#,
            r#"{"id":1048576,"publish":{"channel":"a\"b","data":{"m":"x","n":[1, 2.50]}}}"#,
        ),
        (
            r#""history":{"channel":"a","limit":-1,"since":{"offset":300,"epoch":"e"},"reverse":true}"#,
            r#"{"id":1048576,"history":{"channel":"a","limit":-1,"since":{"offset":300,"epoch":"e"},"reverse":true}}"#,
        ),
        (r#""presence":{"channel":"a"}"#, r#"{"id":1048576,"presence":{"channel":"a"}}"#),
        (r#""presence_stats":{"channel":"a"}"#, r#"{"id":1048576,"presence_stats":{"channel":"a"}}"#),
    ] {
        for form in FORMS {
            let mut rig = Rig::with(form, false, None, request);
            assert!(rig.turn(|profile, client, out| profile.request(client, payload, out)));
            assert_eq!(rig.commands(), commands(&[expected]), "{form:?} {request}");
        }
    }
}

#[test]
fn a_request_that_the_protobuf_form_has_not_is_refused_at_the_start() {
    for request in [
        "hello",
        "",
        "{data}",
        r#""rpc":{"method":"a","data":{data}},"publish":{"channel":"a"}"#,
        r#""rpc":{"method":"a","dat":1}"#,
        r#""rpc":{"method":1}"#,
        r#""publish":{"data":1}"#,
        r#""send":{"data":1}"#,
        r#""history":{"channel":"a","limit":2147483648}"#,
    ] {
        assert!(Protobuf::new(Template::new(request)).is_err(), "{request}");
    }
    // A command with one number and none with another.
    let mut rig = Rig::with(Form::Protobuf, false, None, r#""history":{"channel":"a","limit":9999{number}}"#);
    rig.number = 4_000_000;
    assert!(!rig.turn(|profile, client, out| profile.request(client, b"{}", out)));
    assert!(rig.out.bytes().is_empty());
}

/// Whatever comes is heard or refused, without a panic, and what is sent for it is bounded by what a frame holds.
#[test]
fn frames_with_faults_anywhere_are_heard_or_refused() {
    let replies = [
        r#"{"id":1,"connect":{"client":"abc","ping":25,"pong":true}}"#,
        r#"{"id":2,"subscribe":{"recoverable":true,"recovered":true,"was_recovering":true,"epoch":"ab","offset":700,
            "publications":[{"data":{"a":1},"offset":8},{"data":{},"offset":9}]}}"#,
        r#"{"push":{"channel":"c3","pub":{"data":{"m":"x"},"offset":4}}}"#,
        "{}",
        r#"{"id":1048576,"error":{"code":108,"message":"not available","temporary":true}}"#,
        r#"{"push":{"channel":"c3","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#,
    ];
    let mut prng = Prng::with_seed(7);
    for form in FORMS {
        let whole =
            frame(form, &replies.map(|reply| reply.replace('\n', " ")).each_ref().map(String::as_str));
        let mut refused = 0;
        let mut check = |frame: &[u8]| {
            let mut rig = Rig::new(form, true);
            refused += u32::from(matches!(rig.hear_bytes(frame), Err(Cause::Protocol(_))));
            assert!(rig.out.bytes().len() <= 2);
        };
        for len in 0..whole.len() {
            check(&whole[..len]);
        }
        for at in 0..whole.len() {
            for _ in 0..40 {
                let mut broken = whole.clone();
                broken[at] = prng.u32(..) as u8;
                check(&broken);
            }
        }
        assert!(refused > 100, "{form:?}: {refused}");
    }
}
