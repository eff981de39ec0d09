//! The tables, and the steps from an earlier version to this one.
//!
//! The tables are in the first schema of the connection's search path, which should be the gateway's own.

use deadpool_postgres::Client;
use tokio_postgres::GenericClient;

use super::options::PostgresFault;

/// The first number of Faregate's advisory locks: "FARE".
const LOCKS: i32 = 0x4641_5245;

/// Step n takes the tables from version n to n + 1. A released step is never edited: a change is a new
/// step.
const MIGRATIONS: [&str; 9] =
    [FIRST, DEPOSITS, IDENTIFIERS, NO_RANGES, BROKEN, OPERATOR, PURSES, EXCHANGES, REFUNDS];

/// Version 1: the same tables as in SQLite, for the same reasons.
///
/// Unsigned 32-bit numbers are `bigint`s. A number of `journal` is drawn under a shared advisory lock that
/// is held until the commit. A caller that takes the lock exclusively then knows a number below which no
/// payment is under way (`journal::scan`).
const FIRST: &str = "
CREATE SEQUENCE journal;

CREATE TABLE payments (
    sequence     bigint PRIMARY KEY,
    block        bytea NOT NULL CHECK (length(block) = 32),
    state        smallint NOT NULL CHECK (state BETWEEN 0 AND 3),
    mechanism    text NOT NULL,
    challenge    bytea NOT NULL,
    route        text NOT NULL,
    price        numeric(39, 0) NOT NULL,
    requests     bigint NOT NULL,
    seconds      bigint NOT NULL,
    payer        bytea NOT NULL,
    amount       numeric(39, 0) NOT NULL,
    pay_to       bytea NOT NULL,
    valid_before bigint NOT NULL,
    signed       bytea,
    previous     bytea GENERATED ALWAYS AS (substring(signed FROM 33 FOR 32)) STORED,
    created_at   bigint NOT NULL,
    updated_at   bigint NOT NULL
);

CREATE UNIQUE INDEX held_frontiers ON payments (previous) WHERE state = 0;
CREATE INDEX ungranted_payments ON payments (state, sequence) WHERE state <> 2;

CREATE TABLE claims (
    block    bytea PRIMARY KEY CHECK (length(block) = 32),
    sequence bigint REFERENCES payments (sequence)
);

CREATE TABLE capabilities (
    payment    bigint PRIMARY KEY REFERENCES payments (sequence),
    name       bytea CHECK (length(name) = 16),
    uses       bigint NOT NULL,
    spent      bigint NOT NULL DEFAULT 0 CHECK (spent BETWEEN 0 AND uses),
    expires_at bigint NOT NULL,
    revoked_at bigint
);

CREATE UNIQUE INDEX named_capabilities ON capabilities (name) WHERE name IS NOT NULL;

CREATE TABLE leases (
    payment     bigint NOT NULL REFERENCES capabilities (payment),
    holder      bytea NOT NULL,
    sequence    bigint NOT NULL,
    outstanding bigint NOT NULL,
    late        bigint NOT NULL,
    granted     bigint NOT NULL,
    remaining   bigint NOT NULL,
    elsewhere   bigint NOT NULL,
    expires_at  bigint NOT NULL,
    PRIMARY KEY (payment, holder)
);

CREATE TABLE ranges (
    pool text PRIMARY KEY,
    next bigint NOT NULL
);

CREATE TABLE probe (
    id     integer PRIMARY KEY CHECK (id = 1),
    writes bigint NOT NULL
);
INSERT INTO probe VALUES (1, 0);

CREATE FUNCTION kept() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'what is paid or claimed is never deleted'; END $$;
CREATE TRIGGER payments_are_kept BEFORE DELETE OR TRUNCATE ON payments EXECUTE FUNCTION kept();
CREATE TRIGGER claims_are_kept BEFORE DELETE OR TRUNCATE ON claims EXECUTE FUNCTION kept();

CREATE FUNCTION final() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a granted payment is never moved'; END $$;
CREATE TRIGGER granted_is_final BEFORE UPDATE OF state ON payments
    FOR EACH ROW WHEN (old.state = 2) EXECUTE FUNCTION final();
";

/// Deposits and sweeps, as in SQLite.
const DEPOSITS: &str = "
CREATE TABLE deposits (
    block   bytea PRIMARY KEY CHECK (length(block) = 32),
    account bytea NOT NULL CHECK (length(account) = 32),
    sender  bytea CHECK (length(sender) = 32),
    amount  numeric(39, 0) NOT NULL,
    seen_at bigint NOT NULL
);

CREATE INDEX deposits_by_time ON deposits (seen_at, block);
CREATE INDEX deposits_by_amount ON deposits (amount, block);

CREATE TABLE sweeps (
    block      bytea PRIMARY KEY CHECK (length(block) = 32),
    account    bytea NOT NULL CHECK (length(account) = 32),
    action     smallint NOT NULL CHECK (action BETWEEN 0 AND 2),
    amount     numeric(39, 0) NOT NULL,
    previous   bytea NOT NULL CHECK (length(previous) = 32),
    link       bytea NOT NULL CHECK (length(link) = 32),
    state      smallint NOT NULL CHECK (state BETWEEN 0 AND 2),
    planned_at bigint NOT NULL,
    ended_at   bigint CHECK ((ended_at IS NULL) = (state = 0))
);

CREATE INDEX sweeps_by_time ON sweeps (planned_at, block);
CREATE INDEX planned_sweeps ON sweeps (planned_at, block) WHERE state = 0;

CREATE TRIGGER sweeps_are_kept BEFORE DELETE OR TRUNCATE ON sweeps EXECUTE FUNCTION kept();
";

/// Ids that clients give to payments, and the answers bought under them, as in SQLite.
const IDENTIFIERS: &str = "
ALTER TABLE payments
    ADD COLUMN identifier bytea CHECK (length(identifier) = 32),
    ADD COLUMN request bytea CHECK (length(request) = 32);

CREATE UNIQUE INDEX identified_payments ON payments (identifier) WHERE identifier IS NOT NULL;
CREATE INDEX identifiers_by_age ON payments (updated_at) WHERE identifier IS NOT NULL;

CREATE TABLE answers (
    payment bigint PRIMARY KEY REFERENCES payments (sequence),
    status  bigint NOT NULL,
    headers bytea NOT NULL,
    body    bytea,
    kept_at bigint NOT NULL
);

CREATE INDEX answers_by_age ON answers (kept_at) WHERE body IS NOT NULL;
";

/// No caller used ranges of address indexes.
const NO_RANGES: &str = "DROP TABLE ranges";

/// Answers that broke off since a use of the capability was last spent, and as last said to a holder.
const BROKEN: &str = "
ALTER TABLE capabilities ADD COLUMN broken bigint NOT NULL DEFAULT 0;
ALTER TABLE leases ADD COLUMN broken bigint NOT NULL DEFAULT 0;
";

/// What the operator did by hand, as in SQLite.
const OPERATOR: &str = "
CREATE TABLE operator_acts (
    payment bigint NOT NULL REFERENCES capabilities (payment),
    act     smallint NOT NULL CHECK (act BETWEEN 0 AND 1),
    at      bigint NOT NULL,
    who     text NOT NULL,
    why     text NOT NULL,
    PRIMARY KEY (payment, act)
);

CREATE TRIGGER operator_acts_are_kept BEFORE DELETE OR TRUNCATE ON operator_acts EXECUTE FUNCTION kept();
";

/// Purses: capabilities that hold raw. A `balance` is what was bought and what of it is gone; `amounts` of a share are
/// `outstanding`, `late`, `granted`, `remaining` and `elsewhere`. Each amount is 16 bytes, big-endian, and the integers
/// beside them are 0.
const PURSES: &str = "
ALTER TABLE capabilities ADD COLUMN balance bytea CHECK (length(balance) = 32);
ALTER TABLE leases ADD COLUMN amounts bytea CHECK (length(amounts) = 80);
";

/// How the price of a payment came about, if it is in another currency: `0.02 USD at 0.83`.
const EXCHANGES: &str = "ALTER TABLE payments ADD COLUMN exchange text";

/// Refunds of closed capabilities, as in SQLite.
const REFUNDS: &str = "
CREATE TABLE refunds (
    payment     bigint PRIMARY KEY REFERENCES capabilities (payment),
    state       smallint NOT NULL CHECK (state BETWEEN 0 AND 4),
    amount      numeric(39, 0) NOT NULL,
    signed      bytea,
    hash        bytea CHECK (length(hash) = 32 AND (hash IS NULL) = (signed IS NULL)),
    taken_until bigint NOT NULL DEFAULT 0,
    closed_at   bigint NOT NULL,
    updated_at  bigint NOT NULL,
    CHECK ((state IN (2, 3)) = (signed IS NOT NULL))
);

CREATE INDEX unfinished_refunds ON refunds (state, taken_until, payment) WHERE state < 3;
CREATE INDEX open_purses ON capabilities (expires_at, payment) WHERE balance IS NOT NULL AND revoked_at IS NULL;

CREATE TRIGGER refunds_are_kept BEFORE DELETE OR TRUNCATE ON refunds EXECUTE FUNCTION kept();

CREATE FUNCTION refund_stays() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'a refund that has ended, or what is owed, is never changed'; END $$;
CREATE TRIGGER ended_refunds_are_final BEFORE UPDATE ON refunds
    FOR EACH ROW WHEN (old.state >= 3) EXECUTE FUNCTION refund_stays();
CREATE TRIGGER refunds_stay_as_large BEFORE UPDATE OF amount ON refunds
    FOR EACH ROW WHEN (old.state <> 0 AND old.amount <> new.amount) EXECUTE FUNCTION refund_stays();
";

/// The version of this program.
pub(super) fn known() -> i32 {
    i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX)
}

/// Brings the tables to the version of this program, in one transaction. Instances that start at the same
/// time take turns.
///
/// # Errors
/// [`PostgresFault::Newer`] for the tables of a newer program, [`PostgresFault::Foreign`] for a schema with
/// tables of another program.
pub(super) async fn migrate(client: &mut Client) -> Result<(), PostgresFault> {
    let transaction = client.transaction().await?;
    // One turn in the whole database, whatever the schema.
    transaction.execute("SELECT pg_advisory_xact_lock($1, 0)", &[&LOCKS]).await?;
    let found = version(&*transaction).await?;
    if found == 0 {
        let sql = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace \
             AND relname IN ('payments', 'claims', 'capabilities', 'leases', 'ranges', 'probe', 'journal', \
             'deposits', 'sweeps', 'operator_acts', 'refunds')";
        let taken: i64 = transaction.query_one(sql, &[]).await?.try_get(0)?;
        if taken > 0 {
            return Err(PostgresFault::Foreign);
        }
        transaction
            .batch_execute(
                "CREATE TABLE faregate_version (version integer NOT NULL); INSERT INTO faregate_version VALUES (0)",
            )
            .await?;
    }
    if found > known() {
        return Err(PostgresFault::Newer { found, known: known() });
    }
    for step in MIGRATIONS.iter().skip(usize::try_from(found).unwrap_or(usize::MAX)) {
        transaction.batch_execute(step).await?;
    }
    if found < known() {
        transaction.execute("UPDATE faregate_version SET version = $1", &[&known()]).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// The version of the tables. 0 if there are none.
pub(super) async fn version(client: &impl GenericClient) -> Result<i32, PostgresFault> {
    let sql = "SELECT to_regclass('faregate_version') IS NOT NULL";
    let there: bool = client.query_one(sql, &[]).await?.try_get(0)?;
    if !there {
        return Ok(0);
    }
    Ok(client.query_one("SELECT version FROM faregate_version", &[]).await?.try_get(0)?)
}
