//! What becomes of commands for clients of other nodes, and of those that other nodes pass on: see `commands.rs`.

use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::base::ids::{ClientId, ConnId};
use crate::engine::commands::{COMMANDS, OUTCOME, OUTCOMES, read_commands, write_commands};
use crate::engine::keeper::EngineKeeper;
use crate::engine::limits::{EMULATION_PATIENCE, EMULATIONS_MAX};
use crate::proto::centrifuge::shared::NodeWord;
use crate::shard::emulated::{Asker, EmulationMessage, EmulationOutcome, ForeignCommands};
use crate::shard::mailbox::ShardMessage;

impl EngineKeeper {
    pub(super) fn pass_on(&mut self, commands: ForeignCommands) {
        let ForeignCommands { node, session, format, commands, asker } = commands;
        let refusal = if !self.shared.others.lock().contains_key(&*node) {
            Some(EmulationOutcome::Unknown)
        } else if self.emulations.asked.len() >= EMULATIONS_MAX {
            Some(EmulationOutcome::Full)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return self.answer_emulation(asker, refusal);
        }
        self.emulations.numbers += 1;
        let number = self.emulations.numbers;
        self.emulations.asked.insert(number, (asker, Instant::now() + EMULATION_PATIENCE));
        let data = write_commands(number, format, &session, &commands);
        self.tell(NodeWord::Notification { op: COMMANDS.to_owned(), data: data.into() }, Some(node.into()));
    }

    /// What became of commands of another node's request.
    pub(super) fn passed_on(&mut self, node: Box<str>, number: u64, outcome: EmulationOutcome) {
        let place = OUTCOMES.iter().position(|known| *known == outcome).unwrap_or_default();
        let mut data = number.to_le_bytes().to_vec();
        data.push(place as u8);
        self.tell(NodeWord::Notification { op: OUTCOME.to_owned(), data: data.into() }, Some(node.into()));
    }

    /// Another node passes commands on.
    pub(super) fn handle_commands(&mut self, uid: String, data: &Bytes) {
        let Some((number, format, session, commands)) = read_commands(data) else { return };
        let uid: Box<str> = uid.into();
        let session = session.parse::<ClientId>().ok();
        let router = self.posts.router();
        let Some(conn) = session.and_then(|session| router.connection_of_session(session)) else {
            return self.passed_on(uid, number, EmulationOutcome::Unknown);
        };
        let asker = Asker::Node { uid: uid.clone(), number };
        let message = EmulationMessage { conn, format, commands: Bytes::copy_from_slice(commands), asker };
        let inbox = router.inbox(router.peer_shard(conn));
        if inbox.push(ShardMessage::Emulation(Box::new(message))).is_err() {
            self.passed_on(uid, number, EmulationOutcome::Full);
        }
    }

    pub(super) fn handle_outcome(&mut self, data: &Bytes) {
        let Some((number, [place])) = data.split_first_chunk() else { return };
        let outcome = OUTCOMES.get(usize::from(*place)).copied().unwrap_or(EmulationOutcome::Unknown);
        if let Some((asker, _)) = self.emulations.asked.remove(&u64::from_le_bytes(*number)) {
            self.answer_emulation(asker, outcome);
        }
    }

    /// Those whose node is silent are answered: it is gone, or of another kind.
    pub(super) fn expire_emulations(&mut self, now: Instant) {
        let over = self.emulations.asked.extract_if(|_, (_, until)| *until <= now);
        let askers: Vec<ConnId> = over.map(|(_, (asker, _))| asker).collect();
        askers.into_iter().for_each(|asker| self.answer_emulation(asker, EmulationOutcome::Unknown));
    }

    fn answer_emulation(&mut self, asker: ConnId, outcome: EmulationOutcome) {
        self.posts
            .post_message(self.posts.peer_shard(asker), ShardMessage::Emulated(Box::new((asker, outcome))));
    }
}
