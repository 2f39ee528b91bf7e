//! Delivery classes: subscribers of a channel that get the same bytes.
//!
//! A publication is framed once for each class that is present, whatever the number of its subscribers. A channel's
//! classes are interned on each shard: its list of subscribers names them by a number of six bits. What else may tell the
//! bytes of two subscribers apart (a delta, a filter, compression) is a field of [`Class`]. Must not know: what an encoding
//! looks like, who is subscribed.

use smallvec::SmallVec;

use crate::base::ids::EncodingId;

/// What subscribers must have in common to get the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    pub encoding: EncodingId,
    /// Join and leave events are delivered.
    pub join_leave: bool,
    /// Frames are completed for each subscriber, from the one of the encoding.
    pub own_frames: bool,
    /// A publication is what changes in the one before, to those that had that.
    pub delta: bool,
}

impl Class {
    pub fn shared(encoding: EncodingId) -> Class {
        Class { encoding, join_leave: false, own_frames: false, delta: false }
    }
}

/// Number of a class in its channel on this shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassId(u8);

impl ClassId {
    pub const BITS: u32 = 6;

    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn from_bits(bits: u32) -> ClassId {
        debug_assert!(bits < 1 << Self::BITS);
        ClassId(bits as u8)
    }

    pub(super) fn to_bits(self) -> u32 {
        u32::from(self.0)
    }
}

/// The classes that a channel has had on this shard since it was last without subscribers. Few, and searched only when
/// somebody subscribes.
#[derive(Clone, Debug, Default)]
pub struct Classes(SmallVec<[Class; 4]>);

impl Classes {
    /// The number of `class`, given now if it is new here.
    ///
    /// # Panics
    /// Above 64: a field whose values peers choose must be bounded where it is read.
    pub fn intern(&mut self, class: Class) -> ClassId {
        let at = self.0.iter().position(|known| *known == class).unwrap_or_else(|| {
            self.0.push(class);
            self.0.len() - 1
        });
        assert!(at < 1 << ClassId::BITS, "a channel has at most 64 delivery classes");
        ClassId(at as u8)
    }

    pub fn get(&self, id: ClassId) -> Class {
        self.0[id.index()]
    }

    /// Somebody gets deltas.
    pub fn has_delta(&self) -> bool {
        self.0.iter().any(|class| class.delta)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_classes_have_one_number_and_others_their_own() {
        let mut classes = Classes::default();
        let mut seen = Vec::new();
        for round in 0..2 {
            for encoding in 0..16 {
                for (join_leave, own_frames) in [(false, false), (true, false), (false, true), (true, true)] {
                    // Who gets frames of its own gets no deltas.
                    let delta = own_frames && encoding < 8;
                    let own_frames = own_frames && !delta;
                    let class = Class { encoding: EncodingId(encoding), join_leave, own_frames, delta };
                    let id = classes.intern(class);
                    assert_eq!(classes.get(id), class);
                    match round {
                        0 => seen.push(id),
                        _ => assert_eq!(seen.remove(0), id),
                    }
                }
            }
        }
        assert_eq!(classes.len(), 64);
    }
}
