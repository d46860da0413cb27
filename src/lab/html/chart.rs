//! Charts as inline SVG: bars with the values of each round, and curves over time. Pure.

use std::fmt::Write as _;

use super::escape::escape;

/// Most curves told apart by colour; further ones begin again with the first.
const COLOURS: usize = 6;

/// How something is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tone {
    /// As any other.
    #[default]
    Plain,
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// In doubt.
    Unsure,
}

impl Tone {
    /// The attribute that gives an element this tone; empty for a plain one.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Plain => "",
            Self::Good => " class=good",
            Self::Bad => " class=bad",
            Self::Unsure => " class=unsure",
        }
    }
}

/// One horizontal bar: the median of its values, with a mark for each of them.
#[derive(Debug, Clone, Default)]
pub struct Bar {
    /// Label of the bar.
    pub name: String,
    /// Its figure as text.
    pub figure: String,
    /// The values, one for each round; not negative.
    pub values: Vec<f64>,
    /// Where the value should be, drawn as a line.
    pub mark: Option<f64>,
    /// How it is meant.
    pub tone: Tone,
    /// End of the scale; `None`: the largest value or mark of all bars that share a scale.
    pub full: Option<f64>,
}

impl Bar {
    /// A plain bar without a mark.
    #[must_use]
    pub fn new(name: &str, figure: &str, values: Vec<f64>) -> Self {
        Self { name: name.to_owned(), figure: figure.to_owned(), values, ..Self::default() }
    }

    fn largest(&self) -> f64 {
        self.values.iter().copied().chain(self.mark).fold(0.0, f64::max)
    }
}

/// Curves over one pair of axes.
#[derive(Debug, Clone)]
pub struct Curves {
    /// Title of the bars.
    pub title: String,
    /// Unit of the x axis, which begins at 0.
    pub x: String,
    /// Unit of the y axis, which begins at 0.
    pub y: String,
    /// The curves.
    pub lines: Vec<Line>,
}

/// One curve.
#[derive(Debug, Clone)]
pub struct Line {
    /// Name of the curve.
    pub name: String,
    /// x and y, with x ascending.
    pub points: Vec<(f64, f64)>,
}

/// All bars, those without an own scale on a common one.
pub(super) fn bars(bars: &[Bar]) -> String {
    let common = bars.iter().filter(|bar| bar.full.is_none()).map(Bar::largest);
    let common = common.fold(0.0, f64::max);
    let mut html = String::new();
    for bar in bars {
        let full = bar.full.unwrap_or(common).max(f64::MIN_POSITIVE);
        let (name, figure) = (escape(&bar.name), escape(&bar.figure));
        let shapes = bar_shapes(bar, full);
        // Writing to a string cannot fail.
        let _ = writeln!(
            html,
            "<div class=bar><span>{name}</span><b{}>{figure}</b>\
             <svg role=img aria-label=\"{name}: {figure}\">{shapes}</svg></div>",
            bar.tone.class()
        );
    }
    html
}

fn bar_shapes(bar: &Bar, full: f64) -> String {
    let at = |value: f64| (value / full * 100.0).clamp(0.0, 100.0);
    let mut sorted = bar.values.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or_default();
    let mut shapes = format!(
        "<rect class=track width=100% height=14 y=3 rx=3 /><rect class=\"fill{}\" width={:.2}% \
         height=14 y=3 rx=3 />",
        match bar.tone {
            Tone::Plain => "",
            Tone::Good => " good",
            Tone::Bad => " bad",
            Tone::Unsure => " unsure",
        },
        at(median)
    );
    if let [first, .., last] = sorted[..] {
        let _ = write!(
            shapes,
            "<line class=span x1={:.2}% x2={:.2}% y1=10 y2=10 />",
            at(first),
            at(last)
        );
    }
    for value in &sorted {
        let _ = write!(shapes, "<circle class=round cx={:.2}% cy=10 r=2.5 />", at(*value));
    }
    if let Some(mark) = bar.mark {
        let x = at(mark);
        let _ = write!(shapes, "<line class=mark x1={x:.2}% x2={x:.2}% y1=0 y2=20 />");
    }
    shapes
}

/// The curves, a legend, and the ends of both axes.
pub(super) fn curves(curves: &Curves) -> String {
    let points = || curves.lines.iter().flat_map(|line| &line.points);
    let x_max = points().map(|point| point.0).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let y_max = points().map(|point| point.1).fold(0.0, f64::max).max(f64::MIN_POSITIVE);
    let (mut shapes, mut legend) = (String::new(), String::new());
    for quarter in 1..4 {
        let y = quarter * 25;
        let _ = write!(shapes, "<line class=grid x1=0 x2=100 y1={y} y2={y} />");
    }
    for (place, line) in curves.lines.iter().enumerate() {
        let colour = place % COLOURS;
        let path: String = line
            .points
            .iter()
            .map(|(x, y)| format!("{:.2},{:.2} ", x / x_max * 100.0, 100.0 - y / y_max * 100.0))
            .collect();
        let _ = write!(shapes, "<polyline class=c{colour} points=\"{}\" />", path.trim_end());
        let _ = write!(legend, "<li class=c{colour}>{}</li>", escape(&line.name));
    }
    let (x, y) = (escape(&curves.x), escape(&curves.y));
    // Text that does not scale with the chart stands outside of it.
    format!(
        "<div class=axis><span>{} {y}</span></div>\
         <svg class=curves viewBox=\"0 0 100 100\" preserveAspectRatio=none>{shapes}</svg>\
         <div class=axis><span>0</span><span>{} {x}</span></div><ul class=legend>{legend}</ul>",
        short(y_max),
        short(x_max),
    )
}

/// A number with as many digits as an axis needs.
fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 1.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.3}")
    }
}

#[cfg(test)]
mod tests {
    use super::{Bar, Curves, Line, bars, curves};

    #[test]
    fn bars_share_a_scale_unless_they_have_their_own() {
        let own = Bar { full: Some(1.0), mark: Some(0.5), ..Bar::new("c", "", vec![0.25]) };
        let html = bars(&[Bar::new("a", "", vec![50.0]), Bar::new("b", "", vec![100.0]), own]);
        for width in ["width=50.00%", "width=100.00%", "width=25.00%", "x1=50.00% x2=50.00%"] {
            assert!(html.contains(width), "{width} in {html}");
        }
    }

    #[test]
    fn a_chart_of_nothing_is_drawn_without_a_number_that_is_none() {
        let empty = Line { name: "a".to_owned(), points: Vec::new() };
        let zero = Line { name: "b".to_owned(), points: vec![(0.0, 0.0)] };
        let axes =
            |lines| Curves { title: String::new(), x: String::new(), y: String::new(), lines };
        let html = bars(&[Bar::new("a", "", Vec::new()), Bar::new("b", "", vec![0.0])])
            + &curves(&axes(Vec::new()))
            + &curves(&axes(vec![empty, zero]));
        assert!(!html.contains("NaN") && !html.contains("inf"), "{html}");
    }
}
