//! Which port serves what, and that the requests of client ports are bounded.

use std::collections::BTreeMap;

use super::*;
use crate::base::address::{ListenAddress, Serves};
use crate::control::{ApiSocket, Control, start};
use crate::shard::control_request::HttpReply;

#[tokio::test]
async fn ports_serve_what_is_theirs() {
    let shards = Shards::start(1, 64);
    let get = |path: &str| Request::get(path).header("host", "localhost:8000").body(Body::empty()).unwrap();
    let served = |port| {
        let app = routes(&shards, &options(), port);
        async move {
            let mut found = BTreeMap::new();
            for path in ["/", "/health", "/metrics", "/echo", "/api/info", "/console", "/nothing"] {
                found.insert(path, status(&app, get(path)).await.as_u16());
            }
            found.into_values().collect::<Vec<_>>()
        }
    };
    // In the order of the paths: /, /api/info, /console, /echo, /health, /metrics, /nothing.
    assert_eq!(served(ServedPort::Shared).await, [200, 405, 200, 200, 200, 200, 404]);
    assert_eq!(served(ServedPort::ClientsOnly).await, [200, 404, 404, 200, 200, 404, 404]);
    assert_eq!(served(ServedPort::Api).await, [404, 405, 200, 404, 200, 200, 404]);

    let production = ControlOptions { echo: false, page_key: None, metrics_need_key: true, ..options() };
    let app = routes(&shards, &production, ServedPort::Shared);
    for (path, expected) in
        [("/", 404), ("/echo", 404), ("/console", 404), ("/metrics", 401), ("/metrics?api_key=key", 200)]
    {
        assert_eq!(status(&app, get(path)).await, expected, "{path}");
    }
    let (_, headers, body) = send(&app, get("/metrics?api_key=key")).await;
    assert!(headers[header::CONTENT_TYPE].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let text = String::from_utf8_lossy(&body);
    assert!(text.contains("trunkline_clients_active 1\n") && !text.contains("# EOF"), "{text}");
    for (accept, openmetrics) in [
        ("application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3", true),
        ("text/html, APPLICATION/OpenMetrics-Text", true),
        ("application/openmetrics-text;q=0, text/plain", false),
        ("*/*", false),
    ] {
        let request =
            Request::get("/metrics?api_key=key").header("accept", accept).body(Body::empty()).unwrap();
        let (_, headers, body) = send(&app, request).await;
        let kind = headers[header::CONTENT_TYPE].to_str().unwrap();
        assert_eq!(kind.starts_with("application/openmetrics-text"), openmetrics, "{accept}: {kind}");
        assert_eq!(String::from_utf8_lossy(&body).ends_with("# EOF\n"), openmetrics, "{accept}");
    }
}

#[tokio::test]
async fn the_page_shows_its_key_to_loopback_names_only() {
    let shards = Shards::start(1, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    for (host, shown) in [("localhost:8000", true), ("127.0.0.1:8000", true), ("evil.example:8000", false)] {
        let request = Request::get("/").header("host", host).body(Body::empty()).unwrap();
        let (code, headers, body) = send(&app, request).await;
        assert_eq!(code, 200);
        assert!(headers.contains_key(header::CONTENT_SECURITY_POLICY));
        assert_eq!(String::from_utf8_lossy(&body).contains("page-key"), shown, "{host}");
    }
}

#[tokio::test]
async fn the_console_is_the_same_for_all_and_takes_no_key_in_its_url() {
    let shards = Shards::start(1, 64);
    let app = routes(&shards, &options(), ServedPort::Api);
    let get = |path: &str| Request::get(path).body(Body::empty()).unwrap();
    let (code, headers, body) = send(&app, get("/console")).await;
    let page = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(code, 200);
    for (name, part) in [
        ("content-type", "text/html"),
        ("content-security-policy", "script-src 'self'"),
        ("content-security-policy", "frame-ancestors 'none'"),
        ("x-frame-options", "DENY"),
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert!(headers[name].to_str().unwrap().contains(part), "{name}: {:?}", headers[name]);
    }
    assert!(!headers["content-security-policy"].to_str().unwrap().contains("unsafe"));
    // Neither a name of the node nor a figure: with a key it is no other page.
    assert!(!page.contains("n1") && !page.contains(env!("CARGO_PKG_VERSION")), "{page}");
    let shown = Request::get("/console").header("x-api-key", "key").body(Body::empty()).unwrap();
    assert_eq!(send(&app, shown).await.2, body);
    for path in ["/console?api_key=key", "/console?key", "/console/app.js?api_key=wrong"] {
        let (code, headers, body) = send(&app, get(path)).await;
        assert_eq!(
            (code.as_u16(), &headers[header::CACHE_CONTROL]),
            (400, &"no-store".parse().unwrap()),
            "{path}"
        );
        let said: Value = serde_json::from_slice(&body).unwrap();
        assert!(said["detail"].as_str().unwrap().contains("type the key there"), "{said}");
    }
    let (code, headers, _) = send(&app, get("/console/")).await;
    assert_eq!((code.as_u16(), &headers[header::LOCATION]), (308, &"../console".parse().unwrap()));
    assert_eq!(status(&app, Request::post("/console").body(Body::empty()).unwrap()).await, 405);

    let off = routes(&shards, &ControlOptions { console: false, ..options() }, ServedPort::Api);
    for path in ["/console", "/console/", "/console/app.js"] {
        assert_eq!(status(&off, get(path)).await, 404, "{path}");
    }
}

#[tokio::test]
async fn echo_gives_the_body_back_and_never_as_a_page() {
    let shards = Shards::start(1, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let request = Request::post("/echo").header("content-type", "text/html").body(Body::from("<b>")).unwrap();
    let (status, headers, body) = send(&app, request).await;
    assert_eq!((status, &body[..]), (StatusCode::OK, &b"<b>"[..]));
    assert_eq!(headers[header::CONTENT_TYPE], "application/octet-stream");
}

/// Sends one request as a shard does and waits for its response.
fn through(control: &Control, request: Request<Bytes>) -> ::http::Response<Bytes> {
    let (sender, receiver) = mpsc::channel();
    control
        .plane()
        .handle(request, HttpReply::new(move |response| sender.send(response.take().unwrap()).unwrap()))
        .expect("not busy");
    receiver.recv_timeout(PATIENCE).expect("an answer")
}

#[test]
fn client_ports_are_served_by_the_same_app_with_a_bound() {
    let shards = Shards::start(1, 64);
    // Long enough for the shard that answers, and soon over for the one that does not.
    let options = ControlOptions { ask_timeout: Duration::from_secs(2), ..options() };
    let control = start(options, shards.router.clone(), Vec::new()).unwrap();
    let publish = || {
        let body = Bytes::from_static(br#"{"channel":"c","data":1}"#);
        Request::post("/api/publish").header("x-api-key", "key").body(body).unwrap()
    };
    let published = through(&control, publish());
    assert_eq!(published.body(), &br#"{"result":{"offset":1,"epoch":"00000abc"}}"#[..]);
    assert_eq!(published.headers()[header::CONTENT_LENGTH], published.body().len().to_string());
    let head = through(&control, Request::head("/health").body(Bytes::new()).unwrap());
    assert_eq!((head.status(), head.body().len()), (StatusCode::OK, 0));
    let missing = through(&control, Request::head("/nothing").body(Bytes::new()).unwrap());
    assert_eq!((missing.status(), missing.body().len()), (StatusCode::NOT_FOUND, 0));

    // Four may be under way; a fifth is refused at once and its reply is not kept.
    let lost = || {
        let body = Bytes::from_static(br#"{"channel":"lost:c","data":1}"#);
        Request::post("/api/publish").header("x-api-key", "key").body(body).unwrap()
    };
    let (sender, receiver) = mpsc::channel();
    let plane = control.plane();
    for _ in 0..4 {
        let sender = sender.clone();
        let reply = HttpReply::new(move |response| sender.send(response.take().unwrap().status()).unwrap());
        plane.handle(lost(), reply).unwrap();
    }
    assert_eq!(
        plane.handle(lost(), HttpReply::new(|response| *response = None)),
        Err(crate::shard::control_request::Busy)
    );
    for _ in 0..4 {
        assert_eq!(receiver.recv_timeout(PATIENCE), Ok(StatusCode::OK));
    }
    assert_eq!(through(&control, publish()).status(), StatusCode::OK);
    control.quiet(Duration::from_secs(1));
    control.stop(Duration::ZERO);
    assert_eq!(
        plane.handle(lost(), HttpReply::new(|response| *response = None)),
        Err(crate::shard::control_request::Busy),
        "stopped"
    );
}

/// A publication that the shard passes on itself is answered as by the control plane's threads.
#[test]
fn a_publication_has_the_same_answer_from_either_thread() {
    let shards = Shards::start(2, 64);
    let control = start(options(), shards.router.clone(), Vec::new()).unwrap();
    let app = routes(&shards, &options(), ServedPort::Shared);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let long = format!(r#"{{"channel":"unknown:c","data":"{}"}}"#, "x".repeat(20_000));
    for (path, key, mode, body) in [
        ("/api/publish", "key", "", r#"{"channel":"unknown:c","data":1}"#),
        ("/api/publish", "key", "transport", r#"{"channel":"unknown:c","data":1}"#),
        ("/api/publish?api_key=key", "", "transport", r#"{"channel":"unknown:c","data":1}"#),
        ("/api/publish", "key", "transport", &long),
        ("/api/publish", "wrong", "", r#"{"channel":"c","data":1}"#),
        ("/api/publish", "key", "", r#"{"channel":"","data":1}"#),
        ("/api/publish", "key", "", r#"{"channel":"c"}"#),
        ("/api/publish", "key", "", r#"{"channel":"c","data":1,"b64data":"!"}"#),
        ("/api/publish", "key", "", r#"{"channel":7,"data":1}"#),
        ("/api/publish", "key", "", "[]"),
        ("/api/publish", "key", "", "{"),
        ("/api/publish", "key", "", ""),
        ("/api/publish/", "key", "", r#"{"channel":"c","data":1}"#),
    ] {
        let request = || {
            Request::post(path)
                .header("x-api-key", key)
                .header("x-centrifugo-error-mode", mode)
                .body(Bytes::copy_from_slice(body.as_bytes()))
                .unwrap()
        };
        let (here, there) =
            (through(&control, request()), runtime.block_on(answer(app.clone(), request().map(Body::from))));
        assert_eq!(here.status(), there.status(), "{path} {key} {mode} {body}");
        assert_eq!(here.headers(), there.headers(), "{path} {key} {mode} {body}");
        assert_eq!(here.body(), there.body(), "{path} {key} {mode} {body}");
    }
    // Only on ports that serve the API.
    let publish = |serves: Serves| {
        let body = Bytes::from_static(br#"{"channel":"c","data":1}"#);
        let request = Request::post("/api/publish").header("x-api-key", "key").extension(serves);
        through(&control, request.body(body).unwrap()).status()
    };
    assert_eq!(publish(Serves::Clients), StatusCode::NOT_FOUND);
    assert_eq!(publish(Serves::Api), StatusCode::OK);
    let metrics = Request::get("/metrics").body(Bytes::new()).unwrap();
    let text = String::from_utf8_lossy(through(&control, metrics).body()).into_owned();
    assert!(text.contains(r#"trunkline_api_requests_total{method="publish",code="0"} 1"#), "{text}");
    control.stop(Duration::ZERO);
}

#[test]
fn a_publication_to_a_shard_without_room_is_refused_at_once() {
    let shards = Shards::stopped(1, 2);
    let control = start(options(), shards.router.clone(), Vec::new()).unwrap();
    let plane = control.plane();
    let (sender, answers) = mpsc::channel();
    for _ in 0..3 {
        let sender = sender.clone();
        let body = Bytes::from_static(br#"{"channel":"c","data":1}"#);
        let request = Request::post("/api/publish").header("x-api-key", "key").body(body).unwrap();
        let reply = HttpReply::new(move |response| sender.send(response.take().unwrap()).unwrap());
        plane.handle(request, reply).unwrap();
    }
    let refused = answers.recv_timeout(PATIENCE).unwrap();
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()[header::RETRY_AFTER], "1");
    // Dropped by a shard that ends, the other two are answered as well.
    shards.inboxes[0].close();
    for _ in 0..2 {
        let unknown = answers.recv_timeout(PATIENCE).unwrap();
        assert_eq!(unknown.body(), &br#"{"error":{"code":100,"message":"internal server error"}}"#[..]);
    }
    control.stop(Duration::ZERO);
}

#[test]
fn the_api_has_a_listener_of_its_own() {
    let shards = Shards::start(1, 64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("api.sock");
    let unix = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    unix.set_nonblocking(true).unwrap();
    tcp.set_nonblocking(true).unwrap();
    let guard = Arc::new(());
    let address = ListenAddress::Unix(path.as_path().into());
    let sockets = vec![ApiSocket::tcp(tcp).unwrap(), ApiSocket::unix(unix, address.clone(), guard.clone())];
    let control = start(options(), shards.router.clone(), sockets).unwrap();
    let [tcp, second] = control.api_addrs() else { panic!("{:?}", control.api_addrs()) };
    assert_eq!(*second, address);
    let base = format!("http://{tcp}");
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent
        .post(format!("{base}/api/publish"))
        .header("X-API-Key", "key")
        .send(r#"{"channel":"c","data":1}"#)
        .unwrap();
    assert_eq!(answer.body_mut().read_to_string().unwrap(), r#"{"result":{"offset":1,"epoch":"00000abc"}}"#);
    assert_eq!(agent.get(format!("{base}/nothing")).call().unwrap().status(), 404);
    let mut caller = std::os::unix::net::UnixStream::connect(&path).unwrap();
    std::io::Write::write_all(&mut caller, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut caller, &mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 200"), "{said}");
    // A listener of the shards serves what it says.
    let status = |serves: Serves, path: &str| {
        let request =
            Request::post(path).header("X-API-Key", "key").extension(serves).body(Bytes::new()).unwrap();
        through(&control, request).status()
    };
    assert_eq!(status(Serves::Clients, "/api/info"), StatusCode::NOT_FOUND);
    assert_eq!(status(Serves::Both, "/api/info"), StatusCode::OK);
    assert_eq!(status(Serves::Api, "/api/info"), StatusCode::OK);
    assert_eq!(status(Serves::Api, "/echo"), StatusCode::NOT_FOUND);
    assert_eq!(status(Serves::Clients, "/echo"), StatusCode::OK);

    control.quiet(Duration::from_secs(1));
    control.stop(Duration::ZERO);
    assert_eq!(Arc::strong_count(&guard), 1, "what belongs to the listener went with it");
    assert!(agent.get(format!("{base}/health")).call().is_err());
}
