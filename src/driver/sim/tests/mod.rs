//! The simulator itself: here the suite that all drivers pass; the rules it enforces in `contract`; each fault
//! by itself in `single`; all of them together, and that a seed always gives the same run, in `echo`.

mod contract;
mod echo;
mod single;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{ClientEnd, ClientState, Faults, SimDriver, SimNet};
use crate::base::bytes::Bytes;
use crate::base::ids::{ListenerId, Sock};
use crate::driver::suite::{Client, Heard, Rig, driver_suite};
use crate::driver::{Driver, DriverEvent, DriverOptions, SendPart};

fn options(sockets_max: u32) -> DriverOptions {
    DriverOptions {
        listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        sockets_max,
        recv_buffer_bytes: 4096,
        recv_buffers: 8,
        socket: Default::default(),
    }
}

fn wait(driver: &mut SimDriver) -> Vec<DriverEvent> {
    let mut events = Vec::new();
    driver.wait(&mut events, None).expect("the simulator's wait does not fail");
    events
}

fn send(driver: &mut SimDriver, sock: Sock, bytes: &'static [u8]) {
    let hold = driver.hold(Bytes::from_static(bytes));
    driver.send(sock, &[SendPart { hold, range: 0..bytes.len() as u32 }], 0);
}

/// A net with one shard and one accepted client that is being read.
fn one_client(faults: Faults) -> (SimNet, SimDriver, ClientEnd, Sock) {
    let net = SimNet::new(1, faults);
    let mut driver = net.driver(&options(8));
    driver.accept_start();
    let client = net.connect();
    while client.state() == ClientState::Connecting {
        net.advance(Duration::from_micros(1));
    }
    let mut events = Vec::new();
    while events.is_empty() {
        events = wait(&mut driver);
    }
    let [DriverEvent::Accepted { sock, .. }] = events[..] else { panic!("{events:?}") };
    driver.read_start(sock);
    (net, driver, client, sock)
}

// ---- the suite

struct SimRig {
    net: SimNet,
    driver: SimDriver,
    clients: Vec<ClientEnd>,
}

impl Rig for SimRig {
    type Driver = SimDriver;
    const REAL_TIME: bool = false;

    fn try_new(options: DriverOptions) -> Option<SimRig> {
        let net = SimNet::new(1, Faults::none());
        let driver = net.driver(&options);
        net.set_strict(false);
        net.sleep_in_waits();
        Some(SimRig { net, driver, clients: Vec::new() })
    }

    fn driver(&mut self) -> &mut SimDriver {
        &mut self.driver
    }

    fn succeed(&mut self, options: DriverOptions) -> SimDriver {
        let successor = self.net.successor(&options);
        self.net.set_strict(false);
        std::mem::replace(&mut self.driver, successor)
    }

    fn take_back(&mut self, old: SimDriver) -> SimDriver {
        std::mem::replace(&mut self.driver, old)
    }

    fn settle_succession(&mut self) {
        let to = self.driver.shard();
        self.net.hand_over(to - 1..to, to..to + 1);
    }

    fn connect_by(&mut self, listener: ListenerId) -> Client {
        let mut client = self.net.connect_by(listener);
        // A socket nobody reads from: `client_recv` opens it for as long as it looks.
        client.read_pause();
        self.clients.push(client);
        Client(self.clients.len() - 1)
    }

    fn connect_from(&mut self, listener: ListenerId, address: Ipv4Addr) -> Client {
        let client = self.connect_by(listener);
        self.clients[client.0].comes_from(address.into());
        client
    }

    fn is_refused_by(&mut self, listener: ListenerId) -> bool {
        self.net.connect_by(listener).state() == ClientState::Refused
    }

    fn client_send(&mut self, client: Client, bytes: &[u8]) -> usize {
        if self.clients[client.0].send(bytes) { bytes.len() } else { 0 }
    }

    fn client_recv(&mut self, client: Client, into: &mut Vec<u8>) -> Heard {
        let client = &mut self.clients[client.0];
        client.read_resume();
        let came = client.recv_into(into);
        let state = client.state();
        client.read_pause();
        match (came, state) {
            (1.., _) => Heard::Bytes(came),
            (0, ClientState::Finished) => Heard::Finished,
            (0, ClientState::Reset | ClientState::Refused) => Heard::Broken,
            (0, ClientState::Connecting | ClientState::Open) => Heard::Nothing,
        }
    }

    fn client_finish(&mut self, client: Client) {
        self.clients[client.0].finish();
    }

    fn client_reset(&mut self, client: Client) {
        self.clients[client.0].reset();
    }

    fn pass(&mut self, time: Duration) {
        self.net.advance(time);
    }
}

mod suite {
    use super::*;
    driver_suite!(SimRig);
}
