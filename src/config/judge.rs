//! Turns the pieces of a file into checked values, and collects every fault on the way.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_yaml::{Mapping, Value};

use super::document::{Places, below};
use super::finding::{Fault, Warning};
use super::mirror::{Count, Given, Piece, Section};

/// For how many wrong words of a file the right one is guessed.
const MOST_GUESSES: usize = 100;

/// A fault was found, and it has been reported. Only [`Judge`] makes one, so a value cannot be
/// refused without a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reported(());

/// A checked value, unless a fault in it was reported.
pub(super) type Judged<T> = Result<T, Reported>;

/// Builds a struct of judged values: `all!(Limits { bodies: judge.bytes(…), … })`. Every field is
/// judged, so that all faults are reported, before the first fault ends the whole. A field without
/// an expression is a variable of that name.
macro_rules! all {
    ($($name:ident)::+ { $($field:ident $(: $value:expr)?),* $(,)? }) => {{
        $($(let $field = $value;)?)*
        $crate::config::judge::Judged::Ok($($name)::+ { $($field: $field?,)* })
    }};
}
pub(super) use all;

/// Judges one file. A fault is noted, so that the caller goes on to the next value.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    pub(super) places: Places,
    pub(super) faults: Vec<Fault>,
    pub(super) warnings: Vec<Warning>,
    /// The directory of relative paths.
    pub(super) base: &'a Path,
    /// Whether no file but the configuration is read.
    pub(super) offline: bool,
    /// For how many more wrong words the right one is guessed.
    guesses: usize,
}

impl<'a> Judge<'a> {
    /// Judges the file whose values have these `places`. `faults` were found before, and relative paths start
    /// at `base`.
    pub(super) const fn new(places: Places, faults: Vec<Fault>, base: &'a Path, offline: bool) -> Self {
        Self { places, faults, warnings: Vec::new(), base, offline, guesses: MOST_GUESSES }
    }

    /// The known word that is most like `word`, which is wrong. `None` if none is similar, or after
    /// [`MOST_GUESSES`] wrong words: a guess takes far longer than any other fault.
    pub(super) fn guess<'k>(&mut self, word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
        self.guesses = self.guesses.checked_sub(1)?;
        nearest(word, known)
    }

    /// Reports a fault at the value of `path`. The message must not repeat a value that may come
    /// from the environment; [`Judge::refuse`] is for messages that do.
    pub(super) fn fault(&mut self, path: &str, message: impl fmt::Display, hint: &str) -> Reported {
        if !self.places.is_spoiled(path) {
            self.faults.push(Fault::new(self.places.value(path), path, message, hint));
        }
        Reported(())
    }

    /// Reports that the value of `path` is not valid. If it came from the environment, the error is
    /// not shown: it may repeat a secret.
    pub(super) fn refuse(&mut self, path: &str, error: impl fmt::Display, hint: &str) -> Reported {
        if self.places.is_from_environment(path) {
            self.fault(path, "the value from the environment is not valid (it is not shown)", hint)
        } else {
            self.fault(path, error, hint)
        }
    }

    /// Notes what works but is probably a mistake.
    pub(super) fn warn(&mut self, path: &str, message: impl fmt::Display, hint: &str) {
        self.warnings.push(Warning(Fault::new(self.places.value(path), path, message, hint)));
    }

    /// The line of a path, for messages about another; `None` if the path is not in the file.
    pub(super) fn line(&self, path: &str) -> Option<usize> {
        self.places.value(path).map(|mark| mark.line)
    }

    /// Opens the section at `path`. Unknown keys are faults, each with the nearest known key.
    pub(super) fn open<T: Section>(&mut self, path: &str, value: Value) -> Judged<T> {
        let Value::Mapping(mut map) = value else {
            return Err(self.fault(path, "keys and values are expected here", &known_here::<T>()));
        };
        let section = T::take(path, &mut map);
        for key in map.keys().filter_map(Value::as_str) {
            let here = below(path, key);
            let hint = match self.guess(key, T::KEYS.iter().copied()) {
                Some(near) => format!("do you mean `{near}`?"),
                None => known_here::<T>(),
            };
            self.faults.push(Fault::new(self.places.key(&here), &here, "unknown key", &hint));
        }
        Ok(section)
    }

    /// Opens the section of a piece. If it is missing, all its keys are.
    pub(super) fn section<T: Section>(&mut self, piece: Piece<Value>) -> Judged<T> {
        let path = piece.path.clone();
        match self.get(piece, &known_here::<T>())? {
            Some(value) => self.open(&path, value),
            None => Ok(T::take(&path, &mut Mapping::new())),
        }
    }

    /// Judges a section that must be there.
    pub(super) fn need_section<T: Section>(&mut self, piece: Piece<Value>, hint: &str) -> Judged<T> {
        let path = piece.path.clone();
        let value = self.need(piece, hint)?;
        self.open(&path, value)
    }

    /// Judges a section by `judge`; `None` if it is missing.
    pub(super) fn optional<S: Section, T>(
        &mut self,
        piece: Piece<Value>,
        judge: impl FnOnce(&mut Self, S) -> Judged<T>,
    ) -> Judged<Option<T>> {
        if !piece.is_given() {
            return Ok(None);
        }
        let section = self.section(piece)?;
        judge(self, section).map(Some)
    }

    /// The value of a piece; `None` if it is missing.
    pub(super) fn get<T>(&mut self, piece: Piece<T>, hint: &str) -> Judged<Option<T>> {
        match piece.given {
            Given::Missing => Ok(None),
            Given::Is(it) => Ok(Some(it)),
            Given::Empty => Err(self.fault(&piece.path, "the key has no value", hint)),
            Given::Wrong(error) => Err(self.refuse(&piece.path, error, hint)),
        }
    }

    /// The value of a piece that must be there.
    pub(super) fn need<T>(&mut self, piece: Piece<T>, hint: &str) -> Judged<T> {
        let path = piece.path.clone();
        self.get(piece, hint)?.ok_or_else(|| {
            let (parent, key) = path.rsplit_once('.').unwrap_or(("", &path));
            self.fault(parent, format_args!("`{key}` is missing"), hint)
        })
    }

    /// Parses the text of a piece; `None` if it is missing.
    pub(super) fn text<T, E: fmt::Display>(
        &mut self,
        piece: Piece<String>,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Judged<Option<T>> {
        let path = piece.path.clone();
        let text = self.get(piece, hint)?;
        text.map(|text| parse(&text)).transpose().map_err(|error| self.refuse(&path, error, hint))
    }

    /// Parses the text of a piece that must be there.
    pub(super) fn need_text<T, E: fmt::Display>(
        &mut self,
        piece: Piece<String>,
        hint: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Judged<T> {
        let path = piece.path.clone();
        let text = self.need(piece, hint)?;
        parse(&text).map_err(|error| self.refuse(&path, error, hint))
    }

    /// The items of a list that must be there; `empty` is the fault of a list without any.
    pub(super) fn items<T: DeserializeOwned>(
        &mut self,
        piece: Piece<Vec<Value>>,
        empty: &str,
        hint: &str,
    ) -> Judged<Vec<Piece<T>>> {
        let path = piece.path.clone();
        let values = self.need(piece, hint)?;
        if values.is_empty() { Err(self.fault(&path, empty, hint)) } else { Ok(Piece::items(&path, values)) }
    }

    /// Judges each item by `judge`; two with the same `key` are a fault. `noun` says what they are.
    pub(super) fn each<P, T, K: Ord>(
        &mut self,
        items: Vec<Piece<P>>,
        noun: &str,
        key: impl Fn(&T) -> K,
        mut judge: impl FnMut(&mut Self, Piece<P>) -> Judged<T>,
    ) -> Judged<Vec<T>> {
        let (mut found, mut keys, mut outcome) = (Vec::new(), BTreeSet::new(), Ok(()));
        for piece in items {
            let path = piece.path.clone();
            match judge(self, piece) {
                Ok(it) if !keys.insert(key(&it)) => {
                    let message = format!("this {noun} is named twice");
                    outcome = Err(self.fault(&path, message, &format!("name each {noun} once")));
                }
                Ok(it) => found.push(it),
                Err(reported) => outcome = Err(reported),
            }
        }
        outcome.map(|()| found)
    }

    pub(super) fn flag(&mut self, piece: Piece<bool>, default: bool) -> Judged<bool> {
        Ok(self.get(piece, "write `true` or `false`")?.unwrap_or(default))
    }

    /// One of a few words; `None` if the key is missing.
    pub(super) fn choice<T: Copy, const N: usize>(
        &mut self,
        piece: Piece<String>,
        all: [T; N],
        word: impl Fn(T) -> &'static str,
    ) -> Judged<Option<T>> {
        let hint = format!("write one of: {}", all.map(&word).join(", "));
        self.text(piece, &hint, |text| {
            all.into_iter().find(|it| word(*it) == text).ok_or_else(|| format!("unknown word {text:?}"))
        })
    }

    /// A duration within `range`.
    pub(super) fn duration(
        &mut self,
        piece: Piece<String>,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Judged<Duration> {
        let show = humantime::format_duration;
        let hint = format!(
            "write a number and a unit (`500ms`, `30s`, `5m`, `1h`, `7d`), from {} to {}",
            show(*range.start()),
            show(*range.end())
        );
        let parsed = self.text(piece, &hint, |text| {
            let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
            let fits = range.contains(&duration);
            if fits { Ok(duration) } else { Err(format!("{} is out of range", show(duration))) }
        });
        Ok(parsed?.unwrap_or(default))
    }

    /// A duration of whole seconds, in seconds.
    pub(super) fn seconds(
        &mut self,
        piece: Piece<String>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Judged<u64> {
        let path = piece.path.clone();
        let (least, most) = (Duration::from_secs(*range.start()), Duration::from_secs(*range.end()));
        let duration = self.duration(piece, least..=most, Duration::from_secs(default))?;
        if duration.subsec_nanos() != 0 {
            return Err(self.refuse(&path, "a fraction of a second", "write whole seconds"));
        }
        Ok(duration.as_secs())
    }

    /// A whole number within `range`.
    pub(super) fn count<T: TryFrom<u64> + PartialOrd + fmt::Display>(
        &mut self,
        piece: Piece<Count>,
        range: RangeInclusive<T>,
        default: T,
    ) -> Judged<T> {
        let path = piece.path.clone();
        let hint = format!("write a whole number from {} to {}", range.start(), range.end());
        let Some(Count(number)) = self.get(piece, &hint)? else { return Ok(default) };
        let fitting = T::try_from(number).ok().filter(|it| range.contains(it));
        fitting.ok_or_else(|| self.refuse(&path, format_args!("{number} is out of range"), &hint))
    }

    /// A number of bytes (`65536`, `64 KiB`, `1 MiB`) within `range`.
    pub(super) fn bytes(
        &mut self,
        piece: Piece<Value>,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> Judged<u64> {
        let path = piece.path.clone();
        let most = *range.end();
        let most = if most < 1 << 20 { format!("{} KiB", most >> 10) } else { format!("{} MiB", most >> 20) };
        let hint = format!("write a number of bytes, or `64 KiB`, `1 MiB`; at most {most}");
        let Some(value) = self.get(piece, &hint)? else { return Ok(default) };
        let number = value.as_u64().or_else(|| value.as_str().and_then(parse_bytes));
        let fitting = number.filter(|it| range.contains(it));
        fitting.ok_or_else(|| self.fault(&path, "not a number of bytes that is allowed here", &hint))
    }

    /// One line of at most `longest` bytes; `None` if it is missing.
    pub(super) fn one_line(
        &mut self,
        piece: Piece<String>,
        longest: usize,
        is_good: impl Fn(&str) -> bool,
        hint: &str,
    ) -> Judged<Option<String>> {
        let hint = format!("write {hint}: one line of at most {longest} bytes");
        self.text(piece, &hint, |text| {
            let fits = text.len() <= longest && !text.chars().any(char::is_control) && is_good(text);
            if fits { Ok(text.to_owned()) } else { Err("this text cannot be used here") }
        })
    }

    /// A file's path; `None` if it is missing. A relative path starts at the configuration's
    /// directory.
    pub(super) fn file(&mut self, piece: Piece<String>) -> Judged<Option<PathBuf>> {
        let base = self.base;
        self.text(piece, "write the path of a file", |text| file_in(base, text))
    }

    /// The path of a file that must be named.
    pub(super) fn need_file(&mut self, piece: Piece<String>, hint: &str) -> Judged<PathBuf> {
        let base = self.base;
        self.need_text(piece, hint, |text| file_in(base, text))
    }
}

fn known_here<T: Section>() -> String {
    format!("known here: {}", T::KEYS.join(", "))
}

fn file_in(base: &Path, text: &str) -> Result<PathBuf, &'static str> {
    if text.is_empty() { Err("the path is empty") } else { Ok(base.join(text)) }
}

fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let factor = match unit.trim_start() {
        "" | "B" => 1,
        "KiB" => 1024,
        "MiB" => 1024 * 1024,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The known word that is most like `word`, if one is similar. Only short words are compared, and only
/// with the first known ones, so that one guess takes a bounded time.
fn nearest<'k>(word: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    /// How many letters a word has for each slip that is forgiven.
    const LETTERS_PER_SLIP: usize = 3;
    /// The longest word that is compared, in bytes, and with how many others.
    const LONGEST: usize = 64;
    const COMPARED: usize = 200;
    let is_short = |it: &str| it.len() <= LONGEST;
    let allowed = word.chars().count().div_ceil(LETTERS_PER_SLIP);
    known
        .filter(|it| is_short(word) && is_short(it))
        .take(COMPARED)
        .map(|it| (strsim::damerau_levenshtein(word, it), it))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, it)| it)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::cmp::Ordering;

    use super::*;

    /// A number that counts how often it is compared.
    struct Counted<'a>(u64, &'a Cell<usize>);

    impl Ord for Counted<'_> {
        fn cmp(&self, other: &Self) -> Ordering {
            self.1.set(self.1.get().saturating_add(1));
            self.0.cmp(&other.0)
        }
    }

    impl PartialOrd for Counted<'_> {
        fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
            Some(self.cmp(other))
        }
    }

    impl PartialEq for Counted<'_> {
        fn eq(&self, other: &Self) -> bool {
            self.cmp(other).is_eq()
        }
    }

    impl Eq for Counted<'_> {}

    /// Each was compared with all before it: 32,000 trusted proxies took 22 s.
    #[test]
    fn a_long_list_is_searched_for_equals_with_few_comparisons() {
        let compared = Cell::new(0);
        let mut judge = Judge::new(Places::default(), Vec::new(), Path::new(""), false);
        let items = Piece::items("list", (0..1000_u64).chain([500]).map(Value::from).collect());
        let judged = judge.each(
            items,
            "number",
            |it| Counted(*it, &compared),
            |judge, it: Piece<Count>| judge.count(it, 0..=u64::MAX, 0),
        );
        assert!(judged.is_err());
        let told: Vec<_> = judge.faults.iter().map(|it| (it.key.as_str(), it.message.as_str())).collect();
        assert_eq!(told, [("list[1000]", "this number is named twice")]);
        assert!(compared.get() < 50_000, "{} comparisons", compared.get());
    }
}
