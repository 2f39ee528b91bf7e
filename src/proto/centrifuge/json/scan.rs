//! Reading of JSON text (RFC 8259), as far as the protocol needs it: a pull scanner that borrows.
//!
//! Hand-written instead of derived so that null, duplicate keys, ranges and lone surrogates are treated as the published
//! server treats them, with a static reason for each refusal and no allocation for text without escapes.

use std::borrow::Cow;

use crate::proto::centrifuge::command::CommandFault;

/// Deepest nesting of objects and arrays inside a payload. Deeper ones exist only to exhaust somebody's stack:
/// common decoders in backends stop here or earlier.
pub(super) const JSON_DEPTH_MAX: usize = 512;

type Scanned<T> = Result<T, CommandFault>;

/// `bytes` as text, if they are one JSON value, with whitespace around it or not.
pub(in crate::proto::centrifuge) fn one_value(bytes: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut scanner = Scanner::new(text);
    scanner.space();
    scanner.value().ok()?;
    scanner.at_end().then_some(text)
}

/// A position in JSON text. Every method reads one thing and stops behind it.
#[derive(Clone, Debug)]
pub(in crate::proto::centrifuge) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    pub(in crate::proto::centrifuge) fn new(text: &'a str) -> Scanner<'a> {
        Scanner { text, at: 0 }
    }

    pub(in crate::proto::centrifuge) fn remaining(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips whitespace; true when nothing else is left.
    pub(in crate::proto::centrifuge) fn at_end(&mut self) -> bool {
        self.space();
        self.at == self.text.len()
    }

    /// Takes nothing more of the text.
    pub(super) fn end(&mut self) {
        self.at = self.text.len();
    }

    /// Takes an object without anything in it, if it is written in the shortest way.
    pub(super) fn empty_object(&mut self) -> bool {
        let empty = self.rest().starts_with(b"{}");
        self.at += if empty { 2 } else { 0 };
        empty
    }

    /// An object: `field` is called with each key and must read its value.
    pub(super) fn object(&mut self, mut field: impl FnMut(&mut Self, &str) -> Scanned<()>) -> Scanned<()> {
        self.entries(|scanner, key| field(scanner, &key))
    }

    /// As [`Scanner::object`], for keys that are kept.
    pub(super) fn entries(
        &mut self,
        mut entry: impl FnMut(&mut Self, Cow<'a, str>) -> Scanned<()>,
    ) -> Scanned<()> {
        self.expect(b'{', "not a JSON object")?;
        self.space();
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            let key = self.string()?;
            self.colon()?;
            entry(self, key)?;
            self.space();
            if self.take(b'}') {
                return Ok(());
            }
            self.expect(b',', "expected a comma or the end of an object")?;
            self.space();
        }
    }

    /// Takes `null` where it stands for a field that is not there.
    pub(super) fn null(&mut self) -> bool {
        let null = self.rest().starts_with(b"null");
        if null {
            self.at += 4;
        }
        null
    }

    /// Text; null leaves `into` as it is.
    pub(super) fn text(&mut self, into: &mut Cow<'a, str>) -> Scanned<()> {
        if !self.null() {
            *into = self.string()?;
        }
        Ok(())
    }

    /// True or false; null leaves `into` as it is.
    pub(super) fn boolean(&mut self, into: &mut bool) -> Scanned<()> {
        if self.null() {
            return Ok(());
        }
        *into = match self.peek() {
            Some(b't') => self.literal("true").map(|()| true)?,
            Some(b'f') => self.literal("false").map(|()| false)?,
            _ => return Err(CommandFault("expected true or false")),
        };
        Ok(())
    }

    /// An integer without sign, fraction or exponent that fits 64 bits and `T`; null leaves `into` as it is.
    pub(super) fn unsigned<T: TryFrom<u64>>(&mut self, into: &mut T) -> Scanned<()> {
        if !self.null() {
            *into = T::try_from(self.digits()?).map_err(|_| OUT_OF_RANGE)?;
        }
        Ok(())
    }

    /// As [`Scanner::unsigned`], with an optional minus.
    pub(super) fn signed<T: TryFrom<i64>>(&mut self, into: &mut T) -> Scanned<()> {
        if self.null() {
            return Ok(());
        }
        let negative = self.take(b'-');
        let magnitude = i128::from(self.digits()?);
        let value = if negative { -magnitude } else { magnitude };
        *into = i64::try_from(value).ok().and_then(|value| T::try_from(value).ok()).ok_or(OUT_OF_RANGE)?;
        Ok(())
    }

    /// Any value, checked and handed back as it is written. Keeps no stack: nesting is one bit a level.
    pub(super) fn value(&mut self) -> Scanned<&'a str> {
        let from = self.at;
        let mut open = Nesting::default();
        loop {
            match self.peek() {
                Some(b'"') => drop(self.string_body()?),
                Some(b'{') => {
                    self.at += 1;
                    open.push(true)?;
                    self.space();
                    if !self.take(b'}') {
                        self.string_body()?;
                        self.colon()?;
                        continue;
                    }
                    open.pop();
                }
                Some(b'[') => {
                    self.at += 1;
                    open.push(false)?;
                    self.space();
                    if !self.take(b']') {
                        continue;
                    }
                    open.pop();
                }
                Some(b't') => self.literal("true")?,
                Some(b'f') => self.literal("false")?,
                Some(b'n') => self.literal("null")?,
                _ => self.number()?,
            }
            // A value has ended: close what it closes, until another one must follow.
            loop {
                let Some(in_object) = open.top() else { return Ok(&self.text[from..self.at]) };
                self.space();
                match (self.peek(), in_object) {
                    (Some(b','), _) => {
                        self.at += 1;
                        self.space();
                        if in_object {
                            self.string_body()?;
                            self.colon()?;
                        }
                        break;
                    }
                    (Some(b'}'), true) | (Some(b']'), false) => {
                        self.at += 1;
                        open.pop();
                    }
                    _ => return Err(CommandFault("expected a comma or the end of an object or array")),
                }
            }
        }
    }

    fn string(&mut self) -> Scanned<Cow<'a, str>> {
        let (body, escaped) = self.string_body()?;
        Ok(if escaped { Cow::Owned(unescape(body)) } else { Cow::Borrowed(body) })
    }

    /// What stands between two quotes, and whether it has escapes. They are checked here, resolved in [`unescape`].
    fn string_body(&mut self) -> Scanned<(&'a str, bool)> {
        self.expect(b'"', "expected a string")?;
        let from = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_prefix(self.rest());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(CommandFault("control character in a string")),
                None => return Err(CommandFault("string without an end")),
            }
        }
        let body = &self.text[from..self.at];
        self.at += 1;
        Ok((body, escaped))
    }

    fn escape(&mut self) -> Scanned<()> {
        const BAD: CommandFault = CommandFault("invalid escape in a string");
        match self.rest() {
            [_, b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't', ..] => self.at += 2,
            [_, b'u', a, b, c, d, ..] if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) => {
                self.at += 6;
            }
            _ => return Err(BAD),
        }
        Ok(())
    }

    fn number(&mut self) -> Scanned<()> {
        const BAD: CommandFault = CommandFault("expected a JSON value");
        self.take(b'-');
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.skip_digits(),
            _ => return Err(BAD),
        }
        if self.take(b'.') {
            self.some_digits(BAD)?;
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            self.some_digits(BAD)?;
        }
        Ok(())
    }

    fn some_digits(&mut self, otherwise: CommandFault) -> Scanned<()> {
        let from = self.at;
        self.skip_digits();
        if self.at == from { Err(otherwise) } else { Ok(()) }
    }

    fn skip_digits(&mut self) {
        self.at += self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
    }

    fn digits(&mut self) -> Scanned<u64> {
        let from = self.at;
        self.skip_digits();
        let digits = &self.text[from..self.at];
        if digits.is_empty() || (digits.len() > 1 && digits.starts_with('0')) {
            return Err(CommandFault("expected an integer"));
        }
        if matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            return Err(CommandFault("expected an integer, not a fraction"));
        }
        digits.parse().map_err(|_| OUT_OF_RANGE)
    }

    fn literal(&mut self, literal: &str) -> Scanned<()> {
        if !self.rest().starts_with(literal.as_bytes()) {
            return Err(CommandFault("expected a JSON value"));
        }
        self.at += literal.len();
        Ok(())
    }

    fn colon(&mut self) -> Scanned<()> {
        self.space();
        self.expect(b':', "expected a colon")?;
        self.space();
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn expect(&mut self, byte: u8, otherwise: &'static str) -> Scanned<()> {
        if self.take(byte) { Ok(()) } else { Err(CommandFault(otherwise)) }
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.peek() == Some(byte);
        self.at += usize::from(there);
        there
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a [u8] {
        &self.text.as_bytes()[self.at..]
    }
}

const OUT_OF_RANGE: CommandFault = CommandFault("number out of range");

/// Which of the open brackets are objects: one bit a level.
#[derive(Default)]
struct Nesting {
    objects: [u64; JSON_DEPTH_MAX / 64],
    depth: usize,
}

impl Nesting {
    fn push(&mut self, object: bool) -> Scanned<()> {
        if self.depth == JSON_DEPTH_MAX {
            return Err(CommandFault("JSON nested too deep"));
        }
        let bit = 1 << (self.depth % 64);
        let word = &mut self.objects[self.depth / 64];
        *word = if object { *word | bit } else { *word & !bit };
        self.depth += 1;
        Ok(())
    }

    fn pop(&mut self) {
        self.depth -= 1;
    }

    /// Whether the innermost is an object; `None` when nothing is open.
    fn top(&self) -> Option<bool> {
        let level = self.depth.checked_sub(1)?;
        Some(self.objects[level / 64] >> (level % 64) & 1 == 1)
    }
}

/// How many bytes from the start stand for themselves in a JSON string: no quote, backslash or control character.
///
/// Eight at a time, because payloads are mostly long strings. Subtracting may borrow into higher bytes, so only the
/// lowest flag of a word is exact, and only that one is used.
pub(super) fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    let is_zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let (words, tail) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let quote = is_zero(word ^ (ONES * u64::from(b'"')));
        let backslash = is_zero(word ^ (ONES * u64::from(b'\\')));
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let stop = (quote | backslash | control) & HIGH;
        if stop != 0 {
            return index * 8 + stop.trailing_zeros() as usize / 8;
        }
    }
    let plain = |byte: &&u8| **byte >= 0x20 && **byte != b'"' && **byte != b'\\';
    words.len() * 8 + tail.iter().take_while(plain).count()
}

/// Resolves the escapes of a checked string. A surrogate without its other half becomes U+FFFD, as in the published
/// server (and as JavaScript's own strings may hold one).
fn unescape(body: &str) -> String {
    let mut text = String::with_capacity(body.len());
    let mut rest = body;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let escape = rest.as_bytes().get(at + 1).copied().unwrap_or(b'\\');
        rest = rest.get(at + 2..).unwrap_or_default();
        match escape {
            b'u' => {
                let unit = take_hex(&mut rest);
                let mut ahead = rest.strip_prefix("\\u").unwrap_or_default();
                let low = if (0xd800..0xdc00).contains(&unit) { take_hex(&mut ahead) } else { 0 };
                if (0xdc00..0xe000).contains(&low) {
                    let code = 0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00);
                    text.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
                    rest = ahead;
                } else {
                    text.push(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER));
                }
            }
            b'b' => text.push('\u{8}'),
            b'f' => text.push('\u{c}'),
            b'n' => text.push('\n'),
            b'r' => text.push('\r'),
            b't' => text.push('\t'),
            itself => text.push(char::from(itself)),
        }
    }
    text.push_str(rest);
    text
}

/// Takes four hexadecimal digits off the front; zero when they are not there.
fn take_hex(rest: &mut &str) -> u32 {
    let Some((digits, behind)) = rest.split_at_checked(4) else { return 0 };
    *rest = behind;
    u32::from_str_radix(digits, 16).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    /// The value at the start of `text`, when nothing but whitespace follows it.
    fn whole(text: &str) -> Scanned<&str> {
        let mut scanner = Scanner::new(text);
        scanner.space();
        let value = scanner.value()?;
        if scanner.at_end() { Ok(value) } else { Err(CommandFault("trailing")) }
    }

    fn string_of(text: &str) -> Scanned<Cow<'_, str>> {
        Scanner::new(text).string()
    }

    #[test]
    fn values_are_handed_back_as_written() {
        for text in [
            "0",
            "-0.5e+10",
            "1E9",
            "true",
            "false",
            "null",
            r#""""#,
            r#""\u00e9\\\"\/""#,
            "[]",
            "{}",
            "[ ]",
            "{ }",
            r#"{"a":[1,{"b":[]},[[]]],"c" : null }"#,
            "[1 ,\n2]",
        ] {
            assert_eq!(whole(text), Ok(text));
            assert_eq!(whole(&format!(" {text}\t")), Ok(text));
        }
    }

    #[test]
    fn broken_values_are_refused() {
        for text in [
            "",
            "-",
            "01",
            "1.",
            ".5",
            "1e",
            "1e+",
            "+1",
            "tru",
            "nul",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u123",
            "\"a\nb\"",
            "\"\u{1}\"",
            "[",
            "[1",
            "[1,",
            "[1,]",
            "[,]",
            "{",
            "{a:1}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{\"a\":1]",
            "[1}",
            "]",
            "{}}",
            "1 2",
            "NaN",
            "'a'",
        ] {
            assert!(whole(text).is_err(), "{text:?}");
        }
    }

    /// Mutations of real text: this scanner takes exactly what a parser written by others takes.
    #[test]
    fn agrees_with_serde_json_on_what_is_json() {
        let corpus = [
            r#"{"a":[1,-2.5e3,{"b":"\u00e9\\n"},null],"long key of more than eight":"é日本語 text","t":true}"#,
            r#"["0123456789","\"","\\",[[[[]]]],{"":{}},0.0,false,1e-7]"#,
        ];
        let alphabet = b"{}[]\",:\\u0019.eE+-tnf \n\x01a";
        let mut prng = Prng::with_seed(7);
        for round in 0..40_000 {
            let mut bytes = corpus[round % corpus.len()].as_bytes().to_vec();
            for _ in 0..prng.usize(1..4) {
                let at = prng.usize(..bytes.len());
                match prng.u8(..3) {
                    0 => bytes[at] = alphabet[prng.usize(..alphabet.len())],
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, alphabet[prng.usize(..alphabet.len())]),
                }
            }
            let Ok(text) = std::str::from_utf8(&bytes) else { continue };
            let theirs = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            assert_eq!(whole(text).is_ok(), theirs, "{text:?}");
        }
    }

    #[test]
    fn nesting_ends_at_its_bound() {
        for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
            let nested = |depth: usize| format!("{}1{}", open.repeat(depth), close.repeat(depth));
            assert!(whole(&nested(JSON_DEPTH_MAX)).is_ok());
            assert_eq!(whole(&nested(JSON_DEPTH_MAX + 1)), Err(CommandFault("JSON nested too deep")));
        }
        assert!(whole(&"[".repeat(1 << 20)).is_err());
        // The kinds of the levels are told apart across the words they are kept in.
        let mixed: String = (0..200).map(|level| if level % 3 == 0 { r#"{"k":"# } else { "[" }).collect();
        let closing: String = (0..200).rev().map(|level| if level % 3 == 0 { '}' } else { ']' }).collect();
        assert!(whole(&format!("{mixed}0{closing}")).is_ok());
        assert!(whole(&format!("{mixed}0{}", closing.replacen('}', "]", 1))).is_err());
    }

    #[test]
    fn strings_borrow_unless_escaped() {
        assert!(matches!(string_of(r#""plain é text""#), Ok(Cow::Borrowed("plain é text"))));
        assert!(matches!(string_of(r#""a\nb""#), Ok(Cow::Owned(text)) if text == "a\nb"));
        let all = string_of(r#""\"\\\/\b\f\n\r\t\u0041\u00e9\ud83d\ude00.""#);
        assert_eq!(all.as_deref(), Ok("\"\\/\u{8}\u{c}\n\r\tAé😀."));
    }

    /// JavaScript strings may hold half a pair, and its encoder writes it as an escape.
    #[test]
    fn lone_surrogates_become_replacement_characters() {
        for (text, means) in [
            (r#""\ud800""#, "\u{fffd}"),
            (r#""\udc00x""#, "\u{fffd}x"),
            (r#""\u0041\udc00""#, "A\u{fffd}"),
            (r#""\udc00\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\ud800\ud83d\ude00""#, "\u{fffd}😀"),
            (r#""\ud800\u0041""#, "\u{fffd}A"),
            (r#""\ud800\n""#, "\u{fffd}\n"),
            (r#""\ud800é""#, "\u{fffd}é"),
        ] {
            assert_eq!(string_of(text).as_deref(), Ok(means), "{text}");
        }
    }

    #[test]
    fn integers_keep_to_their_range() {
        fn unsigned(text: &str) -> Option<u32> {
            let mut into = 7;
            Scanner::new(text).unsigned(&mut into).ok().map(|()| into)
        }
        fn signed(text: &str) -> Option<i32> {
            let mut into = 7;
            Scanner::new(text).signed(&mut into).ok().map(|()| into)
        }
        assert_eq!(unsigned("0"), Some(0));
        assert_eq!(unsigned("4294967295"), Some(u32::MAX));
        assert_eq!(unsigned("null"), Some(7));
        for text in ["4294967296", "18446744073709551616", "-1", "1.0", "1e3", "01", "\"1\"", "", "true"] {
            assert_eq!(unsigned(text), None, "{text}");
        }
        assert_eq!(signed("-2147483648"), Some(i32::MIN));
        assert_eq!(signed("2147483647"), Some(i32::MAX));
        for text in ["2147483648", "-2147483649", "-", "-01", "--1", "-18446744073709551615", "-1.5"] {
            assert_eq!(signed(text), None, "{text}");
        }
        let mut whole = 0u64;
        assert_eq!(Scanner::new("18446744073709551615").unsigned(&mut whole), Ok(()));
        assert_eq!(whole, u64::MAX);
        let mut low = 0i64;
        assert_eq!(Scanner::new("-9223372036854775808").signed(&mut low), Ok(()));
        assert_eq!(low, i64::MIN);
    }

    #[test]
    fn plain_prefix_stops_at_the_first_special_byte() {
        for length in 0..40 {
            for special in [b'"', b'\\', 0, 0x1f, b'\n'] {
                for at in 0..length {
                    // Neighbours that differ from the special bytes by one bit try the borrows.
                    let mut bytes: Vec<u8> =
                        (0..length).map(|i| [b'#', b']', 0x20, 0x7f, 0x80, 0xff, b'!'][i % 7]).collect();
                    assert_eq!(plain_prefix(&bytes), length);
                    bytes[at] = special;
                    assert_eq!(plain_prefix(&bytes), at);
                    bytes[length - 1] = b'"';
                    assert_eq!(plain_prefix(&bytes), at.min(length - 1));
                }
            }
        }
    }
}
