//! The house rules that the compiler does not hold: who may name whom, what is pure, how files are
//! laid out. One table; a new edge is a reviewed change to it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

mod circles;

/// The modules from the bottom up: what each may name beside itself, and whether it is pure.
const LAYERS: &[(&str, &[&str], bool)] = &[
    ("vocabulary", &[], true),
    ("guide", &[], true),
    ("letter_case", &[], true),
    ("nano", &[], true),
    ("money", &["nano"], true),
    ("usage", &["letter_case", "nano"], true),
    ("routes", &["letter_case", "money", "nano", "usage"], true),
    ("x402", &["money", "nano", "routes"], true),
    ("payment", &["money", "nano", "routes", "x402"], true),
    ("sweep", &["nano"], true),
    ("clock", &["nano"], false),
    ("entropy", &[], false),
    ("shutdown", &[], false),
    ("outbound", &[], false),
    ("sync", &[], false),
    ("repeats", &["clock"], false),
    ("rates", &["clock", "money", "nano", "outbound", "repeats", "routes", "shutdown", "usage"], false),
    ("vault", &["entropy", "nano", "payment"], false),
    ("ledger", &["clock", "entropy", "nano", "outbound", "payment", "repeats"], false),
    (
        "store",
        &[
            "clock", "money", "nano", "outbound", "payment", "repeats", "routes", "shutdown", "sweep",
            "sync", "vault",
        ],
        false,
    ),
    ("metrics", &["money", "nano", "payment"], false),
    ("access_log", &["clock", "metrics", "repeats"], false),
    ("traces", &["access_log", "metrics", "outbound", "repeats"], false),
    (
        "cashier",
        &[
            "clock", "entropy", "ledger", "metrics", "money", "nano", "payment", "repeats", "routes",
            "shutdown", "store", "sync", "x402",
        ],
        false,
    ),
    ("admission", &["cashier", "clock", "ledger", "metrics", "nano", "routes", "store", "usage"], false),
    ("sweeper", &["clock", "ledger", "nano", "shutdown", "store", "sweep", "vault"], false),
    ("refunder", &["clock", "ledger", "nano", "shutdown", "store", "sweep", "sweeper", "vault"], false),
    ("reconcile", &["ledger", "nano", "payment", "store"], false),
    ("listen", &["cashier", "clock", "metrics", "shutdown", "vault"], false),
    (
        "config",
        &["access_log", "ledger", "listen", "money", "nano", "payment", "rates", "routes", "store", "usage"],
        false,
    ),
    (
        "acme",
        &[
            "clock", "config", "entropy", "listen", "metrics", "nano", "outbound", "repeats", "shutdown",
            "vault",
        ],
        false,
    ),
    (
        "gateway",
        &[
            "access_log",
            "admission",
            "cashier",
            "clock",
            "config",
            "ledger",
            "listen",
            "metrics",
            "money",
            "nano",
            "payment",
            "rates",
            "repeats",
            "routes",
            "shutdown",
            "store",
            "sync",
            "traces",
            "x402",
            "usage",
        ],
        false,
    ),
    (
        "facilitator",
        &[
            "cashier", "ledger", "listen", "metrics", "money", "nano", "payment", "rates", "routes", "store",
            "vault", "x402",
        ],
        false,
    ),
    (
        "admin",
        &[
            "cashier", "clock", "config", "gateway", "ledger", "metrics", "money", "nano", "payment",
            "rates", "repeats", "routes", "shutdown", "store", "vault",
        ],
        false,
    ),
    ("wallet", &["clock", "ledger", "nano", "outbound", "payment", "vault", "x402"], false),
    ("devnet", &["clock", "entropy", "listen", "nano", "shutdown"], false),
    (
        "assemble",
        &[
            "access_log",
            "acme",
            "admin",
            "cashier",
            "clock",
            "config",
            "entropy",
            "facilitator",
            "gateway",
            "ledger",
            "listen",
            "metrics",
            "nano",
            "payment",
            "rates",
            "reconcile",
            "refunder",
            "routes",
            "shutdown",
            "store",
            "sweep",
            "sweeper",
            "traces",
            "vault",
            "x402",
        ],
        false,
    ),
    (
        "cli",
        &[
            "acme",
            "admin",
            "assemble",
            "clock",
            "config",
            "devnet",
            "gateway",
            "ledger",
            "listen",
            "money",
            "nano",
            "outbound",
            "payment",
            "rates",
            "reconcile",
            "refunder",
            "routes",
            "shutdown",
            "store",
            "sweep",
            "sweeper",
            "usage",
            "vault",
            "wallet",
            "x402",
        ],
        false,
    ),
];

/// What a pure module may not say.
const IMPURE: &[&str] = &[
    "async ",
    ".await",
    "tokio",
    "reqwest",
    "pingora",
    "prometheus",
    "tracing::",
    "std::env",
    "std::fs",
    "std::io",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "Mutex",
    "RwLock",
    "Atomic",
    "getrandom",
    "rand::",
    "HashMap",
    "HashSet",
    "crate::entropy",
    "crate::clock",
];

/// Names that say nothing of what is in a file.
const EMPTY_NAMES: &[&str] =
    &["utils", "util", "common", "types", "helpers", "models", "prelude", "manager", "misc"];

#[test]
fn layers_point_down_and_the_pure_part_is_pure() {
    let layers: BTreeMap<_, _> = LAYERS.iter().map(|(name, below, pure)| (*name, (*below, *pure))).collect();
    let (mut faults, mut seen) = (Vec::new(), BTreeSet::new());
    for (path, text) in sources() {
        let module = path.split(['/', '.']).next().unwrap().to_owned();
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let Some((below, pure)) = layers.get(module.as_str()) else {
            faults.push(format!("{path}: `{module}` is not in LAYERS"));
            continue;
        };
        seen.insert(module.clone());
        for (number, line) in code_lines(&text) {
            for name in named(line).filter(|name| *name != module && !below.contains(name)) {
                faults.push(format!("{path}:{number}: `{module}` may not name `{name}`"));
            }
            for word in IMPURE.iter().filter(|word| *pure && line.contains(**word)) {
                faults.push(format!("{path}:{number}: the pure `{module}` says `{}`", word.trim()));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
    let listed: BTreeSet<String> = layers.keys().map(|it| (*it).to_owned()).collect();
    assert_eq!(seen, listed, "a layer without a file");
}

#[test]
fn the_layers_have_no_cycle() {
    for (index, (name, below, _)) in LAYERS.iter().enumerate() {
        for other in *below {
            let lower = LAYERS[..index].iter().any(|(it, _, _)| it == other);
            assert!(lower, "`{name}` names `{other}`, which is not below it");
        }
    }
}

#[test]
fn every_file_says_what_it_is_for_and_is_named_after_it() {
    let mut faults = Vec::new();
    for (path, text) in sources() {
        if !text.starts_with("//! ") {
            faults.push(format!("{path}: no paragraph at its head"));
        }
        let stem = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        if EMPTY_NAMES.contains(&stem) || stem == "mod" {
            faults.push(format!("{path}: a name that says nothing"));
        }
        for (number, line) in text.lines().enumerate() {
            if line.contains("#[allow(") {
                faults.push(format!("{path}:{}: `expect`, with a reason, instead of `allow`", number + 1));
            }
        }
    }
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Whatever is signed elsewhere was not proven to move what it should.
#[test]
fn only_the_vault_signs_blocks() {
    let may = |path: &str| path == "vault.rs" || path == "nano/block.rs" || path.starts_with("devnet");
    let signs = |text: &str| code_lines(text).any(|(_, line)| line.contains(".signed("));
    let others: Vec<_> = sources().into_iter().filter(|(path, text)| !may(path) && signs(text)).collect();
    let others: Vec<_> = others.iter().map(|(path, _)| path).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// The rule itself is tested: it must see what it is to forbid.
#[test]
fn the_rule_sees_what_it_forbids() {
    let names: Vec<_> = named("use crate::store::{Store}; let it = crate::gateway::Gateway;").collect();
    assert_eq!(names, ["store", "gateway"]);
    let lines: Vec<_> =
        code_lines("let a = 1; // crate::x\n#[cfg(test)]\nmod tests { async fn f() {} }").collect();
    assert_eq!(lines, [(1, "let a = 1; ")]);
}

/// Lines with their numbers, without comments and without the tests at a file's end.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .enumerate()
        .map(|(index, line)| (index + 1, line.split("//").next().unwrap()))
        .filter(|(_, line)| !line.trim().is_empty())
}

/// The crate's modules that a line names.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::")
        .skip(1)
        .filter_map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next())
        .filter(|name| !name.is_empty())
}

/// Every source file below `src`, by its path there.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src"));
    let (mut found, mut folders) = (Vec::new(), vec![root.to_path_buf()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let name = path.strip_prefix(root).unwrap().display().to_string();
                found.push((name, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    assert!(found.len() > 40, "the sources were not found");
    found
}
