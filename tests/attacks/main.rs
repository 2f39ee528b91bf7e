//! One client against everybody: what it may cost the daemon, and what the others notice.
//!
//! Each attack runs for [`harness::duration`] against the binary in a process of its own, beside an honest client of an
//! ordinary user and the backend's API. Held every time: the process lives and answers /health, no call and no publication
//! of the honest is refused, each arrives in order and in time, and memory stays within the attack's own bound, which it
//! leaves again afterwards. A daemon that grows beyond [`harness::MEMORY_BYTES_MAX`] is killed before it takes the machine
//! along.
//!
//! The attacks have the machine for themselves, one at a time. Attackers take spare time of the cores only, as if they had a
//! machine of their own, and what the honest notice is compared with cores that are as busy without an attack.
//! `ATTACK_SECONDS=60 TRUNKLINE_TEST_BINARY=FILE cargo test --test attacks -- --nocapture` attacks a release build for
//! longer; each line says what the honest noticed.

#[path = "../daemon/drivers.rs"]
mod drivers;
#[allow(dead_code)]
#[path = "../daemon/frame.rs"]
mod frame;
mod harness;
mod honest;
#[allow(dead_code)]
#[path = "../daemon/http.rs"]
mod http;
mod line;
#[allow(dead_code)]
#[path = "../daemon/process.rs"]
mod process;
#[allow(dead_code)]
#[path = "../daemon/socket.rs"]
mod socket;
#[path = "../daemon/token.rs"]
mod token;

mod commands;
mod newcomers;
mod requests;
mod subscribers;

pub(crate) use drivers::on_both_drivers;
