//! `POST /api` as server libraries of former days call it: commands `{"method": …, "params": …}`, one for each line of the body,
//! and a reply for each on a line of its own.

use std::sync::Arc;

use ::http::{Request, StatusCode, header};
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::base::fault::ErrorCode;
use crate::control::api::{ApiCommandBody, ApiMethod, BATCH_COMMANDS_MAX, respond};
use crate::control::app::{App, without_key};
use crate::control::requests::ControlError;
use crate::control::responses::{busy, outcome_code, problem, read_body};

#[derive(Deserialize)]
struct LegacyLine<'l> {
    #[serde(default)]
    method: String,
    #[serde(borrow)]
    params: Option<&'l RawValue>,
}

pub async fn legacy(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, body) = request.into_parts();
    if let Some(response) = without_key(&app, &parts.headers, &parts.uri) {
        return counted(&app, response);
    }
    let body = match read_body(body, app.body_bytes_max).await {
        Ok(body) => body,
        Err(response) => return counted(&app, response),
    };
    let commands = match read(&body) {
        Ok(commands) => commands,
        Err(detail) => return counted(&app, problem(StatusCode::BAD_REQUEST, &detail)),
    };
    drop(body);
    let outcomes = match app.api.batch(commands, false).await {
        Ok(outcomes) => outcomes,
        Err(_) => return counted(&app, problem(StatusCode::BAD_REQUEST, "too many commands")),
    };
    for (name, outcome) in &outcomes {
        app.metrics.count_api(name, outcome_code(outcome));
    }
    if outcomes.iter().all(|(_, outcome)| matches!(outcome, Err(ControlError::Busy))) {
        return busy();
    }
    let mut text = String::new();
    for (_, outcome) in outcomes {
        // What was made to be written as JSON is.
        let reply = serde_json::to_string(&respond(outcome)).unwrap_or_default();
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&reply);
    }
    ([(header::CONTENT_TYPE, "application/json")], text).into_response()
}

/// A call that came to no method is counted by its status.
fn counted(app: &App, response: Response) -> Response {
    app.metrics.count_api("unknown", response.status().as_u16());
    response
}

/// # Errors
/// What is wrong with the body.
fn read(body: &[u8]) -> Result<Vec<ApiCommandBody>, String> {
    let mut commands = Vec::new();
    for line in serde_json::Deserializer::from_slice(body).into_iter::<LegacyLine<'_>>() {
        let LegacyLine { method, params } = line.map_err(|error| error.to_string())?;
        let params = params.map_or("{}", RawValue::get);
        commands.push(match ApiMethod::from_name(&method).filter(|&method| method != ApiMethod::Batch) {
            Some(method) => {
                ApiCommandBody::read(method, params.as_bytes()).map_err(|error| error.to_string())?
            }
            None => ApiCommandBody::Unknown,
        });
        if commands.len() > BATCH_COMMANDS_MAX {
            return Err("too many commands".to_string());
        }
    }
    match commands.is_empty() {
        true => Err(ErrorCode::BadRequest.message().to_string()),
        false => Ok(commands),
    }
}
