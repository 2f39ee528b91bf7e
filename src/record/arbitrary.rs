//! Records of chance, for tests.

use std::sync::Arc;

use crate::base::bytes::Bytes;
use crate::base::ids::{ClientId, Epoch, Offset, Position};
use crate::base::prng::Prng;
use crate::record::Moment;

pub(crate) trait Arbitrary: Sized {
    fn arbitrary(prng: &mut Prng) -> Self;
}

macro_rules! numbers {
    ($($type:ident),+) => {$(
        impl Arbitrary for $type {
            /// Often at a border of its form.
            fn arbitrary(prng: &mut Prng) -> $type {
                match prng.u8(..8) {
                    0 => 0,
                    1 => $type::MAX,
                    2 => $type::MIN,
                    3..=5 => prng.$type(..24),
                    _ => prng.$type(..),
                }
            }
        }
    )+};
}

numbers!(u8, u16, u32, u64, i64);

impl Arbitrary for bool {
    fn arbitrary(prng: &mut Prng) -> bool {
        prng.bool()
    }
}

impl Arbitrary for String {
    fn arbitrary(prng: &mut Prng) -> String {
        (0..prng.usize(..12)).map(|_| ['a', 'b', ':', '"', '\0', 'é', '😀'][prng.usize(..7)]).collect()
    }
}

impl Arbitrary for Box<str> {
    fn arbitrary(prng: &mut Prng) -> Box<str> {
        String::arbitrary(prng).into()
    }
}

impl Arbitrary for Arc<str> {
    fn arbitrary(prng: &mut Prng) -> Arc<str> {
        String::arbitrary(prng).into()
    }
}

impl Arbitrary for Bytes {
    fn arbitrary(prng: &mut Prng) -> Bytes {
        let len = if prng.u8(..10) == 0 { prng.usize(..400) } else { prng.usize(..10) };
        (0..len).map(|_| prng.u8(..)).collect()
    }
}

impl<T: Arbitrary> Arbitrary for Option<T> {
    fn arbitrary(prng: &mut Prng) -> Option<T> {
        prng.bool().then(|| T::arbitrary(prng))
    }
}

impl<T: Arbitrary> Arbitrary for Vec<T> {
    fn arbitrary(prng: &mut Prng) -> Vec<T> {
        (0..prng.usize(..4)).map(|_| T::arbitrary(prng)).collect()
    }
}

impl<A: Arbitrary, B: Arbitrary> Arbitrary for (A, B) {
    fn arbitrary(prng: &mut Prng) -> (A, B) {
        (A::arbitrary(prng), B::arbitrary(prng))
    }
}

impl Arbitrary for ClientId {
    fn arbitrary(prng: &mut Prng) -> ClientId {
        ClientId(prng.u128(..))
    }
}

impl Arbitrary for Offset {
    fn arbitrary(prng: &mut Prng) -> Offset {
        Offset(u64::arbitrary(prng))
    }
}

impl Arbitrary for Epoch {
    fn arbitrary(prng: &mut Prng) -> Epoch {
        let text = match prng.u8(..3) {
            0 => prng.u64(1_000_000_000..10_000_000_000).to_string(),
            1 => (0..prng.usize(1..9)).map(|_| prng.alphanumeric()).collect(),
            _ => format!("{:08x}", u32::arbitrary(prng)),
        };
        text.parse().expect("an epoch's text")
    }
}

impl Arbitrary for Position {
    fn arbitrary(prng: &mut Prng) -> Position {
        Position { offset: Offset::arbitrary(prng), epoch: Epoch::arbitrary(prng) }
    }
}

impl Arbitrary for Moment {
    fn arbitrary(prng: &mut Prng) -> Moment {
        Moment(i64::arbitrary(prng))
    }
}
