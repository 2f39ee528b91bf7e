//! A client's end of one simulated connection.

use std::cell::RefCell;
use std::net::IpAddr;
use std::rc::Rc;

use crate::base::ids::ListenerId;

use super::link::{ClientState, LinkId};
use super::world::World;

/// What passed on one connection, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent by the client, and of these read by the shard.
    pub client_sent: u64,
    pub shard_read: u64,
    /// Taken from the shard by its kernel, and of these arrived at the client.
    pub shard_sent: u64,
    pub client_arrived: u64,
}

/// One client. Dropped, its socket is closed: in order if it had taken all that came, by a reset otherwise.
pub struct ClientEnd {
    world: Rc<RefCell<World>>,
    link: LinkId,
}

impl ClientEnd {
    pub(super) fn new(world: Rc<RefCell<World>>, shard: Option<usize>) -> ClientEnd {
        let link = world.borrow_mut().connect(shard);
        ClientEnd { world, link }
    }

    /// For one that is still on its way.
    pub(super) fn comes_by(&self, listener: ListenerId) {
        self.world.borrow_mut().link(self.link).listener = listener;
    }

    /// For one that is still on its way: it comes from there, not from this machine.
    pub fn comes_from(&self, address: IpAddr) {
        self.world.borrow_mut().link(self.link).address = address;
    }

    /// The connection's number in its net, from 0, in the order of connecting.
    pub fn number(&self) -> u32 {
        self.link.0
    }

    /// Sends, without ever blocking; while connecting, too. False if the client had finished or the connection is
    /// broken: nothing was taken then.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.world.borrow_mut().client_send(self.link, bytes)
    }

    /// What has arrived since the last call; nothing while reading is paused.
    pub fn recv(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        self.recv_into(&mut out);
        out
    }

    /// Like [`ClientEnd::recv`], appended to `out`. Returns how many bytes came.
    pub fn recv_into(&mut self, out: &mut Vec<u8>) -> usize {
        let mut world = self.world.borrow_mut();
        world.run_due();
        let client = &mut world.link(self.link).client;
        if client.paused {
            return 0;
        }
        let came = client.inbox.len();
        out.append(&mut client.inbox);
        came
    }

    /// Stops reading: what arrives fills the window, then the server's send buffer.
    pub fn read_pause(&mut self) {
        self.world.borrow_mut().client_read(self.link, false);
    }

    pub fn read_resume(&mut self) {
        self.world.borrow_mut().client_read(self.link, true);
    }

    /// Sends FIN after what was sent. Reading goes on.
    pub fn finish(&mut self) {
        self.world.borrow_mut().client_finish(self.link);
    }

    /// Breaks the connection: what was under way to this client is lost.
    pub fn reset(&mut self) {
        self.world.borrow_mut().client_reset(self.link);
    }

    pub fn state(&self) -> ClientState {
        let mut world = self.world.borrow_mut();
        world.run_due();
        world.link(self.link).client.state
    }

    /// Whether this end has sent its FIN (itself, or by [`super::Faults::doom_half_close`]) or is broken: nothing more
    /// can be sent.
    pub fn finished(&self) -> bool {
        self.world.borrow_mut().link(self.link).up.finished
    }

    /// The shard that it landed on; `None` while connecting, or if refused.
    pub fn shard(&self) -> Option<usize> {
        let mut world = self.world.borrow_mut();
        world.run_due();
        let link = world.link(self.link);
        link.landed.then_some(link.host)
    }

    pub fn traffic(&self) -> Traffic {
        let mut world = self.world.borrow_mut();
        let link = world.link(self.link);
        Traffic {
            client_sent: link.up.put_total,
            shard_read: link.up.taken_total,
            shard_sent: link.down.put_total,
            client_arrived: link.down.taken_total,
        }
    }
}

impl Drop for ClientEnd {
    fn drop(&mut self) {
        // While a failed assertion unwinds, the world may be in the middle of a change.
        if let Ok(mut world) = self.world.try_borrow_mut()
            && !std::thread::panicking()
        {
            world.client_close(self.link);
        }
    }
}
