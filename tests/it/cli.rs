//! The subcommands that need no server: what they print, and their exit codes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use faregate::cli::pay::PayExit;
use faregate::cli::{Failure, check, explain};
use serde_json::Value;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

/// What a subcommand printed, and its exit code.
type Printed = (String, u8);

fn printed(out: Vec<u8>, outcome: Result<ExitCode, Failure>) -> Printed {
    let code = outcome.map_or_else(|failure| failure.exit_code(), |_success| 0);
    (String::from_utf8(out).unwrap(), code)
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn checked(name: &str, json: bool) -> Printed {
    let mut out = Vec::new();
    let args = check::CheckArgs { config: shipped(name).into(), offline: false, against_store: false, json };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let outcome = runtime.block_on(check::run(&args, &mut out));
    printed(out, outcome)
}

#[test]
fn check_prints_the_prices_or_the_faults() {
    let (out, code) = checked("full.yaml", false);
    assert!(code == 0 && out.contains("/v1/search/**") && out.contains("100 requests within 1h"), "{out}");
    let (out, code) = checked("bad/zero-price.yaml", false);
    assert!(code == 78 && out.contains("zero-price.yaml:11:") && out.contains("hint: "), "{out}");
    let (out, code) = checked("bad/zero-price.yaml", true);
    let whole = json(&out);
    assert_eq!(code, 78);
    assert_eq!((&whole["good"], &whole["faults"][0]["line"]), (&false.into(), &11.into()));
    let (out, code) = checked("minimal.yaml", true);
    assert_eq!(code, 0);
    assert_eq!(json(&out)["routes"][0]["price"]["amount"], "1000000000000000000000000000");
}

fn explained(method: &str, url: &str, json: bool) -> Printed {
    explained_with(None, method, url, json)
}

fn explained_with(data: Option<&str>, method: &str, url: &str, json: bool) -> Printed {
    let data = data.map(str::to_owned);
    let mut out = Vec::new();
    let args = explain::ExplainArgs {
        config: shipped("full.yaml").into(),
        json,
        data,
        headers: Vec::new(),
        host: None,
        method: method.into(),
        url: url.into(),
    };
    let outcome = explain::run(&args, &mut out);
    printed(out, outcome)
}

#[test]
fn explain_says_which_route_and_why() {
    let (out, code) = explained("HEAD", "https://api.example.com:443/V1/quote/xno/?a=b", false);
    assert!(code == 0);
    for part in [
        "route     GET /v1/quote/{symbol}",
        "costs     0.0001 XNO (100000000000000000000000000 raw)",
        "grants    1 request within 1h",
        "paid by   nanoTxn, nanoSignature\n",
        "why       no other route covers it",
        "goes to   quotes: http://127.0.0.1:3000/V1/quote/xno/?a=b",
    ] {
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
    assert!(!out.contains("note"), "{out}");
    let (foreign, _) = explained("GET", "http://other.example/docs", false);
    assert!(!foreign.contains("note"), "the host counts in this file: {foreign}");
    let (out, code) = explained("POST", "/v1/quote/xno", false);
    assert!(code == 0 && out.contains("answer    404"), "{out}");
    let other = "fails     GET /v1/quote/{symbol} (`GET /v1/quote/{symbol}`): takes GET, not POST\n";
    assert!(out.contains(other), "{out}");
    let why = json(&explained("POST", "/v1/quote/xno", true).0);
    assert_eq!(why["failed"][0]["why"], "takes GET, not POST", "{why}");
    assert!(!explained("POST", "/v1/quotes/xno", false).0.contains("fails"), "its path is another");
    let (out, code) = explained("GET", "/docs/%2e%2e/v1", false);
    assert!(code == 65 && out.contains("`.` or `..`"), "{out}");
    let (_, code) = explained("GET", "docs", true);
    assert!(code == 64);
    let search = json(&explained("GET", "/v1/search/x", true).0);
    assert_eq!(search["route"]["name"], "search");
    assert_eq!(search["mechanisms"], serde_json::json!(["nanoTxn", "nanoSignature", "nanoSession"]));
    let free = json(&explained("GET", "/docs/x", true).0);
    assert!(free["mechanisms"].is_null(), "{free}");
    assert_eq!(
        search["goes_to"],
        serde_json::json!(["http://127.0.0.1:3001/v1/search/x", "http://127.0.0.1:3002/v1/search/x"])
    );
}

/// What is explained of a request to the full file's route with every condition.
fn explained_at(
    host: Option<&str>,
    headers: &[(&str, &str)],
    method: &str,
    url: &str,
    json: bool,
) -> Printed {
    let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let mut out = Vec::new();
    let args = explain::ExplainArgs {
        config: shipped("full.yaml").into(),
        json,
        data: None,
        headers: headers.collect(),
        host: host.map(str::to_owned),
        method: method.into(),
        url: url.into(),
    };
    let outcome = explain::run(&args, &mut out);
    printed(out, outcome)
}

#[test]
fn explain_says_which_conditions_are_met_and_which_failed() {
    let (gold, host) = ([("X-Tier", "gold")], Some("LLM.example.com:443"));
    let url = "/llm/v1/chat?size=large&a=b";
    let (out, code) = explained_at(host, &gold, "POST", url, false);
    assert_eq!(code, 0, "{out}");
    for part in [
        "route     large answers (`GET,POST /llm/v1/**`)",
        "meets     host llm.example.com, query size=large, header x-tier: gold",
        "costs     0.02 XNO",
        "goes to   search: http://127.0.0.1:3001/v1/chat?size=large&a=b",
    ] {
        assert!(out.contains(part), "{part:?} is not in:\n{out}");
    }
    let (out, code) = explained_at(None, &[], "GET", "https://LLM.example.com/llm/v1/chat?size=small", false);
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("answer    404"), "{out}");
    assert!(out.contains("fails     large answers (`GET,POST /llm/v1/**`): needs query size=large, needs header x-tier: gold"), "{out}");
    let (out, code) = explained_at(host, &gold, "GET", "/llm/v1/chat?size=large&size=small", false);
    assert_eq!(code, 65, "{out}");
    assert!(
        out.contains(
            "answer    400: the price depends on the query parameter `size`: it comes more than once"
        ),
        "{out}"
    );
    let (out, code) = explained_at(Some(""), &gold, "GET", url, true);
    assert_eq!(code, 65, "{out}");
    assert!(json(&out)["unclear"].as_str().unwrap().contains("names none"), "{out}");
    let met = json(&explained_at(host, &gold, "GET", url, true).0);
    assert_eq!(
        (&met["route"]["strip"], &met["route"]["query"]["size"], &met["host"]),
        (&"/llm".into(), &"large".into(), &"llm.example.com".into())
    );
    let failed = json(&explained_at(host, &[], "GET", url, true).0);
    assert_eq!(
        (&failed["failed"][0]["why"], &failed["route"]),
        (&"needs header x-tier: gold".into(), &Value::Null)
    );
    let (out, code) = explained_at(Some("a.example"), &[], "GET", "http://b.example/", false);
    assert!(code == 65 && out.contains("answered 400"), "{out}");
    let (out, code) = explained_at(None, &[("Host", "a.example")], "GET", "/", false);
    assert!(code == 64 && out.contains("`--host`"), "{out}");
}

#[test]
fn explain_knows_what_the_gateway_answers_itself() {
    let (out, code) = explained("GET", "/openapi.json", false);
    assert!(code == 0 && out.contains("answer    200: what the gateway publishes"), "{out}");
    assert!(explained("POST", "/openapi.json", false).0.contains("answer    404"));
    let llms = json(&explained("HEAD", "/llms.txt", true).0);
    assert_eq!((&llms["document"], &llms["upstream"]), (&true.into(), &Value::Null));
}

#[test]
fn explain_says_what_is_held_for_what_is_used() {
    let explained = |data, url| explained_with(data, "POST", url, false).0;
    let chat = "/v1/chat/completions";
    let listed = explained(None, chat);
    for part in [
        "deposit   0.05 XNO (50000000000000000000000000000 raw)\n",
        "costs     what it uses (openai)",
        "rate      *: input 2 XNO, output 8 XNO per 1M",
        "rate      gpt-4o-mini: input 0.15 XNO, cached 0.075 XNO, output 0.6 XNO per 1M",
        "hold      0.002 XNO (2000000000000000000000000000 raw), or what it bounds itself to",
    ] {
        assert!(listed.contains(part), "{part:?} is not in:\n{listed}");
    }
    let mini = r#"{"model":"gpt-4o-mini","max_tokens":1000}"#;
    let bounded = explained(Some(mini), chat);
    assert!(bounded.contains("rate      gpt-4o-mini: "), "{bounded}");
    // Of 41 bytes and 1,000 tokens.
    assert!(bounded.contains("hold      0.00060615 XNO"), "{bounded}");
    assert!(explained(Some("{}"), chat).contains("rate      *: "));
    assert!(explained(Some("[]"), chat).contains("answer    400: the body is not a JSON object"));
    let jobs = explained(None, "/v1/jobs");
    assert!(jobs.contains("deposit   0.05 XNO (50000000000000000000000000000 raw)"), "{jobs}");
    assert!(jobs.contains("costs     what it uses (json)"), "{jobs}");
    let bounded = json(&explained_with(Some(mini), "POST", chat, true).0);
    assert_eq!(
        (&bounded["metered"]["xno"], &bounded["metered"]["rate"]),
        (&"0.00060615 XNO".into(), &"gpt-4o-mini".into())
    );
}

#[test]
fn explain_says_what_a_call_costs() {
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"}}"#;
    let other = call.replace("search", "list");
    let explained = |data| explained_with(data, "POST", "/mcp", false).0;
    let listed = explained(None);
    for part in [
        "call      method initialize: free",
        "call      tool render-*: 0.05 XNO (50000000000000000000000000000 raw)",
        "call      anything else: refused",
        "grants    10 requests within 1h",
    ] {
        assert!(listed.contains(part), "{part:?} is not in:\n{listed}");
    }
    let priced = explained(Some(call));
    assert!(priced.contains("costs     0.01 XNO (1"), "{priced}");
    assert!(priced.contains("buys      tools#tool:search"), "{priced}");
    assert!(explained(Some(&other)).contains("costs     0.001 XNO"));
    assert!(explained(Some(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#)).contains("costs     nothing"));
    assert!(
        explained(Some(r#"{"jsonrpc":"2.0","id":1,"method":"other"}"#)).contains("answer    403: the method")
    );
    assert!(explained(Some("[]")).contains("answer    400: a batch holds"));
    let search = json(&explained_with(Some(call), "POST", "/mcp", true).0);
    assert_eq!(
        (&search["call"]["buys"], &search["call"]["xno"]),
        (&"tool:search".into(), &"0.01 XNO".into())
    );
    assert_eq!(
        search["route"]["price"]["calls"]["tool search"],
        "0.01 XNO (10000000000000000000000000000 raw)"
    );
}

/// What the program prints for these arguments, which it must accept.
fn program(arguments: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_faregate")).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_configuration_without_its_option_is_told_how_it_is_named() {
    let run = |arguments: &[&str]| {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_faregate")).args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{arguments:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    for command in ["check", "serve", "doctor"] {
        let told = run(&[command, "my.yaml"]);
        assert!(told.contains("a configuration is named with `--config my.yaml`"), "{told}");
    }
    for arguments in [["check", "--my.yaml"], ["man", "my.yaml"]] {
        assert!(!run(&arguments).contains("is named with"), "{arguments:?}");
    }
}

const SUBCOMMANDS: [&str; 17] = [
    "demo",
    "serve",
    "check",
    "explain",
    "devnet",
    "pay",
    "purse",
    "doctor",
    "backup",
    "recover",
    "pool",
    "sweep",
    "refunds",
    "payments",
    "admin",
    "completions",
    "man",
];

/// What the help of a command says its exit codes are.
fn exit_codes(command: &str) -> BTreeMap<u8, String> {
    let help = program(&[command, "--help"]);
    let (_, listed) = help.split_once("Exit codes:\n").unwrap_or_else(|| panic!("{command}:\n{help}"));
    let mut codes = BTreeMap::new();
    for line in listed.lines() {
        match line.trim_start().split_once("  ").map(|(code, what)| (code.parse(), what)) {
            Some((Ok(code), what)) => drop(codes.insert(code, what.to_owned())),
            Some((Err(_), _)) | None => assert!(line.starts_with("      "), "{command}: {line:?}"),
        }
    }
    codes
}

/// Regression: nothing said what `explain` exits with.
#[test]
fn the_help_of_each_command_says_what_its_exit_codes_are() {
    for command in SUBCOMMANDS {
        let codes = exit_codes(command);
        for code in [0, 64] {
            assert!(codes.contains_key(&code), "{command}: {code}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    program(&["man", "--to", folder.path().to_str().unwrap()]);
    let page = std::fs::read_to_string(folder.path().join("faregate-explain.1")).unwrap();
    assert!(page.contains("Exit codes:"), "{page}");
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/README.md");
    let documents = std::fs::read_to_string(documents).unwrap();
    for code in SUBCOMMANDS.iter().flat_map(|it| exit_codes(it).into_keys()) {
        assert!(documents.contains(&format!("\n| {code} | ")), "{code} is not in the table");
    }
    let paying = [
        PayExit::Answered,
        PayExit::ErrorAnswer,
        PayExit::Usage,
        PayExit::Unavailable,
        PayExit::Output,
        PayExit::Pending,
        PayExit::NotPayable,
        PayExit::TooExpensive,
        PayExit::Configuration,
    ];
    let codes: Vec<u8> = exit_codes("pay").into_keys().collect();
    assert_eq!(codes, paying.map(PayExit::code));
}

/// The process's own code, of each command that ends by itself.
#[test]
fn each_command_exits_as_its_help_says() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (full, faulty) = (shipped("full.yaml"), shipped("bad/zero-price.yaml"));
    let (full, faulty) = (full.to_str().unwrap(), faulty.to_str().unwrap());
    let empty = path("empty.yaml");
    std::fs::write(
        &empty,
        "public_url: http://127.0.0.1:8402\nlisten: { http: 127.0.0.1:1 }\n\
         nano: { nodes: [http://127.0.0.1:1], pool: { seed_file: pool.seed } }\n\
         upstreams: { api: { url: http://127.0.0.1:1 } }\nroutes: [{ match: /**, upstream: api, free: true }]\n",
    )
    .unwrap();
    let (copy, missing) = (path("copy.db"), path("no/such/folder"));
    let hash = "0".repeat(64);
    let token = path("admin.token");
    crate::serve::write_private(Path::new(&token), "0".repeat(64));
    let url = "http://127.0.0.1:1/";
    let cases: &[(&[&str], u8)] = &[
        (&["check", "--config", full], 0),
        (&["check", "--config", faulty], 78),
        (&["check", "--config", &missing], 78),
        (&["check", "--config"], 64),
        (&["explain", "--config", full, "GET", "/v1/search/x"], 0),
        (&["explain", "--config", full, "GET", "/nowhere"], 0),
        (&["explain", "--config", full, "GET", "nowhere"], 64),
        (&["explain", "--config", full, "G E T", "/x"], 64),
        (&["explain", "--config", full, "-H", "Host: a", "GET", "/x"], 64),
        (&["explain", "--config", full, "GET", "/a/../b"], 65),
        (&["explain", "--config", full, "--host", "b.test", "GET", "http://a.test/x"], 65),
        (&["explain", "--config", faulty, "GET", "/x"], 78),
        (&["explain", "--config", full, "GET"], 64),
        (&["doctor", "--config", &empty], 1),
        (&["doctor", "--config", faulty], 78),
        (&["serve", "--config", faulty], 78),
        (&["backup", "--config", &empty, "--to", &copy], 74),
        (&["backup", "--config", faulty, "--to", &copy], 78),
        (&["recover", "--from-ledger", "--config", faulty], 78),
        (&["pool", "addresses", "--config", faulty], 78),
        (&["sweep", "--once", "--config", &empty], 78),
        (&["payments", "list", "--config", &empty], 78),
        (&["payments", "show", &hash, "--config", faulty], 78),
        (&["admin", "--url", url, "--token-file", &missing, "status"], 78),
        (&["admin", "--url", url, "--token-file", &token, "status"], 69),
        (&["admin", "--config", faulty, "status"], 78),
        (&["admin", "--config", &empty, "status"], 78),
        (&["admin", "no-such"], 64),
        (&["pay", url, "--node", url, "--seed-file", &missing], 78),
        (&["pay", url], 64),
        (&["devnet", "--rpc", "nowhere"], 64),
        (&["completions", "bash"], 0),
        (&["completions", "no-shell"], 64),
        (&["man"], 0),
        (&["man", "--to", &missing], 69),
        (&["no-command"], 64),
        (&["--help"], 0),
    ];
    for (arguments, code) in cases {
        let output =
            std::process::Command::new(env!("CARGO_BIN_EXE_faregate")).args(*arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(i32::from(*code)), "{arguments:?}: {output:?}");
        if SUBCOMMANDS.contains(&arguments[0]) {
            assert!(exit_codes(arguments[0]).contains_key(code), "{arguments:?}: {code} is not in its help");
        }
    }
}

#[test]
fn help_completions_and_manual_have_every_subcommand() {
    let help = program(&["--help"]);
    let listed: Vec<_> = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .collect();
    assert_eq!(listed, SUBCOMMANDS);
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = program(&["completions", shell]);
        for name in SUBCOMMANDS {
            assert!(script.contains(name), "{shell}: {name}");
        }
    }
    let page = program(&["man"]);
    let folder = tempfile::tempdir().unwrap();
    program(&["man", "--to", folder.path().to_str().unwrap()]);
    for name in SUBCOMMANDS {
        assert!(page.contains(&format!("faregate\\-{name}(1)")), "{name}:\n{page}");
        assert!(folder.path().join(format!("faregate-{name}.1")).exists(), "{name}");
    }
}

#[test]
fn the_version_names_the_commit_of_a_work_tree() {
    let version = program(&["--version"]);
    let plain = concat!("faregate ", env!("CARGO_PKG_VERSION"));
    assert!(version.starts_with(plain), "{version}");
    if let Some(commit) = version.trim().strip_prefix(plain).filter(|it| !it.is_empty()) {
        let commit = commit.strip_prefix(" (").and_then(|it| it.strip_suffix(')')).expect("a commit");
        assert!(commit.len() >= 12 && commit.bytes().all(|it| it.is_ascii_hexdigit()), "{version}");
    }
}
