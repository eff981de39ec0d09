//! What must hold between the rows of a store, whatever the engine, and how an inspection tells.

/// What an inspection found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Inspection {
    /// Payments in the journal.
    pub payments: u64,
    /// What does not hold; empty for a sound store.
    pub faults: Vec<String>,
}

/// What must hold: its name, and a query that counts what breaks it. SQLite and PostgreSQL read it
/// alike.
pub(super) const INVARIANTS: [(&str, &str); 5] = [
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
];

/// One broken rule, in words.
pub(super) fn broken(rule: &str, count: i64) -> String {
    format!("it does not hold that {rule}: {count} break(s) it")
}
