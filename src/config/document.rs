//! The file as YAML: its values, and where each of them stands.
//!
//! Values are built from the parser's events, so that a value and its place come from one reading,
//! and a duplicate key is a fault among others instead of the end of the reading. Anchors and tags
//! are refused: a price should stand where it is asked for.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_yaml::{Mapping, Value};

use super::finding::{Fault, Mark};

/// Bytes of a file; tens of thousands of routes fit.
pub const MAX_FILE: usize = 32 * 1024 * 1024;
/// Levels of nesting; the deepest key lies four deep.
const MAX_DEPTH: usize = 16;

/// A file that could be read as YAML.
#[derive(Debug)]
pub(super) struct Document {
    /// The whole, with variables put in.
    pub(super) value: Value,
    pub(super) places: Places,
}

/// What is known of each path (`routes[2].price`).
#[derive(Debug, Default)]
pub(super) struct Places {
    keys: BTreeMap<String, Mark>,
    values: BTreeMap<String, Mark>,
    /// Where something came from the environment.
    substituted: BTreeSet<String>,
    /// Where the reading found a fault: what is wrong with such a value only follows from it.
    spoiled: BTreeSet<String>,
}

impl Places {
    /// Where the key of a path stands, or else its value.
    pub(super) fn key(&self, path: &str) -> Option<Mark> {
        self.keys.get(path).or_else(|| self.values.get(path)).copied()
    }

    /// Where the value of a path begins.
    pub(super) fn value(&self, path: &str) -> Option<Mark> {
        self.values.get(path).copied()
    }

    /// Whether a fault was found here already.
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

/// Reads a file and puts in the variables it names. Faults that leave the rest readable go to
/// `faults`; nothing comes back where the text is no YAML at all.
pub(super) fn read(
    text: &str,
    env: &dyn Fn(&str) -> Option<String>,
    faults: &mut Vec<Fault>,
) -> Option<Document> {
    let mut reader =
        Reader { parser: Parser::new_from_str(text), places: Places::default(), env, faults: Vec::new() };
    let outcome = if text.len() > MAX_FILE {
        Err(Broken::because(
            None,
            &format!("the file is larger than {MAX_FILE} bytes"),
            "is this the right file?",
        ))
    } else {
        reader.document()
    };
    faults.append(&mut reader.faults);
    match outcome {
        Ok(value) => Some(Document { value, places: reader.places }),
        Err(Broken(fault)) => {
            faults.push(fault);
            None
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    places: Places,
    env: &'a dyn Fn(&str) -> Option<String>,
    faults: Vec<Fault>,
}

const SYNTAX_HINT: &str = "look at brackets, quotes, colons and indentation here and just above";

/// The reading cannot go on.
struct Broken(Fault);

impl Broken {
    fn because(mark: Option<Mark>, message: &str, hint: &str) -> Self {
        let hint = Some(hint.to_owned());
        Self(Fault { mark, key: String::new(), message: message.to_owned(), hint })
    }
}

impl From<ScanError> for Broken {
    fn from(error: ScanError) -> Self {
        let at = error.marker();
        let mark = Mark { line: at.line(), column: at.col().saturating_add(1) };
        Self::because(Some(mark), &format!("not YAML: {}", error.info()), SYNTAX_HINT)
    }
}

fn mark_of(span: Span) -> Mark {
    Mark { line: span.start.line(), column: span.start.col().saturating_add(1) }
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Mark), Broken> {
        match self.parser.next_event() {
            Some(Ok((event, span))) => Ok((event, mark_of(span))),
            Some(Err(error)) => Err(error.into()),
            None => Err(Broken::because(None, "not YAML: it ends too early", SYNTAX_HINT)),
        }
    }

    fn document(&mut self) -> Result<Value, Broken> {
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
                        return Err(Broken::because(
                            Some(mark),
                            "a second document",
                            "a file holds one: take the `---` away",
                        ));
                    }
                }
            }
        }
        whole.ok_or_else(|| {
            Broken::because(None, "the file is empty", "config/minimal.yaml is the smallest that works")
        })
    }

    /// The value that begins with `event`.
    fn node(&mut self, event: Event<'a>, mark: Mark, path: &str, depth: usize) -> Result<Value, Broken> {
        if depth > MAX_DEPTH {
            return Err(Broken::because(
                Some(mark),
                &format!("nested more than {MAX_DEPTH} deep"),
                SYNTAX_HINT,
            ));
        }
        self.places.values.insert(path.to_owned(), mark);
        let (anchor, tag) = match &event {
            Event::Alias(anchor) => (*anchor, false),
            Event::Scalar(_, _, anchor, tag) => (*anchor, tag.is_some()),
            Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => (*anchor, tag.is_some()),
            Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => (0, false),
        };
        if anchor != 0 || tag {
            let message = "anchors (`&`), aliases (`*`) and tags (`!`) are not read";
            self.fault(Some(mark), path, message.to_owned(), Some("write the value out, or quote it"));
        }
        match event {
            Event::Scalar(text, style, ..) => Ok(self.scalar(&text, style, path, mark)),
            Event::SequenceStart(..) => self.sequence(path, depth),
            Event::MappingStart(..) => self.mapping(path, depth),
            Event::Alias(_)
            | Event::Nothing
            | Event::StreamStart
            | Event::StreamEnd
            | Event::DocumentStart(_)
            | Event::DocumentEnd
            | Event::SequenceEnd
            | Event::MappingEnd => Ok(Value::Null),
        }
    }

    fn sequence(&mut self, path: &str, depth: usize) -> Result<Value, Broken> {
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

    fn mapping(&mut self, path: &str, depth: usize) -> Result<Value, Broken> {
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
                    return Err(Broken::because(Some(mark), "a key must be a word", "write `key: value`"));
                }
            };
            let here = below(path, &key);
            let first = self.places.keys.get(&here).copied();
            let (event, at) = self.next()?;
            if let Some(first) = first {
                let message = format!("the key stands here twice; the first is in line {}", first.line);
                self.fault(Some(mark), &here, message, Some("keep one of the two"));
                // Read to its end, but kept apart: the first one counts for what follows.
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

    /// A plain word may be a number or a truth value, as YAML has it; anything quoted is text.
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

    /// Puts in what `${NAME}` stands for; `$${` is a literal `${`.
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
                self.fault(
                    Some(mark),
                    path,
                    "`${` without `}`".to_owned(),
                    Some("write `${NAME}`, or `$${` for the two characters themselves"),
                );
                return out;
            };
            self.places.substituted.insert(path.to_owned());
            out.push_str(&self.variable(name, path, mark));
            rest = after;
        }
        out.push_str(rest);
        out
    }

    fn variable(&mut self, name: &str, path: &str, mark: Mark) -> String {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            let message = format!("`${{{name}}}` names no variable");
            self.fault(Some(mark), path, message, Some("a name is letters, digits and `_`"));
            return UNSET.to_owned();
        }
        (self.env)(name).unwrap_or_else(|| {
            let message = format!("the environment variable {name} is not set");
            let hint = format!("set {name}, or write `$${{{name}}}` if the text itself is meant");
            self.fault(Some(mark), path, message, Some(&hint));
            UNSET.to_owned()
        })
    }

    fn fault(&mut self, mark: Option<Mark>, path: &str, message: String, hint: Option<&str>) {
        let hint = hint.map(ToOwned::to_owned);
        self.places.spoiled.insert(path.to_owned());
        self.faults.push(Fault { mark, key: path.to_owned(), message, hint });
    }
}

/// Stands in for a variable that is not set, so that the rest of the file can be judged.
const UNSET: &str = "unset";
