//! The configuration: every shipped file loads or has its fault, and every message is tested.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use faregate::config::{
    Config, Discovery, Drain, Faults, Limits, Origins, PoolSource, StoreLocation, Unmatched, known_keys,
};
use faregate::nano::Raw;
use faregate::payment::Mechanism;
use faregate::routes::{Access, CanonicalTarget, ChargeOn, Found, RequestHead};
use serde_yaml::Value;

const ADDRESS: &str = "nano_1wfogo7rodwspj7f89sr7ah1er38so9jcfcjprmwot5q8a55ndpu5bfi1wmb";
const OTHER: &str = "nano_3fhiu33b8o4mnp6ricj8n6yurxofjjmuqh8yowuhnghd7p6k31tro7jyme6r";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("config").join(name)
}

fn parse(text: &str) -> Result<Config, Faults> {
    parse_with(text, |_| None)
}

fn parse_with(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Config, Faults> {
    Config::parse(text, "test.yaml", Path::new("/etc/faregate"), env)
}

/// A file that works, with this `nano` section and the `rest`.
fn file(nano: &str, rest: &str) -> String {
    format!(
        "public_url: https://api.example.com\n\
         listen: {{ http: 127.0.0.1:8402 }}\n\
         nano: {nano}\n\
         upstreams: {{ api: {{ url: http://127.0.0.1:3000 }} }}\n\
         {rest}\n"
    )
}

const NANO: &str = "{ nodes: [http://127.0.0.1:7076], pool: { seed_file: pool.seed } }";
const ROUTES: &str = "routes: [{ match: /v1/**, upstream: api, price: 0.001 XNO }]";

/// The line after the last one was named.
#[test]
fn a_file_that_is_cut_off_is_wrong_at_its_end() {
    for text in ["sweep:\n  every: 10m\n  minimu", "sweep:\r\n  every: 10m\r\n  minimu"] {
        let found = parse(text).unwrap_err();
        let mark = found.faults[0].mark.unwrap();
        assert_eq!((mark.line, mark.column), (3, 9), "{found}");
    }
    // A key that is announced and missing.
    let text = "listen: { http: 127.0.0.1:1 }\nupstreams:\n ? # none";
    let found = parse(text).unwrap_err();
    assert!(found.faults.iter().any(|it| it.key == "upstreams."), "{found}");
    assert!(found.faults.iter().filter_map(|it| it.mark).all(|it| it.line <= 3), "{found}");
}

/// Each wrong name was compared with 200 right ones, letter by letter: 2,000 of them took half a minute.
#[test]
fn every_wrong_name_is_told_and_the_right_one_is_guessed_for_the_first() {
    let many = |item: fn(usize) -> String| (0..2000).map(item).collect::<String>();
    let upstreams = many(|it| format!("  an-upstream-{it}: {{ url: http://127.0.0.1:1 }}\n"));
    let routes = many(|it| format!("  - {{ match: /{it}, upstream: an-upstrem-{it}, free: true }}\n"));
    let keys = many(|it| format!("  bodie{it}: 1\n"));
    let found = parse(&format!("upstreams:\n{upstreams}routes:\n{routes}limits:\n{keys}")).unwrap_err();
    let told = |what: &str| found.faults.iter().filter(|it| it.message.contains(what)).count();
    assert_eq!((told("unknown upstream"), told("unknown key")), (2000, 2000));
    let is_guess =
        |it: &&faregate::config::Fault| it.hint.as_ref().is_some_and(|it| it.starts_with("do you mean"));
    assert_eq!(found.faults.iter().filter(is_guess).count(), 100);
}

/// Every path below a key repeats it: with a key of a megabyte, a file of two megabytes took all of the memory.
#[test]
fn nothing_is_read_below_a_key_without_end() {
    let below = "x: 1, ".repeat(1000);
    let file = |length: usize| format!("? {}\n: {{ {below} }}\n", "k".repeat(length));
    let found = parse(&file(1025)).unwrap_err();
    assert_eq!(found.faults.len(), 1, "{found}");
    assert!(found.to_string().contains("a key is longer than 1024 bytes"), "{found}");
    assert!(parse(&file(1024)).unwrap_err().faults.len() > 999);
}

/// Each wrong name was compared with every right one, letter by letter: the long one took seconds for each of them.
#[test]
fn many_and_long_wrong_names_are_judged_in_linear_time() {
    let (done, judged) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let many = |item: fn(usize) -> String| (0..3000).map(item).collect::<String>();
        let upstreams = many(|it| format!("  u{it}: {{ url: http://127.0.0.1:1 }}\n"));
        let routes = many(|it| format!("  - {{ match: /{it}, upstream: v{it}, free: true }}\n"));
        let long = format!("  - {{ match: /long, upstream: {}, free: true }}\n", "x".repeat(1_000_000));
        let faults = parse(&format!("upstreams:\n{upstreams}routes:\n{long}{routes}")).unwrap_err();
        done.send(faults.faults.len()).unwrap();
    });
    let faults = judged.recv_timeout(Duration::from_secs(60)).expect("linear time");
    assert!(faults > 3000, "{faults}");
}

#[test]
fn every_bad_file_gives_its_one_message_at_its_line() {
    let mut count = 0;
    let mut failures = Vec::new();
    for entry in fs::read_dir(shipped("bad")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        let mut lines = text.lines();
        let expect = lines.next().unwrap().strip_prefix("# expect: ").unwrap();
        let line: usize = lines.next().unwrap().strip_prefix("# line: ").unwrap().parse().unwrap();
        count += 1;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        match Config::load(&path) {
            Ok(_) => failures.push(format!("{name} is accepted")),
            Err(faults) => {
                let printed = faults.to_string();
                let at_line = faults.faults[0].mark.map(|mark| mark.line) == Some(line);
                let hinted = faults.faults.iter().all(|it| it.hint.is_some());
                if faults.faults.len() != 1 || !printed.contains(expect) || !at_line || !hinted {
                    failures.push(format!("{name}: expected {expect:?} in line {line}, got:\n{printed}"));
                }
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    assert!(count >= 25, "only {count} bad files");
}

#[test]
fn every_shipped_good_file_loads_without_a_warning() {
    for name in ["minimal.yaml", "full.yaml"] {
        let config = Config::load(&shipped(name)).unwrap_or_else(|faults| panic!("{faults}"));
        assert_eq!(config.warnings, [], "{name}");
    }
}

/// Adds the paths of all keys below `value`; `[]` stands for an item, `*` for a chosen name.
fn keys_of(value: &Value, path: &str, into: &mut BTreeSet<String>) {
    match value {
        Value::Mapping(map) => {
            for (key, value) in map {
                let key = key.as_str().unwrap();
                let chosen = [
                    "upstreams",
                    "rates.currencies",
                    "routes[].mcp.methods",
                    "routes[].mcp.tools",
                    "routes[].meter.rates",
                    "routes[].query",
                    "routes[].headers",
                ]
                .contains(&path);
                let name = if chosen { "*" } else { key };
                let here = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                if !chosen {
                    into.insert(here.clone());
                }
                keys_of(value, &here, into);
            }
        }
        Value::Sequence(items) => {
            for item in items {
                keys_of(item, &format!("{path}[]"), into);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Tagged(_) => {}
    }
}

#[test]
fn the_full_file_has_every_key_and_no_other() {
    let text = fs::read_to_string(shipped("full.yaml")).unwrap();
    // An alternative is in a comment, as `# key: value`; the one for `unmatched` replaces it.
    let is_key =
        |text: &str| text.bytes().all(|it| it.is_ascii_lowercase() || it == b'_') && !text.is_empty();
    let open = |line: &str| {
        let (indent, rest) = line.split_once("# ")?;
        let (key, value) = rest.split_once(": ")?;
        let is_alternative = indent.trim().is_empty() && is_key(key) && !value.is_empty();
        is_alternative.then(|| format!("{indent}{rest}"))
    };
    let text: Vec<_> = text
        .lines()
        .filter(|line| *line != "unmatched: 404")
        .map(|line| open(line).unwrap_or_else(|| line.to_owned()))
        .collect();
    let mut shown = BTreeSet::new();
    keys_of(&serde_yaml::from_str(&text.join("\n")).unwrap(), "", &mut shown);
    let known: BTreeSet<_> = known_keys().into_iter().collect();
    assert_eq!(shown, known);
    assert!(known.len() > 50);
}

#[test]
fn a_facilitator_that_others_can_reach_needs_a_token() {
    let with = |section: &str| parse(&file(NANO, &format!("facilitator: {section}\n{ROUTES}")));
    let local = with("{ listen: 127.0.0.1:4402 }").unwrap().facilitator.unwrap();
    assert_eq!((local.addresses[0].to_string().as_str(), local.token_file), ("127.0.0.1:4402", None));
    let open = with("{ listen: \"[::]:4402\", token_file: t }").unwrap().facilitator.unwrap();
    assert_eq!(open.token_file.as_deref(), Some(Path::new("/etc/faregate/t")));
    assert!(with("{ listen: [127.0.0.1:4402, \"unix:/run/f.sock\"] }").is_ok());
    assert!(
        with("{ listen: [127.0.0.1:4402, 192.0.2.1:4402] }").unwrap_err().to_string().contains("token_file")
    );
    assert!(with("{ listen: \"[::]:4402\" }").unwrap_err().to_string().contains("token_file"));
    assert_eq!(parse(&file(NANO, ROUTES)).unwrap().facilitator, None);
}

#[test]
fn the_defaults_are_those_of_the_documentation() {
    let config = parse(&file(NANO, ROUTES)).unwrap();
    assert_eq!(config.public_url.join("/a?b"), "https://api.example.com/a?b");
    assert_eq!(config.public_url.authority(), "api.example.com");
    assert_eq!(config.challenge.lifetime, 120);
    assert_eq!(config.challenge.key_file, Path::new("/etc/faregate/challenge.key"));
    assert_eq!(config.settlement.wait, Duration::from_secs(15));
    assert_eq!(config.settlement.poll, Duration::from_millis(100));
    assert_eq!(
        config.store,
        StoreLocation::Sqlite { path: "/etc/faregate/faregate.db".into(), free_space: 64 << 20 }
    );
    assert_eq!(config.nano.pool, PoolSource::Seed { file: "/etc/faregate/pool.seed".into(), size: 1024 });
    assert_eq!(config.nano.mechanisms, [Mechanism::NanoTxn, Mechanism::NanoSignature]);
    assert_eq!(config.unmatched, Unmatched::NotFound);
    assert_eq!((config.admin, &config.cors), (Vec::new(), &None));
    let Drain { delay, grace } = config.drain;
    assert_eq!((delay, grace), (Duration::from_secs(5), Duration::from_secs(60)));
    assert_eq!(config.sweep, None);
    let treasury = NANO.replace("{ nodes", &format!("{{ treasury: {OTHER}, nodes"));
    let sweep = parse(&file(&treasury, &format!("sweep: {{}}\n{ROUTES}"))).unwrap().sweep.unwrap();
    assert_eq!((sweep.every, sweep.minimum.get()), (Duration::from_secs(600), 10_u128.pow(27)));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.discovery, Discovery::default());
    assert!(config.discovery.x402 && config.discovery.openapi && config.discovery.llms);
    let route = &config.table.routes()[0];
    assert_eq!(route.name.as_str(), "/v1/**");
    assert_eq!(route.charge_on, ChargeOn::Below500);
    let Access::Priced(listed) = &route.access else { panic!("it is priced") };
    assert_eq!(listed.price.raw(), Some(Raw::new(10_u128.pow(27))));
    assert_eq!((listed.grants.count(), listed.grants.seconds), (1, 3600));
}

#[test]
fn the_full_file_means_what_it_says() {
    let config = Config::load(&shipped("full.yaml")).unwrap();
    let target = CanonicalTarget::parse("/v1/search").unwrap();
    let Found::Route(route) = config.table.find(&RequestHead::new("GET", &target)) else {
        panic!("it is there")
    };
    assert_eq!(route.name.as_str(), "search");
    assert_eq!(config.upstreams.len(), 2);
    assert_eq!(config.cors.unwrap().origins, Origins::These(vec!["https://app.example.com".to_owned()]));
    // Without the key it depends on the descriptors that the process may have.
    let given = Limits { free_forwards: Some(8192), threads: Some(2), ..Limits::default() };
    assert_eq!(config.limits, given);
}

#[test]
fn a_file_with_ten_faults_gives_all_ten_in_order() {
    let text = "public_url: ftp://api.example.com\n\
        listen: { http: here }\n\
        nano:\n  nodes: [telnet://node]\n  pool: { seed_file: pool.seed, size: 1 }\n  mechanisms: [cash]\n\
        challenge: { lifetime: 1s }\n\
        stor: {}\n\
        upstreams: { api: { url: http://127.0.0.1:3000 } }\n\
        routes:\n  - { match: /a, upstream: api, price: 0 raw }\n  - { match: /b, upstream: apo, price: 1 raw }\n  - { match: c, upstream: api, price: 1 raw }\n";
    let faults = parse(text).unwrap_err();
    let lines: Vec<_> = faults.faults.iter().map(|fault| fault.mark.unwrap().line).collect();
    assert_eq!(lines, [1, 2, 4, 5, 6, 7, 8, 11, 12, 13], "{faults}");
}

#[test]
fn a_file_that_is_not_one_yaml_document_is_refused() {
    assert!(parse("").unwrap_err().to_string().contains("the file is empty"));
    assert!(parse("a: 1\n---\nb: 2\n").unwrap_err().to_string().contains("a second document"));
    assert!(parse("a: \t[\n").unwrap_err().to_string().contains("not YAML"));
    let deep = format!("a: {}{}", "[".repeat(40), "]".repeat(40));
    assert!(parse(&deep).unwrap_err().to_string().contains("nested more than"));
}

#[test]
fn a_variable_is_replaced_and_its_value_never_printed() {
    let nano = "{ nodes: [{ url: \"https://rpc.example.net/path?key=${KEY}&n=$${KEY}\", trusted: true }], \
         websocket: \"wss://rpc.example.net/?key=${KEY}\", pool: { seed_file: pool.seed } }";
    let env = |name: &str| (name == "KEY").then(|| "s3cr3t".to_owned());
    let config = parse_with(&file(nano, ROUTES), env).unwrap();
    let node = &config.nano.nodes[0];
    let expected = [("key", "s3cr3t"), ("n", "${KEY}")].map(|(a, b)| (a.to_owned(), b.to_owned()));
    assert_eq!(node.parameters, expected);
    assert_eq!(node.url.as_str(), "https://rpc.example.net/path");
    assert_eq!(node.to_string(), "https://rpc.example.net/****");
    assert!(!format!("{config:?}").contains("s3cr3t"));
}

#[test]
fn nodes_of_the_own_network_are_trusted_and_others_are_not() {
    let trusted = |url: &str, rest: &str| {
        let nano = format!(
            "{{ nodes: [{{ url: \"{url}\"{rest} }}, \"http://[::1]:1\"], pool: {{ seed_file: a }} }}"
        );
        parse(&file(&nano, ROUTES)).unwrap().nano.nodes[0].trusted
    };
    for near in ["http://127.0.0.1:7076", "http://10.1.2.3", "http://[fd00::1]", "http://nano-node:7076"] {
        assert!(trusted(near, "") && !trusted(near, ", trusted: false"), "{near}");
    }
    for far in ["https://rpc.example.net", "https://8.8.8.8", "https://[2001:db8::1]", "https://10.example"] {
        assert!(!trusted(far, "") && trusted(far, ", trusted: true"), "{far}");
    }
}

#[test]
fn a_quorum_of_one_and_plain_http_to_a_trusted_node_are_warnings() {
    let warning = |nano: &str| {
        let nano = format!("{{ {nano}, pool: {{ seed_file: a }} }}");
        let config = parse(&file(&nano, ROUTES)).unwrap_or_else(|faults| panic!("{faults}"));
        config.warnings.iter().map(|it| it.about("f").to_string()).collect::<String>()
    };
    assert!(
        warning("nodes: [https://a.example], quorum: 1")
            .contains("can confirm payments that were never made")
    );
    assert!(
        warning("nodes: [{ url: \"http://a.example\", trusted: true }]").contains("over plain http"),
        "anybody on the network path can answer in its place"
    );
    assert_eq!(warning("nodes: [https://a.example, https://b.example]"), "");
    // Two accounts with one provider count as one node.
    let nano =
        "{ nodes: [\"https://a.example?key=1\", \"https://a.example?key=2\"], pool: { seed_file: a } }";
    assert!(parse(&file(nano, ROUTES)).unwrap_err().to_string().contains("but the list has 1"));
}

#[test]
fn a_fault_in_a_variables_value_does_not_repeat_it() {
    let places = [
        file(NANO, "routes: [{ match: /a, upstream: api, price: \"${KEY}\" }]"),
        file(NANO, "routes: [{ match: /a, upstream: \"${KEY}\", price: 1 raw }]"),
        file(NANO, "routes: [{ match: \"${KEY}\", upstream: api, price: 1 raw }]"),
        file(NANO, "routes: [{ match: /a, upstream: api, price: 1 raw, hidden: \"${KEY}\" }]"),
        file(NANO, "routes: [{ match: /a, upstream: api, price: 1 raw, charge_on: \"${KEY}\" }]"),
        file(NANO, "routes: [{ match: /a, upstream: api, price: 1 raw, grants: { requests: \"${KEY}\" } }]"),
        file(NANO, &format!("{ROUTES}\nchallenge: {{ lifetime: \"${{KEY}}\" }}")),
        file("{ nodes: [\"${KEY}\"], pool: { seed_file: a } }", ROUTES),
        file("{ nodes: [http://a], pool: { address: \"${KEY}\" } }", ROUTES),
        file("{ nodes: [http://a], pool: { addresses_file: \"${KEY}\" } }", ROUTES),
        file("{ nodes: [http://a], pool: { seed_file: a }, mechanisms: [\"${KEY}\"] }", ROUTES),
        file("{ nodes: [http://a], pool: { seed_file: a }, work: { send: \"${KEY}\" } }", ROUTES),
        file(NANO, ROUTES).replace("http://127.0.0.1:3000", "\"x:${KEY}\""),
        file(NANO, ROUTES).replace("127.0.0.1:8402", "\"${KEY}\""),
    ];
    for text in places {
        let faults = parse_with(&text, |_| Some("s3cr3t".to_owned())).unwrap_err();
        assert_eq!(faults.faults.len(), 1, "{text}\n{faults}");
        assert!(!faults.to_string().contains("s3cr3t"), "{faults}");
        assert!(!serde_json::to_string(&faults).unwrap().contains("s3cr3t"), "{faults}");
    }
}

#[test]
fn a_variable_can_be_a_number_but_no_structure() {
    let text =
        file(NANO, "routes: [{ match: /a, upstream: api, price: 1 raw, grants: { requests: \"${N}\" } }]");
    let config = parse_with(&text, |_| Some("7".to_owned())).unwrap();
    let Access::Priced(listed) = &config.table.routes()[0].access else { panic!("it is priced") };
    assert_eq!(listed.grants.count(), 7);
    let text = file(NANO, "routes: [{ match: /a, upstream: api, price: \"${P}\" }]");
    let faults = parse_with(&text, |_| Some("1 raw, free: true".to_owned())).unwrap_err();
    assert_eq!(faults.faults[0].key, "routes[0].price");
}

#[test]
fn the_pool_can_be_a_file_of_addresses() {
    let dir = tempfile::tempdir().unwrap();
    let load = |addresses: &str, more: &str| {
        fs::write(dir.path().join("pool.txt"), addresses).unwrap();
        let nano = format!("{{ nodes: [http://a], pool: {{ addresses_file: pool.txt }}{more} }}");
        Config::parse(&file(&nano, ROUTES), "test.yaml", dir.path(), |_| None)
    };
    let good = load(&format!("# ours\n{ADDRESS} # first\n\n{OTHER}\n"), "").unwrap();
    let expected = vec![ADDRESS.parse().unwrap(), OTHER.parse().unwrap()];
    let pool = PoolSource::Addresses { file: dir.path().join("pool.txt"), accounts: expected };
    assert_eq!(good.nano.pool, pool);

    let message = |addresses: &str, more: &str| load(addresses, more).unwrap_err().to_string();
    let xrb = ADDRESS.replace("nano_", "xrb_");
    assert!(message(&format!("{ADDRESS}\n{xrb}\n"), "").contains("line 2: the same address as in line 1"));
    assert!(message(&format!("{ADDRESS}\n{OTHER}x\n"), "").contains("line 2: an account has 60 characters"));
    assert!(message(ADDRESS, "").contains("each needs its own"));
    assert!(message("# none\n", "").contains("no address in it"));
    let treasury = format!(", treasury: {OTHER}");
    assert!(
        message(&format!("{ADDRESS}\n{OTHER}\n"), &treasury).contains("line 2: the treasury is in the pool")
    );
    let burn = "nano_1111111111111111111111111111111111111111111111111111hifc8npp";
    assert!(message(&format!("{ADDRESS}\n{burn}\n"), "").contains("line 2: this is the burn account"));
    assert!(load(ADDRESS, ", mechanisms: [nanoTxn]").is_ok());
}

#[test]
fn a_route_can_have_mechanisms_of_its_own() {
    let routes = "routes: [{ match: /v1/**, upstream: api, price: 0.001 XNO }, \
         { name: session, match: /session, upstream: api, price: 1 raw, mechanisms: [nanoSession, nanoTxn] }]";
    let config = parse(&file(NANO, routes)).unwrap();
    assert_eq!(config.nano.mechanisms, Mechanism::DEFAULT, "nanoSession is on only by name");
    assert_eq!(config.nano.in_use, Mechanism::ALL, "each needs addresses");
    let session = faregate::routes::RouteName::new("session");
    assert_eq!(config.mechanisms.len(), 1);
    assert_eq!(config.mechanisms[&session], [Mechanism::NanoSession, Mechanism::NanoTxn]);
    let nano = format!(
        "{{ nodes: [http://127.0.0.1:7076], pool: {{ address: {ADDRESS} }}, mechanisms: [nanoSession] }}"
    );
    let config = parse(&file(&nano, ROUTES)).unwrap();
    assert_eq!((config.nano.in_use, config.mechanisms.len()), (vec![Mechanism::NanoSession], 0));
}

#[test]
fn a_probable_mistake_is_a_warning() {
    let rest = format!("{ROUTES}\nadmin: {{ listen: 0.0.0.0:9402 }}");
    let text = file(NANO, &rest).replace("api: {", "idle: { url: http://127.0.0.1:1 }, api: {");
    let warnings = parse(&text).unwrap().warnings;
    let printed: Vec<_> = warnings.iter().map(|it| it.about("f.yaml").to_string()).collect();
    assert_eq!(printed.len(), 2);
    assert!(printed[0].starts_with("f.yaml:4:20: warning: upstreams.idle: no route leads"), "{}", printed[0]);
    assert!(
        printed[1].starts_with("f.yaml:6:18: warning: admin.listen: the admin listener"),
        "{}",
        printed[1]
    );
}

#[test]
fn a_path_that_is_priced_for_one_method_and_free_for_others_is_a_warning() {
    let route = |pattern: &str| format!("{{ match: \"{pattern}\", upstream: api, price: 1 raw }}");
    let free = "{ match: /**, upstream: api, free: true }";
    let open = "unmatched: { upstream: api, free: true }";
    let (get, any, post) = (route("GET /a/{x}"), route("/a/**"), route("POST /a/{x}"));
    for (rest, count) in [
        (format!("routes: [{get}]"), 0),
        (format!("routes: [{get}, {free}]"), 1),
        (format!("routes: [{get}]\n{open}"), 1),
        (format!("routes: [{get}, {post}, {free}]"), 2),
        (format!("routes: [{get}, {any}, {free}]"), 0),
        (format!("routes: [{any}]\n{open}"), 0),
    ] {
        let warnings = parse(&file(NANO, &rest)).unwrap().warnings;
        assert_eq!(warnings.len(), count, "{rest}: {warnings:?}");
        assert!(warnings.iter().all(|it| it.0.message.contains("any other method passes free")));
    }
}

#[test]
fn a_segment_that_is_a_pattern_elsewhere_is_a_warning() {
    for (path, segment) in [
        ("/v1/:symbol", Some(":symbol")),
        ("GET /v1/[a-z]+", Some("[a-z]+")),
        ("/v1/<int:id>/x", Some("<int:id>")),
        ("/v1/(a|b)/**", Some("(a|b)")),
        ("/v1/{symbol}/**", None),
        ("/v1/jobs:cancel", None),
        ("/v1/:8080", None),
        ("/odata/Products(1)", None),
    ] {
        let routes = format!("routes: [{{ match: \"{path}\", upstream: api, price: 1 raw }}]");
        let Ok(config) = parse(&file(NANO, &routes)) else {
            assert!(segment.is_some(), "{path} is a fault");
            continue;
        };
        let warnings: Vec<_> = config.warnings.iter().map(|it| it.about("f.yaml").to_string()).collect();
        assert_eq!(warnings.len(), usize::from(segment.is_some()), "{path}: {warnings:?}");
        if let (Some(segment), Some(warning)) = (segment, warnings.first()) {
            let message = format!("routes[0].match: `{segment}` stands for these very characters");
            assert!(warning.contains(&message) && warning.contains("write `{name}`"), "{warning}");
        }
    }
}

#[test]
fn a_reload_sees_what_changed() {
    let one = parse(&file(NANO, ROUTES)).unwrap();
    assert_eq!(one, parse(&file(NANO, ROUTES)).unwrap());
    assert_ne!(one, parse(&file(NANO, &ROUTES.replace("0.001", "0.002"))).unwrap());
}

#[test]
fn windows_line_endings_are_accepted() {
    assert_eq!(parse(&file(NANO, ROUTES).replace('\n', "\r\n")), parse(&file(NANO, ROUTES)));
}

#[test]
fn a_file_of_ten_thousand_routes_is_read() {
    let routes: String = (0..10_000)
        .map(|n| format!("  - {{ match: \"GET /v1/{n}/**\", upstream: api, price: {} raw }}\n", n + 1))
        .collect();
    let config =
        parse(&file(NANO, &format!("routes:\n{routes}"))).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(config.table.routes().len(), 10_000);
}

#[test]
fn a_missing_file_is_a_fault_too() {
    let faults = Config::load(&shipped("no-such.yaml")).unwrap_err();
    assert!(faults.to_string().contains("no-such.yaml: the file cannot be read"), "{faults}");
}

#[test]
fn a_condition_that_leaves_a_free_way_is_a_warning() {
    let warnings = |routes: &str| {
        let config =
            parse(&file(NANO, &format!("routes: [{routes}]"))).unwrap_or_else(|faults| panic!("{faults}"));
        config.warnings.iter().map(|it| it.about("f").to_string()).collect::<Vec<_>>()
    };
    let priced =
        |conditions: &str| format!("{{ name: a, match: /a, {conditions}, upstream: api, price: 1 raw }}");
    let free = "{ name: b, match: /a, upstream: api, free: true }";
    for (conditions, shown) in [
        ("query: { size: large }", "query size=large"),
        ("headers: { X-Tier: gold }", "header x-tier: gold"),
        ("host: a.example", "host a.example"),
        ("host: \"*.a.example\", query: { size: large }", "host *.a.example, query size=large"),
    ] {
        let both = warnings(&format!("{}, {free}", priced(conditions)));
        let expected = format!("priced for {shown} only: any other request passes free through a free route");
        assert!(both.len() == 1 && both[0].contains(&expected), "{both:?}");
        assert!(both[0].contains("f:5:") && both[0].contains("hint: "), "{both:?}");
        assert_eq!(warnings(&priced(conditions)), [""; 0], "any other request is 404");
        let dear = "{ name: b, match: /a, upstream: api, price: 2 raw }";
        assert_eq!(warnings(&format!("{}, {dear}", priced(conditions))), [""; 0]);
        let unmatched =
            format!("routes: [{}]\nunmatched: {{ upstream: api, free: true }}", priced(conditions));
        let config = parse(&file(NANO, &unmatched)).unwrap();
        assert!(
            config.warnings[0].about("f").to_string().contains("through `unmatched`"),
            "{:?}",
            config.warnings
        );
    }
    let methods = warnings(&format!("{{ match: \"GET,POST /a\", upstream: api, price: 1 raw }}, {free}"));
    assert!(
        methods.len() == 1 && methods[0].contains("priced for GET, POST only: any other method"),
        "{methods:?}"
    );
}

#[test]
fn a_bill_for_another_host_names_that_host() {
    let at = |public: &str, host: &str| {
        let text = file(NANO, ROUTES).replace("https://api.example.com", public);
        parse(&text).unwrap().public_url.at(host).join("/a")
    };
    assert_eq!(at("https://api.example.com", "img.example.com"), "https://img.example.com/a");
    assert_eq!(at("http://api.example.com:8402", "img.example.com"), "http://img.example.com:8402/a");
    assert_eq!(at("http://[::1]:8402", "img.example.com"), "http://img.example.com:8402/a");
    assert_eq!(at("http://[::1]", "img.example.com"), "http://img.example.com/a");
}
