//! What it costs to wake a shard that sleeps in io_uring, by each way the kernel has.
//!
//! Two threads, pinned to different cores: one wakes, the other sleeps in `wait`, is woken, and answers through memory.
//! Printed for each way: nanoseconds of the waking call, nanoseconds from that call to the woken thread running, and
//! cpu nanoseconds of the woken thread a wake. Then the same calls when the woken thread is awake (it spins), which is
//! what a waker pays when it does not look at the shard's sleeping flag. Figures are medians.
//!
//! Run with `cargo bench --bench wake`. These are the ways:
//! - `eventfd`: write to an eventfd that the ring polls, multishot. Any thread can do it.
//! - `msg_ring`: IORING_OP_MSG_RING through a ring of the waking thread. Only threads with a ring can do it.
//! - `sync msg_ring`: IORING_REGISTER_SEND_MSG_RING, which needs no ring of its own but Linux 6.13.
//!   Any thread can do it; the io_uring driver does, and falls back to the eventfd.
//! - the two drivers' own wakers, as shipped.

// The bench calls the kernel's own interfaces beside the drivers, which keep them to themselves.
#![allow(unsafe_code)]

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use io_uring::{IoUring, opcode, squeue, types};
use trunkline::driver::mio::MioDriver;
use trunkline::driver::uring::UringDriver;
use trunkline::driver::{Driver, DriverOptions};

/// Wakes measured for each figure; a wake of a sleeper takes some 10 us.
const WAKES: usize = 20_000;
/// Pause before each wake, so that the other thread is asleep again.
const PAUSE: Duration = Duration::from_micros(40);
const WAKE_TOKEN: u64 = 7;
const IORING_REGISTER_SEND_MSG_RING: libc::c_uint = 31;

fn main() {
    println!(
        "{:<22} {:>12} {:>14} {:>16} {:>13}",
        "way", "call, asleep", "call to awake", "cpu of the woken", "call, awake"
    );
    run("eventfd", Sleeper::ring, |sleeper| {
        let event = sleeper.event.try_clone().expect("dup");
        Box::new(move || {
            rustix::io::write(&event, &1u64.to_ne_bytes()).expect("eventfd");
        })
    });
    run("msg_ring", Sleeper::ring, |sleeper| {
        let target = sleeper.ring_fd;
        let mut ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .build(8)
            .expect("a ring for the waking thread");
        Box::new(move || {
            let entry = opcode::MsgRingData::new(types::Fd(target), 0, WAKE_TOKEN, None)
                .build()
                .flags(squeue::Flags::SKIP_SUCCESS);
            // SAFETY: the entry points to no memory.
            unsafe { ring.submission().push(&entry) }.expect("room");
            ring.submit().expect("submit");
            // A failure would post a completion; nothing else does.
            assert_eq!(ring.completion().count(), 0);
        })
    });
    run("sync msg_ring", Sleeper::ring, |sleeper| {
        let target = sleeper.ring_fd;
        Box::new(move || sync_msg_ring(target))
    });
    run("driver io_uring", Sleeper::uring, |sleeper| {
        let waker = sleeper.waker.clone().expect("a driver");
        Box::new(move || waker.wake())
    });
    run("driver mio", Sleeper::mio, |sleeper| {
        let waker = sleeper.waker.clone().expect("a driver");
        Box::new(move || waker.wake())
    });
}

/// What the woken thread made, for the waking one.
struct Sleeper {
    event: OwnedFd,
    ring_fd: RawFd,
    waker: Option<Arc<dyn trunkline::driver::Wake>>,
    /// Sleeps, or only looks, until something came.
    wait: Option<Box<dyn FnMut(bool)>>,
}

struct Shared {
    stop: AtomicBool,
    spin: AtomicBool,
    /// Nanoseconds since `start` at which the woken thread ran last, or 0 before.
    ran: AtomicU64,
    rounds: AtomicU64,
    cpu_ns: AtomicU64,
    start: Instant,
}

impl Sleeper {
    fn ring() -> Sleeper {
        let mut ring: IoUring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .build(64)
            .expect("io_uring");
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("eventfd");
        let poll =
            opcode::PollAdd::new(types::Fd(event.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        // SAFETY: the entry points to no memory.
        unsafe { ring.submission().push(&poll) }.expect("room");
        ring.submit().expect("submit");
        let ring_fd = ring.as_raw_fd();
        let wait = move |block: bool| {
            ring.submit_and_wait(usize::from(block)).expect("wait");
            ring.completion().for_each(drop);
        };
        Sleeper { event, ring_fd, waker: None, wait: Some(Box::new(wait)) }
    }

    fn uring() -> Sleeper {
        Self::driver(UringDriver::try_new(&options()).expect("io_uring"))
    }

    fn mio() -> Sleeper {
        Self::driver(MioDriver::try_new(&options()).expect("mio"))
    }

    fn driver(mut driver: impl Driver + 'static) -> Sleeper {
        let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).expect("eventfd");
        let waker = driver.waker();
        let mut events = Vec::new();
        let wait = move |block: bool| {
            driver.wait(&mut events, if block { None } else { Some(Duration::ZERO) }).expect("wait");
        };
        Sleeper { event, ring_fd: -1, waker: Some(waker), wait: Some(Box::new(wait)) }
    }
}

fn options() -> DriverOptions {
    DriverOptions {
        listeners: vec![SocketAddr::from(([127, 0, 0, 1], 0)).into()],
        sockets_max: 16,
        recv_buffer_bytes: 4096,
        recv_buffers: 4,
        socket: Default::default(),
    }
}

fn run(name: &str, make: fn() -> Sleeper, waker: fn(&Sleeper) -> Box<dyn FnMut()>) {
    let shared = Arc::new(Shared {
        stop: AtomicBool::new(false),
        spin: AtomicBool::new(false),
        ran: AtomicU64::new(0),
        rounds: AtomicU64::new(0),
        cpu_ns: AtomicU64::new(0),
        start: Instant::now(),
    });
    let (give, take) = std::sync::mpsc::channel();
    let woken = {
        let shared = shared.clone();
        std::thread::spawn(move || {
            pin(1);
            let mut sleeper = make();
            let mut wait = sleeper.wait.take().expect("made just now");
            let parts = (sleeper.event, sleeper.ring_fd, sleeper.waker);
            give.send(parts).expect("the waking thread");
            while !shared.stop.load(Ordering::Relaxed) {
                wait(!shared.spin.load(Ordering::Relaxed));
                shared.ran.store(shared.start.elapsed().as_nanos() as u64, Ordering::Release);
                if shared.rounds.fetch_add(1, Ordering::Relaxed).is_multiple_of(256) {
                    shared.cpu_ns.store(thread_cpu_ns(), Ordering::Relaxed);
                }
            }
        })
    };
    pin(0);
    let (event, ring_fd, handle) = take.recv().expect("the woken thread");
    let mut wake = waker(&Sleeper { event, ring_fd, waker: handle, wait: None });

    let (mut calls, mut latencies) = (Vec::with_capacity(WAKES), Vec::with_capacity(WAKES));
    let mut cpu = (0, 0);
    for i in 0..WAKES {
        let pause = Instant::now();
        while pause.elapsed() < PAUSE {
            std::hint::spin_loop();
        }
        if i == WAKES / 10 {
            cpu = (shared.cpu_ns.load(Ordering::Relaxed), shared.rounds.load(Ordering::Relaxed));
        }
        let before = shared.start.elapsed().as_nanos() as u64;
        wake();
        calls.push(shared.start.elapsed().as_nanos() as u64 - before);
        let ran = loop {
            let ran = shared.ran.load(Ordering::Acquire);
            if ran > before {
                break ran;
            }
            std::hint::spin_loop();
        };
        latencies.push(ran - before);
    }
    let cpu_ns = shared.cpu_ns.load(Ordering::Relaxed) - cpu.0;
    let rounds = shared.rounds.load(Ordering::Relaxed) - cpu.1;

    shared.spin.store(true, Ordering::Relaxed);
    wake();
    std::thread::sleep(Duration::from_millis(5));
    let mut awake = Vec::with_capacity(WAKES);
    for _ in 0..WAKES {
        let pause = Instant::now();
        while pause.elapsed() < PAUSE / 8 {
            std::hint::spin_loop();
        }
        let before = Instant::now();
        wake();
        awake.push(before.elapsed().as_nanos() as u64);
    }
    shared.stop.store(true, Ordering::Relaxed);
    wake();
    woken.join().expect("the woken thread");
    println!(
        "{name:<22} {:>9} ns {:>11} ns {:>13} ns {:>10} ns",
        median(calls),
        median(latencies),
        cpu_ns / rounds.max(1),
        median(awake)
    );
}

fn sync_msg_ring(target: RawFd) {
    let entry: squeue::Entry = opcode::MsgRingData::new(types::Fd(target), 0, WAKE_TOKEN, None).build();
    // SAFETY: the entry lives through the call and points to no memory. -1 is the descriptor this request asks for.
    let result = unsafe {
        libc::syscall(libc::SYS_io_uring_register, -1, IORING_REGISTER_SEND_MSG_RING, &raw const entry, 1)
    };
    assert!(result >= 0, "{}", std::io::Error::last_os_error());
}

fn pin(cpu: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).expect("two cores");
}

fn thread_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn median(mut values: Vec<u64>) -> u64 {
    values.sort_unstable();
    values[values.len() / 2]
}
