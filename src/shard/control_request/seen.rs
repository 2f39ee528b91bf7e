//! What an operator may look at, as shards show it: ends of connections, connections, channels. Plain data.

use std::borrow::Cow;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::base::histogram::Histogram;
use crate::base::ids::{ChannelName, ClientId, ConnId, ShardId, UserName};

/// Whose doing the end of a connection was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The client has left.
    Client,
    /// The connection broke, or nothing was heard of the client any more.
    Network,
    /// A rule of this node: tokens, expiry, the protocol.
    Rule,
    /// A bound: of what a client owes, sends, or may have.
    Limit,
    /// A call of the API.
    Api,
    /// The answer of a hook, or the backend of a tunnel.
    Backend,
    /// The node ends, or sends clients elsewhere.
    Node,
}

impl EndedBy {
    pub const ALL: [EndedBy; 7] = [
        EndedBy::Client,
        EndedBy::Network,
        EndedBy::Rule,
        EndedBy::Limit,
        EndedBy::Api,
        EndedBy::Backend,
        EndedBy::Node,
    ];

    /// As the API names it.
    pub fn name(self) -> &'static str {
        match self {
            EndedBy::Client => "client",
            EndedBy::Network => "network",
            EndedBy::Rule => "rule",
            EndedBy::Limit => "limit",
            EndedBy::Api => "api",
            EndedBy::Backend => "backend",
            EndedBy::Node => "node",
        }
    }

    /// Of an end of which no more is known than its code.
    pub fn of_code(code: u16) -> EndedBy {
        match code {
            3001 | 3011 => EndedBy::Node,
            1006 | 3012 => EndedBy::Network,
            3008 | 3013 | 3504 | 3505 | 3510 => EndedBy::Limit,
            1000 | 1001 | 1005 | 3000 => EndedBy::Client,
            1011 => EndedBy::Backend,
            _ => EndedBy::Rule,
        }
    }
}

/// How a client's connection ended. What is not known is left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// Wall clock, milliseconds since 1970. Of one shard never less than that of the end before.
    pub time_ms: u64,
    pub conn: ConnId,
    /// Empty for the anonymous, cut after [`USER_BYTES_KEPT`].
    pub user: UserName,
    pub address: Option<IpAddr>,
    pub transport: &'static str,
    pub code: u16,
    pub reason: Cow<'static, str>,
    pub by: EndedBy,
    /// Since its socket was accepted, or it was taken over from another process.
    pub duration_ms: Option<u64>,
    /// Received and sent: counted where `disconnected` events are.
    pub bytes: Option<(u64, u64)>,
    /// What it had been given and its socket had not taken.
    pub owed_bytes: u64,
    /// The last answered ping.
    pub ping_ms: Option<u32>,
}

/// Bytes of a user's name that are kept with an end: longer names are no names of people.
pub const USER_BYTES_KEPT: usize = 128;

/// The part of a user's name that is kept.
pub fn kept(user: &str) -> &str {
    let end = (0..=USER_BYTES_KEPT.min(user.len())).rev().find(|&end| user.is_char_boundary(end));
    &user[..end.unwrap_or_default()]
}

/// Where an end stands among those of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EndPlace {
    pub time_ms: u64,
    pub shard: ShardId,
    /// Counted by its shard.
    pub number: u64,
}

/// Which ends are asked for.
#[derive(Clone, Debug, Default)]
pub struct ClosedQuery {
    /// As [`kept`] has it.
    pub user: Option<UserName>,
    pub conn: Option<ConnId>,
    pub code: Option<u16>,
    pub since_ms: u64,
    /// Only ends that stand before this one.
    pub before: Option<EndPlace>,
    /// Where the shard goes on to look: below this number.
    pub below: Option<u64>,
    pub ends_max: usize,
}

/// The newest of them, newest first.
#[derive(Clone, Debug, Default)]
pub struct ClosedPage {
    pub ends: Vec<(EndPlace, ClientId, End)>,
    /// Where to go on below; `None` when all were looked at.
    pub next: Option<u64>,
}

/// Which connections are asked for. Empty fields do not narrow.
#[derive(Clone, Debug, Default)]
pub struct ConnectionsQuery {
    pub user: Option<UserName>,
    pub conn: Option<ConnId>,
    pub channel: Option<ChannelName>,
    pub network: Option<IpNet>,
    /// The first slot to look at.
    pub from: u32,
    pub connections_max: usize,
}

#[derive(Clone, Debug, Default)]
pub struct ConnectionsPage {
    pub connections: Vec<ConnectionSeen>,
    /// The slot to go on with; `None` when all were looked at.
    pub next: Option<u32>,
}

/// A client as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionSeen {
    pub client: ClientId,
    pub user: UserName,
    pub address: Option<IpAddr>,
    pub transport: &'static str,
    /// Since when, milliseconds since 1970.
    pub since_ms: Option<u64>,
    pub channels: usize,
    /// The first of their names.
    pub names: Vec<ChannelName>,
    /// Bytes that its socket has not taken.
    pub owed_bytes: u64,
    pub ping_ms: Option<u32>,
}

/// A channel of the shard that owns it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelSeen {
    pub channel: ChannelName,
    pub clients: u32,
    /// Publications in its history, and what they weigh.
    pub history: usize,
    pub history_bytes: usize,
    /// Offset of the newest publication.
    pub offset: u64,
    /// Publications a second, lately, where it is among the busiest.
    pub rate: Option<f64>,
}

/// What there was most of lately on one shard, the most first.
#[derive(Clone, Debug, Default)]
pub struct Busiest {
    /// Publications a second.
    pub channels: Vec<(ChannelName, f64)>,
    /// Frames of commands a second.
    pub users: Vec<(UserName, f64)>,
}

/// Where a publication is on its way, each counted from the moment at which the node had the whole request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The owner of the channel has taken it from its inbox.
    Accepted,
    /// The append is as durable as the channel asks.
    Appended,
    /// The first subscribers of a shard have their writes handed to the kernel.
    FirstWrite,
    /// The last have. Those that lag get it later: they are counted as lagging.
    LastWrite,
}

pub const STAGES: usize = 4;

impl Stage {
    pub const ALL: [Stage; STAGES] = [Stage::Accepted, Stage::Appended, Stage::FirstWrite, Stage::LastWrite];

    pub fn name(self) -> &'static str {
        match self {
            Stage::Accepted => "accepted",
            Stage::Appended => "appended",
            Stage::FirstWrite => "first_write",
            Stage::LastWrite => "last_write",
        }
    }
}

/// What an objective may be about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timed {
    /// From the request for a publication to a stage.
    Stage(Stage),
    /// From a hook call to its answer.
    Hook,
    /// From the moment at which a socket takes no more until its connection has caught up, or is closed.
    CaughtUp,
}

impl Timed {
    pub const ALL: [Timed; STAGES + 2] = [
        Timed::Stage(Stage::Accepted),
        Timed::Stage(Stage::Appended),
        Timed::Stage(Stage::FirstWrite),
        Timed::Stage(Stage::LastWrite),
        Timed::Hook,
        Timed::CaughtUp,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Timed::Stage(stage) => stage.name(),
            Timed::Hook => "hook",
            Timed::CaughtUp => "caught_up",
        }
    }

    pub fn from_name(name: &str) -> Option<Timed> {
        Timed::ALL.into_iter().find(|timed| timed.name() == name)
    }
}

/// How long publications of a namespace took on one shard, in the order of [`Stage::ALL`].
#[derive(Clone, Debug)]
pub struct StageTimes {
    /// Empty for channels without one, "other" for those beyond the bound.
    pub namespace: Box<str>,
    pub stages: [Histogram; STAGES],
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_name_is_cut_between_characters() {
        assert_eq!(kept("ann"), "ann");
        let long = "ä".repeat(100);
        assert_eq!(kept(&long), "ä".repeat(64));
        let odd = format!("x{long}");
        assert_eq!(kept(&odd).len(), 127);
    }

    #[test]
    fn every_code_has_somebody_whose_doing_it_was() {
        for (code, by) in [
            (3000, EndedBy::Client),
            (3001, EndedBy::Node),
            (3005, EndedBy::Rule),
            (3008, EndedBy::Limit),
            (3012, EndedBy::Network),
            (3500, EndedBy::Rule),
            (3504, EndedBy::Limit),
            (4321, EndedBy::Rule),
        ] {
            assert_eq!(EndedBy::of_code(code), by, "{code}");
        }
    }
}
