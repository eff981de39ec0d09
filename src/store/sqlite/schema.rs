//! The tables, and the steps from an earlier version of the file to this one.

use rusqlite::{Connection, TransactionBehavior};

use super::open_error::OpenFault;

/// Marks the file as Faregate's (`file` and SQLite's own tools show it): "FARE".
const APPLICATION_ID: i32 = 0x4641_5245;

/// Step n takes a file from `user_version` n to n + 1. A released step is never edited: a change is a new
/// step.
const MIGRATIONS: [&str; 9] =
    [FIRST, DEPOSITS, IDENTIFIERS, NO_RANGES, BROKEN, OPERATOR, PURSES, EXCHANGES, REFUNDS];

/// Version 1.
///
/// `claims` maps a block's hash to its place in the journal, or to NULL if the hash was marked as spent
/// without a payment. `payments` is the journal. It only grows at its end, as do `capabilities` and
/// `leases`, which have the same number as their key, so that a commit changes few pages. A random key
/// changes one page for each row, so only one table has one: a capability whose id is the first 16 bytes
/// of its block's hash is found through `claims` and has no `name`. Any other id is stored as the name, a
/// second random key. With millions of rows that halves the settlements per second.
///
/// Amounts are 16 big-endian bytes, which sort as the amounts do. `payments_readable` shows them in
/// decimal raw, computed exactly in plain SQL, for any SQLite tool. Times are Unix seconds. `signed` is the
/// state block in the node's binary form: account, previous, representative, balance, link, signature, and
/// the work if there is one.
const FIRST: &str = "
CREATE TABLE payments (
    sequence     INTEGER PRIMARY KEY,
    block        BLOB NOT NULL CHECK (length(block) = 32),
    state        INTEGER NOT NULL CHECK (state BETWEEN 0 AND 3),
    mechanism    TEXT NOT NULL,
    challenge    BLOB NOT NULL,
    route        TEXT NOT NULL,
    price        BLOB NOT NULL CHECK (length(price) = 16),
    requests     INTEGER NOT NULL,
    seconds      INTEGER NOT NULL,
    payer        BLOB NOT NULL,
    amount       BLOB NOT NULL CHECK (length(amount) = 16),
    pay_to       BLOB NOT NULL,
    valid_before INTEGER NOT NULL,
    signed       BLOB,
    previous     BLOB GENERATED ALWAYS AS (substr(signed, 33, 32)) VIRTUAL,
    created_at   INTEGER NOT NULL,
    updated_at   INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX held_frontiers ON payments (previous) WHERE state = 0;
CREATE INDEX ungranted_payments ON payments (state) WHERE state <> 2;

CREATE TRIGGER payments_are_kept BEFORE DELETE ON payments
BEGIN SELECT RAISE(ABORT, 'a payment is never deleted'); END;

CREATE TRIGGER granted_is_final BEFORE UPDATE OF state ON payments WHEN old.state = 2
BEGIN SELECT RAISE(ABORT, 'a granted payment is never moved'); END;

CREATE TABLE claims (
    block    BLOB PRIMARY KEY,
    sequence INTEGER REFERENCES payments (sequence)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER claims_are_kept BEFORE DELETE ON claims
BEGIN SELECT RAISE(ABORT, 'a claimed hash is never given up'); END;

CREATE TABLE capabilities (
    payment    INTEGER PRIMARY KEY REFERENCES payments (sequence),
    name       BLOB CHECK (length(name) = 16),
    uses       INTEGER NOT NULL,
    spent      INTEGER NOT NULL DEFAULT 0 CHECK (spent BETWEEN 0 AND uses),
    expires_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

CREATE UNIQUE INDEX named_capabilities ON capabilities (name) WHERE name IS NOT NULL;

CREATE TABLE leases (
    payment     INTEGER NOT NULL REFERENCES capabilities (payment),
    holder      BLOB NOT NULL,
    sequence    INTEGER NOT NULL,
    outstanding INTEGER NOT NULL,
    late        INTEGER NOT NULL,
    granted     INTEGER NOT NULL,
    remaining   INTEGER NOT NULL,
    elsewhere   INTEGER NOT NULL,
    expires_at  INTEGER NOT NULL,
    PRIMARY KEY (payment, holder)
) STRICT, WITHOUT ROWID;

CREATE TABLE ranges (
    pool TEXT PRIMARY KEY,
    next INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE probe (
    id     INTEGER PRIMARY KEY CHECK (id = 1),
    writes INTEGER NOT NULL
) STRICT;
INSERT INTO probe VALUES (1, 0);

CREATE VIEW payments_readable AS
SELECT
    sequence,
    hex(block) AS block,
    CASE state WHEN 0 THEN 'intent' WHEN 1 THEN 'parked' WHEN 2 THEN 'granted' ELSE 'failed' END AS state,
    mechanism,
    route,
    -- Base 16 to base 10^13, three digits of it, one hexadecimal digit a step.
    (WITH RECURSIVE step (place, digit, high, middle, low) AS (
        SELECT 1, instr('123456789ABCDEF', substr(hex(payments.amount), 1, 1)), 0, 0, 0
        UNION ALL
        SELECT place + 1,
            instr('123456789ABCDEF', substr(hex(payments.amount), place + 1, 1)),
            high * 16 + (middle * 16 + (low * 16 + digit) / 10000000000000) / 10000000000000,
            (middle * 16 + (low * 16 + digit) / 10000000000000) % 10000000000000,
            (low * 16 + digit) % 10000000000000
        FROM step WHERE place <= 32
    )
    SELECT coalesce(nullif(ltrim(printf('%013d%013d%013d', high, middle, low), '0'), ''), '0')
    FROM step WHERE place = 33) AS amount_raw,
    hex(payer) AS payer_key,
    hex(pay_to) AS pay_to_key,
    datetime(created_at, 'unixepoch') AS created_at,
    datetime(updated_at, 'unixepoch') AS updated_at
FROM payments;
";

/// Deposits and sweeps. A deposit is claimed when its hash is in `claims`.
///
/// Both have hashes as keys, but no sale writes them: a deposit is written only if no payment has claimed
/// it, and a sweep's block is no sale.
const DEPOSITS: &str = "
CREATE TABLE deposits (
    block   BLOB PRIMARY KEY CHECK (length(block) = 32),
    account BLOB NOT NULL CHECK (length(account) = 32),
    sender  BLOB CHECK (length(sender) = 32),
    amount  BLOB NOT NULL CHECK (length(amount) = 16),
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX deposits_by_time ON deposits (seen_at, block);
CREATE INDEX deposits_by_amount ON deposits (amount, block);

CREATE TABLE sweeps (
    block      BLOB PRIMARY KEY CHECK (length(block) = 32),
    account    BLOB NOT NULL CHECK (length(account) = 32),
    action     INTEGER NOT NULL CHECK (action BETWEEN 0 AND 2),
    amount     BLOB NOT NULL CHECK (length(amount) = 16),
    previous   BLOB NOT NULL CHECK (length(previous) = 32),
    link       BLOB NOT NULL CHECK (length(link) = 32),
    state      INTEGER NOT NULL CHECK (state BETWEEN 0 AND 2),
    planned_at INTEGER NOT NULL,
    ended_at   INTEGER CHECK ((ended_at IS NULL) = (state = 0))
) STRICT, WITHOUT ROWID;

CREATE INDEX sweeps_by_time ON sweeps (planned_at, block);
CREATE INDEX planned_sweeps ON sweeps (planned_at, block) WHERE state = 0;

CREATE TRIGGER sweeps_are_kept BEFORE DELETE ON sweeps
BEGIN SELECT RAISE(ABORT, 'a block of a sweep is never deleted'); END;
";

/// Ids that clients give to payments, and the answers bought under them.
///
/// An id is a second random key, but only of the payments that have one: the index has no other rows. The
/// index makes two payments under one id impossible. Ids are removed after a time. `answers` grows at its
/// end, as the journal does. A row without a body says that an answer was delivered.
const IDENTIFIERS: &str = "
ALTER TABLE payments ADD COLUMN identifier BLOB CHECK (length(identifier) = 32);
ALTER TABLE payments ADD COLUMN request BLOB CHECK (length(request) = 32);

CREATE UNIQUE INDEX identified_payments ON payments (identifier) WHERE identifier IS NOT NULL;
CREATE INDEX identifiers_by_age ON payments (updated_at) WHERE identifier IS NOT NULL;

CREATE TABLE answers (
    payment INTEGER PRIMARY KEY REFERENCES payments (sequence),
    status  INTEGER NOT NULL,
    headers BLOB NOT NULL,
    body    BLOB,
    kept_at INTEGER NOT NULL
) STRICT;

CREATE INDEX answers_by_age ON answers (kept_at) WHERE body IS NOT NULL;
";

/// No caller used ranges of address indexes.
const NO_RANGES: &str = "DROP TABLE ranges";

/// Answers that broke off since a use of the capability was last spent, and as last said to a holder.
const BROKEN: &str = "
ALTER TABLE capabilities ADD COLUMN broken INTEGER NOT NULL DEFAULT 0;
ALTER TABLE leases ADD COLUMN broken INTEGER NOT NULL DEFAULT 0;
";

/// What the operator did by hand to a capability: 0 gave it away, 1 revoked it. A capability that is given away
/// has a payment of nothing.
const OPERATOR: &str = "
CREATE TABLE operator_acts (
    payment INTEGER NOT NULL REFERENCES capabilities (payment),
    act     INTEGER NOT NULL CHECK (act BETWEEN 0 AND 1),
    at      INTEGER NOT NULL,
    who     TEXT NOT NULL,
    why     TEXT NOT NULL,
    PRIMARY KEY (payment, act)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER operator_acts_are_kept BEFORE DELETE ON operator_acts
BEGIN SELECT RAISE(ABORT, 'what was done by hand is never deleted'); END;
";

/// Purses: capabilities that hold raw. A `balance` is what was bought and what of it is gone; `amounts` of a share are
/// `outstanding`, `late`, `granted`, `remaining` and `elsewhere`. Each amount is 16 bytes, big-endian, and the integers
/// beside them are 0.
const PURSES: &str = "
ALTER TABLE capabilities ADD COLUMN balance BLOB CHECK (length(balance) = 32);
ALTER TABLE leases ADD COLUMN amounts BLOB CHECK (length(amounts) = 80);
";

/// How the price of a payment came about, if it is in another currency: `0.02 USD at 0.83`.
const EXCHANGES: &str = "ALTER TABLE payments ADD COLUMN exchange TEXT";

/// Refunds of closed capabilities. `hash` is that of the block in `signed`. Nobody else tries to send a refund before
/// `taken_until`.
///
/// Purses that run out are found by an index that only purses pay for. Closed ones have left it.
const REFUNDS: &str = "
CREATE TABLE refunds (
    payment     INTEGER PRIMARY KEY REFERENCES capabilities (payment),
    state       INTEGER NOT NULL CHECK (state BETWEEN 0 AND 4),
    amount      BLOB NOT NULL CHECK (length(amount) = 16),
    signed      BLOB,
    hash        BLOB CHECK (length(hash) = 32 AND (hash IS NULL) = (signed IS NULL)),
    taken_until INTEGER NOT NULL DEFAULT 0,
    closed_at   INTEGER NOT NULL,
    updated_at  INTEGER NOT NULL,
    CHECK ((state IN (2, 3)) = (signed IS NOT NULL))
) STRICT;

CREATE INDEX unfinished_refunds ON refunds (state, taken_until, payment) WHERE state < 3;
CREATE INDEX open_purses ON capabilities (expires_at, payment) WHERE balance IS NOT NULL AND revoked_at IS NULL;

CREATE TRIGGER refunds_are_kept BEFORE DELETE ON refunds
BEGIN SELECT RAISE(ABORT, 'a refund is never deleted'); END;

CREATE TRIGGER ended_refunds_are_final BEFORE UPDATE ON refunds WHEN old.state >= 3
BEGIN SELECT RAISE(ABORT, 'a refund that has ended is never changed'); END;

CREATE TRIGGER refunds_stay_as_large BEFORE UPDATE OF amount ON refunds
WHEN old.state <> 0 AND old.amount <> new.amount
BEGIN SELECT RAISE(ABORT, 'what is owed never changes'); END;
";

/// Checks that this program may write to the file. Gives its version.
///
/// # Errors
/// [`OpenFault::Newer`] for the file of a newer program, [`OpenFault::Foreign`] for the database of another
/// program, or SQLite's error.
pub(super) fn inspect(connection: &Connection) -> Result<u32, OpenFault> {
    let found: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    let application: i32 = connection.query_row("PRAGMA application_id", [], |row| row.get(0))?;
    if application != APPLICATION_ID {
        let objects: u32 =
            connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
        if objects > 0 || application != 0 || found != 0 {
            return Err(OpenFault::Foreign);
        }
    }
    if found > known() {
        return Err(OpenFault::Newer { found, known: known() });
    }
    Ok(found)
}

/// The version of this program.
fn known() -> u32 {
    u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX)
}

/// Brings the file to the version of this program, in one transaction.
///
/// # Errors
/// As [`inspect`]: another process may have changed the file meanwhile.
pub(super) fn migrate(connection: &mut Connection) -> Result<(), OpenFault> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let found = inspect(&transaction)?;
    for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        transaction.execute_batch(step)?;
    }
    if found < known() {
        transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
        transaction.pragma_update(None, "user_version", known())?;
    }
    transaction.commit()?;
    Ok(())
}
