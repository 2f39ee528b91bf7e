//! Publications into the inboxes of users.

use std::collections::HashMap;

use crate::base::fault::ErrorCode;
use crate::control::answers::{ApiAnswer, Response};
use crate::control::api::{Api, publish_ask, respond};
use crate::control::requests::ControlError;
use crate::control::wire::InboxBody;
use crate::hub::requests::{Pace, PublishRequest};

/// Most users of one call: as many publications as a caller can make it cost.
const INBOX_USERS_MAX: usize = 1_000;
/// Longest name of a user.
const USER_BYTES_MAX: usize = 256;

impl Api {
    /// Appends to each user's inbox. Each has its own answer, in the order in which they are named; one that is named twice gets it
    /// once. Busy only when no inbox took it.
    pub(super) async fn inbox(&self, mut body: InboxBody) -> Result<ApiAnswer, ControlError> {
        let Some(inboxes) = &self.inboxes else { return Err(ErrorCode::NotAvailable.into()) };
        let users = std::mem::take(&mut body.users);
        match users.len() {
            0 => return Err(ControlError::Invalid("users must name somebody")),
            1..=INBOX_USERS_MAX => {}
            _ => return Err(ControlError::Invalid("users names more than 1000")),
        }
        if users.iter().any(|user| user.is_empty() || user.len() > USER_BYTES_MAX) {
            return Err(ControlError::Invalid("a user's name must have 1 to 256 bytes"));
        }
        let model = publish_ask("".into(), body.into())?;
        if model.except.as_ref().is_some_and(|except| except.user.is_some()) {
            return Err(ControlError::Invalid("except.user is for channels: leave the user out of users"));
        }
        let spread_ms = model.pace.spread_ms;
        let mut places: HashMap<&str, usize> = HashMap::with_capacity(users.len());
        let mut sent = Vec::with_capacity(users.len());
        for user in &users {
            if places.contains_key(&**user) {
                continue;
            }
            places.insert(user, sent.len());
            let pace = Pace { spread_ms: spread_to(spread_ms, sent.len(), users.len()), ..model.pace };
            let ask = PublishRequest { channel: inboxes.of(user), pace, ..model.clone() };
            sent.push(self.send_publish(ask));
        }
        if sent.iter().all(|pending| matches!(pending, Err(ControlError::Busy))) {
            return Err(ControlError::Busy);
        }
        let mut outcomes = Vec::with_capacity(sent.len());
        for pending in sent {
            outcomes.push(match pending {
                Ok(pending) => pending.wait().await.map_err(ControlError::from),
                Err(error) => Err(error),
            });
        }
        let response = |user: &String| -> Response {
            let outcome = outcomes[places[&**user]];
            respond(outcome.map(ApiAnswer::from))
        };
        Ok(ApiAnswer::Broadcast { responses: users.iter().map(response).collect() })
    }
}

/// Over which time what one inbox of several gets is spread. An inbox has few subscribers, the last of which gets it at the end of that
/// time: with the same for all, all users would get it at once.
fn spread_to(spread_ms: u32, place: usize, users: usize) -> u32 {
    (u64::from(spread_ms) * (place as u64 + 1)).div_ceil(users.max(1) as u64) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inboxes_share_the_time_evenly() {
        for (spread_ms, users) in [(0, 3), (600, 3), (10, 1_000), (3_600_000, 1_000), (1, 1)] {
            let ends: Vec<u32> = (0..users).map(|place| spread_to(spread_ms, place, users)).collect();
            assert_eq!(ends.last(), Some(&spread_ms));
            let step = spread_ms.div_ceil(users as u32);
            assert!(
                ends.iter().is_sorted() && ends.windows(2).all(|two| two[1] - two[0] <= step),
                "{ends:?}"
            );
        }
    }
}
