//! Requests of unidirectional clients that the backend is asked about: who it is, whether it may have a channel, what
//! it publishes.
//!
//! Inputs: requests that cannot be judged without the backend, its answers. Outputs: the same requests once more, with
//! what it has said; refusals. The connection still speaks HTTP meanwhile; its next request waits.

use std::sync::Arc;

use crate::base::fault::{Disconnect, ErrorCode};
use crate::base::ids::UserName;
use crate::proto::centrifuge::Format;
use crate::proto::http1;
use crate::proto::unidirectional::problem::{PROBLEM_TYPE, Problem, write_problem};
use crate::session::hook_call::{Answer, Caller, Denied, Headers, HookRequest};
use crate::session::permissions::Deed;
use crate::session::request::{Endpoint, RequestSaid, ends_with, user_of};
use crate::session::unidirectional::{ReplyForm, UnidirectionalAdmission};
use crate::session::{Identity, rights};
use crate::shard::core::Core;
use crate::shard::links::Action;
use crate::shard::requests::Http;
use crate::shard::unidirectional::answers::{self, Caching};
use crate::shard::unidirectional::pending::{Inquiry, InquirySubject, PendingStep, PublishCommand};
use crate::shard::view::View;

impl Core {
    /// Who asks, for the backend.
    pub(super) fn uni_caller(
        &self,
        slot: u32,
        endpoint: Endpoint,
        identity: Option<&Identity>,
        headers: Option<Arc<Headers>>,
    ) -> Caller {
        Caller {
            client: self.client_id(slot),
            user: identity.and_then(|known| known.user.clone()).unwrap_or_else(|| UserName::from("")),
            transport: endpoint.transport(),
            format: Format::Json,
            meta: identity.and_then(|known| known.meta.as_deref().cloned()),
            headers,
            certificate: self.links.layers.certificate(slot),
            address: self.client_address(slot),
        }
    }

    /// Makes a hook call about a request; `unread` is what has come behind it.
    #[expect(clippy::too_many_arguments, reason = "what an inquiry is made of, once each")]
    pub(super) fn ask_for_uni(
        &mut self,
        slot: u32,
        step: PendingStep,
        endpoint: Endpoint,
        reply: ReplyForm,
        caller: Caller,
        hook_request: HookRequest,
        unread: &[u8],
    ) {
        let asked = match &hook_request {
            HookRequest::Subscribe { channel, .. } => InquirySubject::Subscribe(channel.clone()),
            HookRequest::Publish { .. } => InquirySubject::Publish,
            _ => InquirySubject::Connect,
        };
        let (number, waiting) = self.make_hook_call(self.conn_id(slot), caller, hook_request);
        let inquiry = Inquiry { endpoint, number, _waiting: waiting, reply, asked, step };
        let Some(kept) = self.links.connections.requests_mut(slot) else {
            return;
        };
        let mut http = kept.take().unwrap_or_default();
        if !unread.is_empty() && self.keep_input(slot, &mut http.unread, unread).is_err() {
            return self.refuse_full(slot, inquiry.reply.allowed_origin());
        }
        http.inquiry = Some(Box::new(inquiry));
        let more = !http.unread.is_empty();
        self.keep_http(slot, http);
        self.timer_in(slot, self.env.options.hook_call_patience);
        // Reading goes on, or the end of a peer that is no longer interested would not be seen. A client that sends more has
        // said enough for now.
        self.links.actions.push(if more { Action::ReadPause(slot) } else { Action::ReadStart(slot) });
    }

    /// The backend has answered a hook call about a request. False when that is not the one that is out.
    pub fn handle_inquiry_answer(&mut self, slot: u32, number: u32, outcome: Result<Answer, Denied>) -> bool {
        let Some((inquiry, unread)) = self.take_inquiry(slot, Some(number)) else { return false };
        let Inquiry { endpoint, reply, asked, step, .. } = inquiry;
        match step {
            PendingStep::Head { bytes, mut said } => match self.hear(&mut said, asked, outcome) {
                Ok(()) => self.judge_again(slot, endpoint, bytes, &unread, said),
                Err(denied) => self.deny_request(slot, &reply, denied, unread),
            },
            PendingStep::Publication { command, body } => {
                let changes = match outcome {
                    Ok(Answer::Publish(changes)) => Ok(Some(changes)),
                    Ok(_) => Err(UNAVAILABLE),
                    Err(Denied::Unavailable { let_in: true }) => match self.may_publish(&command) {
                        true => Ok(None),
                        false => Err(InquiryRefused::Problem(ErrorCode::PermissionDenied.into())),
                    },
                    Err(denied) => Err(denied.into()),
                };
                match changes {
                    Ok(changes) => {
                        self.publish_for_uni(slot, *command, body, changes);
                        match unread.is_empty() {
                            true => self.links.actions.push(Action::ReadStart(slot)),
                            false => self.keep_for_later(slot, &unread),
                        }
                    }
                    Err(denied) => self.deny_request(slot, &reply, denied, unread),
                }
            }
        }
        true
    }

    pub fn handle_inquiry_timer(&mut self, slot: u32) {
        let conn = self.conn_id(slot);
        let http = self.links.connections.requests(slot).and_then(|requests| requests.as_ref());
        let Some(number) = http.and_then(|http| Some(http.inquiry.as_ref()?.number)) else { return };
        self.handle_backend_answer(conn, number, Err(Denied::Unavailable { let_in: false }));
    }

    /// The connection is about to end: nothing begins on it any more.
    pub fn end_inquiry(&mut self, slot: u32) {
        let Some((mut inquiry, _)) = self.take_inquiry(slot, None) else { return };
        inquiry.reply.keep_alive = false;
        self.refuse_now(slot, &inquiry.reply, ErrorCode::TooManyRequests.into(), &[]);
    }

    /// Takes the hook call that is out, if it has the number, and what came in behind its request.
    fn take_inquiry(&mut self, slot: u32, number: Option<u32>) -> Option<(Inquiry, Vec<u8>)> {
        let connection = self.links.connections.get_mut(slot)?;
        let kept = connection.peer.requests_mut()?;
        let awaited = kept.as_ref()?.inquiry.as_ref()?.number;
        if number.is_some_and(|number| number != awaited) {
            return None;
        }
        let Http { mut unread, inquiry, .. } = *kept.take()?;
        let mut inquiry = *inquiry?;
        inquiry.reply.keep_alive &= !connection.link.peer_ended();
        Some((inquiry, unread.take()))
    }

    /// Takes an answer into account.
    fn hear(
        &self,
        said: &mut RequestSaid,
        asked: InquirySubject,
        outcome: Result<Answer, Denied>,
    ) -> Result<(), InquiryRefused> {
        let unix_s = self.unix_s();
        let not_over = |expire_at_s: u64| match expire_at_s != 0 && expire_at_s <= unix_s {
            // An answer that was late, or a clock that is wrong: no reason for a unidirectional client to stay away.
            true => Err(InquiryRefused::Problem(Problem {
                status: 503,
                error_code: ErrorCode::Internal,
                detail: "what the backend grants has ended already",
            })),
            false => Ok(()),
        };
        match (asked, outcome) {
            (InquirySubject::Connect, Ok(Answer::Connect(answer))) => {
                not_over(answer.expire_at_s)?;
                let identity = Identity {
                    user: (!answer.user.is_empty()).then(|| answer.user.as_str().into()),
                    conn_info: answer.info,
                    meta: answer.meta.map(Box::new),
                    expire_at_s: answer.expire_at_s,
                    device: answer.device.map(|device| Box::new(device.into())),
                    ..Identity::default()
                };
                let known = identity != Identity::default();
                let mut admission = UnidirectionalAdmission {
                    identity: known.then(|| Box::new(identity)),
                    granted: Vec::new(),
                };
                for (channel, granted) in answer.subs {
                    not_over(granted.expire_at_s)?;
                    ends_with(&mut admission, granted.expire_at_s);
                    admission.granted.push((channel, granted.grant));
                }
                said.admission = Some(admission);
            }
            (InquirySubject::Subscribe(channel), Ok(Answer::Subscribe(granted))) => {
                not_over(granted.expire_at_s)?;
                said.channels.push((channel, Some(*granted)));
            }
            (InquirySubject::Connect, Err(Denied::Unavailable { let_in: true }))
                if self.env.options.allow_anonymous =>
            {
                said.admission = Some(UnidirectionalAdmission::default());
            }
            (InquirySubject::Subscribe(channel), Err(Denied::Unavailable { let_in: true })) => {
                said.channels.push((channel, None));
            }
            (_, Err(denied)) => return Err(denied.into()),
            (_, Ok(_)) => return Err(UNAVAILABLE),
        }
        Ok(())
    }

    fn judge_again(
        &mut self,
        slot: u32,
        endpoint: Endpoint,
        mut bytes: Vec<u8>,
        unread: &[u8],
        said: RequestSaid,
    ) {
        bytes.extend_from_slice(unread);
        // It goes back to reading unless it has to be asked about once more.
        self.links.actions.push(Action::ReadStart(slot));
        self.timer_in(slot, self.env.options.connect_timeout);
        let Ok(Some((head, head_len))) = http1::parse_head(&bytes) else { return self.give_up(slot) };
        let consumed = self.handle_uni_head(slot, endpoint, &head, &bytes, head_len, Some(said));
        self.handle_bytes(slot, &mut bytes[consumed..]);
    }

    /// What is allowed of a publication that the backend cannot judge.
    fn may_publish(&self, command: &PublishCommand) -> bool {
        let Some(asked) = command.request.channels.first() else { return false };
        let admission = &command.request.admission;
        let view = View { options: &self.env.options, followed: &self.delivery.followed };
        let rights = rights::of_user(&view, &asked.name, user_of(admission.identity.as_deref()));
        rights.is_ok_and(|rights| {
            // Who may subscribe by a hook, nobody knows without it.
            let subscribe = rights.may(Deed::Subscribe, false) && !rights.subscribe_hook;
            rights.may(Deed::Publish, subscribe || admission.grant(&asked.name).is_some())
        })
    }

    fn deny_request(&mut self, slot: u32, reply: &ReplyForm, refused: InquiryRefused, mut unread: Vec<u8>) {
        let goes_on = match refused {
            InquiryRefused::Problem(problem) => self.refuse_now(slot, reply, problem, &[]),
            InquiryRefused::ByBackend { status: 503, message, .. } if reply.events => {
                let disconnect =
                    Disconnect { reason: message.into_string().into(), ..Disconnect::SERVER_ERROR };
                self.end_events_now(slot, reply, &disconnect)
            }
            InquiryRefused::ByBackend { status, code, message } => {
                let mut body = Vec::new();
                write_problem(&mut body, status, code, &message, "");
                let fields: &[(&str, &[u8])] = if status == 503 { &[("Retry-After", b"1")] } else { &[] };
                let answer = answers::UnidirectionalAnswer {
                    status,
                    caching: Caching::Never,
                    content_type: PROBLEM_TYPE,
                    tag: None,
                    fields,
                    body,
                };
                self.answer_now(slot, reply, answer)
            }
        };
        if goes_on {
            self.links.actions.push(Action::ReadStart(slot));
            self.handle_bytes(slot, &mut unread);
        }
    }
}

/// Why a request comes to nothing after the backend was asked.
enum InquiryRefused {
    Problem(Problem),
    /// In the backend's own words.
    ByBackend {
        status: u16,
        code: u16,
        message: Box<str>,
    },
}

const UNAVAILABLE: InquiryRefused = InquiryRefused::Problem(Problem {
    status: 503,
    error_code: ErrorCode::Internal,
    detail: "the backend cannot be asked now",
});

impl From<Denied> for InquiryRefused {
    fn from(denied: Denied) -> InquiryRefused {
        match denied {
            Denied::Error { code, message, temporary } => {
                InquiryRefused::ByBackend { status: if temporary { 503 } else { 403 }, code, message }
            }
            Denied::Disconnect(Disconnect { code, reason }) => {
                InquiryRefused::ByBackend { status: 403, code, message: reason.into() }
            }
            Denied::Unavailable { .. } => UNAVAILABLE,
        }
    }
}
