//! Number literals.

use super::tokens::Kind;

/// Reads the number at the beginning of `text`, if one is there: the token
/// and its length in bytes. `after_dot` says that a dot stands before it,
/// where only a whole number may follow (`pair.0`).
pub(super) fn read(text: &str, after_dot: AfterDot) -> Option<(Kind, usize)> {
    if after_dot == AfterDot::No
        && let Some(length) = float_length(text)
    {
        let digits = text[..length].replace('_', "");
        return Some((Kind::Float(digits.parse().ok()?), length));
    }
    let bytes = text.as_bytes();
    let radix = match bytes.get(..2) {
        Some([b'0', b'b' | b'B']) => 2,
        Some([b'0', b'o' | b'O']) => 8,
        Some([b'0', b'x' | b'X']) => 16,
        _ => 10,
    };
    if radix != 10 {
        let length = digits_length(&text[2..], radix, Leading::Underscore);
        if length > 0 {
            let digits = text[2..2 + length].replace('_', "");
            let number = i128::from_str_radix(&digits, radix).ok()?;
            return Some((Kind::Int(number), 2 + length));
        }
    }
    let length = match bytes.first()? {
        // Zeros only: Jinja has no octal numbers without their prefix.
        b'0' => {
            let zeros = text.trim_start_matches(['0', '_']);
            text[..text.len() - zeros.len()].trim_end_matches('_').len()
        }
        b'1'..=b'9' => digits_length(text, 10, Leading::Digit),
        _ => return None,
    };
    let number = text[..length].replace('_', "").parse().ok()?;
    Some((Kind::Int(number), length))
}

/// Whether the number stands after a dot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum AfterDot {
    Yes,
    No,
}

#[derive(Clone, Copy, PartialEq)]
enum Leading {
    Digit,
    Underscore,
}

/// Length of a run of digits with single underscores between them.
fn digits_length(text: &str, radix: u32, leading: Leading) -> usize {
    let mut length = 0;
    let mut underscore = leading == Leading::Digit;
    for (index, c) in text.char_indices() {
        if c.is_digit(radix) {
            length = index + 1;
            underscore = false;
        } else if c == '_' && !underscore {
            underscore = true;
        } else {
            break;
        }
    }
    length
}

fn float_length(text: &str) -> Option<usize> {
    let whole = digits_length(text, 10, Leading::Digit);
    if whole == 0 {
        return None;
    }
    let mut length = whole;
    if let Some(fraction) = text[length..].strip_prefix('.') {
        match digits_length(fraction, 10, Leading::Digit) {
            0 => {}
            digits => length += 1 + digits,
        }
    }
    if let Some(exponent) = text[length..].strip_prefix(['e', 'E']) {
        let sign = usize::from(exponent.starts_with(['+', '-']));
        match digits_length(&exponent[sign..], 10, Leading::Digit) {
            0 => {}
            digits => length += 1 + sign + digits,
        }
    }
    (length > whole).then_some(length)
}
