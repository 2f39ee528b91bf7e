//! Commands that came while their session waits.

use std::collections::VecDeque;

use crate::base::fault::Disconnect;
use crate::proto::centrifuge::{Commands, Method};
use crate::session::{Context, Effect, Session};

/// Most bytes of commands held while a session waits for its server-side subscriptions or for the backend: a
/// reconnecting SDK sends all of its subscribes at once, and one frame of them is bounded by the message limit already.
pub const HELD_BYTES_MAX: usize = 256 * 1024;
/// What a held command costs beside its bytes: its place in the queue, and the allocator's share.
const COMMAND_BYTES: usize = 48;

/// In order, each one command of its own.
#[derive(Default)]
pub(super) struct Held {
    commands: VecDeque<Box<[u8]>>,
    bytes: usize,
}

impl Session {
    /// Keeps the commands that are left of a frame. Pongs count at once: they tell of the connection, not of what it
    /// wants, and waiting for the backend must not make it seem dead.
    ///
    /// # Errors
    /// Malformed commands, a pong that nobody asked for, or more than [`HELD_BYTES_MAX`] (3013).
    pub(super) fn hold(&mut self, commands: &mut Commands<'_>) -> Result<(), Disconnect> {
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
            if held.bytes > HELD_BYTES_MAX {
                return Err(Disconnect::TOO_MANY_REQUESTS);
            }
            held.commands.push_back(bytes.into());
        }
    }

    /// The next command that was held; none while the session waits.
    pub fn next_held(&mut self) -> Option<Box<[u8]>> {
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

    /// What the session waited for has come: what is due comes first, then what was held.
    pub(super) fn go_on(&mut self, cx: &mut Context<'_>) {
        self.ask_what_is_due(cx);
        if !self.is_waiting() && self.extras.as_ref().is_some_and(|extras| extras.held.is_some()) {
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
}
