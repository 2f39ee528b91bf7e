//! Golden JSON in both directions, and hostile answers.

use std::sync::Arc;

use super::*;
use crate::base::certificate::ClientCertificate;
use crate::base::except::Except;
use crate::base::ids::ClientId;
use crate::base::publication::PayloadForm;
use crate::proto::centrifuge::Format;
use crate::session::hook_call::Caller;

fn hook_call(hook_request: HookRequest) -> HookCall {
    let caller = Caller {
        client: ClientId(0x9336_a229_2400_4ebc_8c50_0a64_3d22_e8a0),
        user: "56".into(),
        transport: "websocket",
        format: Format::Json,
        meta: Some(Bytes::from_static(b"{\"k\":1}")),
        headers: None,
        certificate: None,
        address: None,
    };
    HookCall { hook: "backend".into(), caller, hook_request }
}

fn connect() -> HookRequest {
    HookRequest::Connect {
        data: Some(Bytes::from_static(b"{\"a\": [1]}")),
        name: "js".into(),
        version: "5".into(),
        channels: vec!["a".into(), "b\"".into()],
    }
}

fn subscribe() -> HookRequest {
    HookRequest::Subscribe { channel: "chat:index".into(), token: "".into(), data: None }
}

fn rpc() -> HookRequest {
    HookRequest::Rpc { method: "".into(), data: Some(Bytes::from_static(b"null")) }
}

fn publish() -> HookRequest {
    HookRequest::Publish { channel: "c".into(), data: Bytes::from_static(b"7"), form: PayloadForm::Json }
}

fn sub_refresh() -> HookRequest {
    HookRequest::SubRefresh { channel: "c".into() }
}

#[test]
fn a_client_is_asked_about_with_its_certificate_and_address() {
    let mut call = hook_call(HookRequest::Refresh);
    let certificate = ClientCertificate { subject: "CN=a".into(), fingerprint: [7; 32] };
    call.caller.certificate = Some(Arc::new(certificate));
    call.caller.address = Some(std::net::IpAddr::from([192, 0, 2, 7]));
    let text = String::from_utf8(encode(&call, HookEncoding::default())).unwrap();
    let expected = format!(r#""certificate":{{"subject":"CN=a","fingerprint":"{}"}}"#, "07".repeat(32));
    assert!(text.contains(&expected), "{text}");
    assert!(text.contains(r#""address":"192.0.2.7""#), "{text}");
}

#[test]
fn hook_calls_have_the_published_shape() {
    let written = |hook_request: HookRequest, include_connection_meta, binary| {
        String::from_utf8(encode(&hook_call(hook_request), HookEncoding { include_connection_meta, binary }))
            .unwrap()
    };
    const HEAD: &str = concat!(
        r#"{"client":"9336a229-2400-4ebc-8c50-0a643d22e8a0","transport":"websocket","#,
        r#""protocol":"json","encoding":"#
    );
    for (hook_request, rest) in [
        (connect(), r#""json","name":"js","version":"5","data":{"a": [1]},"channels":["a","b\""]}"#),
        (
            HookRequest::Connect { data: None, name: "".into(), version: "".into(), channels: vec![] },
            r#""json"}"#,
        ),
        (HookRequest::Refresh, r#""json","user":"56"}"#),
        (subscribe(), r#""json","user":"56","channel":"chat:index"}"#),
        (
            HookRequest::Subscribe {
                channel: "c".into(),
                token: "t".into(),
                data: Some(Bytes::from_static(b"1")),
            },
            r#""json","user":"56","channel":"c","token":"t","data":1}"#,
        ),
        (sub_refresh(), r#""json","user":"56","channel":"c"}"#),
        (publish(), r#""json","user":"56","channel":"c","data":7}"#),
        (rpc(), r#""json","user":"56","data":null}"#),
        (HookRequest::Rpc { method: "m".into(), data: None }, r#""json","user":"56","method":"m"}"#),
    ] {
        assert_eq!(written(hook_request, false, false), format!("{HEAD}{rest}"));
    }
    assert_eq!(
        written(HookRequest::Refresh, true, false),
        format!("{HEAD}\"json\",\"user\":\"56\",\"meta\":{{\"k\":1}}}}")
    );
    assert_eq!(
        written(publish(), false, true),
        format!("{HEAD}\"binary\",\"user\":\"56\",\"channel\":\"c\",\"b64data\":\"Nw==\"}}")
    );
}

fn bytes(text: &str) -> Option<Bytes> {
    Some(Bytes::copy_from_slice(text.as_bytes()))
}

#[test]
fn every_kind_of_answer_is_read_whole() {
    let body = br#"{"result":{"user":"56","expire_at":1565436268,"info":{"name": "N"},"b64data":"eyJkIjoxfQ==",
        "channels":["x","news"],"subs":{"news":{"info":1,"data":{"i":2},"expire_at":9,"override":{"presence":{"value":false},
        "force_recovery":{"value":true},"join_leave":null}},"old":null},"meta":{"m":1},"caps":[],"device":"phone"}}"#;
    let Ok(Ok(Answer::Connect(connected))) = decode(&connect(), body) else { panic!("not a connect answer") };
    let overrides = Overrides { presence: Some(false), force_recovery: Some(true), ..Overrides::default() };
    let news =
        SubscribeGrant { info: bytes("1"), data: bytes("{\"i\":2}"), overrides, ..SubscribeGrant::default() };
    assert_eq!(
        *connected,
        ConnectAnswer {
            user: "56".into(),
            expire_at_s: 1_565_436_268,
            info: bytes("{\"name\": \"N\"}"),
            data: bytes("{\"d\":1}"),
            subs: vec![
                (Arc::from("news"), Granted { grant: news, expire_at_s: 9 }),
                (Arc::from("old"), Granted::default()),
                (Arc::from("x"), Granted::default()),
            ],
            meta: bytes("{\"m\":1}"),
            device: Some("phone".into()),
        }
    );
    let decoded =
        |hook_request: &HookRequest, body: &str| decode(hook_request, body.as_bytes()).unwrap().unwrap();
    assert_eq!(
        decoded(&HookRequest::Refresh, r#"{"result":{"expire_at":5,"info":"i","meta":{},"expired":false}}"#),
        Answer::Refresh(RefreshAnswer {
            expired: false,
            expire_at_s: 5,
            info: bytes("\"i\""),
            meta: bytes("{}")
        })
    );
    assert_eq!(decoded(&subscribe(), r#"{"result":{}}"#), Answer::Subscribe(Box::default()));
    assert_eq!(
        decoded(&sub_refresh(), r#"{"result":{"expired":true,"expire_at":-1}}"#),
        Answer::SubRefresh(SubRefreshAnswer { expired: true, ..SubRefreshAnswer::default() })
    );
    assert_eq!(
        decoded(
            &publish(),
            concat!(
                r#"{"result":{"data":{"x":1},"skip_history":true,"tags":{"t":"v"},"#,
                r#""except":{"origin":"tab","user":null},"idempotency_key":"k","version":3,"version_epoch":"e","delta":true}}"#
            )
        ),
        Answer::Publish(PublishAnswer {
            data: bytes("{\"x\":1}"),
            skip_history: true,
            tags: vec![("t".into(), "v".into())],
            except: Some(Except { origin: Some("tab".into()), ..Except::default() }),
            idempotency_key: Some("k".into()),
            version: 3,
            version_epoch: Some("e".into()),
        })
    );
    assert_eq!(decoded(&publish(), r#"{"result":{"data":null}}"#), Answer::Publish(PublishAnswer::default()));
    assert_eq!(decoded(&rpc(), r#"{"result":{"data":null}}"#), Answer::Rpc { data: bytes("null") });
    assert_eq!(decoded(&rpc(), r#"{"result":{}}"#), Answer::Rpc { data: None });
    assert_eq!(
        decoded(&rpc(), "{\"error\":null,\"result\":{\"data\":{\n\"a\":\r\n1}}}"),
        Answer::Rpc { data: bytes("{ \"a\":  1}") },
        "a line feed would end the client's message"
    );
}

#[test]
fn a_backend_refuses_in_its_own_codes() {
    let denied = |body: &str| decode(&subscribe(), body.as_bytes()).unwrap().unwrap_err();
    assert_eq!(
        denied(r#"{"error":{"code":400,"message":"no","temporary":true},"result":{}}"#),
        Denied::Error { code: 400, message: "no".into(), temporary: true }
    );
    assert_eq!(
        denied(r#"{"error":{"code":1999}}"#),
        Denied::Error { code: 1999, message: "".into(), temporary: false }
    );
    let reason = "r".repeat(32);
    assert_eq!(
        denied(&format!(
            r#"{{"disconnect":{{"code":4999,"reason":"{reason}","reconnect":false}},"error":{{"code":1}}}}"#
        )),
        Denied::Disconnect(Disconnect { code: 4999, reason: reason.into() })
    );
    let fault = |body: &str| decode(&subscribe(), body.as_bytes()).unwrap_err();
    for (body, code) in [
        (r#"{"error":{"code":399}}"#, 399),
        (r#"{"error":{"code":2000}}"#, 2000),
        (r#"{"error":{}}"#, 0),
        (r#"{"error":{"code":65936}}"#, 65_936),
        (r#"{"disconnect":{"code":3999}}"#, 3999),
        (r#"{"disconnect":{"code":5000}}"#, 5000),
    ] {
        assert_eq!(fault(body), HookFault::UnknownCode(code), "{body}");
    }
}

#[test]
fn what_is_no_answer_is_named() {
    let long = format!(r#"{{"disconnect":{{"code":4000,"reason":"{}"}}}}"#, "r".repeat(33));
    let wordy = format!(r#"{{"error":{{"code":400,"message":"{}"}}}}"#, "m".repeat(1025));
    for body in [
        "{}",
        "[]",
        "null",
        "\"text\"",
        r#"{"result":null}"#,
        r#"{"result":["ann"]}"#,
        r#"{"result":{"user":56}}"#,
        r#"{"result":{"user":"","subs":{"a":[1]}}}"#,
        r#"{"error":[400,"no"]}"#,
        r#"{"disconnect":[4000]}"#,
        r#"{"result":{"user":"","channels":[""]}}"#,
        r#"{"result":{"user":"","subs":["a"]}}"#,
        r#"{"result":{"user":"","expire_at":"soon"}}"#,
        r#"{"result":{"b64info":"*"}}"#,
        r#"{"result":{"b64info":"e30"}}"#,
        r#"{"result":{"b64info":"ew=="}}"#,
        r#"{"error":"no"}"#,
        r#"{"error":{"code":-1}}"#,
        &long,
        &wordy,
    ] {
        let fault = decode(&connect(), body.as_bytes()).unwrap_err();
        assert!(matches!(fault, HookFault::WrongShape(_)), "{body}: {fault:?}");
        assert!(fault.to_string().len() < 400);
    }
    let deep = format!("{{\"result\":{{\"data\":{}", "[".repeat(100_000));
    for body in ["", "{", "<html>", "{\"result\":{}} x", "{\"result\":{\"data\":tru}}", &deep] {
        let fault = decode(&connect(), body.as_bytes()).unwrap_err();
        assert!(matches!(fault, HookFault::NotJson(_)), "{body:.20}: {fault:?}");
    }
    assert!(matches!(decode(&rpc(), b"{\"result\":\xff}").unwrap_err(), HookFault::NotJson(_)));
}

/// Cut anywhere, an answer is a fault and never half an answer.
#[test]
fn any_cut_of_an_answer_is_a_fault() {
    let whole = br#"{"result":{"user":"u","info":{"n":"\u00e9"},"subs":{"a":{"data":[1,2]}}}}"#;
    assert!(decode(&connect(), whole).unwrap().is_ok());
    for cut in 0..whole.len() {
        assert!(decode(&connect(), &whole[..cut]).is_err(), "cut at {cut}");
    }
}

#[test]
fn a_hook_call_weighs_what_the_client_made_of_it() {
    let light = weight(&hook_call(HookRequest::Refresh));
    let data = Bytes::from(vec![b'1'; 50_000]);
    assert_eq!(
        weight(&hook_call(HookRequest::Publish { channel: "c".into(), data, form: PayloadForm::Json })),
        light + 50_000
    );
}

/// PHP writes an empty array as a list, whatever it stands for.
#[test]
fn an_empty_list_is_an_empty_object() {
    let ok = |hook_request: &HookRequest, body: &str| decode(hook_request, body.as_bytes()).unwrap().unwrap();
    for body in [r#"{"result":[]}"#, r#"{"result":[ ]}"#, r#"{"result":{"subs":[],"channels":[],"caps":[]}}"#]
    {
        assert_eq!(ok(&connect(), body), Answer::Connect(Box::default()), "{body}");
    }
    let nested = r#"{"result":{"subs":{"a":[],"b":{"override":[]}}}}"#;
    let Answer::Connect(answer) = ok(&connect(), nested) else { panic!() };
    assert_eq!(answer.subs, [(Arc::from("a"), Granted::default()), (Arc::from("b"), Granted::default())]);
    assert_eq!(ok(&publish(), r#"{"result":{"tags":[]}}"#), Answer::Publish(PublishAnswer::default()));
    for body in [r#"{"result":["ann"]}"#, r#"{"result":{"subs":["a"]}}"#] {
        assert!(matches!(decode(&connect(), body.as_bytes()), Err(HookFault::WrongShape(_))), "{body}");
    }
    assert!(decode(&publish(), br#"{"result":{"tags":["a"]}}"#).is_err());
}

#[test]
fn a_grant_that_cannot_be_held_is_a_fault_that_names_it() {
    for (hook_request, body, name) in [
        (connect(), r#"{"result":{"caps":[{"channels":["*"],"allow":["sub"]}]}}"#, "caps"),
        (connect(), r#"{"result":{"subs":{"a":{"allow":["pub"]}}}}"#, "allow"),
        (subscribe(), r#"{"result":{"allow":["pub"]}}"#, "allow"),
        (subscribe(), r#"{"result":{"server_tags_filter":{"op":"and"}}}"#, "server_tags_filter"),
    ] {
        let Err(HookFault::WrongShape(what)) = decode(&hook_request, body.as_bytes()) else {
            panic!("{body} was taken")
        };
        assert!(what.contains(name), "{what}");
    }
}
