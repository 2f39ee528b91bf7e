//! Channels and users that this shard is the owner of, and what the backend hears of them.

use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::hub::owned::OwnedChannels;
use crate::hub::places::Places;
use crate::hub::users::Users;
use crate::shard::channel_owner::ChannelOwner;
use crate::shard::events::Events;

pub(in crate::shard) struct Owned {
    pub channels: ChannelOwner,
    pub users: Users,
    /// Of users whose connections are limited.
    pub places: Places,
    pub events: Events,
    /// When what is over is looked for next.
    pub sweep_at: Time,
}

impl Owned {
    pub fn new(owned: OwnedChannels, prng: &mut Prng, events: Events, sweep_at: Time) -> Owned {
        Owned {
            channels: ChannelOwner::new(owned),
            users: Users::new(prng),
            places: Places::new(prng),
            events,
            sweep_at,
        }
    }
}
