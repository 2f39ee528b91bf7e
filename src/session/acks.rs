//! `trunkline.ack`: what a client says it has received and read.
//!
//! ```json
//! {"acks": [{"channel": "chat:1", "offset": 7, "kind": "read"}], "device": "phone"}
//! {"acks": [{"received": 7, "read": 7}]}
//! ```
//! Each acknowledgement has its answer in its place: where the device and its user stand by now, or an error. The call itself
//! fails only where it cannot be read.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use serde::Deserialize;

use crate::base::fault::ErrorCode;
use crate::base::ids::{Offset, UserName};
use crate::base::inboxes::DEVICE_BYTES_MAX;
use crate::base::json;
use crate::base::publication::SinceEpoch;
use crate::hub::cursors::{ACKS_MAX, Ack, AckCall, AckKind, AckRequest, MemberCursor};
use crate::proto::centrifuge::command::Data;
use crate::proto::centrifuge::reply::Reply;
use crate::session::context::{Context, Effect, Failure};
use crate::session::state::Session;

#[derive(Deserialize)]
struct AckSaid<'a> {
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
        let said: AckSaid<'_> = json::object(text.as_bytes()).map_err(|_| ErrorCode::BadRequest)?;
        if said.acks.len() > ACKS_MAX {
            return Err(ErrorCode::LimitExceeded.into());
        }
        if said.device.len() > DEVICE_BYTES_MAX {
            return Err(ErrorCode::BadRequest.into());
        }
        let user = self.user().cloned().ok_or(ErrorCode::PermissionDenied)?;
        let device: UserName = match (self.device(), &*said.device) {
            (Some(own), "") => own.clone(),
            // One device does not speak for another.
            (Some(own), named) if **own != *named => return Err(ErrorCode::PermissionDenied.into()),
            (_, named) => Arc::from(named),
        };
        let mut call = AckCall { requests: Vec::new(), outcomes: Vec::with_capacity(said.acks.len()) };
        for (place, ack) in (0..).zip(said.acks) {
            call.outcomes.push(self.may_ack(&ack.channel, cx).map(|()| MemberCursor::default()));
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
        if !cx.environment.rights(channel)?.cursors {
            return Err(ErrorCode::NotAvailable);
        }
        match cx.environment.find(channel).is_some_and(|index| self.sub(index).is_some()) {
            true => Ok(()),
            false => Err(ErrorCode::PermissionDenied),
        }
    }
}

/// Answers the call, each acknowledgement in its place.
pub fn reply_acked(id: u32, outcomes: &[Result<MemberCursor, ErrorCode>], cx: &mut Context<'_>) {
    let mut json = String::from(r#"{"acks":["#);
    for (place, outcome) in outcomes.iter().enumerate() {
        json.push_str(if place > 0 { "," } else { "" });
        let _ = match outcome {
            Ok(MemberCursor { received, read }) => {
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
