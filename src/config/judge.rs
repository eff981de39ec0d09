//! Turns pieces of the file into checked values and collects what is wrong with them.

use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_yaml::Value;

use super::document::{Places, below};
use super::finding::{Fault, Warning};
use super::mirror::{Count, Piece, Section, keys};

/// Judges one file. Whatever is wrong is noted and comes back as nothing, so that the caller goes
/// on to the next.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) places: Places,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
    /// Where relative paths start.
    pub(super) base: &'a Path,
}

impl Judge<'_> {
    /// Notes a fault at the value of `path`. The message must repeat nothing that may have come
    /// from the environment; [`Judge::refuse`] is for messages that do.
    pub(super) fn fault(&mut self, path: &str, message: impl fmt::Display, hint: &str) {
        if !self.places.is_spoiled(path) {
            let fault = self.finding(path, message, hint);
            self.faults.push(fault);
        }
    }

    /// Notes that the value of `path` is not good. Where it came from the environment, the error
    /// is kept back: it may repeat a secret.
    pub(super) fn refuse(&mut self, path: &str, error: impl fmt::Display, hint: &str) {
        if self.places.is_from_environment(path) {
            self.fault(path, "what the environment gives here is not good (it is not shown)", hint);
        } else {
            self.fault(path, error, hint);
        }
    }

    /// Notes what works but is hardly meant.
    pub(super) fn warn(&mut self, path: &str, message: impl fmt::Display, hint: &str) {
        let warning = Warning(self.finding(path, message, hint));
        self.warnings.push(warning);
    }

    fn finding(&self, path: &str, message: impl fmt::Display, hint: &str) -> Fault {
        Fault {
            mark: self.places.value(path),
            key: path.to_owned(),
            message: message.to_string(),
            hint: if hint.is_empty() { None } else { Some(hint.to_owned()) },
        }
    }

    /// The line of a path, for messages about another.
    pub(super) fn line(&self, path: &str) -> usize {
        self.places.value(path).map_or(0, |mark| mark.line)
    }

    /// Opens the section at `path`. Keys it does not know are faults, each with the nearest known.
    pub(super) fn open<T: Section>(&mut self, path: &str, value: Value) -> Option<T> {
        let known = keys::<T>();
        let Value::Mapping(mut map) = value else {
            self.fault(
                path,
                "keys and values are expected here",
                &format!("known here: {}", known.join(", ")),
            );
            return None;
        };
        map.retain(|key, _| {
            let key = key.as_str().unwrap_or_default();
            let is_known = known.contains(&key);
            if !is_known {
                self.unknown(path, key, known);
            }
            is_known
        });
        match serde_yaml::from_value(Value::Mapping(map)) {
            Ok(section) => Some(section),
            Err(error) => {
                self.refuse(path, error, "");
                None
            }
        }
    }

    fn unknown(&mut self, path: &str, key: &str, known: &[&str]) {
        let here = below(path, key);
        let hint = match nearest(key, known.iter().copied()) {
            Some(near) => format!("is `{near}` meant?"),
            None => format!("known here: {}", known.join(", ")),
        };
        let mark = self.places.key(&here);
        self.faults.push(Fault { mark, key: here, message: "unknown key".to_owned(), hint: Some(hint) });
    }

    /// Opens the section of a piece; nothing where it is missing or wrong.
    pub(super) fn section<T: Section>(&mut self, path: &str, piece: Piece<Value>) -> Option<T> {
        self.get(path, piece, "").and_then(|value| self.open(path, value))
    }

    /// Opens the section of a piece; one without keys where it is missing.
    pub(super) fn section_or_default<T: Section + Default>(
        &mut self,
        path: &str,
        piece: Piece<Value>,
    ) -> Option<T> {
        if piece.is_given() { self.section(path, piece) } else { Some(T::default()) }
    }

    /// The value of a piece; nothing where it is missing, nothing and a fault where it is wrong.
    pub(super) fn get<T>(&mut self, path: &str, piece: Piece<T>, hint: &str) -> Option<T> {
        match piece {
            Piece::Missing => None,
            Piece::Is(it) => Some(it),
            Piece::Empty => {
                self.fault(path, "the key has no value", hint);
                None
            }
            Piece::Wrong(error) => {
                self.refuse(path, error, hint);
                None
            }
        }
    }

    /// The value of a piece that must be there: `key` in the section at `parent`.
    pub(super) fn need<T>(&mut self, parent: &str, key: &str, piece: Piece<T>, hint: &str) -> Option<T> {
        if !piece.is_given() {
            self.missing(parent, key, hint);
        }
        self.get(&below(parent, key), piece, hint)
    }

    /// Notes that `key` is missing in the section at `parent`.
    pub(super) fn missing(&mut self, parent: &str, key: &str, hint: &str) {
        self.fault(parent, format_args!("`{key}` is missing"), hint);
    }

    /// Reads a text; nothing and a fault where it cannot be.
    pub(super) fn read<T, E: fmt::Display>(
        &mut self,
        path: &str,
        text: &str,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(text) {
            Ok(it) => Some(it),
            Err(error) => {
                self.refuse(path, error, hint);
                None
            }
        }
    }

    /// Reads the text of a piece; nothing where it is missing, nothing and a fault where it is
    /// wrong.
    pub(super) fn text<T, E: fmt::Display>(
        &mut self,
        path: &str,
        piece: Piece<String>,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        let text = self.get(path, piece, hint)?;
        self.read(path, &text, hint, parse)
    }

    /// A duration within `range`; `default` where there is none.
    pub(super) fn duration(
        &mut self,
        path: &str,
        piece: Piece<String>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Option<Duration> {
        if !piece.is_given() {
            return Some(default);
        }
        let hint = "write a number and a unit: `500ms`, `30s`, `5m`, `1h`, `7d`";
        let duration = self.text(path, piece, hint, humantime::parse_duration)?;
        if range.contains(&duration) {
            return Some(duration);
        }
        let show = humantime::format_duration;
        let message = format!("{} is out of range", show(duration));
        self.refuse(path, message, &format!("from {} to {}", show(*range.start()), show(*range.end())));
        None
    }

    /// A duration of whole seconds, in seconds.
    pub(super) fn seconds(
        &mut self,
        path: &str,
        piece: Piece<String>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Option<u64> {
        let (least, most) = (Duration::from_secs(*range.start()), Duration::from_secs(*range.end()));
        let duration = self.duration(path, piece, least..=most, Duration::from_secs(default))?;
        if duration.subsec_nanos() != 0 {
            self.refuse(path, "a fraction of a second", "write whole seconds");
            return None;
        }
        Some(duration.as_secs())
    }

    /// A whole number within `range`; `default` where there is none.
    pub(super) fn count<T: TryFrom<u64> + PartialOrd + fmt::Display>(
        &mut self,
        path: &str,
        piece: Piece<Count>,
        range: RangeInclusive<T>,
        default: T,
    ) -> Option<T> {
        let hint = format!("a whole number from {} to {}", range.start(), range.end());
        if !piece.is_given() {
            return Some(default);
        }
        let Count(number) = self.get(path, piece, &hint)?;
        let fitting = T::try_from(number).ok().filter(|it| range.contains(it));
        if fitting.is_none() {
            self.refuse(path, format!("{number} is out of range"), &hint);
        }
        fitting
    }

    /// A file's path; a relative one starts at the configuration's directory.
    pub(super) fn file(&mut self, path: &str, piece: Piece<String>) -> Option<PathBuf> {
        let text = self.get(path, piece, "the path of a file")?;
        if text.is_empty() {
            self.fault(path, "the path is empty", "the path of a file");
            return None;
        }
        Some(self.base.join(text))
    }
}

/// The known word that is most like `word`, if any is like it.
pub(super) fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    /// One mistake in so many letters is still a slip.
    const LETTERS_PER_SLIP: usize = 3;
    let allowed = word.chars().count().div_ceil(LETTERS_PER_SLIP);
    known
        .map(|it| (strsim::damerau_levenshtein(word, it), it))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, it)| it)
}
