//! A report for the terminal: the verdict, the operations that are wrong, what was not compared.

use std::fmt::Write as _;

use super::{Comparison, OperationReport, Outcome, Report, Verdict, list};

/// Operations that are shown, and names of what was not compared.
const SHOWN: usize = 12;
const NAMES: usize = 8;

impl Report {
    /// The report in words: one sentence, then what it rests on. Every line ends with a line break.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "A  {} ({}, {})", self.a.name, self.a.engine, self.a.dtype);
        let _ = writeln!(out, "B  {} ({}, {})", self.b.name, self.b.engine, self.b.dtype);
        let _ = writeln!(out);
        let _ = writeln!(out, "{}", self.verdict());
        if let Outcome::Wrong { index, .. } = self.outcome {
            self.first(&mut out, &self.operations[index]);
        }
        self.weights(&mut out);
        self.table(&mut out);
        for note in &self.notes {
            let _ = writeln!(out, "{note}");
        }
        self.free(&mut out);
        self.not_compared(&mut out);
        out
    }

    /// What came out, in one sentence.
    #[must_use]
    pub fn verdict(&self) -> String {
        let points = self.operations.len();
        let over = format!("{points} points, {} of {} positions", self.rows, self.tokens);
        match &self.outcome {
            Outcome::NothingCompared => "A and B have no point in common: nothing was compared.".to_owned(),
            Outcome::Identical => format!("A and B are identical: every value is the same ({over})."),
            Outcome::Noise => {
                let differ = self.operations.iter().filter(|op| op.verdict != Verdict::Equal).count();
                let most = self.operations.iter().filter_map(|op| Some(op.a?.factor.max(op.b?.factor)));
                let most = most.fold(0.0, f64::max);
                format!(
                    "A and B differ by rounding alone: {differ} of {over} differ, none by more than {:.0} % of what rounding explains.",
                    100.0 * most
                )
            }
            Outcome::Wrong { point, index, verdict } => {
                let what = &self.operations[*index].what;
                let who = match verdict {
                    Verdict::TheirsWrong => "B is not what A's config asks for",
                    Verdict::OursWrong => "A does not compute what its own config asks for; please report this",
                    Verdict::BothWrong => "neither A nor B is what A's config asks for",
                    _ => "which of the two is right cannot be said, since what it rests on was not recorded",
                };
                format!("The first operation that is wrong is {point} ({what}): {who}.")
            }
        }
    }

    /// What is known about the first operation that is wrong.
    fn first(&self, out: &mut String, op: &OperationReport) {
        for sentence in &op.reading {
            let _ = writeln!(out, "  {sentence}");
        }
        if let Some(at) = op.comparison.at {
            let c = &op.comparison;
            let cosine = c.cosine.map_or("-".to_owned(), |cosine| format!("{cosine:.7}"));
            let _ = writeln!(
                out,
                "  Largest difference {}, at {at}; mean {:.1e}, cosine {cosine}, at most {} ulp; {} of {} elements differ.",
                size(c),
                c.mean_abs,
                c.max_ulp,
                c.different,
                c.elements
            );
        }
        if !op.together_with.is_empty() {
            let names: Vec<&str> = op.together_with.iter().take(NAMES).map(String::as_str).collect();
            let _ = writeln!(
                out,
                "  Judged together with what was not recorded: {}{}.",
                names.join(", "),
                if op.together_with.len() > NAMES { ", …" } else { "" }
            );
        }
    }

    fn weights(&self, out: &mut String) {
        let Some(weights) = &self.weights else { return };
        if weights.are_the_same() {
            let _ = writeln!(out, "The weights of both are the same ({} tensors).", weights.same);
            return;
        }
        for (what, names) in
            [("differ", &weights.different), ("are in A alone", &weights.only_a), ("are in B alone", &weights.only_b)]
        {
            if !names.is_empty() {
                let _ = writeln!(out, "{} tensors of the weights {what}: {}.", names.len(), some(names));
            }
        }
    }

    /// The operations that are wrong.
    fn table(&self, out: &mut String) {
        let wrong: Vec<&OperationReport> = self.operations.iter().filter(|op| op.verdict.is_suspicious()).collect();
        if wrong.is_empty() {
            return;
        }
        let width = wrong.iter().take(SHOWN).map(|op| op.point.len()).max().unwrap_or(0).max(5);
        let _ = writeln!(out);
        let _ = writeln!(
            out,
            "{:width$}  {:10}  {:>9}  {:>9}  {:>9}  what",
            "point", "wrong", "relative", "largest", "floors"
        );
        for op in wrong.iter().take(SHOWN) {
            let who = match op.verdict {
                Verdict::TheirsWrong => "B",
                Verdict::OursWrong => "A",
                Verdict::BothWrong => "both",
                _ => "?",
            };
            let relative = op.comparison.relative.map_or("–".to_owned(), |r| format!("{r:.1e}"));
            let factor = match (op.a, op.b) {
                (Some(a), Some(b)) => format!("{:.1e}", a.factor.max(b.factor)),
                _ => "–".to_owned(),
            };
            let _ = writeln!(
                out,
                "{:width$}  {who:10}  {relative:>9}  {:>9}  {factor:>9}  {}",
                op.point,
                size(&op.comparison),
                op.reading.first().map_or(op.what.as_str(), String::as_str)
            );
        }
        if wrong.len() > SHOWN {
            let _ = writeln!(out, "and {} more", wrong.len() - SHOWN);
        }
        let _ = writeln!(out);
    }

    /// How far the two come apart when nothing is replaced.
    fn free(&self, out: &mut String) {
        let relative = |op: &OperationReport| op.free.as_ref().and_then(|free| free.relative);
        let last = self.operations.iter().rev().find_map(|op| Some((op, relative(op)?)));
        if let Some((op, relative)) = last {
            let _ = writeln!(out, "Left to itself, A has come {relative:.1e} away from B at {} (relative).", op.point);
        }
    }

    fn not_compared(&self, out: &mut String) {
        let not = &self.not_compared;
        if !not.only_a.is_empty() {
            let _ = writeln!(out, "Not in B: {}.", by_place(&not.only_a));
        }
        if !not.only_b.is_empty() {
            let _ = writeln!(out, "Not in A: {}.", by_place(&not.only_b));
        }
        for (point, reason) in not.reasons.iter().take(NAMES) {
            let _ = writeln!(out, "Not recorded: {point} ({reason}).");
        }
    }
}

/// The largest difference in words.
fn size(comparison: &Comparison) -> String {
    if comparison.not_finite > 0 { "infinite".to_owned() } else { format!("{:.1e}", comparison.max_abs) }
}

fn some(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(NAMES).map(String::as_str).collect();
    shown.join(", ") + if names.len() > NAMES { ", …" } else { "" }
}

/// Points, with those of several blocks together.
fn by_place(points: &[String]) -> String {
    let mut places: Vec<(&str, Vec<usize>)> = Vec::new();
    for point in points {
        let parts = point.strip_prefix("blocks.").and_then(|rest| rest.split_once('.'));
        let block = parts.and_then(|(block, place)| Some((block.parse().ok()?, place)));
        let (block, place) = block.map_or((None, point.as_str()), |(block, place)| (Some(block), place));
        match places.iter_mut().find(|(known, _)| *known == place) {
            Some((_, blocks)) => blocks.extend(block),
            None => places.push((place, block.into_iter().collect())),
        }
    }
    let word = |(place, blocks): &(&str, Vec<usize>)| match blocks.is_empty() {
        true => (*place).to_owned(),
        false => format!("{place} (block{} {})", if blocks.len() == 1 { "" } else { "s" }, list(blocks)),
    };
    let shown: Vec<String> = places.iter().take(NAMES).map(word).collect();
    let more = places.len().saturating_sub(NAMES);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    shown.join(", ") + &rest
}
