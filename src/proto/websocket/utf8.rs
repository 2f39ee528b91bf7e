//! UTF-8 that comes in pieces, refused at the first byte that no text could have there.

/// Where in a text the input stands: the bytes of a character that is not complete yet, at most three.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Utf8Stream {
    partial: [u8; 4],
    partial_len: u8,
}

/// No UTF-8 text goes on like this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotUtf8;

impl Utf8Stream {
    /// Reads on. `Ok` means that `bytes` may still become a text.
    pub(super) fn push(&mut self, mut bytes: &[u8]) -> Result<(), NotUtf8> {
        while self.partial_len > 0 {
            let Some((&byte, rest)) = bytes.split_first() else { return Ok(()) };
            // In range: four bytes are either a character or impossible, so `partial_len` is at most 3 here.
            self.partial[usize::from(self.partial_len)] = byte;
            self.partial_len += 1;
            bytes = rest;
            match std::str::from_utf8(&self.partial[..self.partial_len.into()]) {
                Ok(_) => self.partial_len = 0,
                Err(error) if error.error_len().is_some() => return Err(NotUtf8),
                Err(_) => {}
            }
        }
        if let Err(error) = std::str::from_utf8(bytes) {
            if error.error_len().is_some() {
                return Err(NotUtf8);
            }
            let tail = &bytes[error.valid_up_to()..];
            self.partial[..tail.len()].copy_from_slice(tail);
            self.partial_len = tail.len() as u8;
        }
        Ok(())
    }

    /// The bytes of a character that is not complete.
    pub(super) fn partial(&self) -> &[u8] {
        &self.partial[..self.partial_len.into()]
    }

    /// Behind a text that ended with these bytes of a character. `None` when no character begins like that.
    pub(super) fn with_partial(bytes: &[u8]) -> Option<Utf8Stream> {
        let mut stream = Utf8Stream::default();
        stream.push(bytes).ok()?;
        (stream.partial() == bytes).then_some(stream)
    }

    /// Whether the text may end here: not inside a character. The decoder learns it from making a `&str` of the whole.
    #[cfg(test)]
    pub(super) fn is_complete(&self) -> bool {
        self.partial_len == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first byte after which no text is possible, by trying every continuation the standard library knows of.
    fn fails_at(bytes: &[u8]) -> Option<usize> {
        let mut stream = Utf8Stream::default();
        bytes.iter().position(|&byte| stream.push(&[byte]).is_err())
    }

    #[test]
    fn every_sequence_of_up_to_three_bytes_is_judged_like_the_standard_library_does() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                for third in
                    [0x00, 0x20, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc2, 0xe0, 0xf0, 0xff]
                {
                    let bytes = [first, second, third];
                    for cut in 0..=3 {
                        let mut stream = Utf8Stream::default();
                        let result = stream.push(&bytes[..cut]).and_then(|()| stream.push(&bytes[cut..]));
                        let whole = result.is_ok() && stream.is_complete();
                        assert_eq!(whole, std::str::from_utf8(&bytes).is_ok(), "{bytes:x?} cut {cut}");
                    }
                }
            }
        }
    }

    #[test]
    fn fails_on_the_first_impossible_byte() {
        for (bytes, at) in [
            (&b"\x80"[..], 0),
            (b"\xc0\x80", 0),
            (b"\xc1", 0),
            (b"\xf5", 0),
            (b"\xff", 0),
            (b"a\xe0\x9f\xbf", 2),
            (b"a\xed\xa0\x80", 2),
            (b"\xf0\x8f\xbf\xbf", 1),
            (b"\xf4\x90\x80\x80", 1),
            (b"\xe2\x82\x20", 2),
            (b"\xf0\x9f\x98\x20", 3),
        ] {
            assert_eq!(fails_at(bytes), Some(at), "{bytes:x?}");
        }
    }

    #[test]
    fn a_text_is_not_complete_inside_a_character() {
        let text = "κόσμε€😀".as_bytes();
        for len in 0..=text.len() {
            let mut stream = Utf8Stream::default();
            assert_eq!(stream.push(&text[..len]), Ok(()));
            assert_eq!(stream.is_complete(), std::str::from_utf8(&text[..len]).is_ok(), "{len}");
        }
    }
}
