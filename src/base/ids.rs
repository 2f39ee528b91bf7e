//! Typed ids. Raw integers appear only on the wire.

use std::fmt;
use std::sync::Arc;

/// A shard of this node: one thread, one driver, one connection table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShardId(pub u16);

impl ShardId {
    pub fn index(self) -> usize {
        self.0 as usize
    }

    /// Where the peers are that had this shard when they came, in a process of `shards`.
    pub fn among(self, shards: u16) -> ShardId {
        // Almost always it is itself.
        if self.0 < shards { self } else { ShardId(self.0 % shards) }
    }
}

/// A listener of every driver of this node, by its place in the configured list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub u8);

impl ListenerId {
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bits of a slot index inside ids and subscriber entries: 16.7 million connections a shard.
pub const SLOT_BITS: u32 = 24;
/// Bits of a generation: a slot must be reused 268 million times before an old id could be mistaken for a new one.
pub const GENERATION_BITS: u32 = 28;
/// Bits of a shard inside a [`ConnId`].
pub const SHARD_BITS: u32 = 12;
const _: () = assert!(SLOT_BITS + GENERATION_BITS + SHARD_BITS == 64);

pub const SLOT_MAX: u32 = (1 << SLOT_BITS) - 1;
pub const GENERATION_MASK: u32 = (1 << GENERATION_BITS) - 1;

/// A socket as its driver names it. `slot` is reused after [`crate::driver::DriverEvent::Closed`];
/// `generation` tells the uses apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sock {
    pub slot: u32,
    pub generation: u32,
}

/// One connection of one shard of this run of the daemon, in 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(u64);

impl ConnId {
    pub fn new(shard: ShardId, sock: Sock) -> ConnId {
        debug_assert!(sock.slot <= SLOT_MAX && sock.generation <= GENERATION_MASK);
        debug_assert!(u32::from(shard.0) < (1 << SHARD_BITS));
        ConnId(
            (u64::from(shard.0) << (SLOT_BITS + GENERATION_BITS))
                | (u64::from(sock.generation & GENERATION_MASK) << SLOT_BITS)
                | u64::from(sock.slot & SLOT_MAX),
        )
    }

    pub fn shard(self) -> ShardId {
        ShardId((self.0 >> (SLOT_BITS + GENERATION_BITS)) as u16)
    }

    pub fn sock(self) -> Sock {
        Sock {
            slot: (self.0 as u32) & SLOT_MAX,
            generation: ((self.0 >> SLOT_BITS) as u32) & GENERATION_MASK,
        }
    }

    pub fn to_bits(self) -> u64 {
        self.0
    }

    pub fn from_bits(bits: u64) -> ConnId {
        ConnId(bits)
    }
}

impl fmt::Debug for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sock = self.sock();
        write!(f, "conn {}/{}#{}", self.shard().0, sock.slot, sock.generation)
    }
}

/// The public id of a client (the `client` field of the wire): 128 bits printed as a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u128);

impl fmt::Display for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let b = self.0;
        write!(
            f,
            "{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
            (b >> 96) as u32,
            (b >> 80) as u16,
            (b >> 64) as u16,
            (b >> 48) as u16,
            b & 0xffff_ffff_ffff
        )
    }
}

impl fmt::Debug for ClientId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for ClientId {
    type Err = ();
    /// Accepts the 36-character form that `Display` writes, and nothing else.
    fn from_str(s: &str) -> Result<ClientId, ()> {
        let bytes = s.as_bytes();
        if bytes.len() != 36 {
            return Err(());
        }
        let mut bits = 0u128;
        for (i, &b) in bytes.iter().enumerate() {
            let dash = matches!(i, 8 | 13 | 18 | 23);
            match (dash, b) {
                (true, b'-') => {}
                (false, b'0'..=b'9') => bits = bits << 4 | u128::from(b - b'0'),
                (false, b'a'..=b'f') => bits = bits << 4 | u128::from(b - b'a' + 10),
                _ => return Err(()),
            }
        }
        Ok(ClientId(bits))
    }
}

/// A channel's name, shared by every place that mentions it.
pub type ChannelName = Arc<str>;
/// A user's name as the backend knows it; empty means anonymous.
pub type UserName = Arc<str>;

/// Position of a publication in its channel's log. The first publication has offset 1; 0 is "before the first".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offset(pub u64);

impl Offset {
    pub fn next(self) -> Offset {
        Offset(self.0 + 1)
    }
}

/// One life of a channel's log. When a log is lost or removed its successor gets another epoch,
/// so that an offset of the old life is never taken for one of the new.
///
/// A short text on the wire, and a number here, which takes no more room than a position leaves. Our own are eight hex
/// digits; those of other owners are kept as they are:
/// ```text
///  below 2^32          eight hex digits, lower case
///  2^32 + n            a number n of 9 to 18 digits, as seconds since 1970
///  from 2^61           1 to 8 letters, digits, `-` and `_`: the bytes of the text, zeros behind it
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Epoch(pub u64);

/// An epoch's text, without an allocation and the formatting machinery.
#[derive(Clone, Copy, Debug)]
pub struct EpochText {
    bytes: [u8; 18],
    from: u8,
    until: u8,
}

impl std::ops::Deref for EpochText {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[usize::from(self.from)..usize::from(self.until)]
    }
}

impl Epoch {
    /// The epoch of no log: what is asked for from there on is lost.
    pub const NONE: Epoch = Epoch(0);

    const NUMBERS: u64 = 1 << 32;
    const NUMBERS_END: u64 = Self::NUMBERS + 1_000_000_000_000_000_000;

    /// Whether it is one of those that this daemon gives.
    pub fn is_own(self) -> bool {
        self.0 < Self::NUMBERS
    }

    pub fn text(self) -> EpochText {
        let mut bytes = [0; 18];
        let (from, until) = match self.0 {
            own if own < Self::NUMBERS => {
                for (place, byte) in bytes[..8].iter_mut().enumerate() {
                    *byte = b"0123456789abcdef"[(own >> ((7 - place) * 4) & 0xf) as usize];
                }
                (0, 8)
            }
            number if number < Self::NUMBERS_END => {
                let (mut left, mut from) = (number - Self::NUMBERS, 18);
                while left > 0 {
                    from -= 1;
                    bytes[from] = b'0' + (left % 10) as u8;
                    left /= 10;
                }
                (from as u8, 18)
            }
            text => {
                let text = text.to_be_bytes();
                bytes[..8].copy_from_slice(&text);
                (0, text.iter().take_while(|&&byte| byte != 0).count() as u8)
            }
        };
        EpochText { bytes, from, until }
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.text()).unwrap_or_default())
    }
}

impl std::str::FromStr for Epoch {
    type Err = ();
    /// Only what `Display` writes; anything else is a foreign epoch and matches no log.
    fn from_str(s: &str) -> Result<Epoch, ()> {
        let is = |allowed: fn(&u8) -> bool| s.as_bytes().iter().all(allowed);
        match s.len() {
            8 if is(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) => {
                u64::from_str_radix(s, 16).map(Epoch).map_err(|_| ())
            }
            1..=8 if is(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) => {
                let mut text = [0; 8];
                text[..s.len()].copy_from_slice(s.as_bytes());
                Ok(Epoch(u64::from_be_bytes(text)))
            }
            9..=18 if is(u8::is_ascii_digit) && !s.starts_with('0') => {
                s.parse().map(|number: u64| Epoch(Self::NUMBERS + number)).map_err(|_| ())
            }
            _ => Err(()),
        }
    }
}

/// Where a reader stands, or where a log ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub offset: Offset,
    pub epoch: Epoch,
}

impl Position {
    /// Of a log that nobody knows.
    pub const UNKNOWN: Position = Position { offset: Offset(0), epoch: Epoch::NONE };
}

/// Names one form in which an item can be framed. `proto` registers the forms ([`crate::proto::encoding`]); what an id stands
/// for is unknown below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EncodingId(pub u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conn_id_keeps_its_parts_at_their_borders() {
        for shard in [0, 1, 53, 4095] {
            for slot in [0, 1, SLOT_MAX] {
                for generation in [0, 1, GENERATION_MASK] {
                    let sock = Sock { slot, generation };
                    let id = ConnId::new(ShardId(shard), sock);
                    assert_eq!((id.shard(), id.sock()), (ShardId(shard), sock));
                    assert_eq!(ConnId::from_bits(id.to_bits()), id);
                }
            }
        }
    }

    #[test]
    fn epoch_reads_only_what_it_writes() {
        assert_eq!("00000a1f".parse(), Ok(Epoch(0xa1f)));
        assert_eq!(Epoch(0xa1f).to_string(), "00000a1f");
        assert_eq!(&*Epoch(0xa1f).text(), b"00000a1f");
        for foreign in
            ["", "+0000a1f", "00000a1f0", "012345678", "a b", "a\0", "\0", "1234567890123456789", "\"x"]
        {
            assert_eq!(foreign.parse::<Epoch>(), Err(()), "{foreign:?}");
        }
    }

    /// Epochs of another owner come back to its clients as they were, and none is taken for another.
    #[test]
    fn epochs_of_others_keep_their_text() {
        let texts = [
            "00000a1f",
            "00000A1F",
            "a1f",
            "0",
            "-",
            "zzzzzzzz",
            "zzzzzzz",
            "kJxQwBnT",
            "1700000000",
            "170000000",
            "17000000",
            "999999999999999999",
            "ffffffff",
            "FFFFFFFF",
        ];
        let mut seen = std::collections::BTreeSet::new();
        for text in texts {
            let epoch: Epoch = text.parse().unwrap_or_else(|()| panic!("{text}"));
            assert_eq!((epoch.to_string().as_str(), &*epoch.text()), (text, text.as_bytes()));
            assert!(seen.insert(epoch) && epoch != Epoch::NONE, "{text}");
            assert_eq!(epoch.is_own(), ["00000a1f", "17000000", "ffffffff"].contains(&text), "{text}");
        }
        assert_eq!(size_of::<Position>(), 16);
    }

    #[test]
    fn client_id_reads_only_what_it_writes() {
        let id = ClientId(0x0123_4567_89ab_4cde_8f01_2345_6789_abcd);
        assert_eq!(id.to_string(), "01234567-89ab-4cde-8f01-23456789abcd");
        assert_eq!(id.to_string().parse(), Ok(id));
        for foreign in
            ["", "01234567", "0123456789ab4cde8f0123456789abcd0000", "01234567-89AB-4cde-8f01-23456789abcd"]
        {
            assert_eq!(foreign.parse::<ClientId>(), Err(()), "{foreign:?}");
        }
    }
}
