//! Methods of strings.
//!
//! Where Python and Rust agree, `minijinja_contrib`'s methods are used.

use minijinja::{State, Value};
use minijinja_contrib::pycompat;

use super::args::{Args, integer, string};
use super::format;
use super::text::is_space;
use super::value::{Py, PyResult, fail, iterate, refuse_markup, unsupported};

/// Calls a method of a string; `object` and `text` are the same string.
pub(in crate::chat) fn call(state: &mut State<'_, '_>, object: &Value, text: &str, name: &str, args: Args) -> PyResult {
    match name {
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(name, ["chars"])?;
            let set: Option<Vec<char>> = match chars.as_ref().filter(|chars| !chars.is_none()) {
                Some(chars) => Some(string(name, chars)?.chars().collect()),
                None => None,
            };
            let inside = |c: char| set.as_ref().map_or_else(|| is_space(c), |set| set.contains(&c));
            Ok(Value::from(match name {
                "strip" => text.trim_matches(inside),
                "lstrip" => text.trim_start_matches(inside),
                _ => text.trim_end_matches(inside),
            }))
        }
        "split" | "rsplit" => {
            let [separator, limit] = args.bind(name, ["sep", "maxsplit"])?;
            let limit = limit.map_or(Ok(-1), |limit| integer(name, &limit))?;
            let limit = usize::try_from(limit).unwrap_or(usize::MAX);
            let separator = separator.filter(|separator| !separator.is_none());
            let parts = match &separator {
                Some(separator) => split_at(text, string(name, separator)?, name, limit)?,
                None if name == "split" => split_spaces(text, limit),
                None if limit == usize::MAX => split_spaces(text, limit),
                None => return unsupported("`rsplit` at spaces with a limit"),
            };
            Ok(parts.into_iter().map(Value::from).collect())
        }
        "splitlines" => {
            let [keep] = args.bind(name, ["keepends"])?;
            Ok(split_lines(text, keep.is_some_and(|keep| keep.is_true())))
        }
        "partition" | "rpartition" => {
            let separator = args.one(name)?;
            let separator = string(name, &separator)?;
            if separator.is_empty() {
                return fail(format!("`{name}` needs a separator that is not empty"));
            }
            let parts = match name {
                "partition" => text.split_once(separator),
                _ => text.rsplit_once(separator),
            };
            Ok(Value::from(match (parts, name) {
                (Some((before, after)), _) => (before, separator, after),
                (None, "partition") => (text, "", ""),
                (None, _) => ("", "", text),
            }))
        }
        "startswith" | "endswith" => {
            let affix = args.one(name)?;
            let candidates = match Py::of(&affix) {
                Py::Tuple(tuple) => tuple.to_vec(),
                _ => vec![affix.clone()],
            };
            for candidate in &candidates {
                let candidate = string(name, candidate)?;
                if (name == "startswith" && text.starts_with(candidate))
                    || (name == "endswith" && text.ends_with(candidate))
                {
                    return Ok(Value::from(true));
                }
            }
            Ok(Value::from(false))
        }
        "removeprefix" | "removesuffix" => {
            let affix = args.one(name)?;
            let affix = string(name, &affix)?;
            let rest = match name {
                "removeprefix" => text.strip_prefix(affix),
                _ => text.strip_suffix(affix),
            };
            Ok(Value::from(rest.unwrap_or(text)))
        }
        "replace" if args.keywords.is_empty() => match args.positional.as_slice() {
            [old, new] => Ok(Value::from(text.replace(string(name, old)?, string(name, new)?))),
            [old, new, count] => {
                let (old, new) = (string(name, old)?, string(name, new)?);
                Ok(Value::from(match usize::try_from(integer(name, count)?) {
                    Ok(count) => text.replacen(old, new, count),
                    Err(_) => text.replace(old, new),
                }))
            }
            _ => fail("`replace` takes two strings and, if wanted, a count"),
        },
        "join" => {
            let mut joined = Vec::new();
            for part in iterate(&args.one(name)?)? {
                refuse_markup(&[&part])?;
                joined.push(string(name, &part)?.to_owned());
            }
            Ok(Value::from(joined.join(text)))
        }
        "index" | "rindex" => {
            let method = if name == "index" { "find" } else { "rfind" };
            let found = pycompat::unknown_method_callback(state, object, method, &args.positional)?;
            match found.as_i64() {
                Some(0..) => Ok(found),
                _ => fail(format!("`{name}`: the string does not occur")),
            }
        }
        "format" => format::str_format(text, &args).map(Value::from),
        "capitalize" => {
            args.none(name)?;
            capitalize(text).map(Value::from)
        }
        "zfill" => {
            let width = usize::try_from(integer(name, &args.one(name)?)?).unwrap_or(0);
            if width > 10_000 {
                return unsupported("`zfill` to that width");
            }
            let digits = text.trim_start_matches(['+', '-']);
            let zeros = "0".repeat(width.saturating_sub(text.chars().count()));
            match text.len() - digits.len() {
                0 | 1 => {
                    let sign = &text[..text.len() - digits.len()];
                    Ok(Value::from(format!("{sign}{zeros}{digits}")))
                }
                _ => unsupported("`zfill` of a string with several signs"),
            }
        }
        // Python and Rust sort letters beyond ASCII by different tables here.
        "isalnum" | "isalpha" | "isdigit" | "isdecimal" | "isnumeric" | "title" | "swapcase" if !text.is_ascii() => {
            unsupported(format!("`{name}` of text beyond ASCII"))
        }
        "isspace" => {
            args.none(name)?;
            Ok(Value::from(!text.is_empty() && text.chars().all(is_space)))
        }
        "isdecimal" => pycompat::unknown_method_callback(state, object, "isdigit", &positional(args)?),
        "title" => {
            args.none(name)?;
            Ok(Value::from(title(text)))
        }
        "upper" | "lower" | "islower" | "isupper" | "isascii" | "isalnum" | "isalpha" | "isdigit" | "isnumeric"
        | "count" | "find" | "rfind" => pycompat::unknown_method_callback(state, object, name, &positional(args)?),
        _ => unsupported(format!("the string method `{name}`")),
    }
}

fn positional(args: Args) -> PyResult<Vec<Value>> {
    match args.keywords.first() {
        None => Ok(args.positional),
        Some((name, _)) => fail(format!("there is no argument named `{name}`")),
    }
}

fn split_at<'a>(text: &'a str, separator: &str, method: &str, limit: usize) -> PyResult<Vec<&'a str>> {
    if separator.is_empty() {
        return fail(format!("`{method}` needs a separator that is not empty"));
    }
    let count = limit.saturating_add(1);
    if method == "split" {
        return Ok(text.splitn(count, separator).collect());
    }
    let mut parts: Vec<_> = text.rsplitn(count, separator).collect();
    parts.reverse();
    Ok(parts)
}

fn split_spaces(text: &str, limit: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start_matches(is_space);
    while !rest.is_empty() {
        if parts.len() == limit {
            parts.push(rest);
            break;
        }
        let end = rest.find(is_space).unwrap_or(rest.len());
        parts.push(&rest[..end]);
        rest = rest[end..].trim_start_matches(is_space);
    }
    parts
}

fn split_lines(text: &str, keep_ends: bool) -> Value {
    let is_break = |c: char| {
        matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(end) = rest.find(is_break) else {
            lines.push(rest);
            break;
        };
        let width = match &rest[end..] {
            tail if tail.starts_with("\r\n") => 2,
            tail => tail.chars().next().map_or(1, char::len_utf8),
        };
        lines.push(&rest[..if keep_ends { end + width } else { end }]);
        rest = &rest[end + width..];
    }
    lines.into_iter().map(Value::from).collect()
}

/// `str.capitalize`
pub(in crate::chat) fn capitalize(text: &str) -> PyResult<String> {
    let mut chars = text.chars();
    let Some(first) = chars.next() else {
        return Ok(String::new());
    };
    // Title case is upper case but for a few ligatures and digraphs.
    let mut upper = first.to_uppercase();
    let first = match (upper.next(), upper.next()) {
        (Some(upper), None) if !matches!(first, '\u{1c4}'..='\u{1cc}' | '\u{1f1}'..='\u{1f3}') => upper,
        _ => return unsupported(format!("capitalizing a text that begins with `{first}`")),
    };
    // Lower casing looks at neighbours (a final sigma), so keep them together.
    let lower: String = text.to_lowercase();
    let skip = text.chars().next().map_or(0, |c| c.to_lowercase().count());
    Ok(std::iter::once(first).chain(lower.chars().skip(skip)).collect())
}

fn title(text: &str) -> String {
    let mut inside_word = false;
    text.chars()
        .map(|c| {
            let out = if inside_word { c.to_ascii_lowercase() } else { c.to_ascii_uppercase() };
            inside_word = c.is_ascii_alphabetic();
            out
        })
        .collect()
}
