//! Plots as SVG: curves over steps, tokens or time, drawn by a few hundred lines of our own, so that a report needs neither
//! a network nor a script.
//!
//! What is drawn is sampled to the paper's resolution first: a million steps take no more room than a thousand. Colours
//! are CSS variables (`--c0` and so on), which the page, or the style sheet in a file of its own, sets for light and dark.

pub(crate) mod sampling;
pub(crate) mod scale;

use std::fmt::Write as _;

use serde_json::{Value, json};

pub(crate) use sampling::{Point, min_max, smooth};
pub(crate) use scale::{Extent, Scale, Unit};

/// A plot, to be drawn at any size.
#[derive(Clone, Debug)]
pub(crate) struct Plot {
    /// Unique in a page; letters, digits and hyphens.
    pub(crate) id: String,
    /// What is plotted, in a few words.
    pub(crate) title: String,
    /// What goes to the right.
    pub(crate) x: Axis,
    /// What goes up.
    pub(crate) y: Axis,
    /// The curves, from back to front.
    pub(crate) series: Vec<Series>,
    /// Places on the x axis worth a line, with the reason.
    pub(crate) marks: Vec<(f64, String)>,
}

/// An axis.
#[derive(Clone, Debug)]
pub(crate) struct Axis {
    /// In a word: `step`.
    pub(crate) label: String,
    pub(crate) unit: Unit,
    pub(crate) extent: Extent,
    /// Logarithmic, if the data allow it.
    pub(crate) log: bool,
}

impl Axis {
    pub(crate) fn new(label: &str, unit: Unit, extent: Extent) -> Axis {
        Axis { label: label.to_owned(), unit, extent, log: false }
    }
}

/// A curve.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// For the legend and the values under the pointer.
    pub(crate) name: String,
    /// In ascending order of x.
    pub(crate) points: Vec<Point>,
    /// The number of its colour.
    pub(crate) color: usize,
    pub(crate) style: Style,
}

/// How a curve is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// A line.
    Line,
    /// A thin, pale line: what a smoothed one in front of it was made of.
    Faint,
    /// A line with a dot at each point, for few of them.
    Dots,
}

impl Style {
    fn class(self) -> &'static str {
        match self {
            Style::Line | Style::Dots => "line",
            Style::Faint => "faint",
        }
    }
}

/// Colours there are: `--c0` to `--c7`.
pub(crate) const NUM_COLORS: usize = 8;

/// The style sheet of plots in a file of their own; the report's page has the same rules in its own.
const STANDALONE_STYLE: &str = include_str!("plot.css");

/// Room around the curves.
struct Margins {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

const LINE_HEIGHT: f64 = 17.0;

/// The width of text in the plot's font, roughly: digits and letters of a sans-serif are about half as wide as high.
fn text_width(text: &str, size: f64) -> f64 {
    0.56 * size * text.chars().count() as f64
}

/// `&`, `<`, `>` and quotation marks for HTML and XML; characters that XML cannot have become the replacement character.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' => out.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A plot drawn at a size.
#[derive(Debug)]
pub(crate) struct Drawing {
    /// The `<svg>` element.
    pub(crate) svg: String,
    /// What the page's script shows under the pointer: places, and texts for each.
    pub(crate) hover: Value,
}

impl Plot {
    /// The plot as an SVG file.
    pub(crate) fn file(&self, width: f64, height: f64) -> String {
        self.draw(width, height, Some(STANDALONE_STYLE)).svg
    }

    /// The plot as a part of a page.
    pub(crate) fn part(&self, width: f64, height: f64) -> Drawing {
        self.draw(width, height, None)
    }

    fn draw(&self, width: f64, height: f64, style: Option<&str>) -> Drawing {
        const TITLE_SIZE: f64 = 14.0;
        const LABEL_SIZE: f64 = 11.0;
        let legend = self.legend(width, LABEL_SIZE);
        let legend_rows = legend.last().map_or(0.0, |item| item.row + 1.0);
        let top = 26.0 + LINE_HEIGHT * legend_rows + 6.0;
        let numbers = |axis: fn(&Point) -> f64| self.series.iter().flat_map(move |s| s.points.iter().map(axis));
        let finite = |points: &&Point| points.0.is_finite() && points.1.is_finite();
        let ys = || self.series.iter().flat_map(|s| s.points.iter().filter(finite).map(|p| p.1));
        let y_range = |top: f64, bottom: f64| (height - bottom, top);
        let y_scale = Scale::new(ys(), self.y.extent, self.y.unit, y_range(top, 34.0));
        let y_scale = if self.y.log { y_scale.logarithmic() } else { y_scale };
        let y_ticks = y_scale.ticks(((height - top - 34.0) / 30.0) as usize);
        let widest = y_ticks.iter().map(|(_, label)| text_width(label, LABEL_SIZE)).fold(0.0, f64::max);
        let margins = Margins { left: widest.max(16.0) + 12.0, right: 14.0, top, bottom: 34.0 };
        let x_range = (margins.left, width - margins.right);
        let x_scale = Scale::new(numbers(|p| p.0), self.x.extent, self.x.unit, x_range);
        let x_scale = if self.x.log { x_scale.logarithmic() } else { x_scale };
        let base = height - margins.bottom;

        let mut svg = String::new();
        let id = &self.id;
        // Writing to a string does not fail.
        let mut out = |text: std::fmt::Arguments<'_>| _ = svg.write_fmt(text);
        out(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\" {}>",
            match style {
                // A part of a page has the width that the page gives it.
                None => format!("viewBox=\"0 0 {width} {height}\""),
                // A file is shown at its size, with a border.
                Some(_) => {
                    let (outer_width, outer_height) = (width + 40.0, height + 40.0);
                    format!(
                        "viewBox=\"-20 -20 {outer_width} {outer_height}\" width=\"{outer_width}\" height=\"{outer_height}\""
                    )
                }
            }
        ));
        out(format_args!("<title id=\"{id}-t\">{}</title>", escape(&self.title)));
        out(format_args!("<desc id=\"{id}-d\">{}</desc>", escape(&self.describe())));
        if let Some(style) = style {
            out(format_args!(
                "<style>{style}</style><rect class=\"paper\" x=\"-20\" y=\"-20\" width=\"100%\" height=\"100%\"/>"
            ));
        }
        out(format_args!("<text class=\"title\" x=\"0\" y=\"{TITLE_SIZE}\">{}</text>", escape(&self.title)));
        for item in &legend {
            let y = 26.0 + LINE_HEIGHT * item.row + 9.0;
            let series = &self.series[item.series];
            out(format_args!(
                "<path class=\"{} c{}\" d=\"M{:.1} {:.1}h14\"/><text class=\"label\" x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                series.style.class(),
                series.color % NUM_COLORS,
                item.x,
                y - 4.0,
                item.x + 19.0,
                y,
                escape(&series.name)
            ));
        }
        for (number, label) in &y_ticks {
            let y = y_scale.place(*number);
            out(format_args!(
                "<path class=\"grid\" d=\"M{:.1} {y:.1}H{:.1}\"/><text class=\"label end\" x=\"{:.1}\" y=\"{:.1}\">{label}</text>",
                margins.left,
                width - margins.right,
                margins.left - 7.0,
                y + 3.8
            ));
        }
        out(format_args!("<path class=\"axis\" d=\"M{:.1} {base:.1}H{:.1}\"/>", margins.left, width - margins.right));
        let axis_label = format!("{}{}", self.x.label, if x_scale.is_log() { ", log" } else { "" });
        let axis_label_begin = width - margins.right - text_width(&axis_label, LABEL_SIZE);
        let mut free = margins.left - 20.0;
        for (number, label) in x_scale.ticks(((width - margins.left - margins.right) / 75.0) as usize) {
            let x = x_scale.place(number);
            let half = text_width(&label, LABEL_SIZE) / 2.0;
            out(format_args!("<path class=\"axis\" d=\"M{x:.1} {base:.1}v4\"/>"));
            // Labels that would touch are left out, their ticks are not; the name of the axis has a line of its own.
            let x = x.min(width - half);
            if x - half > free {
                out(format_args!("<text class=\"label mid\" x=\"{x:.1}\" y=\"{:.1}\">{label}</text>", base + 16.0));
                free = x + half + 6.0;
            }
        }
        out(format_args!(
            "<text class=\"label name\" x=\"{axis_label_begin:.1}\" y=\"{:.1}\">{}</text>",
            base + 30.0,
            escape(&axis_label)
        ));
        for (number, reason) in &self.marks {
            let x = x_scale.place(*number);
            if (x_range.0..=x_range.1).contains(&x) {
                out(format_args!(
                    "<path class=\"mark\" d=\"M{x:.1} {:.1}V{base:.1}\"><title>{}</title></path>",
                    margins.top,
                    escape(reason)
                ));
            }
        }
        for series in &self.series {
            let place = |&(x, y): &Point| (x_scale.place(x), y_scale.place(y));
            let placed: Vec<Point> = series.points.iter().map(place).collect();
            // Three fifths of a pixel at the size it is drawn for: finer than it is seen.
            let segments = min_max(&placed, 1.2);
            out(format_args!("<path class=\"{} c{}\" d=\"", series.style.class(), series.color % NUM_COLORS));
            let mut dots = String::new();
            for segment in &segments {
                for (i, (x, y)) in segment.iter().enumerate() {
                    out(format_args!("{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" }));
                }
                if let [(x, y)] = segment[..] {
                    // A point alone has no line.
                    _ = write!(
                        dots,
                        "<circle class=\"dot c{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2\"/>",
                        series.color % NUM_COLORS
                    );
                } else if series.style == Style::Dots && placed.len() <= 60 {
                    for (x, y) in segment {
                        _ = write!(
                            dots,
                            "<circle class=\"dot c{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.2\"/>",
                            series.color % NUM_COLORS
                        );
                    }
                }
            }
            out(format_args!("\"/>{dots}"));
        }
        out(format_args!("</svg>"));
        Drawing { svg, hover: self.hover(&x_scale, &margins, width, height) }
    }

    /// Where each curve's name stands. A plot of one curve has its title alone.
    fn legend(&self, width: f64, size: f64) -> Vec<LegendItem> {
        let mut items = Vec::new();
        if self.series.len() < 2 {
            return items;
        }
        let (mut x, mut row) = (0.0, 0.0);
        for (index, series) in self.series.iter().enumerate() {
            let needed = 19.0 + text_width(&series.name, size) + 16.0;
            if x > 0.0 && x + needed > width {
                (x, row) = (0.0, row + 1.0);
            }
            items.push(LegendItem { series: index, x, row });
            x += needed;
        }
        items
    }

    /// In words, for who does not see it.
    fn describe(&self) -> String {
        let describe = |series: &Series| {
            let finite = series.points.iter().filter(|point| point.0.is_finite() && point.1.is_finite());
            let by_y = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
            let (first, last) = (finite.clone().next()?, finite.clone().next_back()?);
            let (lowest, highest) = (finite.clone().min_by(by_y)?, finite.clone().max_by(by_y)?);
            let at = |point: &Point| {
                format!("{} at {} {}", self.y.unit.show(point.1), self.x.label, self.x.unit.show(point.0))
            };
            Some(format!(
                "{}: from {} to {}; lowest {}, highest {}.",
                series.name,
                at(first),
                at(last),
                at(lowest),
                at(highest)
            ))
        };
        let shown: Vec<String> = self.series.iter().filter_map(describe).collect();
        if shown.is_empty() { "There are no numbers yet.".to_owned() } else { shown.join(" ") }
    }

    /// Texts for places along the x axis.
    fn hover(&self, x_scale: &Scale, margins: &Margins, width: f64, height: f64) -> Value {
        const PLACES: usize = 160;
        let Some(longest) = self.series.iter().max_by_key(|series| series.points.len()) else { return Value::Null };
        let placed = longest.points.iter().map(|point| (x_scale.place(point.0), point.0));
        let spacing = (width - margins.left - margins.right) / PLACES as f64;
        let mut places: Vec<(f64, f64)> = Vec::new();
        for (place, x) in placed.filter(|(place, _)| place.is_finite()) {
            if places.last().is_none_or(|last| place >= last.0 + spacing) {
                places.push((place, x));
            }
        }
        let texts = |series: &Series| -> Vec<Value> {
            let text = |&(_, x): &(f64, f64)| {
                let after = series.points.partition_point(|point| point.0 <= x);
                // The last point up to here; before the first there is nothing to show.
                match after.checked_sub(1).map(|index| series.points[index].1) {
                    Some(y) => Value::from(self.y.unit.show(y)),
                    None => Value::Null,
                }
            };
            places.iter().map(text).collect()
        };
        let series: Vec<Value> = self
            .series
            .iter()
            .map(|series| json!({"name": series.name, "color": series.color % NUM_COLORS, "y": texts(series)}))
            .collect();
        json!({
            "width": width, "top": margins.top, "bottom": height - margins.bottom, "x_label": self.x.label,
            "places": places.iter().map(|place| (place.0 * 10.0).round() / 10.0).collect::<Vec<_>>(),
            "x": places.iter().map(|place| self.x.unit.show(place.1)).collect::<Vec<_>>(),
            "series": series,
        })
    }
}

/// A curve's name in the legend.
struct LegendItem {
    series: usize,
    x: f64,
    row: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<Point>) -> Plot {
        let series = Series { name: "loss".into(), points, color: 0, style: Style::Line };
        Plot {
            id: "p".into(),
            title: "a < b & \"c\"".into(),
            x: Axis::new("step", Unit::Count, Extent::Exact),
            y: Axis::new("nats", Unit::Number, Extent::LogAbove(3)),
            series: vec![series],
            marks: vec![(2.0, "continued".into())],
        }
    }

    #[test]
    fn a_plot_says_what_it_shows() {
        let drawing = plot(vec![(1.0, 3.0), (2.0, 2.0), (3.0, 2.5)]).part(400.0, 200.0);
        for part in [
            "<title id=\"p-t\">a &lt; b &amp; &quot;c&quot;</title>",
            "loss: from 3.0000 at step 1 to 2.5000 at step 3; lowest 2.0000 at step 2, highest 3.0000 at step 1.",
            "role=\"img\"",
            "<title>continued</title>",
        ] {
            assert!(drawing.svg.contains(part), "expected {part} in {}", drawing.svg);
        }
        assert_eq!(drawing.hover["x"], json!(["1", "2", "3"]));
        assert_eq!(drawing.hover["series"][0]["y"], json!(["3.0000", "2.0000", "2.5000"]));
    }

    #[test]
    fn a_million_steps_take_no_more_room_than_a_thousand() {
        let points = |count: u32| (1..=count).map(|x| (f64::from(x), 2.0 + f64::from(x % 7))).collect();
        let (thousand, million) = (plot(points(1000)).part(720.0, 300.0), plot(points(1_000_000)).part(720.0, 300.0));
        let size = |drawing: &Drawing| drawing.svg.len() + drawing.hover.to_string().len();
        assert!(size(&million) < 2 * size(&thousand), "{} and {}", size(&million), size(&thousand));
        assert!(size(&million) < 60_000, "{}", size(&million));
    }

    #[test]
    fn numbers_that_cannot_be_drawn_are_left_out() {
        for points in [
            vec![],
            vec![(1.0, f64::NAN)],
            vec![(1.0, 5.0)],
            vec![(1.0, 5.0), (2.0, f64::INFINITY), (3.0, 4.0)],
            vec![(0.0, 0.0), (1e300, -1e300)],
        ] {
            let svg = plot(points.clone()).file(400.0, 200.0);
            for bad in ["NaN", "inf\"", "inf ", "-inf"] {
                assert!(!svg.contains(bad), "{bad} for {points:?} in {svg}");
            }
        }
    }
}
