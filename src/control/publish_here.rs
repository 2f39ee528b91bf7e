//! Publishing on the thread of the shard that has the request: no thread of the control plane is woken for it, and none for
//! its answer. Whatever is unusual about a request takes the way of all others.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ::http::{HeaderValue, Method, Request, header};
use parking_lot::Mutex;
use slab::Slab;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::base::ids::{Position, ShardId};
use crate::base::json::object;
use crate::control::answers::ApiAnswer;
use crate::control::api::publication;
use crate::control::app::App;
use crate::control::deliver::deliver;
use crate::control::http::{ServedPort, reply, transport_errors};
use crate::control::requests::ControlError;
use crate::control::responses::{outcome_code, whole};
use crate::control::wire::PublishBody;
use crate::hub::requests::PublishRequest;
use crate::shard::control_request::{ControlReply, ControlRequest, HttpReply};

/// Longer bodies are read elsewhere: others of the shard wait meanwhile.
const BODY_BYTES_MAX: usize = 16 * 1024;

const PATH: &str = "/api/publish";

/// How often it is looked who waits in vain.
const LOOK: Duration = Duration::from_millis(500);

/// A publication that the shard can pass on itself.
pub(super) struct PublicationHere {
    ask: PublishRequest,
    owner: ShardId,
    transport_errors: bool,
}

/// Those that wait for an owner's answer.
pub(super) struct PublishHere {
    app: Arc<App>,
    handle: Handle,
    /// Bound: the permits in them.
    waiting: Mutex<WaitingPublication>,
}

#[derive(Default)]
struct WaitingPublication {
    places: Slab<PublishCaller>,
    /// Callers ever, wrapping: a place is given again.
    callers: u32,
}

struct PublishCaller {
    number: u32,
    until: Instant,
    way: HttpReply,
    permit: OwnedSemaphorePermit,
    transport_errors: bool,
}

/// Where a caller waits.
#[derive(Clone, Copy)]
struct PublisherPlace {
    key: usize,
    number: u32,
}

impl PublicationHere {
    /// `None`: the request is for other things, is to be refused, or has more to it.
    pub fn of(app: &App, port: ServedPort, request: &Request<Bytes>) -> Option<PublicationHere> {
        let is_publish = port != ServedPort::ClientsOnly
            && request.uri().path() == PATH
            && request.method() == Method::POST
            && request.body().len() <= BODY_BYTES_MAX
            && app.tracer.is_none();
        if !is_publish || !app.keys.admit(request.headers(), request.uri()) {
            return None;
        }
        let body: PublishBody = object(request.body()).ok()?;
        let ask = publication(body).ok()?;
        let owner = app.api.shards().router().owning_shard(&ask.channel)?;
        Some(PublicationHere { ask, owner, transport_errors: transport_errors(request.headers()) })
    }
}

impl PublishHere {
    pub fn start(app: Arc<App>, handle: Handle) -> Arc<PublishHere> {
        let here = Arc::new(PublishHere { app, handle, waiting: Mutex::default() });
        let looked_after = Arc::downgrade(&here);
        here.handle.spawn(async move {
            while let Some(here) = looked_after.upgrade() {
                here.give_up(Instant::now());
                drop(here);
                tokio::time::sleep(LOOK).await;
            }
        });
        here
    }

    /// To the owner of its channel, whose answer goes the way back.
    pub fn pass_on(
        self: &Arc<Self>,
        publication: PublicationHere,
        way: HttpReply,
        permit: OwnedSemaphorePermit,
    ) {
        let PublicationHere { ask, owner, transport_errors } = publication;
        let shards = self.app.api.shards();
        let place = self.waiting.lock().put(PublishCaller {
            number: 0,
            until: Instant::now() + shards.timeout(),
            way,
            permit,
            transport_errors,
        });
        let here = Arc::clone(self);
        let to_owner = ControlReply::new(move |result: Result<Position, ErrorCode>| {
            here.answer(place, result.map(ApiAnswer::from).map_err(ControlError::from));
        });
        if let Err(unsent) = shards.router().offer(owner, Box::new(ControlRequest::Publish(ask, to_owner))) {
            // Before the reply is dropped, which would say something else.
            self.answer(place, Err(ControlError::Busy));
            drop(unsent);
        }
    }

    /// Answers who waits there, unless that was done.
    fn answer(&self, place: PublisherPlace, outcome: Result<ApiAnswer, ControlError>) {
        let Some(caller) = self.waiting.lock().take(place) else { return };
        self.app.metrics.count_api("publish", outcome_code(&outcome));
        let PublishCaller { mut way, permit, transport_errors, .. } = caller;
        let mut response = whole(reply(outcome, transport_errors));
        // As the routes of the others do.
        let len = HeaderValue::from(response.body().len());
        response.headers_mut().insert(header::CONTENT_LENGTH, len);
        let mut response = Some(response);
        // First the permit: who has the answer may ask again at once.
        drop(permit);
        way.send(&mut response);
        if response.is_some() {
            // The shard has no room for it now.
            self.handle.spawn(deliver(move || {
                way.send(&mut response);
                response.is_none()
            }));
        }
    }

    /// Answers those whose owner has not in its time.
    fn give_up(&self, now: Instant) {
        let overdue = self.waiting.lock().overdue(now);
        for place in overdue {
            self.answer(place, Err(ErrorCode::Internal.into()));
        }
    }
}

impl WaitingPublication {
    fn put(&mut self, caller: PublishCaller) -> PublisherPlace {
        self.callers = self.callers.wrapping_add(1);
        let number = self.callers;
        PublisherPlace { key: self.places.insert(PublishCaller { number, ..caller }), number }
    }

    fn take(&mut self, place: PublisherPlace) -> Option<PublishCaller> {
        self.places.get(place.key).filter(|caller| caller.number == place.number)?;
        self.places.try_remove(place.key)
    }

    fn overdue(&self, now: Instant) -> Vec<PublisherPlace> {
        let overdue = self.places.iter().filter(|(_, caller)| caller.until <= now);
        overdue.map(|(key, caller)| PublisherPlace { key, number: caller.number }).collect()
    }
}
