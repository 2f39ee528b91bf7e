//! The bodies of requests, and the answers that all handlers give alike.

use std::pin::pin;
use std::task::{Context, Poll, Waker};

use ::http::{HeaderValue, StatusCode, header};
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::base::bytes::Bytes;
use crate::base::fault::ErrorCode;
use crate::control::answers::ApiAnswer;
use crate::control::requests::ControlError;

/// The whole body. It has arrived: both ports read it before they hand the request over.
///
/// # Errors
/// The response to give instead: 413 when it is too long.
pub async fn read_body(body: Body, bytes_max: usize) -> Result<Bytes, Response> {
    axum::body::to_bytes(body, bytes_max).await.map_err(|_| {
        let detail = format!("the body may have {bytes_max} bytes (api.body_bytes_max)");
        problem(StatusCode::PAYLOAD_TOO_LARGE, &detail)
    })
}

/// A shard's inbox was full: nothing was done.
pub fn busy() -> Response {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, "a shard is busy: try again");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The store of durable channels has not taken it: nothing was published.
pub fn stored_nothing(error_code: ErrorCode) -> Response {
    let mut response = problem(StatusCode::SERVICE_UNAVAILABLE, error_code.message());
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// The engine that keeps the channel does not answer.
pub fn unavailable() -> Response {
    let mut response = problem(
        StatusCode::SERVICE_UNAVAILABLE,
        "the engine is away: if this was a publish, it may have been done; an idempotency_key makes it safe to try again",
    );
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

/// RFC 9457.
#[derive(Serialize)]
struct ProblemBody<'p> {
    r#type: &'static str,
    title: &'p str,
    status: u16,
    detail: &'p str,
}

pub fn problem(status: StatusCode, detail: &str) -> Response {
    let title = status.canonical_reason().unwrap_or_default();
    let mut response =
        json(status, &ProblemBody { r#type: "about:blank", title, status: status.as_u16(), detail });
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

pub fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => (status, [(header::CONTENT_TYPE, "application/json")], bytes).into_response(),
        // A payload that is no JSON got past the edge: a bug of ours, and not the caller's to see.
        Err(error) => {
            tracing::error!(%error, "a response could not be written as JSON");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

/// A response in one piece. Our own handlers made its body and it is whole already: nothing is waited for, no bound is
/// needed, no error is possible.
pub fn whole(response: Response) -> ::http::Response<Bytes> {
    let (parts, body) = response.into_parts();
    let body = pin!(axum::body::to_bytes(body, usize::MAX));
    let body = match body.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Ok(body)) => body,
        Poll::Ready(Err(_)) | Poll::Pending => Bytes::new(),
    };
    ::http::Response::from_parts(parts, body)
}

/// As it is counted: 0 for success, the code of an error, or the status of one that was not taken.
pub fn outcome_code(outcome: &Result<ApiAnswer, ControlError>) -> u16 {
    match outcome {
        Ok(_) => 0,
        Err(ControlError::Refused(error_code)) => error_code.code(),
        Err(ControlError::Invalid(_)) => ErrorCode::BadRequest.code(),
        Err(ControlError::Busy) => StatusCode::SERVICE_UNAVAILABLE.as_u16(),
    }
}
