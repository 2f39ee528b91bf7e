//! A subscription as a session keeps it.

use crate::base::shape::Shape;

pub use crate::hub::followed::ChannelIndex;

/// One subscription: 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sub {
    /// Low 24 bits the channel, high 8 bits flags.
    pub(super) channel: u32,
    /// Place in the channel's list of subscribers; while the join is pending, the number under which it was asked.
    pub(super) place: u32,
}

impl Sub {
    pub const SERVER_SIDE: u32 = 1 << 24;
    pub const POSITIONED: u32 = 2 << 24;
    pub const RECOVERABLE: u32 = 4 << 24;
    pub const NOTICES: u32 = 8 << 24;
    pub(super) const PENDING: u32 = 16 << 24;
    /// Server-side, by the connection's token: another token may take it away.
    pub const BY_TOKEN: u32 = 32 << 24;
    /// In the presence of its channel.
    pub const LISTED: u32 = 64 << 24;
    /// Its join and its leave are told to others.
    pub const ANNOUNCED: u32 = 128 << 24;
    /// The number of a [`Shape`]. Of what is asked of the owner alone: of a subscription the session knows it otherwise.
    const SHAPE: u32 = (1 << Shape::BITS) - 1;
    pub(super) const INDEX: u32 = (1 << 24) - 1;

    /// Flags of what is asked of the owner, with the shape in which publications are to go out.
    pub fn with_shape(flags: u32, shape: Shape) -> u32 {
        flags & !Sub::SHAPE | u32::from(shape.number())
    }

    pub fn shape_of(flags: u32) -> Shape {
        Shape::of_number((flags & Sub::SHAPE) as u8)
    }

    pub fn channel(self) -> ChannelIndex {
        self.channel & Sub::INDEX
    }

    /// Place in the channel's list; `None` while the owner has not answered.
    pub fn place(self) -> Option<u32> {
        (!self.is(Sub::PENDING)).then_some(self.place)
    }

    pub fn flags(self) -> u32 {
        self.channel & !Sub::INDEX
    }

    pub fn is(self, flag: u32) -> bool {
        self.channel & flag != 0
    }

    /// The answer to the join of this number is awaited.
    pub(super) fn awaits(self, number: u32) -> bool {
        self.is(Sub::PENDING) && self.place == number
    }

    /// The one to `channel` among `subs`.
    pub(super) fn find(subs: &[Sub], channel: ChannelIndex) -> Option<Sub> {
        subs.iter().copied().find(|sub| sub.channel() == channel)
    }

    /// Notes that the subscriber of `channel` stands at `place` of the channel's list.
    pub(super) fn set_place(subs: &mut [Sub], channel: ChannelIndex, place: u32) {
        let sub =
            subs.iter_mut().find(|sub| sub.channel() == channel).expect("a subscriber has the subscription");
        sub.channel &= !Sub::PENDING;
        sub.place = place;
    }
}
