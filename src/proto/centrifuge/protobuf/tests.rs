//! Against a codec that others wrote: the published schema as prost's derive reads it, and bytes that nobody should send.

use std::collections::HashMap;

use prost::Message;

use crate::base::fault::{ErrorCode, Unsubscribed};
use crate::base::ids::{Epoch, Offset};
use crate::base::limits::COMMANDS_PER_FRAME_MAX;
use crate::base::prng::Prng;
use crate::base::shape::Shape;
use crate::proto::centrifuge::command::{self, CommandFault};
use crate::proto::centrifuge::reply::{
    ClientInfoRef, ConnectResult, HistoryResult, Lifetime, PublicationRef, Push, RefreshResult, Reply,
    SubscribePush, SubscribeResult,
};
use crate::proto::centrifuge::{Command, Data, Format, Method, ReplyBatch, decode_frame, encode_push};

/// `client.proto` as published, as far as it is spoken here.
mod schema {
    use std::collections::HashMap;

    /// A message of the schema.
    macro_rules! message {
        ($name:ident { $($(#[$meta:meta])* $field:ident: $of:ty,)* }) => {
            #[derive(Clone, PartialEq, prost::Message)]
            pub struct $name { $($(#[$meta])* pub $field: $of,)* }
        };
    }

    message!(Command {
        #[prost(uint32, tag = "1")] id: u32,
        #[prost(message, optional, tag = "4")] connect: Option<ConnectRequest>,
        #[prost(message, optional, tag = "5")] subscribe: Option<SubscribeRequest>,
        #[prost(message, optional, tag = "6")] unsubscribe: Option<Channel>,
        #[prost(message, optional, tag = "7")] publish: Option<PublishRequest>,
        #[prost(message, optional, tag = "8")] presence: Option<Channel>,
        #[prost(message, optional, tag = "9")] presence_stats: Option<Channel>,
        #[prost(message, optional, tag = "10")] history: Option<HistoryRequest>,
        #[prost(message, optional, tag = "11")] ping: Option<Empty>,
        #[prost(message, optional, tag = "12")] send: Option<Data>,
        #[prost(message, optional, tag = "13")] rpc: Option<RpcRequest>,
        #[prost(message, optional, tag = "14")] refresh: Option<Token>,
        #[prost(message, optional, tag = "15")] sub_refresh: Option<SubRefreshRequest>,
    });
    message!(ConnectRequest {
        #[prost(string, tag = "1")] token: String,
        #[prost(bytes = "vec", tag = "2")] data: Vec<u8>,
        #[prost(map = "string, message", tag = "3")] subs: HashMap<String, SubscribeRequest>,
        #[prost(string, tag = "4")] name: String,
        #[prost(string, tag = "5")] version: String,
        #[prost(map = "string, string", tag = "6")] headers: HashMap<String, String>,
        #[prost(int64, tag = "7")] flag: i64,
    });
    message!(SubscribeRequest {
        #[prost(string, tag = "1")] channel: String,
        #[prost(string, tag = "2")] token: String,
        #[prost(bool, tag = "3")] recover: bool,
        #[prost(string, tag = "6")] epoch: String,
        #[prost(uint64, tag = "7")] offset: u64,
        #[prost(bytes = "vec", tag = "8")] data: Vec<u8>,
        #[prost(bool, tag = "9")] positioned: bool,
        #[prost(bool, tag = "10")] recoverable: bool,
        #[prost(bool, tag = "11")] join_leave: bool,
        #[prost(string, tag = "12")] delta: String,
        #[prost(message, optional, tag = "13")] tf: Option<Empty>,
        #[prost(int64, tag = "14")] flag: i64,
        #[prost(int32, tag = "15")] kind: i32,
        // Newer than what is spoken here.
        #[prost(string, tag = "17")] cursor: String,
    });
    message!(PublishRequest {
        #[prost(string, tag = "1")] channel: String,
        #[prost(bytes = "vec", tag = "2")] data: Vec<u8>,
    });
    message!(HistoryRequest {
        #[prost(string, tag = "1")] channel: String,
        #[prost(int32, tag = "7")] limit: i32,
        #[prost(message, optional, tag = "8")] since: Option<StreamPosition>,
        #[prost(bool, tag = "9")] reverse: bool,
    });
    message!(StreamPosition {
        #[prost(uint64, tag = "1")]
        offset: u64,
        #[prost(string, tag = "2")]
        epoch: String,
    });
    message!(RpcRequest {
        #[prost(bytes = "vec", tag = "1")] data: Vec<u8>,
        #[prost(string, tag = "2")] method: String,
    });
    message!(SubRefreshRequest {
        #[prost(string, tag = "1")]
        channel: String,
        #[prost(string, tag = "2")]
        token: String,
    });
    message!(Channel {
        #[prost(string, tag = "1")]
        channel: String,
    });
    message!(Token {
        #[prost(string, tag = "1")]
        token: String,
    });
    message!(Data { #[prost(bytes = "vec", tag = "1")] data: Vec<u8>, });
    message!(Empty {});

    message!(Reply {
        #[prost(uint32, tag = "1")] id: u32,
        #[prost(message, optional, tag = "2")] error: Option<Error>,
        #[prost(message, optional, tag = "4")] push: Option<Push>,
        #[prost(message, optional, tag = "5")] connect: Option<ConnectResult>,
        #[prost(message, optional, tag = "6")] subscribe: Option<SubscribeResult>,
        #[prost(message, optional, tag = "7")] unsubscribe: Option<Empty>,
        #[prost(message, optional, tag = "8")] publish: Option<Empty>,
        #[prost(message, optional, tag = "9")] presence: Option<Presence>,
        #[prost(message, optional, tag = "10")] presence_stats: Option<PresenceStats>,
        #[prost(message, optional, tag = "11")] history: Option<HistoryResult>,
        #[prost(message, optional, tag = "12")] ping: Option<Empty>,
        #[prost(message, optional, tag = "13")] rpc: Option<Data>,
        #[prost(message, optional, tag = "14")] refresh: Option<RefreshResult>,
        #[prost(message, optional, tag = "15")] sub_refresh: Option<Lifetime>,
    });
    message!(Error {
        #[prost(uint32, tag = "1")]
        code: u32,
        #[prost(string, tag = "2")]
        message: String,
        #[prost(bool, tag = "3")]
        temporary: bool,
    });
    message!(Push {
        #[prost(string, tag = "2")] channel: String,
        #[prost(message, optional, tag = "4")] publication: Option<Publication>,
        #[prost(message, optional, tag = "5")] join: Option<Info>,
        #[prost(message, optional, tag = "6")] leave: Option<Info>,
        #[prost(message, optional, tag = "7")] unsubscribe: Option<Unsubscribe>,
        #[prost(message, optional, tag = "8")] message: Option<Data>,
        #[prost(message, optional, tag = "9")] subscribe: Option<Subscribe>,
        #[prost(message, optional, tag = "12")] refresh: Option<Lifetime>,
    });
    message!(Publication {
        #[prost(bytes = "vec", tag = "4")] data: Vec<u8>,
        #[prost(message, optional, tag = "5")] info: Option<ClientInfo>,
        #[prost(uint64, tag = "6")] offset: u64,
        #[prost(map = "string, string", tag = "7")] tags: HashMap<String, String>,
        #[prost(bool, tag = "8")] delta: bool,
        #[prost(int64, tag = "9")] time: i64,
        #[prost(string, tag = "10")] channel: String,
    });
    message!(ClientInfo {
        #[prost(string, tag = "1")] user: String,
        #[prost(string, tag = "2")] client: String,
        #[prost(bytes = "vec", tag = "3")] conn_info: Vec<u8>,
        #[prost(bytes = "vec", tag = "4")] chan_info: Vec<u8>,
    });
    message!(Info { #[prost(message, optional, tag = "1")] info: Option<ClientInfo>, });
    message!(Unsubscribe {
        #[prost(uint32, tag = "2")]
        code: u32,
        #[prost(string, tag = "3")]
        reason: String,
    });
    message!(Subscribe {
        #[prost(bool, tag = "1")] recoverable: bool,
        #[prost(string, tag = "4")] epoch: String,
        #[prost(uint64, tag = "5")] offset: u64,
        #[prost(bool, tag = "6")] positioned: bool,
        #[prost(bytes = "vec", tag = "7")] data: Vec<u8>,
    });
    message!(ConnectResult {
        #[prost(string, tag = "1")] client: String,
        #[prost(string, tag = "2")] version: String,
        #[prost(bool, tag = "3")] expires: bool,
        #[prost(uint32, tag = "4")] ttl: u32,
        #[prost(bytes = "vec", tag = "5")] data: Vec<u8>,
        #[prost(map = "string, message", tag = "6")] subs: HashMap<String, SubscribeResult>,
        #[prost(uint32, tag = "7")] ping: u32,
        #[prost(bool, tag = "8")] pong: bool,
        #[prost(string, tag = "9")] session: String,
        #[prost(string, tag = "10")] node: String,
    });
    message!(SubscribeResult {
        #[prost(bool, tag = "1")] expires: bool,
        #[prost(uint32, tag = "2")] ttl: u32,
        #[prost(bool, tag = "3")] recoverable: bool,
        #[prost(string, tag = "6")] epoch: String,
        #[prost(message, repeated, tag = "7")] publications: Vec<Publication>,
        #[prost(bool, tag = "8")] recovered: bool,
        #[prost(uint64, tag = "9")] offset: u64,
        #[prost(bool, tag = "10")] positioned: bool,
        #[prost(bytes = "vec", tag = "11")] data: Vec<u8>,
        #[prost(bool, tag = "12")] was_recovering: bool,
        #[prost(bool, tag = "13")] delta: bool,
    });
    message!(Presence { #[prost(map = "string, message", tag = "1")] presence: HashMap<String, ClientInfo>, });
    message!(PresenceStats {
        #[prost(uint32, tag = "1")]
        num_clients: u32,
        #[prost(uint32, tag = "2")]
        num_users: u32,
    });
    message!(HistoryResult {
        #[prost(message, repeated, tag = "1")] publications: Vec<Publication>,
        #[prost(string, tag = "2")] epoch: String,
        #[prost(uint64, tag = "3")] offset: u64,
    });
    message!(RefreshResult {
        #[prost(string, tag = "1")]
        client: String,
        #[prost(string, tag = "2")]
        version: String,
        #[prost(bool, tag = "3")]
        expires: bool,
        #[prost(uint32, tag = "4")]
        ttl: u32,
    });
    message!(Lifetime {
        #[prost(bool, tag = "1")]
        expires: bool,
        #[prost(uint32, tag = "2")]
        ttl: u32,
    });
}

// --- commands

fn decode(frame: &[u8]) -> Vec<Result<Command<'_>, CommandFault>> {
    decode_frame(Format::Protobuf, frame).collect()
}

/// The method of a command as prost writes it.
fn with_method(command: schema::Command, check: impl FnOnce(Method<'_>)) {
    let frame = command.encode_length_delimited_to_vec();
    let mut decoded = decode(&frame);
    assert_eq!(decoded.len(), 1);
    let decoded = decoded.remove(0).unwrap();
    assert_eq!(decoded.id, command.id);
    check(decoded.method);
}

fn subscribe_request() -> schema::SubscribeRequest {
    schema::SubscribeRequest {
        channel: "news é".into(),
        token: "t".into(),
        recover: true,
        epoch: "0a1b2c3d".into(),
        offset: u64::MAX,
        data: b" {\"a\": 1}\n".to_vec(),
        positioned: true,
        recoverable: true,
        join_leave: true,
        delta: "fossil".into(),
        tf: Some(schema::Empty {}),
        flag: -3,
        kind: -1,
        cursor: "from a later schema".into(),
    }
}

fn text(data: Option<Data<'_>>) -> Option<&str> {
    data.and_then(Data::as_json)
}

#[test]
fn every_command_is_read_as_it_was_meant() {
    let command = schema::Command { id: 7, ..Default::default() };
    with_method(schema::Command { subscribe: Some(subscribe_request()), ..command.clone() }, |method| {
        let Method::Subscribe(sub) = method else { panic!("{method:?}") };
        assert_eq!(
            (&*sub.channel, &*sub.token, &*sub.epoch, &*sub.shape),
            ("news é", "t", "0a1b2c3d", "fossil")
        );
        assert_eq!((sub.offset, sub.flag, sub.kind), (u64::MAX, -3, -1));
        assert!(sub.recover && sub.positioned && sub.recoverable && sub.join_leave && sub.filter.is_some());
        assert_eq!(text(sub.data), Some("{\"a\": 1}"), "the value, without what stands around it");
    });
    let subs =
        HashMap::from([("b".into(), subscribe_request()), ("a".into(), schema::SubscribeRequest::default())]);
    let connect = schema::ConnectRequest {
        token: "jwt".into(),
        data: b"{}".to_vec(),
        subs,
        name: "js".into(),
        version: "5".into(),
        headers: HashMap::from([("x-a".into(), "\"1\"".into()), ("x-b".into(), String::new())]),
        flag: 1,
    };
    with_method(schema::Command { connect: Some(connect), ..command.clone() }, |method| {
        let Method::Connect(connect) = method else { panic!("{method:?}") };
        assert_eq!((&*connect.token, &*connect.name, &*connect.version), ("jwt", "js", "5"));
        assert_eq!(text(connect.data), Some("{}"));
        assert_eq!(connect.subs.len(), 2);
        assert!(connect.since("b").is_some_and(|since| since.recover && since.epoch == "0a1b2c3d"));
        assert_eq!(connect.since("a"), Some(&command::SinceField::default()));
        let headers: HashMap<String, String> = serde_json::from_str(&connect.headers.unwrap()).unwrap();
        assert_eq!(headers, HashMap::from([("x-a".into(), "\"1\"".into()), ("x-b".into(), String::new())]));
    });
    let channel = Some(schema::Channel { channel: "c".into() });
    with_method(schema::Command { unsubscribe: channel.clone(), ..command.clone() }, |method| {
        assert_eq!(method, Method::Unsubscribe { channel: "c".into() });
    });
    with_method(schema::Command { presence: channel.clone(), ..command.clone() }, |method| {
        assert_eq!(method, Method::Presence { channel: "c".into() });
    });
    with_method(schema::Command { presence_stats: channel, ..command.clone() }, |method| {
        assert_eq!(method, Method::PresenceStats { channel: "c".into() });
    });
    let publish = schema::PublishRequest { channel: "c".into(), data: b" [1]\n".to_vec() };
    with_method(schema::Command { publish: Some(publish), ..command.clone() }, |method| {
        let Method::Publish(publish) = method else { panic!("{method:?}") };
        assert_eq!((&*publish.channel, text(publish.data)), ("c", Some("[1]")));
        assert_eq!(publish.data.map(Data::as_bytes), Some(&b" [1]\n"[..]), "and as it was written");
    });
    let since = Some(schema::StreamPosition { offset: 5, epoch: "e".into() });
    let history = schema::HistoryRequest { channel: "c".into(), limit: -1, since, reverse: true };
    with_method(schema::Command { history: Some(history), ..command.clone() }, |method| {
        let Method::History(history) = method else { panic!("{method:?}") };
        assert_eq!((&*history.channel, history.limit, history.reverse), ("c", -1, true));
        assert_eq!(history.since, Some(command::SinceField { recover: true, offset: 5, epoch: "e".into() }));
    });
    let rpc = schema::RpcRequest { data: b"null".to_vec(), method: "m".into() };
    with_method(schema::Command { rpc: Some(rpc), ..command.clone() }, |method| {
        let Method::Rpc { method, data } = method else { panic!("{method:?}") };
        assert_eq!((&*method, text(data)), ("m", Some("null")));
    });
    let refresh = Some(schema::Token { token: "t".into() });
    with_method(schema::Command { refresh, ..command.clone() }, |method| {
        assert_eq!(method, Method::Refresh { token: "t".into() });
    });
    let sub_refresh = Some(schema::SubRefreshRequest { channel: "c".into(), token: "t".into() });
    with_method(schema::Command { sub_refresh, ..command.clone() }, |method| {
        assert_eq!(method, Method::SubRefresh { channel: "c".into(), token: "t".into() });
    });
    with_method(schema::Command { ping: Some(schema::Empty {}), ..command.clone() }, |method| {
        assert_eq!(method, Method::Ping);
    });
    let send = Some(schema::Data { data: b"1".to_vec() });
    with_method(schema::Command { id: 0, send, ..command.clone() }, |method| {
        let Method::Send { data } = method else { panic!("{method:?}") };
        assert_eq!(text(data), Some("1"));
    });
    with_method(command, |method| assert_eq!(method, Method::Unknown));
    with_method(schema::Command::default(), |method| assert_eq!(method, Method::Pong));
}

#[test]
fn an_empty_message_is_a_pong_and_ids_may_come_last() {
    assert_eq!(decode(&[0]), [Ok(Command { id: 0, method: Method::Pong })]);
    // publish {channel: "c", data: "1"}, then the id.
    let command = [10, 0x3a, 6, 0x0a, 1, b'c', 0x12, 1, b'1', 0x08, 9];
    let decoded = decode(&command);
    assert!(matches!(&decoded[..], [Ok(Command { id: 9, method: Method::Publish(_) })]), "{decoded:?}");
}

#[test]
fn what_is_no_json_refuses_its_command_alone_and_a_publication_is_of_any_bytes() {
    for data in [&b"\xff"[..], b"{", b"1 2", b"nul", b" ", b"\0"] {
        let rpc = Some(schema::RpcRequest { data: data.to_vec(), method: "m".into() });
        let mut frame = schema::Command { id: 3, rpc, ..Default::default() }.encode_length_delimited_to_vec();
        frame.push(0);
        let publish = Some(schema::PublishRequest { channel: "c".into(), data: data.to_vec() });
        with_method(schema::Command { id: 3, publish, ..Default::default() }, |method| {
            let Method::Publish(publish) = method else { panic!("{method:?}") };
            assert_eq!(publish.data.map(|said| (said.as_bytes(), said.as_json())), Some((data, None)));
        });
        let [refused, pong] =
            [(3, Method::NotJson), (0, Method::Pong)].map(|(id, method)| Ok(Command { id, method }));
        assert_eq!(decode(&frame), [refused, pong], "{data:?}");
    }
    let empty = Some(schema::PublishRequest { channel: "c".into(), data: Vec::new() });
    with_method(schema::Command { id: 3, publish: empty, ..Default::default() }, |method| {
        assert!(matches!(&method, Method::Publish(publish) if publish.data.is_none()), "{method:?}");
    });
}

#[test]
fn broken_messages_have_a_reason() {
    let fault = |frame: &[u8]| match decode(frame).pop() {
        Some(Err(fault)) => fault.0,
        other => panic!("{frame:?}: {other:?}"),
    };
    assert_eq!(fault(b""), "frame without a command");
    assert_eq!(fault(&[0x80]), "a varint without an end");
    assert_eq!(fault(&[0xff; 11]), "a varint without an end");
    assert_eq!(
        fault(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02]),
        "a varint without an end"
    );
    assert_eq!(fault(&[2, 8]), "a length beyond the end");
    assert_eq!(
        fault(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        "a length beyond the end"
    );
    assert_eq!(fault(&[1, 0x0b]), "a field of no known wire type", "a group");
    assert_eq!(fault(&[1, 0x0f]), "a field of no known wire type");
    assert_eq!(fault(&[2, 0x00, 0x00]), "a field without a number");
    assert_eq!(
        fault(&[6, 0x82, 0x80, 0x80, 0x80, 0x10, 0x00]),
        "a field number out of range",
        "a bit that 32 bits lose"
    );
    assert_eq!(fault(&[2, 0x0a, 0x00]), "a field of another type than the schema's", "an id that is a text");
    assert_eq!(
        fault(&[2, 0x38, 0x00]),
        "a field of another type than the schema's",
        "a publish that is a number"
    );
    assert_eq!(
        fault(&[7, 0x08, 0xff, 0xff, 0xff, 0xff, 0x1f, 0x00]),
        "number out of range",
        "an id of 33 bits"
    );
    assert_eq!(fault(&[4, 0x08, 0x01, 0x08, 0x02]), "a field comes twice");
    assert_eq!(fault(&[4, 0x32, 0x00, 0x3a, 0x00]), "more than one method in a command");
    assert_eq!(fault(&[5, 0x32, 3, 0x0a, 1, 0xff]), "text is not UTF-8");
    assert_eq!(fault(&[8, 0x32, 6, 0x0a, 1, b'a', 0x0a, 1, b'b']), "a field comes twice");
    // A connect with two positions of one channel.
    let twice = [10, 0x22, 8, 0x1a, 2, 0x0a, 0, 0x1a, 2, 0x0a, 0];
    assert_eq!(fault(&twice), "a field comes twice");
    assert_eq!(fault(&vec![0; COMMANDS_PER_FRAME_MAX + 1]), "too many commands in one frame");
    assert_eq!(fault(br#"{"id":1,"connect":{}}"#), "a length beyond the end", "JSON");
}

#[test]
fn unknown_fields_are_skipped() {
    // 20: varint, 21: eight bytes, 22: text, 23: four bytes; then id 4 and ping.
    let message = [
        0xa0, 1, 0x80, 1, 0xa9, 1, 1, 2, 3, 4, 5, 6, 7, 8, 0xb2, 1, 2, b'h', b'i', 0xbd, 1, 1, 2, 3, 4, 0x08,
        4, 0x5a, 0,
    ];
    let mut frame = vec![message.len() as u8];
    frame.extend_from_slice(&message);
    assert_eq!(decode(&frame), [Ok(Command { id: 4, method: Method::Ping })]);
}

#[test]
fn cut_and_changed_frames_never_panic_and_end_at_their_fault() {
    let mut prng = Prng::with_seed(7);
    let command = schema::Command { id: 7, subscribe: Some(subscribe_request()), ..Default::default() };
    let history = schema::HistoryRequest { channel: "c".into(), limit: -1, since: None, reverse: true };
    let mut whole = command.encode_length_delimited_to_vec();
    let first = whole.len();
    whole.extend(
        schema::Command { id: 8, history: Some(history), ..Default::default() }
            .encode_length_delimited_to_vec(),
    );
    for end in 0..whole.len() {
        let decoded = decode(&whole[..end]);
        let sound = decoded.iter().filter(|decoded| decoded.is_ok()).count();
        assert_eq!(sound, usize::from(end >= first), "{end}");
        assert_eq!(decoded.len(), 1 + usize::from(end > first), "{end}");
    }
    for _ in 0..20_000 {
        let mut frame = whole.clone();
        for _ in 0..=prng.usize(..4) {
            let at = prng.usize(..frame.len());
            frame[at] = prng.u8(..);
        }
        let decoded = decode(&frame);
        assert!(decoded[..decoded.len() - 1].iter().all(Result::is_ok));
    }
}

// --- replies and pushes

/// A reply as prost reads it.
fn reply(id: u32, reply: &Reply<'_>) -> schema::Reply {
    let mut out = b"before".to_vec();
    ReplyBatch::new(&mut out, Format::Protobuf).reply(id, reply);
    read(&out[6..])
}

fn push(channel: &str, push: &Push<'_>) -> schema::Push {
    let mut out = Vec::new();
    encode_push(&mut out, Format::Protobuf, channel, push);
    let reply = read(&out);
    assert_eq!(reply.id, 0);
    reply.push.unwrap()
}

/// The one message of a frame; its length is in the shortest form.
fn read(mut frame: &[u8]) -> schema::Reply {
    let whole = frame;
    let reply = schema::Reply::decode_length_delimited(&mut frame).unwrap();
    assert!(frame.is_empty());
    let mut shortest = Vec::new();
    prost::encode_length_delimiter(reply.encoded_len(), &mut shortest).unwrap();
    assert!(whole.starts_with(&shortest));
    assert_eq!(whole.len(), shortest.len() + reply.encoded_len(), "nothing in it but what was read");
    reply
}

const EPOCH: Option<Epoch> = Some(Epoch(0x0a1b_2c3d));

fn info() -> ClientInfoRef<'static> {
    ClientInfoRef { user: "u", client: "c", conn_info: Some(b"{}"), chan_info: Some(b"[]") }
}

fn read_info() -> schema::ClientInfo {
    schema::ClientInfo {
        user: "u".into(),
        client: "c".into(),
        conn_info: b"{}".to_vec(),
        chan_info: b"[]".to_vec(),
    }
}

#[test]
fn every_reply_is_read_as_it_was_meant() {
    let of = |id| schema::Reply { id, ..Default::default() };
    let error =
        schema::Error { code: 111, message: ErrorCode::TooManyRequests.message().into(), temporary: true };
    assert_eq!(
        reply(1, &Reply::Error(ErrorCode::TooManyRequests.into())),
        schema::Reply { error: Some(error), ..of(1) }
    );
    assert_eq!(reply(2, &Reply::Unsubscribe), schema::Reply { unsubscribe: Some(schema::Empty {}), ..of(2) });
    assert_eq!(
        reply(u32::MAX, &Reply::Publish),
        schema::Reply { publish: Some(schema::Empty {}), ..of(u32::MAX) }
    );
    assert_eq!(reply(3, &Reply::Ping), schema::Reply { ping: Some(schema::Empty {}), ..of(3) });
    let rpc = Some(schema::Data { data: b"{\n}".to_vec() });
    assert_eq!(reply(3, &Reply::Rpc(Some(b"{\n}"))), schema::Reply { rpc, ..of(3) }, "as it came");
    assert_eq!(reply(3, &Reply::Rpc(None)), schema::Reply { rpc: Some(schema::Data::default()), ..of(3) });
    let lifetime = Lifetime { expires: true, ttl_s: 300 };
    let sub_refresh = Some(schema::Lifetime { expires: true, ttl: 300 });
    assert_eq!(reply(4, &Reply::SubRefresh(lifetime)), schema::Reply { sub_refresh, ..of(4) });
    let refresh = schema::RefreshResult { client: "c".into(), version: "v".into(), expires: true, ttl: 300 };
    assert_eq!(
        reply(4, &Reply::Refresh(RefreshResult { client: "c", version: "v", lifetime })),
        schema::Reply { refresh: Some(refresh), ..of(4) }
    );
    let stats = schema::PresenceStats { num_clients: 3, num_users: 0 };
    assert_eq!(
        reply(5, &Reply::PresenceStats { clients: 3, users: 0 }),
        schema::Reply { presence_stats: Some(stats), ..of(5) }
    );
    let presence = HashMap::from([
        ("a".into(), read_info()),
        ("b".into(), schema::ClientInfo { user: "u".into(), ..Default::default() }),
    ]);
    assert_eq!(
        reply(
            6,
            &Reply::Presence(&[("a", info()), ("b", ClientInfoRef { user: "u", ..Default::default() })])
        ),
        schema::Reply { presence: Some(schema::Presence { presence }), ..of(6) }
    );
    let publications = [
        PublicationRef { data: b"1", offset: Offset(1), ..Default::default() },
        PublicationRef { data: b"2", offset: Offset(2), info: Some(info()), ..Default::default() },
    ];
    let read_publications = vec![
        schema::Publication { data: b"1".to_vec(), offset: 1, ..Default::default() },
        schema::Publication { data: b"2".to_vec(), offset: 2, info: Some(read_info()), ..Default::default() },
    ];
    let history = schema::HistoryResult {
        publications: read_publications.clone(),
        epoch: "0a1b2c3d".into(),
        offset: 2,
    };
    assert_eq!(
        reply(
            7,
            &Reply::History(HistoryResult { publications: &publications, epoch: EPOCH, offset: Offset(2) })
        ),
        schema::Reply { history: Some(history), ..of(7) }
    );
    let subscribed = SubscribeResult {
        lifetime,
        recoverable: true,
        epoch: EPOCH,
        publications: &publications,
        recovered: true,
        offset: Offset(1 << 40),
        positioned: true,
        data: Some(b"{}"),
        was_recovering: true,
        shape: Shape::Delta,
    };
    let read_subscribed = schema::SubscribeResult {
        expires: true,
        ttl: 300,
        recoverable: true,
        epoch: "0a1b2c3d".into(),
        publications: read_publications,
        recovered: true,
        offset: 1 << 40,
        positioned: true,
        data: b"{}".to_vec(),
        was_recovering: true,
        delta: true,
    };
    let subscribe = Some(read_subscribed.clone());
    assert_eq!(reply(8, &Reply::Subscribe(subscribed)), schema::Reply { subscribe, ..of(8) });
    let connected = ConnectResult {
        client: "uuid",
        version: "0.1.0",
        lifetime,
        data: Some(b"{}"),
        subs: &[("news", subscribed), ("", SubscribeResult { positioned: true, ..Default::default() })],
        ping_s: 25,
        pong: true,
        session: "s",
        node: "n",
    };
    let connect = Some(schema::ConnectResult {
        client: "uuid".into(),
        version: "0.1.0".into(),
        expires: true,
        ttl: 300,
        data: b"{}".to_vec(),
        subs: HashMap::from([
            ("news".into(), read_subscribed),
            (String::new(), schema::SubscribeResult { positioned: true, ..Default::default() }),
        ]),
        ping: 25,
        pong: true,
        session: "s".into(),
        node: "n".into(),
    });
    assert_eq!(reply(9, &Reply::Connect(connected)), schema::Reply { connect, ..of(9) });
}

#[test]
fn every_push_is_read_as_it_was_meant() {
    let of = |channel: &str| schema::Push { channel: channel.into(), ..Default::default() };
    let joined = Some(schema::Info { info: Some(read_info()) });
    assert_eq!(push("c", &Push::Join(info())), schema::Push { join: joined.clone(), ..of("c") });
    assert_eq!(push("c", &Push::Leave(info())), schema::Push { leave: joined, ..of("c") });
    let why = Unsubscribed::InsufficientState;
    let unsubscribe = Some(schema::Unsubscribe { code: why.code().into(), reason: why.reason().into() });
    assert_eq!(push("c", &Push::Unsubscribe(why)), schema::Push { unsubscribe, ..of("c") });
    let message = Some(schema::Data { data: b"1".to_vec() });
    assert_eq!(push("", &Push::Message(Some(b"1"))), schema::Push { message, ..of("") });
    let refresh = Some(schema::Lifetime { expires: true, ttl: 5 });
    let lifetime = Lifetime { expires: true, ttl_s: 5 };
    assert_eq!(push("", &Push::Refresh(lifetime)), schema::Push { refresh, ..of("") });
    let subscribe = SubscribePush {
        recoverable: true,
        epoch: EPOCH,
        offset: Offset(3),
        positioned: true,
        data: Some(b"{}"),
    };
    let read = schema::Subscribe {
        recoverable: true,
        epoch: "0a1b2c3d".into(),
        offset: 3,
        positioned: true,
        data: b"{}".to_vec(),
    };
    assert_eq!(push("c", &Push::Subscribe(subscribe)), schema::Push { subscribe: Some(read), ..of("c") });
}

/// Lengths on both sides of where a varint grows by a byte, in each of the messages around the payload.
#[test]
fn publications_of_every_length_are_read_as_they_were_meant() {
    let tags = [("k".to_owned(), "v".to_owned()), ("empty".to_owned(), String::new())];
    let lengths = (0..400).chain(16_200..16_500).chain([65_535, 1 << 20, (1 << 21) - 40, 1 << 21]);
    for len in lengths {
        let data = vec![b'7'; len];
        let publication = PublicationRef {
            data: &data,
            offset: Offset(u64::MAX),
            info: Some(info()),
            tags: &tags,
            patched: true,
            time_ms: 1_700_000_000_000,
        };
        let read = schema::Publication {
            data: data.clone(),
            info: Some(read_info()),
            offset: u64::MAX,
            tags: tags.iter().cloned().collect(),
            delta: true,
            time: 1_700_000_000_000,
            channel: String::new(),
        };
        let pushed = push("news", &Push::Publication(publication));
        assert_eq!((pushed.channel.as_str(), pushed.publication), ("news", Some(read)), "{len}");
    }
}

#[test]
fn a_batch_is_one_behind_the_other() {
    let mut out = b"head".to_vec();
    let mut batch = ReplyBatch::new(&mut out, Format::Protobuf);
    assert!(batch.is_empty());
    batch.reply(1, &Reply::Publish);
    batch.push("", &Push::Message(Some(b"1")));
    assert!(!batch.is_empty());
    // id 1, publish {}; push { message { data "1" } }
    assert_eq!(out, b"head\x04\x08\x01\x42\x00\x07\x22\x05\x42\x03\x0a\x011");
}
