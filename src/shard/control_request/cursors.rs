//! What the control plane asks about cursors of members.

use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, Offset, UserName};
use crate::hub::cursors::AckKind;
use crate::hub::owned::{CursorsPage, MembersPage, Unread};
use crate::shard::control_request::Reply;

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

/// One ask about cursors.
#[derive(Debug)]
pub enum CursorsAsk {
    Page(CursorsQuery, Reply<CursorsPage>),
    /// Of channels whose owner is the asked shard, each with its own outcome, in order.
    Unread(UserName, Vec<ChannelName>, Reply<Vec<UnreadOutcome>>),
    ReadBy(ReadByQuery, Reply<MembersPage>),
    Members(CursorsQuery, Reply<MembersPage>),
    /// Makes users members that have everything up to the offset, or up to the top. Answers how many are new.
    Add(ChannelName, Vec<UserName>, Option<Offset>, Reply<usize>),
    /// Answers how many were members.
    Remove(ChannelName, Vec<UserName>, Reply<usize>),
}

pub type UnreadOutcome = Result<Unread, ErrorCode>;

impl CursorsAsk {
    pub fn refuse(self, error_code: ErrorCode) {
        match self {
            CursorsAsk::Page(_, reply) => reply.send(Err(error_code)),
            CursorsAsk::Unread(_, _, reply) => reply.send(Err(error_code)),
            CursorsAsk::ReadBy(_, reply) | CursorsAsk::Members(_, reply) => reply.send(Err(error_code)),
            CursorsAsk::Add(_, _, _, reply) | CursorsAsk::Remove(_, _, reply) => reply.send(Err(error_code)),
        }
    }
}
