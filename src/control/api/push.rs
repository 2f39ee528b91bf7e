//! Messages to users: each shard gets its part, and one answer says who was reached.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::base::except::Except;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ShardId, UserName};
use crate::control::answers::ApiAnswer;
use crate::control::api::{Api, PUSH_RETRY, excepted};
use crate::control::other_nodes::tell;
use crate::control::pushes::PushOutcome;
use crate::control::requests::ControlError;
use crate::control::wire::{PushBody, payload};
use crate::engine::push_word;
use crate::shard::control_request::{ControlRequest, PushUsers, UserMessage};

/// Most users of one push. More are a channel's job.
const PUSH_USERS_MAX: usize = 10_000;
/// Longest idempotency key of a push, as of a publication.
const PUSH_KEY_BYTES_MAX: usize = 256;

impl Api {
    /// Says who was told, so that the backend can reach the others another way.
    pub(super) async fn push(&self, body: PushBody) -> Result<ApiAnswer, ControlError> {
        let mut names = body.users;
        if !body.user.is_empty() {
            names.push(body.user);
        }
        let wrong = match names.len() {
            0 => Some("user or users must name somebody"),
            1..=PUSH_USERS_MAX if names.iter().any(String::is_empty) => Some("a name in users is empty"),
            1..=PUSH_USERS_MAX if body.idempotency_key.len() > PUSH_KEY_BYTES_MAX => {
                Some("idempotency_key is longer than 256 bytes")
            }
            1..=PUSH_USERS_MAX => None,
            _ => Some("users names more than 10000"),
        };
        if let Some(problem) = wrong {
            return Err(ControlError::Invalid(problem));
        }
        let data = payload(body.data, &body.b64data)?.ok_or(ControlError::Invalid("data is missing"))?;
        let except = excepted(body.except.as_ref())?;
        // A user named twice gets one message.
        let mut seen = HashSet::with_capacity(names.len());
        names.retain(|name| seen.insert(name.clone()));
        drop(seen);
        if body.idempotency_key.is_empty() {
            return Ok(self.push_now(&names, data, except, body.newest).await?.into());
        }
        let bytes = names.iter().map(String::len).sum();
        let cell = self.push_keys.cell(&body.idempotency_key, bytes, Instant::now());
        let outcome = cell.get_or_try_init(|| self.push_now(&names, data, except, body.newest)).await?;
        Ok(outcome.clone().into())
    }

    /// Every owner is asked at once for its users. Busy only when none of them took its part.
    async fn push_now(
        &self,
        names: &[String],
        data: Bytes,
        except: Option<Except>,
        newest: bool,
    ) -> Result<PushOutcome, ControlError> {
        tell(&self.others, || push_word(names, &data, except.as_ref(), newest));
        let message = Arc::new(UserMessage { data, except, encoded: Default::default() });
        let mut by_owner: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            by_owner.entry(self.shards.router().user_owner(name)).or_default().push(at);
        }
        let end = Instant::now() + self.shards.timeout();
        let mut sent = Vec::with_capacity(by_owner.len());
        for (owner, places) in by_owner {
            let users: Vec<UserName> = places.iter().map(|&at| names[at].as_str().into()).collect();
            let ask = PushUsers { users, message: Arc::clone(&message), newest };
            let pending = loop {
                match self.shards.send(owner, |reply| ControlRequest::Push(ask.clone(), reply)) {
                    Ok(pending) => break pending,
                    Err(_) if sent.is_empty() => return Err(ControlError::Busy),
                    // A part is on its way: to call the whole busy would have it sent again.
                    Err(_) if Instant::now() < end => tokio::time::sleep(PUSH_RETRY).await,
                    Err(_) => return Err(ErrorCode::Internal.into()),
                }
            };
            sent.push((places, pending));
        }
        let mut outcome = PushOutcome::default();
        let mut absent = Vec::new();
        for (places, pending) in sent {
            let pushed = pending.wait().await?;
            outcome.connections += pushed.connections;
            absent
                .extend(places.iter().zip(pushed.reached).filter(|(_, reached)| !reached).map(|(&at, _)| at));
        }
        outcome.users = (names.len() - absent.len()) as u64;
        // In the order in which they were named.
        absent.sort_unstable();
        outcome.absent = absent.into_iter().map(|at| names[at].clone()).collect();
        Ok(outcome)
    }
}
