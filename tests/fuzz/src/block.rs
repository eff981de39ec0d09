//! Accounts, amounts and blocks: one meaning for each text, and no signature for another block.

use arbitrary::{Result, Unstructured};
use faregate::nano::{
    Account, BlockHash, Raw, Representative, SecretKey, Signature, StateBlock, Threshold, UnixSeconds, Work,
    noms_digest,
};

const ALPHABET: &[u8; 32] = b"13456789abcdefghijkmnopqrstuwxyz";

/// The first byte says what the rest is.
pub fn run(data: &[u8]) {
    let Some((kind, rest)) = data.split_first() else { return };
    match kind % 8 {
        0 => block_text(rest),
        1 => account_text(rest),
        2 => amount_text(rest),
        3 => drop(account_bytes(&mut Unstructured::new(rest))),
        4 => drop(block_bytes(&mut Unstructured::new(rest))),
        5 => hexadecimal(rest),
        6 => drop(signature(&mut Unstructured::new(rest))),
        _ => drop(amounts(&mut Unstructured::new(rest))),
    }
}

/// A block that is read is printed as it was meant, and read back.
fn block_text(data: &[u8]) {
    let Ok(block) = serde_json::from_slice::<StateBlock>(data) else { return };
    check_block(&block);
    let json: serde_json::Value = match serde_json::from_slice(data) {
        Ok(json) => json,
        // In a member that nobody reads, `serde_json` looks neither for UTF-8 nor for what escapes stand for.
        Err(error) => {
            let error = error.to_string();
            let known =
                ["invalid unicode code point", "lone leading surrogate", "unexpected end of hex escape"];
            return assert!(known.iter().any(|it| error.starts_with(it)), "what was read once: {error}");
        }
    };
    let text = |name: &str| json.get(name).and_then(serde_json::Value::as_str).expect("a text");
    assert_eq!(text("type"), "state");
    assert_eq!(text("balance").parse(), Ok(block.balance.get()));
    assert_eq!(account_of(text("account")), Some(block.account.0));
    assert_eq!(account_of(text("representative")), Some(block.representative.0.0));
    let bytes = |name: &str| data_encoding::HEXLOWER_PERMISSIVE.decode(text(name).as_bytes()).expect("hex");
    assert_eq!(bytes("previous"), block.previous.0);
    assert_eq!(bytes("link"), block.link);
    assert_eq!(bytes("signature"), block.signature.0);
    if let Some(link) = json.get("link_as_account").and_then(serde_json::Value::as_str) {
        assert_eq!(account_of(link), Some(block.link));
    }
}

fn check_block(block: &StateBlock) {
    let text = serde_json::to_string(block).expect("a block has a text");
    let again: StateBlock = serde_json::from_str(&text).expect("its own text");
    assert_eq!(again, *block);
    assert_eq!(again.hash(), block.hash());
    let mut hashed = vec![0; 31];
    hashed.push(6);
    hashed.extend(block.account.0);
    hashed.extend(block.previous.0);
    hashed.extend(block.representative.0.0);
    hashed.extend(block.balance.get().to_be_bytes());
    hashed.extend(block.link);
    assert_eq!(blake2b(32, &hashed), block.hash().0);
    let root = if block.previous == BlockHash::ZERO { block.account.0 } else { block.previous.0 };
    assert_eq!(block.work_root(), root);
    if let Some(work) = block.work {
        let mut input = work.0.to_le_bytes().to_vec();
        input.extend(root);
        let value = u64::from_le_bytes(blake2b(8, &input).try_into().expect("8 bytes"));
        assert_eq!(work.value(&root), value);
        assert!(work.reaches(&root, Threshold(value)));
        assert!(value == u64::MAX || !work.reaches(&root, Threshold(value + 1)));
    }
}

fn blake2b(length: usize, bytes: &[u8]) -> Vec<u8> {
    blake2b_simd::Params::new().hash_length(length).hash(bytes).as_bytes().to_vec()
}

/// An account by its definition: 52 digits for 260 bits, then 8 for the checksum.
fn account_of(text: &str) -> Option<[u8; 32]> {
    let body = text.strip_prefix("nano_").or_else(|| text.strip_prefix("xrb_"))?;
    let digits: Option<Vec<u8>> = body.bytes().map(|it| value_of(it)).collect();
    let digits = digits.filter(|it| it.len() == 60)?;
    let bits: Vec<bool> =
        digits.iter().flat_map(|it| (0..5).rev().map(move |bit| it >> bit & 1 == 1)).collect();
    let (padding, bits) = bits.split_at(4);
    let byte = |bits: &[bool]| bits.iter().fold(0_u8, |byte, bit| byte << 1 | u8::from(*bit));
    let bytes: Vec<u8> = bits.chunks(8).map(byte).collect();
    let (key, checksum) = bytes.split_at(32);
    let mut own = blake2b(5, key);
    own.reverse();
    (padding == [false; 4] && checksum == own).then(|| key.try_into().expect("32 bytes"))
}

fn value_of(digit: u8) -> Option<u8> {
    ALPHABET.iter().position(|it| *it == digit).map(|it| u8::try_from(it).expect("below 32"))
}

fn account_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = text.parse::<Account>();
    assert_eq!(read.as_ref().ok().map(|it| it.0), account_of(text), "{text:?}");
    if let Ok(account) = read {
        assert_eq!(
            account.to_string().trim_start_matches("nano_"),
            text.split_once('_').expect("a prefix").1
        );
    }
}

fn account_bytes(given: &mut Unstructured<'_>) -> Result<()> {
    let account = Account(given.arbitrary()?);
    let text = account.to_string();
    assert_eq!(account_of(&text), Some(account.0));
    assert_eq!(text.parse(), Ok(account));
    assert_eq!(text.replace("nano_", "xrb_").parse(), Ok(account));
    // One wrong character is noticed.
    let (place, digit) = (given.int_in_range(5..=64)?, *given.choose(ALPHABET)?);
    let mut wrong = text.clone().into_bytes();
    wrong[place] = digit;
    let wrong = String::from_utf8(wrong).expect("ASCII");
    assert_eq!(wrong.parse::<Account>().is_ok(), wrong == text, "{wrong} for {text}");
    Ok(())
}

fn a_block(given: &mut Unstructured<'_>) -> Result<StateBlock> {
    Ok(StateBlock {
        account: Account(given.arbitrary()?),
        previous: BlockHash(given.arbitrary()?),
        representative: Representative(Account(given.arbitrary()?)),
        balance: Raw::new(given.arbitrary()?),
        link: given.arbitrary()?,
        signature: Signature(given.arbitrary()?),
        work: given.arbitrary::<Option<u64>>()?.map(Work),
    })
}

fn block_bytes(given: &mut Unstructured<'_>) -> Result<()> {
    let (block, other) = (a_block(given)?, a_block(given)?);
    check_block(&block);
    let parts = |it: &StateBlock| (it.account, it.previous, it.representative, it.balance, it.link);
    assert_eq!(block.hash() == other.hash(), parts(&block) == parts(&other));
    Ok(())
}

fn flip(bytes: &mut [u8], bit: usize) {
    let length = bytes.len();
    bytes[bit / 8 % length] ^= 1 << (bit % 8);
}

/// A signature holds for its block, and for no block, account or signature that differs in one bit.
fn signature(given: &mut Unstructured<'_>) -> Result<()> {
    let key = SecretKey::from_bytes(given.arbitrary()?);
    let account = key.account();
    let block = StateBlock { account, ..a_block(given)? }.signed(&key);
    let (part, bit) = (given.int_in_range(0..=6)?, given.int_in_range(0..=511)?);
    let mut other = block;
    match part {
        0 => flip(&mut other.account.0, bit),
        1 => flip(&mut other.previous.0, bit),
        2 => flip(&mut other.representative.0.0, bit),
        3 => other.balance = Raw::new(block.balance.get() ^ 1 << (bit % 128)),
        4 => flip(&mut other.link, bit),
        5 => flip(&mut other.signature.0, bit),
        _ => other.work = block.work.map(|it| Work(it.0 ^ 1 << (bit % 64))),
    }
    // Of the work nobody signs.
    let is_same = part == 6;
    assert_eq!(other.hash() == block.hash(), is_same || part == 5);
    assert_eq!(other.verify().is_ok(), is_same, "part {part}, bit {bit}");
    if bit % 8 == 0 {
        assert_eq!(block.verify(), Ok(()));
        let message = noms_digest("a message").expect("it is short");
        assert!(block.signature.verify(&account, &message).is_err());
    }
    Ok(())
}

fn amount_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let read = text.parse::<Raw>().ok();
    let by_std = text.parse::<u128>().ok().filter(|it| it.to_string() == text).map(Raw::new);
    assert_eq!(read, by_std, "{text:?}");
    let read = Raw::with_unit(text).ok();
    assert_eq!(read, with_unit(text), "{text:?}");
    if let Some(amount) = read {
        assert_eq!(Raw::with_unit(&amount.xno().to_string()), Ok(amount));
    }
}

/// An amount with its unit, digit by digit.
fn with_unit(text: &str) -> Option<Raw> {
    let text = text.trim();
    let unit_at = text.find(|it: char| it.is_ascii_alphabetic())?;
    let decimals = match text[unit_at..].to_lowercase().as_str() {
        "xno" => 30,
        "rai" => 24,
        "raw" => 0,
        _ => return None,
    };
    let (mut amount, mut seen, mut point) = (0_u128, 0, None);
    for digit in text[..unit_at].trim_end().chars() {
        match (digit, point) {
            ('.', None) if seen > 0 => point = Some(0),
            ('0', Some(places)) if places >= decimals => point = Some(places + 1),
            ('0'..='9', _) => {
                amount = amount.checked_mul(10)?.checked_add(u128::from(digit.to_digit(10)?))?;
                point = point.map(|places| places + 1);
            }
            _ => return None,
        }
        seen += 1;
    }
    if seen == 0
        || point == Some(0)
        || point.is_some_and(|places| places > decimals && amount_is_cut(text, decimals))
    {
        return None;
    }
    let places = point.unwrap_or(0).min(decimals);
    (places..decimals).try_fold(amount, |amount, _| amount.checked_mul(10)).map(Raw::new)
}

/// Whether a digit beyond the finest place is not zero.
fn amount_is_cut(text: &str, decimals: usize) -> bool {
    let fraction = text.split_once('.').map_or("", |(_, it)| it);
    fraction.bytes().take_while(u8::is_ascii_digit).skip(decimals).any(|it| it != b'0')
}

fn amounts(given: &mut Unstructured<'_>) -> Result<()> {
    let (one, other): (u128, u128) = (given.arbitrary()?, given.arbitrary()?);
    let (first, second) = (Raw::new(one), Raw::new(other));
    assert_eq!(first.checked_add(second).map(Raw::get), one.checked_add(other));
    assert_eq!(first.checked_sub(second).map(Raw::get), one.checked_sub(other));
    assert_eq!(first.to_be_bytes().cmp(&second.to_be_bytes()), one.cmp(&other));
    assert_eq!(Raw::from_be_bytes(first.to_be_bytes()), first);
    assert_eq!(first.to_string().parse(), Ok(first));
    assert_eq!(Raw::with_unit(&first.xno().to_string()), Ok(first));
    assert_eq!(Raw::with_unit(&format!("{first} raw")), Ok(first));
    let (now, seconds): (u64, u64) = (given.arbitrary()?, given.arbitrary()?);
    let later = UnixSeconds(now).plus(seconds);
    assert!(later >= UnixSeconds(now) && later.since(UnixSeconds(now)) <= seconds);
    Ok(())
}

/// Hexadecimal of a fixed length, in either letter case, and nothing else.
fn hexadecimal(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let bytes = data_encoding::HEXLOWER_PERMISSIVE.decode(data).ok();
    let of = |length: usize| bytes.as_ref().filter(|it| it.len() == length).map(Vec::as_slice);
    assert_eq!(text.parse::<BlockHash>().ok().as_ref().map(|it| it.0.as_slice()), of(32));
    assert_eq!(text.parse::<Signature>().ok().as_ref().map(|it| it.0.as_slice()), of(64));
    assert_eq!(
        text.parse::<Work>().ok().map(|it| it.0.to_be_bytes()).as_ref().map(<[u8; 8]>::as_slice),
        of(8)
    );
    assert_eq!(
        text.parse::<Threshold>().ok().map(|it| it.0.to_be_bytes()).as_ref().map(<[u8; 8]>::as_slice),
        of(8)
    );
    if let Ok(hash) = text.parse::<BlockHash>() {
        assert_eq!(hash.to_string(), text.to_uppercase());
        assert_eq!(hash.lower_hex(), text.to_lowercase());
    }
}
