//! A frame of commands in JSON: what is taken is JSON to serde_json too, and says the same there.
#![no_main]

use std::collections::HashMap;

use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;
use trunkline::proto::centrifuge::{Command, Data, Format, Method, decode_frame};

fuzz_target!(|data: &[u8]| {
    let mut commands = decode_frame(Format::Json, data);
    let mut rest = commands.remaining();
    while let Some(command) = commands.next() {
        let Ok(command) = command else { return };
        let text = &rest[..rest.len() - commands.remaining().len()];
        check(text, &command);
        rest = commands.remaining();
        // What is left is a frame of its own.
        if let Some(next) = decode_frame(Format::Json, rest).next()
            && !rest.trim_ascii().is_empty()
        {
            assert_eq!(Some(next), commands.clone().next());
        }
    }
});

type Object<'a> = HashMap<String, &'a RawValue>;

fn check(text: &[u8], command: &Command<'_>) {
    let text = std::str::from_utf8(text).expect("checked before");
    if let Err(error) = serde_json::from_str::<&RawValue>(text) {
        assert!(is_depth(&error), "serde_json refuses: {error}");
        return;
    }
    // Keys of half a surrogate pair, and numbers out of range, are refused there and of no use here.
    let Ok(object) = serde_json::from_str::<Object<'_>>(text) else { return };
    if let Some(id) = object.get("id").and_then(|id| serde_json::from_str::<Option<u32>>(id.get()).ok()) {
        assert_eq!(id.unwrap_or(0), command.id);
    }
    match &command.method {
        Method::Publish(publish) => same(&object, "publish", Some(&publish.channel), publish.data),
        Method::Subscribe(subscribe) => same(&object, "subscribe", Some(&subscribe.channel), subscribe.data),
        Method::Connect(connect) => same(&object, "connect", None, connect.data),
        Method::Rpc { data, .. } => same(&object, "rpc", None, *data),
        Method::Send { data } => same(&object, "send", None, *data),
        Method::Presence { channel } => same(&object, "presence", Some(channel), None),
        Method::Unsubscribe { channel } => same(&object, "unsubscribe", Some(channel), None),
        _ => {}
    }
}

fn same(object: &Object<'_>, method: &str, channel: Option<&str>, data: Option<Data<'_>>) {
    let Some(Ok(inner)) = object.get(method).map(|raw| serde_json::from_str::<Object<'_>>(raw.get())) else {
        return;
    };
    if let Some(data) = data {
        assert_eq!(inner.get("data").map(|raw| raw.get()), data.as_json());
    }
    let theirs = inner.get("channel").map(|raw| serde_json::from_str::<Option<String>>(raw.get()));
    if let (Some(ours), Some(Ok(theirs))) = (channel, theirs) {
        assert_eq!(ours, theirs.unwrap_or_default());
    }
}

/// serde_json stops at a depth of 128; we stop later.
fn is_depth(error: &serde_json::Error) -> bool {
    error.to_string().starts_with("recursion limit exceeded")
}
