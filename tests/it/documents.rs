//! The documents: links lead somewhere, files that are named exist, configurations that are shown are valid, the
//! program understands the commands, every block of commands is run by a script, and every test that is named exists.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use faregate::config::Config;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The folders whose Markdown files are documents.
const FOLDERS: [&str; 6] = ["", "config", "deploy", "benches", "tests", "src/guide"];

/// What a document says about the block of commands below it: which script runs it.
const RUN_BY_DOCS: &str = "<!-- run by tests/docs/run -->";
const RUN_BY_CI: &str = "<!-- run by .ci/run -->";
const RUN_BY_DEPLOY: &str = "<!-- run by tests/deploy/run -->";
const RUN_BY_MAKE: &str = "<!-- run by make test, in brief -->";

/// The sections that make a file of those that are shown a whole one.
const BASE: [(&str, &str); 5] = [
    ("public_url", "public_url: http://127.0.0.1:8402"),
    ("listen", "listen: { http: 127.0.0.1:8402 }"),
    ("nano", "nano: { nodes: [http://127.0.0.1:7076], pool: { seed_file: pool.seed } }"),
    (
        "upstreams",
        "upstreams: { api: { url: http://127.0.0.1:1 }, gpu: { url: http://127.0.0.1:2 }, tools: { url: http://127.0.0.1:3 } }",
    ),
    ("routes", "routes: [{ match: /**, upstream: api, price: 0.001 XNO }]"),
];

/// One Markdown file.
struct Document {
    /// From the top of the tree.
    path: PathBuf,
    text: String,
}

/// A fenced block: its language, its text, and the line before it.
struct Block<'a> {
    language: &'a str,
    text: String,
    before: &'a str,
}

impl Document {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
        Self { path: path.to_owned(), text }
    }

    fn all() -> Vec<Self> {
        let mut found = Vec::new();
        for folder in FOLDERS {
            for entry in std::fs::read_dir(Path::new(ROOT).join(folder)).unwrap() {
                let name = entry.unwrap().file_name().into_string().unwrap();
                if name.ends_with(".md") {
                    found.push(Self::read(&Path::new(folder).join(name)));
                }
            }
        }
        assert!(found.len() >= 14, "documents are missing: only {} were found", found.len());
        found
    }

    fn is_guide(&self) -> bool {
        self.path.starts_with("src/guide")
    }

    fn blocks(&self) -> Vec<Block<'_>> {
        let (mut blocks, mut before, mut open) = (Vec::new(), "", None::<Block<'_>>);
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), open.take()) {
                (Some(language), None) => open = Some(Block { language, text: String::new(), before }),
                (Some(_), Some(block)) => blocks.push(block),
                (None, Some(block)) => {
                    open = Some(Block { text: block.text + line + "\n", ..block });
                }
                (None, None) => {}
            }
            if !line.trim().is_empty() {
                before = line;
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", self.path.display());
        blocks
    }

    /// The text outside of fenced blocks.
    fn prose(&self) -> String {
        let mut inside = false;
        let is_prose = |line: &&str| {
            let fence = line.trim_start().starts_with("```");
            inside ^= fence;
            !inside && !fence
        };
        self.text.lines().filter(is_prose).collect::<Vec<_>>().join("\n")
    }

    /// What stands between backticks in the prose, on one line.
    fn code_spans(&self) -> Vec<String> {
        let prose = self.prose();
        prose
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|it| it.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    }

    /// Where the links of the prose lead.
    fn links(&self) -> Vec<String> {
        let prose = self.prose();
        let plain: String = prose.split('`').step_by(2).collect::<Vec<_>>().join("code");
        plain.split("](").skip(1).map(|rest| rest.split(')').next().unwrap().to_owned()).collect()
    }

    /// The anchors of the headings, as forges make them.
    fn anchors(&self) -> Vec<String> {
        let (prose, mut seen) = (self.prose(), BTreeMap::<String, u32>::new());
        let headings = prose.lines().filter_map(|line| line.strip_prefix('#'));
        headings
            .map(|heading| {
                let title = heading.trim_start_matches('#').trim().to_lowercase();
                let slug: String = title
                    .chars()
                    .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'))
                    .map(|c| if c == ' ' { '-' } else { c })
                    .collect();
                let count = seen.entry(slug.clone()).and_modify(|it| *it += 1).or_insert(0);
                if *count == 0 { slug } else { format!("{slug}-{count}") }
            })
            .collect()
    }

    /// The command lines of a block: without comments, continued lines joined.
    fn commands(text: &str) -> Vec<String> {
        let joined = text.replace("\\\n", " ");
        let lines = joined.lines().map(|line| line.split(" # ").next().unwrap().trim());
        lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect()
    }
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

#[test]
fn every_link_leads_somewhere() {
    let mut faults = Vec::new();
    for document in Document::all() {
        let folder = document.path.parent().unwrap();
        for link in document.links() {
            if link.starts_with("https://") || link.starts_with("crate::") {
                continue;
            }
            let shown = document.path.display();
            if document.is_guide() {
                // The guides are read in the crate's documentation, too, where a relative link leads nowhere.
                faults.push(format!("{shown}: `{link}`: a guide links to items and to https only"));
                continue;
            }
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, it)| (file, Some(it)));
            let target = if file.is_empty() { document.path.clone() } else { folder.join(file) };
            if !Path::new(ROOT).join(&target).exists() {
                faults.push(format!("{shown}: `{link}`: there is no such file"));
            } else if let Some(anchor) = anchor
                && !Document::read(&target).anchors().iter().any(|it| it == anchor)
            {
                faults.push(format!("{shown}: `{link}`: there is no such heading"));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_file_that_is_named_exists() {
    const TOPS: [&str; 6] = ["src/", "tests/", "config/", "deploy/", "benches/", ".ci/"];
    let mut faults = Vec::new();
    for document in Document::all() {
        for span in document.code_spans() {
            let is_path = TOPS.iter().any(|it| span.starts_with(it)) && !span.contains([' ', '*', '{']);
            if is_path && !Path::new(ROOT).join(&span).exists() {
                faults.push(format!("{}: `{span}` does not exist", document.path.display()));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_configuration_that_is_shown_is_valid() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for document in Document::all() {
        for block in document.blocks().iter().filter(|it| it.language == "yaml") {
            let shown = |key: &str| block.text.lines().any(|line| line.starts_with(&format!("{key}:")));
            let rest = BASE.iter().filter(|(key, _)| !shown(key)).map(|(_, section)| *section);
            let text = rest.chain([block.text.as_str()]).collect::<Vec<_>>().join("\n");
            count += 1;
            if let Err(found) = Config::parse(&text, "shown.yaml", Path::new("/etc/faregate"), |_| None) {
                faults.push(format!("{}:\n{}{found}", document.path.display(), block.text));
            }
        }
    }
    report(&faults);
    assert!(count >= 4, "only {count} configurations are shown");
}

#[test]
fn readme_is_read_in_one_sitting() {
    let lines = Document::read(Path::new("README.md")).text.lines().count();
    assert!(
        lines <= 220,
        "README.md has {lines} lines: move what is for one reader only to the page of that reader"
    );
}

/// Words that nobody uses who writes for readers of any first language.
const DIALECT: [&str; 7] = ["anew", "unsaid", "he", "his", "him", "nothing where", "held against"];

#[test]
fn the_prose_is_plain() {
    let mut faults = Vec::new();
    for document in Document::all() {
        let words: Vec<_> = document.text.split_whitespace().map(str::to_lowercase).collect();
        let plain = words.join(" ").replace(|c: char| !c.is_alphanumeric() && c != '\'', " ");
        for word in DIALECT {
            for (place, _) in plain.match_indices(&format!(" {word} ")) {
                let around: String =
                    plain[..place].chars().rev().take(30).collect::<Vec<_>>().into_iter().rev().collect();
                faults.push(format!("{}: `{word}` after `{}`", document.path.display(), around.trim()));
            }
        }
    }
    report(&faults);
}

/// Whether `text` has a test of this name: the attribute stands right above it, but for other attributes.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let begins = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ").and_then(|it| it.strip_prefix(name)).is_some_and(|it| it.starts_with("()"))
    };
    let is_a_test = |at: usize| {
        let attributes = lines[..at].iter().rev().take_while(|it| it.starts_with("#["));
        attributes.into_iter().any(|it| it.starts_with("#[test]") || it.starts_with("#[tokio::test"))
    };
    lines.iter().enumerate().any(|(at, line)| begins(line) && is_a_test(at))
}

#[test]
fn every_test_that_is_named_exists() {
    let is_name = |it: &str| {
        !it.is_empty() && it.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let (mut faults, mut count) = (Vec::new(), 0);
    for document in Document::all() {
        for span in document.code_spans() {
            let parts: Vec<_> = span.split("::").collect();
            let [first, folders @ .., name] = parts.as_slice() else { continue };
            if !parts.iter().all(|it| is_name(it)) || *first == "crate" {
                continue;
            }
            count += 1;
            let file = [&[*first], folders].concat().join("/") + ".rs";
            let text = std::fs::read_to_string(Path::new(ROOT).join("tests/it").join(&file));
            if !text.is_ok_and(|it| has_test(&it, name)) {
                faults
                    .push(format!("{}: `{span}`: tests/it/{file} has no such test", document.path.display()));
            }
        }
    }
    report(&faults);
    assert!(count >= 100, "only {count} tests are named: the table of attacks is missing");
}

/// A word of a command line as the program may be given it.
fn filled_in(word: &str) -> String {
    let word = word.trim_matches(['\'', '"']);
    match word {
        "URL" => "http://127.0.0.1:1/".to_owned(),
        "HASH" => "00".repeat(32),
        "AMOUNT" => "1 raw".to_owned(),
        "ADDR" => "127.0.0.1:0".to_owned(),
        "N" => "1".to_owned(),
        "SHELL" => "bash".to_owned(),
        _ => word.to_owned(),
    }
}

/// The arguments of a command line, up to where the shell takes over.
fn arguments(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), String::new(), None);
    for c in command.chars().chain([' ']) {
        match quote {
            Some(mark) if c == mark => quote = None,
            Some(_) => word.push(c),
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c.is_whitespace() && !word.is_empty() => words.push(std::mem::take(&mut word)),
            None if c.is_whitespace() => {}
            None => word.push(c),
        }
    }
    words.into_iter().take_while(|it| !["&", "|", ">", ">>", "&&"].contains(&it.as_str())).collect()
}

#[test]
fn the_program_understands_every_command() {
    let (mut faults, mut count) = (Vec::new(), 0);
    for document in Document::all() {
        let mut commands: Vec<String> = Vec::new();
        for block in document.blocks() {
            match block.language {
                "sh" => commands.extend(Document::commands(&block.text)),
                "console" => commands
                    .extend(block.text.lines().filter_map(|it| it.strip_prefix("$ ")).map(str::to_owned)),
                _ => {}
            }
        }
        let spans = document.code_spans();
        commands
            .extend(spans.iter().filter(|it| it.starts_with("payments ")).map(|it| format!("faregate {it}")));
        commands.extend(spans);
        for command in commands {
            let Some(given) = command.strip_prefix("faregate ") else { continue };
            count += 1;
            // With `--help` nothing is done, and nothing may be missing; what is unknown is refused.
            let arguments = arguments(given);
            let mut program = Command::new(env!("CARGO_BIN_EXE_faregate"));
            let output =
                program.args(arguments.iter().map(|it| filled_in(it))).arg("--help").output().unwrap();
            if !output.status.success() {
                let why = String::from_utf8_lossy(&output.stderr).into_owned();
                faults.push(format!("{}: `{command}`: {why}", document.path.display()));
            }
        }
    }
    report(&faults);
    assert!(count >= 20, "only {count} commands were found");
}

#[test]
fn every_target_of_make_that_is_named_exists() {
    let makefile = std::fs::read_to_string(Path::new(ROOT).join("Makefile")).unwrap();
    let mut faults = Vec::new();
    for document in Document::all() {
        let blocks = document.blocks();
        let lines =
            blocks.iter().filter(|it| it.language == "sh").flat_map(|it| Document::commands(&it.text));
        for command in document.code_spans().into_iter().chain(lines) {
            let Some(target) = command.strip_prefix("make ").and_then(|it| it.split(' ').next()) else {
                continue;
            };
            if !makefile.lines().any(|line| line.starts_with(&format!("{target}:"))) {
                faults.push(format!("{}: `{command}`: no such target", document.path.display()));
            }
        }
    }
    report(&faults);
}

/// A command without what may differ where it is run in brief: variables, numbers, and the profile.
fn in_brief(command: &str) -> Vec<String> {
    let is_name = |it: &str| it.bytes().all(|b| b.is_ascii_uppercase() || b == b'_');
    let is_variable = |it: &&str| it.split_once('=').is_some_and(|(name, _)| is_name(name));
    let words = command.split_whitespace().skip_while(is_variable);
    let words = words.filter(|it| !["--release", "--locked", "--profile", "dev"].contains(it));
    words
        .map(|it| if it.bytes().all(|b| b.is_ascii_digit()) { "N".to_owned() } else { it.to_owned() })
        .collect()
}

/// Whether a command runs tests that `make test` runs as well: by the name of a module or the beginning of a test's.
fn is_a_test(command: &str) -> bool {
    let command = in_brief(command).join(" ");
    let Some(rest) = command.strip_prefix("cargo test --test it -- ") else { return false };
    let filter = rest.split(' ').next().unwrap();
    let (folder, name) = filter.rsplit_once("::").unwrap_or(("", filter));
    let named = |text: &str| text.contains(&format!("fn {name}")) || text.contains(&format!("mod {name};"));
    let files = ["main.rs".to_owned(), format!("{folder}.rs"), format!("{name}.rs")];
    let texts =
        files.iter().filter_map(|it| std::fs::read_to_string(Path::new(ROOT).join("tests/it").join(it)).ok());
    texts.into_iter().any(|it| named(&it))
}

#[test]
fn every_block_of_commands_is_run() {
    let script = |path: &str| std::fs::read_to_string(Path::new(ROOT).join(path)).unwrap();
    let (docs, ci, deploy) = (script("tests/docs/run"), script(".ci/run"), script("tests/deploy/run"));
    let run_in_ci: Vec<_> = Document::commands(&ci).iter().map(|it| in_brief(it)).collect();
    let mut faults = Vec::new();
    for document in Document::all() {
        let path = document.path.display().to_string();
        for block in document.blocks().iter().filter(|it| it.language == "sh") {
            match block.before {
                RUN_BY_DOCS if docs.contains(&path) => {}
                RUN_BY_DOCS => faults.push(format!("{path}: tests/docs/run does not name it")),
                RUN_BY_DEPLOY if deploy.contains(&format!("page={path}\n")) => {}
                RUN_BY_DEPLOY => faults.push(format!("{path}: tests/deploy/run does not follow it")),
                RUN_BY_CI => {
                    for command in Document::commands(&block.text) {
                        let wanted = in_brief(&command);
                        if !run_in_ci.iter().any(|it| it.starts_with(&wanted)) {
                            faults.push(format!("{path}: .ci/run does not run `{command}`"));
                        }
                    }
                }
                RUN_BY_MAKE => {
                    for command in Document::commands(&block.text).iter().filter(|it| !is_a_test(it)) {
                        faults.push(format!("{path}: no test is run by `{command}`"));
                    }
                }
                _ => faults.push(format!("{path}: nothing says what runs this:\n{}", block.text)),
            }
        }
    }
    report(&faults);
}

/// The sources as one text, in which a literal that goes on in the next line is one.
fn sources(folder: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all += &sources(&path);
        } else if path.extension().is_some_and(|it| it == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let mut lines = text.split("\\\n");
            all += lines.next().unwrap();
            lines.for_each(|line| all += line.trim_start());
        }
    }
    all
}

/// An operator looks for what the program printed: the pages explain messages that it prints.
#[test]
fn every_message_that_is_explained_is_one_of_the_programs() {
    let page = Document::read(Path::new("deploy/README.md"));
    let (_, section) = page.text.split_once("\n## Troubleshooting\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let sources = sources(&Path::new(ROOT).join("src"));
    let (mut faults, mut count) = (Vec::new(), 0);
    for row in section.lines().filter(|it| it.starts_with("| `")) {
        let messages = row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2);
        for message in messages.filter(|it| *it != "error") {
            count += 1;
            // What differs from time to time, the sources have in braces.
            for part in message.split('…').map(str::trim).filter(|it| !it.is_empty()) {
                // A code is a whole literal, a message the part of one.
                let is_code = !part.contains(' ');
                let wanted = if is_code { format!("\"{part}\"") } else { part.to_owned() };
                if !sources.contains(&wanted) {
                    faults.push(format!("`{message}`: the program does not print `{part}`"));
                }
            }
        }
    }
    report(&faults);
    assert!(count >= 50, "only {count} messages are explained");
}

/// Whoever is woken up finds what to do.
#[test]
fn every_alert_is_explained_and_none_else() {
    let alerts = std::fs::read_to_string(Path::new(ROOT).join("deploy/prometheus/alerts.yaml")).unwrap();
    let alerts: BTreeSet<_> =
        alerts.lines().filter_map(|it| it.trim().strip_prefix("- alert: ")).map(str::to_owned).collect();
    let page = Document::read(Path::new("deploy/README.md"));
    let rows = page.text.lines().filter_map(|it| it.strip_prefix("| `Faregate"));
    let explained: BTreeSet<_> = rows
        .map(|row| {
            let (name, what_to_do) = row.split_once("` | ").unwrap();
            assert!(what_to_do.trim_end_matches(" |").len() >= 20, "Faregate{name}: {what_to_do}");
            format!("Faregate{name}")
        })
        .collect();
    assert!(alerts.len() >= 30, "{alerts:?}");
    assert_eq!(alerts, explained);
}
