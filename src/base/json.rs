//! JSON objects that are objects.
//!
//! Inputs: JSON. Outputs: what serde derives from it. Must not know: what the JSON is for.
//!
//! A struct with serde's derive is read from a list too, field after field in their order: `["HS256"]` would be a header
//! of a token. Nobody writes that on purpose, so it is an error here.

use std::fmt;
use std::iter;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, MapDeserializer};
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Reads an object and nothing else.
///
/// # Errors
/// When `json` is no object, or not that of a `T`.
pub fn object<'j, T: Deserialize<'j>>(json: &'j [u8]) -> serde_json::Result<T> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err(serde_json::Error::custom("expected an object"));
    }
    serde_json::from_slice(json)
}

/// An object inside another value. An empty list counts as an empty object, because PHP writes an empty array as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Object<T>, D::Error> {
        from.deserialize_any(ObjectVisitor(PhantomData)).map(Object)
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        if list.next_element::<IgnoredAny>()?.is_some() {
            return Err(A::Error::custom("expected an object, not a list"));
        }
        T::deserialize(MapDeserializer::<_, A::Error>::new(iter::empty::<((), ())>()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default)]
    struct Inner {
        a: u32,
        b: String,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Outer {
        one: Option<Object<Inner>>,
        #[serde(default)]
        many: BTreeMap<String, Object<Inner>>,
    }

    fn outer(json: &str) -> Option<Outer> {
        object(json.as_bytes()).ok()
    }

    #[test]
    fn a_list_is_no_struct() {
        assert!(serde_json::from_str::<Inner>(r#"[1,"x"]"#).is_ok(), "which is why this module exists");
        for list in [r#"[1,"x"]"#, "[]", " []", "null", "1", "\"a\"", ""] {
            assert!(object::<Inner>(list.as_bytes()).is_err(), "{list}");
        }
        assert!(outer(r#"{"one":[1,"x"]}"#).is_none());
        assert!(outer(r#"{"one":[[]]}"#).is_none());
        assert!(outer(r#"{"many":{"c":[1,"x"]}}"#).is_none());
        assert!(outer(r#"{"one":7}"#).is_none());
    }

    #[test]
    fn objects_are_read_and_an_empty_list_is_an_empty_one() {
        let inner = Inner { a: 1, b: "x".into() };
        assert_eq!(object::<Inner>(b"\r\n\t {\"a\":1,\"b\":\"x\"}").ok(), Some(inner));
        let read = outer(r#"{"one":{"a":1,"other":[]},"many":{"c":{"b":"x"},"d":[]}}"#).expect("objects");
        assert_eq!(read.one, Some(Object(Inner { a: 1, ..Inner::default() })));
        assert_eq!(read.many["c"].0.b, "x");
        assert_eq!(read.many["d"].0, Inner::default());
        assert_eq!(outer(r#"{"one":[]}"#).expect("an empty one").one, Some(Object(Inner::default())));
        assert_eq!(outer(r#"{"one":null}"#).expect("absent").one, None);
    }
}
