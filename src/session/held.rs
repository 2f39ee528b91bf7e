//! Commands that wait: while their session does, or for earlier ones of the same client to be answered.
//!
//! A client gets only so much of a shard at a time. At its bound its further commands are held in order, and above
//! [`HELD_BYTES_MAX`] its socket is not read from: the peer's own kernel holds the rest.

use crate::base::fault::Disconnect;
use crate::proto::centrifuge::{Commands, Method};
use crate::session::context::{Context, Effect};
use crate::session::state::Session;
use crate::session::waits::COMMAND_BYTES;

/// Bytes of held commands above which the connection is not read from. One message is always held whole, so that a
/// connection holds at most this, one message and one receive buffer, and what [`COMMAND_BYTES`] adds to them.
pub const HELD_BYTES_MAX: usize = 16 * 1024;
/// Weight of the commands of one client that owners of channels may have to answer at a time. A subscribe, a
/// publication, a count of members weigh 1: twice this in one turn of the loop is more than any SDK sends in a round trip.
pub const UNDER_WAY_MAX: u16 = 64;
/// Commands of one client in one turn of the shard's loop, whatever becomes of them: those that are answered at once are
/// never under way.
pub const TURN_COMMANDS_MAX: u16 = 64;
/// A subscribe that recovers may be answered with a whole history: eight at a time, so that a reconnecting client with
/// 128 channels is done in sixteen rounds.
pub const RECOVERY_WEIGHT: u16 = UNDER_WAY_MAX / 8;
/// History and presence are answered at length: one at a time.
pub const READ_WEIGHT: u16 = UNDER_WAY_MAX;

impl Session {
    /// Keeps the commands that are left of a frame. Pongs count at once: they tell of the connection, not of what it
    /// wants, and waiting for the backend must not make it seem dead. A command that was held already goes back to the
    /// front.
    ///
    /// # Errors
    /// Malformed commands, or a pong that nobody asked for.
    pub(super) fn hold(&mut self, commands: &mut Commands<'_>, resumed: bool) -> Result<(), Disconnect> {
        loop {
            let before = commands.remaining();
            let Some(command) = commands.next() else { return Ok(()) };
            if let Method::Pong = command.map_err(|fault| fault.disconnect())?.method {
                self.handle_pong()?;
                continue;
            }
            let bytes = &before[..before.len() - commands.remaining().len()];
            let held = self.extras_mut().held.get_or_insert_default();
            held.bytes += bytes.len() + COMMAND_BYTES;
            match resumed {
                true => held.commands.push_front(bytes.into()),
                false => held.commands.push_back(bytes.into()),
            }
        }
    }

    /// The next command that was held; none while the session waits.
    pub fn next_held(&mut self) -> Option<Box<[u8]>> {
        if self.is_full() {
            return None;
        }
        let extras = self.extras.as_mut().filter(|extras| extras.waits.is_none())?;
        let held = extras.held.as_mut()?;
        let command = held.commands.pop_front();
        match &command {
            Some(command) => held.bytes -= command.len() + COMMAND_BYTES,
            None => {
                extras.held = None;
                self.trim();
            }
        }
        command
    }

    pub fn has_held(&self) -> bool {
        self.extras.as_ref().is_some_and(|extras| extras.held.is_some())
    }

    /// Whether the connection must not be read from.
    pub fn holds_enough(&self) -> bool {
        let held = self.extras.as_ref().and_then(|extras| extras.held.as_ref());
        held.is_some_and(|held| held.bytes > HELD_BYTES_MAX)
    }

    /// What the session waited for has come: what is due comes first, then what was held.
    pub(super) fn go_on(&mut self, cx: &mut Context<'_>) {
        self.ask_what_is_due(cx);
        if !self.is_waiting() && self.has_held() {
            cx.effects.push(Effect::Resume);
        }
    }

    /// Bytes of commands that are held.
    pub fn held_bytes(&self) -> usize {
        self.extras.as_ref().and_then(|extras| extras.held.as_ref()).map_or(0, |held| held.bytes)
    }

    pub(super) fn drop_held(&mut self) {
        if let Some(extras) = &mut self.extras {
            extras.held = None;
            self.trim();
        }
    }

    // --- commands under way

    /// A command of this weight is on its way to the owner of its channel.
    pub fn command_sent(&mut self, weight: u16) {
        self.under_way = self.under_way.saturating_add(weight);
    }

    /// Its answer is here.
    pub fn command_answered(&mut self, weight: u16) {
        debug_assert!(self.under_way >= weight, "what is answered was sent");
        self.under_way = self.under_way.saturating_sub(weight);
    }

    /// Further commands wait for answers to those under way.
    pub fn is_full(&self) -> bool {
        self.under_way >= UNDER_WAY_MAX
    }
}
