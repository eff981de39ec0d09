//! Derived tokens: less than what a payment bought, to hand on. What they may do is judged here as a function of
//! values; the modules below talk to a whole gateway.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use blake2::Blake2bMac;
use blake2::digest::consts::U16;
use blake2::digest::{KeyInit, Mac};
use faregate::nano::{BlockHash, UnixSeconds};
use faregate::payment::capability::{Capability, CapabilityId, Token};
use faregate::payment::derived::{
    self, DeriveError, Derived, MAX_RESTRICTION_BYTES, MAX_RESTRICTIONS, NotOpened, Restriction, Thumbprint,
    Unreadable,
};
use faregate::payment::{MacKey, MacKeys};
use faregate::routes::{CanonicalTarget, Pattern, RouteName};
use proptest::prelude::*;
use proptest::sample::{Index, select};

mod gateway;
mod keys;

const BODY: usize = 37;

fn mac_keys() -> MacKeys {
    MacKeys::new(MacKey::from_bytes([1; 32]), None)
}

fn bought() -> Token {
    let capability = Capability {
        id: CapabilityId::of_payment(BlockHash([0xAB; 32])),
        route: RouteName::new("chat"),
        uses: 5,
        expires_at: UnixSeconds(1000),
    };
    Token::issue(&mac_keys(), &capability)
}

fn requests(pattern: &str) -> Restriction {
    Restriction::Requests(Pattern::parse(pattern).unwrap())
}

fn until(second: u64) -> Restriction {
    Restriction::Until(UnixSeconds(second))
}

fn derive(token: &Token, restrictions: &[Restriction]) -> Token {
    derived::derive(token.expose(), restrictions).unwrap()
}

fn recognise(token: &str) -> Result<Derived, NotOpened> {
    derived::recognise(&mac_keys(), token)
}

fn opens(token: &Token, method: &str, path: &str, now: u64) -> Result<(), NotOpened> {
    let target = CanonicalTarget::parse(path).unwrap();
    recognise(token.expose()).unwrap().admits(method, &target, UnixSeconds(now))
}

/// As another program would do it, with steps that this crate does not make.
fn by_hand(token: &str, steps: &[(u8, &[u8])]) -> String {
    let bytes = URL_SAFE_NO_PAD.decode(token).unwrap();
    let (body, mac) = bytes.split_at(bytes.len() - 16);
    let (mut body, mut mac) = (body.to_vec(), mac.to_vec());
    for (kind, value) in steps {
        let step = [&[*kind, u8::try_from(value.len()).unwrap()], *value].concat();
        let mut next = Blake2bMac::<U16>::new_from_slice(&mac).unwrap();
        next.update(b"faregate child 1");
        next.update(&step);
        mac = next.finalize().into_bytes().to_vec();
        body.extend(step);
    }
    URL_SAFE_NO_PAD.encode([body, mac].concat())
}

#[test]
fn a_derived_token_opens_only_what_all_its_restrictions_let_pass() {
    let token =
        derive(&bought(), &[until(500), requests("GET,POST /v1/chat/**"), requests("POST /v1/{kind}/a")]);
    assert_eq!(opens(&token, "POST", "/v1/chat/a?q=1", 499), Ok(()));
    assert_eq!(opens(&token, "POST", "/v1/chat/a", 500), Err(NotOpened::Late(500)));
    for (method, path) in [
        ("GET", "/v1/chat/a"),
        ("DELETE", "/v1/chat/a"),
        ("POST", "/v1/chat/b"),
        ("POST", "/v1/chat/a/b"),
        ("POST", "/v1/chat"),
        ("POST", "/v1/other/a"),
        // Letter case and the trailing slash count, whatever the route says.
        ("POST", "/v1/Chat/a"),
        ("POST", "/v1/chat/a/"),
    ] {
        assert!(matches!(opens(&token, method, path, 1), Err(NotOpened::Elsewhere(_))), "{method} {path}");
    }
    let read = recognise(token.expose()).unwrap();
    assert_eq!(read.expires_at(), UnixSeconds(500));
    assert_eq!((read.claim().uses, read.claim().is_for(&RouteName::new("chat"))), (5, true));
    assert!(!read.claim().is_for(&RouteName::new("other")));
    assert_eq!(
        recognise(derive(&bought(), &[until(2000)]).expose()).unwrap().expires_at(),
        UnixSeconds(1000)
    );
    let open = derive(&bought(), &[requests("/v1/**")]);
    for path in ["/v1", "/v1/", "/v1/x", "/v1/%78/"] {
        assert_eq!(opens(&open, "HEAD", path, 1), Ok(()), "{path}");
    }
    assert_eq!(opens(&derive(&bought(), &[requests("GET /")]), "HEAD", "/?a", 1), Ok(()));
    assert!(opens(&derive(&bought(), &[requests("GET /")]), "GET", "/a", 1).is_err());
}

#[test]
fn another_program_makes_the_same_token() {
    let parent = bought();
    let token = derive(&parent, &[until(500), requests("GET /v1/**"), Restriction::Key(Thumbprint([7; 32]))]);
    let same = by_hand(parent.expose(), &[(1, &500_u64.to_be_bytes()), (2, b"GET /v1/**"), (5, &[7; 32])]);
    assert_eq!(token.expose(), same);
    assert_eq!(
        by_hand(
            &by_hand(parent.expose(), &[(1, &500_u64.to_be_bytes())]),
            &[(2, b"GET /v1/**"), (5, &[7; 32])]
        ),
        same
    );
}

/// The tokens that the clients guide shows, which another program can be tried with.
#[test]
fn the_tokens_of_the_guide_are_made_like_that() {
    let guide =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/src/guide/clients.md")).unwrap();
    let (_, section) = guide.split_once("\n## Handing on less\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    let tokens: Vec<_> = section.split("```text\n").skip(1).filter_map(|it| it.lines().next()).collect();
    let [parent, child, grandchild] = tokens.as_slice() else { panic!("{tokens:?}") };
    let made = |token: &str, with: &[Restriction]| derived::derive(token, with).unwrap().expose().to_owned();
    assert_eq!(made(parent, &[until(1_800_000_600), requests("POST /v1/chat/**")]), **child);
    let key: Thumbprint = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k".parse().unwrap();
    assert_eq!(made(child, &[Restriction::Key(key)]), **grandchild);
    assert!(section.contains("(1, (1800000600).to_bytes(8, \"big\")), (2, b\"POST /v1/chat/**\")"));
    assert!(section.contains(&format!("(5, decode(\"{key}\"))")));
    assert!(section.contains("b\"faregate child 1\" + step, key=mac, digest_size=16"));
}

#[test]
fn a_restriction_that_is_not_known_is_refused_and_not_passed_over() {
    let (parent, end) = (bought(), 500_u64.to_be_bytes());
    type Steps<'a> = Vec<(u8, &'a [u8])>;
    let unknown: [(Steps<'_>, Unreadable); 4] = [
        (vec![(1, &end), (9, b"x")], Unreadable::Kind(9)),
        (vec![(0, b"")], Unreadable::Kind(0)),
        (vec![(3, &[0, 0, 0, 1])], Unreadable::Limit),
        (vec![(4, &[0; 16]), (1, &end)], Unreadable::Limit),
    ];
    for (steps, why) in unknown {
        let token = by_hand(parent.expose(), &steps);
        assert_eq!(recognise(&token).unwrap_err(), NotOpened::Unreadable(why));
        assert!(derived::inspect(&token).unwrap().restrictions.iter().any(Result::is_err));
    }
    let wrong: [(u8, &[u8]); 7] = [
        (1, &end[1..]),
        (5, &[7; 31]),
        (2, b"v1/**"),
        (2, b"get /v1"),
        (2, b"/v1/../x"),
        (2, b"/v1?q=1"),
        (2, &[0xff]),
    ];
    for (kind, value) in wrong {
        let token = by_hand(parent.expose(), &[(kind, value)]);
        let unreadable = recognise(&token).unwrap_err();
        assert!(
            matches!(unreadable, NotOpened::Unreadable(Unreadable::Value { kind: it, .. }) if it == kind)
        );
    }
}

#[test]
fn a_token_has_so_many_restrictions_and_no_more() {
    let parent = bought();
    let most = derive(&parent, &vec![until(500); MAX_RESTRICTIONS]);
    assert!(recognise(most.expose()).is_ok());
    assert_eq!(derived::derive(most.expose(), &[until(1)]), Err(DeriveError::TooMany));
    assert_eq!(derived::derive(parent.expose(), &[]), Err(DeriveError::NoRestriction));
    for none in ["", "a", &parent.expose()[1..], &"A".repeat(71), &"A".repeat(9999)] {
        assert_eq!(derived::derive(none, &[until(1)]), Err(DeriveError::NoToken), "{none}");
    }
    // 254 bytes of text and two before them, twice.
    let long = requests(&format!("/{}", "a".repeat(253)));
    let longest = derive(&parent, &[long.clone(), long]);
    assert_eq!(URL_SAFE_NO_PAD.decode(longest.expose()).unwrap().len(), BODY + MAX_RESTRICTION_BYTES + 16);
    assert!(recognise(longest.expose()).is_ok());
    assert_eq!(derived::derive(longest.expose(), &[until(1)]), Err(DeriveError::TooMany));
    let too_long = requests(&format!("/{}", "a".repeat(255)));
    assert_eq!(derived::derive(parent.expose(), &[too_long]), Err(DeriveError::PatternTooLong));
    // One who does not keep to it gets nothing for it.
    let more = by_hand(most.expose(), &[(1, &500_u64.to_be_bytes())]);
    let longer = by_hand(longest.expose(), &[(2, b"/**")]);
    for token in [more, longer, "A".repeat(16_000)] {
        assert_eq!(recognise(&token).unwrap_err(), NotOpened::Unknown);
    }
}

#[test]
fn a_token_is_verified_with_both_keys_and_no_other() {
    let token = derive(&bought(), &[until(500)]);
    let of = |active, previous| {
        let keys = MacKeys::new(MacKey::from_bytes(active), Some(MacKey::from_bytes(previous)));
        derived::recognise(&keys, token.expose()).is_ok()
    };
    assert_eq!((of([1; 32], [2; 32]), of([2; 32], [1; 32]), of([2; 32], [3; 32])), (true, true, false));
    let sent = format!(" {} ; remaining=3; expires=9", token.expose());
    assert_eq!(recognise(&sent).unwrap().token(), &token);
    assert_eq!(format!("{:?}", recognise(&sent).unwrap().token()), "Token(****)");
}

#[test]
fn what_a_payment_bought_is_no_derived_token_and_looks_like_none() {
    let bought = bought();
    assert_eq!(recognise(bought.expose()).unwrap_err(), NotOpened::Unknown);
    assert!(derived::inspect(bought.expose()).unwrap().restrictions.is_empty());
    for (text, may_be) in [
        (bought.expose().to_owned(), false),
        (format!("{}; remaining=3", bought.expose()), false),
        (format!("{} ;x", bought.expose()), false),
        (derive(&bought, &[until(1)]).expose().to_owned(), true),
        (String::new(), false),
    ] {
        assert_eq!(derived::may_be(&text), may_be, "{text}");
    }
}

/// The text of a step, as it stands in a token.
fn step(restriction: &Restriction) -> Vec<u8> {
    let bytes =
        URL_SAFE_NO_PAD.decode(derive(&bought(), std::slice::from_ref(restriction)).expose()).unwrap();
    bytes[BODY..bytes.len() - 16].to_vec()
}

fn a_restriction() -> impl Strategy<Value = Restriction> {
    let patterns = select(vec![
        "/**",
        "/a",
        "/a/",
        "/a/**",
        "/a/{x}",
        "/{x}/b",
        "GET /**",
        "GET,POST /a/**",
        "POST /{x}",
        "/A/b",
    ]);
    prop_oneof![(0..12_u64).prop_map(until), patterns.prop_map(requests)]
}

fn some(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Restriction>> {
    proptest::collection::vec(a_restriction(), count)
}

proptest! {
    #[test]
    fn what_is_derived_opens_no_more_than_what_it_was_derived_from(
        first in some(1..5),
        second in some(1..5),
        method in select(vec!["GET", "HEAD", "POST"]),
        path in select(vec!["/", "/a", "/a/", "/a/b", "/A/b", "/a/b/c", "/b"]),
        now in 0..12_u64,
    ) {
        let parent = derive(&bought(), &first);
        let child = derive(&parent, &second);
        let whole = [first.clone(), second.clone()].concat();
        prop_assert_eq!(&child, &derive(&bought(), &whole));
        let opened = |token: &Token| opens(token, method, path, now).is_ok();
        let aunt = derive(&bought(), &second);
        prop_assert_eq!(opened(&child), opened(&parent) && opened(&aunt));
        let ends = [&parent, &child].map(|it| recognise(it.expose()).unwrap().expires_at());
        prop_assert!(ends[1] <= ends[0]);
        let read = recognise(child.expose()).unwrap();
        prop_assert_eq!(read.restrictions(), whole);
    }

    #[test]
    fn the_order_of_restrictions_is_nothing(
        restrictions in some(2..6).prop_flat_map(|it| (Just(it.clone()), Just(it).prop_shuffle())),
        method in select(vec!["GET", "POST"]),
        path in select(vec!["/", "/a", "/a/b", "/A/b"]),
        now in 0..12_u64,
    ) {
        let (one, other) = restrictions;
        let [one, other] = [one, other].map(|it| derive(&bought(), &it));
        prop_assert_eq!(opens(&one, method, path, now).is_ok(), opens(&other, method, path, now).is_ok());
    }

    #[test]
    fn a_restriction_cannot_be_taken_away_or_widened(
        restrictions in some(1..6),
        kept in any::<Vec<bool>>(),
        (place, bit) in (any::<Index>(), 0..8_u8),
        (cut, more) in (any::<Index>(), proptest::collection::vec(any::<u8>(), 0..20)),
        with in 0..4_u8,
    ) {
        let parent = URL_SAFE_NO_PAD.decode(bought().expose()).unwrap();
        let token = derive(&bought(), &restrictions);
        let bytes = URL_SAFE_NO_PAD.decode(token.expose()).unwrap();
        let mac = &bytes[bytes.len() - 16..];
        let mut bent = bytes.clone();
        match with {
            0 => bent[place.index(bytes.len())] ^= 1 << bit,
            1 => bent.truncate(cut.index(bytes.len())),
            // Some steps, with the last MAC or that of the token before.
            2 => {
                let steps: Vec<u8> = restrictions
                    .iter()
                    .zip(kept.iter().copied().chain(std::iter::repeat(false)))
                    .filter(|(_, kept)| *kept)
                    .flat_map(|(it, _)| step(it))
                    .collect();
                let mac = if bit % 2 == 0 { mac } else { &parent[BODY..] };
                bent = [&parent[..BODY], &steps, mac].concat();
            }
            _ => {
                let at = BODY + cut.index(bytes.len() - BODY);
                bent.splice(at..at, more.iter().copied());
            }
        }
        let text = URL_SAFE_NO_PAD.encode(&bent);
        let is_same = bent == bytes;
        prop_assert_eq!(recognise(&text).is_ok(), is_same, "{:?}", bent);
    }

    #[test]
    fn some_steps_are_never_enough(restrictions in some(2..6), mask in any::<u64>()) {
        let parent = bought();
        let token = derive(&parent, &restrictions);
        let bytes = URL_SAFE_NO_PAD.decode(token.expose()).unwrap();
        let steps: Vec<_> = restrictions.iter().map(step).collect();
        let kept: Vec<u8> =
            steps.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1).flat_map(|(_, it)| it.clone()).collect();
        let whole = kept == bytes[BODY..bytes.len() - 16];
        let bent = [&bytes[..BODY], &kept, &bytes[bytes.len() - 16..]].concat();
        prop_assert_eq!(recognise(&URL_SAFE_NO_PAD.encode(bent)).is_ok(), whole);
    }
}

#[test]
fn a_text_of_any_bytes_is_no_token() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let bytes = proptest::collection::vec(any::<u8>(), 0..700);
    runner
        .run(&bytes, |bytes| {
            let mut bytes = bytes;
            if let Some(first) = bytes.first_mut() {
                *first = 1;
            }
            let text = URL_SAFE_NO_PAD.encode(&bytes);
            prop_assert!(recognise(&text).is_err());
            if let Some(said) = derived::inspect(&text) {
                prop_assert!(said.restrictions.len() <= MAX_RESTRICTIONS);
            }
            Ok(())
        })
        .unwrap();
}
