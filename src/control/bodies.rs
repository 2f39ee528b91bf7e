//! Further requests of the server API as JSON has them: about presence, and about who is kept out.

use serde::Deserialize;

use crate::control::wire::or_default;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct PresenceBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// So many at a time, in the order of clients' ids. 0: all at once.
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct OnlineBody {
    #[serde(deserialize_with = "or_default")]
    pub users: Vec<String>,
}

/// `block`, `unblock` and `revoke`: each uses the fields it knows.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BlockBody {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub token_id: String,
    /// Seconds since 1970.
    pub issued_before: Option<u64>,
    /// Seconds; left out: until it is taken back.
    pub for_s: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BlockedBody {
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}
