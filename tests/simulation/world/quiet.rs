//! Whether everything that was asked has been answered.

use super::World;
use crate::client::Client;

impl World {
    pub(super) fn is_quiet(&self) -> bool {
        let cramped = self.stage.scenario.cramped;
        self.clients.iter().all(|client| match client.is_ready() {
            true => client.outstanding() == 0,
            false => cramped,
        }) && self.backend.outstanding() == 0
    }

    pub(super) fn unrest(&self) -> String {
        let away: Vec<usize> = self.numbered(|client| !client.is_ready());
        let waiting: Vec<usize> = self.numbered(|client| client.is_ready() && client.outstanding() > 0);
        let asks = self.backend.outstanding();
        format!(
            "clients {away:?} are not connected, {waiting:?} wait for replies, {asks} asks are unanswered"
        )
    }

    pub(super) fn numbered(&self, which: impl Fn(&Client) -> bool) -> Vec<usize> {
        self.clients
            .iter()
            .enumerate()
            .filter(|(_, client)| which(client))
            .map(|(number, _)| number)
            .collect()
    }
}
