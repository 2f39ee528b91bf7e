//! Further requests of the server API as JSON has them: about presence, who is kept out, and who has read what.

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

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct CursorsBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    /// Of this user alone; empty: of all members.
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct UnreadBody {
    #[serde(deserialize_with = "or_default")]
    pub user: String,
    #[serde(deserialize_with = "or_default")]
    pub channels: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ReadByBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    pub offset: Option<u64>,
    /// "read", or "received".
    #[serde(deserialize_with = "or_default")]
    pub kind: String,
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MembersBody {
    #[serde(deserialize_with = "or_default")]
    pub channel: String,
    pub add: Option<Vec<String>>,
    pub remove: Option<Vec<String>>,
    /// Up to where those who are added have everything; left out: the top.
    pub offset: Option<u64>,
    #[serde(deserialize_with = "or_default")]
    pub limit: u32,
    /// Where the page before has ended.
    #[serde(deserialize_with = "or_default")]
    pub cursor: String,
}
