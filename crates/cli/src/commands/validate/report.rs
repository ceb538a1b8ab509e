//! What `rheostat validate` says: a table, a line for everything that does not agree, and one sentence.

use std::fmt::Write as _;

use rheostat::memory;
use rheostat::validate::{
    CaseCheck, Difference, Fact, FactVerdict, Misplaced, Numbers, Reference, ResidualCheck, ResidualPoint, TokensCheck,
    TopCheck,
};
use rheostat::{Compute, KvFormat, Model, Package};
use serde_json::{Value, json};

use crate::args::ValidateArgs;
use crate::output::shown;

pub(super) struct Report<'a> {
    pub(super) args: &'a ValidateArgs,
    pub(super) reference: &'a Reference,
    pub(super) package: &'a Package,
    pub(super) model: &'a Model,
    pub(super) facts: Vec<Fact>,
    pub(super) cases: Vec<CaseCheck>,
}

/// A difference and where it is.
struct Place {
    difference: Difference,
    /// "logit of token 42 in test case 1".
    place: String,
    /// The test case, from 1.
    case: usize,
    /// "logit" or "residual".
    of: &'static str,
}

impl Report<'_> {
    /// The sentence about what does not agree; none if everything does.
    pub(super) fn failure(&self) -> Option<String> {
        let complaints = self.complaints();
        let first = complaints.first()?;
        Some(match complaints.len() {
            1 => format!("the model does not agree with the reference: {first}"),
            n => format!("the model does not agree with the reference in {n} ways, the first of them: {first}"),
        })
    }

    pub(super) fn table(&self) -> String {
        let mut text = self.head();
        text += "\n  case  tokens  tokenizer     top 10    logits                  residual\n";
        for (i, case) in self.cases.iter().enumerate() {
            text += &self.row(i + 1, case);
        }
        for complaint in self.complaints() {
            let _ = write!(text, "\n{}", shown(&complaint));
        }
        text += "\n";
        if let Some(largest) = self.largest() {
            let _ = writeln!(text, "largest difference: {}, {}", size(&largest.difference), largest.place);
        }
        if self.failure().is_none() {
            let _ = writeln!(text, "{}", self.success());
        }
        text
    }

    pub(super) fn object(&self) -> Value {
        let recorded = |fact: &Fact| json!({"name": fact.name, "recorded": fact.recorded, "model": fact.model, "verdict": fact.verdict().name()});
        let (compute, kv) = self.model.numbers();
        json!({
            "model": self.package.name(),
            "reference": self.reference.file,
            "model_repo": self.reference.model_repo,
            "versions": self.reference.versions,
            "dtype": self.reference.dtype,
            "attention": self.reference.attention,
            "bar": self.args.bar,
            "passed": self.failure().is_none(),
            "complaints": self.complaints(),
            "facts": self.facts.iter().map(recorded).collect::<Vec<_>>(),
            "not_recorded": self.not_recorded(),
            "weights_recorded": self.reference.weights.as_ref().map(std::collections::BTreeMap::len),
            "passed_over": self.reference.passed_over,
            "cases": self.cases.iter().map(|case| self.case_object(case)).collect::<Vec<_>>(),
            "largest": self.largest().map(|largest| json!({
                "difference": number(largest.difference.size),
                "of": largest.of,
                "case": largest.case,
                "at": largest.difference.at,
            })),
            "compute": compute.name(),
            "kv_cache": kv.name(),
            "bytes_read": self.model.reading().bytes,
            "peak_memory_bytes": memory::peak(),
        })
    }

    /// What is compared with what, and the facts.
    fn head(&self) -> String {
        let reference = self.reference;
        let mut says: Vec<String> = reference.model_repo.iter().cloned().collect();
        says.extend(reference.versions.iter().map(|(name, version)| format!("{name} {version}")));
        says.extend(reference.dtype.iter().chain(&reference.attention).cloned());
        let says = if says.is_empty() { String::new() } else { format!(" ({})", shown(&says.join(", "))) };
        let (compute, kv) = self.model.numbers();
        let mut text = format!("reference   {}{says}\nmodel       {}", reference.file, self.package.name());
        let _ = write!(text, ", products in {}, cache in {}\n\n", compute.name(), kv.name());
        for fact in self.facts.iter().filter(|fact| fact.recorded.is_some()) {
            let model = shown(&words(&fact.model));
            let recorded = shown(&plain(fact.recorded.as_ref()));
            let verdict = match fact.verdict() {
                FactVerdict::Same => "as recorded".to_owned(),
                FactVerdict::Differs => format!("NOT as recorded: {recorded}"),
                FactVerdict::NotThere | FactVerdict::NotRecorded => {
                    format!("not compared: {recorded} is recorded, and the model has no such number")
                }
            };
            let _ = writeln!(text, "  {:20}  {model:12}  {verdict}", fact.name);
        }
        let missing = self.not_recorded();
        if !missing.is_empty() {
            let _ = writeln!(text, "  not recorded: {}", missing.join(", "));
        }
        if !reference.passed_over.is_empty() {
            let _ = writeln!(
                text,
                "  passed over (not understood, not checked): {}",
                shown(&reference.passed_over.join(", "))
            );
        }
        if let Some(weights) = &reference.weights {
            let _ = writeln!(text, "  note: hashes of {} tensors are recorded, and not compared", weights.len());
        }
        if reference.dtype.as_deref().is_some_and(|dtype| dtype != "float32") {
            text += "  note: the reference was not computed in float32, and its numbers are less exact for it\n";
        }
        if compute != Compute::F32 || kv != KvFormat::F32 {
            text += "  note: this run is less exact than one in f32, with which references are to be compared\n";
        }
        text
    }

    fn row(&self, number: usize, case: &CaseCheck) -> String {
        let tokenizer = match &case.tokenizer {
            TokensCheck::Same => "same".to_owned(),
            TokensCheck::Differ { at, .. } => format!("OTHER AT {at}"),
            TokensCheck::NotRecorded => "not recorded".to_owned(),
            TokensCheck::NoTokenizer(_) => "none".to_owned(),
        };
        let (top, logits, residual) = match &case.numbers {
            Err(_) => ("NOT RUN".to_owned(), String::new(), String::new()),
            Ok(numbers) => cells(numbers),
        };
        let mark = if case.passes(self.args.bar) { ' ' } else { '*' };
        let line = format!("{mark} {number:4}  {:6}  {tokenizer:12}  {top:8}  {logits:22}  {residual}", case.tokens);
        format!("{}\n", line.trim_end())
    }

    /// Every fact and key that the reference does not say, in the order of the file's description.
    fn not_recorded(&self) -> Vec<String> {
        let reference = self.reference;
        let facts = self.facts.iter().filter(|fact| fact.recorded.is_none()).map(|fact| fact.name.to_owned());
        let mut missing: Vec<String> =
            reference.model_repo.is_none().then(|| "model_repo".to_owned()).into_iter().collect();
        missing.extend(facts);
        for (name, is_missing) in [
            ("dtype", reference.dtype.is_none()),
            ("attention", reference.attention.is_none()),
            ("versions", reference.versions.is_empty()),
            ("weights", reference.weights.is_none()),
        ] {
            missing.extend(is_missing.then(|| name.to_owned()));
        }
        let count =
            |has: fn(&rheostat::validate::Case) -> bool| reference.cases.iter().filter(|case| !has(case)).count();
        for (name, without) in [
            ("prompt", count(|case| case.prompt.is_some())),
            ("tokens", count(|case| case.tokens.is_some())),
            ("top_10", count(|case| case.top.is_some())),
            ("last_residual_f32", count(|case| case.residual.is_some())),
        ] {
            match without {
                0 => {}
                n if n == reference.cases.len() => missing.push(name.to_owned()),
                n => missing.push(format!("{name} of {n} test cases")),
            }
        }
        missing
    }

    /// Everything that does not agree, a sentence without a full stop each.
    fn complaints(&self) -> Vec<String> {
        let mut all: Vec<String> = Vec::new();
        for fact in self.facts.iter().filter(|fact| fact.verdict() == FactVerdict::Differs) {
            let (model, recorded) = (words(&fact.model), plain(fact.recorded.as_ref()));
            all.push(format!("{} is {model} here and {recorded} in the reference", fact.name));
        }
        for (i, case) in self.cases.iter().enumerate() {
            let told =
                self.complaints_of(case).into_iter().map(|complaint| format!("test case {}: {complaint}", i + 1));
            all.extend(told);
        }
        all
    }

    fn complaints_of(&self, case: &CaseCheck) -> Vec<String> {
        let mut all = Vec::new();
        if let TokensCheck::Differ { at, found, same_without_special } = &case.tokenizer {
            let hint = match same_without_special {
                true => " (the recorded ones lack the special tokens that the tokenizer adds)",
                false => "",
            };
            let found = found.get(*at).map_or("nothing".to_owned(), |token| format!("token {token}"));
            all.push(format!(
                "the tokenizer gives other tokens than recorded, first at position {at}, where it has {found}{hint}"
            ));
        }
        let numbers = match &case.numbers {
            Ok(numbers) => numbers,
            Err(why) => {
                all.push(format!("it cannot be run: {why}"));
                return all;
            }
        };
        if let Some(top) = &numbers.top {
            all.extend(top.misplaced.iter().map(misplaced));
            if top.largest.size > self.args.bar {
                all.push(format!("the logit of token {} is {}", top.largest.at, far(&top.largest, self.args.bar)));
            }
        }
        if let Some(residual) = numbers.residual.as_ref().filter(|residual| residual.largest.size > self.args.bar) {
            let [recorded, found] = residual.lengths;
            all.push(if recorded == found {
                let far = far(&residual.largest, self.args.bar);
                format!("element {} of the last residual ({}) is {far}", residual.largest.at, point(residual))
            } else {
                format!("the last residual has {found} elements here and {recorded} in the reference")
            });
        }
        all
    }

    /// The largest difference of all.
    fn largest(&self) -> Option<Place> {
        let mut all: Vec<Place> = Vec::new();
        for (i, case) in self.cases.iter().enumerate() {
            let (case, Ok(numbers)) = (i + 1, &case.numbers) else { continue };
            all.extend(numbers.top.as_ref().map(|top| {
                let place = format!("of the logit of token {} in test case {case}", top.largest.at);
                Place { difference: top.largest, place, case, of: "logit" }
            }));
            all.extend(numbers.residual.as_ref().map(|residual| {
                let place = format!("of element {} of the residual in test case {case}", residual.largest.at);
                Place { difference: residual.largest, place, case, of: "residual" }
            }));
        }
        all.into_iter().reduce(|a, b| if b.difference.size > a.difference.size { b } else { a })
    }

    /// The sentence where everything agrees.
    fn success(&self) -> String {
        let count =
            |has: fn(&Numbers) -> bool| self.cases.iter().filter(|case| case.numbers.as_ref().is_ok_and(has)).count();
        let (tops, residuals) = (count(|n| n.top.is_some()), count(|n| n.residual.is_some()));
        let mut parts = Vec::new();
        if tops > 0 {
            parts.push(format!("the likeliest tokens of {} in their order", cases(tops)));
        }
        if residuals > 0 {
            parts.push(format!("the last residual of {}", cases(residuals)));
        }
        format!(
            "The model agrees with the reference: {}, and no number is further off than {:e}.",
            parts.join(", "),
            self.args.bar
        )
    }

    fn case_object(&self, case: &CaseCheck) -> Value {
        let tokenizer = match &case.tokenizer {
            TokensCheck::Same => json!({"verdict": "same"}),
            TokensCheck::Differ { at, found, .. } => json!({"verdict": "differs", "at": at, "found": found}),
            TokensCheck::NotRecorded => json!({"verdict": "not recorded"}),
            TokensCheck::NoTokenizer(why) => json!({"verdict": "no tokenizer", "why": why}),
        };
        let numbers = case.numbers.as_ref().ok();
        json!({
            "passed": case.passes(self.args.bar),
            "tokens": case.tokens,
            "tokenizer": tokenizer,
            "not_run": case.numbers.as_ref().err(),
            "top_10": numbers.and_then(|n| n.top.as_ref()).map(|top| json!({
                "places": top.places,
                "misplaced": top.misplaced.iter().map(|m| json!({
                    "place": m.place, "recorded": m.recorded, "found": m.found, "near_tie": m.near_tie,
                })).collect::<Vec<_>>(),
                "largest": difference(&top.largest),
            })),
            "residual": numbers.and_then(|n| n.residual.as_ref()).map(|residual| json!({
                "point": residual.point.name(),
                "point_recorded": residual.point_recorded,
                "recorded_elements": residual.lengths[0],
                "elements": residual.lengths[1],
                "largest": difference(&residual.largest),
            })),
            "complaints": self.complaints_of(case),
        })
    }
}

fn cases(n: usize) -> String {
    if n == 1 { "1 test case".to_owned() } else { format!("{n} test cases") }
}

/// What a row says of numbers: the likeliest tokens, their logits, the residual.
fn cells(numbers: &Numbers) -> (String, String, String) {
    let missing = "not recorded".to_owned();
    let top = |top: &TopCheck| match top.misplaced.len() {
        0 => "same".to_owned(),
        n => format!("{n} OTHER"),
    };
    let logits = |top: &TopCheck| format!("{} token {}", size(&top.largest), top.largest.at);
    let residual = |residual: &ResidualCheck| match residual.lengths {
        [recorded, found] if recorded != found => format!("{recorded} ELEMENTS, NOT {found}"),
        _ => format!("{} element {} ({})", size(&residual.largest), residual.largest.at, point(residual)),
    };
    (
        numbers.top.as_ref().map_or("-".to_owned(), top),
        numbers.top.as_ref().map_or(missing.clone(), logits),
        numbers.residual.as_ref().map_or(missing, residual),
    )
}

/// What a residual was compared with.
fn point(residual: &ResidualCheck) -> String {
    let name = match residual.point {
        ResidualPoint::ResidPost => "after the last block",
        ResidualPoint::FinalNorm => "after the final norm",
    };
    let hint = if residual.point_recorded { "" } else { ", as the nearer one" };
    format!("{name}{hint}")
}

fn misplaced(m: &Misplaced) -> String {
    let found = m.found.map_or("empty".to_owned(), |token| format!("token {token}"));
    let tie = m.near_tie.map_or(String::new(), |gap| {
        format!(" (a near tie: in the reference, the neighbouring logit is only {gap:.1e} away)")
    });
    format!("place {} of the top 10 is {found} here and token {} in the reference{tie}", m.place, m.recorded)
}

/// How a number is off.
fn far(difference: &Difference, bar: f64) -> String {
    match difference.found {
        None => format!("not there, and {} in the reference", difference.recorded),
        Some(found) => format!(
            "{found} here and {} in the reference: {} apart, and {bar:e} is allowed",
            difference.recorded,
            size(difference)
        ),
    }
}

fn size(difference: &Difference) -> String {
    if difference.size.is_finite() { format!("{:.1e}", difference.size) } else { "infinitely".to_owned() }
}

/// A difference for machines; one that is not finite is null.
fn difference(d: &Difference) -> Value {
    json!({"difference": number(d.size), "at": d.at, "found": d.found, "recorded": d.recorded})
}

fn number(x: f64) -> Value {
    if x.is_finite() { json!(x) } else { Value::Null }
}

/// A value without quotes.
fn plain(value: Option<&Value>) -> String {
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
        None => "nothing".to_owned(),
    }
}

fn words(values: &[Value]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    values.iter().map(|value| plain(Some(value))).collect::<Vec<_>>().join(" or ")
}
