//! Payloads that are no JSON: by which namespaces they are taken, and how they are given back.

use super::*;
use crate::base::publication::PayloadForm;
use crate::hub::ChannelOptions;
use crate::hub::requests::PublishRequest;

/// Channels of `files:` hold any bytes.
pub(super) fn form(channel: &str) -> PayloadForm {
    if channel.starts_with("files:") { PayloadForm::Bytes } else { PayloadForm::Json }
}

pub(super) fn admitted(ask: &PublishRequest) -> Result<Bytes, ErrorCode> {
    let options = ChannelOptions { payload: form(&ask.channel), ..ChannelOptions::default() };
    let mut payload = ask.data.clone();
    options.admit(&mut payload, ask.contents).map(|()| payload)
}

#[tokio::test]
async fn bytes_are_base64_where_the_namespace_has_them_and_a_bad_request_elsewhere() {
    let shards = Shards::start(2, 64);
    let app = routes(&shards, &options(), ServedPort::Shared);
    let bad = json!({"error": {"code": 107, "message": "bad request"}});
    let bytes = json!({"channel": "files:a", "b64data": "/woA"});
    assert_eq!(call(&app, "publish", bytes.clone()).await["result"]["offset"], 1);
    let everywhere = json!({"channels": ["files:a", "chat:1"], "b64data": "/woA"});
    let broadcast = call(&app, "broadcast", everywhere).await;
    assert_eq!(broadcast["result"]["responses"][0]["result"]["offset"], 2);
    assert_eq!(broadcast["result"]["responses"][1], bad);
    let commands =
        json!({"commands": [{"publish": bytes}, {"publish": {"channel": "chat:1", "b64data": "AA=="}}]});
    let batch = call(&app, "batch", commands).await;
    assert_eq!(batch["replies"][0]["publish"]["offset"], 3, "{batch}");
    assert_eq!(batch["replies"][1]["error"]["code"], 107, "{batch}");
    // JSON is bytes as any other, and none of them is changed.
    for body in
        [json!({"channel": "files:a", "b64data": "ewp9"}), json!({"channel": "files:a", "data": {"n": 1}})]
    {
        call(&app, "publish", body).await;
    }
    let read = call(&app, "history", json!({"channel": "files:a", "limit": -1})).await;
    let read = read["result"]["publications"].as_array().unwrap().clone();
    let found: Vec<_> = read.iter().map(|each| each["b64data"].as_str().unwrap()).collect();
    assert_eq!(found, ["/woA", "/woA", "/woA", "ewp9", "eyJuIjoxfQ=="]);
    assert!(read.iter().all(|each| each.get("data").is_none()), "{read:?}");
    // What goes to users goes to clients of every kind.
    assert_eq!(call(&app, "push", json!({"user": "u", "b64data": "/woA"})).await["error"]["code"], 107);
}
