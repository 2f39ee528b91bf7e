//! One connection: two directions of bytes and the client's end.
//!
//! ```text
//!  client ──send──▶ up.bytes [due | travelling] ──read──▶ shard
//!  client ◀──inbox── down.bytes [due | travelling] ◀──send── shard      (down.bytes is the server's send buffer)
//! ```

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};

use crate::base::ids::ListenerId;
use crate::base::time::Time;
use crate::driver::SocketEnd;

/// Never reused in a run: an agenda entry of a dead connection finds it dead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LinkId(pub u32);

/// How a connection looks from its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientState {
    /// On its way to a listener.
    Connecting,
    /// In a listener's backlog, or accepted.
    Open,
    /// The server finished in order, and all that it sent has arrived. The client may still send.
    Finished,
    /// Broken: by the client itself, the server or the network. What arrived before can still be taken.
    Reset,
    /// No shard listened.
    Refused,
}

/// Where a connection's server side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SimPlace {
    Coming,
    Backlog,
    /// In its host's table.
    Accepted {
        slot: u32,
    },
    /// Only a descriptor between two hosts holds it.
    OnItsWay,
    /// Closed by the shard, or never taken.
    Gone,
}

/// Bytes under way in one direction, in order.
#[derive(Debug, Default)]
pub(super) struct Pipe {
    /// The first `due` have arrived, the rest travel.
    pub bytes: VecDeque<u8>,
    pub due: usize,
    /// When the newest segment arrives: the next one may not overtake it.
    pub newest_at: Time,
    /// The sender has finished: nothing more may be put in.
    pub finished: bool,
    /// Nothing that still travels may arrive any more.
    pub cut: bool,
    /// Bytes ever put in, and ever taken out by the receiver.
    pub put_total: u64,
    pub taken_total: u64,
}

impl Pipe {
    pub fn put(&mut self, bytes: &[u8]) {
        assert!(!self.finished, "bytes after a FIN");
        self.bytes.extend(bytes);
        self.put_total += bytes.len() as u64;
    }

    /// `len` bytes more have arrived.
    pub fn arrive(&mut self, len: usize) {
        self.due += len;
        assert!(self.due <= self.bytes.len(), "more bytes arrived than were sent");
    }

    /// Moves arrived bytes into `out`, as many as it holds. `out` must not be longer than `due`.
    pub fn take(&mut self, out: &mut [u8]) {
        let (head, tail) = self.bytes.as_slices();
        let (len, from_head) = (out.len(), head.len().min(out.len()));
        out[..from_head].copy_from_slice(&head[..from_head]);
        out[from_head..].copy_from_slice(&tail[..len - from_head]);
        self.drop_due(len);
    }

    /// Appends `len` arrived bytes to `out`.
    pub fn take_into(&mut self, out: &mut Vec<u8>, len: usize) {
        let (head, tail) = self.bytes.as_slices();
        let from_head = head.len().min(len);
        out.extend_from_slice(&head[..from_head]);
        out.extend_from_slice(&tail[..len - from_head]);
        self.drop_due(len);
    }

    /// Nothing more arrives; `lose` throws away what had arrived, too.
    pub fn cut(&mut self, lose: bool) {
        self.cut = true;
        if lose {
            self.due = 0;
        }
        self.bytes.truncate(self.due);
        self.shrink();
    }

    /// Connections are kept until the end of a run; their memory is not.
    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
    }

    fn drop_due(&mut self, len: usize) {
        assert!(len <= self.due, "took bytes that had not arrived");
        self.bytes.drain(..len);
        self.due -= len;
        self.taken_total += len as u64;
    }
}

#[derive(Debug)]
pub(super) struct SimLink {
    /// The shard that it landed on; meaningless before it `landed`.
    pub host: usize,
    pub landed: bool,
    /// Which listener of that shard.
    pub listener: ListenerId,
    /// Where the client comes from.
    pub address: IpAddr,
    pub place: SimPlace,
    pub up: Pipe,
    /// What the server's kernel knows of the client's end; told to the shard when `up` has been read.
    pub up_end: Option<SocketEnd>,
    pub down: Pipe,
    /// The server's FIN has arrived behind the bytes before it.
    pub down_fin: bool,
    pub send_buffer_bytes: usize,
    pub client: Client,
}

#[derive(Debug)]
pub(super) struct Client {
    pub state: ClientState,
    /// It stopped reading.
    pub paused: bool,
    /// It closed its socket for good: whatever still comes is answered by a reset.
    pub closed: bool,
    pub window_bytes: usize,
    pub inbox: Vec<u8>,
}

impl SimLink {
    pub fn new(now: Time, send_buffer_bytes: usize, window_bytes: usize) -> SimLink {
        let pipe = || Pipe { newest_at: now, ..Pipe::default() };
        SimLink {
            host: 0,
            landed: false,
            listener: ListenerId(0),
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
            place: SimPlace::Coming,
            up: pipe(),
            up_end: None,
            down: pipe(),
            down_fin: false,
            send_buffer_bytes,
            client: Client {
                state: ClientState::Connecting,
                paused: false,
                closed: false,
                window_bytes,
                inbox: Vec::new(),
            },
        }
    }

    pub fn broken(&self) -> bool {
        matches!(self.up_end, Some(SocketEnd::Broken(_)))
    }

    /// Bytes that the server's kernel takes now.
    pub fn send_room(&self) -> usize {
        self.send_buffer_bytes.saturating_sub(self.down.bytes.len())
    }

    /// Linux reports a socket writable when a third of its buffer is free, not at the first byte. A broken one counts
    /// as writable, so that its owner tries and learns.
    pub fn writable(&self) -> bool {
        self.broken() || self.send_room() >= self.send_buffer_bytes.div_ceil(3)
    }

    /// Moves what arrived into the client's inbox, as far as its window allows. True if something moved.
    pub fn deliver_down(&mut self) -> bool {
        let room = match self.client.paused {
            true => self.client.window_bytes.saturating_sub(self.client.inbox.len()),
            false => usize::MAX,
        };
        let len = self.down.due.min(room);
        self.down.take_into(&mut self.client.inbox, len);
        if self.down_fin && self.down.bytes.is_empty() && self.client.state == ClientState::Open {
            self.client.state = ClientState::Finished;
        }
        len > 0
    }
}
