//! The API over real inboxes: threads drain them and answer from a small log, as shards do.

use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};

use self::shards::Shards;
use super::*;
use crate::base::fault::Disconnect;
use crate::base::ids::{ClientId, Epoch, Offset, Position, UserName};
use crate::base::publication::{ClientInfo, Publication};
use crate::config::Secret;
use crate::control::auth::AcceptedKeys;
use crate::control::drain::DrainDefaults;
use crate::control::events::EventsPlace;
use crate::control::hooks::Hooks;
use crate::control::options::{ControlOptions, PortLimits};
use crate::hub::requests::{Since, SinceEpoch};
use crate::shard::control_request::ControlRequest;
use crate::shard::router::Router as ShardRouter;

#[path = "bytes_tests.rs"]
mod bytes;
#[path = "old_ways_tests.rs"]
mod old_ways;
#[path = "ports_tests.rs"]
mod ports;
#[path = "http_shards_tests.rs"]
mod shards;

/// A bound on hanging, not on speed.
const PATIENCE: Duration = Duration::from_secs(30);
/// For shards that never answer.
const SHORT: Duration = Duration::from_millis(300);

fn options() -> ControlOptions {
    ControlOptions {
        uid: None,
        others: None,
        inboxes: None,
        blocks: Arc::default(),
        blocks_kept: None,
        node_name: "n1".to_string(),
        api_keys: AcceptedKeys { keys: vec![Secret::new("key")], ..AcceptedKeys::default() },
        body_bytes_max: 64 * 1024,
        requests_max: 4,
        ask_timeout: PATIENCE,
        tunnels: Vec::new(),
        answer_bytes_max: 64 * 1024,
        address_mask: Default::default(),
        echo: true,
        console: true,
        page_key: Some(Secret::new("page-key")),
        api_port: PortLimits {
            connections_max: 8,
            body_bytes_max: 64 * 1024,
            bodies_bytes_max: 1 << 20,
            head_time: Duration::from_secs(5),
            idle_time: Duration::from_secs(5),
            transfer_time: Duration::from_secs(5),
        },
        centrifugo_metrics: false,
        metrics_need_key: false,
        events: None,
        events_kept: crate::control::events::kept::KeptPlace::default(),
        event_kinds: Default::default(),
        traces: None,
        objectives: Vec::new(),
        collectors: Vec::new(),
        held: false,
        issuers: Vec::new(),
        hooks: Vec::new(),
        drain: DrainDefaults { over: Duration::ZERO, delay: Duration::ZERO },
        reload: None,
    }
}

fn routes(shards: &Shards, options: &ControlOptions, port: ServedPort) -> Router {
    let (hooks, events) = (Hooks::new(&[]).unwrap(), EventsPlace::default());
    app(Arc::new(App::new(options, shards.router.clone(), None, &hooks, events).unwrap()), port)
}

async fn send(app: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, Bytes) {
    let response = app.clone().oneshot(request).await.unwrap();
    let (parts, body) = response.into_parts();
    (parts.status, parts.headers, axum::body::to_bytes(body, usize::MAX).await.unwrap())
}

fn post_to(path: &str, body: impl Into<Body>) -> Request<Body> {
    Request::post(path).header("x-api-key", "key").body(body.into()).unwrap()
}

/// A call that HTTP has nothing against.
async fn call(app: &Router, method: &str, body: Value) -> Value {
    let (status, headers, bytes) = send(app, post_to(&format!("/api/{method}"), body.to_string())).await;
    assert_eq!(status, StatusCode::OK, "{method} {body}: {bytes:?}");
    assert_eq!(headers[header::CONTENT_TYPE], "application/json");
    serde_json::from_slice(&bytes).unwrap()
}

async fn status(app: &Router, request: Request<Body>) -> StatusCode {
    send(app, request).await.0
}

#[tokio::test]
async fn publish_gives_offsets_and_history_gives_the_payloads_as_they_came() {
    let shards = Shards::start(3, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let epoch = "00000abc";
    let first = call(&app, "publish", json!({"channel": "chat:1", "data": {"n": 1}})).await;
    assert_eq!(first, json!({"result": {"offset": 1, "epoch": epoch}}));
    let odd = r#"{"channel":"chat:1","data":{"b":1.0, "a":1e2},"tags":{"k":"v"},"skip_history":null}"#;
    assert_eq!(send(&app, post_to("/api/publish", odd)).await.0, StatusCode::OK);
    let base64 = call(&app, "publish", json!({"channel": "chat:1", "b64data": "bnVsbA=="})).await;
    assert_eq!(base64["result"]["offset"], 3);

    let (_, _, bytes) = send(&app, post_to("/api/history", r#"{"channel":"chat:1","limit":10}"#)).await;
    let text = String::from_utf8(bytes.to_vec()).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"result":{"publications":[{"data":{"n":1},"offset":1},{"data":{"b":1.0, "a":1e2},"offset":2,"tags":{"k":"v"}},"#,
            r#"{"data":null,"offset":3}],"offset":3,"epoch":"00000abc"}}"#
        )
    );
    let top = call(&app, "history", json!({"channel": "chat:1"})).await;
    assert_eq!(top, json!({"result": {"publications": [], "offset": 3, "epoch": epoch}}));
    let since = json!({"offset": 1, "epoch": epoch});
    let page = json!({"channel": "chat:1", "limit": -1, "since": since, "reverse": true});
    let page = call(&app, "history", page).await;
    let page = page["result"]["publications"].as_array().unwrap();
    assert_eq!(page.iter().map(|entry| &entry["offset"]).collect::<Vec<_>>(), [3, 2]);
    let foreign =
        call(&app, "history", json!({"channel": "chat:1", "since": {"offset": 1, "epoch": "zz"}})).await;
    assert_eq!(foreign, json!({"error": {"code": 112, "message": "unrecoverable position"}}));
    assert_eq!(call(&app, "history_remove", json!({"channel": "chat:1"})).await, json!({"result": {}}));
    assert_eq!(call(&app, "history", json!({"channel": "chat:1"})).await["result"]["offset"], 0);
    let by_client = json!({"channel": "chat:client", "data": 1});
    call(&app, "publish", by_client).await;
    let with_info = call(&app, "history", json!({"channel": "chat:client", "limit": 1})).await;
    assert_eq!(
        with_info["result"]["publications"][0]["info"],
        json!({"user": "ann", "client": "c1", "conn_info": {"a": 1}})
    );
}

#[tokio::test]
async fn what_is_missing_or_unsupported_is_a_bad_request() {
    let shards = Shards::start(1, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    for (method, body) in [
        ("publish", json!({})),
        ("publish", json!({"channel": "c"})),
        ("publish", json!({"data": 1})),
        ("publish", json!({"channel": "c", "b64data": "!"})),
        ("publish", json!({"channel": "c", "b64data": "AAAA"})),
        ("broadcast", json!({"data": 1})),
        ("broadcast", json!({"channels": ["a"]})),
        ("subscribe", json!({"user": "u"})),
        ("disconnect", json!({"user": "u", "disconnect": {"code": 1000, "reason": ""}})),
        ("disconnect", json!({"user": "u", "disconnect": {"code": 5000, "reason": ""}})),
        ("disconnect", json!({"user": "u", "disconnect": {"code": 4000, "reason": "x".repeat(124)}})),
        ("refresh", json!({"user": "u", "b64info": "!"})),
        ("presence", json!({})),
        ("presence_stats", json!({"channel": ""})),
        ("history", json!({})),
        ("history_remove", json!({})),
        ("channels", json!({"pattern": "["})),
    ] {
        let answer = call(&app, method, body.clone()).await;
        assert_eq!(answer, json!({"error": {"code": 107, "message": "bad request"}}), "{method} {body}");
    }
    let published = call(&app, "publish", json!({"channel": "c", "data": 1, "delta": false})).await;
    assert_eq!(published["result"]["offset"], 1, "and nothing of the above was published");
    let published = call(&app, "publish", json!({"channel": "c", "data": 1, "delta": true})).await;
    assert_eq!(published["result"]["offset"], 2, "a patch is permitted, not demanded");
    for method in ["subscribe", "unsubscribe", "disconnect", "refresh"] {
        let answer = call(&app, method, json!({"user": "u", "channel": "c", "session": "s"})).await;
        assert_eq!(answer, json!({"result": {}}), "{method}: nobody has such a session");
    }
    let subscribe = |name: &str| json!({"user": "u", "channel": "c", "override": {name: {"value": true}}});
    for name in ["presence", "join_leave", "force_push_join_leave", "force_positioning", "force_recovery"] {
        assert_eq!(call(&app, "subscribe", subscribe(name)).await, json!({"result": {}}), "{name}");
    }
    let refused = call(&app, "subscribe", subscribe("history")).await;
    assert_eq!(refused["error"]["code"], 107, "{refused}");
    let answer = call(&app, "subscribe", json!({"user": "u", "channel": "c", "override": []})).await;
    assert_eq!(answer, json!({"result": {}}), "an empty array of PHP");
}

#[tokio::test]
async fn broadcast_and_batch_answer_each_part() {
    let shards = Shards::start(2, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let answer = call(&app, "broadcast", json!({"channels": ["a", "", "unknown:b", "c"], "data": 1})).await;
    let ok = json!({"result": {"offset": 1, "epoch": "00000abc"}});
    assert_eq!(
        answer["result"]["responses"],
        json!([
            ok,
            {"error": {"code": 107, "message": "bad request"}},
            {"error": {"code": 102, "message": "unknown channel"}},
            ok
        ])
    );
    for parallel in [false, true] {
        let commands = json!([
            {"publish": {"channel": "p", "data": 1}},
            {"history": {"channel": "none"}, "publish": null},
            {"nonsense": {}},
            {},
            {"presence_stats": {"channel": "p"}},
            {"publish": {"channel": "unknown:x", "data": 1}},
        ]);
        let answer = call(&app, "batch", json!({"commands": commands, "parallel": parallel})).await;
        let offset = if parallel { 2 } else { 1 };
        let missing = json!({"error": {"code": 104, "message": "not found"}});
        assert_eq!(
            answer,
            json!({"replies": [
                {"publish": {"offset": offset, "epoch": "00000abc"}},
                {"history": {"publications": [], "offset": 0, "epoch": "00000abc"}},
                missing,
                missing,
                {"presence_stats": {"num_clients": 2, "num_users": 1}},
                {"error": {"code": 102, "message": "unknown channel"}},
            ]})
        );
    }
    assert_eq!(call(&app, "batch", json!({"commands": []})).await, json!({"replies": []}));
    // A sequential batch keeps its order in one channel.
    let many: Vec<Value> = (0..200).map(|n| json!({"publish": {"channel": "q", "data": n}})).collect();
    let answer = call(&app, "batch", json!({"commands": many})).await;
    assert_eq!(answer["replies"][199]["publish"]["offset"], 200);
    assert_eq!(status(&app, post_to("/api/batch", r#"{"commands":[{"publish":[]}]}"#)).await, 400);
}

#[tokio::test]
async fn users_are_addressed_as_asked() {
    let shards = Shards::start(2, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let client = ClientId(7).to_string();
    let done = json!({"result": {}});
    let subscribe = json!({
        "user": "ann", "channel": "c", "client": client, "data": {"d": 1}, "b64info": "WzFd",
        "recover_since": {"offset": 3, "epoch": "another server"}, "expire_at": 99, "override": {"presence": null},
    });
    assert_eq!(call(&app, "subscribe", subscribe).await, done);
    let Ok(ControlRequest::Subscribe(ask, _)) = shards.user_asks.recv() else { panic!("not a subscribe") };
    assert_eq!((&*ask.target.user, ask.target.client, &*ask.channel), ("ann", Some(ClientId(7)), "c"));
    assert_eq!((ask.info.as_deref(), ask.data.as_deref()), (Some(&b"[1]"[..]), Some(&b"{\"d\":1}"[..])));
    assert_eq!(ask.recover, Some(Since { offset: Offset(3), epoch: SinceEpoch::Foreign }));
    assert_eq!(ask.expire_at, 99);

    assert_eq!(call(&app, "unsubscribe", json!({"user": "ann", "channel": "c"})).await, done);
    let Ok(ControlRequest::Unsubscribe(ask, _)) = shards.user_asks.recv() else {
        panic!("not an unsubscribe")
    };
    assert_eq!(ask.target.client, None);

    let whitelist = json!({"user": "ann", "whitelist": [client, "nonsense"], "disconnect": {"code": 4001, "reason": "out"}});
    assert_eq!(call(&app, "disconnect", whitelist).await, done);
    let Ok(ControlRequest::Disconnect(ask, _)) = shards.user_asks.recv() else { panic!("not a disconnect") };
    assert_eq!((ask.disconnect.code, &*ask.disconnect.reason), (4001, "out"));
    assert_eq!(ask.target.except, [ClientId(7)]);
    for body in [json!({"user": "ann"}), json!({"user": "ann", "disconnect": {"code": 0, "reason": ""}})] {
        call(&app, "disconnect", body).await;
        let Ok(ControlRequest::Disconnect(ask, _)) = shards.user_asks.recv() else {
            panic!("not a disconnect")
        };
        assert_eq!(ask.disconnect, Disconnect::FORCE_NO_RECONNECT);
    }

    assert_eq!(call(&app, "refresh", json!({"user": "ann", "expired": true})).await, done);
    let Ok(ControlRequest::Refresh(ask, _)) = shards.user_asks.recv() else { panic!("not a refresh") };
    assert!(ask.expired);

    // An id that no client ever had: nobody is meant, and surely not everybody.
    assert_eq!(call(&app, "disconnect", json!({"user": "ann", "client": "nobody"})).await, done);
    assert!(shards.user_asks.try_recv().is_err());
    let refused = call(&app, "subscribe", json!({"user": "refused", "channel": "c"})).await;
    assert_eq!(refused["error"]["code"], 108);
}

#[tokio::test]
async fn a_push_tells_who_was_reached_in_the_order_of_the_names() {
    let shards = Shards::start(3, 64);
    let app = routes(&shards, &options(), ServedPort::Api);
    let users: Vec<String> =
        (0..50).map(|n| if n % 5 == 0 { format!("absent-{n}") } else { format!("user-{n}") }).collect();
    let absent: Vec<&String> = users.iter().filter(|user| user.starts_with("absent")).collect();
    let answer = call(&app, "push", json!({ "users": users, "data": { "a": 1 } })).await;
    assert_eq!(answer, json!({ "result": { "connections": 80, "users": 40, "absent": absent } }));
    let asks: Vec<ControlRequest> = shards.user_asks.try_iter().collect();
    assert!(asks.len() <= 3, "one ask a shard");
    let mut named = 0;
    for ask in asks {
        let ControlRequest::Push(ask, _) = ask else { panic!("{ask:?}") };
        assert_eq!((&ask.message.data[..], ask.newest), (&b"{\"a\":1}"[..], false));
        named += ask.users.len();
    }
    assert_eq!(named, 50);

    let twice = json!({ "user": "a", "users": ["a", "a", "b"], "data": 1, "newest": true });
    let answer = call(&app, "push", twice).await;
    assert_eq!(answer, json!({ "result": { "connections": 2, "users": 2, "absent": [] } }));
}

#[tokio::test]
async fn a_push_that_is_repeated_under_its_key_is_answered_and_not_sent_again() {
    let shards = Shards::start(2, 64);
    let app = routes(&shards, &options(), ServedPort::Api);
    let body = json!({ "users": ["a", "absent"], "data": 1, "idempotency_key": "k" });
    let expected = json!({ "result": { "connections": 2, "users": 1, "absent": ["absent"] } });
    for _ in 0..3 {
        assert_eq!(call(&app, "push", body.clone()).await, expected);
    }
    let users: usize = shards
        .user_asks
        .try_iter()
        .map(|ask| if let ControlRequest::Push(ask, _) = ask { ask.users.len() } else { 0 })
        .sum();
    assert_eq!(users, 2, "asked once");
}

#[tokio::test]
async fn what_is_wrong_with_a_push_or_a_pace_is_named() {
    let shards = Shards::start(2, 64);
    let app = routes(&shards, &options(), ServedPort::Api);
    let many = vec!["a"; 10_001];
    let long = "k".repeat(257);
    for (method, body, word) in [
        ("push", json!({ "data": 1 }), "users"),
        ("push", json!({ "users": [], "data": 1 }), "users"),
        ("push", json!({ "users": ["a", ""], "data": 1 }), "empty"),
        ("push", json!({ "users": many, "data": 1 }), "10000"),
        ("push", json!({ "user": "a" }), "data"),
        ("push", json!({ "user": "a", "data": 1, "idempotency_key": long }), "idempotency_key"),
        ("publish", json!({ "channel": "c", "data": 1, "spread_ms": 3_600_001 }), "spread_ms"),
        ("publish", json!({ "channel": "c", "data": 1, "class": "slow" }), "class"),
        ("broadcast", json!({ "channels": ["c"], "data": 1, "class": "slow" }), "class"),
    ] {
        let answer = call(&app, method, body).await;
        assert_eq!(answer["error"]["code"], 107, "{answer}");
        assert!(answer["error"]["message"].as_str().unwrap().contains(word), "{word}: {answer}");
    }
    assert_eq!(shards.user_asks.try_iter().count(), 0);
    for pace in [json!({ "spread_ms": 3_600_000 }), json!({ "class": "bulk" }), json!({ "class": "normal" })]
    {
        let mut body = json!({ "channel": "c", "data": 1 });
        body.as_object_mut().unwrap().extend(pace.as_object().unwrap().clone());
        assert!(call(&app, "publish", body).await["result"]["offset"].is_u64());
    }
}

#[tokio::test]
async fn presence_channels_and_info_are_gathered_over_shards() {
    let shards = Shards::start(3, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    assert_eq!(
        call(&app, "presence", json!({"channel": "c"})).await,
        json!({"result": {"presence": {"c1": {"user": "ann", "client": "c1", "chan_info": [1]}}}})
    );
    let names: Vec<String> = (0..20).map(|n| format!("chat:{n}")).collect();
    call(&app, "broadcast", json!({"channels": names, "data": 1})).await;
    let count = |answer: Value| answer["result"]["channels"].as_object().unwrap().len();
    assert_eq!(count(call(&app, "channels", json!({})).await), 20);
    assert_eq!(count(call(&app, "channels", json!({"pattern": "chat:1?"})).await), 10);
    let one = call(&app, "channels", json!({"pattern": "*:{7,x}"})).await;
    assert_eq!(one, json!({"result": {"channels": {"chat:7": {"num_clients": 1}}}}));
    // Also without any body.
    let (status, _, bytes) = send(&app, post_to("/api/info", "")).await;
    assert_eq!(status, StatusCode::OK);
    let info: Value = serde_json::from_slice(&bytes).unwrap();
    let node = &info["result"]["nodes"][0];
    assert_eq!(
        (&node["num_clients"], &node["num_channels"], &node["name"]),
        (&json!(3), &json!(20), &json!("n1"))
    );
    assert!(node["metrics"]["interval"].as_f64().unwrap() >= 0.0 && node["metrics"]["items"].is_object());
    assert!(node["process"]["rss"].as_u64().unwrap() > 0 && node["uid"].as_str().unwrap().len() == 36);
}

#[tokio::test]
async fn the_key_is_needed_and_http_faults_have_their_status() {
    let shards = Shards::start(1, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let bare = |path: &str| Request::post(path).body(Body::from("{}")).unwrap();
    assert_eq!(status(&app, bare("/api/info")).await, 401);
    assert_eq!(status(&app, bare("/api/nonsense")).await, 401, "who shows no key learns nothing");
    assert_eq!(status(&app, bare("/api/info?api_key=wrong")).await, 401);
    assert_eq!(status(&app, bare("/api/info?api_key=key")).await, 200);
    let authorization = Request::post("/api/info").header("authorization", "apikey key");
    assert_eq!(status(&app, authorization.body(Body::from("{}")).unwrap()).await, 200);
    assert_eq!(status(&app, post_to("/api/nonsense", "{}")).await, 404);
    for bad in [
        "",
        "{",
        "[]",
        "[\"c\"]",
        "null",
        "[]]",
        "{\"channel\":1}",
        "{\"channel\":\"c\",\"data\":tru}",
        "\u{0}",
    ] {
        let (status, headers, body) = send(&app, post_to("/api/publish", bad)).await;
        assert_eq!(status, 400, "{bad:?}");
        assert_eq!(headers[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["status"], 400);
    }
    assert_eq!(status(&app, post_to("/api/publish", vec![b' '; 64 * 1024 + 1])).await, 413);
    assert_eq!(status(&app, post_to("/api/publish", vec![0xff; 100])).await, 400);
    let deep = format!("{{\"channel\":\"c\",\"data\":{}1{}}}", "[".repeat(20_000), "]".repeat(20_000));
    assert_eq!(status(&app, post_to("/api/publish", deep)).await, 200, "depth is the reader's matter");
    let get = Request::get("/api/info").header("x-api-key", "key").body(Body::empty()).unwrap();
    let (code, headers, _) = send(&app, get).await;
    assert_eq!(
        (code, &headers[header::ALLOW]),
        (StatusCode::METHOD_NOT_ALLOWED, &HeaderValue::from_static("POST"))
    );

    let transport = |body: &'static str| {
        let mut request = post_to("/api/publish", body);
        request.headers_mut().insert("x-centrifugo-error-mode", HeaderValue::from_static("transport"));
        request
    };
    let (code, _, body) = send(&app, transport(r#"{"channel":"unknown:x","data":1}"#)).await;
    assert_eq!(code, 404);
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["error"]["code"], 102);
    assert_eq!(status(&app, transport("{}")).await, 400);
    assert_eq!(status(&app, transport(r#"{"channel":"x","data":1}"#)).await, 200);
}

/// Whatever a body is, it is answered: cut anywhere and with any byte changed.
#[tokio::test]
async fn no_body_is_an_internal_error() {
    let shards = Shards::start(1, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let mut random = fastrand::Rng::with_seed(7);
    for (method, body) in [
        ("publish", r#"{"channel":"c","data":{"a":[1,"é"]},"tags":{"k":"v"},"version":1}"#),
        ("subscribe", r#"{"user":"u","channel":"c","info":{},"recover_since":{"offset":1,"epoch":"x"}}"#),
        ("disconnect", r#"{"user":"u","whitelist":["a"],"disconnect":{"code":4000,"reason":"é"}}"#),
        ("batch", r#"{"commands":[{"publish":{"channel":"c","data":1}},{"info":{}}],"parallel":true}"#),
    ] {
        let whole = body.as_bytes();
        let mut bodies: Vec<Vec<u8>> = (0..=whole.len()).map(|cut| whole[..cut].to_vec()).collect();
        for at in 0..whole.len() {
            let mut changed = whole.to_vec();
            changed[at] = random.u8(..);
            bodies.push(changed);
        }
        for body in bodies {
            let (status, _, answer) = send(&app, post_to(&format!("/api/{method}"), body.clone())).await;
            let text = String::from_utf8_lossy(&body);
            assert!(
                status == StatusCode::OK || status == StatusCode::BAD_REQUEST,
                "{method} {text}: {status}"
            );
            assert!(serde_json::from_slice::<Value>(&answer).is_ok(), "{method} {text}: {answer:?}");
        }
    }
}

/// With a silent shard a long batch would wait for every command's deadline in turn.
#[tokio::test]
async fn a_batch_ends_even_when_no_shard_answers() {
    let stopped = Shards::stopped(1, 4096);
    let app = routes(
        &stopped,
        &ControlOptions { ask_timeout: Duration::from_millis(20), ..options() },
        ServedPort::Shared,
    );
    let began = std::time::Instant::now();
    let commands: Vec<Value> = (0..1000).map(|n| json!({"publish": {"channel": "c", "data": n}})).collect();
    let answer = call(&app, "batch", json!({"commands": commands})).await;
    assert_eq!(answer["replies"].as_array().unwrap().len(), 1000);
    assert_eq!(answer["replies"][999]["error"]["code"], 100);
    // In turn they would take 20.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// A full inbox is told at once and nothing waits; a shard that does not answer is given up on.
#[tokio::test]
async fn busy_and_silent_shards_hold_nobody_up() {
    let impatient = ControlOptions { ask_timeout: SHORT, ..options() };
    let stopped = Shards::stopped(1, 2);
    let app = routes(&stopped, &impatient, ServedPort::Shared);
    let (first, second, third) = tokio::join!(
        send(&app, post_to("/api/publish", r#"{"channel":"c","data":1}"#)),
        send(&app, post_to("/api/info", "{}")),
        send(&app, post_to("/api/broadcast", r#"{"channels":["a","b"],"data":1}"#)),
    );
    assert_eq!(
        (first.0, second.0, third.0),
        (StatusCode::OK, StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE)
    );
    assert_eq!(third.1[header::RETRY_AFTER], "1");
    for answered in [first.2, second.2] {
        let body: Value = serde_json::from_slice(&answered).unwrap();
        assert_eq!(body, json!({"error": {"code": 100, "message": "internal server error"}}));
    }
    assert_eq!(status(&app, Request::get("/metrics").body(Body::empty()).unwrap()).await, 503);
    let batch = r#"{"commands":[{"publish":{"channel":"c","data":1}}]}"#;
    assert_eq!(status(&app, post_to("/api/batch", batch)).await, 503);

    // One channel's shard takes it, the inbox is full for the rest: each channel has its own answer.
    let small = Shards::stopped(1, 1);
    let app = routes(&small, &impatient, ServedPort::Shared);
    let broadcast = call(&app, "broadcast", json!({"channels": ["a", "b"], "data": 1})).await;
    let codes: Vec<_> =
        broadcast["result"]["responses"].as_array().unwrap().iter().map(|r| &r["error"]["code"]).collect();
    assert_eq!(codes, [100, 111]);

    let live = Shards::start(1, 64);
    let app = routes(&live, &impatient, ServedPort::Shared);
    let lost = call(&app, "publish", json!({"channel": "lost:x", "data": 1})).await;
    assert_eq!(lost["error"]["code"], 100);
}

#[tokio::test]
async fn who_is_online_is_asked_of_the_users_shards() {
    let shards = Shards::start(3, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let users: Vec<String> = (0..50).flat_map(|n| [format!("u{n}"), format!("absent{n}")]).collect();
    let answer = call(&app, "online", json!({"users": users})).await;
    let online = answer["result"]["online"].as_object().unwrap();
    assert_eq!(online.len(), 50, "those who are absent are left out: {answer}");
    assert!(online.values().all(|connections| connections == 2));
    assert_eq!(answer["result"].get("missing"), None);
    let twice = call(&app, "online", json!({"users": ["u1", "u1"]})).await;
    assert_eq!(twice["result"]["online"], json!({"u1": 2}), "named twice, counted once");
    let many = vec!["a"; 10_001];
    for wrong in [json!([]), json!(["a", ""]), json!(many)] {
        assert_eq!(call(&app, "online", json!({"users": wrong})).await["error"]["code"], 107);
    }
}

#[tokio::test]
async fn presence_comes_in_pages() {
    let shards = Shards::start(2, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let page = async |cursor: &str| {
        let body = json!({"channel": "c", "limit": 2, "cursor": cursor});
        call(&app, "presence", body).await["result"].clone()
    };
    let first = page("").await;
    let names = |page: &Value| page["presence"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((names(&first), &first["cursor"]), (vec!["c1".into(), "c2".into()], &json!("c2")));
    let last = page("c2").await;
    assert_eq!((names(&last), &last["cursor"]), (vec!["c3".into()], &Value::Null));
    let much = call(&app, "presence", json!({"channel": "c", "limit": 10_001})).await;
    assert_eq!(much["error"]["code"], 107);
}

#[tokio::test]
async fn blocks_and_revocations_are_read_listed_and_taken_back() {
    let shards = Shards::start(2, 64);
    let options = options();
    let app = routes(&shards, &options, ServedPort::Shared);
    let done = json!({"result": {}});
    let disconnected = || match shards.user_asks.recv() {
        Ok(ControlRequest::Disconnect(ask, _)) => (ask.target.user.to_string(), ask.disconnect.code),
        other => panic!("no disconnect: {other:?}"),
    };
    assert_eq!(call(&app, "block", json!({"user": "ann"})).await, done);
    assert_eq!(disconnected(), ("ann".to_owned(), 3507));
    assert_eq!(call(&app, "revoke", json!({"user": "bob", "issued_before": 77})).await, done);
    assert_eq!(disconnected(), ("bob".to_owned(), 3011));
    assert_eq!(call(&app, "revoke", json!({"token_id": "t", "for_s": 1_000_000})).await, done);
    for _ in 0..2 {
        assert!(matches!(shards.user_asks.recv(), Ok(ControlRequest::Enforce(_))), "every shard looks");
    }
    let first = call(&app, "blocked", json!({"limit": 2})).await["result"].clone();
    assert_eq!(first["blocked"][0], json!({"user": "ann"}));
    assert!(first["blocked"][1]["until"].as_u64().unwrap() > 1_000_000);
    let rest = call(&app, "blocked", json!({"limit": 2, "cursor": first["cursor"]})).await["result"].clone();
    assert_eq!(rest, json!({"blocked": [{"user": "bob", "issued_before": 77}], "cursor": null}));
    for (method, wrong) in [
        ("block", json!({})),
        ("block", json!({"user": "*"})),
        ("block", json!({"user": "x".repeat(257)})),
        ("block", json!({"user": "a", "token_id": "t"})),
        ("revoke", json!({})),
        ("revoke", json!({"user": "a"})),
        ("revoke", json!({"user": "*", "issued_before": 5})),
        ("revoke", json!({"token_id": "*"})),
        ("revoke", json!({"token_id": "t", "issued_before": 5})),
        ("unblock", json!({})),
        ("unblock", json!({"user": "a", "token_id": "t"})),
        ("blocked", json!({"limit": 10_001})),
        ("blocked", json!({"cursor": "ann"})),
    ] {
        assert_eq!(call(&app, method, wrong.clone()).await["error"]["code"], 107, "{method} {wrong}");
    }
    for body in [json!({"user": "ann"}), json!({"user": "bob"}), json!({"token_id": "t"})] {
        assert_eq!(call(&app, "unblock", body).await, done);
    }
    assert!(options.blocks.is_empty());
}
