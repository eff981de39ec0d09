//! The program with an admin API, its command line, and the tools for agents.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Stdio};

use serde_json::{Value, json};

use super::{LISTEN, Process, ROUTES, World, client, faregate, run, said, text, write_private};
use crate::admin::id_of;
use crate::patience::eventually;
use crate::rig::{capability, error};

/// A gateway with an admin API, and what `faregate admin` is told to reach it.
struct Gateway {
    world: World,
    process: Process,
    config: PathBuf,
}

fn with_token(config: &Path) {
    let text = std::fs::read_to_string(config).unwrap();
    let plain = "admin: { listen: 127.0.0.1:0 }";
    assert!(text.contains(plain));
    std::fs::write(config, text.replace(plain, "admin: { listen: 127.0.0.1:0, token_file: admin.token }"))
        .unwrap();
}

/// What a command of `faregate admin` printed, and its exit code.
struct Told {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Told {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }
}

impl Gateway {
    async fn start() -> Self {
        let world = World::start().await;
        let config = world.write(LISTEN, "", ROUTES);
        with_token(&config);
        let process = Process::start(&config, 2, "info").await;
        Self { world, process, config }
    }

    /// The arguments of `faregate admin` that lead to it.
    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let token = self.config.with_file_name("admin.token").display().to_string();
        let own = [
            "admin".to_owned(),
            "--url".to_owned(),
            self.process.admin(""),
            "--token-file".to_owned(),
            token,
        ];
        own.into_iter().chain(more.iter().map(|it| (*it).to_owned())).collect()
    }

    async fn admin(&self, more: &[&str]) -> Told {
        let arguments = self.arguments(more);
        told(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Writes another configuration.
    fn rewrite(&self, routes: &str) {
        assert_eq!(self.world.write(LISTEN, "", routes), self.config);
        with_token(&self.config);
    }

    async fn price(&self) -> Value {
        self.admin(&["routes"]).await.json()["routes"][0]["price"]["amount"].clone()
    }
}

async fn told(arguments: &[&str]) -> Told {
    let output = run(arguments).await;
    Told {
        code: output.status.code(),
        out: said(&output.stdout).to_owned(),
        err: said(&output.stderr).to_owned(),
    }
}

#[tokio::test]
async fn the_command_line_shows_a_running_gateway_as_a_table_or_as_json() {
    let gateway = Gateway::start().await;
    let paid = gateway.world.pay(&client(), &gateway.process.url("/v1/search/x")).await;
    assert_eq!(paid.status(), 200);
    let id = id_of(&capability(&paid).0);
    for (command, member) in [
        (&["status"][..], "ready"),
        (&["routes"], "routes"),
        (&["nodes"], "nodes"),
        (&["upstreams"], "upstreams"),
        (&["pool"], "pool"),
        (&["payments", "list"], "payments"),
        (&["capabilities", "list", "--open"], "capabilities"),
        (&["capabilities", "show", &id], "state"),
        (&["openapi"], "paths"),
    ] {
        let shown = gateway.admin(command).await.json();
        assert!(shown.get(member).is_some(), "{command:?}: {shown}");
    }
    let table =
        gateway.admin(&["payments", "list", "--route", "search", "--state", "granted", "--table"]).await;
    let lines: Vec<_> = table.out.lines().collect();
    assert!(
        lines[0].starts_with("SINCE") && lines[1].contains("granted") && lines.len() == 2,
        "{}",
        table.out
    );
    let nothing = gateway.admin(&["payments", "list", "--until", "1h"]).await.json();
    assert_eq!(nothing["payments"], json!([]));
    let token = std::fs::read_to_string(gateway.config.with_file_name("admin.token")).unwrap();
    let said = gateway.process.log.lock().unwrap().join("\n");
    assert!(!said.contains(token.trim()), "the token is in the log");
}

#[tokio::test]
async fn the_command_line_gives_and_revokes() {
    let gateway = Gateway::start().await;
    let grant = ["capabilities", "grant", "search", "--uses", "7", "--note", "a tester", "--by", "ada"];
    let dry = gateway.admin(&[&grant[..], &["--dry-run"]].concat()).await.json();
    assert_eq!((&dry["token"], &dry["uses"]), (&Value::Null, &json!(7)));
    let keyed = [&grant[..], &["--idempotency-key", "k-1"]].concat();
    let (given, again) = (gateway.admin(&keyed).await.json(), gateway.admin(&keyed).await.json());
    assert_eq!((&given["token"], &again["fresh"]), (&again["token"], &json!(false)));
    let (token, id) = (given["token"].as_str().unwrap(), given["id"].as_str().unwrap());
    let ask = async || {
        let url = gateway.process.url("/v1/search/x");
        client().get(url).header("PAYMENT-CAPABILITY", token).send().await.unwrap()
    };
    let answer = ask().await;
    assert_eq!((answer.status().as_u16(), capability(&answer).1), (200, 6));
    let revoke = ["capabilities", "revoke", id, "--reason", "over", "--by", "ada"];
    let dry = gateway.admin(&[&revoke[..], &["--dry-run"]].concat()).await.json();
    assert_eq!(dry["state"], "open");
    assert_eq!(ask().await.status(), 200);
    let ended = gateway.admin(&revoke).await.json();
    assert_eq!((&ended["state"], &ended["revoked"]["by"]), (&json!("revoked"), &json!("ada")));
    assert_eq!(error(ask().await).await, "CAPABILITY_REVOKED");
    assert!(
        gateway.process.has_said("capability revoked") && gateway.process.has_said("capability given away")
    );
    assert!(!gateway.process.has_said(token), "no token is logged");
}

#[tokio::test]
async fn the_command_line_says_by_its_code_why_it_did_not_do_it() {
    let gateway = Gateway::start().await;
    let url = gateway.process.admin("");
    let wrong = gateway.config.with_file_name("wrong.token");
    write_private(&wrong, "x".repeat(40));
    let short = gateway.config.with_file_name("short.token");
    write_private(&short, "x".repeat(31));
    let open = gateway.config.with_file_name("open.token");
    std::fs::write(&open, "x".repeat(40)).unwrap();
    std::fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    for (file, code, words) in
        [(&wrong, 77, "admin.token_file"), (&short, 78, "32"), (&open, 78, "chmod 600")]
    {
        let told = told(&["admin", "--url", &url, "--token-file", file.to_str().unwrap(), "status"]).await;
        assert_eq!((told.code, told.out.as_str()), (Some(code), ""), "{}", told.err);
        assert!(told.err.contains(words), "{}", told.err);
    }
    for (command, code) in [
        (&["payments", "show", &"0".repeat(64)][..], 1),
        (&["capabilities", "show", &"0".repeat(32)], 1),
        (&["capabilities", "revoke", &"0".repeat(32)], 1),
        (&["capabilities", "show", "xyz"], 64),
        (&["capabilities", "grant", "nowhere"], 1),
        (&["payments", "list", "--since", "yesterday"], 64),
        (&["payments", "list", "--limit", "5000"], 64),
    ] {
        let told = gateway.admin(command).await;
        assert_eq!(told.code, Some(code), "{command:?}: {}{}", told.out, told.err);
    }
}

#[tokio::test]
async fn a_reload_says_what_changed_or_what_is_wrong() {
    let gateway = Gateway::start().await;
    assert_eq!(gateway.price().await, "1");
    gateway.rewrite(&ROUTES.replace("price: 1 raw", "price: 2 raw"));
    let dry = gateway.admin(&["reload", "--dry-run"]).await.json();
    assert_eq!(
        (&dry["applied"], &dry["changed"]),
        (&json!(false), &json!(["route \"search\" changed"])),
        "{dry}"
    );
    assert_eq!(gateway.price().await, "1", "a dry run changes nothing");
    let done = gateway.admin(&["reload"]).await.json();
    assert_eq!((&done["applied"], &done["changed"]), (&json!(true), &dry["changed"]), "{done}");
    assert_eq!(gateway.price().await, "2");
    let again = gateway.admin(&["reload"]).await.json();
    assert_eq!((&again["changed"], &again["needs_restart"]), (&json!([]), &json!([])), "{again}");

    gateway.rewrite(&format!("{ROUTES}\n  - {{ match: /new, upstream: nowhere, free: true }}\n"));
    for more in [&["reload", "--dry-run"][..], &["reload"]] {
        let refused = gateway.admin(more).await;
        assert_eq!(refused.code, Some(65), "{}", refused.err);
        assert!(
            refused.err.contains("nothing was changed") && refused.err.contains("nowhere"),
            "{}",
            refused.err
        );
    }
    assert_eq!(gateway.price().await, "2", "everything stays as it was");
    assert!(gateway.process.has_said("not reloaded"));
    let (_, metrics) = text(&client(), gateway.process.admin("/metrics")).await;
    assert!(metrics.lines().any(|it| it == "faregate_config_reload_failures_total 1"), "{metrics}");

    let restart = std::fs::read_to_string(&gateway.config).unwrap();
    let restart = restart.replace("size: 8", "size: 9").replace("upstream: nowhere", "upstream: api");
    std::fs::write(&gateway.config, restart).unwrap();
    let partly = gateway.admin(&["reload"]).await.json();
    assert_eq!(partly["needs_restart"], json!(["nano.pool"]), "{partly}");
    let changed = partly["changed"].as_array().unwrap();
    assert!(
        changed.contains(&json!("route \"/new\" added")) && changed.contains(&json!("nano changed")),
        "{partly}"
    );
}

#[tokio::test]
async fn a_drain_ends_the_process_as_a_signal_does() {
    let mut gateway = Gateway::start().await;
    let dry = gateway.admin(&["drain", "--dry-run"]).await.json();
    assert_eq!((&dry["draining"], &dry["grace_seconds"]), (&json!(false), &json!(20)), "{dry}");
    assert_eq!(gateway.admin(&["status"]).await.json()["draining"], false);
    let done = gateway.admin(&["drain"]).await.json();
    assert_eq!(done["draining"], true);
    assert_eq!(gateway.process.ended().await.code(), Some(0));
    assert!(gateway.process.has_said("\"ended\""));
    assert_eq!(gateway.admin(&["status"]).await.code, Some(69));
}

/// A client of MCP over standard input and output, line by line.
struct Agent {
    child: std::process::Child,
    /// `None` once it has ended.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    last: u64,
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ended = self.child.kill().is_err();
        let _reaped = self.child.wait().is_err();
    }
}

impl Agent {
    fn start(gateway: &Gateway, more: &[&str]) -> Self {
        let arguments = gateway.arguments(&[&["mcp"], more].concat());
        let mut command = faregate(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take(), BufReader::new(child.stdout.take().unwrap()));
        let mut agent = Self { child, input, output, last: 0 };
        let client = json!({ "name": "test", "version": "1" });
        let hello = json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client });
        let hello = agent.ask("initialize", &hello);
        assert_eq!(hello["result"]["serverInfo"]["name"], "faregate", "{hello}");
        assert!(hello["result"]["capabilities"]["tools"].is_object(), "{hello}");
        agent.say(&json!({ "jsonrpc": "2.0", "method": "notifications/initialized" }));
        agent
    }

    fn say(&mut self, message: &Value) {
        writeln!(self.input.as_mut().unwrap(), "{message}").unwrap();
    }

    /// The answer to a request. Every line is of the protocol.
    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.last += 1;
        self.say(&json!({ "jsonrpc": "2.0", "id": self.last, "method": method, "params": params }));
        loop {
            let mut line = String::new();
            assert!(self.output.read_line(&mut line).unwrap() > 0, "it ended");
            let message: Value =
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
            assert_eq!(message["jsonrpc"], "2.0", "{line}");
            if message["id"] == self.last {
                return message;
            }
        }
    }

    fn tools(&mut self) -> Vec<Value> {
        self.ask("tools/list", &json!({}))["result"]["tools"].as_array().unwrap().clone()
    }

    fn call(&mut self, name: &str, arguments: &Value) -> Value {
        self.ask("tools/call", &json!({ "name": name, "arguments": arguments }))
    }
}

#[tokio::test]
async fn an_agent_reads_by_mcp_and_changes_only_what_it_may() {
    let gateway = Gateway::start().await;
    let mut agent = Agent::start(&gateway, &[]);
    let tools = agent.tools();
    let names: Vec<_> = tools.iter().map(|it| it["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"list_payments") && names.contains(&"show_status"), "{names:?}");
    for changing in ["revoke_capability", "grant_capability", "reload", "drain"] {
        assert!(!names.contains(&changing), "{changing}");
        let refused = agent.call(changing, &json!({}));
        assert!(refused["error"]["message"].as_str().unwrap().contains("--allow-changes"), "{refused}");
    }
    for tool in &tools {
        assert!(tool["description"].as_str().unwrap().len() > 20, "{tool}");
        assert_eq!(
            (&tool["inputSchema"]["type"], &tool["annotations"]["readOnlyHint"]),
            (&json!("object"), &json!(true))
        );
    }
    let status = agent.call("show_status", &json!({}));
    assert_eq!(status["result"]["structuredContent"]["ready"], true, "{status}");
    let listed = agent.call("list_payments", &json!({ "limit": 5 }));
    assert_eq!(listed["result"]["structuredContent"]["payments"], json!([]), "{listed}");
    let refused = agent.call("list_payments", &json!({ "limit": 5000 }));
    assert_eq!(refused["result"]["isError"], true, "{refused}");
    assert!(
        refused["result"]["structuredContent"]["error"].as_str().unwrap().contains("1 to 1000"),
        "{refused}"
    );
    assert!(agent.call("list_payments", &json!({ "lim": 5 }))["error"].is_object());
    assert!(agent.call("no_such_tool", &json!({}))["error"].is_object());

    let mut agent = Agent::start(&gateway, &["--allow-changes"]);
    assert_eq!(agent.tools().len(), faregate::admin::operations::Operation::ALL.len());
    let dry = agent.call("grant_capability", &json!({ "route": "search", "uses": 3, "dry_run": true }));
    assert_eq!(dry["result"]["structuredContent"]["token"], Value::Null, "{dry}");
    let given = agent.call("grant_capability", &json!({ "route": "search", "uses": 3, "by": "an agent" }));
    let given = given["result"]["structuredContent"].clone();
    assert!(given["token"].is_string(), "{given}");
    let ended = agent.call("revoke_capability", &json!({ "id": given["id"], "reason": "a test" }));
    assert_eq!(ended["result"]["structuredContent"]["state"], "revoked", "{ended}");
    // It ends with its input.
    drop(agent.input.take());
    let child = std::sync::Mutex::new(&mut agent.child);
    eventually("it ends", || async { child.lock().unwrap().try_wait().unwrap().is_some() }).await;
    assert_eq!(agent.child.wait().unwrap().code(), Some(0));
}

#[tokio::test]
async fn the_command_line_finds_a_gateway_at_a_unix_socket() {
    let world = World::start().await;
    let config = world.write(LISTEN, "", ROUTES);
    let text = std::fs::read_to_string(&config).unwrap();
    let at_socket = "admin: { listen: \"unix:admin.sock\", token_file: admin.token }";
    std::fs::write(&config, text.replace("admin: { listen: 127.0.0.1:0 }", at_socket)).unwrap();
    let mut process = Process::start(&config, 2, "info").await;
    let status = told(&["admin", "--config", config.to_str().unwrap(), "status"]).await.json();
    assert_eq!(status["draining"], false, "{status}");
    process.signal("-TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}
