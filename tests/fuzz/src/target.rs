//! Request targets: what is matched is what is forwarded, and no server reads it in another way.

use std::sync::{Arc, LazyLock};

use faregate::nano::Raw;
use faregate::routes::{
    Access, BodyRule, CanonicalTarget, ChargeOn, Conditions, Found, Grants, MAX_PATH, MAX_QUERY, Metering,
    Pattern, PriceTable, RefundRule, RequestHead, Route, RouteName, Standing, Terms, UpstreamName,
};

/// The routes, the most specific first among those that match one path.
const ROUTES: [(&str, bool); 12] = [
    // Of equal paths, the case-sensitive one comes first.
    ("/a/b/C", true),
    ("/a/b/c", false),
    ("/a/{x}/c", false),
    ("/a/b/**", false),
    ("/a/{x}", false),
    ("GET /a", false),
    ("/a", false),
    ("/Été/ſecret/**", false),
    ("/%E2%84%AA/{y}/", true),
    ("/a%20b/ΑΣ", false),
    ("/", false),
    ("POST /**", false),
];

fn route(pattern: &str, case_sensitive: bool) -> Route {
    let pattern = Pattern::parse(pattern).expect(pattern);
    let grants = Grants::of_requests(std::num::NonZeroU32::MIN, 60);
    Route {
        name: RouteName::new(pattern.as_str()),
        standing: Arc::new(Standing::new(&pattern, &Conditions::default(), Vec::new())),
        pattern,
        conditions: Conditions::default(),
        access: Access::Priced(Terms { amount: Raw::new(1), grants }.into()),
        strip: None,
        upstream: UpstreamName::new("one"),
        description: String::new(),
        mime_type: String::new(),
        hidden: false,
        charge_on: ChargeOn::default(),
        metering: Metering::default(),
        refund: RefundRule::default(),
        payment_identifier: None,
        preflight: None,
        body: BodyRule::default(),
        case_sensitive,
        meter: None,
        rules: None,
    }
}

/// Patterns are percent-encoded, as a request is.
fn encoded(pattern: &str) -> String {
    pattern.chars().map(|it| if it.is_ascii() { it.to_string() } else { escaped(&it.to_string()) }).collect()
}

static TABLE: LazyLock<PriceTable> = LazyLock::new(|| {
    let routes = ROUTES.iter().map(|(pattern, case_sensitive)| route(&encoded(pattern), *case_sensitive));
    PriceTable::new(routes.collect()).expect("routes that differ")
});

/// A target that is accepted has one spelling, which means the same as the one that came, to a decoder
/// that is written here and to the `url` crate; and every spelling of it has the same route.
pub fn run(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let target = match CanonicalTarget::parse(text) {
        Ok(target) => target,
        Err(why) => {
            assert!(!is_plain(text), "{text:?} is refused: {why}");
            return;
        }
    };
    check(text, &target);
}

/// Checks what was read of `text`.
pub fn check(text: &str, target: &CanonicalTarget) {
    let (path, query) = text.split_once('?').map_or((text, None), |(path, query)| (path, Some(query)));
    assert!(path.len() <= MAX_PATH && query.is_none_or(|it| it.len() <= MAX_QUERY));
    assert_eq!(target.query(), query, "the query is changed");
    let whole = query.map_or_else(|| target.path().to_owned(), |it| format!("{}?{it}", target.path()));
    assert_eq!(target.as_str(), whole);
    assert!(whole.bytes().all(|it| it.is_ascii_graphic()), "{whole:?}");
    assert_eq!(CanonicalTarget::parse(&whole).as_ref(), Ok(target), "not its own canonical form");
    // The segments that came, decoded once, are the segments that are forwarded, decoded once.
    let came: Vec<_> = path.split('/').map(decoded).collect();
    let sent: Vec<_> = target.path().split('/').map(decoded).collect();
    assert_eq!(came, sent, "{text:?} is forwarded as {target}");
    for (index, segment) in sent.iter().enumerate() {
        assert!(is_harmless(segment), "{segment:?}");
        assert!(!segment.is_empty() || index == 0 || index + 1 == sent.len(), "an empty segment");
        let again = decoded(&String::from_utf8_lossy(segment));
        assert_eq!(again, *segment, "a server that decodes twice sees another path");
    }
    check_by_url(target);
    check_route(target, &sent);
}

/// The `url` crate, which removes dot segments and turns backslashes, finds nothing to change.
fn check_by_url(target: &CanonicalTarget) {
    let url = url::Url::parse(&format!("http://h{target}")).expect("a URL");
    assert_eq!(url.host_str(), Some("h"));
    assert_eq!(decoded(url.path()), decoded(target.path()));
    assert_eq!(url.path().split('/').count(), target.path().split('/').count());
    assert_eq!(url.fragment(), None);
    assert_eq!(url.query().is_some(), target.query().is_some());
    // `http` refuses some characters of a query, such as `<`. Then Pingora has refused the request before.
    if let Ok(uri) = target.as_str().parse::<http::Uri>() {
        assert_eq!(uri.path_and_query().map(http::uri::PathAndQuery::as_str), Some(target.as_str()));
    }
}

fn check_route(target: &CanonicalTarget, segments: &[Vec<u8>]) {
    for method in ["GET", "HEAD", "post", "DELETE"] {
        let found = named(TABLE.find(&RequestHead::new(method, target)));
        assert_eq!(found, expected(method, segments), "{method} {target}");
        // Any other spelling of the same path.
        let all: Vec<_> = segments.iter().map(|it| escaped_bytes(it)).collect();
        let all = all.join("/");
        if all.len() > MAX_PATH {
            continue; // three characters for a byte can be more than a path may have
        }
        let other = CanonicalTarget::parse(&all).unwrap_or_else(|why| panic!("{all:?}: {why}"));
        assert_eq!(named(TABLE.find(&RequestHead::new(method, &other))), found);
        assert_eq!(decoded(other.path()), decoded(target.path()));
    }
}

fn named(found: Found<'_>) -> Option<String> {
    match found {
        Found::Route(route) => Some(route.name.as_str().to_owned()),
        Found::Unmatched | Found::Unclear(_) => None,
    }
}

/// The route by its definition: try all, keep the one that comes first by the rules.
fn expected(method: &str, segments: &[Vec<u8>]) -> Option<String> {
    let text = |it: &Vec<u8>| String::from_utf8(it.clone()).expect("UTF-8");
    let mut path: Vec<_> = segments.iter().skip(1).map(text).collect();
    let has_slash = path.len() > 1 && path.last().is_some_and(String::is_empty);
    if path.last().is_some_and(String::is_empty) {
        path.pop();
    }
    let matching = ROUTES.iter().filter(|(pattern, case_sensitive)| {
        let (own_method, pattern) =
            pattern.split_once(' ').map_or((None, *pattern), |(method, path)| (Some(method), path));
        let admits = own_method.is_none_or(|own| {
            own.eq_ignore_ascii_case(method) || (own == "GET" && method.eq_ignore_ascii_case("HEAD"))
        });
        admits && covers(pattern, *case_sensitive, &path, has_slash)
    });
    matching.map(|(pattern, _)| encoded(pattern)).next()
}

fn covers(pattern: &str, case_sensitive: bool, path: &[String], has_slash: bool) -> bool {
    let mut parts: Vec<_> = pattern.split('/').skip(1).collect();
    let is_open = parts.last() == Some(&"**");
    let ends_in_slash = parts.len() > 1 && parts.last() == Some(&"");
    if is_open || parts.last() == Some(&"") {
        parts.pop();
    }
    let fits = if is_open { path.len() >= parts.len() } else { path.len() == parts.len() };
    let is_same = |part: &&str, segment: &String| {
        let part = String::from_utf8(decoded(part)).expect("UTF-8");
        part.starts_with('{')
            || if case_sensitive { part == *segment } else { caseless(&part) == caseless(segment) }
    };
    fits && parts.iter().zip(path).all(|(part, segment)| is_same(part, segment))
        && (!case_sensitive || is_open || has_slash == ends_in_slash)
}

/// As a server compares that ignores letter case: by capital letters, or by small ones.
fn caseless(text: &str) -> String {
    let one = |mut it: Box<dyn Iterator<Item = char>>, or: char| match (it.next(), it.next()) {
        (Some(only), None) => only,
        _ => or,
    };
    let fold = |it: char| {
        let upper = one(Box::new(it.to_uppercase()), it);
        one(Box::new(upper.to_lowercase()), upper)
    };
    text.chars().map(fold).collect()
}

fn decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let pair = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let digits = pair.filter(|it| it.iter().all(u8::is_ascii_hexdigit));
        match digits.and_then(|it| std::str::from_utf8(it).ok()) {
            Some(digits) => {
                out.push(u8::from_str_radix(digits, 16).expect("two digits"));
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    out
}

/// Every byte encoded.
fn escaped(text: &str) -> String {
    escaped_bytes(text.as_bytes())
}

fn escaped_bytes(bytes: &[u8]) -> String {
    bytes.iter().map(|it| format!("%{it:02x}")).collect()
}

/// Whether no server takes a decoded segment for something else.
fn is_harmless(segment: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(segment) else { return false };
    text != "."
        && text != ".."
        && !text.contains(['/', '\\', ';'])
        && !text.chars().any(char::is_control)
        && text.trim() == text
}

/// Whether nobody can misread this target.
fn is_plain(text: &str) -> bool {
    let path = text.strip_prefix('/').unwrap_or("//");
    let is_segment =
        |it: &str| !it.is_empty() && it.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-');
    text.len() < MAX_PATH && path.split('/').all(is_segment)
}
