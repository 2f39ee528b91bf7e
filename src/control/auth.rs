//! Who may call the API.

use ::http::{HeaderMap, Uri, header};
use parking_lot::RwLock;
use subtle::ConstantTimeEq as _;

use crate::config::Secret;
use crate::control::process;
use crate::proto::unidirectional::query;

/// The keys that are accepted.
#[derive(Debug)]
pub struct ApiKeys(RwLock<AcceptedKeys>);

/// Keys of a configuration.
#[derive(Clone, Debug, Default)]
pub struct AcceptedKeys {
    pub keys: Vec<Secret>,
    /// Accepted as well, until then.
    pub previous: Vec<Secret>,
    /// Seconds since 1970.
    pub previous_until_s: u64,
}

impl ApiKeys {
    pub fn new(keys: AcceptedKeys) -> ApiKeys {
        ApiKeys(RwLock::new(keys))
    }

    pub fn exchange(&self, keys: AcceptedKeys) {
        *self.0.write() = keys;
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
        let accepted = self.0.read();
        let previous =
            if accepted.previous_until_s > process::wall_ms() / 1000 { &accepted.previous[..] } else { &[] };
        let accepted = || accepted.keys.iter().chain(previous);
        // Every key is looked at in full, so that the time taken does not tell which one was nearly right.
        by_name.chain(by_scheme).chain(in_query).fold(false, |found, shown| {
            accepted().fold(found, |found, key| found | bool::from(shown.ct_eq(key.reveal().as_bytes())))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    fn keys(keys: &[&str]) -> ApiKeys {
        let keys = keys.iter().map(|key| Secret::new(*key)).collect();
        ApiKeys::new(AcceptedKeys { keys, ..AcceptedKeys::default() })
    }

    #[test]
    fn a_previous_key_is_accepted_until_its_time() {
        let keys = keys(&["new"]);
        let shows =
            |keys: &ApiKeys, key| keys.admit(&HeaderMap::new(), &format!("/?api_key={key}").parse().unwrap());
        assert!(shows(&keys, "new") && !shows(&keys, "old"));
        let now_s = process::wall_ms() / 1000;
        for (until_s, holds) in [(now_s + 3600, true), (now_s, false), (0, false)] {
            keys.exchange(AcceptedKeys {
                keys: vec![Secret::new("new")],
                previous: vec![Secret::new("old")],
                previous_until_s: until_s,
            });
            assert!(shows(&keys, "new"));
            assert_eq!(shows(&keys, "old"), holds, "{until_s}");
        }
    }

    fn admits(name: &'static str, value: &str, uri: &str) -> bool {
        let keys = keys(&["one key", "two"]);
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
        let keys = keys(&["two"]);
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
        assert!(!keys(&[]).admit(&HeaderMap::new(), &"/?api_key=".parse().unwrap()));
    }
}
