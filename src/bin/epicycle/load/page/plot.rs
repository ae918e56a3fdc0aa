//! Plots as SVG elements. The styles of the page colour them.

/// A plot: curves over a common axis, with texts for ranges of it.
pub(crate) struct Plot {
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) curves: Vec<Curve>,
    /// The beginning and the end of a range on the x axis, and the text that a mouse pointer shows there.
    pub(crate) places: Vec<(f64, f64, String)>,
}

/// A curve.
pub(crate) struct Curve {
    pub(crate) name: &'static str,
    /// The CSS class with its colour.
    pub(crate) class: &'static str,
    /// True if the area below the curve is filled.
    pub(crate) filled: bool,
    /// The points. `None` leaves a gap in the curve.
    pub(crate) points: Vec<(f64, Option<f64>)>,
}

/// An axis and its marks.
pub(crate) struct Axis {
    from: f64,
    to: f64,
    logarithmic: bool,
    marks: Vec<(f64, String)>,
}

/// The size of a plot and its margins, in units of its view box.
const WIDTH: f64 = 1000.0;
const HEIGHT: f64 = 270.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 28.0;

impl Axis {
    /// Makes a linear axis from 0 to `most` or a little above.
    pub(crate) fn linear(most: f64, label: impl Fn(f64) -> String) -> Self {
        let step = round_step(most.max(1e-9) / 4.0);
        let steps = (most / step).ceil().max(1.0);
        let marks = (0..=steps as usize).map(|n| (n as f64 * step, label(n as f64 * step)));
        Self {
            from: 0.0,
            to: steps * step,
            logarithmic: false,
            marks: marks.collect(),
        }
    }

    /// Makes a linear axis from 0 to exactly `most`.
    pub(crate) fn exact(most: f64, label: impl Fn(f64) -> String) -> Self {
        let mut axis = Self::linear(most, label);
        axis.to = most.max(1e-9);
        axis.marks.retain(|(at, _)| *at <= most);
        axis
    }

    /// Makes a logarithmic axis between powers of ten, from `least` to `most`. Both must be above 0.
    pub(crate) fn logarithmic(least: f64, most: f64, label: impl Fn(f64) -> String) -> Self {
        let first = least.log10().floor() as i32;
        let last = (most.log10().ceil() as i32).max(first + 1);
        let marks = (first..=last).map(|power| 10_f64.powi(power));
        Self {
            from: 10_f64.powi(first),
            to: 10_f64.powi(last),
            logarithmic: true,
            marks: marks.map(|at| (at, label(at))).collect(),
        }
    }

    /// Makes a linear axis with the given marks.
    pub(crate) fn marked(to: f64, marks: Vec<(f64, String)>) -> Self {
        Self {
            from: 0.0,
            to,
            logarithmic: false,
            marks,
        }
    }

    /// Returns the position of a value on the axis, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        let place = if self.logarithmic {
            (value.max(self.from) / self.from).log10() / (self.to / self.from).log10()
        } else {
            (value - self.from) / (self.to - self.from)
        };
        place.clamp(0.0, 1.0)
    }
}

impl Plot {
    /// Renders the plot as an `svg` element.
    pub(crate) fn to_svg(&self, described: &str) -> String {
        let mut svg = format!(
            "<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{described}\">"
        );
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (at, label) in &self.y.marks {
            let y = self.y_of(*at);
            put(
                &mut svg,
                &format!(
                    "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\"/>\
                 <text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
                    LEFT - 8.0,
                    y + 4.0
                ),
            );
        }
        for (at, label) in &self.x.marks {
            let x = self.x_of(*at);
            put(
                &mut svg,
                &format!(
                    "<line class=\"axis\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{}\"/>\
                 <text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
                    bottom + 5.0,
                    bottom + 20.0
                ),
            );
        }
        put(
            &mut svg,
            &format!(
                "<line class=\"axis\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>"
            ),
        );
        for curve in &self.curves {
            for part in curve.points.split(|(_, y)| y.is_none()) {
                let points: Vec<_> = part
                    .iter()
                    .filter_map(|(x, y)| Some((self.x_of(*x), self.y_of((*y)?))))
                    .collect();
                draw(&mut svg, curve, &points, bottom);
            }
        }
        for (from, to, text) in &self.places {
            let (from, to) = (self.x_of(*from), self.x_of(*to));
            put(
                &mut svg,
                &format!(
                    "<rect class=\"hover\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\">\
                 <title>{text}</title></rect>",
                    to - from,
                    bottom - TOP
                ),
            );
        }
        svg.push_str("</svg>");
        svg
    }

    /// Renders the key of the colours, if there are several curves.
    pub(crate) fn key(&self) -> String {
        if self.curves.len() < 2 {
            return String::new();
        }
        let item = |curve: &Curve| {
            format!(
                "<li><svg viewBox=\"0 0 20 8\" aria-hidden=\"true\"><line class=\"curve {}\" x1=\"1\" x2=\"19\" \
                 y1=\"4\" y2=\"4\"/></svg>{}</li>",
                curve.class, curve.name
            )
        };
        let items: String = self.curves.iter().map(item).collect();
        format!("<ul class=\"key\">{items}</ul>")
    }

    fn x_of(&self, value: f64) -> f64 {
        LEFT + self.x.place(value) * (WIDTH - LEFT - RIGHT)
    }

    fn y_of(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.y.place(value) * (HEIGHT - TOP - BOTTOM)
    }
}

/// Draws a part of a curve without gaps. A single point becomes a dot.
fn draw(svg: &mut String, curve: &Curve, points: &[(f64, f64)], bottom: f64) {
    let class = curve.class;
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        return;
    };
    if points.len() == 1 {
        let (x, y) = first;
        return put(
            svg,
            &format!("<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\"/>"),
        );
    }
    let mut path = String::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let step = if index == 0 { 'M' } else { 'L' };
        put(&mut path, &format!("{step}{x:.1} {y:.1}"));
    }
    if curve.filled {
        let (from, to) = (first.0, last.0);
        put(
            svg,
            &format!("<path class=\"area\" d=\"{path}L{to:.1} {bottom}L{from:.1} {bottom}Z\"/>"),
        );
    }
    put(
        svg,
        &format!("<path class=\"curve {class}\" d=\"{path}\"/>"),
    );
}

fn put(text: &mut String, more: &str) {
    text.push_str(more);
}

/// Returns the least number that is not below `step` and is 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10_f64.powf(step.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
    steps
        .into_iter()
        .find(|round| *round >= step * 0.999)
        .unwrap_or(step)
}
