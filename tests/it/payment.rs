//! The payment rules as functions of values: what no exchange over the network shows, and what one
//! shows only by waiting.

use faregate::nano::{
    Account, BlockHash, Network, NetworkError, Raw, Representative, SecretKey, Signature, StateBlock,
    UnixSeconds, noms_digest,
};
use faregate::payment::address_pool::{AddressPool, INDEXES_PER_MECHANISM};
use faregate::payment::capability::{Capability, CapabilityId, CapabilityText, Token};
use faregate::payment::challenge::{Challenge, Offer};
use faregate::payment::derived::{self, Restriction};
use faregate::payment::nano_signature::{self, SignatureEvidence};
use faregate::payment::{BlockFacts, Confirmed, MacKey, MacKeys, Mechanism, Purchase, Refusal, Seen};
use faregate::routes::{Grants, MAX_QUERY, RouteName, Terms};
use faregate::x402::{MAX_HEADER_BYTES, MAX_RESPONSE_HEADERS_BYTES};

const PRICE: Raw = Raw::new(100);
const TREASURY: Account = Account([7; 32]);

fn keys() -> MacKeys {
    MacKeys::new(MacKey::from_bytes([1; 32]), None)
}

/// A block that leaves 1000 raw and pays `to`; before it there were 1000 and what it pays.
fn block(to: Account) -> StateBlock {
    let key = SecretKey::from_bytes([3; 32]);
    let unsigned = StateBlock {
        account: key.account(),
        previous: BlockHash([5; 32]),
        representative: Representative(key.account()),
        balance: Raw::new(1000),
        link: to.0,
        signature: Signature([0; 64]),
        work: None,
    };
    unsigned.signed(&key)
}

fn facts(block: &StateBlock, pays: u128, confirmed: bool) -> BlockFacts {
    BlockFacts::of_state_block(block.hash(), block, Raw::new(1000 + pays), confirmed).unwrap()
}

/// A `nanoSignature` payment of 120 raw for a price of 100, seen before it is confirmed.
fn seen() -> Seen {
    let block = block(TREASURY);
    let grants = Grants::of_requests(std::num::NonZeroU32::MIN, 60);
    let offer = Offer {
        exchange: None,
        mechanism: Mechanism::NanoSignature,
        route: RouteName::new("quote"),
        terms: Terms { amount: PRICE, grants },
        pay_to: TREASURY,
        valid_before: UnixSeconds(1000),
    };
    let challenge = Challenge::mint(&keys(), &AddressPool::new(Vec::new(), vec![TREASURY]), [9; 16], offer);
    let digest = noms_digest(&nano_signature::message(block.hash(), &challenge)).unwrap();
    let signature = SecretKey::from_bytes([3; 32]).sign(&digest);
    let evidence = SignatureEvidence { block: block.hash(), account: block.account, signature };
    nano_signature::check(challenge, evidence).unwrap().judge(facts(&block, 120, false)).unwrap()
}

fn confirmed_by(later: &BlockFacts) -> Result<BlockHash, Refusal> {
    seen().confirm(Some(later)).map(|it: Confirmed| it.intent().block)
}

/// What was seen once is not believed for ever: each fact is compared again with what is confirmed.
#[test]
fn a_confirmation_must_agree_with_what_was_seen() {
    let sent = block(TREASURY);
    assert_eq!(confirmed_by(&facts(&sent, 120, true)), Ok(sent.hash()));
    assert_eq!(confirmed_by(&facts(&sent, 120, false)), Err(Refusal::UnconfirmedBlock));
    assert_eq!(confirmed_by(&facts(&sent, 99, true)), Err(Refusal::InsufficientAmount), "below the price");
    assert_eq!(confirmed_by(&facts(&sent, 130, true)), Err(Refusal::InsufficientAmount), "not what was seen");
    assert_eq!(confirmed_by(&facts(&sent, 0, true)), Err(Refusal::WrongBlockType));
    assert_eq!(confirmed_by(&facts(&block(Account([8; 32])), 120, true)), Err(Refusal::BlockNotFound));
    let legacy = BlockFacts::of_legacy_block(sent.hash(), true);
    assert_eq!(confirmed_by(&legacy), Err(Refusal::WrongBlockType));
    assert!(matches!(seen().confirm(None), Err(Refusal::UnconfirmedBlock)));
}

#[test]
fn a_refusal_prints_as_its_code() {
    for refusal in Refusal::ALL {
        assert_eq!(refusal.to_string(), refusal.code());
    }
}

#[test]
fn a_capability_is_called_by_the_beginning_of_its_payments_hash_and_its_token_does_not_print() {
    let id = CapabilityId::of_payment(BlockHash([0xAB; 32]));
    assert_eq!(id.to_string(), "ab".repeat(16));
    let capability = Capability { id, route: RouteName::new("a"), uses: 1, expires_at: UnixSeconds(9) };
    assert_eq!(format!("{:?}", Token::issue(&keys(), &capability)), "Token(****)");
}

#[test]
fn a_capability_is_told_by_the_whole_text_of_its_token() {
    let Ok(confirmed) = seen().confirm(Some(&facts(&block(TREASURY), 120, true))) else {
        panic!("confirmed")
    };
    let (intent, id) = (confirmed.intent(), CapabilityId::of_payment(confirmed.intent().block));
    let capability = Capability { id, route: RouteName::new("quote"), uses: 1, expires_at: UnixSeconds(9) };
    let token = Token::issue(&keys(), &capability);
    let text = CapabilityText::new(&token, &Purchase::from(intent));
    assert_eq!(text.token(), token.expose());
    assert_eq!(text.payer(), intent.payer.to_string());
    assert_eq!(text.block(), intent.block.to_string());
    assert_eq!(text.amount(), "120");
    assert_eq!(text.valid_until(UnixSeconds(9)), UnixSeconds(9));
    assert_eq!(format!("{text:?}"), "CapabilityText(****)");
    let handed_on = derived::derive(token.expose(), &[Restriction::Until(UnixSeconds(7))]).unwrap();
    let by = text.by(&handed_on, UnixSeconds(7));
    assert_eq!((by.token().as_ref(), by.payer()), (handed_on.expose().as_bytes(), text.payer()));
    assert_eq!((by.block(), by.amount()), (text.block(), text.amount()));
    assert_eq!([6, 9].map(|it| by.valid_until(UnixSeconds(it))), [UnixSeconds(6), UnixSeconds(7)]);
    assert!(by.is_presented(handed_on.expose()) && !by.is_presented(token.expose()));
    assert!(!text.is_presented(handed_on.expose()));
    let token = token.expose();
    for presented in [token, &format!("{token}; remaining=3; expires=9"), &format!(" {token} ;x")] {
        assert!(text.is_presented(presented), "{presented}");
    }
    let other = |place: usize| {
        let mut bytes = token.as_bytes().to_vec();
        bytes[place] ^= 1;
        String::from_utf8(bytes).unwrap()
    };
    for wrong in ["", &token[..token.len() - 1], &format!("{token}A"), &other(0), &other(token.len() - 1)] {
        assert!(!text.is_presented(wrong), "{wrong}");
    }
}

#[test]
fn a_key_is_kept_as_its_own_bytes() {
    let bytes: [u8; 32] = std::array::from_fn(|it| u8::try_from(it).unwrap());
    assert_eq!(MacKey::from_bytes(bytes).as_bytes(), &bytes);
}

#[test]
fn time_is_counted_forward_only() {
    let (early, late) = (UnixSeconds(100), UnixSeconds(160));
    assert_eq!((late.since(early), early.since(late), early.since(early)), (60, 0, 0));
    assert_eq!((early.plus(60), UnixSeconds(u64::MAX).plus(1)), (late, UnixSeconds(u64::MAX)));
}

#[test]
fn one_network_is_served_and_an_account_prints_alike_for_people_and_for_logs() {
    assert_eq!("nano:mainnet".parse::<Network>(), Ok(Network::Mainnet));
    let other: Result<Network, NetworkError> = "nano:testnet".parse();
    assert!(other.unwrap_err().to_string().contains("nano:testnet"));
    assert_eq!(format!("{TREASURY:?}"), TREASURY.to_string());
}

/// Clients and operators build on these: a change of one is a change of the protocol.
#[test]
fn the_documented_limits_have_their_values() {
    assert_eq!((MAX_HEADER_BYTES, MAX_RESPONSE_HEADERS_BYTES, MAX_QUERY), (16_384, 8_192, 16_384));
    assert_eq!(INDEXES_PER_MECHANISM, 1_048_576, "addresses of a seed would change their mechanism");
}
