//! On the steady path a delivery allocates nothing: a shard that serves two hundred subscribers allocates no more for a
//! publication than one that serves one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use trunkline::base::budget::Budget;
use trunkline::base::bytes::Bytes;
use trunkline::base::debts::Debts;
use trunkline::base::event::EventKinds;
use trunkline::base::fault::Disconnect;
use trunkline::base::ids::{ListenerId, ShardId};
use trunkline::base::prng::Prng;
use trunkline::base::seats::Seats;
use trunkline::base::time::Time;
use trunkline::driver::mio::MioDriver;
use trunkline::driver::uring::UringDriver;
use trunkline::driver::{Driver, DriverOptions};
use trunkline::hub::followed::StreamLimits;
use trunkline::hub::limits::HubLimits;
use trunkline::hub::options::{ChannelOptions, Namespaces};
use trunkline::hub::requests::PublishRequest;
use trunkline::proto::websocket::{self, Opcode};
use trunkline::session::origins::AllowedOrigins;
use trunkline::session::permissions::{Deed, Grantee, Permissions};
use trunkline::session::rules::ChannelRules;
use trunkline::shard::client_ids::ClientIds;
use trunkline::shard::control_request::{ControlReply, ControlRequest};
use trunkline::shard::mailbox::ShardInbox;
use trunkline::shard::router::Router;
use trunkline::shard::{ClientHooks, HttpLimits, Shard, ShardOptions, Tick};

/// Allocations of threads that are being watched.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    static WATCHED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

// SAFETY: every call is passed on to the system's allocator as it came; counting touches no memory of the heap.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promise, passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn count() {
    if WATCHED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const WARM_UP: u64 = 100;
const PUBLICATIONS: u64 = 200;
const CROWD: usize = 200;

#[test]
fn a_delivery_allocates_nothing() {
    // One test for both drivers: the counter is the process's.
    measure("mio", MioDriver::try_new);
    measure("io_uring", UringDriver::try_new);
}

fn measure<D: Driver>(
    name: &str,
    driver: impl Fn(&DriverOptions) -> std::io::Result<D> + Send + Copy + 'static,
) {
    let alone = allocations_per_run(1, driver);
    let crowd = allocations_per_run(CROWD, driver);
    let deliveries = PUBLICATIONS * (CROWD as u64 - 1);
    println!("{name}: {alone} allocations for {PUBLICATIONS} publications to one, {crowd} to {CROWD}");
    // A vector that grows late may do so a few times; one allocation a delivery would be tens of thousands.
    assert!(
        crowd <= alone + 50,
        "{name}: {crowd} allocations for {CROWD} subscribers, {alone} for one, in {deliveries} more deliveries"
    );
}

/// Allocations of the shard's thread while it delivers, warmed up, to `subscribers`.
fn allocations_per_run<D: Driver>(
    subscribers: usize,
    driver: impl Fn(&DriverOptions) -> std::io::Result<D> + Send + 'static,
) -> u64 {
    let inboxes: Arc<[Arc<ShardInbox>]> = vec![Arc::new(ShardInbox::new(1024))].into();
    let router = Router::new(inboxes, [1, 2, 3, 4]);
    let (ready, bound) = mpsc::channel();
    let shard = thread::spawn({
        let router = router.clone();
        move || {
            let driver = driver(&DriverOptions {
                listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
                sockets_max: 1024,
                recv_buffer_bytes: 16 * 1024,
                recv_buffers: 64,
                socket: Default::default(),
            })
            .expect("the driver starts");
            ready
                .send(driver.local_addr(ListenerId(0)).tcp().expect("bound by TCP"))
                .expect("the test waits");
            let ids = ClientIds::of_seed(1);
            let mut shard =
                Shard::new(ShardId(0), driver, Arc::new(options()), router, ids, None, Prng::with_seed(1));
            WATCHED.set(true);
            while shard.tick().expect("the driver goes on") == Tick::Goes {}
            WATCHED.set(false);
        }
    });
    let address = bound.recv().expect("the shard starts");
    let mut clients: Vec<TcpStream> = (0..subscribers).map(|_| subscribe(address)).collect();

    let mut seen = 0;
    let mut publish = |count: u64, clients: &mut [TcpStream]| {
        for _ in 0..count {
            seen += 1;
            let (reply, answered) = mpsc::channel();
            let ask = PublishRequest::new("room".into(), Bytes::from_static(b"\"a payload of a few bytes\""));
            let reply = ControlReply::new(move |answer| reply.send(answer).expect("the test waits"));
            router.ask(ShardId(0), ControlRequest::Publish(ask, reply)).expect("there is room");
            assert_eq!(answered.recv().expect("an answer").expect("a position").offset.0, seen);
            for client in clients.iter_mut() {
                let text = read_frame(client);
                assert!(text.contains(&format!("\"offset\":{seen}")), "{text}");
            }
        }
    };
    publish(WARM_UP, &mut clients);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    publish(PUBLICATIONS, &mut clients);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;

    drop(clients);
    router.ask(ShardId(0), ControlRequest::Shutdown(Disconnect::SHUTDOWN)).expect("there is room");
    shard.join().expect("the shard ends");
    allocations
}

fn subscribe(address: SocketAddr) -> TcpStream {
    let mut client = TcpStream::connect(address).expect("the shard accepts");
    client.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
    let mut request = Vec::new();
    websocket::write_request(
        &mut request,
        "localhost",
        "/connection/websocket",
        b"a key of 16 octs",
        &[],
        &[],
    );
    let commands = "{\"id\":1,\"connect\":{}}\n{\"id\":2,\"subscribe\":{\"channel\":\"room\"}}";
    websocket::write_frame_masked(&mut request, Opcode::Text, commands.as_bytes(), [1, 2, 3, 4]);
    client.write_all(&request).expect("the shard reads");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("an answer to the upgrade");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    while !read_frame(&mut client).contains("\"subscribe\"") {}
    client
}

/// The text of one short, unmasked frame.
fn read_frame(client: &mut TcpStream) -> String {
    let mut header = [0; 2];
    client.read_exact(&mut header).expect("a frame");
    let mut len = usize::from(header[1]);
    if len == 126 {
        let mut long = [0; 2];
        client.read_exact(&mut long).expect("its length");
        len = usize::from(u16::from_be_bytes(long));
    }
    let mut payload = vec![0; len];
    client.read_exact(&mut payload).expect("its payload");
    String::from_utf8(payload).expect("text")
}

fn options() -> ShardOptions {
    let permissions = Permissions::default().with(Deed::Subscribe, Grantee::Client, true);
    let rules = ChannelRules { permissions, ..ChannelRules::default() };
    ShardOptions {
        listeners: Vec::new(),
        trusted: Default::default(),
        namespaces: Arc::new(Namespaces::new(ChannelOptions::default(), [], 255)),
        rules: Arc::new(Namespaces::new(rules, [], 255)),
        hub: HubLimits::default(),
        streams: StreamLimits {
            channel_bytes_max: 1 << 20,
            channel_items_max: 1024,
            shard_bytes_max: 1 << 20,
        },
        verifier: None,
        tunnels: Vec::new(),
        allow_anonymous: true,
        personal_channels: None,
        inboxes: None,
        allowed_origins: AllowedOrigins::default(),
        connections_max: 1024,
        seats: Seats::new(1024),
        refused_max: 8,
        debts: Debts::new(1 << 30),
        send_buffer_bytes: 0,
        admission: None,
        channels_max: 16,
        message_bytes_max: 64 * 1024,
        compression: None,
        outbox_bytes_max: 1 << 20,
        http_body_bytes_max: 1 << 20,
        http: HttpLimits {
            keep_alive: Duration::from_secs(75),
            body_timeout: Duration::from_secs(60),
            input: Budget::new("input", 1 << 20),
            bodies: Budget::new("bodies", 1 << 20),
        },
        ping_interval: Duration::from_secs(600),
        pong_timeout: Duration::from_secs(300),
        connect_timeout: Duration::from_secs(60),
        handshake_timeout: Duration::from_secs(60),
        expired_close_delay: Duration::from_secs(25),
        hooks: ClientHooks::default(),
        forward_headers: Vec::new(),
        emulated_headers: Vec::new(),
        hook_call_patience: Duration::from_secs(1),
        shutdown_grace: Duration::from_secs(5),
        client_limits: Default::default(),
        echo: false,
        client_paths: Default::default(),
        connect_statuses: Vec::new(),
        node_uid: "node".into(),
        events: EventKinds::default(),
        vacated_delay: Duration::ZERO,
        user_offline_delay: Duration::ZERO,
        blocks: Arc::default(),
        seeing: Default::default(),
        version: "test",
        wall_ms: |_: Time| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
        },
        thread_time: || Duration::ZERO,
    }
}
