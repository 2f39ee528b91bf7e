//! Tokens as requests show them, and what becomes of those that are refused.
//!
//! In this order: `Authorization: Bearer`, `token=` of the query, the cookie `trunkline_token`. Header fields are the
//! connect hook's where there is one and no key is configured.

use crate::proto::http1::RequestHead;
use crate::proto::reader::query;
use crate::session::World;
use crate::session::token::TokenFault;
use crate::shard::clients::View;
use crate::shard::core::Core;

/// The cookie that may hold a token: the way for a page whose server sets it `HttpOnly`.
const COOKIE: &str = "trunkline_token";

impl Core {
    /// The token that an upgrade shows, for a connect command without one. Another scheme of `Authorization` is left to
    /// whatever stands in front of us.
    pub fn shown_token(&self, head: &RequestHead<'_>) -> Option<Box<str>> {
        let fields = reads_fields(&View { options: &self.options, local: &self.local });
        if fields && let Some(Ok(token)) = bearer(head) {
            return Some(token.into());
        }
        let in_query = query::pairs(head.query.unwrap_or_default())
            .flatten()
            .find(|(name, value)| name == "token" && !value.is_empty());
        if let Some((_, token)) = in_query {
            return Some((*token).into());
        }
        // A browser sends its cookies along with the WebSocket that a page of anybody opens: they count for pages of
        // this host and of origins that are allowed by name, and not for those that only `*` lets in.
        cookie(head).filter(|_| fields && self.is_known_origin(head)).map(Box::from)
    }

    pub fn token_refused(&mut self, fault: TokenFault) {
        self.stats.token(fault);
        if let Some(control) = &self.control {
            control.tell(fault.cause(), fault.text());
        }
    }
}

/// Whether tokens are looked for in header fields. Without a key none could be valid, and a backend that is asked who
/// connects knows such fields as its own: the `Authorization` of its users must reach it, not end their connections.
pub fn reads_fields(world: &dyn World) -> bool {
    world.verifier().is_some() || !world.hooks().connect
}

/// The token of `Authorization`; `Err` for another scheme than Bearer (RFC 6750 section 2.1).
pub fn bearer<'a>(head: &RequestHead<'a>) -> Option<Result<&'a str, ()>> {
    let value = head.header_str("Authorization")?;
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    Some(if scheme.eq_ignore_ascii_case("Bearer") { Ok(token.trim()) } else { Err(()) })
}

/// The first cookie of our name (RFC 6265 section 4.2.1).
pub fn cookie<'a>(head: &RequestHead<'a>) -> Option<&'a str> {
    let cookies = head.header_str("Cookie")?;
    cookies
        .split(';')
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(known, value)| *known == COOKIE && !value.is_empty())
        .map(|(_, value)| value.trim_matches('"'))
}
