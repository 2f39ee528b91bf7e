//! The console: a page in the binary by which an operator sees a node and acts on it.
//!
//! Inputs: requests for its files, without a key. Outputs: the files, the same for all, with headers that keep scripts and frames
//! of others out. Must not know: keys and figures. The page asks the API for those, with the key that its user types.

use std::sync::Arc;

use ::http::{StatusCode, Uri, header};
use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use crate::control::app::App;
use crate::control::responses::problem;

/// Path, media type, and what is served.
const FILES: [(&str, &str, &[u8]); 13] = [
    ("/console", "text/html; charset=utf-8", include_bytes!("index.html")),
    ("/console/app.css", CSS, include_bytes!("app.css")),
    ("/console/app.js", SCRIPT, include_bytes!("app.js")),
    ("/console/api.js", SCRIPT, include_bytes!("api.js")),
    ("/console/charts.js", SCRIPT, include_bytes!("charts.js")),
    ("/console/figures.js", SCRIPT, include_bytes!("figures.js")),
    ("/console/live.js", SCRIPT, include_bytes!("live.js")),
    ("/console/look.js", SCRIPT, include_bytes!("look.js")),
    ("/console/page.js", SCRIPT, include_bytes!("page.js")),
    ("/console/tap.js", SCRIPT, include_bytes!("tap.js")),
    ("/console/vendored/uplot.css", CSS, include_bytes!("vendored/uplot.css")),
    ("/console/vendored/uplot.js", SCRIPT, include_bytes!("vendored/uplot.js")),
    // Its licence asks to be where the library is.
    ("/console/vendored/LICENSE.txt", "text/plain; charset=utf-8", include_bytes!("vendored/LICENSE.txt")),
];
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Scripts are the files above and nothing else, and no text becomes markup; nothing is asked of others; nobody frames it.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; \
     connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

const KEY_IN_URL: &str = "the console takes nothing in its URL, for that ends in logs and histories: open /console without a query \
     and type the key there. A key that was in a URL should be changed";

pub fn routes() -> Router<Arc<App>> {
    let files = FILES.into_iter().fold(Router::new(), |routes, (path, kind, bytes)| {
        routes.route(path, get(move |uri: Uri| async move { serve(&uri, kind, bytes) }))
    });
    // Its files are named from `/console`, so that they are found below the path of a proxy as well.
    files.route(
        "/console/",
        get(|| async { (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, "../console")]) }),
    )
}

fn serve(uri: &Uri, kind: &'static str, bytes: &'static [u8]) -> Response {
    let mut response = match uri.query() {
        None | Some("") => ([(header::CONTENT_TYPE, kind)], bytes).into_response(),
        Some(_) => problem(StatusCode::BAD_REQUEST, KEY_IN_URL),
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, ::http::HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_ask_nothing_of_others_and_name_only_what_is_served() {
        let ours = FILES.iter().filter(|(path, ..)| !path.contains("/vendored/"));
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        for (path, _, bytes) in ours {
            let text = text(bytes);
            for foreign in [
                "http://",
                "https://",
                "//cdn",
                "@import",
                "url(",
                "style=\"",
                "onclick",
                "onload=",
                "innerHTML",
            ] {
                assert!(!text.contains(foreign), "{foreign} in {path}");
            }
            // What a page or a script names is there.
            let named = ["src=\"", "href=\"", "from './"].into_iter().flat_map(|before| {
                text.split(before).skip(1).map(move |rest| (before, rest.split(['"', '\'']).next().unwrap()))
            });
            for (before, name) in named {
                let found = match before {
                    "from './" => format!("/console/{name}"),
                    _ => format!("/{name}"),
                };
                let is_here = name.starts_with('#') || name.starts_with("data:");
                assert!(is_here || FILES.iter().any(|(path, ..)| *path == found), "{path} names {name}");
            }
        }
        let html = text(FILES[0].2);
        assert_eq!(
            html.matches("<script").count(),
            html.matches("></script>").count(),
            "no script is inline"
        );
    }

    #[test]
    fn a_key_in_a_url_is_refused_with_a_sentence() {
        for query in ["?api_key=k", "?key=k", "?k"] {
            let uri = format!("/console{query}").parse().unwrap();
            let response = serve(&uri, CSS, b"");
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{query}");
            assert_eq!(response.headers()[header::CACHE_CONTROL], "no-store");
        }
        for whole in ["/console", "/console?"] {
            assert_eq!(serve(&whole.parse().unwrap(), CSS, b"").status(), StatusCode::OK);
        }
    }
}
