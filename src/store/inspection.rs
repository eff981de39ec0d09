//! What must hold between the rows of a store, in each engine, and the result of an inspection.

/// The result of an inspection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inspection {
    /// Payments in the journal.
    pub payments: u64,
    /// The invariants that are broken. Empty for a sound store.
    pub faults: Vec<String>,
}

/// What must hold, and a query that counts the rows that break it, for SQLite and PostgreSQL.
pub(super) const INVARIANTS: [(&str, &str); 6] = [
    (
        "every payment has claimed its hash",
        "SELECT count(*) FROM payments AS p LEFT JOIN claims AS c ON c.block = p.block \
         WHERE c.sequence IS DISTINCT FROM p.sequence",
    ),
    (
        "every claim of a payment leads to it",
        "SELECT count(*) FROM claims AS c LEFT JOIN payments AS p ON p.sequence = c.sequence \
         WHERE c.sequence IS NOT NULL AND p.block IS DISTINCT FROM c.block",
    ),
    (
        "every granted payment has its capability",
        "SELECT count(*) FROM payments AS p LEFT JOIN capabilities AS k ON k.payment = p.sequence \
         WHERE p.state = 2 AND k.payment IS NULL",
    ),
    (
        "no capability is without a granted payment",
        "SELECT count(*) FROM capabilities AS k LEFT JOIN payments AS p ON p.sequence = k.payment \
         WHERE p.state IS DISTINCT FROM 2",
    ),
    (
        "no more uses are spent and leased than were bought",
        "SELECT count(*) FROM capabilities AS k WHERE k.uses < k.spent + coalesce( \
         (SELECT sum(l.outstanding) FROM leases AS l WHERE l.payment = k.payment), 0)",
    ),
    (
        "no more is spent of a purse than was bought",
        "SELECT count(*) FROM capabilities AS k \
         WHERE substr(k.balance, 17, 16) > substr(k.balance, 1, 16)",
    ),
];

impl Inspection {
    /// The result of these counts: of payments, and of what breaks each of the [`INVARIANTS`], after the
    /// faults that the engine itself found.
    pub(super) fn of(payments: i64, mut faults: Vec<String>, counts: &[i64]) -> Self {
        for ((rule, _), count) in INVARIANTS.iter().zip(counts).filter(|(_, count)| **count > 0) {
            faults.push(format!("broken rule: {rule} (rows that break it: {count})"));
        }
        Self { payments: payments.cast_unsigned(), faults }
    }
}
