//! Who may call the API.

use ::http::{HeaderMap, Uri, header};
use subtle::ConstantTimeEq as _;

use crate::config::Secret;
use crate::proto::unidirectional::query;

/// The keys that are accepted.
#[derive(Clone, Debug)]
pub struct ApiKeys(Vec<Secret>);

impl ApiKeys {
    pub fn new(keys: Vec<Secret>) -> ApiKeys {
        ApiKeys(keys)
    }

    /// Whether the request shows one of the keys: as `X-API-Key`, as `Authorization: apikey KEY`, or in the query as
    /// `api_key`. A gateway in front may use these fields for keys of its own: what is none of ours hides no key of
    /// ours.
    pub fn admit(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let apikey = |value: &'_ [u8]| {
            let (scheme, key) = value.split_at_checked("apikey ".len())?;
            scheme.eq_ignore_ascii_case(b"apikey ").then(|| key.trim_ascii().to_vec())
        };
        let by_name = headers.get_all("x-api-key").iter().map(|value| value.as_bytes().to_vec());
        let by_scheme =
            headers.get_all(header::AUTHORIZATION).iter().filter_map(|value| apikey(value.as_bytes()));
        let in_query = query::pairs(uri.query().unwrap_or_default().as_bytes())
            .filter(|(name, _)| name == "api_key")
            .filter_map(|(_, key)| Some(key?.into_owned().into_bytes()));
        // Every key is looked at in full, so that the time taken does not tell which one was nearly right.
        by_name.chain(by_scheme).chain(in_query).fold(false, |found, shown| {
            self.0.iter().fold(found, |found, key| found | bool::from(shown.ct_eq(key.reveal().as_bytes())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

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
    fn what_is_somebody_elses_hides_no_key() {
        for (name, foreign) in [
            ("x-api-key", "of-a-gateway"),
            ("authorization", "Basic eDp5"),
            ("authorization", "Bearer two"),
            ("cookie", "a"),
        ] {
            assert!(!admits(name, foreign, "/"));
            for query in [
                "api_key=two",
                "utm=50%&api_key=two",
                "api_key=wrong&api_key=two&x=caf%E9",
                "api_key=%zz&api_key=two",
            ] {
                assert!(admits(name, foreign, &format!("/?{query}")), "{foreign} {query}");
            }
        }
        let keys = ApiKeys::new(vec![Secret::new("two")]);
        let mut headers = HeaderMap::new();
        for value in ["Basic eDp5", "apikey two"] {
            headers.append("authorization", value.parse().unwrap());
        }
        headers.append("x-api-key", HeaderValue::from_bytes(b"\xe9").unwrap());
        assert!(keys.admit(&headers, &"/".parse().unwrap()));
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
        assert!(!admits("x-api-key", "wrong", "/?api_key=wrong&utm=50%"));
        assert!(!ApiKeys::new(Vec::new()).admit(&HeaderMap::new(), &"/?api_key=".parse().unwrap()));
    }
}
