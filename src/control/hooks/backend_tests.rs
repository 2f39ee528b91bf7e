//! Hooks against real backends: servers of HTTP and of whatever else may listen on a port.

use std::collections::VecDeque;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::*;
use crate::base::bytes::Bytes;
use crate::base::fault::Disconnect;
use crate::base::ids::ClientId;
use crate::config::{HookOptions, Secret, WhenUnavailable};
use crate::control::hooks::hook::{ANSWER_BYTES_MAX, WAITING_BYTES_MAX};
use crate::control::hooks::wire::PLACE_BYTES;
use crate::proto::centrifuge::Format;
use crate::session::hook_call::{Caller, HookRequest};

const REFUSED: Result<Answer, Denied> = Err(Denied::Unavailable { let_in: false });

/// One hook of the name "b".
fn hooks(address: SocketAddr, change: impl FnOnce(&mut HookOptions)) -> Hooks {
    // Test machines are slow at times; no test of these waits for its end.
    let mut options = HookOptions { timeout: Duration::from_secs(20), ..HookOptions::default() };
    options.endpoint = format!("http://{address}/hook");
    change(&mut options);
    Hooks::new(&[config::Hook { name: "b".into(), options }]).unwrap()
}

fn hook(hooks: &Hooks) -> Arc<HookClient> {
    Arc::clone(&hooks.by_name.read()["b"])
}

fn hook_call(hook_request: HookRequest) -> HookCall {
    let headers: [(Box<str>, Box<[u8]>); 4] = [
        ("cookie", &b"a=1"[..]),
        ("x-forwarded-for", b"10.0.0.1"),
        ("x-forwarded-for", b"10.0.0.2"),
        ("x-private", b"secret"),
    ]
    .map(|(name, value)| (name.into(), value.into()));
    let caller = Caller {
        client: ClientId(7),
        user: "u".into(),
        transport: "websocket",
        format: Format::Json,
        meta: None,
        headers: Some(Arc::new(headers)),
        certificate: None,
        address: None,
    };
    HookCall { hook: "b".into(), caller, hook_request }
}

fn rpc(number: usize) -> HookCall {
    let data = Some(Bytes::from(number.to_string()));
    hook_call(HookRequest::Rpc { method: "m".into(), data })
}

fn subscribe() -> HookCall {
    hook_call(HookRequest::Subscribe { channel: "c".into(), token: "".into(), data: None })
}

type Answered = oneshot::Receiver<Result<Answer, Denied>>;

fn ask(hooks: &Hooks, hook_call: HookCall) -> Result<(Waiting, Answered), Busy> {
    let (sender, answered) = oneshot::channel();
    let mut sender = Some(sender);
    let reply = BackendReply::new(move |answer| {
        if let (Some(sender), Some(answer)) = (sender.take(), answer.take()) {
            let _ = sender.send(answer);
        }
    });
    hooks.ask(&Handle::current(), hook_call, None, reply).map(|waiting| (waiting, answered))
}

async fn answer_to(hooks: &Hooks, hook_call: HookCall) -> Result<Answer, Denied> {
    let (_waiting, answered) = ask(hooks, hook_call).expect("room");
    answered.await.expect("an answer always comes")
}

/// A backend of HTTP/1.1 and HTTP/2 whose handler is `answer`.
async fn serve<F, A>(listener: TcpListener, answer: F)
where
    F: Fn(http::request::Parts, Value) -> A + Clone + Send + Sync + 'static,
    A: Future<Output = Response> + Send + 'static,
{
    async fn handle<F, A>(State(answer): State<F>, request: Request) -> Response
    where
        F: Fn(http::request::Parts, Value) -> A,
        A: Future<Output = Response>,
    {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        answer(parts, serde_json::from_slice(&body).unwrap()).await
    }
    let app = Router::new().fallback(handle::<F, A>).with_state(answer);
    tokio::spawn(async move { axum::serve(listener, app).await });
}

async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn json_response(value: &Value) -> Response {
    value.to_string().into_response()
}

/// A server that answers each connection's request with the next of `answers`, as raw bytes, and closes it. Tells what
/// it was asked.
async fn raw_server(answers: Vec<Vec<u8>>) -> (SocketAddr, mpsc::Receiver<String>) {
    let (listener, address) = listener().await;
    let (asked, told) = mpsc::channel(64);
    let mut answers: VecDeque<Vec<u8>> = answers.into();
    tokio::spawn(async move {
        while let Some(answer) = answers.pop_front() {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"}") {
                assert!(socket.read_buf(&mut request).await.unwrap() > 0);
            }
            asked.send(String::from_utf8(request).unwrap()).await.unwrap();
            // The other end may stop to read.
            let _ = socket.write_all(&answer).await;
            let _ = socket.shutdown().await;
        }
    });
    (address, told)
}

fn http_answer(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[tokio::test]
async fn a_backend_is_asked_over_both_versions_of_http() {
    let (listener, address) = listener().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let sees = Arc::clone(&seen);
    serve(listener, move |parts, body| {
        sees.lock().push((parts, body.clone()));
        async move { json_response(&json!({"result": {"data": {"was": body["data"]}}})) }
    })
    .await;
    for http2 in [false, true] {
        let hooks = hooks(address, |options| {
            options.http2 = http2;
            options.static_headers =
                vec![Secret::new("Authorization: Bearer x"), Secret::new("Cookie: static")];
            options.forward_headers = vec!["X-Forwarded-For".into(), "Cookie".into(), "X-Absent".into()];
        });
        let data = Some(Bytes::from_static(b"{\"was\":41}"));
        assert_eq!(answer_to(&hooks, rpc(41)).await, Ok(Answer::Rpc { data }));
        assert_eq!(hook(&hooks).metrics.counted("rpc", "result"), 1);
        let (parts, body) = seen.lock().pop().unwrap();
        assert_eq!(parts.version == http::Version::HTTP_2, http2);
        assert_eq!((parts.method.as_str(), parts.uri.path()), ("POST", "/hook"));
        assert_eq!(body["user"], "u");
        let values = |name: &str| -> Vec<&str> {
            parts.headers.get_all(name).iter().map(|value| value.to_str().unwrap()).collect()
        };
        assert_eq!(values("content-type"), ["application/json"]);
        assert_eq!(values("authorization"), ["Bearer x"]);
        assert_eq!(values("cookie"), ["a=1"], "a forwarded field is stronger than a static one");
        assert_eq!(values("x-forwarded-for"), ["10.0.0.1", "10.0.0.2"]);
        assert_eq!(values("x-private"), [""; 0]);
        assert!(values("user-agent")[0].starts_with("trunkline/"));
    }
}

#[tokio::test]
async fn every_way_to_fail_has_its_name() {
    let long = http_answer("200 OK", &format!("{{\"result\":{}}}", " ".repeat(ANSWER_BYTES_MAX)));
    let chunks = format!("10000\r\n{}\r\n", " ".repeat(0x10000)).repeat(33);
    let chunked =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}0\r\n\r\n").into_bytes();
    let moved =
        b"HTTP/1.1 307 Temporary Redirect\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
    for (answer, cause) in [
        (http_answer("500 Internal Server Error", "oops"), "status"),
        (http_answer("404 Not Found", "{\"result\":{}}"), "status"),
        (http_answer("201 Created", "{\"result\":{}}"), "status"),
        (moved.to_vec(), "redirect"),
        (http_answer("200 OK", "<html>"), "not_json"),
        (http_answer("200 OK", ""), "not_json"),
        (http_answer("200 OK", "{\"result\":[1]}"), "wrong_shape"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 13\r\n\r\n{\"result\":{}}"
                .to_vec(),
            "wrong_shape",
        ),
        (http_answer("200 OK", "{\"error\":{\"code\":103}}"), "unknown_code"),
        (long, "too_long"),
        (chunked, "too_long"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"result\":{}}".to_vec(), "cut"),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"res".to_vec(), "cut"),
        (b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(), "not_http"),
        (b"HTTP/1.1 200 OK\r\ncontent-le".to_vec(), "closed"),
        (Vec::new(), "closed"),
    ] {
        let (address, mut asked) = raw_server(vec![answer.clone()]).await;
        let hooks = hooks(address, |options| options.retries = 0);
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        assert_eq!(answer_to(&hooks, subscribe()).await, REFUSED, "{shown}");
        assert_eq!(hook(&hooks).metrics.counted("subscribe", cause), 1, "{cause} for {shown}");
        assert!(asked.recv().await.is_some());
    }
}

#[tokio::test]
async fn the_longest_answer_that_is_allowed_is_read() {
    let padding = ANSWER_BYTES_MAX - "{\"result\":{}}".len();
    let body = format!("{{\"result\":{{}}{}}}", " ".repeat(padding));
    assert_eq!(body.len(), ANSWER_BYTES_MAX);
    let (address, _asked) = raw_server(vec![http_answer("200 OK", &body)]).await;
    let hooks = hooks(address, |_| {});
    assert_eq!(answer_to(&hooks, subscribe()).await, Ok(Answer::Subscribe(Box::default())));
}

#[tokio::test]
async fn statuses_mean_what_the_configuration_says() {
    let answers =
        ["404 Not Found", "429 Too Many Requests", "403 Forbidden"].map(|status| http_answer(status, ""));
    let (address, _asked) = raw_server(answers.to_vec()).await;
    let hooks = hooks(address, |options| {
        options.status_codes =
            ["404=404:not found", "429=1429:busy:temporary", "403=4501:forbidden"].map(String::from).to_vec();
    });
    let error =
        |code, message: &str, temporary| Err(Denied::Error { code, message: message.into(), temporary });
    assert_eq!(answer_to(&hooks, rpc(1)).await, error(404, "not found", false));
    assert_eq!(answer_to(&hooks, rpc(1)).await, error(1429, "busy", true));
    let disconnect = Disconnect { code: 4501, reason: "forbidden".into() };
    assert_eq!(answer_to(&hooks, rpc(1)).await, Err(Denied::Disconnect(disconnect)));
    assert_eq!(hook(&hooks).metrics.counted("rpc", "error"), 2);
    assert_eq!(hook(&hooks).metrics.counted("rpc", "disconnect"), 1);
}

/// A connection that a server closes while it is used again is a common failure; but what a client does may not be done
/// twice.
#[tokio::test]
async fn a_hook_call_is_asked_again_only_where_that_is_safe() {
    let fine = http_answer("200 OK", "{\"result\":{}}");
    let (address, mut asked) = raw_server(vec![Vec::new(), fine.clone()]).await;
    let safe = hooks(address, |_| {});
    assert_eq!(answer_to(&safe, subscribe()).await, Ok(Answer::Subscribe(Box::default())));
    assert!(asked.recv().await.is_some() && asked.recv().await.is_some());
    assert_eq!(hook(&safe).metrics.retries.get(), 1);

    let (address, mut asked) = raw_server(vec![Vec::new(), fine]).await;
    let unsafe_to_repeat = hooks(address, |options| options.retries = 10);
    assert_eq!(answer_to(&unsafe_to_repeat, rpc(1)).await, REFUSED);
    assert!(asked.recv().await.is_some());
    assert!(asked.try_recv().is_err(), "the backend heard of it once");
    assert_eq!(hook(&unsafe_to_repeat).metrics.counted("rpc", "closed"), 1);
}

/// Dead, then back on the same port: found down, asked no more, and found well again by a hook call.
#[tokio::test]
async fn a_dead_backend_is_left_alone_and_found_again() {
    let (dead, address) = listener().await;
    drop(dead);
    let hooks = hooks(address, |options| {
        options.retries = 0;
        options.probe_interval = Duration::from_millis(50);
    });
    let hook = hook(&hooks);
    while hook.metrics.open.get() == 0 {
        assert_eq!(answer_to(&hooks, subscribe()).await, REFUSED);
    }
    let asked = hook.metrics.counted("subscribe", "unreachable");
    assert!((10..20).contains(&asked), "opens as soon as enough has failed: {asked}");
    while hook.metrics.counted("subscribe", "breaker_open") == 0 {
        assert_eq!(answer_to(&hooks, subscribe()).await, REFUSED);
    }
    let back = TcpListener::bind(address).await.unwrap();
    serve(back, |_, _| async { json_response(&json!({"result": {}})) }).await;
    while answer_to(&hooks, subscribe()).await == REFUSED {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((hook.metrics.open.get(), hook.metrics.opened.get()), (0, 1));
    for _ in 0..20 {
        assert_eq!(answer_to(&hooks, subscribe()).await, Ok(Answer::Subscribe(Box::default())));
    }
}

/// All slots are held by hook calls that hang, and a line waits behind them: the line is refused as soon as the breaker
/// opens, and the backend is found well while old hook calls still hang.
#[tokio::test]
async fn a_hanging_backend_holds_up_nobody_once_it_is_found_out() {
    let (listener, address) = listener().await;
    let well = Arc::new(AtomicUsize::new(0));
    let is_well = Arc::clone(&well);
    serve(listener, move |_, body| {
        let well = is_well.load(Ordering::SeqCst) == 1;
        async move {
            // The first ones for ever, the next ones until their timeout.
            if !well {
                tokio::time::sleep(Duration::from_secs(if body["method"] == "m" { 3600 } else { 1 })).await;
            }
            json_response(&json!({"result": {}}))
        }
    })
    .await;
    let hooks = hooks(address, |options| {
        options.in_flight_max = 20;
        options.timeout = Duration::from_secs(600);
        options.breaker_slow = Some(Duration::from_millis(500));
        options.probe_interval = Duration::from_millis(50);
    });
    let hook = hook(&hooks);
    let hanging: Vec<_> = (0..9).map(|n| ask(&hooks, rpc(n)).unwrap()).collect();
    let slow: Vec<_> = (0..11).map(|_| ask(&hooks, subscribe()).unwrap()).collect();
    let line: Vec<_> = (0..100).map(|n| ask(&hooks, rpc(n)).unwrap()).collect();
    assert_eq!(hook.metrics.waiting.get(), 100);
    for (_waiting, answered) in slow {
        assert_eq!(
            answered.await.unwrap(),
            Ok(Answer::Subscribe(Box::default())),
            "slow, and an answer all the same"
        );
    }
    // As the slow ones gave their slots back, some of the line got them: those hang.
    while hook.metrics.counted("rpc", "breaker_open") < 80 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut told = 0;
    for (_waiting, mut answered) in line {
        if let Ok(answer) = answered.try_recv() {
            assert_eq!(answer, REFUSED);
            told += 1;
        }
    }
    assert!(told > 0, "who was refused was told");
    while hook.metrics.waiting.get() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    well.store(1, Ordering::SeqCst);
    while answer_to(&hooks, subscribe()).await == REFUSED {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(hook.metrics.open.get(), 0);
    assert!(hook.metrics.in_flight.get() >= 9, "they hang until they are cancelled");
    drop(hanging);
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_refused_and_asked_less() {
    let (listener, address) = listener().await;
    serve(listener, |_, _| async {
        tokio::time::sleep(Duration::from_secs(3600)).await;
        json_response(&json!({"result": {}}))
    })
    .await;
    let hooks = hooks(address, |options| {
        options.timeout = Duration::from_millis(100);
        options.in_flight_max = 8;
        options.breaker_percent = 0;
    });
    let asked: Vec<_> = (0..8).map(|_| ask(&hooks, subscribe()).unwrap()).collect();
    for (_waiting, answered) in asked {
        assert_eq!(answered.await.unwrap(), REFUSED);
    }
    let hook = hook(&hooks);
    assert_eq!(hook.metrics.counted("subscribe", "timeout"), 8);
    assert!(hook.metrics.limit.get() <= 4, "limit {}", hook.metrics.limit.get());
}

/// Bad answers that come in time are the hook call's trouble and not the backend's: one client that makes the backend say
/// 400 does not close it to the others.
#[tokio::test]
async fn wrong_answers_do_not_close_the_backend() {
    let (listener, address) = listener().await;
    serve(listener, |_, body| async move {
        if body["method"] == "m" {
            return http::StatusCode::BAD_REQUEST.into_response();
        }
        json_response(&json!({"result": {}}))
    })
    .await;
    let hooks = hooks(address, |_| {});
    for number in 0..50 {
        assert_eq!(answer_to(&hooks, rpc(number)).await, REFUSED);
    }
    assert_eq!(answer_to(&hooks, subscribe()).await, Ok(Answer::Subscribe(Box::default())));
    assert_eq!(hook(&hooks).metrics.counted("rpc", "status"), 50);
}

/// A storm of connects on a backend that answers so many a second: it never has more than the limit at a time, everybody
/// gets an answer, in turn, and waiting counts against nobody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_is_paced_to_what_the_backend_answers() {
    const STORM: usize = 5000;
    let (listener, address) = listener().await;
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counts, highest) = (Arc::clone(&now), Arc::clone(&most));
    let one_at_a_time = Arc::new(tokio::sync::Mutex::new(()));
    serve(listener, move |_, body| {
        highest.fetch_max(counts.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let (one_at_a_time, counts) = (Arc::clone(&one_at_a_time), Arc::clone(&counts));
        async move {
            let turn = one_at_a_time.lock().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
            drop(turn);
            counts.fetch_sub(1, Ordering::SeqCst);
            json_response(&json!({"result": {"user": body["name"]}}))
        }
    })
    .await;
    let hooks = hooks(address, |options| {
        options.in_flight_max = 32;
        options.wait_timeout = Duration::from_secs(300);
    });
    let storm: Vec<_> = (0..STORM)
        .map(|number| {
            let name = number.to_string().into();
            let hook_request =
                HookRequest::Connect { data: None, name, version: "".into(), channels: vec![] };
            ask(&hooks, hook_call(hook_request)).expect("nobody is refused")
        })
        .collect();
    for (number, (_waiting, answered)) in storm.into_iter().enumerate() {
        let Ok(Answer::Connect(connected)) = answered.await.unwrap() else { panic!("{number} was refused") };
        assert_eq!(connected.user, number.to_string(), "each gets its own answer");
    }
    let hook = hook(&hooks);
    assert!(most.load(Ordering::SeqCst) <= 32, "{most:?} at a time");
    assert_eq!(hook.metrics.counted("connect", "result"), STORM as u64);
    assert_eq!((hook.metrics.open.get(), hook.metrics.opened.get(), hook.metrics.retries.get()), (0, 0, 0));
    assert_eq!(hook.metrics.waiting.get(), 0);
}

#[tokio::test]
async fn those_who_wait_are_asked_in_their_order() {
    let (listener, address) = listener().await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&order);
    serve(listener, move |_, body| {
        seen.lock().push(body["data"].as_u64().unwrap());
        async { json_response(&json!({"result": {}})) }
    })
    .await;
    let hooks = hooks(address, |options| options.in_flight_max = 1);
    let asked: Vec<_> = (0..50).map(|number| ask(&hooks, rpc(number)).unwrap()).collect();
    for (_waiting, answered) in asked {
        assert_eq!(answered.await.unwrap(), Ok(Answer::Rpc { data: None }));
    }
    assert_eq!(*order.lock(), (0..50).collect::<Vec<u64>>());
}

/// A backend that holds its hook calls until the test lets it go on.
async fn held_backend() -> (SocketAddr, Arc<tokio::sync::Semaphore>, mpsc::Receiver<u64>) {
    let (listener, address) = listener().await;
    let go = Arc::new(tokio::sync::Semaphore::new(0));
    let (asked, told) = mpsc::channel(64);
    let held = Arc::clone(&go);
    serve(listener, move |_, body| {
        let (held, asked) = (Arc::clone(&held), asked.clone());
        async move {
            asked.send(body["data"].as_u64().unwrap_or_default()).await.unwrap();
            held.acquire().await.unwrap().forget();
            json_response(&json!({"result": {}}))
        }
    })
    .await;
    (address, go, told)
}

#[tokio::test]
async fn a_full_line_refuses_at_once_or_lets_in() {
    for policy in [WhenUnavailable::Refuse, WhenUnavailable::LetIn] {
        let (address, go, mut told) = held_backend().await;
        let hooks = hooks(address, |options| {
            options.in_flight_max = 1;
            options.wait_max = 1;
            options.when_unavailable = policy;
        });
        let first = ask(&hooks, rpc(1)).unwrap();
        assert_eq!(told.recv().await, Some(1));
        let second = ask(&hooks, rpc(2)).unwrap();
        match (policy, ask(&hooks, rpc(3))) {
            (WhenUnavailable::Refuse, Err(Busy)) => {}
            (WhenUnavailable::LetIn, Ok((_waiting, answered))) => {
                assert_eq!(answered.await.unwrap(), Err(Denied::Unavailable { let_in: true }));
            }
            (policy, _) => panic!("{policy:?}"),
        }
        assert_eq!(hook(&hooks).metrics.counted("rpc", "wait_full"), 1);
        go.add_permits(2);
        for (_waiting, answered) in [first, second] {
            assert_eq!(answered.await.unwrap(), Ok(Answer::Rpc { data: None }));
        }
        assert_eq!(told.recv().await, Some(2));
    }
}

#[tokio::test]
async fn the_bytes_of_those_who_wait_are_bounded() {
    let (address, go, mut told) = held_backend().await;
    let hooks = hooks(address, |options| options.in_flight_max = 1);
    let _first = ask(&hooks, rpc(1)).unwrap();
    assert_eq!(told.recv().await, Some(1));
    let text = Bytes::from(format!("\"{}\"", "x".repeat(1 << 20)));
    let long = || hook_call(HookRequest::Rpc { method: "m".into(), data: Some(text.clone()) });
    let waiting: Vec<_> = std::iter::from_fn(|| ask(&hooks, long()).ok()).collect();
    assert_eq!(waiting.len(), WAITING_BYTES_MAX / (text.len() + PLACE_BYTES));
    assert!(ask(&hooks, long()).is_err(), "what is refused keeps no place");
    drop(waiting);
    while hook(&hooks).metrics.waiting.get() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(ask(&hooks, long()).is_ok(), "what left gave its bytes back");
    go.add_permits(10);
}

#[tokio::test]
async fn a_turn_that_does_not_come_in_time_is_told() {
    let (address, _go, mut told) = held_backend().await;
    let hooks = hooks(address, |options| {
        options.in_flight_max = 1;
        options.wait_timeout = Duration::from_millis(20);
    });
    let _first = ask(&hooks, rpc(1)).unwrap();
    assert_eq!(told.recv().await, Some(1));
    assert_eq!(answer_to(&hooks, rpc(2)).await, REFUSED);
    assert_eq!(hook(&hooks).metrics.counted("rpc", "wait_timeout"), 1);
    assert_eq!(hook(&hooks).metrics.opened.get(), 0);
}

#[tokio::test]
async fn a_cancelled_hook_call_is_not_asked_and_gives_back_all_it_had() {
    let (address, go, mut told) = held_backend().await;
    let hooks = hooks(address, |options| options.in_flight_max = 1);
    let hook = hook(&hooks);
    let (first, first_answered) = ask(&hooks, rpc(1)).unwrap();
    assert_eq!(told.recv().await, Some(1));
    let (second, second_answered) = ask(&hooks, rpc(2)).unwrap();
    let third = ask(&hooks, rpc(3)).unwrap();
    drop(second);
    assert!(second_answered.await.is_err(), "no answer after the end");
    drop(first);
    assert!(first_answered.await.is_err());
    assert_eq!(told.recv().await, Some(3), "the slot of the first, past the second");
    go.add_permits(10);
    assert_eq!(third.1.await.unwrap(), Ok(Answer::Rpc { data: None }));
    assert_eq!(hook.metrics.counted("rpc", "cancelled"), 2);
    assert_eq!((hook.metrics.waiting.get(), hook.metrics.in_flight.get()), (0, 0));
}

/// The shard's inbox is full for a while: the answer waits for room.
#[tokio::test]
async fn an_answer_is_offered_until_it_is_taken() {
    let (address, _asked) = raw_server(vec![http_answer("200 OK", "{\"result\":{}}")]).await;
    let hooks = hooks(address, |_| {});
    let (sender, answered) = oneshot::channel();
    let (mut sender, mut error_codes) = (Some(sender), 3);
    let reply = BackendReply::new(move |answer| {
        if error_codes > 0 {
            error_codes -= 1;
        } else if let (Some(sender), Some(answer)) = (sender.take(), answer.take()) {
            let _ = sender.send(answer);
        }
    });
    let _waiting = hooks.ask(&Handle::current(), rpc(1), None, reply).unwrap();
    assert_eq!(answered.await.unwrap(), Ok(Answer::Rpc { data: None }));
}

#[tokio::test]
async fn what_hooks_count_is_scraped() {
    let (address, _asked) = raw_server(vec![http_answer("200 OK", "{\"result\":{}}")]).await;
    let hooks = hooks(address, |_| {});
    assert!(answer_to(&hooks, rpc(1)).await.is_ok());
    let text = crate::control::metrics::Metrics::new(&hooks).scrape(Vec::new()).unwrap();
    for line in [
        "trunkline_hook_questions_total{hook=\"b\",kind=\"rpc\",outcome=\"result\"} 1",
        "trunkline_hook_in_flight_limit{hook=\"b\"} 64",
        "trunkline_hook_breaker_open{hook=\"b\"} 0",
        "trunkline_hook_answer_seconds_count{hook=\"b\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
    }
}
