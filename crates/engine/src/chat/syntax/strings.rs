//! String literals: reading Python's escapes, writing the engine's.

/// The value of a literal, given the text between its quotes.
///
/// Jinja hands that text to Python's `unicode-escape` codec after turning
/// what is not ASCII into escapes of its own, so a backslash before such a
/// character yields the character's code in letters; this does the same.
pub(super) fn decode(raw: &str) -> Result<String, String> {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars().peekable();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        let Some(escaped) = chars.next() else {
            return Err("a string ends in a single backslash".to_owned());
        };
        match escaped {
            '\n' => {}
            '\\' | '\'' | '"' => out.push(escaped),
            'a' => out.push('\u{7}'),
            'b' => out.push('\u{8}'),
            'f' => out.push('\u{c}'),
            'n' => out.push('\n'),
            'r' => out.push('\r'),
            't' => out.push('\t'),
            'v' => out.push('\u{b}'),
            '0'..='7' => {
                let mut code = escaped.to_digit(8).unwrap_or(0);
                for _ in 0..2 {
                    if let Some(digit) = chars.peek().and_then(|c| c.to_digit(8)) {
                        code = code * 8 + digit;
                        chars.next();
                    }
                }
                out.extend(char::from_u32(code));
            }
            'x' => out.push(code_point(&mut chars, 2)?),
            'u' => out.push(code_point(&mut chars, 4)?),
            'U' => out.push(code_point(&mut chars, 8)?),
            'N' => return Err("a character given by its name (`\\N{…}`)".to_owned()),
            c if c.is_ascii() => {
                out.push('\\');
                out.push(c);
            }
            c => {
                let code = u32::from(c);
                out.push('\\');
                out.push_str(&match code {
                    0..=0xff => format!("x{code:02x}"),
                    0x100..=0xffff => format!("u{code:04x}"),
                    _ => format!("U{code:08x}"),
                });
            }
        }
    }
    Ok(out)
}

fn code_point(chars: &mut impl Iterator<Item = char>, digits: usize) -> Result<char, String> {
    let mut code = 0;
    for _ in 0..digits {
        match chars.next().and_then(|c| c.to_digit(16)) {
            Some(digit) => code = code * 16 + digit,
            None => return Err(format!("an escape that needs {digits} hexadecimal digits")),
        }
    }
    char::from_u32(code).ok_or_else(|| format!("the escape of {code:x}, which is no character"))
}

/// A literal for the engine with that value.
pub(super) fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
