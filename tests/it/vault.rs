//! Secrets in files: private, complete, never shown in an error.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use faregate::nano::{
    Account, BlockHash, ProvenHead, Raw, Representative, Seed, Signature, StateBlock, Work, noms_digest,
};
use faregate::vault::{Vault, VaultError, bearer_token, mac_key};

const DIGITS: &str = "00112233445566778899aabbccddeeff00112233445566778899AABBCCDDEEFF";

fn file(directory: &Path, text: &str, mode: u32) -> PathBuf {
    let path = directory.join("secret");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

#[test]
fn a_private_file_with_a_seed_opens() {
    let directory = tempfile::tempdir().unwrap();
    let expected = Vault::from_seed(DIGITS.parse().unwrap()).account(3);
    for (text, mode) in
        [(DIGITS.to_owned(), 0o600), (format!("{DIGITS}\n"), 0o400), (format!(" {DIGITS}\r\n"), 0o600)]
    {
        let path = file(directory.path(), &text, mode);
        assert_eq!(Vault::open(&path).unwrap().account(3), expected);
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn a_file_that_others_can_read_is_refused_with_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o644, 0o660, 0o604, 0o620, 0o601, 0o650] {
        let path = file(directory.path(), DIGITS, mode);
        let error = Vault::open(&path).unwrap_err();
        assert!(matches!(error, VaultError::NotPrivate { .. }), "{mode:o}: {error}");
        assert!(error.to_string().ends_with(&format!("chmod 600 {}", path.display())), "{error}");
        assert!(mac_key(&path).is_err(), "{mode:o}");
        assert!(bearer_token(&path).is_err(), "{mode:o}");
    }
}

/// As Kubernetes mounts a secret for a user: owned by root, readable by the user's group.
#[test]
fn a_group_may_read_a_secret_only_if_root_owns_it() {
    let directory = tempfile::tempdir().unwrap();
    for mode in [0o640, 0o440] {
        let path = file(directory.path(), DIGITS, mode);
        let is_root = fs::metadata(&path).unwrap().uid() == 0;
        assert_eq!(Vault::open(&path).is_ok(), is_root, "{mode:o}");
        // Only root can give a file away.
        if is_root {
            chown(&path, Some(65534), None).unwrap();
            let error = Vault::open(&path).unwrap_err();
            assert!(matches!(error, VaultError::NotPrivate { .. }), "{mode:o}: {error}");
        }
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn an_error_never_repeats_what_is_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    for text in [
        "",
        "5ecret",
        &DIGITS[1..],
        &format!("{DIGITS}0"),
        &format!("{DIGITS}\n{DIGITS}"),
        "zz",
        &"a".repeat(5000),
    ] {
        let path = file(directory.path(), text, 0o600);
        let error = Vault::open(&path).unwrap_err();
        assert!(matches!(error, VaultError::NotHex { .. }), "{error}");
        for printed in [error.to_string(), format!("{error:?}")] {
            assert!(text.is_empty() || !printed.contains(text), "{printed}");
        }
        assert!(error.to_string().contains("secret: this is not a seed"), "{error}");
    }
    assert!(matches!(
        Vault::open(directory.path()),
        Err(VaultError::NotAFile { .. } | VaultError::NotPrivate { .. })
    ));
    assert!(matches!(Vault::open(&directory.path().join("no")), Err(VaultError::Missing { .. })));
}

#[test]
fn a_new_seed_is_private_and_replaces_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool.seed");
    let made = Vault::create(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(Vault::open(&path).unwrap().account(0), made.account(0));
    assert!(matches!(Vault::create(&path), Err(VaultError::Exists { .. })));
    assert_eq!(Vault::open_or_create(&path).unwrap().account(0), made.account(0));
    let other = Vault::open_or_create(&directory.path().join("other.seed")).unwrap();
    assert_ne!(other.account(0), made.account(0));
    // Nothing else is left behind.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2);
    let nowhere = Vault::create(&directory.path().join("no/seed"));
    assert!(matches!(nowhere, Err(VaultError::Write { .. })), "{nowhere:?}");
}

#[test]
fn processes_that_start_at_once_agree_on_one_key() {
    let directory = tempfile::tempdir().unwrap();
    for round in 0..20 {
        let path = directory.path().join(format!("{round}.key"));
        let start = std::sync::Barrier::new(4);
        let keys: Vec<[u8; 32]> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        *mac_key(&path).unwrap().as_bytes()
                    })
                })
                .collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0] && *key != [0; 32]), "round {round}");
        assert_eq!(mac_key(&path).unwrap().as_bytes(), &keys[0]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 20);
}

#[test]
fn secrets_print_as_stars() {
    let directory = tempfile::tempdir().unwrap();
    let key = mac_key(&directory.path().join("key")).unwrap();
    assert_eq!(format!("{key:?}"), "MacKey(****)");
    assert_eq!(format!("{:?}", Vault::from_seed(Seed::from_bytes([1; 32]))), "Vault(****)");
}

#[test]
fn many_accounts_are_derived_as_one_by_one() {
    let vault = Vault::from_seed(Seed::from_bytes([9; 32]));
    let many = vault.accounts(100..1300);
    assert_eq!(many.len(), 1200);
    for (index, account) in (100..1300).zip(&many).step_by(97) {
        assert_eq!(*account, vault.account(index));
    }
    assert_eq!(vault.accounts(5..5), []);
    assert_eq!(vault.accounts(u32::MAX - 1..u32::MAX), [vault.account(u32::MAX - 1)]);
}

#[test]
fn what_a_vault_signs_its_account_has_signed() {
    let vault = Vault::from_seed(Seed::from_bytes([9; 32]));
    let account = vault.account(7);
    let newest = StateBlock {
        account,
        previous: BlockHash([1; 32]),
        representative: Representative(account),
        balance: Raw::new(5),
        link: [2; 32],
        signature: Signature([0; 64]),
        work: None,
    };
    let head = ProvenHead::of_block(account, newest.hash(), &newest).unwrap();
    let block = head.send(Account([3; 32]), Raw::new(5)).unwrap();
    assert!(block.verify().is_err());
    let signed = vault.sign(7, &block, Work(77));
    assert_eq!((signed.verify(), signed.work, signed.hash()), (Ok(()), Some(Work(77)), block.hash()));
    assert!(vault.sign(8, &block, Work(77)).verify().is_err());
    let message = "hello";
    let signature = vault.sign_message(7, message).unwrap();
    assert_eq!(signature.verify(&account, &noms_digest(message).unwrap()), Ok(()));
}

#[test]
fn a_token_is_made_once_is_known_again_and_prints_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("token");
    let token = bearer_token(&path).unwrap();
    let digits = fs::read_to_string(&path).unwrap().trim().to_owned();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        token.is(&digits) && token.is(&digits.to_uppercase()) && bearer_token(&path).unwrap().is(&digits)
    );
    for wrong in ["", DIGITS, &digits[1..], &format!("{digits}0"), &format!("{digits}00")] {
        assert!(!token.is(wrong), "{wrong}");
    }
    assert_eq!(format!("{token:?}"), "BearerToken(****)");
}
