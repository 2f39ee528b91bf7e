//! The server API as an OpenAPI 3.1 document, for generators of clients and for people. The test holds it against the routes and
//! against the bodies that are read.

use ::http::header;
use axum::response::{IntoResponse, Response};

/// What every node of this version serves: nothing in it is of one configuration.
pub const DOCUMENT: &str = include_str!("openapi.json");

/// `GET /api/openapi.json`, without a key: it tells a stranger no more than the sources do.
pub async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, "no-cache")], DOCUMENT)
        .into_response()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fmt;

    use serde::de::value::Error as PlainError;
    use serde::de::{Error as _, Visitor};
    use serde::{Deserialize, Deserializer, forward_to_deserialize_any};
    use serde_json::Value;

    use super::*;
    use crate::control::api::ApiMethod;
    use crate::control::wire;

    fn document() -> Value {
        serde_json::from_str(DOCUMENT).unwrap()
    }

    /// Asks a type which fields it reads.
    struct Fields;

    impl<'de> Deserializer<'de> for Fields {
        type Error = PlainError;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, PlainError> {
            Err(PlainError::custom("no struct"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, PlainError> {
            Err(PlainError::custom(fields.join(" ")))
        }

        forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit unit_struct
            newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    fn fields_of<'de, T: Deserialize<'de> + fmt::Debug>() -> BTreeSet<String> {
        T::deserialize(Fields).unwrap_err().to_string().split(' ').map(str::to_string).collect()
    }

    /// `publish` and `broadcast` are read by one type, and so are the requests about users.
    #[test]
    fn every_method_is_described_with_the_fields_that_it_reads() {
        let document = document();
        for method in ApiMethod::ALL {
            let described = &document["paths"][format!("/api/{}", method.name())]["post"];
            let schema = &described["requestBody"]["content"]["application/json"]["schema"]["properties"];
            let named: BTreeSet<String> =
                schema.as_object().unwrap_or_else(|| panic!("{}", method.name())).keys().cloned().collect();
            let read = match method {
                ApiMethod::Publish | ApiMethod::Broadcast => fields_of::<wire::PublishBody>(),
                ApiMethod::Inbox => fields_of::<wire::InboxBody>(),
                ApiMethod::Subscribe
                | ApiMethod::Unsubscribe
                | ApiMethod::Disconnect
                | ApiMethod::Refresh => fields_of::<wire::UserBody>(),
                ApiMethod::PresenceStats | ApiMethod::HistoryRemove => fields_of::<wire::ChannelBody>(),
                ApiMethod::Presence => fields_of::<wire::PresenceBody>(),
                ApiMethod::Online => fields_of::<wire::OnlineBody>(),
                ApiMethod::Block | ApiMethod::Unblock | ApiMethod::Revoke => fields_of::<wire::BlockBody>(),
                ApiMethod::Blocked => fields_of::<wire::BlockedBody>(),
                ApiMethod::Cursors => fields_of::<wire::CursorsBody>(),
                ApiMethod::Unread => fields_of::<wire::UnreadBody>(),
                ApiMethod::ReadBy => fields_of::<wire::ReadByBody>(),
                ApiMethod::Members => fields_of::<wire::MembersBody>(),
                ApiMethod::History => fields_of::<wire::HistoryBody>(),
                ApiMethod::Channels => fields_of::<wire::ChannelsBody>(),
                ApiMethod::Push => fields_of::<wire::PushBody>(),
                ApiMethod::Rpc => fields_of::<wire::RpcBody>(),
                ApiMethod::Batch => fields_of::<wire::ApiBatchBody<'_>>(),
                ApiMethod::Info => BTreeSet::new(),
            };
            assert!(named.is_subset(&read), "{}: {named:?} of {read:?}", method.name());
            let other: &[&str] = match method {
                ApiMethod::Publish => &["channels", "everyone"],
                ApiMethod::Broadcast => &["channel"],
                ApiMethod::Block => &["token_id", "issued_before"],
                ApiMethod::Unblock => &["issued_before", "for_s"],
                _ => &[],
            };
            let shared = matches!(
                method,
                ApiMethod::Subscribe | ApiMethod::Unsubscribe | ApiMethod::Disconnect | ApiMethod::Refresh
            );
            let missing: Vec<&String> =
                read.difference(&named).filter(|name| !other.contains(&name.as_str())).collect();
            assert!(shared || missing.is_empty(), "{}: {missing:?} is not described", method.name());
        }
        let users = ["subscribe", "unsubscribe", "disconnect", "refresh"].map(|name| {
            let path =
                format!("/paths/~1api~1{name}/post/requestBody/content/application~1json/schema/properties");
            document.pointer(&path).unwrap().as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>()
        });
        let all: BTreeSet<String> = users.into_iter().flatten().collect();
        assert_eq!(all, fields_of::<wire::UserBody>());
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_operation_has_its_name() {
        let document = document();
        assert_eq!(document["openapi"], "3.1.0");
        let mut waiting = vec![&document];
        let mut names = Vec::new();
        while let Some(value) = waiting.pop() {
            match value {
                Value::Object(entries) => {
                    if let Some(Value::String(reference)) = entries.get("$ref") {
                        let pointer = reference.strip_prefix('#').unwrap();
                        assert!(document.pointer(pointer).is_some(), "{reference}");
                    }
                    names.extend(entries.get("operationId").and_then(Value::as_str));
                    waiting.extend(entries.values());
                }
                Value::Array(items) => waiting.extend(items),
                _ => {}
            }
        }
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
