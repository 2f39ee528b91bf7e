//! Tickets: one-time proofs of who a client is, for clients that can show nothing but a URL.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::base::bytes::Bytes;
use crate::base::ids::UserName;
use crate::base::secret;
use crate::record::{Moment, PART_BYTES, RecordFault, TicketRecord, TicketsPart};

/// Tickets that may be outstanding. A crowd that is told to come shows them within seconds.
const TICKETS_MAX: usize = 1 << 16;
/// What their data may weigh together, in bytes.
const TICKETS_BYTES_MAX: usize = 32 << 20;
/// Data of one ticket, in bytes: it travels with the hook call, not with every message.
pub const DATA_BYTES_MAX: usize = 4 << 10;
/// How often expired tickets are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// A ticket that was made and not shown yet.
#[derive(Debug)]
pub struct TunnelTicket {
    key: [u8; 16],
    tunnel: u16,
    expires: Instant,
    pub user: UserName,
    /// JSON for the backend.
    pub data: Option<Box<RawValue>>,
}

impl TunnelTicket {
    fn bytes(&self) -> usize {
        self.user.len() + self.data.as_ref().map_or(0, |data| data.get().len())
    }
}

/// Why no ticket was made.
#[derive(Debug)]
pub enum Unissued {
    /// As many are outstanding as may be.
    Full,
    NoRandomness(std::io::Error),
}

#[derive(Default)]
pub struct Tickets(Mutex<Table>);

#[derive(Default)]
struct Table {
    tickets: HashMap<[u8; 16], TunnelTicket>,
    bytes: usize,
    swept: Option<Instant>,
}

impl Tickets {
    /// Makes a ticket for one connection to `tunnel`, to be shown within `ttl`.
    ///
    /// # Errors
    /// [`Unissued`].
    pub fn issue(
        &self,
        tunnel: u16,
        user: UserName,
        data: Option<Box<RawValue>>,
        ttl: Duration,
    ) -> Result<String, Unissued> {
        let key = secret::bytes().map_err(Unissued::NoRandomness)?;
        let now = Instant::now();
        let ticket = TunnelTicket { key, tunnel, expires: now + ttl, user, data };
        let mut table = self.0.lock();
        table.sweep(now);
        if table.tickets.len() >= TICKETS_MAX || table.bytes + ticket.bytes() > TICKETS_BYTES_MAX {
            return Err(Unissued::Full);
        }
        table.insert(ticket);
        Ok(URL_SAFE_NO_PAD.encode(key))
    }

    /// Takes the ticket out: it is good once. `None` when there is none of that text for that tunnel, or no longer.
    pub fn redeem(&self, tunnel: u16, shown: &str) -> Option<TunnelTicket> {
        let mut key = [0; 16];
        if URL_SAFE_NO_PAD.decode_slice(shown, &mut key) != Ok(key.len()) {
            return None;
        }
        let mut table = self.0.lock();
        // Shown to another tunnel it stays what it was.
        let Entry::Occupied(entry) = table.tickets.entry(key) else { return None };
        if entry.get().tunnel != tunnel {
            return None;
        }
        let ticket = entry.remove();
        table.bytes -= ticket.bytes();
        (ticket.expires > Instant::now()).then_some(ticket)
    }

    /// Every ticket that is still good. `name`: of a tunnel at its place.
    pub fn to_records(&self, name: &dyn Fn(u16) -> Box<str>) -> Vec<TicketsPart> {
        let now = Instant::now();
        let table = self.0.lock();
        let (mut parts, mut tickets, mut bytes) = (Vec::new(), Vec::new(), 0);
        for ticket in table.tickets.values().filter(|ticket| ticket.expires > now) {
            bytes += ticket.bytes() + ticket.key.len();
            tickets.push(TicketRecord {
                key: Bytes::copy_from_slice(&ticket.key),
                tunnel: name(ticket.tunnel),
                expires: Moment(i64::try_from((ticket.expires - now).as_nanos()).unwrap_or(i64::MAX)),
                user: ticket.user.clone(),
                data: ticket.data.as_ref().map(|data| data.get().into()),
            });
            if bytes > PART_BYTES {
                bytes = 0;
                parts.push(TicketsPart { tickets: std::mem::take(&mut tickets) });
            }
        }
        if !tickets.is_empty() {
            parts.push(TicketsPart { tickets });
        }
        parts
    }

    /// Adds the tickets of a part. `place`: of the tunnel with that name; tickets to one that is not configured any more
    /// are left out, and so are those for which there is no room.
    ///
    /// # Errors
    /// [`RecordFault::Impossible`] for what no ticket is.
    pub fn restore_part(
        &self,
        part: TicketsPart,
        place: &dyn Fn(&str) -> Option<u16>,
    ) -> Result<(), RecordFault> {
        let now = Instant::now();
        let mut table = self.0.lock();
        for record in part.tickets {
            let key = (*record.key).try_into().map_err(|_| RecordFault::Impossible("a ticket's key"))?;
            let data = record.data.map(|data| RawValue::from_string(data.into()));
            let data = data.transpose().map_err(|_| RecordFault::Impossible("a ticket's data"))?;
            let left = u64::try_from(record.expires.0).unwrap_or(0);
            let Some(tunnel) = place(&record.tunnel) else { continue };
            let Some(expires) = now.checked_add(Duration::from_nanos(left)) else { continue };
            let ticket = TunnelTicket { key, tunnel, expires, user: record.user, data };
            let known = table.tickets.contains_key(&ticket.key);
            if !known
                && table.tickets.len() < TICKETS_MAX
                && table.bytes + ticket.bytes() <= TICKETS_BYTES_MAX
            {
                table.insert(ticket);
            }
        }
        Ok(())
    }

    /// Puts a ticket back whose connection came to nothing by no fault of the client. It expires as before.
    pub fn restore(&self, ticket: TunnelTicket) {
        self.0.lock().insert(ticket);
    }
}

impl Table {
    fn insert(&mut self, ticket: TunnelTicket) {
        self.bytes += ticket.bytes();
        self.tickets.insert(ticket.key, ticket);
    }

    fn sweep(&mut self, now: Instant) {
        if self.swept.is_some_and(|swept| now < swept + SWEEP_INTERVAL) {
            return;
        }
        self.swept = Some(now);
        self.tickets.retain(|_, ticket| ticket.expires > now);
        self.bytes = self.tickets.values().map(TunnelTicket::bytes).sum();
    }
}

/// The ticket that a query shows, and the query without it. The first one counts; another stays where it is.
pub fn take_from(query: &str) -> (Option<String>, String) {
    let mut shown = None;
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| match pair.strip_prefix("ticket=") {
            Some(value) if shown.is_none() => {
                shown = Some(value.to_string());
                false
            }
            _ => true,
        })
        .collect();
    (shown, rest.join("&"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(60);

    fn issue(tickets: &Tickets, ttl: Duration) -> String {
        tickets.issue(3, "u".into(), None, ttl).unwrap()
    }

    #[test]
    fn a_ticket_is_good_once_and_for_its_tunnel() {
        let tickets = Tickets::default();
        let (first, second) = (issue(&tickets, TTL), issue(&tickets, TTL));
        assert!(first != second && first.len() == 22);
        assert!(tickets.redeem(4, &first).is_none(), "another tunnel's");
        assert_eq!(&*tickets.redeem(3, &first).unwrap().user, "u");
        assert!(tickets.redeem(3, &first).is_none(), "used");
        let ticket = tickets.redeem(3, &second).unwrap();
        tickets.restore(ticket);
        assert!(tickets.redeem(3, &second).is_some());
        for odd in ["", "x", "ü", &"A".repeat(21), &"A".repeat(22), &"A".repeat(23), &"A".repeat(10_000)] {
            assert!(tickets.redeem(3, odd).is_none(), "{odd}");
        }
        assert_eq!(tickets.0.lock().bytes, 0);
    }

    #[test]
    fn an_expired_ticket_is_worth_nothing_and_is_swept() {
        let tickets = Tickets::default();
        let expired = issue(&tickets, Duration::ZERO);
        assert!(tickets.redeem(3, &expired).is_none());
        issue(&tickets, Duration::ZERO);
        tickets.0.lock().swept = None;
        issue(&tickets, TTL);
        let table = tickets.0.lock();
        assert_eq!((table.tickets.len(), table.bytes), (1, 1));
    }

    #[test]
    fn tickets_are_bounded_in_number_and_bytes() {
        let tickets = Tickets::default();
        for _ in 0..TICKETS_MAX {
            issue(&tickets, TTL);
        }
        assert!(matches!(tickets.issue(3, "u".into(), None, TTL), Err(Unissued::Full)));
        let tickets = Tickets::default();
        let data = || RawValue::from_string(format!("\"{}\"", "x".repeat(DATA_BYTES_MAX - 2))).ok();
        let made = (0..TICKETS_MAX).take_while(|_| tickets.issue(3, "u".into(), data(), TTL).is_ok()).count();
        assert!(made < TICKETS_MAX && made * DATA_BYTES_MAX <= TICKETS_BYTES_MAX, "{made}");
    }

    #[test]
    fn tickets_are_good_in_the_process_that_has_their_records() {
        let tickets = Tickets::default();
        let data = RawValue::from_string(format!("\"{}\"", "x".repeat(1_000))).ok();
        let shown: Vec<_> =
            (0..600).map(|_| tickets.issue(3, "u".into(), data.clone(), TTL).unwrap()).collect();
        issue(&tickets, Duration::ZERO);
        let parts = tickets.to_records(&|place| place.to_string().into());
        assert!(parts.len() > 1, "they go in parts");
        assert_eq!(
            parts.iter().map(|part| part.tickets.len()).sum::<usize>(),
            600,
            "the expired one is left out"
        );
        let there = Tickets::default();
        let place = |name: &str| (name == "3").then_some(7);
        for part in parts.iter().cycle().take(parts.len() * 2) {
            there.restore_part(part.clone(), &place).unwrap();
        }
        for ticket in &shown {
            assert!(there.redeem(3, ticket).is_none(), "the tunnel has another place there");
            let ticket = there.redeem(7, ticket).unwrap();
            assert_eq!((&*ticket.user, ticket.data.map(|data| data.get().len())), ("u", Some(1_002)));
        }
        assert_eq!(there.0.lock().bytes, 0);
        let mut odd = parts[0].clone();
        odd.tickets[0].data = Some("{".into());
        assert!(there.restore_part(odd.clone(), &place).is_err());
        odd.tickets[0].key = Bytes::from_static(b"short");
        assert!(there.restore_part(odd.clone(), &place).is_err());
        odd.tickets.drain(..1);
        there.restore_part(odd, &|_| None).unwrap();
        assert_eq!(there.0.lock().bytes, 0, "no tunnel of that name");
    }

    #[test]
    fn a_ticket_is_taken_out_of_the_query() {
        assert_eq!(take_from("a=1&ticket=abc&b=2"), (Some("abc".into()), "a=1&b=2".into()));
        assert_eq!(take_from("ticket=abc"), (Some("abc".into()), String::new()));
        assert_eq!(take_from("ticket=x&ticket=y"), (Some("x".into()), "ticket=y".into()));
        assert_eq!(take_from("tickets=1&xticket=2"), (None, "tickets=1&xticket=2".into()));
        assert_eq!(take_from(""), (None, String::new()));
    }
}
