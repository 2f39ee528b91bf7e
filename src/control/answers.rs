//! The server API's answers as JSON has them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::ser::Error as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::ids::Position;
use crate::base::publication::{ClientInfo, PayloadForm};
use crate::control::pushes::PushOutcome;
use crate::hub::Publication;
use crate::hub::requests::History;

/// The `result` of an answer.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum ApiAnswer {
    Empty {},
    Position {
        offset: u64,
        epoch: String,
    },
    Broadcast {
        responses: Vec<Response>,
    },
    Presence {
        presence: BTreeMap<String, Info>,
    },
    PresencePage {
        presence: BTreeMap<String, Info>,
        /// `null` with the last page.
        cursor: Option<String>,
    },
    /// Connections of users that have any, and the names of nodes that have not answered.
    Online {
        online: BTreeMap<String, u64>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        missing: Vec<String>,
    },
    Cursors(CursorsAnswer),
    Blocked {
        blocked: Vec<BlockedEntry>,
        /// `null` with the last page.
        cursor: Option<String>,
    },
    PresenceStats {
        num_clients: u32,
        num_users: u32,
    },
    History {
        publications: Vec<PublicationBody>,
        offset: u64,
        epoch: String,
    },
    Channels {
        channels: BTreeMap<String, ChannelInfo>,
    },
    ChannelsPage {
        channels: BTreeMap<String, ChannelSizeAnswer>,
        /// `null` with the last page.
        cursor: Option<String>,
    },
    Nodes {
        nodes: Vec<NodeAnswer>,
    },
    /// Connections told, of all.
    Everyone {
        connections: u64,
    },
    /// Connections told, users with at least one of them, and those with none.
    Pushed {
        connections: u64,
        users: u64,
        absent: Vec<String>,
    },
}

impl From<PushOutcome> for ApiAnswer {
    fn from(outcome: PushOutcome) -> ApiAnswer {
        let PushOutcome { connections, users, absent } = outcome;
        ApiAnswer::Pushed { connections, users, absent }
    }
}

impl From<&History> for ApiAnswer {
    fn from(history: &History) -> ApiAnswer {
        let body = |publication: &Arc<Publication>| PublicationBody::of(publication, history.payload);
        ApiAnswer::History {
            publications: history.publications.iter().map(body).collect(),
            offset: history.position.offset.0,
            epoch: history.position.epoch.to_string(),
        }
    }
}

impl From<Position> for ApiAnswer {
    fn from(position: Position) -> ApiAnswer {
        ApiAnswer::Position { offset: position.offset.0, epoch: position.epoch.to_string() }
    }
}

/// One answer or one error.
#[derive(Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Response {
    Result(ApiAnswer),
    Error(ErrorBody),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorBody {
    pub code: u16,
    pub message: &'static str,
}

impl ErrorBody {
    /// Error 107 with a sentence that says what is wrong.
    pub fn invalid(message: &'static str) -> ErrorBody {
        ErrorBody { code: ErrorCode::BadRequest.code(), message }
    }
}

impl From<ErrorCode> for ErrorBody {
    fn from(error_code: ErrorCode) -> ErrorBody {
        let message = match error_code {
            // The API's own word for it; the client protocol says "method not found".
            ErrorCode::MethodNotFound => "not found",
            error_code => error_code.message(),
        };
        ErrorBody { code: error_code.code(), message }
    }
}

#[derive(Debug, Serialize)]
pub struct Info {
    user: String,
    client: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    conn_info: Option<JsonText>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chan_info: Option<JsonText>,
}

impl From<&ClientInfo> for Info {
    fn from(info: &ClientInfo) -> Info {
        Info {
            user: info.user.to_string(),
            client: info.client.clone(),
            conn_info: info.conn_info.clone().map(JsonText),
            chan_info: info.chan_info.clone().map(JsonText),
        }
    }
}

#[derive(Debug, Serialize)]
pub struct PublicationBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<JsonText>,
    /// In the place of `data`, where publications are bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    b64data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<Info>,
    offset: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    tags: BTreeMap<String, String>,
}

impl PublicationBody {
    pub fn of(publication: &Publication, form: PayloadForm) -> PublicationBody {
        let data = &publication.data;
        let (data, b64data) = match form {
            PayloadForm::Json => (Some(JsonText(data.clone())), None),
            PayloadForm::Bytes => (None, Some(STANDARD.encode(data))),
        };
        PublicationBody {
            data,
            b64data,
            info: publication.info.as_ref().map(Info::from),
            offset: publication.offset().0,
            tags: publication.tags.iter().cloned().collect(),
        }
    }
}

/// One entry of `blocked`.
#[derive(Debug, Serialize)]
pub struct BlockedEntry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<u64>,
    /// Seconds since 1970; left out: until it is taken back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

#[derive(Debug, Serialize)]
pub struct ChannelInfo {
    pub num_clients: u32,
}

/// A channel of a page.
#[derive(Debug, Serialize)]
pub struct ChannelSizeAnswer {
    pub num_clients: u32,
    pub history: usize,
    pub history_bytes: usize,
    /// Of the newest publication.
    pub offset: u64,
    /// A second, lately; only of the busiest channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub publications_per_second: Option<f64>,
}

#[derive(Debug, Serialize)]
pub struct NodeAnswer {
    pub uid: String,
    pub name: String,
    pub version: Cow<'static, str>,
    pub num_clients: u64,
    pub num_users: u64,
    pub num_channels: u64,
    pub num_subs: u64,
    /// Seconds.
    pub uptime: u64,
    pub metrics: MetricsBody,
    pub process: ProcessBody,
}

/// What was counted in a stretch of time.
#[derive(Debug, PartialEq, Serialize)]
pub struct MetricsBody {
    /// Seconds.
    pub interval: f64,
    /// By the names of `/metrics`, without what those begin with.
    pub items: BTreeMap<&'static str, f64>,
}

#[derive(Debug, Serialize)]
pub struct ProcessBody {
    /// Percent of one cpu.
    pub cpu: f64,
    /// Bytes.
    pub rss: u64,
}

/// JSON that was checked when it came in, written as it is.
#[derive(Debug)]
pub struct JsonText(pub Bytes);

impl Serialize for JsonText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_slice(&self.0).map_err(S::Error::custom)?;
        raw.serialize(serializer)
    }
}

/// The `result` of an answer about cursors.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum CursorsAnswer {
    Cursors {
        cursors: Vec<CursorBody>,
        /// Where the log ends.
        offset: u64,
        /// Empty: nothing is known of the channel.
        epoch: String,
        /// `null` with the last page.
        cursor: Option<String>,
    },
    Unread {
        /// By channel.
        unread: BTreeMap<String, UnreadEntry>,
        /// Of all channels.
        total: u64,
    },
    Users {
        users: Vec<String>,
        /// Of all pages.
        total: usize,
        /// `null` with the last page.
        cursor: Option<String>,
    },
    Changed {
        added: usize,
        removed: usize,
    },
}

#[derive(Debug, Serialize)]
pub struct CursorBody {
    pub user: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    pub received: u64,
    pub read: u64,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum UnreadEntry {
    Known { unread: u64, read: u64, offset: u64 },
    Wrong { error: UnreadError },
}

#[derive(Debug, Serialize)]
pub struct UnreadError {
    pub code: u16,
    pub message: &'static str,
}
