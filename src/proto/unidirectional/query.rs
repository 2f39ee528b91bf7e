//! A request's query: `application/x-www-form-urlencoded` pairs (WHATWG URL, section 5.1).

use std::borrow::Cow;

/// The pairs of a query, decoded, in order. Bounded by the head that the query came in.
///
/// A value that is not UTF-8, or whose escapes are none, is given as `None`: half a channel name is no channel name,
/// and what it means in a parameter of somebody else's is not asked here. A name like that is left out: none of ours
/// is.
pub fn pairs(query: &[u8]) -> impl Iterator<Item = (Cow<'_, str>, Option<Cow<'_, str>>)> {
    query.split(|&byte| byte == b'&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let end = pair.iter().position(|&byte| byte == b'=').unwrap_or(pair.len());
        Some((decode(&pair[..end])?, decode(pair.get(end + 1..).unwrap_or_default())))
    })
}

/// The first value of `name` that is readable and not empty.
pub fn value<'q>(query: &'q [u8], name: &str) -> Option<Cow<'q, str>> {
    pairs(query)
        .filter(|(known, _)| known == name)
        .find_map(|(_, value)| value.filter(|value| !value.is_empty()))
}

fn decode(text: &[u8]) -> Option<Cow<'_, str>> {
    if !text.iter().any(|byte| matches!(byte, b'%' | b'+')) {
        return std::str::from_utf8(text).ok().map(Cow::Borrowed);
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.iter().copied();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => digit(bytes.next()?)? << 4 | digit(bytes.next()?)?,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_in_order() {
        let read: Vec<_> = pairs("channel=a&channel=b%3Ac+d&&flag&x=1=2&e=%C3%A9&f=é".as_bytes()).collect();
        let read: Vec<_> = read.iter().map(|(name, value)| (&**name, value.as_deref().unwrap())).collect();
        assert_eq!(
            read,
            [("channel", "a"), ("channel", "b:c d"), ("flag", ""), ("x", "1=2"), ("e", "é"), ("f", "é")]
        );
    }

    #[test]
    fn bad_escapes_hide_nothing_but_their_own_value() {
        for bad in
            [&b"a=%"[..], b"a=%4", b"a=%zz", b"a=%ff", b"a=%+1", b"a=\xe9", b"a=+\xe9", b"a=\xc3%a9\x80"]
        {
            assert_eq!(pairs(bad).next(), Some(("a".into(), None)), "{bad:?}");
            for query in [&[bad, b"b=1"][..], &[b"b=1", bad], &[bad, bad, b"b=", b"b=1"]] {
                let query = query.join(&b'&');
                assert_eq!(value(&query, "b").as_deref(), Some("1"), "{query:?}");
                assert_eq!(value(&query, "a"), None, "{query:?}");
            }
        }
        assert_eq!(pairs(b"%=1&%ff=2&\xff=3").next(), None);
    }
}
