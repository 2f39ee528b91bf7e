//! What a request of a client of the Centrifuge protocol without WebSocket is kept as, and the messages about its commands: see
//! `emulation.rs`.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::ids::ConnId;
use crate::proto::centrifuge::Format;
use crate::session::hook_call::Headers;
use crate::session::paths::ClientPath;
use crate::session::unidirectional::ReplyForm;

/// In the query of a request without a body: the first commands of a client, or the connect of a unidirectional one.
pub const CONNECT_PARAMETER: &str = "cf_connect";

/// What a request of such a client needs until its body is there, or its answer.
pub struct ClientRequest {
    pub path: ClientPath,
    pub format: Format,
    pub reply: ReplyForm,
    pub token: Option<Box<str>>,
    /// The tag that the client names itself by.
    pub origin: Option<Box<str>>,
    pub headers: Option<Arc<Headers>>,
}

/// Commands on their way to the shard of their client.
#[derive(Debug)]
pub struct EmulationMessage {
    pub conn: ConnId,
    pub format: Format,
    pub commands: Bytes,
    pub asker: Asker,
}

/// Who hears what became of commands.
#[derive(Clone, Debug)]
pub enum Asker {
    /// The connection that brought them.
    Connection(ConnId),
    /// Another node, by the number that it gave them.
    Node { uid: Box<str>, number: u64 },
}

/// Commands of a client of another node.
#[derive(Debug)]
pub struct ForeignCommands {
    /// The id of the node that has the client.
    pub node: Box<str>,
    pub session: Box<str>,
    pub format: Format,
    pub commands: Bytes,
    pub asker: ConnId,
}

/// What became of such commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmulationOutcome {
    Taken,
    /// There is no such client, or none any more.
    Unknown,
    /// The client writes otherwise.
    WrongFormat,
    TooLong,
    /// The client has too many commands waiting.
    Full,
}
