//! Draws bench/cluster-sim.svg: shares over time, a panel for each event.

use std::fmt::Write;
use std::{fs, io};

pub struct Panel {
    pub title: String,
    pub curves: Vec<Curve>,
}

/// Shares, from 0 to 1, by the second.
pub struct Curve {
    name: String,
    points: Vec<(f64, f64)>,
}

impl Curve {
    pub fn new(name: &str, points: Vec<(f64, f64)>) -> Curve {
        Curve { name: name.into(), points }
    }

    /// Of moments in order: how many of all have come.
    pub fn of_times(name: &str, times: &[f64]) -> Curve {
        let count = times.len();
        let step = (count / POINTS).max(1);
        let mut points = vec![(0.0, 0.0)];
        points.extend((step - 1..count).step_by(step).map(|n| (times[n], (n + 1) as f64 / count as f64)));
        Curve::new(name, points)
    }
}

pub fn write(panels: &[Panel], about: &str) -> io::Result<()> {
    let height = HEIGHT * panels.len() as f64 + 30.0;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" font-family=\"sans-serif\">\n\
         <style>.title{{font-size:13px;font-weight:bold}}.tick{{font-size:11px;fill:#555}}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    panels.iter().enumerate().for_each(|(nth, panel)| draw(&mut svg, panel, nth as f64 * HEIGHT));
    let _ = writeln!(svg, "<text x=\"10\" y=\"{}\" class=\"tick\">{about}</text>\n</svg>", height - 10.0);
    fs::write(concat!(env!("CARGO_MANIFEST_DIR"), "/bench/cluster-sim.svg"), svg)
}

fn draw(svg: &mut String, panel: &Panel, top: f64) {
    let last = panel.curves.iter().filter_map(|curve| curve.points.last()).map(|(at, _)| *at).fold(0.001, f64::max);
    let x = |at: f64| MARGIN + (WIDTH - 2.0 * MARGIN) * at / last;
    let y = |share: f64| top + HEIGHT - 36.0 - (HEIGHT - 90.0) * share;
    let _ = writeln!(svg, "<text x=\"10\" y=\"{}\" class=\"title\">{}</text>", top + 18.0, panel.title);
    for share in [0.0, 0.5, 1.0] {
        let (at, label) = (y(share), share * 100.0);
        let _ = writeln!(svg, "<path d=\"M{MARGIN} {at:.1}H{:.1}\" stroke=\"#e4e4e4\"/>", WIDTH - MARGIN);
        let _ = writeln!(svg, "<text x=\"8\" y=\"{:.1}\" class=\"tick\">{label} %</text>", at + 4.0);
    }
    for part in 0..=4 {
        let at = last * f64::from(part) / 4.0;
        let place = format!("x=\"{:.1}\" y=\"{:.1}\"", x(at), top + HEIGHT - 18.0);
        let _ = writeln!(svg, "<text {place} class=\"tick\" text-anchor=\"middle\">{at:.2} s</text>");
    }
    for (nth, curve) in panel.curves.iter().enumerate() {
        let colour = COLOURS[nth % COLOURS.len()];
        let path: String = curve
            .points
            .iter()
            .enumerate()
            .map(|(n, &(at, share))| format!("{}{:.1} {:.1}", if n == 0 { 'M' } else { 'L' }, x(at), y(share)))
            .collect();
        let _ = writeln!(svg, "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>");
        let place = format!("x=\"{:.1}\" y=\"{:.1}\"", MARGIN + nth as f64 * 210.0, top + 36.0);
        let _ = writeln!(svg, "<text {place} class=\"tick\" style=\"fill:{colour}\">{}</text>", curve.name);
    }
}

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 260.0;
const MARGIN: f64 = 52.0;
const POINTS: usize = 200;
const COLOURS: [&str; 4] = ["#1f4e79", "#c0392b", "#2e7d32", "#8e5ea2"];
