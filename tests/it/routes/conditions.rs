//! Routes with conditions on host, query and headers: their order, and that a request which servers could
//! read in two ways never gets the cheaper price.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use faregate::routes::{
    ConditionFault, Doubt, HeaderCondition, HostFault, HostPattern, MAX_ALTERNATIVES, Met, Precedence,
    QueryCondition, RequestHost, Strip, StripFault, Unclear,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;

/// What a route asks for, as a test writes it: `host`, `query` and `headers`, empty for none.
fn conditions(host: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> Conditions {
    let host = (!host.is_empty()).then(|| HostPattern::parse(host).unwrap());
    let query = query.iter().map(|(name, value)| QueryCondition::read(name, value).unwrap()).collect();
    let headers = headers.iter().map(|(name, value)| HeaderCondition::read(name, value).unwrap()).collect();
    Conditions::new(host, query, headers).unwrap()
}

fn with(text: &str, host: &str, query: &[(&str, &str)], headers: &[(&str, &str)]) -> Route {
    let conditions = conditions(host, query, headers);
    Route { name: RouteName::new(&format!("{text} {conditions}")), conditions, ..route(text, false, false) }
}

/// A whole request as a client sends it.
#[derive(Clone, Debug, Default)]
struct Sent {
    method: String,
    host: Option<String>,
    target: String,
    headers: Vec<(String, String)>,
}

impl Sent {
    fn get(host: &str, target: &str) -> Self {
        Self {
            method: "GET".to_owned(),
            host: Some(host.to_owned()),
            target: target.to_owned(),
            headers: Vec::new(),
        }
    }

    fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The name of the route that is found; an error if the request is refused.
    fn found(&self, table: &PriceTable) -> Result<Option<String>, String> {
        let target = CanonicalTarget::parse(&self.target).unwrap();
        let host = self.host.as_deref().and_then(RequestHost::read);
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            headers.append(
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let head = RequestHead {
            method: &self.method,
            host: host.as_ref(),
            target: &target,
            headers: Some(&headers),
        };
        match table.find(&head) {
            Found::Route(route) => Ok(Some(route.name.to_string())),
            Found::Unmatched => Ok(None),
            Found::Unclear(why) => Err(why.to_string()),
        }
    }
}

/// Two sizes of an image, the larger one dearer: the usual shape of what is attacked below.
fn sizes() -> PriceTable {
    PriceTable::new(vec![with("/img", "", &[("size", "large")], &[]), with("/img", "", &[], &[])]).unwrap()
}

#[test]
fn a_parameter_that_can_be_read_in_two_ways_is_refused() {
    let table = sizes();
    let found = |query: &str| Sent::get("a.example", &format!("/img?{query}")).found(&table);
    for large in ["size=large", "q=1&size=large", "size=large&q=large", "size=large&oversize=1"] {
        assert_eq!(found(large), Ok(Some("/img query size=large".to_owned())), "{large}");
    }
    for usual in [
        "",
        "q=size",
        "size=small",
        "sizes=large",
        "resize=large",
        "q=size=large",
        "q=large",
        "size=larger",
        "size=xlarge",
        "size=x%20large",
        "largesize",
        "q=%7Blarge%7D",
    ] {
        assert_eq!(found(usual), Ok(Some("/img ".to_owned())), "{usual}");
    }
    for (unclear, doubt) in [
        ("size=large&size=small", Doubt::Twice),
        ("size=small&size=large", Doubt::Twice),
        ("size=small&size=small", Doubt::Twice),
        ("size=small&Size=large", Doubt::Name),
        ("SIZE=large", Doubt::Name),
        ("s%69ze=large", Doubt::Name),
        ("size%5B%5D=large", Doubt::Name),
        ("size[]=large", Doubt::Name),
        ("size[0]=large", Doubt::Name),
        ("+size=large", Doubt::Name),
        ("?size=large", Doubt::Name),
        ("size%00=large", Doubt::Name),
        ("size%00x=large", Doubt::Name),
        ("%2573ize=large", Doubt::Name),
        ("%C5%BFize=large", Doubt::Name),
        ("q=1;size=large", Doubt::Name),
        ("size=large;q=1", Doubt::Name),
        ("size=small;q=1", Doubt::Name),
        ("size", Doubt::Empty),
        ("size=", Doubt::Empty),
        ("size=Large", Doubt::Value),
        ("size=%6Carge", Doubt::Value),
        ("size=large+", Doubt::Value),
        ("size=%20large", Doubt::Value),
        ("size=%22large%22", Doubt::Value),
        ("size=%5B%22large%22%5D", Doubt::Value),
        ("size=large,small", Doubt::Value),
        ("size=small,large", Doubt::Value),
        ("size=small%2Clarge", Doubt::Value),
        ("size=large%00", Doubt::Value),
        ("size=small%00large", Doubt::Value),
        ("size=%256Carge", Doubt::Value),
        ("size=%l", Doubt::Value),
        ("size=%EF%BD%8Carge", Doubt::Value),
        ("size=large%C2%A0", Doubt::Value),
    ] {
        let why = Unclear::Query { name: "size", doubt }.to_string();
        assert_eq!(found(unclear), Err(why), "{unclear}");
    }
}

#[test]
fn a_header_that_can_be_read_in_two_ways_is_refused() {
    let table =
        PriceTable::new(vec![with("/a", "", &[], &[("X-Tier", "gold")]), with("/a", "", &[], &[])]).unwrap();
    let found = |headers: &[(&str, &str)]| {
        let plain = Sent::get("a.example", "/a");
        headers.iter().fold(plain, |sent, (name, value)| sent.header(name, value)).found(&table)
    };
    assert_eq!(found(&[("x-tier", "gold")]), Ok(Some("/a header x-tier: gold".to_owned())));
    for usual in [&[][..], &[("x-tier", "silver")], &[("x-tiers", "gold")], &[("connection", "x-tier")]] {
        assert_eq!(found(usual), Ok(Some("/a ".to_owned())), "{usual:?}");
    }
    for (unclear, doubt) in [
        (&[("x-tier", "gold"), ("x-tier", "silver")][..], Doubt::Twice),
        (&[("x-tier", "gold"), ("x-tier", "gold")], Doubt::Twice),
        (&[("x_tier", "gold")], Doubt::Name),
        (&[("xtier", "gold")], Doubt::Name),
        (&[("x.tier", "gold")], Doubt::Name),
        (&[("x-tier", "silver"), ("x_tier", "gold")], Doubt::Name),
        (&[("x-tier", "")], Doubt::Empty),
        (&[("x-tier", "Gold")], Doubt::Value),
        (&[("x-tier", "\"gold\"")], Doubt::Value),
        (&[("x-tier", "silver, gold")], Doubt::Value),
        (&[("x-tier", "gold;q=0.5")], Doubt::Value),
        (&[("x-tier", "gold\u{a0}")], Doubt::Value),
        (&[("x-tier", "\u{ff47}old")], Doubt::Value),
        (&[("x-tier", "gold"), ("connection", "close, X-Tier")], Doubt::Nominated),
        (&[("x-tier", "silver"), ("connection", "x-tier")], Doubt::Nominated),
    ] {
        let why = Unclear::Header { name: "x-tier", doubt }.to_string();
        assert_eq!(found(unclear), Err(why), "{unclear:?}");
    }
}

#[test]
fn a_host_is_one_name_in_every_letter_case_and_at_every_port() {
    let table = PriceTable::new(vec![
        with("/a", "img.example.com", &[], &[]),
        with("/a", "*.example.com", &[], &[]),
        with("/a", "*.eu.example.com", &[], &[]),
        with("/a", "", &[], &[]),
    ])
    .unwrap();
    let found = |host: &str| Sent::get(host, "/a").found(&table);
    for (host, expected) in [
        ("img.example.com", "/a host img.example.com"),
        ("IMG.Example.COM:8402", "/a host img.example.com"),
        ("api.example.com", "/a host *.example.com"),
        ("a.b.example.com", "/a host *.example.com"),
        ("a.eu.example.com", "/a host *.eu.example.com"),
        ("eu.example.com", "/a host *.example.com"),
        ("example.com", "/a "),
        ("img.example.com.evil.example", "/a "),
        ("notexample.com", "/a "),
        ("xexample.com", "/a "),
        ("127.0.0.1:80", "/a "),
        ("[::1]:80", "/a "),
        ("[::1]", "/a "),
    ] {
        assert_eq!(found(host), Ok(Some(expected.to_owned())), "{host}");
    }
    for host in
        ["img.example.com.", "img..example.com", ".example.com", "img.example.com.:80", "img.example.com:8x"]
    {
        assert_eq!(found(host), Err(Unclear::OddHost.to_string()), "{host}");
    }
    let without = Sent { host: None, ..Sent::get("", "/a") };
    assert_eq!(without.found(&table), Err(Unclear::NoHost.to_string()));
    assert_eq!(without.found(&sizes()), Ok(None), "no route asks for a host");
}

#[test]
fn what_is_unclear_matters_only_before_the_winner() {
    let routes = vec![
        with("/img/free", "", &[], &[]),
        with("/img/{x}", "", &[("size", "large"), ("tier", "gold")], &[]),
        with("/img/{x}", "", &[("size", "small")], &[]),
        with("/img/**", "", &[("q", "1")], &[]),
    ];
    let table = PriceTable::new(routes).unwrap();
    let found = |target: &str| Sent::get("a.example", target).found(&table);
    assert!(found("/img/free?size=large&size=small").is_ok(), "a closer path decides");
    assert_eq!(found("/img/x?size=small&q=1&q=2"), Ok(Some("/img/{x} query size=small".to_owned())));
    assert_eq!(
        found("/img/x?size=large&tier=tin&tier=gold"),
        Err(Unclear::Query { name: "tier", doubt: Doubt::Twice }.to_string())
    );
    assert_eq!(
        found("/img/x?size=huge&tier=tin&tier=gold"),
        Ok(None),
        "one condition fails whatever the other is"
    );
}

#[test]
fn the_order_beside_the_path_is_method_host_query_headers() {
    let routes = [
        with("GET /a", "", &[], &[]),
        with("GET,POST /a", "a.example", &[("q", "1"), ("r", "1")], &[("x-a", "1"), ("x-b", "1")]),
        with("/a", "a.example", &[], &[]),
        with("/a", "*.example", &[("q", "1"), ("r", "1")], &[("x-a", "1")]),
        with("/a", "", &[("q", "1"), ("r", "1")], &[]),
        with("/a", "", &[("q", "1")], &[("x-a", "1"), ("x-b", "1")]),
        with("/a", "", &[("q", "1")], &[("x-a", "1")]),
        with("/a", "", &[("q", "1")], &[]),
        with("/a", "", &[], &[("x-a", "1")]),
        with("/a", "", &[], &[]),
    ];
    let all = Sent::get("a.example", "/a?q=1&r=1").header("x-a", "1").header("x-b", "1");
    // Each is the winner once those before it are gone, in whatever order the file has them.
    for first in 0..routes.len() {
        let mut rest = routes[first..].to_vec();
        rest.reverse();
        rest.rotate_left(first % 3);
        let table = PriceTable::new(rest).unwrap();
        assert_eq!(all.found(&table), Ok(Some(routes[first].name.to_string())), "{first}");
    }
    let why: Vec<_> = routes.windows(2).map(|pair| pair[0].precedence_over(&pair[1])).collect();
    use Precedence as By;
    assert_eq!(
        why,
        [
            By::FewerMethods,
            By::Method,
            By::Host,
            By::Host,
            By::Query,
            By::Headers,
            By::Headers,
            By::Query,
            By::Headers
        ]
    );
}

#[test]
fn several_methods_are_one_route() {
    let text = |it: &str| Pattern::parse(it).map(|it| it.to_string());
    assert_eq!(text("POST,GET /x"), Ok("GET,POST /x".to_owned()));
    assert_eq!(text(" POST, GET  /x"), Ok("GET,POST /x".to_owned()));
    assert_eq!(text("GET /x"), Ok("GET /x".to_owned()), "the name of a route that has one");
    assert_eq!(text("GET,GET /x"), Err(PatternError::MethodTwice("GET".to_owned())));
    assert_eq!(text("GET,HEAD /x"), Err(PatternError::Head));
    assert_eq!(text("GET, /x"), Err(PatternError::Method(String::new())));
    assert_eq!(text("GET POST /x"), Err(PatternError::Method("GET POST".to_owned())));
    assert_eq!(text("GET/x"), Err(PatternError::Form));
    let letters = |count: usize| -> String {
        let names: Vec<_> = (0..count).map(|it| format!("M{}", "A".repeat(it + 1))).collect();
        names.join(",")
    };
    assert!(text(&format!("{} /x", letters(16))).is_ok());
    assert_eq!(text(&format!("{} /x", letters(17))), Err(PatternError::TooManyMethods));
    assert!(matches!(text(&format!("{} /x", "M".repeat(33))), Err(PatternError::Method(_))));
    let table = table(&["GET,POST /x", "/x"]);
    for (method, expected) in [
        ("GET", "GET,POST /x"),
        ("HEAD", "GET,POST /x"),
        ("POST", "GET,POST /x"),
        ("post", "GET,POST /x"),
        ("PUT", "/x"),
    ] {
        assert_eq!(found(&table, method, "/x"), Some(expected), "{method}");
    }
    let without_get = super::table(&["DELETE,POST /x"]);
    assert_eq!(found(&without_get, "HEAD", "/x"), None);
}

#[test]
fn routes_that_are_equally_close_are_a_fault_unless_they_exclude_each_other() {
    let judged = |one: Route, two: Route| PriceTable::new(vec![one, two]).map(drop);
    let equal = Err(vec![TableFault::Equal { first: 0, second: 1 }]);
    let (size, color) = ([("size", "large")], [("color", "red")]);
    for (one, two) in [
        (with("GET,POST /a", "", &[], &[]), with("GET,PUT /a", "", &[], &[])),
        (with("/a", "", &size, &[]), with("/a", "", &color, &[])),
        (with("/a", "", &[], &[("x-a", "1")]), with("/a", "", &[], &[("x-b", "1")])),
        (with("/a", "a.example", &size, &[]), with("/A/", "A.example", &color, &[])),
        (with("GET,POST /a", "", &size, &[]), with("GET,PUT /a", "", &color, &[])),
    ] {
        let two = Route { name: RouteName::new("two"), ..two };
        assert_eq!(judged(one.clone(), two.clone()), equal, "{one} {two}");
    }
    for (one, two) in [
        (with("GET,POST /a", "", &[], &[]), with("DELETE,PUT /a", "", &[], &[])),
        (with("/a", "", &size, &[]), with("/a", "", &[("size", "small")], &[])),
        (with("/a", "", &[], &[("x-a", "1")]), with("/a", "", &[], &[("X-A", "2")])),
        (with("/a", "a.example", &[], &[]), with("/a", "b.example", &[], &[])),
        (with("/a", "*.a.example", &[], &[]), with("/a", "*.b.example", &[], &[])),
        (with("/a", "", &size, &[]), with("/a", "", &color, &[("x-a", "1")])),
    ] {
        assert_eq!(judged(one.clone(), two.clone()), Ok(()), "{one} {two}");
    }
    let many = |count: usize| {
        let numbered = (0..count).map(|n| with("/a", "", &[("n", &n.to_string())], &[]));
        PriceTable::new(numbered.collect()).map(drop)
    };
    assert_eq!(many(MAX_ALTERNATIVES), Ok(()));
    assert_eq!(
        many(MAX_ALTERNATIVES + 1),
        Err(vec![TableFault::Crowded { first: 0, second: MAX_ALTERNATIVES }])
    );
    let hosts = (0..2_000).map(|n| with("/a", &format!("h{n}.example"), &[], &[])).collect();
    let table = PriceTable::new(hosts).unwrap();
    assert_eq!(Sent::get("H1999.example", "/a").found(&table), Ok(Some("/a host h1999.example".to_owned())));
}

#[test]
fn a_condition_has_no_secret_no_payment_and_no_text_that_is_read_in_two_ways() {
    use ConditionFault as Bad;
    for (name, value, fault) in [
        ("", "a", Bad::Query),
        ("-", "a", Bad::Query),
        ("a", "", Bad::Query),
        ("a b", "a", Bad::Query),
        ("a[]", "a", Bad::Query),
        ("\u{e4}", "a", Bad::Query),
        ("a", "a b", Bad::Query),
        ("a", "a+b", Bad::Query),
        ("a", "a,b", Bad::Query),
        ("a", "a%20b", Bad::Query),
        ("a", "\u{e4}", Bad::Query),
    ] {
        assert_eq!(QueryCondition::read(name, value), Err(fault), "{name} {value}");
    }
    let (name, value) = ("n".repeat(64), "v".repeat(128));
    assert!(QueryCondition::read(&name, &value).is_ok());
    assert_eq!(QueryCondition::read(&format!("{name}n"), &value), Err(Bad::TooLong));
    assert_eq!(HeaderCondition::read(&name, &format!("{value}v")), Err(Bad::TooLong));
    for name in [
        "PAYMENT-SIGNATURE",
        "payment",
        "X-Payment",
        "X-PAYMENT-BLOCK",
        "payment_capability",
        "Faregate-Charge",
        "X-Forwarded-Host",
        "x-original-url",
        "Forwarded",
        "X-Real-IP",
        "Connection",
        "TE",
        "Transfer-Encoding",
        "Content-Length",
        "Upgrade",
        "Host",
        "Expect",
        "Keep-Alive",
        "Proxy-Foo",
        "X-HTTP-Method-Override",
    ] {
        assert_eq!(HeaderCondition::read(name, "a"), Err(Bad::OwnHeader), "{name}");
    }
    for name in ["Authorization", "cookie"] {
        assert_eq!(HeaderCondition::read(name, "a"), Err(Bad::Secret), "{name}");
    }
    for (name, value) in [
        ("x_a", "a"),
        ("a b", "a"),
        ("x-a", "a,b"),
        ("x-a", "a;b"),
        ("x-a", "a b"),
        ("x-a", "\"a\""),
        ("x-a", ""),
    ] {
        assert_eq!(HeaderCondition::read(name, value), Err(Bad::Header), "{name} {value}");
    }
}

#[test]
fn a_host_is_a_plain_name_and_no_two_names_of_conditions_are_alike() {
    for (host, fault) in [
        ("a.example:80", HostFault::Port),
        ("a.*.example", HostFault::Star),
        ("*", HostFault::Star),
        ("", HostFault::Name),
        ("*.", HostFault::Name),
        ("a.example.", HostFault::Name),
        ("a..example", HostFault::Name),
        ("b\u{fc}cher.example", HostFault::Name),
        ("a/b", HostFault::Name),
    ] {
        assert_eq!(HostPattern::parse(host), Err(fault), "{host}");
    }
    let query = |name: &str| QueryCondition::read(name, "1").unwrap();
    assert!(Conditions::new(None, vec![query("a_b"), query("aB")], Vec::new()).is_none());
    let eight: Vec<_> = (0..8).map(|it| query(&format!("n{it}"))).collect();
    assert!(Conditions::new(None, eight.clone(), Vec::new()).is_some());
    assert!(Conditions::new(None, [eight, vec![query("n8")]].concat(), Vec::new()).is_none());
}

#[test]
fn a_value_is_the_same_however_clients_must_encode_it() {
    let table =
        PriceTable::new(vec![with("/a", "", &[("model", "lab/x:1@2")], &[]), with("/a", "", &[], &[])])
            .unwrap();
    let found = |query: &str| Sent::get("a.example", &format!("/a?{query}")).found(&table);
    for query in ["model=lab/x:1@2", "model=lab%2Fx%3A1%402"] {
        assert_eq!(found(query), Ok(Some("/a query model=lab/x:1@2".to_owned())), "{query}");
    }
    assert!(found("model=lab%2fx:1@2").is_err(), "half of it");
}

#[test]
fn a_prefix_is_stripped_in_whole_segments() {
    let strip = |text: &str, pattern: &str| Strip::new(text, &Pattern::parse(pattern).unwrap());
    for (text, pattern, target, expected) in [
        ("/llm", "/llm/**", "/llm/v1/chat?a=/b", "/v1/chat?a=/b"),
        ("/llm/", "/llm/**", "/LLM/v1/", "/v1/"),
        ("/llm", "/llm/**", "/llm", "/"),
        ("/llm", "/llm/**", "/llm/", "/"),
        ("/llm", "/llm/**", "/llm?x=/y", "/?x=/y"),
        ("/llm", "GET /llm", "/%6clm", "/"),
        ("/a/b", "/a/b/{x}", "/a/b/a/", "/a/"),
        ("/a%20b", "/a%20b/**", "/a%20b/%C3%A9", "/%C3%A9"),
    ] {
        let target = CanonicalTarget::parse(target).unwrap();
        let rest = strip(text, pattern).unwrap().rest_of(&target).into_owned();
        assert_eq!(rest, expected, "{text} {target}");
        assert_eq!(
            CanonicalTarget::parse(&rest).unwrap().as_str(),
            expected,
            "what is forwarded is canonical"
        );
    }
    for (text, pattern, fault) in [
        ("/ll", "/llm/**", StripFault::NotThere),
        ("/llm", "/**", StripFault::NotThere),
        ("/a/b", "/a/{b}", StripFault::NotThere),
        ("/LLM", "/llm", StripFault::NotThere),
        ("/a/b", "/a", StripFault::NotThere),
        ("/", "/a", StripFault::Nothing),
        ("/a?b", "/a", StripFault::Query),
        ("a", "/a", StripFault::Path(NotCanonical::NoLeadingSlash)),
        ("/a/../b", "/a/**", StripFault::Path(NotCanonical::DotSegment)),
    ] {
        assert_eq!(strip(text, pattern), Err(fault), "{text} {pattern}");
    }
}

#[test]
fn a_preflight_knows_that_headers_may_bring_a_price() {
    let free = |route: Route| Route { access: Access::Free, ..route };
    let priced_by_header =
        PriceTable::new(vec![with("/a", "", &[], &[("x-a", "1")]), free(with("/a", "", &[], &[]))]).unwrap();
    let free_by_header =
        PriceTable::new(vec![free(with("/a", "", &[], &[("x-a", "1")])), with("/a", "", &[], &[])]).unwrap();
    let covered =
        PriceTable::new(vec![free(with("GET /a", "", &[], &[])), with("/a", "", &[], &[("x-a", "1")])])
            .unwrap();
    let by_query =
        PriceTable::new(vec![with("/a", "", &[("q", "1")], &[]), free(with("/a", "", &[], &[]))]).unwrap();
    let has_price = |table: &PriceTable, target: &str| {
        table.has_price(&RequestHead::new("GET", &CanonicalTarget::parse(target).unwrap()))
    };
    assert!(
        has_price(&priced_by_header, "/a") && has_price(&free_by_header, "/a") && has_price(&covered, "/a")
    );
    assert!(
        has_price(&by_query, "/a?q=1") && has_price(&by_query, "/a?q=1&q=2") && !has_price(&by_query, "/a")
    );
    let names = |target: &str| {
        let target = CanonicalTarget::parse(target).unwrap();
        priced_by_header.headers_that_decide(&RequestHead::new("GET", &target)).join(",")
    };
    assert_eq!((names("/a"), names("/b")), ("x-a".to_owned(), String::new()));
    let candidates = |table: &PriceTable| -> Vec<bool> {
        let target = CanonicalTarget::parse("/a").unwrap();
        let all = table.candidates(&RequestHead::new("GET", &target));
        all.iter().map(|it| it.met == Met::Yes).collect()
    };
    assert_eq!(candidates(&priced_by_header), [false, true]);
}

/// What a server reads in a request.
struct Read {
    host: Option<String>,
    query: BTreeMap<String, String>,
    headers: BTreeMap<String, String>,
}

/// One way in which a server reads requests.
#[derive(Clone, Copy, Debug)]
struct Reader {
    semicolons: bool,
    /// 0: not at all; 1: `%` only; 2: `+` too; 3: twice.
    decodes: u8,
    /// 0: exactly; 1: in any letter case; 2: letters and digits only; brackets are cut off but for 0.
    names: u8,
    /// 0: the first; 1: the last; 2: all, joined.
    of_several: u8,
    /// 0: as it is; 1: in any letter case, trimmed; 2: the first item of a list; 3: the last; 4: up to a NUL.
    values: u8,
    removes_nominated: bool,
    default_host: Option<&'static str>,
}

static READERS: LazyLock<Vec<Reader>> = LazyLock::new(|| {
    let mut all = Vec::new();
    for number in 0..2 * 4 * 3 * 3 * 5 {
        let digit = |below: usize, size: usize| u8::try_from(number / below % size).unwrap();
        let (semicolons, removes_nominated) = (digit(1, 2) == 1, number % 7 < 3);
        let default_host = [None, Some("img.example"), Some("x.img.example")][number % 3];
        all.push(Reader {
            semicolons,
            decodes: digit(2, 4),
            names: digit(8, 3),
            of_several: digit(24, 3),
            values: digit(72, 5),
            removes_nominated,
            default_host,
        });
    }
    all
});

/// Decodes as this server does; what cannot be decoded stays.
fn decoded(text: &str, decodes: u8) -> String {
    let once = |text: &str, plus: bool| {
        let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
        while at < bytes.len() {
            let pair = bytes.get(at + 1..at + 3).and_then(|it| std::str::from_utf8(it).ok());
            let byte = pair.and_then(|it| u8::from_str_radix(it, 16).ok()).filter(|_| bytes[at] == b'%');
            out.push(byte.unwrap_or(if plus && bytes[at] == b'+' { b' ' } else { bytes[at] }));
            at += if byte.is_some() { 3 } else { 1 };
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    match decodes {
        0 => text.to_owned(),
        1 => once(text, false),
        2 => once(text, true),
        _ => once(&once(text, true), true),
    }
}

impl Reader {
    fn name(self, name: &str) -> String {
        let plain = name.split('[').next().unwrap().trim();
        match self.names {
            0 => name.to_owned(),
            1 => plain.to_lowercase(),
            _ => plain.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_lowercase(),
        }
    }

    fn value(self, value: &str) -> String {
        let plain = |text: &str| text.trim_matches([' ', '"', '\t']).to_lowercase();
        match self.values {
            0 => value.to_owned(),
            1 => plain(value),
            2 => plain(value.split([',', ';']).next().unwrap()),
            3 => plain(value.rsplit([',', ';']).next().unwrap()),
            _ => value.split('\0').next().unwrap().to_owned(),
        }
    }

    /// Names and values, each name once.
    fn read(self, pairs: impl Iterator<Item = (String, String)>) -> BTreeMap<String, String> {
        let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in pairs {
            all.entry(self.name(&name)).or_default().push(value);
        }
        let one = |values: Vec<String>| match self.of_several {
            0 => values.first().unwrap().clone(),
            1 => values.last().unwrap().clone(),
            _ => values.join(","),
        };
        all.into_iter().map(|(name, values)| (name, self.value(&one(values)))).collect()
    }

    fn query(self, target: &str) -> BTreeMap<String, String> {
        let query = target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split(if self.semicolons { &['&', ';'][..] } else { &['&'][..] });
        self.read(pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decoded(name, self.decodes), decoded(value, self.decodes))
        }))
    }

    fn headers(self, sent: &Sent) -> BTreeMap<String, String> {
        let nominated = |name: &str| {
            let mut named = sent.headers.iter().filter(|(name, _)| name == "connection");
            self.removes_nominated && named.any(|(_, value)| value.split(',').any(|it| it.trim() == name))
        };
        let kept = sent.headers.iter().filter(|(name, _)| !nominated(name));
        // Header names have no letter case; some servers read `_` for `-`.
        self.read(kept.cloned())
    }

    fn host(self, sent: &Sent) -> Option<String> {
        let host = sent.host.as_deref().or(self.default_host)?.to_lowercase();
        let name = host.split(':').next().unwrap().to_owned();
        Some(if self.names > 0 { name.trim_end_matches('.').to_owned() } else { name })
    }

    /// Whether this server reads the request as meeting the conditions.
    fn meets(self, conditions: &Conditions, read: &Read) -> bool {
        let Read { host, query, headers } = read;
        let host = conditions.host().is_none_or(|wanted| {
            let wanted = wanted.to_string();
            host.as_ref().is_some_and(|host| match wanted.strip_prefix('*') {
                Some(parent) => host.ends_with(parent),
                None => *host == wanted,
            })
        });
        let wanted = |it: &str| if (1..4).contains(&self.values) { it.to_lowercase() } else { it.to_owned() };
        let is = |read: &BTreeMap<String, String>, name: &str, value: &str| {
            read.get(&self.name(name)).is_some_and(|it| *it == wanted(value))
        };
        host && conditions.query().iter().all(|it| is(query, it.name(), it.value()))
            && conditions.headers().iter().all(|it| is(headers, it.name().as_str(), it.value()))
    }

    /// The route that this server would find by the rules, in a scan over all of them.
    fn find(self, routes: &[Route], sent: &Sent) -> Option<String> {
        let read =
            Read { host: self.host(sent), query: self.query(&sent.target), headers: self.headers(sent) };
        let best = routes.iter().filter(|route| {
            let path = sent.target.split('?').next().unwrap();
            self.meets(&route.conditions, &read)
                && naive(std::slice::from_ref(*route), &sent.method, path).is_some()
        });
        best.max_by_key(|route| rank(route)).map(|route| route.name.to_string())
    }
}

/// The order of two routes that match one request, from their texts; the closer one is greater.
fn rank(route: &Route) -> (Vec<u8>, bool, usize, (u8, usize), usize, usize) {
    let text = route.pattern.as_str();
    let (methods, path) = text.split_once(' ').unwrap_or(("", text));
    let mut path: Vec<u8> = path
        .split('/')
        .filter(|it| !it.is_empty())
        .map(|piece| match piece {
            "**" => 0,
            piece if piece.starts_with('{') => 2,
            _ => 3,
        })
        .collect();
    if path.last() != Some(&0) {
        path.push(1);
    }
    let methods = if methods.is_empty() { 0 } else { 100 - methods.split(',').count() };
    let conditions = &route.conditions;
    let host =
        conditions.host().map(ToString::to_string).map_or((0, 0), |host| match host.strip_prefix("*.") {
            Some(parent) => (1, parent.split('.').count()),
            None => (2, 0),
        });
    (path, route.case_sensitive, methods, host, conditions.query().len(), conditions.headers().len())
}

fn some_conditions() -> impl Strategy<Value = Conditions> {
    let host =
        prop::sample::select(vec!["", "", "", "img.example", "*.example", "*.img.example", "api.example"]);
    let size = prop::sample::select(vec!["", "", "large", "small"]);
    let tier = prop::sample::select(vec!["", "", "gold", "tin"]);
    let (color, kind) = (prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    (host, size, tier, color, kind).prop_map(|(host, size, tier, color, kind)| {
        let mut query = Vec::new();
        query.extend((!size.is_empty()).then_some(("size", size)));
        query.extend(color.then_some(("color", "red")));
        let mut headers = Vec::new();
        headers.extend((!tier.is_empty()).then_some(("x-tier", tier)));
        headers.extend(kind.then_some(("x-kind", "a")));
        conditions(host, &query, &headers)
    })
}

/// Routes that can stand beside each other: the later of two that cannot is left out.
fn some_conditional_routes() -> impl Strategy<Value = Vec<Route>> {
    let text = prop::sample::select(vec![
        "/a",
        "/a",
        "/a",
        "GET /a",
        "GET,POST /a",
        "POST,PUT /a",
        "/{x}",
        "/a/**",
        "/**",
    ]);
    prop::collection::vec((text, some_conditions(), any::<bool>()), 1..12).prop_map(|all| {
        let mut kept: Vec<Route> = Vec::new();
        for (index, (text, conditions, free)) in all.into_iter().enumerate() {
            let name = RouteName::new(&format!("route {index}"));
            kept.push(Route { name, conditions, ..route(text, free, false) });
            if PriceTable::new(kept.clone()).is_err() {
                kept.pop();
            }
        }
        kept
    })
}

const PARAMETERS: [&str; 32] = [
    "size=large",
    "size=large",
    "size=small",
    "size=small",
    "size=LARGE",
    "Size=large",
    "size=%6Carge",
    "size=",
    "size",
    "q=1",
    "size=large,small",
    "size=small%2Clarge",
    "size[]=large",
    "si%7Ae=small",
    "size=+large",
    "color=red",
    "color=red",
    "color=blue",
    "c%6flor=red",
    "size=large%00",
    "size=sm%2561ll",
    "size%00=large",
    "%2573ize=large",
    "size=%22small%22",
    "size=medium",
    "SIZE[0]=small",
    "q=size%3Dlarge",
    "s-ize=large",
    "size=small%20",
    "=large",
    "size=%",
    "color",
];
const HEADERS: [(&str, &str); 16] = [
    ("x-tier", "gold"),
    ("x-tier", "gold"),
    ("x-tier", "tin"),
    ("x-tier", "Gold"),
    ("x_tier", "gold"),
    ("x-tier", "tin, gold"),
    ("x-tier", "gold;a"),
    ("x-tier", ""),
    ("x-kind", "a"),
    ("x-kind", "a"),
    ("x-kind", "\"a\""),
    ("x-kind", "b"),
    ("connection", "x-tier"),
    ("connection", "close, x-kind"),
    ("xkind", "a"),
    ("x-other", "gold"),
];
const HOSTS: [Option<&str>; 10] = [
    Some("img.example"),
    Some("img.example"),
    Some("IMG.example:80"),
    Some("img.example."),
    None,
    Some("api.example"),
    Some("x.img.example"),
    Some("other.invalid"),
    Some("img.example.evil.invalid"),
    Some("x.example:8402"),
];

fn some_request() -> impl Strategy<Value = Sent> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT"]);
    let path = prop::sample::select(vec!["/a", "/a", "/a", "/b", "/a/b"]);
    let host = prop::sample::select(HOSTS.to_vec());
    let query =
        prop::collection::vec((prop::sample::select(PARAMETERS.to_vec()), prop::bool::weighted(0.1)), 0..4);
    let headers = prop::collection::vec(prop::sample::select(HEADERS.to_vec()), 0..3);
    (method, path, host, query, headers).prop_map(|(method, path, host, query, headers)| {
        let mut target = path.to_owned();
        for (index, (pair, semicolon)) in query.iter().enumerate() {
            target.push(if index == 0 {
                '?'
            } else if *semicolon {
                ';'
            } else {
                '&'
            });
            target.push_str(pair);
        }
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Sent { method: method.to_owned(), host: host.map(str::to_owned), target, headers }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The heart of it: a request that is not refused has the same route for every server that may read it.
    #[test]
    fn whoever_reads_a_request_finds_the_same_route(routes in some_conditional_routes(), sent in some_request()) {
        let table = PriceTable::new(routes.clone()).unwrap();
        let Ok(found) = sent.found(&table) else { return Ok(()) };
        for reader in READERS.iter() {
            prop_assert_eq!(reader.find(&routes, &sent), found.clone(), "{:?}", reader);
        }
    }

    /// A request that nobody could read in two ways is not refused.
    #[test]
    fn a_plain_request_is_never_refused(
        routes in some_conditional_routes(),
        size in prop::sample::select(vec!["", "?size=large", "?size=small&q=Size", "?size=medium", "?color=red&size=large"]),
        tier in prop::sample::select(vec!["", "gold", "tin", "none"]),
        host in prop::sample::select(vec!["img.example", "IMG.example:80", "a.example", "[::1]"]),
    ) {
        let table = PriceTable::new(routes.clone()).unwrap();
        let mut sent = Sent::get(host, &format!("/a{size}"));
        if !tier.is_empty() {
            sent = sent.header("x-tier", tier);
        }
        let exact = Reader {
            semicolons: false, decodes: 2, names: 0, of_several: 0, values: 0, removes_nominated: false, default_host: None,
        };
        prop_assert_eq!(sent.found(&table), Ok(exact.find(&routes, &sent)));
    }

    /// The order is total: of two routes that match one request, one is closer, and always the same.
    #[test]
    fn every_request_has_one_winner_whatever_the_order_of_the_file(
        (routes, shuffled) in some_conditional_routes().prop_flat_map(|it| (Just(it.clone()), Just(it).prop_shuffle())),
        sent in some_request(),
    ) {
        let (table, other) = (PriceTable::new(routes.clone()).unwrap(), PriceTable::new(shuffled).unwrap());
        prop_assert_eq!(sent.found(&table).is_err(), sent.found(&other).is_err());
        if let (Ok(one), Ok(two)) = (sent.found(&table), sent.found(&other)) {
            prop_assert_eq!(one, two);
        }
        let target = CanonicalTarget::parse(&sent.target).unwrap();
        let host = sent.host.as_deref().and_then(RequestHost::read);
        let head = RequestHead { method: &sent.method, host: host.as_ref(), target: &target, headers: None };
        let met: Vec<_> = table.candidates(&head).into_iter().filter(|it| it.met == Met::Yes).collect();
        for pair in met.windows(2) {
            let (winner, loser) = (pair[0].route, pair[1].route);
            prop_assert!(rank(winner) > rank(loser), "{} {}", winner, loser);
            let why = winner.precedence_over(loser);
            prop_assert_ne!(why.to_string(), String::new());
        }
    }

    #[test]
    fn no_bytes_make_a_condition_panic(query in "[ -~]{0,40}", value in any::<Vec<u8>>(), host in any::<String>()) {
        let table = PriceTable::new(vec![
            with("/**", "a.example", &[("size", "large")], &[("x-tier", "gold")]), with("/**", "", &[], &[]),
        ]).unwrap();
        let mut headers = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&value) {
            headers.insert("x-tier", value);
        }
        if let Ok(target) = CanonicalTarget::parse(&format!("/a?{query}")) {
            let host = RequestHost::read(&host);
            let head = RequestHead { method: "GET", host: host.as_ref(), target: &target, headers: Some(&headers) };
            drop(format!("{:?}", table.find(&head)));
        }
        drop((HostPattern::parse(&query), QueryCondition::read(&query, &query), HeaderCondition::read(&query, &query)));
    }
}
