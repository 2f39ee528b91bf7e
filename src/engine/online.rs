//! How many connections users have here, for another node that asks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::base::ids::{ShardId, UserName};
use crate::engine::asked::{ANSWER, AnswerBody, AskBody, word};
use crate::engine::inlet::InletEvent;
use crate::engine::keeper::EngineKeeper;
use crate::shard::control_request::{ControlReply, ControlRequest};

impl EngineKeeper {
    /// Another node asks: every shard is asked for its users, and the last one's answer sends all.
    pub(super) fn handle_online(&mut self, uid: String, data: &[u8]) {
        let Ok(AskBody { number, users }) = serde_json::from_slice(data) else { return };
        let mut by_owner: BTreeMap<ShardId, BTreeSet<UserName>> = BTreeMap::new();
        for user in &users {
            by_owner.entry(self.user_owner(user)).or_default().insert(user.as_str().into());
        }
        let inlet = Arc::clone(&self.inlet);
        let answer =
            move |users| inlet.push(InletEvent::TellNode(word(ANSWER, &AnswerBody { number, users }), uid));
        if by_owner.is_empty() {
            return answer(BTreeMap::new());
        }
        let gathered = Arc::new(Mutex::new((by_owner.len(), BTreeMap::new(), Some(answer))));
        for (owner, users) in by_owner {
            let users: Vec<UserName> = users.into_iter().collect();
            let (names, gathered) = (users.clone(), Arc::clone(&gathered));
            let reply = ControlReply::new(move |counts: Result<Vec<u32>, _>| {
                let (left, all, answer) = &mut *gathered.lock();
                // A shard that does not answer makes the whole missing: half of a sum is no answer.
                let Ok(counts) = counts else { return };
                let found = names.iter().map(ToString::to_string).zip(counts);
                all.extend(found.filter(|(_, connections)| *connections > 0));
                *left -= 1;
                if *left == 0
                    && let Some(answer) = answer.take()
                {
                    answer(std::mem::take(all));
                }
            });
            let _ = self.posts.router().ask(owner, ControlRequest::Online(users, reply));
        }
    }
}
