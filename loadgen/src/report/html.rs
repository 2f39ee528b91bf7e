//! One page that needs nothing beside it: tables and plots as SVG.

use std::fmt::Write as _;

use plotters::prelude::*;

use super::figures::{Figure, figures};
use super::table;
use crate::measure::Latencies;
use crate::run::RunResult;

const SIZE: (u32, u32) = (900, 360);
/// Up to this quantile the percentile plot goes: 1 in 1,000,000.
const NINES_MAX: f64 = 6.0;

type Fault = Box<dyn std::error::Error>;

/// One plot's line.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// # Errors
/// When a plot cannot be drawn.
pub fn html(target: &RunResult, floor: Option<&RunResult>) -> Result<String, Fault> {
    let mut page = String::from(HEAD);
    let _ = write!(page, "<h1>{} at {}</h1>", escape(&target.name), escape(&target.target));
    figures_table(&mut page, target, floor);
    for (title, svg) in plots(target, floor)? {
        let _ = write!(page, "<h2>{}</h2>{svg}", escape(&title));
    }
    let _ = write!(page, "<h2>The report as text</h2><pre>{}</pre>", escape(&table::text(target, floor)));
    if let Some(floor) = floor {
        let _ = write!(page, "<h2>The floor's</h2><pre>{}</pre>", escape(&table::text(floor, None)));
    }
    page.push_str("</body></html>\n");
    Ok(page)
}

const HEAD: &str = "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>trunkline-loadgen</title>\
    <style>body{font:15px system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}\
    table{border-collapse:collapse}td,th{padding:.3em .8em;border-bottom:1px solid #ddd;text-align:right}\
    td:first-child,th:first-child{text-align:left}pre{background:#f6f6f6;padding:1em;overflow-x:auto;font-size:12px}\
    svg{max-width:100%;height:auto}</style></head><body>";

fn figures_table(page: &mut String, target: &RunResult, floor: Option<&RunResult>) {
    page.push_str("<table><tr><th>figure</th><th>measured</th><th>floor</th><th>ratio</th></tr>");
    for Figure { name, value, unit, floor } in figures(target, floor) {
        let beside = floor.map_or(String::new(), |floor| format!("{floor:.1} {unit}"));
        let ratio =
            floor.filter(|floor| *floor > 0.0).map_or(String::new(), |floor| format!("{:.2}", value / floor));
        let name = escape(&name);
        let _ = write!(
            page,
            "<tr><td>{name}</td><td>{value:.1} {unit}</td><td>{beside}</td><td>{ratio}</td></tr>"
        );
    }
    page.push_str("</table>");
}

fn plots(target: &RunResult, floor: Option<&RunResult>) -> Result<Vec<(String, String)>, Fault> {
    let mut plots = Vec::new();
    let mut percentiles = Vec::new();
    for (run, phases) in [Some(target), floor].into_iter().flatten().map(|run| (run, &run.phases)) {
        for phase in phases {
            let measured = &phase.measured;
            for (what, latencies) in [
                ("delivery", &measured.deliveries),
                ("last subscriber", &phase.last),
                ("reply", &measured.replies),
            ] {
                if !latencies.is_empty() {
                    let name = format!("{} {}: {what}", run.name, phase.name);
                    percentiles.push(Line { name, points: percentile_points(latencies) });
                }
            }
        }
    }
    if !percentiles.is_empty() {
        let svg = plot(&percentiles, "share of deliveries", "ms", Axis::Nines, Axis::Log)?;
        plots.push(("Latency by percentile".to_string(), svg));
    }
    let connects: Vec<Line> = target
        .phases
        .iter()
        .filter(|phase| !phase.measured.connects.is_empty())
        .map(|phase| Line { name: phase.name.clone(), points: percentile_points(&phase.measured.connects) })
        .collect();
    if !connects.is_empty() {
        let svg = plot(&connects, "share of connections", "ms", Axis::Nines, Axis::Log)?;
        plots.push(("Connect to ready, by percentile".to_string(), svg));
    }
    let seconds = |name: &str, of: &dyn Fn(&crate::run::Second) -> f64| Line {
        name: name.into(),
        points: target.seconds.iter().map(|second| (second.at.as_secs_f64(), of(second))).collect(),
    };
    if target.seconds.len() > 1 {
        let busy = |of: fn(&crate::run::Second) -> u64| target.seconds.iter().any(|second| of(second) > 0);
        let mut lines = Vec::new();
        if busy(|second| second.deliveries) {
            lines.push(seconds("deliveries a second", &|second| second.deliveries as f64));
        }
        if busy(|second| second.replies) {
            lines.push(seconds("replies a second", &|second| second.replies as f64));
        }
        if !lines.is_empty() {
            plots.push((
                "Deliveries over time".into(),
                plot(&lines, "seconds", "a second", Axis::Plain, Axis::Plain)?,
            ));
            let lines = [
                seconds("p50", &|second| second.p50.as_secs_f64() * 1e3),
                seconds("p99", &|second| second.p99.as_secs_f64() * 1e3),
                seconds("max", &|second| second.max.as_secs_f64() * 1e3),
            ];
            plots.push(("Latency over time".into(), plot(&lines, "seconds", "ms", Axis::Plain, Axis::Log)?));
        }
        plots.push(("Memory over connections".into(), memory(target)?));
    }
    Ok(plots)
}

/// Growth since before the first connection, in MiB.
fn memory(target: &RunResult) -> Result<String, Fault> {
    let grown = |name: &str, of: fn(&crate::host::Sample) -> u64| Line {
        name: name.into(),
        points: target
            .seconds
            .iter()
            .map(|second| {
                let bytes = of(&second.sample) as f64 - of(&target.baseline) as f64;
                (second.ready as f64, bytes / f64::from(1 << 20))
            })
            .collect(),
    };
    let mut lines = vec![
        grown("kernel slab, both ends", |sample| sample.slab_bytes),
        grown("generator", |s| s.own_rss_bytes),
    ];
    if target.has_server {
        lines.insert(0, grown("server", |sample| sample.rss_bytes));
    }
    plot(&lines, "connections ready", "MiB more", Axis::Plain, Axis::Plain)
}

/// x: how many nines the quantile has; y: milliseconds.
fn percentile_points(latencies: &Latencies) -> Vec<(f64, f64)> {
    const STEPS: u32 = 120;
    (0..=STEPS)
        .map(|step| {
            let nines = f64::from(step) / f64::from(STEPS) * NINES_MAX;
            let quantile = 1.0 - 10f64.powf(-nines);
            (nines, latencies.quantile(quantile).as_secs_f64() * 1e3)
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Axis {
    Plain,
    /// Drawn by the logarithm to base 10.
    Log,
    /// 0: 0 %, 1: 90 %, 2: 99 %, ...
    Nines,
}

impl Axis {
    fn place(self, value: f64) -> f64 {
        match self {
            // A microsecond is the least that is told apart.
            Axis::Log => value.max(1e-3).log10(),
            Axis::Plain | Axis::Nines => value,
        }
    }

    fn label(self, place: f64) -> String {
        match self {
            Axis::Plain if place.abs() >= 100.0 => format!("{place:.0}"),
            Axis::Plain => format!("{place:.1}"),
            Axis::Log => {
                let value = 10f64.powf(place);
                if value >= 10.0 { format!("{value:.0}") } else { format!("{value:.3}") }
            }
            Axis::Nines => {
                let quantile = 100.0 * (1.0 - 10f64.powf(-place));
                let digits = (place - 2.0).ceil().max(0.0) as usize;
                format!("{quantile:.digits$} %")
            }
        }
    }
}

fn plot(lines: &[Line], x: &str, y: &str, x_axis: Axis, y_axis: Axis) -> Result<String, Fault> {
    let placed = |line: &Line| -> Vec<(f64, f64)> {
        line.points.iter().map(|(x, y)| (x_axis.place(*x), y_axis.place(*y))).collect()
    };
    let all: Vec<(f64, f64)> = lines.iter().flat_map(&placed).collect();
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        let low = all.iter().map(of).fold(f64::INFINITY, f64::min);
        let high = all.iter().map(of).fold(f64::NEG_INFINITY, f64::max);
        // A line without any height still needs a range.
        match low.is_finite() {
            true if high > low => low..high,
            true => low.min(0.0)..high.max(1.0),
            false => 0.0..1.0,
        }
    };
    let mut svg = String::new();
    {
        let root = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        let y_bounds = bounds(|point| point.1);
        let y_bounds = if y_axis == Axis::Plain { y_bounds.start.min(0.0)..y_bounds.end } else { y_bounds };
        let mut chart = ChartBuilder::on(&root)
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(70)
            .build_cartesian_2d(bounds(|point| point.0), y_bounds)?;
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc(y)
            .x_label_formatter(&|place| x_axis.label(*place))
            .y_label_formatter(&|place| y_axis.label(*place))
            .light_line_style(WHITE)
            .draw()?;
        for (index, line) in lines.iter().enumerate() {
            let color = Palette99::pick(index).to_rgba();
            chart
                .draw_series(LineSeries::new(placed(line), color.stroke_width(2)))?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK.mix(0.2))
            .draw()?;
        root.present()?;
    }
    Ok(svg)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_without_extent_are_drawn_too() {
        let flat = [Line { name: "a<b".into(), points: vec![(1.0, 5.0), (1.0, 5.0)] }];
        let svg = plot(&flat, "x", "y", Axis::Plain, Axis::Plain).unwrap();
        assert!(svg.contains("<svg") && svg.contains("a&lt;b"));
        let none = [Line { name: "n".into(), points: vec![] }];
        plot(&none, "x", "y", Axis::Plain, Axis::Log).unwrap();
        assert_eq!(Axis::Nines.label(1.0), "90 %");
        assert_eq!(Axis::Nines.label(3.0), "99.9 %");
    }
}
