//! The price table: canonical requests, patterns, precedence, and that no spelling escapes a price.

mod conditions;
mod edges;

use std::num::NonZeroU32;

use faregate::nano::Raw;
use faregate::routes::{
    AbsoluteTarget, Access, BodyRule, CanonicalTarget, ChargeOn, Conditions, Found, Grants, MAX_PATH,
    MAX_QUERY, Metering, NotCanonical, Pattern, PatternError, PriceTable, RefundRule, RequestHead, Route,
    RouteName, TableFault, Terms, UpstreamName,
};
use proptest::prelude::*;

fn route(text: &str, free: bool, case_sensitive: bool) -> Route {
    let terms = Terms { amount: Raw::new(1), grants: Grants::of_requests(NonZeroU32::MIN, 60) };
    Route {
        name: RouteName::new(&format!("{text} {case_sensitive}")),
        standing: std::sync::Arc::default(),
        pattern: Pattern::parse(text).unwrap(),
        access: if free { Access::Free } else { Access::Priced(terms.into()) },
        conditions: Conditions::default(),
        strip: None,
        upstream: UpstreamName::new("api"),
        description: String::new(),
        mime_type: String::new(),
        hidden: false,
        charge_on: ChargeOn::default(),
        refund: RefundRule::default(),
        metering: Metering::default(),
        payment_identifier: None,
        preflight: None,
        body: BodyRule::default(),
        case_sensitive,
        meter: None,
        rules: None,
    }
}

fn table(patterns: &[&str]) -> PriceTable {
    PriceTable::new(patterns.iter().map(|it| route(it, false, false)).collect()).unwrap()
}

fn found<'a>(table: &'a PriceTable, method: &str, path: &str) -> Option<&'a str> {
    match table.find(&RequestHead::new(method, &CanonicalTarget::parse(path).unwrap())) {
        Found::Route(route) => Some(route.pattern.as_str()),
        Found::Unmatched => None,
        Found::Unclear(why) => panic!("{why}"),
    }
}

#[test]
fn what_servers_read_differently_is_refused() {
    use NotCanonical as Not;
    let long_path = format!("/{}", "a".repeat(MAX_PATH));
    let long_query = format!("/?{}", "a".repeat(MAX_QUERY + 1));
    for (target, expected) in [
        ("", Not::NoLeadingSlash),
        ("a/b", Not::NoLeadingSlash),
        ("?a", Not::NoLeadingSlash),
        ("*", Not::Asterisk),
        ("//", Not::EmptySegment),
        ("//a", Not::EmptySegment),
        ("/a//b", Not::EmptySegment),
        ("/a//", Not::EmptySegment),
        ("/.", Not::DotSegment),
        ("/a/..", Not::DotSegment),
        ("/a/../b", Not::DotSegment),
        ("/a/./b", Not::DotSegment),
        ("/a/%2e%2E/b", Not::DotSegment),
        ("/a/.%2e/b", Not::DotSegment),
        ("/a%2fb", Not::EncodedSlash),
        ("/a%2Fb", Not::EncodedSlash),
        ("/a\\b", Not::Backslash),
        ("/a%5cb", Not::Backslash),
        ("/a;b", Not::Parameter),
        ("/a%3Bb", Not::Parameter),
        ("/..;/a", Not::Parameter),
        ("/a#b", Not::Fragment),
        ("/a?b#c", Not::Fragment),
        ("/a%00", Not::Control),
        ("/a\u{1}", Not::Control),
        ("/a%0d%0aX: y", Not::Control),
        ("/a%7f", Not::Control),
        ("/a%C2%85", Not::Control),
        ("/a?b\tc", Not::Control),
        ("/a b", Not::Space),
        ("/a?b c", Not::Space),
        ("/a%", Not::BadPercent),
        ("/a%2", Not::BadPercent),
        ("/a%zz", Not::BadPercent),
        ("/a%u002f", Not::BadPercent),
        ("/a%+1", Not::BadPercent),
        ("/a%252f", Not::EncodedTwice),
        ("/a%25%32%66", Not::EncodedTwice),
        ("/a%25%32f", Not::EncodedTwice),
        ("/a%20", Not::SpaceAtEnd),
        ("/%20a/b", Not::SpaceAtEnd),
        ("/a%c2%a0/b", Not::SpaceAtEnd),
        ("/caf\u{e9}", Not::NotAscii),
        ("/a?caf\u{e9}", Not::NotAscii),
        ("/a%c0%af", Not::NotUtf8),
        ("/a%ff", Not::NotUtf8),
        (&long_path, Not::PathTooLong),
        (&long_query, Not::QueryTooLong),
    ] {
        assert_eq!(CanonicalTarget::parse(target), Err(expected), "{target:?}");
    }
}

#[test]
fn the_rest_has_one_spelling() {
    for (target, expected) in [
        ("/", "/"),
        ("/a", "/a"),
        ("/a/", "/a/"),
        ("/%61%2D%2e%5f%7E", "/a-._~"),
        ("/a%c3%a9", "/a%C3%A9"),
        ("/a%20b", "/a%20b"),
        ("/a%2cb,c", "/a%2Cb,c"),
        ("/a[1]|{x}", "/a%5B1%5D%7C%7Bx%7D"),
        ("/100%25", "/100%25"),
        ("/...", "/..."),
        ("/a?b=%2f..//;%zz", "/a?b=%2f..//;%zz"),
        ("/a?", "/a?"),
        ("/a?b?c", "/a?b?c"),
    ] {
        let canonical = CanonicalTarget::parse(target).unwrap();
        assert_eq!(canonical.as_str(), expected, "{target:?}");
        assert_eq!(canonical.query(), expected.split_once('?').map(|it| it.1));
        assert_eq!(canonical.path(), expected.split('?').next().unwrap());
    }
}

#[test]
fn an_absolute_target_is_taken_apart() {
    let split =
        |text| AbsoluteTarget::split(text).map(|it| (it.secure, it.authority, it.target.into_owned()));
    assert_eq!(split("http://a:80/b?c"), Some((false, "a:80", "/b?c".to_owned())));
    assert_eq!(split("HTTPS://a"), Some((true, "a", "/".to_owned())));
    assert_eq!(split("http://a?b"), Some((false, "a", "/?b".to_owned())));
    assert_eq!(split("/http://a"), None);
    assert_eq!(split("ftp://a/b"), None);
    // What browsers would read as a slash stays in the target, where it is refused.
    assert_eq!(split("http://a\\b"), Some((false, "a", "\\b".to_owned())));
}

#[test]
fn bad_patterns_are_refused() {
    use PatternError as Bad;
    let path = |it| Bad::Path(it);
    for (text, expected) in [
        ("", Bad::Form),
        ("v1", Bad::Form),
        ("GET", Bad::Form),
        ("get /v1", Bad::Method("get".to_owned())),
        ("HEAD /v1", Bad::Head),
        ("/v1?a", Bad::Query),
        ("/**/a", Bad::OpenInside),
        ("/a/**/", Bad::OpenInside),
        ("/a*", Bad::Star),
        ("/a**", Bad::Star),
        ("/*", Bad::Star),
        ("/v{x}", Bad::Placeholder("v{x}".to_owned())),
        ("/{}", Bad::Placeholder("{}".to_owned())),
        ("/{x", Bad::Placeholder("{x".to_owned())),
        ("/{x}/{x}", Bad::NameTwice("x".to_owned())),
        ("//", path(NotCanonical::EmptySegment)),
        ("//**", path(NotCanonical::EmptySegment)),
        ("/a//b", path(NotCanonical::EmptySegment)),
        ("/a//**", path(NotCanonical::EmptySegment)),
        ("/a/../b", path(NotCanonical::DotSegment)),
        ("/a;b", path(NotCanonical::Parameter)),
        ("/a%2fb", path(NotCanonical::EncodedSlash)),
        ("/a#b", path(NotCanonical::Fragment)),
        ("/caf\u{e9}", path(NotCanonical::NotAscii)),
        (&"/a".repeat(65), Bad::TooDeep),
    ] {
        assert_eq!(Pattern::parse(text), Err(expected), "{text:?}");
    }
}

#[test]
fn the_closest_match_wins_whatever_the_order() {
    let mut patterns = vec![
        "/**", "/a/**", "/a/{x}/c", "/a/b/{y}", "/a/b/c", "/{x}", "GET /{x}", "/a/b/**", "/{x}/b/c", "/",
    ];
    for _ in 0..patterns.len() {
        patterns.rotate_left(1);
        let table = table(&patterns);
        for (method, path, expected) in [
            ("GET", "/", "/"),
            ("POST", "/q", "/{x}"),
            ("GET", "/q", "GET /{x}"),
            ("HEAD", "/q", "GET /{x}"),
            ("get", "/q", "GET /{x}"),
            ("GET", "/a", "/a/**"),
            ("GET", "/a/b", "/a/b/**"),
            ("GET", "/a/b/c", "/a/b/c"),
            ("GET", "/a/b/d", "/a/b/{y}"),
            ("GET", "/a/x/c", "/a/{x}/c"),
            ("GET", "/a/x/d", "/a/**"),
            ("GET", "/a/b/c/d", "/a/b/**"),
            ("GET", "/x/b/c", "/{x}/b/c"),
            ("GET", "/x/b/d", "/**"),
        ] {
            assert_eq!(found(&table, method, path), Some(expected), "{method} {path}");
        }
    }
}

#[test]
fn every_spelling_finds_the_one_route() {
    let table = table(&["/api/chat", "/deep/**", "/caf%C3%A9", "/a,b"]);
    for path in ["/api/chat", "/API/Chat/", "/%61pi/%63hat", "/api/chat?x", "/%41PI/chat/"] {
        assert_eq!(found(&table, "GET", path), Some("/api/chat"), "{path}");
    }
    for path in ["/deep", "/deep/", "/DEEP/a/b"] {
        assert_eq!(found(&table, "GET", path), Some("/deep/**"), "{path}");
    }
    assert_eq!(found(&table, "GET", "/CAF%C3%89"), Some("/caf%C3%A9"));
    assert_eq!(found(&table, "GET", "/a%2cb"), Some("/a,b"));
    assert_eq!(found(&table, "GET", "/api"), None);
    assert_eq!(found(&table, "GET", "/api/chat/x"), None);
    assert_eq!(found(&table, "GET", "/deeper"), None);
}

#[test]
fn a_case_sensitive_route_means_what_it_says() {
    let routes = vec![route("/Api/{x}", false, true), route("/slash/", false, true)];
    let table = PriceTable::new(routes).unwrap();
    assert_eq!(found(&table, "GET", "/Api/Q"), Some("/Api/{x}"));
    assert_eq!(found(&table, "GET", "/%41pi/Q"), Some("/Api/{x}"));
    assert_eq!(found(&table, "GET", "/api/Q"), None);
    assert_eq!(found(&table, "GET", "/Api/Q/"), None);
    assert_eq!(found(&table, "GET", "/slash/"), Some("/slash/"));
    assert_eq!(found(&table, "GET", "/slash"), None);
}

#[test]
fn equals_and_aliases_are_faults() {
    let faults = |routes: Vec<Route>| {
        PriceTable::new(routes).map(|_| ()).map_err(|it| {
            assert_eq!(it.len(), 1, "{it:?}");
            it[0]
        })
    };
    let equal = Err(TableFault::Equal { first: 0, second: 1 });
    let alias = Err(TableFault::Alias { free: 0, priced: 1 });
    for (one, two, case_sensitive) in [
        ("/a", "/A/", false),
        ("/a/{x}", "/a/{y}", false),
        ("GET /~a", "GET /%7ea", false),
        ("/a/**", "/A/**", false),
        ("/a,b", "/a%2Cb", false),
        ("/a", "/%61", true),
    ] {
        let pair = vec![route(one, false, case_sensitive), route(two, true, case_sensitive)];
        assert_eq!(faults(pair), equal, "{one} {two}");
    }
    // (free, is it case-sensitive), (priced, is it case-sensitive)
    for (free, priced) in [
        (("/API", true), ("/api", false)),
        (("/api", false), ("/API", true)),
        (("/API", true), ("/api", true)),
        (("/api/", true), ("/api", true)),
        (("GET /API", true), ("/api", false)),
        (("/API/v1", true), ("/api/{x}", false)),
        (("/API/{x}", true), ("/{x}/v1", false)),
        (("/**", false), ("/Api", true)),
        (("/Api", true), ("/**", false)),
        (("/{x}", true), ("/{x}", false)),
    ] {
        let pair = vec![route(free.0, true, free.1), route(priced.0, false, priced.1)];
        assert_eq!(faults(pair), alias, "{free:?} {priced:?}");
    }
    for (free, priced) in [
        (("GET /API", true), ("POST /api", false)),
        (("/Api/x", true), ("/api/y", true)),
        (("/api/health", false), ("/Api/**", true)),
        (("GET /a", false), ("/a", false)),
    ] {
        let pair = vec![route(free.0, true, free.1), route(priced.0, false, priced.1)];
        assert_eq!(faults(pair), Ok(()), "{free:?} {priced:?}");
    }
    let same_name = vec![
        route("/a", true, false),
        Route { name: RouteName::new("/a false"), ..route("/b", true, false) },
    ];
    assert_eq!(faults(same_name), Err(TableFault::SameName { first: 0, second: 1 }));
}

#[test]
fn many_routes_are_found_all_the_same() {
    let routes = (0..20_000).map(|n| route(&format!("/v1/{}/item-{n}/{{x}}", n % 7), false, false)).collect();
    let table = PriceTable::new(routes).unwrap();
    for n in [0, 1, 9_999, 19_999] {
        let path = format!("/v1/{}/ITEM-{n}/q", n % 7);
        assert_eq!(found(&table, "GET", &path), Some(format!("/v1/{}/item-{n}/{{x}}", n % 7).as_str()));
    }
}

/// The rules once more, as a list of what to compare: from the texts, over all routes.
fn naive<'a>(routes: &'a [Route], method: &str, path: &str) -> Option<&'a str> {
    let slash = path.len() > 1 && path.ends_with('/');
    let parts: Vec<_> = path.split('/').filter(|it| !it.is_empty()).collect();
    let mut best: Option<(Vec<u8>, bool, bool, &str)> = None;
    for route in routes {
        let text = route.pattern.as_str();
        let (wanted, pattern) = text.split_once(' ').map_or((None, text), |(method, it)| (Some(method), it));
        if wanted.is_some_and(|it| it.split(',').all(|it| it != method)) {
            continue;
        }
        let pieces: Vec<_> = pattern.split('/').filter(|it| !it.is_empty()).collect();
        let open = pieces.last() == Some(&"**");
        let fixed = pieces.len() - usize::from(open);
        if parts.len() < fixed || (!open && parts.len() > fixed) {
            continue;
        }
        let sensitive = route.case_sensitive;
        if sensitive && !open && slash != (pattern.len() > 1 && pattern.ends_with('/')) {
            continue;
        }
        let mut ranks = Vec::new();
        let mut covers = true;
        for (piece, part) in pieces[..fixed].iter().zip(&parts) {
            if piece.starts_with('{') {
                ranks.push(2);
            } else {
                covers &= if sensitive { piece == part } else { piece.eq_ignore_ascii_case(part) };
                ranks.push(3);
            }
        }
        ranks.push(u8::from(!open));
        let key = (ranks, sensitive, wanted.is_some(), text);
        if covers && best.as_ref().is_none_or(|it| (&it.0, it.1, it.2) < (&key.0, key.1, key.2)) {
            best = Some(key);
        }
    }
    best.map(|it| it.3)
}

fn some_route() -> impl Strategy<Value = Route> {
    let piece = prop::sample::select(vec!["a", "A", "b", "aB", "{}"]);
    let method = prop::sample::select(vec!["", "GET ", "POST "]);
    let end = prop::sample::select(vec!["", "", "/", "/**"]);
    let shape = (method, prop::collection::vec(piece, 0..4), end);
    (shape, any::<bool>(), prop::bool::weighted(0.3)).prop_map(|((method, pieces, end), free, sensitive)| {
        let mut path = String::new();
        for (index, piece) in pieces.iter().enumerate() {
            path.push('/');
            path.push_str(&if *piece == "{}" { format!("{{p{index}}}") } else { (*piece).to_owned() });
        }
        path.push_str(end);
        if path.is_empty() {
            path.push('/');
        }
        route(&format!("{method}{path}"), free, sensitive)
    })
}

/// Routes that can stand beside each other: the later of two that cannot is left out.
fn some_routes() -> impl Strategy<Value = Vec<Route>> {
    prop::collection::vec(some_route(), 1..14).prop_map(|routes| {
        let mut kept: Vec<Route> = Vec::new();
        for route in routes {
            kept.push(route);
            if PriceTable::new(kept.clone()).is_err() {
                kept.pop();
            }
        }
        kept
    })
}

fn some_path() -> impl Strategy<Value = String> {
    let part = prop::sample::select(vec!["a", "A", "b", "B", "ab", "aB", "c"]);
    (prop::collection::vec(part, 0..5), any::<bool>()).prop_map(|(parts, slash)| {
        let mut path: String = parts.iter().map(|it| format!("/{it}")).collect();
        if slash || path.is_empty() {
            path.push('/');
        }
        path
    })
}

#[test]
fn what_other_servers_sell_is_told_from_every_route_and_from_one_another() {
    let long = format!("https://shop.example/{}", "a".repeat(200));
    let resources =
        ["https://shop.example/a", "https://shop.example/a/", "#a", "caf\u{e9}", "a b", "", &long];
    let names = resources.map(RouteName::of_foreign);
    for (index, name) in names.iter().enumerate() {
        assert!(name.is_foreign() && name.as_str().len() <= 200, "{name}");
        assert!(name.as_str().bytes().all(|it| it.is_ascii_graphic()), "{name}");
        assert_eq!(name.label(), "foreign:", "no label comes from a caller");
        assert!(!names[..index].contains(name), "{name}");
    }
    assert_eq!(names[0].as_str(), "foreign:https://shop.example/a");
    // A resource that is called like the hash of another is hashed itself.
    let hash = names[6].as_str().strip_prefix("foreign:").unwrap();
    assert_ne!(RouteName::of_foreign(hash), names[6]);
    let own = RouteName::new("GET /v1/quote");
    assert!(!own.is_foreign() && own.label() == "GET /v1/quote");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn the_index_agrees_with_a_scan(routes in some_routes(), path in some_path(), post in any::<bool>()) {
        let method = if post { "POST" } else { "GET" };
        let table = PriceTable::new(routes.clone()).unwrap();
        prop_assert_eq!(found(&table, method, &path), naive(&routes, method, &path));
    }

    #[test]
    fn no_spelling_of_a_priced_path_is_free(
        routes in some_routes(),
        path in some_path(),
        flips in prop::collection::vec((any::<bool>(), any::<bool>()), 16),
        slash in any::<bool>(),
    ) {
        let table = PriceTable::new(routes).unwrap();
        let mut alias = String::new();
        for (character, (flip, encode)) in path.trim_end_matches('/').chars().zip(flips) {
            let other = if character.is_ascii_lowercase() { character.to_ascii_uppercase() } else { character.to_ascii_lowercase() };
            let character = if flip { other } else { character };
            if encode && character != '/' {
                alias.push_str(&format!("%{:02x}", character as u32));
            } else {
                alias.push(character);
            }
        }
        if slash || alias.is_empty() {
            alias.push('/');
        }
        let access = |method: &str, path: &str| match table.find(&RequestHead::new(method, &CanonicalTarget::parse(path).unwrap())) {
            Found::Route(route) => Some(route.access.is_free()),
            Found::Unmatched | Found::Unclear(_) => None,
        };
        if access("GET", &path) == Some(false) {
            for method in ["GET", "HEAD", "get"] {
                prop_assert_ne!(access(method, &alias), Some(true), "{} {}", method, alias);
            }
        }
    }

    #[test]
    fn a_canonical_target_stays_as_it_is(target in "/[ -~]{0,24}") {
        if let Ok(canonical) = CanonicalTarget::parse(&target) {
            let again = CanonicalTarget::parse(canonical.as_str()).unwrap();
            prop_assert_eq!(again, canonical);
        }
    }

    #[test]
    fn parsing_never_panics(target in any::<String>(), pattern in any::<String>()) {
        drop(CanonicalTarget::parse(&target));
        drop(Pattern::parse(&pattern));
        drop(AbsoluteTarget::split(&target));
    }
}
