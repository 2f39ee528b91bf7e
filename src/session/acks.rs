//! `trunkline.ack`: what a client says it has received and read.
//!
//! ```json
//! {"acks": [{"channel": "chat:1", "offset": 7, "kind": "read"}], "device": "phone"}
//! {"acks": [{"received": 7, "read": 7}]}
//! ```
//! Each acknowledgement has its answer in its place: where the device and its user stand by now, or an error. The call itself
//! fails only where it cannot be read.
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
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, Position, UserName};
use crate::base::json;
use crate::base::publication::SinceEpoch;
use crate::hub::cursors::{
    ACKS_MAX, Ack, AckCall, AckKind, AckRequest, Cursor, DEVICE_BYTES_MAX, UserCursors,
};
use crate::proto::centrifuge::command::Data;
use crate::proto::centrifuge::reply::Reply;
use crate::session::context::{Context, Effect, Failure};
use crate::session::state::Session;
use crate::session::subscribed::Subscribed;

/// Channels whose cursors come with the reply to one connect: about 150 bytes each. How many were left out is said.
const CONNECT_CURSORS_MAX: usize = 1_000;

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow)]
    acks: Vec<SaidAck<'a>>,
    #[serde(borrow, default)]
    device: Cow<'a, str>,
}

#[derive(Deserialize)]
struct SaidAck<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    offset: u64,
    kind: SaidKind,
    #[serde(borrow, default)]
    epoch: Cow<'a, str>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum SaidKind {
    Received,
    Read,
}

impl Session {
    pub(super) fn handle_ack(
        &mut self,
        id: u32,
        data: Option<Data<'_>>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let text = data.and_then(Data::as_json).ok_or(ErrorCode::BadRequest)?;
        let said: Said<'_> = json::object(text.as_bytes()).map_err(|_| ErrorCode::BadRequest)?;
        if said.acks.len() > ACKS_MAX {
            return Err(ErrorCode::LimitExceeded.into());
        }
        if said.device.len() > DEVICE_BYTES_MAX {
            return Err(ErrorCode::BadRequest.into());
        }
        let user = self.user().cloned().ok_or(ErrorCode::PermissionDenied)?;
        let device: UserName = Arc::from(&*said.device);
        let mut call = AckCall { requests: Vec::new(), outcomes: Vec::with_capacity(said.acks.len()) };
        for (place, ack) in (0..).zip(said.acks) {
            call.outcomes.push(self.may_ack(&ack.channel, cx).map(|()| Cursor::default()));
            if call.outcomes.last().is_some_and(Result::is_err) {
                continue;
            }
            let kind = match ack.kind {
                SaidKind::Received => AckKind::Received,
                SaidKind::Read => AckKind::Read,
            };
            let epoch = SinceEpoch::from_wire(&ack.epoch);
            let one = Ack { place, offset: Offset(ack.offset), epoch, kind };
            match call.requests.iter_mut().find(|request| *request.channel == *ack.channel) {
                Some(request) => request.acks.push(one),
                None => call.requests.push(AckRequest {
                    channel: ack.channel.as_ref().into(),
                    user: user.clone(),
                    device: device.clone(),
                    acks: vec![one],
                }),
            }
        }
        match call.requests.is_empty() {
            true => reply_acked(id, &call.outcomes, cx),
            false => cx.effects.push(Effect::Ack { id, call: Box::new(call) }),
        }
        Ok(())
    }

    fn may_ack(&self, channel: &str, cx: &Context<'_>) -> Result<(), ErrorCode> {
        if !cx.world.rights(channel)?.cursors {
            return Err(ErrorCode::NotAvailable);
        }
        match cx.world.find(channel).is_some_and(|index| self.sub(index).is_some()) {
            true => Ok(()),
            false => Err(ErrorCode::PermissionDenied),
        }
    }
}

/// Answers the call, each acknowledgement in its place.
pub fn reply_acked(id: u32, outcomes: &[Result<Cursor, ErrorCode>], cx: &mut Context<'_>) {
    let mut json = String::from(r#"{"acks":["#);
    for (place, outcome) in outcomes.iter().enumerate() {
        json.push_str(if place > 0 { "," } else { "" });
        let _ = match outcome {
            Ok(Cursor { received, read }) => {
                write!(json, r#"{{"received":{},"read":{}}}"#, received.0, read.0)
            }
            Err(error_code) => {
                cx.effects.push(Effect::Refused(*error_code));
                let (code, message) = (error_code.code(), error_code.message());
                write!(json, r#"{{"error":{{"code":{code},"message":"{message}"}}}}"#)
            }
        };
    }
    json.push_str("]}");
    cx.reply(id, &Reply::Rpc(Some(json.as_bytes())));
}

/// Where a user stands in a channel whose log ends at `top`, as JSON.
pub(super) fn standing(top: Position, cursors: &UserCursors) -> Bytes {
    let UserCursors { unread, read, devices } = cursors;
    let Position { offset, epoch } = top;
    let mut json =
        format!(r#"{{"offset":{},"epoch":"{epoch}","read":{},"unread":{unread}"#, offset.0, read.0);
    json.push_str(r#","devices":{"#);
    for (place, (device, Cursor { received, read })) in devices.iter().enumerate() {
        json.push_str(if place > 0 { "," } else { "" });
        let _ = write!(json, r#"{}:{{"received":{},"read":{}}}"#, quoted(device), received.0, read.0);
    }
    json.push_str("}}");
    json.into_bytes().into()
}

/// `data` of the reply to a connect with the cursors of the channels that it brings. `None`: it stays as it is.
pub(super) fn cursors_of_all(data: Option<&[u8]>, done: &[(ChannelName, Subscribed)]) -> Option<Bytes> {
    let mut known = done.iter().filter_map(|(name, subscribed)| Some((name, subscribed.cursors.as_ref()?)));
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

    #[test]
    fn channels_beyond_the_bound_are_counted() {
        let at = Position { offset: Offset(9), epoch: crate::base::ids::Epoch(3) };
        let phone = (UserName::from("a \"phone\""), Cursor { received: Offset(9), read: Offset(7) });
        let cursors = UserCursors { unread: 2, read: Offset(7), devices: vec![phone] };
        let of = |number: usize| {
            let subscribed = Subscribed {
                flags: 0,
                position: at,
                recovery: None,
                rewound: false,
                expire_at_s: 0,
                data: None,
                delta: false,
                cursors: (number != 1).then(|| standing(at, &cursors)),
            };
            (ChannelName::from(format!("group:{number}")), subscribed)
        };
        let some: Vec<_> = (0..3).map(of).collect();
        let data: serde_json::Value = serde_json::from_slice(&cursors_of_all(None, &some).unwrap()).unwrap();
        let one = serde_json::json!({"offset": 9, "epoch": at.epoch.to_string(), "read": 7, "unread": 2,
            "devices": {"a \"phone\"": {"received": 9, "read": 7}}});
        assert_eq!(data, serde_json::json!({"cursors": {"group:0": one, "group:2": one}}));
        let many: Vec<_> = (2..CONNECT_CURSORS_MAX + 5).map(of).collect();
        let data: serde_json::Value = serde_json::from_slice(&cursors_of_all(None, &many).unwrap()).unwrap();
        assert_eq!(data["cursors"].as_object().unwrap().len(), CONNECT_CURSORS_MAX);
        assert_eq!(data["cursors_left_out"], 3);
        assert_eq!(cursors_of_all(None, &some[1..2]), None);
    }
}
