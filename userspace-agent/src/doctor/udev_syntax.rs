// SPDX-License-Identifier: GPL-2.0

//! How udev's rules are written: lines, tokens and patterns.

/// `KEY{attribute}OP"value"`.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Token<'a> {
    pub(crate) key: &'a str,
    pub(crate) attribute: &'a str,
    pub(crate) operator: &'a str,
    pub(crate) value: &'a str,
}

/// The lines that are not comments, with the number of the first, where a backslash joins several.
pub(crate) fn lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut joined: Option<(usize, String)> = None;

    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('#') {
            continue;
        }
        let (mut first, mut whole) = joined.take().unwrap_or_default();
        if whole.is_empty() {
            first = number + 1;
        }
        match line.strip_suffix('\\') {
            Some(line) => {
                whole.push_str(line);
                joined = Some((first, whole));
            }
            None => {
                whole.push_str(line);
                lines.push((first, whole));
            }
        }
    }
    lines.extend(joined);
    lines
}

/// Takes a line apart, up to where it makes no sense.
pub(crate) fn tokens(line: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = line;

    while let Some((token, after)) = token(rest.trim_start_matches([' ', '\t', ','])) {
        tokens.push(token);
        rest = after;
    }
    tokens
}

/// The first token, and what comes after it.
fn token(text: &str) -> Option<(Token<'_>, &str)> {
    let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_')?;
    let (key, mut rest) = text.split_at(end);
    let mut attribute = "";
    if let Some(inner) = rest.strip_prefix('{') {
        (attribute, rest) = inner.split_once('}')?;
    }
    let rest = rest.trim_start();
    let (operator, rest) = rest.split_at(rest.find(|c| !"=!+-:".contains(c))?);
    let rest = rest.trim_start();
    let rest = rest.strip_prefix(['e', 'i']).unwrap_or(rest);
    let rest = rest.strip_prefix('"')?;

    let mut escaped = false;
    let end = rest.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let token = Token {
        key,
        attribute,
        operator,
        value: &rest[..end],
    };
    Some((token, &rest[end + 1..]))
}

/// Whether a text matches a pattern of `*`, `?`, `[abc]`, `[a-z]` and `[!a]`.
pub(crate) fn glob(pattern: &[u8], text: &[u8]) -> bool {
    // Where to go on after a mismatch: behind the last `*`, with one more byte taken by it.
    let (mut at, mut from) = (0, 0);
    let mut retry = None;

    loop {
        let step = match pattern.get(at) {
            None if from == text.len() => return true,
            None => None,
            Some(b'*') => {
                at += 1;
                retry = Some((at, from));
                continue;
            }
            Some(_) => text.get(from).and_then(|byte| one(&pattern[at..], *byte)),
        };
        match (step, retry) {
            (Some(length), _) => {
                at += length;
                from += 1;
            }
            (None, Some((behind, start))) if start < text.len() => {
                retry = Some((behind, start + 1));
                (at, from) = (behind, start + 1);
            }
            (None, _) => return false,
        }
    }
}

/// How much of the pattern matches this byte; none if it does not.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => {
            let negated = matches!(rest.first(), Some(b'!' | b'^'));
            let set = &rest[usize::from(negated)..];
            let end = set.iter().skip(1).position(|c| *c == b']')? + 1;
            let mut members = &set[..end];
            let mut found = false;
            while let [first, others @ ..] = members {
                if let [b'-', last, others @ ..] = others {
                    found |= (*first..=*last).contains(&byte);
                    members = others;
                } else {
                    found |= *first == byte;
                    members = others;
                }
            }
            (found != negated).then_some(1 + usize::from(negated) + end + 1)
        }
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (pattern, text, matches) in [
            ("memory[0-9]*", "memory1", true),
            ("memory[!0-9]*", "memory1", false),
            ("m*y?", "memory1", true),
            ("*", "", true),
            ("a*b*c", "aXbXbXc", true),
            ("a*b*c", "aXbXbX", false),
            ("[", "[", false),
            ("[]]", "]", true),
            ("", "a", false),
        ] {
            assert_eq!(
                glob(pattern.as_bytes(), text.as_bytes()),
                matches,
                "{pattern}"
            );
        }
    }
}
