//! Two traces: what was recorded is compared as it is, since neither can be run again.

use std::fmt::Write;

use anyhow::{bail, ensure};
use rheostat::diff::compare::{Comparison, compare};
use rheostat::diff::hash::Weights;
use rheostat::diff::{Axes, Recorded, TraceFile};
use serde_json::json;

use crate::args::DiffArgs;
use crate::output;

/// A difference in the root mean square, relative to the values, that rounding in f32 does not come to in a few hundred operations.
const NOISE: f64 = 1e-4;
/// The same where values were rounded to bf16 or f16.
const COARSE_NOISE: f64 = 5e-2;
/// Points that are shown, at the most.
const SHOWN: usize = 40;

pub(super) fn run(args: &DiffArgs) -> anyhow::Result<()> {
    ensure!(
        args.tokens.is_empty() && args.prompt.is_none(),
        "the text is that of the traces; leave out --tokens and --prompt"
    );
    ensure!(
        args.set.is_empty() && args.set_b.is_empty() && args.compute_b.is_none(),
        "{} and {} are traces, which have no options",
        args.a.display(),
        args.b.display()
    );
    let (a, b) = (TraceFile::open(&args.a)?, TraceFile::open(&args.b)?);
    b.require(&a.text().tokens, &a.text().positions)?;
    let coarse = [&a, &b].iter().any(|trace| trace.dtype != "float32");
    let noise = if coarse { COARSE_NOISE } else { NOISE };
    let mut compared: Vec<(String, Comparison)> = Vec::new();
    let (mut only_a, mut of_other_shape) = (Vec::new(), Vec::new());
    for point in order(&a) {
        if b.shape(&point).is_none() {
            only_a.push(point);
        } else if a.shape(&point) != b.shape(&point) {
            of_other_shape.push(point);
        } else if let (Some(x), Some(y)) = (a.tensor(&point)?, b.tensor(&point)?) {
            compared.push((point.clone(), compare(&x, &y, Axes::of(&point), &a.text().positions)));
        }
    }
    let only_b: Vec<String> = order(&b).into_iter().filter(|point| a.shape(point).is_none()).collect();
    ensure!(!compared.is_empty(), "{} and {} have no hook point in common", args.a.display(), args.b.display());
    let is_far = |c: &Comparison| c.not_finite > 0 || c.relative.is_some_and(|relative| relative > noise);
    let first = compared.iter().position(|(_, c)| is_far(c));
    let weights = a.weights.as_ref().zip(b.weights.as_ref()).map(|(a, b)| Weights::compare(a, b));
    let advice = "Which operation is wrong there can be told by running it again: give the model as one side (rheostat diff MODEL TRACE), once for each trace.";
    if args.json {
        let points: Vec<_> = compared.iter().map(|(point, c)| json!({ "point": point, "comparison": c })).collect();
        output::print_json(&json!({
            "a": args.a, "b": args.b,
            "first_apart": first.map(|i| &compared[i].0),
            "noise": noise,
            "points": points,
            "only_a": only_a, "only_b": only_b, "of_other_shape": of_other_shape,
            "weights": weights,
        }))?;
    } else {
        let mut text = match first {
            Some(i) => format!("The traces come apart at {}: beyond what rounding explains. {advice}\n", compared[i].0),
            None if compared.iter().all(|(_, c)| c.is_equal()) => "The traces are identical.\n".to_owned(),
            None => {
                format!("The traces differ by no more than rounding may (relative differences below {noise:.0e}).\n")
            }
        };
        let _ = writeln!(text, "\n{:40} {:>10} {:>10} {:>10}  where", "point", "largest", "mean", "relative");
        let from = first.map_or(0, |i| i.saturating_sub(3));
        for (point, c) in compared.iter().skip(from).filter(|(_, c)| !c.is_equal()).take(SHOWN) {
            let relative = c.relative.map_or("-".to_owned(), |r| format!("{r:.1e}"));
            let place = c.at.map(|at| at.to_string()).unwrap_or_default();
            let _ = writeln!(text, "{point:40} {:>10.2e} {:>10.2e} {relative:>10}  {place}", c.max_abs, c.mean_abs);
        }
        for (what, points) in [("only in A", &only_a), ("only in B", &only_b), ("of another shape", &of_other_shape)] {
            if !points.is_empty() {
                let _ = writeln!(text, "{what}: {}", points.join(", "));
            }
        }
        match &weights {
            Some(weights) if weights.are_the_same() => text.push_str("weights: the same\n"),
            Some(weights) => {
                let _ = writeln!(text, "weights: these tensors differ: {}", weights.different.join(", "));
            }
            None => text.push_str("weights: not compared, since not both traces have their hashes\n"),
        }
        output::print(&text)?;
    }
    match first {
        Some(i) => bail!("{} and {} come apart at {}", args.a.display(), args.b.display(), compared[i].0),
        None => Ok(()),
    }
}

/// The points of a trace in the order of a forward pass, as far as names tell: before the blocks, block after block, after them.
fn order(trace: &TraceFile) -> Vec<String> {
    use rheostat::hooks::Point;
    let mut points: Vec<String> = trace.points().map(str::to_owned).collect();
    points.sort_by_key(|name| match Point::parse(name) {
        Some((point, Some(block))) => (1, block, Some(point)),
        Some((point, None)) if point.is_final() => (2, 0, Some(point)),
        Some((point, None)) => (0, 0, Some(point)),
        None => (3, 0, None),
    });
    points
}
