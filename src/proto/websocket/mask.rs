//! Masking (RFC 6455 section 5.3). The same operation puts a mask on and takes it off.

/// XORs `data` with the key, which begins at its first byte.
pub fn apply_mask(data: &mut [u8], key: [u8; 4]) {
    // Sixteen bytes a step, as two words: the compiler widens this to whatever vectors the target has.
    let word = u64::from_ne_bytes([key[0], key[1], key[2], key[3], key[0], key[1], key[2], key[3]]);
    let (words, tail) = data.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in tail.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// The key as it stands after `done` bytes of the payload.
pub(super) fn rotate_key(mut key: [u8; 4], done: usize) -> [u8; 4] {
    key.rotate_left(done % 4);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_every_length_and_offset_like_the_definition() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for len in 0..100usize {
            let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            let expected: Vec<u8> = plain.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
            for cut in 0..=len {
                let mut data = plain.clone();
                let (first, second) = data.split_at_mut(cut);
                apply_mask(first, key);
                apply_mask(second, rotate_key(key, cut));
                assert_eq!(data, expected, "len {len} cut {cut}");
            }
        }
    }
}
