//! The edges of the rules of the price table: the last value that is accepted, the first that is not,
//! and what an operator reads about precedence. Each of these once passed unnoticed when it was wrong.

use std::collections::BTreeMap;

use faregate::routes::{BillForm, CallFault, CallPrices, Lines, MAX_SEGMENTS, Precedence, Price, Quote};

use super::*;

#[test]
fn a_path_and_a_query_of_exactly_the_limit_are_read() {
    let path = format!("/{}", "a".repeat(MAX_PATH - 1));
    assert_eq!(CanonicalTarget::parse(&path).unwrap().path(), path);
    let query = "q".repeat(MAX_QUERY);
    assert_eq!(CanonicalTarget::parse(&format!("/?{query}")).unwrap().query(), Some(query.as_str()));
}

#[test]
fn what_must_be_encoded_is_read_encoded() {
    for target in ["/a%23b", "/a%20b", "/%C3%A9"] {
        let read = CanonicalTarget::parse(target).unwrap();
        assert_eq!(read.as_str(), target);
        assert_eq!(format!("{read:?}"), format!("CanonicalTarget({target:?})"));
    }
}

#[test]
fn a_pattern_longer_than_any_path_is_refused() {
    let longest = format!("/{}", "a".repeat(MAX_PATH - 1));
    assert!(Pattern::parse(&longest).is_ok());
    let deep = |segments| Pattern::parse(&"/a".repeat(segments)).map(drop);
    assert_eq!((deep(MAX_SEGMENTS), deep(MAX_SEGMENTS + 1)), (Ok(()), Err(PatternError::TooDeep)));
    for more in [1, 2, 100] {
        let text = format!("{longest}{}", "a".repeat(more));
        assert_eq!(Pattern::parse(&text), Err(PatternError::Path(NotCanonical::PathTooLong)));
    }
}

#[test]
fn each_rule_charges_up_to_its_own_status() {
    let charged = |rule: ChargeOn| [200, 399, 400, 499, 500, 599].map(|status| rule.charges(status));
    assert_eq!(charged(ChargeOn::Below500), [true, true, true, true, false, false]);
    assert_eq!(charged(ChargeOn::Below400), [true, true, false, false, false, false]);
    assert_eq!(charged(ChargeOn::Answered), [true; 6]);
}

/// The root has no segment, so a sample of its path must be made of its slash alone.
#[test]
fn a_request_with_another_method_is_found_below_every_kind_of_path() {
    for text in ["GET /", "GET /a", "GET /a/", "GET /a/{name}", "GET /a/**"] {
        let table = PriceTable::new(vec![route(text, false, true), route("/**", false, false)]).unwrap();
        let found = table.find_other_method(&table.routes()[0]);
        assert!(matches!(found, Found::Route(route) if route.pattern.as_str() == "/**"), "{text}");
    }
}

#[test]
fn precedence_is_explained_by_the_first_segment_that_differs() {
    let explained =
        |winner: &str, loser: &str| route(winner, false, false).precedence_over(&route(loser, false, false));
    for (winner, loser, number, better, worse) in [
        ("/a", "/a/**", 2, "the end of the path", "**"),
        ("/a/b", "/a/{x}", 2, "b", "{name}"),
        ("/{x}", "/**", 1, "{name}", "**"),
        ("/a/b", "/a/**", 2, "b", "**"),
    ] {
        let (better, worse) = (better.to_owned(), worse.to_owned());
        assert_eq!(explained(winner, loser), Precedence::Segment { number, winner: better, loser: worse });
    }
    assert_eq!(explained("GET /a", "/a"), Precedence::Method);
    assert_eq!(
        route("/a", false, true).precedence_over(&route("GET /a", false, false)),
        Precedence::CaseSensitive
    );
    let both = route("GET /a", false, true).precedence_over(&route("/a", false, true));
    assert_eq!(both, Precedence::Method, "both are case-sensitive");
    let sentence = explained("/a", "/a/**").to_string();
    assert_eq!(sentence, "in segment 2, `the end of the path` is closer than `**`");
}

/// A price list of tools, the price of each the number of its place.
fn tools(lines: &[&str]) -> CallPrices {
    let prices = lines.iter().zip(1..).map(|(line, raw)| ((*line).to_owned(), Price::Costs(Raw::new(raw))));
    CallPrices {
        bound: 1000,
        grants: Grants::of_requests(NonZeroU32::MIN, 60),
        methods: Lines::default(),
        tools: Lines::new(prices.collect::<BTreeMap<_, _>>()),
        otherwise: Price::Refused,
        bills: BillForm::Http,
    }
}

/// The raw that a call of the tool costs, or the line of which it is only a misspelling.
fn cost(prices: &CallPrices, tool: &str) -> Result<u128, String> {
    let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}"}}}}"#);
    match prices.quote(body.as_bytes()) {
        Ok(Quote::Costs { amount, .. }) => Ok(amount.get()),
        Ok(Quote::Free) => Ok(0),
        Err(CallFault::Spelling { listed, .. }) => Err(listed),
        Err(fault) => Err(fault.to_string()),
    }
}

#[test]
fn of_two_beginnings_the_longer_sets_the_price_whatever_their_order() {
    // `!` is before `*` in the order of the list, every letter behind it.
    assert_eq!(cost(&tools(&["a!*", "a*"]), "a!b"), Ok(1));
    assert_eq!(cost(&tools(&["a*", "ab*"]), "abc"), Ok(2));
    assert_eq!(cost(&tools(&["a*", "ab*"]), "acc"), Ok(1));
}

#[test]
fn a_misspelt_line_counts_only_if_it_is_closer_than_the_line_that_covers_the_name() {
    assert_eq!(cost(&tools(&["GE*", "get_*"]), "get_x"), Ok(2), "the misspelt one is shorter");
    assert_eq!(cost(&tools(&["GET_*", "get_*"]), "get_x"), Ok(2), "or as long");
    assert_eq!(cost(&tools(&["GET_*", "ge*"]), "get_x"), Err("GET_*".to_owned()), "it is longer");
    assert_eq!(cost(&tools(&["GET_X", "get_*"]), "get_x"), Err("GET_X".to_owned()), "it is the whole name");
    assert_eq!(cost(&tools(&["GET", "get_*"]), "get_x"), Ok(2), "it is another name");
    assert_eq!(
        cost(&tools(&["AB*", "Ab*"]), "abx"),
        Err("AB*".to_owned()),
        "the first of two that are as long"
    );
    assert_eq!(cost(&tools(&["AB*", "ABX*"]), "abxy"), Err("ABX*".to_owned()), "the longer of two");
}

#[test]
fn a_name_of_exactly_the_limit_is_read_and_a_longer_one_is_shown_from_its_beginning() {
    let longest = "n".repeat(128);
    assert_eq!(cost(&tools(&["n*"]), &longest), Ok(1));
    let message = cost(&tools(&["n*"]), &format!("{longest}n")).unwrap_err();
    assert!(message.contains(&format!("{:?} is not a name", "n".repeat(40))), "{message}");
}

#[test]
fn an_empty_list_says_so() {
    assert!(Lines::default().is_empty());
    assert!(!tools(&["a"]).tools.is_empty());
}

#[test]
fn a_name_says_which_purse_a_payment_adds_to_and_no_other_part_does() {
    let route = RouteName::new("POST /v1/chat");
    let adding = route.adding_to([0xab; 16]);
    assert_eq!(adding.as_str(), format!("POST /v1/chat#+{}", "ab".repeat(16)));
    assert_eq!((adding.adds_to(), adding.without_purse()), (Some([0xab; 16]), route.clone()));
    assert_eq!((adding.configured(), adding.label()), (route.as_str(), route.as_str()));
    assert_eq!(adding.adding_to([1; 16]), route.adding_to([1; 16]), "there is one at most");
    let formerly = RouteName::new("chat").with_part_of(&adding);
    assert_eq!(formerly.adds_to(), adding.adds_to());
    for part in [
        "tool:a",
        "+",
        "+abab",
        &format!("+{}", "g".repeat(32)),
        &format!("+{}", "a".repeat(34)),
        "method:+x",
    ] {
        let other = route.part(part);
        assert_eq!((other.adds_to(), other.without_purse()), (None, other.clone()), "{part}");
    }
}
