//! Weaves all mutants of a list into one copy of the sources, so that one build serves them all.
//!
//! `weave LIST OMITTED FROM TO` reads the mutants as `cargo mutants --list --json` writes them, the files they are
//! in below FROM, and writes the woven files below TO. A mutant's number is its place in the list, from 1. Each
//! place that a mutant changes becomes a choice: `if crate::mutants::on(7) { what the mutant says } else { what the
//! source says }`. Only one is on at a time, so what a mutant changes is woven no further. OMITTED has a line for
//! each number that is not to be woven, and a line `const NAME` for each function that must stay `const`.
//!
//! What became of each mutant is printed as JSON, with the bytes that it has in the woven file: an error of the
//! compiler there is the mutant's.

mod places;
mod weaving;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::{env, fs};

use serde_json::{Value, json};

/// A failure ends the weaving; nobody is to go on with half of it.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [list, omitted, from, to] = arguments.as_slice() else {
        return Err("usage: weave LIST OMITTED FROM TO".into());
    };
    let list: Vec<Value> = serde_json::from_str(&fs::read_to_string(list)?)?;
    let omitted = Omitted::read(&fs::read_to_string(omitted)?)?;
    let mut of_file: BTreeMap<&str, Vec<(usize, &Value)>> = BTreeMap::new();
    for (index, mutant) in list.iter().enumerate() {
        let file = mutant["file"].as_str().ok_or("a mutant without a file")?;
        of_file.entry(file).or_default().push((index + 1, mutant));
    }
    let mut report = Vec::new();
    for (file, mutants) in of_file {
        let source = fs::read_to_string(Path::new(from).join(file))?;
        let places = places::find(&source, &mutants, &omitted).map_err(|error| format!("{file}: {error}"))?;
        let woven = weaving::weave(&source, &places.found);
        write_if_new(&Path::new(to).join(file), &woven.text)?;
        for (number, why) in places.left_out {
            report.push(json!({ "number": number, "file": file, "left_out": why }));
        }
        for region in woven.regions {
            report.push(json!({
                "number": region.number, "file": file, "own": [region.own.start, region.own.end],
                "place": [region.place.start, region.place.end],
            }));
        }
    }
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}

/// What is not to be woven.
struct Omitted {
    numbers: BTreeSet<usize>,
    constant: BTreeSet<String>,
}

impl Omitted {
    fn read(text: &str) -> Outcome<Self> {
        let mut omitted = Self { numbers: BTreeSet::new(), constant: BTreeSet::new() };
        for line in text.lines() {
            match line.strip_prefix("const ") {
                Some(name) => drop(omitted.constant.insert(name.to_owned())),
                None => drop(omitted.numbers.insert(line.parse()?)),
            }
        }
        Ok(omitted)
    }
}

/// A file that did not change keeps its time, by which cargo knows what to build.
fn write_if_new(path: &Path, text: &str) -> Outcome<()> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    Ok(fs::write(path, text)?)
}
