//! How far a user has come, with what begins its subscriptions.
//!
//! Where the namespace says so, a reply that begins subscriptions has where the user stands, as `cursors` in its `data`:
//! ```json
//! {"cursors": {"offset": 9, "epoch": "x", "read": 7, "unread": 2, "devices": {"phone": {"received": 9, "read": 7}}}}
//! ```
//! In the reply to a connect it is an object of these by channel. What the backend says stays as it is: cursors are added to an
//! object that has no `cursors`, or are all that there is.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write as _;

use serde::de::IgnoredAny;

use crate::base::bytes::Bytes;
use crate::base::ids::{ChannelName, Position};
use crate::base::json;
use crate::hub::cursors::{MemberCursor, UserCursors};

/// Channels whose cursors come with the reply to one connect: about 150 bytes each. How many were left out is said.
const CONNECT_CURSORS_MAX: usize = 1_000;

/// How far a user has come in a channel whose log ends at `top`, as JSON.
pub(super) fn standing(top: Position, cursors: &UserCursors) -> Bytes {
    let UserCursors { unread, read, devices } = cursors;
    let Position { offset, epoch } = top;
    let mut json =
        format!(r#"{{"offset":{},"epoch":"{epoch}","read":{},"unread":{unread}"#, offset.0, read.0);
    json.push_str(r#","devices":{"#);
    for (place, (device, MemberCursor { received, read })) in devices.iter().enumerate() {
        json.push_str(if place > 0 { "," } else { "" });
        let _ = write!(json, r#"{}:{{"received":{},"read":{}}}"#, quoted(device), received.0, read.0);
    }
    json.push_str("}}");
    json.into_bytes().into()
}

/// `data` of the reply to a connect with the cursors of the channels that it brings. `None`: it stays as it is.
///
/// `known`: the channels that have cursors, and these.
pub(super) fn cursors_of_all<'a>(
    data: Option<&[u8]>,
    mut known: impl Iterator<Item = (&'a ChannelName, &'a Bytes)>,
) -> Option<Bytes> {
    let mut json = String::from("{");
    for (name, cursors) in known.by_ref().take(CONNECT_CURSORS_MAX) {
        json.push_str(if json.len() > 1 { "," } else { "" });
        let _ = write!(json, "{}:{}", quoted(name), String::from_utf8_lossy(cursors));
    }
    if json.len() == 1 {
        return None;
    }
    json.push('}');
    with_cursors(data, json.as_bytes(), known.count())
}

/// Adds cursors to what the backend says. `None`: it says something that they cannot be added to.
pub(super) fn with_cursors(data: Option<&[u8]>, cursors: &[u8], left_out: usize) -> Option<Bytes> {
    let said = data.unwrap_or(b"{}").trim_ascii();
    let said = if said == b"null" { b"{}" } else { said };
    let members: HashMap<Cow<'_, str>, IgnoredAny> = json::object(said).ok()?;
    if members.contains_key("cursors") {
        return None;
    }
    let mut json = said.strip_suffix(b"}")?.to_vec();
    json.extend_from_slice(if members.is_empty() { b"\"cursors\":" } else { b",\"cursors\":" });
    json.extend_from_slice(cursors);
    if left_out > 0 {
        json.extend_from_slice(format!(",\"cursors_left_out\":{left_out}").as_bytes());
    }
    json.push(b'}');
    Some(json.into())
}

fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("a text is JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::{Offset, UserName};

    fn merged(data: Option<&str>) -> Option<String> {
        let data = with_cursors(data.map(str::as_bytes), b"{\"c\":1}", 0)?;
        Some(String::from_utf8(data.to_vec()).unwrap())
    }

    #[test]
    fn what_the_backend_says_stays_as_it_is() {
        for nothing in [None, Some("null"), Some("{}"), Some(" { }\t")] {
            let merged: serde_json::Value = serde_json::from_str(&merged(nothing).unwrap()).unwrap();
            assert_eq!(merged, serde_json::json!({"cursors": {"c": 1}}));
        }
        assert_eq!(merged(Some(r#" {"a":[{}]} "#)).as_deref(), Some(r#"{"a":[{}],"cursors":{"c":1}}"#));
        for kept in [r#"{"cursors":null}"#, r#"{"\u0063ursors":1}"#, "[]", "7", r#""text""#, "{} {}", "{"] {
            assert_eq!(merged(Some(kept)), None, "{kept}");
        }
        let inside = r#"{"a":{"cursors":1}}"#;
        assert_eq!(merged(Some(inside)).as_deref(), Some(r#"{"a":{"cursors":1},"cursors":{"c":1}}"#));
    }

    fn all(known: &[(ChannelName, Option<Bytes>)]) -> impl Iterator<Item = (&ChannelName, &Bytes)> {
        known.iter().filter_map(|(name, cursors)| Some((name, cursors.as_ref()?)))
    }

    #[test]
    fn channels_beyond_the_bound_are_counted() {
        let at = Position { offset: Offset(9), epoch: crate::base::ids::Epoch(3) };
        let phone = (UserName::from("a \"phone\""), MemberCursor { received: Offset(9), read: Offset(7) });
        let cursors = UserCursors { unread: 2, read: Offset(7), devices: vec![phone] };
        let of = |number: usize| {
            let cursors = (number != 1).then(|| standing(at, &cursors));
            (ChannelName::from(format!("group:{number}")), cursors)
        };
        let some: Vec<_> = (0..3).map(of).collect();
        let data: serde_json::Value =
            serde_json::from_slice(&cursors_of_all(None, all(&some)).unwrap()).unwrap();
        let one = serde_json::json!({"offset": 9, "epoch": at.epoch.to_string(), "read": 7, "unread": 2,
            "devices": {"a \"phone\"": {"received": 9, "read": 7}}});
        assert_eq!(data, serde_json::json!({"cursors": {"group:0": one, "group:2": one}}));
        let many: Vec<_> = (2..CONNECT_CURSORS_MAX + 5).map(of).collect();
        let data: serde_json::Value =
            serde_json::from_slice(&cursors_of_all(None, all(&many)).unwrap()).unwrap();
        assert_eq!(data["cursors"].as_object().unwrap().len(), CONNECT_CURSORS_MAX);
        assert_eq!(data["cursors_left_out"], 3);
        assert_eq!(cursors_of_all(None, all(&some[1..2])), None);
    }
}
