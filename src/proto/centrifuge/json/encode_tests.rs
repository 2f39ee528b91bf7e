//! Golden bytes: what the published server writes for the same values.

use super::encode::*;
use crate::base::fault::{ErrorCode, Unsubscribed};
use crate::base::ids::{Epoch, Offset};
use crate::base::shape::Shape;
use crate::proto::centrifuge::reply::*;
use crate::proto::centrifuge::{Format, ReplyBatch};

/// The text of a reply, after checking that it is one line of JSON.
fn reply(id: u32, reply: &Reply<'_>) -> String {
    let mut out = b"before".to_vec();
    encode_reply(&mut out, id, reply);
    checked(&out[6..])
}

fn push(channel: &str, push: &Push<'_>) -> String {
    let mut out = Vec::new();
    encode_push(&mut out, channel, push);
    checked(&out)
}

fn checked(out: &[u8]) -> String {
    let text = String::from_utf8(out.to_vec()).unwrap();
    let parsed = serde_json::from_str::<serde_json::Value>(&text);
    assert!(parsed.is_ok_and(|value| value.is_object()), "{text}");
    assert!(!text.contains(['\n', '\r']), "{text}");
    text
}

fn info() -> ClientInfoRef<'static> {
    ClientInfoRef { user: "42", client: "c1", conn_info: Some(br#"{"n":1}"#), chan_info: Some(b"2") }
}

const EPOCH: Option<Epoch> = Some(Epoch(0x0a1b_2c3d));

#[test]
fn errors() {
    let refused = |error_code: ErrorCode| reply(7, &Reply::Error(error_code.into()));
    assert_eq!(
        refused(ErrorCode::PermissionDenied),
        r#"{"id":7,"error":{"code":103,"message":"permission denied"}}"#
    );
    assert_eq!(
        refused(ErrorCode::Internal),
        r#"{"id":7,"error":{"code":100,"message":"internal server error","temporary":true}}"#
    );
    let custom = ErrorRef { code: 1000, message: "say \"no\"\n", temporary: false };
    assert_eq!(reply(7, &Reply::Error(custom)), r#"{"id":7,"error":{"code":1000,"message":"say \"no\"\n"}}"#);
}

#[test]
fn connect() {
    assert_eq!(reply(1, &Reply::Connect(ConnectResult::default())), r#"{"id":1,"connect":{}}"#);
    let subs = [("news", SubscribeResult { recoverable: true, epoch: EPOCH, ..Default::default() })];
    let result = ConnectResult {
        client: "uuid",
        version: "0.1.0",
        lifetime: Lifetime { expires: true, ttl_s: 300 },
        data: Some(b"{}"),
        subs: &subs,
        ping_s: 25,
        pong: true,
        session: "s",
        node: "n",
    };
    assert_eq!(
        reply(1, &Reply::Connect(result)),
        concat!(
            r#"{"id":1,"connect":{"client":"uuid","version":"0.1.0","expires":true,"ttl":300,"data":{},"#,
            r#""subs":{"news":{"recoverable":true,"epoch":"0a1b2c3d"}},"ping":25,"pong":true,"session":"s","node":"n"}}"#
        )
    );
}

#[test]
fn subscribe() {
    assert_eq!(reply(2, &Reply::Subscribe(SubscribeResult::default())), r#"{"id":2,"subscribe":{}}"#);
    let publications = [
        PublicationRef { data: b"1", offset: Offset(6), ..Default::default() },
        PublicationRef { data: b"{\n}", offset: Offset(7), info: Some(info()), ..Default::default() },
    ];
    let result = SubscribeResult {
        lifetime: Lifetime { expires: true, ttl_s: 60 },
        recoverable: true,
        epoch: EPOCH,
        publications: &publications,
        recovered: true,
        offset: Offset(5),
        positioned: true,
        data: Some(b"[]"),
        was_recovering: true,
        shape: Shape::Delta,
    };
    assert_eq!(
        reply(2, &Reply::Subscribe(result)),
        concat!(
            r#"{"id":2,"subscribe":{"expires":true,"ttl":60,"recoverable":true,"epoch":"0a1b2c3d","#,
            r#""publications":[{"data":1,"offset":6},{"data":{},"info":{"user":"42","client":"c1","#,
            r#""conn_info":{"n":1},"chan_info":2},"offset":7}],"recovered":true,"offset":5,"#,
            r#""positioned":true,"data":[],"was_recovering":true,"delta":true}}"#
        )
    );
}

#[test]
fn the_other_replies() {
    assert_eq!(reply(3, &Reply::Unsubscribe), r#"{"id":3,"unsubscribe":{}}"#);
    assert_eq!(reply(3, &Reply::Publish), r#"{"id":3,"publish":{}}"#);
    assert_eq!(reply(3, &Reply::Ping), r#"{"id":3,"ping":{}}"#);
    assert_eq!(reply(3, &Reply::Rpc(None)), r#"{"id":3,"rpc":{}}"#);
    assert_eq!(reply(3, &Reply::Rpc(Some(b""))), r#"{"id":3,"rpc":{}}"#);
    assert_eq!(reply(3, &Reply::Rpc(Some(b"{\"a\":1}"))), r#"{"id":3,"rpc":{"data":{"a":1}}}"#);
    let lifetime = Lifetime { expires: true, ttl_s: 9 };
    let refresh = RefreshResult { client: "c", version: "v", lifetime };
    assert_eq!(
        reply(3, &Reply::Refresh(refresh)),
        r#"{"id":3,"refresh":{"client":"c","version":"v","expires":true,"ttl":9}}"#
    );
    assert_eq!(reply(3, &Reply::SubRefresh(lifetime)), r#"{"id":3,"sub_refresh":{"expires":true,"ttl":9}}"#);
    assert_eq!(reply(3, &Reply::SubRefresh(Lifetime::default())), r#"{"id":3,"sub_refresh":{}}"#);
}

/// The fields that the published server writes even when they are zero.
#[test]
fn fields_that_are_always_there() {
    assert_eq!(
        reply(4, &Reply::History(HistoryResult::default())),
        r#"{"id":4,"history":{"publications":[],"epoch":"","offset":0}}"#
    );
    assert_eq!(reply(4, &Reply::Presence(&[])), r#"{"id":4,"presence":{"presence":{}}}"#);
    assert_eq!(
        reply(4, &Reply::PresenceStats { clients: 0, users: 0 }),
        r#"{"id":4,"presence_stats":{"num_clients":0,"num_users":0}}"#
    );
    assert_eq!(
        push("c", &Push::Join(ClientInfoRef::default())),
        r#"{"push":{"channel":"c","join":{"info":{"user":"","client":""}}}}"#
    );
}

#[test]
fn history_and_presence() {
    let publications = [PublicationRef { data: b"1", offset: Offset(1), ..Default::default() }];
    let history = HistoryResult { publications: &publications, epoch: EPOCH, offset: Offset(9) };
    assert_eq!(
        reply(5, &Reply::History(history)),
        r#"{"id":5,"history":{"publications":[{"data":1,"offset":1}],"epoch":"0a1b2c3d","offset":9}}"#
    );
    let clients =
        [("c1", info()), ("c\"2", ClientInfoRef { user: "7", client: "c\"2", ..Default::default() })];
    assert_eq!(
        reply(5, &Reply::Presence(&clients)),
        concat!(
            r#"{"id":5,"presence":{"presence":{"c1":{"user":"42","client":"c1","conn_info":{"n":1},"chan_info":2},"#,
            r#""c\"2":{"user":"7","client":"c\"2"}}}}"#
        )
    );
    assert_eq!(
        reply(5, &Reply::PresenceStats { clients: 3, users: 2 }),
        r#"{"id":5,"presence_stats":{"num_clients":3,"num_users":2}}"#
    );
}

#[test]
fn publication_push() {
    let publication = |publication| push("news", &Push::Publication(publication));
    let plain = PublicationRef { data: br#"{"a": 1}"#, ..Default::default() };
    assert_eq!(publication(plain), r#"{"push":{"channel":"news","pub":{"data":{"a": 1}}}}"#);
    let tags = [("k".to_string(), "v\"".to_string()), ("l".to_string(), String::new())];
    let full = PublicationRef {
        data: b"[1,\r\n 2]",
        offset: Offset(u64::MAX),
        info: Some(info()),
        tags: &tags,
        patched: true,
        time_ms: 1_700_000_000_000,
    };
    assert_eq!(
        publication(full),
        concat!(
            r#"{"push":{"channel":"news","pub":{"data":[1, 2],"info":{"user":"42","client":"c1","conn_info":{"n":1},"#,
            r#""chan_info":2},"offset":18446744073709551615,"tags":{"k":"v\"","l":""},"delta":true,"#,
            r#""time":1700000000000}}}"#
        )
    );
}

/// What is reserved covers what is written: a buffer that grew again would have doubled.
#[test]
fn a_publication_push_grows_its_buffer_once() {
    let data = vec![b'1'; 5000];
    let (offset, time_ms) = (Offset(u64::MAX), u64::MAX);
    let publication = PublicationRef { data: &data, offset, time_ms, patched: true, ..Default::default() };
    let mut out = Vec::new();
    encode_push(&mut out, "channel", &Push::Publication(publication));
    assert!(out.len() > data.len() && out.capacity() < data.len() + 200, "{}", out.capacity());
}

#[test]
fn the_other_pushes() {
    assert_eq!(
        push("c", &Push::Leave(info())),
        concat!(
            r#"{"push":{"channel":"c","leave":{"info":{"user":"42","client":"c1","conn_info":{"n":1},"#,
            r#""chan_info":2}}}}"#
        )
    );
    assert_eq!(
        push("c", &Push::Unsubscribe(Unsubscribed::InsufficientState)),
        r#"{"push":{"channel":"c","unsubscribe":{"code":2500,"reason":"insufficient state"}}}"#
    );
    let subscribe = SubscribePush {
        recoverable: true,
        epoch: EPOCH,
        offset: Offset(3),
        positioned: true,
        data: Some(b"{}"),
    };
    assert_eq!(
        push("c", &Push::Subscribe(subscribe)),
        concat!(
            r#"{"push":{"channel":"c","subscribe":{"recoverable":true,"epoch":"0a1b2c3d","offset":3,"#,
            r#""positioned":true,"data":{}}}}"#
        )
    );
    assert_eq!(
        push("c", &Push::Subscribe(SubscribePush::default())),
        r#"{"push":{"channel":"c","subscribe":{}}}"#
    );
    assert_eq!(push("", &Push::Message(Some(b"1"))), r#"{"push":{"message":{"data":1}}}"#);
    assert_eq!(
        push("", &Push::Refresh(Lifetime { expires: true, ttl_s: 5 })),
        r#"{"push":{"refresh":{"expires":true,"ttl":5}}}"#
    );
}

#[test]
fn channels_and_users_are_escaped() {
    let info = ClientInfoRef { user: "a\"\\\u{1}b", client: "é", ..Default::default() };
    assert_eq!(
        push("c\n\"", &Push::Join(info)),
        r#"{"push":{"channel":"c\n\"","join":{"info":{"user":"a\"\\\u0001b","client":"é"}}}}"#
    );
}

#[test]
fn a_batch_joins_by_newlines() {
    let mut out = b"head".to_vec();
    let mut batch = ReplyBatch::new(&mut out, Format::Json);
    assert!(batch.is_empty());
    batch.reply(1, &Reply::Publish);
    batch.push("", &Push::Message(Some(b"1\n")));
    assert!(!batch.is_empty());
    assert_eq!(out, b"head{\"id\":1,\"publish\":{}}\n{\"push\":{\"message\":{\"data\":1}}}");
}
