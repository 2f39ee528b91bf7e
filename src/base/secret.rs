//! Randomness of the operating system, for what strangers must not guess: keys, ids, tickets, seeds of hashes.

use std::io;

use crate::base::prng::Prng;

/// As many random bytes as asked for.
///
/// # Errors
/// When the operating system gives none: there is nothing to put in their place, and the node does not start.
pub fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| io::Error::other(format!("the operating system gives no randomness: {error}")))?;
    Ok(bytes)
}

/// # Errors
/// As [`bytes()`].
pub fn word() -> io::Result<u64> {
    Ok(u64::from_ne_bytes(bytes()?))
}

/// Four words, as tables take them for the key of their hash.
///
/// # Errors
/// As [`bytes()`].
pub fn words() -> io::Result<[u64; 4]> {
    Ok([word()?, word()?, word()?, word()?])
}

/// A generator that nobody can seed alike.
///
/// # Errors
/// As [`bytes()`].
pub fn prng() -> io::Result<Prng> {
    Ok(Prng::with_seed(word()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_draws_are_alike() {
        assert_ne!(bytes::<16>().unwrap(), bytes::<16>().unwrap());
        let words = words().unwrap();
        assert!(words.windows(2).all(|pair| pair[0] != pair[1]));
        assert_ne!(prng().unwrap().u64(..), prng().unwrap().u64(..));
    }
}
