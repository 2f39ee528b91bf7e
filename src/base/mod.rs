//! The vocabulary every other folder speaks: ids, time, bytes, limits, faults, the slot table.
//!
//! Inputs: none. Outputs: plain types. Must not know: any other folder of this crate.

pub mod address;
pub mod address_mask;
pub mod admission;
pub mod blocks;
pub mod budget;
pub mod bytes;
pub mod certificate;
pub mod debts;
pub mod deliver_every;
pub mod event;
pub mod except;
pub mod fault;
pub mod filter;
pub mod histogram;
pub mod ids;
pub mod inboxes;
pub mod json;
pub mod limits;
pub mod networks;
pub mod pattern;
pub mod prng;
pub mod publication;
pub mod rate;
pub mod rewind;
pub mod seats;
pub mod secret;
pub mod shape;
pub mod sketch;
pub mod slots;
pub mod time;
pub mod trace;
pub mod trusted;
