//! The end of a run: clients and shards go, and nothing may be left.

use std::time::Duration;

use trunkline::base::fault::Disconnect;
use trunkline::base::ids::ShardId;
use trunkline::shard::control_request::ControlRequest;
use trunkline::shard::{Footprint, Shard};

use super::{CALM, World};
use crate::client::Client;
use crate::unidirectional::UnidirectionalClient;

impl World {
    pub(super) fn everyone_leaves(&mut self) {
        self.clients.iter_mut().for_each(Client::leave);
        self.unidirectional.iter_mut().for_each(UnidirectionalClient::leave);
        let until = self.stage.net.now() + CALM;
        while self.stage.net.now() < until {
            self.calm_step("leaving");
            let net = &self.stage.net;
            let first = self.first_host;
            if (first..first + self.shards.len())
                .all(|host| net.open_sockets(host) == 0 && net.backlog(host) == 0)
                && self.planes.iter().all(|plane| plane.is_idle())
            {
                break;
            }
        }
        // A leave is on its way for as long as a message is.
        self.calm_step("leaving");
        for (number, shard) in self.shards.iter().enumerate() {
            let Some(shard) = shard else { continue };
            assert_eq!(self.stage.net.open_sockets(self.host(number)), 0, "sockets that nobody has");
            assert_eq!(shard.footprint(), Footprint::default(), "what is left of clients that have gone");
        }
        self.check_admission();
    }

    pub(super) fn shut_down(&mut self, abrupt: bool) {
        let listening = self.numbered(Client::is_ready).len() as u64;
        self.stage.ending = true;
        let mut untold: Vec<ShardId> = self.router.every_shard().collect();
        let until = self.stage.net.now() + self.stage.scenario.options.shutdown_grace + CALM;
        while self.shards.iter().any(Option::is_some) {
            self.begin_step("shutdown");
            let router = self.router.clone();
            untold
                .retain(|&shard| router.ask(shard, ControlRequest::Shutdown(Disconnect::SHUTDOWN)).is_err());
            if abrupt && self.stage.prng.bool() {
                self.backend.act(&[], &mut self.stage);
            }
            self.run_for(Duration::from_millis(5));
            assert!(self.stage.net.now() < until, "shards do not end: {:?}", self.footprints());
        }
        for shard in self.router.every_shard() {
            let inbox = self.router.inbox(shard);
            while inbox.pop().or_else(|| inbox.pop_user()).or_else(|| inbox.pop_control()).is_some() {}
        }
        if let Some(engine) = &self.engine {
            engine.end();
        }
        self.hear();
        assert_eq!(self.backend.outstanding(), 0, "asks without an answer");
        if !abrupt {
            assert_eq!(self.stage.shutdowns_heard, listening, "clients that were not told why");
        }
    }

    /// Nobody is there, and nobody is counted.
    fn check_admission(&mut self) {
        let Some(admission) = &self.stage.scenario.options.admission else { return };
        assert_eq!(admission.unauthenticated(), 0, "who has gone is counted as unauthenticated");
        let networks = admission.networks().expect("networks are limited");
        assert_eq!(networks.largest(1), [], "a network has connections that have gone");
        self.stage.coverage.count("admission_compared");
    }

    pub(super) fn footprints(&self) -> Vec<Option<Footprint>> {
        self.shards.iter().map(|shard| shard.as_ref().map(Shard::footprint)).collect()
    }

    pub(super) fn account(&mut self) {
        self.check_admission();
        if let Some(engine) = &self.engine {
            self.stage.coverage.merge(&engine.take_coverage());
        }
        for plane in &self.planes {
            plane.books().close(&mut self.stage.coverage);
            assert_eq!(plane.1.awaited(), 0, "hook calls that nobody gave up");
        }
        for host in self.ended_hosts() {
            let stats = self.stage.net.stats(host);
            assert_eq!(stats.accepted, stats.closed, "sockets accepted and closed");
            assert_eq!(self.stage.net.open_sockets(host), 0);
        }
        for shard in 0..self.shards.len() {
            let stats = self.stage.net.stats(self.host(shard));
            self.stage.coverage.add("accept_failed", stats.accept_failures);
            if stats.accepted as usize > self.peak_sockets[shard] {
                self.stage.coverage.count("slot_reused");
            }
        }
    }
}
