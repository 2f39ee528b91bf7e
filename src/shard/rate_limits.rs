//! Limits of what clients may do in a time, where their input comes in.

use crate::base::fault::{Disconnect, ErrorCode};
use crate::hub::requests::PublishRequest;
use crate::shard::connections::Connection;
use crate::shard::core::Core;
use crate::shard::rates::Sender;

impl Core {
    /// How many commands the client may send now.
    pub fn commands_allowed(&mut self, slot: u32) -> u32 {
        let Some(rates) = &mut self.peers.rates else { return u32::MAX };
        let Some(connection) = self.links.connections.get(slot) else { return u32::MAX };
        rates.commands_allowed(sender(slot, connection), self.env.now)
    }

    /// The client has sent `count` commands.
    pub fn charge_commands(&mut self, slot: u32, count: u32) {
        let Some(rates) = self.peers.rates.as_mut().filter(|_| count > 0) else { return };
        let Some(connection) = self.links.connections.get(slot) else { return };
        rates.charge_commands(sender(slot, connection), count, self.env.now);
    }

    /// One command of a connection that does not speak the client protocol. `user` is whom its request names, else it is
    /// the connection's own.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyRequests`] over the limit.
    pub fn admit_command(&mut self, slot: u32, user: Option<&str>) -> Result<(), ErrorCode> {
        let Some(rates) = &mut self.peers.rates else { return Ok(()) };
        let Some(connection) = self.links.connections.get(slot) else { return Ok(()) };
        let own = sender(slot, connection);
        let of = Sender { user: user.filter(|user| !user.is_empty()).or(own.user), ..own };
        if rates.commands_allowed(of, self.env.now) > 0 {
            rates.charge_commands(of, 1, self.env.now);
            return Ok(());
        }
        self.env.stats.counters.commands_limited_total += 1;
        Err(ErrorCode::TooManyRequests)
    }

    /// Counts bytes that a client, or a unidirectional client of WebSocket, has sent.
    ///
    /// # Errors
    /// It has sent too many: it is to be closed with this.
    pub fn admit_bytes(&mut self, slot: u32, bytes: usize) -> Result<(), Disconnect> {
        let Some(rates) = &mut self.peers.rates else { return Ok(()) };
        let Some(connection) = self.links.connections.get(slot) else { return Ok(()) };
        let admitted = !connection.peer.bytes_are_limited()
            || rates.take_bytes(sender(slot, connection), bytes as u64, self.env.now);
        if admitted { Ok(()) } else { Err(Disconnect::TOO_MANY_REQUESTS) }
    }

    /// A client publishes to a channel whose owner is here. What the server API publishes is not asked about: the backend
    /// knows what it does.
    ///
    /// # Errors
    /// [`ErrorCode::TooManyRequests`] over the limits of the channel's namespace.
    pub fn admit_publication(&mut self, ask: &PublishRequest) -> Result<(), ErrorCode> {
        let Some(rates) = self.peers.rates.as_mut().filter(|rates| rates.limits_channels()) else {
            return Ok(());
        };
        let options = self.env.options.rules.resolve(&ask.channel)?;
        let (count, bytes) = (options.publish_per_second.into(), options.publish_bytes_per_second as u64);
        if rates.take_publication(&ask.channel, ask.data.len() as u64, count, bytes, self.env.now) {
            return Ok(());
        }
        self.env.stats.counters.publications_limited_total += 1;
        Err(ErrorCode::TooManyRequests)
    }
}

/// The anonymous are no user.
fn sender(slot: u32, connection: &Connection) -> Sender<'_> {
    let user = connection.peer.user().map(|user| &**user).filter(|user| !user.is_empty());
    Sender { slot, generation: connection.link.generation, user }
}
