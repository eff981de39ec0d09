//! The most that a wallet may spend in a day, and what it has spent.
//!
//! A day is any 24 hours, so the limit does not start again at midnight. Every signed payment counts: it
//! is noted before the gateway or the network gets it, and stays noted whatever becomes of it. With a
//! file, the notes survive the process and are shared by all wallets with the same file; a note is on the
//! disk before its payment leaves. If the file cannot be read or written, nothing is paid.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::clock::Clock;
use crate::nano::{BlockHash, Raw, UnixSeconds};

/// The length of a day, in seconds.
const DAY: u64 = 86_400;

/// The most old lines that stay in a file before they are removed.
const STALE_LINES: usize = 4096;

/// A longer file cannot be one of payments.
const MAX_FILE: u64 = 256 * 1024 * 1024;

/// The most that a wallet spends in a day.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DayLimit {
    /// In raw, in any 24 hours.
    pub max: Raw,
    /// The file with one line per payment: Unix seconds, raw, block. It is created if it is missing.
    /// With `None`, the limit holds for one wallet as long as it lives.
    pub file: Option<PathBuf>,
}

/// Why a payment is not made.
#[derive(Debug, thiserror::Error)]
pub enum AllowanceError {
    #[error("{} of {} for a day are spent, the price is {}", spent.xno(), max.xno(), asked.xno())]
    Spent { asked: Raw, spent: Raw, max: Raw },
    #[error("{}: line {line} is not a payment; correct or remove it", path.display())]
    NotReadable { path: PathBuf, line: usize },
    #[error("{}: {error}", path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("the payment could not be noted: {0}")]
    Stopped(String),
}

/// One noted payment.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Note {
    at: UnixSeconds,
    amount: Raw,
}

/// The limit and the payments that count against it. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Allowance {
    limit: Arc<DayLimit>,
    clock: Clock,
    /// The payments of this wallet; unused if there is a file.
    noted: Arc<Mutex<VecDeque<Note>>>,
}

impl Allowance {
    pub(super) fn new(limit: DayLimit, clock: Clock) -> Self {
        Self { limit: Arc::new(limit), clock, noted: Arc::default() }
    }

    /// Whether `asked` raw may be spent now; checked before any work is computed.
    pub(super) async fn allows(&self, asked: Raw) -> Result<(), AllowanceError> {
        self.on_a_thread(move |it| it.settle(asked, None)).await
    }

    /// Notes `asked` raw as spent with `block`. Call it before anybody else gets the block.
    pub(super) async fn note(&self, asked: Raw, block: BlockHash) -> Result<(), AllowanceError> {
        self.on_a_thread(move |it| it.settle(asked, Some(block))).await
    }

    /// Runs on a thread of its own, because a file's lock and the disk block.
    async fn on_a_thread(
        &self,
        does: impl FnOnce(&Self) -> Result<(), AllowanceError> + Send + 'static,
    ) -> Result<(), AllowanceError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || does(&this))
            .await
            .map_err(|error| AllowanceError::Stopped(error.to_string()))?
    }

    fn settle(&self, asked: Raw, block: Option<BlockHash>) -> Result<(), AllowanceError> {
        let now = self.clock.now();
        let Some(path) = &self.limit.file else {
            let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
            noted.retain(|note| counts(note, now));
            self.judge(asked, noted.iter())?;
            if block.is_some() {
                noted.push_back(Note { at: now, amount: asked });
            }
            return Ok(());
        };
        let fault = |error| AllowanceError::File { path: path.clone(), error };
        let mut file = Notes::open(path).map_err(fault)?;
        let notes = file.read(path)?;
        let (counting, stale): (Vec<_>, Vec<_>) = notes.iter().partition(|note| counts(&note.note, now));
        self.judge(asked, counting.iter().map(|it| &it.note))?;
        let Some(block) = block else { return Ok(()) };
        if stale.len() > STALE_LINES {
            let kept: String = counting.iter().map(|it| it.line.as_str()).collect();
            file.replace(path, &kept).map_err(fault)?;
        }
        file.append(&format!("{} {asked} {block}\n", now.0)).map_err(fault)
    }

    fn judge<'n>(&self, asked: Raw, counting: impl Iterator<Item = &'n Note>) -> Result<(), AllowanceError> {
        let max = self.limit.max;
        let add = |sum: Raw, it: &Note| sum.checked_add(it.amount).unwrap_or(Raw::MAX);
        let spent = counting.fold(Raw::ZERO, add);
        match spent.checked_add(asked) {
            Some(sum) if sum <= max => Ok(()),
            Some(_) | None => Err(AllowanceError::Spent { asked, spent, max }),
        }
    }
}

/// Whether a note counts at `now`. A note from the future counts: the clock was set back.
fn counts(note: &Note, now: UnixSeconds) -> bool {
    now.0.saturating_sub(note.at.0) < DAY
}

/// A note and the line it was read from.
struct NoteLine {
    note: Note,
    line: String,
}

/// The file, locked for this process until it is dropped.
struct Notes {
    file: File,
}

impl Notes {
    fn open(path: &Path) -> io::Result<Self> {
        loop {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            file.lock()?;
            // Another process may have replaced the file while it held the lock.
            let same = fs::metadata(path).is_ok_and(|there| {
                file.metadata().is_ok_and(|here| (here.dev(), here.ino()) == (there.dev(), there.ino()))
            });
            if same {
                return Ok(Self { file });
            }
        }
    }

    /// Every note. An incomplete last line is cut off: its writer died before the payment left.
    fn read(&mut self, path: &Path) -> Result<Vec<NoteLine>, AllowanceError> {
        let mut text = String::new();
        let mut read = || {
            if self.file.metadata()?.len() > MAX_FILE {
                return Err(io::Error::other("too long for a file of payments"));
            }
            self.file.seek(SeekFrom::Start(0))?;
            self.file.read_to_string(&mut text)?;
            let whole = text.rfind('\n').map_or(0, |end| end.saturating_add(1));
            if whole < text.len() {
                text.truncate(whole);
                self.file.set_len(u64::try_from(whole).unwrap_or(u64::MAX))?;
            }
            Ok(())
        };
        read().map_err(|error| AllowanceError::File { path: path.to_owned(), error })?;
        let lines = text.split_inclusive('\n').enumerate().map(|(number, line)| {
            let note = parse(line).ok_or_else(|| AllowanceError::NotReadable {
                path: path.to_owned(),
                line: number.saturating_add(1),
            })?;
            Ok(NoteLine { note, line: line.to_owned() })
        });
        lines.collect()
    }

    fn append(&mut self, line: &str) -> io::Result<()> {
        self.file.seek(SeekFrom::End(0))?;
        self.file.write_all(line.as_bytes())?;
        self.file.sync_data()
    }

    /// Replaces the file by one with `content`, completely or not at all, and continues with that.
    fn replace(&mut self, path: &Path, content: &str) -> io::Result<()> {
        let directory = directory(path);
        let mut fresh = tempfile::NamedTempFile::new_in(directory)?;
        fresh.write_all(content.as_bytes())?;
        fresh.as_file().sync_all()?;
        fresh.as_file().lock()?;
        self.file = fresh.persist(path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    }
}

/// The directory that a file is in.
fn directory(path: &Path) -> &Path {
    path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// `<Unix seconds> <raw> <block>`.
fn parse(line: &str) -> Option<Note> {
    let mut words = line.split_whitespace();
    let at = UnixSeconds(words.next()?.parse().ok()?);
    let amount = words.next()?.parse().ok()?;
    let _: BlockHash = words.next()?.parse().ok()?;
    words.next().is_none().then_some(Note { at, amount })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    const BLOCK: BlockHash = BlockHash([7; 32]);

    fn at(now: &Arc<AtomicU64>) -> Clock {
        let now = Arc::clone(now);
        Clock::from_fn(move || UnixSeconds(now.load(Ordering::SeqCst)))
    }

    fn allowance(max: u128, file: Option<&Path>, now: &Arc<AtomicU64>) -> Allowance {
        Allowance::new(DayLimit { max: Raw::new(max), file: file.map(Path::to_owned) }, at(now))
    }

    fn spend(allowance: &Allowance, amount: u128) -> Result<(), AllowanceError> {
        allowance.settle(Raw::new(amount), Some(BLOCK))
    }

    #[test]
    fn a_day_is_any_24_hours_with_a_file_and_without() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spent");
        for file in [None, Some(path.as_path())] {
            let now = Arc::new(AtomicU64::new(1_000_000));
            let it = allowance(100, file, &now);
            spend(&it, 60).unwrap();
            now.fetch_add(DAY - 1, Ordering::SeqCst);
            spend(&it, 40).unwrap();
            it.settle(Raw::ZERO, None).unwrap();
            let over = spend(&it, 1).unwrap_err();
            assert_eq!(
                over.to_string(),
                "0.0000000000000000000000000001 XNO of 0.0000000000000000000000000001 XNO for a day are \
                 spent, the price is 0.000000000000000000000000000001 XNO"
            );
            now.fetch_add(1, Ordering::SeqCst);
            spend(&it, 60).unwrap();
            assert!(matches!(spend(&it, 1), Err(AllowanceError::Spent { .. })));
            // Set back, the clock makes nothing count less.
            now.store(5, Ordering::SeqCst);
            assert!(matches!(spend(&it, 1), Err(AllowanceError::Spent { .. })), "{file:?}");
        }
    }

    #[test]
    fn what_is_only_asked_about_is_not_spent() {
        let now = Arc::new(AtomicU64::new(0));
        let it = allowance(10, None, &now);
        for _ in 0..3 {
            it.settle(Raw::new(10), None).unwrap();
        }
        assert!(it.settle(Raw::new(11), None).is_err());
        assert!(matches!(
            allowance(u128::MAX, None, &now)
                .judge(Raw::MAX, [Note { at: UnixSeconds(0), amount: Raw::MAX }].iter()),
            Err(AllowanceError::Spent { .. })
        ));
    }

    #[test]
    fn a_file_is_shared_and_never_overdrawn() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spent");
        let now = Arc::new(AtomicU64::new(0));
        let spent: usize = std::thread::scope(|scope| {
            let wallets = [(); 8].map(|()| {
                let it = allowance(25, Some(&path), &now);
                scope.spawn(move || (0..10).filter(|_| spend(&it, 1).is_ok()).count())
            });
            wallets.map(|it| it.join().unwrap()).iter().sum()
        });
        assert_eq!(spent, 25);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 25);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_torn_line_is_cut_off_and_a_strange_one_stops_everything() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spent");
        let now = Arc::new(AtomicU64::new(0));
        let it = allowance(10, Some(&path), &now);
        spend(&it, 4).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}17 5")).unwrap();
        spend(&it, 6).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), format!("{whole}{}", whole.replace(" 4 ", " 6 ")));
        fs::write(&path, format!("{whole}nonsense\n")).unwrap();
        assert!(matches!(spend(&it, 1), Err(AllowanceError::NotReadable { line: 2, .. })));
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(spend(&it, 1), Err(AllowanceError::File { .. })));
    }

    /// What takes the place of a file must be on the same file system.
    #[test]
    fn a_file_is_replaced_where_it_is() {
        assert_eq!(directory(Path::new("/var/lib/spent")), Path::new("/var/lib"));
        assert_eq!(directory(Path::new("lib/spent")), Path::new("lib"));
        assert_eq!(directory(Path::new("spent")), Path::new("."));
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spent");
        // One byte more than 256 MiB.
        File::create(&path).unwrap().set_len(268_435_457).unwrap();
        let it = allowance(10, Some(&path), &Arc::default());
        let refused = spend(&it, 1).unwrap_err();
        assert!(
            matches!(&refused, AllowanceError::File { error, .. } if error.to_string().contains("too long"))
        );
    }

    #[test]
    fn lines_that_count_no_more_are_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spent");
        let stale = format!("1 1 {BLOCK}\n").repeat(STALE_LINES + 1);
        let now = Arc::new(AtomicU64::new(DAY + 10));
        let it = allowance(10, Some(&path), &now);
        let few = format!("1 1 {BLOCK}\n").repeat(STALE_LINES);
        fs::write(&path, &few).unwrap();
        spend(&it, 2).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with(&few), "not for so few");
        fs::write(&path, format!("{stale}{DAY} 3 {BLOCK}\n")).unwrap();
        spend(&it, 2).unwrap();
        let left = fs::read_to_string(&path).unwrap();
        assert_eq!(left, format!("{DAY} 3 {BLOCK}\n{} 2 {BLOCK}\n", DAY + 10));
        spend(&it, 5).unwrap();
        assert!(spend(&it, 1).is_err());
    }

    /// It is read whole at each payment.
    #[test]
    fn a_file_of_at_most_256_mib_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spent");
        let read = |length: u64| {
            // The system keeps no bytes of a hole.
            File::create(&path).unwrap().set_len(length).unwrap();
            Notes::open(&path).unwrap().read(&path).map(|notes| notes.len())
        };
        assert!(matches!(read(256 * 1024 * 1024), Ok(0)), "a line without an end is cut off");
        let error = read(256 * 1024 * 1024 + 1).unwrap_err();
        assert!(error.to_string().contains("too long for a file of payments"), "{error}");
    }
}
