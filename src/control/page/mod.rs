//! The page of development mode: try the node from a browser, see every arrival, copy the line a backend would send.
//!
//! Inputs: the key to show. Outputs: one self-contained HTML document. Must not know: anything of shards; the page
//! itself speaks the client protocol like any other client.

use ::http::{HeaderValue, header};
use axum::response::{Html, IntoResponse as _, Response};

use crate::base::bytes::Bytes;
use crate::config::Secret;

const HTML: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// The ways to listen without an SDK, side by side.
const TRANSPORTS: &str = include_str!("transports.js");

/// Nothing but what is in the document and this node itself.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
     img-src data:; connect-src 'self' ws: wss:; frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The document, made once: with the key, and without.
pub struct Page {
    with_key: Bytes,
    without_key: Bytes,
}

impl Page {
    /// `api_port` when the API is served on another port than the page.
    pub fn new(key: &Secret, api_port: Option<u16>) -> Page {
        Page { with_key: document(key.reveal(), api_port), without_key: document("", api_port) }
    }

    /// The key goes only to who asked for a loopback name. A name of somebody else's that was made to point here
    /// (DNS rebinding) is not one, so that a stranger's page cannot read the key through the visitor's browser.
    pub fn serve(&self, host: Option<&HeaderValue>) -> Response {
        let document = match host.and_then(|host| host.to_str().ok()) {
            Some(host) if is_loopback_name(host) => &self.with_key,
            _ => &self.without_key,
        };
        let headers = [
            (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
            (header::CACHE_CONTROL, "no-store"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        ];
        (headers, Html(document.clone())).into_response()
    }
}

fn document(key: &str, api_port: Option<u16>) -> Bytes {
    // Inside a script element only `<` could end the text early.
    let config = serde_json::json!({ "key": key, "api_port": api_port }).to_string().replace('<', "\\u003c");
    HTML.replacen("/*STYLE*/", STYLE, 1)
        .replacen("/*CONFIG*/", &config, 1)
        .replacen("/*SCRIPT*/", SCRIPT, 1)
        .replacen("/*TRANSPORTS*/", TRANSPORTS, 1)
        .into()
}

/// `localhost`, names below it, and loopback addresses, each with or without a port.
fn is_loopback_name(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(address, _)| address),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let name = name.to_ascii_lowercase();
    name == "localhost"
        || name.ends_with(".localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_names_are_known_from_others() {
        for host in [
            "localhost",
            "localhost:8000",
            "LOCALHOST:1",
            "127.0.0.1:8000",
            "127.8.9.1",
            "[::1]:8000",
            "a.localhost",
        ] {
            assert!(is_loopback_name(host), "{host}");
        }
        for host in [
            "",
            "evil.com",
            "localhost.evil.com:8000",
            "10.0.0.1:8000",
            "[::2]:1",
            "127.0.0.1.evil.com",
            "[::1",
        ] {
            assert!(!is_loopback_name(host), "{host}");
        }
    }

    #[test]
    fn the_document_is_whole_and_its_key_stays_in_its_place() {
        let text = String::from_utf8(document("k</script>\"", Some(9)).to_vec()).unwrap();
        assert!(text.contains(r#"{"api_port":9,"key":"k\u003c/script>\""}"#), "{text}");
        for placeholder in ["/*STYLE*/", "/*SCRIPT*/", "/*TRANSPORTS*/", "/*CONFIG*/"] {
            assert!(!text.contains(placeholder), "{placeholder}");
        }
        assert_eq!(text.matches("</script>").count(), text.matches("<script").count());
        for download in ["src=\"http", "href=\"http", "@import", "url("] {
            assert!(!text.contains(download), "{download}");
        }
    }
}
