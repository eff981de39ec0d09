//! Secrets in files: the seed, the key that authenticates challenges, and bearer tokens.
//!
//! This is the only module that reads a seed or signs with one. A secret's file must be private to
//! its owner. It appears under its name complete or not at all, and no error shows its contents.

use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::thread;

use blake2::digest::consts::U32;
use blake2::{Blake2b, Digest};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::entropy::{self, NoEntropy};
use crate::nano::{Account, Seed, Signature, StateBlock, UnsignedBlock, Work, noms_digest};
use crate::payment::MacKey;

/// The longest file that is read, in bytes. Most secrets' files have 64 digits and a line end; the key of an
/// upstream may be longer.
const MAX_FILE: u64 = 8192;

/// The fewest and the most characters of the admin API's token.
const ADMIN_TOKEN: usize = 32;
const MOST_ADMIN_TOKEN: usize = 512;

/// The user who may let a group read a secret.
#[cfg(unix)]
const ROOT: u32 = 0;

/// With fewer accounts than this, starting a thread takes longer than deriving them.
const WORTH_THREADS: usize = 256;

/// What is wrong with a secret's file.
#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("{}: there is no such file", path.display())]
    Missing { path: PathBuf },
    #[error(
        "{}: users other than its owner may read or write this file (mode {mode:04o}); run: chmod 600 {}",
        path.display(), path.display()
    )]
    NotPrivate { path: PathBuf, mode: u32 },
    #[error("{}: not a plain file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{}: this is not a {what}, which is 64 hexadecimal digits on one line", path.display())]
    NotHex { path: PathBuf, what: &'static str },
    #[error("{}: this is not text in UTF-8", path.display())]
    NotText { path: PathBuf },
    #[error("{}: a token of the admin API has {ADMIN_TOKEN} to {MOST_ADMIN_TOKEN} visible characters of ASCII on one line", path.display())]
    WeakToken { path: PathBuf },
    #[error("{}: the file exists already and is left as it is", path.display())]
    Exists { path: PathBuf },
    #[error("{}: cannot be read: {error}", path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: cannot be written: {error}", path.display())]
    Write { path: PathBuf, error: io::Error },
    #[error(transparent)]
    NoEntropy(#[from] NoEntropy),
}

/// A seed, and the signing with its keys. Prints as `****`.
#[derive(Clone)]
pub struct Vault {
    seed: Seed,
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Vault(****)")
    }
}

impl Vault {
    /// A vault for a seed that is in memory already (a development ledger's).
    #[must_use]
    pub const fn from_seed(seed: Seed) -> Self {
        Self { seed }
    }

    /// Reads the seed in `path`.
    ///
    /// # Errors
    /// [`VaultError`] if the file is missing, not private, or has no seed.
    pub fn open(path: &Path) -> Result<Self, VaultError> {
        read_secret(path, "seed").map(|bytes| Self::from_seed(Seed::from_bytes(*bytes)))
    }

    /// Makes a new seed in `path`, which must not exist.
    ///
    /// # Errors
    /// [`VaultError::Exists`] if it exists; another [`VaultError`] if it cannot be written.
    pub fn create(path: &Path) -> Result<Self, VaultError> {
        if make_secret(path)? { Self::open(path) } else { Err(VaultError::Exists { path: path.to_owned() }) }
    }

    /// Reads the seed in `path`, or makes it if there is none. Processes that start together get the
    /// same seed.
    ///
    /// # Errors
    /// As [`Vault::open`] and [`Vault::create`].
    pub fn open_or_create(path: &Path) -> Result<Self, VaultError> {
        read_or_make(path, "seed").map(|bytes| Self::from_seed(Seed::from_bytes(*bytes)))
    }

    /// The account at `index`.
    #[must_use]
    pub fn account(&self, index: u32) -> Account {
        self.seed.key(index).account()
    }

    /// The accounts at `indexes`, in order. Many accounts are derived on all cores.
    #[must_use]
    pub fn accounts(&self, indexes: Range<u32>) -> Vec<Account> {
        let indexes: Vec<u32> = indexes.collect();
        let threads = thread::available_parallelism().map_or(1, |cores| cores.get());
        let part = indexes.len().div_ceil(threads.max(1)).max(WORTH_THREADS);
        let mut accounts = vec![Account::BURN; indexes.len()];
        thread::scope(|scope| {
            for (indexes, places) in indexes.chunks(part).zip(accounts.chunks_mut(part)) {
                let derive = move || {
                    for (index, place) in indexes.iter().zip(places) {
                        *place = self.account(*index);
                    }
                };
                scope.spawn(derive);
            }
        });
        accounts
    }

    /// `block` with `work` and its signature by the key at `index`, which should be the key of its
    /// account. No other function of the program signs blocks, and it takes only blocks that are proven
    /// to move what they should.
    #[must_use]
    pub fn sign(&self, index: u32, block: &UnsignedBlock, work: Work) -> StateBlock {
        StateBlock { work: Some(work), ..**block }.signed(&self.seed.key(index))
    }

    /// The NOMS signature (ORIS-001) of `message` by the key at `index`; `None` if the message is longer
    /// than 4 GiB.
    #[must_use]
    pub fn sign_message(&self, index: u32, message: &str) -> Option<Signature> {
        noms_digest(message).map(|digest| self.seed.key(index).sign(&digest))
    }
}

/// The right to make blocks with a seed's keys. One holder on this machine has it at a time. It ends
/// when it is dropped, or with the process.
#[derive(Debug)]
pub struct Turn {
    _locked: File,
}

impl Turn {
    /// Takes the turn for the seed in `path`; `None` if another holder has it.
    ///
    /// # Errors
    /// [`VaultError`] if the file is missing or cannot be locked.
    pub fn take(path: &Path) -> Result<Option<Self>, VaultError> {
        let file = File::open(path).map_err(|error| unreadable(path, error))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _locked: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(unreadable(path, error)),
        }
    }
}

fn unreadable(path: &Path, error: io::Error) -> VaultError {
    if error.kind() == io::ErrorKind::NotFound {
        VaultError::Missing { path: path.to_owned() }
    } else {
        VaultError::Read { path: path.to_owned(), error }
    }
}

/// The key in `path`, which the first start makes. Processes that start together get the same key.
///
/// # Errors
/// [`VaultError`] if the file is not private, has no key, or cannot be made.
pub fn mac_key(path: &Path) -> Result<MacKey, VaultError> {
    read_or_make(path, "key").map(|bytes| MacKey::from_bytes(*bytes))
}

/// The key in `path`, which must exist: one that was used before.
///
/// # Errors
/// [`VaultError`], as for [`mac_key`], and if there is no file.
pub fn existing_mac_key(path: &Path) -> Result<MacKey, VaultError> {
    read_secret(path, "key").map(|bytes| MacKey::from_bytes(*bytes))
}

/// The token that callers of a protected listener send: 64 hexadecimal digits. Prints as `****` and is
/// wiped when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct BearerToken([u8; 32]);

impl fmt::Debug for BearerToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BearerToken(****)")
    }
}

impl BearerToken {
    /// Whether `presented` is this token. Every wrong token takes the same time.
    #[must_use]
    pub fn is(&self, presented: &str) -> bool {
        let mut bytes = Zeroizing::new([0; 32]);
        if hex::decode_to_slice(presented, bytes.as_mut()).is_err() {
            return false;
        }
        // Every byte is compared, wherever the first difference is.
        let differing = self.0.iter().zip(bytes.iter()).fold(0, |all, (own, other)| all | (own ^ other));
        std::hint::black_box(differing) == 0
    }
}

/// The token in `path`, which must exist.
///
/// # Errors
/// [`VaultError`], as for [`bearer_token`], and if there is no file.
pub fn existing_bearer_token(path: &Path) -> Result<BearerToken, VaultError> {
    read_secret(path, "token").map(|bytes| BearerToken(*bytes))
}

/// The token in `path`, which the first start makes. Processes that start together get the same token.
///
/// # Errors
/// [`VaultError`] if the file is not private, has no token, or cannot be made.
pub fn bearer_token(path: &Path) -> Result<BearerToken, VaultError> {
    read_or_make(path, "token").map(|bytes| BearerToken(*bytes))
}

/// The token of the admin API: visible ASCII, of the operator's choice. Prints as `****` and is wiped when dropped.
#[derive(Clone)]
pub struct AdminToken(Zeroizing<String>);

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(****)")
    }
}

impl AdminToken {
    /// Whether `presented` is this token. How long that takes says nothing of it: digests are compared, and all of
    /// their bytes.
    #[must_use]
    pub fn is(&self, presented: &str) -> bool {
        let [own, other] = [self.0.as_bytes(), presented.as_bytes()].map(Blake2b::<U32>::digest);
        let differing = own.iter().zip(other.iter()).fold(0, |all, (own, other)| all | (own ^ other));
        std::hint::black_box(differing) == 0
    }

    /// The text. Send it only to the admin API.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// The token of the admin API in `path`, which must exist.
///
/// # Errors
/// [`VaultError`] if the file is missing or not private, or has no token of the right length.
pub fn existing_admin_token(path: &Path) -> Result<AdminToken, VaultError> {
    let token = text(path)?;
    let fits = (ADMIN_TOKEN..=MOST_ADMIN_TOKEN).contains(&token.len());
    if fits && token.bytes().all(|it| it.is_ascii_graphic()) {
        Ok(AdminToken(token))
    } else {
        Err(VaultError::WeakToken { path: path.to_owned() })
    }
}

/// The token of the admin API in `path`, which the first start makes.
///
/// # Errors
/// As [`existing_admin_token`], and if the file cannot be made.
pub fn admin_token(path: &Path) -> Result<AdminToken, VaultError> {
    match existing_admin_token(path) {
        Err(VaultError::Missing { .. }) => {
            make_secret(path)?;
            existing_admin_token(path)
        }
        other => other,
    }
}

fn read_or_make(path: &Path, what: &'static str) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    match read_secret(path, what) {
        Err(VaultError::Missing { .. }) => {
            // Another process may have made it first. What the file contains counts.
            make_secret(path)?;
            read_secret(path, what)
        }
        other => other,
    }
}

/// The secret text of a file, without white space around it.
///
/// # Errors
/// [`VaultError`] if the file is not private, or is no text.
pub fn text(path: &Path) -> Result<Zeroizing<String>, VaultError> {
    let bytes = read_private(path)?;
    let text = std::str::from_utf8(bytes.trim_ascii());
    let text = text.map_err(|_| VaultError::NotText { path: path.to_owned() })?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, VaultError> {
    let unreadable = |error| unreadable(path, error);
    let file = File::open(path).map_err(unreadable)?;
    check_metadata(path, &file.metadata().map_err(unreadable)?)?;
    // Large enough from the start: a buffer that grows leaves an unwiped copy behind.
    let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or(0)));
    file.take(MAX_FILE).read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn read_secret(path: &Path, what: &'static str) -> Result<Zeroizing<[u8; 32]>, VaultError> {
    let text = read_private(path)?;
    let mut secret = Zeroizing::new([0; 32]);
    hex::decode_to_slice(text.trim_ascii(), secret.as_mut())
        .map_err(|_| VaultError::NotHex { path: path.to_owned(), what })?;
    Ok(secret)
}

/// Checks that the file of a secret is private: only its owner may use it. If that is root, its group may
/// read it, as with secrets that Kubernetes mounts for a user.
///
/// # Errors
/// [`VaultError`] if the file is missing, no plain file, or open to others.
pub fn check_private(path: &Path) -> Result<(), VaultError> {
    check_metadata(path, &fs::metadata(path).map_err(|error| unreadable(path, error))?)
}

fn check_metadata(path: &Path, metadata: &fs::Metadata) -> Result<(), VaultError> {
    if !metadata.is_file() {
        return Err(VaultError::NotAFile { path: path.to_owned() });
    }
    #[cfg(unix)]
    {
        let mode = std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o7777;
        let owner = std::os::unix::fs::MetadataExt::uid(metadata);
        let others = if owner == ROOT { 0o037 } else { 0o077 };
        if mode & others != 0 {
            return Err(VaultError::NotPrivate { path: path.to_owned(), mode });
        }
    }
    Ok(())
}

/// Writes 32 new random bytes, in hexadecimal, to `path`. Returns false if the file exists already.
///
/// The file is complete on the disk before it gets its name. A link, unlike a rename, never replaces an
/// existing file, so of several processes one wins, and no reader sees an incomplete file.
fn make_secret(path: &Path) -> Result<bool, VaultError> {
    let secret = Zeroizing::new(entropy::bytes::<32>()?);
    let digits = Zeroizing::new(hex::encode(*secret));
    let nobody_elses = hex::encode(entropy::bytes::<8>()?);
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    let draft = directory.join(format!(".faregate-{nobody_elses}.tmp"));
    let unwritable = |error| VaultError::Write { path: path.to_owned(), error };
    let made = write_private(&draft, digits.as_bytes()).and_then(|()| match fs::hard_link(&draft, path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    });
    match fs::remove_file(&draft) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unwritable(error)),
        Ok(()) | Err(_) => {}
    }
    let made = made.map_err(unwritable)?;
    #[cfg(unix)]
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(unwritable)?;
    Ok(made)
}

fn write_private(path: &Path, digits: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(digits)?;
    file.write_all(b"\n")?;
    file.sync_all()
}
