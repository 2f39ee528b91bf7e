//! Scenarios from a file, for `mixed`.
//!
//! ```toml
//! [[phase]]
//! name = "open"
//! open = 10000          # connections in total
//! open_rate = 5000      # a second; left out: as fast as they become ready
//!
//! [[phase]]
//! name = "busy, a tenth comes back"
//! cut = 0.1             # share
//! cut_spread = "2s"
//! stall = 10            # the first 10 connections stop reading; `resume = true` lets them read again
//! publish = 100         # a second, over all channels
//! request = 1000        # a second, over all connections
//! storm = 500           # new connections a second beside the others, each closed once it is made
//! storm_hold = "1s"     # or after this
//! hold = "30s"
//! warm_up = "2s"
//!
//! [[phase]]
//! name = "one to everybody"
//! burst = 1
//! ```

use std::time::Duration;

use serde::Deserialize;

use super::Phase;

#[derive(Debug, thiserror::Error)]
pub enum ScenarioFault {
    #[error("{0}")]
    Syntax(#[from] toml::de::Error),
    #[error("phase {0:?}: {1}")]
    Phase(String, &'static str),
    #[error("no [[phase]] in it")]
    Empty,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    phase: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    open: Option<u32>,
    open_rate: Option<f64>,
    cut: Option<f64>,
    cut_spread: Option<String>,
    stall: Option<u32>,
    #[serde(default)]
    resume: bool,
    #[serde(default)]
    publish: f64,
    #[serde(default)]
    burst: u32,
    #[serde(default)]
    request: f64,
    storm: Option<f64>,
    storm_hold: Option<String>,
    hold: Option<String>,
    warm_up: Option<String>,
}

/// The phases of a file's text.
///
/// # Errors
/// What is wrong, and in which phase.
pub fn read_scenario(text: &str) -> Result<Vec<Phase>, ScenarioFault> {
    let file: File = toml::from_str(text)?;
    if file.phase.is_empty() {
        return Err(ScenarioFault::Empty);
    }
    file.phase.into_iter().map(phase).collect()
}

fn phase(entry: Entry) -> Result<Phase, ScenarioFault> {
    let fault = |what| ScenarioFault::Phase(entry.name.clone(), what);
    let time = |text: &Option<String>, otherwise| match text {
        None => Ok(otherwise),
        Some(text) => {
            parse_duration(text).ok_or_else(|| fault("a time is written like \"10s\" or \"500ms\""))
        }
    };
    let rate = |rate: f64, what| if rate >= 0.0 && rate.is_finite() { Ok(rate) } else { Err(fault(what)) };
    if entry.cut.is_some_and(|share| !(0.0..=1.0).contains(&share)) {
        return Err(fault("cut is a share, 0 to 1"));
    }
    if entry.open_rate.is_some() && entry.open.is_none() {
        return Err(fault("open_rate without open"));
    }
    if entry.storm_hold.is_some() && entry.storm.is_none() {
        return Err(fault("storm_hold without storm"));
    }
    let storm = match entry.storm {
        None => None,
        Some(storm) => {
            Some((rate(storm, "storm is a positive number")?, time(&entry.storm_hold, Duration::ZERO)?))
        }
    };
    let open_rate = rate(entry.open_rate.unwrap_or(0.0), "open_rate is a positive number")?;
    let spread = time(&entry.cut_spread, Duration::ZERO)?;
    let moves = entry.open.is_some() || entry.cut.is_some() || entry.burst > 0;
    let otherwise = if moves { Duration::ZERO } else { Duration::from_secs(10) };
    Ok(Phase {
        open: entry.open.map(|total| (total, if open_rate == 0.0 { f64::INFINITY } else { open_rate })),
        cut: entry.cut.map(|share| (share, spread)),
        stall: entry.stall.map(|first| (first, !entry.resume)),
        publish: rate(entry.publish, "publish is a positive number")?,
        burst: entry.burst,
        request: rate(entry.request, "request is a positive number")?,
        storm,
        reconnect: (0.0, Duration::ZERO),
        hold: time(&entry.hold, otherwise)?,
        warm_up: time(&entry.warm_up, Duration::ZERO)?,
        name: entry.name,
    })
}

/// `10s`, `500ms`, `2m`, `1h`, `1.5s`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let number: f64 = text[..split].parse().ok()?;
    let seconds = match text[split..].trim() {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        "m" | "min" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_in_this_files_head_is_a_scenario() {
        let head: String = include_str!("scenario.rs")
            .lines()
            .skip_while(|line| !line.contains("```toml"))
            .skip(1)
            .take_while(|line| !line.contains("```"))
            .map(|line| format!("{}\n", line.trim_start_matches("//!")))
            .collect();
        let phases = read_scenario(&head).unwrap();
        assert_eq!(phases.len(), 3);
        assert_eq!(phases[0].open, Some((10_000, 5_000.0)));
        assert_eq!(phases[1].cut, Some((0.1, Duration::from_secs(2))));
        assert_eq!((phases[1].stall, phases[1].hold), (Some((10, true)), Duration::from_secs(30)));
        assert_eq!(phases[1].storm, Some((500.0, Duration::from_secs(1))));
        assert_eq!((phases[2].burst, phases[2].hold), (1, Duration::ZERO));
    }

    #[test]
    fn mistakes_are_named() {
        for (text, said) in [
            ("", "no [[phase]]"),
            ("[[phase]]\nname='x'\nopn=3", "opn"),
            ("[[phase]]\nname='x'\ncut=3.0", "phase \"x\": cut"),
            ("[[phase]]\nname='x'\nhold='soon'", "phase \"x\": a time"),
            ("[[phase]]\nname='x'\nstorm_hold='1s'", "phase \"x\": storm_hold"),
            ("[[phase]]\nname='x'\npublish=-1.0", "phase \"x\": publish"),
        ] {
            let fault = read_scenario(text).unwrap_err().to_string();
            assert!(fault.contains(said), "{fault}");
        }
        assert_eq!(parse_duration("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("-1s"), None);
        assert_eq!(parse_duration("10"), None);
        assert_eq!(parse_duration("1e9h"), None);
    }
}
