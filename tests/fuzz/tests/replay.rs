//! Every file of the corpora goes through its target, without a fuzzer.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cpu_time::ThreadTime;
use faregate_fuzz::{TARGETS, config};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder, in order.
fn files(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap_or_else(|why| panic!("{folder}: {why}"));
    let mut files: Vec<_> = entries.map(|it| it.unwrap().path()).collect();
    files.sort();
    files
}

fn replay(name: &str) {
    let (_, run) = TARGETS.iter().find(|(target, _)| *target == name).unwrap();
    let files = files(&format!("corpus/{name}"));
    assert!(files.len() >= 20, "the corpus of {name} is missing");
    let fails = |file: &&PathBuf| {
        let data = std::fs::read(file).unwrap();
        catch_unwind(|| run(&data)).is_err()
    };
    let failed: Vec<_> = files.iter().filter(fails).collect();
    assert!(failed.is_empty(), "{} of {} files fail: {failed:#?}", failed.len(), files.len());
}

macro_rules! replays {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
    };
}

replays! { block config envelope http_head mcp node_answer target token websocket }

#[test]
fn every_target_has_all_its_parts() {
    let known: BTreeSet<_> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(REPLAYED.iter().map(|it| (*it).to_owned()).collect::<BTreeSet<_>>(), known);
    let stems = |folder| -> BTreeSet<String> {
        files(folder).iter().map(|it| it.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
    };
    assert_eq!(stems("fuzz_targets"), known);
    assert_eq!(stems("corpus"), known);
    assert_eq!(stems("dictionaries"), known);
}

/// A text that is four times as long may take four times as long, whatever is repeated in it.
#[test]
fn a_configuration_is_read_in_linear_time() {
    const SHORT: usize = 2 * 1024;
    let mut slow = Vec::new();
    for file in files("corpus/config") {
        let Ok(part) = std::fs::read_to_string(&file) else { continue };
        if part.is_empty() {
            continue;
        }
        let time = |length: usize| {
            let text = part.repeat(length.div_ceil(part.len()));
            let start = ThreadTime::now();
            config::run(text.as_bytes());
            start.elapsed()
        };
        // The time of a short text may be anything; that of a long one shows its growth.
        if time(4 * SHORT) > Duration::from_millis(50) && time(16 * SHORT) > 8 * time(4 * SHORT) {
            slow.push(file);
        }
    }
    assert!(slow.is_empty(), "repeated, these take much longer: {slow:#?}");
}
