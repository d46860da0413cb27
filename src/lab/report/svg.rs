//! Drawing: a plot with axes, as inline SVG text. No script, no font, nothing fetched.
//!
//! A plot is 480 units wide, about the width of the page's column, so text has its nominal size on
//! a desktop and stays readable on a phone. External text is escaped here.

use std::fmt::Write as _;

/// Colours that colour-blind people tell apart (Okabe and Ito), by place; then again.
const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8a7f00", "#7a7a7a"];

/// The colour of the zone at this place.
pub(super) fn colour(place: usize) -> &'static str {
    COLOURS[place % COLOURS.len()]
}

/// Text that is safe inside HTML and SVG, in attributes too.
pub(super) fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            letter => safe.push(letter),
        }
    }
    safe
}

/// Inner edges of a plot.
const LEFT: f64 = 46.0;
const TOP: f64 = 10.0;
const BELOW: f64 = 40.0;

/// Width of a letter of a name at most, on a phone.
const LETTER: f64 = 8.0;

/// Most rows of names above each other.
const ROWS_MAX: usize = 6;

/// A plot that is being drawn.
pub(super) struct Plot {
    width: f64,
    height: f64,
    x: (f64, f64),
    y: (f64, f64),
    body: String,
    /// Labels of stretches drawn until now: row, start and end.
    names: Vec<(usize, f64, f64)>,
}

impl Plot {
    /// A plot of these ranges; an empty range becomes one that is not. `wide` is for time.
    pub(super) fn new(wide: bool, height: f64, x: (f64, f64), y: (f64, f64)) -> Self {
        let open =
            |(low, high): (f64, f64)| if high > low { (low, high) } else { (low, low + 1.0) };
        let width = if wide { 960.0 } else { 480.0 };
        Self { width, height, x: open(x), y: open(y), body: String::new(), names: Vec::new() }
    }

    fn right(&self) -> f64 {
        self.width - 10.0
    }

    fn bottom(&self) -> f64 {
        self.height - BELOW
    }

    fn px(&self, x: f64) -> f64 {
        let share = ((x - self.x.0) / (self.x.1 - self.x.0)).clamp(0.0, 1.0);
        LEFT + share * (self.right() - LEFT)
    }

    fn py(&self, y: f64) -> f64 {
        let share = ((y - self.y.0) / (self.y.1 - self.y.0)).clamp(0.0, 1.0);
        self.bottom() - share * (self.bottom() - TOP)
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.body.write_fmt(text);
    }

    /// Grid, numbers and names of both axes.
    pub(super) fn axes(&mut self, x_name: &str, y_name: &str) {
        let (left, right, bottom) = (LEFT, self.right(), self.bottom());
        for tick in ticks(self.y, 5) {
            let y = self.py(tick);
            self.put(format_args!(r#"<path class="g" d="M{left} {y:.1}H{right}"/>"#));
            let (at, text) = (y + 4.0, number(tick));
            self.put(format_args!(
                r#"<text x="{:.0}" y="{at:.1}" class="e">{text}</text>"#,
                left - 5.0
            ));
        }
        let most = if self.width > 500.0 { 12 } else { 6 };
        for tick in ticks(self.x, most) {
            let x = self.px(tick);
            let (at, text) = (bottom + 19.0, number(tick));
            self.put(format_args!(r#"<path class="g" d="M{x:.1} {bottom}v4"/>"#));
            self.put(format_args!(r#"<text x="{x:.1}" y="{at:.1}" class="m">{text}</text>"#));
        }
        let (middle, low) = (f64::midpoint(left, right), self.height - 5.0);
        let (x_name, y_name) = (escape(x_name), escape(y_name));
        self.put(format_args!(r#"<text x="{middle:.0}" y="{low:.0}" class="m">{x_name}</text>"#));
        let centre = f64::midpoint(TOP, bottom);
        self.put(format_args!(
            r#"<text transform="translate(11 {centre:.0}) rotate(-90)" class="m">{y_name}</text>"#
        ));
    }

    /// A curve through the points.
    pub(super) fn line(&mut self, points: &[(f64, f64)], colour: &str, class: &str) {
        if points.is_empty() {
            return;
        }
        let mut path = String::new();
        for (place, (x, y)) in points.iter().enumerate() {
            let command = if place == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", self.px(*x), self.py(*y));
        }
        self.put(format_args!(r#"<path class="{class}" stroke="{colour}" d="{path}"/>"#));
    }

    /// A dot with a text that appears when it is pointed at.
    pub(super) fn dot(&mut self, x: f64, y: f64, colour: &str, says: &str) {
        let (x, y, says) = (self.px(x), self.py(y), escape(says));
        self.put(format_args!(
            r#"<circle cx="{x:.1}" cy="{y:.1}" r="4" fill="{colour}"><title>{says}</title></circle>"#
        ));
    }

    /// A vertical line from bottom to top.
    pub(super) fn vertical(&mut self, x: f64, colour: &str, class: &str) {
        let (x, bottom) = (self.px(x), self.bottom());
        self.put(format_args!(
            r#"<path class="{class}" stroke="{colour}" d="M{x:.1} {TOP}V{bottom}"/>"#
        ));
    }

    /// A shaded stretch with its name at the top, in the first row in which no other name is there.
    pub(super) fn span(&mut self, from: f64, to: f64, name: &str) {
        let (from, to, bottom) = (self.px(from), self.px(to), self.bottom());
        let (width, height, name) = ((to - from).max(1.5), bottom - TOP, escape(name));
        self.put(format_args!(
            r#"<rect class="fault" x="{from:.1}" y="{TOP}" width="{width:.1}" height="{height:.1}"><title>{name}</title></rect>"#
        ));
        // Near the right edge the name is left of the stretch.
        let length = name.chars().count() as f64 * LETTER;
        let (at, class, begin, end) = if from > self.width * 0.7 {
            (from - 3.0, "e", from - 3.0 - length, from)
        } else {
            (from + 3.0, "s", from, from + 3.0 + length)
        };
        let is_free = |row: &usize| {
            let clashes =
                |(other, from, to): &(usize, f64, f64)| other == row && *from < end && begin < *to;
            !self.names.iter().any(clashes)
        };
        let row = (0..ROWS_MAX).find(is_free).unwrap_or(ROWS_MAX - 1);
        self.names.push((row, begin, end));
        #[expect(clippy::cast_precision_loss, reason = "a few rows")]
        let y = TOP + 12.0 + 17.0 * row as f64;
        self.put(format_args!(r#"<text class="{class}" x="{at:.1}" y="{y:.0}">{name}</text>"#));
    }

    /// A strip along the plot, below its axis.
    pub(super) fn strip(&mut self, from: f64, to: f64, colour: &str, says: &str) {
        let (from, to, says) = (self.px(from), self.px(to), escape(says));
        let (width, top) = ((to - from).max(0.5), self.bottom() + 1.0);
        self.put(format_args!(
            r#"<rect x="{from:.1}" y="{top:.1}" width="{width:.1}" height="6" fill="{colour}"><title>{says}</title></rect>"#
        ));
    }

    /// The picture, with a text alternative.
    pub(super) fn finish(self, says: &str) -> String {
        let (width, height, says) = (self.width, self.height, escape(says));
        format!(
            r#"<svg role="img" aria-label="{says}" viewBox="0 0 {width} {height}">{}</svg>"#,
            self.body
        )
    }
}

/// At most about `most` round numbers inside a range.
fn ticks((low, high): (f64, f64), most: u32) -> Vec<f64> {
    let rough = (high - low) / f64::from(most);
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power);
    let step = step.into_iter().find(|step| *step >= rough * 0.999).unwrap_or(10.0 * power);
    let mut tick = (low / step).ceil() * step;
    let mut found = Vec::new();
    while tick <= high + step * 1e-6 && found.len() < 64 {
        found.push(tick);
        tick += step;
    }
    found
}

/// A number without needless digits.
pub(super) fn number(value: f64) -> String {
    let text = if value.abs() >= 10.0 || value.fract().abs() < 1e-9 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}").trim_end_matches('0').to_owned()
    };
    if text == "-0" { "0".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::{Plot, escape, number, ticks};

    #[test]
    fn names_that_would_cover_each_other_stand_in_rows() {
        let mut plot = Plot::new(true, 200.0, (0.0, 60.0), (0.0, 1.0));
        plot.span(10.0, 12.0, "kill coordinator@leader");
        plot.span(12.0, 14.0, "stop api-1@eu-west-1");
        plot.span(50.0, 52.0, "x");
        let picture = plot.finish("");
        assert_eq!(picture.matches(r#"y="22""#).count(), 2, "{picture}");
        assert_eq!(picture.matches(r#"y="39""#).count(), 1, "{picture}");
    }

    #[test]
    fn axis_ticks_are_few_round_numbers() {
        assert_eq!(ticks((0.0, 100.0), 5), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks((0.0, 0.7), 5), [0.0, 0.2, 0.4, 0.6000000000000001]);
        assert_eq!(ticks((-5.0, 60.0), 12).first(), Some(&0.0));
        assert!(ticks((0.0, 1e9), 5).len() < 8);
    }

    #[test]
    fn svg_text_is_escaped() {
        assert_eq!(
            [number(0.25), number(1.0), number(150.4), number(-0.0)],
            ["0.25", "1", "150", "0"]
        );
        assert_eq!(escape(r#"<a b="c">&"#), "&lt;a b=&quot;c&quot;&gt;&amp;");
    }
}
