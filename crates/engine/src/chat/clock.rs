//! The time a template may ask for, through `strftime_now`.

use jiff::civil::DateTime;

use super::python::value::{PyResult, fail, unsupported};

/// Where `strftime_now` takes the time from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Clock {
    /// The local time, at the moment of rendering.
    #[default]
    Local,
    /// A moment that stands still, for prompts that must not change.
    Fixed(DateTime),
}

/// Directives that mean the same here and in Python. The rest of C's depend
/// on the locale or on a time zone, which Python's naive time does not have.
const DIRECTIVES: &str = "aAbBdeDFHIjklmMnpPRStTuUVwWyYGgC%";
/// Flags between the percent sign and the letter.
const FLAGS: &[char] = &['-', '_', '0'];

impl Clock {
    /// Python's `datetime.now().strftime(format)`.
    pub(super) fn format(self, format: &str) -> PyResult<String> {
        let now = match self {
            Clock::Local => jiff::Zoned::now().datetime(),
            Clock::Fixed(now) => now,
        };
        let mut out = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            let directive = &rest[at + 1..];
            let letter_at = directive.find(|c| !FLAGS.contains(&c)).unwrap_or(0);
            let Some(letter) = directive[letter_at..].chars().next() else {
                return fail(format!("strftime_now: `{format}` ends in a lone `%`"));
            };
            let end = at + 1 + letter_at + letter.len_utf8();
            match letter {
                'z' | 'Z' if letter_at == 0 => {}
                'f' if letter_at == 0 => {
                    out.push_str(&format!("{:06}", now.subsec_nanosecond() / 1000));
                }
                _ if letter_at <= 1 && DIRECTIVES.contains(letter) => {
                    match jiff::fmt::strtime::format(&rest[at..end], now) {
                        Ok(text) => out.push_str(&text),
                        Err(error) => return fail(format!("strftime_now: {error}")),
                    }
                }
                _ => return unsupported(format!("strftime_now with `{}`", &rest[at..end])),
            }
            rest = &rest[end..];
        }
        out.push_str(rest);
        Ok(out)
    }
}
