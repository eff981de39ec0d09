//! The `meter` of a route, as the configuration has it.

use std::path::Path;
use std::sync::Arc;

use faregate::config::{Config, Faults};
use faregate::nano::Raw;
use faregate::routes::{Access, Grants};
use faregate::usage::{JsonPointers, MeterPlan, Overdraft, Per, Rate, UsageSource};

fn parse(meter: &str) -> Result<Config, Faults> {
    let text = format!(
        "public_url: https://api.example.com\n\
         listen: {{ http: 127.0.0.1:8402 }}\n\
         nano: {{ nodes: [http://127.0.0.1:7076], pool: {{ seed_file: pool.seed }} }}\n\
         upstreams: {{ api: {{ url: http://127.0.0.1:3000 }} }}\n\
         routes: [{{ match: POST /v1/chat, upstream: api, meter: {meter} }}]\n"
    );
    Config::parse(&text, "test.yaml", Path::new("/etc/faregate"), |_| None)
}

fn plan(meter: &str) -> Arc<MeterPlan> {
    let config = parse(meter).unwrap_or_else(|faults| panic!("{faults}"));
    let route = &config.table.routes()[0];
    let plan = route.meter.clone().unwrap();
    let Access::Priced(terms) = &route.access else { panic!("{route:?}") };
    assert_eq!((terms.amount, terms.grants), (plan.deposit, Grants::of_balance(plan.seconds)));
    plan
}

fn xno(text: &str) -> Raw {
    Raw::with_unit(&format!("{text} XNO")).unwrap()
}

fn lines(plan: &MeterPlan) -> Vec<Rate> {
    plan.rates.lines().cloned().collect()
}

#[test]
fn a_meter_means_what_it_says() {
    let plan = plan(
        "{ deposit: 0.05 XNO, within: 2h, usage: openai, hold: 0.002 XNO, overdraft: cut, announce: stream, \
         include_usage: ask, rates: { \
         gpt-4o.mini: { input: 0.15 XNO, cached: 0.075 XNO, output: 0.60 XNO, per: 1M }, \
         \"*\": { input: 2 XNO, output: 8 XNO, per: 1k } } }",
    );
    assert_eq!((plan.deposit, plan.seconds), (xno("0.05"), 7200));
    assert_eq!((&plan.source, plan.hold), (&UsageSource::OpenAi, xno("0.002")));
    assert_eq!(plan.overdraft, Overdraft::Cut);
    assert!(plan.announce && plan.ask_usage);
    let any = Rate {
        line: "*".to_owned(),
        input: xno("2"),
        cached: xno("2"),
        cache_write: xno("2"),
        output: xno("8"),
        per: Per::Thousand,
        ..Rate::default()
    };
    let mini = Rate {
        line: "gpt-4o.mini".to_owned(),
        input: xno("0.15"),
        cached: xno("0.075"),
        cache_write: xno("0.15"),
        output: xno("0.6"),
        per: Per::Million,
        ..Rate::default()
    };
    assert_eq!(lines(&plan), [any, mini]);
}

#[test]
fn the_defaults_of_a_meter_are_those_of_the_documentation() {
    let plan = plan("{ deposit: 1 XNO, usage: seconds, rates: { \"*\": { seconds: 1 raw } }, hold: 1 XNO }");
    assert_eq!((plan.deposit, plan.seconds), (xno("1"), 24 * 3600));
    assert_eq!(plan.overdraft, Overdraft::Finish);
    assert!(!plan.announce && !plan.ask_usage);
    assert_eq!(lines(&plan)[0].per, Per::One);
    let plan =
        self::plan("{ deposit: 1 XNO, usage: bytes, rates: { \"*\": { bytes: 1 raw } }, hold: 1 raw }");
    assert_eq!(lines(&plan)[0].per, Per::Million);
    assert_eq!(plan.source, UsageSource::Bytes);
}

#[test]
fn places_in_json_are_read() {
    let plan = plan(
        "{ deposit: 1 XNO, hold: 1 raw, usage: { json: { model: /model, input: /u/in, cached: /u/hit, tokens: /u/0 } }, \
         rates: { a: { input: 2 XNO, cached: 0 XNO, tokens: 1 raw, per: 1 } } }",
    );
    let expected = JsonPointers {
        model: "/model".parse().ok(),
        input: "/u/in".parse().ok(),
        cached: "/u/hit".parse().ok(),
        tokens: "/u/0".parse().ok(),
        ..JsonPointers::default()
    };
    assert_eq!(plan.source, UsageSource::Json(expected));
    // What a cached token costs is said.
    assert_eq!((lines(&plan)[0].cached, lines(&plan)[0].per), (Raw::ZERO, Per::One));
    assert!(plan.reads_request());
    let plan = self::plan("{ deposit: 1 XNO, hold: 1 raw, usage: { json: { cost: /cost } } }");
    assert!(plan.source.says_amount() && !plan.reads_request());
}

/// Every fault of a meter is told at once.
#[test]
fn a_meter_with_several_faults_gives_all_of_them() {
    let faults = parse(
        "{ deposit: 1, within: 5s ago, usage: openai, hold: 0 XNO, overdraft: stop, announce: no, include_usage: add, \
         rates: { a: { input: x, bytes: 1 XNO }, b: {}, c: 7 } }",
    );
    let faults = faults.unwrap_err();
    let keys: Vec<_> = faults.faults.iter().map(|it| it.key.rsplit("meter.").next().unwrap()).collect();
    for key in [
        "deposit",
        "within",
        "hold",
        "overdraft",
        "announce",
        "include_usage",
        "rates.a.input",
        "rates.a.bytes",
        "rates.b",
        "rates.c",
    ] {
        assert!(keys.contains(&key), "{key}: {faults}");
    }
}
