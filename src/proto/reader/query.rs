//! A request's query: `application/x-www-form-urlencoded` pairs (WHATWG URL, section 5.1).

use std::borrow::Cow;

/// The pairs of a query, decoded, in order. Bounded by the head that the query came in.
///
/// A pair whose escapes are not UTF-8, or not escapes, is given as `None`: half a channel name is no channel name.
pub fn pairs(query: &str) -> impl Iterator<Item = Option<(Cow<'_, str>, Cow<'_, str>)>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((decode(name)?, decode(value)?))
    })
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
        let read: Vec<_> =
            pairs("channel=a&channel=b%3Ac+d&&flag&x=1=2&e=%C3%A9").map(Option::unwrap).collect();
        let read: Vec<_> = read.iter().map(|(name, value)| (&**name, &**value)).collect();
        assert_eq!(read, [("channel", "a"), ("channel", "b:c d"), ("flag", ""), ("x", "1=2"), ("e", "é")]);
    }

    #[test]
    fn bad_escapes_are_no_pairs() {
        for query in ["a=%", "a=%4", "a=%zz", "a=%ff", "%=1", "a=%+1"] {
            assert_eq!(pairs(query).next(), Some(None), "{query}");
        }
    }
}
