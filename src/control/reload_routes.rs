//! `POST /api/reload`: the configuration is read again, and the caller hears what changed or what is wrong.

use std::sync::Arc;

use ::http::{Request, StatusCode};
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::post;
use serde::Serialize;
use tokio::sync::oneshot;

use crate::control::app::{App, without_key};
use crate::control::responses::{json, problem};

#[derive(Serialize)]
struct Changed {
    changed: Vec<String>,
}

#[derive(Serialize)]
struct ReloadRefused {
    r#type: &'static str,
    title: &'static str,
    status: u16,
    detail: &'static str,
    /// Each in a sentence.
    faults: Vec<String>,
}

pub fn routes() -> Router<Arc<App>> {
    Router::new().route("/api/reload", post(reload))
}

async fn reload(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let response = match without_key(&app, request.headers(), request.uri()) {
        Some(response) => response,
        None => ask(&app).await,
    };
    app.counted("reload", response)
}

async fn ask(app: &App) -> Response {
    let (told, outcome) = oneshot::channel();
    let Some(reload) = &app.reload else {
        return problem(StatusCode::NOT_FOUND, "this node has no configuration to read again");
    };
    if !reload(told) {
        return problem(
            StatusCode::SERVICE_UNAVAILABLE,
            "the node is busy with another reload, or about to end",
        );
    }
    match outcome.await {
        Ok(Ok(changed)) => json(StatusCode::OK, &Changed { changed }),
        Ok(Err(faults)) => {
            let detail = "nothing was changed";
            let status = StatusCode::UNPROCESSABLE_ENTITY;
            let title = "Unprocessable Entity";
            json(
                status,
                &ReloadRefused { r#type: "about:blank", title, status: status.as_u16(), detail, faults },
            )
        }
        Err(_) => problem(StatusCode::CONFLICT, "the node is about to end: nothing was changed"),
    }
}
