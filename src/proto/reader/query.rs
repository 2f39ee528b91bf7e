//! A request's query: `application/x-www-form-urlencoded` pairs (WHATWG URL, section 5.1).

use std::borrow::Cow;

/// The pairs of a query, decoded, in order. Bounded by the head that the query came in.
///
/// A value whose escapes are not UTF-8, or not escapes, is given as `None`: half a channel name is no channel name, and
/// what it means in a parameter of somebody else's is not asked here. A name like that is left out: none of ours is.
pub fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Option<Cow<'_, str>>)> {
    query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name)?, decode(value)))
    })
}

/// The first value of `name` that is readable and not empty.
pub fn value<'q>(query: &'q str, name: &str) -> Option<Cow<'q, str>> {
    pairs(query)
        .filter(|(known, _)| known == name)
        .find_map(|(_, value)| value.filter(|value| !value.is_empty()))
}

fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
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
        let read: Vec<_> = pairs("channel=a&channel=b%3Ac+d&&flag&x=1=2&e=%C3%A9").collect();
        let read: Vec<_> = read.iter().map(|(name, value)| (&**name, value.as_deref().unwrap())).collect();
        assert_eq!(read, [("channel", "a"), ("channel", "b:c d"), ("flag", ""), ("x", "1=2"), ("e", "é")]);
    }

    #[test]
    fn bad_escapes_hide_nothing_but_their_own_value() {
        for bad in ["a=%", "a=%4", "a=%zz", "a=%ff", "a=%+1"] {
            assert_eq!(pairs(bad).next(), Some(("a".into(), None)), "{bad}");
            for query in [format!("{bad}&b=1"), format!("b=1&{bad}"), format!("{bad}&{bad}&b=&b=1")] {
                assert_eq!(value(&query, "b").as_deref(), Some("1"), "{query}");
                assert_eq!(value(&query, "a"), None, "{query}");
            }
        }
        assert_eq!(pairs("%=1&%ff=2").next(), None);
    }
}
