//! How many connections users have at other nodes: what they were asked, and what has come.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::engine::nodes::Others;
use crate::proto::centrifuge::shared::NodeWord;

/// One trunkline node asks the others, and one of them answers.
pub const ASK: &str = "trunkline.online";
pub const ANSWER: &str = "trunkline.online.answer";

/// What the version of a node of ours begins with: others do not answer.
const OURS: &str = "trunkline ";

#[derive(Serialize, Deserialize)]
pub(super) struct AskBody {
    pub number: u64,
    pub users: Vec<String>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct AnswerBody {
    pub number: u64,
    /// Connections of those that have any.
    pub users: BTreeMap<String, u32>,
}

/// What is known of users at other nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ElsewhereOnline {
    /// Connections of those that have any.
    pub users: BTreeMap<String, u64>,
    /// Names of nodes that have not answered.
    pub missing: Vec<String>,
}

/// What other nodes were asked and have not all answered.
#[derive(Default)]
pub struct AskedOfServer {
    numbers: AtomicU64,
    /// Bound: one for each call of the API under way.
    waiting: Mutex<HashMap<u64, WaitingRequest>>,
}

struct WaitingRequest {
    /// Ids and names of the nodes that have not answered.
    left: BTreeMap<String, String>,
    found: ElsewhereOnline,
    done: Option<oneshot::Sender<()>>,
}

impl AskedOfServer {
    /// Asks all of `others` by `say`, and waits for their answers, `patience` at most.
    pub async fn ask(
        &self,
        users: &[String],
        others: &Others,
        patience: Duration,
        say: impl FnOnce(NodeWord),
    ) -> ElsewhereOnline {
        let mut found = ElsewhereOnline::default();
        let mut left = BTreeMap::new();
        for (uid, (standing, _)) in &*others.lock() {
            match standing.version.starts_with(OURS) {
                true => drop(left.insert(uid.clone(), standing.name.clone())),
                false => found.missing.push(standing.name.clone()),
            }
        }
        if left.is_empty() {
            return found;
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let (sender, done) = oneshot::channel();
        self.waiting.lock().insert(number, WaitingRequest { left, found, done: Some(sender) });
        say(word(ASK, &AskBody { number, users: users.to_vec() }));
        let _ = tokio::time::timeout(patience, done).await;
        let Some(WaitingRequest { left, mut found, .. }) = self.waiting.lock().remove(&number) else {
            return ElsewhereOnline::default();
        };
        found.missing.extend(left.into_values());
        found
    }

    /// A node has answered. What nobody waits for, or what was answered before, is dropped.
    pub fn handle_answer(&self, uid: &str, data: &[u8]) {
        let Ok(AnswerBody { number, users }) = serde_json::from_slice(data) else { return };
        let mut waiting = self.waiting.lock();
        let Some(WaitingRequest { left, found, done }) = waiting.get_mut(&number) else { return };
        if left.remove(uid).is_none() {
            return;
        }
        for (user, connections) in users {
            *found.users.entry(user).or_default() += u64::from(connections);
        }
        if left.is_empty()
            && let Some(done) = done.take()
        {
            let _ = done.send(());
        }
    }
}

pub(super) fn word(op: &str, body: &impl Serialize) -> NodeWord {
    NodeWord::Notification { op: op.to_owned(), data: serde_json::to_vec(body).unwrap_or_default().into() }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::proto::centrifuge::shared::NodeStanding;

    fn others(nodes: &[(&str, &str)]) -> Others {
        let standing = |(uid, version): &(&str, &str)| {
            let (name, version) = (format!("name of {uid}"), (*version).to_owned());
            let standing = NodeStanding { uid: (*uid).to_owned(), name, version, ..NodeStanding::default() };
            ((*uid).to_owned(), (standing, Instant::now()))
        };
        Mutex::new(nodes.iter().map(standing).collect())
    }

    fn answer(number: u64, users: &[(&str, u32)]) -> Vec<u8> {
        let users = users.iter().map(|(user, count)| ((*user).to_owned(), *count)).collect();
        serde_json::to_vec(&AnswerBody { number, users }).unwrap()
    }

    #[tokio::test]
    async fn answers_are_added_once_and_who_does_not_answer_is_named() {
        let asked = AskedOfServer::default();
        let nodes = others(&[("a", "trunkline 1"), ("b", "trunkline 1"), ("c", "6.0"), ("d", "trunkline 1")]);
        let users = ["ann".to_owned(), "bob".to_owned()];
        let found = asked.ask(&users, &nodes, Duration::from_millis(50), |word| {
            let NodeWord::Notification { op, data } = word else { panic!("{word:?}") };
            assert_eq!(op, ASK);
            let AskBody { number, users } = serde_json::from_slice(&data).unwrap();
            assert_eq!(users, ["ann", "bob"]);
            asked.handle_answer("a", &answer(number, &[("ann", 2)]));
            asked.handle_answer("a", &answer(number, &[("ann", 2)]));
            asked.handle_answer("stranger", &answer(number, &[("ann", 9)]));
            asked.handle_answer("b", &answer(number + 1, &[("ann", 9)]));
            asked.handle_answer("b", b"{");
            asked.handle_answer("b", &answer(number, &[("ann", 1), ("bob", 1)]));
        });
        let found = found.await;
        assert_eq!(found.users, BTreeMap::from([("ann".to_owned(), 3), ("bob".to_owned(), 1)]));
        assert_eq!(found.missing, ["name of c", "name of d"]);
        assert!(asked.waiting.lock().is_empty());
    }

    #[tokio::test]
    async fn nobody_is_waited_for_when_all_have_answered() {
        let asked = AskedOfServer::default();
        assert_eq!(
            asked.ask(&[], &others(&[]), Duration::MAX, |_| unreachable!("there is no node")).await,
            ElsewhereOnline::default()
        );
        let nodes = others(&[("a", "trunkline 1")]);
        let ask = asked.ask(&[], &nodes, Duration::from_secs(3600), |_| {
            asked.handle_answer("a", &answer(0, &[]));
        });
        assert_eq!(ask.await, ElsewhereOnline::default());
    }
}
