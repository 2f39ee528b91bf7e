//! A connection that speaks HTTP: a request that is not complete, or not answered.

use http::Request as HttpRequest;

use crate::base::budget::{BudgetHeld, Lease};
use crate::base::time::Time;
use crate::proto::http1::{BodyDecoder, BodyLength, HeadScan};
use crate::shard::emulated::ClientRequest;
use crate::shard::unidirectional::pending::{Inquiry, PublishCommand};

/// How long the control plane may take over one request: longer than its own deadlines, so that it says why.
pub const ANSWER_PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A request that is not complete, or not answered.
#[derive(Default)]
pub struct Http {
    /// Unread input: a part of a head, or what follows the request that is being answered.
    pub unread: BudgetHeld,
    pub scan: HeadScan,
    pub request: Option<Request>,
    /// What the backend is asked about the request of a unidirectional client, which is in here.
    pub inquiry: Option<Box<Inquiry>>,
}

impl Http {
    /// Its answer is awaited of somebody.
    pub fn is_asked(&self) -> bool {
        self.inquiry.is_some() || self.request.as_ref().is_some_and(|request| request.asked)
    }

    /// A request's body is coming.
    pub fn takes_body(&self) -> bool {
        self.inquiry.is_none() && self.request.as_ref().is_some_and(|request| !request.asked)
    }

    /// Holds a part of a head, or requests whose turn has not come: nothing has begun.
    pub fn is_waiting(&self) -> bool {
        self.inquiry.is_none() && self.request.is_none()
    }

    /// What comes next would have to be kept: there is enough of it already. `owes`: the answer before is not gone.
    pub fn input_waits(&self, owes: bool) -> bool {
        let is_handed_over = self.request.as_ref().is_some_and(|request| request.asked);
        let is_behind = self.inquiry.is_some() || self.is_waiting() && owes;
        is_handed_over || is_behind && !self.unread.is_empty()
    }

    pub fn wants_stream(&self) -> bool {
        self.inquiry.as_ref().is_some_and(|inquiry| inquiry.endpoint.streams())
    }
}

/// A request whose head has been read.
pub struct Request {
    pub parts: http::request::Parts,
    /// The origin to allow in answers, as CORS names it.
    pub origin: Option<Box<str>>,
    pub keep_alive: bool,
    pub body: BudgetHeld,
    pub decoder: BodyDecoder,
    /// When the body must be there.
    pub until: Time,
    /// Bytes of the body, framing included, that have come since the timer was set.
    pub progress: u64,
    /// Counts the body while it is under way in the control plane.
    pub lease: Option<Lease>,
    /// Handed to the control plane: the answer is awaited, nothing is read.
    pub asked: bool,
    /// It publishes. Without, and if it is no client's, it is the control plane's.
    pub publish: Option<Box<PublishCommand>>,
    /// A client of the Centrifuge protocol begins with it, or speaks by it.
    pub client: Option<Box<ClientRequest>>,
}

impl Default for Request {
    /// A request without a body.
    fn default() -> Request {
        let decoder = BodyDecoder::new(BodyLength::None, 0);
        Request {
            parts: HttpRequest::new(()).into_parts().0,
            origin: None,
            keep_alive: false,
            body: Default::default(),
            decoder: decoder.unwrap_or_else(|_| unreachable!("no body is never too long")),
            until: Time::ZERO,
            progress: 0,
            lease: None,
            asked: false,
            publish: None,
            client: None,
        }
    }
}
