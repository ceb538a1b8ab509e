//! Patterns that any operation may show.

use half::bf16;

use super::Evidence;
use crate::diff::judge::{Result as Values, distance};
use crate::diff::noise::{F32, Precision};
use crate::diff::operations::Operation;
use crate::diff::tensor::Axes;

/// How much smaller what is left must be than what is explained, in f32 and in coarser numbers.
const LEFT: f64 = 1e-3;
const LEFT_COARSE: f64 = 2e-2;

impl Evidence<'_> {
    fn left(&self) -> f64 {
        if self.precision.steps > F32 || self.precision.inputs > 0.0 { LEFT_COARSE } else { LEFT }
    }

    /// Patterns of the values themselves.
    pub(super) fn patterns(&self) -> Vec<String> {
        let one = || {
            self.zeros()
                .or_else(|| self.input_as_it_is())
                .or_else(|| self.one_factor())
                .or_else(|| self.same_vector())
                .or_else(|| self.row_factors())
                .or_else(|| self.heads_in_another_order())
                .or_else(|| self.rows_of_other_positions())
        };
        one().into_iter().collect()
    }

    fn zeros(&self) -> Option<String> {
        let all = self.wrong.values.iter().all(|x| *x == 0.0);
        all.then(|| format!("All values of {} are zero: the operation gives nothing, or was not done.", self.who))
    }

    fn input_as_it_is(&self) -> Option<String> {
        let i = (0..self.inputs.len()).find(|i| self.is_input(*i))?;
        Some(format!(
            "{}'s values are its input {} as it is: the operation was not done.",
            self.who,
            self.op.inputs[i].trim_start_matches('=')
        ))
    }

    /// One factor for all.
    fn one_factor(&self) -> Option<String> {
        let by = self.ratio()?;
        Some(format!("{}'s values are right but for one factor, {}.", self.who, self.number(by)))
    }

    /// The factor between wrong and exact values, if that explains all; not 1.
    pub(super) fn ratio(&self) -> Option<f64> {
        self.ratio_of(self.pairs())
    }

    pub(super) fn ratio_of(&self, pairs: impl Iterator<Item = (f64, f64)>) -> Option<f64> {
        let (mut product, mut square, mut wrong, mut n) = (0.0, 0.0, 0.0, 0);
        for (w, e) in pairs {
            product += w * e;
            square += e * e;
            wrong += w * w;
            n += 1;
        }
        let by = product / square;
        // Of Σ (w − by·e)², which is the least there is.
        let left = (wrong - product * product / square).max(0.0);
        let difference = wrong - 2.0 * product + square;
        let explained = n > 1 && square > 0.0 && left.sqrt() < self.left() * difference.abs().sqrt();
        (explained && by.is_finite()).then_some(by)
    }

    /// A factor with what is remarkable about it.
    fn number(&self, by: f64) -> String {
        let close = |a: f64, b: f64| (a / b - 1.0).abs() < self.left();
        let mut candidates: Vec<(String, f64)> = vec![("−1: the sign".to_owned(), -1.0)];
        let hidden = self.evaluator.decoder().hidden_size;
        candidates.push((format!("√{hidden}, of the width of the residual stream"), (hidden as f64).sqrt()));
        match &self.op.operation {
            Operation::Scores { head_dim, scale, .. } => {
                candidates.push((format!("√{head_dim}, of the width of a head"), (*head_dim as f64).sqrt()));
                candidates.push(("the inverse of the scale: it was left out".to_owned(), 1.0 / f64::from(*scale)));
            }
            Operation::Embed { scale, .. } if *scale != 1.0 => {
                let scale = f64::from(*scale);
                let rounded = f64::from(bf16::from_f64(scale));
                candidates.push(("the inverse of the embedding's factor: it was left out".to_owned(), 1.0 / scale));
                candidates
                    .push((format!("as if the factor {scale} were rounded to bfloat16 ({rounded})"), rounded / scale));
            }
            _ => {}
        }
        for width in self.op.shape.iter().copied().filter(|width| *width > 1) {
            candidates.push((format!("√{width}"), (width as f64).sqrt()));
        }
        let found = candidates.iter().find_map(|(what, value)| {
            let inverse = close(by, 1.0 / value) && !close(*value, -1.0);
            match close(by, *value) {
                true => Some(what.clone()),
                false => inverse.then(|| format!("1 over {value:.6}: {what}")),
            }
        });
        match found {
            Some(what) => format!("{by:.6} ({what})"),
            None => format!("{by:.6}"),
        }
    }

    /// The same difference in every row.
    fn same_vector(&self) -> Option<String> {
        if self.axes() != Axes::Rows || self.rows.len() < 2 {
            return None;
        }
        let width = self.wrong.values.len() / self.rows.len();
        let difference =
            |row: usize, i: usize| f64::from(self.wrong.values[row * width + i]) - self.exact.values[row * width + i];
        let (mut left, mut all) = (0.0, 0.0);
        for i in 0..width {
            let mean = (0..self.rows.len()).map(|row| difference(row, i)).sum::<f64>() / self.rows.len() as f64;
            for row in 0..self.rows.len() {
                left += (difference(row, i) - mean).powi(2);
                all += difference(row, i).powi(2);
            }
        }
        (left.sqrt() < 10.0 * self.left() * all.sqrt()).then(|| {
            format!(
                "{} differs by the same vector in every row: as by a bias that is left out, added, or another one.",
                self.who
            )
        })
    }

    /// A factor for each row.
    fn row_factors(&self) -> Option<String> {
        if self.axes() != Axes::Rows || self.rows.len() < 2 {
            return None;
        }
        let width = self.wrong.values.len() / self.rows.len();
        if width < 2 {
            return None;
        }
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for (row, wrong) in self.wrong.values.chunks_exact(width).enumerate() {
            let exact = &self.exact.values[row * width..(row + 1) * width];
            let by = self.ratio_of(wrong.iter().map(|x| f64::from(*x)).zip(exact.iter().copied()))?;
            (least, most) = (least.min(by), most.max(by));
        }
        Some(format!(
            "{} is right but for a factor that each row has of its own, {least:.4} to {most:.4}: as of a norm, or of weights \
             that are normalised or not.",
            self.who
        ))
    }

    /// Heads that are right, but others than they should be.
    fn heads_in_another_order(&self) -> Option<String> {
        let heads = self.heads()?;
        let (n, of_head) = heads;
        if n < 2 {
            return None;
        }
        let mut from = Vec::new();
        for h in 0..n {
            let same = |other: &usize| {
                let (mut left, mut all) = (0.0, 0.0);
                for (a, b) in of_head(h).into_iter().zip(of_head(*other)) {
                    let (w, e) = (f64::from(self.wrong.values[a]), self.exact.values[b]);
                    if w.is_finite() && e.is_finite() {
                        left += (w - e).powi(2);
                        all += e * e;
                    }
                }
                all > 0.0 && left.sqrt() < self.left() * all.sqrt()
            };
            from.push((0..n).find(same)?);
        }
        let list: Vec<String> = from.iter().take(8).map(usize::to_string).collect();
        let more = if n > 8 { ", …" } else { "" };
        let identity = from.iter().enumerate().all(|(h, other)| h == *other);
        (!identity).then(|| {
            format!(
                "{}'s heads are right but in another order: its heads 0, 1, 2, … hold what belongs to heads {}{more}.",
                self.who,
                list.join(", ")
            )
        })
    }

    /// How many heads there are, and the indices of the elements of each, in one order for all.
    #[allow(clippy::type_complexity, reason = "a number, and a function")]
    fn heads(&self) -> Option<(usize, impl Fn(usize) -> Vec<usize>)> {
        let shape = &self.wrong.shape;
        let (n, stride, block) = match self.axes() {
            Axes::Heads => (shape[0], self.wrong.values.len(), self.wrong.values.len() / shape[0].max(1)),
            Axes::Rows if shape.len() > 2 => {
                let block: usize = shape[2..].iter().product();
                (shape[1], shape[1] * block, block)
            }
            Axes::Rows => return None,
        };
        let rows = self.wrong.values.len() / stride.max(1);
        Some((n, move |h: usize| {
            (0..rows).flat_map(|row| row * stride + h * block..row * stride + (h + 1) * block).collect()
        }))
    }

    /// Rows that are right, but of the position before or after.
    fn rows_of_other_positions(&self) -> Option<String> {
        if self.axes() != Axes::Rows || self.rows.len() < 3 {
            return None;
        }
        let width = self.wrong.values.len() / self.rows.len();
        let positions = self.positions();
        for shift in [-1_isize, 1, 2] {
            let (mut left, mut all, mut n) = (0.0, 0.0, 0);
            for (row, position) in positions.iter().enumerate() {
                let Some(other) = position.checked_add_signed(shift) else { continue };
                let Some(other) = positions.iter().position(|p| *p == other) else { continue };
                n += 1;
                for i in 0..width {
                    let e = self.exact.values[other * width + i];
                    left += (f64::from(self.wrong.values[row * width + i]) - e).powi(2);
                    all += e * e;
                }
            }
            if n > 1 && all > 0.0 && left.sqrt() < self.left() * all.sqrt() {
                return Some(format!(
                    "{}'s rows are right but for their place: each holds what belongs {} position{} {}.",
                    self.who,
                    shift.unsigned_abs(),
                    if shift.abs() == 1 { "" } else { "s" },
                    if shift < 0 { "before" } else { "after" }
                ));
            }
        }
        None
    }

    /// Which positions, heads or elements are wrong, if that is not all of them.
    pub(super) fn whereabouts(&self) -> Vec<String> {
        let beyond = self.beyond();
        let positions = self.positions();
        let mut by_position = vec![false; positions.len()];
        let heads = self.op.shape.len() > 1 || self.axes() == Axes::Heads;
        let n_heads = if heads { self.op.shape[0] } else { 0 };
        let dims = match self.axes() {
            Axes::Rows => self.op.shape.last().copied().unwrap_or(0),
            Axes::Heads => 0,
        };
        let (mut by_head, mut by_dim) = (vec![false; n_heads], vec![false; dims]);
        for index in (0..beyond.len()).filter(|index| beyond[*index]) {
            let row = self.wrong.row_of(self.axes(), index);
            let place = self.place(index);
            by_position[row] = true;
            place.head.into_iter().for_each(|head| by_head[head] = true);
            place.dim.into_iter().for_each(|dim| by_dim[dim] = true);
        }
        let mut said = Vec::new();
        if let Some(which) = some(&by_position, |row| positions[row]) {
            said.push(format!("Only {} wrong; the other positions are right.", which.of("position", "positions")));
        }
        if let Some(which) = some(&by_head, |head| head) {
            said.push(format!("Only {} wrong.", which.of("head", "heads")));
        }
        if let Some(which) = some(&by_dim, |dim| dim) {
            let of = if heads { ", of heads," } else { "" };
            said.push(format!("Only {} wrong.", which.of_some("element", "elements", of)));
        }
        said
    }

    /// Whether the values are hardly further off than rounding explains.
    pub(super) fn barely(&self) -> Option<String> {
        let factor = self.factor();
        let beyond = self.beyond().iter().filter(|beyond| **beyond).count();
        (factor < 10.0).then(|| {
            format!(
                "{} is off by {factor:.1} times what rounding explains, in {beyond} of {} elements: a sum in another order, or functions \
                 of another library, may do that.",
                self.who,
                self.wrong.values.len()
            )
        })
    }

    /// In which coarser numbers the values would be as they are.
    pub(super) fn coarser(&self) -> Option<String> {
        const TF32: Precision = Precision { steps: F32, inputs: 1.0 / (1 << 11) as f64 };
        let known = [
            ("if its products took their inputs in TF32", TF32),
            ("if its products took their inputs in bfloat16", Precision::REDUCED),
            ("if it computed in float16", Precision::F16),
            ("if it computed in bfloat16", Precision::BF16),
            ("if its products were of 8-bit integers", Precision::INT8),
        ];
        let fits = |precision: Precision| {
            let values = Values { values: &self.wrong.values, precision };
            distance(values, self.exact).factor <= 1.0
        };
        let (words, _) = known.into_iter().find(|(_, precision)| *precision != self.precision && fits(*precision))?;
        Some(format!("{} is no further off than it would be {words}.", self.who))
    }

    /// Where the largest difference is.
    pub(super) fn largest(&self) -> String {
        let mut largest = (0.0, 0);
        for (i, x) in self.wrong.values.iter().enumerate() {
            let difference = (f64::from(*x) - self.exact.values[i]).abs();
            if difference > largest.0 && difference.is_finite() {
                largest = (difference, i);
            }
        }
        let (difference, i) = largest;
        format!(
            "The largest difference is {difference:.3e} at {}, where {} has {:.6e} and {:.6e} is exact.",
            self.place(i),
            self.who,
            self.wrong.values[i],
            self.exact.values[i]
        )
    }
}

/// Some of many, in words.
struct Few {
    numbers: String,
    one: bool,
}

impl Few {
    fn of(&self, one: &str, many: &str) -> String {
        self.of_some(one, many, "")
    }

    fn of_some(&self, one: &str, many: &str, of: &str) -> String {
        let (noun, verb) = if self.one { (one, "is") } else { (many, "are") };
        format!("{noun} {}{of} {verb}", self.numbers)
    }
}

/// Those that are set, if some but not all are, and they can be named briefly.
fn some(set: &[bool], number: impl Fn(usize) -> usize) -> Option<Few> {
    let all: Vec<usize> = (0..set.len()).filter(|i| set[*i]).collect();
    let (first, last) = (*all.first()?, *all.last()?);
    if all.len() == set.len() {
        return None;
    }
    let one = all.len() == 1;
    let run = all.len() == last - first + 1;
    let numbers = match (run, all.len()) {
        (_, 1) => number(first).to_string(),
        (true, _) if last + 1 == set.len() => format!("from {} on", number(first)),
        (true, _) => format!("{} to {}", number(first), number(last)),
        (false, 2..=8) => all.iter().map(|i| number(*i).to_string()).collect::<Vec<_>>().join(", "),
        _ => {
            let step = all[1] - first;
            let even = step > 1 && all.windows(2).all(|pair| pair[1] - pair[0] == step);
            if !even {
                return None;
            }
            format!("{}, {}, {}, …", number(first), number(all[1]), number(all[2]))
        }
    };
    Some(Few { numbers, one })
}
