//! What a request of this surface waits for before it can be carried out: its body, or the backend.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::ids::ChannelName;
use crate::session::hook_call::{Headers, Waiting};
use crate::session::request::{Endpoint, RequestSaid, UnidirectionalRequest};
use crate::session::unidirectional::ReplyForm;

/// A publication whose body is still to come.
pub struct PublishCommand {
    pub request: UnidirectionalRequest,
    pub reply: ReplyForm,
    /// For the hook that is asked about it.
    pub headers: Option<Arc<Headers>>,
}

/// A hook call about a request.
pub struct Inquiry {
    pub endpoint: Endpoint,
    pub number: u32,
    /// Dropped with the request: that cancels.
    pub _waiting: Option<Waiting>,
    /// To refuse with.
    pub reply: ReplyForm,
    pub asked: InquirySubject,
    pub step: PendingStep,
}

/// Where the request goes on.
pub enum PendingStep {
    /// It is judged again from its head.
    Head {
        bytes: Vec<u8>,
        said: RequestSaid,
    },
    Publication {
        command: Box<PublishCommand>,
        body: Bytes,
    },
}

/// What was asked about.
pub enum InquirySubject {
    Connect,
    Subscribe(ChannelName),
    Publish,
}
