//! Writing of JSON text, as far as the protocol needs it: appenders to the caller's buffer.

use memchr::memchr2;

use super::scan::plain_prefix;

/// The fields of one object, appended in order. [`JsonFields::end`] must be called.
pub(super) struct JsonFields<'b> {
    pub(super) out: &'b mut Vec<u8>,
    before: u8,
}

impl<'b> JsonFields<'b> {
    pub(super) fn new(out: &'b mut Vec<u8>) -> JsonFields<'b> {
        JsonFields { out, before: b'{' }
    }

    /// Starts a field whose key, with its quotes and colon, is `key`; the value goes to the buffer handed back.
    pub(super) fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        self.out.push(self.before);
        self.before = b',';
        self.out.extend_from_slice(key.as_bytes());
        self.out
    }

    /// Starts a field whose key is any text.
    pub(super) fn named(&mut self, key: &str) -> &mut Vec<u8> {
        self.out.push(self.before);
        self.before = b',';
        string(self.out, key);
        self.out.push(b':');
        self.out
    }

    pub(super) fn text(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() {
            string(self.key(key), value);
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, value: bool) {
        if value {
            self.key(key).extend_from_slice(b"true");
        }
    }

    pub(super) fn number(&mut self, key: &'static str, value: u64) {
        if value != 0 {
            number(self.key(key), value);
        }
    }

    pub(super) fn raw(&mut self, key: &'static str, value: Option<&[u8]>) {
        if let Some(value) = value
            && !value.is_empty()
        {
            raw(self.key(key), value);
        }
    }

    pub(super) fn end(self) {
        if self.before == b'{' {
            self.out.push(b'{');
        }
        self.out.push(b'}');
    }
}

/// Appends a JSON string.
pub(in crate::proto) fn string(out: &mut Vec<u8>, value: &str) {
    if plain_prefix(value.as_bytes()) == value.len() {
        out.push(b'"');
        out.extend_from_slice(value.as_bytes());
        out.push(b'"');
        return;
    }
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "text into memory cannot fail");
}

/// Appends the decimal digits of `value`.
pub(in crate::proto) fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[from..]);
}

/// Appends JSON as it is, less its line breaks: they may stand between tokens only, and would end the message.
pub(in crate::proto) fn raw(out: &mut Vec<u8>, value: &[u8]) {
    let Some(first) = memchr2(b'\n', b'\r', value) else { return out.extend_from_slice(value) };
    let from = out.len();
    out.extend_from_slice(&value[..first]);
    out.extend(value[first..].iter().copied().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    if out.len() == from {
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_strings_read_back() {
        for text in ["", "plain", "\"\\\u{0}\u{1f}\n", "é日本😀", "</script>&", "a longer one \t with a tab"]
        {
            let mut out = Vec::new();
            string(&mut out, text);
            assert_eq!(serde_json::from_slice::<String>(&out).ok().as_deref(), Some(text));
            assert!(!out.iter().any(|byte| *byte < 0x20));
        }
    }

    #[test]
    fn written_numbers_are_decimal() {
        for value in [0, 9, 10, 12_345, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            number(&mut out, value);
            assert_eq!(out, value.to_string().as_bytes());
        }
    }

    #[test]
    fn raw_loses_its_line_breaks_only() {
        for (text, written) in
            [("{\"a\": 1}", "{\"a\": 1}"), ("{\r\n\t\"a\":\n[1,\n2]\r\n}", "{\t\"a\":[1,2]}"), ("\n", "null")]
        {
            let mut out = b"x".to_vec();
            raw(&mut out, text.as_bytes());
            assert_eq!(out, format!("x{written}").as_bytes());
        }
        let long = format!("[{}\n1]", "1,".repeat(100));
        let mut out = Vec::new();
        raw(&mut out, long.as_bytes());
        assert_eq!(out, long.replace('\n', "").as_bytes());
    }
}
