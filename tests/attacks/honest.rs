//! An ordinary user beside an attack: connected with a token, within the default limits, subscribed to a channel to which
//! both the backend and the user publish.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::frame::{Frame, TEXT};
use crate::process::{Api, Daemon};
use crate::socket::Socket;
use crate::token::token;

/// Half of `client.commands_per_second` at most: one command each time.
const PUBLISH_EVERY: Duration = Duration::from_millis(25);

const CHANNEL: &str = "open:honest";

/// How long each round took: a publication of the backend until it was answered and delivered, and one of the user likewise.
pub struct Honest {
    ended: Arc<AtomicBool>,
    took: Arc<Mutex<Vec<Duration>>>,
    thread: thread::JoinHandle<()>,
}

impl Honest {
    pub fn start(daemon: &Daemon) -> Honest {
        let mut socket = Socket::open(daemon, "/connection/websocket");
        let token = token(&json!({"sub": "honest"}));
        socket.send(Frame::text(&format!(
            "{{\"id\":1,\"connect\":{{\"token\":\"{token}\"}}}}\n{{\"id\":2,\"subscribe\":{{\"channel\":\"{CHANNEL}\"}}}}"
        )));
        let mut client = Client { socket, offset: 0, answered: 0 };
        client.await_state(0, 2);
        let mut api = Api::new(daemon);
        let ended = Arc::new(AtomicBool::new(false));
        let took = Arc::new(Mutex::new(Vec::new()));
        let (end, note) = (ended.clone(), took.clone());
        let thread = thread::spawn(move || {
            while !end.load(Ordering::Relaxed) {
                for by_the_user in [false, true] {
                    let (offset, id) = (client.offset + 1, client.answered + u64::from(by_the_user));
                    let began = Instant::now();
                    let publish = format!("{{\"channel\":\"{CHANNEL}\",\"data\":{offset}}}");
                    if by_the_user {
                        client.socket.send(Frame::text(&format!("{{\"id\":{id},\"publish\":{publish}}}")));
                    } else {
                        let answer = api.call("publish", &publish);
                        assert_eq!(answer["result"]["offset"], offset, "{answer}");
                    }
                    client.await_state(offset, id);
                    note.lock().expect("no reader panics").push(began.elapsed());
                }
                thread::sleep(PUBLISH_EVERY);
            }
        });
        Honest { ended, took, thread }
    }

    /// How long the rounds since the last call took.
    pub fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut self.took.lock().expect("no writer panics"))
    }

    /// The same, with the round that is under way.
    ///
    /// # Panics
    /// When anything was refused, lost or out of order.
    pub fn finish(self) -> Vec<Duration> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("the honest client is served");
        std::mem::take(&mut self.took.lock().expect("no writer panics"))
    }
}

struct Client {
    socket: Socket,
    /// Of the last publication that came.
    offset: u64,
    /// The last command that was answered.
    answered: u64,
}

impl Client {
    /// Reads until the publication and the answer have come: the next ones each time, and none is an error.
    fn await_state(&mut self, offset: u64, answered: u64) {
        while (self.offset, self.answered) != (offset, answered) {
            let frame = self.socket.recv().expect("the honest client stays connected");
            assert_eq!(frame.opcode, TEXT, "{frame:?}");
            let text = String::from_utf8(frame.payload).expect("text");
            for line in text.lines() {
                let message: Value = serde_json::from_str(line).expect("JSON");
                if line == "{}" {
                    self.socket.send(Frame::text("{}"));
                } else if let Some(id) = message["id"].as_u64() {
                    assert!(id == self.answered + 1 && message.get("error").is_none(), "{line}");
                    self.answered = id;
                } else {
                    self.offset += 1;
                    let publication = &message["push"]["pub"];
                    assert_eq!(
                        (&publication["offset"], &publication["data"]),
                        (&json!(self.offset), &json!(self.offset)),
                        "{line}"
                    );
                }
            }
        }
    }
}
