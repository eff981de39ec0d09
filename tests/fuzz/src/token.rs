//! Capabilities and challenges: only what was minted with the key is recognised, exactly as it was minted.

use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::sync::LazyLock;

use arbitrary::{Result, Unstructured};
use faregate::nano::{Account, BlockHash, Raw, UnixSeconds};
use faregate::payment::address_pool::AddressPool;
use faregate::payment::capability::{self, Capability, CapabilityId, Token};
use faregate::payment::challenge::{Challenge, Offer};
use faregate::payment::derived::{self, NotOpened, Restriction, Thumbprint};
use faregate::payment::{MacKey, MacKeys, Mechanism, Nonce, Refusal};
use faregate::routes::{CanonicalTarget, Grants, Pattern, RouteName, Terms};
use faregate::x402::{PaymentRequirements, SessionId, Track, WorkPolicy, WorkTerms};

const OWN: [u8; 32] = [3; 32];

static KEYS: LazyLock<MacKeys> = LazyLock::new(|| MacKeys::new(MacKey::from_bytes(OWN), None));
static ROTATED: LazyLock<MacKeys> =
    LazyLock::new(|| MacKeys::new(MacKey::from_bytes([4; 32]), Some(MacKey::from_bytes(OWN))));
static OTHER: LazyLock<MacKeys> =
    LazyLock::new(|| MacKeys::new(MacKey::from_bytes([4; 32]), Some(MacKey::from_bytes([5; 32]))));

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    if *kind >= 0xc0 {
        return drop(handed_on(&mut Unstructured::new(rest)));
    }
    match kind % 4 {
        0 => presented(rest),
        1 => drop(token(&mut Unstructured::new(rest))),
        2 => drop(challenge(&mut Unstructured::new(rest))),
        _ => session(rest),
    }
}

/// Whatever is presented: what is recognised is a token that this key issues.
fn presented(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let id = capability::id_in(text);
    // Nobody can make one without the key.
    assert!(derived::recognise(&KEYS, text).is_err());
    let _said = derived::inspect(text);
    for (route, now) in [("quote", 0), ("", u64::MAX - 1)] {
        let Ok(found) = capability::recognise(&KEYS, text, &RouteName::new(route), UnixSeconds(now)) else {
            continue;
        };
        let issued = Token::issue(&KEYS, &found);
        assert_eq!(issued.expose(), text.split(';').next().unwrap_or_default().trim());
        assert_eq!(id, Some(found.id));
        assert!(found.expires_at.0 > now && found.route.as_str() == route);
    }
}

fn a_restriction(given: &mut Unstructured<'_>) -> Result<Restriction> {
    Ok(match given.int_in_range(0..=2)? {
        0 => Restriction::Until(UnixSeconds(given.arbitrary()?)),
        1 => Restriction::Key(Thumbprint(given.arbitrary()?)),
        _ => {
            let text = given.arbitrary::<&str>()?;
            Restriction::Requests(
                Pattern::parse(text).or_else(|_| Pattern::parse("/a/**")).expect("a pattern"),
            )
        }
    })
}

/// A derived token says what it was made with, and nothing else is one.
fn handed_on(given: &mut Unstructured<'_>) -> Result<()> {
    let (block, expires_at) = (BlockHash(given.arbitrary()?), UnixSeconds(given.arbitrary()?));
    let (place, mark) = (given.int_in_range(0..=999)?, given.arbitrary::<u8>()?);
    let route = a_name(given)?;
    let id = CapabilityId::of_payment(block);
    let bought =
        Token::issue(&KEYS, &Capability { id, route: route.clone(), uses: given.arbitrary()?, expires_at });
    let mut restrictions = vec![a_restriction(given)?];
    while given.arbitrary()? {
        restrictions.push(a_restriction(given)?);
    }
    let Ok(token) = derived::derive(bought.expose(), &restrictions) else { return Ok(()) };
    let text = token.expose();
    assert!(derived::may_be(text) && !derived::may_be(bought.expose()));
    let found = derived::recognise(&KEYS, text).expect("its own");
    assert_eq!((found.restrictions(), found.token()), (restrictions.as_slice(), &token));
    assert!(found.claim().id == id && found.claim().is_for(&route) && found.expires_at() <= expires_at);
    assert_eq!(derived::recognise(&ROTATED, text).expect("the previous key").token(), &token);
    assert_eq!(derived::recognise(&OTHER, text).expect_err("other keys"), NotOpened::Unknown);
    let target = CanonicalTarget::parse("/a/b").expect("canonical");
    for now in [UnixSeconds(0), expires_at] {
        let parts = restrictions.iter().map(|it| derived::derive(bought.expose(), std::slice::from_ref(it)));
        let parts = parts.map(|it| derived::recognise(&KEYS, it.expect("one").expose()).expect("its own"));
        let all = parts.into_iter().all(|it| it.admits("GET", &target, now).is_ok());
        assert_eq!(found.admits("GET", &target, now).is_ok(), all);
    }
    let mut wrong = text.as_bytes().to_vec();
    match (wrong.get_mut(place), mark % 3) {
        (Some(character), 0 | 1) => *character = mark & 0x7f,
        (Some(_), _) => drop(wrong.remove(place)),
        (None, _) => wrong.push(mark & 0x7f),
    }
    let wrong = String::from_utf8(wrong).expect("ASCII");
    let read = wrong.split(';').next().unwrap_or_default().trim();
    assert_eq!(derived::recognise(&KEYS, &wrong).is_ok(), read == text, "{wrong:?} for {text}");
    Ok(())
}

fn a_name(given: &mut Unstructured<'_>) -> Result<RouteName> {
    Ok(RouteName::new(given.arbitrary::<&str>()?))
}

fn token(given: &mut Unstructured<'_>) -> Result<()> {
    let block = BlockHash(given.arbitrary()?);
    let (uses, expires_at) = (given.arbitrary()?, UnixSeconds(given.arbitrary()?));
    let (place, mark, end) =
        (given.int_in_range(0..=71)?, given.arbitrary::<u8>()?, given.int_in_range(0..=71)?);
    let (route, other) = (a_name(given)?, a_name(given)?);
    let minted = Capability { id: CapabilityId::of_payment(block), route: route.clone(), uses, expires_at };
    let issued = Token::issue(&KEYS, &minted);
    let text = issued.expose();
    assert!(text.len() == 71 && text.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it)));
    let before = UnixSeconds(expires_at.0.saturating_sub(1));
    let recognise = |keys, text: &str, route, now| capability::recognise(keys, text, route, now);
    let expected = if expires_at.0 == 0 { Err(Refusal::CapabilityExpired) } else { Ok(minted) };
    let sent = format!(" {text} ; remaining=3; expires=1");
    assert_eq!(recognise(&KEYS, text, &route, before), expected);
    assert_eq!(recognise(&KEYS, &sent, &route, before), expected);
    assert_eq!(recognise(&ROTATED, text, &route, before), expected, "the previous key");
    assert_eq!(recognise(&OTHER, text, &route, before), Err(Refusal::CapabilityUnknown), "other keys");
    assert_eq!(recognise(&KEYS, text, &route, expires_at), Err(Refusal::CapabilityExpired));
    assert_eq!(recognise(&KEYS, text, &other, expires_at) == Err(Refusal::WrongResource), route != other);
    assert_eq!(capability::id_in(text), Some(CapabilityId::of_payment(block)));
    // Any character replaced, left out or added.
    let mut wrong = text.as_bytes().to_vec();
    match (wrong.get_mut(place), mark % 4) {
        (Some(character), 0 | 1) => *character = mark & 0x7f,
        (Some(_), 2) => drop(wrong.remove(place)),
        (_, 3) => wrong.truncate(end),
        _ => wrong.insert(place, mark & 0x7f),
    }
    let wrong = String::from_utf8(wrong).expect("ASCII");
    let read = wrong.split(';').next().unwrap_or_default().trim();
    let is_real = recognise(&KEYS, &wrong, &route, before) != Err(Refusal::CapabilityUnknown);
    assert_eq!(is_real, read == text, "{wrong:?} for {text}");
    assert_eq!(format!("{issued:?}"), "Token(****)");
    Ok(())
}

fn an_offer(given: &mut Unstructured<'_>) -> Result<Offer> {
    let requests = NonZeroU32::new(given.arbitrary()?).unwrap_or(NonZeroU32::MIN);
    Ok(Offer {
        exchange: None,
        mechanism: *given.choose(&Mechanism::ALL)?,
        terms: Terms {
            amount: Raw::new(given.arbitrary()?),
            grants: Grants::of_requests(requests, given.arbitrary()?),
        },
        pay_to: Account(given.arbitrary()?),
        valid_before: UnixSeconds(given.arbitrary()?),
        route: a_name(given)?,
    })
}

/// A pool that has the address of the offer, and one that is of another deployment.
fn pools(offer: &Offer, seed: Account) -> (AddressPool, AddressPool) {
    let list = || AddressPool::new(vec![offer.pay_to], vec![offer.pay_to]).with_sessions(vec![offer.pay_to]);
    let other = Account(std::array::from_fn(|at| seed.0[at] ^ u8::from(at == 0)));
    (list().of_seed_with(seed), list().of_seed_with(other))
}

fn challenge(given: &mut Unstructured<'_>) -> Result<()> {
    let (random, seed) = (given.arbitrary()?, Account(given.arbitrary()?));
    let (part, bit) = (given.int_in_range(0..=8)?, given.int_in_range(0..=255)?);
    let offer = an_offer(given)?;
    let (pool, other_pool) = pools(&offer, seed);
    let minted = Challenge::mint(&KEYS, &pool, random, offer.clone());
    let recognise = |keys, pool, nonce, offer| Challenge::recognise(keys, pool, nonce, offer);
    assert_eq!(recognise(&KEYS, &pool, minted.nonce(), offer.clone()).as_ref(), Ok(&minted));
    assert_eq!(recognise(&ROTATED, &pool, minted.nonce(), offer.clone()).as_ref(), Ok(&minted));
    assert!(recognise(&OTHER, &pool, minted.nonce(), offer.clone()).is_err());
    assert!(recognise(&KEYS, &other_pool, minted.nonce(), offer.clone()).is_err(), "another deployment");
    let (mut changed, mut nonce) = (offer.clone(), minted.nonce());
    let one_bit = 1 << (bit % 32);
    match part {
        0 => nonce.0[bit / 8] ^= 1 << (bit % 8),
        1 => changed.terms.amount = Raw::new(offer.terms.amount.get() ^ 1 << (bit % 128)),
        2 => {
            changed.terms.grants =
                Grants::of_count(offer.terms.grants.count() ^ one_bit, offer.terms.grants.seconds)
        }
        3 => changed.terms.grants.seconds ^= 1 << (bit % 64),
        4 => changed.valid_before.0 ^= 1 << (bit % 64),
        5 => changed.pay_to.0[bit / 8] ^= 1 << (bit % 8),
        6 => changed.route = RouteName::new(&format!("{}x", offer.route)),
        7 => changed.route = RouteName::new(&offer.route.as_str().chars().skip(1).collect::<String>()),
        _ => changed.mechanism = Mechanism::ALL[bit % 3],
    }
    let is_same = changed == offer && nonce == minted.nonce();
    assert_eq!(recognise(&KEYS, &pool, nonce, changed).is_ok(), is_same, "part {part}, bit {bit}");
    let now = offer.valid_before;
    assert!(!minted.has_expired(UnixSeconds(now.0.saturating_sub(1))) || now.0 == 0);
    check_wire(&minted, &pool)
}

/// The entry of a 402 gives the challenge back, also after another JSON library wrote it.
fn check_wire(minted: &Challenge, pool: &AddressPool) -> Result<()> {
    let work = WorkTerms { policy: WorkPolicy::Optional, threshold: faregate::nano::Threshold(u64::MAX) };
    let entry = minted.requirements(60, work);
    let is_payable = minted.due().checked_sub(minted.offer().terms.amount).is_some();
    let read = PaymentRequirements::read(&entry.to_json());
    if let Track::NanoSession(terms) = entry.extra.track
        && terms.amount() != Some(entry.amount)
    {
        // A price that cannot be paid with its tag.
        assert!(read.is_err());
        return Ok(());
    }
    let read = read.expect("its own entry");
    assert_eq!(read, entry);
    let amount = match read.extra.track {
        Track::NanoSession(terms) => terms.price,
        Track::NanoTxn { .. } | Track::NanoSignature => read.amount,
    };
    assert!(is_payable && amount == minted.offer().terms.amount);
    let nonce = Nonce(read.extra.challenge);
    assert!(Challenge::recognise(&KEYS, pool, nonce, minted.offer().clone()).is_ok());
    if let Some(session) = entry.session() {
        let again: SessionId = session.to_string().parse().expect("its own text");
        assert_eq!(again, session);
        assert_eq!(again.route(std::iter::empty()).as_ref(), Some(&minted.offer().route));
        assert_eq!((again.nonce, again.pay_to, again.price), (nonce.0, minted.offer().pay_to, amount));
    }
    let entries = BTreeSet::from([entry.to_json().to_string(), read.to_json().to_string()]);
    assert_eq!(entries.len(), 1);
    Ok(())
}

/// The identifier of a session has one spelling.
fn session(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(session) = text.parse::<SessionId>() {
        assert_eq!(session.to_string(), text);
        let nobodys = faregate::routes::RouteName::new("a route that nobody has");
        assert!(session.route(std::iter::empty()) != Some(nobodys));
        assert_eq!(format!("{session:?}"), "SessionId(****)");
    }
}
