//! Users that are kept out and tokens that are revoked: what the API does about them.
//!
//! A change holds on all shards at once: they look into one table. Connections that it is about are closed, other nodes are
//! told, and what a store keeps is given to it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::base::blocks::{BlockChange, BlockFault, BlockOf, Terms};
use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::limits::BLOCK_NAME_BYTES_MAX;
use crate::control::answers::{ApiAnswer, BlockedEntry};
use crate::control::api::Api;
use crate::control::other_nodes::tell;
use crate::control::requests::ControlError;
use crate::control::wire::{BlockBody, BlockedBody};
use crate::engine::block_word;
use crate::shard::control_request::{ControlRequest, DisconnectUser, Target};

/// Most entries of one page.
const BLOCKED_PAGE_MAX: usize = 10_000;
/// Entries of a page without a `limit`.
const BLOCKED_PAGE: usize = 1_000;
/// What stands before a name in a cursor, by its kind.
const CURSORS: [(u8, &str); 3] = [(1, "user:"), (2, "token:"), (3, "issued:")];

fn entry((of, terms): (BlockOf, Terms)) -> BlockedEntry {
    let (mut user, mut token_id, mut issued_before) = (None, None, None);
    let name = of.name().to_owned();
    match of {
        BlockOf::User(_) => user = Some(name),
        BlockOf::Token(_) => token_id = Some(name),
        BlockOf::Issued(_) => (user, issued_before) = (Some(name), Some(terms.before_s)),
    }
    BlockedEntry { user, token_id, issued_before, until: (terms.until_s != 0).then_some(terms.until_s) }
}

fn cursor_of(of: &BlockOf) -> String {
    let prefix = CURSORS.iter().find(|(kind, _)| *kind == of.kind()).map_or("", |(_, prefix)| prefix);
    format!("{prefix}{}", of.name())
}

fn read_cursor(cursor: &str) -> Option<BlockOf> {
    CURSORS.iter().find_map(|(kind, prefix)| BlockOf::from_parts(*kind, cursor.strip_prefix(prefix)?))
}

fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

fn invalid<T>(problem: &'static str) -> Result<T, ControlError> {
    Err(ControlError::Invalid(problem))
}

/// A name that can be one user's or one token's.
fn named(name: &str) -> Result<Box<str>, ControlError> {
    match name {
        "" => invalid("user or token_id must name one: everyone cannot be blocked"),
        "*" => invalid("* is no user and no token: everyone cannot be blocked"),
        name if name.len() > BLOCK_NAME_BYTES_MAX => invalid("a user or token_id has at most 256 bytes"),
        name => Ok(name.into()),
    }
}

impl Api {
    pub(super) async fn block(&self, body: BlockBody) -> Result<ApiAnswer, ControlError> {
        if !body.token_id.is_empty() || body.issued_before.is_some() {
            return invalid("block is for a user: tokens are revoked");
        }
        self.change(BlockOf::User(named(&body.user)?), Some(terms(&body))).await
    }

    pub(super) async fn unblock(&self, body: BlockBody) -> Result<ApiAnswer, ControlError> {
        match (&*body.user, &*body.token_id) {
            (user, "") => {
                self.change(BlockOf::User(named(user)?), None).await?;
                // What was revoked by its user and time is taken back as well: the backend trusts the user again.
                self.change(BlockOf::Issued(named(user)?), None).await
            }
            ("", token_id) => self.change(BlockOf::Token(named(token_id)?), None).await,
            _ => invalid("user or token_id, not both"),
        }
    }

    pub(super) async fn revoke(&self, body: BlockBody) -> Result<ApiAnswer, ControlError> {
        match (&*body.user, &*body.token_id, body.issued_before) {
            ("", token_id, None) => self.change(BlockOf::Token(named(token_id)?), Some(terms(&body))).await,
            (user, "", Some(before_s)) => {
                let terms = Terms { before_s, ..terms(&body) };
                self.change(BlockOf::Issued(named(user)?), Some(terms)).await
            }
            _ => invalid("revoke takes token_id, or user and issued_before"),
        }
    }

    pub(super) fn blocked(&self, body: &BlockedBody) -> Result<ApiAnswer, ControlError> {
        let limit = match body.limit as usize {
            0 => BLOCKED_PAGE,
            limit if limit > BLOCKED_PAGE_MAX => return invalid("limit may be at most 10000"),
            limit => limit,
        };
        let after = match &*body.cursor {
            "" => None,
            cursor => Some(read_cursor(cursor).ok_or(ControlError::Invalid("cursor is none of ours"))?),
        };
        let page = self.blocks().page(after.as_ref(), limit, now_s());
        let cursor = page.last().filter(|_| page.len() >= limit).map(|(of, _)| cursor_of(of));
        Ok(ApiAnswer::Blocked { blocked: page.into_iter().map(entry).collect(), cursor })
    }

    /// Here, at other nodes, and for connections that are there.
    async fn change(&self, of: BlockOf, terms: Option<Terms>) -> Result<ApiAnswer, ControlError> {
        let change = BlockChange { of, terms };
        self.blocks().apply(&change, now_s()).map_err(|fault| match fault {
            BlockFault::Full => ControlError::Refused(ErrorCode::LimitExceeded),
            BlockFault::Name => ControlError::Invalid("a user or token_id has 1 to 256 bytes"),
        })?;
        tell(&self.others().cloned(), || block_word(std::slice::from_ref(&change)));
        if change.terms.is_none() {
            return Ok(ApiAnswer::Empty {});
        }
        let disconnect = match &change.of {
            BlockOf::User(_) => Disconnect::PERMISSION_DENIED,
            // Their tokens are looked at again when they come back.
            BlockOf::Issued(_) => Disconnect::FORCE_RECONNECT,
            BlockOf::Token(_) => {
                self.shards().ask_every(ControlRequest::Enforce).await?;
                return Ok(ApiAnswer::Empty {});
            }
        };
        let target = Target { user: change.of.name().into(), client: None, except: Vec::new() };
        let owner = self.shards().router().user_owner(&target.user);
        let ask = DisconnectUser { target, disconnect };
        self.shards().ask(owner, |reply| ControlRequest::Disconnect(ask, reply)).await?;
        Ok(ApiAnswer::Empty {})
    }
}

/// A block does not end early: of the second that has begun, nothing counts.
fn terms(body: &BlockBody) -> Terms {
    let until_s = body.for_s.map_or(0, |for_s| now_s().saturating_add(1).saturating_add(for_s));
    Terms { until_s, before_s: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_cannot_be_blocked() {
        for name in ["", "*", &"x".repeat(257)] {
            assert!(matches!(named(name), Err(ControlError::Invalid(_))), "{name}");
        }
        assert_eq!(named("a*").unwrap().as_ref(), "a*", "a name like any other");
    }

    #[test]
    fn a_cursor_names_its_entry() {
        for of in [BlockOf::User("a:b".into()), BlockOf::Token("user:a".into()), BlockOf::Issued("ü".into())]
        {
            assert_eq!(read_cursor(&cursor_of(&of)), Some(of));
        }
        assert_eq!(read_cursor("ann"), None);
    }
}
