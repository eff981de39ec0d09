//! Sets `FAREGATE_VERSION`: the version, and the commit if the sources are a git work tree or
//! `FAREGATE_COMMIT` is set. It depends on nothing else, so that a build can be repeated.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let version = env!("CARGO_PKG_VERSION");
    let commit = option_env!("FAREGATE_COMMIT").map(str::to_owned).or_else(commit);
    let commit = commit.map(|it| format!(" ({it})")).unwrap_or_default();
    println!("cargo::rustc-env=FAREGATE_VERSION={version}{commit}");
}

/// The commit that is checked out; `None` if this directory is not the top of a git work tree.
fn commit() -> Option<String> {
    let is_top = git(&["rev-parse", "--show-prefix"])?.is_empty();
    // The log grows with each commit; `HEAD` changes when another branch is checked out.
    for name in ["HEAD", "logs/HEAD"] {
        let path = git(&["rev-parse", "--git-path", name]).filter(|it| is_top && Path::new(it).exists());
        path.iter().for_each(|it| println!("cargo::rerun-if-changed={it}"));
    }
    git(&["rev-parse", "--short=12", "HEAD"]).filter(|_| is_top)
}

/// The answer of git; `None` if it fails or is not installed.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let text = output.status.success().then(|| String::from_utf8(output.stdout))?.ok()?;
    Some(text.trim().to_owned())
}
