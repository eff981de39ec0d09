//! Reads the file as YAML: its values, and the place of each.
//!
//! Values are built from the parser's events. So a value and its place come from one reading, and a
//! duplicate key is one fault among others instead of the end of the reading. Anchors and tags are
//! refused: a price should be written where it applies.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};
use serde_yaml::{Mapping, Value};

use super::finding::{Fault, Mark};

/// The largest file, in bytes; tens of thousands of routes fit.
pub const MAX_FILE: usize = 32 * 1024 * 1024;
/// The longest key, in bytes. Every path below it repeats it. Longer ones are written after a `?`.
const MAX_KEY: usize = 1024;
/// Levels of nesting; the deepest key is at level four.
const MAX_DEPTH: usize = 16;

/// A hint for who has no file that works yet.
pub(super) const SMALLEST: &str = "config/minimal.yaml is the smallest that works";

/// A file that could be read as YAML.
#[derive(Debug)]
pub(super) struct Document {
    /// The whole, with variables replaced.
    pub(super) value: Value,
    pub(super) places: Places,
    /// Faults after which the rest could still be read.
    pub(super) faults: Vec<Fault>,
}

/// What is known of each path (`routes[2].price`).
#[derive(Debug, Default)]
pub(super) struct Places {
    keys: BTreeMap<String, Mark>,
    values: BTreeMap<String, Mark>,
    /// Paths of values that came from the environment.
    substituted: BTreeSet<String>,
    /// Paths where reading found a fault; a further fault there would only be its consequence.
    spoiled: BTreeSet<String>,
}

impl Places {
    /// The place of a path's key, or else of its value.
    pub(super) fn key(&self, path: &str) -> Option<Mark> {
        self.keys.get(path).or_else(|| self.values.get(path)).copied()
    }

    /// The place where a path's value begins.
    pub(super) fn value(&self, path: &str) -> Option<Mark> {
        self.values.get(path).copied()
    }

    /// Whether reading found a fault here.
    pub(super) fn is_spoiled(&self, path: &str) -> bool {
        self.spoiled.contains(path)
    }

    /// Whether anything at or below the path came from the environment.
    pub(super) fn is_from_environment(&self, path: &str) -> bool {
        self.substituted.range(path.to_owned()..).take_while(|it| it.starts_with(path)).any(|it| {
            it.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

/// The path of `key` below `path`.
pub(super) fn below(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// The path of an item below `path`.
pub(super) fn item(path: &str, index: usize) -> String {
    format!("{path}[{index}]")
}

/// Reads a file and replaces the variables in it.
///
/// # Errors
/// Every fault found so far, if the text is not YAML.
pub(super) fn read(text: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Document, Vec<Fault>> {
    let parser = Parser::new_from_str(text);
    let mut reader =
        Reader { parser, lines: lengths(text), places: Places::default(), env, faults: Vec::new() };
    let outcome = if text.len() > MAX_FILE {
        let message = format!("the file is larger than {MAX_FILE} bytes");
        Err(Fault::new(None, "", message, "is this the right file?"))
    } else {
        reader.document()
    };
    let Reader { places, mut faults, .. } = reader;
    match outcome {
        Ok(value) => Ok(Document { value, places, faults }),
        Err(fault) => {
            faults.push(fault);
            Err(faults)
        }
    }
}

/// The characters of each line.
fn lengths(text: &str) -> Vec<usize> {
    text.replace("\r\n", "\n").split(['\n', '\r']).map(|it| it.chars().count()).collect()
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    /// No place is behind the end of a line or of the last one. The parser ends a last line that has no line end, and
    /// finds what is missing on the next one; and it counts the bytes of what it skips as columns.
    lines: Vec<usize>,
    places: Places,
    env: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<Fault>,
}

const SYNTAX_HINT: &str = "look at brackets, quotes, colons and indentation here and just above";

/// An `Err` is a fault after which the file cannot be read further.
impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Mark), Fault> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, self.place(&span.start))),
            Some(Err(error)) => {
                let message = format_args!("not YAML: {}", error.info());
                Err(Fault::new(Some(self.place(error.marker())), "", message, SYNTAX_HINT))
            }
            None => Err(Fault::new(None, "", "not YAML: it ends too early", SYNTAX_HINT)),
        }
    }

    fn place(&self, at: &Marker) -> Mark {
        let line = at.line().clamp(1, self.lines.len());
        let length = line.checked_sub(1).and_then(|it| self.lines.get(it)).copied().unwrap_or_default();
        let end = length.saturating_add(1);
        let column = if at.line() > line { end } else { at.col().saturating_add(1).min(end) };
        Mark { line, column }
    }

    fn document(&mut self) -> Result<Value, Fault> {
        let mut whole = None;
        loop {
            let (event, mark) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::Nothing | Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
                other @ (Event::Alias(_)
                | Event::Scalar(..)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..)
                | Event::MappingEnd) => {
                    let value = self.node(other, mark, "", 0)?;
                    if whole.replace(value).is_some() {
                        let hint = "a file holds one document: remove the `---`";
                        return Err(Fault::new(Some(mark), "", "a second document", hint));
                    }
                }
            }
        }
        whole.ok_or_else(|| Fault::new(None, "", "the file is empty", SMALLEST))
    }

    /// The value that begins with `event`.
    fn node(&mut self, event: Event<'a>, mark: Mark, path: &str, depth: usize) -> Result<Value, Fault> {
        if depth > MAX_DEPTH {
            let message = format!("nested more than {MAX_DEPTH} levels deep");
            return Err(Fault::new(Some(mark), "", message, SYNTAX_HINT));
        }
        self.places.values.insert(path.to_owned(), mark);
        let (anchor, has_tag, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, tag.is_some(), self.scalar(&text, style, path, mark))
            }
            Event::SequenceStart(anchor, tag) => (anchor, tag.is_some(), self.sequence(path, depth)?),
            Event::MappingStart(anchor, tag) => (anchor, tag.is_some(), self.mapping(path, depth)?),
            Event::Alias(anchor) => (anchor, false, Value::Null),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => (0, false, Value::Null),
        };
        if anchor != 0 || has_tag {
            let message = "anchors (`&`), aliases (`*`) and tags (`!`) are not supported";
            self.fault(mark, path, message, "write the value out, or put it in quotes");
        }
        Ok(value)
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Value, Fault> {
        let mut items = Vec::new();
        loop {
            let (event, mark) = self.next()?;
            if event == Event::SequenceEnd {
                return Ok(Value::Sequence(items));
            }
            let value = self.node(event, mark, &item(path, items.len()), depth.saturating_add(1))?;
            items.push(value);
        }
    }

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Value, Fault> {
        let mut map = Mapping::new();
        loop {
            let (event, mark) = self.next()?;
            let key = match event {
                Event::MappingEnd => return Ok(Value::Mapping(map)),
                Event::Scalar(text, ..) => text.into_owned(),
                Event::Nothing
                | Event::StreamStart
                | Event::StreamEnd
                | Event::DocumentStart(_)
                | Event::DocumentEnd
                | Event::Alias(_)
                | Event::SequenceStart(..)
                | Event::SequenceEnd
                | Event::MappingStart(..) => {
                    return Err(Fault::new(Some(mark), "", "a key must be a word", "write `key: value`"));
                }
            };
            if key.len() > MAX_KEY {
                let message = format!("a key is longer than {MAX_KEY} bytes");
                return Err(Fault::new(Some(mark), "", message, SYNTAX_HINT));
            }
            let here = below(path, &key);
            let first = self.places.keys.get(&here).copied();
            let (event, at) = self.next()?;
            if let Some(first) = first {
                let message = format!("the key is here twice; the first is in line {}", first.line);
                self.fault(mark, &here, message, "keep one of the two");
                // Read to its end, but kept apart: the first one is judged.
                let kept = std::mem::take(&mut self.places);
                let ignored = self.node(event, at, &here, depth.saturating_add(1));
                self.places = kept;
                ignored?;
            } else {
                self.places.keys.insert(here.clone(), mark);
                let value = self.node(event, at, &here, depth.saturating_add(1))?;
                map.insert(Value::String(key), value);
            }
        }
    }

    /// A plain word may be a number or a boolean, as in YAML; anything quoted is text.
    fn scalar(&mut self, text: &str, style: ScalarStyle, path: &str, mark: Mark) -> Value {
        if text.contains("${") {
            return Value::String(self.substitute(text, path, mark));
        }
        if style != ScalarStyle::Plain {
            return Value::String(text.to_owned());
        }
        match serde_yaml::from_str::<Value>(text) {
            Ok(value @ (Value::Null | Value::Bool(_) | Value::Number(_))) => value,
            Ok(Value::String(_) | Value::Sequence(_) | Value::Mapping(_) | Value::Tagged(_)) | Err(_) => {
                Value::String(text.to_owned())
            }
        }
    }

    /// Replaces `${NAME}` by the variable's value, and `${NAME:-TEXT}` by TEXT if the variable is not set or empty;
    /// `$${` is a literal `${`.
    fn substitute(&mut self, text: &str, path: &str, mark: Mark) -> String {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at_checked(at).unwrap_or((rest, ""));
            let after = from.strip_prefix("${").unwrap_or(from);
            if let Some(before) = before.strip_suffix('$') {
                out.push_str(before);
                out.push_str("${");
                rest = after;
                continue;
            }
            out.push_str(before);
            let Some((name, after)) = after.split_once('}') else {
                let hint = "write `${NAME}`, or `$${` for the two characters themselves";
                self.fault(mark, path, "`${` without `}`", hint);
                return out;
            };
            out.push_str(&self.variable(name, path, mark));
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// The value of a variable, or the text that stands for it (as in POSIX shells, section 2.6.2).
    fn variable(&mut self, inside: &str, path: &str, mark: Mark) -> String {
        let (name, instead) = match inside.split_once(":-") {
            Some((name, instead)) => (name, Some(instead)),
            None => (inside, None),
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            let message = format!("`${{{name}}}` is not a variable's name");
            self.fault(mark, path, message, "a name has letters, digits and `_`, and a default follows `:-`");
            return UNSET.to_owned();
        }
        if instead.is_some_and(|it| it.contains("${")) {
            // Its `}` would end the outer one.
            let hint = "a default is plain text: set the outer variable where it is set for the gateway";
            self.fault(mark, path, "a default with another variable in it", hint);
            return UNSET.to_owned();
        }
        match ((self.env)(name), instead) {
            // What the file says itself is no secret.
            (None, Some(instead)) => instead.to_owned(),
            (Some(value), Some(instead)) if value.is_empty() => instead.to_owned(),
            (Some(value), _) => {
                self.places.substituted.insert(path.to_owned());
                value
            }
            (None, None) => {
                self.places.substituted.insert(path.to_owned());
                let message = format!("the environment variable {name} is not set");
                let hint = format!(
                    "set {name}, name a file that has it with `--env-file`, give it a default (`${{{name}:-…}}`), or write \
                     `$${{{name}}}` if you mean the text itself"
                );
                self.fault(mark, path, message, &hint);
                UNSET.to_owned()
            }
        }
    }

    /// Notes a fault after which the rest can still be read.
    fn fault(&mut self, mark: Mark, path: &str, message: impl fmt::Display, hint: &str) {
        self.places.spoiled.insert(path.to_owned());
        self.faults.push(Fault::new(Some(mark), path, message, hint));
    }
}

/// Replaces a variable that is not set, so that the rest of the file can be judged.
const UNSET: &str = "unset";
