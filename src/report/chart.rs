//! Charts as SVG: lines over steps, step histograms, dots with intervals. Colours are classes, so that light, dark and print
//! styles of the page apply.

use std::fmt::Write;

const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 46.0;
const RIGHT: f64 = 10.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 34.0;
/// Points drawn per line, at most: longer runs are averaged in buckets.
const MAX_POINTS: usize = 400;

/// One line of a chart, or one outline of a histogram.
pub struct Line {
    /// The series it belongs to, as its key names it.
    pub label: String,
    /// What it is, for a reader who points at it.
    pub title: String,
    pub class: String,
    pub points: Vec<(f64, f64)>,
}

pub struct Axes<'a> {
    pub x: &'a str,
    pub y: &'a str,
    /// Logarithmic y axis; values at or below zero are left out.
    pub log: bool,
    /// Ends of the x axis where the data do not say.
    pub x_range: Option<(f64, f64)>,
    /// Fill down to the x axis.
    pub filled: bool,
}

/// Text safe inside markup.
pub fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// Maps data to the drawing.
struct Frame {
    x: (f64, f64),
    y: (f64, f64),
    log: bool,
}

impl Frame {
    fn new(axes: &Axes, lines: &[Line]) -> Option<Frame> {
        let fits = |(_, y): &&(f64, f64)| y.is_finite() && (!axes.log || *y > 0.0);
        let points = || lines.iter().flat_map(|line| &line.points).filter(fits);
        let ends = |values: &mut dyn Iterator<Item = f64>| {
            values.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), v| (low.min(v), high.max(v)))
        };
        points().next()?;
        let x = axes.x_range.unwrap_or_else(|| ends(&mut points().map(|(x, _)| *x)));
        let (low, high) = ends(&mut points().map(|(_, y)| *y));
        let y = match axes.log {
            true => (10f64.powf(low.log10().floor()), 10f64.powf(high.log10().ceil().max(low.log10().floor() + 1.0))),
            false => {
                let low = if low > 0.0 { 0.0 } else { low };
                let step = nice_step(high - low);
                ((low / step).floor() * step, ((high / step).ceil() * step).max(low + step))
            }
        };
        Some(Frame { x: if x.0 < x.1 { x } else { (x.0, x.0 + 1.0) }, y, log: axes.log })
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + (value - self.x.0) / (self.x.1 - self.x.0) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        let share = match self.log {
            true => (value.max(self.y.0).log10() - self.y.0.log10()) / (self.y.1.log10() - self.y.0.log10()),
            false => (value - self.y.0) / (self.y.1 - self.y.0),
        };
        HEIGHT - BOTTOM - share.clamp(0.0, 1.0) * (HEIGHT - BOTTOM - TOP)
    }

    fn y_ticks(&self) -> Vec<f64> {
        if !self.log {
            return ticks(self.y);
        }
        let (low, high) = (self.y.0.log10().round() as i32, self.y.1.log10().round() as i32);
        let every = ((high - low) / 6).max(1) as usize;
        (low..=high).step_by(every).map(|power| 10f64.powi(power)).collect()
    }
}

/// A step that cuts `range` into about five pieces: 1, 2 or 5 times a power of ten.
fn nice_step(range: f64) -> f64 {
    let raw = (range / 5.0).max(1e-12);
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().find(|step| step * power >= raw * 0.999);
    step.unwrap_or(10.0) * power
}

fn ticks((low, high): (f64, f64)) -> Vec<f64> {
    let step = nice_step(high - low);
    let first = (low / step - 1e-9).ceil() as i64;
    (first..).map(|i| i as f64 * step).take_while(|value| *value <= high + step * 1e-9).collect()
}

/// A tick's label, as short as it stays exact.
fn label(value: f64) -> String {
    let size = value.abs();
    match () {
        _ if size == 0.0 => "0".to_string(),
        _ if !(0.001..10_000.0).contains(&size) => format!("{value:.0e}"),
        _ => {
            let text = format!("{value:.3}");
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        }
    }
}

/// Lines over a common x axis; empty without points.
pub fn lines(axes: &Axes, lines: &[Line]) -> String {
    let Some(frame) = Frame::new(axes, lines) else { return String::new() };
    let mut svg = open(axes);
    grid(&mut svg, &frame, axes);
    for line in lines {
        let points: Vec<(f64, f64)> = thinned(&line.points, axes.filled)
            .into_iter()
            .filter(|(_, y)| y.is_finite() && (!axes.log || axes.filled || *y > 0.0))
            .map(|(x, y)| (frame.x(x), frame.y(y)))
            .collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { continue };
        let mut path = String::new();
        for (index, (x, y)) in points.iter().enumerate() {
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { "M" } else { "L" });
        }
        let (class, name, title) = (escape(&line.class), escape(&line.label), escape(&line.title));
        if axes.filled {
            let base = HEIGHT - BOTTOM;
            let _ =
                write!(svg, "<path class=\"area {class}\" d=\"{path}L{:.1} {base}L{:.1} {base}Z\"/>", last.0, first.0);
        }
        let _ = write!(
            svg,
            "<path class=\"line {class}\" data-series=\"{name}\" d=\"{path}\"><title>{title}</title></path>"
        );
    }
    svg + "</svg>"
}

/// A step histogram: `counts[i]` is the bin that starts `i * width` from the right end at 0, as shares of their sum.
pub fn histogram(axes: &Axes, width: f64, series: &[(String, String, Vec<u64>)]) -> String {
    let outline = |(label, class, counts): &(String, String, Vec<u64>)| {
        let total = counts.iter().sum::<u64>().max(1) as f64;
        let bins = counts.iter().enumerate().rev();
        let points = bins.flat_map(|(i, count)| {
            let share = 100.0 * *count as f64 / total;
            [(-(i as f64 + 1.0) * width, share), (-(i as f64) * width, share)]
        });
        Line { label: label.clone(), title: label.clone(), class: class.clone(), points: points.collect() }
    };
    lines(axes, &series.iter().map(outline).collect::<Vec<_>>())
}

fn open(axes: &Axes) -> String {
    format!(
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{} over {}\">",
        escape(axes.y),
        escape(axes.x)
    )
}

fn grid(svg: &mut String, frame: &Frame, axes: &Axes) {
    let bottom = HEIGHT - BOTTOM;
    for tick in frame.y_ticks() {
        let (y, text) = (frame.y(tick), label(tick));
        let _ = write!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{}\"/>", WIDTH - RIGHT);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{text}</text>",
            LEFT - 5.0,
            y + 3.5
        );
    }
    for tick in ticks(frame.x) {
        let (x, text) = (frame.x(tick), label(tick));
        let _ = write!(svg, "<path class=\"grid\" d=\"M{x:.1} {bottom}v4\"/>");
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{text}</text>",
            bottom + 15.0
        );
    }
    let _ = write!(svg, "<path class=\"axis\" d=\"M{LEFT} {bottom}H{}\"/>", WIDTH - RIGHT);
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = write!(
        svg,
        "<text class=\"name\" x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 4.0,
        escape(axes.x)
    );
}

/// At most `MAX_POINTS` points, each the mean of a bucket. Outlines of histograms are short and stay.
fn thinned(points: &[(f64, f64)], whole: bool) -> Vec<(f64, f64)> {
    let size = points.len().div_ceil(MAX_POINTS).max(1);
    if whole || size == 1 {
        return points.to_vec();
    }
    let mean = |bucket: &[(f64, f64)]| {
        let n = bucket.len() as f64;
        (bucket.iter().map(|p| p.0).sum::<f64>() / n, bucket.iter().map(|p| p.1).sum::<f64>() / n)
    };
    points.chunks(size).map(mean).collect()
}

/// One dot of a dot plot.
pub struct Dot {
    pub label: String,
    pub class: String,
    pub value: f64,
    pub range: Option<(f64, f64)>,
}

/// Values in percent as dots with intervals, one line each, from 0 to 100.
pub fn dots(title: &str, dots: &[Dot]) -> String {
    const WIDTH: f64 = 330.0;
    const ROW: f64 = 22.0;
    const NAME: f64 = 80.0;
    const VALUE: f64 = 40.0;
    let height = 22.0 + ROW * dots.len() as f64;
    let x = |value: f64| NAME + value.clamp(0.0, 100.0) / 100.0 * (WIDTH - NAME - VALUE);
    let mut svg = format!(
        "<svg class=\"chart dots\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    );
    for tick in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let at = x(tick);
        let _ = write!(svg, "<path class=\"grid\" d=\"M{at:.1} 2V{}\"/>", height - 16.0);
        let _ = write!(
            svg,
            "<text class=\"tick\" x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{tick}</text>",
            height - 4.0
        );
    }
    for (index, dot) in dots.iter().enumerate() {
        let y = 13.0 + ROW * index as f64;
        let (name, class) = (escape(&dot.label), escape(&dot.class));
        let _ = write!(svg, "<text class=\"label\" x=\"0\" y=\"{:.1}\">{name}</text>", y + 4.0);
        if let Some((low, high)) = dot.range {
            let _ = write!(svg, "<path class=\"whisker {class}\" d=\"M{:.1} {y}H{:.1}\"/>", x(low), x(high));
        }
        let _ = write!(svg, "<circle class=\"dot {class}\" cx=\"{:.1}\" cy=\"{y}\" r=\"5\"/>", x(dot.value));
        let _ = write!(
            svg,
            "<text class=\"value\" x=\"{WIDTH}\" y=\"{:.1}\" text-anchor=\"end\">{:.1}</text>",
            y + 4.0,
            dot.value
        );
    }
    svg + "</svg>"
}

#[cfg(test)]
mod tests {
    use super::*;

    const AXES: Axes = Axes { x: "step", y: "loss", log: false, x_range: None, filled: false };

    fn line(points: &[(f64, f64)]) -> Line {
        Line { label: "a<b".to_string(), title: "a<b".to_string(), class: "c1".to_string(), points: points.to_vec() }
    }

    #[test]
    fn ticks_are_round_and_cover_the_range() {
        assert_eq!(ticks((0.0, 48.0)), [0.0, 10.0, 20.0, 30.0, 40.0]);
        assert_eq!(ticks((-12.0, 0.0)), [-10.0, -5.0, 0.0]);
        assert_eq!(label(0.25), "0.25");
        assert_eq!(label(30_000.0), "3e4");
        assert_eq!(label(200.0), "200");
    }

    #[test]
    fn lines_are_drawn_inside_the_frame_and_names_are_escaped() {
        let svg = lines(&AXES, &[line(&[(0.0, 1.0), (10.0, 3.0)])]);
        assert!(svg.contains("data-series=\"a&lt;b\"") && !svg.contains("a<b"), "{svg}");
        assert!(svg.contains("M46.0") && svg.contains("L410.0"), "{svg}");
        assert_eq!(lines(&AXES, &[]), "");
        assert_eq!(lines(&AXES, &[line(&[(0.0, f64::NAN)])]), "");
        assert!(!lines(&Axes { log: true, ..AXES }, &[line(&[(0.0, 0.0), (1.0, 5.0)])]).contains("NaN"));
        assert!(!lines(&AXES, &[line(&[(3.0, 2.0)])]).contains("NaN"), "one point");
    }

    #[test]
    fn long_runs_are_averaged() {
        let points: Vec<(f64, f64)> = (0..10_000).map(|i| (f64::from(i), f64::from(i % 2))).collect();
        let thin = thinned(&points, false);
        assert!(thin.len() <= MAX_POINTS && thin.len() > MAX_POINTS / 2);
        assert!(thin.iter().all(|(_, y)| (y - 0.5).abs() < 0.05));
    }

    #[test]
    fn histograms_show_shares() {
        let axes = Axes { x: "log p", y: "%", log: false, x_range: Some((-2.0, 0.0)), filled: true };
        let svg = histogram(&axes, 1.0, &[("self".to_string(), "self".to_string(), vec![3, 1])]);
        assert_eq!(svg.matches("class=\"area self\"").count(), 1);
        let dots =
            dots("main", &[Dot { label: "base".into(), class: "c0".into(), value: 50.0, range: Some((40.0, 60.0)) }]);
        assert!(dots.contains(">50.0<") && dots.contains("whisker"));
    }
}
