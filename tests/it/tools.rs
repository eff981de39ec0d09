//! The tools beside a gateway: where they find the configuration and its variables, and how they end when nobody reads on.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use faregate::config::{Config, Reading};
use faregate::store::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

use crate::serve::write_private;

/// A configuration with two variables, one of which has a default.
const TEXT: &str = "public_url: http://127.0.0.1:8402
listen: { http: 127.0.0.1:8402 }
nano:
  nodes: [\"http://127.0.0.1:1/?key=${FAREGATE_TEST_KEY}\"]
  pool: { seed_file: \"${FAREGATE_TEST_FOLDER:-secrets}/pool.seed\" }
upstreams: { api: { url: http://127.0.0.1:1 } }
routes: [{ match: /v1/**, upstream: api, price: 1 raw }]
";

fn site() -> TempDir {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("faregate.yaml"), TEXT).unwrap();
    write_private(&folder.path().join("environment"), "# for the unit\nFAREGATE_TEST_KEY='of $the file'\n");
    folder
}

fn run(folder: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_faregate"));
    command.current_dir(folder).args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn said(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Before: beside the unit each tool ended with `CREDENTIALS_DIRECTORY is not set`.
#[test]
fn a_variable_has_a_default_or_comes_from_a_file() {
    let folder = site();
    let without = run(folder.path(), &["check", "--config", "faregate.yaml"], &[]);
    assert_eq!(without.status.code(), Some(78));
    let text = said(&without.stdout);
    assert!(text.contains("FAREGATE_TEST_KEY is not set") && text.contains("--env-file"), "{text}");
    assert!(!text.contains("FAREGATE_TEST_FOLDER"), "{text}");

    let with = ["check", "--config", "faregate.yaml", "--env-file", "environment"];
    let output = run(folder.path(), &with, &[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output.stdout));
    let load = |env_file: &str| {
        let env_file = Some(folder.path().join(env_file));
        Config::load_by(&folder.path().join("faregate.yaml"), &Reading { env_file, offline: false })
    };
    let config = load("environment").unwrap();
    assert_eq!(config.nano.nodes[0].parameters, [("key".to_owned(), "of $the file".to_owned())]);
    assert!(!format!("{config:?}").contains("of $the file"));
    assert!(format!("{:?}", config.nano.pool).contains("secrets/pool.seed"), "{:?}", config.nano.pool);

    write_private(&folder.path().join("wrong"), "FAREGATE_TEST_KEY=\"s3cret\nOTHER=1\n");
    let faults = load("wrong").unwrap_err().to_string();
    assert!(faults.contains("wrong line 1") && !faults.contains("s3cret"), "{faults}");
    assert!(load("nowhere").unwrap_err().to_string().contains("`--env-file`"));
}

#[test]
fn a_default_is_used_for_what_is_not_set_or_empty() {
    let text = TEXT.replace("${FAREGATE_TEST_KEY}", "1");
    let pool = |value: Option<&str>| {
        let env = |name: &str| (name == "FAREGATE_TEST_FOLDER").then_some(value).flatten().map(str::to_owned);
        format!("{:?}", Config::parse(&text, "t", Path::new("/"), env).unwrap().nano.pool)
    };
    assert!(pool(None).contains("/secrets/pool.seed"));
    assert!(pool(Some("")).contains("/secrets/pool.seed"));
    assert!(pool(Some("/keys")).contains("\"/keys/pool.seed"));
    // An empty default, and one that has what would end a name.
    for (default, path) in [("${A:-}/x", "\"/x"), ("${A:-a:-b}/x", "/a:-b/x")] {
        let text = text.replace("${FAREGATE_TEST_FOLDER:-secrets}/pool.seed", default);
        let pool = format!("{:?}", Config::parse(&text, "t", Path::new("/"), |_| None).unwrap().nano.pool);
        assert!(pool.contains(path), "{pool}");
    }
}

#[test]
fn the_environment_comes_before_the_file_of_variables() {
    let folder = site();
    std::fs::write(
        folder.path().join("faregate.yaml"),
        TEXT.replace("/v1/**", "\"/${FAREGATE_TEST_ROUTE}\""),
    )
    .unwrap();
    write_private(&folder.path().join("environment"), "FAREGATE_TEST_KEY=1\nFAREGATE_TEST_ROUTE=file\n");
    let arguments = ["check", "-c", "faregate.yaml", "--env-file", "environment"];
    assert!(said(&run(folder.path(), &arguments, &[]).stdout).contains("/file"));
    let output = run(folder.path(), &arguments, &[("FAREGATE_TEST_ROUTE", "shell")]);
    assert!(said(&output.stdout).contains("/shell"), "{}", said(&output.stdout));
}

#[test]
fn a_configuration_is_found_without_being_named() {
    let folder = site();
    let variables = [("FAREGATE_CONFIG", "faregate.yaml"), ("FAREGATE_TEST_KEY", "1")];
    for arguments in [&["check"][..], &["explain", "GET", "/v1/x"], &["pool", "addresses"]] {
        let output = run(folder.path(), arguments, &variables);
        // The pool has no folder yet; that shows which file was read.
        let read = output.status.code() == Some(0) || said(&output.stderr).contains("secrets/pool.seed");
        assert!(read, "{arguments:?}: {output:?}");
    }
    std::fs::write(folder.path().join("other.yaml"), TEXT.replace("/v1/**", "/other")).unwrap();
    let output = run(folder.path(), &["check", "-c", "other.yaml"], &variables);
    assert!(said(&output.stdout).contains("/other"), "what is named comes first: {}", said(&output.stdout));
    let commands: &[&[&str]] = &[
        &["serve"],
        &["check"],
        &["explain"],
        &["doctor"],
        &["backup"],
        &["recover"],
        &["pool", "addresses"],
        &["sweep"],
        &["payments", "list"],
        &["payments", "show"],
        &["payments", "export"],
        &["payments", "reconcile"],
    ];
    for command in commands {
        let help = run(folder.path(), &[*command, &["--help"][..]].concat(), &[]);
        let help = said(&help.stdout);
        for part in
            ["-c, --config <FILE>", "FAREGATE_CONFIG", "/etc/faregate/faregate.yaml", "--env-file <FILE>"]
        {
            assert!(help.contains(part), "{command:?}: {part} is not in\n{help}");
        }
    }
}

/// Before: `faregate payments list | head` ended with `the output cannot be written: Broken pipe`.
#[test]
fn a_command_whose_reader_has_ended_ends_quietly() {
    let folder = site();
    let path = folder.path().join("faregate.db");
    drop(SqliteStore::open(&path, SqliteOptions::default()).unwrap());
    std::fs::create_dir(folder.path().join("secrets")).unwrap();
    let copy = folder.path().join("copy.db");
    let backup = ["backup", "--to", copy.to_str().unwrap()];
    let commands: &[&[&str]] = &[
        &["payments", "list"],
        &["payments", "export"],
        &["payments", "export", "--unclaimed"],
        &["payments", "export", "--sweeps"],
        &["check"],
        &["check", "--json"],
        &["explain", "GET", "/v1/x"],
        &["doctor"],
        &["pool", "addresses"],
        &backup,
        &["completions", "bash"],
        &["man"],
        &["demo", "--once"],
        &["--help"],
        &["--version"],
    ];
    for command in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = Command::new(env!("CARGO_BIN_EXE_faregate"))
            .current_dir(folder.path())
            .args(*command)
            .envs([("FAREGATE_CONFIG", "faregate.yaml"), ("FAREGATE_TEST_KEY", "1")])
            .stdin(Stdio::null())
            .stdout(writer)
            .output()
            .unwrap();
        assert_eq!(said(&output.stderr), "", "{command:?}");
        assert_eq!(output.status.code(), Some(74), "{command:?}");
    }
}

/// The unit's credentials are where a tool beside it looks.
#[test]
fn the_shipped_configuration_names_the_units_credentials() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/faregate.yaml");
    let text = std::fs::read_to_string(shipped).unwrap();
    let text = text.replace("  # tls:", "  tls:").replace("  #   ", "    ");
    let path = |env: Option<&str>| {
        let env = |name: &str| (name == "CREDENTIALS_DIRECTORY").then_some(env).flatten().map(str::to_owned);
        let config = Config::parse(&text, "faregate.yaml", Path::new("/etc/faregate"), env).unwrap();
        config.listen.tls.unwrap().certificates[0].certificate.display().to_string()
    };
    assert_eq!(path(None), "/run/credentials/faregate.service/cert.pem");
    assert_eq!(path(Some("/run/credentials/other")), "/run/credentials/other/cert.pem");
}
