//! What the control plane asks about cursors of members.

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, UserName};
use crate::hub::cursors::AckKind;
use crate::hub::requests::Unread;

/// Which cursors.
#[derive(Clone, Debug)]
pub struct CursorsQuery {
    pub channel: ChannelName,
    /// Of this user alone.
    pub user: Option<UserName>,
    /// Behind this name; empty: from the first on.
    pub after: String,
    /// Members, not cursors.
    pub limit: usize,
}

/// Which of those who have come so far.
#[derive(Clone, Debug)]
pub struct ReadByQuery {
    pub channel: ChannelName,
    pub offset: Offset,
    pub kind: AckKind,
    pub after: String,
    pub limit: usize,
}

pub type UnreadOutcome = Result<Unread, ErrorCode>;
