//! No circles between the files of one module: the rule of the layers, inside each layer.
//!
//! The children of a module, each with all files below it, are compared with each other. If one names
//! another, there is an edge. A child may name its parent, and a parent its children: a parent and
//! its children are one unit. A name that the parent only imports leads to where it is defined.

use std::collections::{BTreeMap, BTreeSet};

use super::{code_lines, sources};

/// A module by its names below the crate: `store::sqlite` is `["store", "sqlite"]`.
type Module = Vec<String>;

/// A path as it is written, and the name under which it is imported.
type Written = (Vec<String>, String);

#[test]
fn files_of_one_module_name_each_other_without_a_circle() {
    let found = circles(&sources());
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// The rule itself is tested: it must see each way in which a file names another.
#[test]
fn the_rule_sees_a_circle_however_it_is_written() {
    let room = |a: &str, b: &str| {
        let parent = "mod a;\nmod b;\npub use b::{Beta as Renamed, c::Gamma};";
        let files =
            [("room.rs", parent), ("room/a.rs", a), ("room/b.rs", b), ("room/b/c.rs", "pub struct Gamma;")];
        circles(&files.map(|(path, text)| (path.to_owned(), text.to_owned()))).len()
    };
    let from_b = "use super::a::Alpha;";
    assert_eq!(room("use super::b::Beta;", from_b), 1, "a sibling");
    assert_eq!(room("use crate::room::{\n    b::{self, Beta},\n};", from_b), 1, "a nested list");
    assert_eq!(room("fn f() { super::b::c::g() }", from_b), 1, "a path in an expression, to a file below");
    assert_eq!(room("use super::Renamed;", from_b), 1, "a name that the parent exports again");
    assert_eq!(room("use super::Gamma;", from_b), 1, "and one from a file below");
    assert_eq!(room("use super::b::Beta;", "use super::Parent;"), 0, "one way only");
    assert_eq!(room("use super::Parent; // super::b", from_b), 0, "the parent is no sibling");
    assert_eq!(room("#[cfg(test)]\nmod tests { use super::super::b::Beta; }", from_b), 0, "a unit test");
}

/// Each circle among the children of a module, as a sentence.
fn circles(files: &[(String, String)]) -> Vec<String> {
    let files: BTreeMap<Module, Vec<Written>> = files
        .iter()
        .filter(|(path, _)| !["lib.rs", "main.rs"].contains(&path.as_str()))
        .map(|(path, text)| (module_of(path), written(&text_without_comments(text))))
        .collect();
    let mut edges: BTreeMap<Module, BTreeMap<&str, BTreeSet<&str>>> = BTreeMap::new();
    let targets: Vec<(&Module, Module)> = files
        .iter()
        .flat_map(|(module, paths)| paths.iter().map(move |(path, _)| (module, path)))
        .filter_map(|(module, path)| Some((module, resolve(&files, module, path, 0)?)))
        .collect();
    for (from, to) in &targets {
        let shared = from.iter().zip(to).take_while(|(a, b)| a == b).count();
        if let (1.., Some(a), Some(b)) = (shared, from.get(shared), to.get(shared)) {
            edges.entry(from[..shared].to_vec()).or_default().entry(a).or_default().insert(b);
        }
    }
    edges.iter().filter_map(|(parent, edges)| circle(edges).map(|it| (parent, it))).map(sentence).collect()
}

fn sentence((parent, circle): (&Module, Vec<&str>)) -> String {
    format!("in `{}`: {}", parent.join("::"), circle.join(" → "))
}

/// One circle of the graph, with its first name again at the end.
fn circle<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    fn follow<'a>(
        edges: &BTreeMap<&'a str, BTreeSet<&'a str>>,
        way: &mut Vec<&'a str>,
        done: &mut BTreeSet<&'a str>,
    ) -> Option<Vec<&'a str>> {
        let at = *way.last()?;
        for &next in edges.get(at).into_iter().flatten() {
            if let Some(start) = way.iter().position(|it| *it == next) {
                return Some(way[start..].iter().copied().chain([next]).collect());
            }
            if done.insert(next) {
                way.push(next);
                if let Some(found) = follow(edges, way, done) {
                    return Some(found);
                }
                way.pop();
            }
        }
        None
    }
    let mut done = BTreeSet::new();
    edges.keys().find_map(|&start| done.insert(start).then(|| follow(edges, &mut vec![start], &mut done))?)
}

fn module_of(path: &str) -> Module {
    path.trim_end_matches(".rs").split('/').map(str::to_owned).collect()
}

fn text_without_comments(text: &str) -> String {
    code_lines(text).map(|(_, line)| line).collect::<Vec<_>>().join("\n")
}

/// The file that defines what `path` names in `from`; nothing for another crate.
fn resolve(
    files: &BTreeMap<Module, Vec<Written>>,
    from: &Module,
    path: &[String],
    depth: usize,
) -> Option<Module> {
    let mut at = from.clone();
    let mut rest = path;
    match path.first()?.as_str() {
        "crate" => (at, rest) = (Module::new(), &path[1..]),
        "self" => rest = &path[1..],
        "super" => {
            while let Some((first, after)) = rest.split_first().filter(|(first, _)| *first == "super") {
                drop((at.pop(), first));
                rest = after;
            }
        }
        child => drop(files.get(&below(&at, child))?),
    }
    for (index, name) in rest.iter().enumerate().filter(|(_, name)| *name != "self") {
        let child = below(&at, name);
        if files.contains_key(&child) {
            at = child;
            continue;
        }
        let import = files.get(&at).and_then(|it| it.iter().find(|(_, imported)| imported == name));
        let Some((path, _)) = import.filter(|_| depth < 8) else { break };
        let whole: Vec<String> = path.iter().chain(&rest[index + 1..]).cloned().collect();
        return resolve(files, &at, &whole, depth + 1);
    }
    Some(at)
}

fn below(module: &Module, name: &str) -> Module {
    module.iter().cloned().chain([name.to_owned()]).collect()
}

/// Every path of a `use`, and every other path that starts with `crate`, `self` or `super`.
fn written(text: &str) -> Vec<Written> {
    let tokens = tokens(text);
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        let is_path = ["crate", "self", "super"].contains(&token.as_str())
            && tokens.get(at + 1).is_some_and(|it| it == "::");
        if token == "use" {
            at = tree(&tokens, at + 1, Vec::new(), &mut found);
        } else if is_path {
            let mut paths = Vec::new();
            at = tree(&tokens, at, Vec::new(), &mut paths);
            // Not an import: it has no name of its own here.
            found.extend(paths.into_iter().map(|(path, _)| (path, String::new())));
        } else {
            at += 1;
        }
    }
    found
}

/// Reads the tree of paths at `at`; the place after it.
fn tree(tokens: &[String], mut at: usize, mut path: Vec<String>, found: &mut Vec<Written>) -> usize {
    let token = |at: usize| tokens.get(at).map_or("", String::as_str);
    loop {
        if token(at) == "{" {
            at += 1;
            while !["}", ""].contains(&token(at)) {
                at = if token(at) == "," { at + 1 } else { tree(tokens, at, path.clone(), found) };
            }
            return at + 1;
        }
        let is_name = token(at).starts_with(|it: char| it.is_alphanumeric() || it == '_');
        if is_name {
            path.push(token(at).to_owned());
            at += 1;
        }
        if is_name && token(at) == "::" {
            at += 1;
            continue;
        }
        let mut name = path.iter().rfind(|it| *it != "self").cloned().unwrap_or_default();
        if token(at) == "as" {
            name = token(at + 1).to_owned();
            at += 2;
        } else if !is_name {
            // A glob or what follows `::<`.
            at += 1;
        }
        found.push((path, name));
        return at;
    }
}

/// Names, `::`, and every other character by itself.
fn tokens(text: &str) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    let mut in_name = false;
    for character in text.chars() {
        let is_name = character.is_alphanumeric() || character == '_';
        match tokens.last_mut() {
            Some(last) if (in_name && is_name) || (last == ":" && character == ':') => last.push(character),
            Some(_) | None if character.is_whitespace() => {}
            Some(_) | None => tokens.push(character.to_string()),
        }
        in_name = is_name;
    }
    tokens
}
