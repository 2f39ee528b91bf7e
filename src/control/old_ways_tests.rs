//! The old way of calling, calls that nobody serves, and the document of the API.

use super::*;

/// As server libraries of former days call it: a command a line, a reply a line.
#[tokio::test]
async fn the_old_way_of_calling_answers_line_by_line() {
    let shards = Shards::start(2, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let publish = r#"{"method":"publish","params":{"channel":"p","data":{"a":1}}}"#;
    let lines = [
        (publish, json!({"result": {"offset": 1, "epoch": "00000abc"}})),
        (publish, json!({"result": {"offset": 2, "epoch": "00000abc"}})),
        (r#"{"method":"nonsense"}"#, json!({"error": {"code": 104, "message": "not found"}})),
        (r#"{"method":"batch","params":{}}"#, json!({"error": {"code": 104, "message": "not found"}})),
        (
            r#"{"method":"publish","params":{"channel":"unknown:x","data":1}}"#,
            json!({"error": {"code": 102, "message": "unknown channel"}}),
        ),
    ];
    for path in ["/api", "/api/"] {
        let (status, _, bytes) =
            send(&app, post_to(path, r#"{"method":"presence_stats","params":{"channel":"p"}}"#)).await;
        let reply: Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((status, reply), (StatusCode::OK, json!({"result": {"num_clients": 2, "num_users": 1}})));
    }
    let body: Vec<&str> = lines.iter().map(|(line, _)| *line).collect();
    let (status, headers, bytes) = send(&app, post_to("/api", body.join("\n"))).await;
    assert_eq!(
        (status, &headers["content-type"]),
        (StatusCode::OK, &HeaderValue::from_static("application/json"))
    );
    let text = std::str::from_utf8(&bytes).unwrap();
    let replies: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected: Vec<Value> = lines.iter().map(|(_, reply)| reply.clone()).collect();
    assert_eq!(replies, expected);
    for wrong in ["", "[]", "{\"method\":\"publish\",\"params\":[]}", "{\"method\":1}", "{} x"] {
        assert_eq!(self::status(&app, post_to("/api", wrong)).await, 400, "{wrong}");
    }
    let bare = Request::post("/api").body(Body::from(publish)).unwrap();
    assert_eq!(self::status(&app, bare).await, 401);
    let clients = routes(&shards, &options(), ServedPort::ClientsOnly);
    assert_eq!(self::status(&clients, post_to("/api", publish)).await, 404);
}

#[tokio::test]
async fn a_call_of_the_api_itself_has_no_method_to_serve() {
    let shards = Shards::start(1, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let answer = call(&app, "rpc", json!({"method": "year", "params": {"a": 1}})).await;
    assert_eq!(answer, json!({"error": {"code": 104, "message": "not found"}}));
    assert_eq!(call(&app, "rpc", json!({"params": null})).await["error"]["code"], 107);
}

/// Each path of the document is a route, for each of its methods, and each route that takes a method's name is in it.
#[tokio::test]
async fn the_document_describes_the_routes() {
    let shards = Shards::start(1, 64);
    let app = routes(&shards, &options(), ServedPort::Api);
    let request = |method: &str, path: &str| {
        Request::builder().method(method).uri(path).header("x-api-key", "key").body(Body::from("{}")).unwrap()
    };
    let document = Request::get("/api/openapi.json").body(Body::empty()).unwrap();
    let (status, _, bytes) = send(&app, document).await;
    assert_eq!(status, StatusCode::OK, "without a key");
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    let (nowhere, other) = ("nothing is served at this path", "this path is served for other methods");
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "x").replace("{name}", "x");
        for method in operations.as_object().unwrap().keys().filter(|key| *key != "parameters") {
            let (_, _, bytes) = send(&app, request(&method.to_uppercase(), &path)).await;
            let text = String::from_utf8_lossy(&bytes);
            assert!(!text.contains(nowhere) && !text.contains(other), "{method} {path}: {text}");
        }
    }
    let (_, _, bytes) = send(&app, request("POST", "/api/no_such_method")).await;
    assert!(String::from_utf8_lossy(&bytes).contains("no such method"));
}
