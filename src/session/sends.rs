//! `trunkline.send`: a publication with a name that its client has given it, answered with the position.
//!
//! A client that did not hear the answer says the same again: for five minutes
//! ([`IDEMPOTENCY_KEY_TTL`](crate::hub::limits::IDEMPOTENCY_KEY_TTL)) the repeat of a user is answered like the first, whatever
//! connection it comes by. Everything else is as with `publish`: rights, hooks, bounds.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::fault::ErrorCode;
use crate::base::publication::ClientInfo;
use crate::hub::options::one_line;
use crate::proto::centrifuge::command::Data;
use crate::session::context::{Context, Failure};
use crate::session::state::Session;

/// Of a name: a UUID, or two with something between.
const ID_BYTES_MAX: usize = 80;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SendBody<'b> {
    /// A channel.
    #[serde(borrow)]
    to: Cow<'b, str>,
    #[serde(borrow)]
    id: Cow<'b, str>,
    #[serde(borrow)]
    data: &'b RawValue,
}

impl Session {
    pub(super) fn handle_send(
        &mut self,
        id: u32,
        data: Option<Data<'_>>,
        cx: &mut Context<'_>,
    ) -> Result<(), Failure> {
        let json = data.and_then(Data::as_json).ok_or(ErrorCode::BadRequest)?;
        let body = serde_json::from_slice::<SendBody<'_>>(json.as_bytes());
        let SendBody { to, id: receipt, data } = body.map_err(|_| ErrorCode::BadRequest)?;
        if to.is_empty() || receipt.is_empty() || receipt.len() > ID_BYTES_MAX {
            return Err(ErrorCode::BadRequest.into());
        }
        let (rights, subscribed) = self.rights(&to, cx)?;
        let data = one_line(data.get().as_bytes());
        self.publish(id, (&*to).into(), data, (&rights, subscribed), Some(receipt.into()), cx)
    }
}

/// What tells the publications of a user apart that were sent so; of one without a name, those of its connection.
pub fn key_of(info: &ClientInfo, receipt: &str) -> Box<str> {
    let who = if info.user.is_empty() { &*info.client } else { &*info.user };
    // What backends name themselves begins otherwise.
    format!("\u{1}{who}\u{1}{receipt}").into()
}
