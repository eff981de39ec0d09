//! Every file of the corpora goes through its target, without a fuzzer.

use std::collections::BTreeSet;
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use faregate_fuzz::TARGETS;

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

replays! { block config envelope http_head mcp node_answer target token usage websocket }

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
