//! Who gets in: connections within the bounds of the node, of the shard and of their network, and the answer to those
//! beyond.
//!
//! A connection is counted when it comes, and charged for a connect with its first request of a client. What is asked of
//! the API, of `/health` and the like is always heard: so a connection that is one too many for its network is given a
//! moment to say what it wants, as long as there are not many of these.

use std::time::Duration;

use crate::base::address::Serves;
use crate::base::admission::{Admission, Refusal};
use crate::base::bytes::Bytes;
use crate::base::networks::Network;
use crate::proto::http1::{self, RequestHead};
use crate::shard::admitted::{AdmittedEntry, Counted, Standing};
use crate::shard::core::Core;
use crate::shard::link::ClosingEnd;
use crate::shard::links::Action;
use crate::shard::unidirectional::Endpoint;

/// How long a connection that is one too many may take to say what it wants.
const HEARD_PATIENCE: Duration = Duration::from_secs(1);
/// How long a refused client may take to end its side.
const REFUSED_LINGER: Duration = Duration::from_secs(1);
/// What a refused client is told to wait at most, in seconds. How long each is told is random, so that they come back
/// one after the other.
const RETRY_AFTER_S_MAX: u64 = 9;

impl Core {
    /// Counts a new connection. False when there is no room for it, here or in the node.
    pub fn take_seat(&mut self, slot: u32) -> bool {
        let seats = &self.env.options.seats;
        let here = self.links.connections.len() - self.links.unseated as usize;
        let seated = match here > self.env.options.connections_max as usize {
            true => {
                seats.refuse();
                false
            }
            false => seats.take(),
        };
        match self.links.connections.get_mut(slot) {
            Some(connection) if seated => connection.link.set_seated(),
            _ => self.links.unseated += 1,
        }
        seated
    }

    /// Answers a connection beyond the bound of connections: 503 once it has said what it wants, and the end. Of a crowd
    /// those are not waited for that are too many.
    pub fn refuse_connection(&mut self, slot: u32) {
        if self.links.unseated > self.env.options.refused_max {
            return self.refuse_client(slot, Refusal::NodeConnections, None);
        }
        self.timer_in(slot, HEARD_PATIENCE);
        self.links.actions.push(Action::ReadStart(slot));
    }

    /// Sends a refused connection its answer. An orderly end waits for the request and the peer's end. Of a crowd each gets
    /// the answer and is closed behind it.
    fn end_refused(&mut self, slot: u32, answer: Bytes, crowd: bool) {
        let end = if crowd { ClosingEnd::Both } else { ClosingEnd::Fin };
        self.leave_protocol(slot, answer, end);
        if self.links.connections.get(slot).is_some_and(|connection| !connection.link.is_gone()) {
            self.timer_in(slot, REFUSED_LINGER);
        }
    }

    // --- limits of networks, and of what comes to the node

    /// Counts a connection that has come, unless it is the API's. False when it is refused at once.
    pub fn admit_connection(&mut self, slot: u32) -> bool {
        let Some(admission) = self.env.options.admission.clone() else { return true };
        if self.listener(slot).serves == Serves::Api {
            return true;
        }
        let network = self.network(slot, &admission);
        let mut entry = AdmittedEntry::new(network, Standing::Unauthenticated);
        let Err(refusal) = admission.enter(network, self.env.now) else {
            self.links.admitted.insert(slot, entry);
            return true;
        };
        entry.standing = Standing::Heard(refusal);
        let hears = self.links.admitted.heard() < self.env.options.refused_max;
        self.links.admitted.insert(slot, entry);
        if !hears {
            self.refuse_client(slot, refusal, None);
        }
        hears
    }

    /// The client's own address has become known, before any request: it was a proxy's.
    pub fn admit_address(&mut self, slot: u32) {
        let Some(admission) = self.env.options.admission.clone() else { return };
        if self.links.admitted.get(slot).is_none() {
            return;
        }
        let network = self.network(slot, &admission);
        if let Err(refusal) = self.count_again(slot, &admission, network, false) {
            self.links.admitted.insert(slot, AdmittedEntry::new(network, Standing::Heard(refusal)));
            self.timer_in(slot, HEARD_PATIENCE);
        }
    }

    /// The network of a connection's client, where networks are limited. A proxy that is trusted has none of its own.
    pub fn network(&self, slot: u32, admission: &Admission) -> Option<Network> {
        let networks = admission.networks()?;
        let address = self.client_address(slot)?;
        (!self.env.options.trusted.trusts(address)).then(|| networks.network(address))
    }

    /// Whether a request may go on: of a client, as its network and the node allow; other ones always, but beyond the bound
    /// of connections. If not, it is refused, and its connection ends.
    pub fn admit_request(
        &mut self,
        slot: u32,
        head: &RequestHead<'_>,
        of_client: bool,
        endpoint: Option<Endpoint>,
    ) -> bool {
        if !self.is_seated(slot) {
            self.refuse_client(slot, Refusal::NodeConnections, Some((head, endpoint)));
            return false;
        }
        // A page's browser asks before its request, which counts.
        if !of_client || head.method == "OPTIONS" {
            return true;
        }
        if self.peers.departures.draining {
            self.refuse_client(slot, Refusal::NodeDraining, Some((head, endpoint)));
            return false;
        }
        let Some(admission) = self.env.options.admission.clone() else { return true };
        let network = self.network(slot, &admission);
        let judged = self.judge_request(slot, &admission, network);
        if let Err(refusal) = judged {
            self.refuse_client(slot, refusal, Some((head, endpoint)));
        }
        judged.is_ok()
    }

    fn judge_request(
        &mut self,
        slot: u32,
        admission: &Admission,
        network: Option<Network>,
    ) -> Result<(), Refusal> {
        let Some(entry) = self.links.admitted.get(slot) else { return Ok(()) };
        match entry.standing {
            Standing::Heard(refusal) => return Err(refusal),
            Standing::Between => self.count_again(slot, admission, network, true)?,
            _ if entry.network != network => self.count_again(slot, admission, network, true)?,
            // A further request on a connection that was let in.
            _ if entry.connected => return Ok(()),
            _ => {}
        }
        let busy_percent = self.env.load.percent();
        admission.connect(network, busy_percent, self.env.now)?;
        self.links.admitted.set_connected(slot);
        Ok(())
    }

    /// Counts a connection in another network than before.
    fn count_again(
        &mut self,
        slot: u32,
        admission: &Admission,
        network: Option<Network>,
        of_request: bool,
    ) -> Result<(), Refusal> {
        self.uncount(slot, admission);
        let entered = admission.enter(network, self.env.now);
        let standing = if entered.is_ok() { Standing::Unauthenticated } else { Standing::Between };
        let mut entry = AdmittedEntry::new(network, standing);
        entry.of_request = of_request;
        self.links.admitted.insert(slot, entry);
        entered
    }

    fn uncount(&mut self, slot: u32, admission: &Admission) {
        let counted = self.links.admitted.remove(slot).and_then(|entry| entry.counted());
        if let Some(Counted { network, unauthenticated }) = counted {
            admission.leave(network, unauthenticated, self.env.now);
        }
    }

    /// A connection has shown who it is, or was let in without.
    pub fn first_command(&mut self, slot: u32) {
        let Some(admission) = &self.env.options.admission else { return };
        if let Some(network) = self.links.admitted.authenticate(slot) {
            admission.authenticate(network);
        }
    }

    /// A request is answered, and its connection waits for the next one.
    pub fn release_request(&mut self, slot: u32) {
        let Some(admission) = &self.env.options.admission else { return };
        if let Some(Counted { network, unauthenticated }) = self.links.admitted.release(slot) {
            admission.leave(network, unauthenticated, self.env.now);
        }
    }

    /// A connection is gone.
    pub fn leave_admission(&mut self, slot: u32) {
        if let Some(admission) = self.env.options.admission.clone() {
            self.uncount(slot, &admission);
        }
    }

    fn is_seated(&self, slot: u32) -> bool {
        self.links.connections.get(slot).is_some_and(|connection| connection.link.seated())
    }

    /// A connection that is one too many, and is heard all the same.
    pub fn only_heard(&self, slot: u32) -> Option<Refusal> {
        if !self.is_seated(slot) {
            return Some(Refusal::NodeConnections);
        }
        match self.links.admitted.get(slot)?.standing {
            Standing::Heard(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// How long the head of a connection's first request, or the handshake before that, may take.
    pub fn head_patience(&self, slot: u32) -> Duration {
        let patience = match self.in_handshake(slot) {
            true => self.env.options.handshake_timeout,
            false => self.env.options.connect_timeout,
        };
        if self.only_heard(slot).is_some() { patience.min(HEARD_PATIENCE) } else { patience }
    }

    /// Answers a client that is not let in, as its kind of request is answered, and ends the connection.
    pub fn refuse_client(
        &mut self,
        slot: u32,
        refused: Refusal,
        request: Option<(&RequestHead<'_>, Option<Endpoint>)>,
    ) {
        self.env.stats.fault(refused.into());
        let seconds = match self.env.options.admission.clone() {
            Some(admission) if refused != Refusal::NodeConnections => {
                let network = self.links.admitted.get(slot).and_then(|entry| entry.network);
                admission.refused(refused, network);
                admission.retry_after_s(&mut self.env.prng)
            }
            _ => self.env.prng.u64(1..=RETRY_AFTER_S_MAX),
        };
        let retry_after = Duration::from_secs(seconds);
        let answer = match request {
            Some((head, Some(endpoint))) => {
                self.env.stats.counters.reader_requests_total += 1;
                self.refusal_of_uni(head, endpoint, refused, retry_after)
            }
            _ => refusal(refused.status(), refused.reason(), retry_after),
        };
        let refused_max = self.env.options.refused_max;
        let crowd = match refused {
            Refusal::NodeConnections => self.links.unseated > refused_max,
            _ => self.links.admitted.refused() >= refused_max,
        };
        self.links.admitted.set_refused(slot);
        self.end_refused(slot, answer, crowd);
    }
}

/// The answer to a connection, or an upgrade, that is not let in.
fn refusal(status: u16, text: &str, retry_after: Duration) -> Bytes {
    let retry_after = retry_after.as_secs().to_string();
    let fields: &[(&str, &[u8])] = &[
        ("Retry-After", retry_after.as_bytes()),
        ("Connection", b"close"),
        ("Content-Type", b"text/plain"),
        // A page of any origin may see why it is refused.
        ("Access-Control-Allow-Origin", b"*"),
    ];
    let mut answer = Vec::new();
    http1::write_response(&mut answer, status, fields, format!("{text}\n").as_bytes());
    answer.into()
}
