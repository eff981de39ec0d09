//! Files of variables, in the form of systemd's `EnvironmentFile=` (systemd.exec(5)): what a unit is given, a tool beside
//! it can be given too.
//!
//! A line is `NAME=value`. Quotes around a value are taken off; nothing in it is replaced. A line that begins with `#` or
//! `;` is a comment. What systemd reads over several lines is refused: it is as likely to be a mistake.

use std::collections::BTreeMap;
use std::path::Path;

use super::finding::Fault;

/// The variables of a file.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, String>, Fault> {
    let name = path.display();
    let fault = |message: String, hint| Fault::new(None, "", message, hint);
    let text = std::fs::read_to_string(path).map_err(|error| {
        fault(
            format!("`--env-file`: {name} cannot be read: {error}"),
            "name a file of lines such as NAME=value",
        )
    })?;
    let mut variables = BTreeMap::new();
    for (number, line) in (1_usize..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        // The line is not repeated: it may hold a secret.
        let (variable, value) = variable(line).map_err(|why| {
            fault(
                format!("`--env-file`: {name} line {number}: {why}"),
                "write NAME=value or NAME=\"value\" on one line",
            )
        })?;
        variables.insert(variable.to_owned(), value);
    }
    Ok(variables)
}

fn variable(line: &str) -> Result<(&str, String), &'static str> {
    let (name, value) = line.split_once('=').ok_or("there is no `=`")?;
    let (name, value) = (name.trim_end(), value.trim_start());
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if name.is_empty() || !name.bytes().all(is_name) || name.starts_with(|it: char| it.is_ascii_digit()) {
        return Err("what is before the `=` is not a variable's name");
    }
    Ok((name, unquoted(value)?))
}

fn unquoted(value: &str) -> Result<String, &'static str> {
    let quote = value.chars().next().filter(|it| ['"', '\''].contains(it));
    let Some(quote) = quote else {
        let (mut out, mut rest) = (String::with_capacity(value.len()), value.chars());
        while let Some(char) = rest.next() {
            let escaped = if char == '\\' { rest.next() } else { Some(char) };
            out.push(escaped.ok_or("a value that goes on in the next line")?);
        }
        return Ok(out);
    };
    let inside = value.strip_prefix(quote).unwrap_or(value);
    let (mut out, mut rest) = (String::with_capacity(inside.len()), inside.chars());
    while let Some(char) = rest.next() {
        match char {
            _ if char == quote && rest.as_str().is_empty() => return Ok(out),
            _ if char == quote => return Err("something follows the closing quote"),
            '\\' if quote == '"' => match rest.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => out.push(escaped),
                Some(other) => out.extend(['\\', other]),
                None => return Err("a value that goes on in the next line"),
            },
            _ => out.push(char),
        }
    }
    Err("the closing quote is missing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_as_systemd_reads_it() {
        for (line, value) in [
            ("KEY=a b$c#d", "a b$c#d"),
            ("KEY = padded", "padded"),
            ("KEY=", ""),
            ("KEY=a\\b\\\\c\\ d", "ab\\c d"),
            ("KEY=\"a \\\"b\\\" \\$c \\n\"", "a \"b\" $c \\n"),
            ("KEY='a \\b \"c\"'", "a \\b \"c\""),
        ] {
            assert_eq!(variable(line), Ok(("KEY", value.to_owned())), "{line}");
        }
        for line in ["KEY", "=a", "1KEY=a", "export KEY=a", "KEY=\"a", "KEY=\"a\" b", "KEY=a \\", "KEY=\"a\\"]
        {
            assert!(variable(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_fault_names_the_line_and_not_what_is_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("environment");
        std::fs::write(&path, "# comment\n\n; another\nNODE_KEY=\"s3cret\n").unwrap();
        let fault = read(&path).unwrap_err();
        assert!(fault.message.contains("environment line 4: the closing quote"), "{fault:?}");
        assert!(!format!("{fault:?}").contains("s3cret"), "{fault:?}");
        std::fs::write(&path, "A=1\nB=2\nA=3\n").unwrap();
        let read = read(&path).unwrap();
        assert_eq!((read["A"].as_str(), read["B"].as_str()), ("3", "2"));
    }
}
