//! String formatting: the `%` operator, the `format` filter and `str.format`.

use minijinja::Value;
use minijinja::formatting::{FormatStyle, format};

use super::args::Args;
use super::text;
use super::value::{Py, PyResult, fail, unsupported};

/// `template % arguments`, where a tuple holds several arguments and anything
/// else is the only one.
pub(in crate::chat) fn percent(template: &str, arguments: &Value) -> PyResult<String> {
    match Py::of(arguments) {
        Py::Tuple(tuple) => printf(template, tuple),
        Py::Dict if template.contains("%(") => unsupported("`%` with named fields"),
        // A dict may be passed to a template without fields at all.
        Py::Dict if !template.replace("%%", "").contains('%') => printf(template, &[]),
        _ => printf(template, std::slice::from_ref(arguments)),
    }
}

/// Python's printf formatting for `%s`, `%r`, `%d` and `%i` with a width, and
/// for `%f` with a precision.
pub(in crate::chat) fn printf(template: &str, arguments: &[Value]) -> PyResult<String> {
    let mut out = String::with_capacity(template.len());
    let mut arguments = arguments.iter();
    let mut rest = template;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let Some(end) = rest.find(|c: char| c.is_alphabetic()) else {
            return fail("incomplete `%` field in a format string");
        };
        let (spec, kind) = (&rest[..end], rest[end..].chars().next().unwrap_or(' '));
        rest = &rest[end + kind.len_utf8()..];
        let Some(argument) = arguments.next() else {
            return fail("not enough arguments for a format string");
        };
        let field = Field::parse(spec, kind)?;
        out.push_str(&field.render(argument)?);
    }
    out.push_str(rest);
    if arguments.next().is_some() {
        return fail("not all arguments were used by a format string");
    }
    Ok(out)
}

struct Field {
    kind: char,
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
}

impl Field {
    fn parse(spec: &str, kind: char) -> PyResult<Field> {
        let flags = spec.trim_start_matches(['-', '0']);
        let flag_text = &spec[..spec.len() - flags.len()];
        let (width, precision) = match flags.split_once('.') {
            Some((width, precision)) => (width, Some(precision)),
            None => (flags, None),
        };
        let number = |digits: &str| -> Option<usize> {
            if digits.is_empty() {
                return Some(0);
            }
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            digits.parse().ok().filter(|&n: &usize| plain && n <= 1000)
        };
        match (number(width), precision.map(number)) {
            (Some(width), None) => Ok((width, None)),
            (Some(width), Some(Some(precision))) => Ok((width, Some(precision))),
            _ => unsupported(format!("the format field `%{spec}{kind}`")),
        }
        .map(|(width, precision)| Field {
            kind,
            left: flag_text.contains('-'),
            zeros: flag_text.contains('0'),
            width,
            precision,
        })
    }

    fn render(&self, value: &Value) -> PyResult<String> {
        let body = match (self.kind, Py::of(value), Py::of(value).as_int()) {
            ('s', ..) => self.cut(text::str(value)?),
            ('r', ..) => self.cut(text::repr(value)?),
            ('d' | 'i', _, Some(number)) if self.precision.is_none() => number.to_string(),
            ('f', Py::Float(number), _) if number.is_finite() => {
                format!("{number:.*}", self.precision.unwrap_or(6))
            }
            ('f', _, Some(number)) if number.abs() <= 1 << 53 => {
                format!("{:.*}", self.precision.unwrap_or(6), number as f64)
            }
            (kind, other, _) => {
                return unsupported(format!("formatting a value of type {} with `%{kind}`", other.type_name()));
            }
        };
        let missing = self.width.saturating_sub(body.chars().count());
        Ok(if self.left {
            body + &" ".repeat(missing)
        } else if self.zeros && !matches!(self.kind, 's' | 'r') {
            let digits = body.trim_start_matches('-');
            let sign = &body[..body.len() - digits.len()];
            format!("{sign}{}{digits}", "0".repeat(missing))
        } else {
            " ".repeat(missing) + &body
        })
    }

    fn cut(&self, text: String) -> String {
        match self.precision {
            Some(limit) => text.chars().take(limit).collect(),
            None => text,
        }
    }
}

/// `template.format(...)`
pub(in crate::chat) fn str_format(template: &str, args: &Args) -> PyResult<String> {
    if !args.keywords.is_empty() {
        return unsupported("`str.format` with named arguments");
    }
    // The engine's formatting agrees with Python's for these; it prints
    // floats, lists and the like in its own way. Attribute and item access
    // inside a field, and conversions, are left out for the same reason.
    let simple = |value: &Value| matches!(Py::of(value), Py::Str(_) | Py::Int(_));
    if !args.positional.iter().all(simple) {
        return unsupported("`str.format` of anything but strings and whole numbers");
    }
    let fields = template.replace("{{", "").replace("}}", "");
    let odd = |field: &str| {
        let inner = field.split('}').next().unwrap_or("");
        !inner.bytes().all(|byte| byte.is_ascii_digit())
    };
    if fields.split('{').skip(1).any(odd) {
        return unsupported("`str.format` with more in its fields than a number");
    }
    format(FormatStyle::StrFormat, template, &args.positional)
}
