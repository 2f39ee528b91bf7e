//! The stages of a publication's way from its owner to the sockets, each by itself: encoding for each form, the hop
//! to another shard, the sends. (`hub` has the append and the walk over subscribers, `wake` the wake-up between shards,
//! `commands` and `websocket` the codecs.)
//!
//! `send/*` writes one message of 130 bytes to each of 256 loopback sockets whose readers sleep; what is left of the
//! cost of a delivery when that is taken away is what this program adds. `send/write` is the floor: one write(2) a
//! socket in a bare loop. The readers drain outside of the measured time.

use std::hint::black_box;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use trunkline::base::bytes::Bytes;
use trunkline::base::ids::{Epoch, ListenerId, Offset, Position, Sock};
use trunkline::base::publication::{Encoded, Publication};
use trunkline::driver::mio::MioDriver;
use trunkline::driver::uring::UringDriver;
use trunkline::driver::{Driver, DriverEvent, DriverOptions, SendPart};
use trunkline::hub::followed::Item;
use trunkline::proto::centrifuge::reply::{PublicationRef, Push};
use trunkline::proto::centrifuge::{Format, encode_push};
use trunkline::proto::encoding::Encoding;
use trunkline::proto::unidirectional::frames;
use trunkline::proto::websocket::{self, Opcode};
use trunkline::shard::mailbox::{ShardInbox, ShardMessage};
use trunkline::shard::owner::FromOwner;

const SOCKETS: usize = 256;
const MESSAGE: &[u8] = &[b'7'; 130];

fn publication() -> Publication {
    Publication {
        channel: "news".into(),
        position: Position { offset: Offset(123_456), epoch: Epoch(0x1234_5678) },
        data: Bytes::from(format!("\"{}\"", "7".repeat(98))),
        info: None,
        tags: Vec::new(),
        except: None,
        time_ms: 0,
        encoded: Encoded::default(),
    }
}

/// Once a publication and kind, whatever the number of subscribers.
fn encode(c: &mut Criterion) {
    let publication = publication();
    c.bench_function("encode/centrifuge_json", |b| {
        b.iter(|| {
            let mut text = Vec::new();
            let push = Push::Publication(PublicationRef {
                data: &publication.data,
                offset: publication.offset(),
                info: None,
                tags: &publication.tags,
                patched: false,
                time_ms: 0,
            });
            encode_push(&mut text, Format::Json, &publication.channel, &push);
            let mut frame = Vec::with_capacity(text.len() + websocket::FRAME_HEADER_BYTES_MAX);
            websocket::write_frame(&mut frame, Opcode::Text, &text);
            black_box(frame)
        });
    });
    let kinds = [
        ("sse", Encoding::Sse),
        ("json_lines", Encoding::JsonLines),
        ("iframe", Encoding::Iframe),
        ("websocket_json", Encoding::WebSocketJson),
        ("websocket_bare", Encoding::WebSocketBare),
    ];
    for (name, kind) in kinds {
        c.bench_function(&format!("encode/{name}"), |b| {
            b.iter(|| black_box(frames::encode(kind, &publication)))
        });
    }
}

/// Once a publication and shard with subscribers: into an inbox that is awake, and out of it.
fn hop(c: &mut Criterion) {
    let inbox = ShardInbox::new(1024);
    let publication = Arc::new(publication());
    c.bench_function("hop/inbox", |b| {
        b.iter(|| {
            inbox
                .push(ShardMessage::FromOwner(FromOwner::Item(Item::Publication(Arc::clone(&publication)))))
                .expect("there is room");
            black_box(inbox.pop())
        });
    });
}

fn options() -> DriverOptions {
    DriverOptions {
        listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        sockets_max: 2 * SOCKETS as u32,
        recv_buffer_bytes: 4096,
        recv_buffers: 64,
        socket: Default::default(),
    }
}

/// A driver with its sockets open, and the other ends.
fn connected<D: Driver>(mut driver: D) -> (D, Vec<Sock>, Vec<TcpStream>) {
    driver.accept_start();
    let address = driver.local_addr(ListenerId(0)).tcp().expect("bound by TCP");
    let (mut socks, mut clients, mut events) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..SOCKETS {
        clients.push(TcpStream::connect(address).expect("connects"));
        let wanted = clients.len();
        while socks.len() < wanted {
            driver.flush(&mut Vec::new());
            driver.wait(&mut events, Some(Duration::from_millis(100))).expect("waits");
            for event in events.drain(..) {
                if let DriverEvent::Accepted { sock, .. } = event {
                    driver.read_start(sock);
                    socks.push(sock);
                }
            }
        }
    }
    (driver, socks, clients)
}

fn drain(clients: &mut [TcpStream]) {
    let mut buffer = [0; MESSAGE.len()];
    for client in clients {
        client.read_exact(&mut buffer).expect("what was sent");
    }
}

fn send_by(c: &mut Criterion, name: &str, driver: impl Driver) {
    let (mut driver, socks, mut clients) = connected(driver);
    let message = Bytes::from_static(MESSAGE);
    let (mut failures, mut events) = (Vec::new(), Vec::new());
    let mut group = c.benchmark_group("send");
    group.throughput(Throughput::Elements(SOCKETS as u64));
    group.bench_function(name, |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let start = Instant::now();
                let hold = driver.hold(message.clone());
                for (tag, &sock) in socks.iter().enumerate() {
                    driver.send(sock, &[SendPart { hold, range: 0..MESSAGE.len() as u32 }], tag as u32);
                }
                driver.flush(&mut failures);
                spent += start.elapsed();
                assert!(failures.is_empty(), "{failures:?}");
                drain(&mut clients);
                driver.wait(&mut events, Some(Duration::ZERO)).expect("waits");
                events.clear();
            }
            spent
        });
    });
    group.finish();
}

fn send(c: &mut Criterion) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("is bound");
    // One by one: the listener's queue is shorter than the crowd.
    let pair = |_| {
        let client = TcpStream::connect(address).expect("connects");
        let (server, _) = listener.accept().expect("accepts");
        server.set_nodelay(true).expect("is a TCP socket");
        (client, server)
    };
    let (mut clients, mut servers): (Vec<_>, Vec<_>) = (0..SOCKETS).map(pair).unzip();
    let mut group = c.benchmark_group("send");
    group.throughput(Throughput::Elements(SOCKETS as u64));
    group.bench_function("write", |b| {
        b.iter_custom(|rounds| {
            let mut spent = Duration::ZERO;
            for _ in 0..rounds {
                let start = Instant::now();
                for server in &mut servers {
                    server.write_all(MESSAGE).expect("writes");
                }
                spent += start.elapsed();
                drain(&mut clients);
            }
            spent
        });
    });
    group.finish();
    match UringDriver::try_new(&options()) {
        Ok(driver) => send_by(c, "io_uring", driver),
        Err(error) => eprintln!("send/io_uring is left out: {error}"),
    }
    send_by(c, "mio", MioDriver::try_new(&options()).expect("epoll"));
}

criterion_group!(benches, encode, hop, send);
criterion_main!(benches);
