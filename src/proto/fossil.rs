//! The delta format of Fossil ("Fossil Delta Format" of <https://fossil-scm.org>), in which publications are sent as what
//! changes in the one before.
//!
//! A patch of text is text: what it inserts begins and ends between characters. Must not know: publications, clients.

/// What is looked for in the earlier payload: shorter equal pieces cost about as much as they save.
const BLOCK: usize = 16;
/// No block of the earlier payload has this hash.
const NONE: u32 = u32::MAX;
const DIGITS: &[u8; 64] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz~";

/// What makes `target` of `base`; `None` where it is not shorter than `target` itself. Time and memory are in proportion to
/// the two.
pub fn patch(base: &[u8], target: &[u8]) -> Option<Vec<u8>> {
    if base.len() < BLOCK || target.len() < BLOCK {
        return None;
    }
    // Positions are 32 bits: what is longer is sent whole.
    u32::try_from(base.len()).ok()?;
    let blocks = SourceBlocks::of(base);
    let mut patch = PatchWriter::new(target);
    let mut at = 0;
    // The same bytes at the beginning need no search.
    let same = base.iter().zip(target).take_while(|(a, b)| a == b).count();
    if same >= BLOCK {
        at = patch.copy(0, 0, same);
    }
    while at + BLOCK <= target.len() {
        if patch.out.len() >= target.len() {
            return None;
        }
        let Some(found) = blocks.find(base, &target[at..at + BLOCK]) else {
            at += 1;
            continue;
        };
        let mut before = 0;
        while before < found
            && before < at - patch.written
            && base[found - before - 1] == target[at - before - 1]
        {
            before += 1;
        }
        let rest = base[found + BLOCK..].iter().zip(&target[at + BLOCK..]);
        let behind = rest.take_while(|(a, b)| a == b).count();
        let copied = patch.copy(found - before, at - before, before + BLOCK + behind);
        // What was no whole character is inserted.
        at = copied.max(at + 1);
    }
    let out = patch.finish();
    (out.len() < target.len()).then_some(out)
}

/// Where blocks of the earlier payload are, by their hash.
struct SourceBlocks {
    places: Vec<u32>,
    mask: usize,
}

impl SourceBlocks {
    fn of(base: &[u8]) -> SourceBlocks {
        let size = (base.len() / BLOCK * 2).next_power_of_two();
        let mut blocks = SourceBlocks { places: vec![NONE; size], mask: size - 1 };
        // The first of equal ones: the last is put there first.
        for at in (0..base.len() - BLOCK + 1).step_by(BLOCK).rev() {
            let place = blocks.place(&base[at..at + BLOCK]);
            blocks.places[place] = at as u32;
        }
        blocks
    }

    fn place(&self, block: &[u8]) -> usize {
        let half = |from: usize| {
            let bytes: [u8; 8] = block[from..from + 8].try_into().unwrap_or_default();
            u64::from_le_bytes(bytes)
        };
        // Multiplication mixes upwards: the high bits are the good ones.
        let mixed = half(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ half(8).wrapping_mul(0xc2b2_ae3d_27d4_eb4f);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & self.mask
    }

    fn find(&self, base: &[u8], block: &[u8]) -> Option<usize> {
        let at = self.places[self.place(block)];
        let at = (at != NONE).then_some(at as usize)?;
        (base[at..at + BLOCK] == *block).then_some(at)
    }
}

/// A patch that is being written.
struct PatchWriter<'t> {
    out: Vec<u8>,
    target: &'t [u8],
    /// Bytes of the target that are in it.
    written: usize,
}

impl<'t> PatchWriter<'t> {
    fn new(target: &'t [u8]) -> PatchWriter<'t> {
        let mut out = Vec::with_capacity(64);
        write_number(&mut out, target.len());
        out.push(b'\n');
        PatchWriter { out, target, written: 0 }
    }

    /// Takes `len` bytes of the target at `at` from the earlier payload at `from`, at least a block, as far as they are whole
    /// characters. Gives how far the target is written.
    fn copy(&mut self, from: usize, at: usize, len: usize) -> usize {
        // A character has three bytes behind its first at most. What has more there is no text, and any cut will do.
        let start = (at..=at + 3).find(|at| self.is_between_characters(*at)).unwrap_or(at);
        let end = at + len;
        let end = (end - 3..=end).rev().find(|end| self.is_between_characters(*end)).unwrap_or(end);
        self.insert_to(start);
        write_number(&mut self.out, end - start);
        self.out.push(b'@');
        write_number(&mut self.out, from + (start - at));
        self.out.push(b',');
        self.written = end;
        end
    }

    fn is_between_characters(&self, at: usize) -> bool {
        self.target.get(at).is_none_or(|byte| byte & 0xc0 != 0x80)
    }

    fn insert_to(&mut self, end: usize) {
        if end > self.written {
            write_number(&mut self.out, end - self.written);
            self.out.push(b':');
            self.out.extend_from_slice(&self.target[self.written..end]);
            self.written = end;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        self.insert_to(self.target.len());
        write_number(&mut self.out, checksum(self.target) as usize);
        self.out.push(b';');
        self.out
    }
}

fn write_number(out: &mut Vec<u8>, mut number: usize) {
    let mut digits = [0; 11];
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = DIGITS[number % 64];
        number /= 64;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[from..]);
}

/// The sum of the payload's words of four bytes, the first byte the highest, padded with zeros.
fn checksum(bytes: &[u8]) -> u32 {
    bytes.chunks(4).fold(0u32, |sum, chunk| {
        let mut word = [0; 4];
        word[..chunk.len()].copy_from_slice(chunk);
        sum.wrapping_add(u32::from_be_bytes(word))
    })
}

/// What a patch makes of `base`, as a client does it. For tests and fuzzing.
///
/// # Errors
/// It is no patch, or one of another payload.
pub fn apply(base: &[u8], patch: &[u8]) -> Result<Vec<u8>, &'static str> {
    fn number(patch: &mut &[u8]) -> Result<usize, &'static str> {
        let (mut value, mut digits) = (0usize, 0);
        while let Some(digit) = patch.first().and_then(|byte| DIGITS.iter().position(|digit| digit == byte)) {
            value = value.checked_mul(64).and_then(|value| value.checked_add(digit)).ok_or("a number")?;
            digits += 1;
            *patch = &patch[1..];
        }
        if digits == 0 { Err("no number") } else { Ok(value) }
    }
    fn mark(patch: &mut &[u8]) -> Result<u8, &'static str> {
        let (first, rest) = patch.split_first().ok_or("it ends early")?;
        *patch = rest;
        Ok(*first)
    }
    let mut rest = patch;
    let len = number(&mut rest)?;
    if mark(&mut rest)? != b'\n' {
        return Err("no line break behind the length");
    }
    let mut out = Vec::new();
    loop {
        let count = number(&mut rest)?;
        match mark(&mut rest)? {
            b'@' => {
                let from = number(&mut rest)?;
                if mark(&mut rest)? != b',' {
                    return Err("no comma behind an offset");
                }
                let end = from.checked_add(count).ok_or("a copy")?;
                out.extend_from_slice(base.get(from..end).ok_or("a copy of nothing")?);
            }
            b':' => {
                let (insert, behind) = rest.split_at_checked(count).ok_or("an insert that ends early")?;
                out.extend_from_slice(insert);
                rest = behind;
            }
            b';' if !rest.is_empty() => return Err("more behind the end"),
            b';' if out.len() != len => return Err("another length"),
            b';' if checksum(&out) as usize != count => return Err("another checksum"),
            b';' => return Ok(out),
            _ => return Err("no command"),
        }
        if out.len() > len {
            return Err("longer than it says");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn check(base: &[u8], target: &[u8]) -> Option<usize> {
        let patch = patch(base, target)?;
        assert!(patch.len() < target.len());
        assert_eq!(apply(base, &patch).as_deref(), Ok(target));
        if std::str::from_utf8(target).is_ok() {
            assert!(std::str::from_utf8(&patch).is_ok(), "a patch of text is text");
        }
        Some(patch.len())
    }

    /// Pieces of text with characters of one to four bytes.
    fn text(prng: &mut Prng, pieces: usize) -> String {
        const PIECES: [&str; 9] =
            ["{\"price\":", "123.45,", "é", "日本語", "😀", "\n", "\\u0000", "\"symbol\":\"ABC\"}", " "];
        (0..pieces).map(|_| PIECES[prng.usize(..PIECES.len())]).collect()
    }

    #[test]
    fn a_patch_makes_the_target_of_its_base() {
        for seed in 0..3_000 {
            let mut prng = Prng::with_seed(seed);
            let pieces = prng.usize(..120);
            let base = text(&mut prng, pieces);
            // What publications are: the one before with something changed, inserted, taken out, moved.
            let mut target = base.clone();
            for _ in 0..prng.usize(..5) {
                let boundary = |prng: &mut Prng, text: &str| {
                    let at = prng.usize(..=text.len());
                    (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap()
                };
                let (a, b) = (boundary(&mut prng, &target), boundary(&mut prng, &target));
                let (from, to) = (a.min(b), a.max(b));
                let pieces = prng.usize(..4);
                let replacement = text(&mut prng, pieces);
                match prng.u8(..3) {
                    0 => target.insert_str(from, &replacement),
                    1 => target.replace_range(from..to, &replacement),
                    _ => target = format!("{}{}{}", &target[to..], replacement, &target[..from]),
                }
            }
            check(base.as_bytes(), target.as_bytes());
            check(target.as_bytes(), base.as_bytes());
        }
    }

    #[test]
    fn bytes_of_chance_are_patched_as_well() {
        for seed in 0..2_000 {
            let mut prng = Prng::with_seed(seed);
            let len = prng.usize(..600);
            let base: Vec<u8> = (0..len).map(|_| prng.u8(..4) * 85).collect();
            let mut target = base.clone();
            for byte in &mut target {
                if prng.u8(..40) == 0 {
                    *byte = prng.u8(..);
                }
            }
            let turned = prng.usize(..=target.len());
            target.rotate_left(turned);
            check(&base, &target);
        }
    }

    #[test]
    fn a_small_change_of_a_large_payload_is_a_small_patch() {
        let base = (0..200).map(|n| format!("{{\"id\":{n},\"price\":{}}}", n * 7919)).collect::<String>();
        let target = base.replacen("\"id\":100,", "\"id\":100,\"new\":true,", 1);
        assert!(check(base.as_bytes(), target.as_bytes()).unwrap() < 60);
        assert!(check(base.as_bytes(), base.as_bytes()).unwrap() < 20);
    }

    #[test]
    fn what_would_not_be_shorter_is_none() {
        for (base, target) in
            [("", ""), ("", "a"), ("abc", "abc"), ("0123456789abcdef", "fedcba9876543210zyxwvu"), ("x", "y")]
        {
            assert_eq!(patch(base.as_bytes(), target.as_bytes()), None, "{base} {target}");
        }
    }

    #[test]
    fn the_published_example_is_read_and_its_form_is_ours() {
        // A copy, an insert, a checksum: from the format's description.
        let base = b"line one of the text\nline two of the text\n";
        let target = b"line one of the text\nline 2 of the text\nand more\n";
        let patch = patch(base, target);
        let made = patch.as_deref().map(|patch| apply(base, patch));
        assert!(made.is_none_or(|made| made.as_deref() == Ok(&target[..])));
        for bad in ["", "5", "5\n", "5\n3@0,", "3\n3:abc0;", "3\n4@9,0;", "3\n3:abc", "3\nx"] {
            assert!(apply(b"abc", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_worst_payloads_take_time_in_proportion() {
        // Every block of the base is the same, and no match goes far; bytes that all look like the rest of a character.
        let base = vec![b'a'; 1 << 20];
        let target = b"aaaaaaaaaaaaaaab".repeat(1 << 16);
        check(&base, &target);
        check(&target, &base);
        check(&vec![0x80; 1 << 20], &vec![0x80; (1 << 20) + 1]);
    }
}
