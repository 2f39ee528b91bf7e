//! What the keeper has a server do, and what comes of it.

use std::sync::Arc;

use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::ids::{ChannelName, ConnId, Position};
use crate::base::publication::{ClientInfo, PayloadForm, Publications};
use crate::hub::requests::{HistoryRequest, JoinRequest, Read};
use crate::proto::centrifuge::shared::SharedPublication;
use crate::shard::control_request::ControlReply;
use crate::shard::owner::{JoinTag, ReadBy};

/// One thing to do at a server.
#[derive(Debug)]
pub struct EngineJob {
    pub what: Task,
    pub then: Then,
}

#[derive(Debug)]
pub enum Task {
    Publish {
        channel: ChannelName,
        publication: Box<SharedPublication>,
        /// How much is kept, and for how long; `None`: nothing.
        log: Option<LogTerms>,
        key: Option<Box<str>>,
        version: u64,
        version_epoch: Box<str>,
    },
    Event {
        channel: ChannelName,
        joined: bool,
        info: Arc<ClientInfo>,
    },
    History(LogRead),
    HistoryRemove(ChannelName),
    PresenceAdd {
        channel: ChannelName,
        info: Arc<ClientInfo>,
    },
    PresenceRemove {
        channel: ChannelName,
        client: String,
    },
    Presence(ChannelName),
    /// To all nodes, or to one.
    Say {
        node: Option<String>,
        message: Vec<u8>,
    },
}

/// How a channel's log is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogTerms {
    pub size: usize,
    pub ttl_s: u64,
    pub meta_ttl_s: u64,
    pub payload: PayloadForm,
}

#[derive(Clone, Debug)]
pub struct LogRead {
    pub channel: ChannelName,
    /// `None`: where the log stands, and no entry.
    pub entries: Option<LogEntries>,
    pub terms: LogTerms,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogEntries {
    /// The first offset that is wanted; backwards, 0 is the newest.
    pub from: u64,
    pub limit: usize,
    pub backwards: bool,
}

/// What came of a task.
#[derive(Debug)]
pub enum Done {
    /// Nothing is to be said about it.
    Nothing,
    Published(Position),
    Log(Publications, Position),
    Members(Vec<Arc<ClientInfo>>),
}

/// Why nothing came of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EngineFault {
    /// The server is not there, or does not take it now: later it may.
    Away,
    /// The server has something else under that name, or does not allow it.
    Refused,
    /// The engine cannot do it.
    NotAvailable,
}

impl EngineFault {
    /// What clients and backends are told.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            EngineFault::Away => ErrorCode::Unavailable,
            EngineFault::Refused => ErrorCode::Internal,
            EngineFault::NotAvailable => ErrorCode::NotAvailable,
        }
    }
}

/// Who waits for a task.
#[derive(Debug)]
pub enum Then {
    Nobody,
    /// Since when.
    Publish(JobTarget<Position>, Instant),
    Join(Box<(JoinRequest, JoinTag)>),
    Read(ReadBy, Read),
    History(HistoryRequest, JobTarget<crate::hub::requests::History>),
    HistoryRemove(ControlReply<()>),
    Presence(JobTarget<std::sync::Arc<crate::hub::Roster>>),
    PresenceStats(JobTarget<crate::hub::requests::PresenceStats>),
    /// What a channel here may have missed; it stood there when it was asked.
    Check(ChannelName, Position),
}

/// Where an answer goes.
#[derive(Debug)]
pub enum JobTarget<T> {
    Connection(ConnId, u32),
    /// Of a publication alone: with its position.
    Receipt(ConnId, u32),
    Control(ControlReply<T>),
}

/// Bytes that a task brings along: what a batch is bounded by.
pub fn weight(task: &Task) -> usize {
    match task {
        Task::Publish { publication, .. } => publication.data.len() + 256,
        Task::Event { info, .. } | Task::PresenceAdd { info, .. } => {
            256 + info.conn_info.as_ref().map_or(0, Bytes::len)
                + info.chan_info.as_ref().map_or(0, Bytes::len)
        }
        Task::Say { message, .. } => message.len() + 64,
        _ => 256,
    }
}
