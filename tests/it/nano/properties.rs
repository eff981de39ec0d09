//! What holds of every amount, account, block and text, not of some.

use faregate::nano::{
    Account, AmountError, BlockHash, Network, Raw, Representative, Seed, Signature, StateBlock, Threshold,
    UnixSeconds, Work,
};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Amounts of every size: uniform ones alone would nearly all have 38 or 39 digits.
pub(crate) fn raw() -> impl Strategy<Value = Raw> {
    (any::<u128>(), 0..128_u32).prop_map(|(value, shift)| Raw::new(value >> shift))
}

fn account() -> impl Strategy<Value = Account> {
    any::<[u8; 32]>().prop_map(Account)
}

pub(crate) fn block() -> impl Strategy<Value = StateBlock> {
    let keys = (account(), any::<[u8; 32]>(), account(), any::<[u8; 32]>());
    (keys, raw(), any::<[u8; 64]>(), any::<Option<u64>>()).prop_map(
        |((account, previous, representative, link), balance, signature, work)| StateBlock {
            account,
            previous: BlockHash(previous),
            representative: Representative(representative),
            balance,
            link,
            signature: Signature(signature),
            work: work.map(Work),
        },
    )
}

/// Texts near to what the parsers read, so that more than their first check is reached.
fn near_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[0-9]{0,45}",
        "[0-9]{0,45}\\.[0-9]{0,45} ?(XNO|rai|raw|Mnano|)",
        "(nano_|xrb_)[13][13456789abcdefghijkmnopqrstuwxyz]{59}",
        "(nano|xrb)[_-].{0,70}",
        "[0-9a-fA-F]{0,130}",
    ]
}

proptest! {
    #[test]
    fn amounts_read_back(raw in raw()) {
        prop_assert_eq!(raw.to_string().parse(), Ok(raw));
        prop_assert_eq!(Raw::with_unit(&raw.xno().to_string()), Ok(raw));
        prop_assert_eq!(Raw::with_unit(&format!("{raw} raw")), Ok(raw));
        prop_assert_eq!(Raw::from_be_bytes(raw.to_be_bytes()), raw);
        prop_assert_eq!(serde_json::to_value(raw).unwrap(), json!(raw.to_string()));
        prop_assert_eq!(serde_json::from_value::<Raw>(json!(raw.to_string())).unwrap(), raw);
    }

    #[test]
    fn amounts_sort_as_their_bytes(one in raw(), other in raw()) {
        prop_assert_eq!(one.cmp(&other), one.to_be_bytes().cmp(&other.to_be_bytes()));
    }

    #[test]
    fn rai_are_a_millionth_of_an_xno(rai in 0..340_282_366_920_938_u128) {
        let scale = 10_u128.pow(24);
        prop_assert_eq!(Raw::with_unit(&format!("{rai} rai")), Ok(Raw::new(rai * scale)));
        let xno = format!("{}.{:06} XNO", rai / 1_000_000, rai % 1_000_000);
        prop_assert_eq!(Raw::with_unit(&xno), Ok(Raw::new(rai * scale)));
    }

    #[test]
    fn a_wire_amount_that_is_read_was_written_so(text in near_text()) {
        if let Ok(raw) = text.parse::<Raw>() {
            prop_assert_eq!(raw.to_string(), text);
        }
    }

    #[test]
    fn names_read_back(key in any::<[u8; 32]>(), signature in any::<[u8; 64]>(), number in any::<u64>()) {
        let (account, hash) = (Account(key), BlockHash(key));
        let xrb = account.to_string().replacen("nano_", "xrb_", 1);
        prop_assert_eq!(account.to_string().parse(), Ok(account));
        prop_assert_eq!(xrb.parse(), Ok(account));
        prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        prop_assert_eq!(hash.lower_hex().parse(), Ok(hash));
        prop_assert_eq!(Signature(signature).to_string().parse(), Ok(Signature(signature)));
        prop_assert_eq!(Signature(signature).lower_hex().parse(), Ok(Signature(signature)));
        prop_assert_eq!(Work(number).to_string().parse(), Ok(Work(number)));
        prop_assert_eq!(Threshold(number).to_string().parse(), Ok(Threshold(number)));
        let instant: UnixSeconds = serde_json::from_value(json!(number)).unwrap();
        prop_assert_eq!(serde_json::to_value(instant).unwrap(), json!(number));
    }

    #[test]
    fn one_wrong_character_spoils_an_account(key in any::<[u8; 32]>(), place in 5..65_usize, to in "[13-9a-km-uw-z]") {
        let good = Account(key).to_string();
        let mut bad = good.clone();
        bad.replace_range(place..=place, &to);
        prop_assume!(bad != good);
        prop_assert!(bad.parse::<Account>().is_err(), "{}", bad);
    }

    #[test]
    fn blocks_read_back(block in block()) {
        let json = serde_json::to_value(block).unwrap();
        for field in ["previous", "link", "signature"] {
            let text = json[field].as_str().unwrap();
            prop_assert_eq!(text, text.to_ascii_lowercase(), "Track A asks for lower case");
        }
        prop_assert_eq!(serde_json::from_value::<StateBlock>(json.clone()).unwrap(), block);
        let text = json.to_string();
        prop_assert_eq!(serde_json::from_str::<StateBlock>(&text).unwrap(), block);
        // A node prints hexadecimal in upper case, and may leave out the work as an empty text.
        let mut shouted = json;
        for field in ["previous", "link", "signature"] {
            shouted[field] = shouted[field].as_str().unwrap().to_ascii_uppercase().into();
        }
        if block.work.is_none() {
            shouted["work"] = "".into();
        }
        prop_assert_eq!(serde_json::from_value::<StateBlock>(shouted).unwrap(), block);
    }

    #[test]
    fn a_block_without_one_of_its_fields_names_it(block in block(), which in 0..7_usize) {
        let field =
            ["type", "account", "previous", "representative", "balance", "link", "signature"][which];
        let mut json = serde_json::to_value(block).unwrap();
        json.as_object_mut().unwrap().remove(field);
        let error = serde_json::from_value::<StateBlock>(json).unwrap_err().to_string();
        prop_assert!(error.contains(field), "{}", error);
    }

    #[test]
    fn no_text_makes_a_parser_panic(text in near_text()) {
        drop((text.parse::<Raw>(), Raw::with_unit(&text), text.parse::<Account>()));
        drop((text.parse::<BlockHash>(), text.parse::<Signature>(), text.parse::<Seed>()));
        drop((text.parse::<Work>(), text.parse::<Threshold>(), text.parse::<Network>()));
        drop((serde_json::from_str::<StateBlock>(&text), serde_json::from_str::<Raw>(&text)));
    }

    #[test]
    fn no_value_in_a_block_makes_its_parser_panic(block in block(), which in 0..9_usize, text in near_text()) {
        let mut json = serde_json::to_value(block).unwrap();
        let field = ["type", "account", "previous", "representative", "balance", "link",
            "link_as_account", "signature", "work"][which];
        json[field] = text.clone().into();
        if let Ok(read) = serde_json::from_value::<StateBlock>(json.clone()) {
            prop_assert_eq!(serde_json::from_value::<StateBlock>(serde_json::to_value(read).unwrap()).unwrap(), read);
        }
        json[field] = json!({ "nested": [text, 1.5, null] });
        prop_assert!(serde_json::from_value::<StateBlock>(json).is_err());
    }
}

#[test]
fn the_wire_takes_whole_raw_and_nothing_else() {
    for text in
        ["", "-1", "+1", "1.0", "1.", ".5", "1e3", "01", "00", " 1", "1 ", "0x1", "1_000", "１", "1\n", "raw"]
    {
        assert!(text.parse::<Raw>().is_err(), "{text:?}");
        assert!(serde_json::from_value::<Raw>(json!(text)).is_err(), "{text:?}");
    }
    for value in [json!(1), json!(1.0), json!(-1), json!(u64::MAX), Value::Null, json!(true), json!(["1"])] {
        assert!(serde_json::from_value::<Raw>(value.clone()).is_err(), "{value}");
    }
    assert_eq!("0".parse(), Ok(Raw::ZERO));
    assert_eq!("340282366920938463463374607431768211455".parse(), Ok(Raw::MAX));
    let over = "340282366920938463463374607431768211456";
    assert_eq!(over.parse::<Raw>(), Err(AmountError::TooLarge(over.to_owned())));
}

#[test]
fn units_are_exact_at_both_ends() {
    let smallest = "0.000000000000000000000000000001 XNO";
    assert_eq!(Raw::with_unit(smallest), Ok(Raw::new(1)));
    assert_eq!(Raw::new(1).xno().to_string(), smallest);
    assert_eq!(Raw::with_unit("1 XNO"), Ok(Raw::new(10_u128.pow(30))));
    assert_eq!(Raw::with_unit("0.001xno"), Ok(Raw::new(10_u128.pow(27))));
    assert_eq!(Raw::with_unit(" 25 rai "), Ok(Raw::new(25 * 10_u128.pow(24))));
    let most = "340282366.920938463463374607431768211455 XNO";
    assert_eq!(Raw::with_unit(most), Ok(Raw::MAX));
    assert_eq!(Raw::MAX.xno().to_string(), most);
    assert_eq!(Raw::with_unit("340282366920938463463374607431768211455 raw"), Ok(Raw::MAX));
    assert_eq!(Raw::ZERO.xno().to_string(), "0 XNO");
}

#[test]
fn units_refuse_what_they_cannot_say_exactly() {
    let kind = |text: &str| Raw::with_unit(text).unwrap_err();
    for text in
        ["340282366.920938463463374607431768211456 XNO", "340282366920938463463374607431768211456 raw"]
    {
        assert!(matches!(kind(text), AmountError::TooLarge(_)), "{text}");
    }
    for text in ["0.0000000000000000000000000000001 XNO", "0.5 raw", "0.0000000000000000000000001 rai"] {
        assert!(matches!(kind(text), AmountError::TooFine(_)), "{text}");
    }
    for text in
        ["-1 XNO", "+1 XNO", ".5 XNO", "1. XNO", "1.2.3 XNO", "1,5 XNO", "1 000 XNO", " XNO", "１ XNO"]
    {
        assert!(matches!(kind(text), AmountError::NotDecimal(_)), "{text}");
    }
    for text in ["1", "0.5", "1."] {
        assert!(matches!(kind(text), AmountError::NoUnit(_)), "{text}");
    }
    for text in ["1e5 XNO", "1 nano", "1 XNOs", "1 USD"] {
        assert!(matches!(kind(text), AmountError::UnknownUnit(_)), "{text}");
    }
    assert_eq!(kind("  "), AmountError::Empty);
}
