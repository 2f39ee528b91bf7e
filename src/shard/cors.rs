//! What lets a page of another origin read answers (Fetch, section 3.3). Refusals carry it too: without it the page
//! sees a failed fetch and never learns why.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::proto::http1::{HttpFault, RequestHead, raw_fields};
use crate::session::origins::Welcome;
use crate::shard::core::Core;
use crate::shard::link::ClosingEnd;

/// The fields of an answer that depends on who asks and how. `origin` is the one to allow, or `*`.
pub fn cors_fields<'a>(origin: Option<&'a str>, fields: &mut Vec<(&'a str, &'a [u8])>) {
    fields.push(("Vary", b"Origin, Accept-Encoding, Authorization, Cookie"));
    fields.extend(allowing(origin));
}

/// The fields of a refusal.
pub fn permission(origin: Option<&str>) -> Vec<(&str, &[u8])> {
    let vary: Option<(&str, &[u8])> = origin.map(|_| ("Vary", &b"Origin"[..]));
    vary.into_iter().chain(allowing(origin)).collect()
}

/// As [`permission`], for an answer of the control plane that has no such fields of its own.
pub fn permit(headers: &mut HeaderMap, origin: Option<&str>) {
    if headers.contains_key(http::header::ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    for (name, value) in permission(origin) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
}

fn allowing(origin: Option<&str>) -> impl Iterator<Item = (&str, &[u8])> {
    let fields = origin.map(|origin| -> [(&str, &[u8]); 3] {
        [
            ("Access-Control-Allow-Origin", origin.as_bytes()),
            ("Access-Control-Expose-Headers", b"ETag, Retry-After"),
            ("Access-Control-Allow-Credentials", b"true"),
        ]
    });
    // Everybody's page may not act with the visitor's cookie.
    let count = if origin == Some("*") { 2 } else { 3 };
    fields.into_iter().flatten().take(count)
}

impl Core {
    /// How the page that a request comes from stands to us.
    pub fn judge_origin(&self, head: &RequestHead<'_>) -> Welcome {
        self.env.options.allowed_origins.judge(head.fields().all("Origin"), head.host())
    }

    /// The origin to allow: none for a request without one, `*` for a page that is not named.
    ///
    /// # Errors
    /// The origin is not welcome.
    pub fn cors_origin(&self, head: &RequestHead<'_>) -> Result<Option<Box<str>>, ()> {
        match self.judge_origin(head) {
            Welcome::Known => Ok(head.header_str("Origin").map(Box::from)),
            Welcome::Anybody => Ok(Some("*".into())),
            Welcome::Refused => Err(()),
        }
    }

    /// The origin to allow in the refusal of a head that cannot be read.
    pub fn raw_origin(&self, head: &[u8]) -> Option<Box<str>> {
        let host = raw_fields(head, "Host").next().and_then(|host| std::str::from_utf8(host).ok());
        let origin = std::str::from_utf8(raw_fields(head, "Origin").next()?).ok()?;
        match self.env.options.allowed_origins.judge(raw_fields(head, "Origin"), host) {
            Welcome::Known => Some(origin.into()),
            Welcome::Anybody => Some("*".into()),
            Welcome::Refused => None,
        }
    }

    /// Answers with a fault, and ends the connection.
    pub fn answer_fault(&mut self, slot: u32, fault: HttpFault, origin: Option<&str>) {
        let mut answer = Vec::new();
        fault.write_with(&mut answer, &permission(origin));
        self.leave_protocol(slot, answer.into(), ClosingEnd::Fin);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names<'a>(fields: &[(&'a str, &[u8])]) -> Vec<&'a str> {
        fields.iter().map(|(name, _)| *name).collect()
    }

    #[test]
    fn a_named_page_may_use_credentials_and_everybodys_may_not() {
        let named = permission(Some("https://a.test"));
        let credentials = "Access-Control-Allow-Credentials";
        assert!(named.contains(&("Access-Control-Allow-Origin", b"https://a.test")));
        assert!(names(&named).contains(&credentials) && names(&named).contains(&"Vary"));
        assert!(!names(&permission(Some("*"))).contains(&credentials));
        assert!(permission(None).is_empty(), "no page of another origin asks");
    }

    #[test]
    fn what_depends_on_who_asks_says_so_to_caches() {
        for origin in [None, Some("*"), Some("https://a.test")] {
            let mut fields = Vec::new();
            cors_fields(origin, &mut fields);
            let vary = fields.iter().filter(|(name, _)| *name == "Vary").collect::<Vec<_>>();
            assert_eq!(
                vary,
                [&("Vary", &b"Origin, Accept-Encoding, Authorization, Cookie"[..])],
                "{origin:?}"
            );
        }
    }

    #[test]
    fn an_answer_with_fields_of_its_own_keeps_them() {
        let mut headers = HeaderMap::new();
        permit(&mut headers, Some("https://a.test"));
        permit(&mut headers, Some("https://b.test"));
        let allowed: Vec<_> = headers.get_all("Access-Control-Allow-Origin").iter().collect();
        assert_eq!(allowed, ["https://a.test"]);
    }
}
