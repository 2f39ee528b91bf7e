//! Each scenario as phases.

use std::time::Duration;

use super::{ChatArgs, FanoutArgs, IdleArgs, LoadArgs, ReconnectArgs, RequestArgs, SlowArgs};
use crate::run::Phase;

/// The first phase of all.
pub fn open(load: &LoadArgs) -> Phase {
    Phase::open(load.connections, load.open_rate.unwrap_or(f64::INFINITY))
}

pub fn idle(args: &IdleArgs) -> Vec<Phase> {
    let mut phases = vec![open(&args.load), Phase { hold: args.hold, ..Phase::new("hold") }];
    if args.broadcast {
        phases.push(Phase { burst: args.load.channels, ..Phase::new("broadcast") });
    }
    phases
}

pub fn fanout(args: &FanoutArgs) -> Vec<Phase> {
    let hold = args.seconds + args.warm_up;
    let fanout = Phase { publish: args.rate, hold, warm_up: args.warm_up, ..Phase::new("fan-out") };
    if args.storm == 0.0 {
        return vec![open(&args.load), fanout];
    }
    let storm = Some((args.storm, args.storm_hold));
    let beside = Phase { storm, name: "fan-out in a storm".into(), ..fanout.clone() };
    vec![open(&args.load), fanout, beside]
}

pub fn requests(args: &RequestArgs, name: &str) -> Vec<Phase> {
    vec![open(&args.load), Phase { request: args.rate, hold: args.seconds, ..Phase::new(name) }]
}

pub fn reconnect(args: &ReconnectArgs) -> Vec<Phase> {
    let mut phases = vec![open(&args.load)];
    if args.rate > 0.0 {
        // Something to recover from: a position behind the start of the stream.
        let hold = Duration::from_secs(1);
        phases.push(Phase { publish: args.rate, hold, ..Phase::new("before") });
    }
    for round in 1..=args.rounds {
        let cut = Some((args.share, args.spread));
        phases.push(Phase { cut, publish: args.rate, ..Phase::new(&format!("storm {round}")) });
    }
    phases
}

/// How long a connection that broke is away at most.
const AWAY_MAX: Duration = Duration::from_secs(2);

pub fn chat(args: &ChatArgs) -> Vec<Phase> {
    let users = f64::from(args.load.connections);
    let chat = Phase {
        publish: args.messages * users / 60.0,
        request: args.reads * users / 60.0,
        reconnect: (args.reconnects * users / 3600.0, AWAY_MAX),
        hold: args.seconds + args.warm_up,
        warm_up: args.warm_up,
        ..Phase::new("chat")
    };
    vec![open(&args.load), Phase { hold: args.settle, ..Phase::new("quiet") }, chat]
}

pub fn slow(args: &SlowArgs) -> Vec<Phase> {
    let publish = Phase { publish: args.rate, hold: args.seconds, ..Phase::new("without slow readers") };
    vec![
        open(&args.load),
        publish.clone(),
        Phase { stall: Some((args.slow, true)), name: "with slow readers".into(), ..publish },
    ]
}
