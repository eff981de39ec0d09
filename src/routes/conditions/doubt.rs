//! What a request says of a condition, and why it may be read in two ways.

/// What one part of a request says of a condition, to every server that reads it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Answer {
    Yes,
    No,
    Unclear(Doubt),
}

/// What is ambiguous, as the end of a sentence that begins with the name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Doubt {
    #[error("it comes more than once: send it once")]
    Twice,
    #[error("it comes in another spelling: write its name exactly like this")]
    Name,
    #[error("it has no value: write one, or leave it out")]
    Empty,
    #[error("its value could be read in two ways: write it exactly as it is documented")]
    Value,
    #[error("`Connection` names it, so that a proxy may remove it: leave it out there")]
    Nominated,
    #[error("the request that has it comes later")]
    Later,
}
