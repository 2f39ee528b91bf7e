//! Whether everything that was asked has been answered, and messages to users have come.

use std::time::Duration;

use trunkline::base::time::Time;

use super::{PROMPT, World};
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

    /// Messages to users came to those they are for, and to nobody else.
    pub(super) fn check_news(&mut self, since: Time) {
        for (number, who) in std::mem::take(&mut self.stage.news) {
            let news = &self.backend.news[number];
            assert!(news.is_for(&who), "message {number} came to {who:?}");
            self.stage.coverage.count("message_heard");
        }
        if !self.stage.scenario.extras.keeps {
            return;
        }
        let first = self.backend.news.len();
        for _ in 0..4 {
            self.backend.tell_user(&[], &mut self.stage);
            self.run_for(Duration::from_millis(1));
        }
        self.run_for(PROMPT);
        for (number, news) in self.backend.news.iter().enumerate().skip(first) {
            let missed = self.clients.iter().position(|client| client.misses(number, news, since));
            assert_eq!(missed, None, "a client that message {number} is for has not had it");
        }
    }
}
