//! Who may call the API.

use ::http::{HeaderMap, Uri, header};
use axum::extract::Query;
use serde::Deserialize;

use crate::config::Secret;

/// The keys that are accepted.
#[derive(Clone, Debug)]
pub struct ApiKeys(Vec<Secret>);

impl ApiKeys {
    pub fn new(keys: Vec<Secret>) -> ApiKeys {
        ApiKeys(keys)
    }

    /// Whether the request shows one of the keys: as `X-API-Key`, as `Authorization: apikey KEY`, or in the query as
    /// `api_key`. The first of them that is there counts.
    pub fn admit(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let from_query;
        let shown = if let Some(value) = headers.get("x-api-key") {
            value.as_bytes()
        } else if let Some(value) = headers.get(header::AUTHORIZATION) {
            match value.as_bytes().split_at_checked("apikey ".len()) {
                Some((scheme, key)) if scheme.eq_ignore_ascii_case(b"apikey ") => key.trim_ascii(),
                _ => return false,
            }
        } else {
            from_query = Query::<KeyQuery>::try_from_uri(uri).ok().and_then(|Query(query)| query.api_key);
            match &from_query {
                Some(key) => key.as_bytes(),
                None => return false,
            }
        };
        // Every key is looked at in full, so that the time taken does not tell which one was nearly right.
        self.0.iter().fold(false, |found, key| found | same(shown, key.reveal().as_bytes()))
    }
}

#[derive(Deserialize)]
struct KeyQuery {
    api_key: Option<String>,
}

/// Equality in a time that depends on the lengths only.
fn same(shown: &[u8], key: &[u8]) -> bool {
    let mut difference = u8::from(shown.len() != key.len());
    for (at, byte) in key.iter().enumerate() {
        difference |= byte ^ shown.get(at).copied().unwrap_or(0);
    }
    // Keeps the compiler from leaving the loop early.
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admits(name: &'static str, value: &str, uri: &str) -> bool {
        let keys = ApiKeys::new(vec![Secret::new("one key"), Secret::new("two")]);
        let mut headers = HeaderMap::new();
        if !name.is_empty() {
            headers.insert(name, value.parse().unwrap());
        }
        keys.admit(&headers, &uri.parse().unwrap())
    }

    #[test]
    fn a_key_is_found_in_its_three_places() {
        assert!(admits("x-api-key", "two", "/"));
        assert!(admits("authorization", "apikey two", "/"));
        assert!(admits("authorization", "ApiKey one key", "/"));
        assert!(admits("", "", "/api/info?x=1&api_key=one%20key"));
    }

    #[test]
    fn anything_else_is_refused() {
        for wrong in ["", "tw", "twoo", "Two", "three"] {
            assert!(!admits("x-api-key", wrong, "/"), "{wrong:?}");
            assert!(!admits("authorization", &format!("apikey {wrong}"), "/"), "{wrong:?}");
        }
        assert!(!admits("authorization", "Bearer two", "/"));
        assert!(!admits("authorization", "api", "/"));
        assert!(!admits("", "", "/?api_key="));
        assert!(!admits("", "", "/?api_key=two&api_key=two"), "twice is ambiguous");
        assert!(!admits("x-api-key", "wrong", "/?api_key=two"), "the header counts");
        assert!(!ApiKeys::new(Vec::new()).admit(&HeaderMap::new(), &"/?api_key=".parse().unwrap()));
    }
}
