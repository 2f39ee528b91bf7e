//! Virtual time and what travels in it: the agenda, the connections, and the far side of every socket.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::os::fd::RawFd;
use std::time::Duration;

use crate::base::ids::Sock;
use crate::base::prng::Prng;
use crate::base::time::Time;
use crate::driver::SocketEnd;

use super::faults::{Faults, happens};
use super::host::{BACKLOG_MAX, Host, SimWatch};
use super::link::{ClientState, LinkId, SimLink, SimPlace};

/// A SYN that meets a full backlog is dropped; Linux sends it again this often before it gives up.
const SYN_RETRIES_MAX: u32 = 6;

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
enum WorldDue {
    Syn { link: LinkId, shard: Option<usize>, tries: u32 },
    Up { link: LinkId, len: usize },
    UpFin { link: LinkId },
    UpReset { link: LinkId },
    Down { link: LinkId, len: usize },
    DownFin { link: LinkId },
    DownReset { link: LinkId },
    Break { link: LinkId },
    HalfClose { link: LinkId },
    Gone { host: usize, slot: u32 },
}

/// Ordered by time, then by when it was planned: ties never depend on the heap.
struct WorldEntry {
    at: Time,
    order: u64,
    due: WorldDue,
}

impl PartialEq for WorldEntry {
    fn eq(&self, other: &WorldEntry) -> bool {
        (self.at, self.order) == (other.at, other.order)
    }
}

impl Eq for WorldEntry {}

impl PartialOrd for WorldEntry {
    fn partial_cmp(&self, other: &WorldEntry) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for WorldEntry {
    fn cmp(&self, other: &WorldEntry) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Direction {
    Up,
    Down,
}

/// A descriptor on its way from one host to another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exported {
    pub of: (usize, Sock),
    pub link: LinkId,
    pub finished: bool,
    /// Its host has closed the socket: this is what holds it.
    pub alone: bool,
}

pub(super) struct World {
    pub now: Time,
    pub prng: Prng,
    pub faults: Faults,
    pub links: Vec<SimLink>,
    pub hosts: Vec<Host>,
    agenda: BinaryHeap<Reverse<WorldEntry>>,
    planned_total: u64,
    /// Mixed from all that happened: equal for equal runs.
    pub fingerprint: u64,
    /// Sockets on their way to another host, by the descriptors that stand for them.
    pub exported: HashMap<RawFd, Exported>,
    /// A wait lets time pass until something happens.
    pub sleeps: bool,
    /// Everything that happens is printed.
    pub trace: bool,
}

impl World {
    pub fn new(seed: u64, faults: Faults) -> World {
        faults.check();
        World {
            now: Time::ZERO,
            prng: Prng::with_seed(seed),
            faults,
            links: Vec::new(),
            hosts: Vec::new(),
            agenda: BinaryHeap::new(),
            planned_total: 0,
            fingerprint: seed,
            exported: HashMap::new(),
            sleeps: false,
            trace: false,
        }
    }

    pub fn mix(&mut self, value: u64) {
        // One round of a multiply-and-rotate hash: order matters, and it costs nothing beside the copying of bytes.
        self.fingerprint = (self.fingerprint ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    pub fn mix_bytes(&mut self, bytes: &[u8]) {
        self.mix(bytes.len() as u64);
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    pub fn link(&mut self, link: LinkId) -> &mut SimLink {
        &mut self.links[link.0 as usize]
    }

    // ---- time ----

    /// Lets everything happen that is due up to `until`, and sets the clock there.
    pub fn advance_to(&mut self, until: Time) {
        while let Some(Reverse(entry)) = self.agenda.peek() {
            if entry.at > until {
                break;
            }
            let Some(Reverse(entry)) = self.agenda.pop() else { break };
            self.now = self.now.max(entry.at);
            self.happen(entry.due);
        }
        self.now = self.now.max(until);
    }

    pub fn run_due(&mut self) {
        self.advance_to(self.now);
    }

    pub fn agenda_next(&self) -> Option<Time> {
        self.agenda.peek().map(|Reverse(entry)| entry.at)
    }

    fn plan(&mut self, at: Time, due: WorldDue) {
        self.planned_total += 1;
        self.agenda.push(Reverse(WorldEntry { at, order: self.planned_total, due }));
    }

    fn happen(&mut self, due: WorldDue) {
        self.mix(self.now.0);
        if self.trace {
            eprintln!("{:>10} us  {due:?}", self.now.0 / 1000);
        }
        match due {
            WorldDue::Syn { link, shard, tries } => self.handle_syn(link, shard, tries),
            WorldDue::Up { link, len } => self.handle_up(link, len),
            WorldDue::UpFin { link } => self.handle_up_fin(link),
            WorldDue::UpReset { link } => self.handle_up_reset(link),
            WorldDue::Down { link, len } => self.handle_down(link, len),
            WorldDue::DownFin { link } => self.handle_down_fin(link),
            WorldDue::DownReset { link } => self.handle_down_reset(link),
            WorldDue::Break { link } => self.break_link(link, libc::ETIMEDOUT),
            WorldDue::HalfClose { link } => self.client_finish(link),
            WorldDue::Gone { host, slot } => self.hosts[host].gone.push(slot),
        }
    }

    fn latency(&mut self) -> Duration {
        let mut us = self.prng.u64(self.faults.latency_us.clone());
        if happens(&mut self.prng, self.faults.stall) {
            us += self.prng.u64(self.faults.stall_us.clone());
        }
        Duration::from_micros(us)
    }

    /// When a segment sent now arrives: never before an earlier one of its direction.
    fn arrival(&mut self, link: LinkId, direction: Direction) -> Time {
        let at = self.now + self.latency();
        let pipe = match direction {
            Direction::Up => &mut self.links[link.0 as usize].up,
            Direction::Down => &mut self.links[link.0 as usize].down,
        };
        pipe.newest_at = pipe.newest_at.max(at);
        pipe.newest_at
    }

    /// Puts `bytes` on their way, in as many segments as the seed cuts.
    fn transmit(&mut self, link: LinkId, direction: Direction, bytes: &[u8]) {
        match direction {
            Direction::Up => self.link(link).up.put(bytes),
            Direction::Down => self.link(link).down.put(bytes),
        }
        let mut left = bytes.len();
        while left > 0 {
            let len = match happens(&mut self.prng, self.faults.split) {
                // Half the cuts are close to the start: that is where heads and lengths are.
                true if self.prng.bool() => self.prng.usize(1..=left.min(16)),
                true => self.prng.usize(1..=left),
                false => left,
            };
            left -= len;
            let at = self.arrival(link, direction);
            let due = match direction {
                Direction::Up => WorldDue::Up { link, len },
                Direction::Down => WorldDue::Down { link, len },
            };
            self.plan(at, due);
        }
    }

    // ---- the client's side ----

    pub fn connect(&mut self, shard: Option<usize>) -> LinkId {
        let link = LinkId(u32::try_from(self.links.len()).expect("fewer than 2^32 connections in a run"));
        let send_buffer = self.prng.usize(self.faults.send_buffer_bytes.clone());
        let window = self.prng.usize(self.faults.client_window_bytes.clone());
        self.links.push(SimLink::new(self.now, send_buffer, window));
        let at = self.arrival(link, Direction::Up);
        self.plan(at, WorldDue::Syn { link, shard, tries: 0 });
        if happens(&mut self.prng, self.faults.doom_reset) {
            let at = at + Duration::from_micros(self.prng.u64(self.faults.doom_us.clone()));
            self.plan(at, WorldDue::Break { link });
        }
        if happens(&mut self.prng, self.faults.doom_half_close) {
            let at = at + Duration::from_micros(self.prng.u64(self.faults.doom_us.clone()));
            self.plan(at, WorldDue::HalfClose { link });
        }
        link
    }

    /// False when the client can send no more: nothing was taken.
    pub fn client_send(&mut self, link: LinkId, bytes: &[u8]) -> bool {
        let at = self.link(link);
        if at.up.finished || matches!(at.client.state, ClientState::Reset | ClientState::Refused) {
            return false;
        }
        self.transmit(link, Direction::Up, bytes);
        true
    }

    pub fn client_finish(&mut self, link: LinkId) {
        let at = self.link(link);
        if at.up.finished || matches!(at.client.state, ClientState::Reset | ClientState::Refused) {
            return;
        }
        at.up.finished = true;
        let at = self.arrival(link, Direction::Up);
        self.plan(at, WorldDue::UpFin { link });
    }

    pub fn client_reset(&mut self, link: LinkId) {
        let at = self.link(link);
        if matches!(at.client.state, ClientState::Reset | ClientState::Refused) {
            return;
        }
        at.client.state = ClientState::Reset;
        at.up.finished = true;
        at.down.cut(true);
        // A reset may overtake data that is still under way, which is then lost.
        let at = match happens(&mut self.prng, self.faults.reset_loses) {
            true => self.now + self.latency(),
            false => self.arrival(link, Direction::Up),
        };
        self.plan(at, WorldDue::UpReset { link });
    }

    /// The client's socket is closed: in order if it had read everything, by a reset otherwise, as Linux does.
    pub fn client_close(&mut self, link: LinkId) {
        let at = self.link(link);
        let unread = !at.client.inbox.is_empty() || at.down.due > 0;
        at.client.closed = true;
        at.client.inbox = Vec::new();
        at.down.shrink();
        match unread {
            true => self.client_reset(link),
            false => self.client_finish(link),
        }
    }

    pub fn client_read(&mut self, link: LinkId, reads: bool) {
        self.link(link).client.paused = !reads;
        self.deliver_down(link);
    }

    // ---- the server's side ----

    /// The shard, or its kernel, will have nothing to do with `link` any more.
    pub fn server_close(&mut self, link: LinkId, reset: bool) {
        let at = self.link(link);
        at.place = SimPlace::Gone;
        at.up.shrink();
        if at.broken() {
            return;
        }
        if reset || at.up.due > 0 {
            // Linux answers a close with unread bytes by a reset, which overtakes what it had still to send.
            self.server_reset(link);
        } else {
            self.server_finish(link);
        }
    }

    pub fn server_finish(&mut self, link: LinkId) {
        let at = self.link(link);
        if !at.down.finished {
            at.down.finished = true;
            let at = self.arrival(link, Direction::Down);
            self.plan(at, WorldDue::DownFin { link });
        }
    }

    /// Closes a connection that no shard took.
    pub fn refuse(&mut self, link: LinkId) {
        self.link(link).place = SimPlace::Gone;
        self.server_reset(link);
    }

    fn server_reset(&mut self, link: LinkId) {
        self.link(link).down.finished = true;
        let at = match happens(&mut self.prng, self.faults.reset_loses) {
            true => self.now + self.latency(),
            false => self.arrival(link, Direction::Down),
        };
        self.plan(at, WorldDue::DownReset { link });
    }

    pub fn server_transmit(&mut self, link: LinkId, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.transmit(link, Direction::Down, bytes);
        }
    }

    /// Both ends see the connection broken at once, and what was under way is lost.
    pub fn break_link(&mut self, link: LinkId, errno: i32) {
        let lose = happens(&mut self.prng, self.faults.reset_loses);
        let at = self.link(link);
        at.down.cut(true);
        at.up.finished = true;
        if matches!(at.client.state, ClientState::Connecting | ClientState::Open) {
            at.client.state = ClientState::Reset;
        }
        self.server_broken(link, errno, lose);
    }

    /// A closed socket's slot may be handed out again, now or later.
    pub fn plan_gone(&mut self, host: usize, slot: u32) {
        if happens(&mut self.prng, self.faults.closed_late) {
            let at = self.now + Duration::from_micros(self.prng.u64(self.faults.closed_late_us.clone()));
            self.plan(at, WorldDue::Gone { host, slot });
        } else {
            self.hosts[host].gone.push(slot);
        }
    }

    // ---- what arrives ----

    fn handle_syn(&mut self, link: LinkId, shard: Option<usize>, tries: u32) {
        if self.link(link).client.state != ClientState::Connecting {
            self.link(link).place = SimPlace::Gone;
            return;
        }
        let Some(host) = self.listener(shard) else {
            self.connect_failed(link);
            return;
        };
        if self.hosts[host].backlog.len() >= BACKLOG_MAX {
            if tries == SYN_RETRIES_MAX {
                self.connect_failed(link);
            } else {
                let at = self.now + Duration::from_secs(1 << tries);
                self.plan(at, WorldDue::Syn { link, shard, tries: tries + 1 });
            }
            return;
        }
        let at = self.link(link);
        at.host = host;
        at.landed = true;
        at.place = SimPlace::Backlog;
        at.client.state = ClientState::Open;
        self.hosts[host].backlog.push_back(link);
    }

    /// The listener that a new client lands on: any of those that listen, like SO_REUSEPORT, unless one is named.
    fn listener(&mut self, shard: Option<usize>) -> Option<usize> {
        if let Some(shard) = shard {
            return self.hosts[shard].listening.then_some(shard);
        }
        let listening = self.hosts.iter().filter(|host| host.listening).count();
        if listening == 0 {
            return None;
        }
        let nth = self.prng.usize(0..listening);
        self.hosts.iter().enumerate().filter(|(_, host)| host.listening).map(|(index, _)| index).nth(nth)
    }

    fn connect_failed(&mut self, link: LinkId) {
        let at = self.link(link);
        at.place = SimPlace::Gone;
        at.client.state = ClientState::Refused;
        at.up.finished = true;
        at.up.cut(true);
        at.down.cut(true);
    }

    fn handle_up(&mut self, link: LinkId, len: usize) {
        let at = self.link(link);
        if at.up.cut {
            return;
        }
        if at.place == SimPlace::Gone {
            // Data for a closed socket is answered by a reset.
            at.up.cut(true);
            let at = self.now + self.latency();
            self.plan(at, WorldDue::DownReset { link });
            return;
        }
        at.up.arrive(len);
        self.mark_ready(link);
    }

    fn handle_up_fin(&mut self, link: LinkId) {
        let at = self.link(link);
        if at.up_end.is_none() && !at.up.cut {
            at.up_end = Some(SocketEnd::Finished);
            self.mark_ready(link);
        }
    }

    fn handle_up_reset(&mut self, link: LinkId) {
        let lose = happens(&mut self.prng, self.faults.reset_loses);
        self.link(link).down.cut(true);
        self.server_broken(link, libc::ECONNRESET, lose);
    }

    fn server_broken(&mut self, link: LinkId, errno: i32, lose: bool) {
        let at = self.link(link);
        at.up.cut(lose);
        if !at.broken() {
            at.up_end = Some(SocketEnd::Broken(errno));
        }
        self.mark_ready(link);
    }

    fn handle_down(&mut self, link: LinkId, len: usize) {
        let at = self.link(link);
        if at.down.cut {
            return;
        }
        if at.client.closed {
            at.down.cut(true);
            let at = self.now + self.latency();
            self.plan(at, WorldDue::UpReset { link });
            return;
        }
        at.down.arrive(len);
        self.deliver_down(link);
    }

    fn handle_down_fin(&mut self, link: LinkId) {
        let at = self.link(link);
        if !at.down.cut {
            at.down_fin = true;
            self.deliver_down(link);
        }
    }

    fn handle_down_reset(&mut self, link: LinkId) {
        let at = self.link(link);
        at.down.cut(true);
        at.up.finished = true;
        if matches!(at.client.state, ClientState::Connecting | ClientState::Open) {
            at.client.state = ClientState::Reset;
        }
    }

    fn deliver_down(&mut self, link: LinkId) {
        let at = &mut self.links[link.0 as usize];
        if !at.deliver_down() {
            return;
        }
        if let SimPlace::Accepted { slot } = at.place {
            let host = &mut self.hosts[at.host];
            if host.at(slot).1.watch == SimWatch::Armed && at.writable() {
                host.mark_ready(slot);
            }
        }
    }

    fn mark_ready(&mut self, link: LinkId) {
        let at = &self.links[link.0 as usize];
        if let SimPlace::Accepted { slot } = at.place {
            self.hosts[at.host].mark_ready(slot);
        }
    }
}
