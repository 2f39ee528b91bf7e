//! One step of a scenario.

use std::time::Duration;

/// What happens in it, in this order: stall, cut, open; then until `hold` is over, publish, request and storm; then drain.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    pub name: String,
    /// Open connections until there are so many, at so many a second (infinite: as fast as they become ready).
    pub open: Option<(u32, f64)>,
    /// Cut this share of the connections; each comes back after a random time up to the second value.
    pub cut: Option<(f64, Duration)>,
    /// The first so many connections stop reading (`true`) or read again.
    pub stall: Option<(u32, bool)>,
    /// Publications a second, over all channels.
    pub publish: f64,
    /// Publications at once, when everything is open.
    pub burst: u32,
    /// Requests a second, over all connections.
    pub request: f64,
    /// Connections a second that are made beside the others and closed after the second value, while the phase holds.
    pub storm: Option<(f64, Duration)>,
    /// Connections a second that are cut while the phase holds; each comes back after a random time up to the second value.
    pub reconnect: (f64, Duration),
    /// How long, after everything is open. With `open` or `cut` it may be zero.
    pub hold: Duration,
    /// Publications planned in the first so long enter no histogram.
    pub warm_up: Duration,
}

impl Phase {
    pub fn new(name: &str) -> Phase {
        Phase {
            name: name.into(),
            open: None,
            cut: None,
            stall: None,
            publish: 0.0,
            burst: 0,
            request: 0.0,
            storm: None,
            reconnect: (0.0, Duration::ZERO),
            hold: Duration::ZERO,
            warm_up: Duration::ZERO,
        }
    }

    pub fn open(connections: u32, rate: f64) -> Phase {
        Phase { open: Some((connections, rate)), ..Phase::new("open") }
    }

    /// Whether connections come or go at its begin, by plan.
    pub fn moves(&self) -> bool {
        self.cut.is_some() || self.open.is_some()
    }

    /// Whether somebody may be away while something is published, by plan: what is lost then is no failure of the server.
    pub fn churns(&self) -> bool {
        self.moves() || self.reconnect.0 > 0.0
    }

    pub fn publishes(&self) -> bool {
        self.publish > 0.0 || self.burst > 0
    }
}
