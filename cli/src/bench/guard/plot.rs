//! What a replacement takes under each tool, as a picture: by how many objects live, both in powers of ten.

use super::{Figures, Load};
use crate::report::table::grouped;
use std::fmt::{self, Write};

/// A colour each, which those who see few colours can tell apart.
const COLOURS: [&str; 7] = ["#444444", "#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#b8a800", "#cc79a7"];
const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const TOP: f64 = 40.0;
/// Of the field with the lines; the names stand beside it.
const RIGHT: f64 = 500.0;
const BOTTOM: f64 = 370.0;
const LINE: f64 = 20.0;

/// The powers of ten that a side reaches from and to.
struct Side {
    from: i32,
    to: i32,
    /// Pixels.
    first: f64,
    last: f64,
}

impl Side {
    /// One that has all of `numbers`, which are positive.
    fn of(numbers: impl Iterator<Item = f64> + Clone, first: f64, last: f64) -> Side {
        let from = numbers.clone().fold(f64::MAX, f64::min).log10().floor() as i32;
        let to = numbers.fold(1.0, f64::max).log10().ceil() as i32;
        Side { from, to: to.max(from.saturating_add(1)), first, last }
    }

    fn at(&self, number: f64) -> f64 {
        let share = (number.log10() - f64::from(self.from)) / f64::from(self.to - self.from);
        self.first + share * (self.last - self.first)
    }

    fn powers(&self) -> impl Iterator<Item = f64> {
        (self.from..=self.to).map(|power| 10f64.powi(power))
    }
}

/// The picture as SVG; None where nothing was measured.
pub fn draw(figures: &Figures) -> Option<String> {
    let measured: Vec<(&Load, f64)> = figures.loads.iter().filter_map(|load| Some((load, load.ns?))).collect();
    measured.first()?;
    let across = Side::of(measured.iter().map(|(load, _)| load.live as f64), LEFT, RIGHT);
    let up = Side::of(measured.iter().map(|(_, ns)| ns.max(1.0)), BOTTOM, TOP);
    let mut out = String::new();
    // Writing into a string is never refused.
    let _ = write(&mut out, figures, &measured, &across, &up);
    Some(out)
}

fn write(out: &mut String, figures: &Figures, all: &[(&Load, f64)], across: &Side, up: &Side) -> fmt::Result {
    writeln!(
        out,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" \
         viewBox=\"0 0 {WIDTH} {HEIGHT}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#ffffff\"/>\n\
         <text x=\"16\" y=\"22\" font-size=\"14\">CPU time to free an object and to make another one, ns</text>"
    )?;
    grid(out, across, up)?;
    for (at, bugs) in figures.bugs.iter().enumerate() {
        let line: Vec<_> = all.iter().filter(|(load, _)| load.tool == bugs.tool).collect();
        let points = line.iter().map(|(load, ns)| (across.at(load.live as f64), up.at(ns.max(1.0))));
        draw_line(out, &points.collect::<Vec<_>>(), COLOURS[at % COLOURS.len()])?;
        name(out, at, bugs.tool, figures.loads.iter().find(|load| load.tool == bugs.tool && load.died.is_some()))?;
    }
    writeln!(out, "</svg>")
}

fn grid(out: &mut String, across: &Side, up: &Side) -> fmt::Result {
    for power in up.powers() {
        let (y, text) = (up.at(power), grouped(power as u64));
        writeln!(out, "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#dddddd\"/>")?;
        writeln!(out, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>", LEFT - 8.0, y + 4.0)?;
    }
    for power in across.powers() {
        let (x, text) = (across.at(power), grouped(power as u64));
        writeln!(out, "<path d=\"M{x:.1} {TOP}V{BOTTOM}\" stroke=\"#dddddd\"/>")?;
        writeln!(out, "<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{text}</text>", BOTTOM + 18.0)?;
    }
    let middle = (LEFT + RIGHT) / 2.0;
    writeln!(out, "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">live objects</text>", BOTTOM + 36.0)
}

fn draw_line(out: &mut String, points: &[(f64, f64)], colour: &str) -> fmt::Result {
    let path: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    writeln!(out, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>", path.join(" "))?;
    points
        .iter()
        .try_for_each(|(x, y)| writeln!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" fill=\"{colour}\"/>"))
}

/// The tool's name in its colour, and from where on it dies.
fn name(out: &mut String, at: usize, tool: &str, died: Option<&Load>) -> fmt::Result {
    let (x, y, colour) = (RIGHT + 24.0, TOP + 8.0 + at as f64 * 2.0 * LINE, COLOURS[at % COLOURS.len()]);
    writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"{colour}\" font-weight=\"bold\">{tool}</text>")?;
    match died {
        Some(load) => {
            let (y, live) = (y + 15.0, grouped(load.live));
            writeln!(out, "<text x=\"{x}\" y=\"{y}\" fill=\"#777777\">dies with {live} live objects</text>")
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_reaches_from_the_power_of_ten_below_all_to_that_above() {
        let side = Side::of([20.0, 5000.0].into_iter(), 0.0, 300.0);
        assert_eq!((side.from, side.to), (1, 4));
        assert_eq!([10.0, 100.0, 10_000.0].map(|number| side.at(number)), [0.0, 100.0, 300.0]);
        // A single power of ten is a point, and has a side nevertheless.
        let side = Side::of([100.0].into_iter(), 370.0, 40.0);
        assert_eq!((side.from, side.to, side.at(100.0)), (2, 3, 370.0));
    }

    #[test]
    fn nothing_measured_is_no_picture() {
        assert!(draw(&Figures { bugs: vec![], loads: vec![], absent: vec![] }).is_none());
    }
}
